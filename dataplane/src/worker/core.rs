//! What a worker has besides its per-family tables: ports, frames, clock, snapshot, limits.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::admission::Admission;
use super::counters::Counters;
use super::events::Subscription;
use super::handoff::Ends;
use super::place;
use super::reason::DropReason;
use super::shared::{NeighbourRequest, Punt, Shared, ToHost};
use super::trace::Tracer;
use super::translations::Translator;
use super::watch::Watch;
use super::wiring::{self, Inlet};
use crate::conntrack::tcp::TcpTimeouts;
use crate::conntrack::{HashKeys, Ticks, UdpTimeouts};
use crate::io::host::{HostFlow, Origin};
use crate::io::{Frame, FramePool, Port};
use crate::nat::Random;
use crate::policy::{InterfaceId, Policy, Tally};
use crate::snapshot::Snapshot;

/// Connections a worker reserves of the common limit at a time, at most.
const QUOTA_STEP: u32 = 256;

/// Where an interface's frames leave, and what has left since [`Core::publish`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outlet {
    /// The number of the port, and above that the VLAN whose tag they get, 0 for none: with a tag it is no port's.
    wire: u32,
    packets: u32,
    bytes: u64,
}

impl Outlet {
    pub(super) fn new(port: u16, vlan: u16) -> Self {
        Outlet { wire: u32::from(port) | u32::from(vlan) << 16, packets: 0, bytes: 0 }
    }
}

/// The family-independent part of a worker.
pub(super) struct Core<P> {
    pub(super) id: u16,
    /// The key of the tuple hash.
    pub(super) keys: HashKeys,
    pub(super) shared: Arc<Shared>,
    pub(super) snapshot: Snapshot,
    /// The timeouts of the snapshot's policy, as packets that bring no surprise need them.
    pub(super) udp: UdpTimeouts,
    pub(super) tcp: TcpTimeouts,
    /// Changes whenever next hops cached in connections must be looked up again. Never 0.
    pub(super) route_epoch: u32,
    /// One for each device.
    pub(super) ports: Vec<P>,
    /// One for each interface.
    outlets: Vec<Outlet>,
    /// Which interface a port's frames have come in on.
    pub(super) inlets: Vec<Inlet>,
    pub(super) pool: FramePool,
    pub(super) now: Ticks,
    pub(super) random: Random,
    /// Who may begin a connection while the worker lags behind.
    pub(super) admission: Admission,
    /// Connections this worker may still add without asking the common limit.
    quota: u32,
    /// How many of these are reserved or given back at a time.
    quota_step: u32,
    /// Tokens of the ICMP error rate limit, in thousandths, and when they were last filled up.
    icmp_tokens: u64,
    icmp_filled: Ticks,
    /// Where frames go to other workers, and theirs come from.
    pub(super) ends: Ends,
    /// What is noted of the way of the packet that is under way; there only while somebody wants to know.
    pub(super) watch: Option<Box<Watch>>,
    /// Who wants to know the ways of packets.
    pub(super) tracers: Vec<Arc<Tracer>>,
    /// Who listens to events.
    pub(super) listeners: Vec<Arc<Subscription>>,
    /// Connections that have ended at the gateway host and that the punt thread has not been told of.
    ended: Vec<(HostFlow, Origin)>,
    /// Whether something was queued for the punt thread since it was last woken.
    host_waits: bool,
}

impl<P: Port> Core<P> {
    pub(super) fn new(id: u16, shared: Arc<Shared>, pool: FramePool, ports: Vec<P>) -> Self {
        assert!(pool.capacity() >= place::LONGEST, "frames are too small");
        let snapshot = shared.current.load();
        let (outlets, inlets) = wiring::of(&snapshot.policy);
        let quota_step = quota_step(&snapshot.policy, &shared);
        let now = shared.now();
        let ends = shared.handoffs.take(usize::from(id));
        Core {
            id,
            keys: shared.keys,
            shared,
            udp: snapshot.policy.udp_timeouts(),
            tcp: snapshot.policy.tcp_timeouts(),
            snapshot,
            route_epoch: 1,
            ports,
            outlets,
            inlets,
            pool,
            now,
            random: Random::default(),
            admission: Admission::default(),
            quota: 0,
            quota_step,
            icmp_tokens: 0,
            icmp_filled: now,
            ends,
            watch: None,
            tracers: Vec::new(),
            listeners: Vec::new(),
            ended: Vec::new(),
            host_waits: false,
        }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.shared.workers[usize::from(self.id)].counters
    }

    /// Whether nobody wants to know what becomes of packets and connections.
    #[inline]
    pub(super) fn is_unheard(&self) -> bool {
        self.tracers.is_empty() && self.listeners.is_empty()
    }

    /// What this worker counts for a rule of the policy.
    pub(super) fn tally(&self, by: Translator) -> Option<&Tally> {
        self.snapshot.tallies.of(self.id, by.list, usize::from(by.rule))
    }

    /// Counts the drop and gives the frame back.
    #[cold]
    pub(super) fn discard(&mut self, f: Frame, why: DropReason) {
        self.note_drop(why);
        self.counters().drop(why);
        self.pool.give(f);
    }

    /// Queues a complete frame on an interface.
    #[inline(always)]
    pub(super) fn transmit(&mut self, interface: InterfaceId, f: Frame) {
        let outlet = &mut self.outlets[usize::from(interface)];
        let sent = match self.ports.get_mut(outlet.wire as usize) {
            Some(port) => port.send(&mut self.pool, f),
            None => {
                let port = &mut self.ports[usize::from(outlet.wire as u16)];
                wiring::send_tagged(port, &mut self.pool, f, (outlet.wire >> 16) as u16)
            }
        };
        match sent {
            Ok(()) => {
                outlet.packets += 1;
                outlet.bytes += u64::from(f.len);
            }
            Err(f) => self.discard(f, DropReason::TransmitFull),
        }
    }

    /// Takes over which interfaces a new policy has, on the ports there are, and what else is read of it at once.
    pub(super) fn rewire(&mut self) {
        self.publish();
        (self.outlets, self.inlets) = wiring::of(&self.snapshot.policy);
        self.udp = self.snapshot.policy.udp_timeouts();
        self.tcp = self.snapshot.policy.tcp_timeouts();
        self.quota_step = quota_step(&self.snapshot.policy, &self.shared);
        self.give_back();
    }

    /// Brings the shared counters of what was sent up to date.
    pub(super) fn publish(&mut self) {
        for (o, c) in self.outlets.iter_mut().zip(&self.shared.workers[usize::from(self.id)].counters.interfaces) {
            if o.packets > 0 {
                c.tx_packets.add(u64::from(o.packets));
                c.tx_bytes.add(o.bytes);
                *o = Outlet { wire: o.wire, ..Outlet::default() };
            }
        }
    }

    /// Hands a frame to the kernel as if it had just been received, and takes the frame back.
    pub(super) fn punt(&mut self, interface: InterfaceId, f: Frame) {
        let punt = Punt { interface, frame: self.pool.bytes(f).into() };
        if self.shared.punts.push(punt).is_ok() {
            self.host_waits = true;
            self.counters().punted.inc();
            self.pool.give(f);
        } else {
            self.discard(f, DropReason::PuntLimit);
        }
    }

    /// Queues a message about connections that end at the gateway host. False when there is no room.
    pub(super) fn tell_host(&mut self, m: ToHost) -> bool {
        // A connection that has gone may have a successor with the same ports.
        self.flush_ended() && {
            self.host_waits = true;
            self.shared.to_host.push(m).is_ok()
        }
    }

    /// Tells that a connection has ended at the gateway host, as soon as there is room.
    pub(super) fn host_ended(&mut self, answers: HostFlow, origin: Origin) {
        self.ended.push((answers, origin));
        self.flush_ended();
    }

    /// Tells of connections that have ended at the gateway host. False when some are left to tell of.
    pub(super) fn flush_ended(&mut self) -> bool {
        while let Some((answers, origin)) = self.ended.pop() {
            self.host_waits = true;
            if self.shared.to_host.push(ToHost::Ends(answers, origin)).is_err() {
                self.ended.push((answers, origin));
                return false;
            }
        }
        true
    }

    /// Wakes the punt thread if there is something for it.
    pub(super) fn wake_host(&mut self) {
        if std::mem::take(&mut self.host_waits) {
            self.shared.punt_ready.signal();
        }
    }

    /// Asks the control thread to resolve or confirm a next hop. Lost when the queue is full; asked again later.
    pub(super) fn ask_neighbour(&self, r: NeighbourRequest) {
        if self.shared.neighbour_requests.push(r).is_ok() {
            self.shared.control_ready.signal();
        }
    }

    /// Reserves room for one more connection under `max_connections`.
    pub(super) fn reserve_connection(&mut self) -> bool {
        if self.quota == 0 {
            let (max, most) = (self.snapshot.policy.max_connections, self.quota_step);
            let taken = self.shared.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                let step = most.min(max.saturating_sub(n));
                (step > 0).then_some(n + step)
            });
            match taken {
                Ok(before) => self.quota = most.min(max - before),
                Err(_) => return false,
            }
        }
        self.quota -= 1;
        true
    }

    /// Whether [`Core::reserve_connection`] would find room.
    pub(super) fn has_room(&self) -> bool {
        self.quota > 0 || self.shared.connections.load(Ordering::Relaxed) < self.snapshot.policy.max_connections
    }

    /// Gives back the room of a connection that is gone.
    pub(super) fn release_connection(&mut self) {
        self.quota += 1;
        self.give_back();
    }

    /// Gives back what others may need more. With a step of one nothing stays with a worker without connections.
    fn give_back(&mut self) {
        if self.quota >= 2 * self.quota_step - 1 {
            let back = self.quota + 1 - self.quota_step;
            self.quota -= back;
            self.shared.connections.fetch_sub(back, Ordering::Relaxed);
        }
    }

    /// Whether an ICMP error may be sent now (RFC 1812 4.3.2.8, RFC 4443 2.4 (f)).
    pub(super) fn may_send_icmp(&mut self) -> bool {
        let rate = u64::from(self.snapshot.policy.icmp_errors_per_second);
        if rate == 0 {
            return true;
        }
        let elapsed = u64::from(self.now.0.wrapping_sub(self.icmp_filled.0));
        self.icmp_filled = self.now;
        // One token is 1000; a burst of a tenth of a second's worth, at least ten, is allowed.
        self.icmp_tokens = (self.icmp_tokens + elapsed * rate).min((rate * 100).max(10_000));
        let ok = self.icmp_tokens >= 1000;
        if ok {
            self.icmp_tokens -= 1000;
        } else {
            self.counters().icmp_limited.inc();
        }
        ok
    }
}

/// How many connections are reserved or given back at a time. What workers hold without using it is missing to the
/// others: never more than a sixteenth of the limit in all, where that is more than nothing.
fn quota_step(policy: &Policy, shared: &Shared) -> u32 {
    let shares = 32 * shared.workers.len() as u32;
    (policy.max_connections / shares).clamp(1, QUOTA_STEP)
}
