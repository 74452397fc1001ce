//! How long single turns of the worker take while something special goes on: none is to take a millisecond.
//!
//! Turns are timed by the thread's CPU clock: what else the machine does is no pause of the worker's.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;

use super::Section;
use super::expiry::Scanner;
use super::flows::{Kind, Segment};
use super::gateway::{Gateway, policy};
use super::generator::Plan;
use crate::sys;

/// The longest pause allowed, in microseconds.
const LIMIT: f64 = 1000.0;
/// Seconds that a connection without packets lives.
const TIMEOUT: u32 = 20;
/// Connections that go on while the others expire.
const GO_ON: u32 = 1 << 16;

/// Times of turns, by powers of two of a microsecond.
#[derive(Default)]
struct Histogram {
    buckets: [u64; 20],
    longest: Duration,
}

impl Histogram {
    fn record(&mut self, t: Duration) {
        let bucket = (t.as_micros() as u64 | 1).ilog2() as usize;
        self.buckets[bucket.min(self.buckets.len() - 1)] += 1;
        self.longest = self.longest.max(t);
    }
}

/// Runs turns until one finds nothing to forward, or `over` says so, and records them.
fn turns(g: &mut Gateway, h: &mut Histogram, over: impl Fn(&Gateway) -> bool) {
    let mut n = 1;
    while n > 0 && !over(g) {
        let start = sys::thread_time();
        n = g.worker.turn();
        h.record(sys::thread_time() - start);
    }
}

fn show(s: &mut Section, phase: &str, h: &Histogram) {
    let filled = h.buckets.iter().enumerate().filter(|(_, n)| **n > 0);
    let text: Vec<String> = filled.map(|(i, n)| format!("{n} below {} us", 2u64 << i)).collect();
    s.single_below(&format!("pause-{phase}-10M"), h.longest.as_secs_f64() * 1e6, "us", Some(LIMIT));
    println!("  turns: {}", text.join(", "));
}

/// Connections begin, a new policy is taken over, and connections expire.
pub(super) fn run(s: &mut Section) -> Result<()> {
    let flows = if s.quick { 200_000 } else { 10_000_000 };
    let mut rules = policy(flows);
    rules.timeouts[0].udp = TIMEOUT;
    let mut g = Gateway::with_policy(Kind::Udp, rules.clone())?;
    let mut growth = Histogram::default();
    // What is refused because memory is not there yet is asked for again.
    while g.connections() < u64::from(flows) {
        g.start(Plan::each(flows, Segment::Data), Plan::none());
        turns(&mut g, &mut growth, |_| false);
    }
    show(s, "growth", &growth);
    println!("  {} times a connection had to wait for memory", g.refused());
    let mut next = rules.clone();
    next.follow(&rules, true);
    let generation = g.shared.publish_policy(Arc::new(next));
    g.start(Plan::data(GO_ON, u64::MAX), Plan::none());
    let mut reload = Histogram::default();
    turns(&mut g, &mut reload, |g| g.shared.workers[0].adopted.load(Ordering::Acquire) == generation);
    show(s, "reload", &reload);
    let scanner = Scanner::start(&g.shared);
    let mut expiry = Histogram::default();
    turns(&mut g, &mut expiry, |g| g.connections() <= u64::from(GO_ON));
    scanner.stop();
    show(s, "expiry", &expiry);
    Ok(())
}
