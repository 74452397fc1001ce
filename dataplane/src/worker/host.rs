//! Connections that end at the gateway host: their destination is translated to an address of it, and the
//! kernel takes their packets as if they had been sent there.
//!
//! The host's answers leave through the kernel, where a program translates them back
//! ([`crate::io::host`]). The punt thread tells it of a connection before it hands over the first packet:
//! [`ToHost`] is one queue, in order. What the program sees of the answers comes back as
//! [`Sight`]s. The forward rules are not asked: such packets meet the host's own firewall.

use std::sync::atomic::Ordering;

use super::core::Core;
use super::events::Before;
use super::family::{Families, Family, Member, Packet, Removal};
use super::path::{Decision, Fate, opposite, translate};
use super::reason::DropReason;
use super::shared::{Punt, ToHost};
use crate::conntrack::tcp::HostTcp;
use crate::conntrack::{Connection, Direction, Key, Private, Status, Tuple};
use crate::io::host::{HostFlow, Origin, Sight};
use crate::io::{Frame, Port};
use crate::packet::{Address, Ip, V4, V6, protocol};

/// Whether a packet to the host is to be handed to it as it is. Not so when it looks like one of a redirected
/// connection: then it becomes a connection of its own, which the host can tell from that one.
pub(super) fn is_plain<P: Port, A: Member>(w: &Core<P>, t: &Family<A>, key: &Key<A>) -> bool {
    if !w.shared.host_answers.load(Ordering::Relaxed) {
        return true;
    }
    let Some(answers) = key.inverse() else { return true };
    let hash = answers.hash(&w.keys);
    let owned = if w.is_dry() { !w.is_unowned(hash) } else { w.shared.directory.lookup(hash).is_some() };
    !t.has(w, hash, &answers) && !owned
}

/// Whether the host's answers can be translated: at the moment, and at all where the port is another than the
/// client's. The checksum of SCTP covers more than the way out of the kernel can mend.
///
/// # Errors
/// The reason to drop the packet, when not.
pub(super) fn check<P: Port, A: Ip>(w: &Core<P>, key: &Key<A>, flow: &Key<A>) -> Result<(), DropReason> {
    let same_port = key.tuple.dport == flow.tuple.dport;
    let can = w.shared.host_answers.load(Ordering::Relaxed) && (same_port || key.proto != protocol::SCTP);
    if can { Ok(()) } else { Err(DropReason::EgressNotManaged) }
}

/// Makes a connection that has not been confirmed one that ends at the host.
pub(super) fn mark<P: Port, A: Ip>(w: &Core<P>, c: &mut Connection<A>, p: &Packet<A>) {
    c.status.insert(Status::HOST);
    match c.private {
        Private::Tcp(_) => {
            let flags = w.pool.bytes(p.frame)[usize::from(p.headers.l4) + 13];
            c.private = Private::HostTcp(HostTcp::new(flags));
        }
        Private::Sctp(_) => c.private = Private::Plain,
        _ => {}
    }
}

/// Sends off the first packet of a connection that has just been confirmed.
pub(super) fn begin<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>, slot: u32) -> Decision {
    let c = t.slab.get(slot);
    if !w.tell_host(ToHost::Begins(answers(c), origin(w, c))) {
        t.remove(w, slot, Removal::Deleted);
        return Err(DropReason::PuntLimit);
    }
    let leaves = opposite(t.slab.get(slot), Direction::Original);
    translate(w, p, &leaves);
    Ok(Fate::Host)
}

/// A later packet of a connection.
pub(super) fn packet<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &mut Family<A>,
    p: &Packet<A>,
    slot: u32,
    d: Direction,
) -> Decision {
    let c = t.slab.get_mut(slot);
    if d == Direction::Reply {
        // Only the host sends these, and not from outside.
        return Err(DropReason::MartianSource);
    }
    if !w.snapshot.fib.is_local(c.reply().src) {
        // The host has lost the address. The next packet finds another one.
        if !w.is_dry() {
            t.remove(w, slot, Removal::Deleted);
        }
        return Err(DropReason::NatNoAddress);
    }
    c.count(Direction::Original, p.bytes());
    let leaves = opposite(c, d);
    translate(w, p, &leaves);
    Ok(Fate::Host)
}

/// Hands a frame, translated already, to the punt thread.
pub(super) fn deliver<P: Port, A>(w: &mut Core<P>, p: &Packet<A>) {
    let frame = w.pool.bytes(Frame { len: p.headers.end, ..p.frame }).into();
    if w.tell_host(ToHost::Frame(Punt { interface: p.interface, frame })) {
        w.counters().punted.inc();
        w.pool.give(p.frame);
    } else {
        w.discard(p.frame, DropReason::PuntLimit);
    }
}

/// A connection has gone, and its answers are not to be translated any more.
pub(super) fn end<P: Port, A: Ip>(w: &mut Core<P>, c: &Connection<A>) {
    w.host_ended(answers(c), origin(w, c));
}

/// The host's answers, as it sends them.
fn answers<A: Address>(c: &Connection<A>) -> HostFlow {
    let r = c.reply();
    HostFlow { protocol: c.proto, host: (r.src.ip(), r.sport), client: (r.dst.ip(), r.dport) }
}

/// What the client knows of the other end.
fn origin<P: Port, A: Ip>(w: &Core<P>, c: &Connection<A>) -> Origin {
    let o = c.original();
    let port = if c.proto == A::ICMP { o.sport } else { o.dport };
    Origin { host: (o.dst.ip(), port), client_port: o.sport, worker: w.id }
}

/// Lets a connection follow what has been seen of its answers.
pub(super) fn follow_answer<P: Port>(w: &mut Core<P>, f: &mut Families, s: &Sight) {
    if s.flow.host.0.is_ipv4() {
        follow::<P, V4>(w, f, s);
    } else {
        follow::<P, V6>(w, f, s);
    }
}

fn follow<P: Port, A: Member>(w: &mut Core<P>, f: &mut Families, s: &Sight) {
    let (Some(src), Some(dst)) = (A::from_ip(s.flow.host.0), A::from_ip(s.flow.client.0)) else { return };
    let tuple = Tuple { src, dst, sport: s.flow.host.1, dport: s.flow.client.1 };
    let t = A::of(f);
    let Some((slot, Direction::Reply)) = t.lookup(w, &Key { tuple, proto: s.flow.protocol }) else { return };
    let c = t.slab.get_mut(slot);
    if !c.status.contains(Status::HOST) {
        return;
    }
    let before = (!w.listeners.is_empty()).then(|| Before::new(c));
    c.status.insert(Status::SEEN_REPLY);
    let timeouts = w.snapshot.policy.timeouts(c.timeouts);
    let timeout = match &mut c.private {
        Private::HostTcp(track) => {
            let timeout = track.answered(s.finished, s.reset, timeouts);
            if track.is_established() {
                c.status.insert(Status::ASSURED);
            }
            Some(timeout)
        }
        Private::Udp(_) => Some(timeouts.udp),
        _ => None,
    };
    if let Some(seconds) = timeout {
        t.slab.refresh(slot, w.now.after(seconds));
    }
    if let Some(before) = before {
        w.tell_change(&before, t.slab.get(slot));
    }
}
