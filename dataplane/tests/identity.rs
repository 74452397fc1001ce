//! Translation there and back is the identity, by random packets of every protocol and both families through
//! the whole worker.

mod support;

use dataplane::policy::{
    AddressSet, DestinationNat, DestinationTranslation, Filtering, Match, Policy, PortChoice, PrefixMap, SourceNat,
    SourceTranslation, Zones,
};
use proptest::prelude::*;
use support::flow::{Flow, error_about, look, without_cut_crc};
use support::oracle::{self, *};
use support::*;

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
        for n in 0..4usize {
            let sent = flow.packet(n);
            if n.is_multiple_of(2) {
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
