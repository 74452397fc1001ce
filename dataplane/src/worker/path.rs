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

use super::account::Note;
use super::announce::{self, Extensions};
use super::core::Core;
use super::emit;
use super::exit::{NO_HOP, check_addresses, check_exit, route};
use super::family::{Family, Kind, Member, Packet, Removal};
use super::first::first;
use super::host;
use super::neighbour::{Neighbour, Neighbours};
use super::pieces::fragment;
use super::reason::{DropReason, HandoffReason};
use super::related::related;
use super::stateless::invalid;
use super::track::{self, Stray};
use crate::conntrack::{Connection, Direction, Key, Live, Status, Tuple};
use crate::io::{Frame, Port};
use crate::packet::transport::{self, Ports, Transport};
use crate::packet::{ETHERNET, Ip, mss, protocol};

/// What becomes of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate {
    /// It leaves to this next hop.
    Send(u16),
    /// It is for the gateway host: the kernel takes it as if it had just come in.
    Punt,
    /// Its connection ends at the gateway host, whose address is its destination by now.
    Host,
    /// It is for this worker, who owns its connection.
    HandOff(u16),
    /// It is a fragment; what is to be done has been done.
    Collected,
    /// It is dropped.
    Drop(DropReason),
}

/// A fate, with the reason to drop as an error.
pub(super) type Decision = Result<Fate, DropReason>;

impl From<Decision> for Fate {
    fn from(d: Decision) -> Self {
        d.unwrap_or_else(Fate::Drop)
    }
}

/// Takes one packet all the way.
// Not inlined: what goes the short way needs the registers.
#[inline(never)]
pub(super) fn forward<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &mut Packet<A>) {
    let fate = decide(w, t, p);
    carry_out(w, t, p, fate);
}

/// Does with a packet what was decided.
#[inline]
pub(super) fn carry_out<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>, fate: Fate) {
    match fate {
        Fate::Send(hop) => emit::send(w, t, p, hop),
        Fate::Punt => w.punt(p.interface, p.frame),
        Fate::Host => host::deliver(w, p),
        Fate::HandOff(owner) => w.hand_off(p, owner.into(), handoff(p)),
        Fate::Collected => {}
        Fate::Drop(why) => w.discard(p.frame, why),
    }
}

/// Why a packet is handed to the owner of its connection.
pub(super) fn handoff<A>(p: &Packet<A>) -> HandoffReason {
    match p.transport() {
        Transport::IcmpError => HandoffReason::IcmpError,
        Transport::Flow(_) | Transport::Invalid => HandoffReason::Connection,
    }
}

/// Decides what becomes of a packet.
pub(super) fn decide<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &mut Packet<A>) -> Fate {
    match p.transport() {
        Transport::Flow(ports) => flow(w, t, p, p.headers.key(ports)),
        Transport::IcmpError | Transport::Invalid => no_flow(w, t, p),
    }
    .into()
}

/// What is not a flow's: a fragment of a datagram, an ICMP error about a packet, or a packet that is INVALID.
#[cold]
fn no_flow<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &mut Packet<A>) -> Decision {
    check_addresses(&p.headers)?;
    match (p.headers.fragment, p.transport()) {
        (Some(info), _) => fragment(w, t, p, info),
        (None, Transport::IcmpError) => related(w, t, p),
        (None, _) => invalid(w, t, p, false),
    }
}

/// A packet of a flow.
#[inline(never)]
fn flow<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &mut Packet<A>, key: Key<A>) -> Decision {
    if t.table.may_have(p.hash) { followed(w, t, p, key) } else { first(w, t, p, key) }
}

/// A packet that most likely has a connection.
#[inline(never)]
fn followed<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &mut Packet<A>, key: Key<A>) -> Decision {
    let Some((slot, d)) = t.search(w, p.hash, &key) else {
        return first(w, t, p, key);
    };
    match known(w, &mut t.neighbours, &mut t.extensions, p, t.slab.open(slot), d) {
        Ok(hop) => Ok(Fate::Send(hop)),
        Err(why) => unfit(w, t, p, key.tuple.ports(), (slot, d), why),
    }
}

/// Why a packet does not simply pass although its connection is known.
#[derive(Debug, Clone, Copy)]
enum Misfit {
    /// It does not belong to the connection as it stands.
    Stray(Stray),
    /// The connection ends at the gateway host.
    Host,
    /// It is dropped.
    Drop(DropReason),
}

impl From<Stray> for Misfit {
    fn from(s: Stray) -> Self {
        Misfit::Stray(s)
    }
}

impl From<DropReason> for Misfit {
    fn from(why: DropReason) -> Self {
        Misfit::Drop(why)
    }
}

#[cold]
fn unfit<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &mut Family<A>,
    p: &mut Packet<A>,
    ports: Ports,
    (slot, d): (u32, Direction),
    why: Misfit,
) -> Decision {
    match why {
        Misfit::Host => host::packet(w, t, p, slot, d),
        Misfit::Drop(why) => Err(why),
        Misfit::Stray(Stray::Invalid) => invalid(w, t, p, true),
        Misfit::Stray(Stray::Reopens) => {
            w.note(|| Note::Reopens);
            if w.is_dry() {
                w.pretend_gone(slot, t.slab.get(slot));
            } else {
                t.remove(w, slot, Removal::Reopened);
            }
            first(w, t, p, p.headers.key(ports))
        }
    }
}

/// A packet of a known connection, and the next hop it leaves to: nothing is decided anew unless routes have changed.
#[inline(always)]
fn known<P: Port, A: Member>(
    w: &mut Core<P>,
    neighbours: &mut Neighbours<A>,
    extensions: &mut Extensions,
    p: &mut Packet<A>,
    mut c: Live<'_, A>,
    d: Direction,
) -> Result<u16, Misfit> {
    if c.status.intersects(Status::SEQ_ADJUST) {
        announce::restore(w, extensions, p, c.slot(), d)?;
    }
    track::packet(w, c.lend(), p, d)?;
    let mut hop = c.hop[d as usize];
    if c.route_generation != w.route_epoch || !neighbours.has(hop) {
        if c.status.intersects(Status::HOST) {
            return Err(Misfit::Host);
        }
        hop = find_hop(w, neighbours, p, c.lend(), d)?;
    }
    let n = neighbours.get(hop);
    check_exit(w, n, p)?;
    c.count(d, p.bytes());
    if c.status.intersects(Status::HELPER) {
        announce::read(w, extensions, p, c.lend(), d)?;
    }
    apply(w, n, p, &c, d);
    Ok(hop)
}

/// Finds the next hop of a connection's packets in one direction anew, and keeps it.
#[cold]
fn find_hop<P: Port, A: Member>(
    w: &mut Core<P>,
    neighbours: &mut Neighbours<A>,
    p: &Packet<A>,
    mut c: Live<'_, A>,
    d: Direction,
) -> Result<u16, DropReason> {
    let (next, interface) = route(w, p, opposite(&c, d).dst)?;
    let hop = neighbours.hop(&w.snapshot.fib, interface, next).ok_or(DropReason::NeighbourQueueFull)?;
    if c.route_generation != w.route_epoch {
        c.route_generation = w.route_epoch;
        c.hop = [NO_HOP; 2];
    }
    c.hop[d as usize] = hop;
    Ok(hop)
}

/// Translates a packet of TCP or UDP whose transport header follows a plain IP header, and takes one from its TTL.
#[inline(always)]
pub(super) fn rewrite<A: Ip>(b: &mut [u8], proto: u8, c: &Connection<A>, d: Direction) {
    let (addresses, all) = c.changes.of(d);
    // As the other direction's packets come in, turned round.
    let o = c.tuple(d.other());
    A::rewrite_and_forward(b, ETHERNET, o.dst, o.src, addresses);
    transport::rewrite_plain(b, ETHERNET + A::HEADER, proto, o.dport, o.sport, all);
}

/// What is done to a packet of a connection that is about to leave: translation, TTL, MSS.
#[inline(always)]
pub(super) fn apply<P: Port, A: Member>(
    w: &mut Core<P>,
    n: &Neighbour<A>,
    p: &Packet<A>,
    c: &Connection<A>,
    d: Direction,
) {
    let b = w.pool.bytes_mut(Frame { len: p.headers.end, ..p.frame });
    if !c.status.intersects(Status::ANY_NAT) {
        A::decrement_ttl(b, ETHERNET);
    } else if p.kind == Kind::Plain {
        rewrite(b, p.headers.proto, c, d);
    } else {
        A::decrement_ttl(b, ETHERNET);
        translate(w, p, &opposite(c, d));
    }
    if p.headers.proto == protocol::TCP
        && w.snapshot.policy.clamp_mss
        && mss::is_announced(w.pool.bytes(p.frame), &p.headers)
    {
        clamp_mss(w, n, p);
    }
}

/// Lets a SYN announce no more than what fits both interfaces.
#[cold]
fn clamp_mss<P: Port, A: Member>(w: &mut Core<P>, n: &Neighbour<A>, p: &Packet<A>) {
    let ingress = w.snapshot.fib.interfaces.get(usize::from(p.interface)).map_or(u16::MAX, |i| i.mtu);
    mss::clamp(w.pool.bytes_mut(p.frame), &p.headers, n.mtu.min(ingress));
}

/// The tuple with which packets in direction `d` leave.
#[inline(always)]
pub(super) fn opposite<A: Ip>(c: &Connection<A>, d: Direction) -> Tuple<A> {
    let o = c.tuple(d.other());
    let (sport, dport) = if c.proto == A::ICMP { icmp_ports(o) } else { (o.dport, o.sport) };
    Tuple { src: o.dst, dst: o.src, sport, dport }
}

/// An ICMP tuple keeps the identifier in its source port in both directions.
#[cold]
#[inline(never)]
fn icmp_ports<A>(t: &Tuple<A>) -> (u16, u16) {
    (t.sport, t.dport)
}

/// Gives a packet that came in the addresses and ports it is to leave with.
#[inline(always)]
pub(super) fn translate<P: Port, A: Ip>(w: &mut Core<P>, p: &Packet<A>, to: &Tuple<A>) {
    let b = w.pool.bytes_mut(p.frame);
    let delta = A::rewrite(b, &p.headers, to.src, to.dst);
    transport::rewrite(b, &p.headers, to.sport, to.dport, delta);
}
