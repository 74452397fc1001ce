//! Expectations: connections that another one has announced, such as FTP's data connections.
//!
//! They are global, because an expected connection may arrive on any queue, and consulted only when a
//! packet matches no connection. While there are none that costs one relaxed load.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// All expectations of all workers.
#[derive(Debug, Default)]
pub struct Expectations {
    count: AtomicUsize,
    shards: [Mutex<HashMap<ExpectedTarget, Vec<Expectation>>>; SHARDS],
}

impl Expectations {
    fn shard(&self, t: &ExpectedTarget) -> &Mutex<HashMap<ExpectedTarget, Vec<Expectation>>> {
        &self.shards[usize::from(t.port) % SHARDS]
    }

    /// Number of expectations.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there are none.
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
        list.retain(|x| !(x.expires.reached(now) || x.master == e.master && x.source == e.source));
        let clash = list.iter().any(|x| x.source == e.source || x.source.is_none() || e.source.is_none());
        let ok = all < PER_SHARD && !clash;
        if ok {
            list.push(e);
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
        self.retain(|e| !stale.contains(e));
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
        Some(e)
    }

    /// Removes what fails `keep`: expired ones, those of a connection that is gone.
    pub fn retain(&self, keep: impl Fn(&Expectation) -> bool) {
        if self.is_empty() {
            return;
        }
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let before: usize = shard.values().map(Vec::len).sum();
            shard.retain(|_, list| {
                list.retain(|e| keep(e));
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
