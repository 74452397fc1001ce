//! ICMP errors: the ones the gateway makes, and the packets quoted in the ones it forwards.

use super::checksum::{checksum, fold, pseudo_header, sum};
use super::{Address, ETHERNET, Headers, Ip, be16, protocol, put16, transport};

/// An error to send about a packet, in words of both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// TTL or hop limit ran out in transit.
    TimeExceeded,
    /// Larger than this MTU and not to be fragmented.
    TooBig(u16),
    /// No route.
    NoRoute,
    /// The next hop does not answer.
    HostUnreachable,
    /// A rule forbids it.
    Prohibited,
    /// A rule rejects it as if the port were closed.
    PortUnreachable,
    /// Its IP header is wrong at this byte.
    Parameter(u8),
}

impl Problem {
    /// Type and code (RFC 792, RFC 1812 5.2.7, RFC 4443).
    fn kind(self, v6: bool) -> (u8, u8) {
        match (self, v6) {
            (Problem::TimeExceeded, false) => (11, 0),
            (Problem::TooBig(_), false) => (3, 4),
            (Problem::NoRoute, false) => (3, 0),
            (Problem::HostUnreachable, false) => (3, 1),
            (Problem::Prohibited, false) => (3, 13),
            (Problem::PortUnreachable, false) => (3, 3),
            (Problem::Parameter(_), false) => (12, 0),
            (Problem::TimeExceeded, true) => (3, 0),
            (Problem::TooBig(_), true) => (2, 0),
            (Problem::NoRoute, true) => (1, 0),
            (Problem::HostUnreachable, true) => (1, 3),
            (Problem::Prohibited, true) => (1, 1),
            (Problem::PortUnreachable, true) => (1, 4),
            (Problem::Parameter(_), true) => (4, 0),
        }
    }
}

/// The most bytes of IP packet an error may have: RFC 1812 4.3.2.3, RFC 4443 2.4 (c).
fn limit<A: Address>() -> usize {
    if A::V6 { 1280 } else { 576 }
}

/// Whether an error may be sent about this packet (RFC 1122 3.2.2, RFC 4443 2.4 (e)): not about errors,
/// later fragments, or packets whose source is not one host.
pub fn may_answer<A: Ip>(frame: &[u8], h: &Headers<A>) -> bool {
    if h.src.is_martian_source() || h.fragment.is_some_and(|f| f.offset != 0) {
        return false;
    }
    if h.proto != A::ICMP {
        return true;
    }
    frame[..usize::from(h.end)]
        .get(usize::from(h.l4))
        .is_some_and(|kind| !transport::is_icmp_error(h.proto, *kind) && if A::V6 { *kind >= 128 } else { *kind <= 18 })
}

/// Writes into `out` an error about the packet in `frame`, sent from `from`, answering the frame's
/// sender. Returns its length. `out` has room for 1300 bytes.
pub fn build_error<A: Ip>(out: &mut [u8], frame: &[u8], h: &Headers<A>, from: A, problem: Problem) -> usize {
    let (kind, code) = problem.kind(A::V6);
    let header = if A::V6 { 40 } else { 20 };
    let quote = h.length().min(limit::<A>() - header - 8);
    let l4 = ETHERNET + header;
    let end = l4 + 8 + quote;
    reply_ethernet(out, frame);
    write_ip_header(&mut out[ETHERNET..], A::ICMP, 8 + quote, from, h.src);
    out[l4..l4 + 8].fill(0);
    out[l4] = kind;
    out[l4 + 1] = code;
    match problem {
        Problem::TooBig(mtu) => put16(out, l4 + 6, mtu),
        // A pointer of 8 bits (RFC 792), or of 32 (RFC 4443 3.4).
        Problem::Parameter(at) => out[l4 + if A::V6 { 7 } else { 4 }] = at,
        _ => {}
    }
    let l3 = usize::from(h.l3);
    out[l4 + 8..end].copy_from_slice(&frame[l3..l3 + quote]);
    let pseudo = if A::V6 { pseudo_header(from, h.src, A::ICMP, end - l4) } else { 0 };
    let c = !fold(sum(&out[l4..end]) + pseudo);
    put16(out, l4 + 2, c);
    end
}

/// Writes into `out` the TCP RST that a closed port would answer the segment in `frame` with (RFC 9293
/// 3.10.7.1). Returns its length, or `None` for a segment that must not be answered.
pub fn build_reset<A: Ip>(out: &mut [u8], frame: &[u8], h: &Headers<A>) -> Option<usize> {
    use crate::conntrack::tcp::flags;
    let s = transport::tcp_segment(frame, h);
    if s.flags & flags::RST != 0 {
        return None;
    }
    let header = if A::V6 { 40 } else { 20 };
    let l4 = ETHERNET + header;
    let end = l4 + 20;
    reply_ethernet(out, frame);
    write_ip_header(&mut out[ETHERNET..], protocol::TCP, 20, h.dst, h.src);
    let (seq, ack, bits) = if s.flags & flags::ACK != 0 {
        (s.ack, 0, flags::RST)
    } else {
        let len = s.payload + u32::from(s.flags & flags::SYN != 0) + u32::from(s.flags & flags::FIN != 0);
        (0, s.seq.wrapping_add(len), flags::RST | flags::ACK)
    };
    let b = &mut out[l4..end];
    b.fill(0);
    let ports = usize::from(h.l4);
    put16(b, 0, be16(frame, ports + 2));
    put16(b, 2, be16(frame, ports));
    b[4..8].copy_from_slice(&seq.to_be_bytes());
    b[8..12].copy_from_slice(&ack.to_be_bytes());
    b[12] = 5 << 4;
    b[13] = bits;
    let c = !fold(sum(b) + pseudo_header(h.dst, h.src, protocol::TCP, 20));
    put16(b, 16, c);
    Some(end)
}

/// An Ethernet header back to the frame's sender: it is on the link and its address is known.
fn reply_ethernet(out: &mut [u8], frame: &[u8]) {
    out[..6].copy_from_slice(&frame[6..12]);
    out[6..12].copy_from_slice(&frame[..6]);
    out[12..14].copy_from_slice(&frame[12..14]);
}

fn write_ip_header<A: Ip>(b: &mut [u8], proto: u8, payload: usize, src: A, dst: A) {
    if A::V6 {
        b[..4].copy_from_slice(&0x6000_0000u32.to_be_bytes());
        put16(b, 4, payload as u16);
        b[6] = proto;
        b[7] = 64;
        src.write(&mut b[8..]);
        dst.write(&mut b[24..]);
    } else {
        b[..20].fill(0);
        b[0] = 0x45;
        // Precedence "internetwork control", as routers mark their errors (RFC 1812 4.3.2.5).
        b[1] = if proto == protocol::ICMP { 0xc0 } else { 0 };
        put16(b, 2, (20 + payload) as u16);
        // Atomic datagram: DF is set, so the identification may be anything (RFC 6864 4.1).
        put16(b, 6, if proto == protocol::ICMP { 0 } else { 0x4000 });
        b[8] = 64;
        b[9] = proto;
        src.write(&mut b[12..]);
        dst.write(&mut b[16..]);
        let c = checksum(&b[..20]);
        put16(b, 10, c);
    }
}

/// The packet quoted in the ICMP error at `h`, whose first 8 bytes are the ICMP header.
pub fn quoted<A: Ip>(frame: &[u8], h: &Headers<A>) -> Option<Headers<A>> {
    let at = usize::from(h.l4) + 8;
    A::parse_quote(frame, at, usize::from(h.end))
}

/// Recomputes the checksum of the ICMP message at `h` after its quote or its addresses have changed.
/// A whole sum, because a quote may begin at an odd place and errors are rare.
pub fn refresh_checksum<A: Ip>(frame: &mut [u8], h: &Headers<A>) {
    transport::fill::<A>(frame, h);
}
