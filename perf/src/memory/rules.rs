//! What the rules cost a new connection: one decision by itself, and connections a second.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use clap::Args;
use dataplane::conntrack::{CtState, Status};
use dataplane::packet::{Address, V4, V6, protocol};
use dataplane::policy::{Action, AddressSet, Facts, Match, Nobody, Policy, PortSet, Rule, States, Zones};
use dataplane::snapshot::Snapshot;

use super::flows::{Kind, Segment};
use super::gateway::{Gateway, PORT, policy};
use super::generator::Plan;
use crate::report::{Figure, Report};
use crate::sys;

/// `sluice-perf rules`
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Fewer packets: shows that the benches work, not how fast the rules are.
    #[arg(long)]
    quick: bool,
    /// Only what is measured with so many rules, of new connections.
    #[arg(long)]
    only: Option<u32>,
    /// Where to write the figures as JSON.
    #[arg(long, default_value = "target/bench/rules.json")]
    output: PathBuf,
}

/// Entries of the set that a rule in front of all others names.
const SET: u32 = 10_000;
/// Packets that are asked about in turn, made beforehand.
const PACKETS: usize = 1 << 16;

/// So many rules about networks and ports outside, behind a large set; addresses of both families.
fn rules(n: u32, port: impl Fn(u32) -> u16) -> Vec<Rule> {
    let rule = |name: String, matcher: Match, action| Rule { name, matcher, action, ..Rule::default() };
    let set = |a: u32, length: u32| {
        let (first, last) = (both(a), both(a + length - 1));
        Some(AddressSet::new([(first.0.ip(), last.0.ip()), (first.1.ip(), last.1.ip())]))
    };
    // All over the address space, as lists of unwanted senders are; none of them sends here.
    let blocked = (0..SET).map(|i| set(7 + i * (u32::MAX / SET), 1)).collect::<Vec<_>>();
    let members = blocked.iter().flatten().flat_map(|s| {
        let four = s.ranges_v4().iter().map(|(a, b)| (a.ip(), b.ip()));
        four.chain(s.ranges_v6().iter().map(|(a, b)| (a.ip(), b.ip()))).collect::<Vec<_>>()
    });
    let states = States::default().with(CtState::Established).with(CtState::Related);
    let mut all = vec![
        rule("blocked".into(), Match { source: Some(AddressSet::new(members)), ..Match::default() }, Action::Drop),
        rule("established".into(), Match { states: Some(states), ..Match::default() }, Action::Accept),
        rule(
            "invalid".into(),
            Match { states: Some(States::default().with(CtState::Invalid)), ..Match::default() },
            Action::Drop,
        ),
    ];
    all.extend((0..n).map(|i| {
        let matcher = Match {
            from: Some(Zones(1)),
            to: Some(Zones(2)),
            destination: set(network(i), 256),
            protocols: Some(vec![protocol::TCP, protocol::UDP]),
            destination_port: Some(PortSet::new([(port(i), port(i))])),
            ..Match::default()
        };
        rule(format!("r{i}"), matcher, Action::Accept)
    }));
    all
}

/// The network of rule `i`, in no order.
fn network(i: u32) -> u32 {
    0xcb00_0000 + (i.wrapping_mul(40_503) & 0xffff) * 256
}

fn port(i: u32) -> u16 {
    (1000 + i % 50_000) as u16
}

/// An address of each family.
fn both(a: u32) -> (V4, V6) {
    (V4(a), V6::from_bits(0x2001_0db8 << 96 | u128::from(a)))
}

fn packet<A: Address>(i: u32, n: u32, (source, destination): (A, A)) -> Facts<A> {
    Facts {
        source,
        destination,
        protocol: protocol::TCP,
        source_port: Some(40_000),
        destination_port: Some(port(i % n)),
        icmp: None,
        tcp_flags: Some(2),
        from: 0,
        to: Some(1),
        state: CtState::New,
        status: Status::default(),
        mark: 0,
    }
}

/// Nanoseconds a decision, the median of several runs.
fn decide<A: dataplane::packet::Ip>(s: &Snapshot, packets: &[Facts<A>], rounds: usize) -> Result<f64> {
    let mut samples = Vec::new();
    for _ in 0..7 {
        let start = sys::thread_time();
        let mut accepted = 0;
        for _ in 0..rounds {
            for f in packets {
                let (_, action) = s.verdict(&mut black_box(*f), &mut Nobody);
                accepted += usize::from(action == Action::Accept);
            }
        }
        let took = sys::thread_time() - start;
        ensure!(accepted == packets.len() * rounds, "{accepted} packets were accepted");
        samples.push(took.as_nanos() as f64 / (packets.len() * rounds) as f64);
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples[3])
}

/// Runs the benches of rules, prints and writes the figures.
///
/// # Errors
/// When a decision is not what it should be: the figures would be of something else.
pub(crate) fn run(a: &Arguments) -> Result<()> {
    let mut report = Report::new(a.quick);
    let flows = if a.quick { 50_000 } else { 1_000_000 };
    if let Some(n) = a.only {
        for _ in 0..7 {
            let made = gateway(n, flows)?.begin(Plan::each(flows, Segment::Data))?;
            println!("{n} rules: {:.2} M/s", f64::from(flows) / made.as_secs_f64() / 1e6);
        }
        return Ok(());
    }
    decisions(&mut report, if a.quick { 1 } else { 32 })?;
    connections(&mut report, flows)?;
    report.write(&a.output)
}

/// What one decision takes, and what stands behind it.
fn decisions(report: &mut Report, rounds: usize) -> Result<()> {
    let mut few = None;
    for (n, name) in [(10, "10"), (1000, "1k"), (10_000, "10k"), (60_000, "60k")] {
        let mut policy = Policy { rules: rules(n, port), ..Policy::default() };
        let start = sys::thread_time();
        policy.index();
        let took = (sys::thread_time() - start).as_secs_f64() * 1e3;
        let size = policy.index.as_ref().map_or(0, |i| i.size());
        show(report.add_below(&format!("rules-build-{name}"), took, "ms", (n == 10_000).then_some(1000.0)));
        show(report.add_below(&format!("rules-memory-{name}"), size as f64 / 1e6, "MB", None));
        let s = Snapshot { policy: Arc::new(policy), ..Snapshot::default() };
        // Random rules, random hosts of their networks, random sources.
        let draw = |i: usize| (i as u32).wrapping_mul(0x9e37_79b9).rotate_left(15) % n;
        let ends = |i: usize| {
            let (source, host) = ((i as u32).wrapping_mul(0x85eb_ca6b), (i as u32).wrapping_mul(77) % 256);
            (both(0x4000_0000 | source >> 3), both(network(draw(i)) + host))
        };
        let four: Vec<_> = (0..PACKETS).map(|i| packet(draw(i), n, (ends(i).0.0, ends(i).1.0))).collect();
        let six: Vec<_> = (0..PACKETS).map(|i| packet(draw(i), n, (ends(i).0.1, ends(i).1.1))).collect();
        let took = [decide(&s, &four, rounds)?, decide(&s, &six, rounds)?];
        show(report.add_below(&format!("rules-decision-ipv4-{name}"), took[0], "ns", None));
        show(report.add_below(&format!("rules-decision-ipv6-{name}"), took[1], "ns", None));
        let few = few.get_or_insert(took);
        if n == 10_000 {
            show(report.add_below("rules-decision-ipv4-10k-of-10", took[0] / few[0], "", None));
            show(report.add_below("rules-decision-ipv6-10k-of-10", took[1] / few[1], "", None));
        }
    }
    Ok(())
}

/// A gateway with so many rules, some of them about the servers, and room for so many connections.
pub(super) fn gateway(n: u32, flows: u32) -> Result<Gateway> {
    Gateway::with_policy(Kind::UdpAnywhere, with_rules(n, flows))
}

fn with_rules(n: u32, flows: u32) -> Policy {
    let mut p = policy(flows + flows / 8 + 1024);
    p.rules.splice(0..0, rules(n, |_| PORT));
    p
}

/// New connections a second, to servers that the rules are about, among others.
fn connections(report: &mut Report, flows: u32) -> Result<()> {
    let counts = [(10, "10"), (10_000, "10k")];
    let policies = counts.map(|(n, _)| with_rules(n, flows));
    let mut samples = [vec![], vec![]];
    // In turns, so that what else the machine does hits both.
    for _ in 0..7 {
        for (policy, samples) in policies.iter().zip(&mut samples) {
            let mut g = Gateway::with_policy(Kind::UdpAnywhere, policy.clone())?;
            let made = g.begin(Plan::each(flows, Segment::Data))?;
            samples.push(f64::from(flows) / made.as_secs_f64() / 1e6);
        }
    }
    let rates = samples.map(|mut s| {
        s.sort_by(f64::total_cmp);
        s[s.len() / 2]
    });
    for ((_, name), rate) in counts.iter().zip(rates) {
        show(report.add_above(&format!("udp-snat-cps-{name}-rules"), rate, "M/s", None));
    }
    show(report.add_above("udp-snat-cps-10k-of-10-rules", rates[1] / rates[0], "", Some(0.9)));
    Ok(())
}

fn show(f: &Figure) {
    println!("{f}");
}
