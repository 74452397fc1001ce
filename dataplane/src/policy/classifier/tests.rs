//! The trees against a walk of the list.

use proptest::prelude::*;

use super::*;
use crate::conntrack::{CtState, Status};
use crate::packet::Address;
use crate::policy::{AddressSet, Facts, Family, IcmpTypes, PortSet, States, TcpFlags, Zones};
use crate::route::{FibFamily, Interface};

/// Numbers that are near each other, so that ranges meet and values hit their ends.
fn near() -> impl Strategy<Value = u32> {
    prop_oneof![0..40u32, (0..8u32).prop_map(|n| n << 8), any::<u32>()]
}

/// An address of each family from one number.
fn both(n: u32) -> (V4, V6) {
    (V4(n), V6::from_bits(0x2001_0db8 << 96 | u128::from(n) << 40 | u128::from(n & 3)))
}

fn addresses() -> impl Strategy<Value = AddressSet> {
    let range = (near(), prop_oneof![Just(0), 0..6u32, 0..1000u32]);
    let interfaces = prop_oneof![4 => Just(vec![]), 1 => proptest::collection::vec(0..3u16, 1..3)];
    (proptest::collection::vec(range, 0..90), interfaces, 0..3).prop_map(|(ranges, interfaces, families)| {
        let ends = ranges.iter().map(|(a, n)| (both(*a), both(a.saturating_add(*n))));
        let four = ends.clone().filter(|_| families != 1).map(|(a, b)| (a.0.ip(), b.0.ip()));
        let six = ends.filter(|_| families != 2).map(|(a, b)| (a.1.ip(), b.1.ip()));
        AddressSet::new(four.chain(six)).with_interfaces(interfaces)
    })
}

fn few_addresses() -> impl Strategy<Value = AddressSet> {
    (near(), 0..4u32).prop_map(|(a, n)| {
        let (a, b) = (both(a), both(a.saturating_add(n)));
        AddressSet::new([(a.0.ip(), b.0.ip()), (a.1.ip(), b.1.ip())])
    })
}

fn ports() -> impl Strategy<Value = PortSet> {
    let port = prop_oneof![0..30u16, any::<u16>()];
    proptest::collection::vec((port, 0..20u16), 1..4)
        .prop_map(|all| PortSet::new(all.into_iter().map(|(a, n)| (a, a.saturating_add(n)))))
}

fn sometimes<S: Strategy + 'static>(one_in: u32, s: S) -> BoxedStrategy<Option<S::Value>>
where
    S::Value: Clone,
{
    prop_oneof![one_in - 1 => Just(None), 1 => s.prop_map(Some)].boxed()
}

fn a_match() -> impl Strategy<Value = Match> {
    let zones = || prop_oneof![Just(1u64), Just(2), Just(5), Just(u64::MAX), any::<u64>()].prop_map(Zones);
    let protocols = proptest::sample::subsequence(vec![132u8, 1, 17, 6, 47, 58], 0..4);
    let narrow = (
        sometimes(2, zones()),
        sometimes(2, zones()),
        sometimes(3, prop_oneof![addresses().boxed(), few_addresses().boxed(), few_addresses().boxed()]),
        sometimes(2, prop_oneof![addresses().boxed(), few_addresses().boxed(), few_addresses().boxed()]),
        sometimes(2, protocols),
        sometimes(3, ports()),
        sometimes(6, ports()),
        sometimes(4, (1..32u8).prop_map(States)),
    );
    let others = (
        sometimes(10, Just(Status::DST_NAT)),
        sometimes(10, Just((1, 3))),
        sometimes(10, Just(TcpFlags { set: 2, clear: 16 })),
        sometimes(10, Just(IcmpTypes { v4: PortSet::new([(0x800, 0x8ff)]), v6: PortSet::new([(0x8000, 0x80ff)]) })),
        sometimes(10, prop_oneof![Just(Family::V4), Just(Family::V6)]),
    );
    (narrow, others).prop_map(
        |((from, to, source, destination, protocols, dport, sport, states), (status, mark, flags, icmp, family))| {
            Match {
                from,
                to,
                family,
                source,
                destination,
                protocols,
                source_port: sport,
                destination_port: dport,
                icmp,
                tcp_flags: flags,
                states,
                status,
                mark,
            }
        },
    )
}

#[derive(Debug, Clone)]
struct Numbers {
    addresses: (u32, u32),
    protocol: u8,
    ports: (u16, u16),
    zones: (u8, Option<u8>),
    state: CtState,
    rest: (bool, u32, u8, u16),
}

fn numbers() -> impl Strategy<Value = Numbers> {
    let port = || prop_oneof![0..50u16, any::<u16>()];
    let state = proptest::sample::select(vec![
        CtState::New,
        CtState::Established,
        CtState::Related,
        CtState::Invalid,
        CtState::Untracked,
    ]);
    let protocol = proptest::sample::select(vec![1u8, 6, 17, 47, 58, 132, 255]);
    let rest = (any::<bool>(), 0..4u32, any::<u8>(), prop_oneof![Just(0x800u16), Just(0x8000), any::<u16>()]);
    ((near(), near()), protocol, (port(), port()), (0..64u8, proptest::option::of(0..64u8)), state, rest).prop_map(
        |(addresses, protocol, ports, zones, state, rest)| Numbers { addresses, protocol, ports, zones, state, rest },
    )
}

fn facts<A: FibFamily>(n: &Numbers, (source, destination): (A, A)) -> Facts<A> {
    let has_ports = matches!(n.protocol, 6 | 17 | 132);
    Facts {
        source,
        destination,
        protocol: n.protocol,
        source_port: has_ports.then_some(n.ports.0),
        destination_port: has_ports.then_some(n.ports.1),
        icmp: (n.protocol == Family::of_type::<A>().icmp()).then_some(n.rest.3),
        tcp_flags: (n.protocol == 6).then_some(n.rest.2),
        from: n.zones.0,
        to: n.zones.1,
        state: n.state,
        status: if n.rest.0 { Status::DST_NAT } else { Status::default() },
        mark: n.rest.1,
    }
}

/// The rules that match, up to the first that is final.
fn walk<A: FibFamily>(rules: &[(Match, bool)], f: &Facts<A>, live: &[Interface]) -> Vec<u16> {
    let mut out = Vec::new();
    for ((m, last), i) in rules.iter().zip(0..) {
        if m.matches(f, live) {
            out.push(i);
            if *last {
                break;
            }
        }
    }
    out
}

fn found<A: FibFamily>(
    c: &Classifier,
    rules: &[(Match, bool)],
    f: &Facts<A>,
    ahead: Option<&Walk<A>>,
    live: &[Interface],
) -> Vec<u16> {
    let mut out = Vec::new();
    c.find(&Values::of(f), ahead, |i, need| {
        let (m, last) = &rules[usize::from(i)];
        let fits = m.fits(f, live, need);
        out.extend(fits.then_some(i));
        fits && *last
    });
    out
}

/// What is found with and without walks ahead, and with another packet's, is what a walk of the list finds.
fn compare_family<A: FibFamily>(
    c: &Classifier,
    rules: &[(Match, bool)],
    packets: &[Facts<A>],
    live: &[Interface],
) -> Result<(), TestCaseError> {
    let mut ahead: Vec<Walk<A>> = packets.iter().map(|f| Walk::of(f)).collect();
    c.walk(&mut ahead);
    for (i, f) in packets.iter().enumerate() {
        let expected = walk(rules, f, live);
        for ahead in [None, Some(&ahead[i]), Some(&ahead[0])] {
            prop_assert_eq!(found(c, rules, f, ahead, live), &*expected, "{:?}, {:?}", f, ahead);
        }
    }
    Ok(())
}

fn compare(rules: &[(Match, bool)], packets: &[Numbers]) -> Result<(), TestCaseError> {
    let borrowed: Vec<_> = rules.iter().map(|(m, last)| (m, *last)).collect();
    let c = Classifier::new(&borrowed);
    let live: Vec<Interface> = (0..3)
        .map(|i| Interface { v4: vec![(both(i * 7).0, 24)], v6: vec![(both(i * 7).1, 64)], ..Interface::default() })
        .collect();
    let ends = |n: &Numbers| (both(n.addresses.0), both(n.addresses.1));
    let four: Vec<_> = packets.iter().map(|n| facts(n, (ends(n).0.0, ends(n).1.0))).collect();
    let six: Vec<_> = packets.iter().map(|n| facts(n, (ends(n).0.1, ends(n).1.1))).collect();
    compare_family(&c, rules, &four, &live)?;
    compare_family(&c, rules, &six, &live)?;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn finds_what_a_walk_finds(
        rules in proptest::collection::vec((a_match(), prop::bool::weighted(0.8)), 0..120),
        packets in proptest::collection::vec(numbers(), 60),
    ) {
        compare(&rules, &packets)?;
    }

    /// One condition in each rule, of a few kinds: the shapes that large policies have.
    #[test]
    fn rules_of_a_kind(
        conditions in proptest::collection::vec((0..6u8, near(), 0..3u32), 50..600),
        packets in proptest::collection::vec(numbers(), 60),
    ) {
        let rule = |(kind, n, width): (u8, u32, u32)| {
            let (a, b) = (both(n), both(n.saturating_add(width * 5)));
            let set = || Some(AddressSet::new([(a.0.ip(), b.0.ip()), (a.1.ip(), b.1.ip())]));
            let port = || Some(PortSet::new([(n as u16, (n as u16).saturating_add(width as u16))]));
            let m = match kind {
                0 => Match { source: set(), ..Match::default() },
                1 => Match { destination: set(), destination_port: port(), ..Match::default() },
                2 => Match { destination: set(), ..Match::default() },
                3 => Match { destination_port: port(), protocols: Some(vec![6]), ..Match::default() },
                4 => Match { source: set(), destination_port: port(), ..Match::default() },
                _ => Match { from: Some(Zones(1 << (n % 64))), source_port: port(), ..Match::default() },
            };
            (m, true)
        };
        let rules: Vec<_> = conditions.into_iter().map(rule).collect();
        compare(&rules, &packets)?;
    }
}

/// Ten thousand rules of several shapes: what a tree may cost, and what it must save.
#[test]
fn large_lists() {
    let net = |a: u32, bits: u32| Some(AddressSet::new([(V4(a).ip(), V4(a | ((1 << bits) - 1)).ip())]));
    let port = |a: u32, n: u32| Some(PortSet::new([(a as u16, (a as u16).saturating_add(n as u16))]));
    // A sequence without pattern.
    let mut state = 1u32;
    let mut draw = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 4
    };
    let mut shapes: Vec<(&str, Vec<Match>, usize)> = Vec::new();
    let many = |f: &mut dyn FnMut(u32) -> Match| (0..10_000).map(f).collect::<Vec<_>>();
    shapes.push(("destinations", many(&mut |i| Match { destination: net(i << 8, 8), ..Match::default() }), 2));
    shapes.push(("ports", many(&mut |i| Match { destination_port: port(i * 6, 0), ..Match::default() }), 2));
    shapes.push((
        "either end",
        many(&mut |i| {
            let set = net(i << 10, 6);
            match i % 2 {
                0 => Match { source: set, ..Match::default() },
                _ => Match { destination: set, protocols: Some(vec![6]), ..Match::default() },
            }
        }),
        4,
    ));
    shapes.push((
        "nested",
        many(&mut |i| {
            // The longest prefixes first, as it should be.
            let bits = 4 + i / 500;
            Match { destination: net(draw() >> bits << bits, bits), ..Match::default() }
        }),
        100,
    ));
    shapes.push((
        "a grid",
        many(&mut |i| Match {
            source: net((i / 100) << 16, 16),
            destination: net((i % 100) << 16, 16),
            ..Match::default()
        }),
        2,
    ));
    shapes.push((
        "ranges of ports on hosts",
        many(&mut |i| Match {
            destination: net(i % 500, 0),
            destination_port: port(draw() % 60_000, draw() % 5000),
            ..Match::default()
        }),
        25,
    ));
    let mut state = 7u32;
    for (name, rules, bound) in shapes {
        let list: Vec<_> = rules.iter().map(|m| (m, true)).collect();
        let c = Classifier::new(&list);
        assert!(c.size() < 8 << 20, "{name}: {} bytes", c.size());
        let mut most = 0;
        let mut sum = 0;
        for n in 0..20_000u32 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let pick = |m: &Option<AddressSet>, other: u32| {
                m.as_ref().map_or(V4(other), |s| V4(s.ranges_v4()[0].0.0.wrapping_add(other & 7)))
            };
            let m = &rules[state as usize % rules.len()];
            let p = m.destination_port.as_ref().map_or(n as u16, |s| s.ranges()[0].0);
            let f = Facts {
                source: pick(&m.source, state),
                destination: pick(&m.destination, state >> 3),
                protocol: 6,
                source_port: Some(4000),
                destination_port: Some(p),
                icmp: None,
                tcp_flags: Some(2),
                from: 0,
                to: Some(1),
                state: CtState::New,
                status: Status::default(),
                mark: 0,
            };
            let mut lists = ArrayVec::new();
            c.v4.lists(c.v4.root, &Values::of(&f), &mut lists);
            let asked = lists.iter().map(|l| l.len()).sum();
            most = most.max(asked);
            sum += asked;
        }
        println!("{name}: {} bytes, {:.1} candidates on average, {most} at most", c.size(), sum as f64 / 2e4);
        assert!(most <= bound, "{name}: {most} candidates");
    }
}
