//! The immutable state that the control thread publishes and the workers read.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::policy::{Policy, Tallies};
use crate::route::Fib;

/// One consistent view of policy, routes and neighbours.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Counts publications; connections remember the generation their cached route came from.
    pub generation: u32,
    /// The compiled policy.
    pub policy: Arc<Policy>,
    /// What the policy's rules have decided.
    pub tallies: Arc<Tallies>,
    /// Interfaces, routes and neighbours as mirrored from the kernel.
    pub fib: Arc<Fib>,
}

/// A slot for the current [`Snapshot`]: readers compare one generation number per burst and take the
/// lock only when it has changed.
#[derive(Debug)]
pub struct Published {
    /// How many workers read it.
    workers: usize,
    generation: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    current: Snapshot,
    /// What was replaced and a worker may still hold: to free ten thousand rules or a million routes takes
    /// longer than a worker may pause.
    policies: Vec<Arc<Policy>>,
    tallies: Vec<Arc<Tallies>>,
    fibs: Vec<Arc<Fib>>,
}

impl Published {
    /// A slot that so many workers read, with a policy that forwards nothing.
    pub fn new(workers: usize) -> Self {
        Published { workers, generation: AtomicU32::new(0), state: Mutex::default() }
    }

    /// Replaces policy and/or forwarding state; `None` keeps the current one. Returns the generation.
    /// Policies come from one thread.
    pub fn publish(&self, policy: Option<Arc<Policy>>, fib: Option<Arc<Fib>>) -> u32 {
        let former = self.load();
        let policy = policy.map(|mut p| {
            if p.index.is_none() {
                Arc::make_mut(&mut p).index();
            }
            let tallies = Tallies::new(&p, self.workers, (&former.policy, &former.tallies));
            (p, Arc::new(tallies))
        });
        drop(former);
        let mut state = self.lock();
        let State { current, policies, tallies, fibs } = &mut *state;
        if let Some((p, t)) = policy {
            policies.push(std::mem::replace(&mut current.policy, p));
            tallies.push(std::mem::replace(&mut current.tallies, t));
        }
        if let Some(f) = fib {
            fibs.push(std::mem::replace(&mut current.fib, f));
        }
        // 0 is what a connection that never cached a route carries.
        current.generation = current.generation.wrapping_add(1).max(1);
        self.generation.store(current.generation, Ordering::Release);
        // Freed after the lock, which workers wait for.
        let free = (unused(policies), unused(tallies), unused(fibs));
        let generation = current.generation;
        drop(state);
        drop(free);
        generation
    }

    /// The generation of the newest snapshot; one load.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// The newest snapshot.
    pub fn load(&self) -> Snapshot {
        self.lock().current.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes out those that nobody else holds.
fn unused<T>(all: &mut Vec<Arc<T>>) -> Vec<Arc<T>> {
    let (out, held) = std::mem::take(all).into_iter().partition(|x| Arc::strong_count(x) == 1);
    *all = held;
    out
}
