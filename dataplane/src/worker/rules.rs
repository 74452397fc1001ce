//! Asking the policy about a packet.

use super::core::Core;
use super::error;
use super::family::Packet;
use super::reason::DropReason;
use crate::conntrack::{CtState, Key, Status};
use crate::io::Port;
use crate::packet::{Ip, protocol};
use crate::policy::{Action, Facts};

/// What is known of a packet before it is routed.
pub(super) fn facts<P: Port, A: Ip>(w: &Core<P>, p: &Packet<A>, key: Option<&Key<A>>, state: CtState) -> Facts<A> {
    let key = key.filter(|k| protocol::has_ports(k.proto));
    Facts {
        source: p.headers.src,
        destination: p.headers.dst,
        protocol: p.headers.proto,
        source_port: key.map(|k| k.tuple.sport),
        destination_port: key.map(|k| k.tuple.dport),
        from: w.snapshot.fib.interfaces.get(usize::from(p.interface)).map_or(0, |i| i.zone),
        to: None,
        state,
        status: Status::default(),
        mark: 0,
    }
}

/// Asks the rules. Returns the index of the rule that accepted the packet, `u16::MAX` for the default.
pub(super) fn admit<P: Port, A: Ip>(w: &mut Core<P>, p: &Packet<A>, facts: &Facts<A>) -> Result<u16, DropReason> {
    let policy = &w.snapshot.policy;
    let (rule, action) = match policy.rules.iter().position(|r| r.matcher.matches(facts)) {
        Some(i) => (i as u16, policy.rules[i].action),
        None => (u16::MAX, policy.default),
    };
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
