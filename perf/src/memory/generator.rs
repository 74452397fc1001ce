//! A port that makes its frames itself and takes back at once what is sent: what is left is the worker.

use std::time::{Duration, Instant};

use dataplane::io::{Frame, FramePool, Port};

use super::flows::{Flows, Segment};

/// Making a burst takes a microsecond or a few; when it takes so long, something else ran meanwhile.
const INTERRUPTED: Duration = Duration::from_micros(40);

/// The order in which flows take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// As they were made.
    Sequential,
    /// Shuffled: each once, then each once again, in another order for each side.
    Shuffled,
}

/// What to send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// The first flow, and how many there are from there on.
    pub(super) first: u32,
    pub(super) flows: u32,
    pub(super) order: Order,
    pub(super) segment: Segment,
    /// So many frames.
    pub(super) frames: u64,
}

impl Plan {
    /// One frame of each flow.
    pub(super) fn each(flows: u32, segment: Segment) -> Self {
        Plan { first: 0, flows, order: Order::Sequential, segment, frames: u64::from(flows) }
    }

    /// So many frames of data, in random order.
    pub(super) fn data(flows: u32, frames: u64) -> Self {
        Plan { first: 0, flows, order: Order::Shuffled, segment: Segment::Data, frames }
    }

    /// Nothing.
    pub(super) fn none() -> Self {
        Plan::data(1, 0)
    }
}

/// One side of many flows.
#[derive(Debug)]
pub(super) struct Generator {
    flows: Flows,
    plan: Plan,
    /// Frames made since the flows were begun.
    made: u64,
    /// Frames still to make.
    left: u64,
    /// Frames whose making was timed without interruption, and the time that took.
    timed: u64,
    spent: Duration,
    /// Frames the worker has sent here.
    pub(super) sent: u64,
}

impl Generator {
    pub(super) fn new(flows: Flows) -> Self {
        Generator { flows, plan: Plan::none(), made: 0, left: 0, timed: 0, spent: Duration::ZERO, sent: 0 }
    }

    /// Begins a run.
    pub(super) fn start(&mut self, plan: Plan) {
        (self.plan, self.left, self.sent, self.timed, self.spent) = (plan, plan.frames, 0, 0, Duration::ZERO);
    }

    /// Goes back to where it was before the last run.
    pub(super) fn again(&mut self) {
        self.made -= self.plan.frames;
    }

    /// Frames made in this run.
    pub(super) fn taken(&self) -> u64 {
        self.plan.frames - self.left
    }

    /// Time that making `frames` frames takes, which is not the worker's. It is timed by the wall clock, as
    /// the thread's own clock costs a system call, but without the bursts in which something else ran.
    pub(super) fn cost(&self, frames: u64) -> Duration {
        self.spent.mul_f64(frames as f64 / self.timed.max(1) as f64)
    }
}

/// A permutation of the numbers below `n`.
fn shuffle(x: u32, n: u32, key: u32) -> u32 {
    let bits = 32 - (n - 1).max(3).leading_zeros();
    let mask = u32::MAX >> (32 - bits);
    let mut x = x;
    // Each step is one to one on the numbers of so many bits; those that are too large go round again.
    loop {
        for _ in 0..2 {
            x = x.wrapping_mul(0x9e37_79b1).wrapping_add(key) & mask;
            x ^= x >> (bits / 2);
        }
        if x < n {
            return x;
        }
    }
}

impl Port for Generator {
    // A function of its own, so that instructions can be counted without it.
    #[inline(never)]
    fn receive(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) {
        let n = self.left.min(max as u64);
        if n == 0 {
            return;
        }
        let start = Instant::now();
        self.left -= n;
        for _ in 0..n {
            let n = u64::from(self.plan.flows);
            let (round, turn) = ((self.made / n) as u32, (self.made % n) as u32);
            let i = match self.plan.order {
                Order::Sequential => turn,
                Order::Shuffled => shuffle(turn, self.plan.flows, self.flows.key()),
            };
            self.made += 1;
            let Some(f) = pool.take() else { break };
            let f = Frame { len: self.flows.length() as u16, ..f };
            self.flows.write(self.plan.first + i, self.plan.segment, round, pool.bytes_mut(f));
            out.push(f);
        }
        let spent = start.elapsed();
        if spent < INTERRUPTED {
            self.timed += n;
            self.spent += spent;
        }
    }

    #[inline(always)]
    fn send(&mut self, pool: &mut FramePool, frame: Frame) -> Result<(), Frame> {
        self.sent += 1;
        pool.give(frame);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flow_has_its_turn() {
        for n in [1, 2, 3, 5, 64, 1000] {
            let mut seen: Vec<u32> = (0..n).map(|x| shuffle(x, n, 7)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..n).collect::<Vec<_>>());
        }
    }
}
