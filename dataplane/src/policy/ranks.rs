//! Looking a value up among many sorted ones: a static B-tree, one cache line a level for IPv4.
//!
//! A binary search in a hundred thousand ranges touches seventeen lines, of which a dozen are not in the
//! cache. This touches five, of which the first three are shared by all look-ups.

/// Keys in a block: 64 bytes of IPv4 addresses.
const BLOCK: usize = 16;

/// A block of keys in a cache line of its own.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Block<K>([K; BLOCK]);

/// Sorted, distinct keys.
#[derive(Debug, Clone)]
pub(super) struct Ranks<K> {
    /// From the root, a single block, to the keys themselves. A key of a level stands for a block of the next, and
    /// is its first key.
    levels: Vec<Vec<Block<K>>>,
    len: usize,
}

impl<K: Copy + Ord> Ranks<K> {
    /// Arranges `keys`, which are sorted and distinct. `highest` is the highest value of the type.
    pub(super) fn new(keys: &[K], highest: K) -> Self {
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
        Ranks { levels, len: keys.len() }
    }

    /// How many keys are at most `x`.
    #[inline]
    pub(super) fn rank(&self, x: K) -> usize {
        let mut at = 0;
        let mut rank = 0;
        for level in &self.levels {
            // Padding counts for the highest value only: it may lead beyond the end of the next level.
            let Some(last) = level.len().checked_sub(1) else { return 0 };
            let block = at.min(last);
            rank = block * BLOCK + level[block].0.iter().filter(|k| **k <= x).count();
            at = rank.saturating_sub(1);
        }
        rank.min(self.len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_a_search_would(
            mut keys in proptest::collection::vec(prop_oneof![any::<u32>(), 0..2000u32, u32::MAX - 9..], 0..3000),
            others in proptest::collection::vec(any::<u32>(), 20),
        ) {
            keys.sort_unstable();
            keys.dedup();
            let r = Ranks::new(&keys, u32::MAX);
            let near = keys.iter().flat_map(|k| [k.wrapping_sub(1), *k, k.wrapping_add(1)]).step_by(7);
            for x in near.chain(others).chain([0, u32::MAX]) {
                prop_assert_eq!(r.rank(x), keys.partition_point(|k| *k <= x), "{} of {}", x, keys.len());
            }
        }
    }
}
