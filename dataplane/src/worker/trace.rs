//! Tracing: the ways of real packets that somebody wants to see.
//!
//! A tracer has a bounded queue at every worker. A worker that finds it full counts the loss and goes on; while
//! nobody traces, a burst costs the look at an empty list.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use crossbeam::queue::ArrayQueue;

use super::account::{Account, Flow, Verdict};
use super::core::Core;
use super::explain::as_it_came;
use super::family::{Family, Member, Packet};
use super::listing::Net;
use super::path::{carry_out, decide, opposite};
use super::reason::DropReason;
use super::watch::{Watch, decided, flow, note_connection};
use crate::io::{Frame, Port};
use crate::packet::protocol;
use crate::policy::InterfaceId;

/// Packets that wait at a worker for a tracer.
const QUEUE: usize = 2048;

/// A packet that met a tracer's conditions.
#[derive(Debug, Clone)]
pub struct Traced {
    /// When.
    pub at: SystemTime,
    /// Its way.
    pub account: Account,
    /// The frame as it came in.
    pub frame: Box<[u8]>,
}

/// Who wants to see packets.
#[derive(Debug)]
pub struct Tracer {
    conditions: Vec<Condition>,
    queues: Vec<ArrayQueue<Traced>>,
    lost: AtomicU64,
    /// Workers that know of it.
    known: AtomicUsize,
    closed: AtomicBool,
}

/// A condition on a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// IPv6 (`true`) or IPv4.
    V6(bool),
    /// The transport protocol.
    Protocol(u8),
    /// Source, destination or either address.
    Address(Side, Net),
    /// Source, destination or either port, both ends inclusive; holds for protocols with ports only.
    Port(Side, u16, u16),
    /// The interface it comes in on.
    In(InterfaceId),
    /// The interface it leaves by.
    Out(InterfaceId),
    /// It is dropped, for this reason or any.
    Dropped(Option<DropReason>),
    /// The other condition does not hold.
    Not(Box<Condition>),
}

/// Which end of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The source.
    Source,
    /// The destination.
    Destination,
    /// One of the two.
    Either,
}

impl Side {
    fn any<T>(self, source: T, destination: T, holds: impl Fn(T) -> bool) -> bool {
        match self {
            Side::Source => holds(source),
            Side::Destination => holds(destination),
            Side::Either => holds(source) || holds(destination),
        }
    }
}

impl Condition {
    /// Whether it holds as far as `f`, one of the packet's appearances, tells; `None` when only the verdict does.
    fn fits(&self, interface: InterfaceId, f: Option<&Flow>) -> Option<bool> {
        Some(match self {
            Condition::V6(v6) => f.is_some_and(|f| f.source.is_ipv6() == *v6),
            Condition::Protocol(p) => f.is_some_and(|f| f.protocol == *p),
            Condition::Address(side, net) => {
                f.is_some_and(|f| side.any(f.source, f.destination, |a: IpAddr| net.contains(a)))
            }
            Condition::Port(side, first, last) => {
                let holds = |p: u16| (*first..=*last).contains(&p);
                f.filter(|f| protocol::has_ports(f.protocol))
                    .is_some_and(|f| side.any(f.source_port, f.destination_port, holds))
            }
            Condition::In(i) => interface == *i,
            Condition::Out(_) | Condition::Dropped(_) => return None,
            Condition::Not(c) => !c.fits(interface, f)?,
        })
    }

    /// Whether it holds for what became of the packet; `None` when that tells nothing.
    fn ends(&self, v: &Verdict) -> Option<bool> {
        Some(match (self, v) {
            (Condition::Out(i), Verdict::Sent { interface, .. }) => interface == i,
            (Condition::Dropped(reason), Verdict::Dropped(why)) => reason.is_none_or(|r| r == *why),
            (Condition::Out(_) | Condition::Dropped(_), _) => false,
            (Condition::Not(c), v) => !c.ends(v)?,
            _ => return None,
        })
    }
}

impl Tracer {
    /// Who wants to see the packets that meet all conditions, at `workers` workers.
    pub fn new(workers: usize, conditions: Vec<Condition>) -> Arc<Self> {
        let queues = (0..workers).map(|_| ArrayQueue::new(QUEUE)).collect();
        Arc::new(Tracer {
            conditions,
            queues,
            lost: AtomicU64::new(0),
            known: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        })
    }

    /// The packets that wait, in the order of their times, and how many were lost since the last call.
    pub fn take(&self) -> (Vec<Traced>, u64) {
        let mut all: Vec<Traced> =
            self.queues.iter().flat_map(|q| std::iter::from_fn(|| q.pop()).take(q.len())).collect();
        all.sort_by_key(|t| t.at);
        (all, self.lost.swap(0, Ordering::Relaxed))
    }

    /// Whether every worker shows what it takes from here on.
    pub fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed) == self.queues.len()
    }

    /// A worker knows of it.
    pub(super) fn adopt(&self) {
        self.known.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends it; the workers forget it soon.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Whether it has been closed.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Whether a packet with this appearance may be one; `None` when its headers cannot be read.
    fn may_want(&self, interface: InterfaceId, f: Option<&Flow>) -> bool {
        self.conditions.iter().all(|c| c.fits(interface, f).unwrap_or(true))
    }

    /// Whether the packet is one: as it came or as it leaves.
    fn wants(&self, a: &Account) -> bool {
        let seen = |f| self.may_want(a.interface, f);
        (seen(a.arrives.as_ref()) || a.leaves.as_ref().is_some_and(|f| seen(Some(f))))
            && self.conditions.iter().all(|c| c.ends(&a.verdict).unwrap_or(true))
    }

    fn push(&self, worker: u16, account: &Account, at: SystemTime, frame: &[u8]) {
        let traced = Traced { at, account: account.clone(), frame: frame.into() };
        if self.queues[usize::from(worker)].push(traced).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_full(&self, worker: u16) -> bool {
        self.queues[usize::from(worker)].is_full()
    }
}

/// Takes one packet all the way, and shows it to whoever traces it.
#[cold]
pub(super) fn forward<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, p: &mut Packet<A>) {
    let arrives = flow(w, p);
    let found = t.connection(w, p);
    // A connection's packets are known by both of its sides; of others only their way tells how they leave.
    let leaves = found.map(|(slot, d)| {
        let o = opposite(t.slab.get(slot), d);
        let (source, destination) = (o.src.ip(), o.dst.ip());
        Flow { source, destination, source_port: o.sport, destination_port: o.dport, ..arrives }
    });
    let concerns = |t: &Arc<Tracer>| match &leaves {
        Some(l) => t.may_want(p.interface, Some(&arrives)) || t.may_want(p.interface, Some(l)),
        None => true,
    };
    let mut open = false;
    for t in w.tracers.iter().filter(|t| concerns(t)) {
        // What does not fit any more is not looked into either.
        if !t.is_full(w.id) {
            open = true;
        } else if leaves.is_some() || t.may_want(p.interface, Some(&arrives)) {
            t.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
    if !open {
        let fate = decide(w, t, p);
        return carry_out(w, t, p, fate);
    }
    let at = SystemTime::now();
    let frame = w.pool.bytes(p.frame).to_vec();
    let interface = p.interface;
    w.watch = Some(Box::new(Watch::new(false)));
    if let Some((slot, d)) = found {
        note_connection(w, t, slot, d);
    }
    let fate = decide(w, t, p);
    decided(w, t, p, fate);
    carry_out(w, t, p, fate);
    let account = w.account(interface, Some(arrives));
    show(w, &account, at, &frame);
}

/// Shows a frame that was dropped before it reached the table.
#[cold]
pub(super) fn refused<P: Port>(w: &Core<P>, f: Frame, interface: InterfaceId, why: DropReason) {
    let frame = w.pool.bytes(f);
    let account = Account {
        worker: w.id,
        interface,
        policy: w.snapshot.policy.clone(),
        notes: Vec::new(),
        verdict: Verdict::Dropped(why),
        arrives: as_it_came(frame),
        leaves: None,
    };
    show(w, &account, SystemTime::now(), frame);
}

fn show<P>(w: &Core<P>, account: &Account, at: SystemTime, frame: &[u8]) {
    // The worker that takes it over shows it.
    if matches!(account.verdict, Verdict::HandedOff(_)) {
        return;
    }
    for t in w.tracers.iter().filter(|t| t.wants(account)) {
        t.push(w.id, account, at, frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    fn flow(source: &str, destination: &str, protocol: u8, ports: (u16, u16)) -> Flow {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Flow { protocol, source, destination, source_port: ports.0, destination_port: ports.1 }
    }

    fn not(c: Condition) -> Condition {
        Condition::Not(Box::new(c))
    }

    #[test]
    fn conditions() {
        use Condition::{Address, Dropped, In, Out, Port, Protocol, V6};
        let net = |first: &str, last: &str| Net { first: first.parse().unwrap(), last: last.parse().unwrap() };
        let account = |verdict, arrives, leaves| Account {
            worker: 0,
            interface: 0,
            policy: Arc::new(Policy::default()),
            notes: Vec::new(),
            verdict,
            arrives,
            leaves,
        };
        let sent = account(
            Verdict::Sent { interface: 1, next: "198.51.100.2".parse().unwrap(), mac: None },
            Some(flow("10.0.0.2", "198.51.100.2", 17, (4000, 53))),
            Some(flow("198.51.100.1", "198.51.100.2", 17, (4000, 53))),
        );
        let ping = flow("2001:db8::1", "2001:db8::2", 58, (53, 0x8000));
        let dropped = account(Verdict::Dropped(DropReason::Policy), Some(ping), None);
        let unreadable = account(Verdict::Dropped(DropReason::Malformed), None, None);
        let inside = || net("10.0.0.0", "10.255.255.255");
        let outside = || net("198.51.100.1", "198.51.100.1");
        // Whether it holds for what was sent, what was dropped, and what could not be read.
        for (conditions, expected) in [
            (vec![], [true, true, true]),
            (vec![V6(false)], [true, false, false]),
            (vec![not(V6(false))], [false, true, true]),
            (vec![Protocol(17), In(0)], [true, false, false]),
            (vec![In(1)], [false; 3]),
            (vec![Out(1)], [true, false, false]),
            (vec![not(Out(1))], [false, true, true]),
            (vec![Address(Side::Source, inside())], [true, false, false]),
            (vec![Address(Side::Source, outside())], [true, false, false]),
            (vec![Address(Side::Destination, inside())], [false; 3]),
            (vec![Address(Side::Either, outside()), Port(Side::Destination, 50, 60)], [true, false, false]),
            // As it came it fits one, as it leaves the other: never both at once.
            (vec![Address(Side::Source, inside()), Address(Side::Source, outside())], [false; 3]),
            // What ICMP has in place of ports is none.
            (vec![Port(Side::Either, 53, 53)], [true, false, false]),
            (vec![Dropped(None)], [false, true, true]),
            (vec![Dropped(Some(DropReason::Policy))], [false, true, false]),
            (vec![not(Dropped(Some(DropReason::Policy))), Dropped(None)], [false, false, true]),
        ] {
            let t = Tracer::new(1, conditions);
            assert_eq!([&sent, &dropped, &unreadable].map(|a| t.wants(a)), expected, "{:?}", t.conditions);
        }
    }

    #[test]
    fn a_full_queue_counts_what_is_lost() {
        let t = Tracer::new(1, Vec::new());
        let account = Account {
            worker: 0,
            interface: 0,
            policy: Arc::new(Policy::default()),
            notes: Vec::new(),
            verdict: Verdict::ToHost,
            arrives: None,
            leaves: None,
        };
        for _ in 0..QUEUE + 3 {
            t.push(0, &account, SystemTime::now(), &[1, 2]);
        }
        assert!(t.is_full(0));
        let (packets, lost) = t.take();
        assert_eq!((packets.len(), lost, &packets[0].frame[..]), (QUEUE, 3, &[1, 2][..]));
        assert_eq!((t.take().0.len(), t.take().1), (0, 0));
    }
}
