//! ICMP errors: they belong to the connection of the packet they quote (RFC 5508 REQ-4 and 5).

use super::account::Note;
use super::core::Core;
use super::exit::{check_exit, check_source, route};
use super::family::{Family, Member, Packet};
use super::path::{Decision, Fate, opposite};
use super::reason::DropReason;
use super::rules::{admit, facts};
use super::shared::Handed;
use super::stateless::invalid;
use super::watch::note_connection;
use crate::conntrack::{CtState, Direction, Status, Tuple};
use crate::io::Port;
use crate::packet::transport::{self, ChecksumState};
use crate::packet::{Headers, Ip, icmp};

/// An ICMP error: it belongs to the connection of the packet it quotes.
#[cold]
pub(super) fn related<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>) -> Decision {
    let frame = w.pool.bytes(p.frame);
    let quote = icmp::quoted(frame, &p.headers);
    let Some((quote, key)) = quote
        .and_then(|q| Some((q, transport::quoted_key(frame, &q)?.inverse()?)))
        .filter(|_| transport::verify(frame, p.headers) == ChecksumState::Good)
    else {
        return invalid(w, t, p, false);
    };
    let Some((slot, d)) = t.lookup(w, &key) else {
        let hash = key.hash(&w.keys);
        if p.handed != Handed::ToOwner
            && let Some(owner) = w.shared.directory.lookup(hash).filter(|o| *o != w.id)
        {
            return Ok(Fate::HandOff(owner));
        }
        return invalid(w, t, p, false);
    };
    note_connection(w, t, slot, d);
    let c = t.slab.get(slot);
    let arrives = *c.tuple(d);
    // The error must go where the quoted packet came from; any router on the way may have sent it.
    if p.headers.dst != arrives.dst {
        return invalid(w, t, p, true);
    }
    let leaves = opposite(c, d);
    let (status, mark) = (c.status, c.mark);
    let (src_bit, dst_bit) = match d {
        Direction::Original => (Status::SRC_NAT, Status::DST_NAT),
        Direction::Reply => (Status::DST_NAT, Status::SRC_NAT),
    };
    let src = if status.intersects(src_bit) { leaves.src } else { p.headers.src };
    let dst = if status.intersects(dst_bit) { leaves.dst } else { p.headers.dst };
    // The quoted packet went the other way; before translation it had that direction's tuple.
    let inside = *c.tuple(d.other());

    check_source(&w.snapshot, p.headers.src, p.interface)?;
    if status.intersects(Status::HOST) {
        if d == Direction::Reply {
            return invalid(w, t, p, true);
        }
        rewrite(w, p, &quote, &inside, (src, dst));
        return Ok(Fate::Host);
    }
    let (next, interface) = route(w, p, dst)?;
    let hop = t.neighbours.hop(&w.snapshot.fib, interface, next).ok_or(DropReason::NeighbourQueueFull)?;
    check_exit(w, t.neighbours.get(hop), p)?;
    w.note(|| Note::State(CtState::Related));
    let mut facts = facts(w, p, CtState::Related);
    facts.destination = dst;
    facts.status = status;
    facts.mark = mark;
    admit(w, p, &mut facts, interface)?;
    if status.intersects(Status::ANY_NAT) {
        rewrite(w, p, &quote, &inside, (src, dst));
    }
    A::decrement_ttl(w.pool.bytes_mut(p.frame), usize::from(p.headers.l3));
    Ok(Fate::Send(hop))
}

/// Translates an ICMP error: the quoted packet becomes `inside`, its own addresses `src` and `dst`.
fn rewrite<P: Port, A: Ip>(w: &mut Core<P>, p: &Packet<A>, quote: &Headers<A>, inside: &Tuple<A>, (src, dst): (A, A)) {
    let b = w.pool.bytes_mut(p.frame);
    let delta = A::rewrite(b, quote, inside.src, inside.dst);
    transport::rewrite(b, quote, inside.sport, inside.dport, delta);
    A::rewrite(b, &p.headers, src, dst);
    icmp::refresh_checksum::<A>(b, &Headers { src, dst, ..p.headers });
}
