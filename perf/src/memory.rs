//! In-memory benches: the daemon's worker over ports that make their own frames.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use dataplane::conntrack::CtState;
use dataplane::io::FramePool;
use dataplane::packet::{Address, V4};
use dataplane::policy::{
    Action, AddressSet, InterfacePolicy, Match, Policy, PortChoice, Rule, SourceNat, SourceTranslation, States, Zones,
};
use dataplane::route::{Fib, Interface, Mac, NextHop, Target};
use dataplane::worker::shared::Shared;
use dataplane::worker::{Options, Worker};

use crate::port::{GATEWAY, Generator, OUTSIDE, Order, PEER, Side};
use crate::report::{Figure, Report};
use crate::sys;

/// `sluice-perf memory`
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Fewer packets and smaller tables: shows that the benches work, not how fast the worker is.
    #[arg(long)]
    quick: bool,
    /// Where to write the figures as JSON.
    #[arg(long, default_value = "target/bench/results.json")]
    output: PathBuf,
}

const LAN: usize = 0;
const WAN: usize = 1;

struct Bench {
    worker: Worker<Generator>,
    shared: Arc<Shared>,
}

fn policy(max_connections: u32) -> Policy {
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
        checksum: true,
        max_connections,
        ..Policy::default()
    }
}

fn fib() -> Fib {
    let interface = |i: usize, a: V4| Interface {
        ifindex: 1 + i as u32,
        device: 1 + i as u32,
        mac: Mac(GATEWAY[i]),
        mtu: 1500,
        up: true,
        v4: vec![(a, 24)],
        v6: vec![],
    };
    let router = |i: usize| V4(0xac10_0001 + i as u32);
    let via = |i: usize| Target::Via(vec![NextHop { gateway: Some(router(i)), interface: Some(i as u16), weight: 1 }]);
    let mut f = Fib { interfaces: vec![interface(LAN, V4(0x0a00_0001)), interface(WAN, OUTSIDE)], ..Fib::default() };
    f.routes4.insert(OUTSIDE, 32, Target::Local);
    f.routes4.insert(V4(0x0a00_0001), 32, Target::Local);
    f.routes4.insert(V4(0x0a00_0000), 8, via(LAN));
    f.routes4.insert(V4(0), 0, via(WAN));
    for i in [LAN, WAN] {
        f.neighbours4.insert((i as u16, router(i)), Mac(PEER[i]));
    }
    f
}

impl Bench {
    fn new(max_connections: u32) -> Result<Self> {
        let shared = Shared::new(1, 2, max_connections, 4096)?;
        shared.current.publish(Some(Arc::new(policy(max_connections))), Some(Arc::new(fib())));
        let ports = vec![Generator::new(Side::Request), Generator::new(Side::Reply)];
        let pool = FramePool::in_memory(1024, 2048, 256);
        let worker = Worker::new(0, shared.clone(), pool, ports, Options { busy_poll: true })?;
        Ok(Bench { worker, shared })
    }

    /// Runs `requests` and `replies` frames through; the CPU time that was the worker's.
    fn run(&mut self, flows: u32, order: Order, requests: u64, replies: u64) -> Result<Duration> {
        let [request, reply] = self.worker.ports() else { unreachable!("there are two ports") };
        request.start(flows, order, requests);
        reply.start(flows, order, replies);
        let start = sys::thread_time();
        while self.worker.turn() > 0 {}
        let all = sys::thread_time() - start;
        let [request, reply] = self.worker.ports() else { unreachable!("there are two ports") };
        let sent = request.sent + reply.sent;
        ensure!(sent == requests + replies, "{sent} frames of {} were forwarded", requests + replies);
        Ok(all.saturating_sub(request.cost(requests) + reply.cost(replies)))
    }

    fn connections(&self) -> u64 {
        let c = &self.shared.workers[0].counters;
        c.created.iter().map(|c| c.get()).sum::<u64>() - c.expired.get() - c.deleted.get()
    }
}

/// Resident memory of this process in bytes.
fn resident() -> Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split_whitespace().nth(1).unwrap_or("0").parse()?;
    Ok(pages * 4096)
}

/// Runs all in-memory benches, prints and writes the figures.
///
/// # Errors
/// When a frame was not forwarded: the figures would be of something else.
pub(crate) fn run(a: &Arguments) -> Result<()> {
    let mut report = Report::default();
    let sizes: &[(u32, &str, f64)] =
        &[(1000, "1k", 20.0), (65_536, "64k", 24.0), (1_000_000, "1M", 32.0), (10_000_000, "10M", 40.0)];
    let show = |f: &Figure| println!("{f}");
    for (flows, name, budget) in sizes.iter().take(if a.quick { 2 } else { 4 }) {
        let mut b = Bench::new(flows + flows / 8 + 1024)?;
        let before = resident()?;
        let setup = b.run(*flows, Order::Sequential, u64::from(*flows), 0)?;
        ensure!(b.connections() == u64::from(*flows), "{} connections for {flows} flows", b.connections());
        let memory = resident()?;
        // Replies make the connections two-sided, in an order that is not the one of creation.
        b.run(*flows, Order::Sequential, 0, u64::from(*flows))?;
        let packets = if a.quick { 1 << 19 } else { 1 << 22 };
        let mut samples: Vec<f64> = (0..7)
            .map(|_| Ok(b.run(*flows, Order::Random, packets / 2, packets / 2)?.as_nanos() as f64 / packets as f64))
            .collect::<Result<_>>()?;
        samples.sort_by(f64::total_cmp);
        let name = format!("udp-snat-established-{name}");
        show(report.add_below(&name, samples[3], "ns/packet", Some(*budget)));
        show(report.add_below(&format!("{name}-spread"), samples[6] - samples[0], "ns/packet", None));
        if *flows == 1_000_000 {
            let rate = 1e-6 * f64::from(*flows) / setup.as_secs_f64();
            show(report.add_above("udp-snat-cps-1M", rate, "M/s", Some(5.0)));
            show(report.add_below("memory-1M", memory as f64 / 1e6, "MB", Some(250.0)));
            show(report.add_below("memory-before-1M", before as f64 / 1e6, "MB", None));
        }
    }
    report.write(&a.output)
}
