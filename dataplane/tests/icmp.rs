//! ICMP through the gateway, as RFC 5508 puts it.

mod support;

use dataplane::packet::checksum::checksum;
use dataplane::policy::{Filtering, PortChoice, SourceTranslation};
use dataplane::worker::DropReason;
use etherparse::PacketBuilder;
use support::*;

fn four(a: &str) -> [u8; 4] {
    a.parse::<std::net::Ipv4Addr>().unwrap().octets()
}

fn ip_header(src: &str, dst: &str, proto: u8, ttl: u8, options: &[u8], length: usize) -> Vec<u8> {
    let header = 20 + options.len();
    let mut v = vec![0x40 | (header / 4) as u8, 0, 0, 0, 0, 1, 0, 0, ttl, proto, 0, 0];
    v.extend(four(src));
    v.extend(four(dst));
    v.extend(options);
    v[2..4].copy_from_slice(&((header + length) as u16).to_be_bytes());
    let c = checksum(&v);
    v[10..12].copy_from_slice(&c.to_be_bytes());
    v
}

fn packet(src: &str, dst: &str, proto: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
    [ip_header(src, dst, proto, ttl, &[], payload.len()), payload.to_vec()].concat()
}

fn icmp(kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut v = [&[kind, code, 0, 0], &rest[..], data].concat();
    let c = checksum(&v);
    v[2..4].copy_from_slice(&c.to_be_bytes());
    v
}

fn echo(src: &str, dst: &str, kind: u8, id: u16) -> Vec<u8> {
    let [a, b] = id.to_be_bytes();
    packet(src, dst, 1, 64, &icmp(kind, 0, [a, b, 0, 1], b"data"))
}

fn udp(src: &str, dst: &str, ports: (u16, u16)) -> Vec<u8> {
    let mut v = Vec::new();
    PacketBuilder::ipv4(four(src), four(dst), 64).udp(ports.0, ports.1).write(&mut v, b"data").unwrap();
    v
}

fn id(p: &[u8]) -> u16 {
    u16::from_be_bytes([p[24], p[25]])
}

#[test]
fn query_identifiers_are_mapped_for_all_remotes() {
    for workers in [1, 2] {
        let mut p = policy();
        let choice = PortChoice { independent: Some(Filtering::EndpointDependent), ..PortChoice::default() };
        p.source_nat[0].translate = SourceTranslation::Masquerade(choice);
        let mut g = Gateway::new(workers, p, fib());
        assert_eq!(id(&g.packet(LAN, &echo("10.10.0.9", SERVER, 8, 7))[0].1), 7);
        let mut seen = Vec::new();
        for (n, server) in [SERVER, "203.0.113.99", "203.0.113.100"].into_iter().enumerate() {
            let out = g.packet_at(n % workers, LAN, &echo(CLIENT, server, 8, 7));
            assert_eq!((out[0].0, &out[0].1[12..16]), (WAN, &four(OUTSIDE)[..]));
            seen.push(id(&out[0].1));
            let back = g.packet_at(0, WAN, &echo(server, OUTSIDE, 0, seen[n]));
            assert_eq!((back[0].0, &back[0].1[16..20], id(&back[0].1)), (LAN, &four(CLIENT)[..], 7));
        }
        assert!(seen[0] != 7 && seen.iter().all(|i| *i == seen[0]), "{seen:?}");
    }
}

/// A connection from the client's port 4000 to the server's port 53, and a quote of it as it left.
fn quoted(g: &mut Gateway, options: &[u8]) -> Vec<u8> {
    let out = g.packet(LAN, &udp(CLIENT, SERVER, (4000, 53)));
    let udp = &out[0].1[20..];
    [ip_header(OUTSIDE, SERVER, 17, 60, options, udp.len()), udp.to_vec()].concat()
}

#[test]
fn checksums_of_errors() {
    // Where a byte is wrong, and whether the error passes.
    for (what, at, passes) in [
        ("nothing", None, true),
        ("the ICMP message", Some(25), false),
        ("the outer IP header", Some(1), false),
        ("the quoted UDP checksum", Some(28 + 20 + 6), true),
    ] {
        let mut g = Gateway::plain();
        let mut quote = quoted(&mut g, &[]);
        if let Some(at) = at.filter(|at| *at >= 28) {
            quote[at - 28] ^= 1;
        }
        let mut error = packet("198.51.100.254", OUTSIDE, 1, 64, &icmp(3, 1, [0; 4], &quote));
        if let Some(at) = at.filter(|at| *at < 28) {
            error[at] ^= 1;
        }
        let out = g.packet(WAN, &error);
        assert_eq!(out.len(), usize::from(passes), "{what}");
        if passes {
            assert_eq!((out[0].0, checksum(&out[0].1[20..]), checksum(&out[0].1[28..48])), (LAN, 0, 0), "{what}");
        }
    }
}

#[test]
fn what_a_quote_may_be() {
    // RFC 4884: the quote is padded to 128 bytes, its length told in words, an extension follows.
    let extension = [0x20, 0, 0xd0, 0xf1, 0, 8, 1, 1, 1, 2, 3, 4];
    for (what, options, whole, extended) in [
        ("the usual", &[][..], true, false),
        ("IP options", &[7, 7, 4, 0, 0, 0, 0, 0][..], true, false),
        ("eight bytes of transport header", &[][..], false, false),
        ("an extension", &[][..], true, true),
    ] {
        let mut g = Gateway::plain();
        let mut quote = quoted(&mut g, options);
        let l4 = 20 + options.len();
        if !whole {
            quote.truncate(l4 + 8);
        }
        let mut rest = [0; 4];
        if extended {
            quote.resize(128, 0);
            quote.extend(extension);
            rest[1] = 128 / 4;
        }
        let out = g.packet(WAN, &packet("198.51.100.254", OUTSIDE, 1, 64, &icmp(11, 0, rest, &quote)));
        let (interface, p) = &out[0];
        assert_eq!((*interface, &p[12..20]), (LAN, &[four("198.51.100.254"), four(CLIENT)].concat()[..]), "{what}");
        assert_eq!((&p[20..22], &p[24..28], checksum(&p[20..])), (&[11, 0][..], &rest[..], 0), "{what}");
        let inner = &p[28..];
        assert_eq!((&inner[12..16], checksum(&inner[..l4])), (&four(CLIENT)[..], 0), "{what}");
        assert_eq!(&inner[20..l4], options, "{what}");
        assert_eq!(&inner[l4..l4 + 4], &[4000u16.to_be_bytes(), 53u16.to_be_bytes()].concat()[..], "{what}");
        if extended {
            assert_eq!(&inner[128..], extension, "{what}");
        }
    }
}

#[test]
fn errors_about_no_connection_go_nowhere() {
    let mut g = Gateway::plain();
    for (interface, from, to, quote) in [
        (WAN, SERVER, OUTSIDE, udp(OUTSIDE, SERVER, (4000, 53))),
        (WAN, SERVER, CLIENT, udp(CLIENT, SERVER, (4000, 53))),
        (LAN, CLIENT, SERVER, udp(SERVER, CLIENT, (53, 4000))),
    ] {
        assert!(g.packet(interface, &packet(from, to, 1, 64, &icmp(3, 3, [0; 4], &quote))).is_empty());
    }
    // What is for the gateway's address may be about a connection of its own.
    assert_eq!((g.punted(), g.drops(DropReason::Invalid)), (1, 2));
}

#[test]
fn what_is_not_answered() {
    // RFC 1812 4.3.2.7. Every packet's TTL runs out.
    let fragment = {
        let mut v = packet(CLIENT, SERVER, 17, 1, &[0; 16]);
        v[6..8].copy_from_slice(&[0, 5]);
        v[10..12].fill(0);
        let c = checksum(&v[..20]);
        v[10..12].copy_from_slice(&c.to_be_bytes());
        v
    };
    let about_itself = icmp(3, 3, [0; 4], &udp(SERVER, CLIENT, (53, 4000)));
    for (what, p, answered) in [
        ("UDP", packet(CLIENT, SERVER, 17, 1, &[0, 1, 0, 2, 0, 8, 0, 0]), true),
        ("a ping", packet(CLIENT, SERVER, 1, 1, &icmp(8, 0, [0; 4], b"")), true),
        ("an ICMP error", packet(CLIENT, SERVER, 1, 1, &about_itself), false),
        ("a later fragment", fragment, false),
        ("to a group", packet(CLIENT, "224.1.2.3", 17, 1, &[0, 1, 0, 2, 0, 8, 0, 0]), false),
        ("to the network", packet(CLIENT, "255.255.255.255", 17, 1, &[0, 1, 0, 2, 0, 8, 0, 0]), false),
        ("from a group", packet("224.1.2.3", SERVER, 17, 1, &[0, 1, 0, 2, 0, 8, 0, 0]), false),
        ("from loopback", packet("127.0.0.1", SERVER, 17, 1, &[0, 1, 0, 2, 0, 8, 0, 0]), false),
    ] {
        let mut g = Gateway::plain();
        let out = g.packet(LAN, &p);
        assert_eq!(out.len(), usize::from(answered), "{what}");
        if answered {
            // Time exceeded, as routers mark what they say (RFC 1812 4.3.2.5).
            assert_eq!((out[0].0, out[0].1[1], &out[0].1[20..22]), (LAN, 0xc0, &[11, 0][..]), "{what}");
        }
    }
}

#[test]
fn so_many_errors_a_second() {
    let mut p = policy();
    p.icmp_errors_per_second = 20;
    let mut g = Gateway::new(1, p, fib());
    std::thread::sleep(std::time::Duration::from_millis(600));
    let exhausted = packet(CLIENT, SERVER, 17, 1, &[0, 1, 0, 2, 0, 8, 0, 0]);
    let answered = (0..100).filter(|_| !g.packet(LAN, &exhausted).is_empty()).count();
    let limited = g.shared.workers[0].counters.icmp_limited.get() as usize;
    assert!((10..60).contains(&answered) && answered + limited == 100, "{answered} answered, {limited} not");
}

#[test]
fn messages_that_are_no_query_and_no_error_are_invalid() {
    let mut g = Gateway::plain();
    // An answer that nobody asked for, router advertisement and solicitation, unassigned types.
    let kinds = [0, 14, 9, 10, 1, 30, 40, 42, 255];
    for kind in kinds {
        assert!(g.packet(LAN, &packet(CLIENT, SERVER, 1, 64, &icmp(kind, 0, [0; 4], b"data"))).is_empty(), "{kind}");
    }
    assert_eq!(g.drops(DropReason::Invalid), kinds.len() as u64);
}
