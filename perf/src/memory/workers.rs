//! Two workers against one: each owner's packets arrive at itself, or all replies at the other one.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dataplane::io::FramePool;
use dataplane::worker::shared::Shared;
use dataplane::worker::{Options, Worker};

use super::Section;
use super::flows::{Flows, Kind, Segment, Side};
use super::gateway::{PORT, fib, policy};
use super::generator::{Generator, Plan};
use super::samples::Samples;
use crate::sys;

/// Connections of all workers together.
const FLOWS: u32 = 65_536;
/// The same where instructions are counted: making so few of them does not count beside the rest.
const FEW: u32 = 256;

struct Team {
    shared: Arc<Shared>,
    workers: Vec<Worker<Generator>>,
    /// Each worker's connections.
    share: u32,
}

/// How the packets reach the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    /// All at the owner of their connection.
    Owner,
    /// Replies at the next worker.
    Elsewhere,
}

impl Team {
    fn new(n: usize, flows: u32) -> Result<Self> {
        let policy = policy(2 * flows);
        let shared = Shared::new(n, 2, policy.max_connections, 4096)?;
        shared.current.publish(Some(Arc::new(policy)), Some(Arc::new(fib())));
        let port = |side| Generator::new(Flows::new(Kind::Udp, side, PORT));
        let worker = |id| {
            let pool = FramePool::in_memory(4096, 2048, 256);
            let ports = vec![port(Side::Request), port(Side::Reply)];
            Worker::new(id, shared.clone(), pool, ports, Options { busy_poll: true })
        };
        let workers = (0..n).map(worker).collect::<Result<_, _>>()?;
        let mut team = Team { shared, workers, share: flows / n as u32 };
        let each = |first, flows, order: fn(u32, Segment) -> Plan| Plan { first, ..order(flows, Segment::Data) };
        let share = team.share;
        for side in [Side::Request, Side::Reply] {
            for (w, first) in team.workers.iter_mut().zip((0..).map(|i| i * share)) {
                w.ports()[side as usize].start(each(first, share, Plan::each));
                while w.turn() > 0 {}
            }
        }
        let made: u64 =
            team.shared.workers.iter().map(|w| w.counters.created.iter().map(|c| c.get()).sum::<u64>()).sum();
        ensure!(made == u64::from(flows), "{made} connections for {flows} flows");
        Ok(team)
    }

    /// Lets the workers take turns on this thread until nothing is left.
    // A function of its own, so that instructions can be counted in it alone.
    #[inline(never)]
    fn measured(&mut self) {
        while self.workers.iter_mut().map(Worker::turn).sum::<usize>() > 0 {}
    }

    /// Millions of packets that leave in a second of every worker's CPU time.
    fn rate(&mut self, arrival: Arrival, duration: Duration) -> Result<f64> {
        let n = self.workers.len();
        let share = self.share;
        let plan = |i: usize| Plan { first: i as u32 * share, ..Plan::data(share, u64::MAX) };
        for (i, w) in self.workers.iter_mut().enumerate() {
            let from = if arrival == Arrival::Elsewhere { (i + 1) % n } else { i };
            w.ports()[0].start(plan(i));
            w.ports()[1].start(plan(from));
        }
        let begin = Barrier::new(n);
        let run = |(cpu, w): (usize, &mut Worker<Generator>)| -> Result<(u64, Duration)> {
            sys::pin(cpu)?;
            begin.wait();
            let (end, start) = (Instant::now() + duration, sys::thread_time());
            while Instant::now() < end {
                for _ in 0..64 {
                    w.turn();
                }
            }
            let spent = sys::thread_time() - start;
            let [a, b] = w.ports() else { unreachable!("there are two ports") };
            let making = a.cost(a.taken()) + b.cost(b.taken());
            let sent = a.sent + b.sent;
            a.start(Plan::none());
            b.start(Plan::none());
            Ok((sent, spent.saturating_sub(making)))
        };
        let results = thread::scope(|s| {
            let threads: Vec<_> = self.workers.iter_mut().enumerate().map(|x| s.spawn(|| run(x))).collect();
            threads.into_iter().map(|t| t.join().ok().context("a worker panicked")?).collect::<Result<Vec<_>>>()
        })?;
        // What is on its way between them.
        for _ in 0..3 {
            self.workers.iter_mut().for_each(|w| while w.turn() > 0 {});
        }
        let sent: u64 = results.iter().map(|r| r.0).sum();
        let time: Duration = results.iter().map(|r| r.1).sum();
        Ok(sent as f64 * n as f64 / time.as_secs_f64() / 1e6)
    }
}

/// Runs `packets` packets through two workers, half of them replies that arrive at the one that does not own their
/// connection.
///
/// # Errors
/// When one was not forwarded.
pub(super) fn hand_off(packets: u64) -> Result<()> {
    let mut team = Team::new(2, FEW)?;
    let share = team.share;
    let half = |first| Plan { first, ..Plan::data(share, packets / 4) };
    for (w, (own, others)) in team.workers.iter_mut().zip([(0, share), (share, 0)]) {
        w.ports()[0].start(half(own));
        w.ports()[1].start(half(others));
    }
    team.measured();
    let sent: u64 = team.workers.iter_mut().flat_map(Worker::ports).map(|p| p.sent).sum();
    ensure!(sent == packets, "{sent} frames of {packets} were forwarded");
    Ok(())
}

/// One worker and two, in turns.
pub(super) fn run(s: &mut Section) -> Result<()> {
    if thread::available_parallelism()?.get() < 2 {
        println!("workers: one CPU is too few to compare");
        return Ok(());
    }
    let (mut one, mut two) = (Team::new(1, FLOWS)?, Team::new(2, FLOWS)?);
    let duration = Duration::from_millis(if s.quick { 100 } else { 500 });
    let [mut owner, mut elsewhere] = [Samples::default(), Samples::default()];
    for _ in 0..if s.quick { 3 } else { 7 } {
        let alone = one.rate(Arrival::Owner, duration)?;
        owner.add(two.rate(Arrival::Owner, duration)? / alone);
        elsewhere.add(two.rate(Arrival::Elsewhere, duration)? / alone);
    }
    s.above("workers-two-of-one", &owner, "ratio", Some(1.9));
    s.above("workers-two-of-one-handed-off", &elsewhere, "ratio", Some(1.4));
    Ok(())
}
