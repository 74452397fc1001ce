//! The worker's loop: receive, stage by stage through the path, send; sleep when there is nothing to do.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use super::burst;
use super::core::Core;
use super::family::{Families, Family, Member};
use super::reason::DropReason;
use super::shared::Shared;
use super::taken;
use super::tasks::{self, Tasks};
use super::unreachable;
use super::wiring::Inlet;
use crate::conntrack::Ticks;
use crate::io::{BURST, Frame, FramePool, Port};
use crate::packet::{V4, V6};

/// Housekeeping happens this often.
const HOUSEKEEPING_MS: u32 = 50;
/// Polls that find nothing before a worker that polls adaptively goes to sleep.
const SPIN: Duration = Duration::from_micros(50);

/// How a worker runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Never sleep.
    pub busy_poll: bool,
}

/// One worker. `P` is the kind of its ports, one for each of the policy's [devices](crate::policy::Policy::devices).
pub struct Worker<P> {
    core: Core<P>,
    families: Families,
    tasks: Tasks,
    options: Options,
    received: Vec<Frame>,
    housekeeping: Ticks,
    ports_flushed: bool,
}

impl<P: Port> Worker<P> {
    /// Worker number `id` of those in `shared`.
    ///
    /// # Errors
    /// When the tables' address space cannot be had.
    pub fn new(id: usize, shared: Arc<Shared>, pool: FramePool, ports: Vec<P>, options: Options) -> io::Result<Self> {
        let own = &shared.workers[id];
        let families = Families { v4: Family::new(own.slab4.clone())?, v6: Family::new(own.slab6.clone())? };
        let core = Core::new(id as u16, shared, pool, ports);
        let housekeeping = core.now;
        let mut w = Worker {
            core,
            families,
            tasks: Tasks::default(),
            options,
            received: Vec::with_capacity(BURST + burst::AHEAD),
            housekeeping,
            ports_flushed: true,
        };
        tasks::gauges(&w.core, &w.families);
        // It has no connection of an older policy.
        w.core.shared.workers[id].adopted.store(w.core.snapshot.generation, Ordering::Release);
        w.take_snapshot();
        Ok(w)
    }

    /// The ports, for tests and benches.
    pub fn ports(&mut self) -> &mut [P] {
        &mut self.core.ports
    }

    /// The frames, for tests and benches.
    pub fn pool(&mut self) -> &mut FramePool {
        &mut self.core.pool
    }

    /// Runs until [`Shared::stop`] is set.
    pub fn run(&mut self) {
        let shared = self.core.shared.clone();
        let mut last = Instant::now();
        let mut idle_since = None;
        while !shared.stop.load(Ordering::Relaxed) {
            let n = self.turn();
            let now = Instant::now();
            let elapsed = (now - last).as_nanos() as u64;
            last = now;
            let c = self.core.counters();
            if n > 0 {
                c.busy_ns.add(elapsed);
                c.burst_time.record(elapsed);
                idle_since = None;
                continue;
            }
            c.idle_ns.add(elapsed);
            let since = *idle_since.get_or_insert(now);
            if !self.options.busy_poll && now - since >= SPIN && !self.tasks.pending() {
                self.sleep();
                let woke = Instant::now();
                self.core.counters().sleep_ns.add((woke - last).as_nanos() as u64);
                last = woke;
                idle_since = None;
            }
        }
        tasks::gauges(&self.core, &self.families);
    }

    /// One turn of the loop: one burst of every port, and whatever else is due. Returns the number of
    /// frames that came in.
    pub fn turn(&mut self) -> usize {
        self.core.now = self.core.shared.now();
        if self.core.shared.current.generation() != self.core.snapshot.generation {
            self.take_snapshot();
        }
        let mut frames = taken::take_over(&mut self.core, &mut self.families);
        // After copies were made in frames that this core has written last.
        self.core.take_back();
        let mut lags = false;
        for i in 0..self.core.ports.len() {
            let Core { ports, pool, .. } = &mut self.core;
            ports[i].receive(pool, &mut self.received, BURST);
            if self.received.is_empty() {
                continue;
            }
            frames += self.received.len();
            lags |= self.received.len() == BURST && ports[i].lags();
            let mut received = std::mem::take(&mut self.received);
            match self.core.inlets.get(i).and_then(Inlet::only_interface) {
                Some(interface) => burst::received(&mut self.core, &mut self.families, interface, &mut received),
                None => burst::received_tagged(&mut self.core, &mut self.families, i, &received),
            }
            self.received = received;
            self.received.clear();
        }
        self.core.admission.next_turn(frames, lags);
        self.core.publish_handed();
        self.ports_flushed = true;
        let Core { ports, pool, .. } = &mut self.core;
        for port in ports {
            if frames > 0 || port.unsent() > 0 {
                port.flush(pool);
                self.ports_flushed &= port.unsent() == 0;
            }
        }
        self.tasks.turn(&mut self.core, &mut self.families, frames > 0);
        self.core.wake_host();
        if self.housekeeping.after_ms(HOUSEKEEPING_MS).reached(self.core.now) {
            self.housekeeping = self.core.now;
            give_up::<P, V4>(&mut self.core, &mut self.families);
            give_up::<P, V6>(&mut self.core, &mut self.families);
            if self.core.id == 0 {
                self.core.shared.expectations.expire(self.core.now);
            }
            let late = self.families.v4.fragments.expire(self.core.now);
            let late6 = self.families.v6.fragments.expire(self.core.now);
            for f in late.into_iter().chain(late6) {
                self.core.discard(f, DropReason::FragmentLimit);
            }
            tasks::gauges(&self.core, &self.families);
        }
        self.core.publish();
        frames
    }

    fn take_snapshot(&mut self) {
        let w = &mut self.core;
        let former = std::mem::replace(&mut w.snapshot, w.shared.current.load());
        let own = &w.shared.workers[usize::from(w.id)];
        own.generation.store(w.snapshot.generation, Ordering::Release);
        if !Arc::ptr_eq(&former.policy, &w.snapshot.policy) {
            w.rewire();
            self.tasks.adopt(w.snapshot.generation);
        }
        w.route_epoch = w.route_epoch.wrapping_add(1).max(1);
        self.families.v4.neighbours.refresh(w);
        self.families.v6.neighbours.refresh(w);
    }

    /// Sleeps until a frame comes, somebody wakes this worker, or housekeeping is due.
    fn sleep(&mut self) {
        let shared = self.core.shared.clone();
        let own = &shared.workers[usize::from(self.core.id)];
        own.sleeping.store(true, Ordering::Relaxed);
        // Pairs with the fence in `Shared::wake`: either the other side sees that we sleep, or we see
        // what it has queued.
        fence(Ordering::SeqCst);
        let quiet = self.core.ends.is_quiet()
            && own.commands.is_empty()
            && own.sights.is_empty()
            && own.expired.is_empty()
            && shared.current.generation() == self.core.snapshot.generation;
        if quiet {
            let readable = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let mut fds: Vec<libc::pollfd> = self.core.ports.iter().filter_map(|p| p.poll_fd().map(readable)).collect();
            fds.push(readable(own.wake.as_raw_fd()));
            let timeout = if self.ports_flushed { HOUSEKEEPING_MS as i32 } else { 1 };
            // SAFETY: `fds` is a valid array of that length. Errors (EINTR) end the sleep, which is harmless.
            unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) };
        }
        own.sleeping.store(false, Ordering::Relaxed);
        own.wake.clear();
    }
}

fn give_up<P: Port, A: Member>(w: &mut Core<P>, families: &mut Families) {
    let t = A::of(families);
    for x in t.neighbours.tick(w) {
        unreachable::give_up(w, t, &x);
    }
}
