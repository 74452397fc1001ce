//! Watching a packet's way, and going it without leaving a trace.
//!
//! Core's watch is there only while somebody wants to know a packet's way: a trace watches what real packets meet
//! ([`super::trace`]), a dry run ([`super::explain`]) asks what a packet would meet. Whatever changes something that
//! outlives the packet asks [`Core::is_dry`] first and then only looks.

use std::cell::{Cell, RefCell};

use super::account::{Account, Flow, Note, Verdict};
use super::core::Core;
use super::family::{Family, Member, Packet};
use super::path::Fate;
use super::reason::DropReason;
use crate::conntrack::{Connection, Direction, Key, Status};
use crate::io::Port;
use crate::nat::Endpoint;
use crate::packet::transport::{self, Transport};
use crate::packet::{Headers, Ip};
use crate::policy::InterfaceId;

/// What is noted of a packet's way.
#[derive(Debug, Default)]
pub(super) struct Watch {
    dry: bool,
    notes: RefCell<Vec<Note>>,
    /// What was decided, and as what the packet leaves.
    decided: Cell<Option<(Verdict, Option<Flow>)>>,
    /// A frame was dropped after all.
    dropped: Cell<Option<DropReason>>,
    /// In a dry run: connections that a real packet would have ended by now, with the hashes of their tuples.
    gone: RefCell<Vec<(u32, [u64; 2])>>,
    /// In a dry run: the tuple that a real packet would have claimed in the directory by now.
    claimed: Cell<Option<u64>>,
}

impl Watch {
    pub(super) fn new(dry: bool) -> Self {
        Watch { dry, ..Watch::default() }
    }
}

impl<P: Port> Core<P> {
    /// Whether nothing may change.
    #[inline]
    pub(super) fn is_dry(&self) -> bool {
        self.watch.as_ref().is_some_and(|w| w.dry)
    }

    /// Notes a step, if somebody wants to know.
    #[inline]
    pub(super) fn note(&self, step: impl FnOnce() -> Note) {
        if let Some(w) = &self.watch {
            w.notes.borrow_mut().push(step());
        }
    }

    /// Notes that a frame is dropped.
    #[inline]
    pub(super) fn note_drop(&self, why: DropReason) {
        if let Some(w) = &self.watch {
            w.dropped.set(Some(why));
        }
    }

    /// In a dry run: from here on the connection counts as ended.
    pub(super) fn pretend_gone<A: Member>(&self, slot: u32, c: &Connection<A>) {
        let hashes = [Direction::Original, Direction::Reply].map(|d| c.key(d).hash(&self.keys));
        if let Some(w) = &self.watch {
            w.gone.borrow_mut().push((slot, hashes));
        }
    }

    /// Whether a connection counts as ended in this dry run.
    pub(super) fn is_gone(&self, slot: u32) -> bool {
        self.watch.as_ref().is_some_and(|w| w.gone.borrow().iter().any(|(s, _)| *s == slot))
    }

    /// Whether a connection counts as ended in this dry run, so that there is room for another one.
    pub(super) fn makes_room(&self) -> bool {
        self.watch.as_ref().is_some_and(|w| !w.gone.borrow().is_empty())
    }

    /// Whether a tuple's place in the directory would be free by now in this dry run.
    pub(super) fn is_unowned(&self, hash: u64) -> bool {
        let Some(w) = &self.watch else { return false };
        let freed = || w.gone.borrow().iter().any(|(_, hashes)| hashes.contains(&hash));
        w.claimed.get() != Some(hash) && (self.shared.directory.lookup(hash).is_none() || freed())
    }

    /// In a dry run: claims a tuple in the directory. False when it is taken.
    pub(super) fn pretend_claim(&self, hash: u64) -> bool {
        let free = self.is_unowned(hash);
        // A single worker has no directory.
        if let Some(w) = self.watch.as_ref().filter(|_| self.shared.workers.len() > 1) {
            w.claimed.set(Some(hash));
        }
        free
    }

    /// Ends the watch over a packet that came as `arrives`.
    pub(super) fn account(&mut self, interface: InterfaceId, arrives: Option<Flow>) -> Account {
        let w = self.watch.take().unwrap_or_default();
        let (verdict, leaves) = w.decided.get().unwrap_or((Verdict::Waits, None));
        let (verdict, leaves) = match w.dropped.get() {
            Some(why) => (Verdict::Dropped(why), None),
            None => (verdict, leaves),
        };
        let (worker, policy) = (self.id, self.snapshot.policy.clone());
        Account { worker, interface, policy, notes: w.notes.into_inner(), verdict, arrives, leaves }
    }
}

impl<P: Port> Core<P> {
    /// When the last connection of a source's mapping counts as ended in this dry run: the seconds that the source
    /// keeps its endpoint.
    pub(super) fn ends_mapping<A: Member>(&self, t: &Family<A>, source: &Endpoint<A>) -> Option<u32> {
        let w = self.watch.as_ref()?;
        let counted = |(slot, _): &(u32, [u64; 2])| {
            let c = t.slab.get(*slot);
            let own = (c.original().src, c.original().sport, c.proto) == (source.address, source.port, source.proto);
            own && c.status.contains(Status::MAPPED)
        };
        let ended = w.gone.borrow().iter().any(counted);
        A::mappings(&self.shared).kept_after_last(source).filter(|_| ended)
    }

    /// The protocols of a source's counted connections that count as ended in this dry run.
    pub(super) fn gone_of<A: Member>(&self, t: &Family<A>, source: A) -> Vec<u8> {
        let Some(w) = &self.watch else { return Vec::new() };
        let gone = w.gone.borrow();
        let counted = |c: &&Connection<A>| c.original().src == source && c.status.contains(Status::COUNTED);
        gone.iter().map(|(slot, _)| t.slab.get(*slot)).filter(counted).map(|c| c.proto).collect()
    }
}

impl<A: Member> Family<A> {
    /// Whether this worker has a connection with this key, as far as it has not ended in a dry run.
    pub(super) fn has<P: Port>(&self, w: &Core<P>, hash: u64, key: &Key<A>) -> bool {
        self.table.lookup(&self.slab, hash, key).is_some_and(|(slot, _)| !w.is_gone(slot))
    }
}

/// Notes what was decided about a packet, whose frame is as it leaves.
#[cold]
pub(super) fn decided<P: Port, A: Member>(w: &Core<P>, t: &Family<A>, p: &Packet<A>, fate: Fate) {
    let Some(watch) = &w.watch else { return };
    let verdict = match fate {
        Fate::Send(hop) => {
            let n = t.neighbours.get(hop);
            Verdict::Sent { interface: n.interface, next: n.address.ip(), mac: n.mac }
        }
        Fate::Punt => Verdict::ToHost,
        Fate::Host => Verdict::Redirected,
        Fate::HandOff(owner) => Verdict::HandedOff(owner),
        // Noted about the whole datagram, if it is complete.
        Fate::Collected => return,
        Fate::Drop(why) => Verdict::Dropped(why),
    };
    let leaves = matches!(verdict, Verdict::Sent { .. } | Verdict::Redirected).then(|| flow(w, p));
    watch.decided.set(Some((verdict, leaves)));
}

/// Addresses and ports of a packet as its frame has them now.
pub(super) fn flow<P: Port, A: Ip>(w: &Core<P>, p: &Packet<A>) -> Flow {
    let frame = w.pool.bytes(crate::io::Frame { len: p.headers.end, ..p.frame });
    let (src, dst) = A::addresses_of(frame, usize::from(p.headers.l3));
    read_flow(frame, &Headers { src, dst, ..p.headers })
}

/// Addresses and ports as a frame with these headers has them.
pub(super) fn read_flow<A: Ip>(frame: &[u8], h: &Headers<A>) -> Flow {
    let (source_port, destination_port) = match h.fragment {
        Some(i) if i.offset > 0 => (0, 0),
        _ => match transport::classify(frame, h) {
            Transport::Flow(ports) => (ports.source(), ports.destination()),
            Transport::IcmpError | Transport::Invalid => (0, 0),
        },
    };
    Flow { protocol: h.proto, source: h.src.ip(), destination: h.dst.ip(), source_port, destination_port }
}

/// Notes the connection a packet belongs to.
pub(super) fn note_connection<P: Port, A: Member>(w: &Core<P>, t: &Family<A>, slot: u32, direction: Direction) {
    let c = t.slab.get(slot);
    let policy = &w.snapshot.policy;
    w.note(|| Note::Connection {
        connection: Box::new(super::listing::ConnectionInfo::new(w.id, w.now, c)),
        direction,
        rule: if policy.is_own(c.timeouts) { c.rule } else { policy.successors(c.rule).0 },
    });
    if c.status.contains(Status::HELPER)
        && let Some(e) = t.extensions.get(&slot)
    {
        w.note(|| Note::Helper(e.helper.kind()));
    }
}
