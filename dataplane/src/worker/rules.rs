//! Asking the policy about a packet.

use super::account::Note;
use super::core::Core;
use super::error;
use super::family::Packet;
use super::logged;
use super::reason::DropReason;
use crate::conntrack::tcp::flags;
use crate::conntrack::{CtState, Key, Status, Tuple};
use crate::io::Port;
use crate::packet::{Ip, be16, protocol};
use crate::policy::{Action, Facts, InterfaceId, Limit, List, Policy, Rule, Walk, Witness};

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

/// What is known of a flow's packet before it is routed: it may begin a connection.
#[inline]
pub(super) fn facts_of<P: Port, A: Ip>(w: &Core<P>, p: &Packet<A>, key: &Key<A>) -> Facts<A> {
    let mut facts = describe(&w.snapshot.policy, key, p.interface, CtState::New);
    if key.proto == protocol::TCP {
        facts.tcp_flags = Some(w.pool.bytes(p.frame)[usize::from(p.headers.l4) + 13]);
    }
    facts
}

/// What is known of a flow before it is routed. A TCP connection is taken to begin with a SYN.
#[inline]
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

/// Asks the rules about a packet that is to leave by `egress`. Returns the index of the rule that accepted
/// it, [`Policy::DEFAULT`] for the default. The mark in `facts` is then the one its connection gets.
pub(super) fn admit<P: Port, A: Ip>(
    w: &mut Core<P>,
    p: &Packet<A>,
    facts: &mut Facts<A>,
    egress: InterfaceId,
) -> Result<u16, DropReason> {
    admit_ahead(w, p, facts, egress, None)
}

/// [`admit`] for a packet whose way through the rules may have been walked ahead.
#[inline(always)]
pub(super) fn admit_ahead<P: Port, A: Ip>(
    w: &mut Core<P>,
    p: &Packet<A>,
    facts: &mut Facts<A>,
    egress: InterfaceId,
    ahead: Option<&Walk<A>>,
) -> Result<u16, DropReason> {
    let policy = &w.snapshot.policy;
    facts.to = policy.zone_of(egress);
    let (rule, action) = w.snapshot.verdict_ahead(facts, ahead, &mut OnPath { w, p, egress });
    if rule == Policy::DEFAULT {
        w.note(|| Note::Rule(rule));
        count(w, p, List::Forward, policy.rules.len());
    }
    match (rule, action) {
        (rule, Action::Accept) => Ok(rule),
        (_, Action::Drop | Action::Continue) if facts.state == CtState::Invalid => Err(DropReason::Invalid),
        (_, Action::Drop | Action::Continue) => Err(DropReason::Policy),
        (_, Action::Reject(how)) => {
            error::reject(w, p, how);
            Err(DropReason::PolicyReject)
        }
    }
}

/// Counts a packet for the rule that has decided about it.
#[inline]
pub(super) fn count<P: Port, A: Ip>(w: &Core<P>, p: &Packet<A>, list: List, rule: usize) {
    if w.is_dry() {
        return;
    }
    w.snapshot.tallies.count(w.id, list, rule, u64::from(p.bytes()));
}

/// A real packet: limits count it, rules may log it.
struct OnPath<'a, P, A> {
    w: &'a Core<P>,
    p: &'a Packet<A>,
    egress: InterfaceId,
}

impl<P: Port, A: Ip> Witness<A> for OnPath<'_, P, A> {
    fn is_within(&mut self, i: u16, limit: &Limit, facts: &Facts<A>) -> bool {
        let (limiter, now) = (&self.w.shared.limiter, self.w.shared.nanoseconds());
        let who = limit.per_source.then_some(facts.source);
        let within = match self.w.is_dry() {
            true => limiter.would_admit(&limit.rate, who, now),
            false => limiter.admit(&limit.rate, who, now),
        };
        self.w.note(|| Note::Limit { rule: i, within });
        within
    }

    #[inline(always)]
    fn matched(&mut self, i: u16, rule: &Rule, facts: &Facts<A>) {
        self.w.note(|| Note::Rule(i));
        count(self.w, self.p, List::Forward, usize::from(i));
        if let Some(log) = &rule.log
            && !self.w.is_dry()
        {
            logged::log(self.w, self.p, facts, self.egress, i, log);
        }
    }
}
