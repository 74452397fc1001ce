//! Transport headers: the ports a tuple is made of, checksums, and how a translation changes them.

use super::checksum::{Delta, fold, pseudo_header, sum};
use super::crc32c;
use super::{Headers, Ip, be16, be32, protocol, put16};
use crate::conntrack::tcp::TcpSegment;
use crate::conntrack::{Key, SctpPacket, Tuple};

/// What the transport header makes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport<A> {
    /// Belongs to the connection with this key, or starts it.
    Flow(Key<A>),
    /// An ICMP error about another packet, quoted in it.
    IcmpError,
    /// Fits no connection: truncated, impossible lengths, an ICMP type without state.
    Invalid,
}

/// Reads the transport header of an unfragmented packet, or of a first fragment.
#[inline]
pub fn classify<A: Ip>(frame: &[u8], h: &Headers<A>) -> Transport<A> {
    let b = &frame[usize::from(h.l4)..usize::from(h.end)];
    let whole = h.fragment.is_none();
    let ports = |min: usize| (b.len() >= min).then(|| (be16(b, 0), be16(b, 2)));
    let found = match h.proto {
        protocol::UDP => ports(8).filter(|_| {
            let n = usize::from(be16(b, 4));
            n >= 8 && (n <= b.len() || !whole)
        }),
        protocol::TCP => ports(20).filter(|_| {
            let offset = usize::from(b[12] >> 4) * 4;
            offset >= 20 && offset <= b.len() && crate::conntrack::tcp::valid_flags(b[13])
        }),
        protocol::UDPLITE => ports(8).filter(|_| {
            let n = usize::from(be16(b, 4));
            n == 0 || (8..=b.len()).contains(&n) || !whole
        }),
        protocol::SCTP => ports(12),
        protocol::GRE => gre_keys(b),
        p if p == A::ICMP => {
            if b.len() < 8 {
                None
            } else if is_icmp_error(p, b[0]) {
                return Transport::IcmpError;
            } else {
                is_icmp_query(p, b[0]).then(|| (be16(b, 4), be16(b, 0)))
            }
        }
        // ICMP of the other family, and "no next header".
        protocol::ICMP | protocol::ICMPV6 | 59 => None,
        _ => Some((0, 0)),
    };
    match found {
        Some((sport, dport)) => {
            Transport::Flow(Key { tuple: Tuple { src: h.src, dst: h.dst, sport, dport }, proto: h.proto })
        }
        None => Transport::Invalid,
    }
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
    Some(Key { tuple: Tuple { src: h.src, dst: h.dst, sport, dport }, proto: h.proto })
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
#[inline]
pub fn tcp_segment<'a, A>(frame: &'a [u8], h: &Headers<A>) -> TcpSegment<'a> {
    let b = &frame[usize::from(h.l4)..usize::from(h.end)];
    let offset = usize::from(b[12] >> 4) * 4;
    TcpSegment {
        flags: b[13],
        seq: be32(b, 4),
        ack: be32(b, 8),
        window: be16(b, 14),
        payload: (b.len() - offset) as u32,
        options: &b[20..offset],
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
#[inline]
pub fn verify<A: Ip>(frame: &[u8], h: &Headers<A>) -> ChecksumState {
    let b = &frame[usize::from(h.l4)..usize::from(h.end)];
    if h.proto == protocol::SCTP {
        return match be32(b, 8) {
            c if c == crc32c::of_packet(b) => ChecksumState::Good,
            0 => ChecksumState::Partial,
            _ => ChecksumState::Bad,
        };
    }
    if !is_verified(h.proto) {
        return ChecksumState::Good;
    }
    verify_sum(frame, h, sum(b), b.len())
}

fn is_verified(proto: u8) -> bool {
    matches!(proto, protocol::TCP | protocol::UDP | protocol::ICMP | protocol::ICMPV6)
}

/// Verifies a transport checksum of a payload that sums to `total` and is `len` bytes long, of which
/// `frame` holds the transport header.
pub fn verify_sum<A: Ip>(frame: &[u8], h: &Headers<A>, total: u64, len: usize) -> ChecksumState {
    let b = &frame[usize::from(h.l4)..usize::from(h.end)];
    let at = match h.proto {
        protocol::TCP => 16,
        protocol::UDP => 6,
        _ => 2,
    };
    if !is_verified(h.proto) || b.len() < at + 2 || (h.proto == protocol::UDP && be16(b, at) == 0) {
        return ChecksumState::Good;
    }
    let pseudo = if h.proto == protocol::ICMP { 0 } else { pseudo_header(h.src, h.dst, h.proto, len) };
    if fold(total + pseudo) == 0xffff {
        return ChecksumState::Good;
    }
    if matches!(h.proto, protocol::TCP | protocol::UDP) && be16(b, at) == fold(pseudo) {
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
#[inline]
pub fn rewrite<A: Ip>(frame: &mut [u8], h: &Headers<A>, sport: u16, dport: u16, addresses: Delta) {
    let b = &mut frame[usize::from(h.l4)..usize::from(h.end)];
    match h.proto {
        protocol::TCP | protocol::UDP | protocol::UDPLITE => {
            let delta = addresses
                .and(Delta::new(u64::from(be16(b, 0)) + u64::from(be16(b, 2)), u64::from(sport) + u64::from(dport)));
            put16(b, 0, sport);
            put16(b, 2, dport);
            let at = if h.proto == protocol::TCP { 16 } else { 6 };
            // A quoted packet may end before its checksum; UDP without checksum stays without.
            if b.len() >= at + 2 && (h.proto != protocol::UDP || be16(b, at) != 0) {
                let c = delta.apply(be16(b, at));
                // 0 would say that there is none (RFC 768, RFC 3828 3.1).
                put16(b, at, if c == 0 && h.proto != protocol::TCP { 0xffff } else { c });
            }
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
