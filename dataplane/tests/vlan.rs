//! Tags of VLANs: taken off at the door and put on when leaving, over memory ports.
//!
//! Two devices: the first has an untagged interface and VLANs 20 and 30, the second VLAN 7 alone.

mod support;

use dataplane::io::memory::MemoryPort;
use dataplane::io::{Frame, FramePool};
use dataplane::policy::{Action, InterfacePolicy, Policy};
use dataplane::route::{Fib, Interface, NextHop, Target};
use dataplane::worker::shared::Shared;
use dataplane::worker::{DropReason, Options, Worker};
use etherparse::PacketBuilder;
use std::sync::Arc;
use support::{mac, v4};

const MTU: [u16; 4] = [1500, 1500, 1400, 600];

/// Four interfaces, each with 10.N.0.0/24 and a host 10.N.0.2: untagged, VLAN 20, VLAN 30, and VLAN 7 elsewhere.
fn gateway(workers: usize) -> (Arc<Shared>, Vec<Worker<MemoryPort>>) {
    let links = [("eth1", 0), ("eth1", 20), ("eth1", 30), ("eth0", 7)];
    let interface = |n: usize| InterfacePolicy {
        name: format!("i{n}"),
        device: links[n].0.into(),
        vlan: links[n].1,
        ..InterfacePolicy::default()
    };
    let policy = Policy {
        zones: vec!["all".into()],
        interfaces: (0..4).map(interface).collect(),
        default: Action::Accept,
        max_connections: 1024,
        icmp_errors_per_second: 0,
        ..Policy::default()
    };
    let mut fib = Fib::default();
    for (n, mtu) in MTU.into_iter().enumerate() {
        fib.interfaces.push(Interface {
            ifindex: 10 + n as u32,
            device: 10,
            // The second VLAN has an address of its own.
            mac: if n == 2 { mac(9) } else { mac(1) },
            mtu,
            up: true,
            v4: vec![(v4(&format!("10.{n}.0.1")), 24)],
            v6: Vec::new(),
        });
        let hop = NextHop { gateway: None, interface: Some(n as u16), weight: 1 };
        fib.routes4.insert(v4(&format!("10.{n}.0.0")), 24, Target::Via(vec![hop]));
        fib.routes4.insert(v4(&format!("10.{n}.0.1")), 32, Target::Local);
        fib.neighbours4.insert((n as u16, v4(&format!("10.{n}.0.2"))), mac(0x20 + n as u8));
    }
    let shared = Shared::new(workers, 4, policy.max_connections, 64).unwrap();
    shared.current.publish(Some(Arc::new(policy)), Some(Arc::new(fib)));
    let worker = |id| {
        let pool = FramePool::in_memory(64, 2048, 64);
        let ports = vec![MemoryPort::new(), MemoryPort::new()];
        Worker::new(id, shared.clone(), pool, ports, Options { busy_poll: true }).unwrap()
    };
    let workers = (0..workers).map(worker).collect();
    (shared, workers)
}

fn udp(from: u8, to: u8, length: usize) -> Vec<u8> {
    let mut v = Vec::new();
    PacketBuilder::ipv4([10, from, 0, 2], [10, to, 0, 2], 64).udp(1000, 2000).write(&mut v, &vec![7; length]).unwrap();
    v
}

fn frame(to: u8, from: u8, tag: Option<u16>, packet: &[u8]) -> Vec<u8> {
    let mut f = [mac(to).0, mac(from).0].concat();
    f.extend(tag.iter().flat_map(|t| [0x8100u16.to_be_bytes(), t.to_be_bytes()].concat()));
    f.extend([8, 0]);
    f.extend_from_slice(packet);
    f
}

/// Has the first worker receive a frame on a port; what all workers send then, with the port.
fn send(workers: &mut [Worker<MemoryPort>], port: usize, bytes: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let w = &mut workers[0];
    let f = Frame { len: bytes.len() as u16, ..w.pool().take().unwrap() };
    w.pool().bytes_mut(f).copy_from_slice(bytes);
    w.ports()[port].inject(f);
    let mut out = Vec::new();
    for _ in 0..4 {
        for w in workers.iter_mut() {
            w.turn();
            for port in 0..2 {
                for f in w.ports()[port].sent() {
                    out.push((port, w.pool().bytes(f).to_vec()));
                    w.pool().give(f);
                }
            }
        }
    }
    for w in workers {
        assert_eq!(w.pool().available(), 64, "a frame is missing");
    }
    out
}

/// The packet as it is after one hop.
fn forwarded(packet: &[u8]) -> Vec<u8> {
    lowered(packet, 8, 1)
}

/// The packet with a lower word in its header, and the checksum that goes with it.
fn lowered(packet: &[u8], at: usize, by: u8) -> Vec<u8> {
    let mut p = packet.to_vec();
    p[at] -= by;
    let (sum, carry) = u16::from_be_bytes([p[10], p[11]]).overflowing_add(u16::from(by) << 8);
    p[10..12].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    p
}

#[test]
fn between_all_interfaces() {
    let (shared, mut workers) = gateway(1);
    let (tags, ports, own) = ([None, Some(20), Some(30), Some(7)], [0, 0, 0, 1], [1, 1, 9, 1]);
    for from in 0..4 {
        for to in (0..4).filter(|to| *to != from) {
            let packet = udp(from as u8, to as u8, 40);
            let received = frame(own[from], 0x20 + from as u8, tags[from], &packet);
            let sent = frame(0x20 + to as u8, own[to], tags[to], &forwarded(&packet));
            assert_eq!(send(&mut workers, ports[from], &received), [(ports[to], sent)], "from {from} to {to}");
        }
    }
    for (n, i) in shared.workers[0].counters.interfaces.iter().enumerate() {
        let seen = [&i.rx_packets, &i.rx_bytes, &i.tx_packets, &i.tx_bytes].map(|c| c.get());
        // Tags do not count.
        assert_eq!(seen, [3, 3 * 82, 3, 3 * 82], "interface {n}");
    }
}

#[test]
fn frames_of_other_vlans_are_nobodys() {
    let (shared, mut workers) = gateway(1);
    let packet = udp(0, 3, 40);
    for (port, tag, to) in [(0, Some(21), 1), (1, Some(20), 1), (1, None, 1), (0, Some(30), 1), (0, None, 9)] {
        assert!(send(&mut workers, port, &frame(to, 0x20, tag, &packet)).is_empty(), "port {port}, tag {tag:?}");
    }
    assert_eq!(shared.workers[0].counters.drops[DropReason::OtherHost as usize].get(), 5);
    // A priority in the tag is no other VLAN.
    assert_eq!(send(&mut workers, 0, &frame(1, 0x21, Some(0x6014), &udp(1, 3, 40))).len(), 1);
}

#[test]
fn what_the_worker_makes_itself_is_tagged() {
    let (_, mut workers) = gateway(1);
    let expired = |from: u8| {
        let mut v = Vec::new();
        PacketBuilder::ipv4([10, from, 0, 2], [10, 3, 0, 2], 1).udp(1000, 2000).write(&mut v, b"x").unwrap();
        v
    };
    let error = send(&mut workers, 0, &frame(1, 0x21, Some(20), &expired(1)));
    assert_eq!((error.len(), &error[0].1[..18]), (1, &frame(0x21, 1, Some(20), &[])[..]));
    assert_eq!(error[0].1[18 + 20..18 + 22], [11, 0], "time exceeded");
    // Without the bit that forbids fragments.
    let whole = lowered(&udp(2, 3, 1200), 6, 0x40);
    let pieces = send(&mut workers, 0, &frame(9, 0x22, Some(30), &whole));
    assert_eq!(pieces.len(), 3);
    let mut payload = Vec::new();
    for (port, p) in pieces {
        assert_eq!((port, &p[..18]), (1, &frame(0x23, 1, Some(7), &[])[..]));
        assert!(p.len() <= 18 + 600);
        payload.extend_from_slice(&p[38..]);
    }
    assert_eq!(payload, whole[20..]);
}

#[test]
fn the_hosts_own_frames_keep_their_interface() {
    let (shared, mut workers) = gateway(1);
    let mut packet = Vec::new();
    PacketBuilder::ipv4([10, 1, 0, 2], [10, 1, 0, 1], 64).udp(1000, 53).write(&mut packet, b"x").unwrap();
    assert!(send(&mut workers, 0, &frame(1, 0x21, Some(20), &packet)).is_empty());
    let punt = shared.punts.pop().unwrap();
    // The injector puts the tag back.
    assert_eq!((punt.interface, &punt.frame[..]), (1, &frame(1, 0x21, None, &packet)[..]));
}

#[test]
fn a_frame_handed_to_another_worker_keeps_its_interface() {
    let (shared, mut workers) = gateway(2);
    let there = udp(1, 2, 40);
    // The second worker makes the connection; its answers come to the first.
    workers.swap(0, 1);
    assert_eq!(send(&mut workers, 0, &frame(1, 0x21, Some(20), &there)).len(), 1);
    workers.swap(0, 1);
    let mut back = Vec::new();
    PacketBuilder::ipv4([10, 2, 0, 2], [10, 1, 0, 2], 64).udp(2000, 1000).write(&mut back, &[1; 40]).unwrap();
    let out = send(&mut workers, 0, &frame(9, 0x22, Some(30), &back));
    assert_eq!(out, [(0, frame(0x21, 1, Some(20), &forwarded(&back)))]);
    assert_eq!(shared.workers[1].counters.taken_over.get(), 1);
    assert_eq!(shared.workers[0].counters.interfaces[2].rx_packets.get(), 1);
}
