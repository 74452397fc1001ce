//! What each rule of a policy has decided, counted by each worker for itself.
//!
//! A policy that follows another takes over the counts of rules that have the same name in the same list. A
//! worker that is still at the former one then counts in the same place, so that none is lost.

use std::collections::HashMap;
use std::sync::Arc;

use super::Policy;
use crate::conntrack::region::{prefetch, prefetch_to_write};
use crate::worker::counters::Counter;

/// A list of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum List {
    /// [`Policy::rules`]; behind the last one, the default.
    Forward,
    /// [`Policy::destination_nat`].
    DestinationNat,
    /// [`Policy::source_nat`].
    SourceNat,
    /// [`Policy::tracking`].
    Tracking,
}

impl List {
    /// All lists.
    pub const ALL: [List; 4] = [List::Tracking, List::DestinationNat, List::Forward, List::SourceNat];

    /// The section of the policy.
    pub fn label(self) -> &'static str {
        match self {
            List::Forward => "policy",
            List::DestinationNat => "nat.destination",
            List::SourceNat => "nat.source",
            List::Tracking => "tracking",
        }
    }

    /// The names of its rules; the default has none.
    fn names(self, p: &Policy) -> Vec<&str> {
        match self {
            List::Forward => p.rules.iter().map(|r| r.name.as_str()).chain([""]).collect(),
            List::DestinationNat => p.destination_nat.iter().map(|r| r.name.as_str()).collect(),
            List::SourceNat => p.source_nat.iter().map(|r| r.name.as_str()).collect(),
            List::Tracking => p.tracking.iter().map(|r| r.name.as_str()).collect(),
        }
    }
}

/// What one worker has counted for one rule.
#[derive(Debug, Default)]
pub struct Tally {
    /// Packets it has decided.
    pub packets: Counter,
    /// Their bytes.
    pub bytes: Counter,
    /// Connections whose source it translates, begun.
    pub begun: Counter,
    /// Connections whose source it translated, ended.
    pub ended: Counter,
    /// Connections that could not begin because it had no free address or port for them.
    pub exhausted: Counter,
}

/// The counts of all rules of a policy.
#[derive(Debug, Default)]
pub struct Tallies {
    /// Where each list begins, by [`List`].
    starts: [usize; 4],
    /// By worker.
    workers: Vec<Vec<Arc<Tally>>>,
}

impl Tallies {
    /// Counts for a policy that follows another.
    pub fn new(policy: &Policy, workers: usize, former: (&Policy, &Tallies)) -> Self {
        let mut before = HashMap::new();
        for list in List::ALL {
            let start = former.1.starts[list as usize];
            before.extend(list.names(former.0).into_iter().zip(start..).map(|(name, i)| ((list, name), i)));
        }
        let mut starts = [0; 4];
        let mut origins = Vec::new();
        for list in List::ALL {
            starts[list as usize] = origins.len();
            origins.extend(list.names(policy).into_iter().map(|name| before.get(&(list, name)).copied()));
        }
        let of_worker = |w: usize| {
            let theirs = former.1.workers.get(w);
            let take = |i: &Option<usize>| theirs?.get((*i)?).cloned();
            origins.iter().map(|i| take(i).unwrap_or_default()).collect()
        };
        Tallies { starts, workers: (0..workers).map(of_worker).collect() }
    }

    /// What a worker counts for a rule; to be written by that worker only.
    #[inline]
    pub fn of(&self, worker: u16, list: List, rule: usize) -> Option<&Tally> {
        Some(&**self.workers.get(usize::from(worker))?.get(self.starts[list as usize] + rule)?)
    }

    /// Counts a packet that the rule has decided; to be called by that worker only.
    #[inline]
    pub fn count(&self, worker: u16, list: List, rule: usize, bytes: u64) {
        if let Some(t) = self.of(worker, list, rule) {
            t.packets.inc();
            t.bytes.add(bytes);
        }
    }

    /// Loads where a worker counts for a rule, for [`Tallies::prefetch`].
    #[inline]
    pub(super) fn prefetch_entry(&self, worker: u16, list: List, rule: usize) {
        if let Some(all) = self.workers.get(usize::from(worker)) {
            prefetch(all.as_ptr().wrapping_add(self.starts[list as usize] + rule));
        }
    }

    /// Loads what a worker counts for a rule.
    #[inline]
    pub(super) fn prefetch(&self, worker: u16, list: List, rule: usize) {
        if let Some(tally) = self.of(worker, list, rule) {
            prefetch_to_write(tally);
        }
    }

    /// What each worker has counted for a rule.
    pub fn each(&self, list: List, rule: usize) -> impl Iterator<Item = &Tally> {
        let i = self.starts[list as usize] + rule;
        self.workers.iter().filter_map(move |w| w.get(i)).map(|t| &**t)
    }

    /// Packets and bytes that the rule has decided, of all workers.
    pub fn total(&self, list: List, rule: usize) -> (u64, u64) {
        self.each(list, rule).fold((0, 0), |(packets, bytes), t| (packets + t.packets.get(), bytes + t.bytes.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Rule, SourceNat};

    fn policy(rules: &[&str], sources: &[&str]) -> Policy {
        Policy {
            rules: rules.iter().map(|n| Rule { name: (*n).into(), ..Rule::default() }).collect(),
            source_nat: sources.iter().map(|n| SourceNat { name: (*n).into(), ..SourceNat::default() }).collect(),
            ..Policy::default()
        }
    }

    #[test]
    fn a_rule_keeps_its_counts_by_its_name() {
        let none = (&Policy::default(), &Tallies::default());
        let (p, q) = (policy(&["a", "b"], &["b"]), policy(&["b", "c", "a"], &["a", "b"]));
        let t = Tallies::new(&p, 2, none);
        t.count(0, List::Forward, 0, 10);
        t.count(1, List::Forward, 0, 5);
        t.count(1, List::Forward, 1, 7);
        t.count(1, List::Forward, 2, 9);
        t.count(0, List::SourceNat, 0, 3);
        let u = Tallies::new(&q, 2, (&p, &t));
        // A worker that has not noticed yet.
        t.count(0, List::Forward, 0, 1);
        let of = |list, n| (0..n).map(|i| u.total(list, i)).collect::<Vec<_>>();
        assert_eq!(of(List::Forward, 4), [(1, 7), (0, 0), (3, 16), (1, 9)]);
        assert_eq!(of(List::SourceNat, 2), [(0, 0), (1, 3)]);
    }
}
