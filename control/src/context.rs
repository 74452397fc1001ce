//! What the parts of the control thread know of the running gateway.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use dataplane::io::xsk::{Monitor, XskStatistics};
use dataplane::worker::counters::Counters;
use dataplane::worker::shared::Shared;

use crate::answers::Answers;
use crate::daemon::Steering;
use crate::mirror;
use crate::reload::Policies;

/// The running gateway.
pub(crate) struct Context {
    /// What the workers share.
    pub(crate) shared: Arc<Shared>,
    /// Figures about the mirror.
    pub(crate) mirror: Arc<mirror::Stats>,
    /// Every queue that is bound to a worker.
    pub(crate) queues: Vec<Queue>,
    /// Read the statistics of each queue's socket, and keep it open.
    pub(crate) monitors: Mutex<Vec<Option<Monitor>>>,
    /// The kernel's index of the device of each interface when it was attached.
    pub(crate) attached: Vec<u32>,
    /// The steering programs.
    pub(crate) steering: Arc<Steering>,
    /// The program for the host's answers to redirected connections.
    pub(crate) answers: Arc<Answers>,
    /// Each worker's CPU and load.
    pub(crate) workers: Vec<WorkerState>,
    /// The policies that are and were in force.
    pub(crate) policies: Arc<Policies>,
    /// Where a policy is announced before it takes effect.
    pub(crate) coming: Arc<mirror::Coming>,
    /// The generation of the snapshot with the policy in force.
    pub(crate) adopted: AtomicU32,
    /// The connections that the tables were made for.
    pub(crate) max_connections: u32,
    /// Where metrics and health are served over HTTP.
    pub(crate) metrics: Option<SocketAddr>,
    /// When the daemon started.
    pub(crate) started: SystemTime,
    /// The same by a clock that nobody sets.
    pub(crate) running_since: Instant,
    /// Set once the workers run.
    pub(crate) running: AtomicBool,
}

/// One queue of one device.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Index in the policy of the first interface on the device.
    pub(crate) interface: usize,
    /// Number of the queue.
    pub(crate) queue: u32,
    /// The worker that owns it.
    pub(crate) worker: usize,
    /// How the XDP program is attached: `native` or `generic`.
    pub(crate) xdp: &'static str,
    /// How frames get to the worker: `zero-copy` or `copy`.
    pub(crate) mode: &'static str,
}

/// What the control thread knows of a worker.
#[derive(Debug)]
pub(crate) struct WorkerState {
    /// The CPU it is pinned to.
    pub(crate) cpu: Option<usize>,
    /// Whether its thread runs.
    pub(crate) alive: AtomicBool,
    load: Mutex<Load>,
}

#[derive(Debug)]
struct Load {
    busy_ns: u64,
    at: Instant,
    ratio: f64,
}

impl WorkerState {
    /// A worker on this CPU that does not run yet.
    pub(crate) fn new(cpu: Option<usize>) -> Self {
        let load = Load { busy_ns: 0, at: Instant::now(), ratio: 0.0 };
        WorkerState { cpu, alive: AtomicBool::new(false), load: Mutex::new(load) }
    }

    /// Measures the load since the last call; to be called about once a second.
    pub(crate) fn sample(&self, c: &Counters) {
        let mut l = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        let (busy_ns, now) = (c.busy_ns.get(), Instant::now());
        let passed = now.duration_since(l.at).as_nanos().max(1) as f64;
        let ratio = (busy_ns.saturating_sub(l.busy_ns) as f64 / passed).min(1.0);
        *l = Load { busy_ns, at: now, ratio };
    }

    /// The part of the last second that it spent on packets, 0 to 1.
    pub(crate) fn load(&self) -> f64 {
        self.load.lock().unwrap_or_else(PoisonError::into_inner).ratio
    }
}

impl Context {
    /// Each queue with its socket's statistics, where the kernel tells them.
    pub(crate) fn socket_statistics(&self) -> Vec<(&Queue, XskStatistics)> {
        let monitors = self.monitors.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.queues.iter().zip(monitors.iter());
        all.filter_map(|(q, m)| Some((q, m.as_ref()?.statistics().ok()?))).collect()
    }

    /// Lets go of the sockets: the queues are free then, even if a client still holds the context.
    pub(crate) fn release(&self) {
        self.monitors.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The device that was made anew since it was attached, if there is one: nothing of the old one works.
    pub(crate) fn replaced(&self) -> Option<String> {
        let current = self.shared.current.load();
        let mut all = current.policy.interfaces.iter().zip(&current.fib.interfaces).zip(&self.attached);
        all.find(|((_, i), attached)| i.device != 0 && i.device != **attached).map(|((p, _), _)| p.device.clone())
    }

    /// Whether packets flow: workers run, and enough interfaces are up to forward between.
    ///
    /// # Errors
    /// The reason why not.
    pub(crate) fn ready(&self) -> Result<(), String> {
        if self.shared.stop.load(Ordering::Relaxed) {
            return Err("the daemon is stopping".to_owned());
        }
        if !self.running.load(Ordering::Acquire) {
            return Err("the workers have not started yet".to_owned());
        }
        if let Some(w) = self.workers.iter().position(|w| !w.alive.load(Ordering::Relaxed)) {
            return Err(format!("worker {w} has ended; see the daemon's log"));
        }
        let current = self.shared.current.load();
        let mut up = 0;
        let mut trouble = Vec::new();
        for ((p, i), attached) in current.policy.interfaces.iter().zip(&current.fib.interfaces).zip(&self.attached) {
            let name = format!("interface {} ({p})", p.name);
            match i.device {
                0 => trouble.push(format!("{name} does not exist any more")),
                n if n != *attached => trouble.push(format!("{name} was made anew and is not attached yet")),
                _ if i.ifindex == 0 => trouble.push(format!("interface {}: {}", p.name, mirror::no_vlan_device(p))),
                _ if !i.up => trouble.push(format!("{name} is down or has no carrier")),
                _ => up += 1,
            }
        }
        // One interface can be enough to forward (a router on a stick), a second makes it the common case.
        if up < self.attached.len().min(2) { Err(trouble.join("; ")) } else { Ok(()) }
    }
}
