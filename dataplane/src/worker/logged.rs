//! What rules log: a worker queues a record and never waits; the control thread writes it.

use std::net::IpAddr;
use std::sync::Arc;

use super::core::Core;
use super::family::Packet;
use crate::conntrack::CtState;
use crate::io::Port;
use crate::packet::Ip;
use crate::policy::{Facts, InterfaceId, Log, Policy};

/// A packet that a rule logs. It has all a line shows, so that nothing is made of it on the path.
#[derive(Debug)]
pub struct LogRecord {
    /// The policy the rule is of.
    pub policy: Arc<Policy>,
    /// Index of the rule.
    pub rule: u16,
    /// The interface it came in on.
    pub ingress: InterfaceId,
    /// The interface it is to leave by.
    pub egress: InterfaceId,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, after destination translation.
    pub destination: IpAddr,
    /// Transport protocol.
    pub protocol: u8,
    /// Source and destination port.
    pub ports: Option<(u16, u16)>,
    /// ICMP type (upper byte) and code (lower byte).
    pub icmp: Option<u16>,
    /// TCP flags.
    pub tcp_flags: Option<u8>,
    /// Tracking state.
    pub state: CtState,
    /// Mark of the connection.
    pub mark: u32,
    /// Length of the IP packet.
    pub length: u32,
}

/// Queues a record, unless the log's rate is used up or the queue is full.
pub(super) fn log<P: Port, A: Ip>(
    w: &Core<P>,
    p: &Packet<A>,
    facts: &Facts<A>,
    egress: InterfaceId,
    rule: u16,
    log: &Log,
) {
    if log.rate.is_some_and(|rate| !w.shared.limiter.admit(&rate, (), w.shared.nanoseconds())) {
        w.counters().log_limited.inc();
        return;
    }
    let record = LogRecord {
        policy: w.snapshot.policy.clone(),
        rule,
        ingress: p.interface,
        egress,
        source: facts.source.ip(),
        destination: facts.destination.ip(),
        protocol: facts.protocol,
        ports: facts.source_port.zip(facts.destination_port),
        icmp: facts.icmp,
        tcp_flags: facts.tcp_flags,
        state: facts.state,
        mark: facts.mark,
        length: p.bytes(),
    };
    if w.shared.logged.push(record).is_err() {
        w.counters().log_lost.inc();
    }
}
