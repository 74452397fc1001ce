//! Source translation: an address and port whose reply tuple nobody else uses (netfilter's `get_unique_tuple`).

use super::Random;
use crate::conntrack::{Key, Tuple};
use crate::packet::{Address, Ip, protocol};

/// Ports tried in a first round; each further round halves them (netfilter's `nf_nat_l4proto_unique_tuple`).
const ATTEMPTS: u32 = 128;
/// Addresses of a pool that are tried before the connection is refused.
const ADDRESSES: usize = 8;

/// What a source may be translated to.
#[derive(Debug, Clone, Copy)]
pub struct Range<'a, A> {
    /// Inclusive address ranges; never empty.
    pub addresses: &'a [(A, A)],
    /// Ports to choose from; `None` keeps the port or its class.
    pub ports: Option<(u16, u16)>,
    /// Choose a random port even when the source's own is free.
    pub random: bool,
    /// Choose no other address than the source's first.
    pub persistent: bool,
    /// Ports not to choose: the gateway host's own ephemeral ports, on an address it uses itself.
    pub reserved: Option<(u16, u16)>,
    /// What the same source's other connections were moved to: it keeps that towards other remotes, as
    /// netfilter's `find_appropriate_src` has it.
    pub moved: Option<(A, u16)>,
}

/// Chooses the source of a flow (its addresses after destination translation) and returns the key of its
/// replies. `claim` takes a reply key if nobody else has it. `None` when there is none to be had.
pub fn source<A: Ip>(
    flow: &Key<A>,
    range: &Range<'_, A>,
    random: &mut Random,
    mut claim: impl FnMut(&Key<A>) -> bool,
) -> Option<Key<A>> {
    let own = flow.tuple;
    let keyed = own_port_counts::<A>(flow.proto);
    // A range of ports speaks of ports, not of ICMP identifiers.
    let ports = range.ports.filter(|_| flow.proto != A::ICMP);
    let keeps = !keyed || (!range.random && ports.is_none_or(|(a, b)| (a..=b).contains(&own.sport)));
    let mut attempt = |src: A, sport: u16| {
        let k = Key { tuple: Tuple { src, sport, ..own }, proto: flow.proto }.inverse()?;
        claim(&k).then_some(k)
    };
    if keeps
        && range.addresses.iter().any(|(a, b)| (*a..=*b).contains(&own.src))
        && let Some(k) = attempt(own.src, own.sport)
    {
        return Some(k);
    }
    if let Some((a, port)) = range.moved.filter(|_| keyed && !range.random)
        && range.addresses.iter().any(|(x, y)| (*x..=*y).contains(&a))
        && ports.is_none_or(|(x, y)| (x..=y).contains(&port))
        && let Some(k) = attempt(a, port)
    {
        return Some(k);
    }
    let tries = if range.persistent { 1 } else { ADDRESSES };
    for address in addresses(range.addresses, own.src).take(tries) {
        if keeps && let Some(k) = attempt(address, own.sport) {
            return Some(k);
        }
        if !keyed {
            continue;
        }
        let (first, last) = ports.unwrap_or_else(|| class::<A>(flow.proto, own.sport));
        let reserved = range.reserved.filter(|_| ports.is_none() && flow.proto != A::ICMP);
        let choice = Ports::new(first, last, reserved);
        let size = choice.len();
        let mut attempts = size.min(ATTEMPTS);
        loop {
            let offset = random.draw();
            for i in 0..attempts {
                let port = choice.nth(offset.wrapping_add(i) % size);
                if let Some(k) = attempt(address, port) {
                    return Some(k);
                }
            }
            if attempts >= size || attempts < 16 {
                break;
            }
            attempts /= 2;
        }
    }
    None
}

/// Whether the flow may have this source address and port by what is offered: whether [`source`] could have
/// chosen them, if not now, then when other flows were about.
pub fn permits<A: Ip>(
    flow: &Key<A>,
    addresses: &[(A, A)],
    ports: Option<(u16, u16)>,
    (address, port): (A, u16),
) -> bool {
    let own = flow.tuple.sport;
    let fits = match ports.filter(|_| flow.proto != A::ICMP) {
        _ if !own_port_counts::<A>(flow.proto) => true,
        Some((first, last)) => (first..=last).contains(&port),
        None => {
            let (first, last) = class::<A>(flow.proto, own);
            port == own || (first..=last).contains(&port)
        }
    };
    fits && addresses.iter().any(|(a, b)| (*a..=*b).contains(&address))
}

/// The ports of a range without those of another, numbered from 0.
struct Ports {
    first: u16,
    last: u16,
    /// The part of the reserved range that lies within; empty when its ends are out of order.
    gap: (u16, u16),
}

impl Ports {
    fn new(first: u16, last: u16, reserved: Option<(u16, u16)>) -> Self {
        let gap = match reserved.map(|(a, b)| (a.max(first), b.min(last))) {
            // Where everything is reserved, that is better than nothing.
            Some((a, b)) if a <= b && (a, b) != (first, last) => (a, b),
            _ => (1, 0),
        };
        Ports { first, last, gap }
    }

    fn hidden(&self) -> u32 {
        if self.gap.0 <= self.gap.1 { u32::from(self.gap.1 - self.gap.0) + 1 } else { 0 }
    }

    fn len(&self) -> u32 {
        u32::from(self.last - self.first) + 1 - self.hidden()
    }

    fn nth(&self, n: u32) -> u16 {
        let port = u32::from(self.first) + n;
        let hidden = self.hidden();
        (if hidden > 0 && port >= u32::from(self.gap.0) { port + hidden } else { port }) as u16
    }
}

/// Whether the protocol has something like a source port that can be changed.
fn own_port_counts<A: Ip>(proto: u8) -> bool {
    protocol::has_ports(proto) || proto == A::ICMP
}

/// The class a port is replaced within (netfilter; RFC 4787 REQ-3a keeps well-known and other ports apart).
fn class<A: Ip>(proto: u8, port: u16) -> (u16, u16) {
    if proto == A::ICMP {
        return (0, u16::MAX);
    }
    match port {
        0..512 => (1, 511),
        512..1024 => (600, 1023),
        _ => (1024, u16::MAX),
    }
}

/// Addresses to try for a source, the same first one each time (RFC 4787 REQ-2, paired pooling).
fn addresses<A: Address>(ranges: &[(A, A)], src: A) -> impl Iterator<Item = A> {
    let total = ranges.iter().fold(0u64, |n, (a, b)| n.saturating_add(b.distance(*a).saturating_add(1)));
    // Consecutive sources spread evenly over the pool.
    let start = src.sum().wrapping_mul(0x9e37_79b9) % total.max(1);
    (0..total).filter_map(move |i| {
        let mut n = (start + i) % total;
        for (a, b) in ranges {
            let len = b.distance(*a).saturating_add(1);
            if n < len {
                return Some(a.offset(n));
            }
            n -= len;
        }
        None
    })
}

#[cfg(test)]
mod tests {
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
            let r =
                Range { addresses: &pool, ports: None, random: false, persistent: false, reserved: None, moved: None };
            let mut rng = Random::default();
            let first = source(&flow(10, sport, protocol::UDP), &r, &mut rng, |k| taken.insert(*k)).unwrap();
            assert_eq!(first.tuple.dport, sport);
            let second = source(&flow(11, sport, protocol::UDP), &r, &mut rng, |k| taken.insert(*k)).unwrap();
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
        let mut rng = Random::default();
        let mut next = |n| {
            source(&Key { tuple: Tuple { src: V4(n), dst: V4(9), sport: 0, dport: 0 }, proto: 50 }, &r, &mut rng, |k| {
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
        let mut rng = Random::default();
        for n in 0..200 {
            let mut taken = HashSet::from([source(&flow(9, 4000, 17), &range, &mut rng, |_| true).unwrap()]);
            assert!(source(&flow(n, 4000, 17), &range, &mut rng, |k| taken.insert(*k)).is_some());
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
            let chosen = |p: u16| {
                let kept_clear = ports.is_none() && reserved.is_some_and(|(a, b)| (a..=b).contains(&p));
                (first..=last).contains(&p) && !kept_clear
            };
            // Where everything is reserved it is as if nothing were.
            let any = (first..=last).any(chosen);
            let chosen = |p: u16| if any { chosen(p) } else { (first..=last).contains(&p) };
            let own = |source, port| source_of(&flow(source, port, protocol::UDP), &r, |_| true).unwrap().0;
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
                let home = own(source, port);
                let found = source_of(&flow(source, port, protocol::UDP), &r, |k| !live.contains(k));
                match found {
                    Some((a, p)) => {
                        prop_assert!(!taken(a, p));
                        prop_assert!(pool.iter().any(|(x, y)| (*x..=*y).contains(&a)));
                        prop_assert!(chosen(p) || (keeps && p == port));
                        let home_is_full = !(keeps && !taken(home, port)) && (first..=last).all(|p| !chosen(p) || taken(home, p));
                        prop_assert!(a == home || (!persistent && home_is_full));
                        prop_assert!(p == port || !keeps || taken(home, port));
                        let key = Key { tuple: Tuple { dst: a, dport: p, ..flow(0, 0, protocol::UDP).inverse().unwrap().tuple }, proto: protocol::UDP };
                        live.push(key);
                    }
                    None => {
                        let all = [V4(0xc000_0001), V4(0xc000_0002), V4(0xc000_0009)];
                        let mut open = all.iter().filter(|a| !persistent || **a == home).flat_map(|a| (first..=last).map(|p| (*a, p)));
                        prop_assert!(!open.any(|(a, p)| chosen(p) && !taken(a, p)));
                    }
                }
            }
        }
    }

    /// The address and port that a flow's source is translated to.
    fn source_of(flow: &Key<V4>, r: &Range<'_, V4>, claim: impl FnMut(&Key<V4>) -> bool) -> Option<(V4, u16)> {
        let k = source(flow, r, &mut Random::default(), claim)?;
        Some((k.tuple.dst, k.tuple.dport))
    }
}
