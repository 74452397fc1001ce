//! Receive-side scaling: which queue a network card puts a packet in, as pure functions.

use std::net::IpAddr;

/// The Toeplitz hash of the RSS specification over source address, destination address and, for TCP and
/// UDP, the ports, all in network byte order. `key` has at least 40 bytes for IPv6 with ports.
pub fn toeplitz(key: &[u8], src: IpAddr, dst: IpAddr, ports: Option<(u16, u16)>) -> u32 {
    let mut input = Vec::with_capacity(36);
    for ip in [src, dst] {
        match ip {
            IpAddr::V4(a) => input.extend(a.octets()),
            IpAddr::V6(a) => input.extend(a.octets()),
        }
    }
    if let Some((s, d)) = ports {
        input.extend(s.to_be_bytes());
        input.extend(d.to_be_bytes());
    }
    let mut hash = 0u32;
    // The 32 key bits under the input bit that is being looked at.
    let mut window = u64::from(u32::from_be_bytes([key[0], key[1], key[2], key[3]])) << 32;
    for (i, byte) in input.iter().enumerate() {
        window |= u64::from(key.get(i + 4).copied().unwrap_or(0)) << 24;
        for bit in (0..8).rev() {
            if byte >> bit & 1 == 1 {
                hash ^= (window >> 32) as u32;
            }
            window <<= 1;
        }
    }
    hash
}

/// The queue a hash is sent to by an indirection table, whose size is a power of two.
pub fn queue(indirection: &[u32], hash: u32) -> Option<u32> {
    indirection.get(hash as usize & indirection.len().checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verification suite of Microsoft's RSS specification.
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
        0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
        0xbe, 0xac, 0x01, 0xfa,
    ];

    #[test]
    fn published_vectors() {
        for (dst, dport, src, sport, plain, with_ports) in [
            ("161.142.100.80", 1766, "66.9.149.187", 2794, 0x323e_8fc2u32, 0x51cc_c178u32),
            ("65.69.140.83", 4739, "199.92.111.2", 14230, 0xd718_262a, 0xc626_b0ea),
            ("12.22.207.184", 38024, "24.19.198.95", 12898, 0xd2d0_a5de, 0x5c2b_394a),
            ("209.142.163.6", 2217, "38.27.205.30", 48228, 0x8298_9176, 0xafc7_327f),
            ("202.188.127.2", 1303, "153.39.163.191", 44251, 0x5d18_09c5, 0x10e8_28a2),
            ("3ffe:2501:200:3::1", 1766, "3ffe:2501:200:1fff::7", 2794, 0x2cc1_8cd5, 0x4020_7d3d),
            ("ff02::1", 4739, "3ffe:501:8::260:97ff:fe40:efab", 14230, 0x0f0c_461c, 0xdde5_1bbf),
            ("fe80::200:f8ff:fe21:67cf", 38024, "3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, 0x4b61_e985, 0x02d1_feef),
        ] {
            let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
            assert_eq!(toeplitz(&KEY, src, dst, None), plain, "{src} > {dst}");
            assert_eq!(toeplitz(&KEY, src, dst, Some((sport, dport))), with_ports, "{src} > {dst}");
        }
    }

    #[test]
    fn indirection() {
        assert_eq!(queue(&[0, 1, 2, 3], 6), Some(2));
        assert_eq!(queue(&[], 6), None);
    }
}
