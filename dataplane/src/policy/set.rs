//! Sets of addresses and of ports, as sorted, disjoint ranges.

use std::net::IpAddr;
use std::sync::Arc;

use super::ranks::{Key, Ranks};
use super::{Family, InterfaceId, Place};
use crate::packet::{Address, V4, V6};
use crate::route::{FibFamily, Interface};

/// A set of addresses of both families: ranges, and the addresses that interfaces have at the moment. A clone
/// shares the ranges: many rules may name one large set.
#[derive(Debug, Clone, Default)]
pub struct AddressSet {
    v4: Arc<[(V4, V4)]>,
    v6: Arc<[(V6, V6)]>,
    /// For many ranges: where they begin and end, alternately.
    bounds4: Option<Arc<Ranks<V4>>>,
    bounds6: Option<Arc<Ranks<V6>>>,
    interfaces: Vec<InterfaceId>,
}

/// A set with its name.
#[derive(Debug, Clone)]
pub struct NamedSet {
    /// The name.
    pub name: String,
    /// Where it is written.
    pub place: Place,
    /// What is in it.
    pub members: Members,
}

/// What is in a named set.
#[derive(Debug, Clone)]
pub enum Members {
    /// Addresses.
    Addresses(AddressSet),
    /// Ports.
    Ports(PortSet),
}

impl Members {
    /// How many ranges it has, and interfaces.
    pub fn len(&self) -> usize {
        match self {
            Members::Addresses(a) => a.v4.len() + a.v6.len() + a.interfaces.len(),
            Members::Ports(p) => p.0.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// As many ranges are searched without further ado.
const FEW: usize = 16;

impl AddressSet {
    /// The set of all addresses in the inclusive `ranges`; a range whose ends differ in family or order is skipped.
    pub fn new(ranges: impl IntoIterator<Item = (IpAddr, IpAddr)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for r in ranges {
            match r {
                (IpAddr::V4(a), IpAddr::V4(b)) if a <= b => v4.push((V4(a.into()), V4(b.into()))),
                (IpAddr::V6(a), IpAddr::V6(b)) if a <= b => {
                    v6.push((V6::from_bits(a.into()), V6::from_bits(b.into())));
                }
                _ => {}
            }
        }
        let (v4, v6) = (disjoint(v4), disjoint(v6));
        AddressSet { bounds4: bounds(&v4), bounds6: bounds(&v6), v4: v4.into(), v6: v6.into(), interfaces: Vec::new() }
    }

    /// The set with the addresses of `interfaces` added, whatever they are at the moment.
    #[must_use]
    pub fn with_interfaces(mut self, interfaces: impl IntoIterator<Item = InterfaceId>) -> Self {
        self.interfaces.extend(interfaces);
        self.interfaces.sort_unstable();
        self.interfaces.dedup();
        self
    }

    /// Whether `a` is in the set; `live` are the interfaces as they are now.
    pub fn contains<A: FibFamily>(&self, a: A, live: &[Interface]) -> bool {
        let has = |i: &InterfaceId| {
            let all = live.get(usize::from(*i)).map_or(&[][..], A::addresses);
            all.iter().any(|(own, _)| *own == a)
        };
        let ranges = match a.ip() {
            IpAddr::V4(x) => holds(&self.v4, self.bounds4.as_deref(), V4(x.into())),
            IpAddr::V6(x) => holds(&self.v6, self.bounds6.as_deref(), V6::from_bits(x.into())),
        };
        ranges || self.interfaces.iter().any(has)
    }

    /// The interfaces whose addresses are in the set, sorted.
    pub fn interfaces(&self) -> &[InterfaceId] {
        &self.interfaces
    }

    /// Whether it has addresses of the family, or may have.
    pub fn concerns(&self, f: Family) -> bool {
        let ranges = match f {
            Family::V4 => !self.v4.is_empty(),
            Family::V6 => !self.v6.is_empty(),
        };
        ranges || !self.interfaces.is_empty()
    }

    /// The ranges of one family, sorted and disjoint, both ends inclusive.
    pub fn ranges_v4(&self) -> &[(V4, V4)] {
        &self.v4
    }

    /// The ranges of one family, sorted and disjoint, both ends inclusive.
    pub fn ranges_v6(&self) -> &[(V6, V6)] {
        &self.v6
    }
}

impl PartialEq for AddressSet {
    fn eq(&self, other: &Self) -> bool {
        self.v4 == other.v4 && self.v6 == other.v6 && self.interfaces == other.interfaces
    }
}

impl Eq for AddressSet {}

/// The first address of each of many ranges, and the first behind it.
fn bounds<A: Key>(ranges: &[(A, A)]) -> Option<Arc<Ranks<A>>> {
    let highest = A::from_number(u128::MAX);
    if ranges.len() <= FEW {
        return None;
    }
    let ends = ranges.iter().flat_map(|(a, b)| [Some(*a), (*b != highest).then(|| b.offset_wide(1))]);
    let keys: Vec<A> = ends.flatten().collect();
    Some(Arc::new(Ranks::new(&keys)))
}

fn holds<A: Key>(ranges: &[(A, A)], bounds: Option<&Ranks<A>>, a: A) -> bool {
    // An odd number of bounds: a range has begun and not ended.
    bounds.map_or_else(|| search(ranges, a), |b| b.rank(a) % 2 == 1)
}

fn search<A: Address>(ranges: &[(A, A)], a: A) -> bool {
    let i = ranges.partition_point(|r| r.0 <= a);
    i > 0 && a <= ranges[i - 1].1
}

fn disjoint<A: Address>(mut ranges: Vec<(A, A)>) -> Vec<(A, A)> {
    ranges.sort_unstable();
    let mut out: Vec<(A, A)> = Vec::with_capacity(ranges.len());
    for (a, b) in ranges {
        match out.last_mut() {
            Some(last) if a <= last.1 || last.1.offset_wide(1) == a => last.1 = last.1.max(b),
            _ => out.push((a, b)),
        }
    }
    out
}

/// A set of ports: sorted, disjoint, inclusive ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    /// The set of all ports in the inclusive `ranges`.
    pub fn new(ranges: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let mut v: Vec<(u16, u16)> = ranges.into_iter().filter(|r| r.0 <= r.1).collect();
        v.sort_unstable();
        let mut out: Vec<(u16, u16)> = Vec::with_capacity(v.len());
        for (a, b) in v {
            match out.last_mut() {
                Some(last) if a <= last.1 => last.1 = last.1.max(b),
                _ => out.push((a, b)),
            }
        }
        PortSet(out)
    }

    /// Whether `p` is in the set.
    pub fn contains(&self, p: u16) -> bool {
        let i = self.0.partition_point(|r| r.0 <= p);
        i > 0 && p <= self.0[i - 1].1
    }

    /// The ranges, sorted and disjoint, both ends inclusive.
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn many_ranges_are_looked_up_as_few(
            ranges in proptest::collection::vec((any::<u32>(), 0..1u32 << 24), 0..400),
            near in proptest::collection::vec((any::<prop::sample::Index>(), -2i64..=2), 50),
        ) {
            let all: Vec<(V4, V4)> = ranges.iter().map(|(a, n)| (V4(*a), V4(a.saturating_add(*n)))).collect();
            let four = AddressSet::new(all.iter().map(|(a, b)| (a.ip(), b.ip())));
            let wide = |a: V4| V6::from_bits(u128::from(a.0) << 96 | 7);
            let six = AddressSet::new(all.iter().map(|(a, b)| (wide(*a).ip(), wide(*b).ip())));
            for (i, d) in near {
                let Some((a, b)) = (!all.is_empty()).then(|| i.get(&all)) else { continue };
                for end in [a, b] {
                    let x = V4((i64::from(end.0) + d).clamp(0, i64::from(u32::MAX)) as u32);
                    let expected = all.iter().any(|(a, b)| *a <= x && x <= *b);
                    prop_assert_eq!(four.contains(x, &[]), expected);
                    prop_assert_eq!(six.contains(wide(x), &[]), expected);
                }
            }
        }

        #[test]
        fn the_last_address(ranges in 17..40u32) {
            let each = |i: u32| (V4(i * 10).ip(), V4(i * 10 + 5).ip());
            let set = AddressSet::new((0..ranges).map(each).chain([(V4(u32::MAX - 3).ip(), V4(u32::MAX).ip())]));
            prop_assert!(set.contains(V4(u32::MAX), &[]) && set.contains(V4(u32::MAX - 3), &[]));
            prop_assert!(!set.contains(V4(u32::MAX - 4), &[]) && set.contains(V4(0), &[]) && !set.contains(V4(6), &[]));
        }
    }
}
