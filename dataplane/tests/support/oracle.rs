//! Packets as plain bytes, with checksums by the definitions and nothing else: what the gateway's work is
//! held against.

use std::net::IpAddr;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const GRE: u8 = 47;
pub const ESP: u8 = 50;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;
pub const UDPLITE: u8 = 136;

/// Addresses and ports of a packet; for ICMP queries `sport` is the identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ends {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub sport: u16,
    pub dport: u16,
}

impl Ends {
    /// Those of an answer.
    pub fn turned(self, proto: u8) -> Ends {
        let (sport, dport) = if is_icmp(proto) { (self.sport, 0) } else { (self.dport, self.sport) };
        Ends { src: self.dst, dst: self.src, sport, dport }
    }
}

pub fn is_icmp(proto: u8) -> bool {
    matches!(proto, ICMP | ICMPV6)
}

pub fn has_ports(proto: u8) -> bool {
    matches!(proto, TCP | UDP | UDPLITE | SCTP)
}

fn word(p: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([p[at], p[at + 1]])
}

fn put(p: &mut [u8], at: usize, v: u16) {
    p[at..at + 2].copy_from_slice(&v.to_be_bytes());
}

/// RFC 1071, one word at a time.
fn ones_complement(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// CRC32c, one bit at a time.
fn crc32c(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for b in data {
        crc ^= u32::from(*b);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

/// Where the transport header begins, and its protocol. IPv6 extension headers of eight bytes are passed by.
pub fn transport(p: &[u8]) -> (usize, u8) {
    if p[0] >> 4 == 4 {
        return (usize::from(p[0] & 15) * 4, p[9]);
    }
    let (mut at, mut proto) = (40, p[6]);
    while proto == 60 {
        proto = p[at];
        at += 8;
    }
    (at, proto)
}

/// Whether the packet is an echo request or its answer.
fn is_query(p: &[u8]) -> bool {
    let (l4, proto) = transport(p);
    matches!((proto, p[l4]), (ICMP, 0 | 8) | (ICMPV6, 128 | 129))
}

fn addresses(p: &[u8]) -> std::ops::Range<usize> {
    if p[0] >> 4 == 4 { 12..20 } else { 8..40 }
}

pub fn ends(p: &[u8]) -> Ends {
    let a = &p[addresses(p)];
    let ip = |b: &[u8]| match b.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(b).unwrap()),
        _ => IpAddr::from(<[u8; 16]>::try_from(b).unwrap()),
    };
    let (l4, proto) = transport(p);
    let (sport, dport) = match proto {
        _ if has_ports(proto) => (word(p, l4), word(p, l4 + 2)),
        _ if is_query(p) => (word(p, l4 + 4), 0),
        _ => (0, 0),
    };
    Ends { src: ip(&a[..a.len() / 2]), dst: ip(&a[a.len() / 2..]), sport, dport }
}

/// The packet with other ends, one hop further, all checksums computed anew.
pub fn moved(p: &[u8], to: Ends, hops: u8) -> Vec<u8> {
    let mut v = with_ends(p, to);
    let ttl = if v[0] >> 4 == 4 { 8 } else { 7 };
    v[ttl] -= hops;
    finish(&mut v);
    v
}

/// The packet with other ends, its checksums as they were.
pub fn with_ends(p: &[u8], to: Ends) -> Vec<u8> {
    let mut v = p.to_vec();
    let mut both = Vec::new();
    for ip in [to.src, to.dst] {
        match ip {
            IpAddr::V4(a) => both.extend(a.octets()),
            IpAddr::V6(a) => both.extend(a.octets()),
        }
    }
    v[addresses(p)].copy_from_slice(&both);
    let (l4, proto) = transport(p);
    if has_ports(proto) {
        put(&mut v, l4, to.sport);
        put(&mut v, l4 + 2, to.dport);
    } else if is_query(p) {
        put(&mut v, l4 + 4, to.sport);
    }
    v
}

/// Computes the IPv4 header's checksum.
pub fn finish_header(p: &mut [u8]) {
    if p[0] >> 4 == 4 {
        let l4 = usize::from(p[0] & 15) * 4;
        put(p, 10, 0);
        let c = ones_complement(&[&p[..l4]]);
        put(p, 10, c);
    }
}

/// Computes all checksums. A UDP checksum of 0 says that there is none.
pub fn finish(p: &mut [u8]) {
    finish_header(p);
    let (l4, proto) = transport(p);
    let mut pseudo = p[addresses(p)].to_vec();
    pseudo.extend(((p.len() - l4) as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, proto]);
    let (at, covered, pseudo) = match proto {
        TCP => (16, p.len(), &pseudo[..]),
        UDP if word(p, l4 + 6) == 0 => return,
        UDP => (6, p.len(), &pseudo[..]),
        UDPLITE => (6, if word(p, l4 + 4) == 0 { p.len() } else { l4 + usize::from(word(p, l4 + 4)) }, &pseudo[..]),
        ICMP => (2, p.len(), &[][..]),
        ICMPV6 => (2, p.len(), &pseudo[..]),
        SCTP => {
            p[l4 + 8..l4 + 12].fill(0);
            let c = crc32c(&p[l4..]);
            p[l4 + 8..l4 + 12].copy_from_slice(&c.to_le_bytes());
            return;
        }
        _ => return,
    };
    put(p, l4 + at, 0);
    let c = ones_complement(&[pseudo, &p[l4..covered]]);
    put(p, l4 + at, if c == 0 && matches!(proto, UDP | UDPLITE) { 0xffff } else { c });
}
