//! Asking the policy about a packet.

use super::core::Core;
use super::error;
use super::family::Packet;
use super::reason::DropReason;
use crate::conntrack::tcp::flags;
use crate::conntrack::{CtState, Key, Status, Tuple};
use crate::io::Port;
use crate::packet::{Ip, be16, protocol};
use crate::policy::{Action, Facts, InterfaceId, Policy};

/// What is known of a packet before it is routed.
pub(super) fn facts<P: Port, A: Ip>(w: &Core<P>, p: &Packet<A>, state: CtState) -> Facts<A> {
    let h = &p.headers;
    let transport = &w.pool.bytes(p.frame)[usize::from(h.l4)..usize::from(h.end)];
    let ports =
        (protocol::has_ports(h.proto) && transport.len() >= 4).then(|| (be16(transport, 0), be16(transport, 2)));
    let (sport, dport) = ports.unwrap_or_default();
    let key = Key { tuple: Tuple { src: h.src, dst: h.dst, sport, dport }, proto: h.proto };
    Facts {
        source_port: ports.map(|p| p.0),
        destination_port: ports.map(|p| p.1),
        icmp: (h.proto == A::ICMP && transport.len() >= 2).then(|| be16(transport, 0)),
        tcp_flags: transport.get(13).copied().filter(|_| h.proto == protocol::TCP),
        ..describe(&w.snapshot.policy, &key, p.interface, state)
    }
}

/// What is known of a flow before it is routed. A TCP connection is taken to begin with a SYN.
pub(super) fn describe<A: Ip>(policy: &Policy, key: &Key<A>, ingress: InterfaceId, state: CtState) -> Facts<A> {
    let ports = protocol::has_ports(key.proto);
    Facts {
        source: key.tuple.src,
        destination: key.tuple.dst,
        protocol: key.proto,
        source_port: ports.then_some(key.tuple.sport),
        destination_port: ports.then_some(key.tuple.dport),
        icmp: (key.proto == A::ICMP).then_some(key.tuple.dport),
        tcp_flags: (key.proto == protocol::TCP).then_some(flags::SYN),
        from: policy.zone_of(ingress).unwrap_or(0),
        to: None,
        state,
        status: Status::default(),
        mark: 0,
    }
}

/// Asks the rules. Returns the index of the rule that accepted the packet, `u16::MAX` for the default.
pub(super) fn admit<P: Port, A: Ip>(w: &mut Core<P>, p: &Packet<A>, facts: &Facts<A>) -> Result<u16, DropReason> {
    let (rule, action) = w.snapshot.policy.verdict(facts);
    match action {
        Action::Accept => Ok(rule),
        Action::Drop if facts.state == CtState::Invalid => Err(DropReason::Invalid),
        Action::Drop => Err(DropReason::Policy),
        Action::Reject => {
            error::reject(w, p);
            Err(DropReason::PolicyReject)
        }
    }
}
