//! The packet path over memory ports: what goes in at one side, what comes out at the other.

mod support;

use dataplane::worker::{DropReason, HandoffReason};
use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use support::*;

fn four(a: &str) -> [u8; 4] {
    a.parse::<std::net::Ipv4Addr>().unwrap().octets()
}

fn udp(src: &str, dst: &str, sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let mut v = Vec::new();
    PacketBuilder::ipv4(four(src), four(dst), 64).udp(sport, dport).write(&mut v, payload).unwrap();
    v
}

fn echo(src: &str, dst: &str, id: u16) -> Vec<u8> {
    let mut v = Vec::new();
    PacketBuilder::ipv4(four(src), four(dst), 64).icmpv4_echo_request(id, 1).write(&mut v, b"data").unwrap();
    v
}

/// Source, destination, ports, after checking every checksum with an independent implementation.
fn read(p: &[u8]) -> (String, String, u16, u16) {
    let h = PacketHeaders::from_ip_slice(p).unwrap();
    let (src, dst) = match &h.net {
        Some(NetHeaders::Ipv4(ip, _)) => {
            assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
            (std::net::Ipv4Addr::from(ip.source).to_string(), std::net::Ipv4Addr::from(ip.destination).to_string())
        }
        Some(NetHeaders::Ipv6(ip, _)) => {
            (std::net::Ipv6Addr::from(ip.source).to_string(), std::net::Ipv6Addr::from(ip.destination).to_string())
        }
        other => panic!("{other:?}"),
    };
    let payload = h.payload.slice();
    match (&h.net, h.transport) {
        (Some(NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Udp(u))) => {
            assert_eq!(u.calc_checksum_ipv4(ip, payload).unwrap(), u.checksum);
            (src, dst, u.source_port, u.destination_port)
        }
        (Some(NetHeaders::Ipv6(ip, _)), Some(TransportHeader::Udp(u))) => {
            assert_eq!(u.calc_checksum_ipv6(ip, payload).unwrap(), u.checksum);
            (src, dst, u.source_port, u.destination_port)
        }
        (Some(NetHeaders::Ipv4(..)), Some(TransportHeader::Icmpv4(i))) => {
            assert_eq!(i.icmp_type.calc_checksum(payload), i.checksum);
            (src, dst, 0, 0)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn masquerade_there_and_back() {
    let mut g = Gateway::plain();
    let out = g.packet(LAN, &udp(CLIENT, SERVER, 4000, 53, b"query"));
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].0, WAN);
    assert_eq!(read(&out[0].1), (OUTSIDE.into(), SERVER.into(), 4000, 53));
    assert_eq!(out[0].1[8], 63);
    let back = g.packet(WAN, &udp(SERVER, OUTSIDE, 53, 4000, b"answer"));
    assert_eq!(back[0].0, LAN);
    assert_eq!(read(&back[0].1), (SERVER.into(), CLIENT.into(), 53, 4000));
}

#[test]
fn two_workers_reply_on_the_other() {
    let mut g = Gateway::new(2, policy(), fib());
    for port in 4000..4050 {
        // A server for each, so that the port another client is moved to is nobody's own.
        let server = &format!("203.0.113.{}", port - 3990);
        let out = g.packet_at(0, LAN, &udp(CLIENT, server, port, 53, b"query"));
        assert_eq!(read(&out[0].1), (OUTSIDE.into(), server.into(), port, 53));
        let back = g.packet_at(1, WAN, &udp(server, OUTSIDE, 53, port, b"answer"));
        assert_eq!(read(&back[0].1), (server.into(), CLIENT.into(), 53, port));
        // The flow moves to the other queue, and a second client wants the same port there.
        let again = g.packet_at(1, LAN, &udp(CLIENT, server, port, 53, b"query"));
        assert_eq!(read(&again[0].1).2, port);
        let other = g.packet_at(1, LAN, &udp("10.10.0.3", server, port, 53, b"query"));
        assert_ne!(read(&other[0].1).2, port, "no reply tuple is given out twice");
    }
    assert!(g.shared.workers[1].counters.handed_off[HandoffReason::Connection as usize].get() >= 100);
}

#[test]
fn colliding_ports_are_moved() {
    let mut g = Gateway::plain();
    let mut seen = std::collections::HashSet::new();
    for host in 2..60 {
        let out = g.packet(LAN, &udp(&format!("10.10.0.{host}"), SERVER, 4000, 53, b"q"));
        assert!(seen.insert(read(&out[0].1).2));
    }
}

#[test]
fn forward_and_hairpin() {
    let mut g = Gateway::plain();
    let out = g.packet(WAN, &udp(SERVER, OUTSIDE, 9000, 5353, b"q"));
    assert_eq!((out[0].0, read(&out[0].1)), (LAN, (SERVER.into(), CLIENT.into(), 9000, 53)));
    let back = g.packet(LAN, &udp(CLIENT, SERVER, 53, 9000, b"a"));
    assert_eq!((back[0].0, read(&back[0].1)), (WAN, (OUTSIDE.into(), SERVER.into(), 5353, 9000)));
    let round = g.packet(LAN, &udp("10.10.0.3", OUTSIDE, 9000, 5353, b"q"));
    assert_eq!((round[0].0, read(&round[0].1)), (LAN, ("10.10.0.1".into(), CLIENT.into(), 9000, 53)));
}

#[test]
fn unsolicited_goes_to_the_host_or_nowhere() {
    let mut g = Gateway::plain();
    assert!(g.packet(WAN, &udp(SERVER, OUTSIDE, 1, 2, b"x")).is_empty());
    assert_eq!(g.punted(), 1);
    assert!(g.packet(WAN, &udp(SERVER, CLIENT, 1, 2, b"x")).is_empty());
    assert_eq!(g.drops(DropReason::Policy), 1);
}

#[test]
fn icmp_error_is_translated_with_its_quote() {
    let mut g = Gateway::plain();
    let out = g.packet(LAN, &udp(CLIENT, SERVER, 4000, 53, b"query"));
    let mut v = Vec::new();
    PacketBuilder::ipv4(four("198.51.100.254"), four(OUTSIDE), 64)
        .icmpv4_raw(11, 0, [0; 4])
        .write(&mut v, &out[0].1)
        .unwrap();
    let back = g.packet(WAN, &v);
    let (src, dst, ..) = read(&back[0].1);
    assert_eq!((src.as_str(), dst.as_str()), ("198.51.100.254", CLIENT));
    assert_eq!(read(&back[0].1[28..]), (CLIENT.into(), SERVER.into(), 4000, 53));
}

#[test]
fn ttl_and_mtu_are_answered() {
    let mut g = Gateway::plain();
    let mut p = echo(CLIENT, SERVER, 7);
    p[8] = 1;
    let c = dataplane::packet::checksum::Delta::new(64 << 8, 1 << 8).apply(u16::from_be_bytes([p[10], p[11]]));
    p[10..12].copy_from_slice(&c.to_be_bytes());
    let back = g.packet(LAN, &p);
    assert_eq!((back[0].0, back[0].1[20]), (LAN, 11));
    assert_eq!(read(&back[0].1).0, "10.10.0.1");
    // etherparse sets DF.
    let big = g.packet(LAN, &udp(CLIENT, SERVER, 1, 2, &[0; 1450]));
    assert_eq!((big[0].0, &big[0].1[20..22], &big[0].1[26..28]), (LAN, &[3, 4][..], &1400u16.to_be_bytes()[..]));
    let unreachable = g.packet(LAN, &udp(CLIENT, "192.0.2.1", 1, 2, b""));
    assert_eq!(&unreachable[0].1[20..22], &[3, 1]);
}

#[test]
fn unfinished_checksums_are_completed() {
    let mut g = Gateway::plain();
    let mut p = udp(CLIENT, SERVER, 4000, 53, b"query");
    let pseudo = dataplane::packet::checksum::pseudo_header(v4(CLIENT), v4(SERVER), 17, p.len() - 20);
    p[26..28].copy_from_slice(&dataplane::packet::checksum::fold(pseudo).to_be_bytes());
    let out = g.packet(LAN, &p);
    assert_eq!(read(&out[0].1).0, OUTSIDE);
    assert_eq!(g.shared.workers[0].counters.checksums_completed.get(), 1);
    p[26] ^= 1;
    assert!(g.packet(LAN, &p).is_empty());
    assert_eq!(g.drops(DropReason::Invalid), 1);
}

#[test]
fn ipv6_without_translation() {
    let mut g = Gateway::plain();
    let six = |a: &str| a.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let packet = |src: &str, dst: &str, sport, dport| {
        let mut v = Vec::new();
        PacketBuilder::ipv6(six(src), six(dst), 64).udp(sport, dport).write(&mut v, b"data").unwrap();
        v
    };
    let out = g.packet(LAN, &packet(CLIENT6, SERVER6, 4000, 53));
    assert_eq!((out[0].0, read(&out[0].1)), (WAN, (CLIENT6.into(), SERVER6.into(), 4000, 53)));
    let back = g.packet(WAN, &packet(SERVER6, CLIENT6, 53, 4000));
    assert_eq!(back[0].0, LAN);
    assert!(g.packet(WAN, &packet(SERVER6, CLIENT6, 53, 4001)).is_empty());
}

#[test]
fn a_full_table_drops_what_is_not_assured_and_refuses_nothing_untranslated() {
    let mut p = policy();
    p.max_connections = 64;
    let mut g = Gateway::new(1, p, fib());
    for port in 1000..1500 {
        for (_, b) in g.packet(LAN, &udp(CLIENT, SERVER, port, 53, b"q")) {
            assert_eq!(read(&b).0, OUTSIDE);
        }
    }
    assert!(g.shared.workers[0].counters.early_dropped.get() > 400);
}

fn tcp(src: &str, dst: &str, ports: (u16, u16), seq: u32, ack: Option<u32>, payload: &[u8]) -> Vec<u8> {
    let b = PacketBuilder::ipv4(four(src), four(dst), 64).tcp(ports.0, ports.1, seq, 60_000);
    let b = match ack {
        Some(n) => b.ack(n),
        None => b.syn(),
    };
    let mut v = Vec::new();
    b.write(&mut v, payload).unwrap();
    v
}

#[test]
fn full_cone_admits_strangers_as_its_filtering_says() {
    use dataplane::policy::{Filtering, PortChoice, SourceTranslation};
    for (filtering, stranger, other_port) in [
        (Filtering::EndpointIndependent, true, true),
        (Filtering::AddressDependent, false, true),
        (Filtering::EndpointDependent, false, false),
    ] {
        for workers in [1, 2] {
            let mut p = policy();
            let choice = PortChoice { independent: Some(filtering), ..PortChoice::default() };
            p.source_nat[0].translate = SourceTranslation::Masquerade(choice);
            let mut g = Gateway::new(workers, p, fib());
            let last = workers - 1;
            // Another host has the port: the mapping is to another one, and the same for every remote.
            g.packet(LAN, &udp("10.10.0.9", SERVER, 4000, 53, b"x"));
            let port = read(&g.packet(LAN, &udp(CLIENT, SERVER, 4000, 53, b"x"))[0].1).2;
            assert_ne!(port, 4000);
            let again = g.packet_at(last, LAN, &udp(CLIENT, "203.0.113.99", 4000, 54, b"x"));
            assert_eq!(read(&again[0].1).2, port, "the mapping is endpoint-independent");
            let from = |g: &mut Gateway, host: &str, sport| {
                g.packet_at(last, WAN, &udp(host, OUTSIDE, sport, port, b"in")).len()
            };
            assert_eq!(from(&mut g, "203.0.113.7", 9), usize::from(stranger));
            assert_eq!(from(&mut g, SERVER, 9), usize::from(other_port));
            assert_eq!(from(&mut g, SERVER, 53), 1);
            // Hairpin: the other host reaches the client by its outside endpoint.
            if stranger {
                let round = g.packet(LAN, &udp("10.10.0.9", OUTSIDE, 5000, port, b"x"));
                assert_eq!((round[0].0, read(&round[0].1).1), (LAN, CLIENT.to_string()));
            }
        }
    }
}

#[test]
fn limits_marks_and_timeouts_of_rules() {
    use dataplane::conntrack::Timeouts;
    use dataplane::policy::SourceLimits;
    let mut p = policy();
    p.limits = SourceLimits { connections: 3, ..SourceLimits::default() };
    p.rules[2].mark = Some(7);
    p.rules[2].timeouts = 1;
    p.timeouts = vec![Timeouts::linux(), Timeouts { udp: 1, ..Timeouts::linux() }];
    let mut g = Gateway::new(1, p, fib());
    let made = |g: &mut Gateway| {
        (1..10)
            .filter(|n| g.packet(LAN, &udp(CLIENT, SERVER, 4000 + n, 53, b"x")).iter().any(|(i, _)| *i == WAN))
            .count()
    };
    assert_eq!(made(&mut g), 3);
    assert_eq!(g.drops(DropReason::SourceConnections), 6);
    assert_eq!(g.packet(LAN, &udp("10.10.0.3", SERVER, 4000, 53, b"x")).len(), 1);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert!(g.packet(WAN, &udp(SERVER, OUTSIDE, 53, 4001, b"late")).is_empty(), "the rule's timeout is over");
}

#[test]
fn static_prefixes_translate_both_ways() {
    use dataplane::policy::{
        AddressSet, DestinationNat, DestinationTranslation, Match, PrefixMap, SourceNat, SourceTranslation,
    };
    let map = PrefixMap { inside: ip("10.10.0.16"), outside: ip("198.51.100.16"), length: 28, neutral: false };
    let range = |a: &str, b: &str| Some(AddressSet::new([(ip(a), ip(b))]));
    let mut p = policy();
    p.source_nat.insert(
        0,
        SourceNat {
            name: "static".into(),
            matcher: Match { source: range("10.10.0.16", "10.10.0.31"), ..Match::default() },
            translate: SourceTranslation::Prefix(map),
            ..SourceNat::default()
        },
    );
    p.destination_nat.insert(
        0,
        DestinationNat {
            name: "static".into(),
            matcher: Match { destination: range("198.51.100.16", "198.51.100.31"), ..Match::default() },
            translate: DestinationTranslation::Prefix(map),
            ..DestinationNat::default()
        },
    );
    let mut g = Gateway::new(1, p, fib());
    let out = g.packet(LAN, &udp("10.10.0.20", SERVER, 4000, 53, b"x"));
    assert_eq!(read(&out[0].1), ("198.51.100.20".into(), SERVER.into(), 4000, 53));
    let inward = g.packet(WAN, &udp(SERVER, "198.51.100.21", 9, 80, b"x"));
    assert_eq!(read(&inward[0].1), (SERVER.into(), "10.10.0.21".into(), 9, 80));
    let back = g.packet(LAN, &udp("10.10.0.21", SERVER, 80, 9, b"x"));
    assert_eq!(read(&back[0].1), ("198.51.100.21".into(), SERVER.into(), 80, 9));
}

#[test]
fn ftp_port_command_is_translated_and_its_connection_admitted_once() {
    use dataplane::helper::HelperKind;
    let mut p = policy();
    p.helpers = vec![(HelperKind::Ftp, 21)];
    let mut g = Gateway::new(2, p, fib());
    let (c, s) = ((4000, 21), (21, 4000));
    g.packet(LAN, &tcp(CLIENT, SERVER, c, 1000, None, b""));
    let mut synack = Vec::new();
    let b = PacketBuilder::ipv4(four(SERVER), four(OUTSIDE), 64).tcp(21, 4000, 5000, 60_000).syn().ack(1001);
    b.write(&mut synack, &[]).unwrap();
    g.packet(WAN, &synack);
    g.packet(LAN, &tcp(CLIENT, SERVER, c, 1001, Some(5001), b""));
    g.packet(WAN, &tcp(SERVER, OUTSIDE, s, 5001, Some(1001), b"220 ready\r\n"));
    g.packet(LAN, &tcp(CLIENT, SERVER, c, 1001, Some(5012), b"USER x\r\n"));
    let port = b"PORT 10,10,0,2,78,32\r\n";
    let out = g.packet(LAN, &tcp(CLIENT, SERVER, c, 1009, Some(5012), port));
    let text = String::from_utf8_lossy(&out[0].1[40..]).into_owned();
    assert_eq!(text, "PORT 198,51,100,1,78,32\r\n");
    // The acknowledgement of the longer text comes back as that of the shorter one.
    let back = g.packet(WAN, &tcp(SERVER, OUTSIDE, s, 5012, Some(1009 + text.len() as u32), b""));
    assert_eq!(u32::from_be_bytes(back[0].1[28..32].try_into().unwrap()), 1009 + port.len() as u32);
    let next = g.packet(LAN, &tcp(CLIENT, SERVER, c, 1009 + port.len() as u32, Some(5012), b"LIST\r\n"));
    assert_eq!(u32::from_be_bytes(next[0].1[24..28].try_into().unwrap()), 1009 + text.len() as u32);
    // On the other worker: the server's data connection, once.
    let data = g.packet_at(1, WAN, &tcp(SERVER, OUTSIDE, (20, 20_000), 1, None, b""));
    assert_eq!(data.len(), 1);
    assert_eq!(
        (data[0].0, &data[0].1[16..20], &data[0].1[22..24]),
        (LAN, &four(CLIENT)[..], &20_000u16.to_be_bytes()[..])
    );
    assert!(g.packet_at(1, WAN, &tcp(SERVER, OUTSIDE, (21, 20_000), 1, None, b"")).is_empty());
}

#[test]
fn mss_is_lowered_to_the_smaller_link() {
    let mut p = policy();
    p.clamp_mss = true;
    let mut g = Gateway::new(1, p, fib());
    let b = PacketBuilder::ipv4(four(CLIENT), four(SERVER), 64).tcp(4000, 80, 1, 60_000).syn();
    let b = b.options(&[etherparse::TcpOptionElement::MaximumSegmentSize(1460)]).unwrap();
    let mut v = Vec::new();
    b.write(&mut v, &[]).unwrap();
    let out = g.packet(LAN, &v);
    assert_eq!(&out[0].1[40..44], &[2, 4, (1360u16 >> 8) as u8, (1360u16 & 0xff) as u8]);
}

#[test]
fn who_waits_in_vain_for_a_neighbour_is_told() {
    let mut f = fib();
    f.neighbours4.remove(&(WAN as u16, v4("198.51.100.254")));
    let mut g = Gateway::new(1, policy(), f);
    let sent = udp(CLIENT, SERVER, 4000, 53, b"query");
    assert!(g.packet(LAN, &sent).is_empty());
    std::thread::sleep(std::time::Duration::from_millis(3100));
    let out = g.run();
    assert_eq!((out[0].0, &out[0].1[20..22]), (LAN, &[3u8, 1][..]));
    assert_eq!(out[0].1[28..], sent[..], "the quote is what the client sent");
    assert_eq!(g.drops(DropReason::NeighbourUnresolved), 1);
}

#[test]
fn a_control_line_in_fragments_is_read() {
    let mut p = policy();
    p.helpers = vec![(dataplane::helper::HelperKind::Ftp, 21)];
    let mut g = Gateway::new(1, p, fib());
    let tcp = |from: &str, to: &str, sport, dport, seq, ack: Option<u32>, syn: bool, payload: &[u8]| {
        let mut b = PacketBuilder::ipv4(four(from), four(to), 64).tcp(sport, dport, seq, 5000);
        if let Some(n) = ack {
            b = b.ack(n);
        }
        if syn {
            b = b.syn();
        }
        let mut v = Vec::new();
        b.write(&mut v, payload).unwrap();
        v
    };
    g.packet(LAN, &tcp(CLIENT, SERVER, 4000, 21, 100, None, true, b""));
    g.packet(WAN, &tcp(SERVER, OUTSIDE, 21, 4000, 500, Some(101), true, b""));
    g.packet(LAN, &tcp(CLIENT, SERVER, 4000, 21, 101, Some(501), false, b""));
    g.packet(LAN, &tcp(CLIENT, SERVER, 4000, 21, 101, Some(501), false, b"USER x\r\n"));
    let whole = tcp(CLIENT, SERVER, 4000, 21, 109, Some(501), false, b"PORT 10,10,0,2,200,10\r\n");
    let piece = |from: usize, to: usize, more: bool| {
        let mut v = whole[..20].to_vec();
        v.extend(&whole[20 + from..20 + to]);
        let length = v.len() as u16;
        v[2..4].copy_from_slice(&length.to_be_bytes());
        v[6..8].copy_from_slice(&((from / 8) as u16 | if more { 0x2000 } else { 0 }).to_be_bytes());
        v[10..12].fill(0);
        let c = dataplane::packet::checksum::checksum(&v[..20]);
        v[10..12].copy_from_slice(&c.to_be_bytes());
        v
    };
    let end = whole.len() - 20;
    assert!(g.packet(LAN, &piece(32, end, false)).is_empty());
    let out = g.packet(LAN, &piece(0, 32, true));
    assert_eq!(out.len(), 1, "sent on as one segment, as it fits the MTU");
    assert!(out[0].1.ends_with(b"PORT 198,51,100,1,200,10\r\n"), "{:?}", String::from_utf8_lossy(&out[0].1));
    let parsed = etherparse::SlicedPacket::from_ip(&out[0].1).unwrap();
    let (Some(etherparse::NetSlice::Ipv4(ip)), Some(etherparse::TransportSlice::Tcp(t))) =
        (parsed.net, parsed.transport)
    else {
        panic!("not TCP over IPv4")
    };
    assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
    assert_eq!(Ok(t.checksum()), t.to_header().calc_checksum_ipv4(&ip.header().to_header(), t.payload()));
    assert_eq!(g.shared.expectations.len(), 1);
}
