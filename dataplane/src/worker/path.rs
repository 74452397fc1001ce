//! The packet path: every packet of both families and both directions takes these steps, in this order.
//!
//! ```text
//! fragment?   one that cannot be put in relation to its datagram goes no further
//! look up     the connection by tuple; none: expectation, another worker's, or NEW
//! track       protocol state; INVALID is a state the policy sees, and never leaves untranslated
//! route       next hop cached in the connection; TTL, MTU, ICMP errors
//! policy      first packet only; that the connection exists is the verdict for the others
//! translate   the first packet chooses; later packets apply it
//! confirm     a connection enters the table only with a packet that leaves
//! send
//! ```
//!
//! Deviation from the order a reader may expect: the route is found before the policy is asked, because
//! rules name the egress zone, and TTL and MTU are checked with it, as the kernel's `ip_forward` does.

use super::core::Core;
use super::emit;
use super::error;
use super::family::{Family, Member, Packet, Removal};
use super::reason::DropReason;
use super::shared::Handed;
use super::track::{self, Tracked};
use crate::conntrack::fragment::{Collected, Fragments, Piece};
use crate::conntrack::{Connection, CtState, Direction, ExpectedTarget, Key, Status, Tuple};
use crate::io::Port;
use crate::nat::{self, Range};
use crate::packet::icmp::{self, Problem};
use crate::packet::transport::{self, ChecksumState, Transport};
use crate::packet::{FragmentInfo, Headers, Ip, be16, checksum, protocol, put16};
use crate::policy::{Action, Facts, InterfaceId, SourceTranslation};
use crate::route::{NextHop, Target};

/// What becomes of a packet that is not dropped.
enum Step {
    /// It leaves to this next hop.
    Send(u16),
    /// It is for the gateway host: the kernel takes it as if it had just come in.
    Punt,
    /// It is for this worker, who owns its connection.
    HandOff(u16),
    /// It is a fragment; what is to be done has been done.
    Collected,
}

type Decision = Result<Step, DropReason>;

/// Takes one packet all the way.
#[inline]
pub(super) fn forward<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>) {
    match decide(w, t, p) {
        Ok(Step::Send(hop)) => emit::send(w, t, p, hop),
        Ok(Step::Punt) => w.punt(p.interface, p.frame),
        Ok(Step::HandOff(owner)) => w.hand_off(p.interface, p.frame, owner, Handed::ToOwner),
        Ok(Step::Collected) => {}
        Err(why) => w.discard(p.frame, why),
    }
}

/// Takes a datagram that came in pieces all the way; they share the decision about the first.
fn datagram<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>, pieces: &[Piece<A>]) {
    let decision = decide(w, t, p);
    let after = w.pool.bytes(p.frame);
    let (src, dst) = A::addresses_of(after, usize::from(p.headers.l3));
    for (i, piece) in pieces.iter().enumerate() {
        let part = Packet { frame: piece.frame, headers: piece.headers, longest: 0, ..*p };
        match decision {
            Ok(Step::Send(hop)) => {
                if i > 0 {
                    A::rewrite(w.pool.bytes_mut(piece.frame), usize::from(piece.headers.l3), src, dst);
                }
                emit::send(w, t, &part, hop);
            }
            Ok(Step::Punt) => w.punt(piece.interface, piece.frame),
            Ok(Step::HandOff(owner)) => w.hand_off(piece.interface, piece.frame, owner, Handed::ToOwner),
            Ok(Step::Collected) => {}
            Err(why) => w.discard(piece.frame, why),
        }
    }
}

#[inline]
fn decide<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>) -> Decision {
    if let Some(info) = p.headers.fragment {
        return fragment(w, t, p, info);
    }
    let key = match p.transport {
        Transport::Flow(key) => key,
        Transport::IcmpError => return related(w, t, p),
        Transport::Invalid => return invalid(w, t, p, false),
    };
    let Some((slot, d)) = t.find(w, &key, p) else {
        return first(w, t, p, &key);
    };
    match track::packet(w, t, p, slot, d) {
        Tracked::Valid => established(w, t, p, slot, d),
        Tracked::Invalid => invalid(w, t, p, true),
        Tracked::Reopens => {
            t.remove(w, slot, Removal::Deleted);
            first(w, t, p, &key)
        }
    }
}

/// A packet of a known connection: nothing is decided anew unless routes have changed.
#[inline]
fn established<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &mut Family<A>,
    p: &Packet<A>,
    slot: u32,
    d: Direction,
) -> Decision {
    let c = t.slab.get(slot);
    // Packets in direction `d` leave as the other direction's packets come in, turned round.
    let leaves = opposite(c, d);
    let mut hop = c.hop[d as usize];
    if c.route_generation != w.route_epoch || hop == NO_HOP {
        let (next, interface) = route(w, p, leaves.dst)?;
        hop = t.neighbours.hop(&w.snapshot.fib, interface, next).ok_or(DropReason::NeighbourQueueFull)?;
        let c = t.slab.get_mut(slot);
        if c.route_generation != w.route_epoch {
            c.route_generation = w.route_epoch;
            c.hop = [NO_HOP; 2];
        }
        c.hop[d as usize] = hop;
    }
    check_exit(w, t, p, hop)?;
    let c = t.slab.get_mut(slot);
    c.packets[d as usize] = c.packets[d as usize].wrapping_add(1);
    c.bytes[d as usize] += p.bytes();
    if c.status.intersects(Status::ANY_NAT) {
        translate(w, p, &leaves);
    }
    Ok(Step::Send(hop))
}

/// The tuple with which packets in direction `d` leave.
#[inline]
fn opposite<A: Ip>(c: &Connection<A>, d: Direction) -> Tuple<A> {
    let o = c.tuple(d.other());
    // An ICMP tuple keeps the identifier in its source port in both directions.
    let (sport, dport) = if c.proto == A::ICMP { (o.sport, o.dport) } else { (o.dport, o.sport) };
    Tuple { src: o.dst, dst: o.src, sport, dport }
}

#[inline]
fn translate<P: Port, A: Ip>(w: &mut Core<P>, p: &Packet<A>, to: &Tuple<A>) {
    let b = w.pool.bytes_mut(p.frame);
    let delta = A::rewrite(b, usize::from(p.headers.l3), to.src, to.dst);
    transport::rewrite(b, &p.headers, to.sport, to.dport, delta);
}

/// A packet that matches no connection and may begin one.
fn first<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>, key: &Key<A>) -> Decision {
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
    let local = snapshot.fib.is_local(addresses[0].0);
    let reserved = snapshot.fib.host_ports.filter(|_| local);
    let range = Range { addresses: &addresses, ports, random, reserved };
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

/// An ICMP error: it belongs to the connection of the packet it quotes.
fn related<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>) -> Decision {
    let frame = w.pool.bytes(p.frame);
    let quote = icmp::quoted(frame, &p.headers);
    let Some((quote, key)) = quote
        .and_then(|q| Some((q, transport::quoted_key(frame, &q)?.inverse()?)))
        .filter(|_| transport::verify(frame, &p.headers) == ChecksumState::Good)
    else {
        return invalid(w, t, p, false);
    };
    let Some((slot, d)) = t.lookup(w, &key) else {
        let hash = key.hash(&w.shared.keys);
        if p.handed != Handed::ToOwner
            && let Some(owner) = w.shared.directory.lookup(hash).filter(|o| *o != w.id)
        {
            return Ok(Step::HandOff(owner));
        }
        return invalid(w, t, p, false);
    };
    let c = t.slab.get(slot);
    let arrives = *c.tuple(d);
    // The error must go where the quoted packet came from; any router on the way may have sent it.
    if p.headers.dst != arrives.dst {
        return invalid(w, t, p, true);
    }
    let leaves = opposite(c, d);
    let status = c.status;
    let (src_bit, dst_bit) = match d {
        Direction::Original => (Status::SRC_NAT, Status::DST_NAT),
        Direction::Reply => (Status::DST_NAT, Status::SRC_NAT),
    };
    let src = if status.intersects(src_bit) { leaves.src } else { p.headers.src };
    let dst = if status.intersects(dst_bit) { leaves.dst } else { p.headers.dst };
    // The quoted packet went the other way; before translation it had that direction's tuple.
    let inside = *c.tuple(d.other());

    check_source(w, p)?;
    let (next, interface) = route(w, p, dst)?;
    let hop = t.neighbours.hop(&w.snapshot.fib, interface, next).ok_or(DropReason::NeighbourQueueFull)?;
    check_exit(w, t, p, hop)?;
    let mut facts = facts(w, p, None, CtState::Related);
    facts.destination = dst;
    facts.status = status;
    facts.to = w.snapshot.fib.interfaces.get(usize::from(interface)).map(|i| i.zone);
    admit(w, p, &facts)?;
    if status.intersects(Status::ANY_NAT) {
        let b = w.pool.bytes_mut(p.frame);
        let delta = A::rewrite(b, usize::from(quote.l3), inside.src, inside.dst);
        transport::rewrite(b, &quote, inside.sport, inside.dport, delta);
        A::rewrite(b, usize::from(p.headers.l3), src, dst);
        icmp::refresh_checksum::<A>(b, &Headers { src, dst, ..p.headers });
    }
    Ok(Step::Send(hop))
}

/// A fragment waits for the rest of its datagram, all of it at one worker.
fn fragment<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>, info: FragmentInfo) -> Decision {
    let workers = w.shared.workers.len() as u64;
    if workers > 1 && p.handed == Handed::No {
        let meet = w.shared.keys.hash_one(Fragments::key(&p.headers, &info)) % workers;
        if meet as u16 != w.id {
            w.hand_off(p.interface, p.frame, meet as u16, Handed::ToCollect);
            return Ok(Step::Collected);
        }
    }
    let piece = Piece { frame: p.frame, interface: p.interface, headers: p.headers, info };
    let room = w.pool.frames() / FRAGMENT_SHARE;
    match t.fragments.add(piece, w.now, room) {
        Collected::Waits => {}
        Collected::Duplicate(f) => w.discard(f, DropReason::Fragment),
        Collected::Refused(frames) => frames.into_iter().for_each(|f| w.discard(f, DropReason::FragmentInvalid)),
        Collected::Full(frames) => frames.into_iter().for_each(|f| w.discard(f, DropReason::FragmentLimit)),
        Collected::Complete(pieces) => complete(w, t, p, &pieces),
    }
    Ok(Step::Collected)
}

/// All pieces of a datagram are there: the first one's headers, the whole's checksum and length.
fn complete<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>, pieces: &[Piece<A>]) {
    let first = &pieces[0];
    let later: usize = pieces[1..].iter().map(|x| x.headers.transport_length()).sum();
    let mut whole = Packet {
        frame: first.frame,
        interface: first.interface,
        headers: Headers { fragment: None, ..first.headers },
        later: later as u32,
        longest: pieces.iter().map(|x| x.headers.length() as u16).max().unwrap_or(0),
        ..*p
    };
    let payload =
        |x: &Piece<A>| checksum::sum(&w.pool.bytes(x.frame)[usize::from(x.headers.l4)..usize::from(x.headers.end)]);
    let sum = pieces.iter().map(payload).sum();
    let b = w.pool.bytes(first.frame);
    // Asked as a fragment: lengths in its transport header are the whole's.
    whole.transport = transport::classify(b, &first.headers);
    match transport::verify_sum(b, &whole.headers, sum, first.headers.transport_length() + later) {
        ChecksumState::Partial(c) => {
            if let Some(at) = transport::checksum_offset::<A>(whole.headers.proto) {
                put16(w.pool.bytes_mut(first.frame), usize::from(first.headers.l4) + at, c);
                w.counters().checksums_completed.inc();
            }
        }
        // The CRC of SCTP could be mended only over all pieces.
        _ if whole.headers.proto == protocol::SCTP => whole.transport = Transport::Invalid,
        ChecksumState::Bad if w.snapshot.policy.checksum => whole.transport = Transport::Invalid,
        ChecksumState::Good | ChecksumState::Bad => {}
    }
    if let Transport::Flow(key) = &whole.transport {
        whole.hash = key.hash(&w.shared.keys);
        whole.found = t.table.lookup(&t.slab, whole.hash, key);
        whole.changes = t.table.changes();
    }
    datagram(w, t, &whole, pieces);
}

/// A packet that fits no connection and cannot begin one, or does not fit the state of its own (`known`).
fn invalid<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>, known: bool) -> Decision {
    // The host may know better: its own connections are not tracked here. Not so for a known connection,
    // whose peer's stray segment the host would answer with a reset.
    if !known && w.snapshot.fib.is_local(p.headers.dst) {
        return Ok(Step::Punt);
    }
    if known && w.snapshot.fib.is_local(p.headers.dst) {
        return Err(DropReason::Invalid);
    }
    check_source(w, p)?;
    stateless(w, t, p, CtState::Invalid)
}

/// A packet without a connection, INVALID or UNTRACKED: routed and asked of the rules by itself.
fn stateless<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>, state: CtState) -> Decision {
    if w.snapshot.fib.is_local(p.headers.dst) {
        return Ok(Step::Punt);
    }
    let key = match p.transport {
        Transport::Flow(k) => Some(k),
        _ => None,
    };
    let (next, interface) = route(w, p, p.headers.dst)?;
    let hop = t.neighbours.hop(&w.snapshot.fib, interface, next).ok_or(DropReason::NeighbourQueueFull)?;
    check_exit(w, t, p, hop)?;
    let mut facts = facts(w, p, key.as_ref(), state);
    facts.to = w.snapshot.fib.interfaces.get(usize::from(interface)).map(|i| i.zone);
    admit(w, p, &facts)?;
    if state == CtState::Invalid {
        let policy = &w.snapshot.policy;
        let rule = policy.source_nat.iter().find(|r| r.matcher.matches(&facts));
        if rule.is_some_and(|r| r.translate != SourceTranslation::None) {
            return Err(DropReason::InvalidUntranslated);
        }
    }
    Ok(Step::Send(hop))
}

fn facts<P: Port, A: Ip>(w: &Core<P>, p: &Packet<A>, key: Option<&Key<A>>, state: CtState) -> Facts<A> {
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
    }
}

/// Asks the rules. Returns the index of the rule that accepted the packet, `u16::MAX` for the default.
fn admit<P: Port, A: Ip>(w: &mut Core<P>, p: &Packet<A>, facts: &Facts<A>) -> Result<u16, DropReason> {
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

/// Refuses sources that cannot be: the gateway's own and broadcast addresses; with strict reverse path
/// filtering also those that are routed elsewhere (RFC 3704).
fn check_source<P: Port, A: Ip>(w: &Core<P>, p: &Packet<A>) -> Result<(), DropReason> {
    match w.snapshot.fib.lookup(p.headers.src) {
        Some(Target::Local | Target::Broadcast) => Err(DropReason::MartianSource),
        Some(Target::Via(hops)) if hops.iter().any(|h| h.interface == Some(p.interface)) => Ok(()),
        _ if w.snapshot.policy.strict_reverse_path => Err(DropReason::ReversePath),
        _ => Ok(()),
    }
}

/// The next hop's address and interface towards `dst`.
fn route<P: Port, A: Ip>(w: &mut Core<P>, p: &Packet<A>, dst: A) -> Result<(A, InterfaceId), DropReason> {
    let (why, problem) = match w.snapshot.fib.lookup(dst) {
        Some(Target::Via(hops)) => {
            let hop = pick(hops, p);
            let interface = hop.interface.ok_or(DropReason::EgressNotManaged)?;
            return Ok((hop.gateway.unwrap_or(dst), interface));
        }
        // A translation to the gateway host itself would need its replies to come back this way.
        Some(Target::Local) => return Err(DropReason::EgressNotManaged),
        Some(Target::Broadcast) => return Err(DropReason::MartianDestination),
        Some(Target::Blackhole) => return Err(DropReason::RouteRefused),
        Some(Target::Unreachable) => (DropReason::RouteRefused, Problem::HostUnreachable),
        Some(Target::Prohibit) => (DropReason::RouteRefused, Problem::Prohibited),
        None => (DropReason::NoRoute, Problem::NoRoute),
    };
    error::answer(w, p, problem);
    Err(why)
}

/// One of several next hops, the same for all packets between two addresses (RFC 2992).
fn pick<'a, A: Ip>(hops: &'a [NextHop<A>], p: &Packet<A>) -> &'a NextHop<A> {
    if hops.len() == 1 {
        return &hops[0];
    }
    let total: u64 = hops.iter().map(|h| u64::from(h.weight)).sum();
    let mut n = (p.headers.src.sum() ^ p.headers.dst.sum()).wrapping_mul(0x9e37_79b9) % total.max(1);
    for h in hops {
        if n < u64::from(h.weight) {
            return h;
        }
        n -= u64::from(h.weight);
    }
    &hops[0]
}

/// What can keep a packet from leaving by its next hop: interface, TTL, MTU, a neighbour that is silent.
#[inline]
fn check_exit<P: Port, A: Ip>(w: &mut Core<P>, t: &Family<A>, p: &Packet<A>, hop: u16) -> Result<(), DropReason> {
    let n = t.neighbours.get(hop);
    if !n.up {
        return Err(DropReason::InterfaceDown);
    }
    if p.headers.ttl <= 1 {
        error::answer(w, p, Problem::TimeExceeded);
        return Err(DropReason::TtlExceeded);
    }
    if p.headers.length().max(usize::from(p.longest)) > usize::from(n.mtu) {
        let b = w.pool.bytes(p.frame);
        let may_fragment = !A::V6 && be16(b, usize::from(p.headers.l3) + 6) & 0x4000 == 0;
        if !may_fragment {
            error::answer(w, p, Problem::TooBig(n.mtu));
            return Err(DropReason::TooBig);
        }
    }
    if n.mac.is_none() && n.is_silent(w.now) {
        error::answer(w, p, Problem::HostUnreachable);
        return Err(DropReason::NeighbourUnresolved);
    }
    Ok(())
}

/// Fragments may wait in one frame of this many.
const FRAGMENT_SHARE: u32 = 4;

/// No next hop is cached for this direction.
const NO_HOP: u16 = u16::MAX;
