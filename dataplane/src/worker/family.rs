//! The tables a worker has once per address family, and packets on their way through them.

use std::io;

use super::announce::Extensions;
use super::core::Core;
use super::counters::{Counter, by_protocol};
use super::events::EventKind;
use super::guess::Guesses;
use super::host;
use super::limits::Sources;
use super::neighbour::Neighbours;
use super::shared::{Handed, Shared, WorkerShared};
use super::translations::Translations;
use super::ways::{Way, Ways};
use crate::conntrack::fragment::Fragments;
use crate::conntrack::{Connection, Direction, Entry, Key, Master, Slab, SlabView, Status, Table, Ticks};
use crate::io::{Frame, Port};
use crate::nat::{Endpoint, Mappings};
use crate::packet::transport::{Ports, Transport};
use crate::packet::{ETHERNET, Headers, Ip, V4, V6, protocol};
use crate::policy::InterfaceId;

/// A parsed packet, with what the look-up stage found.
// In the order in which most packets' fields take the fewest steps: what is zero for them makes one word.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Packet<A> {
    pub(super) frame: Frame,
    /// Hash of the flow's key; 0 when there is none.
    pub(super) hash: u64,
    pub(super) headers: Headers<A>,
    /// Of a flow.
    pub(super) ports: Ports,
    /// Where the flow's connection most likely is.
    pub(super) candidate: Entry,
    /// For a datagram in pieces: bytes of payload in the pieces after the first.
    pub(super) later: u32,
    /// For a datagram in pieces: length of the longest of them.
    pub(super) longest_piece: u16,
    pub(super) kind: Kind,
    /// Whether another worker has handed it over, and what for.
    pub(super) handed: Handed,
    pub(super) interface: InterfaceId,
}

/// What a packet is, as its transport header has it ([`Transport`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// UDP or TCP of a flow in one piece, right behind a plain IP header.
    Plain,
    /// Anything else of a flow.
    Flow,
    IcmpError,
    Invalid,
}

// A burst of IPv4 packets is to stay in the first-level cache beside what they touch.
const _: () = assert!(size_of::<Packet<V4>>() <= 64);

impl<A> Packet<A> {
    /// A whole packet for which no connection has been looked for.
    #[inline]
    pub(super) fn new(frame: Frame, interface: InterfaceId, headers: Headers<A>, transport: Transport) -> Self
    where
        A: Ip,
    {
        let mut p = Packet { kind: Kind::Invalid, ..Packet::plain(frame, interface, headers, Ports::new(0, 0), 0) };
        p.set_transport(transport);
        let is_plain = matches!(headers.proto, protocol::UDP | protocol::TCP)
            && usize::from(headers.l4) == ETHERNET + A::HEADER
            && headers.fragment.is_none();
        if p.kind == Kind::Flow && is_plain {
            p.kind = Kind::Plain;
        }
        p
    }

    /// One of [`Kind::Plain`].
    #[inline(always)]
    pub(super) fn plain(frame: Frame, interface: InterfaceId, headers: Headers<A>, ports: Ports, hash: u64) -> Self {
        Packet {
            frame,
            hash,
            longest_piece: 0,
            headers,
            ports,
            candidate: Entry::NONE,
            later: 0,
            interface,
            kind: Kind::Plain,
            handed: Handed::No,
        }
    }

    /// What its transport header makes of it.
    #[inline]
    pub(super) fn transport(&self) -> Transport {
        match self.kind {
            Kind::Plain | Kind::Flow => Transport::Flow(self.ports),
            Kind::IcmpError => Transport::IcmpError,
            Kind::Invalid => Transport::Invalid,
        }
    }

    /// Has the transport header make this of it.
    pub(super) fn set_transport(&mut self, t: Transport) {
        match t {
            Transport::Flow(ports) => (self.kind, self.ports) = (Kind::Flow, ports),
            Transport::IcmpError => self.kind = Kind::IcmpError,
            Transport::Invalid => self.kind = Kind::Invalid,
        }
    }

    /// Length of the IP packet; for a datagram in pieces, of the longest of them.
    #[inline]
    pub(super) fn longest(&self) -> u16 {
        self.longest_piece.max(self.headers.length() as u16)
    }

    /// Length as connections count it: of the IP packet; for a datagram in pieces, of all but the later IP headers.
    #[inline]
    pub(super) fn bytes(&self) -> u32 {
        self.headers.length() as u32 + self.later
    }
}

/// Why a connection leaves the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    Expired,
    Deleted,
    EarlyDrop,
    /// The new policy would not let it begin.
    Revalidated,
    /// A new connection between the same endpoints takes its place.
    Reopened,
}

/// One family's connections and next hops.
pub(super) struct Family<A: Member> {
    pub(super) slab: Slab<A>,
    /// Connections that have been removed.
    pub(super) removed: u64,
    pub(super) table: Table,
    pub(super) neighbours: Neighbours<A>,
    pub(super) ways: Ways<A>,
    pub(super) fragments: Fragments<A>,
    pub(super) sources: Sources<A>,
    pub(super) translations: Translations,
    pub(super) guesses: Guesses<A>,
    /// Of connections that a helper reads, by slot.
    pub(super) extensions: Extensions,
    /// The packets of the current burst.
    pub(super) burst: Vec<Packet<A>>,
}

/// Both families.
pub(super) struct Families {
    pub(super) v4: Family<V4>,
    pub(super) v6: Family<V6>,
}

/// An address family with its place in [`Families`] and among the counters.
pub(super) trait Member: Ip {
    fn of(f: &mut Families) -> &mut Family<Self>;
    fn gauge(w: &WorkerShared) -> &Counter;
    fn mappings(s: &Shared) -> &Mappings<Self>;
}

impl Member for V4 {
    fn of(f: &mut Families) -> &mut Family<V4> {
        &mut f.v4
    }

    fn gauge(w: &WorkerShared) -> &Counter {
        &w.counters.connections4
    }

    fn mappings(s: &Shared) -> &Mappings<V4> {
        &s.mappings4
    }
}

impl Member for V6 {
    fn of(f: &mut Families) -> &mut Family<V6> {
        &mut f.v6
    }

    fn gauge(w: &WorkerShared) -> &Counter {
        &w.counters.connections6
    }

    fn mappings(s: &Shared) -> &Mappings<V6> {
        &s.mappings6
    }
}

impl<A: Member> Family<A> {
    pub(super) fn new(view: SlabView) -> io::Result<Self> {
        let table = Table::new(view.capacity())?;
        let translations = Translations::new(&view)?;
        Ok(Family {
            slab: Slab::new(view)?,
            removed: 0,
            table,
            neighbours: Neighbours::default(),
            ways: Ways::default(),
            fragments: Fragments::default(),
            sources: Sources::default(),
            translations,
            guesses: Guesses::default(),
            extensions: Extensions::default(),
            burst: Vec::with_capacity(crate::io::BURST),
        })
    }

    /// Packets come next whose connections have been looked for since.
    #[inline]
    pub(super) fn begin_burst(&mut self) {
        self.slab.begin_burst();
        self.guesses.clear();
    }

    /// Where an address is.
    #[inline]
    pub(super) fn way<P: Port>(&mut self, w: &Core<P>, a: A) -> Way<A> {
        self.ways.find(&w.snapshot.fib, w.route_epoch, a)
    }

    /// The live connection with this key. One that has expired is removed on the way.
    pub(super) fn lookup<P: Port>(&mut self, w: &mut Core<P>, key: &Key<A>) -> Option<(u32, Direction)> {
        self.search(w, key.hash(&w.keys), key)
    }

    /// The live connection with this key, whose hash is known.
    pub(super) fn search<P: Port>(&mut self, w: &mut Core<P>, hash: u64, key: &Key<A>) -> Option<(u32, Direction)> {
        let (slot, d) = self.table.lookup(&self.slab, hash, key)?;
        if self.slab.get(slot).deadline.reached(w.now) {
            self.remove(w, slot, Removal::Expired);
            return None;
        }
        Some((slot, d))
    }

    /// The live connection that a packet belongs to, and which way it goes in it.
    pub(super) fn connection<P: Port>(&mut self, w: &mut Core<P>, p: &Packet<A>) -> Option<(u32, Direction)> {
        match p.transport() {
            Transport::Flow(ports) => self.search(w, p.hash, &p.headers.key(ports)),
            Transport::IcmpError | Transport::Invalid => None,
        }
    }

    /// Enters a connection that is in its slot and whose two tuples are claimed.
    #[inline]
    pub(super) fn confirm<P: Port>(&mut self, w: &mut Core<P>, slot: u32, deadline: Ticks, hashes: [u64; 2]) {
        self.slab.begin(slot, deadline);
        self.table.insert(hashes[0], slot, Direction::Original);
        self.table.insert(hashes[1], slot, Direction::Reply);
        let c = self.slab.get(slot);
        w.counters().created[by_protocol(A::V6, c.proto)].inc();
        if !w.listeners.is_empty() {
            w.tell(EventKind::New, c);
        }
    }

    /// Takes a connection out of the table and frees all it holds.
    pub(super) fn remove<P: Port>(&mut self, w: &mut Core<P>, slot: u32, why: Removal) {
        let hashes = self.hashes(w, slot);
        self.remove_hashed(w, slot, hashes, why);
    }

    /// The hashes of a connection's two keys.
    #[inline]
    pub(super) fn hashes<P: Port>(&self, w: &Core<P>, slot: u32) -> [u64; 2] {
        let c = self.slab.get(slot);
        [Direction::Original, Direction::Reply].map(|d| c.key(d).hash(&w.keys))
    }

    /// [`Family::remove`] where the hashes are known.
    pub(super) fn remove_hashed<P: Port>(&mut self, w: &mut Core<P>, slot: u32, hashes: [u64; 2], why: Removal) {
        for (d, hash) in [Direction::Original, Direction::Reply].into_iter().zip(hashes) {
            self.table.remove(hash, slot, d);
            w.shared.directory.release(hash, w.id);
        }
        let c = self.slab.get(slot);
        let (proto, timeouts, holds) = (c.proto, c.timeouts, c.status.intersects(Status::HELD));
        // Mostly nobody needs to know more of it.
        let all = if holds || !w.listeners.is_empty() { Some(*c) } else { None };
        self.slab.remove(slot);
        self.removed = self.removed.wrapping_add(1);
        if let Some(c) = all.as_ref().filter(|_| holds) {
            self.release_held(w, slot, c);
        }
        w.release_connection();
        w.counters().ended[by_protocol(A::V6, proto)].inc();
        if let Some(by) = self.translations.get(slot)
            && let policy = &w.snapshot.policy
            && let Some(by) = if policy.is_own(timeouts) { Some(by) } else { by.successor(policy) }
            && let Some(tally) = w.tally(by)
        {
            tally.ended.inc();
        }
        if let Some(c) = all.filter(|_| !w.listeners.is_empty()) {
            w.tell(EventKind::Destroy(why.into()), &c);
        }
        match why {
            Removal::Expired => w.counters().expired.inc(),
            Removal::Deleted | Removal::Reopened => w.counters().deleted.inc(),
            Removal::EarlyDrop => w.counters().early_dropped.inc(),
            Removal::Revalidated => w.counters().revalidated.inc(),
        }
    }

    /// Gives back what only some connections hold.
    fn release_held<P: Port>(&mut self, w: &mut Core<P>, slot: u32, c: &Connection<A>) {
        if c.status.contains(Status::MAPPED) {
            let source = Endpoint { address: c.original().src, port: c.original().sport, proto: c.proto };
            A::mappings(&w.shared).remove(&source, Some(c.reply().src), w.now);
        }
        if c.status.contains(Status::MAPPED_INBOUND) {
            let source = Endpoint { address: c.reply().src, port: c.reply().sport, proto: c.proto };
            A::mappings(&w.shared).remove(&source, None, w.now);
        }
        if c.status.contains(Status::HOST) {
            host::end(w, c);
        }
        if c.status.contains(Status::COUNTED) {
            self.sources.release(c.original().src, c.proto);
        }
        if c.status.contains(Status::HELPER) {
            self.extensions.remove(&slot);
            let master = Master { worker: w.id, hash: c.key(Direction::Original).hash(&w.keys) };
            w.shared.expectations.withdraw(|e| e.master == master);
        }
    }

    /// Removes a connection that is not assured, to make room (netfilter's `early_drop`). Looks at a few
    /// slots from a random one on, so that a flood costs the same for every new connection.
    pub(super) fn early_drop<P: Port>(&mut self, w: &mut Core<P>) -> bool {
        let victim = self.victim(w);
        if let Some(slot) = victim {
            self.remove(w, slot, Removal::EarlyDrop);
        }
        victim.is_some()
    }

    /// The connection that would go.
    pub(super) fn victim<P: Port>(&self, w: &mut Core<P>) -> Option<u32> {
        const LOOKS: u32 = 64;
        let n = self.slab.high_water();
        let start = w.random.draw();
        (0..LOOKS.min(n))
            .map(|i| (start.wrapping_add(i)) % n)
            .find(|s| self.slab.is_live(*s) && !self.slab.get(*s).status.contains(Status::ASSURED))
    }
}
