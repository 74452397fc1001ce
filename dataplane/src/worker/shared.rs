//! What workers share with each other and with the control thread: bounded queues, counters, snapshots.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use crossbeam::channel::Sender;
use crossbeam::queue::ArrayQueue;

use super::account::Account;
use super::counters::Counters;
use super::directory::{self, Directory};
use super::events::Subscription;
use super::handoff::Queues;
use super::listing::{ConnectionInfo, Filter};
use super::logged::LogRecord;
use super::succession::Judged;
use super::trace::Tracer;
use crate::conntrack::{Expectations, HashKeys, SlabView, Ticks};
use crate::io::EventFd;
use crate::io::host::{HostFlow, Origin, Sight};
use crate::nat::Mappings;
use crate::packet::{V4, V6};
use crate::policy::{InterfaceId, Limiter, Policy};
use crate::snapshot::Published;

/// Everything shared; one per daemon.
#[derive(Debug)]
pub struct Shared {
    /// Key of the tuple hash, fresh each start.
    pub keys: HashKeys,
    /// The current policy and forwarding state.
    pub current: Published,
    /// Which worker owns a tuple.
    pub directory: Directory,
    /// Frames on their way from worker to worker.
    pub(super) handoffs: Queues,
    /// Announced connections.
    pub expectations: Expectations,
    /// IPv4 sources that are bound to an outside endpoint.
    pub mappings4: Mappings<V4>,
    /// IPv6 sources that are bound to an outside endpoint.
    pub mappings6: Mappings<V6>,
    /// One for each worker.
    pub workers: Vec<WorkerShared>,
    /// Next hops whose Ethernet address is wanted, or should be confirmed.
    pub neighbour_requests: ArrayQueue<NeighbourRequest>,
    /// Frames for the gateway host itself.
    pub punts: ArrayQueue<Punt>,
    /// Packets that rules log, for the control thread to write.
    pub logged: ArrayQueue<LogRecord>,
    /// What the rate limits of rules count.
    pub limiter: Limiter,
    /// What concerns connections that end at the gateway host.
    pub to_host: ArrayQueue<ToHost>,
    /// Whether the host's answers on such connections are translated back; there are no new ones otherwise.
    pub host_answers: AtomicBool,
    /// Signalled when `neighbour_requests` has become non-empty.
    pub control_ready: EventFd,
    /// Signalled when `punts` or `to_host` has become non-empty.
    pub punt_ready: EventFd,
    /// Frames for the gateway host that the punt thread discarded: over its rate limit, or refused by the kernel.
    pub punts_dropped: AtomicU64,
    /// Live connections of all workers, for `max_connections`; updated in steps, not per connection.
    pub connections: AtomicU32,
    /// Tells the workers to stop.
    pub stop: AtomicBool,
    /// Where the clock of [`Ticks`] begins.
    pub started: Instant,
}

/// What one worker shares.
#[derive(Debug)]
pub struct WorkerShared {
    /// Its counters.
    pub counters: Counters,
    /// Orders from the control thread.
    pub commands: ArrayQueue<Command>,
    /// What has been seen of the gateway host's answers on its connections.
    pub sights: ArrayQueue<Sight>,
    /// Slots whose deadline has passed, found by the control thread's scan.
    pub expired: ArrayQueue<Vec<Slot>>,
    /// The generation of the snapshot it runs.
    pub generation: AtomicU32,
    /// The generation of the snapshot with whose policy all its connections were brought over to it.
    pub adopted: AtomicU32,
    /// Set while it sleeps in `poll`; whoever queues something then signals `wake`.
    pub sleeping: AtomicBool,
    /// Ends its sleep.
    pub wake: EventFd,
    /// The deadlines of its IPv4 connections.
    pub slab4: SlabView,
    /// The deadlines of its IPv6 connections.
    pub slab6: SlabView,
}

/// Whether a frame came from another worker, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    /// It came from a port.
    No,
    /// A fragment, whose datagram's pieces meet at this worker.
    ToCollect,
    /// Its connection is this worker's. It is not handed on again.
    ToOwner,
}

/// A connection's place in a worker's slabs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// In the IPv4 slab.
    V4(u32),
    /// In the IPv6 slab.
    V6(u32),
}

/// A next hop the workers want resolved or confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NeighbourRequest {
    /// The interface it is on.
    pub interface: InterfaceId,
    /// Its address.
    pub address: IpAddr,
}

/// A frame to hand to the kernel as if just received.
#[derive(Debug)]
pub struct Punt {
    /// The interface it came in on.
    pub interface: InterfaceId,
    /// The whole frame, Ethernet header first.
    pub frame: Box<[u8]>,
}

/// A message about connections that end at the gateway host; their order counts.
#[derive(Debug)]
pub enum ToHost {
    /// The host's answers are to be translated, before any later frame is handed over.
    Begins(HostFlow, Origin),
    /// A frame, translated already, to hand to the kernel.
    Frame(Punt),
    /// The connection has gone.
    Ends(HostFlow, Origin),
}

/// An order to one worker.
#[derive(Debug)]
pub enum Command {
    /// Send all matching connections in chunks; dropping the sender marks the end.
    List {
        /// Which ones.
        filter: Box<Filter>,
        /// Where to; bounded, and the worker goes on with traffic while it is full.
        reply: Sender<Vec<ConnectionInfo>>,
    },
    /// Do something to matching connections and answer how many they were.
    Edit {
        /// Which ones.
        filter: Box<Filter>,
        /// What to do.
        edit: Edit,
        /// Gets one number.
        reply: Sender<u64>,
    },
    /// Count the connections that another policy would deny or translate differently.
    Judge {
        /// That policy, of the same interfaces.
        policy: Arc<Policy>,
        /// Gets the numbers.
        reply: Sender<Judged>,
    },
    /// Tell of what happens to matching connections from now on.
    Subscribe(Arc<Subscription>),
    /// Tell what a packet would meet. Nothing changes.
    Explain {
        /// The whole frame, Ethernet header first, as it would come in.
        frame: Box<[u8]>,
        /// The interface it would come in on.
        interface: InterfaceId,
        /// Whether another worker would have handed it over.
        handed: Handed,
        /// What is left to the connection it belongs to.
        fit: Fit,
        /// Gets the account.
        reply: Sender<Account>,
    },
    /// Show the ways of matching packets from now on.
    Trace(Arc<Tracer>),
}

/// How a TCP segment that nobody has sent fits the connection it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It is taken as it is.
    AsIs,
    /// It has the sequence numbers that the connection expects.
    Numbers,
    /// It has these, and of the flags ACK alone.
    Next,
}

/// What is done to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// Nothing: they are counted.
    Count,
    /// They are deleted.
    Delete,
    /// They are changed.
    Update {
        /// The new bits of the mark, and which bits they are.
        mark: Option<(u32, u32)>,
        /// Seconds until they expire unless packets come.
        timeout: Option<u32>,
    },
}

impl Shared {
    /// State for `workers` workers over `interfaces` interfaces and up to `max_connections` connections.
    ///
    /// # Errors
    /// When an eventfd or the tables' address space cannot be had.
    pub fn new(workers: usize, interfaces: usize, max_connections: u32, frames: u32) -> io::Result<Arc<Self>> {
        assert!(workers <= directory::WORKERS, "too many workers");
        let keys = HashKeys::default();
        let directory = if workers > 1 { Directory::new(max_connections)? } else { Directory::none() };
        Ok(Arc::new(Shared {
            keys,
            current: Published::new(workers),
            directory,
            handoffs: Queues::new(workers, frames),
            expectations: Expectations::default(),
            mappings4: Mappings::default(),
            mappings6: Mappings::default(),
            workers: (0..workers).map(|_| WorkerShared::new(interfaces, max_connections)).collect::<io::Result<_>>()?,
            neighbour_requests: ArrayQueue::new(1024),
            punts: ArrayQueue::new(1024),
            logged: ArrayQueue::new(4096),
            limiter: Limiter::default(),
            to_host: ArrayQueue::new(4096),
            host_answers: AtomicBool::new(false),
            control_ready: EventFd::new()?,
            punt_ready: EventFd::new()?,
            punts_dropped: AtomicU64::new(0),
            connections: AtomicU32::new(0),
            stop: AtomicBool::new(false),
            started: Instant::now(),
        }))
    }

    /// The current moment of the workers' clock.
    pub fn now(&self) -> Ticks {
        Ticks((self.started.elapsed().as_millis() as u32).max(1))
    }

    /// Publishes another policy, which must [follow](Policy::follow) the one that workers run and have brought
    /// their connections over to. Returns the generation that they then report.
    pub fn publish_policy(&self, policy: Arc<Policy>) -> u32 {
        let generation = self.current.publish(Some(policy), None);
        for w in 0..self.workers.len() {
            self.wake(w);
        }
        generation
    }

    /// Nanoseconds since the start, never 0; finer than [`Shared::now`], and dearer.
    pub fn nanoseconds(&self) -> u64 {
        (self.started.elapsed().as_nanos() as u64).max(1)
    }

    /// Wakes a worker if it sleeps.
    pub fn wake(&self, worker: usize) {
        let w = &self.workers[worker];
        // Pairs with the fence in the worker between announcing its sleep and its last look at the queues.
        std::sync::atomic::fence(Ordering::SeqCst);
        if w.sleeping.load(Ordering::Relaxed) {
            w.wake.signal();
        }
    }

    /// Sends a command to a worker and wakes it. Gives the command back when the worker's queue is full.
    ///
    /// # Errors
    /// The command, when 16 commands are already waiting.
    pub fn command(&self, worker: usize, c: Command) -> Result<(), Command> {
        self.workers[worker].commands.push(c)?;
        self.wake(worker);
        Ok(())
    }
}

impl WorkerShared {
    fn new(interfaces: usize, max_connections: u32) -> io::Result<Self> {
        Ok(WorkerShared {
            counters: Counters::new(interfaces),
            commands: ArrayQueue::new(16),
            sights: ArrayQueue::new(4096),
            expired: ArrayQueue::new(64),
            generation: AtomicU32::new(0),
            adopted: AtomicU32::new(0),
            sleeping: AtomicBool::new(false),
            wake: EventFd::new()?,
            slab4: SlabView::new(max_connections)?,
            slab6: SlabView::new(max_connections)?,
        })
    }
}
