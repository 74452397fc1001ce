//! The way out: next hop, and what can keep a packet from taking it.

use super::account::Note;
use super::core::Core;
use super::error;
use super::family::{Family, Member, Packet};
use super::neighbour::Neighbour;
use super::reason::DropReason;
use super::ways::Way;
use crate::io::Port;
use crate::packet::icmp::Problem;
use crate::packet::{Headers, Ip, be16};
use crate::policy::InterfaceId;
use crate::route::{NextHop, Target};
use crate::snapshot::Snapshot;

/// No next hop is cached for this direction.
pub(super) const NO_HOP: u16 = u16::MAX;

/// Refuses addresses that no packet may have; those of a connection's packets were seen to be others.
pub(super) fn check_addresses<A: Ip>(h: &Headers<A>) -> Result<(), DropReason> {
    if h.src.is_martian_source() {
        return Err(DropReason::MartianSource);
    }
    if h.dst.is_martian_destination() {
        return Err(DropReason::MartianDestination);
    }
    Ok(())
}

/// Refuses sources that cannot be: the gateway's own and broadcast addresses; with strict reverse path
/// filtering also those that are routed elsewhere (RFC 3704).
pub(super) fn check_source<A: Ip>(s: &Snapshot, src: A, ingress: InterfaceId) -> Result<(), DropReason> {
    match s.fib.lookup(src) {
        Some(Target::Local | Target::Broadcast) => Err(DropReason::MartianSource),
        Some(Target::Via(hops)) if hops.iter().any(|h| h.interface == Some(ingress)) => Ok(()),
        _ if s.policy.zone_of(ingress).is_some_and(|z| s.policy.strict_reverse_path.contains(z)) => {
            Err(DropReason::ReversePath)
        }
        _ => Ok(()),
    }
}

/// [`check_source`] of a first packet.
pub(super) fn check_first_source<P: Port, A: Member>(
    w: &Core<P>,
    t: &mut Family<A>,
    p: &Packet<A>,
) -> Result<(), DropReason> {
    match t.way(w, p.headers.src) {
        Way::Via(hop) if hop.interface == Some(p.interface) => Ok(()),
        Way::Local => Err(DropReason::MartianSource),
        Way::Via(_) | Way::Else => check_source(&w.snapshot, p.headers.src, p.interface),
    }
}

/// The next hop's address and interface towards `dst`.
pub(super) fn route<P: Port, A: Ip>(w: &mut Core<P>, p: &Packet<A>, dst: A) -> Result<(A, InterfaceId), DropReason> {
    let (why, problem) = match w.snapshot.fib.lookup(dst) {
        Some(Target::Via(hops)) => {
            let hop = pick(hops, p.headers.src, p.headers.dst);
            let interface = hop.interface.ok_or(DropReason::EgressNotManaged)?;
            let next = hop.gateway.unwrap_or(dst);
            w.note(|| Note::Route { destination: dst.ip(), interface, next: next.ip() });
            return Ok((next, interface));
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
pub(super) fn pick<A: Ip>(hops: &[NextHop<A>], src: A, dst: A) -> &NextHop<A> {
    if hops.len() == 1 {
        return &hops[0];
    }
    let total: u64 = hops.iter().map(|h| u64::from(h.weight)).sum();
    let mut n = (src.sum() ^ dst.sum()).wrapping_mul(0x9e37_79b9) % total.max(1);
    for h in hops {
        if n < u64::from(h.weight) {
            return h;
        }
        n -= u64::from(h.weight);
    }
    &hops[0]
}

/// What can keep a packet from leaving by its next hop: interface, TTL, MTU, a neighbour that is silent.
#[inline(always)]
pub(super) fn check_exit<P: Port, A: Member>(
    w: &mut Core<P>,
    n: &Neighbour<A>,
    p: &Packet<A>,
) -> Result<(), DropReason> {
    if n.takes(p.longest()) && p.headers.ttl > 1 { Ok(()) } else { obstacle(w, n, p) }
}

/// What keeps a packet from leaving, if it really is kept.
#[cold]
fn obstacle<P: Port, A: Member>(w: &mut Core<P>, n: &Neighbour<A>, p: &Packet<A>) -> Result<(), DropReason> {
    if !n.up {
        return Err(DropReason::InterfaceDown);
    }
    if p.headers.ttl <= 1 {
        error::answer(w, p, Problem::TimeExceeded);
        return Err(DropReason::TtlExceeded);
    }
    if p.longest() > n.mtu {
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
