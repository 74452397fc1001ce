//! From tuples to slots: open addressing in cache-line buckets of eight, with short tags.
//!
//! Each connection is entered twice, once for each direction. A key lives in its home bucket or, when
//! that is full, in the next ones; every bucket counts the entries that passed it by on the way, so that
//! a look-up stops at the first bucket nobody passed, and removal needs no tombstones.

use std::io;

use super::region::{Region, prefetch};
use super::{Direction, Key, Slab};
use crate::packet::Address;

const SLOTS: usize = 8;

/// Eight entries: a tag of the hash (0: empty) and a slot number with the direction in its lowest bit.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u16; SLOTS],
    entries: [Entry; SLOTS],
    /// Entries that found this bucket full on the way from their home.
    passed: u32,
    pad: [u32; 3],
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// A worker's table of one family.
#[derive(Debug)]
pub struct Table {
    buckets: Region<Bucket>,
    mask: u64,
}

/// A slot with a direction in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry(u32);

impl Entry {
    /// None: a slot that there is not.
    pub const NONE: Entry = Entry(u32::MAX);

    fn new(slot: u32, d: Direction) -> Self {
        Entry(slot << 1 | d as u32)
    }

    /// As a number: that of [`Entry::NONE`] has all bits set.
    #[inline]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// What [`Entry::bits`] was asked of. Any number will do: who looks there compares keys.
    #[inline]
    pub fn from_bits(bits: u32) -> Self {
        Entry(bits)
    }

    /// The slot.
    #[inline]
    pub fn slot(self) -> u32 {
        self.0 >> 1
    }

    /// The direction.
    #[inline]
    pub fn direction(self) -> Direction {
        if self.0 & 1 == 0 { Direction::Original } else { Direction::Reply }
    }
}

/// The tag of a hash, from bits the bucket index does not use; never 0.
#[inline]
fn tag(hash: u64) -> u16 {
    (hash >> 48) as u16 | 1
}

impl Bucket {
    /// Bit `i` set: entry `i` has this tag.
    #[inline]
    fn find(&self, tag: u16) -> u32 {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{
                _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16, _mm_setzero_si128,
            };
            // SAFETY: every x86-64 has SSE2, and the tags are the 16 bytes that are read.
            unsafe {
                let tags = _mm_loadu_si128(self.tags.as_ptr().cast());
                let equal = _mm_cmpeq_epi16(tags, _mm_set1_epi16(tag as i16));
                _mm_movemask_epi8(_mm_packs_epi16(equal, _mm_setzero_si128())) as u32
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        self.tags.iter().enumerate().fold(0, |m, (i, t)| m | u32::from(*t == tag) << i)
    }
}

impl Table {
    /// A table for up to `connections` connections, at most half full then.
    ///
    /// # Errors
    /// When the address space cannot be had.
    pub fn new(connections: u32) -> io::Result<Self> {
        let buckets = (u64::from(connections) * 2 * 2).div_ceil(SLOTS as u64).next_power_of_two();
        // SAFETY: a bucket of zeros is an empty bucket, and it needs no drop.
        let region = unsafe { Region::zeroed(buckets as usize)? };
        region.populate();
        Ok(Table { buckets: region, mask: buckets - 1 })
    }

    /// Loads the hash's home bucket ahead of use.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(self.buckets.as_ptr().wrapping_add((hash & self.mask) as usize));
    }

    /// The home bucket of a hash.
    #[inline]
    fn bucket(&self, hash: u64) -> &Bucket {
        // SAFETY: there are `mask + 1` buckets, all valid from the start.
        unsafe { &*self.buckets.as_ptr().add((hash & self.mask) as usize) }
    }

    /// The first entry of the home bucket whose tag fits, keys not compared: what to load ahead of use, and
    /// where to look first.
    #[inline]
    pub fn candidate(&self, hash: u64) -> Entry {
        let b = self.bucket(hash);
        let m = b.find(tag(hash));
        // Never more than 7, which the compiler does not know.
        if m != 0 { b.entries[m.trailing_zeros() as usize % SLOTS] } else { Entry::NONE }
    }

    /// Whether a key of this hash may be here.
    #[inline]
    pub fn may_have(&self, hash: u64) -> bool {
        let b = self.bucket(hash);
        b.passed != 0 || b.find(tag(hash)) != 0
    }

    /// The connection with this key, and the key's direction in it.
    #[inline]
    pub fn lookup<A: Address>(&self, slab: &Slab<A>, hash: u64, key: &Key<A>) -> Option<(u32, Direction)> {
        if self.may_have(hash) { self.find(slab, hash, key) } else { None }
    }

    fn find<A: Address>(&self, slab: &Slab<A>, hash: u64, key: &Key<A>) -> Option<(u32, Direction)> {
        let mut at = hash & self.mask;
        loop {
            let b = self.bucket(at);
            let mut m = b.find(tag(hash));
            while m != 0 {
                let e = b.entries[m.trailing_zeros() as usize];
                if slab.get(e.slot()).has(e.direction(), key) {
                    return Some((e.slot(), e.direction()));
                }
                m &= m - 1;
            }
            if b.passed == 0 {
                return None;
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Enters slot `slot` under one direction's hash. The caller has checked that the key is not there.
    #[inline]
    pub fn insert(&mut self, hash: u64, slot: u32, d: Direction) {
        let mask = self.mask;
        let buckets = self.buckets.as_mut_slice();
        let mut at = hash & mask;
        loop {
            let b = &mut buckets[at as usize];
            let free = b.find(0);
            if free != 0 {
                let i = free.trailing_zeros() as usize;
                b.tags[i] = tag(hash);
                b.entries[i] = Entry::new(slot, d);
                return;
            }
            b.passed += 1;
            at = (at + 1) & mask;
        }
    }

    /// Removes what [`Table::insert`] entered; panics when it is not there.
    pub fn remove(&mut self, hash: u64, slot: u32, d: Direction) {
        let mask = self.mask;
        let buckets = self.buckets.as_mut_slice();
        let entry = Entry::new(slot, d);
        let home = hash & mask;
        let mut at = home;
        let found = loop {
            let b = &buckets[at as usize];
            let t = tag(hash);
            let mut m = b.find(t);
            while m != 0 && b.entries[m.trailing_zeros() as usize] != entry {
                m &= m - 1;
            }
            if m != 0 {
                break m.trailing_zeros() as usize;
            }
            assert!(b.passed > 0, "removed an entry that is not in the table");
            at = (at + 1) & mask;
        };
        buckets[at as usize].tags[found] = 0;
        let mut b = home;
        while b != at {
            buckets[b as usize].passed -= 1;
            b = (b + 1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::conntrack::{Connection, Private, SlabView, Ticks, Tuple};
    use crate::packet::{V4, protocol};

    fn key(n: u16) -> Key<V4> {
        Key { tuple: Tuple { src: V4(1), dst: V4(2), sport: n, dport: 9 }, proto: protocol::UDP }
    }

    proptest! {
        /// Against a HashMap, with hashes that collide in tags and buckets.
        #[test]
        fn agrees_with_a_hash_map(ops in proptest::collection::vec((any::<bool>(), 0u16..60), 1..400), spread in 1u64..5) {
            let mut table = Table::new(64).unwrap();
            let mut slab: Slab<V4> = Slab::new(SlabView::new(64).unwrap()).unwrap();
            let mut model: HashMap<u16, u32> = HashMap::new();
            let hash = |n: u16| (u64::from(n) % spread) | (u64::from(n) % 3) << 48;
            for (add, n) in ops {
                match (add, model.get(&n).copied()) {
                    (true, None) => {
                        let mut c = Connection::new(key(n), key(n).inverse().unwrap(), Private::Plain);
                        c.deadline = Ticks(7);
                        let slot = slab.insert(c).unwrap();
                        table.insert(hash(n), slot, Direction::Original);
                        model.insert(n, slot);
                    }
                    (false, Some(slot)) => {
                        table.remove(hash(n), slot, Direction::Original);
                        slab.remove(slot);
                        model.remove(&n);
                    }
                    _ => {}
                }
                for probe in 0..60 {
                    let want = model.get(&probe).map(|s| (*s, Direction::Original));
                    prop_assert_eq!(table.lookup(&slab, hash(probe), &key(probe)), want);
                }
                prop_assert_eq!(slab.len() as usize, model.len());
            }
        }
    }
}
