//! Finds connections whose time is up, so that no worker has to look.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dataplane::conntrack::{SlabView, Ticks};
use dataplane::worker::shared::{Shared, Slot, WorkerShared};

/// How often all deadlines are looked at.
const PERIOD: Duration = Duration::from_millis(250);
/// Deadlines looked at without giving other tasks a turn: a quarter of a millisecond or so.
const SLICE: u32 = 1 << 18;
/// Slots in one message to a worker.
const BATCH: usize = 256;

/// Scans the workers' deadlines until they are told to stop.
pub(crate) async fn run(shared: Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        let next = Instant::now() + PERIOD;
        for w in 0..shared.workers.len() {
            let views = [(&shared.workers[w].slab4, Slot::V4 as fn(u32) -> Slot), (&shared.workers[w].slab6, Slot::V6)];
            for (view, slot) in views {
                scan_all(&shared, w, view, slot).await;
            }
        }
        tokio::time::sleep_until(next.into()).await;
    }
}

async fn scan_all(shared: &Shared, worker: usize, view: &SlabView, slot: fn(u32) -> Slot) {
    let mut from = 0;
    while from < view.high_water() {
        let to = view.high_water().min(from.saturating_add(SLICE));
        let reached = scan(&shared.workers[worker], view, from..to, shared.now(), slot);
        if reached.sent {
            shared.wake(worker);
        }
        if !reached.all {
            // The worker has enough to do; the rest is found again in the next round.
            return;
        }
        from = to;
        tokio::task::yield_now().await;
    }
}

/// How far a scan came.
#[derive(Debug, PartialEq, Eq)]
struct Reached {
    /// To the end.
    all: bool,
    /// It sent something to the worker.
    sent: bool,
}

fn scan(w: &WorkerShared, view: &SlabView, range: std::ops::Range<u32>, now: Ticks, slot: fn(u32) -> Slot) -> Reached {
    let mut batch = Vec::new();
    let mut sent = false;
    for i in range {
        let t = view.deadline(i);
        if t != Ticks(0) && t.reached(now) {
            batch.push(slot(i));
            if batch.len() == BATCH {
                if w.expired.push(std::mem::take(&mut batch)).is_err() {
                    return Reached { all: false, sent };
                }
                sent = true;
            }
        }
    }
    if !batch.is_empty() {
        let all = w.expired.push(batch).is_ok();
        return Reached { all, sent: sent || all };
    }
    Reached { all: true, sent }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::conntrack::{Connection, Key, Private, Slab};
    use dataplane::packet::V4;

    #[test]
    fn only_passed_deadlines_are_sent_and_a_full_queue_stops_the_scan() {
        let shared = Shared::new(1, 1, 100_000, 16).unwrap();
        let w = &shared.workers[0];
        let mut slab = Slab::<V4>::new(w.slab4.clone()).unwrap();
        let now = Ticks(10_000);
        for i in 0..1000u32 {
            let mut c = Connection::new(Key::default(), Key::default(), Private::Plain);
            c.deadline = if i % 2 == 0 { Ticks(9_000) } else { Ticks(11_000) };
            assert_eq!(slab.insert(c), Some(i));
        }
        slab.remove(0);
        let all = Reached { all: true, sent: true };
        assert_eq!(scan(w, &w.slab4, 0..w.slab4.high_water(), now, Slot::V4), all);
        let found: Vec<Slot> = std::iter::from_fn(|| w.expired.pop()).flatten().collect();
        assert_eq!(found.len(), 499);
        assert!(found.iter().all(|s| matches!(s, Slot::V4(i) if i % 2 == 0 && *i > 0)));

        while w.expired.push(Vec::new()).is_ok() {}
        let stopped = Reached { all: false, sent: false };
        assert_eq!(scan(w, &w.slab4, 0..w.slab4.high_water(), now, Slot::V4), stopped);
    }
}
