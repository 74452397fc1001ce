//! CRC32c (Castagnoli), the checksum of SCTP (RFC 9260 appendix A).
//!
//! It covers ports and data but no addresses. Unlike an Internet checksum it is not adjusted for a
//! changed port: the whole packet is summed again, eight bytes at a time.

/// The polynomial 0x1EDC6F41, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `TABLES[k][b]`: what byte `b` contributes when `k` more bytes follow it.
static TABLES: [[u32; 256]; 8] = {
    let mut t = [[0u32; 256]; 8];
    let mut b = 0;
    while b < 256 {
        let mut c = b as u32;
        let mut bit = 0;
        while bit < 8 {
            c = if c & 1 == 1 { (c >> 1) ^ POLYNOMIAL } else { c >> 1 };
            bit += 1;
        }
        t[0][b] = c;
        b += 1;
    }
    let mut k = 1;
    while k < 8 {
        b = 0;
        while b < 256 {
            let c = t[k - 1][b];
            t[k][b] = (c >> 8) ^ t[0][(c & 0xff) as usize];
            b += 1;
        }
        k += 1;
    }
    t
};

/// The CRC of `data`.
pub fn crc32c(data: &[u8]) -> u32 {
    !update(u32::MAX, data)
}

/// The state after more bytes; it begins with all ones and is inverted in the end.
fn update(mut crc: u32, data: &[u8]) -> u32 {
    let (words, rest) = data.as_chunks::<8>();
    for word in words {
        let b = (u64::from_le_bytes(*word) ^ u64::from(crc)).to_le_bytes();
        crc = b.iter().zip(TABLES.iter().rev()).fold(0, |c, (byte, table)| c ^ table[usize::from(*byte)]);
    }
    for byte in rest {
        crc = TABLES[0][usize::from(crc as u8 ^ byte)] ^ (crc >> 8);
    }
    crc
}

/// The value of the checksum field that an SCTP packet, which begins at `packet[0]`, should have, as read
/// in network byte order; panics when it has no common header.
pub fn of_packet(packet: &[u8]) -> u32 {
    let state = update(u32::MAX, &packet[..8]);
    let state = update(state, &[0; 4]);
    // RFC 9260 appendix A: the CRC's bytes are transmitted least significant first.
    (!update(state, &packet[12..])).swap_bytes()
}

/// Writes the checksum of an SCTP packet that begins at `packet[0]`; panics when it has no common header.
pub fn fill(packet: &mut [u8]) {
    let c = of_packet(packet);
    packet[8..12].copy_from_slice(&c.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors() {
        // RFC 3720 appendix B.4, and the check value of the CRC catalogues.
        let read_command = [
            0x01, 0xc0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x14, 0x00,
            0x00, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x18, 0x28, 0x00, 0x00, 0x00,
            0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        ];
        let up: Vec<u8> = (0..32).collect();
        let down: Vec<u8> = (0..32).rev().collect();
        for (data, crc) in [
            (&[][..], 0),
            (b"123456789", 0xe306_9283),
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&up, 0x46dd_794e),
            (&down, 0x113f_db5c),
            (&read_command, 0xd996_3a56),
        ] {
            assert_eq!(crc32c(data), crc, "{data:02x?}");
        }
    }

    #[test]
    fn every_length_and_offset() {
        let bitwise = |data: &[u8]| {
            !data.iter().fold(u32::MAX, |crc, byte| {
                (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { (c >> 1) ^ POLYNOMIAL } else { c >> 1 })
            })
        };
        let data: Vec<u8> = (0u32..64).map(|i| (i * i * 37 + 11) as u8).collect();
        for from in 0..8 {
            for to in from..data.len() {
                assert_eq!(crc32c(&data[from..to]), bitwise(&data[from..to]), "{from}..{to}");
            }
        }
    }

    #[test]
    fn filled_packet() {
        let mut packet = [0u8; 16];
        packet[..8].copy_from_slice(&[0x0b, 0x80, 0x12, 0x34, 0xde, 0xad, 0xbe, 0xef]);
        packet[8..12].copy_from_slice(&[1, 2, 3, 4]);
        packet[12..].copy_from_slice(&[11, 0, 0, 4]);
        fill(&mut packet);
        let sum = u32::from_le_bytes([packet[8], packet[9], packet[10], packet[11]]);
        packet[8..12].fill(0);
        assert_eq!(sum, crc32c(&packet));
    }
}
