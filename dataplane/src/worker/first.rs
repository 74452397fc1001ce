//! A connection's first packet: everything that is decided once.

use std::time::Instant;

use super::account::Note;
use super::announce::{self, Extension};
use super::choose::{self, Destination, Source};
use super::core::Core;
use super::error;
use super::exit::{NO_HOP, check_addresses, check_exit, check_first_source, route};
use super::family::{Family, Member, Packet, Removal};
use super::host;
use super::path::{Decision, Fate, apply, opposite, translate};
use super::reason::DropReason;
use super::rules::{admit, count, facts};
use super::shared::Handed;
use super::stateless::{invalid, stateless};
use super::track;
use super::ways::Way;
use crate::conntrack::{Connection, CtState, Direction, Key, Status};
use crate::helper::HelperKind;
use crate::io::Port;
use crate::packet::Ip;
use crate::packet::icmp::Problem;
use crate::policy::{Facts, InterfaceId, List, Policy, SourceTranslation, TrackingAction};
use crate::route::NextHop;

/// One in so many connections has its set-up timed: to read the clock twice takes a fifth as long as the rest.
pub const SETUP_SAMPLE: u64 = 64;

/// A packet that matches no connection and may begin one.
#[inline(never)]
pub(super) fn first<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &mut Family<A>,
    p: &mut Packet<A>,
    key: Key<A>,
) -> Decision {
    if p.handed != Handed::ToOwner
        && let Some(owner) = w.shared.directory.lookup(p.hash).filter(|o| *o != w.id)
    {
        return Ok(Fate::HandOff(owner));
    }
    let timed = p.hash.is_multiple_of(SETUP_SAMPLE).then(Instant::now);
    check_addresses(&p.headers)?;
    check_first_source(w, t, p)?;
    let mut facts = facts(w, p, CtState::New);
    let tracking = w.snapshot.tracking(&facts).map(|(i, rule)| {
        w.note(|| Note::Tracking(i));
        count(w, p, List::Tracking, i);
        rule.action
    });
    if tracking == Some(TrackingAction::Untracked) {
        w.note(|| Note::State(CtState::Untracked));
        return stateless(w, t, p, CtState::Untracked);
    }
    let Some(private) = track::begin(w, p) else {
        return invalid(w, t, p, false);
    };
    let destination = choose::destination(w, p, &key, &mut facts)?;
    let flow = destination.flow;
    let way = t.way(w, flow.tuple.dst);
    let exit = if way == Way::Local {
        if flow == key && host::is_plain(w, t, &key) {
            return Ok(Fate::Punt);
        }
        host::check(w, &key, &flow)?;
        None
    } else {
        Some(exit(w, t, p, flow.tuple.dst, way, &mut facts)?)
    };

    // From here on the connection holds what must be given back when it is not confirmed.
    let mut c = Connection::new(key, key, private);
    c.status = facts.status;
    if let Err(why) = reserve(w, t, &mut c, p) {
        tell(w, p, &facts, why);
        return Err(why);
    }
    let source = match &exit {
        Some(e) => choose::source(w, t, p, &destination, &facts, e.interface, e.next),
        None => choose::source_at_host(w, t, &flow),
    };
    let source = match source {
        Ok(s) => s,
        Err(why) => {
            unreserve(w, t, &c, p.hash);
            tell(w, p, &facts, why);
            return Err(why);
        }
    };
    fill(w, &mut c, &destination, &source, exit.as_ref().map_or(Policy::DEFAULT, |e| e.rule), facts.mark, p);
    c.hop = [exit.as_ref().map_or(NO_HOP, |e| e.hop), NO_HOP];
    // A helper must read both directions.
    let helper = exit.as_ref().and_then(|_| helper(w, tracking, &destination));
    if let Some(kind) = helper {
        w.note(|| Note::Helper(kind));
        c.status.insert(Status::HELPER);
    }
    if exit.is_none() {
        host::mark(w, &mut c, p);
    }
    let (tracked, deadline) = track::follow(w, &mut c, Direction::Original, p);
    c.deadline = deadline;
    if w.is_dry() {
        return pretend(w, t, p, &c, tracked.is_ok(), exit.as_ref().map(|e| e.hop));
    }
    let slot = if tracked.is_ok() { t.confirm(w, c, [p.hash, source.hash]) } else { None };
    let Some(slot) = slot else {
        choose::release(w, &source);
        unreserve(w, t, &c, p.hash);
        return Err(if tracked.is_ok() { DropReason::TableFull } else { DropReason::Invalid });
    };
    choose::hold(w, t, slot, &destination, &source);
    if let Some(kind) = helper {
        t.extensions.insert(slot, Extension::new(kind));
        w.counters().helpers[kind as usize].connections.inc();
    }
    let Some(exit) = exit else { return host::begin(w, t, p, slot) };
    let mut c = t.slab.open(slot);
    if helper.is_some()
        && let Err(why) = announce::read(w, &mut t.extensions, p, c.lend(), Direction::Original)
    {
        t.remove(w, slot, Removal::Deleted);
        return Err(why);
    }
    apply(w, t.neighbours.get(exit.hop), p, &c, Direction::Original);
    if let Some(began) = timed {
        let ns = began.elapsed().as_nanos() as u64;
        w.counters().setup.record(ns);
        w.counters().setup_ns.add(ns);
    }
    Ok(Fate::Send(exit.hop))
}

/// What would become of the packet that begins `c` in a dry run: it is changed, but the connection does not
/// come to be.
fn pretend<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &Family<A>,
    p: &Packet<A>,
    c: &Connection<A>,
    valid: bool,
    hop: Option<u16>,
) -> Decision {
    if !valid {
        return Err(DropReason::Invalid);
    }
    if t.slab.is_full() && !w.makes_room() {
        return Err(DropReason::TableFull);
    }
    match hop {
        Some(hop) => {
            apply(w, t.neighbours.get(hop), p, c, Direction::Original);
            Ok(Fate::Send(hop))
        }
        None => {
            translate(w, p, &opposite(c, Direction::Original));
            Ok(Fate::Host)
        }
    }
}

/// The way out of a connection that goes on to somebody else.
struct Exit<A> {
    hop: u16,
    interface: InterfaceId,
    next: A,
    rule: u16,
}

/// Finds the way to `dst` and asks the rules whether the connection may take it.
fn exit<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &mut Family<A>,
    p: &Packet<A>,
    dst: A,
    way: Way<A>,
    facts: &mut Facts<A>,
) -> Result<Exit<A>, DropReason> {
    if dst.is_martian_destination() {
        return Err(DropReason::MartianDestination);
    }
    let (next, interface) = match way {
        Way::Via(NextHop { gateway, interface: Some(interface), .. }) => {
            let next = gateway.unwrap_or(dst);
            w.note(|| Note::Route { destination: dst.ip(), interface, next: next.ip() });
            (next, interface)
        }
        _ => route(w, p, dst)?,
    };
    let hop = t.neighbours.hop(&w.snapshot.fib, interface, next).ok_or(DropReason::NeighbourQueueFull)?;
    check_exit(w, t.neighbours.get(hop), p)?;
    let rule = admit(w, p, facts, interface)?;
    Ok(Exit { hop, interface, next, rule })
}

/// Tells a sender that there is no room for its connection, where that would have been translated (RFC 6888
/// REQ-11, RFC 5508 REQ-8). Others learn nothing: the outside must not be answered what is asked under
/// forged addresses.
fn tell<P: Port, A: Ip>(w: &mut Core<P>, p: &Packet<A>, facts: &Facts<A>, why: DropReason) {
    use DropReason::{NatExhausted, SourceConnections, SourceRate, TableFull};
    let no_room = matches!(why, NatExhausted | TableFull | SourceConnections | SourceRate);
    if no_room && w.snapshot.source_nat(facts).is_some_and(|(_, r)| r.translate != SourceTranslation::None) {
        let problem = if p.headers.proto == A::ICMP { Problem::Prohibited } else { Problem::HostUnreachable };
        error::answer(w, p, problem);
    }
}

/// Room under the limits, and the claim to the original tuple.
fn reserve<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &mut Family<A>,
    c: &mut Connection<A>,
    p: &Packet<A>,
) -> Result<(), DropReason> {
    let limits = w.snapshot.policy.limits;
    if w.is_dry() {
        if limits != Default::default() {
            t.sources.would_admit(c.original.src, c.proto, &limits, w.now, &w.gone_of(t, c.original.src))?;
        }
        return would_fit(w, t, p.hash);
    }
    if limits != Default::default() {
        t.sources.admit(c.original.src, c.proto, &limits, w.now)?;
        c.status.insert(Status::COUNTED);
    }
    let room =
        w.reserve_connection() || (!w.snapshot.policy.keep_unassured && t.early_drop(w) && w.reserve_connection());
    let claimed = room && w.shared.directory.claim(p.hash, w.id).is_ok();
    if claimed {
        return Ok(());
    }
    if c.status.contains(Status::COUNTED) {
        t.sources.release(c.original.src, c.proto);
    }
    if room {
        w.release_connection();
        return Err(DropReason::InsertFailed);
    }
    Err(DropReason::TableFull)
}

/// What [`reserve`] would find after the limits.
fn would_fit<P: Port, A: Member>(w: &mut Core<P>, t: &Family<A>, hash: u64) -> Result<(), DropReason> {
    if !w.has_room() && !w.makes_room() {
        let victim = (!w.snapshot.policy.keep_unassured).then(|| t.victim(w)).flatten();
        let slot = victim.ok_or(DropReason::TableFull)?;
        w.pretend_gone(slot, t.slab.get(slot));
    }
    if w.pretend_claim(hash) { Ok(()) } else { Err(DropReason::InsertFailed) }
}

fn unreserve<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, c: &Connection<A>, hash: u64) {
    if w.is_dry() {
        return;
    }
    if c.status.contains(Status::COUNTED) {
        t.sources.release(c.original.src, c.proto);
    }
    w.shared.directory.release(hash, w.id);
    w.release_connection();
}

/// What the first packet decided, written into the connection.
fn fill<P: Port, A: Member>(
    w: &Core<P>,
    c: &mut Connection<A>,
    destination: &Destination<A>,
    source: &Source<A>,
    rule: u16,
    mark: u32,
    p: &Packet<A>,
) {
    let flow = destination.flow.tuple;
    c.reply = source.reply.tuple;
    let port = if c.proto == A::ICMP { c.reply.sport } else { c.reply.dport };
    if c.reply.dst != flow.src || port != flow.sport {
        c.status.insert(Status::SRC_NAT);
    }
    if source.mapping.is_some() {
        c.status.insert(Status::MAPPED);
    }
    if destination.mapped {
        c.status.insert(Status::MAPPED_INBOUND);
    }
    c.rule = rule;
    c.mark = mark;
    let policy = &w.snapshot.policy;
    c.timeouts = policy.rules.get(usize::from(rule)).map_or(policy.timeouts_of_all(), |r| r.timeouts);
    c.ingress = p.interface;
    c.route_generation = w.route_epoch;
    c.packets[0] = 1;
    c.bytes[0] = u64::from(p.bytes);
}

/// The helper that is to read the connection.
fn helper<P: Port, A: Member>(
    w: &Core<P>,
    tracking: Option<TrackingAction>,
    destination: &Destination<A>,
) -> Option<HelperKind> {
    let flow = &destination.flow;
    match tracking {
        Some(TrackingAction::Helper(kind)) => Some(kind).filter(|k| k.properties().protocol == flow.proto),
        Some(TrackingAction::NoHelper | TrackingAction::Untracked) => None,
        None if destination.announced.is_some() => None,
        None => {
            let fits = |(kind, port): &&(HelperKind, u16)| {
                kind.properties().protocol == flow.proto && *port == flow.tuple.dport
            };
            w.snapshot.policy.helpers.iter().find(fits).map(|(kind, _)| *kind)
        }
    }
}
