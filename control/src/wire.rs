//! The control socket's protocol: one request as a line of JSON, answered by lines of JSON.
//!
//! The client sends a [`Request`] and reads [`Response`]s until [`Response::End`], an error, or the
//! end of the stream, which without either means that the answer is cut off.

use std::net::IpAddr;

use dataplane::conntrack::{Expectation as Expected, Status as Bits, Ticks};
use dataplane::packet::protocol;
use dataplane::worker::shared::{ConnectionInfo, Filter as Conditions, FlowInfo};
use serde::{Deserialize, Serialize};

use crate::status::Status;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// How the gateway is.
    Status,
    /// The connections that meet the conditions.
    List(Filter),
    /// How many connections there are.
    Count,
    /// Delete the connections that meet the conditions.
    Delete(Filter),
    /// The connections that helpers expect.
    Expectations,
}

/// One line of an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Response {
    /// Answers [`Request::Status`].
    Status(Box<Status>),
    /// One of the connections asked for.
    Connection(Box<Connection>),
    /// Answers [`Request::Count`].
    Count(u64),
    /// Answers [`Request::Delete`]: how many were deleted.
    Deleted(u64),
    /// One of the expected connections.
    Expectation(Expectation),
    /// The request cannot be answered, or not to its end.
    Error(String),
    /// The answer is complete.
    End,
}

/// Which connections; absent conditions always hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Filter {
    /// IPv4 or IPv6 only.
    pub(crate) family: Option<Family>,
    /// Transport protocol number.
    pub(crate) protocol: Option<u8>,
    /// Original source address.
    pub(crate) source: Option<IpAddr>,
    /// Original destination address.
    pub(crate) destination: Option<IpAddr>,
    /// Original source port.
    pub(crate) source_port: Option<u16>,
    /// Original destination port.
    pub(crate) destination_port: Option<u16>,
    /// Destination of replies: the address the source was translated to.
    pub(crate) reply_destination: Option<IpAddr>,
    /// Status bits that must all be set, by the names of [`STATUS_NAMES`].
    pub(crate) status: Vec<String>,
    /// The connection mark.
    pub(crate) mark: Option<u32>,
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

impl Filter {
    /// The filter as workers take it.
    ///
    /// # Errors
    /// A sentence about a status name there is not.
    pub(crate) fn conditions(&self) -> Result<Conditions, String> {
        let mut status = Bits::default();
        for name in &self.status {
            let lower = name.to_ascii_lowercase();
            match STATUS_NAMES.iter().find(|(n, _)| *n == lower) {
                Some((_, bit)) => status.insert(*bit),
                None => {
                    let known: Vec<_> = STATUS_NAMES.iter().map(|(n, _)| *n).collect();
                    return Err(format!("there is no status `{name}`; known are {}", known.join(", ")));
                }
            }
        }
        Ok(Conditions {
            v6: self.family.map(|f| f == Family::Ipv6),
            proto: self.protocol,
            source: self.source,
            destination: self.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
            reply_destination: self.reply_destination,
            status,
            mark: self.mark,
        })
    }
}

/// A connection as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Connection {
    /// Address family.
    pub(crate) family: Family,
    /// Transport protocol: its name, or `unknown`.
    pub(crate) protocol: String,
    /// Transport protocol number.
    pub(crate) protocol_number: u8,
    /// Seconds until it expires unless packets come.
    pub(crate) timeout: u32,
    /// Protocol state, for TCP and SCTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<String>,
    /// The direction of the first packet.
    pub(crate) original: Flow,
    /// The other direction.
    pub(crate) reply: Flow,
    /// Names of the status bits that are set.
    pub(crate) status: Vec<String>,
    /// Connection mark.
    pub(crate) mark: u32,
    /// The worker that owns it.
    pub(crate) worker: u16,
}

/// One direction of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Flow {
    /// Source address.
    pub(crate) source: IpAddr,
    /// Destination address.
    pub(crate) destination: IpAddr,
    /// What else identifies it.
    #[serde(flatten)]
    pub(crate) detail: Detail,
    /// Packets so far, modulo 2^32.
    pub(crate) packets: u32,
    /// Bytes so far, IP header included.
    pub(crate) bytes: u64,
}

/// What identifies a direction of a connection beside its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Detail {
    /// Protocols with ports.
    Ports {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
    },
    /// ICMP and ICMPv6 queries.
    Icmp {
        /// ICMP type.
        icmp_type: u8,
        /// ICMP code.
        icmp_code: u8,
        /// Identifier.
        icmp_id: u16,
    },
    /// GRE.
    Keys {
        /// Source key.
        source_key: u16,
        /// Destination key.
        destination_key: u16,
    },
    /// Protocols without ports.
    None {},
}

/// An expected connection as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Expectation {
    /// Transport protocol: its name, or `unknown`.
    pub(crate) protocol: String,
    /// Transport protocol number.
    pub(crate) protocol_number: u8,
    /// Seconds until it is forgotten.
    pub(crate) timeout: u32,
    /// Source address of its first packet; absent when it may come from anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<IpAddr>,
    /// Destination address of its first packet, before translation.
    pub(crate) destination: IpAddr,
    /// Destination port of its first packet, before translation.
    pub(crate) destination_port: u16,
    /// Where its destination is translated to.
    pub(crate) listener: IpAddr,
    /// The port there.
    pub(crate) listener_port: u16,
    /// The connection that announced it.
    pub(crate) master: Endpoints,
    /// The helper that read the announcement.
    pub(crate) helper: String,
}

/// The endpoints of a connection's original direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoints {
    /// Source address.
    pub(crate) source: IpAddr,
    /// Destination address.
    pub(crate) destination: IpAddr,
    /// Source port.
    pub(crate) source_port: u16,
    /// Destination port.
    pub(crate) destination_port: u16,
}

impl Expectation {
    /// As seen at `now`.
    pub(crate) fn new(e: &Expected, now: Ticks) -> Self {
        let m = &e.master_flow;
        Expectation {
            protocol: protocol::name(e.target.proto).to_owned(),
            protocol_number: e.target.proto,
            timeout: e.expires.remaining_ms(now) / 1000,
            source: e.source,
            destination: e.target.destination,
            destination_port: e.target.port,
            listener: e.listener.0,
            listener_port: e.listener.1,
            master: Endpoints {
                source: m.source.0,
                destination: m.destination.0,
                source_port: m.source.1,
                destination_port: m.destination.1,
            },
            helper: e.helper.name().to_owned(),
        }
    }
}

impl From<&ConnectionInfo> for Connection {
    fn from(c: &ConnectionInfo) -> Self {
        Connection {
            family: if c.original.source.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 },
            protocol: protocol::name(c.proto).to_owned(),
            protocol_number: c.proto,
            timeout: c.remaining_ms / 1000,
            state: c.state.map(str::to_owned),
            original: flow(c.proto, &c.original),
            reply: flow(c.proto, &c.reply),
            status: STATUS_NAMES.iter().filter(|(_, b)| c.status.contains(*b)).map(|(n, _)| (*n).to_owned()).collect(),
            mark: c.mark,
            worker: c.worker,
        }
    }
}

fn flow(proto: u8, f: &FlowInfo) -> Flow {
    let [icmp_type, icmp_code] = f.destination_port.to_be_bytes();
    let detail = match proto {
        protocol::ICMP | protocol::ICMPV6 => Detail::Icmp { icmp_type, icmp_code, icmp_id: f.source_port },
        protocol::GRE => Detail::Keys { source_key: f.source_port, destination_key: f.destination_port },
        p if protocol::has_ports(p) => {
            Detail::Ports { source_port: f.source_port, destination_port: f.destination_port }
        }
        _ => Detail::None {},
    };
    Flow { source: f.source, destination: f.destination, detail, packets: f.packets, bytes: f.bytes }
}
