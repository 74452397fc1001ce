//! IPv6 (RFC 8200).

use super::checksum::{Change, Delta};
use super::{Address, FragmentInfo, Headers, Ip, Plain, V6, be16, be32, protocol, view, view_mut};
use crate::worker::DropReason;

const HEADER: usize = 40;
/// More extension headers than this are refused.
const MAX_EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Parses as far as `end` goes; `h.end` is set from the payload length, cut at `end` for quotes.
fn parse(frame: &[u8], l3: usize, limit: usize, quote: bool) -> Option<Headers<V6>> {
    let h: &Header = frame.get(l3..)?.first_chunk()?;
    let mut end = l3 + HEADER + usize::from(be16(h, 4));
    if h[0] >> 4 != 6 || end > usize::from(u16::MAX) {
        return None;
    }
    if end > limit {
        if !quote {
            return None;
        }
        end = limit;
    }
    let headers = headers(h, l3, end);
    if has_extensions(h) { extensions(frame, headers) } else { Some(headers) }
}

type Header = [u8; HEADER];

/// What the fixed header says.
#[inline(always)]
fn headers(h: &Header, l3: usize, end: usize) -> Headers<V6> {
    Headers {
        l3: l3 as u16,
        l4: (l3 + HEADER) as u16,
        end: end as u16,
        proto: h[6],
        ttl: h[7],
        src: V6::read(&h[8..]),
        dst: V6::read(&h[24..]),
        fragment: None,
    }
}

#[inline(always)]
fn has_extensions(h: &Header) -> bool {
    matches!(h[6], HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | protocol::AH | FRAGMENT)
}

/// Skips extension headers.
fn extensions(frame: &[u8], headers: Headers<V6>) -> Option<Headers<V6>> {
    let end = usize::from(headers.end);
    let (mut proto, mut at, mut fragment) = (headers.proto, usize::from(headers.l4), None);
    for n in 0.. {
        let len = match proto {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                let b = frame.get(at..end)?;
                // Hop-by-hop comes first or not at all; RFC 5095 forbids routing type 0.
                if (proto == HOP_BY_HOP && n > 0) || b.len() < 8 || (proto == ROUTING && b[2] == 0) {
                    return None;
                }
                (usize::from(b[1]) + 1) * 8
            }
            protocol::AH => (usize::from(*frame.get(at..end)?.get(1)?) + 2) * 4,
            FRAGMENT => {
                let b = frame.get(at..end).filter(|b| b.len() >= 8)?;
                let bits = be16(b, 2);
                let (more, offset) = (bits & 1 != 0, bits & 0xfff8);
                // An atomic fragment (RFC 6946) is a whole datagram.
                if more || offset != 0 {
                    fragment = Some(FragmentInfo { id: be32(b, 4), offset, more });
                }
                8
            }
            _ => break,
        };
        if n == MAX_EXTENSIONS || at + len > end {
            return None;
        }
        proto = frame[at];
        at += len;
        if fragment.is_some_and(|f| f.offset != 0) {
            break;
        }
    }
    Some(Headers { l4: at as u16, proto, fragment, ..headers })
}

impl Ip for V6 {
    const ETHERTYPE: u16 = super::ETHERTYPE_IPV6;
    const ICMP: u8 = protocol::ICMPV6;
    const HEADER: usize = HEADER;

    #[inline(always)]
    fn parse_plain(frame: &[u8], l3: usize) -> Option<Plain> {
        let h: &Header = frame.get(l3..)?.first_chunk()?;
        let end = l3 + HEADER + usize::from(be16(h, 4));
        // What has extension headers is neither of them.
        let plain = h[0] >> 4 == 6 && matches!(h[6], protocol::UDP | protocol::TCP);
        if !plain || end > frame.len() || end > usize::from(u16::MAX) {
            return None;
        }
        Some(Plain { end, ttl: h[7], proto: h[6] })
    }

    #[inline(always)]
    fn accepted(packet: &[u8], l3: usize) -> Plain {
        let h: &Header = view(packet, 0);
        Plain { end: l3 + HEADER + usize::from(be16(h, 4)), ttl: h[7], proto: h[6] }
    }

    fn parse(frame: &[u8], l3: usize) -> Result<Headers<V6>, DropReason> {
        parse(frame, l3, frame.len(), false).ok_or(DropReason::Malformed)
    }

    /// Extension headers are not options of this kind: a packet in which they do not add up is malformed.
    fn faulty_option(_frame: &[u8], _h: &Headers<V6>) -> Option<u8> {
        None
    }

    fn parse_quote(frame: &[u8], l3: usize, end: usize) -> Option<Headers<V6>> {
        parse(frame.get(..end)?, l3, end, true)
    }

    #[inline]
    fn addresses_of(frame: &[u8], l3: usize) -> (V6, V6) {
        (V6::read(&frame[l3 + 8..]), V6::read(&frame[l3 + 24..]))
    }

    #[inline]
    fn rewrite(frame: &mut [u8], was: &Headers<V6>, src: V6, dst: V6) -> Delta {
        let h: &mut Header = view_mut(frame, usize::from(was.l3));
        let delta = Delta::new(was.src.sum() + was.dst.sum(), src.sum() + dst.sum());
        src.write(&mut h[8..]);
        dst.write(&mut h[24..]);
        delta
    }

    #[inline(always)]
    fn rewrite_and_forward(frame: &mut [u8], l3: usize, src: V6, dst: V6, _: Change) {
        let h: &mut Header = view_mut(frame, l3);
        h[7] -= 1;
        src.write(&mut h[8..]);
        dst.write(&mut h[24..]);
    }

    fn make_whole(_: &mut [u8], _: usize, _: u16) -> bool {
        false
    }

    #[inline]
    fn decrement_ttl(frame: &mut [u8], l3: usize) {
        frame[l3 + 7] -= 1;
    }

    fn increment_ttl(frame: &mut [u8], l3: usize) {
        frame[l3 + 7] += 1;
    }

    #[inline]
    fn is_martian_source(self) -> bool {
        // Unspecified, loopback, multicast; link-local is never forwarded (RFC 4291 2.5.6).
        self.0 >> 56 == 0xff || self.0 >> 54 == 0x3fa || (self.0 == 0 && self.1 <= 1)
    }

    #[inline]
    fn is_martian_destination(self) -> bool {
        self.is_martian_source()
    }
}
