//! The maximum segment size option of TCP (RFC 9293 3.7.1).

use super::checksum::Delta;
use super::{Headers, Ip, be16, put16};
use crate::conntrack::tcp::flags;

const KIND: u8 = 2;
const LENGTH: usize = 4;

/// Whether a TCP segment that was accepted as such is a SYN, the only one that announces an MSS.
#[inline(always)]
pub fn is_announced<A>(frame: &[u8], h: &Headers<A>) -> bool {
    frame[usize::from(h.l4) + 13] & flags::SYN != 0
}

/// Lowers the MSS that a SYN announces to what fits an MTU of `mtu` bytes, and updates the checksum. The
/// packet is a TCP segment that was accepted as such; anything but a SYN stays as it is.
pub fn clamp<A: Ip>(frame: &mut [u8], h: &Headers<A>, mtu: u16) {
    if !is_announced(frame, h) {
        return;
    }
    let b = &mut frame[usize::from(h.l4)..usize::from(h.end)];
    let end = (usize::from(b[12] >> 4) * 4).min(b.len());
    let most = mtu.saturating_sub(if A::V6 { 60 } else { 40 });
    let mut at = 20;
    while at < end {
        match b[at] {
            0 => return,
            1 => at += 1,
            KIND if at + LENGTH <= end && usize::from(b[at + 1]) == LENGTH => {
                let old = be16(b, at + 2);
                if old > most {
                    put16(b, at + 2, most);
                    // At an odd offset the halves of the number lie in two words of the checksum.
                    let sum = |n: u16| u64::from(if at % 2 == 0 { n } else { n.swap_bytes() });
                    let c = Delta::new(sum(old), sum(most)).apply(be16(b, 16));
                    put16(b, 16, c);
                }
                return;
            }
            _ => match b.get(at + 1) {
                Some(&n) if n >= 2 => at += usize::from(n),
                _ => return,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{ETHERNET, V4};
    use etherparse::{PacketBuilder, TcpOptionElement};

    #[test]
    fn lowers_but_never_raises() {
        for (mss, mtu, syn, odd, want) in [
            (1460, 1400, true, false, 1360),
            (1460, 1400, true, true, 1360),
            (1300, 1400, true, false, 1300),
            (1460, 1400, false, false, 1460),
        ] {
            let options = if odd {
                vec![TcpOptionElement::Noop, TcpOptionElement::MaximumSegmentSize(mss)]
            } else {
                vec![TcpOptionElement::MaximumSegmentSize(mss)]
            };
            let b = PacketBuilder::ethernet2([0; 6], [0; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
            let b = b.tcp(1, 2, 3, 1000).options(&options).unwrap();
            let b = if syn { b.syn() } else { b.ack(1) };
            let mut v = Vec::new();
            b.write(&mut v, &[]).unwrap();
            let h = <V4 as Ip>::parse(&v, ETHERNET).unwrap();
            clamp(&mut v, &h, mtu);
            let p = etherparse::PacketHeaders::from_ethernet_slice(&v).unwrap();
            let (Some(etherparse::TransportHeader::Tcp(t)), Some(etherparse::NetHeaders::Ipv4(ip, _))) =
                (p.transport, p.net)
            else {
                panic!()
            };
            assert!(t.options_iterator().any(|o| o == Ok(TcpOptionElement::MaximumSegmentSize(want))));
            assert_eq!(t.calc_checksum_ipv4(&ip, &[]).unwrap(), t.checksum);
        }
    }
}
