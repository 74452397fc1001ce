//! Properties of translation, by random packets of every protocol and both families through the whole worker.

mod support;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use dataplane::io::memory::MemoryPort;
use dataplane::policy::{
    AddressSet, DestinationNat, DestinationTranslation, Filtering, Match, Policy, PortChoice, PrefixMap, SourceNat,
    SourceTranslation, Zones,
};
use dataplane::worker::Worker;
use dataplane::worker::listing::{Filter, FlowFilter};
use proptest::prelude::*;
use support::oracle::{self, *};
use support::*;

/// What varies in the headers of a flow's packets, beside its ends.
#[derive(Debug, Clone)]
struct Look {
    tos: u8,
    ident: u16,
    dont_fragment: bool,
    ttl: u8,
    /// Words of IPv4 options, or an IPv6 extension header.
    options: bool,
    /// UDP over IPv4 without a checksum.
    unsummed: bool,
    /// Bytes that a UDP-Lite checksum covers, when that is fewer than all.
    covered: u16,
    seq: u32,
}

#[derive(Debug, Clone)]
struct Flow {
    proto: u8,
    ends: Ends,
    look: Look,
    /// What is sent: to and fro, to and fro.
    payloads: [Vec<u8>; 4],
}

impl Flow {
    /// Packet `n`: even ones from the side that begins. With the ends that this side knows.
    fn packet(&self, n: usize) -> Vec<u8> {
        let ends = if n % 2 == 0 { self.ends } else { self.ends.turned(self.proto) };
        let data = &self.payloads[n];
        let l4 = match self.proto {
            TCP => self.segment(n, data),
            UDP => {
                [&[0; 4][..], &((8 + data.len()) as u16).to_be_bytes(), &[0, u8::from(!self.unsummed())], data].concat()
            }
            UDPLITE => {
                let covered = if usize::from(self.look.covered) > 8 + data.len() { 0 } else { self.look.covered };
                [&[0; 4][..], &covered.to_be_bytes(), &[0, 0], data].concat()
            }
            ICMP => [&[[8, 0][n % 2], 0, 0, 0, 0, 0, 0, n as u8][..], data].concat(),
            ICMPV6 => [&[[128, 129][n % 2], 0, 0, 0, 0, 0, 0, n as u8][..], data].concat(),
            SCTP => sctp(n, data),
            GRE => [&[0, 0, 8, 0][..], data].concat(),
            _ => [&[0, 0, 1, n as u8][..], data].concat(),
        };
        let mut p = self.header(l4.len(), n);
        p.extend(l4);
        let mut p = with_ends(&p, ends);
        finish(&mut p);
        p
    }

    fn unsummed(&self) -> bool {
        self.look.unsummed && self.ends.src.is_ipv4()
    }

    fn header(&self, payload: usize, n: usize) -> Vec<u8> {
        let l = &self.look;
        let mut h;
        if self.ends.src.is_ipv4() {
            // Record route, from where it is full already, and padding.
            let options: &[u8] = if l.options { &[7, 7, 8, 1, 2, 3, 4, 0] } else { &[] };
            h = vec![0x45 + (options.len() / 4) as u8, l.tos, 0, 0];
            h[2..4].copy_from_slice(&((20 + options.len() + payload) as u16).to_be_bytes());
            h.extend(l.ident.wrapping_add(n as u16).to_be_bytes());
            h.extend([if l.dont_fragment { 0x40 } else { 0 }, 0, l.ttl, self.proto, 0, 0]);
            h.extend([0; 8]);
            h.extend(options);
        } else {
            let extension: &[u8] = if l.options { &[self.proto, 0, 1, 4, 0, 0, 0, 0] } else { &[] };
            h = vec![0x60 | l.tos >> 4, l.tos << 4, 0x12, 0x34];
            h.extend(((extension.len() + payload) as u16).to_be_bytes());
            h.extend([if l.options { 60 } else { self.proto }, l.ttl]);
            h.extend([0; 32]);
            h.extend(extension);
        }
        h
    }

    /// Handshake, then data both ways.
    fn segment(&self, n: usize, data: &[u8]) -> Vec<u8> {
        let ours = self.look.seq;
        let theirs = !self.look.seq;
        let (seq, ack, flags, data) = match n {
            0 => (ours, 0, 0x02, &[][..]),
            1 => (theirs, ours.wrapping_add(1), 0x12, &[][..]),
            2 => (ours.wrapping_add(1), theirs.wrapping_add(1), 0x18, data),
            _ => (theirs.wrapping_add(1), ours.wrapping_add(1 + self.payloads[2].len() as u32), 0x18, data),
        };
        // The maximum segment size, with SYNs.
        let options: &[u8] = if flags & 2 != 0 { &[2, 4, 5, 0] } else { &[] };
        let mut s = vec![0; 4];
        s.extend(seq.to_be_bytes());
        s.extend(ack.to_be_bytes());
        s.extend([(5 + options.len() as u8 / 4) << 4, flags, 0x40, 0, 0, 0, 0, 0]);
        s.extend(options);
        s.extend(data);
        s
    }
}

/// INIT, INIT ACK, COOKIE ECHO, COOKIE ACK.
fn sctp(n: usize, data: &[u8]) -> Vec<u8> {
    let init = |kind: u8, tag: u32| {
        [&[kind, 0, 0, 20][..], &tag.to_be_bytes(), &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]].concat()
    };
    let (tag, chunk) = match n {
        0 => (0u32, init(1, 0x1111)),
        1 => (0x1111, init(2, 0x2222)),
        2 => {
            let cookie = &data[..data.len() & !3];
            (0x2222, [&[10, 0][..], &((4 + cookie.len()) as u16).to_be_bytes(), cookie].concat())
        }
        _ => (0x1111, vec![11, 0, 0, 4]),
    };
    [&[0; 4][..], &tag.to_be_bytes(), &[0; 4], &chunk].concat()
}

/// How the gateway is set up, and from where the flow comes.
#[derive(Debug, Clone, Copy)]
enum Setup {
    Masquerade,
    Pool,
    Independent,
    Untranslated,
    Forward,
    BothEnds,
    Prefix,
    Npt,
}

impl Setup {
    fn of(v6: bool) -> impl Strategy<Value = Setup> {
        use Setup::{BothEnds, Forward, Independent, Masquerade, Npt, Pool, Prefix, Untranslated};
        let all = if v6 {
            vec![Masquerade, Pool, Independent, Untranslated, Prefix, Npt]
        } else {
            vec![Masquerade, Pool, Independent, Untranslated, Prefix, Forward, BothEnds]
        };
        prop::sample::select(all)
    }

    /// Interface and ends that a flow begins with.
    fn begins(self, v6: bool, sport: u16, dport: u16) -> (usize, Ends) {
        let ends = |src: &str, dst: &str| Ends { src: ip(src), dst: ip(dst), sport, dport };
        match self {
            Setup::Forward | Setup::BothEnds => (WAN, ends(SERVER, OUTSIDE)),
            _ if v6 => (LAN, ends(CLIENT6, SERVER6)),
            _ => (LAN, ends(CLIENT, SERVER)),
        }
    }

    fn policy(self) -> Policy {
        let mut p = policy();
        let masquerade = |choice| SourceTranslation::Masquerade(choice);
        let choice = PortChoice { ports: Some((40_000, 40_100)), random: true, ..PortChoice::default() };
        let range = |a: &str, b: &str| (ip(a), ip(b));
        let prefix = |inside: &str, outside: &str, length, neutral| {
            SourceTranslation::Prefix(PrefixMap { inside: ip(inside), outside: ip(outside), length, neutral })
        };
        let out = |translate| SourceNat {
            matcher: Match { from: Some(Zones(1)), to: Some(Zones(2)), ..Match::default() },
            translate,
            ..SourceNat::default()
        };
        let of = |source, translate| {
            let out = out(translate);
            SourceNat { matcher: Match { source: Some(AddressSet::new([source])), ..out.matcher }, ..out }
        };
        let inside = [range("10.10.0.0", "10.10.0.255"), range("fd00:10::", "fd00:10::ffff")];
        p.source_nat = match self {
            Setup::Masquerade => vec![out(masquerade(PortChoice::default()))],
            Setup::Pool => {
                let pools = [range("198.51.100.7", "198.51.100.9"), range("2001:db8:100::7", "2001:db8:100::9")];
                let pool = |a| SourceTranslation::Pool { addresses: vec![a], choice };
                std::iter::zip(inside, pools).map(|(source, a)| of(source, pool(a))).collect()
            }
            Setup::Independent => {
                vec![out(masquerade(PortChoice { independent: Some(Filtering::EndpointIndependent), ..choice }))]
            }
            Setup::Prefix => vec![
                of(inside[0], prefix("10.10.0.0", "203.0.112.0", 24, false)),
                of(inside[1], prefix("fd00:10::", "2001:db8:7::", 64, false)),
            ],
            Setup::Npt => vec![out(prefix("fd00:10::", "2001:db8:7::", 48, true))],
            Setup::Untranslated | Setup::Forward | Setup::BothEnds => Vec::new(),
        };
        if matches!(self, Setup::Forward | Setup::BothEnds) {
            p.destination_nat = vec![DestinationNat {
                matcher: Match { destination: Some(AddressSet::new([range(OUTSIDE, OUTSIDE)])), ..Match::default() },
                translate: DestinationTranslation::To { addresses: vec![ip(CLIENT)], port: Some(7000) },
                source: matches!(self, Setup::BothEnds).then(|| masquerade(choice)),
                ..DestinationNat::default()
            }];
        }
        p
    }
}

fn look() -> impl Strategy<Value = Look> {
    (any::<u8>(), any::<u16>(), any::<bool>(), 2u8.., any::<bool>(), any::<bool>(), 8u16..40, any::<u32>()).prop_map(
        |(tos, ident, dont_fragment, ttl, options, unsummed, covered, seq)| Look {
            tos,
            ident,
            dont_fragment,
            ttl,
            options,
            unsummed,
            covered,
            seq,
        },
    )
}

fn case() -> impl Strategy<Value = (Setup, usize, Flow)> {
    any::<bool>().prop_flat_map(|v6| {
        let icmp = if v6 { ICMPV6 } else { ICMP };
        let proto = prop::sample::select(vec![TCP, UDP, UDPLITE, SCTP, GRE, ESP, icmp]);
        let payload = || prop::collection::vec(any::<u8>(), 0..300);
        let payloads = [payload(), payload(), payload(), payload()];
        (Setup::of(v6), proto, 1u16.., 1u16.., look(), payloads).prop_map(
            move |(setup, proto, sport, dport, look, payloads)| {
                let (from, ends) = setup.begins(v6, sport, dport);
                // The identifier of a query is its only port; portless protocols have none.
                let ends = Ends {
                    sport: if has_ports(proto) || is_icmp(proto) { ends.sport } else { 0 },
                    dport: if has_ports(proto) { ends.dport } else { 0 },
                    ..ends
                };
                (setup, from, Flow { proto, ends, look, payloads })
            },
        )
    })
}

/// An error by a router about a packet that has been on its way for `hops`, quoting up to `length` bytes.
fn error_about(p: &[u8], from: IpAddr, length: usize) -> Vec<u8> {
    let v6 = p[0] >> 4 == 6;
    let quote = &p[..p.len().min(length)];
    let mut e = if v6 {
        let mut h = vec![0x60, 0, 0, 0, 0, 0, ICMPV6, 64];
        h[4..6].copy_from_slice(&((8 + quote.len()) as u16).to_be_bytes());
        [h, vec![0; 32], vec![1, 3, 0, 0, 0, 0, 0, 0]].concat()
    } else {
        let mut h = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, ICMP, 0, 0];
        h[2..4].copy_from_slice(&((28 + quote.len()) as u16).to_be_bytes());
        [h, vec![0; 8], vec![3, 1, 0, 0, 0, 0, 0, 0]].concat()
    };
    e.extend(quote);
    moved(&e, Ends { src: from, dst: oracle::ends(p).src, sport: 0, dport: 0 }, 0)
}

/// Blanks the CRC of a quoted SCTP packet that is cut: nobody can tell it.
fn without_cut_crc(e: &[u8], whole: usize) -> Vec<u8> {
    let mut e = e.to_vec();
    let quote = transport(&e).0 + 8;
    let (l4, proto) = transport(&e[quote..]);
    if proto == SCTP && e.len() - quote < whole {
        let to = e.len().min(quote + l4 + 12);
        e[(quote + l4 + 8).min(to)..to].fill(0);
        finish(&mut e);
    }
    e
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    /// What goes out has other ends and nothing else changed, its checksums being those of a full computation;
    /// what comes back arrives as if nothing had been translated. So do errors, in both directions.
    #[test]
    fn there_and_back_is_the_identity((setup, from, flow) in case(), workers in 1usize..=2, cut in 0usize..350) {
        let mut g = Gateway::new(workers, setup.policy(), fib());
        let to = if from == LAN { WAN } else { LAN };
        let (last, known) = (workers - 1, flow.ends);
        let mut outside = None;
        for n in 0..4 {
            let sent = flow.packet(n);
            if n % 2 == 0 {
                let out = g.packet_at(0, from, &sent);
                prop_assert_eq!(out.len(), 1, "packet {} is forwarded", n);
                prop_assert_eq!(out[0].0, to);
                let ends = oracle::ends(&out[0].1);
                prop_assert_eq!(&out[0].1, &moved(&sent, ends, 1));
                prop_assert_eq!(*outside.get_or_insert(ends), ends, "the translation stays");
            } else {
                let Some(ends) = outside else { unreachable!() };
                let out = g.packet_at(last, to, &moved(&sent, ends.turned(flow.proto), 0));
                prop_assert_eq!(out.len(), 1, "answer {} is forwarded", n);
                prop_assert_eq!(out[0].0, from);
                prop_assert_eq!(&out[0].1, &moved(&sent, known.turned(flow.proto), 1));
            }
        }
        let Some(ends) = outside else { unreachable!() };
        let translated = match setup {
            Setup::Untranslated => (false, false),
            Setup::Forward => (false, true),
            Setup::BothEnds => (true, true),
            _ => (true, false),
        };
        prop_assert_eq!((ends.src != known.src, ends.dst != known.dst), translated);

        // About a packet that went out: its sender gets it back as it was, but for a hop.
        // Nobody quotes half of a checksum.
        let cut = (2 * cut).max(transport(&flow.packet(2)).0 + 8);
        let address = |v4: &str, v6: &str| if known.src.is_ipv4() { ip(v4) } else { ip(v6) };
        let router = if from == LAN { address("203.0.113.77", "2001:db8:beef::77") } else { ip("10.10.0.77") };
        let sent = flow.packet(2);
        let out = g.packet_at(last, to, &error_about(&moved(&sent, ends, 1), router, cut));
        prop_assert_eq!(out.len(), 1, "the error is forwarded");
        prop_assert_eq!(out[0].0, from);
        // Who asked the address outside is answered by that one.
        let speaks = if translated.1 { known.dst } else { router };
        let wanted = error_about(&moved(&sent, known, 1), speaks, cut);
        let wanted = moved(&wanted, oracle::ends(&wanted), 1);
        prop_assert_eq!(without_cut_crc(&out[0].1, sent.len()), without_cut_crc(&wanted, sent.len()));

        // About an answer, by who got it.
        let answer = flow.packet(3);
        let error = error_about(&moved(&answer, known.turned(flow.proto), 1), known.src, cut);
        let out = g.packet_at(0, from, &error);
        prop_assert_eq!(out.len(), 1, "the error about the answer is forwarded");
        prop_assert_eq!(out[0].0, to);
        let wanted = error_about(&moved(&answer, ends.turned(flow.proto), 1), ends.src, cut);
        let wanted = moved(&wanted, oracle::ends(&wanted), 1);
        prop_assert_eq!(without_cut_crc(&out[0].1, answer.len()), without_cut_crc(&wanted, answer.len()));
    }
}

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
    let look =
        Look { tos: 0, ident: 0, dont_fragment: true, ttl: 64, options: false, unsummed: false, covered: 8, seq: 0 };
    Flow { proto: UDP, ends, look, payloads: Default::default() }.packet(0)
}

fn ends_of(f: &dataplane::worker::listing::FlowInfo) -> Ends {
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
        let mut outside = std::collections::HashMap::new();
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
                        if n % 8 == 0 {
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
