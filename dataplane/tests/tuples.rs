//! No tuple belongs to two live connections, whichever workers they begin at.

mod support;

use std::collections::{HashMap, HashSet};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use dataplane::io::memory::MemoryPort;
use dataplane::policy::{Filtering, PortChoice, SourceTranslation};
use dataplane::worker::Worker;
use dataplane::worker::listing::{Filter, FlowFilter, FlowInfo};
use proptest::prelude::*;
use support::oracle::{self, Ends, UDP};
use support::*;

/// What happens to a gateway with many clients and few ports.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// A client sends, at a worker.
    Out { worker: usize, client: u8, sport: u16, server: u8 },
    /// Somebody outside sends to a port of the gateway's.
    In { worker: usize, server: u8, dport: u16 },
    /// Connections from a port are deleted.
    Ends { sport: u16 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0usize..2, 2u8..8, 5000u16..5004, 1u8..4)
            .prop_map(|(worker, client, sport, server)| Event::Out { worker, client, sport, server }),
        2 => (0usize..2, 1u8..5, 4998u16..5012).prop_map(|(worker, server, dport)| Event::In { worker, server, dport }),
        1 => (5000u16..5004).prop_map(|sport| Event::Ends { sport }),
    ]
}

fn datagram(ends: Ends) -> Vec<u8> {
    let header = [0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, UDP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    oracle::moved(&[&header[..], &[0, 0, 0, 0, 0, 8, 0, 1]].concat(), ends, 0)
}

fn ends_of(f: &FlowInfo) -> Ends {
    Ends { src: f.source, dst: f.destination, sport: f.source_port, dport: f.destination_port }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whichever worker a connection begins at: no tuple belongs to two live connections, in either direction,
    /// and an answer reaches who asked, whichever worker it comes to.
    #[test]
    fn no_tuple_belongs_to_two_connections(
        events in prop::collection::vec(event(), 1..120), workers in 1usize..=2, random: bool,
        ports in prop::sample::select(vec![None, Some((5000u16, 5007u16))]),
        independent in prop::sample::select(vec![None, Some(Filtering::EndpointIndependent), Some(Filtering::AddressDependent)]),
    ) {
        let mut p = policy();
        let choice = PortChoice { ports, random, independent, ..PortChoice::default() };
        p.source_nat[0].translate = SourceTranslation::Masquerade(choice);
        let mut g = Gateway::new(workers, p, fib());
        for e in events {
            match e {
                Event::Out { worker, client, sport, server } => {
                    let ends = Ends {
                        src: ip(&format!("10.10.0.{client}")), dst: ip(&format!("203.0.113.{server}")), sport, dport: 53,
                    };
                    g.packet_at(worker % workers, LAN, &datagram(ends));
                }
                Event::In { worker, server, dport } => {
                    let ends = Ends { src: ip(&format!("203.0.113.{server}")), dst: ip(OUTSIDE), sport: 53, dport };
                    g.packet_at(worker % workers, WAN, &datagram(ends));
                }
                Event::Ends { sport } => {
                    let original = FlowFilter { source_port: Some(sport), ..FlowFilter::default() };
                    g.delete(Filter { original, ..Filter::default() });
                }
            }
        }
        let all = g.list();
        let mut tuples = HashSet::new();
        let mut outside = HashMap::new();
        for c in &all {
            let (original, reply) = (ends_of(&c.original), ends_of(&c.reply));
            prop_assert!(tuples.insert(original), "{:?} twice in {:?}", original, all);
            prop_assert!(tuples.insert(reply), "{:?} twice in {:?}", reply, all);
            if reply.dst == ip(OUTSIDE) {
                prop_assert!(ports.is_none_or(|(a, b)| (a..=b).contains(&reply.dport)));
                if independent.is_some() {
                    let owner = *outside.entry(reply.dport).or_insert((original.src, original.sport));
                    prop_assert_eq!(owner, (original.src, original.sport), "a mapping belongs to one source");
                }
            }
        }
        for (n, c) in all.iter().enumerate() {
            let (original, reply) = (ends_of(&c.original), ends_of(&c.reply));
            let from = if reply.dst == ip(OUTSIDE) { WAN } else { LAN };
            let out = g.packet_at(n % workers, from, &datagram(reply));
            prop_assert_eq!(out.len(), 1);
            prop_assert_eq!(oracle::ends(&out[0].1), original.turned(UDP));
        }
    }
}

#[test]
fn no_tuple_belongs_to_two_connections_of_workers_that_run_at_once() {
    for independent in [None, Some(Filtering::EndpointIndependent)] {
        let mut p = policy();
        let choice = PortChoice { ports: Some((5000, 5063)), independent, ..PortChoice::default() };
        p.source_nat[0].translate = SourceTranslation::Masquerade(choice);
        let mut g = Gateway::new(2, p, fib());
        // Both send what the other one sends too, in another order, and wait for each other now and then. As
        // frames are lent, each serves the other until both have sent all.
        let (round, done) = (Barrier::new(2), AtomicUsize::new(0));
        let turn = |w: &mut Worker<MemoryPort>| {
            w.turn();
            for port in [LAN, WAN] {
                for f in w.ports()[port].sent() {
                    w.pool().give(f);
                }
            }
        };
        std::thread::scope(|s| {
            for (i, w) in g.workers.iter_mut().enumerate() {
                let (round, done) = (&round, &done);
                s.spawn(move || {
                    for n in 0..4000u16 {
                        let n = if i == 0 { n } else { 3999 - n };
                        let (src, dst) = (format!("10.10.0.{}", 2 + n % 7), format!("203.0.113.{}", 1 + n % 5));
                        let ends = Ends { src: ip(&src), dst: ip(&dst), sport: 5000 + n % 64, dport: 53 };
                        inject(w, LAN, &datagram(ends));
                        turn(w);
                        if n.is_multiple_of(8) {
                            round.wait();
                        }
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                    while done.load(Ordering::SeqCst) < 2 {
                        turn(w);
                    }
                });
            }
        });
        g.run();
        let all = g.list();
        let tuples: HashSet<Ends> = all.iter().flat_map(|c| [ends_of(&c.original), ends_of(&c.reply)]).collect();
        assert_eq!(tuples.len(), 2 * all.len());
        let least = if independent.is_some() { 60 } else { 300 };
        assert!(all.len() >= least && (0..2).all(|w| all.iter().any(|c| c.worker == w)), "{}", all.len());
    }
}
