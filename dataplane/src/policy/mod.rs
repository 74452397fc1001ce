//! The compiled policy: what `config` produces and the path asks on a connection's first packet.

mod ask;
mod classifier;
mod interface;
mod limiter;
mod matcher;
mod ranks;
mod rule;
mod set;
mod succession;
mod tally;

pub use ask::{Index, Nobody, Witness};
pub use classifier::Classified;
pub(crate) use classifier::Walk;
pub use interface::InterfacePolicy;
pub use limiter::Limiter;
pub use matcher::{Facts, Family, IcmpTypes, Match, States, TcpFlags, Zones};
pub use rule::{Action, Limit, Log, Place, Rate, Reject, Rule};
pub use set::{AddressSet, Members, NamedSet, PortSet};
pub use succession::{Succession, TIMEOUTS};
pub use tally::{List, Tallies, Tally};

use std::net::IpAddr;
use std::sync::Arc;

use crate::conntrack::tcp::{TcpTimeout, TcpTimeouts};
use crate::conntrack::{TcpSettings, Timeouts, UdpTimeout, UdpTimeouts};
use crate::helper::HelperKind;

/// Index of an interface in [`Policy::interfaces`] and in the FIB.
pub type InterfaceId = u16;
/// Index of a zone in [`Policy::zones`].
pub type ZoneId = u8;

/// The compiled policy, immutable once published.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Names of the zones; at most 64.
    pub zones: Vec<String>,
    /// The interfaces Sluice forwards between.
    pub interfaces: Vec<InterfacePolicy>,
    /// Named sets in order; rules that name one have a copy.
    pub sets: Vec<NamedSet>,
    /// Forward rules in order; the first that matches decides.
    pub rules: Vec<Rule>,
    /// What happens to a packet that no rule matches.
    pub default: Action,
    /// Destination translations in order; the first that matches is applied.
    pub destination_nat: Vec<DestinationNat>,
    /// Source translations in order; the first that matches is applied.
    pub source_nat: Vec<SourceNat>,
    /// Traffic that is not tracked, or gets a helper, by the first rule that matches.
    pub tracking: Vec<TrackingRule>,
    /// Helpers and the ports on which they read control connections.
    pub helpers: Vec<(HelperKind, u16)>,
    /// Idle timeouts by protocol and state: the first for all connections, others for those of rules that say so.
    /// Never empty once compiled.
    pub timeouts: Vec<Timeouts>,
    /// Lower the MSS of TCP connections to what fits the MTUs of the two interfaces.
    pub clamp_mss: bool,
    /// What one source address may have and do.
    pub limits: SourceLimits,
    /// Switches of TCP tracking.
    pub tcp: TcpSettings,
    /// Verify transport checksums and treat packets that fail as INVALID (netfilter's `nf_conntrack_checksum`).
    pub checksum: bool,
    /// The most connections in all workers together.
    pub max_connections: u32,
    /// When there are as many, refuse new ones rather than drop one that is not assured.
    pub keep_unassured: bool,
    /// Zones from which packets are refused whose source address is not routed to the interface they came in on
    /// (RFC 3704 strict mode).
    pub strict_reverse_path: Zones,
    /// ICMP errors a worker may send each second; 0 means no limit.
    pub icmp_errors_per_second: u32,
    /// What it knows of the policy before it.
    pub succession: Succession,
    /// Finds rules for packets; without it lists are walked.
    pub index: Option<Arc<Index>>,
}

/// Limits for each source address, counted by each worker for the connections it owns. 0 means none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceLimits {
    /// Connections at a time.
    pub connections: u32,
    /// Of these, TCP connections.
    pub tcp: u32,
    /// UDP connections.
    pub udp: u32,
    /// ICMP and ICMPv6 queries.
    pub icmp: u32,
    /// New connections a second, with bursts of as many.
    pub rate: u32,
}

/// A rule about tracking itself, asked before the connection is looked up as new.
#[derive(Debug, Clone, Default)]
pub struct TrackingRule {
    /// The rule's name in the policy file.
    pub name: String,
    /// Where it is written.
    pub place: Place,
    /// What it matches; `to`, state and status are not known yet and never restrict.
    pub matcher: Match,
    /// What it does.
    pub action: TrackingAction,
}

/// What a tracking rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrackingAction {
    /// The packet is not tracked, hence not translated either.
    #[default]
    Untracked,
    /// The connection is read by this helper, on whatever port it is.
    Helper(HelperKind),
    /// The connection is read by no helper.
    NoHelper,
}

/// A destination translation.
#[derive(Debug, Clone, Default)]
pub struct DestinationNat {
    /// The rule's name in the policy file.
    pub name: String,
    /// Where it is written.
    pub place: Place,
    /// What it matches; the egress zone is not known yet.
    pub matcher: Match,
    /// The translation.
    pub translate: DestinationTranslation,
    /// How the source of the same connections is translated; `None` leaves that to the source translations.
    pub source: Option<SourceTranslation>,
}

/// How a destination address is translated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum DestinationTranslation {
    /// Not at all; ends the search.
    #[default]
    None,
    /// To a backend.
    To {
        /// The backends, all of one family; never empty. Each source always meets the same one, and only a
        /// removed backend's sources move when the list changes.
        addresses: Vec<IpAddr>,
        /// The first destination port to translate to; `None` keeps the port. A range in the match is shifted.
        port: Option<u16>,
    },
    /// The outside prefix becomes the inside prefix.
    Prefix(PrefixMap),
    /// To the gateway host: the primary address of the interface that the packet came in on (netfilter's REDIRECT).
    Redirect {
        /// The first destination port to translate to; `None` keeps the port. A range in the match is shifted.
        port: Option<u16>,
    },
}

/// A source translation.
#[derive(Debug, Clone, Default)]
pub struct SourceNat {
    /// The rule's name in the policy file.
    pub name: String,
    /// Where it is written.
    pub place: Place,
    /// What it matches, on addresses after destination translation.
    pub matcher: Match,
    /// The translation.
    pub translate: SourceTranslation,
}

/// How a source address is translated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SourceTranslation {
    /// Not at all; ends the search.
    #[default]
    None,
    /// To the egress interface's address.
    Masquerade(PortChoice),
    /// To an address of a pool.
    Pool {
        /// Inclusive address ranges of one family; never empty.
        addresses: Vec<(IpAddr, IpAddr)>,
        /// How the port is chosen.
        choice: PortChoice,
    },
    /// The inside prefix becomes the outside prefix.
    Prefix(PrefixMap),
}

/// How a source's port is chosen, and who may then reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortChoice {
    /// Ports to choose from; `None` keeps the source's port or its class (RFC 4787 REQ-3a).
    pub ports: Option<(u16, u16)>,
    /// Always choose a random port.
    pub random: bool,
    /// A source never gets another address of the pool than its own, even when that has no port left (RFC
    /// 7857 section 4).
    pub persistent: bool,
    /// `Some`: endpoint-independent mapping (RFC 4787 REQ-1), a source has one outside port for all remotes,
    /// with this filtering. `None`: endpoint-dependent mapping and filtering, netfilter's habit.
    pub independent: Option<Filtering>,
    /// Seconds for which an endpoint-independent mapping's port, except of TCP, is kept from other sources after
    /// its last connection (RFC 6888 REQ-8).
    pub hold: u32,
}

/// Who may send to an endpoint-independent mapping (RFC 4787 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Filtering {
    /// Who was sent to, from that port.
    #[default]
    EndpointDependent,
    /// Who was sent to, from any port.
    AddressDependent,
    /// Everybody.
    EndpointIndependent,
}

/// Two prefixes of one family and length whose addresses correspond one to one: netfilter's NETMAP; for
/// IPv6 with `neutral` the checksum-neutral mapping of RFC 6296 (NPTv6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixMap {
    /// First address of the inside prefix.
    pub inside: IpAddr,
    /// First address of the outside prefix.
    pub outside: IpAddr,
    /// Length of both prefixes in bits.
    pub length: u8,
    /// Keep the checksum of the address as it is, by changing bits behind the prefix (IPv6 only, at most 112 bits).
    pub neutral: bool,
}

impl Policy {
    /// The zone of an interface; `None` for one that is not in the policy.
    #[inline]
    pub fn zone_of(&self, i: InterfaceId) -> Option<ZoneId> {
        self.interfaces.get(usize::from(i)).map(|i| i.zone)
    }

    /// What each index stands for with UDP.
    pub fn udp_timeouts(&self) -> UdpTimeouts {
        std::array::from_fn(|i| {
            let t = self.timeouts(i as u8);
            UdpTimeout { first: t.udp * 1000, stream: t.udp_stream * 1000 }
        })
    }

    /// The timeouts with this index, Linux's where there are none.
    #[inline]
    pub fn timeouts(&self, i: u8) -> &Timeouts {
        static LINUX: std::sync::LazyLock<Timeouts> = std::sync::LazyLock::new(Timeouts::linux);
        match self.timeouts.get(usize::from(i)).or(self.timeouts.first()) {
            Some(t) => t,
            None => &LINUX,
        }
    }

    /// What each index stands for with most segments of TCP.
    pub fn tcp_timeouts(&self) -> TcpTimeouts {
        std::array::from_fn(|i| TcpTimeout::new(&self.tcp, self.timeouts(i as u8)))
    }
}
