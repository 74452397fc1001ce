//! Conditions on connections, as a client writes them and as workers take them.

use std::net::IpAddr;
use std::str::FromStr;

use config::AddressRange;
use dataplane::conntrack::Status as Bits;
use dataplane::worker::listing::{self, Net};
use serde::{Deserialize, Serialize};

/// A mark's bits, and which bits they are: `0x10/0xf0`, or a number alone for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// The bits.
    pub(crate) value: u32,
    /// Which ones.
    pub(crate) mask: u32,
}

impl FromStr for Mark {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let number = |s: &str| match s.strip_prefix("0x").or(s.strip_prefix("0X")) {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => s.parse(),
        };
        let (value, mask) = s.split_once('/').unwrap_or((s, "0xffffffff"));
        match (number(value), number(mask)) {
            (Ok(value), Ok(mask)) if value & !mask == 0 => Ok(Mark { value, mask }),
            (Ok(_), Ok(_)) => Err("the mark has bits outside its mask".to_owned()),
            _ => Err("expected a number, decimal or 0x..., or NUMBER/MASK".to_owned()),
        }
    }
}

/// An address, a prefix or a range, as a policy writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Addresses {
    /// The first address.
    pub(crate) first: IpAddr,
    /// The last one.
    pub(crate) last: IpAddr,
}

impl FromStr for Addresses {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.parse::<AddressRange>() {
            Ok(r) => Ok(Addresses { first: r.first(), last: r.last() }),
            Err(e) => Err(e.help().map_or(e.to_string(), |help| format!("{e}; {help}"))),
        }
    }
}

/// What an end of a connection is translated to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Nat {
    /// Anything.
    Any,
    /// One of these addresses.
    To(Addresses),
}

impl From<Option<Addresses>> for Nat {
    fn from(a: Option<Addresses>) -> Self {
        a.map_or(Nat::Any, Nat::To)
    }
}

impl Nat {
    fn net(self) -> Net {
        match self {
            Nat::Any => Net::ALL,
            Nat::To(a) => a.into(),
        }
    }
}

/// Conditions on one direction of a connection; absent ones always hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FlowFilter {
    /// Source address, prefix or range.
    pub(crate) source: Option<Addresses>,
    /// Destination address, prefix or range.
    pub(crate) destination: Option<Addresses>,
    /// Source port.
    pub(crate) source_port: Option<u16>,
    /// Destination port.
    pub(crate) destination_port: Option<u16>,
}

/// Which connections; absent conditions always hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Filter {
    /// IPv4 or IPv6 only.
    pub(crate) family: Option<Family>,
    /// Transport protocol number.
    pub(crate) protocol: Option<u8>,
    /// The original direction.
    pub(crate) original: FlowFilter,
    /// The reply direction.
    pub(crate) reply: FlowFilter,
    /// Status bits that must all be set, by the names of [`STATUS_NAMES`], or clear after `un`: `unreplied`.
    pub(crate) status: Vec<String>,
    /// The state's name.
    pub(crate) state: Option<String>,
    /// The connection mark.
    pub(crate) mark: Option<Mark>,
    /// What the source is translated to.
    pub(crate) source_nat: Option<Nat>,
    /// What the destination is translated to.
    pub(crate) destination_nat: Option<Nat>,
    /// What either is translated to.
    pub(crate) any_nat: Option<Nat>,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// Status bits and their names, as conntrack-tools writes them in lower case.
pub(crate) const STATUS_NAMES: [(&str, Bits); 7] = [
    ("expected", Bits::EXPECTED),
    ("seen_reply", Bits::SEEN_REPLY),
    ("assured", Bits::ASSURED),
    ("confirmed", Bits::CONFIRMED),
    ("src_nat", Bits::SRC_NAT),
    ("dst_nat", Bits::DST_NAT),
    ("helper", Bits::HELPER),
];

impl FlowFilter {
    fn conditions(&self) -> listing::FlowFilter {
        listing::FlowFilter {
            source: self.source.map(Net::from),
            destination: self.destination.map(Net::from),
            source_port: self.source_port,
            destination_port: self.destination_port,
        }
    }
}

impl From<Addresses> for Net {
    fn from(a: Addresses) -> Self {
        Net { first: a.first, last: a.last }
    }
}

impl Filter {
    /// The filter as workers take it.
    ///
    /// # Errors
    /// A sentence about a status or state name there is not.
    pub(crate) fn conditions(&self) -> Result<listing::Filter, String> {
        let (mut status, mut status_clear) = (Bits::default(), Bits::default());
        for name in &self.status {
            let lower = name.to_ascii_lowercase();
            let bit = |n: &str| STATUS_NAMES.iter().find(|(known, _)| *known == n).map(|(_, bit)| *bit);
            match (bit(&lower), lower.as_str()) {
                (Some(bit), _) => status.insert(bit),
                (None, "unreplied") => status_clear.insert(Bits::SEEN_REPLY),
                (None, "unassured") => status_clear.insert(Bits::ASSURED),
                (None, _) => {
                    let known: Vec<_> = STATUS_NAMES.iter().map(|(n, _)| *n).collect();
                    let known = known.join(", ");
                    return Err(format!("there is no status `{name}`; known are {known}, unreplied, unassured"));
                }
            }
        }
        let state = self.state.as_ref().map(|s| s.to_ascii_uppercase());
        if let Some(unknown) = state.as_ref().filter(|s| !STATES.contains(&s.as_str())) {
            return Err(format!("there is no state `{unknown}`; known are {}", STATES.join(", ")));
        }
        Ok(listing::Filter {
            v6: self.family.map(|f| f == Family::Ipv6),
            proto: self.protocol,
            original: self.original.conditions(),
            reply: self.reply.conditions(),
            status,
            status_clear,
            state,
            mark: self.mark.map(|m| (m.value, m.mask)),
            source_nat: self.source_nat.map(Nat::net),
            destination_nat: self.destination_nat.map(Nat::net),
            any_nat: self.any_nat.map(Nat::net),
        })
    }
}

/// The states' names, TCP's and SCTP's.
const STATES: [&str; 16] = [
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
    "CLOSED",
    "COOKIE_WAIT",
    "COOKIE_ECHOED",
    "SHUTDOWN_SENT",
    "SHUTDOWN_RECD",
    "SHUTDOWN_ACK_SENT",
    "HEARTBEAT_SENT",
];
