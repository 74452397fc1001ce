//! The directory: which worker owns a tuple, for frames that reach another worker than their owner.
//!
//! It holds a fingerprint and an owner for both tuples of every connection, and is asked only when a
//! worker's own table has no match. Claiming a fingerprint is also what keeps two workers from making
//! the same connection, or giving out the same translated tuple, at the same time. Two different tuples
//! with equal fingerprints (56 bits and more) look like one: the later connection then chooses another
//! port, or fails; it never reaches a wrong owner's translation, who compares whole tuples.
//!
//! Beside an owner stands where in its slab the connection is, as a hint that travels with the packets that are handed
//! over. The owner writes it there once such a packet has come without, or with a wrong one.

use std::io;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::conntrack::Entry;
use crate::conntrack::region::{Region, prefetch};

const SLOTS: usize = 5;
/// Bits that an entry's place in its bucket takes; the owner's number has 16 less.
const INDEX: u32 = 3;

const _: () = assert!(SLOTS <= 1 << INDEX);

/// A bit that every entry has.
const TAKEN: u64 = 1 << 63;

/// So many workers can be told apart.
pub(crate) const WORKERS: usize = 1 << (16 - INDEX);

/// Five entries with their hints, and how many more found the bucket full and live in the following ones.
#[derive(Debug)]
#[repr(C, align(64))]
struct Bucket {
    entries: [AtomicU64; SLOTS],
    /// [`Entry`], inverted, so that zeros say that there is none.
    hints: [AtomicU32; SLOTS],
    passed: AtomicU32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// Who owns which tuple.
#[derive(Debug)]
pub struct Directory {
    /// `None` with a single worker, who owns everything.
    buckets: Option<Region<Bucket>>,
    mask: u64,
}

/// The buckets, at hand.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    buckets: &'a [Bucket],
    mask: u64,
    all: &'a Directory,
}

/// The upper bits of a hash, of which the first is always set: never those of an empty entry, which is 0.
#[inline]
fn fingerprint(hash: u64) -> u64 {
    (hash | TAKEN) >> 16
}

/// The fingerprint, the owner's number, and which of its bucket's entries it is.
#[inline]
fn entry(hash: u64, owner: u16, i: usize) -> u64 {
    fingerprint(hash) << 16 | u64::from(owner) << INDEX | i as u64
}

#[inline]
fn owner(e: u64) -> u16 {
    e as u16 >> INDEX
}

/// A worker, and where in its slab a connection may be.
#[derive(Debug, Clone, Copy)]
pub struct Owner(NonZeroU64);

impl Owner {
    // One number, so that it stays in a register: the lowest bits as an entry has them, and one that is never 0.
    #[inline(always)]
    fn new(low: u16, entry: Entry) -> Self {
        const SET: NonZeroU64 = NonZeroU64::new(1 << 16).expect("it is not 0");
        Owner(SET | u64::from(low) | u64::from(entry.bits()) << 32)
    }

    /// The worker.
    #[inline(always)]
    pub fn worker(self) -> u16 {
        owner(self.0.get())
    }

    /// Where the connection may be.
    #[inline(always)]
    pub fn entry(self) -> Entry {
        Entry::from_bits((self.0.get() >> 32) as u32)
    }
}

impl From<u16> for Owner {
    fn from(worker: u16) -> Self {
        Owner::new(worker << INDEX, Entry::NONE)
    }
}

impl Bucket {
    /// The owner that the entry of this hash says, if there is one, and the hint beside it.
    // All are looked at: which of them it is nobody can predict. Each is read once, as it may change at any time.
    #[inline(always)]
    fn find(&self, hash: u64) -> Option<Owner> {
        let wanted = hash | TAKEN;
        // The bits of the fingerprint are zero in that of the entry.
        let found = self.entries.iter().map(|e| e.load(Ordering::Relaxed) ^ wanted).fold(u64::MAX, u64::min);
        if found >> 16 != 0 {
            return None;
        }
        let low = (found ^ hash) as u16;
        Some(Owner::new(low, self.hint(usize::from(low) % (1 << INDEX))))
    }

    #[inline(always)]
    fn hint(&self, i: usize) -> Entry {
        Entry::from_bits(!self.hints[i].load(Ordering::Relaxed))
    }

    /// Which of the entries is the one of this hash and owner.
    fn position(&self, hash: u64, owner: u16) -> Option<usize> {
        (0..SLOTS).find(|i| self.entries[*i].load(Ordering::Relaxed) == entry(hash, owner, *i))
    }

    fn set_hint(&self, i: usize, e: Entry) {
        self.hints[i].store(!e.bits(), Ordering::Relaxed);
    }
}

impl View<'_> {
    /// Loads the hash's home bucket ahead of use.
    #[inline(always)]
    pub(super) fn prefetch(self, hash: u64) {
        prefetch(self.buckets.as_ptr().wrapping_add((hash & self.mask) as usize));
    }

    /// [`Directory::find`].
    #[inline(always)]
    pub(super) fn find(self, hash: u64) -> Option<Owner> {
        let home = &self.buckets[(hash & self.mask) as usize];
        match home.find(hash) {
            None if home.passed.load(Ordering::SeqCst) > 0 => self.all.find_later(hash),
            found => found,
        }
    }
}

impl Directory {
    /// A directory for up to `connections` connections.
    ///
    /// # Errors
    /// When the address space cannot be had.
    pub fn new(connections: u32) -> io::Result<Self> {
        let buckets = (u64::from(connections) * 2 * 2).div_ceil(SLOTS as u64).next_power_of_two();
        // SAFETY: a bucket of zeros is an empty bucket, and atomics need no drop.
        let region = unsafe { Region::zeroed(buckets as usize)? };
        region.populate();
        Ok(Directory { buckets: Some(region), mask: buckets - 1 })
    }

    /// The directory of a single worker: empty, and every claim succeeds.
    pub fn none() -> Self {
        Directory { buckets: None, mask: 0 }
    }

    /// The bucket index comes from other bits than the entry's fingerprint has in its place.
    fn home(&self, hash: u64) -> u64 {
        hash & self.mask
    }

    /// Walks the buckets an entry of this hash may be in.
    fn walk<'a>(&self, buckets: &'a [Bucket], hash: u64) -> impl Iterator<Item = &'a Bucket> {
        let mut at = Some(self.home(hash));
        let mask = self.mask;
        std::iter::from_fn(move || {
            let b = &buckets[at? as usize];
            at = (b.passed.load(Ordering::SeqCst) > 0).then(|| (at.unwrap_or(0) + 1) & mask);
            Some(b)
        })
    }

    /// Where to ask about many; `None` with a single worker.
    #[inline(always)]
    pub(super) fn view(&self) -> Option<View<'_>> {
        self.buckets.as_ref().map(|b| View { buckets: b.as_slice(), mask: self.mask, all: self })
    }

    /// The worker that owns this tuple.
    #[inline]
    pub fn lookup(&self, hash: u64) -> Option<u16> {
        self.find(hash).map(Owner::worker)
    }

    /// The worker that owns this tuple, and where in its slab the connection may be.
    #[inline]
    pub fn find(&self, hash: u64) -> Option<Owner> {
        self.view()?.find(hash)
    }

    #[cold]
    #[inline(never)]
    fn find_later(&self, hash: u64) -> Option<Owner> {
        self.walk(self.buckets.as_ref()?.as_slice(), hash).find_map(|b| b.find(hash))
    }

    /// Notes where in its slab `me` has the connection of a tuple that it owns.
    #[cold]
    pub fn note(&self, hash: u64, me: u16, at: Entry) {
        if let Some(region) = &self.buckets {
            let mut buckets = self.walk(region.as_slice(), hash);
            if let Some((b, i)) = buckets.find_map(|b| Some((b, b.position(hash, me)?))) {
                b.set_hint(i, at);
            }
        }
    }

    /// Claims a tuple for `me`.
    ///
    /// # Errors
    /// The worker that owns it already, possibly `me` itself.
    #[inline]
    pub fn claim(&self, hash: u64, me: u16) -> Result<(), u16> {
        match &self.buckets {
            Some(region) => self.enter(region, hash, me),
            None => Ok(()),
        }
    }

    #[inline(never)]
    fn enter(&self, region: &Region<Bucket>, hash: u64, me: u16) -> Result<(), u16> {
        let buckets = region.as_slice();
        if let Some(o) = self.lookup(hash) {
            return Err(o);
        }
        let mut at = self.home(hash);
        let mine = loop {
            let b = &buckets[at as usize];
            let free = b.entries.iter().enumerate().find(|(i, e)| {
                e.load(Ordering::Relaxed) == 0
                    && e.compare_exchange(0, entry(hash, me, *i), Ordering::SeqCst, Ordering::Relaxed).is_ok()
            });
            if let Some((_, e)) = free {
                break e;
            }
            b.passed.fetch_add(1, Ordering::SeqCst);
            at = (at + 1) & self.mask;
        };
        // Another worker may have claimed it between the look and the write. Both then see each other
        // here, or at least the later one sees the earlier; whoever sees another gives way.
        let rival = self.walk(buckets, hash).flat_map(|b| &b.entries).find_map(|e| {
            let v = e.load(Ordering::SeqCst);
            (v >> 16 == fingerprint(hash) && !std::ptr::eq(e, mine)).then(|| owner(v))
        });
        match rival {
            None => Ok(()),
            Some(o) => {
                self.release(hash, me);
                Err(o)
            }
        }
    }

    /// Gives up a claim of `me`; nothing happens when there is none.
    #[inline]
    pub fn release(&self, hash: u64, me: u16) {
        if let Some(region) = &self.buckets {
            self.remove(region, hash, me);
        }
    }

    #[inline(never)]
    fn remove(&self, region: &Region<Bucket>, hash: u64, me: u16) {
        let buckets = region.as_slice();
        let mut at = self.home(hash);
        let mut passed = 0;
        loop {
            let b = &buckets[at as usize];
            if let Some(i) = b.position(hash, me) {
                b.set_hint(i, Entry::NONE);
                b.entries[i].store(0, Ordering::SeqCst);
                let home = self.home(hash);
                for i in 0..passed {
                    buckets[((home + i) & self.mask) as usize].passed.fetch_sub(1, Ordering::SeqCst);
                }
                return;
            }
            if b.passed.load(Ordering::SeqCst) == 0 {
                return;
            }
            passed += 1;
            at = (at + 1) & self.mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_hash_map(ops in proptest::collection::vec((any::<bool>(), 0u64..50, 0u16..3), 1..300)) {
            let d = Directory::new(32).unwrap();
            let mut model: HashMap<u64, u16> = HashMap::new();
            // Few home buckets, so that entries overflow.
            let hash = |n: u64| (n << 20) | (n % 3);
            let mut hints: HashMap<u64, Entry> = HashMap::new();
            for (i, (claim, n, who)) in (0..).zip(ops) {
                if i % 3 == 0 {
                    // Only the owner's counts.
                    d.note(hash(n), who, Entry::from_bits(i));
                    if model.get(&n) == Some(&who) {
                        hints.insert(n, Entry::from_bits(i));
                    }
                } else if claim {
                    let want = model.get(&n).copied();
                    prop_assert_eq!(d.claim(hash(n), who), want.map_or(Ok(()), Err));
                    model.entry(n).or_insert(who);
                } else if model.get(&n) == Some(&who) {
                    d.release(hash(n), who);
                    model.remove(&n);
                    hints.remove(&n);
                }
                for p in 0..50 {
                    prop_assert_eq!(d.lookup(hash(p)), model.get(&p).copied());
                    let hint = *hints.get(&p).unwrap_or(&Entry::NONE);
                    let found = d.find(hash(p)).map(|o| (o.worker(), o.entry()));
                    prop_assert_eq!(found, model.get(&p).map(|owner| (*owner, hint)));
                }
            }
        }
    }

    #[test]
    fn concurrent_claims_have_at_most_one_winner() {
        let d = Arc::new(Directory::new(1 << 12).unwrap());
        let won: Vec<Vec<u64>> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..4u16)
                .map(|me| {
                    let d = d.clone();
                    s.spawn(move || {
                        (1..2000u64).filter(|n| d.claim((n << 16) | (n % 7), me).is_ok()).collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let mut all: Vec<u64> = won.into_iter().flatten().collect();
        let n = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), n);
        assert!(n > 1900, "claims fail only when they really meet: {n}");
    }
}
