use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::packet::V4;

fn flow(src: u32, sport: u16, proto: u8) -> Key<V4> {
    Key { tuple: Tuple { src: V4(src), dst: V4(0x0808_0808), sport, dport: 0x0800 }, proto }
}

#[test]
fn keeps_the_port_or_its_class() {
    for (sport, class) in [(80, 1..=511), (700, 600..=1023), (40_000, 1024..=65_535)] {
        let mut taken = HashSet::new();
        let pool = [(V4(1), V4(1))];
        let r = Range { addresses: &pool, ports: None, random: false, persistent: false, reserved: None, moved: None };
        let rng = Random::default();
        let first = source(&flow(10, sport, protocol::UDP), &r, &rng, |k| taken.insert(*k)).unwrap();
        assert_eq!(first.tuple.dport, sport);
        let second = source(&flow(11, sport, protocol::UDP), &r, &rng, |k| taken.insert(*k)).unwrap();
        assert!(second.tuple.dport != sport && class.contains(&second.tuple.dport));
        for port in [first.tuple.dport, second.tuple.dport] {
            assert!(permits(&flow(11, sport, protocol::UDP), &pool, None, (V4(1), port)));
        }
        assert!(!permits(&flow(11, sport, protocol::UDP), &pool, None, (V4(2), sport)));
        assert!(!permits(&flow(11, sport, protocol::UDP), &pool, Some((1, 9)), (V4(1), sport)));
    }
}

#[test]
fn portless_protocols_have_one_flow_an_address() {
    let mut taken = HashSet::new();
    let pool = [(V4(1), V4(2))];
    let r = Range { addresses: &pool, ports: None, random: false, persistent: false, reserved: None, moved: None };
    let rng = Random::default();
    let mut next = |n| {
        source(&Key { tuple: Tuple { src: V4(n), dst: V4(9), sport: 0, dport: 0 }, proto: 50 }, &r, &rng, |k| {
            taken.insert(*k)
        })
    };
    assert!(next(10).is_some() && next(11).is_some() && next(12).is_none());
}

#[test]
fn reserved_ports_are_passed_over() {
    for (first, last, reserved, all) in [
        (10, 15, Some((12, 13)), vec![10, 11, 14, 15]),
        (10, 15, Some((1, 11)), vec![12, 13, 14, 15]),
        (10, 15, Some((14, 99)), vec![10, 11, 12, 13]),
        (10, 12, Some((20, 30)), vec![10, 11, 12]),
        (10, 12, Some((1, 99)), vec![10, 11, 12]),
        (10, 12, None, vec![10, 11, 12]),
        (65_534, 65_535, None, vec![65_534, 65_535]),
    ] {
        let p = Ports::new(first, last, reserved);
        assert_eq!((0..p.len()).map(|n| p.nth(n)).collect::<Vec<_>>(), all);
    }
    // With most ports reserved a source that must move always finds one.
    let pool = [(V4(1), V4(1))];
    let range = Range {
        addresses: &pool,
        ports: None,
        random: false,
        persistent: false,
        reserved: Some((1100, 65_000)),
        moved: None,
    };
    let rng = Random::default();
    for n in 0..200 {
        let mut taken = HashSet::from([source(&flow(9, 4000, 17), &range, &rng, |_| true).unwrap()]);
        assert!(source(&flow(n, 4000, 17), &range, &rng, |k| taken.insert(*k)).is_some());
    }
}

/// What happens to the table of translations.
#[derive(Debug, Clone)]
enum Event {
    Comes {
        source: u32,
        port: u16,
    },
    /// The oldest but so many.
    Goes(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (1u32..30, 1024u16..1100).prop_map(|(source, port)| Event::Comes { source, port }),
        1 => any::<usize>().prop_map(Event::Goes),
    ]
}

proptest! {
    /// Against a model that knows all there is to choose from: nothing is given out twice, a free port is
    /// kept, a source stays with its address, and refused is only who finds everything taken.
    #[test]
    fn against_a_model(
        events in proptest::collection::vec(event(), 1..300),
        ports in proptest::option::of((1030u16..1060, 0u16..40)),
        gap in proptest::option::of((1020u16..1100, 0u16..65_000)),
        random: bool, persistent: bool,
    ) {
        let pool = [(V4(0xc000_0001), V4(0xc000_0002)), (V4(0xc000_0009), V4(0xc000_0009))];
        let ports = ports.map(|(first, more)| (first, first + more));
        let reserved = gap.map(|(first, more)| (first, first.saturating_add(more)));
        let r = Range { addresses: &pool, ports, random, persistent, reserved, moved: None };
        let (first, last) = ports.unwrap_or((1024, u16::MAX));
        let kept_clear = |p: u16| ports.is_none() && reserved.is_some_and(|(a, b)| (a..=b).contains(&p));
        // Where everything is reserved it is as if nothing were.
        let choice: Vec<u16> = match (first..=last).filter(|p| !kept_clear(*p)).collect::<Vec<_>>() {
            all if all.is_empty() => (first..=last).collect(),
            some => some,
        };
        let mut live: Vec<Key<V4>> = Vec::new();
        for e in events {
            let (source, port) = match e {
                Event::Comes { source, port } => (source, port),
                Event::Goes(n) => {
                    if !live.is_empty() {
                        live.remove(n % live.len());
                    }
                    continue;
                }
            };
            let keeps = !random && ports.is_none_or(|(a, b)| (a..=b).contains(&port));
            let taken = |a: V4, p: u16| live.iter().any(|k| (k.tuple.dst, k.tuple.dport) == (a, p));
            let full = |a: V4| choice.iter().all(|p| taken(a, *p));
            let f = flow(source, port, protocol::UDP);
            let (home, _) = source_of(&f, &r, |_| true).unwrap();
            match source_of(&f, &r, |k| !live.contains(k)) {
                Some((a, p)) => {
                    prop_assert!(!taken(a, p));
                    prop_assert!(pool.iter().any(|(x, y)| (*x..=*y).contains(&a)));
                    prop_assert!(choice.contains(&p) || (keeps && p == port));
                    prop_assert!(p == port || !keeps || taken(home, port), "a free port is kept");
                    let refused = full(home) && (!keeps || taken(home, port));
                    prop_assert!(a == home || (!persistent && refused), "a source stays with its address");
                    live.push(Key { tuple: Tuple { dst: a, dport: p, ..f.inverse().unwrap().tuple }, ..f });
                }
                None => {
                    let mut all = pool.iter().flat_map(|(a, b)| (a.0..=b.0).map(V4));
                    prop_assert!(all.all(|a| full(a) || (persistent && a != home)), "there is something left");
                }
            }
        }
    }
}

/// The address and port that a flow's source is translated to.
fn source_of(flow: &Key<V4>, r: &Range<'_, V4>, claim: impl FnMut(&Key<V4>) -> bool) -> Option<(V4, u16)> {
    let k = source(flow, r, &Random::default(), claim)?;
    Some((k.tuple.dst, k.tuple.dport))
}
