//! From tuples to slots: open addressing in cache-line buckets of eight, with short tags.
//!
//! Each connection is entered twice, once for each direction. A key lives in its home bucket or, when
//! that is full, in the next ones; every bucket counts the entries that passed it by on the way, so that
//! a look-up stops at the first bucket nobody passed, and removal needs no tombstones.

use std::io;
use std::marker::PhantomData;
use std::num::NonZero;

use super::region::{Region, prefetch};
use super::{Direction, Key, Slab};
use crate::packet::Address;

const SLOTS: usize = 8;
/// From a bucket to the next, in bytes.
const STEP: u64 = size_of::<Bucket>() as u64;

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
    /// Which bits of a hash are its home: the bucket's place in bytes.
    mask: u64,
}

/// A table's buckets: who asks for many of them has where they are at hand.
#[derive(Debug, Clone, Copy)]
pub struct Homes<'a> {
    buckets: *const Bucket,
    mask: u64,
    table: PhantomData<&'a Table>,
}

impl<'a> Homes<'a> {
    #[inline(always)]
    fn bucket(self, hash: u64) -> &'a Bucket {
        // SAFETY: the table, which is borrowed, has `mask / STEP + 1` buckets, all valid from the start, and the mask
        // leaves whole steps.
        unsafe { &*self.buckets.byte_add((hash & self.mask) as usize) }
    }

    /// [`Table::candidate`], if there is one.
    #[inline(always)]
    pub fn candidate(self, hash: u64) -> Option<Entry> {
        let b = self.bucket(hash);
        b.find(tag(hash)).first().map(|i| b.entries[i])
    }
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
    /// The entries that have this tag.
    #[inline]
    fn find(&self, tag: u16) -> Found {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi16};
            // SAFETY: every x86-64 has SSE2, and the tags are the 16 bytes that are read.
            let bits = unsafe {
                let tags = _mm_loadu_si128(self.tags.as_ptr().cast());
                _mm_movemask_epi8(_mm_cmpeq_epi16(tags, _mm_set1_epi16(tag as i16)))
            };
            Found(bits as u16)
        }
        #[cfg(not(target_arch = "x86_64"))]
        Found(self.tags.iter().enumerate().fold(0, |m, (i, t)| m | (u16::from(*t == tag) * 3) << (2 * i)))
    }
}

/// Entries of a bucket: two bits are set for each, as there are two bytes of its tag.
#[derive(Debug, Clone, Copy)]
struct Found(u16);

impl Found {
    #[inline]
    fn any(self) -> bool {
        self.0 != 0
    }

    #[inline]
    fn first(self) -> Option<usize> {
        let bits = NonZero::new(self.0)?;
        Some(bits.trailing_zeros() as usize / 2)
    }

    /// All but the first.
    #[inline]
    fn others(self) -> Self {
        let m = self.0 & self.0.wrapping_sub(1);
        Found(m & m.wrapping_sub(1))
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
        Ok(Table { buckets: region, mask: (buckets - 1) * STEP })
    }

    /// Loads the hash's home bucket ahead of use.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(self.buckets.as_ptr().wrapping_byte_add((hash & self.mask) as usize));
    }

    /// The home bucket of a hash.
    #[inline]
    fn bucket(&self, hash: u64) -> &Bucket {
        self.homes().bucket(hash)
    }

    /// Its buckets, to be asked for many candidates.
    #[inline]
    pub fn homes(&self) -> Homes<'_> {
        Homes { buckets: self.buckets.as_ptr(), mask: self.mask, table: PhantomData }
    }

    /// The first entry of the home bucket whose tag fits, keys not compared: what to load ahead of use, and
    /// where to look first. [`Entry::NONE`] where none does.
    #[inline]
    pub fn candidate(&self, hash: u64) -> Entry {
        self.homes().candidate(hash).unwrap_or(Entry::NONE)
    }

    /// Whether a key of this hash may be here.
    #[inline]
    pub fn may_have(&self, hash: u64) -> bool {
        let b = self.bucket(hash);
        b.passed != 0 || b.find(tag(hash)).any()
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
            while let Some(i) = m.first() {
                let e = b.entries[i];
                if slab.get(e.slot()).has(e.direction(), key) {
                    return Some((e.slot(), e.direction()));
                }
                m = m.others();
            }
            if b.passed == 0 {
                return None;
            }
            at = (at + STEP) & self.mask;
        }
    }

    /// Enters slot `slot` under one direction's hash. The caller has checked that the key is not there.
    #[inline]
    pub fn insert(&mut self, hash: u64, slot: u32, d: Direction) {
        let mask = self.mask;
        let buckets = self.buckets.as_mut_slice();
        let mut at = hash & mask;
        loop {
            let b = &mut buckets[(at / STEP) as usize];
            if let Some(i) = b.find(0).first() {
                b.tags[i] = tag(hash);
                b.entries[i] = Entry::new(slot, d);
                return;
            }
            b.passed += 1;
            at = (at + STEP) & mask;
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
            let b = &buckets[(at / STEP) as usize];
            let t = tag(hash);
            let mut m = b.find(t);
            while m.first().is_some_and(|i| b.entries[i] != entry) {
                m = m.others();
            }
            if let Some(i) = m.first() {
                break i;
            }
            assert!(b.passed > 0, "removed an entry that is not in the table");
            at = (at + STEP) & mask;
        };
        buckets[(at / STEP) as usize].tags[found] = 0;
        let mut b = home;
        while b != at {
            buckets[(b / STEP) as usize].passed -= 1;
            b = (b + STEP) & mask;
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
            let hash = |n: u16| ((u64::from(n) % spread) * STEP) | ((u64::from(n) % 3) << 48);
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
