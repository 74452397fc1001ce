//! Datagrams in pieces: fragments are collected, and share the decision about their datagram.

use super::core::Core;
use super::emit;
use super::family::{Family, Kind, Member, Packet};
use super::host;
use super::path::{Decision, Fate, carry_out, decide, handoff};
use super::reason::{DropReason, HandoffReason};
use super::shared::Handed;
use super::watch::decided;
use crate::conntrack::Status;
use crate::conntrack::fragment::{Collected, Fragments, Piece};
use crate::io::{Frame, Port};
use crate::packet::transport::{self, ChecksumState, Transport};
use crate::packet::{FragmentInfo, Headers, checksum, protocol};

/// Fragments may wait in one frame of this many.
const FRAGMENT_SHARE: u32 = 4;

/// A fragment waits for the rest of its datagram, all of it at one worker.
#[cold]
pub(super) fn fragment<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &mut Family<A>,
    p: &Packet<A>,
    info: FragmentInfo,
) -> Decision {
    let workers = w.shared.workers.len() as u64;
    if workers > 1 && p.handed == Handed::No {
        let meet = Fragments::hash(&p.headers, &info, &w.keys) % workers;
        if meet as u16 != w.id {
            decided(w, t, p, Fate::HandOff(meet as u16));
            w.lend(p.interface, p.frame, meet as u16, HandoffReason::Fragment);
            return Ok(Fate::Collected);
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
    Ok(Fate::Collected)
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
        longest_piece: pieces.iter().map(|x| x.headers.length() as u16).max().unwrap_or(0),
        ..*p
    };
    let payload =
        |x: &Piece<A>| checksum::sum(&w.pool.bytes(x.frame)[usize::from(x.headers.l4)..usize::from(x.headers.end)]);
    let sum = pieces.iter().map(payload).sum();
    let b = w.pool.bytes(first.frame);
    // Asked as a fragment: lengths in its transport header are the whole's.
    whole.set_transport(transport::classify(b, &first.headers));
    match transport::verify_sum(b, &whole.headers, sum, first.headers.transport_length() + later) {
        ChecksumState::Partial => {
            transport::complete(w.pool.bytes_mut(first.frame), &whole.headers, sum);
            w.counters().checksums_completed.inc();
        }
        // The CRC of SCTP could be mended only over all pieces.
        _ if whole.headers.proto == protocol::SCTP => whole.kind = Kind::Invalid,
        ChecksumState::Bad if w.snapshot.policy.checksum => whole.kind = Kind::Invalid,
        ChecksumState::Good | ChecksumState::Bad => {}
    }
    let mut found = None;
    if let Transport::Flow(ports) = whole.transport() {
        let key = whole.headers.key(ports);
        whole.hash = key.hash(&w.keys);
        whole.candidate = t.table.candidate(whole.hash);
        found = t.table.lookup(&t.slab, whole.hash, &key);
    }
    if found.is_some_and(|(slot, _)| t.slab.get(slot).status.contains(Status::HELPER)) && join(w, &mut whole, pieces) {
        let fate = decide(w, t, &mut whole);
        decided(w, t, &whole, fate);
        return carry_out(w, t, &whole, fate);
    }
    datagram(w, t, &mut whole, pieces);
}

/// Puts the pieces together in the first one's frame, for a helper that must read the payload. False, and
/// nothing done, where the frame is too small or the family keeps its fragments in a header of their own.
fn join<P: Port, A: Member>(w: &mut Core<P>, p: &mut Packet<A>, pieces: &[Piece<A>]) -> bool {
    let end = u32::from(p.headers.end) + p.later;
    let length = end - u32::from(p.headers.l3);
    let joined = Frame { len: end as u16, ..p.frame };
    if end as usize > w.pool.room(p.frame)
        || !A::make_whole(w.pool.bytes_mut(p.frame), usize::from(p.headers.l3), length as u16)
    {
        return false;
    }
    let mut at = usize::from(p.headers.end);
    for x in &pieces[1..] {
        let payload = w.pool.bytes(x.frame)[usize::from(x.headers.l4)..usize::from(x.headers.end)].to_vec();
        w.pool.bytes_mut(joined)[at..at + payload.len()].copy_from_slice(&payload);
        at += payload.len();
        w.pool.give(x.frame);
    }
    (p.frame, p.headers.end, p.longest_piece, p.later) = (joined, end as u16, 0, 0);
    true
}

/// Takes a datagram that came in pieces all the way; they share the decision about the first.
fn datagram<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &mut Packet<A>, pieces: &[Piece<A>]) {
    let fate = decide(w, t, p);
    decided(w, t, p, fate);
    let after = w.pool.bytes(p.frame);
    let (src, dst) = A::addresses_of(after, usize::from(p.headers.l3));
    for (i, piece) in pieces.iter().enumerate() {
        let part = Packet { frame: piece.frame, headers: piece.headers, ..*p };
        match fate {
            Fate::Send(hop) => {
                if i > 0 {
                    let b = w.pool.bytes_mut(piece.frame);
                    A::rewrite(b, &piece.headers, src, dst);
                    A::decrement_ttl(b, usize::from(piece.headers.l3));
                }
                emit::send(w, t, &part, hop);
            }
            Fate::Punt => w.punt(piece.interface, piece.frame),
            Fate::Host => {
                if i > 0 {
                    A::rewrite(w.pool.bytes_mut(piece.frame), &piece.headers, src, dst);
                }
                host::deliver(w, &Packet { interface: piece.interface, ..part });
            }
            Fate::HandOff(owner) => w.lend(piece.interface, piece.frame, owner, handoff(p)),
            Fate::Collected => {}
            Fate::Drop(why) => w.discard(piece.frame, why),
        }
    }
}
