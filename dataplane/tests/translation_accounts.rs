//! What a rule that translates sources is charged with, also across changes of the policy.

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam::channel;
use dataplane::policy::{List, Policy, PortChoice, SourceNat, SourceTranslation};
use dataplane::worker::DropReason;
use dataplane::worker::listing::{Filter, FlowFilter};
use dataplane::worker::shared::{Command, Edit};
use etherparse::PacketBuilder;
use support::*;

fn udp(src: &str, dst: &str, sport: u16, dport: u16) -> Vec<u8> {
    let four = |a: &str| a.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let mut v = Vec::new();
    PacketBuilder::ipv4(four(src), four(dst), 64).udp(sport, dport).write(&mut v, b"payload").unwrap();
    v
}

/// Connections that the rule with this name translates, and those it had no room for.
fn account(g: &Gateway, list: List, name: &str) -> (u64, u64) {
    let s = g.shared.current.load();
    let index = match list {
        List::SourceNat => s.policy.source_nat.iter().position(|r| r.name == name),
        _ => s.policy.destination_nat.iter().position(|r| r.name == name),
    };
    let sum = |get: fn(&dataplane::policy::Tally) -> u64| s.tallies.each(list, index.unwrap()).map(get).sum::<u64>();
    (sum(|t| t.begun.get()) - sum(|t| t.ended.get()), sum(|t| t.exhausted.get()))
}

fn reload(g: &mut Gateway, change: impl FnOnce(&mut Policy)) {
    let former = g.shared.current.load().policy;
    let mut next = policy();
    change(&mut next);
    next.follow(&former, false);
    let generation = g.shared.publish_policy(Arc::new(next));
    while g.shared.workers.iter().any(|w| w.adopted.load(Ordering::Acquire) != generation) {
        g.run();
    }
}

fn delete(g: &mut Gateway, source_port: Option<u16>) {
    let original = FlowFilter { source_port, ..FlowFilter::default() };
    let filter = Filter { original, ..Filter::default() };
    for w in 0..g.workers.len() {
        let (reply, _) = channel::bounded(1);
        g.shared.command(w, Command::Edit { filter: Box::new(filter.clone()), edit: Edit::Delete, reply }).unwrap();
    }
    g.run();
}

fn two_ports() -> SourceTranslation {
    SourceTranslation::Masquerade(PortChoice { ports: Some((5000, 5001)), ..PortChoice::default() })
}

#[test]
fn a_rule_is_charged_by_its_name() {
    for workers in [1, 2] {
        let mut g = Gateway::new(workers, policy(), fib());
        for (i, port) in [4001, 4002, 4003].into_iter().enumerate() {
            g.packet_at(i % workers, LAN, &udp(CLIENT, SERVER, port, 53));
        }
        let of = |g: &Gateway, name| account(g, List::SourceNat, name);
        assert_eq!(of(&g, "masquerade"), (3, 0));
        // Another rule before it: the same name has another index.
        reload(&mut g, |p| p.source_nat.insert(0, SourceNat { name: "new".into(), ..p.source_nat[0].clone() }));
        assert_eq!((of(&g, "masquerade"), of(&g, "new")), ((3, 0), (0, 0)));
        g.packet(LAN, &udp(CLIENT, SERVER, 4004, 53));
        delete(&mut g, Some(4001));
        assert_eq!((of(&g, "masquerade"), of(&g, "new")), ((2, 0), (1, 0)));
        // The rule goes, its connections stay, and are nobody's.
        reload(&mut g, |p| p.source_nat[0].name = "new".into());
        delete(&mut g, Some(4002));
        assert_eq!(of(&g, "new"), (1, 0));
        reload(&mut g, |_| {});
        delete(&mut g, None);
        assert_eq!(of(&g, "masquerade"), (0, 0));
    }
}

#[test]
fn an_end_before_the_connection_is_brought_over_counts_too() {
    let mut g = Gateway::new(1, Policy { max_connections: 1, ..policy() }, fib());
    g.packet(LAN, &udp(CLIENT, SERVER, 4001, 53));
    let mut next = Policy { max_connections: 1, ..policy() };
    next.source_nat.insert(0, SourceNat { name: "new".into(), ..next.source_nat[0].clone() });
    next.follow(&g.shared.current.load().policy, false);
    g.shared.publish_policy(Arc::new(next));
    // Comes in the turn in which the worker notices the policy, and takes the place of the other.
    assert_eq!(g.packet(LAN, &udp(CLIENT, SERVER, 4002, 53)).len(), 1);
    assert_eq!(account(&g, List::SourceNat, "masquerade"), (0, 0));
    assert_eq!(account(&g, List::SourceNat, "new"), (1, 0));
}

#[test]
fn who_had_no_room_is_counted() {
    let mut g = Gateway::new(1, policy(), fib());
    reload(&mut g, |p| p.source_nat[0].translate = two_ports());
    for port in [4001, 4002, 4003, 4004] {
        g.packet(LAN, &udp(CLIENT, SERVER, port, 53));
    }
    assert_eq!(account(&g, List::SourceNat, "masquerade"), (2, 2));
    assert_eq!(g.drops(DropReason::NatExhausted), 2);
}

#[test]
fn a_destination_translation_that_sees_to_both_ends() {
    let mut g = Gateway::new(1, policy(), fib());
    reload(&mut g, |p| {
        p.destination_nat[1].name = "forward".into();
        p.destination_nat[1].source = Some(two_ports());
    });
    for port in [9001, 9002, 9003] {
        g.packet(WAN, &udp(SERVER, OUTSIDE, port, 5353));
    }
    assert_eq!(account(&g, List::DestinationNat, "forward"), (2, 1));
    assert_eq!(account(&g, List::SourceNat, "masquerade"), (0, 0));
    delete(&mut g, None);
    assert_eq!(account(&g, List::DestinationNat, "forward"), (0, 1));
}
