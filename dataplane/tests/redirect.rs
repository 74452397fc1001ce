//! Connections that are redirected to the gateway host: what the punt thread is told, and what the host gets.

mod support;

use dataplane::conntrack::Status;
use dataplane::io::host::{HostFlow, Origin, Sight};
use dataplane::policy::{DestinationNat, DestinationTranslation, Match, Policy, PortSet, Zones};
use dataplane::worker::DropReason;
use dataplane::worker::listing::{ConnectionInfo, Filter};
use dataplane::worker::shared::{Command, Edit, ToHost};
use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use std::sync::atomic::Ordering;
use support::*;

const OWN: &str = "10.10.0.1";

fn four(a: &str) -> [u8; 4] {
    a.parse::<std::net::Ipv4Addr>().unwrap().octets()
}

fn six(a: &str) -> [u8; 16] {
    a.parse::<std::net::Ipv6Addr>().unwrap().octets()
}

fn udp(src: &str, dst: &str, sport: u16, dport: u16) -> Vec<u8> {
    let mut v = Vec::new();
    let b = if src.contains(':') {
        PacketBuilder::ipv6(six(src), six(dst), 64)
    } else {
        PacketBuilder::ipv4(four(src), four(dst), 64)
    };
    b.udp(sport, dport).write(&mut v, b"question").unwrap();
    v
}

fn tcp(flags: &str) -> Vec<u8> {
    let mut v = Vec::new();
    let b = PacketBuilder::ipv4(four(CLIENT), four(SERVER), 64).tcp(4000, 80, 1, 1000);
    match flags {
        "S" => b.syn().write(&mut v, b""),
        "F" => b.fin().ack(1).write(&mut v, b""),
        _ => b.ack(1).write(&mut v, b""),
    }
    .unwrap();
    v
}

/// DNS keeps its port, HTTP goes to 3128.
fn redirecting() -> Policy {
    let rule = |dport, port| DestinationNat {
        name: format!("redirect-{dport}"),
        matcher: Match {
            from: Some(Zones(1)),
            destination_port: Some(PortSet::new([(dport, dport)])),
            ..Match::default()
        },
        translate: DestinationTranslation::Redirect { port },
        ..DestinationNat::default()
    };
    Policy { destination_nat: vec![rule(53, None), rule(80, Some(3128))], ..policy() }
}

fn gateway(workers: usize) -> Gateway {
    let g = Gateway::new(workers, redirecting(), fib());
    g.shared.host_answers.store(true, Ordering::Relaxed);
    g
}

/// What the punt thread would get.
fn messages(g: &Gateway) -> Vec<ToHost> {
    std::iter::from_fn(|| g.shared.to_host.pop()).collect()
}

/// Source, destination and ports of a frame, after checking its checksums with an independent implementation.
fn read(frame: &[u8]) -> (String, u16, String, u16) {
    let h = PacketHeaders::from_ip_slice(&frame[14..]).unwrap();
    let payload = h.payload.slice();
    match (h.net, h.transport) {
        (Some(NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Udp(u))) => {
            assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
            assert_eq!(u.calc_checksum_ipv4(&ip, payload).unwrap(), u.checksum);
            let ip = [ip.source, ip.destination].map(|a| std::net::Ipv4Addr::from(a).to_string());
            (ip[0].clone(), u.source_port, ip[1].clone(), u.destination_port)
        }
        (Some(NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Tcp(u))) => {
            assert_eq!(u.calc_checksum_ipv4(&ip, payload).unwrap(), u.checksum);
            let ip = [ip.source, ip.destination].map(|a| std::net::Ipv4Addr::from(a).to_string());
            (ip[0].clone(), u.source_port, ip[1].clone(), u.destination_port)
        }
        (Some(NetHeaders::Ipv6(ip, _)), Some(TransportHeader::Udp(u))) => {
            assert_eq!(u.calc_checksum_ipv6(&ip, payload).unwrap(), u.checksum);
            let ip = [ip.source, ip.destination].map(|a| std::net::Ipv6Addr::from(a).to_string());
            (ip[0].clone(), u.source_port, ip[1].clone(), u.destination_port)
        }
        other => panic!("{other:?}"),
    }
}

fn connections(g: &mut Gateway) -> Vec<ConnectionInfo> {
    let (reply, all) = crossbeam::channel::bounded(16);
    for w in 0..g.workers.len() {
        let filter = Box::new(Filter::default());
        g.shared.command(w, Command::List { filter, reply: reply.clone() }).unwrap();
    }
    drop(reply);
    for _ in 0..4 {
        g.run();
    }
    all.try_iter().flatten().collect()
}

fn delete_all(g: &mut Gateway) {
    let (reply, _wait) = crossbeam::channel::bounded(1);
    let filter = Box::new(Filter::default());
    g.shared.command(0, Command::Edit { filter, edit: Edit::Delete, reply }).unwrap();
    for _ in 0..4 {
        g.run();
    }
}

#[test]
fn the_first_packet_announces_the_connection_and_later_ones_follow() {
    for (client, server, own) in [(CLIENT, SERVER, OWN), (CLIENT6, SERVER6, "fd00:10::1")] {
        let mut g = gateway(1);
        assert!(g.packet(LAN, &udp(client, server, 4000, 53)).is_empty());
        let got = messages(&g);
        let [ToHost::Begins(flow, origin), ToHost::Frame(frame)] = &got[..] else { panic!("{got:?}") };
        assert_eq!((flow.host, flow.client), ((ip(own), 53), (ip(client), 4000)));
        assert_eq!((origin.host, origin.client_port, origin.worker), ((ip(server), 53), 4000, 0));
        assert_eq!(frame.interface, LAN as u16);
        assert_eq!(read(&frame.frame), (client.into(), 4000, own.into(), 53));
        assert!(g.packet(LAN, &udp(client, server, 4000, 53)).is_empty());
        assert!(matches!(&messages(&g)[..], [ToHost::Frame(_)]));

        // From the outside nothing is redirected, and nothing of it can come from the network.
        assert!(g.packet(LAN, &udp(own, client, 53, 4000)).is_empty());
        assert_eq!(g.drops(DropReason::MartianSource), 1);
        let all = connections(&mut g);
        assert_eq!(all.len(), 1);
        assert!(all[0].status.contains(Status::DST_NAT) && all[0].original.packets == 2, "{all:?}");
        delete_all(&mut g);
        assert!(matches!(&messages(&g)[..], [ToHost::Ends(f, o)] if f == flow && o == origin));
    }
}

#[test]
fn one_port_to_several_servers_is_several_to_the_host() {
    let mut g = gateway(1);
    let mut ports = Vec::new();
    // The last one is the host itself, which only then is asked through a worker.
    for server in [SERVER, "203.0.113.6", "203.0.113.7", OWN] {
        g.packet(LAN, &udp(CLIENT, server, 4000, 53));
        let got = messages(&g);
        let [ToHost::Begins(flow, origin), ToHost::Frame(frame)] = &got[..] else { panic!("{got:?}") };
        assert_eq!((origin.host, origin.client_port), ((ip(server), 53), 4000));
        assert_eq!(read(&frame.frame), (CLIENT.into(), flow.client.1, OWN.into(), 53));
        ports.push(flow.client.1);
    }
    assert_eq!(ports[0], 4000);
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 4);
    // With other ports the host is asked as ever.
    g.packet(LAN, &udp(CLIENT, OWN, 4001, 53));
    assert_eq!((g.punted(), messages(&g).len()), (1, 0));
}

#[test]
fn tcp_follows_the_client_and_what_is_seen_of_the_host() {
    let mut g = gateway(1);
    let state = |g: &mut Gateway| {
        let all = connections(g);
        (all[0].state.unwrap(), all[0].status.contains(Status::ASSURED), all[0].remaining_ms.div_ceil(1000))
    };
    g.packet(LAN, &tcp("S"));
    let got = messages(&g);
    let [ToHost::Begins(flow, _), ToHost::Frame(frame)] = &got[..] else { panic!("{got:?}") };
    let flow: HostFlow = *flow;
    assert_eq!(read(&frame.frame), (CLIENT.into(), 4000, OWN.into(), 3128));
    assert_eq!(state(&mut g), ("SYN_SENT", false, 120));
    let sight = |finished, reset| Sight { flow, worker: 0, finished, reset };
    g.shared.workers[0].sights.push(sight(false, false)).unwrap();
    assert_eq!(state(&mut g), ("SYN_RECV", false, 60));
    g.packet(LAN, &tcp("A"));
    assert_eq!(state(&mut g), ("ESTABLISHED", true, 432_000));
    g.shared.workers[0].sights.push(sight(true, false)).unwrap();
    assert_eq!(state(&mut g), ("FIN_WAIT", true, 120));
    g.packet(LAN, &tcp("F"));
    assert_eq!(state(&mut g), ("TIME_WAIT", true, 120));
    messages(&g);
    // The same ports once more: the old connection goes before the new one is announced.
    g.packet(LAN, &tcp("S"));
    let got = messages(&g);
    assert!(matches!(&got[..], [ToHost::Ends(a, _), ToHost::Begins(b, _), ToHost::Frame(_)] if a == b), "{got:?}");
    g.shared.workers[0].sights.push(sight(false, true)).unwrap();
    assert_eq!(state(&mut g), ("CLOSE", false, 10));
}

#[test]
fn without_the_program_nothing_is_redirected() {
    let mut g = gateway(1);
    g.shared.host_answers.store(false, Ordering::Relaxed);
    assert!(g.packet(LAN, &udp(CLIENT, SERVER, 4000, 53)).is_empty());
    assert_eq!((messages(&g).len(), g.punted(), g.drops(DropReason::EgressNotManaged)), (0, 0, 1));
}

#[test]
fn an_interface_without_an_address_drops() {
    let mut f = fib();
    f.interfaces[LAN].v4.clear();
    // Link-local addresses serve for nothing that comes through a gateway.
    f.interfaces[LAN].v6 = vec![(v6("fe80::1"), 64)];
    let mut g = Gateway::new(1, redirecting(), f);
    g.shared.host_answers.store(true, Ordering::Relaxed);
    assert!(g.packet(LAN, &udp(CLIENT, SERVER, 4000, 53)).is_empty());
    assert!(g.packet(LAN, &udp(CLIENT6, SERVER6, 4000, 53)).is_empty());
    assert_eq!(g.drops(DropReason::NatNoAddress), 2);
}

#[test]
fn a_full_queue_loses_no_end_of_a_connection() {
    let mut g = gateway(1);
    g.packet(LAN, &udp(CLIENT, SERVER, 4000, 53));
    messages(&g);
    let flow = HostFlow { protocol: 17, host: (ip(OWN), 53), client: (ip(CLIENT), 1) };
    let origin = Origin { host: (ip(SERVER), 53), client_port: 1, worker: 0 };
    while g.shared.to_host.push(ToHost::Ends(flow, origin)).is_ok() {}
    // A connection that cannot be announced is none.
    g.packet(LAN, &udp(CLIENT, SERVER, 4001, 53));
    assert_eq!((connections(&mut g).len(), g.drops(DropReason::PuntLimit)), (1, 1));
    delete_all(&mut g);
    messages(&g);
    g.packet(LAN, &udp(CLIENT, SERVER, 4000, 53));
    let got = messages(&g);
    let begun = got.iter().position(|m| matches!(m, ToHost::Begins(f, _) if f.client.1 == 4000)).unwrap();
    let ended = got.iter().position(|m| matches!(m, ToHost::Ends(f, _) if f.client.1 == 4000)).unwrap();
    assert!(ended < begun, "{got:?}");
}

#[test]
fn a_lost_address_ends_the_connection() {
    let mut g = gateway(1);
    g.packet(LAN, &udp(CLIENT, SERVER, 4000, 53));
    messages(&g);
    let mut f = fib();
    f.interfaces[LAN].v4 = vec![(v4("10.10.0.9"), 24)];
    f.routes4.insert(v4("10.10.0.9"), 32, dataplane::route::Target::Local);
    f.routes4.remove(v4(OWN), 32);
    g.shared.current.publish(None, Some(std::sync::Arc::new(f)));
    g.packet(LAN, &udp(CLIENT, SERVER, 4000, 53));
    assert!(matches!(&messages(&g)[..], [ToHost::Ends(..)]));
    g.packet(LAN, &udp(CLIENT, SERVER, 4000, 53));
    let got = messages(&g);
    assert!(matches!(&got[..], [ToHost::Begins(f, _), ToHost::Frame(_)] if f.host.0 == ip("10.10.0.9")), "{got:?}");
}

#[test]
fn two_workers_share_a_client() {
    let mut g = gateway(2);
    g.packet_at(0, LAN, &udp(CLIENT, SERVER, 4000, 53));
    g.packet_at(1, LAN, &udp(CLIENT, SERVER, 4000, 53));
    let got = messages(&g);
    assert!(matches!(&got[..], [ToHost::Begins(..), ToHost::Frame(_), ToHost::Frame(_)]), "{got:?}");
    // The other worker does not give the same ports out again.
    g.packet_at(1, LAN, &udp(CLIENT, "203.0.113.6", 4000, 53));
    let got = messages(&g);
    assert!(matches!(&got[..], [ToHost::Begins(f, o), ToHost::Frame(_)] if f.client.1 != 4000 && o.worker == 1));
}

#[test]
fn a_clients_error_about_an_answer_goes_to_the_host() {
    let mut g = gateway(1);
    g.packet(LAN, &udp(CLIENT, "203.0.113.6", 4000, 53));
    g.packet(LAN, &udp(CLIENT, SERVER, 4000, 53));
    let got = messages(&g);
    let [.., ToHost::Begins(flow, _), ToHost::Frame(_)] = &got[..] else { panic!("{got:?}") };
    // The client quotes the answer as it got it.
    let quoted = udp(SERVER, CLIENT, 53, 4000);
    let mut error = Vec::new();
    let unreachable = etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
    PacketBuilder::ipv4(four(CLIENT), four(SERVER), 64).icmpv4(unreachable).write(&mut error, &quoted).unwrap();
    assert!(g.packet(LAN, &error).is_empty());
    let got = messages(&g);
    let [ToHost::Frame(frame)] = &got[..] else { panic!("{got:?}") };
    let h = PacketHeaders::from_ip_slice(&frame.frame[14..]).unwrap();
    let (Some(NetHeaders::Ipv4(outer, _)), Some(TransportHeader::Icmpv4(i))) = (&h.net, &h.transport) else {
        panic!("{h:?}")
    };
    assert_eq!((outer.source, outer.destination), (four(CLIENT), four(OWN)));
    assert_eq!(i.icmp_type.calc_checksum(h.payload.slice()), i.checksum);
    let inner = [&[0; 14], h.payload.slice()].concat();
    assert_eq!(read(&inner), (OWN.into(), 53, CLIENT.into(), flow.client.1));
}
