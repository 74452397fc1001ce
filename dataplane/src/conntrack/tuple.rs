//! Tuples: what identifies one direction of a connection.

use super::HashKeys;
use crate::packet::transport::Ports;
use crate::packet::{Address, protocol};

/// Direction of a packet within its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// As the connection's first packet went.
    Original = 0,
    /// The other way.
    Reply = 1,
}

impl Direction {
    /// The other direction.
    #[inline]
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Direction::Original => Direction::Reply,
            Direction::Reply => Direction::Original,
        }
    }

    /// The word for it.
    pub fn label(self) -> &'static str {
        match self {
            Direction::Original => "original",
            Direction::Reply => "reply",
        }
    }
}

/// Addresses and ports of one direction. For ICMP queries the source port holds the identifier and the
/// destination port holds type and code, as netfilter keeps them; protocols without ports have zeros.
///
/// In memory source and destination make one number, the source's half the upper one, as in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Tuple<A> {
    /// Destination address.
    pub dst: A,
    /// Source address.
    pub src: A,
    /// Destination port, or ICMP type in the upper and code in the lower byte.
    pub dport: u16,
    /// Source port or ICMP identifier, host byte order.
    pub sport: u16,
}

impl<A: Address> Tuple<A> {
    /// The ports.
    #[inline]
    pub fn ports(&self) -> Ports {
        Ports::new(self.sport, self.dport)
    }

    /// Whether these are its parts, found out without a branch for each.
    #[inline]
    pub fn has(&self, addresses: (A, A), ports: Ports) -> bool {
        A::equal((self.src, self.dst), addresses) & (self.ports() == ports)
    }

    /// The hash of a key with a tuple of these parts.
    #[inline(always)]
    pub fn hash((src, dst): (A, A), ports: Ports, proto: u8, keys: &HashKeys) -> u64 {
        src.hash_with(dst, u64::from(ports.number()) << 8 | u64::from(proto), keys)
    }
}

/// A tuple with its protocol: the key of the connection table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Key<A> {
    /// Addresses and ports.
    pub tuple: Tuple<A>,
    /// Transport protocol number.
    pub proto: u8,
}

impl<A: Address> Key<A> {
    /// The keyed hash, the same on every worker.
    #[inline]
    pub fn hash(&self, keys: &HashKeys) -> u64 {
        let t = &self.tuple;
        Tuple::hash((t.src, t.dst), t.ports(), self.proto, keys)
    }

    /// The key of the opposite direction; `None` for an ICMP type that has no counterpart.
    #[inline]
    pub fn inverse(&self) -> Option<Self> {
        let t = &self.tuple;
        let (sport, dport) = match self.proto {
            protocol::ICMP | protocol::ICMPV6 => {
                let kind = inverse_icmp(self.proto, (t.dport >> 8) as u8)?;
                (t.sport, u16::from(kind) << 8 | (t.dport & 0xff))
            }
            _ => (t.dport, t.sport),
        };
        Some(Key { tuple: Tuple { src: t.dst, dst: t.src, sport, dport }, proto: self.proto })
    }
}

/// The type that answers an ICMP query type, and the other way (netfilter's `invmap`).
fn inverse_icmp(proto: u8, kind: u8) -> Option<u8> {
    Some(match (proto, kind) {
        (protocol::ICMP, 0) => 8,
        (protocol::ICMP, 8) => 0,
        (protocol::ICMP, 13) => 14,
        (protocol::ICMP, 14) => 13,
        (protocol::ICMP, 15) => 16,
        (protocol::ICMP, 16) => 15,
        (protocol::ICMP, 17) => 18,
        (protocol::ICMP, 18) => 17,
        (protocol::ICMPV6, 128) => 129,
        (protocol::ICMPV6, 129) => 128,
        (protocol::ICMPV6, 139) => 140,
        (protocol::ICMPV6, 140) => 139,
        _ => return None,
    })
}
