//! Hands frames for the gateway host to the kernel, on a thread of its own and not too many.

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dataplane::io::punt::{Ingress, Injector};
use dataplane::worker::shared::Shared;

use crate::answers::Answers;

/// Frames to the host's own addresses that are handed over: per second, and at once. Each costs some
/// microseconds of CPU time, so that a flood of them would otherwise keep a core busy.
const OWN: Rate = Rate { per_second: 20_000, burst: 2_000 };
/// The same of redirected connections: what a busy proxy gets.
const REDIRECTED: Rate = Rate { per_second: 400_000, burst: 40_000 };
/// Frames handed over together.
const BATCH: usize = 64;
/// How often the thread looks whether it shall stop.
const LOOK_UP: Duration = Duration::from_millis(250);
/// How often failures are logged.
const QUIET: Duration = Duration::from_secs(60);

/// Hands over frames until the workers are told to stop; `ingress` says how for each interface.
///
/// # Errors
/// None; failures are counted, and now and then logged.
pub(crate) fn run(
    shared: &Shared,
    answers: &Answers,
    mut injector: Injector,
    ingress: &[Ingress],
) -> anyhow::Result<()> {
    let mut buckets = [REDIRECTED, OWN].map(|rate| Bucket::new(rate, Instant::now()));
    let mut told: Option<Instant> = None;
    let drop = |n: usize| shared.punts_dropped.fetch_add(n as u64, Ordering::Relaxed);
    while !shared.stop.load(Ordering::Relaxed) {
        let mut fds = vec![shared.punt_ready.as_raw_fd()];
        fds.extend(answers.sights());
        crate::sys::readable(&fds, LOOK_UP);
        shared.punt_ready.clear();
        loop {
            answers.pass_on_sights();
            let mut batch = answers.next_frames(BATCH);
            let redirected = batch.len();
            batch.extend(std::iter::from_fn(|| shared.punts.pop()).take(BATCH));
            if batch.is_empty() {
                break;
            }
            let now = Instant::now();
            let own = batch.len() - redirected;
            let allowed = [buckets[0].take(now, redirected), buckets[1].take(now, own)];
            drop(batch.len() - allowed[0] - allowed[1]);
            batch.truncate(redirected + allowed[1]);
            batch.drain(allowed[0]..redirected);
            // The order within an interface is kept.
            batch.sort_by_key(|p| p.interface);
            for frames in batch.chunk_by(|a, b| a.interface == b.interface) {
                let bytes: Vec<&[u8]> = frames.iter().map(|p| &p.frame[..]).collect();
                match injector.inject(ingress[usize::from(frames[0].interface)], &bytes) {
                    Ok(n) => drop(frames.len() - n),
                    Err(e) => {
                        if told.is_none_or(|t| t.elapsed() > QUIET) {
                            told = Some(Instant::now());
                            tracing::warn!("frames for the host itself are lost: {e}");
                        }
                        drop(frames.len())
                    }
                };
            }
        }
    }
    Ok(())
}

/// How many frames are handed over.
#[derive(Debug, Clone, Copy)]
struct Rate {
    per_second: u32,
    burst: u32,
}

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        Bucket { rate, tokens: f64::from(rate.burst), filled: now }
    }

    /// Takes up to `wanted` tokens.
    fn take(&mut self, now: Instant, wanted: usize) -> usize {
        let passed = now.duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * f64::from(self.rate.per_second)).min(f64::from(self.rate.burst));
        let taken = wanted.min(self.tokens as usize);
        self.tokens -= taken as f64;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_allows_a_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut b = Bucket::new(Rate { per_second: 20_000, burst: 2_000 }, start);
        assert_eq!(b.take(start, 10), 10);
        assert_eq!(b.take(start, 10_000), 1_990);
        assert_eq!(b.take(start + Duration::from_millis(50), 10_000), 1_000);
        assert_eq!(b.take(start + Duration::from_secs(50), 10_000), 2_000);
    }
}
