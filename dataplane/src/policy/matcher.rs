//! What a rule matches, and the facts about a packet it is matched against.

use super::{AddressSet, PortSet, ZoneId};
use crate::conntrack::{CtState, Status};
use crate::packet::Address;

/// A set of zones, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Conditions, all of which must hold; an absent one always holds.
#[derive(Debug, Clone, Default)]
pub struct Match {
    /// Zone of the ingress interface.
    pub from: Option<Zones>,
    /// Zone of the egress interface.
    pub to: Option<Zones>,
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
    /// The packet's tracking state.
    pub states: Option<States>,
    /// Bits of the connection's status that must all be set.
    pub status: Option<Status>,
    /// Value and mask of the connection's mark.
    pub mark: Option<(u32, u32)>,
}

/// What is known of a packet when rules are asked about it. Ports are 0 where the protocol has none.
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
    /// Whether every condition holds.
    pub fn matches<A: Address>(&self, f: &Facts<A>) -> bool {
        let port = |set: &Option<PortSet>, p: Option<u16>| match set {
            None => true,
            Some(s) => p.is_some_and(|p| s.contains(p)),
        };
        self.states.is_none_or(|s| s.contains(f.state))
            && self.status.is_none_or(|s| f.status.contains(s))
            && self.mark.is_none_or(|(value, mask)| f.mark & mask == value)
            && self.from.is_none_or(|z| z.contains(f.from))
            && self.to.is_none_or(|z| f.to.is_some_and(|t| z.contains(t)))
            && self.protocols.as_ref().is_none_or(|p| p.contains(&f.protocol))
            && port(&self.destination_port, f.destination_port)
            && port(&self.source_port, f.source_port)
            && self.source.as_ref().is_none_or(|s| s.contains(f.source))
            && self.destination.as_ref().is_none_or(|s| s.contains(f.destination))
    }
}
