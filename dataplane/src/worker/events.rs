//! Events: what happens to connections, for whoever listens.
//!
//! A listener has a bounded queue at every worker. A worker that finds it full counts the loss and goes on;
//! while nobody listens a packet costs the look at an empty list.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use crossbeam::queue::ArrayQueue;

use super::core::Core;
use super::family::Removal;
use super::listing::{ConnectionInfo, Filter, state};
use crate::conntrack::{Connection, Status};
use crate::packet::Address;

/// Events that wait at a worker for a listener.
const QUEUE: usize = 16_384;

/// What has happened to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Its first packet has left.
    New,
    /// Its status, its protocol state or its mark has changed.
    Update,
    /// It has gone.
    Destroy(DestroyReason),
}

/// Why a connection has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DestroyReason {
    /// Its time was up, or a packet closed it.
    Expired,
    /// The operator deleted it, or an address it depended on has gone.
    Deleted,
    /// It made room for another in a full table.
    EarlyDrop,
    /// A new connection between the same endpoints took its place.
    Reopened,
    /// A new policy would not let it begin.
    Revalidated,
}

impl DestroyReason {
    /// The name users see.
    pub fn label(self) -> &'static str {
        match self {
            DestroyReason::Expired => "expired",
            DestroyReason::Deleted => "deleted",
            DestroyReason::EarlyDrop => "early_drop",
            DestroyReason::Reopened => "reopened",
            DestroyReason::Revalidated => "revalidated",
        }
    }
}

/// An event.
#[derive(Debug, Clone)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// When.
    pub at: SystemTime,
    /// The connection as it then was.
    pub connection: ConnectionInfo,
}

/// Which kinds of events a listener wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds {
    /// [`EventKind::New`].
    pub new: bool,
    /// [`EventKind::Update`].
    pub update: bool,
    /// [`EventKind::Destroy`].
    pub destroy: bool,
}

/// A listener. Dropping its last handle outside the workers does not end it: [`Subscription::close`] does.
#[derive(Debug)]
pub struct Subscription {
    kinds: Kinds,
    filter: Filter,
    queues: Vec<ArrayQueue<Event>>,
    lost: AtomicU64,
    closed: AtomicBool,
}

impl Subscription {
    /// A listener to `workers` workers.
    pub fn new(workers: usize, kinds: Kinds, filter: Filter) -> Arc<Self> {
        let queues = (0..workers).map(|_| ArrayQueue::new(QUEUE)).collect();
        Arc::new(Subscription { kinds, filter, queues, lost: AtomicU64::new(0), closed: AtomicBool::new(false) })
    }

    /// The events that wait, in the order of their times, and how many were lost since the last call.
    pub fn take(&self) -> (Vec<Event>, u64) {
        let mut all: Vec<Event> =
            self.queues.iter().flat_map(|q| std::iter::from_fn(|| q.pop()).take(q.len())).collect();
        all.sort_by_key(|e| e.at);
        (all, self.lost.swap(0, Ordering::Relaxed))
    }

    /// Ends it; the workers forget it soon.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Whether it has been closed.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn wants(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::New => self.kinds.new,
            EventKind::Update => self.kinds.update,
            EventKind::Destroy(_) => self.kinds.destroy,
        }
    }
}

/// What an update changes, before a packet or an order has changed it.
#[derive(PartialEq, Eq)]
pub(super) struct Before {
    status: Status,
    state: Option<&'static str>,
    mark: u32,
}

impl Before {
    pub(super) fn new<A>(c: &Connection<A>) -> Self {
        Before { status: c.status, state: state(c), mark: c.mark }
    }
}

impl<P> Core<P> {
    /// Tells the listeners.
    #[cold]
    pub(super) fn tell<A: Address>(&self, kind: EventKind, c: &Connection<A>) {
        let mut made: Option<ConnectionInfo> = None;
        for s in self.listeners.iter().filter(|s| s.wants(kind)) {
            let connection = made.get_or_insert_with(|| ConnectionInfo::new(self.id, self.now, c));
            if !s.filter.matches(connection) {
                continue;
            }
            let event = Event { kind, at: SystemTime::now(), connection: connection.clone() };
            if s.queues[usize::from(self.id)].push(event).is_err() {
                s.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Tells the listeners of an update, if there was one.
    #[cold]
    pub(super) fn tell_change<A: Address>(&self, before: &Before, c: &Connection<A>) {
        if Before::new(c) != *before {
            self.tell(EventKind::Update, c);
        }
    }
}

impl From<Removal> for DestroyReason {
    fn from(r: Removal) -> Self {
        match r {
            Removal::Expired => DestroyReason::Expired,
            Removal::Deleted => DestroyReason::Deleted,
            Removal::EarlyDrop => DestroyReason::EarlyDrop,
            Removal::Reopened => DestroyReason::Reopened,
            Removal::Revalidated => DestroyReason::Revalidated,
        }
    }
}
