//! Memory for connections to come, so that no worker has to wait for it.
//!
//! The worker uses no slot before that is backed: while connections begin faster than the machine gives memory, some
//! are refused, and those that there are do not pause.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::shared::Shared;

/// How long to wait until somebody says that more is needed.
const PAUSE: Duration = Duration::from_millis(100);

/// Backs the slots that the workers will come to next, until [`Shared::stop`] is set. One thread does so.
pub fn run(shared: &Shared) {
    let views = || shared.workers.iter().flat_map(|w| [&w.slab4, &w.slab6]);
    views().for_each(|v| v.set_backer());
    while !shared.stop.load(Ordering::Relaxed) {
        // Each in turn: one that grows fast leaves the others their share.
        while views().filter(|v| v.back_ahead()).count() > 0 {}
        thread::park_timeout(PAUSE);
    }
}
