//! What a rule matches, and the facts about a packet it is matched against.

use std::fmt;
use std::net::IpAddr;

use super::classifier::{Dimension, Need};
use super::{AddressSet, PortSet, ZoneId};
use crate::conntrack::{CtState, Status};
use crate::packet::{Address, protocol};
use crate::route::{FibFamily, Interface};

/// A set of zones, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Zones(pub u64);

impl Zones {
    /// Whether the zone is in the set.
    pub fn contains(self, z: ZoneId) -> bool {
        self.0 >> (z & 63) & 1 == 1
    }
}

/// A set of tracking states, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct States(pub u8);

impl States {
    /// The set with `s` added.
    #[must_use]
    pub fn with(self, s: CtState) -> Self {
        States(self.0 | 1 << s as u8)
    }

    /// Whether the state is in the set.
    pub fn contains(self, s: CtState) -> bool {
        self.0 >> (s as u8) & 1 == 1
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(a: IpAddr) -> Self {
        if a.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The family of a type of addresses.
    pub fn of_type<A: Address>() -> Self {
        if A::V6 { Family::V6 } else { Family::V4 }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        if self == Family::V4 { Family::V6 } else { Family::V4 }
    }

    /// The number of its ICMP.
    pub fn icmp(self) -> u8 {
        if self == Family::V4 { protocol::ICMP } else { protocol::ICMPV6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Family::V4 { "IPv4" } else { "IPv6" })
    }
}

/// ICMP messages of both families: ranges of type (upper byte) and code (lower byte).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IcmpTypes {
    /// Of ICMP.
    pub v4: PortSet,
    /// Of ICMPv6.
    pub v6: PortSet,
}

impl IcmpTypes {
    /// The messages of one family.
    pub fn of(&self, f: Family) -> &PortSet {
        if f == Family::V4 { &self.v4 } else { &self.v6 }
    }
}

/// TCP flags that must be set, and such that must not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpFlags {
    /// All of these are set.
    pub set: u8,
    /// None of these is.
    pub clear: u8,
}

impl TcpFlags {
    /// Whether a segment's flags fit.
    pub fn fits(self, flags: u8) -> bool {
        flags & self.set == self.set && flags & self.clear == 0
    }
}

/// Conditions, all of which must hold; an absent one always holds.
#[derive(Debug, Clone, Default)]
pub struct Match {
    /// Zone of the ingress interface.
    pub from: Option<Zones>,
    /// Zone of the egress interface.
    pub to: Option<Zones>,
    /// Address family.
    pub family: Option<Family>,
    /// Source address.
    pub source: Option<AddressSet>,
    /// Destination address.
    pub destination: Option<AddressSet>,
    /// Transport protocols by number. ICMP and ICMPv6 are 1 and 58.
    pub protocols: Option<Vec<u8>>,
    /// Source port; holds for TCP, UDP, UDP-Lite and SCTP only.
    pub source_port: Option<PortSet>,
    /// Destination port; holds for TCP, UDP, UDP-Lite and SCTP only.
    pub destination_port: Option<PortSet>,
    /// Type and code; holds for ICMP and ICMPv6 only.
    pub icmp: Option<IcmpTypes>,
    /// Flags; holds for TCP only.
    pub tcp_flags: Option<TcpFlags>,
    /// The packet's tracking state.
    pub states: Option<States>,
    /// Bits of the connection's status that must all be set.
    pub status: Option<Status>,
    /// Value and mask of the connection's mark.
    pub mark: Option<(u32, u32)>,
}

/// What is known of a packet when rules are asked about it.
#[derive(Debug, Clone, Copy)]
pub struct Facts<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Transport protocol.
    pub protocol: u8,
    /// Source port, if the protocol has ports.
    pub source_port: Option<u16>,
    /// Destination port, if the protocol has ports.
    pub destination_port: Option<u16>,
    /// Type (upper byte) and code (lower byte), of ICMP of the packet's own family.
    pub icmp: Option<u16>,
    /// The flags of a TCP segment.
    pub tcp_flags: Option<u8>,
    /// Zone of the ingress interface.
    pub from: ZoneId,
    /// Zone of the egress interface, once the packet is routed.
    pub to: Option<ZoneId>,
    /// Tracking state.
    pub state: CtState,
    /// Status of the connection.
    pub status: Status,
    /// Mark of the connection.
    pub mark: u32,
}

impl Match {
    /// Whether packets of the family can match that are in order.
    pub fn concerns(&self, f: Family) -> bool {
        self.admits(f) && self.protocols.as_ref().is_none_or(|p| p.iter().any(|p| *p != f.other().icmp()))
    }

    /// Whether packets of the family can match, be they what they may.
    pub(super) fn admits(&self, f: Family) -> bool {
        let has = |s: &AddressSet| s.concerns(f);
        self.family.is_none_or(|x| x == f)
            && self.source.as_ref().is_none_or(has)
            && self.destination.as_ref().is_none_or(has)
            && self.icmp.as_ref().is_none_or(|s| !s.of(f).ranges().is_empty())
    }

    /// Whether every condition holds; `live` are the interfaces as they are now.
    pub fn matches<A: FibFamily>(&self, f: &Facts<A>, live: &[Interface]) -> bool {
        self.fits(f, live, Need::ALL)
    }

    /// Whether those of the conditions hold that are needed; a family is for the caller to look at unless all are.
    #[inline(always)]
    pub(super) fn fits<A: FibFamily>(&self, f: &Facts<A>, live: &[Interface], need: Need) -> bool {
        need == Need::NOTHING || self.hold(f, live, need)
    }

    fn hold<A: FibFamily>(&self, f: &Facts<A>, live: &[Interface], need: Need) -> bool {
        let port = |set: &Option<PortSet>, p: Option<u16>| match set {
            None => true,
            Some(s) => p.is_some_and(|p| s.contains(p)),
        };
        (!need.has(Dimension::State) || self.states.is_none_or(|s| s.contains(f.state)))
            && (!need.has(Dimension::From) || self.from.is_none_or(|z| z.contains(f.from)))
            && (!need.has(Dimension::To) || self.to.is_none_or(|z| f.to.is_some_and(|t| z.contains(t))))
            && (!need.has(Dimension::Protocol) || self.protocols.as_ref().is_none_or(|p| p.contains(&f.protocol)))
            && (!need.has(Dimension::DestinationPort) || port(&self.destination_port, f.destination_port))
            && (!need.has(Dimension::SourcePort) || port(&self.source_port, f.source_port))
            && (!need.has_others() || self.others_hold(f))
            && (!need.has(Dimension::Source) || self.source.as_ref().is_none_or(|s| s.contains(f.source, live)))
            && (!need.has(Dimension::Destination)
                || self.destination.as_ref().is_none_or(|s| s.contains(f.destination, live)))
    }

    /// Whether the conditions hold that a decision tree does not look at.
    fn others_hold<A: FibFamily>(&self, f: &Facts<A>) -> bool {
        let family = Family::of_type::<A>();
        self.status.is_none_or(|s| f.status.contains(s))
            && self.family.is_none_or(|x| x == family)
            && self.mark.is_none_or(|(value, mask)| f.mark & mask == value)
            && self.tcp_flags.is_none_or(|s| f.tcp_flags.is_some_and(|t| s.fits(t)))
            && self.icmp.as_ref().is_none_or(|s| f.icmp.is_some_and(|t| s.of(family).contains(t)))
    }
}
