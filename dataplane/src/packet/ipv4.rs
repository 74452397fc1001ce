//! IPv4 (RFC 791).

use super::checksum::{Delta, fold, sum};
use super::{Address, FragmentInfo, Headers, Ip, V4, be16, protocol, put16};
use crate::worker::DropReason;

const MIN_HEADER: usize = 20;

fn parse(frame: &[u8], l3: usize) -> Option<(Headers<V4>, usize)> {
    let h = frame.get(l3..l3 + MIN_HEADER)?;
    let ihl = usize::from(h[0] & 15) * 4;
    let total = usize::from(be16(h, 2));
    if h[0] >> 4 != 4 || ihl < MIN_HEADER || frame.len() < l3 + ihl || total < ihl {
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

    #[inline]
    fn parse(frame: &[u8], l3: usize) -> Result<Headers<V4>, DropReason> {
        let (mut h, total) = parse(frame, l3).ok_or(DropReason::Malformed)?;
        if l3 + total > frame.len() || total > usize::from(u16::MAX) - l3 {
            return Err(DropReason::Malformed);
        }
        h.end = (l3 + total) as u16;
        let header = &frame[l3..usize::from(h.l4)];
        if fold(sum(header)) != 0xffff {
            return Err(DropReason::IpChecksum);
        }
        if header.len() > MIN_HEADER {
            check_options(&header[MIN_HEADER..]).map_err(|_| DropReason::IpOption)?;
        }
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
        let (mut h, total) = parse(frame.get(..end)?, l3)?;
        h.end = (l3 + total).min(end) as u16;
        Some(h)
    }

    fn addresses_of(frame: &[u8], l3: usize) -> (V4, V4) {
        (V4::read(&frame[l3 + 12..]), V4::read(&frame[l3 + 16..]))
    }

    #[inline]
    fn rewrite(frame: &mut [u8], l3: usize, src: V4, dst: V4) -> Delta {
        let h = &mut frame[l3..l3 + MIN_HEADER];
        let delta = Delta::new(V4::read(&h[12..]).sum() + V4::read(&h[16..]).sum(), src.sum() + dst.sum());
        src.write(&mut h[12..]);
        dst.write(&mut h[16..]);
        let c = delta.apply(be16(h, 10));
        put16(h, 10, c);
        delta
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

    #[inline]
    fn decrement_ttl(frame: &mut [u8], l3: usize) {
        let h = &mut frame[l3..l3 + MIN_HEADER];
        let old = be16(h, 8);
        h[8] -= 1;
        let c = Delta::new(u64::from(old), u64::from(old) - 0x100).apply(be16(h, 10));
        put16(h, 10, c);
    }

    fn increment_ttl(frame: &mut [u8], l3: usize) {
        let h = &mut frame[l3..l3 + MIN_HEADER];
        let old = be16(h, 8);
        h[8] += 1;
        let c = Delta::new(u64::from(old), u64::from(old) + 0x100).apply(be16(h, 10));
        put16(h, 10, c);
    }

    #[inline]
    fn is_martian_source(self) -> bool {
        // Loopback, multicast, limited broadcast, unspecified. 240/4 is ordinary unicast to the kernel.
        matches!(self.0 >> 24, 127 | 224..=239) || self.0 == 0 || self.0 == u32::MAX
    }

    #[inline]
    fn is_martian_destination(self) -> bool {
        matches!(self.0 >> 24, 127 | 224..=239) || self.0 == 0 || self.0 == u32::MAX
    }
}
