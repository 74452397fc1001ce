//! The control socket's protocol: one request as a line of JSON, answered by lines of JSON.
//!
//! The client sends a [`Request`] and reads [`Response`]s until [`Response::End`], an error, or the
//! end of the stream, which without either means that the answer is cut off.

mod filter;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use config::{Diagnostics, Difference};
use dataplane::conntrack::{Expectation as Expected, Ticks};
use dataplane::packet::protocol;
use dataplane::worker::DropReason;
use dataplane::worker::counters::Counters;
use dataplane::worker::events::{self, EventKind};
use dataplane::worker::listing::{ConnectionInfo, FlowInfo};
use serde::{Deserialize, Serialize};

pub(crate) use self::filter::{Addresses, Family, Filter, FlowFilter, Mark, Nat, STATUS_NAMES};
use crate::describe::{Condition, Packet};
use crate::format::since_epoch;
use crate::rules::Rule;
use crate::status::Status;
use crate::way::Way;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// How the gateway is.
    Status,
    /// The rules with what they have decided.
    Rules,
    /// The connections that meet the conditions, as lines.
    List {
        /// Which ones.
        filter: Filter,
        /// How they are written.
        style: Style,
    },
    /// How many connections meet the conditions.
    Count(Filter),
    /// Delete the connections that meet the conditions.
    Delete(Filter),
    /// Change the connections that meet the conditions.
    Update {
        /// Which ones.
        filter: Filter,
        /// The new mark, or bits of it.
        mark: Option<Mark>,
        /// Seconds until they expire unless packets come.
        timeout: Option<u32>,
    },
    /// What happens to connections, as lines, until the client goes.
    Events {
        /// To which ones.
        filter: Filter,
        /// Which kinds of events.
        kinds: Vec<EventName>,
        /// How they are written.
        style: Style,
    },
    /// What each worker has counted about connections.
    Stats,
    /// Samples of everything at this distance in milliseconds, until the client goes.
    Top {
        /// The distance; it becomes longer where looking at all connections takes long.
        interval: u64,
        /// Addresses that are listed at most.
        talkers: usize,
    },
    /// The connections that helpers expect.
    Expectations,
    /// Put a policy in force on all workers.
    Reload {
        /// Its file, absolute; that of `run --config` when there is none.
        file: Option<PathBuf>,
        /// It stays only if it is confirmed within so many seconds.
        confirm: Option<u32>,
    },
    /// Let the policy that awaits confirmation stay.
    Confirm,
    /// Return to the policy before.
    Rollback,
    /// How the policy in this file, absolute, differs from the one in force.
    Diff {
        /// The file.
        file: PathBuf,
    },
    /// What a packet would meet.
    Explain(Box<Packet>),
    /// What packets that meet the conditions meet from now on, until the client goes.
    Trace(Vec<Condition>),
}

/// One line of an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Response {
    /// Answers [`Request::Status`].
    Status(Box<Status>),
    /// One of the rules, in the order of the policy.
    Rule(Rule),
    /// Some of the lines asked for, each ended by a newline.
    Lines {
        /// How many.
        count: u64,
        /// All of them.
        text: String,
    },
    /// So many events or packets were lost because the client reads too slowly.
    Lost(u64),
    /// Answers [`Request::Count`], [`Request::Delete`] and [`Request::Update`]: how many connections it was about.
    Count(u64),
    /// Answers [`Request::Stats`], a line for each worker.
    Stats(TrackingStats),
    /// A sample for [`Request::Top`].
    Top(Box<Sample>),
    /// One of the expected connections.
    Expectation(Expectation),
    /// Answers [`Request::Reload`] and [`Request::Rollback`].
    Reloaded(Box<Reloaded>),
    /// The policy's file is not in order; the running policy stays in force.
    Refused(Diagnostics),
    /// Answers [`Request::Confirm`]: which generation.
    Confirmed(u64),
    /// Answers [`Request::Diff`].
    Diff(Box<Diff>),
    /// Answers [`Request::Explain`].
    Explained(Box<Way>),
    /// A packet for [`Request::Trace`].
    Traced(Box<Traced>),
    /// The request cannot be answered, or not to its end.
    Error(String),
    /// The answer is complete.
    End,
}

/// What a reload or a rollback has done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Reloaded {
    /// The generation in force now.
    pub(crate) generation: u64,
    /// Its file.
    pub(crate) file: PathBuf,
    /// The file says what the policy in force says: nothing was done.
    pub(crate) unchanged: bool,
    /// Connections that were deleted because the policy forbids them.
    pub(crate) deleted: u64,
    /// The generation it returns to unless it is confirmed.
    pub(crate) back_to: Option<u64>,
    /// A worker that has not taken it up in time.
    pub(crate) late: Option<String>,
    /// What is probably not meant.
    #[serde(flatten)]
    pub(crate) warnings: Diagnostics,
}

/// How a policy differs from the one in force.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Diff {
    /// The generation in force.
    pub(crate) generation: u64,
    /// Its file.
    pub(crate) running: PathBuf,
    /// The other policy's file.
    pub(crate) file: PathBuf,
    /// What differs.
    #[serde(flatten)]
    pub(crate) difference: Difference,
    /// What only a restart could change.
    pub(crate) restart: Vec<String>,
    /// Which connections it would concern; `None` when its devices are others.
    pub(crate) connections: Option<Affected>,
    /// Whether a reload would delete these.
    pub(crate) revalidate: bool,
    /// What is probably not meant.
    #[serde(flatten)]
    pub(crate) warnings: Diagnostics,
}

/// Which connections a policy would concern.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Affected {
    /// Connections in all.
    pub(crate) connections: u64,
    /// Would not be let through.
    pub(crate) denied: u64,
    /// Would be translated in another way.
    pub(crate) translated: u64,
    /// Would not be tracked.
    pub(crate) untracked: u64,
}

/// How connections are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Style {
    /// As JSON, not in conntrack-tools' line format.
    pub(crate) json: bool,
    /// With packets and bytes; JSON always has them.
    pub(crate) counters: bool,
    /// Events with their time; JSON always has it.
    pub(crate) timestamps: bool,
}

/// A kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EventName {
    /// A connection has begun.
    #[value(name = "NEW")]
    New,
    /// Its state, status or mark has changed.
    #[value(name = "UPDATE", alias = "UPDATES")]
    Update,
    /// It has gone.
    #[value(name = "DESTROY")]
    Destroy,
}

/// What a worker has counted about connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TrackingStats {
    /// The worker.
    pub(crate) worker: usize,
    /// Connections now.
    pub(crate) entries: u64,
    /// Connections entered.
    pub(crate) insert: u64,
    /// Connections not entered because another packet made the same one at the same moment.
    pub(crate) insert_failed: u64,
    /// Packets that fit no connection and could begin none.
    pub(crate) invalid: u64,
    /// New connections refused because the table was full.
    pub(crate) table_full: u64,
    /// Unassured connections dropped to make room.
    pub(crate) early_drop: u64,
    /// New connections refused because no port or address was free.
    pub(crate) nat_exhausted: u64,
    /// New connections refused by the limits of their source.
    pub(crate) source_limit: u64,
    /// Connections that expired.
    pub(crate) expired: u64,
    /// Connections deleted.
    pub(crate) deleted: u64,
    /// Frames handed to another worker.
    pub(crate) handed_off: u64,
    /// Frames taken over from another worker.
    pub(crate) taken_over: u64,
}

impl TrackingStats {
    /// What this worker's counters say.
    pub(crate) fn new(worker: usize, c: &Counters) -> Self {
        let dropped = |r: DropReason| c.drops[r as usize].get();
        TrackingStats {
            worker,
            entries: c.connections4.get() + c.connections6.get(),
            insert: c.created.iter().map(|c| c.get()).sum(),
            insert_failed: dropped(DropReason::InsertFailed),
            invalid: dropped(DropReason::Invalid) + dropped(DropReason::InvalidUntranslated),
            table_full: dropped(DropReason::TableFull),
            early_drop: c.early_dropped.get(),
            nat_exhausted: dropped(DropReason::NatExhausted),
            source_limit: dropped(DropReason::SourceConnections) + dropped(DropReason::SourceRate),
            expired: c.expired.get(),
            deleted: c.deleted.get(),
            handed_off: c.handed_off.iter().map(|c| c.get()).sum(),
            taken_over: c.taken_over.get(),
        }
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

/// Everything at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Seconds on a clock that only goes forward.
    pub(crate) at: f64,
    /// The gateway.
    pub(crate) status: Status,
    /// Connections by protocol and state.
    pub(crate) states: BTreeMap<String, u64>,
    /// Who sends and receives most since the last sample, most bytes first.
    pub(crate) talkers: Vec<Talker>,
}

/// An address that connections come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Talker {
    /// The address, before translation.
    pub(crate) address: IpAddr,
    /// Its connections.
    pub(crate) connections: u64,
    /// Packets a second of its connections, both directions.
    pub(crate) packets: f64,
    /// Bytes a second, likewise.
    pub(crate) bytes: f64,
}

/// A packet that was traced.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Traced {
    /// When it came in, in seconds since the epoch.
    pub(crate) at: f64,
    /// What it met.
    #[serde(flatten)]
    pub(crate) way: Way,
    /// The frame as it came in, in hexadecimal digits.
    pub(crate) frame: String,
}

/// An event as clients see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// What happened.
    pub(crate) event: EventName,
    /// When, in seconds since the epoch.
    pub(crate) at: f64,
    /// Why the connection has gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// The connection as it then was.
    #[serde(flatten)]
    pub(crate) connection: Connection,
}

impl From<&events::Event> for Event {
    fn from(e: &events::Event) -> Self {
        let (event, reason) = match e.kind {
            EventKind::New => (EventName::New, None),
            EventKind::Update => (EventName::Update, None),
            EventKind::Destroy(why) => (EventName::Destroy, Some(why.label().to_owned())),
        };
        Event { event, at: since_epoch(e.at).as_secs_f64(), reason, connection: (&e.connection).into() }
    }
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
