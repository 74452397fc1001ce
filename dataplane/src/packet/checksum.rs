//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use super::Address;

/// Folds a sum of 16-bit words to 16 bits.
#[inline]
pub fn fold(mut s: u64) -> u16 {
    s = (s & 0xffff_ffff) + (s >> 32);
    s = (s & 0xffff) + (s >> 16);
    s = (s & 0xffff) + (s >> 16);
    s = (s & 0xffff) + (s >> 16);
    s as u16
}

/// Ones' complement sum of big-endian 16-bit words, an odd last byte padded with zero; not folded.
#[inline]
pub fn sum(data: &[u8]) -> u64 {
    // Summed in native order, 32 bits at a time (RFC 1071 section 2 (B) and (C)), swapped at the end.
    let mut s: u64 = 0;
    let mut words = data.chunks_exact(4);
    for w in &mut words {
        s += u64::from(u32::from_ne_bytes([w[0], w[1], w[2], w[3]]));
    }
    let rest = words.remainder();
    let mut last = [0u8; 4];
    last[..rest.len()].copy_from_slice(rest);
    s += u64::from(u32::from_ne_bytes(last));
    u64::from(u16::from_be(fold(s)))
}

/// The checksum of `data`, to be written where the checksum field was zero.
#[inline]
pub fn checksum(data: &[u8]) -> u16 {
    !fold(sum(data))
}

/// Sum of the pseudo header of TCP, UDP and ICMPv6 (RFC 9293 3.1, RFC 8200 8.1); not folded.
#[inline]
pub fn pseudo_header<A: Address>(src: A, dst: A, proto: u8, len: usize) -> u64 {
    src.sum() + dst.sum() + u64::from(proto) + (len as u64 >> 16) + (len as u64 & 0xffff)
}

/// What a checksum changes by when some of the words it covers change: RFC 1624's `~m + m'`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    /// The change from words summing to `old` to words summing to `new`.
    #[inline]
    pub fn new(old: u64, new: u64) -> Self {
        Delta(u64::from(!fold(old)) + u64::from(fold(new)))
    }

    /// Both changes.
    #[inline]
    #[must_use]
    pub fn and(self, other: Delta) -> Self {
        Delta(self.0 + other.0)
    }

    /// The checksum after the change (RFC 1624 equation 3).
    #[inline]
    pub fn apply(self, checksum: u16) -> u16 {
        !fold(u64::from(!checksum) + self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(data: &[u8]) -> u16 {
        let mut s = 0u64;
        for c in data.chunks(2) {
            s += u64::from(c[0]) << 8 | u64::from(*c.get(1).unwrap_or(&0));
        }
        fold(s)
    }

    #[test]
    fn rfc_1071_example() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    proptest! {
        #[test]
        fn sum_agrees_with_the_definition(data in proptest::collection::vec(any::<u8>(), 0..1600)) {
            prop_assert_eq!(fold(sum(&data)), naive(&data));
        }

        #[test]
        fn incremental_equals_full(mut data in proptest::collection::vec(any::<u8>(), 20..200), at in 0usize..9, new: u16) {
            // The checksum lies in the last two bytes; word `at` changes.
            let n = data.len() & !1;
            data.truncate(n);
            data[n - 2..].fill(0);
            // An all-zero packet has two representations of zero; real headers never are.
            data[0] |= 0x40;
            let before = checksum(&data);
            let old = u16::from_be_bytes([data[2 * at], data[2 * at + 1]]);
            data[2 * at..2 * at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assume!(data.iter().any(|b| *b != 0));
            let after = Delta::new(u64::from(old), u64::from(new)).apply(before);
            prop_assert_eq!(after, checksum(&data));
        }
    }
}
