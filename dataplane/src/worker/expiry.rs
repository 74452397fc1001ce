//! Finds connections whose time is up, so that no worker has to look. The control thread takes these steps.

use std::ops::Range;
use std::time::Duration;

use super::shared::{Shared, Slot, WorkerShared};
use crate::conntrack::{SlabView, Ticks};

/// How often all deadlines are looked at.
pub const PERIOD: Duration = Duration::from_millis(250);
/// Deadlines looked at in one step: a quarter of a millisecond or so.
const SLICE: u32 = 1 << 18;
/// Slots in one message to a worker.
const BATCH: usize = 256;
/// How long a worker is given to take what it was told of.
const PAUSE: Duration = Duration::from_millis(2);

/// One look at all deadlines of all workers, step by step.
#[derive(Debug, Default)]
pub struct Scan {
    worker: usize,
    v6: bool,
    /// The next slot.
    at: u32,
    /// It has waited, and the worker has taken nothing since.
    stuck: bool,
}

/// What comes after a step of a [`Scan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Another step.
    Goes,
    /// Another step, but not before this has passed.
    Waits(Duration),
    /// Nothing: all has been looked at.
    Over,
}

impl Scan {
    /// Looks at some more deadlines.
    pub fn step(&mut self, shared: &Shared) -> Step {
        let Some(w) = shared.workers.get(self.worker) else { return Step::Over };
        let (view, slot): (_, fn(u32) -> Slot) = if self.v6 { (&w.slab6, Slot::V6) } else { (&w.slab4, Slot::V4) };
        let end = view.high_water();
        let to = end.min(self.at.saturating_add(SLICE));
        let found = scan(w, view, self.at..to, shared.now(), slot);
        if found.sent {
            shared.wake(self.worker);
        }
        self.at = found.to;
        if found.to < to {
            // One that takes nothing has enough to do, and must not keep the others waiting: the rest is found
            // again the next time.
            if found.sent || !self.stuck {
                self.stuck = !found.sent;
                return Step::Waits(PAUSE);
            }
        } else if to < end {
            return Step::Goes;
        }
        let next = if self.v6 { (self.worker + 1, false) } else { (self.worker, true) };
        *self = Scan { worker: next.0, v6: next.1, ..Scan::default() };
        Step::Goes
    }
}

/// How far a scan came.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// To this slot; less than all when the worker's queue is full.
    to: u32,
    /// It sent something to the worker.
    sent: bool,
}

fn scan(w: &WorkerShared, view: &SlabView, range: Range<u32>, now: Ticks, slot: fn(u32) -> Slot) -> Found {
    let end = range.end;
    let mut sent = false;
    let mut from = range.start;
    while from < end {
        let reached = |i: &u32| {
            let t = view.deadline(*i);
            t != Ticks(0) && t.reached(now)
        };
        let mut to = end;
        let mut batch = Vec::new();
        for i in (from..end).filter(reached) {
            if batch.len() == BATCH {
                to = i;
                break;
            }
            batch.push(slot(i));
        }
        if !batch.is_empty() {
            if w.expired.push(batch).is_err() {
                return Found { to: from, sent };
            }
            sent = true;
        }
        from = to;
    }
    Found { to: end, sent }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::{Connection, Key, Private, Slab};
    use crate::packet::V4;

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
        assert_eq!(scan(w, &w.slab4, 0..1000, now, Slot::V4), Found { to: 1000, sent: true });
        let found: Vec<Slot> = std::iter::from_fn(|| w.expired.pop()).flatten().collect();
        assert_eq!(found.len(), 499);
        assert!(found.iter().all(|s| matches!(s, Slot::V4(i) if i % 2 == 0 && *i > 0)));

        while w.expired.len() + 1 < w.expired.capacity() {
            w.expired.push(Vec::new()).unwrap();
        }
        // Room for one batch, the slots 2 to 512.
        assert_eq!(scan(w, &w.slab4, 0..1000, now, Slot::V4), Found { to: 514, sent: true });
        assert_eq!(scan(w, &w.slab4, 514..1000, now, Slot::V4), Found { to: 514, sent: false });
    }

    #[test]
    fn a_worker_that_takes_nothing_keeps_nobody_waiting() {
        let shared = Shared::new(2, 1, 1000, 16).unwrap();
        let insert = |w: usize| {
            let mut slab = Slab::<V4>::new(shared.workers[w].slab4.clone()).unwrap();
            // The deadline of a new connection has passed.
            slab.insert(Connection::new(Key::default(), Key::default(), Private::Plain));
        };
        insert(0);
        insert(1);
        while shared.workers[0].expired.push(Vec::new()).is_ok() {}
        let mut scan = Scan::default();
        assert_eq!(scan.step(&shared), Step::Waits(PAUSE));
        while scan.step(&shared) == Step::Goes {}
        assert_eq!(shared.workers[1].expired.pop(), Some(vec![Slot::V4(0)]));
        assert_eq!(scan.step(&shared), Step::Over);
    }
}
