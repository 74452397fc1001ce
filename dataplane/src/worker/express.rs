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
use super::track::{self, plain_segment};
use crate::conntrack::Status;
use crate::io::{Frame, Port};
use crate::packet::{ETHERNET, Headers, protocol};

/// The shortest transport header.
const SHORTEST: usize = 8;

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
    // Where everything is, the compiler knows.
    let plain = ETHERNET + A::HEADER;
    let h = &Headers { l3: ETHERNET as u16, l4: plain as u16, proto: PROTO, ..p.headers };
    let (d, frame) = (p.candidate.direction(), Frame { len: h.end, ..p.frame });
    let Some(mut c) = t.slab.hit(p.candidate, h, p.ports, w.now) else { return false };
    let Some(n) = t.neighbours.known(c.hop[d as usize]) else { return false };
    if c.status.intersects(MORE)
        || c.route_generation != w.route_epoch
        || p.longest > n.limit
        || h.ttl <= 1
        || usize::from(frame.len) < plain + SHORTEST
    {
        return false;
    }
    let deadline = if PROTO == protocol::UDP {
        track::datagram(w, &mut c, d)
    } else if let Some(deadline) = plain_segment(w, &mut c, frame, d) {
        deadline
    } else {
        return false;
    };
    c.refresh(deadline);
    c.count(d, u32::from(p.longest));
    let b = w.pool.bytes_mut(frame);
    if c.status.intersects(Status::ANY_NAT) {
        rewrite(b, PROTO, &c, d);
    } else {
        A::decrement_ttl(b, ETHERNET);
    }
    emit::link(b, n);
    w.transmit(n.interface, frame);
    true
}
