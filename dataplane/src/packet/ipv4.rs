//! IPv4 (RFC 791).

use super::checksum::{Change, Delta, fold, is_right, sum};
use super::{Address, FragmentInfo, Headers, Ip, Plain, V4, be16, protocol, put16, view, view_mut};
use crate::worker::DropReason;

const MIN_HEADER: usize = 20;
/// The shortest packet of UDP. A shorter one is nothing plain.
const SHORTEST: usize = MIN_HEADER + 8;

type Header = [u8; MIN_HEADER];

#[inline]
fn header_mut(frame: &mut [u8], l3: usize) -> &mut Header {
    view_mut(frame, l3)
}

/// Reads a header; lengths are not held against the frame's. Returns the packet's length besides.
fn parse(h: &Header, l3: usize) -> Option<(Headers<V4>, usize)> {
    let ihl = usize::from(h[0] & 15) * 4;
    let total = usize::from(be16(h, 2));
    if h[0] >> 4 != 4 || ihl < MIN_HEADER || total < ihl {
        return None;
    }
    let bits = be16(h, 6);
    let (more, offset) = (bits & 0x2000 != 0, (bits & 0x1fff) * 8);
    let fragment = (more || offset != 0).then(|| FragmentInfo { id: u32::from(be16(h, 4)), offset, more });
    let headers = Headers {
        l3: l3 as u16,
        l4: (l3 + ihl) as u16,
        end: 0,
        proto: h[9],
        ttl: h[8],
        src: V4::read(&h[12..]),
        dst: V4::read(&h[16..]),
        fragment,
    };
    Some((headers, total))
}

/// An option that keeps a packet from being forwarded.
enum BadOption {
    /// Source routing (RFC 7126 3.3 and 3.4).
    SourceRoute,
    /// The length of the option at this place among the options does not add up.
    Length(usize),
}

fn check_options(options: &[u8]) -> Result<(), BadOption> {
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        at += match kind {
            0 => return Ok(()),
            1 => 1,
            131 | 137 => return Err(BadOption::SourceRoute),
            _ => match options.get(at + 1) {
                Some(&n) if n >= 2 && at + usize::from(n) <= options.len() => usize::from(n),
                _ => return Err(BadOption::Length(at)),
            },
        };
    }
    Ok(())
}

impl Ip for V4 {
    const ETHERTYPE: u16 = super::ETHERTYPE_IPV4;
    const ICMP: u8 = protocol::ICMP;
    const HEADER: usize = MIN_HEADER;

    #[inline(always)]
    fn parse_plain(frame: &[u8], l3: usize) -> Option<Plain> {
        let h: &Header = frame.get(l3..)?.first_chunk()?;
        let end = l3 + usize::from(be16(h, 2));
        // Version, length, and nothing about fragments.
        let plain = u64::from_le_bytes(*view(h, 0)) & 0xff3f_0000_0000_00ff == 0x45;
        let fits = end >= l3 + SHORTEST && end <= frame.len() && end <= usize::from(u16::MAX);
        if !plain || !fits || !is_right(h, 0) {
            return None;
        }
        Some(Plain { end, ttl: h[8], proto: h[9] })
    }

    #[inline(always)]
    fn accepted(packet: &[u8], l3: usize) -> Plain {
        let h: &Header = view(packet, 0);
        Plain { end: l3 + usize::from(be16(h, 2)), ttl: h[8], proto: h[9] }
    }

    fn parse(frame: &[u8], l3: usize) -> Result<Headers<V4>, DropReason> {
        let b = frame.get(l3..).and_then(<[u8]>::first_chunk).ok_or(DropReason::Malformed)?;
        let (mut h, total) = parse(b, l3).ok_or(DropReason::Malformed)?;
        if l3 + total > frame.len() || total > usize::from(u16::MAX) - l3 {
            return Err(DropReason::Malformed);
        }
        h.end = (l3 + total) as u16;
        let header = &frame[l3..usize::from(h.l4)];
        if fold(sum(header)) != 0xffff {
            return Err(DropReason::IpChecksum);
        }
        check_options(&header[MIN_HEADER..]).map_err(|_| DropReason::IpOption)?;
        Ok(h)
    }

    fn faulty_option(frame: &[u8], h: &Headers<V4>) -> Option<u8> {
        let options = &frame[usize::from(h.l3) + MIN_HEADER..usize::from(h.l4)];
        match check_options(options) {
            Err(BadOption::Length(at)) => Some((MIN_HEADER + at) as u8),
            Err(BadOption::SourceRoute) | Ok(()) => None,
        }
    }

    fn parse_quote(frame: &[u8], l3: usize, end: usize) -> Option<Headers<V4>> {
        let (mut h, total) = parse(frame.get(l3..end)?.first_chunk()?, l3)?;
        h.end = (l3 + total).min(end) as u16;
        (h.l4 <= h.end).then_some(h)
    }

    #[inline]
    fn addresses_of(frame: &[u8], l3: usize) -> (V4, V4) {
        let both = u64::from_be_bytes(*view(frame, l3 + 12));
        (V4((both >> 32) as u32), V4(both as u32))
    }

    #[inline]
    fn rewrite(frame: &mut [u8], was: &Headers<V4>, src: V4, dst: V4) -> Delta {
        let h = header_mut(frame, usize::from(was.l3));
        let addresses: &mut [u8; 8] = view_mut(h, 12);
        let new = (u64::from(src.0) << 32 | u64::from(dst.0)).to_be_bytes();
        let delta = Delta::of(*addresses, new);
        *addresses = new;
        let c = delta.apply(be16(h, 10));
        put16(h, 10, c);
        delta
    }

    #[inline(always)]
    fn rewrite_and_forward(frame: &mut [u8], l3: usize, src: V4, dst: V4, change: Change) {
        let h = header_mut(frame, l3);
        // As they lie in the tuple of the other direction, one number.
        let turned = u64::from(dst.0) << 32 | u64::from(src.0);
        *view_mut(h, 12) = turned.rotate_left(32).to_be_bytes();
        h[8] -= 1;
        *view_mut(h, 10) = change.apply_with_ttl(*view(h, 10));
    }

    fn make_whole(frame: &mut [u8], l3: usize, length: u16) -> bool {
        let h = &mut frame[l3..l3 + MIN_HEADER];
        let change = Delta::new(u64::from(be16(h, 2)), u64::from(length))
            .and(Delta::new(u64::from(be16(h, 6)), u64::from(be16(h, 6) & 0xc000)));
        let c = change.apply(be16(h, 10));
        put16(h, 2, length);
        let flags = be16(h, 6) & 0xc000;
        put16(h, 6, flags);
        put16(h, 10, c);
        true
    }

    #[inline(always)]
    fn decrement_ttl(frame: &mut [u8], l3: usize) {
        let h = header_mut(frame, l3);
        h[8] -= 1;
        // The word is 0x100 less, so the checksum is as much more (RFC 1141), which is 1 in the other byte order;
        // and 0xffff is 0 (RFC 1624).
        let c = u32::from(u16::from_le_bytes(*view(h, 10))) + 1;
        *view_mut(h, 10) = ((c + u32::from(c >= 0xffff)) as u16).to_le_bytes();
    }

    fn increment_ttl(frame: &mut [u8], l3: usize) {
        let h = &mut frame[l3..l3 + MIN_HEADER];
        let old = be16(h, 8);
        h[8] += 1;
        let c = Delta::new(u64::from(old), u64::from(old) + 0x100).apply(be16(h, 10));
        put16(h, 10, c);
    }

    fn is_martian_source(self) -> bool {
        // Loopback, multicast, limited broadcast, unspecified. 240/4 is ordinary unicast to the kernel.
        matches!(self.0 >> 24, 127 | 224..=239) || self.0 == 0 || self.0 == u32::MAX
    }

    fn is_martian_destination(self) -> bool {
        self.is_martian_source()
    }
}
