//! The daemon's threads: started together, watched, stopped together.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;
use core_affinity::CoreId;
use dataplane::io::Port;
use dataplane::worker::Worker;
use dataplane::worker::shared::Shared;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::context::Context;

/// A thread that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) thread: String,
    pub(super) error: Option<anyhow::Error>,
}

/// The threads that run.
pub(super) struct Threads {
    handles: Vec<JoinHandle<()>>,
    ended: UnboundedSender<Ended>,
}

impl Threads {
    /// None yet; the receiver hears of each that ends.
    pub(super) fn new() -> (Self, UnboundedReceiver<Ended>) {
        let (ended, receiver) = unbounded_channel();
        (Threads { handles: Vec::new(), ended }, receiver)
    }

    /// Starts a thread that runs until the workers are told to stop.
    pub(super) fn start(
        &mut self,
        name: &str,
        run: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let (thread, ended) = (name.to_owned(), self.ended.clone());
        let guarded = move || {
            // The panic's message and place were logged by the hook that `logging` installs.
            let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")));
            // Nobody listens any more while the daemon stops.
            let _ = ended.send(Ended { thread, error: result.err() });
        };
        let spawned = Builder::new().name(name.to_owned()).spawn(guarded);
        self.handles.push(spawned.with_context(|| format!("starting thread {name}"))?);
        Ok(())
    }

    /// Starts a worker on its CPU. `make` runs there, so that the worker's memory is near.
    pub(super) fn start_worker<P: Port + 'static>(
        &mut self,
        ctx: &Arc<Context>,
        id: usize,
        make: impl FnOnce() -> io::Result<Worker<P>> + Send + 'static,
    ) -> anyhow::Result<()> {
        let (ready, made) = sync_channel(1);
        let ctx = ctx.clone();
        self.start(&format!("worker/{id}"), move || {
            if let Some(cpu) = ctx.workers[id].cpu {
                pin(id, cpu);
            }
            let mut worker = match make() {
                Ok(w) => w,
                Err(e) => {
                    let _ = ready.send(Err(e));
                    return Ok(());
                }
            };
            ctx.workers[id].alive.store(true, Ordering::Relaxed);
            let _ = ready.send(Ok(()));
            let result = catch_unwind(AssertUnwindSafe(|| worker.run()));
            ctx.workers[id].alive.store(false, Ordering::SeqCst);
            if result.is_err() {
                // The others go on, and may hold frames of this one.
                std::mem::forget(worker);
            } else {
                // Until they have ended, the others may read frames that this one has lent them.
                while ctx.workers.iter().any(|w| w.alive.load(Ordering::SeqCst)) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            result.map_err(|_| anyhow::anyhow!("it panicked"))
        })?;
        let made = made.recv().context("a worker panicked while it started")?;
        made.with_context(|| format!("reserving memory for worker {id}; lower conntrack.max_connections"))
    }

    /// Tells all threads to stop and waits until they have.
    pub(super) fn stop(self, shared: &Shared) {
        shared.stop.store(true, Ordering::SeqCst);
        for w in &shared.workers {
            w.wake.signal();
        }
        shared.control_ready.signal();
        shared.punt_ready.signal();
        for h in self.handles {
            // A panic was caught and reported inside.
            let _ = h.join();
        }
    }
}

/// Pins the calling thread, and looks whether that worked: some systems ignore it.
fn pin(worker: usize, cpu: usize) {
    let asked = core_affinity::set_for_current(CoreId { id: cpu });
    let got: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|c| c.id).collect();
    if !asked || got != [cpu] {
        tracing::warn!("worker {worker} could not be pinned to CPU {cpu}; it runs on {got:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_fails_or_panics_is_heard_of() {
        let (mut threads, mut ended) = Threads::new();
        threads.start("fails", || anyhow::bail!("no luck")).unwrap();
        let e = ended.blocking_recv().unwrap();
        assert_eq!((e.thread.as_str(), e.error.unwrap().to_string().as_str()), ("fails", "no luck"));
        threads.start("panics", || panic!("expected in this test")).unwrap();
        assert_eq!(ended.blocking_recv().unwrap().error.unwrap().to_string(), "it panicked");
        threads.start("ends", || Ok(())).unwrap();
        assert!(ended.blocking_recv().unwrap().error.is_none());
        threads.stop(&Shared::new(0, 0, 1, 0).unwrap());
    }
}
