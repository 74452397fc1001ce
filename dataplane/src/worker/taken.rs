//! Frames that other workers have handed over: from the queue all the way.
//!
//! What the giver has found out is not found out again: it has verified the headers, and the directory has told it where
//! the connection most likely is. So there is one stage, with the places and the connections of later packets loaded
//! while those before them are taken all the way.

use super::burst;
use super::core::Core;
use super::express;
use super::family::{Families, Family, Member, Packet};
use super::path;
use super::place::{BODY, Kind, LONGEST, Place, SENDER, SHORT, is_stateful};
use super::reason::DropReason;
use super::ring::Taker;
use super::trace;
use crate::conntrack::Entry;
use crate::conntrack::region::prefetch;
use crate::io::{BURST, Frame, Port};
use crate::packet::transport::Ports;
use crate::packet::{ETHERNET, Headers, Ip, V4, V6, protocol, view_mut};

/// So many packets are taken all the way, then as many later ones have loaded what they will need.
const STEP: usize = 8;
/// A place is loaded while so many before it are read: another core has written it.
const PLACES: usize = 3 * STEP;
/// A connection, or a lent frame, is loaded while so many packets before it are taken all the way.
const LOADED: usize = 2 * STEP;
/// Bursts of one other worker's frames that are taken over in a turn. They have cost work already, so they go before
/// what waits at the ports, a burst of each: the queues stay short, and what is too much is lost at the ports.
const BURSTS: usize = 4;

/// Takes frames that other workers have handed over all the way. Returns how many they were.
pub(super) fn take_over<P: Port>(w: &mut Core<P>, families: &mut Families) -> usize {
    let mut all = 0;
    // Meanwhile nobody asks there.
    let mut queues = std::mem::take(&mut w.ends.from);
    for from in &mut queues {
        for _ in 0..BURSTS {
            if !from.look() {
                break;
            }
            all += burst_of(w, families, from);
        }
    }
    w.ends.from = queues;
    all
}

#[inline(never)]
fn burst_of<P: Port>(w: &mut Core<P>, families: &mut Families, from: &mut Taker<Place>) -> usize {
    families.v4.begin_burst();
    families.v6.begin_burst();
    // Of interfaces that packets can go the short way from.
    let interfaces = if w.is_unheard() { w.snapshot.fib.interfaces.len() } else { 0 };
    let (mut frames, mut lost) = (0, 0);
    let places = from.values(BURST as u32);
    let part = |from: usize, to: usize| &places[from.min(places.len())..to.min(places.len())];
    from.load(PLACES as u32);
    load(families, part(0, LOADED));
    for at in (0..places.len()).step_by(STEP) {
        from.load((at + STEP + PLACES) as u32);
        load(families, part(at + LOADED, at + STEP + LOADED));
        let step = part(at, at + STEP);
        let mut i = 0;
        while i < step.len() {
            let n = short::<P, V4>(w, &mut families.v4, &step[i..], interfaces);
            let n = n + short::<P, V6>(w, &mut families.v6, &step[i + n..], interfaces);
            i += n;
            frames += n as u64;
            if let Some(place) = step.get(i).filter(|_| n == 0) {
                i += 1;
                // The second part of a packet has been taken with the first.
                if place.len > 0 {
                    frames += 1;
                    lost += u64::from(!other(w, families, from, (at + i) as u32, place, interfaces));
                }
            }
        }
    }
    let n = places.len() as u32;
    from.done(n);
    if lost > 0 {
        w.counters().drops[DropReason::NoFrame as usize].add(lost);
    }
    w.counters().taken_over.add(frames - lost);
    frames as usize
}

/// Loads what packets will need.
#[inline(always)]
fn load(families: &Families, places: &[Place]) {
    for place in places {
        match place.kind() {
            Kind::V4 => load_copied(&families.v4, place),
            Kind::V6 => load_copied(&families.v6, place),
            _ => load_lent(families, place),
        }
    }
}

#[inline(always)]
fn load_copied<A: Member>(t: &Family<A>, place: &Place) {
    // Where it is not known, this loads nothing.
    t.slab.prefetch(place.entry.slot(), is_stateful(A::accepted(place.packet(), 0).proto));
}

#[inline(never)]
fn load_lent(families: &Families, place: &Place) {
    let (slot, stateful) = (place.entry.slot(), is_stateful(place.lent_proto()));
    match place.kind() {
        // The second part of a packet.
        _ if place.len == 0 => return,
        Kind::LENT_V4 => families.v4.slab.prefetch(slot, stateful),
        Kind::LENT_V6 => families.v6.slab.prefetch(slot, stateful),
        _ => {}
    }
    prefetch(place.address());
}

/// Takes packets of a family all the way that lie in one place each, until one does not or there is no frame for it.
/// Returns how many they were.
// Nothing else is in this loop: it needs all registers for itself.
#[inline(always)]
fn short<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, places: &[Place], interfaces: usize) -> usize {
    let is_short = |p: &Place| p.kind() == Kind::of::<A>() && (1..=SHORT as u16).contains(&p.len);
    places.iter().take_while(|p| is_short(p) && copied(w, t, p, None, interfaces)).count()
}

/// Takes a packet all the way that lies in two places, or has been lent. False when there is no frame for it.
#[inline(never)]
fn other<P: Port>(
    w: &mut Core<P>,
    families: &mut Families,
    from: &Taker<Place>,
    next: u32,
    place: &Place,
    interfaces: usize,
) -> bool {
    // The second part may come with the next burst, but it is there.
    let rest = || (usize::from(place.len) > SHORT).then(|| &from.get(next).body);
    match place.kind() {
        Kind::V4 => copied(w, &mut families.v4, place, rest(), interfaces),
        Kind::V6 => copied(w, &mut families.v6, place, rest(), interfaces),
        _ => lent(w, families, place, interfaces),
    }
}

/// Takes a packet all the way that lies in the queue. False when there is no frame for it.
#[inline(always)]
fn copied<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &mut Family<A>,
    place: &Place,
    rest: Option<&[u8; BODY]>,
    interfaces: usize,
) -> bool {
    let Some(empty) = w.pool.take() else { return false };
    let len = if rest.is_some() { LONGEST } else { SHORT };
    let b = w.pool.bytes_mut(Frame { len: len as u16, ..empty });
    // The address before it is that of the next hop's link, as a rule.
    *view_mut(b, SENDER) = place.body;
    if let Some(rest) = rest {
        *view_mut(b, SHORT) = *rest;
    }
    known(w, t, Frame { len: place.len, ..empty }, place, place.packet(), interfaces);
    true
}

/// Takes a lent frame all the way. False when there is no frame to copy it to.
#[inline(never)]
fn lent<P: Port>(w: &mut Core<P>, families: &mut Families, place: &Place, interfaces: usize) -> bool {
    // SAFETY: the lender keeps the frame untouched and mapped until the queue's place comes back to it, which is
    // after this call, and `len` bytes of it are a packet in its pool.
    let bytes = unsafe { std::slice::from_raw_parts(place.address(), usize::from(place.len)) };
    let Some(empty) = w.pool.take() else { return false };
    if bytes.len() > w.pool.capacity() {
        w.pool.give(empty);
        return false;
    }
    let f = Frame { len: place.len, ..empty };
    w.pool.bytes_mut(f).copy_from_slice(bytes);
    match place.kind() {
        Kind::LENT_V4 => known(w, &mut families.v4, f, place, &bytes[ETHERNET..], interfaces),
        Kind::LENT_V6 => known(w, &mut families.v6, f, place, &bytes[ETHERNET..], interfaces),
        kind => {
            burst::one(w, families, f, place.interface, kind.handed());
            burst::forward(w, families);
        }
    }
    true
}

/// Takes a packet all the way whose headers and checksums are known to be right. `packet` is its beginning, read from
/// where it came from: the copy takes a while to arrive in the cache.
#[inline(always)]
fn known<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &mut Family<A>,
    f: Frame,
    place: &Place,
    packet: &[u8],
    interfaces: usize,
) {
    // The interface may have gone meanwhile. Each function is given a packet of its own, whose fields need not be in
    // memory.
    let done = usize::from(place.interface) < interfaces
        && if A::accepted(packet, 0).proto == protocol::UDP {
            express::datagram(w, t, &read(f, place, packet))
        } else {
            express::segment(w, t, &read(f, place, packet))
        };
    if !done {
        at_length::<P, A>(w, t, f, place);
    }
}

/// The packet that a place is about, and that begins with `packet`.
#[inline(always)]
fn read<A: Ip>(f: Frame, place: &Place, packet: &[u8]) -> Packet<A> {
    let (l3, l4) = (ETHERNET as u16, (ETHERNET + A::HEADER) as u16);
    let headers = Headers { l3, l4, end: f.len, ..A::accepted(packet, ETHERNET).headers(packet, 0) };
    let ports = Ports::read(&packet[A::HEADER..]);
    let handed = place.kind().handed();
    Packet { handed, candidate: place.entry, ..Packet::plain(f, place.interface, headers, ports, 0) }
}

/// Takes a packet the whole way, for which the short one is none, or that has not said rightly where its connection is.
#[inline(never)]
fn at_length<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, f: Frame, place: &Place) {
    let own = w.snapshot.fib.interfaces.get(usize::from(place.interface)).map(|i| i.mac);
    let b = w.pool.bytes_mut(f);
    *view_mut(b, 0) = own.unwrap_or_default().0;
    *view_mut(b, SENDER) = place.sender();
    let mut p: Packet<A> = read(f, place, &b[ETHERNET..]);
    if own.is_none() {
        return burst::refuse(w, f, place.interface, DropReason::OtherHost);
    }
    p.hash = p.headers.hash(p.ports, &w.keys);
    p.candidate = t.table.candidate(p.hash);
    if p.candidate != place.entry && p.candidate != Entry::NONE {
        w.shared.directory.note(p.hash, w.id, p.candidate);
    }
    if w.tracers.is_empty() {
        path::forward(w, t, &mut p);
    } else {
        trace::forward(w, t, &mut p);
    }
}
