//! What a policy says of a connection that exists: whether it would begin under it, and translated alike.
//!
//! These are the questions of [`super::first`], asked about the connection's original flow in the same order
//! and with the same functions, but without a packet. What depends on the moment (limits, free ports, a
//! neighbour that is silent) is not asked.

use super::choose::{Offer, offer};
use super::exit::{check_source, pick};
use super::family::Member;
use super::reason::DropReason;
use super::rules::describe;
use crate::conntrack::{Connection, CtState, Direction, Key, Status};
use crate::nat::{self, Endpoint, Mappings};
use crate::policy::{Action, Filtering, Nobody, TrackingAction};
use crate::route::Target;
use crate::snapshot::Snapshot;

/// What a policy says of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It would begin as it did, or nothing can be said because there is no route at the moment.
    Stays,
    /// Its first packet would be dropped.
    Denied,
    /// It would be translated in another way.
    Translated,
    /// It would not be tracked.
    Untracked,
}

/// Judges a connection by the policy in `s`. Also tells how its source would be mapped where that is for all
/// remotes.
pub(super) fn judge<A: Member>(
    s: &Snapshot,
    mappings: &Mappings<A>,
    c: &Connection<A>,
) -> (Judgement, Option<Filtering>) {
    let verdict = |j| (j, None);
    let key = c.key(Direction::Original);
    if check_source(s, c.original().src, c.ingress) == Err(DropReason::ReversePath) {
        return verdict(Judgement::Denied);
    }
    let mut facts = describe(&s.policy, &key, c.ingress, CtState::New);
    if s.tracking(&facts).is_some_and(|(_, r)| r.action == TrackingAction::Untracked) {
        return verdict(Judgement::Untracked);
    }
    // Where it goes: its replies come from there.
    let Some(to) = c.key(Direction::Reply).inverse() else { return verdict(Judgement::Stays) };
    let flow =
        Key { tuple: crate::conntrack::Tuple { src: c.original().src, sport: c.original().sport, ..to.tuple }, ..to };
    // Those that another connection announced, or a mapping admitted, go where that led them.
    let mut both_ends = None;
    let admitted = c.status.intersects(Status(Status::EXPECTED.0 | Status::MAPPED_INBOUND.0));
    if admitted {
        facts.state = CtState::Related;
        facts.status.insert(Status::EXPECTED);
        // It may have inherited its master connection's.
        facts.mark = c.mark;
    } else {
        let same = match s.destination_nat(&facts) {
            Some((_, rule)) => {
                both_ends = rule.source.as_ref();
                nat::may_lead_to(rule, &key, s.fib.primary_address(c.ingress), flow.tuple.dst, flow.tuple.dport)
            }
            None => flow == key,
        };
        if !same {
            return verdict(Judgement::Translated);
        }
    }
    if flow != key {
        facts.status.insert(Status::DST_NAT);
        facts.destination = flow.tuple.dst;
        facts.destination_port = facts.destination_port.map(|_| flow.tuple.dport);
    }
    let Some(Target::Via(hops)) = s.fib.lookup(flow.tuple.dst) else { return verdict(Judgement::Stays) };
    let hop = pick(hops, c.original().src, c.original().dst);
    let Some(egress) = hop.interface else { return verdict(Judgement::Stays) };
    facts.to = s.policy.zone_of(egress);
    let (_, action) = s.verdict(&mut facts, &mut Nobody);
    if action != Action::Accept {
        return verdict(Judgement::Denied);
    }
    if c.status.contains(Status::EXPECTED) && !c.status.contains(Status::MAPPED_INBOUND) {
        // Its source follows its master connection, whatever the rules say.
        return verdict(Judgement::Stays);
    }
    let at = Endpoint { address: c.original().src, port: c.original().sport, proto: c.proto };
    let next = (egress, hop.gateway.unwrap_or(flow.tuple.dst));
    let bound = mappings.of(&at);
    let Ok(Offer { addresses, choice, .. }) = offer(s, c.original().src, both_ends, &facts, bound, c.ingress, next)
    else {
        return verdict(Judgement::Stays);
    };
    let outside = nat::endpoint(&c.key(Direction::Reply));
    if !nat::permits(&flow, &addresses, choice.ports, (outside.address, outside.port)) {
        return verdict(Judgement::Translated);
    }
    (Judgement::Stays, choice.independent)
}
