//! Packets without a connection, INVALID or UNTRACKED: each is routed and asked of the rules by itself.

use super::account::Note;
use super::core::Core;
use super::exit::{check_exit, check_source, route};
use super::family::{Family, Member, Packet};
use super::path::{Decision, Fate};
use super::reason::DropReason;
use super::rules::{admit, facts};
use crate::conntrack::CtState;
use crate::io::Port;
use crate::policy::SourceTranslation;

/// A packet that fits no connection and cannot begin one, or does not fit the state of its own (`known`).
#[cold]
pub(super) fn invalid<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>, known: bool) -> Decision {
    w.note(|| Note::State(CtState::Invalid));
    // The host may know better: its own connections are not tracked here. Not so for a known connection,
    // whose peer's stray segment the host would answer with a reset.
    if !known && w.snapshot.fib.is_local(p.headers.dst) {
        return Ok(Fate::Punt);
    }
    if known && w.snapshot.fib.is_local(p.headers.dst) {
        return Err(DropReason::Invalid);
    }
    check_source(&w.snapshot, p.headers.src, p.interface)?;
    stateless(w, t, p, CtState::Invalid)
}

/// A packet without a connection, INVALID or UNTRACKED: routed and asked of the rules by itself.
#[cold]
pub(super) fn stateless<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &mut Family<A>,
    p: &Packet<A>,
    state: CtState,
) -> Decision {
    if w.snapshot.fib.is_local(p.headers.dst) {
        return Ok(Fate::Punt);
    }
    let (next, interface) = route(w, p, p.headers.dst)?;
    let hop = t.neighbours.hop(&w.snapshot.fib, interface, next).ok_or(DropReason::NeighbourQueueFull)?;
    check_exit(w, t.neighbours.get(hop), p)?;
    let mut facts = facts(w, p, state);
    admit(w, p, &mut facts, interface)?;
    if state == CtState::Invalid
        && w.snapshot.source_nat(&facts).is_some_and(|(_, r)| r.translate != SourceTranslation::None)
    {
        return Err(DropReason::InvalidUntranslated);
    }
    A::decrement_ttl(w.pool.bytes_mut(p.frame), usize::from(p.headers.l3));
    Ok(Fate::Send(hop))
}
