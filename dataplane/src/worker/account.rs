//! The account of a packet's way: what was found and decided, step by step, and what became of it.

use std::net::IpAddr;
use std::sync::Arc;

use super::listing::ConnectionInfo;
use super::reason::DropReason;
use crate::conntrack::{CtState, Direction};
use crate::helper::HelperKind;
use crate::packet::icmp::Problem;
use crate::policy::{InterfaceId, List, Policy};
use crate::route::Mac;

/// The account of one packet at one worker.
#[derive(Debug, Clone)]
pub struct Account {
    /// The worker.
    pub worker: u16,
    /// The interface the packet came in on.
    pub interface: InterfaceId,
    /// The policy that decided; indices are its.
    pub policy: Arc<Policy>,
    /// The steps in their order.
    pub notes: Vec<Note>,
    /// What became of it.
    pub verdict: Verdict,
    /// As what it came in, where its headers can be read.
    pub arrives: Option<Flow>,
    /// As what it leaves, when it does.
    pub leaves: Option<Flow>,
}

/// One step of a packet's way.
#[derive(Debug, Clone)]
pub enum Note {
    /// It belongs to this connection.
    Connection {
        /// The connection, before this packet.
        connection: Box<ConnectionInfo>,
        /// Which way the packet goes in it.
        direction: Direction,
        /// Index of the rule that admitted it, [`Policy::DEFAULT`] for the default, [`Policy::GONE`] when the rule
        /// is not in the policy any more.
        rule: u16,
    },
    /// It begins the connection anew; the old one goes.
    Reopens,
    /// Its tracking state, as rules see it.
    State(CtState),
    /// A helper has announced the connection it begins.
    Announced(HelperKind),
    /// An endpoint-independent mapping lets it in.
    Mapped,
    /// A rule about tracking says what the policy says there.
    Tracking(usize),
    /// Its destination is translated.
    Destination {
        /// Index of the destination translation; none when announced or mapped.
        rule: Option<usize>,
        /// The new destination.
        to: (IpAddr, u16),
    },
    /// The route to its destination.
    Route {
        /// The destination.
        destination: IpAddr,
        /// The interface it leaves by.
        interface: InterfaceId,
        /// The router, or the destination itself.
        next: IpAddr,
    },
    /// A rule would match but for its limit.
    Limit {
        /// Index of the rule.
        rule: u16,
        /// Whether the packet is within the rate.
        within: bool,
    },
    /// A rule matches; [`Policy::DEFAULT`] for the default.
    Rule(u16),
    /// Its source is translated, or not.
    Source {
        /// The list and index of the rule that says so.
        rule: Option<(List, u16)>,
        /// Address and port (or ICMP identifier) that its receiver sees.
        to: (IpAddr, u16),
    },
    /// A helper reads its connection.
    Helper(HelperKind),
    /// The gateway answers its sender.
    Answered(Answer),
}

/// How the gateway answers a packet's sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// With an ICMP error.
    Icmp(Problem),
    /// With a TCP RST.
    Reset,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It leaves.
    Sent {
        /// The interface it leaves by.
        interface: InterfaceId,
        /// The next hop.
        next: IpAddr,
        /// The next hop's Ethernet address; `None` while the kernel is asked for it and the packet waits.
        mac: Option<Mac>,
    },
    /// The kernel takes it as if it had just come in.
    ToHost,
    /// Translated, the gateway host takes it.
    Redirected,
    /// Another worker owns its connection.
    HandedOff(u16),
    /// It is a fragment and waits for the others of its datagram.
    Waits,
    /// It is dropped.
    Dropped(DropReason),
}

/// Addresses and ports of a packet. For ICMP queries the source port is the identifier and the destination port
/// has the type in its upper byte and the code in its lower; protocols without ports have zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Transport protocol.
    pub protocol: u8,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}
