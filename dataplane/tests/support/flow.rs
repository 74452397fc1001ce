//! Conversations of every protocol, packet by packet, and errors about them.

use std::net::IpAddr;

use proptest::prelude::*;

use super::oracle::*;

/// What varies in the headers of a flow's packets, beside its ends.
#[derive(Debug, Clone)]
pub struct Look {
    pub tos: u8,
    pub ident: u16,
    pub dont_fragment: bool,
    pub ttl: u8,
    /// Words of IPv4 options, or an IPv6 extension header.
    pub options: bool,
    /// UDP over IPv4 without a checksum.
    pub unsummed: bool,
    /// Bytes that a UDP-Lite checksum covers, when that is fewer than all.
    pub covered: u16,
    pub seq: u32,
}

/// A conversation of four packets.
#[derive(Debug, Clone)]
pub struct Flow {
    pub proto: u8,
    pub ends: Ends,
    pub look: Look,
    /// What is sent: to and fro, to and fro.
    pub payloads: [Vec<u8>; 4],
}

impl Flow {
    /// Packet `n`: even ones from the side that begins. With the ends that this side knows.
    pub fn packet(&self, n: usize) -> Vec<u8> {
        let ends = if n.is_multiple_of(2) { self.ends } else { self.ends.turned(self.proto) };
        let data = &self.payloads[n];
        let l4 = match self.proto {
            TCP => self.segment(n, data),
            UDP => {
                [&[0; 4][..], &((8 + data.len()) as u16).to_be_bytes(), &[0, u8::from(!self.unsummed())], data].concat()
            }
            UDPLITE => {
                let covered = if usize::from(self.look.covered) > 8 + data.len() { 0 } else { self.look.covered };
                [&[0; 4][..], &covered.to_be_bytes(), &[0, 0], data].concat()
            }
            ICMP => [&[[8, 0][n % 2], 0, 0, 0, 0, 0, 0, n as u8][..], data].concat(),
            ICMPV6 => [&[[128, 129][n % 2], 0, 0, 0, 0, 0, 0, n as u8][..], data].concat(),
            SCTP => sctp(n, data),
            GRE => [&[0, 0, 8, 0][..], data].concat(),
            _ => [&[0, 0, 1, n as u8][..], data].concat(),
        };
        let mut p = self.header(l4.len(), n);
        p.extend(l4);
        let mut p = with_ends(&p, ends);
        finish(&mut p);
        p
    }

    fn unsummed(&self) -> bool {
        self.look.unsummed && self.ends.src.is_ipv4()
    }

    fn header(&self, payload: usize, n: usize) -> Vec<u8> {
        let l = &self.look;
        let mut h;
        if self.ends.src.is_ipv4() {
            // Record route, from where it is full already, and padding.
            let options: &[u8] = if l.options { &[7, 7, 8, 1, 2, 3, 4, 0] } else { &[] };
            h = vec![0x45 + (options.len() / 4) as u8, l.tos, 0, 0];
            h[2..4].copy_from_slice(&((20 + options.len() + payload) as u16).to_be_bytes());
            h.extend(l.ident.wrapping_add(n as u16).to_be_bytes());
            h.extend([if l.dont_fragment { 0x40 } else { 0 }, 0, l.ttl, self.proto, 0, 0]);
            h.extend([0; 8]);
            h.extend(options);
        } else {
            let extension: &[u8] = if l.options { &[self.proto, 0, 1, 4, 0, 0, 0, 0] } else { &[] };
            h = vec![0x60 | l.tos >> 4, l.tos << 4, 0x12, 0x34];
            h.extend(((extension.len() + payload) as u16).to_be_bytes());
            h.extend([if l.options { 60 } else { self.proto }, l.ttl]);
            h.extend([0; 32]);
            h.extend(extension);
        }
        h
    }

    /// Handshake, then data both ways.
    fn segment(&self, n: usize, data: &[u8]) -> Vec<u8> {
        let ours = self.look.seq;
        let theirs = !self.look.seq;
        let (seq, ack, flags, data) = match n {
            0 => (ours, 0, 0x02, &[][..]),
            1 => (theirs, ours.wrapping_add(1), 0x12, &[][..]),
            2 => (ours.wrapping_add(1), theirs.wrapping_add(1), 0x18, data),
            _ => (theirs.wrapping_add(1), ours.wrapping_add(1 + self.payloads[2].len() as u32), 0x18, data),
        };
        // The maximum segment size, with SYNs.
        let options: &[u8] = if flags & 2 != 0 { &[2, 4, 5, 0] } else { &[] };
        let mut s = vec![0; 4];
        s.extend(seq.to_be_bytes());
        s.extend(ack.to_be_bytes());
        s.extend([(5 + options.len() as u8 / 4) << 4, flags, 0x40, 0, 0, 0, 0, 0]);
        s.extend(options);
        s.extend(data);
        s
    }
}

/// INIT, INIT ACK, COOKIE ECHO, COOKIE ACK.
fn sctp(n: usize, data: &[u8]) -> Vec<u8> {
    let init = |kind: u8, tag: u32| {
        [&[kind, 0, 0, 20][..], &tag.to_be_bytes(), &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]].concat()
    };
    let (tag, chunk) = match n {
        0 => (0u32, init(1, 0x1111)),
        1 => (0x1111, init(2, 0x2222)),
        2 => {
            let cookie = &data[..data.len() & !3];
            (0x2222, [&[10, 0][..], &((4 + cookie.len()) as u16).to_be_bytes(), cookie].concat())
        }
        _ => (0x1111, vec![11, 0, 0, 4]),
    };
    [&[0; 4][..], &tag.to_be_bytes(), &[0; 4], &chunk].concat()
}

/// Any look.
pub fn look() -> impl Strategy<Value = Look> {
    (any::<u8>(), any::<u16>(), any::<bool>(), 2u8.., any::<bool>(), any::<bool>(), 8u16..40, any::<u32>()).prop_map(
        |(tos, ident, dont_fragment, ttl, options, unsummed, covered, seq)| Look {
            tos,
            ident,
            dont_fragment,
            ttl,
            options,
            unsummed,
            covered,
            seq,
        },
    )
}

/// An error by a router about a packet that has been on its way for `hops`, quoting up to `length` bytes.
pub fn error_about(p: &[u8], from: IpAddr, length: usize) -> Vec<u8> {
    let v6 = p[0] >> 4 == 6;
    let quote = &p[..p.len().min(length)];
    let mut e = if v6 {
        let mut h = vec![0x60, 0, 0, 0, 0, 0, ICMPV6, 64];
        h[4..6].copy_from_slice(&((8 + quote.len()) as u16).to_be_bytes());
        [h, vec![0; 32], vec![1, 3, 0, 0, 0, 0, 0, 0]].concat()
    } else {
        let mut h = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, ICMP, 0, 0];
        h[2..4].copy_from_slice(&((28 + quote.len()) as u16).to_be_bytes());
        [h, vec![0; 8], vec![3, 1, 0, 0, 0, 0, 0, 0]].concat()
    };
    e.extend(quote);
    moved(&e, Ends { src: from, dst: ends(p).src, sport: 0, dport: 0 }, 0)
}

/// Blanks the CRC of a quoted SCTP packet that is cut: nobody can tell it.
pub fn without_cut_crc(e: &[u8], whole: usize) -> Vec<u8> {
    let mut e = e.to_vec();
    let quote = transport(&e).0 + 8;
    let (l4, proto) = transport(&e[quote..]);
    if proto == SCTP && e.len() - quote < whole {
        let to = e.len().min(quote + l4 + 12);
        e[(quote + l4 + 8).min(to)..to].fill(0);
        finish(&mut e);
    }
    e
}
