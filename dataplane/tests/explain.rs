//! What a dry run says of a packet is what the packet then meets, by random policies and packets; and a dry run
//! changes nothing.

mod support;

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use crossbeam::channel;
use dataplane::conntrack::{CtState, Status};
use dataplane::policy::{
    Action, DestinationNat, DestinationTranslation, Filtering, Limit, List, Match, Policy, PortChoice, PortSet, Rate,
    Reject, Rule, SourceLimits, SourceNat, SourceTranslation, States, TrackingAction, TrackingRule, Zones,
};
use dataplane::worker::DropReason;
use dataplane::worker::account::{Account, Flow, Note, Verdict};
use dataplane::worker::shared::{Command, Fit, Handed};
use etherparse::PacketBuilder;
use proptest::prelude::*;
use support::flow::error_about;
use support::oracle::{self, Ends, GRE, ICMP, ICMPV6, TCP, UDP};
use support::*;

/// The account of a packet that comes in at a worker, as far as its owner takes it.
fn explain(g: &mut Gateway, worker: usize, interface: usize, packet: &[u8]) -> Account {
    let kind = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    let frame = [&mac(GATEWAY_MAC[interface]).0[..], &mac(PEER_MAC[interface]).0, &kind, packet].concat();
    let (mut at, mut handed) = (worker, Handed::No);
    loop {
        let (reply, receiver) = channel::bounded(1);
        let command = Command::Explain {
            frame: frame.clone().into(),
            interface: interface as u16,
            handed,
            fit: Fit::AsIs,
            reply,
        };
        g.shared.command(at, command).unwrap();
        g.run();
        let account = receiver.try_recv().expect("an account");
        match account.verdict {
            Verdict::HandedOff(owner) if handed == Handed::No => (at, handed) = (usize::from(owner), Handed::ToOwner),
            _ => return account,
        }
    }
}

/// Everything a packet could leave behind.
fn traces(g: &mut Gateway) -> String {
    let s = &g.shared;
    let mut all = Vec::new();
    for w in &s.workers {
        let c = &w.counters;
        all.push(c.drops.iter().map(|d| d.get()).collect::<Vec<_>>());
        all.push(c.created.iter().map(|d| d.get()).collect());
        all.push([&c.icmp_sent, &c.icmp_limited, &c.deleted, &c.early_dropped, &c.punted].map(|c| c.get()).to_vec());
        all.push(c.interfaces.iter().map(|i| i.tx_packets.get()).collect());
    }
    let current = s.current.load();
    for (list, n) in [(List::Tracking, 2), (List::DestinationNat, 4), (List::Forward, 9), (List::SourceNat, 3)] {
        all.push((0..n).map(|i| current.tallies.total(list, i).0).collect());
    }
    all.push(vec![
        s.mappings4.len() as u64,
        s.mappings6.len() as u64,
        s.expectations.len() as u64,
        s.punts.len() as u64,
        s.to_host.len() as u64,
        u64::from(s.connections.load(Ordering::Relaxed)),
        s.logged.len() as u64,
    ]);
    let mut list: Vec<String> = g
        .list()
        .iter()
        // The time left goes by itself.
        .map(|c| format!("{:?} {:?} {:?} {:?} {}", c.original, c.reply, c.state, c.status, c.mark))
        .collect();
    list.sort();
    format!("{all:?} {list:?}")
}

#[derive(Debug, Clone)]
struct Packet {
    worker: usize,
    interface: usize,
    bytes: Vec<u8>,
    /// Sent as an ICMP error about what left last, in place of `bytes`.
    error: bool,
}

const HOSTS: [&str; 9] =
    [CLIENT, "10.10.0.3", "10.10.0.200", SERVER, "203.0.113.6", "192.0.2.1", OUTSIDE, "10.10.0.1", "127.0.0.1"];
const HOSTS6: [&str; 3] = [CLIENT6, SERVER6, "fd00:10::1"];
const PORTS: [u16; 5] = [53, 80, 4000, 5353, 8080];

fn packet() -> impl Strategy<Value = Packet> {
    let hosts = prop_oneof![
        4 => (prop::sample::select(&HOSTS[..]), prop::sample::select(&HOSTS[..])),
        1 => (prop::sample::select(&HOSTS6[..]), prop::sample::select(&HOSTS6[..])),
    ];
    let port = || prop::sample::select(&PORTS[..]);
    let looks = (prop::sample::select(vec![64u8, 64, 64, 64, 1]), prop::sample::select(vec![0usize, 10, 1450]));
    (hosts, port(), port(), 0..10u8, looks, 0..2usize, 0..2usize, any::<[bool; 6]>()).prop_map(
        |((src, dst), sport, dport, kind, (ttl, size), interface, worker, [f0, f1, f2, f3, broken, error])| {
            let (src, dst): (IpAddr, IpAddr) = (ip(src), ip(dst));
            let builder = match (src, dst) {
                (IpAddr::V4(s), IpAddr::V4(d)) => PacketBuilder::ipv4(s.octets(), d.octets(), ttl),
                (IpAddr::V6(s), IpAddr::V6(d)) => PacketBuilder::ipv6(s.octets(), d.octets(), ttl),
                _ => unreachable!("one family"),
            };
            let v6 = src.is_ipv6();
            let data = vec![7; size];
            let mut bytes = Vec::new();
            match kind {
                0..=2 => builder.udp(sport, dport).write(&mut bytes, &data).unwrap(),
                3..=6 => {
                    let mut t = builder.tcp(sport, dport, 1000, 30_000);
                    t = if f0 { t.syn() } else { t };
                    t = if f1 { t.ack(1001) } else { t };
                    t = if f2 { t.fin() } else { t };
                    t = if f3 && !f0 { t.rst() } else { t };
                    t.write(&mut bytes, &data).unwrap();
                }
                7 if v6 => builder.icmpv6_echo_request(sport, 1).write(&mut bytes, &data).unwrap(),
                7 if f0 => builder.icmpv4_echo_reply(sport, 1).write(&mut bytes, &data).unwrap(),
                7 => builder.icmpv4_echo_request(sport, 1).write(&mut bytes, &data).unwrap(),
                _ => {
                    let protocol = if kind == 8 { GRE } else { oracle::ESP };
                    builder
                        .write(&mut bytes, etherparse::IpNumber(protocol), &[&[0, 0, 8, 0][..], &data].concat())
                        .unwrap();
                }
            }
            // etherparse forbids fragmentation; one in two may be fragmented.
            if !v6 && f3 {
                bytes[6] = 0;
                oracle::finish_header(&mut bytes);
            }
            if broken && f0 && f1 {
                *bytes.last_mut().unwrap() ^= 1;
            }
            Packet { worker, interface, bytes, error: error && f2 && f3 }
        },
    )
}

fn matcher() -> impl Strategy<Value = Match> {
    let states = prop::sample::select(vec![
        CtState::New,
        CtState::Established,
        CtState::Related,
        CtState::Invalid,
        CtState::Untracked,
    ]);
    (
        prop::option::of(1..4u64),
        prop::option::of(1..4u64),
        prop::option::of(prop::sample::select(vec![TCP, UDP, ICMP, ICMPV6, GRE])),
        prop::option::of(prop::sample::select(&PORTS[..])),
        prop::option::weighted(0.3, states),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(from, to, proto, port, state, translated)| Match {
            from: from.map(Zones),
            to: to.map(Zones),
            protocols: proto.map(|p| vec![p]),
            destination_port: port.map(|p| PortSet::new([(p, p)])),
            states: state.map(|s| States::default().with(s)),
            status: translated.then_some(Status::DST_NAT),
            ..Match::default()
        })
}

fn rule() -> impl Strategy<Value = Rule> {
    let action = prop::sample::select(vec![
        Action::Accept,
        Action::Accept,
        Action::Drop,
        Action::Reject(Reject::Closed),
        Action::Reject(Reject::Prohibited),
        Action::Continue,
    ]);
    // No limit is paid off while the test runs.
    let limit = (1..4u32, any::<bool>(), any::<bool>()).prop_map(|(burst, per_source, over)| Limit {
        rate: Rate::new("rule", 3_600_000_000_000, burst),
        per_source,
        over,
    });
    (matcher(), action, prop::option::weighted(0.2, limit), prop::option::of(0..3u32))
        .prop_map(|(matcher, action, limit, mark)| Rule { matcher, action, limit, mark, ..Rule::default() })
}

fn random_policy() -> impl Strategy<Value = Policy> {
    let choice = (
        prop::option::of(prop::sample::select(vec![(4000u16, 4001u16), (1024, 65535)])),
        any::<bool>(),
        prop::option::of(prop::sample::select(vec![
            Filtering::EndpointIndependent,
            Filtering::AddressDependent,
            Filtering::EndpointDependent,
        ])),
    )
        .prop_map(|(ports, random, independent)| PortChoice {
            ports,
            random,
            independent,
            hold: if random { 120 } else { 0 },
            ..PortChoice::default()
        });
    let translate = (0..4u8, choice).prop_map(|(kind, choice)| match kind {
        0 => SourceTranslation::None,
        1 => SourceTranslation::Pool { addresses: vec![(ip("198.51.100.7"), ip("198.51.100.8"))], choice },
        _ => SourceTranslation::Masquerade(choice),
    });
    let source_nat = (matcher(), translate).prop_map(|(matcher, translate)| SourceNat {
        matcher: Match { states: None, status: None, destination_port: None, ..matcher },
        translate,
        ..SourceNat::default()
    });
    let destination_nat = (matcher(), 0..4u8).prop_map(|(matcher, kind)| DestinationNat {
        matcher: Match { to: None, states: None, status: None, ..matcher },
        translate: match kind {
            0 => DestinationTranslation::None,
            1 => DestinationTranslation::Redirect { port: None },
            2 => DestinationTranslation::To { addresses: vec![ip("10.10.0.3")], port: Some(80) },
            _ => DestinationTranslation::To { addresses: vec![ip(CLIENT), ip("203.0.113.6")], port: None },
        },
        ..DestinationNat::default()
    });
    let tracking = (matcher(), any::<bool>()).prop_map(|(matcher, untracked)| TrackingRule {
        matcher: Match { to: None, states: None, status: None, ..matcher },
        action: if untracked { TrackingAction::Untracked } else { TrackingAction::NoHelper },
        ..TrackingRule::default()
    });
    let lists = (
        prop::collection::vec(rule(), 0..5),
        prop::collection::vec(source_nat, 0..3),
        prop::collection::vec(prop_oneof![3 => Just(None), 1 => destination_nat.prop_map(Some)], 0..3),
        prop::collection::vec(tracking, 0..2),
    );
    (lists, prop::option::weighted(0.2, 1..4u32), any::<[bool; 4]>()).prop_map(
        |((rules, source_nat, destination_nat, tracking), limit, [own, few, strict, accept])| {
            let usual = policy();
            let mut p = Policy {
                source_nat: source_nat.into_iter().chain(usual.source_nat.clone()).collect(),
                tracking: tracking.into_iter().filter(|_| own).collect(),
                limits: match limit {
                    Some(n) if few => SourceLimits { connections: n, ..SourceLimits::default() },
                    Some(n) => SourceLimits { tcp: n, udp: 1, icmp: 1, ..SourceLimits::default() },
                    None => SourceLimits::default(),
                },
                default: if accept { Action::Accept } else { Action::Drop },
                max_connections: if few { 4 } else { 64 },
                ..usual.clone()
            };
            p.rules = rules.into_iter().chain(usual.rules).collect();
            // Each rule counts for itself.
            for (i, r) in p.rules.iter_mut().enumerate() {
                if let Some(l) = &mut r.limit {
                    l.rate = Rate::new(&i.to_string(), l.rate.interval, l.rate.burst);
                }
            }
            p.destination_nat = destination_nat.into_iter().flatten().chain(usual.destination_nat).collect();
            p.strict_reverse_path = if strict && few { Zones(u64::MAX) } else { Zones(0) };
            if own {
                p.index();
            }
            p
        },
    )
}

fn ends_of(f: &Flow) -> Ends {
    let dport = if oracle::is_icmp(f.protocol) { 0 } else { f.destination_port };
    // The ports of these are keys of the table only.
    let (sport, dport) = if f.protocol == GRE { (0, 0) } else { (f.source_port, dport) };
    Ends { src: f.source, dst: f.destination, sport, dport }
}

proptest! {
    #[test]
    fn a_dry_run_says_what_then_happens(
        policy in random_policy(),
        packets in prop::collection::vec(packet(), 1..25),
        workers in 1..3usize,
    ) {
        let mut g = Gateway::new(workers, policy.clone(), fib());
        g.shared.host_answers.store(true, Ordering::Relaxed);
        let mut last: Option<(usize, Vec<u8>)> = None;
        for p in packets {
            let (interface, bytes) = match &last {
                Some((out, left)) if p.error => (*out, error_about(left, ip(if left[0] >> 4 == 4 { SERVER } else { SERVER6 }), 60)),
                _ => (p.interface, p.bytes),
            };
            let worker = p.worker % workers;
            // A connection whose time is up goes as soon as a packet finds it, be it in a dry run.
            let first = explain(&mut g, worker, interface, &bytes);
            let before = traces(&mut g);
            let said = explain(&mut g, worker, interface, &bytes);
            prop_assert_eq!(&traces(&mut g), &before, "a dry run leaves no trace");
            prop_assert_eq!((said.verdict, said.leaves), (first.verdict, first.leaves));
            prop_assert_eq!(said.arrives.map(|f| (f.source, f.destination)), {
                let e = oracle::ends(&bytes);
                Some((e.src, e.dst))
            });

            let drops: Vec<u64> = DropReason::ALL.iter().map(|r| g.drops(*r)).collect();
            let (punted, to_host) = (g.punted(), g.shared.to_host.len());
            let out = g.packet_at(worker, interface, &bytes);
            let dropped: Vec<DropReason> =
                DropReason::ALL.iter().zip(drops).filter(|(r, n)| g.drops(**r) > *n).map(|(r, _)| *r).collect();
            let notes = &said.notes;
            let context = format!("{notes:#?} {:?} {:?}\nleft {out:?}, dropped {dropped:?}", said.verdict, said.leaves);
            match said.verdict {
                Verdict::Sent { interface, mac: Some(_), .. } => {
                    prop_assert!(dropped.is_empty() && !out.is_empty(), "{}", context);
                    prop_assert_eq!(out[0].0, usize::from(interface), "{}", context);
                    let left = oracle::ends(&out[0].1);
                    let said = ends_of(&said.leaves.expect("it leaves"));
                    prop_assert_eq!((left.src, left.dst), (said.src, said.dst), "{}", context);
                    if said.sport != 0 {
                        prop_assert_eq!((left.sport, left.dport), (said.sport, said.dport), "{}", context);
                    }
                    last = Some((usize::from(interface), out[0].1.clone()));
                }
                Verdict::Sent { mac: None, .. } => prop_assert!(out.is_empty() && dropped.is_empty(), "{}", context),
                Verdict::Dropped(why) => {
                    prop_assert_eq!(&dropped, &vec![why], "{}", context);
                    let answered = said.notes.iter().any(|n| matches!(n, Note::Answered(_)));
                    prop_assert!(answered || out.is_empty(), "{}", context);
                }
                Verdict::ToHost => prop_assert!(g.punted() == punted + 1 && out.is_empty(), "{}", context),
                Verdict::Redirected => {
                    prop_assert!(g.shared.to_host.len() > to_host && out.is_empty() && dropped.is_empty(), "{}", context);
                }
                Verdict::HandedOff(_) | Verdict::Waits => prop_assert!(false, "{}", context),
            }
            while g.shared.to_host.pop().is_some() {}
            while g.shared.punts.pop().is_some() {}
            while g.shared.neighbour_requests.pop().is_some() {}
        }
    }
}
