//! What a packet would meet: it goes the whole way, on the worker that would take it, and changes nothing.

use super::account::{Account, Flow};
use super::burst;
use super::core::Core;
use super::family::{Families, Family, Member, Packet};
use super::path::decide;
use super::reason::DropReason;
use super::shared::{Fit, Handed};
use super::watch::{Watch, decided, flow, note_connection, read_flow};
use crate::conntrack::Private;
use crate::conntrack::tcp::flags;
use crate::io::{Frame, Port};
use crate::packet::{ETHERNET, V4, V6};
use crate::policy::InterfaceId;

/// Lets a frame that nobody has sent go its way in a dry run.
pub(super) fn explain<P: Port>(
    w: &mut Core<P>,
    f: &mut Families,
    frame: &[u8],
    interface: InterfaceId,
    handed: Handed,
    fit: Fit,
) -> Account {
    w.watch = Some(Box::new(Watch::new(true)));
    let arrives = match w.pool.take() {
        Some(empty) if frame.len() <= w.pool.capacity() => {
            let full = Frame { len: frame.len() as u16, ..empty };
            w.pool.bytes_mut(full).copy_from_slice(frame);
            burst::one(w, f, full, interface, handed);
            let v4 = f.v4.burst.pop().map(|p| go::<P, V4>(w, &mut f.v4, p, fit));
            let v6 = f.v6.burst.pop().map(|p| go::<P, V6>(w, &mut f.v6, p, fit));
            let arrives = v4.or(v6).or_else(|| as_it_came(frame));
            w.pool.give(empty);
            arrives
        }
        taken => {
            if let Some(empty) = taken {
                w.pool.give(empty);
            }
            w.note_drop(DropReason::NoFrame);
            as_it_came(frame)
        }
    };
    w.account(interface, arrives)
}

/// The packet's way from the table on. Returns as what it came.
fn go<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, mut p: Packet<A>, fit: Fit) -> Flow {
    let arrives = flow(w, &p);
    p.candidate = t.table.candidate(p.hash);
    let found = t.connection(w, &p);
    t.slab.begin_burst();
    // The next real packet draws the same numbers.
    let random = w.random.clone();
    let saved = found.map(|(slot, d)| {
        note_connection(w, t, slot, d);
        let c = t.slab.get(slot);
        if let Private::Tcp(track) = &c.private {
            let segment = &mut w.pool.bytes_mut(p.frame)[usize::from(p.headers.l4)..];
            continue_with(segment, track.next(d), fit);
        }
        (slot, *c)
    });
    let fate = decide(w, t, &mut p);
    decided(w, t, &p, fate);
    w.random = random;
    if let Some((slot, c)) = saved {
        *t.slab.get_mut(slot) = c;
        t.slab.publish_deadline(slot);
    }
    arrives
}

/// Lets a TCP segment, whose checksum has been verified, fit its connection.
fn continue_with(segment: &mut [u8], (seq, ack): (u32, u32), fit: Fit) {
    if fit == Fit::AsIs {
        return;
    }
    segment[4..8].copy_from_slice(&seq.to_be_bytes());
    segment[8..12].copy_from_slice(&ack.to_be_bytes());
    if fit == Fit::Next {
        segment[13] = flags::ACK;
    }
}

/// What can be told of a frame that was refused before it reached the table.
pub(super) fn as_it_came(frame: &[u8]) -> Option<Flow> {
    fn read<A: Member>(b: &[u8]) -> Option<Flow> {
        Some(read_flow(b, &A::parse(b, ETHERNET).ok()?))
    }
    read::<V4>(frame).or_else(|| read::<V6>(frame))
}
