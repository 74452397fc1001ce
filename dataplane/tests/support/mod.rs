//! A gateway in memory: one or more workers between two interfaces, driven frame by frame.
//!
//! ```text
//! 10.10.0.0/24 --- lan 10.10.0.1, fd00:10::1 [ gateway ] wan 198.51.100.1, 2001:db8:100::1 --- default
//! ```
#![allow(dead_code, unreachable_pub)]

pub mod flow;
pub mod oracle;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam::channel;
use dataplane::conntrack::{CtState, Status};
use dataplane::io::memory::MemoryPort;
use dataplane::io::{Frame, FramePool};
use dataplane::packet::{Address, V4, V6};
use dataplane::policy::{
    Action, AddressSet, DestinationNat, DestinationTranslation, InterfacePolicy, Match, Policy, PortChoice, PortSet,
    Rule, SourceNat, SourceTranslation, States, Zones,
};
use dataplane::route::{Fib, Interface, Mac, NextHop, Target};
use dataplane::worker::listing::{ConnectionInfo, Filter};
use dataplane::worker::shared::{Command, Edit, Shared};
use dataplane::worker::{DropReason, Options, Worker};

pub const LAN: usize = 0;
pub const WAN: usize = 1;
pub const CLIENT: &str = "10.10.0.2";
pub const SERVER: &str = "203.0.113.5";
pub const OUTSIDE: &str = "198.51.100.1";
pub const CLIENT6: &str = "fd00:10::2";
pub const SERVER6: &str = "2001:db8:beef::5";

pub fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

/// The Ethernet addresses: the gateway's on lan and wan, a host on lan, the router on wan.
pub const GATEWAY_MAC: [u8; 2] = [1, 2];
pub const PEER_MAC: [u8; 2] = [3, 4];

pub fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

pub fn v4(s: &str) -> V4 {
    V4(s.parse::<Ipv4Addr>().unwrap().into())
}

pub fn v6(s: &str) -> V6 {
    V6::from_ip(ip(s)).unwrap()
}

/// Masquerade from lan to wan, a forward of TCP 8080 and UDP 5353 to the client, replies only.
pub fn policy() -> Policy {
    let zone = |z: u8| Some(Zones(1 << z));
    let states = |s: &[CtState]| Some(s.iter().fold(States::default(), |all, s| all.with(*s)));
    let rule = |name: &str, matcher: Match, action| Rule { name: name.into(), matcher, action, ..Rule::default() };
    let forward = |proto: u8, port: u16, to: u16| DestinationNat {
        name: format!("forward-{port}"),
        matcher: Match {
            protocols: Some(vec![proto]),
            destination: Some(AddressSet::new([(ip(OUTSIDE), ip(OUTSIDE))])),
            destination_port: Some(PortSet::new([(port, port)])),
            ..Match::default()
        },
        translate: DestinationTranslation::To { addresses: vec![ip(CLIENT)], port: Some(to) },
        ..DestinationNat::default()
    };
    Policy {
        zones: vec!["inside".into(), "outside".into()],
        interfaces: vec![
            InterfacePolicy { name: "lan".into(), device: "lan0".into(), vlan: 0, zone: 0 },
            InterfacePolicy { name: "wan".into(), device: "wan0".into(), vlan: 0, zone: 1 },
        ],
        rules: vec![
            rule("invalid", Match { states: states(&[CtState::Invalid]), ..Match::default() }, Action::Drop),
            rule(
                "related",
                Match { states: states(&[CtState::Established, CtState::Related]), ..Match::default() },
                Action::Accept,
            ),
            rule("out", Match { from: zone(0), ..Match::default() }, Action::Accept),
            rule("forwards", Match { status: Some(Status::DST_NAT), ..Match::default() }, Action::Accept),
        ],
        default: Action::Drop,
        destination_nat: vec![forward(6, 8080, 80), forward(17, 5353, 53)],
        source_nat: vec![SourceNat {
            name: "masquerade".into(),
            matcher: Match {
                from: zone(0),
                to: zone(1),
                source: Some(AddressSet::new([(ip("10.10.0.0"), ip("10.10.0.255"))])),
                ..Match::default()
            },
            translate: SourceTranslation::Masquerade(PortChoice::default()),
            ..SourceNat::default()
        }],
        checksum: true,
        max_connections: 1024,
        ..Policy::default()
    }
}

pub fn fib() -> Fib {
    let mut f = Fib {
        interfaces: vec![
            Interface {
                ifindex: 10,
                device: 10,
                mac: mac(GATEWAY_MAC[LAN]),
                mtu: 1500,
                up: true,
                v4: vec![(v4("10.10.0.1"), 24)],
                v6: vec![(v6("fd00:10::1"), 64)],
            },
            Interface {
                ifindex: 11,
                device: 11,
                mac: mac(GATEWAY_MAC[WAN]),
                mtu: 1400,
                up: true,
                v4: vec![(v4(OUTSIDE), 24)],
                v6: vec![(v6("2001:db8:100::1"), 64)],
            },
        ],
        ..Fib::default()
    };
    let via = |gateway, i: usize| NextHop { gateway, interface: Some(i as u16), weight: 1 };
    for (a, l, t) in [
        ("10.10.0.1", 32, Target::Local),
        (OUTSIDE, 32, Target::Local),
        ("10.10.0.255", 32, Target::Broadcast),
        ("10.10.0.0", 24, Target::Via(vec![via(None, LAN)])),
        ("198.51.100.0", 24, Target::Via(vec![via(None, WAN)])),
        ("192.0.2.0", 24, Target::Unreachable),
        ("0.0.0.0", 0, Target::Via(vec![via(Some(v4("198.51.100.254")), WAN)])),
    ] {
        f.routes4.insert(v4(a), l, t);
    }
    let via = |gateway, i: usize| NextHop { gateway, interface: Some(i as u16), weight: 1 };
    for (a, l, t) in [
        ("fd00:10::1", 128, Target::Local),
        ("2001:db8:100::1", 128, Target::Local),
        ("fd00:10::", 64, Target::Via(vec![via(None, LAN)])),
        ("::", 0, Target::Via(vec![via(Some(v6("2001:db8:100::fe")), WAN)])),
    ] {
        f.routes6.insert(v6(a), l, t);
    }
    for last in 2..100u32 {
        f.neighbours4.insert((LAN as u16, V4(v4("10.10.0.0").0 + last)), mac(PEER_MAC[LAN]));
    }
    f.neighbours4.insert((WAN as u16, v4("198.51.100.254")), mac(PEER_MAC[WAN]));
    f.neighbours6.insert((LAN as u16, v6(CLIENT6)), mac(PEER_MAC[LAN]));
    f.neighbours6.insert((WAN as u16, v6("2001:db8:100::fe")), mac(PEER_MAC[WAN]));
    f
}

/// Puts an IP packet where a worker will find it.
pub fn inject(w: &mut Worker<MemoryPort>, interface: usize, packet: &[u8]) {
    let kind = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    let mut frame = Vec::new();
    frame.extend(mac(GATEWAY_MAC[interface]).0);
    frame.extend(mac(PEER_MAC[interface]).0);
    frame.extend(kind);
    frame.extend(packet);
    let f = Frame { len: frame.len() as u16, ..w.pool().take().unwrap() };
    w.pool().bytes_mut(f).copy_from_slice(&frame);
    w.ports()[interface].inject(f);
}

/// The gateway, its clock stopped between frames only by how fast the test runs.
pub struct Gateway {
    pub shared: Arc<Shared>,
    pub workers: Vec<Worker<MemoryPort>>,
}

impl Gateway {
    pub fn new(workers: usize, policy: Policy, fib: Fib) -> Self {
        let shared = Shared::new(workers, 2, policy.max_connections, 256).unwrap();
        shared.current.publish(Some(Arc::new(policy)), Some(Arc::new(fib)));
        let workers = (0..workers)
            .map(|i| {
                let pool = FramePool::in_memory(256, 2048, 64);
                let ports = vec![MemoryPort::new(), MemoryPort::new()];
                Worker::new(i, shared.clone(), pool, ports, Options { busy_poll: true }).unwrap()
            })
            .collect();
        Gateway { shared, workers }
    }

    pub fn plain() -> Self {
        Self::new(1, policy(), fib())
    }

    /// Receives an IP packet on `interface` of worker `worker` and returns what leaves, with the interface.
    pub fn packet_at(&mut self, worker: usize, interface: usize, packet: &[u8]) -> Vec<(usize, Vec<u8>)> {
        inject(&mut self.workers[worker], interface, packet);
        self.run()
    }

    pub fn packet(&mut self, interface: usize, packet: &[u8]) -> Vec<(usize, Vec<u8>)> {
        self.packet_at(0, interface, packet)
    }

    /// Lets every worker work until nothing moves; returns the IP packets that left.
    pub fn run(&mut self) -> Vec<(usize, Vec<u8>)> {
        let mut out = Vec::new();
        for _ in 0..4 {
            for w in &mut self.workers {
                w.turn();
                for (i, own) in GATEWAY_MAC.into_iter().enumerate() {
                    for f in w.ports()[i].sent() {
                        let b = w.pool().bytes(f).to_vec();
                        w.pool().give(f);
                        assert_eq!(b[6..12], mac(own).0, "source address of the frame");
                        out.push((i, b[14..].to_vec()));
                    }
                }
            }
        }
        // Every frame is somewhere.
        for w in &mut self.workers {
            let waiting = w.pool().frames() as usize - w.pool().available();
            assert!(waiting <= 40, "frames are missing: {waiting}");
        }
        out
    }

    /// All connections of all workers.
    pub fn list(&mut self) -> Vec<ConnectionInfo> {
        let (reply, receiver) = channel::bounded(1000);
        for w in 0..self.workers.len() {
            self.shared.command(w, Command::List { filter: Box::default(), reply: reply.clone() }).unwrap();
        }
        drop(reply);
        self.run();
        receiver.try_iter().flatten().collect()
    }

    /// Deletes connections of all workers.
    pub fn delete(&mut self, filter: Filter) {
        for w in 0..self.workers.len() {
            let (reply, _) = channel::bounded(1);
            let filter = Box::new(filter.clone());
            self.shared.command(w, Command::Edit { filter, edit: Edit::Delete, reply }).unwrap();
        }
        self.run();
    }

    pub fn drops(&self, why: DropReason) -> u64 {
        self.shared.workers.iter().map(|w| w.counters.drops[why as usize].get()).sum()
    }

    pub fn punted(&self) -> usize {
        self.shared.punts.len()
    }

    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}
