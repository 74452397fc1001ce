//! A gateway between two interfaces whose ports make their frames themselves.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, ensure};
use dataplane::conntrack::{CtState, Timeouts};
use dataplane::io::FramePool;
use dataplane::packet::{Address, V4, V6};
use dataplane::policy::{
    Action, AddressSet, InterfacePolicy, Match, Policy, PortChoice, Rule, SourceNat, SourceTranslation, States, Zones,
};
use dataplane::route::{Fib, Interface, Mac, NextHop, Target};
use dataplane::worker::shared::Shared;
use dataplane::worker::{DropReason, Options, Worker, backing};

use super::flows::{Flows, GATEWAY, Kind, OUTSIDE, PEER, Segment, Side};
use super::generator::{Generator, Plan};
use crate::sys;

const LAN: usize = 0;
const WAN: usize = 1;
/// The servers' port.
pub(super) const PORT: u16 = 53;

/// Connections that are made before the first of them is answered.
const AT_ONCE: u32 = 1 << 20;

/// First packets of `flows` connections, some at a time and with pauses, so that none is refused because memory is not
/// there yet: under valgrind the threads take turns.
pub(super) fn unhurried(flows: u32) -> impl Iterator<Item = Plan> {
    const PART: u32 = 1 << 13;
    (0..flows).step_by(PART as usize).map(move |first| {
        thread::sleep(Duration::from_millis(50));
        Plan { first, ..Plan::each(PART.min(flows - first), Segment::Data) }
    })
}

/// One worker and its traffic.
pub(super) struct Gateway {
    pub(super) worker: Worker<Generator>,
    pub(super) shared: Arc<Shared>,
    kind: Kind,
    /// The daemon's thread of this name.
    backing: Option<JoinHandle<()>>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // A panic has said what there is to say.
        let _ = self.backing.take().map(JoinHandle::join);
    }
}

/// Masquerade from inside to outside, replies only.
pub(super) fn policy(max_connections: u32) -> Policy {
    let states = |s: &[CtState]| Some(s.iter().fold(States::default(), |all, s| all.with(*s)));
    let net = |a: u32, b: u32| Some(AddressSet::new([(V4(a).ip(), V4(b).ip())]));
    let rule = |name: &str, matcher: Match, action| Rule { name: name.into(), matcher, action, ..Rule::default() };
    let (inside, outside) = (Some(Zones(1)), Some(Zones(2)));
    Policy {
        zones: vec!["inside".into(), "outside".into()],
        interfaces: vec![
            InterfacePolicy { name: "lan".into(), device: "lan0".into(), vlan: 0, zone: 0 },
            InterfacePolicy { name: "wan".into(), device: "wan0".into(), vlan: 0, zone: 1 },
        ],
        rules: vec![
            rule("invalid", Match { states: states(&[CtState::Invalid]), ..Match::default() }, Action::Drop),
            rule(
                "established",
                Match { states: states(&[CtState::Established, CtState::Related]), ..Match::default() },
                Action::Accept,
            ),
            rule("out", Match { from: inside, to: outside, ..Match::default() }, Action::Accept),
        ],
        source_nat: vec![SourceNat {
            name: "internet".into(),
            matcher: Match { from: inside, to: outside, source: net(0x0a00_0000, 0x0aff_ffff), ..Match::default() },
            translate: SourceTranslation::Masquerade(PortChoice::default()),
            ..SourceNat::default()
        }],
        timeouts: vec![Timeouts::linux()],
        checksum: true,
        max_connections,
        ..Policy::default()
    }
}

/// Clients behind a router on lan, servers behind one on wan.
pub(super) fn fib() -> Fib {
    let own6 = |i: usize| V6(0xfd00_0001 << 32, 1 + i as u64);
    let interface = |i: usize, a: V4| Interface {
        ifindex: 1 + i as u32,
        device: 1 + i as u32,
        mac: Mac(GATEWAY[i]),
        mtu: 1500,
        up: true,
        v4: vec![(a, 24)],
        v6: vec![(own6(i), 64)],
    };
    let router = |i: usize| V4(0xac10_0001 + i as u32);
    let router6 = |i: usize| V6(0xfd00_0002 << 32, 1 + i as u64);
    fn via<A>(i: usize, gateway: A) -> Target<A> {
        Target::Via(vec![NextHop { gateway: Some(gateway), interface: Some(i as u16), weight: 1 }])
    }
    let interfaces = vec![interface(LAN, V4(0x0a00_0001)), interface(WAN, OUTSIDE)];
    let mut f = Fib { interfaces, ..Fib::default() };
    f.routes4.insert(OUTSIDE, 32, Target::Local);
    f.routes4.insert(V4(0x0a00_0001), 32, Target::Local);
    f.routes4.insert(V4(0x0a00_0000), 8, via(LAN, router(LAN)));
    f.routes4.insert(V4(0), 0, via(WAN, router(WAN)));
    f.routes6.insert(V6(0xfd00_0010 << 32, 0), 64, via(LAN, router6(LAN)));
    f.routes6.insert(V6(0, 0), 0, via(WAN, router6(WAN)));
    for i in [LAN, WAN] {
        f.routes6.insert(own6(i), 128, Target::Local);
        f.neighbours4.insert((i as u16, router(i)), Mac(PEER[i]));
        f.neighbours6.insert((i as u16, router6(i)), Mac(PEER[i]));
    }
    f
}

impl Gateway {
    /// One worker with room for `connections` and some more.
    pub(super) fn new(kind: Kind, connections: u32) -> Result<Self> {
        let max = connections + connections / 8 + 1024;
        Self::with_policy(kind, policy(max))
    }

    pub(super) fn with_policy(kind: Kind, policy: Policy) -> Result<Self> {
        let shared = Shared::new(1, 2, policy.max_connections, 4096)?;
        shared.current.publish(Some(Arc::new(policy)), Some(Arc::new(fib())));
        let port = |side| Generator::new(Flows::new(kind, side, PORT));
        let pool = FramePool::in_memory(1024, 2048, 256);
        let ports = vec![port(Side::Request), port(Side::Reply)];
        let worker = Worker::new(0, shared.clone(), pool, ports, Options { busy_poll: true })?;
        let backed = shared.clone();
        let backing = thread::spawn(move || backing::run(&backed));
        Ok(Gateway { worker, shared, kind, backing: Some(backing) })
    }

    /// Runs frames through. Returns the CPU time that was the worker's.
    pub(super) fn run(&mut self, requests: Plan, replies: Plan) -> Result<Duration> {
        let (took, sent) = self.offer(requests, replies);
        let due = requests.frames + replies.frames;
        ensure!(sent == due, "{sent} frames of {due} were forwarded");
        Ok(took)
    }

    /// Makes connections: those that are refused because memory is not there yet are asked for again. Returns the CPU
    /// time that was the worker's.
    pub(super) fn begin(&mut self, requests: Plan) -> Result<Duration> {
        let mut all = Duration::ZERO;
        loop {
            let refused = self.refused();
            let (took, sent) = self.offer(requests, Plan::none());
            all += took;
            let refused = self.refused() - refused;
            ensure!(sent + refused == requests.frames, "{sent} frames of {} were forwarded", requests.frames);
            if refused == 0 {
                return Ok(all);
            }
            self.worker.ports()[0].again();
        }
    }

    /// Connections that were refused because memory was not there yet.
    pub(super) fn refused(&self) -> u64 {
        self.shared.workers[0].counters.drops[DropReason::TableGrows as usize].get()
    }

    /// Runs frames through. Returns the CPU time that was the worker's and the number of those that were forwarded.
    fn offer(&mut self, requests: Plan, replies: Plan) -> (Duration, u64) {
        self.start(requests, replies);
        let start = sys::thread_time();
        self.measured();
        let all = sys::thread_time() - start;
        let [request, reply] = self.worker.ports() else { unreachable!("there are two ports") };
        let cost = request.cost(requests.frames) + reply.cost(replies.frames);
        (all.saturating_sub(cost), request.sent + reply.sent)
    }

    /// Has frames come in from the next turn on.
    pub(super) fn start(&mut self, requests: Plan, replies: Plan) {
        let [request, reply] = self.worker.ports() else { unreachable!("there are two ports") };
        request.start(requests);
        reply.start(replies);
    }

    // A function of its own, so that instructions can be counted in it alone.
    #[inline(never)]
    fn measured(&mut self) {
        while self.worker.turn() > 0 {}
    }

    /// Makes `flows` connections and has them answered.
    pub(super) fn establish(&mut self, flows: u32) -> Result<()> {
        if self.kind == Kind::Tcp {
            for segment in [Segment::Syn, Segment::Data] {
                self.begin(Plan::each(flows, segment))?;
                self.run(Plan::none(), Plan::each(flows, segment))?;
            }
        } else {
            // So many at a time that none expires, on a slow machine, before its answer comes.
            let mut first = 0;
            while first < flows {
                let some = Plan { first, ..Plan::each(AT_ONCE.min(flows - first), Segment::Data) };
                self.begin(some)?;
                self.run(Plan::none(), some)?;
                first += some.flows;
            }
        }
        let live = self.connections();
        ensure!(live == u64::from(flows), "{live} connections for {flows} flows");
        Ok(())
    }

    /// Nanoseconds a packet for `packets` packets of established flows, half of them replies.
    pub(super) fn data(&mut self, flows: u32, packets: u64) -> Result<f64> {
        let half = Plan::data(flows, packets / 2);
        Ok(self.run(half, half)?.as_nanos() as f64 / packets as f64)
    }

    pub(super) fn connections(&self) -> u64 {
        let c = &self.shared.workers[0].counters;
        c.created.iter().map(|c| c.get()).sum::<u64>() - c.expired.get() - c.deleted.get()
    }
}
