//! Looking a value up among many sorted ones: a static B-tree, one cache line a level for IPv4.
//!
//! A binary search in a hundred thousand ranges touches seventeen lines, of which a dozen are not in the
//! cache. This touches five, of which the first three are shared by all look-ups.

use crate::packet::{Address, V4, V6};

/// Keys in a block: 64 bytes of IPv4 addresses.
const BLOCK: usize = 16;

/// A block of keys in cache lines of its own.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Block<K>([K; BLOCK]);

/// What can be looked up.
pub(super) trait Key: Address {
    /// How many of the sorted keys are at most `x`.
    fn count(block: &[Self; BLOCK], x: Self) -> usize;
}

impl Key for V4 {
    #[inline]
    fn count(block: &[V4; BLOCK], x: V4) -> usize {
        // All are compared at once: there are instructions for that.
        block.iter().map(|k| u32::from(k.0 <= x.0)).sum::<u32>() as usize
    }
}

impl Key for V6 {
    #[inline]
    fn count(block: &[V6; BLOCK], x: V6) -> usize {
        let x = x.bits();
        let mut n = 0;
        for step in [8, 4, 2, 1] {
            n += if block[n + step - 1].bits() <= x { step } else { 0 };
        }
        n + usize::from(block[n].bits() <= x)
    }
}

/// Sorted, distinct keys.
#[derive(Debug, Clone)]
pub(super) struct Ranks<K> {
    /// From the root, a single block, to the keys themselves. A key of a level stands for a block of the next, and
    /// is its first key.
    blocks: Vec<Block<K>>,
    /// Where each level begins.
    levels: Vec<u32>,
    highest: K,
    len: usize,
}

impl<K: Key> Ranks<K> {
    /// Arranges `keys`, which are sorted and distinct.
    pub(super) fn new(keys: &[K]) -> Self {
        let highest = K::from_number(u128::MAX);
        let blocks = |keys: &[K]| -> Vec<Block<K>> {
            let padded = |chunk: &[K]| {
                let mut block = [highest; BLOCK];
                block[..chunk.len()].copy_from_slice(chunk);
                Block(block)
            };
            keys.chunks(BLOCK).map(padded).collect()
        };
        let mut levels = vec![blocks(keys)];
        while levels.last().is_some_and(|l| l.len() > 1) {
            let first: Vec<K> = levels.last().into_iter().flatten().map(|b| b.0[0]).collect();
            levels.push(blocks(&first));
        }
        levels.reverse();
        let starts = levels.iter().scan(0, |at, level| {
            let start = *at;
            *at += level.len() as u32;
            Some(start)
        });
        let starts: Vec<u32> = if keys.is_empty() { Vec::new() } else { starts.collect() };
        Ranks { levels: starts, blocks: levels.concat(), highest, len: keys.len() }
    }

    /// Its size in bytes.
    pub(super) fn size(&self) -> usize {
        self.blocks.len() * size_of::<Block<K>>()
    }

    /// How many keys are at most `x`.
    #[inline]
    pub(super) fn rank(&self, x: K) -> usize {
        if x == self.highest {
            // As the padding is, which must not be counted.
            return self.len;
        }
        let mut rank = 0usize;
        for start in &self.levels {
            let block = rank.saturating_sub(1);
            rank = block * BLOCK + K::count(&self.blocks[*start as usize + block].0, x);
        }
        rank
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check<K: Key>(keys: &[K], near: impl Iterator<Item = K>) -> Result<(), TestCaseError> {
        let r = Ranks::new(keys);
        for x in near {
            prop_assert_eq!(r.rank(x), keys.partition_point(|k| *k <= x), "{} of {}", x, keys.len());
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn as_a_search_would(
            mut keys in proptest::collection::vec(prop_oneof![any::<u32>(), 0..2000u32, u32::MAX - 9..], 0..3000),
            others in proptest::collection::vec(any::<u32>(), 20),
        ) {
            keys.sort_unstable();
            keys.dedup();
            let near = keys.iter().flat_map(|k| [k.wrapping_sub(1), *k, k.wrapping_add(1)]).step_by(7);
            let values: Vec<u32> = near.chain(others).chain([0, u32::MAX]).collect();
            let four: Vec<V4> = keys.iter().map(|k| V4(*k)).collect();
            check(&four, values.iter().map(|x| V4(*x)))?;
            let six = |k: &u32| V6::from_bits(u128::from(*k >> 4) << 100 | u128::from(*k & 15));
            let keys: Vec<V6> = keys.iter().map(six).collect();
            check(&keys, values.iter().map(six).chain([V6::from_bits(u128::MAX)]))?;
        }
    }
}
