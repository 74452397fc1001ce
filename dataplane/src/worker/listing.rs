//! Connections as listings and events show them, and conditions on them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::conntrack::{Connection, Direction, Private, Status, Ticks};
use crate::packet::Address;

/// A connection as listings show it.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// The worker that owns it.
    pub worker: u16,
    /// Transport protocol.
    pub proto: u8,
    /// Original direction.
    pub original: FlowInfo,
    /// Reply direction.
    pub reply: FlowInfo,
    /// Milliseconds until it expires.
    pub remaining_ms: u32,
    /// The state's name, for TCP and SCTP.
    pub state: Option<&'static str>,
    /// Status bits.
    pub status: Status,
    /// Connection mark.
    pub mark: u32,
}

/// One direction of a connection as listings show it.
#[derive(Debug, Clone, Copy)]
pub struct FlowInfo {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port, or ICMP identifier.
    pub source_port: u16,
    /// Destination port, or ICMP type (upper byte) and code.
    pub destination_port: u16,
    /// Packets so far.
    pub packets: u32,
    /// Bytes so far.
    pub bytes: u64,
}

/// The addresses of a prefix or range, both ends inclusive; IPv4 comes before IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net {
    /// The first address.
    pub first: IpAddr,
    /// The last address.
    pub last: IpAddr,
}

impl From<IpAddr> for Net {
    fn from(a: IpAddr) -> Self {
        Net { first: a, last: a }
    }
}

impl Net {
    /// Every address of both families.
    pub const ALL: Net =
        Net { first: IpAddr::V4(Ipv4Addr::UNSPECIFIED), last: IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)) };

    /// Whether the address is one of them.
    pub fn contains(&self, a: IpAddr) -> bool {
        self.first <= a && a <= self.last
    }
}

/// Conditions on one direction of a connection; absent ones always hold.
#[derive(Debug, Clone, Default)]
pub struct FlowFilter {
    /// Source address.
    pub source: Option<Net>,
    /// Destination address.
    pub destination: Option<Net>,
    /// Source port, or ICMP identifier.
    pub source_port: Option<u16>,
    /// Destination port.
    pub destination_port: Option<u16>,
}

/// Conditions on a connection, all of which must hold; absent ones always do.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// IPv4 only (`Some(false)`) or IPv6 only (`Some(true)`).
    pub v6: Option<bool>,
    /// Transport protocol.
    pub proto: Option<u8>,
    /// The original direction.
    pub original: FlowFilter,
    /// The reply direction.
    pub reply: FlowFilter,
    /// Status bits that must all be set.
    pub status: Status,
    /// Status bits none of which may be set.
    pub status_clear: Status,
    /// The state's name, as [`ConnectionInfo::state`] has it.
    pub state: Option<String>,
    /// The connection mark's bits, and which bits are compared.
    pub mark: Option<(u32, u32)>,
    /// The source is translated to one of these.
    pub source_nat: Option<Net>,
    /// The destination is translated to one of these.
    pub destination_nat: Option<Net>,
    /// The source or the destination is translated to one of these.
    pub any_nat: Option<Net>,
}

impl FlowFilter {
    fn matches(&self, f: &FlowInfo) -> bool {
        self.source.is_none_or(|n| n.contains(f.source))
            && self.destination.is_none_or(|n| n.contains(f.destination))
            && self.source_port.is_none_or(|p| p == f.source_port)
            && self.destination_port.is_none_or(|p| p == f.destination_port)
    }
}

impl Filter {
    /// Whether every condition holds.
    pub fn matches(&self, c: &ConnectionInfo) -> bool {
        let source = |n: Net| c.status.contains(Status::SRC_NAT) && n.contains(c.reply.destination);
        let destination = |n: Net| c.status.contains(Status::DST_NAT) && n.contains(c.reply.source);
        self.v6.is_none_or(|v6| v6 == c.original.source.is_ipv6())
            && self.proto.is_none_or(|p| p == c.proto)
            && self.original.matches(&c.original)
            && self.reply.matches(&c.reply)
            && c.status.contains(self.status)
            && !c.status.intersects(self.status_clear)
            && self.state.as_deref().is_none_or(|s| c.state == Some(s))
            && self.mark.is_none_or(|(value, mask)| c.mark & mask == value)
            && self.source_nat.is_none_or(source)
            && self.destination_nat.is_none_or(destination)
            && self.any_nat.is_none_or(|n| source(n) || destination(n))
    }
}

impl ConnectionInfo {
    /// The connection `c` of worker `worker`, as seen at `now`.
    pub(super) fn new<A: Address>(worker: u16, now: Ticks, c: &Connection<A>) -> Self {
        let flow = |d: Direction| {
            let t = c.tuple(d);
            FlowInfo {
                source: t.src.ip(),
                destination: t.dst.ip(),
                source_port: t.sport,
                destination_port: t.dport,
                packets: c.packets[d as usize],
                bytes: c.bytes(d),
            }
        };
        ConnectionInfo {
            worker,
            proto: c.proto,
            original: flow(Direction::Original),
            reply: flow(Direction::Reply),
            remaining_ms: c.deadline.remaining_ms(now),
            state: state(c),
            status: c.status,
            mark: c.mark,
        }
    }
}

/// The state's name, for TCP and SCTP.
pub(super) fn state<A>(c: &Connection<A>) -> Option<&'static str> {
    match &c.private {
        Private::Tcp(t) => Some(t.state().label()),
        Private::HostTcp(t) => Some(t.state().label()),
        Private::Sctp(t) => Some(t.state().label()),
        _ => None,
    }
}
