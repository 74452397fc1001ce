//! A connection: two cache lines for IPv4, what every packet touches in the first.

use super::sctp::SctpTrack;
use super::tcp::{HostTcp, TcpTrack};
use super::{Direction, Key, Ticks, Tuple};
use crate::packet::Address;
use crate::packet::checksum::{Change, Delta};
use crate::packet::transport::Ports;
use crate::policy::InterfaceId;

/// Tracking state of a packet, as rules match it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CtState {
    /// First packet of a connection, or another before any reply.
    New = 0,
    /// Belongs to a connection that has seen packets both ways.
    Established = 1,
    /// Starts a connection that a tracked one announced, or is an ICMP error about one.
    Related = 2,
    /// Fits no connection and cannot start one.
    Invalid = 3,
    /// Exempt from tracking.
    Untracked = 4,
}

impl CtState {
    /// The word for it in a policy.
    pub fn label(self) -> &'static str {
        match self {
            CtState::New => "new",
            CtState::Established => "established",
            CtState::Related => "related",
            CtState::Invalid => "invalid",
            CtState::Untracked => "untracked",
        }
    }
}

/// Status bits of a connection, netfilter's `IPS_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status(pub u16);

impl Status {
    /// Announced by another connection.
    pub const EXPECTED: Status = Status(1);
    /// A packet in reply direction was seen.
    pub const SEEN_REPLY: Status = Status(1 << 1);
    /// Worth keeping when the table is full.
    pub const ASSURED: Status = Status(1 << 2);
    /// In the table; its first packet has left.
    pub const CONFIRMED: Status = Status(1 << 3);
    /// The source address or port is translated.
    pub const SRC_NAT: Status = Status(1 << 4);
    /// The destination address or port is translated.
    pub const DST_NAT: Status = Status(1 << 5);
    /// The source, the destination or both.
    pub const ANY_NAT: Status = Status(1 << 4 | 1 << 5);
    /// On its way out of the table.
    pub const DYING: Status = Status(1 << 9);
    /// Sequence numbers are adjusted after a helper changed payload lengths.
    pub const SEQ_ADJUST: Status = Status(1 << 6);
    /// Counted in its source's mapping ([`crate::nat::Mappings`]), the source being the original one.
    pub const MAPPED: Status = Status(1 << 7);
    /// Admitted by a mapping and counted in it; the mapping's source is where its replies come from.
    pub const MAPPED_INBOUND: Status = Status(1 << 8);
    /// Counted among its source's connections.
    pub const COUNTED: Status = Status(1 << 10);
    /// Holds something beside its slot that must be given back.
    pub const HELD: Status = Status(1 << 7 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 13);
    /// Ends at the gateway host, whose answers pass no worker. Its next hops are never cached.
    pub const HOST: Status = Status(1 << 11);
    /// A helper reads its packets.
    pub const HELPER: Status = Status(1 << 13);

    /// Whether all bits of `s` are set.
    #[inline]
    pub fn contains(self, s: Status) -> bool {
        self.0 & s.0 == s.0
    }

    /// Whether any bit of `s` is set.
    #[inline]
    pub fn intersects(self, s: Status) -> bool {
        self.0 & s.0 != 0
    }

    /// Sets the bits of `s`.
    #[inline]
    pub fn insert(&mut self, s: Status) {
        self.0 |= s.0;
    }
}

/// What only the connection's protocol needs.
#[derive(Debug, Clone, Copy)]
pub enum Private {
    /// TCP: state and windows.
    Tcp(TcpTrack),
    /// TCP that ends at the gateway host.
    HostTcp(HostTcp),
    /// UDP and UDP-Lite, whose packets need nothing of this ([`Connection::stream_from`]): the upper halves of
    /// their bytes, which others have in that place.
    Udp([u16; 2]),
    /// SCTP: state and verification tags.
    Sctp(SctpTrack),
    /// Everything that has nothing but a timeout.
    Plain,
}

/// One tracked connection, read and written by its worker only.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Connection<A> {
    /// The tuples of packets in original and in reply direction, before translation.
    pub tuples: [Tuple<A>; 2],
    /// Transport protocol number.
    pub proto: u8,
    /// Index of its timeouts in the policy; also tells whether `rule` is an index of the current policy or
    /// of the one before ([`crate::policy::Succession`]).
    pub timeouts: u8,
    /// Status bits.
    pub status: Status,
    /// When it expires; move it with [`super::Slab::refresh`] once it is in a slab.
    pub deadline: Ticks,
    /// Index of the cached next hop for each direction, valid while `route_generation` is current.
    pub hop: [u16; 2],
    /// Generation of the snapshot the next hops come from; 0 for none.
    pub route_generation: u32,
    /// Packets by direction, wrapping.
    pub packets: [u32; 2],
    /// Bytes by direction: the lower 32 bits of 48.
    pub bytes_low: [u32; 2],
    /// What translation changes checksums by.
    pub changes: Changes,
    /// UDP: [`Connection::stream_from`]; others: the upper 16 bits of their bytes by direction.
    pub aside: [u16; 2],
    /// Protocol state.
    pub private: Private,
    /// Connection mark.
    pub mark: u32,
    /// Index of the rule that admitted it, `u16::MAX` for the default.
    pub rule: u16,
    /// The interface its first packet came in on.
    pub ingress: InterfaceId,
}

/// What the translation of a connection of TCP or UDP changes checksums by, of packets in original direction.
/// By the addresses alone in the lower half, by addresses and ports in the upper one.
#[derive(Debug, Clone, Copy)]
pub struct Changes(u32);

impl Changes {
    /// Of a connection with these tuples.
    #[inline]
    pub fn between<A: Address>(original: &Tuple<A>, reply: &Tuple<A>) -> Self {
        let addresses = |t: &Tuple<A>| t.src.sum() + t.dst.sum();
        let ports = |t: &Tuple<A>| u64::from(t.sport) + u64::from(t.dport);
        let (before, after) = (addresses(original), addresses(reply));
        let by_addresses: Change = Delta::new(before, after).into();
        let by_all: Change = Delta::new(before + ports(original), after + ports(reply)).into();
        Changes(u32::from(by_addresses.0) | u32::from(by_all.0) << 16)
    }

    /// For packets in direction `d`: by the addresses alone, and by addresses and ports.
    #[inline(always)]
    pub fn of(self, d: Direction) -> (Change, Change) {
        // The way back is the complement.
        let both = self.0 ^ u32::from(d as u8).wrapping_neg();
        (Change(both as u16), Change((both >> 16) as u16))
    }
}

const _: () = assert!(size_of::<Connection<crate::packet::V4>>() == 128);
const _: () = assert!(std::mem::offset_of!(Connection<crate::packet::V4>, private) == 64);
const _: () = assert!(size_of::<Connection<crate::packet::V6>>() <= 256);

impl<A: Address> Connection<A> {
    /// A connection not yet in any table.
    pub fn new(original: Key<A>, reply: Key<A>, private: Private) -> Self {
        Connection {
            tuples: [original.tuple, reply.tuple],
            proto: original.proto,
            timeouts: 0,
            status: Status::default(),
            deadline: Ticks(1),
            hop: [0; 2],
            route_generation: 0,
            packets: [0; 2],
            bytes_low: [0; 2],
            changes: Changes::between(&original.tuple, &reply.tuple),
            aside: [0; 2],
            private,
            mark: 0,
            rule: u16::MAX,
            ingress: 0,
        }
    }

    /// Counts a packet in direction `d` of so many bytes, IP header included.
    #[inline(always)]
    pub fn count(&mut self, d: Direction, bytes: u32) {
        let d = d as usize;
        self.packets[d] = self.packets[d].wrapping_add(1);
        let (low, more) = self.bytes_low[d].overflowing_add(bytes);
        self.bytes_low[d] = low;
        if more {
            // Not a function of its own: a call, taken or not, costs its surroundings registers.
            let high = if let Private::Udp(high) = &mut self.private { high } else { &mut self.aside };
            high[d] = high[d].wrapping_add(1);
        }
    }

    /// Bytes in direction `d`, IP headers included; wrapping after 281 terabytes.
    pub fn bytes(&self, d: Direction) -> u64 {
        let high = if let Private::Udp(high) = &self.private { high } else { &self.aside };
        u64::from(high[d as usize]) << 32 | u64::from(self.bytes_low[d as usize])
    }

    /// UDP: from here on traffic both ways makes it a stream.
    #[inline]
    pub fn stream_from(&self) -> Ticks {
        Ticks(u32::from(self.aside[0]) | u32::from(self.aside[1]) << 16)
    }

    /// The tuple of one direction.
    #[inline]
    pub fn tuple(&self, d: Direction) -> &Tuple<A> {
        &self.tuples[d as usize]
    }

    /// The tuple of packets in original direction.
    #[inline]
    pub fn original(&self) -> &Tuple<A> {
        self.tuple(Direction::Original)
    }

    /// The tuple of packets in reply direction.
    #[inline]
    pub fn reply(&self) -> &Tuple<A> {
        self.tuple(Direction::Reply)
    }

    /// Whether it is of this protocol, and packets in direction `d` have these addresses and ports.
    #[inline]
    pub fn has_parts(&self, d: Direction, addresses: (A, A), ports: Ports, proto: u8) -> bool {
        // All compared, without a branch for each.
        (self.proto == proto) & self.tuple(d).has(addresses, ports)
    }

    /// Whether packets in direction `d` have this key.
    #[inline]
    pub fn has(&self, d: Direction, key: &Key<A>) -> bool {
        let t = &key.tuple;
        self.has_parts(d, (t.src, t.dst), t.ports(), key.proto)
    }

    /// The table key of one direction.
    #[inline]
    pub fn key(&self, d: Direction) -> Key<A> {
        Key { tuple: *self.tuple(d), proto: self.proto }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{V4, protocol};

    #[test]
    fn bytes_beyond_32_bits() {
        for private in [Private::Udp([0; 2]), Private::Plain] {
            let key = Key { proto: protocol::UDP, ..Key::<V4>::default() };
            let mut c = Connection::new(key, key, private);
            let stream_from = matches!(private, Private::Udp(_)).then(|| c.stream_from());
            for _ in 0..3 {
                c.count(Direction::Reply, u32::MAX);
            }
            c.count(Direction::Original, 9);
            assert_eq!((c.bytes(Direction::Original), c.bytes(Direction::Reply)), (9, 3 * u64::from(u32::MAX)));
            assert!(stream_from.is_none_or(|t| t == c.stream_from()));
        }
    }
}
