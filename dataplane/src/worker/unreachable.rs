//! Telling senders that their packets waited for a next hop in vain.

use super::core::Core;
use super::error;
use super::family::{Family, Member, Packet};
use super::neighbour::Waiting;
use super::reason::DropReason;
use crate::conntrack::Status;
use crate::io::Port;
use crate::packet::ETHERNET;
use crate::packet::icmp::Problem;
use crate::packet::transport::{self, Transport};

/// Answers with ICMP host unreachable and drops the frame, which is on its way out: translated, its TTL
/// decremented. The error must quote it as its sender sent it.
pub(super) fn give_up<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, x: &Waiting) {
    if let Some(p) = as_received(w, t, x) {
        error::answer(w, &p, Problem::HostUnreachable);
    }
    w.discard(x.frame, DropReason::NeighbourUnresolved);
}

fn as_received<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, x: &Waiting) -> Option<Packet<A>> {
    let own = w.snapshot.fib.interfaces.get(usize::from(x.interface))?.mac;
    let headers = A::parse(w.pool.bytes(x.frame), ETHERNET).ok()?;
    let transport = transport::classify(w.pool.bytes(x.frame), &headers);
    let mut p = Packet::new(x.frame, x.interface, headers, transport);
    if let Transport::Flow(ports) = p.transport()
        && let Some((slot, back)) = t.lookup(w, &headers.key(ports).inverse()?)
        && let c = t.slab.get(slot)
        && c.status.intersects(Status::ANY_NAT)
    {
        let sent = *c.tuple(back.other());
        super::path::translate(w, &p, &sent);
    }
    let b = w.pool.bytes_mut(x.frame);
    A::increment_ttl(b, ETHERNET);
    b[..6].copy_from_slice(&own.0);
    b[6..12].copy_from_slice(&x.sender.0);
    p.headers = A::parse(b, ETHERNET).ok()?;
    Some(p)
}
