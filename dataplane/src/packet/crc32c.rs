//! CRC32c (Castagnoli), the checksum of SCTP (RFC 9260 appendix A).

const fn table() -> [u32; 256] {
    let mut t = [0u32; 256];
    let mut i = 0;
    while i < 256 {
        let mut c = i as u32;
        let mut k = 0;
        while k < 8 {
            c = if c & 1 == 1 { (c >> 1) ^ 0x82f6_3b78 } else { c >> 1 };
            k += 1;
        }
        t[i] = c;
        i += 1;
    }
    t
}

static TABLE: [u32; 256] = table();

/// The CRC of `data`.
pub fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(u32::MAX, |c, b| TABLE[((c ^ u32::from(*b)) & 0xff) as usize] ^ (c >> 8))
}

/// Writes the checksum of an SCTP packet that begins at `packet[0]`; panics when it has no common header.
pub fn fill(packet: &mut [u8]) {
    packet[8..12].fill(0);
    let c = crc32c(packet);
    // RFC 9260 appendix A: the CRC's bytes are transmitted least significant first.
    packet[8..12].copy_from_slice(&c.to_le_bytes());
}
