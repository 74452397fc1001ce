//! Transport headers: the ports a tuple is made of, checksums, and how a translation changes them.

use super::checksum::{Change, Delta, fold, is_right, pseudo_header, sum};
use super::crc32c;
use super::{Headers, Ip, Plain, be16, be32, protocol, put16, view, view_mut};
use crate::conntrack::tcp::TcpSegment;
use crate::conntrack::{Key, SctpPacket};

/// Source and destination port, or what a tuple has in their places: the source in the upper half, as the two lie
/// in a tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports(u32);

impl Ports {
    /// These two.
    #[inline]
    pub fn new(source: u16, destination: u16) -> Self {
        Ports(u32::from(source) << 16 | u32::from(destination))
    }

    /// As most transport headers begin; panics when `b` is too short.
    #[inline]
    pub fn read(b: &[u8]) -> Self {
        Ports(be32(b, 0))
    }

    /// Both as one number.
    #[inline]
    pub fn number(self) -> u32 {
        self.0
    }

    /// As [`Tuple::sport`](crate::conntrack::Tuple::sport).
    #[inline]
    pub fn source(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// As [`Tuple::dport`](crate::conntrack::Tuple::dport).
    #[inline]
    pub fn destination(self) -> u16 {
        self.0 as u16
    }
}

/// What the transport header makes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Belongs to the connection with the key of these ports, or starts it.
    Flow(Ports),
    /// An ICMP error about another packet, quoted in it.
    IcmpError,
    /// Fits no connection: truncated, impossible lengths, an ICMP type without state.
    Invalid,
}

/// Reads the transport header of an unfragmented packet, or of a first fragment.
#[inline(always)]
pub fn classify<A: Ip>(frame: &[u8], h: &Headers<A>) -> Transport {
    let b = &frame[usize::from(h.l4)..usize::from(h.end)];
    match h.proto {
        protocol::UDP => udp(b, h.fragment.is_none()),
        protocol::TCP => tcp(b),
        _ => classify_other(b, *h),
    }
}

/// The ports of a packet that [`Ip::parse_plain`] has accepted at `l3`, if it is one of UDP or TCP with nothing wrong
/// and a right checksum. What [`read`] says of it as well, only sooner.
#[inline(always)]
pub fn read_plain<A: Ip>(frame: &[u8], l3: usize, h: Plain) -> Option<Ports> {
    // The addresses, which the checksum covers as well, stand right before the transport header.
    let both = 2 * A::LEN;
    let covered = &frame[l3 + A::HEADER - both..h.end];
    let b = &covered[both..];
    let transport = if h.proto == protocol::UDP {
        udp(b, true)
    } else if h.proto == protocol::TCP {
        tcp(b)
    } else {
        return None;
    };
    match transport {
        Transport::Flow(ports) if is_right(covered, u64::from(h.proto) + b.len() as u64) => Some(ports),
        _ => None,
    }
}

/// Reads the transport header of an unfragmented packet, and verifies the checksum of one that belongs to a flow.
pub fn read<A: Ip>(frame: &[u8], h: Headers<A>) -> (Transport, ChecksumState) {
    let transport = classify(frame, &h);
    let flow = matches!(transport, Transport::Flow(_));
    (transport, if flow { verify(frame, h) } else { ChecksumState::Good })
}

#[inline(always)]
fn udp(b: &[u8], whole: bool) -> Transport {
    let Some(u) = b.first_chunk::<8>() else { return Transport::Invalid };
    let n = usize::from(be16(u, 4));
    if n != b.len() && (n < 8 || (n > b.len() && whole)) {
        return Transport::Invalid;
    }
    Transport::Flow(Ports::read(u))
}

#[inline(always)]
fn tcp(b: &[u8]) -> Transport {
    let Some(t) = b.first_chunk::<20>() else { return Transport::Invalid };
    let offset = usize::from(t[12] >> 4) * 4;
    if offset < 20 || offset > b.len() || !crate::conntrack::tcp::valid_flags(t[13]) {
        return Transport::Invalid;
    }
    Transport::Flow(Ports::read(t))
}

fn classify_other<A: Ip>(b: &[u8], h: Headers<A>) -> Transport {
    let ports = |min: usize| (b.len() >= min).then(|| (be16(b, 0), be16(b, 2)));
    let found = match h.proto {
        protocol::UDPLITE => ports(8).filter(|_| {
            let n = usize::from(be16(b, 4));
            n == 0 || (8..=b.len()).contains(&n) || h.fragment.is_some()
        }),
        protocol::SCTP => ports(12),
        protocol::GRE => gre_keys(b),
        p if p == A::ICMP => match b.first_chunk::<8>() {
            Some(i) if is_icmp_error(p, i[0]) => return Transport::IcmpError,
            Some(i) => is_icmp_query(p, i[0]).then(|| (be16(i, 4), be16(i, 0))),
            None => None,
        },
        // ICMP of the other family, and "no next header".
        protocol::ICMP | protocol::ICMPV6 | 59 => None,
        _ => Some((0, 0)),
    };
    found.map_or(Transport::Invalid, |(sport, dport)| Transport::Flow(Ports::new(sport, dport)))
}

/// The keys of a GRE packet, as netfilter has them: version 0 has none; version 1 (PPTP, RFC 2637) its call
/// identifier as destination key, and is invalid when it carries something else. Undefined versions are
/// kept apart from version 0: nothing tells what their replies look like.
fn gre_keys(b: &[u8]) -> Option<(u16, u16)> {
    const PPTP: u16 = 0x880b;
    let Some(h) = b.get(..4) else { return Some((0, 0)) };
    match h[1] & 7 {
        0 => Some((0, 0)),
        1 => (be16(h, 2) == PPTP && b.len() >= 8).then(|| (0, be16(b, 6))),
        version => Some((0, u16::from(version))),
    }
}

/// Reads the key of a packet quoted in an ICMP error, from as little as its first 8 bytes.
pub fn quoted_key<A: Ip>(frame: &[u8], h: &Headers<A>) -> Option<Key<A>> {
    let b = &frame[usize::from(h.l4)..usize::from(h.end)];
    if h.fragment.is_some_and(|f| f.offset != 0) {
        return None;
    }
    let (sport, dport) = match h.proto {
        p if protocol::has_ports(p) => (be16(b.get(..8)?, 0), be16(b, 2)),
        p if p == A::ICMP => {
            let b = b.get(..8)?;
            if !is_icmp_query(p, b[0]) {
                return None;
            }
            (be16(b, 4), be16(b, 0))
        }
        protocol::ICMP | protocol::ICMPV6 => return None,
        protocol::GRE => gre_keys(b)?,
        _ => (0, 0),
    };
    Some(h.key(Ports::new(sport, dport)))
}

/// Destination unreachable, source quench, redirect, time exceeded, parameter problem; ICMPv6 types below 128.
#[inline]
pub fn is_icmp_error(proto: u8, kind: u8) -> bool {
    if proto == protocol::ICMP { matches!(kind, 3 | 4 | 5 | 11 | 12) } else { (1..=4).contains(&kind) }
}

/// Types that are tracked by their identifier: echo, timestamp, information, address mask; ICMPv6 echo
/// and node information.
#[inline]
fn is_icmp_query(proto: u8, kind: u8) -> bool {
    if proto == protocol::ICMP { matches!(kind, 0 | 8 | 13..=18) } else { matches!(kind, 128 | 129 | 139 | 140) }
}

/// The TCP segment of a packet that [`classify`] accepted.
#[inline(always)]
pub fn tcp_segment<'a, A>(frame: &'a [u8], h: &Headers<A>) -> TcpSegment<'a> {
    let (b, l4) = (&frame[..usize::from(h.end)], usize::from(h.l4));
    let t: &[u8; 20] = view(b, l4);
    let offset = usize::from(t[12] >> 4) * 4;
    TcpSegment {
        flags: t[13],
        seq: be32(t, 4),
        ack: be32(t, 8),
        window: be16(t, 14),
        payload: (b.len() - l4 - offset) as u32,
        // Known to be there; but nothing is checked until somebody reads them.
        options: b.get(l4 + 20..l4 + offset).unwrap_or_default(),
    }
}

/// The SCTP packet of a frame that [`classify`] accepted.
#[inline]
pub fn sctp_packet<'a, A>(frame: &'a [u8], h: &Headers<A>) -> SctpPacket<'a> {
    let b = &frame[usize::from(h.l4)..usize::from(h.end)];
    SctpPacket { vtag: be32(b, 4), chunks: &b[12..] }
}

/// What verifying a transport checksum found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumState {
    /// Right, absent, or of a protocol whose checksum is not verified.
    Good,
    /// The sender left it to its network card: only the pseudo header's sum stands in the field, for SCTP
    /// nothing. [`complete`] finishes it.
    Partial,
    /// Wrong.
    Bad,
}

/// Offset of the checksum field in the transport header.
#[inline]
pub fn checksum_offset<A: Ip>(proto: u8) -> Option<usize> {
    match proto {
        protocol::TCP => Some(16),
        protocol::UDP => Some(6),
        p if p == A::ICMP => Some(2),
        _ => None,
    }
}

/// Verifies the transport checksum of an unfragmented packet over the whole IP payload, as netfilter does.
pub fn verify<A: Ip>(frame: &[u8], h: Headers<A>) -> ChecksumState {
    let b = &frame[usize::from(h.l4)..usize::from(h.end)];
    match h.proto {
        protocol::SCTP => match be32(b, 8) {
            c if c == crc32c::of_packet(b) => ChecksumState::Good,
            0 => ChecksumState::Partial,
            _ => ChecksumState::Bad,
        },
        protocol::TCP | protocol::UDP | protocol::ICMP | protocol::ICMPV6 => verify_sum(frame, &h, sum(b), b.len()),
        _ => ChecksumState::Good,
    }
}

/// Verifies a transport checksum of a payload that sums to `total` and is `len` bytes long, of which
/// `frame` holds the transport header.
pub fn verify_sum<A: Ip>(frame: &[u8], h: &Headers<A>, total: u64, len: usize) -> ChecksumState {
    let b = &frame[usize::from(h.l4)..usize::from(h.end)];
    let at = match h.proto {
        protocol::TCP => 16,
        protocol::UDP => 6,
        protocol::ICMP | protocol::ICMPV6 => 2,
        _ => return ChecksumState::Good,
    };
    let Some(field) = b.get(at..at + 2).map(|f| be16(f, 0)) else { return ChecksumState::Good };
    let pseudo = if h.proto == protocol::ICMP { 0 } else { pseudo_header(h.src, h.dst, h.proto, len) };
    if fold(total + pseudo) == 0xffff || (h.proto == protocol::UDP && field == 0) {
        return ChecksumState::Good;
    }
    if matches!(h.proto, protocol::TCP | protocol::UDP) && field == fold(pseudo) {
        return ChecksumState::Partial;
    }
    ChecksumState::Bad
}

/// Completes a checksum that [`verify_sum`] found to be partial. `total` is the sum over the payload, which
/// includes the pseudo header's that stands in the field.
pub fn complete<A: Ip>(frame: &mut [u8], h: &Headers<A>, total: u64) {
    let b = &mut frame[usize::from(h.l4)..usize::from(h.end)];
    if h.proto == protocol::SCTP {
        crc32c::fill(b);
    } else if let Some(at) = checksum_offset::<A>(h.proto) {
        let c = !fold(total);
        put16(b, at, if c == 0 && h.proto == protocol::UDP { 0xffff } else { c });
    }
}

/// Writes new ports (or the ICMP identifier) and updates the transport checksum for them and for the
/// addresses, whose change is `addresses`.
#[inline(always)]
pub fn rewrite<A: Ip>(frame: &mut [u8], h: &Headers<A>, sport: u16, dport: u16, addresses: Delta) {
    let (b, l4) = (&mut frame[..usize::from(h.end)], usize::from(h.l4));
    if h.proto == protocol::UDP {
        let u: &mut [u8; 8] = view_mut(b, l4);
        let ports = put_ports(u, sport, dport);
        // UDP without checksum stays without.
        let old = be16(u, 6);
        if old != 0 {
            put16(u, 6, never_0(addresses.apply_with(ports, old)));
        }
    } else if h.proto == protocol::TCP
        && let Some(t) = b.get_mut(l4..l4 + 18)
    {
        let ports = put_ports(t, sport, dport);
        let c = addresses.apply_with(ports, be16(t, 16));
        put16(t, 16, c);
    } else {
        rewrite_other(&mut b[l4..], h, sport, dport, addresses);
    }
}

/// The same for a packet of TCP or UDP whose transport header, at `l4`, is not cut: addresses and ports change
/// checksums by `change`. Panics when `frame` is too short for UDP's.
#[inline(always)]
pub fn rewrite_plain(frame: &mut [u8], l4: usize, proto: u8, sport: u16, dport: u16, change: Change) {
    let u: &mut [u8; 8] = view_mut(frame, l4);
    // As they lie in the tuple of the other direction, one number.
    let turned = Ports::new(dport, sport).number();
    *view_mut(u, 0) = turned.rotate_left(16).to_be_bytes();
    if proto == protocol::UDP {
        // UDP without checksum stays without.
        let old: [u8; 2] = *view(u, 6);
        if old != [0; 2] {
            let new = u16::from_le_bytes(change.apply(old));
            // 0 would say that there is none.
            *view_mut(u, 6) = new.wrapping_sub(u16::from(new == 0)).to_le_bytes();
        }
    } else if let Some(t) = frame.get_mut(l4..l4 + 18) {
        *view_mut(t, 16) = change.apply(*view(t, 16));
    }
}

/// Writes source and destination port, which come first in most transport headers.
#[inline(always)]
fn put_ports(b: &mut [u8], sport: u16, dport: u16) -> Delta {
    let ports: &mut [u8; 4] = view_mut(b, 0);
    let new = u32::from(sport) << 16 | u32::from(dport);
    let delta = Delta::of_half(*ports, new.to_be_bytes());
    *ports = new.to_be_bytes();
    delta
}

/// A checksum as UDP and UDP-Lite send it: 0 would say that there is none (RFC 768, RFC 3828 3.1).
#[inline]
fn never_0(c: u16) -> u16 {
    if c == 0 { 0xffff } else { c }
}

fn rewrite_other<A: Ip>(b: &mut [u8], h: &Headers<A>, sport: u16, dport: u16, addresses: Delta) {
    match h.proto {
        protocol::UDPLITE if b.len() >= 8 => {
            let delta = addresses.and(put_ports(b, sport, dport));
            let c = never_0(delta.apply(be16(b, 6)));
            put16(b, 6, c);
        }
        // A quoted packet may end before its checksum.
        protocol::TCP | protocol::UDPLITE => {
            put_ports(b, sport, dport);
        }
        protocol::SCTP => {
            let changed = be16(b, 0) != sport || be16(b, 2) != dport;
            put16(b, 0, sport);
            put16(b, 2, dport);
            // CRC32c does not cover the addresses. That of a quoted packet which is cut cannot be right, and nobody
            // reads it.
            if changed && b.len() >= 12 && h.fragment.is_none() {
                crc32c::fill(b);
            }
        }
        p if p == A::ICMP => {
            let id = Delta::new(u64::from(be16(b, 4)), u64::from(sport));
            put16(b, 4, sport);
            // ICMPv6 covers the addresses by its pseudo header, ICMP does not.
            let delta = if A::V6 { id.and(addresses) } else { id };
            let c = delta.apply(be16(b, 2));
            put16(b, 2, c);
        }
        _ => {}
    }
}

/// Writes a complete transport checksum into an unfragmented packet that this program built or changed.
pub fn fill<A: Ip>(frame: &mut [u8], h: &Headers<A>) {
    let Some(at) = checksum_offset::<A>(h.proto) else { return };
    let b = &mut frame[usize::from(h.l4)..usize::from(h.end)];
    put16(b, at, 0);
    let pseudo = if h.proto == protocol::ICMP { 0 } else { pseudo_header(h.src, h.dst, h.proto, b.len()) };
    let c = !fold(sum(b) + pseudo);
    put16(b, at, if c == 0 && h.proto == protocol::UDP { 0xffff } else { c });
}
