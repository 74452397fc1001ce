//! A connection's first packet: everything that is decided once.

use super::core::Core;
use super::exit::{NO_HOP, check_exit, check_source, route};
use super::family::{Family, Member, Packet};
use super::path::{Decision, Step, opposite, translate};
use super::reason::DropReason;
use super::rules::{admit, facts};
use super::shared::Handed;
use super::stateless::{invalid, stateless};
use super::track::{self, Tracked};
use crate::conntrack::{Connection, CtState, Direction, ExpectedTarget, Key, Status};
use crate::io::Port;
use crate::nat::{self, Range};
use crate::packet::Ip;
use crate::policy::{Facts, InterfaceId, SourceTranslation};

/// A packet that matches no connection and may begin one.
pub(super) fn first<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>, key: &Key<A>) -> Decision {
    let announced = w.shared.expectations.take(
        ExpectedTarget { proto: key.proto, destination: key.tuple.dst.ip(), port: key.tuple.dport },
        key.tuple.src.ip(),
        key.tuple.sport,
        w.now,
    );
    if p.handed != Handed::ToOwner
        && let Some(owner) = w.shared.directory.lookup(p.hash).filter(|o| *o != w.id)
    {
        return Ok(Step::HandOff(owner));
    }
    check_source(w, p)?;
    let mut facts = facts(w, p, Some(key), CtState::New);
    let policy = &w.snapshot.policy;
    if policy.tracking.iter().any(|r| r.matcher.matches(&facts)) {
        return stateless(w, t, p, CtState::Untracked);
    }
    let Some(private) = track::begin(w, p) else {
        return invalid(w, t, p, false);
    };

    // Destination translation: as announced, or by the first rule that matches.
    let mut flow = *key;
    if let Some(e) = announced {
        facts.state = CtState::Related;
        facts.status.insert(Status::EXPECTED);
        if let Some((a, port)) = e.translate
            && let Some(dst) = A::from_ip(a)
        {
            (flow.tuple.dst, flow.tuple.dport) = (dst, port);
        }
    } else if let Some(rule) = policy.destination_nat.iter().find(|r| r.matcher.matches(&facts)) {
        flow = nat::destination(rule, key).ok_or(DropReason::NatNoAddress)?;
    }
    if flow != *key {
        facts.status.insert(Status::DST_NAT);
        (facts.destination, facts.destination_port) = (flow.tuple.dst, Some(flow.tuple.dport));
    } else if w.snapshot.fib.is_local(key.tuple.dst) {
        return Ok(Step::Punt);
    }

    let (next, interface) = route(w, p, flow.tuple.dst)?;
    let hop = t.neighbours.hop(&w.snapshot.fib, interface, next).ok_or(DropReason::NeighbourQueueFull)?;
    check_exit(w, t, p, hop)?;
    facts.to = w.snapshot.fib.interfaces.get(usize::from(interface)).map(|i| i.zone);
    let rule = admit(w, p, &facts)?;

    // From here on the connection holds claims, which are released when it is not confirmed.
    if !w.reserve_connection() && !(t.early_drop(w) && w.reserve_connection()) {
        return Err(DropReason::TableFull);
    }
    let hash = p.hash;
    if let Err(owner) = w.shared.directory.claim(hash, w.id) {
        w.release_connection();
        if owner != w.id && p.handed != Handed::ToOwner {
            return Ok(Step::HandOff(owner));
        }
        return Err(DropReason::InsertFailed);
    }
    let reply = match choose_source(w, t, p, &flow, &facts, interface, next) {
        Ok(reply) => reply,
        Err(why) => {
            w.shared.directory.release(hash, w.id);
            w.release_connection();
            return Err(why);
        }
    };
    let reply_hash = reply.hash(&w.shared.keys);
    let mut c = Connection::new(*key, reply, private);
    c.status = facts.status;
    if reply.tuple.dst != flow.tuple.src || translated_port(&reply) != flow.tuple.sport {
        c.status.insert(Status::SRC_NAT);
    }
    c.rule = rule;
    c.route_generation = w.route_epoch;
    c.hop = [hop, NO_HOP];
    c.packets[0] = 1;
    c.bytes[0] = p.bytes();
    let (tracked, deadline) = track::follow(w, &mut c, Direction::Original, p);
    let confirmed = tracked == Tracked::Valid && {
        c.deadline = deadline.unwrap_or(w.now);
        let leaves = opposite(&c, Direction::Original);
        let entered = t.confirm(w, c, [hash, reply_hash]);
        if entered && c.status.intersects(Status::ANY_NAT) {
            translate(w, p, &leaves);
        }
        entered
    };
    if confirmed {
        return Ok(Step::Send(hop));
    }
    w.shared.directory.release(hash, w.id);
    w.shared.directory.release(reply_hash, w.id);
    w.release_connection();
    Err(if tracked == Tracked::Valid { DropReason::TableFull } else { DropReason::Invalid })
}

/// The port (or ICMP identifier) that replies are addressed to.
fn translated_port<A: Ip>(reply: &Key<A>) -> u16 {
    if reply.proto == A::ICMP { reply.tuple.sport } else { reply.tuple.dport }
}

/// Chooses the source translation and claims the reply tuple, whose key it returns.
fn choose_source<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &Family<A>,
    p: &Packet<A>,
    flow: &Key<A>,
    facts: &Facts<A>,
    egress: InterfaceId,
    next: A,
) -> Result<Key<A>, DropReason> {
    let snapshot = &w.snapshot;
    let rule = snapshot.policy.source_nat.iter().find(|r| r.matcher.matches(facts)).map(|r| &r.translate);
    // A forward that turns round on the interface it came from would be answered past the gateway.
    let hairpin = facts.status.contains(Status::DST_NAT) && egress == p.interface;
    let (addresses, ports, random): (Vec<(A, A)>, _, _) = match rule {
        Some(SourceTranslation::Masquerade { ports, random }) => (masquerade(w, egress, next)?, *ports, *random),
        Some(SourceTranslation::Pool { addresses, ports, random }) => {
            let family = |(a, b): &(_, _)| Some((A::from_ip(*a)?, A::from_ip(*b)?));
            (addresses.iter().filter_map(family).collect(), *ports, *random)
        }
        None if hairpin => (masquerade(w, egress, next)?, None, false),
        // Untranslated, but still with a reply tuple of its own (netfilter's null binding).
        Some(SourceTranslation::None) | None => (vec![(flow.tuple.src, flow.tuple.src)], None, false),
    };
    if addresses.is_empty() {
        return Err(DropReason::NatNoAddress);
    }
    let moved = t.moved.get((flow.tuple.src, flow.tuple.sport, flow.proto));
    let local = snapshot.fib.is_local(addresses[0].0);
    let reserved = snapshot.fib.host_ports.filter(|_| local);
    let range = Range { addresses: &addresses, ports, random, reserved, moved };
    let (shared, id) = (&w.shared, w.id);
    nat::source(flow, &range, &mut w.random, |reply| {
        let hash = reply.hash(&shared.keys);
        t.table.lookup(&t.slab, hash, reply).is_none() && shared.directory.claim(hash, id).is_ok()
    })
    .ok_or(DropReason::NatExhausted)
}

fn masquerade<P: Port, A: Ip>(w: &Core<P>, egress: InterfaceId, next: A) -> Result<Vec<(A, A)>, DropReason> {
    let a = w.snapshot.fib.source_address(egress, next).ok_or(DropReason::NatNoAddress)?;
    Ok(vec![(a, a)])
}
