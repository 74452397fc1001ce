//! The immutable state that the control thread publishes and the workers read.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::policy::Policy;
use crate::route::Fib;

/// One consistent view of policy, routes and neighbours.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Counts publications; connections remember the generation their cached route came from.
    pub generation: u32,
    /// The compiled policy.
    pub policy: Arc<Policy>,
    /// Interfaces, routes and neighbours as mirrored from the kernel.
    pub fib: Arc<Fib>,
}

/// A slot for the current [`Snapshot`]: readers compare one generation number per burst and take the
/// lock only when it has changed.
#[derive(Debug, Default)]
pub struct Published {
    generation: AtomicU32,
    current: Mutex<Snapshot>,
}

impl Published {
    /// Replaces policy and/or forwarding state; `None` keeps the current one. Returns the generation.
    pub fn publish(&self, policy: Option<Arc<Policy>>, fib: Option<Arc<Fib>>) -> u32 {
        let mut cur = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(p) = policy {
            cur.policy = p;
        }
        if let Some(f) = fib {
            cur.fib = f;
        }
        // 0 is what a connection that never cached a route carries.
        cur.generation = cur.generation.wrapping_add(1).max(1);
        self.generation.store(cur.generation, Ordering::Release);
        cur.generation
    }

    /// The generation of the newest snapshot; one load.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// The newest snapshot.
    pub fn load(&self) -> Snapshot {
        self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}
