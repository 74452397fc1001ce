//! The short way for what nearly every packet is: one of a known connection that brings no surprise, to a next hop
//! that can take it as it is.
//!
//! These are the steps of the [path](super::path), in its order and by its functions. Only, all of them are looked
//! at before any is taken: a packet for which one of them is not that simple leaves nothing behind here, and goes the
//! whole path. So its values stay in registers.

use super::core::Core;
use super::emit;
use super::family::{Family, Member, Packet};
use super::path::{SHORTEST, rewrite};
use super::track::{datagram, plain_segment};
use crate::conntrack::Status;
use crate::io::{Frame, Port};
use crate::packet::transport::Transport;
use crate::packet::{ETHERNET, protocol};

/// What makes a connection's packets need more.
const MORE: Status = Status(Status::SEQ_ADJUST.0 | Status::HELPER.0 | Status::HOST.0);

/// Takes a packet all the way, if it is such a one and nobody listens to events. False, and nothing has happened,
/// for any other.
#[inline(always)]
pub(super) fn forward<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>) -> bool {
    let Transport::Flow(ports) = p.transport else { return false };
    let (h, d) = (&p.headers, p.candidate.direction());
    let frame = Frame { len: h.end, ..p.frame };
    let Some(mut c) = t.slab.hit(p.candidate, h, ports, w.now) else { return false };
    let Some(n) = t.neighbours.known(c.hop[d as usize]) else { return false };
    let plain = ETHERNET + A::HEADER;
    if c.status.intersects(MORE)
        || c.route_generation != w.route_epoch
        || p.longest > n.limit
        || h.ttl <= 1
        || n.is_due(w.now)
        || usize::from(h.l4) != plain
        || usize::from(frame.len) < plain + SHORTEST
    {
        return false;
    }
    let deadline = if h.proto == protocol::UDP {
        datagram(w, &mut c, d)
    } else if let Some(deadline) = plain_segment(w, &mut c, p, d) {
        deadline
    } else {
        return false;
    };
    c.refresh(deadline);
    c.count(d, p.bytes);
    let b = w.pool.bytes_mut(frame);
    if c.status.intersects(Status::ANY_NAT) {
        rewrite(b, &c, d);
    } else {
        A::decrement_ttl(b, ETHERNET);
    }
    emit::link(b, n);
    w.transmit(n.interface, frame);
    true
}
