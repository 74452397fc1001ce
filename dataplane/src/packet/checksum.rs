//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use super::{Address, view};

/// Folds a sum of 16-bit words to 16 bits: 0xffff for every multiple of that but 0.
#[inline]
pub fn fold(s: u64) -> u16 {
    // Added to itself turned by half its width, each half is the sum of both with the carry brought round.
    let s = fold32(s);
    (s.wrapping_add(s.rotate_left(16)) >> 16) as u16
}

#[inline]
fn fold32(s: u64) -> u32 {
    (s.wrapping_add(s.rotate_left(32)) >> 32) as u32
}

/// Ones' complement sum of big-endian 16-bit words, an odd last byte padded with zero; folded to 32 bits.
#[inline(always)]
pub fn sum(data: &[u8]) -> u64 {
    // Any width and byte order will do (RFC 1071 section 2): 64 bits in little-endian order, and brought to
    // big-endian order at the end, which is multiplying by 256.
    u64::from(fold32(sum_little(data)).rotate_left(8))
}

/// Whether the checksum in `data` is right; `more`, below 2^56, is the sum of big-endian words that it covers besides.
/// Not all of both is 0.
#[inline(always)]
pub fn is_right(data: &[u8], more: u64) -> bool {
    // Then all is a multiple of 0xffff, in either byte order.
    add(sum_little(data), more << 8).is_multiple_of(0xffff)
}

/// Ones' complement sum of 64-bit words in little-endian order.
#[inline(always)]
fn sum_little(data: &[u8]) -> u64 {
    let Some(last) = data.last_chunk::<8>() else {
        return data.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
    };
    // Of the last eight bytes, those that make no whole word with the ones before: one at least.
    let last = u64::from_le_bytes(*last) >> (8 * (data.len().wrapping_neg() & 7));
    let (s, rest) = if data.len() <= 64 { (last, data) } else { sum_long(data, last) };
    if rest.len() > 32 { sum_last::<32>(add_words::<32>(s, view(rest, 0)), rest) } else { sum_last::<0>(s, rest) }
}

/// `s` and the whole words that are left from `AT` on, where no more than 32 bytes are, but for the last one.
#[inline(always)]
fn sum_last<const AT: usize>(s: u64, data: &[u8]) -> u64 {
    let n = data.len();
    if n > AT + 16 {
        let s = add_words::<16>(s, view(data, AT));
        if n > AT + 24 { add_words::<8>(s, view(data, AT + 16)) } else { s }
    } else if n > AT + 8 {
        add_words::<8>(s, view(data, AT))
    } else {
        s
    }
}

/// `s` and some words, with the carries brought round.
#[inline(always)]
fn add_words<const N: usize>(s: u64, words: &[u8; N]) -> u64 {
    let add = |(s, carry): (u64, bool), w: &[u8; 8]| s.carrying_add(u64::from_le_bytes(*w), carry);
    let (s, carry) = words.as_chunks().0.iter().fold((s, false), add);
    // Where there is a carry, the sum is not all ones: that would take another carry before it, and the first
    // has none.
    s + u64::from(carry)
}

/// `a + b` with the carry brought round.
#[inline(always)]
fn add(a: u64, b: u64) -> u64 {
    let (s, carry) = a.overflowing_add(b);
    s + u64::from(carry)
}

/// `a - b`, likewise.
#[inline(always)]
fn subtract(a: u64, b: u64) -> u64 {
    let (s, borrow) = a.overflowing_sub(b);
    s - u64::from(borrow)
}

/// `s` and the little-endian sum of most of a longer packet, which the compiler makes vector instructions of, and
/// the one to 64 bytes that are left.
#[inline(never)]
fn sum_long(data: &[u8], s: u64) -> (u64, &[u8]) {
    let (blocks, rest) = data.split_at((data.len() - 1) / 64 * 64);
    let blocks = blocks.as_chunks::<64>().0;
    let mut lanes = [0u64; 8];
    for b in blocks {
        for (lane, w) in lanes.iter_mut().zip(b.as_chunks().0) {
            let w = u64::from_le_bytes(*w);
            *lane += (w & 0xffff_ffff) + (w >> 32);
        }
    }
    // No packet has as many words as would make these overflow.
    (add(s, lanes.iter().sum()), rest)
}

/// The checksum of `data`, to be written where the checksum field was zero.
#[inline]
pub fn checksum(data: &[u8]) -> u16 {
    !fold(sum(data))
}

/// Sum of the pseudo header of TCP, UDP and ICMPv6 (RFC 9293 3.1, RFC 8200 8.1); not folded.
#[inline]
pub fn pseudo_header<A: Address>(src: A, dst: A, proto: u8, len: usize) -> u64 {
    src.sum() + dst.sum() + u64::from(proto) + len as u64
}

/// What a checksum changes by when some of the words it covers change: RFC 1624's `~m + m'`, not folded, of words
/// in little-endian order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    /// The change from words summing to `old` to words summing to `new`, both below 2^40.
    #[inline]
    pub fn new(old: u64, new: u64) -> Self {
        debug_assert!(old < 1 << 40 && new < 1 << 40);
        Delta(subtract(new << 8, old << 8))
    }

    /// The change from these bytes to others.
    #[inline]
    pub fn of(old: [u8; 8], new: [u8; 8]) -> Self {
        Delta(subtract(u64::from_le_bytes(new), u64::from_le_bytes(old)))
    }

    /// The change from these bytes to others.
    #[inline]
    pub fn of_half(old: [u8; 4], new: [u8; 4]) -> Self {
        // As many times 0xffff as no difference makes negative.
        const NOTHING: u64 = 0xffff << 32;
        Delta(NOTHING + u64::from(u32::from_le_bytes(new)) - u64::from(u32::from_le_bytes(old)))
    }

    /// Both changes.
    #[inline]
    #[must_use]
    pub fn and(self, other: Delta) -> Self {
        Delta(add(self.0, other.0))
    }

    /// The checksum after both changes, the other one being [`Delta::of_half`].
    #[inline]
    pub fn apply_with(self, small: Delta, checksum: u16) -> u16 {
        debug_assert!(small.0 < 1 << 50);
        (!fold(add(u64::from(!checksum.swap_bytes()) + small.0, self.0))).swap_bytes()
    }

    /// The checksum after the change (RFC 1624 equation 3).
    #[inline]
    pub fn apply(self, checksum: u16) -> u16 {
        (!fold(add(u64::from(!checksum.swap_bytes()), self.0))).swap_bytes()
    }
}

/// A [`Delta`] folded, to be kept. The change back is its complement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change(pub u16);

impl From<Delta> for Change {
    #[inline]
    fn from(d: Delta) -> Self {
        let folded = fold(d.0);
        // Of the two zeros the one with which no sum becomes 0.
        Change(if folded == 0 { 0xffff } else { folded })
    }
}

impl Change {
    /// A checksum as it stands in a packet, after the change.
    #[inline(always)]
    pub fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        // What is added to the complement is taken from the checksum itself.
        let (s, borrow) = u16::from_le_bytes(checksum).overflowing_sub(self.0);
        s.wrapping_sub(borrow.into()).to_le_bytes()
    }

    /// The same where besides that a TTL, the first byte of its word, becomes one less.
    #[inline(always)]
    pub fn apply_with_ttl(self, checksum: [u8; 2]) -> [u8; 2] {
        let old = u16::from_le_bytes(checksum);
        // Less the borrow, and one more for the TTL; and 0xffff is 0, as where nothing else changes.
        let c = u32::from(old.wrapping_sub(self.0)) + u32::from(old >= self.0);
        ((c + u32::from(c >= 0xffff)) as u16).to_le_bytes()
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
    fn folding() {
        for (s, folded) in [
            (0, 0),
            (1, 1),
            (0xffff, 0xffff),
            (0x1_0000, 1),
            (0x1_fffe, 0xffff),
            (0xffff_0000, 0xffff),
            (0xffff_ffff, 0xffff),
            (0xffff_ffff_ffff_ffff, 0xffff),
            (0x1_0000_0000, 1),
            (0xffff_ffff_0000_0001, 1),
        ] {
            assert_eq!(fold(s), folded, "{s:#x}");
        }
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
        fn a_kept_change_is_as_good(old in 0u64..1 << 36, new in 0u64..1 << 36, checksum in 0u16..0xffff) {
            let (there, back) = (Delta::new(old, new), Delta::new(new, old));
            for (kept, delta) in [(Change::from(there), there), (Change(!Change::from(there).0), back)] {
                prop_assert_eq!(u16::from_be_bytes(kept.apply(checksum.to_be_bytes())), delta.apply(checksum));
                let one_less = delta.and(Delta::new(0x100, 0));
                prop_assert_eq!(u16::from_be_bytes(kept.apply_with_ttl(checksum.to_be_bytes())), one_less.apply(checksum));
            }
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
