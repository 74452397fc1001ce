//! Expectations: connections that another one has announced, such as FTP's data connections.
//!
//! They are global, because an expected connection may arrive on any queue, and consulted only when a
//! packet matches no connection. While there are none that costs one relaxed load.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::Ticks;
use crate::helper::HelperKind;

/// Where an expected connection goes; the key expectations are found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExpectedTarget {
    /// Transport protocol.
    pub proto: u8,
    /// Destination address of its first packet, before translation.
    pub destination: IpAddr,
    /// Destination port of its first packet, before translation.
    pub port: u16,
}

/// The connection that announced another: enough to find it again, and to notice that it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Master {
    /// The worker that owns it.
    pub worker: u16,
    /// Hash of its original tuple.
    pub hash: u64,
}

/// The master connection's original tuple, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MasterFlow {
    /// Source address and port.
    pub source: (IpAddr, u16),
    /// Destination address and port.
    pub destination: (IpAddr, u16),
}

/// An announced connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expectation {
    /// Where its first packet goes.
    pub target: ExpectedTarget,
    /// Where its first packet comes from, from any port; `None`: from anywhere.
    pub source: Option<IpAddr>,
    /// Where its destination is translated to; the same as `target` when it is not.
    pub listener: (IpAddr, u16),
    /// What its source is translated to: how the listener knows the other end of the master connection.
    pub source_to: Option<IpAddr>,
    /// The helper that read the announcement.
    pub helper: HelperKind,
    /// The connection that announced it.
    pub master: Master,
    /// How that connection is listed.
    pub master_flow: MasterFlow,
    /// The mark of that connection, which the announced one inherits.
    pub mark: u32,
    /// When it is forgotten.
    pub expires: Ticks,
}

const SHARDS: usize = 16;
/// Expectations in all (netfilter's `nf_conntrack_expect_max`), shared out over the shards.
const PER_SHARD: usize = 4096 / SHARDS;

/// What has become of the expectations of one helper. Those still waited for are `created` without the others.
#[derive(Debug, Default)]
pub struct Fates {
    /// Entered.
    pub created: AtomicU64,
    /// Fulfilled by a connection.
    pub used: AtomicU64,
    /// Waited for in vain.
    pub expired: AtomicU64,
    /// Given up: their master connection has ended or announced another in their place.
    pub withdrawn: AtomicU64,
}

impl Fates {
    fn count(n: &AtomicU64) {
        // Whoever sees an end also sees the beginning, which came before under the same lock.
        n.fetch_add(1, Ordering::Release);
    }

    /// Number of those still waited for.
    pub fn live(&self) -> u64 {
        // The ends first: one that comes between makes the number too high, never less than none.
        let ended = [&self.used, &self.expired, &self.withdrawn].iter().map(|n| n.load(Ordering::Acquire)).sum::<u64>();
        self.created.load(Ordering::Relaxed).saturating_sub(ended)
    }
}

/// All expectations of all workers.
#[derive(Debug, Default)]
pub struct Expectations {
    count: AtomicUsize,
    /// By [`HelperKind`]; counted with a shard's lock held.
    fates: [Fates; HelperKind::ALL.len()],
    shards: [Mutex<HashMap<ExpectedTarget, Vec<Expectation>>>; SHARDS],
}

impl Expectations {
    fn shard(&self, t: &ExpectedTarget) -> &Mutex<HashMap<ExpectedTarget, Vec<Expectation>>> {
        &self.shards[usize::from(t.port) % SHARDS]
    }

    /// What has become of a helper's.
    pub fn fates(&self, helper: HelperKind) -> &Fates {
        &self.fates[helper as usize]
    }

    /// Number of expectations.
    #[inline]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an expectation, replacing an equal one of the same master. False when another master expects
    /// the same, or the limit is reached.
    pub fn insert(&self, e: Expectation, now: Ticks) -> bool {
        let mut shard = self.shard(&e.target).lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let all: usize = shard.values().map(Vec::len).sum();
        let list = shard.entry(e.target).or_default();
        let before = list.len();
        list.retain(|x| {
            let gone = if x.expires.reached(now) {
                &self.fates(x.helper).expired
            } else if x.master == e.master && x.source == e.source {
                &self.fates(x.helper).withdrawn
            } else {
                return true;
            };
            Fates::count(gone);
            false
        });
        let clash = list.iter().any(|x| x.source == e.source || x.source.is_none() || e.source.is_none());
        let ok = all < PER_SHARD && !clash;
        if ok {
            list.push(e);
            Fates::count(&self.fates(e.helper).created);
        }
        self.count.fetch_add(list.len(), Ordering::Relaxed);
        self.count.fetch_sub(before, Ordering::Relaxed);
        ok
    }

    /// Makes room for one more expectation of a master that may have `max`: the oldest give way.
    pub fn limit(&self, master: Master, max: usize) {
        let mut own: Vec<Expectation> = self.list().into_iter().filter(|e| e.master == master).collect();
        if own.len() < max {
            return;
        }
        own.sort_by_key(|e| e.expires.0);
        let stale = &own[..own.len() + 1 - max];
        self.withdraw(|e| stale.contains(e));
    }

    /// The expectation that [`Expectations::take`] would take.
    pub fn peek(&self, target: ExpectedTarget, source: IpAddr, now: Ticks) -> Option<Expectation> {
        let shard = self.shard(&target).lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let list = shard.get(&target)?;
        list.iter().find(|e| e.source.is_none_or(|s| s == source) && !e.expires.reached(now)).copied()
    }

    /// Takes the expectation a first packet fulfils, if there is one: it is used once.
    pub fn take(&self, target: ExpectedTarget, source: IpAddr, now: Ticks) -> Option<Expectation> {
        if self.is_empty() {
            return None;
        }
        let mut shard = self.shard(&target).lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let list = shard.get_mut(&target)?;
        let at = list.iter().position(|e| e.source.is_none_or(|s| s == source) && !e.expires.reached(now))?;
        let e = list.swap_remove(at);
        if list.is_empty() {
            shard.remove(&target);
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
        Fates::count(&self.fates(e.helper).used);
        Some(e)
    }

    /// Removes those that nobody has fulfilled in time.
    pub fn expire(&self, now: Ticks) {
        self.remove(|e| e.expires.reached(now), |f| &f.expired);
    }

    /// Removes those that are not to be waited for any more.
    pub fn withdraw(&self, which: impl Fn(&Expectation) -> bool) {
        self.remove(which, |f| &f.withdrawn);
    }

    fn remove(&self, which: impl Fn(&Expectation) -> bool, fate: fn(&Fates) -> &AtomicU64) {
        if self.is_empty() {
            return;
        }
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let before: usize = shard.values().map(Vec::len).sum();
            shard.retain(|_, list| {
                list.retain(|e| {
                    let gone = which(e);
                    if gone {
                        Fates::count(fate(self.fates(e.helper)));
                    }
                    !gone
                });
                !list.is_empty()
            });
            let after: usize = shard.values().map(Vec::len).sum();
            self.count.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// All of them, for listings.
    pub fn list(&self) -> Vec<Expectation> {
        let locked = |s: &Mutex<HashMap<_, Vec<Expectation>>>| {
            s.lock().unwrap_or_else(std::sync::PoisonError::into_inner).values().flatten().copied().collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(locked).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expectation(port: u16, master: u64, expires: u32) -> Expectation {
        let address = IpAddr::from([192, 0, 2, 1]);
        Expectation {
            target: ExpectedTarget { proto: 6, destination: address, port },
            source: None,
            listener: (address, port),
            source_to: None,
            helper: HelperKind::Ftp,
            master: Master { worker: 0, hash: master },
            master_flow: MasterFlow { source: (address, 1), destination: (address, 21) },
            mark: 0,
            expires: Ticks(expires),
        }
    }

    #[test]
    fn every_end_is_counted_as_what_it_is() {
        let all = Expectations::default();
        let counted = || {
            let f = all.fates(HelperKind::Ftp);
            assert_eq!(f.live(), all.len() as u64);
            [&f.created, &f.used, &f.expired, &f.withdrawn].map(|n| n.load(Ordering::Relaxed))
        };
        let insert = |port, master, expires, now| all.insert(expectation(port, master, expires), Ticks(now));
        assert!(insert(1, 1, 100, 10) && insert(2, 2, 100, 10) && insert(3, 3, 100, 10));
        assert!(!insert(1, 9, 100, 10), "another master expects it");
        assert_eq!(counted(), [3, 0, 0, 0]);
        assert!(insert(1, 1, 200, 20), "in place of its own");
        assert_eq!(counted(), [4, 0, 0, 1]);
        let take = |port, now| all.take(expectation(port, 0, 0).target, IpAddr::from([192, 0, 2, 9]), Ticks(now));
        assert!(take(2, 20).is_some() && take(2, 20).is_none());
        assert_eq!(counted(), [4, 1, 0, 1]);
        all.expire(Ticks(150));
        assert_eq!(counted(), [4, 1, 1, 1]);
        all.withdraw(|e| e.master.hash == 1);
        assert_eq!(counted(), [4, 1, 1, 2]);
        assert!(insert(4, 4, 300, 200) && insert(4, 5, 500, 400), "the one before has expired");
        assert_eq!(counted(), [6, 1, 2, 2]);
        assert!(insert(5, 5, 500, 400));
        all.limit(Master { worker: 0, hash: 5 }, 2);
        assert_eq!(counted(), [7, 1, 2, 3]);
        assert_eq!(all.fates(HelperKind::Irc).live(), 0);
    }
}
