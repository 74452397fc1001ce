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
use super::rules::{admit_ahead, count, facts_of};
use super::shared::Handed;
use super::stateless::{invalid, stateless};
use super::track;
use super::ways::Way;
use crate::conntrack::{Changes, Connection, CtState, Direction, Key, Private, Status};
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
    if !w.is_dry() && !w.admission.admit() {
        return Err(DropReason::Overload);
    }
    let timed = p.hash.is_multiple_of(SETUP_SAMPLE).then(Instant::now);
    check_addresses(&p.headers)?;
    check_first_source(w, t, p)?;
    let mut facts = facts_of(w, p, &key);
    t.guesses.arrive(w, p);
    let tracking = w.snapshot.tracking(&facts).map(|(i, rule)| {
        w.note(|| Note::Tracking(i));
        count(w, p, List::Tracking, i);
        rule.action
    });
    if tracking == Some(TrackingAction::Untracked) {
        w.note(|| Note::State(CtState::Untracked));
        return stateless(w, t, p, CtState::Untracked);
    }
    let begins = track::begin(w, p);
    let Some(private) = &begins else {
        return invalid(w, t, p, false);
    };
    let destination = choose::destination(w, p, &key, &mut facts)?;
    let flow = &destination.flow;
    let way = t.way(w, flow.tuple.dst);
    let exit = if way == Way::Local {
        if *flow == key && host::is_plain(w, t, &key) {
            return Ok(Fate::Punt);
        }
        host::check(w, &key, flow)?;
        None
    } else {
        Some(exit(w, t, p, flow.tuple.dst, way, &mut facts)?)
    };

    // From here on there is something to give back when the connection is not confirmed.
    let reserved = match reserve(w, t, &key, p.hash) {
        Ok(status) => status,
        Err(why) => {
            tell(w, p, &facts, why);
            return Err(why);
        }
    };
    let source = match &exit {
        Some(e) => choose::source(w, t, p, &destination, &facts, e.interface, e.next),
        None => choose::source_at_host(w, t, flow),
    };
    let source = match &source {
        Ok(s) => s,
        Err(why) => {
            unreserve(w, t, &key, reserved, p.hash);
            tell(w, p, &facts, *why);
            return Err(*why);
        }
    };
    // A helper must read both directions.
    let helper = exit.as_ref().and_then(|_| helper(w, tracking, &destination));
    if let Some(kind) = helper {
        w.note(|| Note::Helper(kind));
    }
    let decided = Decided { key: &key, private, facts: &facts, reserved, destination: &destination, source, helper };
    if w.is_dry() {
        return pretend(w, t, p, &decided, exit.as_ref());
    }
    let Some(slot) = t.slab.place(decided.connection(w, p, exit.as_ref())) else {
        choose::release(w, source);
        unreserve(w, t, &key, reserved, p.hash);
        return Err(if t.slab.is_full() { DropReason::TableFull } else { DropReason::TableGrows });
    };
    let c = t.slab.placed(slot);
    if exit.is_none() {
        host::mark(w, c, p);
    }
    let (tracked, deadline) = track::follow(w, c, Direction::Original, p);
    if tracked.is_err() {
        t.slab.withdraw(slot);
        choose::release(w, source);
        unreserve(w, t, &key, reserved, p.hash);
        return Err(DropReason::Invalid);
    }
    t.confirm(w, slot, deadline, [p.hash, source.hash]);
    choose::hold(w, t, slot, &destination, source);
    let Some(exit) = exit else { return host::begin(w, t, p, slot) };
    let mut c = t.slab.open(slot);
    if let Some(kind) = helper {
        t.extensions.insert(slot, Extension::new(kind));
        w.counters().helpers[kind as usize].connections.inc();
        if let Err(why) = announce::read(w, &mut t.extensions, p, c.lend(), Direction::Original) {
            t.remove(w, slot, Removal::Deleted);
            return Err(why);
        }
    }
    apply(w, t.neighbours.get(exit.hop), p, &c, Direction::Original);
    if let Some(began) = timed {
        let ns = began.elapsed().as_nanos() as u64;
        w.counters().setup.record(ns);
        w.counters().setup_ns.add(ns);
    }
    Ok(Fate::Send(exit.hop))
}

/// What has been decided about a connection that does not exist yet.
struct Decided<'a, A> {
    key: &'a Key<A>,
    private: &'a Private,
    facts: &'a Facts<A>,
    /// The status bits of what is reserved for it.
    reserved: Status,
    destination: &'a Destination<A>,
    source: &'a Source<A>,
    helper: Option<HelperKind>,
}

impl<A: Member> Decided<'_, A> {
    /// The connection, which has yet to follow its first packet.
    #[inline(always)]
    fn connection<P: Port>(&self, w: &Core<P>, p: &Packet<A>, exit: Option<&Exit<A>>) -> Connection<A> {
        let flow = &self.destination.flow.tuple;
        let reply = self.source.reply.tuple;
        let mut status = self.facts.status;
        status.insert(self.reserved);
        status.insert(Status::CONFIRMED);
        let port = if self.key.proto == A::ICMP { reply.sport } else { reply.dport };
        for (bit, is_set) in [
            (Status::SRC_NAT, reply.dst != flow.src || port != flow.sport),
            (Status::MAPPED, self.source.mapping.is_some()),
            (Status::MAPPED_INBOUND, self.destination.mapped),
            (Status::HELPER, self.helper.is_some()),
        ] {
            status.insert(Status(bit.0 * u16::from(is_set)));
        }
        let policy = &w.snapshot.policy;
        let rule = exit.map_or(Policy::DEFAULT, |e| e.rule);
        Connection {
            tuples: [self.key.tuple, reply],
            proto: self.key.proto,
            timeouts: policy.rules.get(usize::from(rule)).map_or(policy.timeouts_of_all(), |r| r.timeouts),
            status,
            deadline: w.now,
            hop: [exit.map_or(NO_HOP, |e| e.hop), NO_HOP],
            route_generation: w.route_epoch,
            packets: [1, 0],
            bytes_low: [p.bytes(), 0],
            changes: Changes::between(&self.key.tuple, &reply),
            aside: track::aside(w.now, self.private),
            private: *self.private,
            mark: self.facts.mark,
            rule,
            ingress: p.interface,
        }
    }
}

/// What would become of the packet that begins a connection in a dry run: it is changed, but the connection does
/// not come to be.
#[cold]
fn pretend<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &Family<A>,
    p: &Packet<A>,
    decided: &Decided<'_, A>,
    exit: Option<&Exit<A>>,
) -> Decision {
    if t.slab.is_full() && !w.makes_room() {
        return Err(DropReason::TableFull);
    }
    let mut c = decided.connection(w, p, exit);
    if exit.is_none() {
        host::mark(w, &mut c, p);
    }
    let (tracked, _) = track::follow(w, &mut c, Direction::Original, p);
    if tracked.is_err() {
        return Err(DropReason::Invalid);
    }
    match exit {
        Some(exit) => {
            apply(w, t.neighbours.get(exit.hop), p, &c, Direction::Original);
            Ok(Fate::Send(exit.hop))
        }
        None => {
            translate(w, p, &opposite(&c, Direction::Original));
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
    if dst != p.headers.dst && dst.is_martian_destination() {
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
    let rule = admit_ahead(w, p, facts, interface, t.guesses.walk(w.snapshot.generation))?;
    t.guesses.egress = facts.to;
    Ok(Exit { hop, interface, next, rule })
}

/// Tells a sender that there is no room for its connection, where that would have been translated (RFC 6888
/// REQ-11, RFC 5508 REQ-8). Others learn nothing: the outside must not be answered what is asked under
/// forged addresses.
#[cold]
fn tell<P: Port, A: Ip>(w: &mut Core<P>, p: &Packet<A>, facts: &Facts<A>, why: DropReason) {
    use DropReason::{NatExhausted, SourceConnections, SourceRate, TableFull};
    let no_room = matches!(why, NatExhausted | TableFull | SourceConnections | SourceRate);
    if no_room && w.snapshot.source_nat(facts).is_some_and(|(_, r)| r.translate != SourceTranslation::None) {
        let problem = if p.headers.proto == A::ICMP { Problem::Prohibited } else { Problem::HostUnreachable };
        error::answer(w, p, problem);
    }
}

/// Room under the limits, and the claim to the original tuple: the status bits of what is held.
fn reserve<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &mut Family<A>,
    key: &Key<A>,
    hash: u64,
) -> Result<Status, DropReason> {
    let limits = w.snapshot.policy.limits;
    let limited = limits != Default::default();
    if w.is_dry() {
        if limited {
            let source = key.tuple.src;
            t.sources.would_admit(source, key.proto, &limits, w.now, &w.gone_of(t, source))?;
        }
        return would_fit(w, t, hash);
    }
    let mut status = Status::default();
    if limited {
        t.sources.admit(key.tuple.src, key.proto, &limits, w.now)?;
        status = Status::COUNTED;
    }
    let room =
        w.reserve_connection() || (!w.snapshot.policy.keep_unassured && t.early_drop(w) && w.reserve_connection());
    if room && w.shared.directory.claim(hash, w.id).is_ok() {
        return Ok(status);
    }
    if limited {
        t.sources.release(key.tuple.src, key.proto);
    }
    if room {
        w.release_connection();
        return Err(DropReason::InsertFailed);
    }
    Err(DropReason::TableFull)
}

/// What [`reserve`] would find after the limits.
#[cold]
fn would_fit<P: Port, A: Member>(w: &mut Core<P>, t: &Family<A>, hash: u64) -> Result<Status, DropReason> {
    if !w.has_room() && !w.makes_room() {
        let victim = (!w.snapshot.policy.keep_unassured).then(|| t.victim(w)).flatten();
        let slot = victim.ok_or(DropReason::TableFull)?;
        w.pretend_gone(slot, t.slab.get(slot));
    }
    if w.pretend_claim(hash) { Ok(Status::default()) } else { Err(DropReason::InsertFailed) }
}

fn unreserve<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, key: &Key<A>, reserved: Status, hash: u64) {
    if w.is_dry() {
        return;
    }
    if reserved.contains(Status::COUNTED) {
        t.sources.release(key.tuple.src, key.proto);
    }
    w.shared.directory.release(hash, w.id);
    w.release_connection();
}

/// The helper that is to read the connection.
#[inline]
fn helper<P: Port, A: Member>(
    w: &Core<P>,
    tracking: Option<TrackingAction>,
    destination: &Destination<A>,
) -> Option<HelperKind> {
    let flow = &destination.flow;
    if tracking.is_none() && w.snapshot.policy.helpers.is_empty() {
        return None;
    }
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
