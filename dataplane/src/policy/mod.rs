//! The compiled policy: what `config` produces and the path asks on a connection's first packet.

mod matcher;
mod set;

pub use matcher::{Facts, Match, States, Zones};
pub use set::{AddressSet, PortSet};

use std::net::IpAddr;

use crate::conntrack::{TcpSettings, Timeouts};

/// Index of an interface in [`Policy::interfaces`], in the FIB and among a worker's ports.
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
    /// Idle timeouts by protocol and state.
    pub timeouts: Timeouts,
    /// Switches of TCP tracking.
    pub tcp: TcpSettings,
    /// Verify transport checksums and treat packets that fail as INVALID (netfilter's `nf_conntrack_checksum`).
    pub checksum: bool,
    /// The most connections in all workers together.
    pub max_connections: u32,
    /// Refuse packets whose source address is not routed to the interface they came in on (RFC 3704 strict mode).
    pub strict_reverse_path: bool,
    /// ICMP errors a worker may send each second; 0 means no limit.
    pub icmp_errors_per_second: u32,
}

/// One interface of the policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfacePolicy {
    /// The name in the policy, `lan`.
    pub name: String,
    /// The kernel's device name, `eth1`.
    pub device: String,
    /// The zone it belongs to.
    pub zone: ZoneId,
}

/// What a rule does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Action {
    /// Let it pass.
    Accept,
    /// Discard it silently.
    #[default]
    Drop,
    /// Discard it and say so: TCP RST, else ICMP port unreachable (administratively prohibited for others).
    Reject,
}

/// A forward rule.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// The rule's name in the policy file.
    pub name: String,
    /// What it matches.
    pub matcher: Match,
    /// What it does.
    pub action: Action,
}

/// A rule about tracking itself, asked before the connection is looked up as new.
#[derive(Debug, Clone, Default)]
pub struct TrackingRule {
    /// The rule's name in the policy file.
    pub name: String,
    /// What it matches; `to`, state and status are not known yet and never restrict.
    pub matcher: Match,
}

/// A destination translation.
#[derive(Debug, Clone)]
pub struct DestinationNat {
    /// The rule's name in the policy file.
    pub name: String,
    /// What it matches; the egress zone is not known yet.
    pub matcher: Match,
    /// The backends, all of one family; never empty.
    pub to: Vec<IpAddr>,
    /// The first destination port to translate to; `None` keeps the port. A range in the match is shifted.
    pub port: Option<u16>,
}

/// A source translation.
#[derive(Debug, Clone)]
pub struct SourceNat {
    /// The rule's name in the policy file.
    pub name: String,
    /// What it matches, on addresses after destination translation.
    pub matcher: Match,
    /// The translation.
    pub translate: SourceTranslation,
}

/// How a source address is translated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceTranslation {
    /// Not at all; ends the search.
    None,
    /// To the egress interface's address.
    Masquerade {
        /// Ports to choose from; `None` keeps the source's port or its class (RFC 4787 REQ-3a).
        ports: Option<(u16, u16)>,
        /// Always choose a random port.
        random: bool,
    },
    /// To an address of a pool.
    Pool {
        /// Inclusive address ranges of one family; never empty.
        addresses: Vec<(IpAddr, IpAddr)>,
        /// Ports to choose from; `None` keeps the source's port or its class.
        ports: Option<(u16, u16)>,
        /// Always choose a random port.
        random: bool,
    },
}
