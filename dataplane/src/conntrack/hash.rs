//! The keyed hash of tuples.
//!
//! Whoever sends packets chooses the tuples, so the hash must not tell which of them meet in a bucket: it has a
//! secret key. Products of 128 bits, of words that the key is mixed into, are folded to 64, as in wyhash; twice,
//! because after once one key in some hundreds has neighbouring tuples meet.

use ahash::RandomState;

/// The key of the tuple hash, the same on every worker of a daemon.
#[derive(Debug, Clone, Copy)]
pub struct HashKeys([u64; 6]);

impl Default for HashKeys {
    /// A random key.
    fn default() -> Self {
        let random = RandomState::new();
        let mut keys = std::array::from_fn(|i| random.hash_one(i));
        // Of a product with an even number not all bits would count.
        keys[2] |= 1;
        HashKeys(keys)
    }
}

/// The two halves of a product, one over the other.
#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl HashKeys {
    /// The hash of two words.
    #[inline(always)]
    pub fn two(&self, a: u64, b: u64) -> u64 {
        self.last(fold(a ^ self.0[0], b ^ self.0[1]))
    }

    #[inline(always)]
    fn last(&self, x: u64) -> u64 {
        fold(x.rotate_left(23), self.0[2])
    }

    /// The hash of five words.
    #[inline(always)]
    pub fn five(&self, [a, b, c, d, e]: [u64; 5]) -> u64 {
        let k = &self.0;
        // Turned, so that it matters which pair is which.
        self.last(fold(fold(a ^ k[0], b ^ k[1]).rotate_left(32) ^ fold(c ^ k[5], d ^ k[3]), e ^ k[4]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::{Key, Tuple};
    use crate::packet::{Address, V4, V6};

    /// The share of tuples that find their bucket full, at four to a bucket of eight; by chance it is 0.0106.
    fn crowded<A: Address>(keys: &HashKeys, tuple: impl Fn(u32) -> Tuple<A>) -> f64 {
        const BUCKETS: usize = 1 << 14;
        let mut load = vec![0u32; BUCKETS];
        let mut tags = std::collections::HashSet::new();
        let n = 4 * BUCKETS as u32;
        for i in 0..n {
            let hash = Key { tuple: tuple(i), proto: 17 }.hash(keys);
            load[hash as usize % BUCKETS] += 1;
            tags.insert(hash >> 48);
        }
        // By chance 63 % of 65,536 tags occur among as many tuples.
        assert!(tags.len() > 36_000, "{} tags", tags.len());
        f64::from(load.iter().map(|l| l.saturating_sub(8)).sum::<u32>()) / f64::from(n)
    }

    #[test]
    fn tuples_that_follow_each_other_spread_as_by_chance() {
        let four = |src, dst, sport, dport| Tuple { src: V4(src), dst: V4(dst), sport, dport };
        let six = |src, dst, sport| Tuple { src: V6(1 << 61, src), dst: V6(1 << 61 | 1, dst), sport, dport: 443 };
        for _ in 0..64 {
            let keys = HashKeys::default();
            for share in [
                crowded(&keys, |i| four(0x0a00_0000 + i, 0xc633_6402, 4000, 443)),
                crowded(&keys, |i| four(0xc633_6402, 0x0a00_0000 + i, 443, 4000)),
                crowded(&keys, |i| four(0x0a00_0002, 0xc633_6402, i as u16, 443)),
                crowded(&keys, |i| four(0xc633_6402, 0x0a00_0002, 443, i as u16)),
                crowded(&keys, |i| four(0x0a00_0002, i << 16, 4000, 443)),
                crowded(&keys, |i| four(i << 16, 0x0a00_0002, 4000, 443)),
                crowded(&keys, |i| four(0x0a00_0000 + (i >> 8), 0xc633_6402, 1024 + (i as u16 & 0xff), 443)),
                crowded(&keys, |i| six(u64::from(i), 2, 4000)),
                crowded(&keys, |i| six(2, u64::from(i) << 48, 4000)),
                crowded(&keys, |i| six(2, 3, i as u16)),
            ] {
                assert!(share < 0.02, "{share}");
            }
        }
    }

    #[test]
    fn source_and_destination_are_not_the_same() {
        let keys = HashKeys::default();
        let t = Tuple { src: V6(1, 2), dst: V6(3, 4), sport: 5, dport: 5 };
        let turned = Tuple { src: t.dst, dst: t.src, ..t };
        assert_ne!(Key { tuple: t, proto: 6 }.hash(&keys), Key { tuple: turned, proto: 6 }.hash(&keys));
    }
}
