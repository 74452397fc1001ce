//! A policy follows another while connections live: what they refer to, which of them go, who is told.

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam::channel;
use dataplane::conntrack::Timeouts;
use dataplane::policy::{
    Action, AddressSet, DestinationTranslation, Filtering, Match, Policy, PortChoice, PortSet, Rule, SourceTranslation,
    TrackingRule,
};
use dataplane::worker::Judged;
use dataplane::worker::listing::{Filter, FlowFilter};
use dataplane::worker::shared::Command;
use etherparse::PacketBuilder;
use support::*;

fn udp(src: &str, dst: &str, sport: u16, dport: u16) -> Vec<u8> {
    let four = |a: &str| a.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let mut v = Vec::new();
    PacketBuilder::ipv4(four(src), four(dst), 64).udp(sport, dport).write(&mut v, b"payload").unwrap();
    v
}

/// Source address and port of an IPv4 UDP packet.
fn source(p: &[u8]) -> (String, u16) {
    let a: [u8; 4] = p[12..16].try_into().unwrap();
    (std::net::Ipv4Addr::from(a).to_string(), u16::from_be_bytes([p[20], p[21]]))
}

/// Lets `next` follow the policy that runs, and waits until every worker has come over.
fn reload(g: &mut Gateway, mut next: Policy, revalidate: bool) {
    next.follow(&g.shared.current.load().policy, revalidate);
    let generation = g.shared.publish_policy(Arc::new(next));
    for _ in 0..10_000 {
        g.run();
        let reached = |n: u32| n.wrapping_sub(generation) as i32 >= 0;
        if g.shared.workers.iter().all(|w| reached(w.adopted.load(Ordering::Acquire))) {
            return;
        }
    }
    panic!("a worker does not come over");
}

fn judge(g: &mut Gateway, policy: Policy) -> Judged {
    let (reply, receiver) = channel::bounded(g.workers.len());
    let policy = Arc::new(policy);
    for w in 0..g.workers.len() {
        let command = Command::Judge { policy: policy.clone(), reply: reply.clone() };
        g.shared.command(w, command).unwrap();
    }
    drop(reply);
    let mut sum = Judged::default();
    let mut missing = g.workers.len();
    while missing > 0 {
        g.run();
        for j in receiver.try_iter() {
            missing -= 1;
            sum.connections += j.connections;
            sum.denied += j.denied;
            sum.translated += j.translated;
            sum.untracked += j.untracked;
        }
    }
    sum
}

/// Rules for two destination ports, with timeouts of their own.
fn two_rules(names: [(&str, u16, u32); 2]) -> Policy {
    let mut p = policy();
    p.timeouts = vec![Timeouts { udp: 500, ..Timeouts::linux() }];
    for (name, port, seconds) in names {
        p.timeouts.push(Timeouts { udp: seconds, ..Timeouts::linux() });
        let matcher = Match { destination_port: Some(PortSet::new([(port, port)])), ..Match::default() };
        let timeouts = p.timeouts.len() as u8 - 1;
        p.rules.insert(0, Rule { name: name.into(), matcher, action: Action::Accept, timeouts, ..Rule::default() });
    }
    p
}

#[test]
fn timeouts_follow_the_rule_by_its_name() {
    let mut g = Gateway::new(2, two_rules([("a", 1, 100), ("b", 2, 200)]), fib());
    let packets = [1, 2, 3].map(|port| udp(CLIENT, SERVER, 4000 + port, port));
    let seconds = |g: &mut Gateway| {
        for p in &packets {
            assert_eq!(g.packet(LAN, p).len(), 1);
        }
        let mut all: Vec<(u16, u32)> =
            g.list().iter().map(|c| (c.original.destination_port, c.remaining_ms.div_ceil(1000))).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, s)| s).collect::<Vec<_>>()
    };
    assert_eq!(seconds(&mut g), [100, 200, 500]);
    // Other values, another order; and a rule of that port, but with another name.
    for (rules, expected) in [
        ([("b", 2, 22), ("a", 1, 11)], [11, 22, 500]),
        ([("a", 1, 110), ("b", 2, 220)], [110, 220, 500]),
        ([("x", 1, 7), ("b", 2, 8)], [500, 8, 500]),
        ([("a", 1, 110), ("b", 2, 9)], [500, 9, 500]),
    ] {
        reload(&mut g, two_rules(rules), false);
        assert_eq!(seconds(&mut g), expected, "{rules:?}");
    }
}

/// A change of the policy, and which connections it concerns: denied, translated otherwise, not tracked.
type Case = (&'static str, fn(&mut Policy), [u64; 3]);

const CASES: &[Case] = &[
    ("nothing", |_| {}, [0, 0, 0]),
    ("a rule that drops one port", |p| p.rules.insert(0, drop_port(53)), [1, 0, 0]),
    ("no rule for what goes out", |p| p.rules.retain(|r| r.name != "out"), [2, 0, 0]),
    ("no rule for forwards", |p| p.rules.retain(|r| r.name != "forwards"), [1, 0, 0]),
    ("no masquerade", |p| p.source_nat.clear(), [0, 2, 0]),
    ("a pool elsewhere", |p| p.source_nat[0].translate = pool("198.51.100.7", "198.51.100.9"), [0, 2, 0]),
    ("a pool with the address", |p| p.source_nat[0].translate = pool("198.51.100.0", "198.51.100.9"), [0, 0, 0]),
    ("other ports", |p| p.source_nat[0].translate = masquerade(Some((600, 700))), [0, 2, 0]),
    ("no forwards", |p| p.destination_nat.clear(), [0, 1, 0]),
    ("another backend", |p| p.destination_nat[1].translate = to(&["10.10.0.3"]), [0, 1, 0]),
    ("one more backend", |p| p.destination_nat[1].translate = to(&["10.10.0.3", CLIENT, "10.10.0.4"]), [0, 0, 0]),
    ("one port is not tracked", |p| p.tracking.push(untracked(53)), [0, 0, 1]),
    ("zones change places", |p| p.interfaces.iter_mut().for_each(|i| i.zone ^= 1), [2, 0, 0]),
];

fn drop_port(port: u16) -> Rule {
    let matcher = Match {
        destination_port: Some(PortSet::new([(port, port)])),
        destination: Some(AddressSet::new([(ip(SERVER), ip(SERVER))])),
        ..Match::default()
    };
    Rule { name: "drop".into(), matcher, ..Rule::default() }
}

fn untracked(port: u16) -> TrackingRule {
    TrackingRule { name: "raw".into(), matcher: drop_port(port).matcher, ..TrackingRule::default() }
}

fn masquerade(ports: Option<(u16, u16)>) -> SourceTranslation {
    SourceTranslation::Masquerade(PortChoice { ports, ..PortChoice::default() })
}

fn pool(first: &str, last: &str) -> SourceTranslation {
    SourceTranslation::Pool { addresses: vec![(ip(first), ip(last))], choice: PortChoice::default() }
}

fn to(addresses: &[&str]) -> DestinationTranslation {
    DestinationTranslation::To { addresses: addresses.iter().map(|a| ip(a)).collect(), port: Some(53) }
}

#[test]
fn what_is_counted_is_what_goes() {
    for (name, change, concerned) in CASES {
        for workers in [1, 2] {
            let mut g = Gateway::new(workers, policy(), fib());
            // Two that are masqueraded, the second with a port that had to be moved, and a forward.
            let moved = udp("10.10.0.9", "203.0.113.77", 4000, 54);
            g.packet(LAN, &udp("10.10.0.8", "203.0.113.77", 4000, 54));
            assert_ne!(source(&g.packet(LAN, &moved)[0].1).1, 4000);
            let original = FlowFilter { source: Some(ip("10.10.0.8").into()), ..FlowFilter::default() };
            g.delete(Filter { original, ..Filter::default() });
            g.packet_at(workers - 1, LAN, &udp(CLIENT, SERVER, 4001, 53));
            g.packet(WAN, &udp(SERVER, OUTSIDE, 9000, 5353));
            assert_eq!(g.list().len(), 3);
            let mut next = policy();
            change(&mut next);
            let j = judge(&mut g, next.clone());
            assert_eq!((j.connections, [j.denied, j.translated, j.untracked]), (3, *concerned), "{name}");
            reload(&mut g, next.clone(), false);
            assert_eq!(g.list().len(), 3, "{name}: established connections stay");
            reload(&mut g, next, true);
            let gone: u64 = concerned.iter().sum();
            assert_eq!(g.list().len() as u64, 3 - gone, "{name}");
            assert_eq!(g.shared.workers.iter().map(|w| w.counters.revalidated.get()).sum::<u64>(), gone, "{name}");
        }
    }
}

/// The source rule of [`policy`] with one endpoint for all remotes.
fn full_cone(filtering: Option<Filtering>, translate: fn(PortChoice) -> SourceTranslation) -> Policy {
    let mut p = policy();
    p.source_nat[0].translate = translate(PortChoice { independent: filtering, ..PortChoice::default() });
    p
}

#[test]
fn a_mapping_lives_as_the_policy_says_now() {
    let everybody = Some(Filtering::EndpointIndependent);
    let elsewhere =
        |choice| SourceTranslation::Pool { addresses: vec![(ip("198.51.100.9"), ip("198.51.100.9"))], choice };
    for (next, stranger_before, address) in [
        (full_cone(everybody, SourceTranslation::Masquerade), true, OUTSIDE),
        (full_cone(Some(Filtering::EndpointDependent), SourceTranslation::Masquerade), false, OUTSIDE),
        (full_cone(None, SourceTranslation::Masquerade), false, OUTSIDE),
        (full_cone(everybody, elsewhere), false, "198.51.100.9"),
    ] {
        let mut g = Gateway::new(1, full_cone(everybody, SourceTranslation::Masquerade), fib());
        assert_eq!(source(&g.packet(LAN, &udp(CLIENT, SERVER, 4000, 53))[0].1), (OUTSIDE.into(), 4000));
        let stranger = |g: &mut Gateway, to: &str, port| !g.packet(WAN, &udp("203.0.113.7", to, port, 4000)).is_empty();
        assert!(stranger(&mut g, OUTSIDE, 1));
        reload(&mut g, next.clone(), false);
        assert_eq!(g.packet(WAN, &udp(SERVER, OUTSIDE, 53, 4000)).len(), 1, "the connection stays");
        assert_eq!(stranger(&mut g, OUTSIDE, 2), stranger_before);
        // The source's next connection has the endpoint of the policy that is in force.
        let out = g.packet(LAN, &udp(CLIENT, "203.0.113.8", 4000, 53));
        assert_eq!(source(&out[0].1), (address.into(), 4000));
        let choice = match &next.source_nat[0].translate {
            SourceTranslation::Masquerade(c) | SourceTranslation::Pool { choice: c, .. } => c.independent,
            _ => None,
        };
        assert_eq!(stranger(&mut g, address, 3), choice == everybody);
        // All is given back with the last connection.
        g.delete(Filter::default());
        assert!(g.shared.mappings4.is_empty());
        let other = g.packet(LAN, &udp("10.10.0.3", SERVER, 4000, 53));
        assert_eq!(source(&other[0].1), (address.into(), 4000), "the endpoint is free again");
    }
}
