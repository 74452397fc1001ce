//! Hands frames for the gateway host to the kernel, on a thread of its own and not too many.

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dataplane::io::punt::{Ingress, Injector};
use dataplane::worker::shared::{Punt, Shared};

/// Frames handed over per second at most. Each costs some microseconds of CPU time, so that a flood of
/// frames to the gateway's own address would otherwise keep a core busy.
const RATE: u32 = 20_000;
/// Frames that may come at once.
const BURST: u32 = 2_000;
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
pub(crate) fn run(shared: &Shared, mut injector: Injector, ingress: &[Ingress]) -> anyhow::Result<()> {
    let mut bucket = Bucket::new(Instant::now());
    let mut told: Option<Instant> = None;
    let drop = |n: usize| shared.punts_dropped.fetch_add(n as u64, Ordering::Relaxed);
    while !shared.stop.load(Ordering::Relaxed) {
        crate::sys::readable(&[shared.punt_ready.as_raw_fd()], LOOK_UP);
        shared.punt_ready.clear();
        loop {
            let mut batch: Vec<Punt> = std::iter::from_fn(|| shared.punts.pop()).take(BATCH).collect();
            if batch.is_empty() {
                break;
            }
            let allowed = bucket.take(Instant::now(), batch.len());
            drop(batch.len() - allowed);
            batch.truncate(allowed);
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

/// A token bucket of [`RATE`] and [`BURST`].
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Bucket { tokens: f64::from(BURST), filled: now }
    }

    /// Takes up to `wanted` tokens.
    fn take(&mut self, now: Instant, wanted: usize) -> usize {
        let passed = now.duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * f64::from(RATE)).min(f64::from(BURST));
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
        let mut b = Bucket::new(start);
        assert_eq!(b.take(start, 10), 10);
        assert_eq!(b.take(start, 10_000), 1_990);
        assert_eq!(b.take(start + Duration::from_millis(50), 10_000), 1_000);
        assert_eq!(b.take(start + Duration::from_secs(50), 10_000), 2_000);
    }
}
