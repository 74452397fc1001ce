//! Random numbers for ports: keyed, so that an observer of some cannot guess the next (RFC 6056, RFC 6888 REQ-15).

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;

/// A worker's source of random numbers.
#[derive(Debug, Clone)]
pub struct Random {
    keys: RandomState,
    counter: Cell<u64>,
}

impl Default for Random {
    fn default() -> Self {
        Random { keys: RandomState::new(), counter: Cell::new(0) }
    }
}

impl Random {
    /// The next number.
    pub fn draw(&self) -> u32 {
        self.counter.set(self.counter.get() + 1);
        let mut h = self.keys.build_hasher();
        h.write_u64(self.counter.get());
        (h.finish() >> 16) as u32
    }
}
