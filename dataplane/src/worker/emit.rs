//! The last step: link addresses, TTL, fragmentation, the egress port.

use super::core::Core;
use super::family::{Family, Member, Packet};
use super::neighbour::{Neighbour, Waiting};
use super::reason::DropReason;
use crate::io::{Frame, Port};
use crate::packet::{ETHERNET, be16, checksum, put16, view, view_mut};
use crate::route::Mac;

/// Sends a packet, translated already and its TTL decremented, to next hop `hop`.
#[inline(always)]
pub(super) fn send<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>, hop: u16) {
    let n = t.neighbours.get_mut(hop);
    if !n.takes(p.longest()) {
        return send_later(w, t, p, hop);
    }
    let frame = Frame { len: p.headers.end, ..p.frame };
    link(w.pool.bytes_mut(frame), n);
    n.used(w);
    w.transmit(n.interface, frame);
}

/// Writes the link addresses of a frame to a next hop.
#[inline(always)]
pub(super) fn link<A>(frame: &mut [u8], n: &Neighbour<A>) {
    *view_mut(frame, 0) = n.link;
}

/// What cannot simply leave: too long, or to a next hop whose address is not known or to be confirmed.
#[cold]
fn send_later<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>, hop: u16) {
    let n = t.neighbours.get(hop);
    let frame = Frame { len: p.headers.end, ..p.frame };
    let b = w.pool.bytes_mut(frame);
    let sender = Mac(*view(b, 6));
    *view_mut(b, 0) = n.link;
    if p.headers.length() > usize::from(n.mtu) {
        fragment(w, t, p, hop, sender);
    } else {
        pass_on(w, t, hop, Waiting { frame, interface: p.interface, sender });
    }
}

fn pass_on<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, hop: u16, x: Waiting) {
    let n = t.neighbours.get_mut(hop);
    if n.mac.is_some() {
        n.used(w);
        w.transmit(n.interface, x.frame);
    } else {
        t.neighbours.wait(w, hop, x);
    }
}

/// Cuts an IPv4 packet that may be fragmented into pieces that fit the MTU (RFC 791 3.2), in order.
fn fragment<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &Packet<A>, hop: u16, sender: Mac) {
    let mtu = usize::from(t.neighbours.get(hop).mtu);
    let whole = w.pool.bytes(p.frame)[..usize::from(p.headers.end)].to_vec();
    w.pool.give(p.frame);
    let (l3, l4) = (usize::from(p.headers.l3), usize::from(p.headers.l4));
    let header = l4 - l3;
    let payload = &whole[l4..];
    let piece = (mtu - header) & !7;
    let bits = be16(&whole, l3 + 6);
    for (i, part) in payload.chunks(piece).enumerate() {
        let Some(empty) = w.pool.take() else {
            w.counters().drop(DropReason::NoFrame);
            return;
        };
        let frame = Frame { len: (ETHERNET + header + part.len()) as u16, ..empty };
        let b = w.pool.bytes_mut(frame);
        b[..ETHERNET].copy_from_slice(&whole[..ETHERNET]);
        let h = &mut b[ETHERNET..ETHERNET + header];
        h.copy_from_slice(&whole[l3..l4]);
        put16(h, 2, (header + part.len()) as u16);
        let last = (i + 1) * piece >= payload.len();
        let more = if last { bits & 0x2000 } else { 0x2000 };
        put16(h, 6, (bits & 0xc000) | more | ((bits & 0x1fff) + (i * piece / 8) as u16));
        put16(h, 10, 0);
        let c = checksum::checksum(h);
        put16(h, 10, c);
        b[ETHERNET + header..].copy_from_slice(part);
        pass_on(w, t, hop, Waiting { frame, interface: p.interface, sender });
    }
}
