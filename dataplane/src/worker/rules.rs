//! Asking the policy about a packet.

use super::core::Core;
use super::error;
use super::family::Packet;
use super::reason::DropReason;
use crate::conntrack::{CtState, Key, Status, Tuple};
use crate::io::Port;
use crate::packet::{Ip, protocol};
use crate::policy::{Action, Facts, InterfaceId, Policy};

/// What is known of a packet before it is routed.
pub(super) fn facts<P: Port, A: Ip>(w: &Core<P>, p: &Packet<A>, key: Option<&Key<A>>, state: CtState) -> Facts<A> {
    let policy = &w.snapshot.policy;
    match key {
        Some(key) => describe(policy, key, p.interface, state),
        None => {
            let tuple = Tuple { src: p.headers.src, dst: p.headers.dst, ..Tuple::default() };
            let facts = describe(policy, &Key { tuple, proto: p.headers.proto }, p.interface, state);
            Facts { source_port: None, destination_port: None, ..facts }
        }
    }
}

/// What is known of a flow before it is routed.
pub(super) fn describe<A: Ip>(policy: &Policy, key: &Key<A>, ingress: InterfaceId, state: CtState) -> Facts<A> {
    let ports = protocol::has_ports(key.proto);
    Facts {
        source: key.tuple.src,
        destination: key.tuple.dst,
        protocol: key.proto,
        source_port: ports.then_some(key.tuple.sport),
        destination_port: ports.then_some(key.tuple.dport),
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
