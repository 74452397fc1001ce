//! Which translation a new connection gets.

use std::cell::Cell;
use std::ops::Deref;

use super::account::Note;
use super::core::Core;
use super::family::{Family, Member, Packet};
use super::reason::DropReason;
use super::rules::count;
use super::translations::Translator;
use super::ways::Way;
use crate::conntrack::{CtState, Expectation, ExpectedTarget, Key, Status};
use crate::io::Port;
use crate::nat::{self, Endpoint, Range, endpoint, prefix};
use crate::packet::{Ip, protocol};
use crate::policy::{Facts, Filtering, InterfaceId, List, PortChoice, SourceTranslation};
use crate::snapshot::Snapshot;

/// The first port that ordinary programs may have.
const UNPRIVILEGED: u16 = 1024;

/// Where a connection goes.
pub(super) struct Destination<A> {
    /// The original tuple with its destination translated.
    pub(super) flow: Key<A>,
    /// It was announced by another connection.
    pub(super) announced: Option<Box<Expectation>>,
    /// An endpoint-independent mapping admitted it.
    pub(super) mapped: bool,
    /// Index of the destination translation that was applied.
    rule: Option<usize>,
}

/// How a connection's source is translated.
pub(super) struct Source<A> {
    /// The key of its replies, claimed.
    pub(super) reply: Key<A>,
    /// Its hash.
    pub(super) hash: u64,
    /// The source's mapping that it is counted in.
    pub(super) mapping: Option<Bound<A>>,
    /// The rule that translates it.
    by: Option<Translator>,
}

/// A source and what it is bound to.
#[derive(Clone, Copy)]
pub(super) struct Bound<A> {
    source: Endpoint<A>,
    outside: Endpoint<A>,
    /// If for all remotes: the filtering, and the seconds that it is kept after its last connection.
    independent: Option<(Filtering, u32)>,
}

/// Finds where the connection goes: as announced, by the first rule that matches, or as a mapping says. A
/// source that happens to be mapped to a published port does not take it over. State, status and destination
/// in `facts` follow.
pub(super) fn destination<P: Port, A: Member>(
    w: &Core<P>,
    p: &Packet<A>,
    key: &Key<A>,
    facts: &mut Facts<A>,
) -> Result<Destination<A>, DropReason> {
    let mut to = Destination { flow: *key, announced: None, mapped: false, rule: None };
    let t = &key.tuple;
    let outside = Endpoint { address: t.dst, port: t.dport, proto: key.proto };
    let target = || ExpectedTarget { proto: key.proto, destination: t.dst.ip(), port: t.dport };
    let expectations = &w.shared.expectations;
    let announced = match w.is_dry() {
        _ if expectations.is_empty() => None,
        true => expectations.peek(target(), t.src.ip(), w.now),
        false => expectations.take(target(), t.src.ip(), w.now),
    };
    if let Some(e) = announced {
        w.note(|| Note::Announced(e.helper));
        let (address, port) = e.listener;
        to.flow.tuple.dst = A::from_ip(address).ok_or(DropReason::NatNoAddress)?;
        to.flow.tuple.dport = port;
        facts.mark = e.mark;
        to.announced = Some(Box::new(e));
    } else if let Some((i, rule)) = w.snapshot.destination_nat(facts) {
        let own = w.snapshot.fib.primary_address(p.interface);
        to.flow = nat::destination(rule, key, own).ok_or(DropReason::NatNoAddress)?;
        to.rule = Some(i);
        count(w, p, List::DestinationNat, i);
    } else if protocol::has_ports(key.proto) && !A::mappings(&w.shared).is_empty() {
        let mappings = A::mappings(&w.shared);
        let from = Endpoint { address: t.src, port: t.sport, proto: key.proto };
        if let Some(source) = mappings.inbound(&outside, &from) {
            w.note(|| Note::Mapped);
            (to.flow.tuple.dst, to.flow.tuple.dport) = (source.address, source.port);
            to.mapped = true;
        } else if !w.is_dry() {
            mappings.call(&outside, &from);
        }
    }
    if to.announced.is_some() || to.mapped {
        // Announced by the connection that made the mapping, as much as by a helper's.
        facts.state = CtState::Related;
        facts.status.insert(Status::EXPECTED);
    }
    w.note(|| Note::State(facts.state));
    if to.flow != *key {
        w.note(|| Note::Destination { rule: to.rule, to: (to.flow.tuple.dst.ip(), to.flow.tuple.dport) });
        facts.status.insert(Status::DST_NAT);
        facts.destination = to.flow.tuple.dst;
        facts.destination_port = facts.destination_port.map(|_| to.flow.tuple.dport);
    }
    Ok(to)
}

/// Chooses the source and claims the reply tuple.
pub(super) fn source<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &mut Family<A>,
    p: &Packet<A>,
    to: &Destination<A>,
    facts: &Facts<A>,
    egress: InterfaceId,
    next: A,
) -> Result<Source<A>, DropReason> {
    let flow = &to.flow;
    let both_ends = to.rule.and_then(|i| w.snapshot.policy.destination_nat.get(i)?.source.as_ref());
    let at = Endpoint { address: flow.tuple.src, port: flow.tuple.sport, proto: flow.proto };
    let bound = bound(w, t, &at);
    let Offer { addresses, choice, rule } = match &to.announced {
        // The listener knows the other end by the address that the master connection gave it.
        Some(e) => {
            let a = e.source_to.and_then(A::from_ip).unwrap_or(flow.tuple.src);
            Offer { addresses: Addresses::one(a), choice: PortChoice::default(), rule: None }
        }
        None => offer(&w.snapshot, flow.tuple.src, both_ends, facts, bound, p.interface, (egress, next))?,
    };
    if let Some(i) = rule {
        count(w, p, List::SourceNat, i);
    }
    let by = match rule {
        Some(i) => Some(Translator { list: List::SourceNat, rule: i as u16 }),
        None => both_ends.and(to.rule).map(|i| Translator { list: List::DestinationNat, rule: i as u16 }),
    };
    let first = addresses.first().ok_or(DropReason::NatNoAddress)?.0;
    let reserved = w.snapshot.fib.host_ports.filter(|_| t.way(w, first) == Way::Local);
    let independent = choice.independent.filter(|_| protocol::has_ports(flow.proto) || flow.proto == A::ICMP);
    let guess = t.guesses.next(p.hash, &w.keys, &t.table);
    let claims = Claims { w, t, guess, hash: Cell::new(0) };
    let mut range = Range {
        addresses: &addresses,
        ports: choice.ports,
        random: choice.random,
        persistent: choice.persistent,
        reserved,
        moved: bound.map(|(o, _)| (o.address, o.port)),
    };
    let reply = match (independent, bound) {
        (None, _) => nat::source(
            flow,
            &range,
            &w.random,
            #[inline(always)]
            |r| claims.reply(r),
        ),
        // The source has its endpoint: that one or none, unless the policy gives it others by now.
        (Some(_), Some((outside, Some(_))))
            if nat::permits(flow, &addresses, choice.ports, (outside.address, outside.port)) =>
        {
            let only = [(outside.address, outside.address)];
            range = Range { addresses: &only, ports: Some((outside.port, outside.port)), random: false, ..range };
            nat::source_among(flow, &range, &w.random, &mut |r| claims.reply(r)).filter(|r| endpoint(r) == outside)
        }
        (Some(_), _) => nat::source_among(flow, &range, &w.random, &mut |r| claims.endpoint(r, &at)),
    };
    let hash = claims.hash.get();
    let Some(reply) = reply else {
        if let Some(t) = by.and_then(|by| w.tally(by)).filter(|_| !w.is_dry()) {
            t.exhausted.inc();
        }
        return Err(DropReason::NatExhausted);
    };
    let outside = endpoint(&reply);
    t.guesses.translated = (outside.address != flow.tuple.src).then_some(outside.address);
    w.note(|| Note::Source { rule: by.map(|by| (by.list, by.rule)), to: (outside.address.ip(), outside.port) });
    let moved = outside.port != flow.tuple.sport && to.announced.is_none();
    // TCP is tracked to its end: RFC 6888 REQ-8a.
    let hold = if flow.proto == protocol::TCP { 0 } else { choice.hold };
    let independent = independent.map(|filtering| (filtering, hold));
    let mapping = (independent.is_some() || moved).then_some(Bound { source: at, outside, independent });
    Ok(Source { reply, hash, mapping, by })
}

/// The addresses and ports that a source can have.
pub(super) struct Offer<A> {
    pub(super) addresses: Addresses<A>,
    pub(super) choice: PortChoice,
    /// Index of the source translation that says so.
    rule: Option<usize>,
}

/// Inclusive ranges of addresses: mostly just one address, which takes no memory of its own.
pub(super) struct Addresses<A> {
    one: [(A, A); 1],
    /// These instead.
    several: Option<Vec<(A, A)>>,
}

impl<A: Copy> Addresses<A> {
    fn one(a: A) -> Self {
        Addresses { one: [(a, a)], several: None }
    }
}

impl<A> Deref for Addresses<A> {
    type Target = [(A, A)];

    fn deref(&self) -> &[(A, A)] {
        self.several.as_deref().unwrap_or(&self.one)
    }
}

/// The addresses and ports that the policy offers a source; `both_ends` is what the rule that translated the
/// destination says of it.
// Inlined, as what it returns would go through memory in small pieces.
#[inline(always)]
pub(super) fn offer<A: Ip>(
    s: &Snapshot,
    source: A,
    both_ends: Option<&SourceTranslation>,
    facts: &Facts<A>,
    bound: Option<(Endpoint<A>, Option<Filtering>)>,
    ingress: InterfaceId,
    (egress, next): (InterfaceId, A),
) -> Result<Offer<A>, DropReason> {
    // A forward that turns round on the interface it came from would be answered past the gateway.
    let hairpin = facts.status.contains(Status::DST_NAT) && egress == ingress;
    let keep = PortChoice::default();
    let masquerade = || {
        let a = s.fib.source_address(egress, next).ok_or(DropReason::NatNoAddress)?;
        Ok::<_, DropReason>(Addresses::one(a))
    };
    let by_rule = if both_ends.is_none() { s.source_nat(facts) } else { None };
    let (addresses, mut choice) = match both_ends.or(by_rule.map(|(_, r)| &r.translate)) {
        Some(SourceTranslation::Masquerade(choice)) => (masquerade()?, *choice),
        Some(SourceTranslation::Pool { addresses, choice }) => {
            let family = |(a, b): &(_, _)| Some((A::from_ip(*a)?, A::from_ip(*b)?));
            let several = addresses.iter().filter_map(family).collect();
            (Addresses { several: Some(several), ..Addresses::one(source) }, *choice)
        }
        Some(SourceTranslation::Prefix(map)) => {
            let a = prefix::outward(map, source).ok_or(DropReason::NatNoAddress)?;
            (Addresses::one(a), keep)
        }
        // RFC 4787 REQ-9a: the other end sees the outside endpoint, where the source has one.
        None if hairpin && let Some((o, Some(filtering))) = bound => {
            (Addresses::one(o.address), PortChoice { independent: Some(filtering), ..keep })
        }
        None if hairpin => (masquerade()?, keep),
        // Untranslated, but still with a reply tuple of its own (netfilter's null binding).
        Some(SourceTranslation::None) | None => (Addresses::one(source), keep),
    };
    // Whoever is let in by a mapping would not reach the host's own services on that port.
    if choice.independent.is_some()
        && choice.ports.is_none()
        && facts.source_port.is_some_and(|p| p < UNPRIVILEGED)
        && addresses.first().is_some_and(|(a, _)| s.fib.is_local(*a))
    {
        choice.ports = Some((UNPRIVILEGED, u16::MAX));
    }
    Ok(Offer { addresses, choice, rule: by_rule.map(|(i, _)| i) })
}

/// Keeps the source of a connection that ends at the gateway host, but for its port where the host could not
/// tell two connections apart otherwise; claims the reply tuple.
pub(super) fn source_at_host<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &Family<A>,
    flow: &Key<A>,
) -> Result<Source<A>, DropReason> {
    let own = flow.tuple.src;
    // The checksum of SCTP answers cannot be mended on their way out.
    let ports = (flow.proto == protocol::SCTP).then_some((flow.tuple.sport, flow.tuple.sport));
    let range =
        Range { addresses: &[(own, own)], ports, random: false, persistent: false, reserved: None, moved: None };
    let claims = Claims { w, t, guess: None, hash: Cell::new(0) };
    let reply = nat::source_among(flow, &range, &w.random, &mut |r| claims.reply(r));
    let hash = claims.hash.get();
    Ok(Source { reply: reply.ok_or(DropReason::NatExhausted)?, hash, mapping: None, by: None })
}

/// What a source is bound to. A connection that this packet begins anew does not bind it any more.
fn bound<P: Port, A: Member>(w: &Core<P>, t: &Family<A>, at: &Endpoint<A>) -> Option<(Endpoint<A>, Option<Filtering>)> {
    A::mappings(&w.shared).of(at).filter(|_| !(w.is_dry() && w.ends_mapping(t, at).is_some()))
}

/// Takes what a new connection needs for itself; in a dry run it only looks whether it could.
struct Claims<'a, P, A: Member> {
    w: &'a Core<P>,
    t: &'a Family<A>,
    /// What the reply key was held to be, with its hash.
    guess: Option<(Key<A>, u64)>,
    /// That of the reply key asked for last.
    hash: Cell<u64>,
}

impl<P: Port, A: Member> Claims<'_, P, A> {
    /// A reply key that nobody else has.
    #[inline(always)]
    fn reply(&self, reply: &Key<A>) -> bool {
        let w = self.w;
        let hash = match self.guess {
            Some((key, hash))
                if key.proto == reply.proto
                    && key.tuple.has((reply.tuple.src, reply.tuple.dst), reply.tuple.ports()) =>
            {
                hash
            }
            _ => reply.hash(&w.keys),
        };
        self.hash.set(hash);
        !self.t.has(w, hash, reply)
            && if w.is_dry() { w.is_unowned(hash) } else { w.shared.directory.claim(hash, w.id).is_ok() }
    }

    /// A reply key, and its endpoint for the source `at` alone.
    fn endpoint(&self, reply: &Key<A>, at: &Endpoint<A>) -> bool {
        let (mappings, outside) = (A::mappings(&self.w.shared), endpoint(reply));
        if self.w.is_dry() {
            let free = |owner| owner == *at || self.w.ends_mapping(self.t, &owner) == Some(0);
            return mappings.owner(&outside, self.w.now).is_none_or(free) && self.reply(reply);
        }
        if !mappings.claim(&outside, at, self.w.now) {
            return false;
        }
        let ok = self.reply(reply);
        if !ok {
            mappings.unclaim(&outside, at);
        }
        ok
    }
}

/// Counts a confirmed connection in the mappings it belongs to, and for the rule that translates its source.
#[inline]
pub(super) fn hold<P: Port, A: Member>(
    w: &Core<P>,
    t: &mut Family<A>,
    slot: u32,
    to: &Destination<A>,
    from: &Source<A>,
) {
    t.translations.set(slot, from.by);
    if let Some(tally) = from.by.and_then(|by| w.tally(by)) {
        tally.begun.inc();
    }
    if from.mapping.is_some() || to.mapped {
        map(w, to, from);
    }
}

#[inline(never)]
fn map<P: Port, A: Member>(w: &Core<P>, to: &Destination<A>, from: &Source<A>) {
    let mappings = A::mappings(&w.shared);
    if let Some(b) = &from.mapping {
        mappings.add(&b.source, &b.outside, b.independent, Some(to.flow.tuple.dst));
    }
    if to.mapped {
        let t = &to.flow.tuple;
        let source = Endpoint { address: t.dst, port: t.dport, proto: to.flow.proto };
        // It exists: it admitted the connection. Should its last connection have gone since, this makes
        // an entry that binds nothing.
        mappings.add(&source, &source, None, None);
    }
}

/// Gives up the claims of a connection that is not confirmed.
pub(super) fn release<P: Port, A: Member>(w: &Core<P>, from: &Source<A>) {
    w.shared.directory.release(from.hash, w.id);
    if let Some(b) = from.mapping.filter(|b| b.independent.is_some()) {
        A::mappings(&w.shared).unclaim(&b.outside, &b.source);
    }
}
