//! Memory for connections to come, so that no worker has to wait for it.

use std::time::Duration;

use super::shared::Shared;

/// How long to wait while connections come, and while none do.
const PAUSES: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(100)];

/// Backs the slots that the workers will come to next. Returns when to do so again.
pub fn step(shared: &Shared) -> Duration {
    let mut grew = false;
    for view in shared.workers.iter().flat_map(|w| [&w.slab4, &w.slab6]) {
        while view.back_ahead() {
            grew = true;
        }
    }
    PAUSES[usize::from(!grew)]
}
