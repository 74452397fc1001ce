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

use super::announce;
use super::core::Core;
use super::emit;
use super::exit::{NO_HOP, check_exit, route};
use super::family::{Family, Member, Packet, Removal};
use super::first::first;
use super::host;
use super::pieces::fragment;
use super::reason::{DropReason, HandoffReason};
use super::related::related;
use super::stateless::invalid;
use super::track::{self, Tracked};
use crate::conntrack::{Connection, Direction, Status, Tuple};
use crate::io::Port;
use crate::packet::transport::{self, Transport};
use crate::packet::{Ip, mss, protocol};

/// What becomes of a packet that is not dropped.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// It leaves to this next hop.
    Send(u16),
    /// It is for the gateway host: the kernel takes it as if it had just come in.
    Punt,
    /// Its connection ends at the gateway host, whose address is its destination by now.
    Host,
    /// It is for this worker, who owns its connection.
    HandOff(u16, HandoffReason),
    /// It is a fragment; what is to be done has been done.
    Collected,
}

pub(super) type Decision = Result<Step, DropReason>;

/// Takes one packet all the way.
#[inline]
pub(super) fn forward<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &mut Packet<A>) {
    match decide(w, t, p) {
        Ok(Step::Send(hop)) => emit::send(w, t, p, hop),
        Ok(Step::Punt) => w.punt(p.interface, p.frame),
        Ok(Step::Host) => host::deliver(w, p),
        Ok(Step::HandOff(owner, why)) => w.hand_off(p.interface, p.frame, owner, why),
        Ok(Step::Collected) => {}
        Err(why) => w.discard(p.frame, why),
    }
}

#[inline]
pub(super) fn decide<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &mut Packet<A>) -> Decision {
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
    if t.slab.get(slot).status.intersects(Status::SEQ_ADJUST) {
        announce::restore(w, t, p, slot, d)?;
    }
    match track::packet(w, t, p, slot, d) {
        Tracked::Valid => established(w, t, p, slot, d),
        Tracked::Invalid => invalid(w, t, p, true),
        Tracked::Reopens => {
            t.remove(w, slot, Removal::Reopened);
            first(w, t, p, &key)
        }
    }
}

/// A packet of a known connection: nothing is decided anew unless routes have changed.
#[inline]
fn established<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &mut Family<A>,
    p: &mut Packet<A>,
    slot: u32,
    d: Direction,
) -> Decision {
    let c = t.slab.get(slot);
    // Packets in direction `d` leave as the other direction's packets come in, turned round.
    let leaves = opposite(c, d);
    let mut hop = c.hop[d as usize];
    if c.route_generation != w.route_epoch || hop == NO_HOP {
        if c.status.intersects(Status::HOST) {
            return host::packet(w, t, p, slot, d);
        }
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
    apply(w, t, p, slot, d, hop)?;
    Ok(Step::Send(hop))
}

/// What is done to a packet of a connection that is about to leave: helper, translation, MSS.
#[inline]
pub(super) fn apply<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &mut Family<A>,
    p: &mut Packet<A>,
    slot: u32,
    d: Direction,
    hop: u16,
) -> Result<(), DropReason> {
    let c = t.slab.get(slot);
    let status = c.status;
    let leaves = opposite(c, d);
    if status.intersects(Status::HELPER) {
        announce::read(w, t, p, slot, d)?;
    }
    if status.intersects(Status::ANY_NAT) {
        translate(w, p, &leaves);
    }
    if w.snapshot.policy.clamp_mss && p.headers.proto == protocol::TCP {
        let ingress = w.snapshot.fib.interfaces.get(usize::from(p.interface)).map_or(u16::MAX, |i| i.mtu);
        let mtu = t.neighbours.get(hop).mtu.min(ingress);
        mss::clamp(w.pool.bytes_mut(p.frame), &p.headers, mtu);
    }
    Ok(())
}

/// The tuple with which packets in direction `d` leave.
#[inline]
pub(super) fn opposite<A: Ip>(c: &Connection<A>, d: Direction) -> Tuple<A> {
    let o = c.tuple(d.other());
    // An ICMP tuple keeps the identifier in its source port in both directions.
    let (sport, dport) = if c.proto == A::ICMP { (o.sport, o.dport) } else { (o.dport, o.sport) };
    Tuple { src: o.dst, dst: o.src, sport, dport }
}

#[inline]
pub(super) fn translate<P: Port, A: Ip>(w: &mut Core<P>, p: &Packet<A>, to: &Tuple<A>) {
    let b = w.pool.bytes_mut(p.frame);
    let delta = A::rewrite(b, usize::from(p.headers.l3), to.src, to.dst);
    transport::rewrite(b, &p.headers, to.sport, to.dport, delta);
}
