//! Looking a value up among many sorted ones: a static B-tree, one cache line a level for IPv4.
//!
//! A binary search in a hundred thousand ranges touches seventeen lines, of which a dozen are not in the
//! cache. This touches five, of which the first three are shared by all look-ups.

use arrayvec::ArrayVec;

use crate::conntrack::region::prefetch;
use crate::packet::{Address, V4, V6};

/// Keys in a block: 64 bytes of IPv4 addresses.
const BLOCK: usize = 16;
/// Blocks below a block that does not hold the keys themselves.
const CHILDREN: usize = BLOCK + 1;
/// Levels that all addresses of IPv4 would need.
const LEVELS: usize = 8;

/// A level of so many bytes stays in the nearest caches.
const NEAR: usize = 1 << 13;

/// A block of keys in cache lines of its own.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Block<K>([K; BLOCK]);

/// What can be looked up.
pub trait Key: Address {
    /// As it is held in a block; the order of these need not be that of addresses.
    #[must_use]
    fn held(self) -> Self;
    /// How many of a block's keys, sorted, are at most `x`; both as they are held.
    fn count(block: &[Self; BLOCK], x: Self) -> usize;
}

impl Key for V4 {
    /// In the order of signed numbers: those can be compared many at once by every x86-64.
    #[inline]
    fn held(self) -> V4 {
        V4(self.0 ^ 1 << 31)
    }

    #[inline]
    fn count(block: &[V4; BLOCK], x: V4) -> usize {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{
                _mm_cmpgt_epi32, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_packs_epi32, _mm_set1_epi32,
            };
            let numbers = block.map(|k| k.0 as i32);
            // SAFETY: every x86-64 has SSE2, and four times four numbers are all that are read.
            let above = unsafe {
                let (p, x) = (numbers.as_ptr(), _mm_set1_epi32(x.0 as i32));
                let above = |i: usize| _mm_cmpgt_epi32(_mm_loadu_si128(p.add(4 * i).cast()), x);
                let (low, high) = (_mm_packs_epi32(above(0), above(1)), _mm_packs_epi32(above(2), above(3)));
                _mm_movemask_epi8(_mm_packs_epi16(low, high)) as u32
            };
            // As they are sorted, those that are not above come first.
            (above | 1 << BLOCK).trailing_zeros() as usize
        }
        #[cfg(not(target_arch = "x86_64"))]
        block.iter().map(|k| usize::from(k.0 as i32 <= x.0 as i32)).sum()
    }
}

impl Key for V6 {
    #[inline]
    fn held(self) -> V6 {
        self
    }

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
    /// From the root, a single block, to the keys themselves. A block above those has the first key below each of its
    /// children but the first.
    blocks: Vec<Block<K>>,
    /// Where each level begins.
    levels: ArrayVec<u32, LEVELS>,
    /// So many of them are small enough to be always near.
    near: u32,
    highest: K,
    len: usize,
}

impl<K: Key> Ranks<K> {
    /// Arranges `keys`, which are sorted and distinct.
    pub(super) fn new(keys: &[K]) -> Self {
        let highest = K::from_number(u128::MAX);
        let block = |keys: &[K]| {
            let mut block = [highest.held(); BLOCK];
            for (held, key) in block.iter_mut().zip(keys) {
                *held = key.held();
            }
            Block(block)
        };
        let mut levels: Vec<Vec<Block<K>>> = vec![keys.chunks(BLOCK).map(block).collect()];
        let mut firsts: Vec<K> = keys.chunks(BLOCK).map(|c| c[0]).collect();
        while firsts.len() > 1 {
            levels.push(firsts.chunks(CHILDREN).map(|c| block(&c[1..])).collect());
            firsts = firsts.chunks(CHILDREN).map(|c| c[0]).collect();
        }
        levels.reverse();
        let near = levels.iter().take_while(|l| l.len() * size_of::<Block<K>>() <= NEAR).count() as u32;
        let starts = levels.iter().scan(0, |at, level| {
            let start = *at;
            *at += level.len() as u32;
            Some(start)
        });
        let starts = if keys.is_empty() { ArrayVec::new() } else { starts.collect() };
        Ranks { levels: starts, blocks: levels.concat(), near, highest, len: keys.len() }
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
        let Some((last, inner)) = self.levels.split_last() else { return 0 };
        let x = x.held();
        let mut block = 0;
        for start in inner {
            block = block * CHILDREN + K::count(&self.blocks[*start as usize + block].0, x);
        }
        block * BLOCK + K::count(&self.blocks[*last as usize + block].0, x)
    }

    /// Some steps of [`Ranks::rank`] from a block on: the rank or, where the next block is not near, that block, with the
    /// number of its level; it is loaded ahead of use.
    #[inline(always)]
    pub(super) fn descend(&self, mut level: u32, mut block: u32, x: K) -> Result<usize, (u32, u32)> {
        if x == self.highest || self.levels.is_empty() {
            return Ok(self.rank(x));
        }
        let held = x.held();
        loop {
            let start = self.levels[level as usize];
            let count = K::count(&self.blocks[(start + block) as usize].0, held);
            level += 1;
            if level as usize == self.levels.len() {
                return Ok(block as usize * BLOCK + count);
            }
            block = block * CHILDREN as u32 + count as u32;
            if level >= self.near {
                self.prefetch(level as usize, block as usize);
                return Err((level, block));
            }
        }
    }

    /// Loads a block ahead of use.
    #[inline]
    pub(super) fn prefetch(&self, level: usize, block: usize) {
        let start = self.levels.get(level).map_or(0, |s| *s as usize);
        let block = self.blocks.as_ptr().wrapping_add(start + block).cast::<u8>();
        for line in (0..size_of::<Block<K>>()).step_by(64) {
            prefetch(block.wrapping_add(line));
        }
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
