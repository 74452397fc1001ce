//! Has the workers' deadlines looked at, until they are told to stop.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use dataplane::worker::expiry::{PERIOD, Scan, Step};
use dataplane::worker::shared::Shared;

/// Looks at all deadlines every now and then.
pub(crate) async fn run(shared: Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        let next = Instant::now() + PERIOD;
        let mut scan = Scan::default();
        loop {
            match scan.step(&shared) {
                Step::Goes => tokio::task::yield_now().await,
                Step::Waits(pause) => tokio::time::sleep(pause).await,
                Step::Over => break,
            }
        }
        tokio::time::sleep_until(next.into()).await;
    }
}
