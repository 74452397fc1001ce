//! The exposition as a whole, for a gateway without interfaces of its own.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Instant, SystemTime};

use dataplane::packet::protocol;
use dataplane::policy::{InterfacePolicy, List, Policy, PortChoice, Rule, SourceNat, SourceTranslation};
use dataplane::route::{Fib, Interface};
use dataplane::worker::counters::by_protocol;
use dataplane::worker::shared::Shared;
use dataplane::worker::{DropReason, HandoffReason};

use super::*;
use crate::answers::Answers;
use crate::context::WorkerState;
use crate::daemon::Steering;
use crate::reload::Policies;

fn context(rules: usize) -> Arc<Context> {
    let shared = Shared::new(2, 1, 1024, 16).unwrap();
    let interface = InterfacePolicy { name: "lan".into(), device: "eth1".into(), vlan: 0, zone: 0 };
    let rules = (0..rules).map(|i| Rule { name: format!("r{i}"), ..Rule::default() }).collect();
    let addresses = vec![("192.0.2.0".parse().unwrap(), "192.0.2.3".parse().unwrap())];
    let choice = PortChoice { ports: Some((5000, 5009)), ..PortChoice::default() };
    let nat = |name: &str, translate| SourceNat { name: name.into(), translate, ..SourceNat::default() };
    let source_nat = vec![
        nat("pool", SourceTranslation::Pool { addresses, choice }),
        nat("except", SourceTranslation::None),
        nat("rest", SourceTranslation::Masquerade(PortChoice::default())),
    ];
    let policy = Policy { rules, source_nat, interfaces: vec![interface], max_connections: 1024, ..Policy::default() };
    let interface = Interface { ifindex: 7, device: 7, up: true, ..Interface::default() };
    let fib = Fib { interfaces: vec![interface], ..Fib::default() };
    shared.current.publish(Some(Arc::new(policy)), Some(Arc::new(fib)));
    let text = "version: 1\ninterfaces: { lan: { device: eth1, zone: inside } }\n";
    let checked = config::parse("policy.yaml", text).unwrap();
    let steering = Arc::new(Steering::load(&Policy::default(), config::OnFailure::Closed).unwrap());
    Arc::new(Context {
        answers: Arc::new(Answers::new(shared.clone(), steering.clone())),
        shared,
        mirror: Arc::default(),
        queues: Vec::new(),
        monitors: Mutex::default(),
        attached: vec![7],
        steering,
        workers: vec![WorkerState::new(Some(0)), WorkerState::new(None)],
        policies: Arc::new(Policies::new(Path::new("policy.yaml"), checked)),
        coming: Arc::default(),
        adopted: AtomicU32::new(1),
        max_connections: 1024,
        metrics: None,
        started: SystemTime::now(),
        running_since: Instant::now(),
        running: AtomicBool::new(false),
    })
}

fn text(ctx: &Arc<Context>) -> String {
    let registry = Registry::new();
    registry.register(Box::new(collect::Gateway::new(ctx.clone()))).unwrap();
    TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
}

#[test]
fn names_and_samples_follow_the_conventions() {
    let ctx = context(1);
    ctx.shared.workers[1].counters.drop(DropReason::NoRoute);
    ctx.shared.workers[1].counters.interfaces[0].rx_packets.add(5);
    ctx.shared.workers[0].counters.busy_ns.add(1_500_000_000);
    let tallies = ctx.shared.current.load().tallies;
    tallies.count(0, List::Forward, 0, 40);
    tallies.count(1, List::Forward, 0, 60);
    let counters = &ctx.shared.workers[0].counters;
    counters.burst_time.record(3000);
    counters.burst_time.record(1_000_000_000);
    counters.handed_off[HandoffReason::IcmpError as usize].inc();
    let udp6 = by_protocol(true, protocol::UDP);
    ctx.shared.workers[1].counters.created[udp6].add(3);
    ctx.shared.workers[1].counters.ended[udp6].add(1);
    let pool = tallies.of(1, List::SourceNat, 0).unwrap();
    pool.begun.add(7);
    pool.ended.add(2);
    pool.exhausted.inc();
    let text = text(&ctx);
    assert!(!text.contains("nat_connections{chain=\"nat.source\",rule=\"except\"}"), "{text}");
    for line in [
        "sluice_nat_connections{chain=\"nat.source\",rule=\"pool\"} 5",
        "sluice_nat_exhausted_total{chain=\"nat.source\",rule=\"pool\"} 1",
        "sluice_nat_endpoints{chain=\"nat.source\",rule=\"pool\"} 40",
        "sluice_nat_endpoints{chain=\"nat.source\",rule=\"rest\"} 64512",
        "sluice_dropped_packets_total{reason=\"no_route\",worker=\"1\"} 1",
        "sluice_interface_receive_packets_total{interface=\"lan\",device=\"eth1\",worker=\"1\"} 5",
        "sluice_handed_off_packets_total{reason=\"icmp_error\",worker=\"0\"} 1",
        "sluice_connections{family=\"ipv6\",protocol=\"udp\",worker=\"1\"} 2",
        "sluice_burst_seconds_bucket{worker=\"0\",le=\"0.000002\"} 0",
        "sluice_burst_seconds_bucket{worker=\"0\",le=\"0.000004\"} 1",
        "sluice_burst_seconds_bucket{worker=\"0\",le=\"0.032768\"} 1",
        "sluice_burst_seconds_bucket{worker=\"0\",le=\"+Inf\"} 2",
        "sluice_burst_seconds_sum{worker=\"0\"} 1.5",
        "sluice_burst_seconds_count{worker=\"0\"} 2",
        "sluice_worker_seconds_total{worker=\"0\",state=\"busy\"} 1.5",
        "sluice_interface_up{interface=\"lan\",device=\"eth1\"} 1",
        "sluice_rule_packets_total{chain=\"policy\",rule=\"r0\"} 2",
        "sluice_rule_bytes_total{chain=\"policy\",rule=\"r0\"} 100",
        "sluice_rule_packets_total{chain=\"policy\",rule=\"(default)\"} 0",
        "sluice_connections_max 1024",
        "sluice_ready 0",
        "sluice_policy_generation 1",
        "sluice_reload_total{result=\"failure\"} 0",
        "sluice_reload_last_successful 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
    }
    let mut seen = HashSet::new();
    let mut counters = HashSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(name.starts_with("sluice_"), "{name}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
            counters.insert(name);
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(rest.split_once(' ').is_some_and(|(_, help)| help.ends_with('.')), "{line}");
        } else {
            let (series, _) = line.rsplit_once(' ').unwrap();
            assert!(seen.insert(series), "{series} appears twice");
            let name = series.split('{').next().unwrap();
            let of = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
            assert!(counters.contains(of), "{series} has no type");
        }
    }
    for r in DropReason::ALL {
        assert!(text.contains(&format!("reason=\"{}\"", r.label())), "{}", r.label());
    }
}

#[test]
fn of_many_rules_only_some_have_series_of_their_own() {
    let ctx = context(10_000);
    let tallies = ctx.shared.current.load().tallies;
    for i in 0..=10_000 {
        tallies.count(0, List::Forward, i, 1);
    }
    let text = text(&ctx);
    let of: Vec<&str> = text.lines().filter(|l| l.starts_with("sluice_rule_packets_total{chain=\"policy\"")).collect();
    let line = |rule: &str, n| format!("sluice_rule_packets_total{{chain=\"policy\",rule=\"{rule}\"}} {n}");
    assert_eq!(of.len(), 258);
    for wanted in [line("r0", 1), line("r255", 1), line("(default)", 1), line("(others)", 10_000 - 256)] {
        assert!(of.contains(&&*wanted), "{wanted}");
    }
}

#[test]
fn health_says_why_not() {
    let ctx = context(1);
    let not = |part: &str| {
        let reason = ctx.ready().unwrap_err();
        assert!(reason.contains(part), "{reason}");
    };
    not("not started");
    ctx.running.store(true, Ordering::Relaxed);
    not("worker 0 has ended");
    for w in &ctx.workers {
        w.alive.store(true, Ordering::Relaxed);
    }
    assert_eq!(ctx.ready(), Ok(()));
    let publish = |i: Interface| {
        let fib = Fib { interfaces: vec![i], ..Fib::default() };
        ctx.shared.current.publish(None, Some(Arc::new(fib)));
    };
    publish(Interface { ifindex: 7, device: 7, ..Interface::default() });
    not("interface lan (eth1) is down");
    publish(Interface { ifindex: 8, device: 8, up: true, ..Interface::default() });
    not("made anew");
    assert_eq!(ctx.replaced(), Some("eth1".to_owned()));
    publish(Interface { device: 7, ..Interface::default() });
    not("interface lan: eth1 has no VLAN device");
    publish(Interface::default());
    not("does not exist any more");
    assert_eq!(ctx.replaced(), None);
}
