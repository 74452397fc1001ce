//! Many connections that expire at once beside established traffic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dataplane::conntrack::Timeouts;
use dataplane::worker::expiry::{PERIOD, Scan, Step};
use dataplane::worker::shared::Shared;

use super::Section;
use super::flows::{Kind, Segment};
use super::gateway::{Gateway, policy};
use super::generator::Plan;
use super::samples::Samples;

/// Connections whose packets go on.
const ESTABLISHED: u32 = 65_536;
/// Seconds after which the others expire.
const TIMEOUT: u32 = 5;

/// The control thread's search for deadlines that have passed, as the daemon runs it.
pub(super) struct Scanner {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Scanner {
    pub(super) fn start(shared: &Arc<Shared>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, told) = (shared.clone(), stop.clone());
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                let next = Instant::now() + PERIOD;
                let mut scan = Scan::default();
                loop {
                    match scan.step(&shared) {
                        Step::Over => break,
                        Step::Goes => {}
                        Step::Waits(pause) => thread::sleep(pause),
                    }
                }
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        Scanner { stop, thread }
    }

    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        // A panic has said what there is to say.
        let _ = self.thread.join();
    }
}

/// The rate of established traffic in the second in which the others expire, of that without.
pub(super) fn run(s: &mut Section) -> Result<()> {
    let flows = if s.quick { 100_000 } else { 1_000_000 };
    let mut kept = Samples::default();
    let mut took = Samples::default();
    for _ in 0..if s.quick { 1 } else { 3 } {
        let (share, seconds) = once(flows)?;
        kept.add(100.0 * share);
        took.add(seconds);
    }
    s.above("expiry-1M-established-rate", &kept, "%", Some(90.0));
    s.below("expiry-1M-duration", &took, "s", None);
    Ok(())
}

fn once(flows: u32) -> Result<(f64, f64)> {
    let all = ESTABLISHED + flows;
    let mut p = policy(all);
    // What is answered lives on.
    p.timeouts = vec![Timeouts { udp: TIMEOUT, ..Timeouts::linux() }];
    let mut g = Gateway::with_policy(Kind::Udp, p)?;
    let scanner = Scanner::start(&g.shared);
    let start = Instant::now();
    g.begin(Plan::each(flows, Segment::Data))?;
    let made = start.elapsed();
    let others = Plan { first: flows, ..Plan::each(ESTABLISHED, Segment::Data) };
    g.begin(others)?;
    g.run(Plan::none(), others)?;
    let traffic = |g: &mut Gateway, packets: u64| -> Result<f64> {
        let half = Plan { first: flows, ..Plan::data(ESTABLISHED, packets / 2) };
        Ok(g.run(half, half)?.as_secs_f64() / packets as f64)
    };
    // Packets of some ten milliseconds, so that the beginning and the end are seen.
    const PART: u64 = 1 << 18;
    let mut before = Samples::default();
    while g.connections() == u64::from(all) {
        before.add(traffic(&mut g, PART)?);
        ensure!(start.elapsed() < Duration::from_secs(u64::from(TIMEOUT) * 4), "nothing expires");
    }
    let usual = before.median();
    // The second that begins with the first one's end, or longer if it takes longer.
    let expiring = Instant::now();
    let (mut cost, mut packets, mut over) = (0.0, 0, None);
    while expiring.elapsed() < Duration::from_secs(1) || over.is_none() {
        cost += traffic(&mut g, PART)? * PART as f64;
        packets += PART;
        if over.is_none() && g.connections() <= u64::from(ESTABLISHED) {
            over = Some(expiring.elapsed());
        }
        ensure!(expiring.elapsed() < Duration::from_secs(60), "{} connections are left", g.connections());
    }
    scanner.stop();
    let took = over.unwrap_or_default().saturating_sub(made).max(Duration::ZERO);
    Ok((usual * packets as f64 / cost, took.as_secs_f64()))
}
