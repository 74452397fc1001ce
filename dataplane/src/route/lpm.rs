//! Longest prefix match: one hash map per prefix length that occurs, longest first.

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;

use crate::packet::Address;

/// A table from prefixes to values. Asked once per connection and route generation, so a handful of
/// hash probes is cheap enough. Clones share the prefixes of each length until one of them changes it,
/// so that publishing a large table again for a changed neighbour copies nothing.
#[derive(Debug, Clone)]
pub struct Lpm<A, T> {
    /// Prefix lengths that occur, longest first, each with its prefixes.
    lengths: Vec<(u8, Prefixes<A, T>)>,
}

/// The prefixes of one length.
type Prefixes<A, T> = Arc<HashMap<A, T, RandomState>>;

impl<A, T> Default for Lpm<A, T> {
    fn default() -> Self {
        Lpm { lengths: Vec::new() }
    }
}

impl<A: Address, T: Clone> Lpm<A, T> {
    /// Sets the value of a prefix, replacing the former one.
    pub fn insert(&mut self, prefix: A, length: u8, value: T) {
        let at = match self.lengths.binary_search_by(|(l, _)| length.cmp(l)) {
            Ok(i) => i,
            Err(i) => {
                self.lengths.insert(i, (length, Arc::default()));
                i
            }
        };
        Arc::make_mut(&mut self.lengths[at].1).insert(prefix.masked(length), value);
    }

    /// Removes a prefix and gives back its value.
    pub fn remove(&mut self, prefix: A, length: u8) -> Option<T> {
        let at = self.lengths.binary_search_by(|(l, _)| length.cmp(l)).ok()?;
        let map = &mut self.lengths[at].1;
        let key = prefix.masked(length);
        if !map.contains_key(&key) {
            return None;
        }
        let value = Arc::make_mut(map).remove(&key);
        if map.is_empty() {
            self.lengths.remove(at);
        }
        value
    }

    /// The value of exactly this prefix.
    pub fn get(&self, prefix: A, length: u8) -> Option<&T> {
        self.lengths.iter().find(|(l, _)| *l == length)?.1.get(&prefix.masked(length))
    }

    /// The value of the longest prefix that contains `a`.
    pub fn lookup(&self, a: A) -> Option<&T> {
        self.lengths.iter().find_map(|(l, m)| m.get(&a.masked(*l)))
    }

    /// Number of prefixes.
    pub fn len(&self) -> usize {
        self.lengths.iter().map(|(_, m)| m.len()).sum()
    }

    /// Whether there is no prefix.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::V4;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_linear_search(
            prefixes in proptest::collection::vec((any::<u32>(), 0u8..=32), 0..40),
            probes in proptest::collection::vec(any::<u32>(), 1..40),
        ) {
            let mut lpm = Lpm::default();
            let mut model: Vec<(V4, u8, usize)> = Vec::new();
            for (i, (a, l)) in prefixes.iter().enumerate() {
                // Few distinct upper bits, so that prefixes nest.
                let p = V4(a & 0x0303_ffff).masked(*l);
                lpm.insert(p, *l, i);
                model.retain(|(q, m, _)| (*q, *m) != (p, *l));
                model.push((p, *l, i));
            }
            // Every third prefix goes again.
            for (p, l, _) in model.iter().filter(|x| x.2 % 3 == 0) {
                prop_assert!(lpm.remove(*p, *l).is_some());
                prop_assert_eq!(lpm.remove(*p, *l), None);
            }
            model.retain(|x| x.2 % 3 != 0);
            prop_assert_eq!(lpm.len(), model.len());
            for a in probes {
                let a = V4(a & 0x0303_ffff);
                let want = model.iter().filter(|(p, l, _)| a.masked(*l) == *p).max_by_key(|(_, l, _)| *l).map(|x| x.2);
                prop_assert_eq!(lpm.lookup(a).copied(), want);
            }
        }
    }
}
