//! Outside endpoints of endpoint-independent mappings, and whose they are.
//!
//! An endpoint that anybody may send to is kept for its source for a while after the last connection: a
//! remote that still sends would else reach whoever gets it next (RFC 6888 REQ-8).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ahash::RandomState;

use super::Endpoint;
use super::mapping::SHARDS;
use crate::conntrack::Ticks;
use crate::packet::Address;

#[derive(Debug)]
struct Owner<A> {
    source: Endpoint<A>,
    /// Set when the source does not use it any more, but nobody else may have it yet.
    kept_until: Option<Ticks>,
}

#[derive(Debug)]
struct Shard<A> {
    owners: HashMap<Endpoint<A>, Owner<A>, RandomState>,
    /// What was kept, in that order; an entry may be out of date.
    kept: VecDeque<(Ticks, Endpoint<A>)>,
}

/// The endpoints of one family.
#[derive(Debug)]
pub(super) struct Outside<A>([Mutex<Shard<A>>; SHARDS]);

impl<A> Default for Outside<A> {
    fn default() -> Self {
        Outside(std::array::from_fn(|_| Mutex::new(Shard { owners: HashMap::default(), kept: VecDeque::new() })))
    }
}

impl<A: Address> Outside<A> {
    fn shard(&self, e: &Endpoint<A>) -> MutexGuard<'_, Shard<A>> {
        self.0[usize::from(e.port) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims an endpoint for a source. False when it is another's.
    pub(super) fn claim(&self, outside: &Endpoint<A>, source: &Endpoint<A>, now: Ticks) -> bool {
        let mut shard = self.shard(outside);
        shard.sweep(now);
        let owner = Owner { source: *source, kept_until: None };
        match shard.owners.entry(*outside) {
            Entry::Vacant(free) => {
                free.insert(owner);
                true
            }
            Entry::Occupied(mut o) => {
                let ours = o.get().source == *source || o.get().kept_until.is_some_and(|t| t.reached(now));
                if ours {
                    o.insert(owner);
                }
                ours
            }
        }
    }

    /// Frees an endpoint if it is the source's.
    pub(super) fn release(&self, outside: &Endpoint<A>, source: &Endpoint<A>) {
        let mut shard = self.shard(outside);
        if shard.owners.get(outside).is_some_and(|o| o.source == *source) {
            shard.owners.remove(outside);
        }
    }

    /// Frees an endpoint at a later time if it is the source's, who may have it back until then.
    pub(super) fn keep(&self, outside: &Endpoint<A>, source: &Endpoint<A>, until: Ticks) {
        let mut shard = self.shard(outside);
        if let Some(o) = shard.owners.get_mut(outside).filter(|o| o.source == *source) {
            o.kept_until = Some(until);
            shard.kept.push_back((until, *outside));
        }
    }

    /// Whose endpoint it is, or was last.
    pub(super) fn user(&self, outside: &Endpoint<A>) -> Option<Endpoint<A>> {
        self.shard(outside).owners.get(outside).map(|o| o.source)
    }

    /// The only source that may claim an endpoint now, unless anybody may.
    pub(super) fn owner(&self, outside: &Endpoint<A>, now: Ticks) -> Option<Endpoint<A>> {
        let shard = self.shard(outside);
        shard.owners.get(outside).filter(|o| !o.kept_until.is_some_and(|t| t.reached(now))).map(|o| o.source)
    }
}

impl<A: Address> Shard<A> {
    fn sweep(&mut self, now: Ticks) {
        while let Some((_, e)) = self.kept.front().copied().filter(|(t, _)| t.reached(now)) {
            self.kept.pop_front();
            if self.owners.get(&e).is_some_and(|o| o.kept_until.is_some_and(|t| t.reached(now))) {
                self.owners.remove(&e);
            }
        }
    }
}
