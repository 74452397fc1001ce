//! A burst's way to the path and along it, stage by stage, so that the packets wait for memory together.

use std::ops::Range;

use super::core::Core;
use super::exit::check_addresses;
use super::express;
use super::family::{Families, Family, Kind, Member, Packet};
use super::options;
use super::path;
use super::reason::{DropReason, HandoffReason};
use super::shared::Handed;
use super::trace;
use crate::conntrack::Entry;
use crate::conntrack::region::prefetch;
use crate::io::{Frame, Port};
use crate::packet::transport::{self, ChecksumState, Transport};
use crate::packet::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Headers, Ip, V4, V6, checksum, protocol, view};
use crate::policy::InterfaceId;

/// A frame is loaded while as many others before it are parsed. Frames lie a power of two apart and share
/// few sets of the first-level cache, so a whole burst of them does not stay there.
pub(super) const AHEAD: usize = 4;
/// No frame with an IP packet is shorter: it has the header of one without options.
const SHORTEST: usize = ETHERNET + V4::HEADER;
/// So many packets are looked up before the directory is asked about those of them that have no connection here; it is
/// loaded while it is asked about as many before them.
const SIFTED: usize = 16;

/// Takes the frames that have come in on an interface all the way.
// Not inlined: the loop needs all registers for itself.
#[inline(never)]
pub(super) fn received<P: Port>(
    w: &mut Core<P>,
    families: &mut Families,
    interface: InterfaceId,
    frames: &mut Vec<Frame>,
) {
    let own = own_address(w, interface);
    for f in frames.iter().take(AHEAD) {
        prefetch(w.pool.address(*f));
    }
    // So that there is a later one for each.
    let (n, last) = (frames.len(), frames[frames.len() - 1]);
    frames.extend([last; AHEAD]);
    for f in frames.windows(AHEAD + 1) {
        prefetch(w.pool.address(f[AHEAD]));
        parse(w, families, f[0], interface, own, Handed::No);
    }
    frames.truncate(n);
    let c = w.counters().interface(interface);
    c.rx_packets.add(frames.len() as u64);
    c.rx_bytes.add(frames.iter().map(|f| u64::from(f.len)).sum());
    forward(w, families);
}

/// The same for a port with VLANs: which interface a frame has come in on is said by its tag.
pub(super) fn received_tagged<P: Port>(w: &mut Core<P>, families: &mut Families, port: usize, frames: &[Frame]) {
    for (i, f) in frames.iter().enumerate() {
        if let Some(later) = frames.get(i + AHEAD) {
            prefetch(w.pool.address(*later));
        }
        let Core { inlets, pool, .. } = w;
        match inlets.get(port).and_then(|inlet| inlet.receive(pool, *f)) {
            Some((interface, f)) => {
                let c = w.counters().interface(interface);
                c.rx_packets.inc();
                c.rx_bytes.add(u64::from(f.len));
                one(w, families, f, interface, Handed::No);
            }
            None => w.discard(*f, DropReason::OtherHost),
        }
    }
    forward(w, families);
}

/// Stage one for a single frame.
pub(super) fn one<P: Port>(w: &mut Core<P>, families: &mut Families, f: Frame, interface: InterfaceId, handed: Handed) {
    let own = own_address(w, interface);
    parse(w, families, f, interface, own, handed);
}

/// The Ethernet address that frames to an interface have as their destination, in the upper six bytes. The
/// lower two are zero, unless there is no such interface: then no frame is for it.
fn own_address<P: Port>(w: &Core<P>, interface: InterfaceId) -> u64 {
    let Some(i) = w.snapshot.fib.interfaces.get(usize::from(interface)) else { return u64::MAX };
    let mut own = [0; 8];
    own[2..].copy_from_slice(&i.mac.0);
    u64::from_le_bytes(own)
}

/// Stage one: headers, sanity, key and hash, whose bucket is loaded. The packet joins its family's burst.
#[inline(always)]
fn parse<P: Port>(
    w: &mut Core<P>,
    families: &mut Families,
    f: Frame,
    interface: InterfaceId,
    own: u64,
    handed: Handed,
) {
    let b = w.pool.bytes(f);
    let Some(ethernet) = b.first_chunk::<SHORTEST>() else { return runt(w, f, interface, own) };
    if u64::from_le_bytes(*view(ethernet, 0)) << 16 != own {
        return refuse(w, f, interface, DropReason::OtherHost);
    }
    // In the order of the wire.
    const IPV4: u16 = ETHERTYPE_IPV4.to_be();
    const IPV6: u16 = ETHERTYPE_IPV6.to_be();
    match u16::from_ne_bytes(*view(ethernet, 12)) {
        IPV4 => ip::<P, V4>(w, &mut families.v4, f, interface, handed),
        IPV6 => ip::<P, V6>(w, &mut families.v6, f, interface, handed),
        _ => refuse(w, f, interface, DropReason::Malformed),
    }
}

/// Drops a frame that is too short for an IP header.
#[cold]
fn runt<P: Port>(w: &mut Core<P>, f: Frame, interface: InterfaceId, own: u64) {
    let ethernet = w.pool.bytes(f).first_chunk::<ETHERNET>();
    let is_own = ethernet.is_none_or(|e| u64::from_le_bytes(*view(e, 0)) << 16 == own);
    refuse(w, f, interface, if is_own { DropReason::Malformed } else { DropReason::OtherHost });
}

#[inline(always)]
fn ip<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, f: Frame, interface: InterfaceId, handed: Handed) {
    let b = w.pool.bytes(f);
    let Some(plain) = A::parse_plain(b, ETHERNET) else { return unusual(w, t, f, interface, handed) };
    let Some(ports) = transport::read_plain::<A>(b, ETHERNET, plain) else {
        return join_other(w, t, f, interface, handed, plain.headers(b, ETHERNET));
    };
    let headers = plain.headers(b, ETHERNET);
    let hash = headers.hash(ports, &w.keys);
    t.table.prefetch(hash);
    join(t, Packet { handed, ..Packet::plain(f, interface, headers, ports, hash) });
}

/// A packet of whatever transport, with whatever is wrong with that.
#[inline(never)]
fn join_other<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &mut Family<A>,
    f: Frame,
    interface: InterfaceId,
    handed: Handed,
    headers: Headers<A>,
) {
    // What the transport header of a fragment says is known when its datagram is complete.
    let (transport, checksum) = match headers.fragment {
        Some(_) => (Transport::Invalid, ChecksumState::Good),
        None => transport::read(w.pool.bytes(f), headers),
    };
    let mut hash = 0;
    if let Transport::Flow(ports) = transport {
        hash = headers.hash(ports, &w.keys);
        t.table.prefetch(hash);
    }
    join(t, Packet { handed, hash, ..Packet::new(f, interface, headers, transport) });
    if checksum != ChecksumState::Good {
        mend(w, t, checksum);
    }
}

/// A packet with options, a fragment, or one that there is something wrong with.
#[cold]
fn unusual<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, f: Frame, interface: InterfaceId, handed: Handed) {
    let refused = match A::parse(w.pool.bytes(f), ETHERNET) {
        // A fragment of a packet that is going to be refused must not wait for the others.
        Ok(headers) => match check_addresses(&headers) {
            Ok(()) => return join_other(w, t, f, interface, handed, headers),
            refused => refused,
        },
        Err(DropReason::IpOption) => options::refuse::<P, A>(w, f, interface),
        Err(why) => Err(why),
    };
    if let Err(why) = refused {
        refuse(w, f, interface, why);
    }
}

/// Drops a frame before it joins a burst.
#[cold]
pub(super) fn refuse<P: Port>(w: &mut Core<P>, f: Frame, interface: InterfaceId, why: DropReason) {
    if w.is_dry() {
        return w.note_drop(why);
    }
    if !w.tracers.is_empty() {
        trace::refused(w, f, interface, why);
    }
    w.discard(f, why);
}

/// A packet joins its family's burst.
#[inline(always)]
fn join<A: Member>(t: &mut Family<A>, p: Packet<A>) {
    // The burst is never reallocated.
    assert!(t.burst.len() < t.burst.capacity());
    t.burst.push(p);
}

/// Completes the transport checksum of the packet that has joined last, or lets it be invalid.
#[cold]
fn mend<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, checksum: ChecksumState) {
    let Some(p) = t.burst.last_mut() else { return };
    if checksum == ChecksumState::Partial {
        let b = w.pool.bytes_mut(p.frame);
        let total = checksum::sum(&b[usize::from(p.headers.l4)..usize::from(p.headers.end)]);
        transport::complete(b, &p.headers, total);
        w.counters().checksums_completed.inc();
    } else if w.snapshot.policy.checksum {
        p.kind = Kind::Invalid;
    }
}

/// Stages two and three of the packets that have joined.
pub(super) fn forward<P: Port>(w: &mut Core<P>, families: &mut Families) {
    stages::<P, V4>(w, families);
    stages::<P, V6>(w, families);
}

/// Hands packets of other workers' connections, of those in a part of a burst, to them; of those that seem to begin a
/// connection the next step is prepared. Packets that stay are put behind those that were kept of the parts before.
/// Returns how many are kept by now.
#[inline(never)]
fn sift<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &mut Family<A>,
    burst: &mut [Packet<A>],
    part: Range<usize>,
    mut kept: usize,
) -> usize {
    // All are asked about before any is handed over: each of the two loops needs many registers.
    let mut owners = [None; SIFTED];
    assert!(part.len() <= owners.len());
    if let Some(directory) = w.shared.directory.view() {
        for (owner, p) in owners.iter_mut().zip(&burst[part.clone()]) {
            let Transport::Flow(ports) = p.transport() else { continue };
            if p.candidate != Entry::NONE {
                continue;
            }
            if p.handed != Handed::ToOwner
                && let Some(o) = directory.find(p.hash)
                && o.worker() != w.id
            {
                *owner = Some(o);
                continue;
            }
            t.guesses.add(p.hash, p.headers.key(ports));
        }
    }
    for (owner, i) in owners.iter().zip(part) {
        if let Some(owner) = owner {
            w.hand_off(&burst[i], *owner, HandoffReason::Connection);
        } else {
            if kept < i {
                burst[kept] = burst[i];
            }
            kept += 1;
        }
    }
    kept
}

/// Stage three, while nobody wants to know the ways of packets.
// Not inlined: the loop needs all registers for itself.
#[inline(never)]
fn finish<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, burst: &mut [Packet<A>]) {
    let unheard = w.listeners.is_empty();
    for p in burst {
        if !(unheard && express::forward(w, t, p)) {
            path::forward(w, t, p);
        }
    }
}

fn stages<P: Port, A: Member>(w: &mut Core<P>, families: &mut Families) {
    let t = A::of(families);
    if t.burst.is_empty() {
        return;
    }
    let mut burst = std::mem::take(&mut t.burst);
    t.begin_burst();
    // A packet that is traced tells on its way that it is handed over.
    let unwatched = w.tracers.is_empty();
    let mut strangers = false;
    let (mut sifted, mut kept, mut at) = (0, 0, 0);
    while at < burst.len() {
        let (end, before) = (burst.len().min(at + SIFTED), strangers);
        let (homes, slots) = (t.table.homes(), t.slab.ahead());
        let directory = w.shared.directory.view().filter(|_| unwatched);
        for p in &mut burst[at..end] {
            if let Some(e) = homes.candidate(p.hash) {
                p.candidate = e;
                slots.load(e.slot(), p.headers.proto != protocol::UDP);
            } else if let Some(directory) = directory {
                strangers = true;
                directory.prefetch(p.hash);
            } else if let Transport::Flow(ports) = p.transport() {
                t.guesses.add(p.hash, p.headers.key(ports));
            }
        }
        if strangers {
            // Before the first part with strangers all stay.
            kept = if before { sift(w, t, &mut burst, sifted..at, kept) } else { at };
            sifted = at;
        }
        at = end;
    }
    if strangers {
        kept = sift(w, t, &mut burst, sifted..at, kept);
        burst.truncate(kept);
    }
    if unwatched {
        finish(w, t, &mut burst);
    } else {
        for p in &mut burst {
            trace::forward(w, t, p);
        }
    }
    burst.clear();
    t.burst = burst;
}
