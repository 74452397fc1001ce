//! The short way for what nearly every packet is: one of a known connection that brings no surprise, to a next hop
//! that can take it as it is.
//!
//! These are the steps of the [path](super::path), in its order and by its functions. Only, all of them are looked
//! at before any is taken: a packet for which one of them is not that simple leaves nothing behind here, and goes the
//! whole path. So its values stay in registers.

use super::core::Core;
use super::emit;
use super::family::{Family, Kind, Member, Packet};
use super::path::rewrite;
use super::track;
use crate::conntrack::Status;
use crate::io::{Frame, Port};
use crate::packet::{ETHERNET, protocol};

/// What makes a connection's packets need more.
const MORE: Status = Status(Status::SEQ_ADJUST.0 | Status::HELPER.0 | Status::HOST.0);

/// Takes a packet all the way, if it is such a one and nobody listens to events. False, and nothing has happened,
/// for any other.
#[inline(always)]
pub(super) fn forward<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>) -> bool {
    if p.kind != Kind::Plain {
        return false;
    }
    if p.headers.proto == protocol::UDP { datagram(w, t, p) } else { segment(w, t, p) }
}

/// [`forward`] for a packet of UDP, of [`Kind::Plain`].
#[inline(always)]
pub(super) fn datagram<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>) -> bool {
    short::<{ protocol::UDP }, P, A>(w, t, p)
}

/// The same of TCP.
#[inline(always)]
pub(super) fn segment<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>) -> bool {
    short::<{ protocol::TCP }, P, A>(w, t, p)
}

/// [`forward`] for a packet of one of them.
#[inline(always)]
fn short<const PROTO: u8, P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>) -> bool {
    let h = &p.headers;
    let (d, frame) = (p.candidate.direction(), Frame { len: h.end, ..p.frame });
    let Some(mut c) = t.slab.hit(p.candidate, ((h.src, h.dst), p.ports, PROTO), w.now) else { return false };
    let Some(n) = t.neighbours.known(c.hop[d as usize]) else { return false };
    if c.status.intersects(MORE) || c.route_generation != w.route_epoch || frame.len > n.limit || h.ttl <= 1 {
        return false;
    }
    let segment = if PROTO == protocol::TCP { track::plain_segment::<A>(&w.pool, frame) } else { None };
    // No packet of this kind is shorter; and where everything is, the compiler knows.
    let headers = ETHERNET + A::HEADER + if PROTO == protocol::TCP { 20 } else { 8 };
    let b = w.pool.bytes_mut(Frame { len: headers as u16, ..frame });
    let deadline = if PROTO == protocol::UDP {
        Some(track::datagram(&w.udp, w.now, &mut c, d))
    } else {
        segment.and_then(|s| track::segment_of(&w.tcp, w.now, &mut c, &s, d))
    };
    let Some(deadline) = deadline else { return false };
    c.refresh(deadline);
    c.count(d, u32::from(frame.len) - ETHERNET as u32);
    if c.status.intersects(Status::ANY_NAT) {
        rewrite(b, PROTO, &c, d);
    } else {
        A::decrement_ttl(b, ETHERNET);
    }
    emit::link(b, n);
    w.transmit(n.interface, frame);
    true
}
