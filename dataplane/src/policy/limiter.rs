//! Counts for rate limits, shared by all workers: a generic cell rate algorithm in a table of fixed size.
//!
//! Asked on first packets only, and only about those that meet all else a rule asks for. An entry is two
//! words: whose it is, and the moment until which it is in debt. One that is not in debt any more tells
//! nothing that an absent one would not, so it may be taken for another: nothing expires, nothing is swept.
//! Two workers that take the same entry at the same moment may let one packet too many pass.

use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ahash::RandomState;

use super::Rate;

/// Entries among which one is looked for; two cache lines.
const WAYS: usize = 8;
/// A bucket for every so many of the entries.
const BUCKETS: usize = 8192;

#[derive(Debug, Default)]
struct Entry {
    /// Hash of limit and source; 0 for one that was never used.
    key: AtomicU64,
    /// In debt until then.
    due: AtomicU64,
}

/// The counts.
#[derive(Debug)]
pub struct Limiter {
    keys: RandomState,
    entries: Box<[Entry]>,
    full: AtomicU64,
}

impl Default for Limiter {
    fn default() -> Self {
        Limiter {
            keys: RandomState::new(),
            entries: (0..BUCKETS * WAYS).map(|_| Entry::default()).collect(),
            full: AtomicU64::new(0),
        }
    }
}

impl Limiter {
    /// Whether one more of `who` is within the rate, which then counts it; `now` is in nanoseconds. Where all
    /// entries that could be used are others' debts, it is not.
    pub fn admit(&self, rate: &Rate, who: impl Hash, now: u64) -> bool {
        let key = self.keys.hash_one((rate.id, who)).max(1);
        let at = (key >> 32) as usize % BUCKETS * WAYS;
        let bucket = &self.entries[at..at + WAYS];
        let Some(entry) = find(bucket, key, now) else {
            self.full.fetch_add(1, Relaxed);
            return false;
        };
        let tolerance = rate.tolerance();
        let paid = |due: u64| {
            let due = due.max(now);
            (due - now <= tolerance).then(|| due.saturating_add(rate.interval))
        };
        entry.due.fetch_update(Relaxed, Relaxed, paid).is_ok()
    }

    /// What [`Limiter::admit`] would say; nothing is counted.
    pub fn would_admit(&self, rate: &Rate, who: impl Hash, now: u64) -> bool {
        let key = self.keys.hash_one((rate.id, who)).max(1);
        let at = (key >> 32) as usize % BUCKETS * WAYS;
        let bucket = &self.entries[at..at + WAYS];
        let due = bucket.iter().find(|e| e.key.load(Relaxed) == key).map(|e| e.due.load(Relaxed));
        match due {
            Some(due) => due.max(now) - now <= rate.tolerance(),
            None => bucket.iter().any(|e| e.due.load(Relaxed) <= now),
        }
    }

    /// How often no entry could be used.
    pub fn full(&self) -> u64 {
        self.full.load(Relaxed)
    }
}

/// The entry of `key`, or one that can be taken for it.
fn find(bucket: &[Entry], key: u64, now: u64) -> Option<&Entry> {
    if let Some(own) = bucket.iter().find(|e| e.key.load(Relaxed) == key) {
        return Some(own);
    }
    bucket.iter().find(|e| {
        let former = e.key.load(Relaxed);
        e.due.load(Relaxed) <= now && e.key.compare_exchange(former, key, Relaxed, Relaxed).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn admitted(l: &Limiter, rate: &Rate, who: u32, now: u64) -> usize {
        (0..100).filter(|_| l.admit(rate, who, now)).count()
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let l = Limiter::default();
        let rate = Rate::new("a", SECOND / 10, 5);
        assert_eq!(admitted(&l, &rate, 1, SECOND), 5);
        assert_eq!(admitted(&l, &rate, 1, SECOND + SECOND / 20), 0);
        assert_eq!(admitted(&l, &rate, 1, SECOND + SECOND / 10), 1);
        assert_eq!(admitted(&l, &rate, 1, SECOND + SECOND / 2), 4);
        assert_eq!(admitted(&l, &rate, 1, 100 * SECOND), 5, "no more than the burst is saved up");
        assert_eq!(admitted(&l, &rate, 2, SECOND), 5, "another source");
        let other = Rate::new("b", SECOND / 10, 5);
        assert_eq!(admitted(&l, &other, 1, 100 * SECOND), 5, "another rule");
    }

    #[test]
    fn more_sources_than_entries() {
        let l = Limiter::default();
        let rate = Rate::new("a", SECOND, 1);
        let sources = 4 * (BUCKETS * WAYS) as u32;
        let first = (0..sources).filter(|s| l.admit(&rate, s, SECOND)).count();
        assert!(first <= BUCKETS * WAYS && first > BUCKETS * WAYS / 2, "{first}");
        assert_eq!(l.full(), u64::from(sources) - first as u64);
        // A source that has an entry keeps it, and the others' debts end.
        assert!(!(0..sources).any(|s| l.admit(&rate, s, SECOND)));
        assert!(l.admit(&rate, sources, 2 * SECOND));
    }
}
