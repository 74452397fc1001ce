//! What a decision tree can look at, as numbers.

use super::super::{AddressSet, Facts, Match, PortSet};
use crate::packet::Address;

/// Something about a packet that a rule may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in super::super) enum Dimension {
    From = 0,
    To = 1,
    State = 2,
    Protocol = 3,
    DestinationPort = 4,
    SourcePort = 5,
    Destination = 6,
    Source = 7,
}

/// How many there are.
pub(super) const DIMENSIONS: usize = 8;
/// The value of an egress zone that is not known.
const NO_ZONE: u128 = 64;
/// The value of a port that a protocol does not have.
const NO_PORT: u128 = 65_536;

/// Conditions that are to be compared: a bit for each dimension, and one for all that is in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in super::super) struct Need(u16);

impl Need {
    /// None.
    pub(in super::super) const NOTHING: Need = Need(0);
    /// All of them.
    pub(in super::super) const ALL: Need = Need(0x1ff);
    const OTHERS: u16 = 1 << DIMENSIONS;

    /// Whether the dimension's condition is to be compared.
    #[inline]
    pub(in super::super) fn has(self, d: Dimension) -> bool {
        self.0 >> d as u8 & 1 == 1
    }

    /// Whether those that are in no dimension are.
    #[inline]
    pub(in super::super) fn has_others(self) -> bool {
        self.0 & Self::OTHERS != 0
    }

    #[must_use]
    pub(super) fn with(self, d: Dimension) -> Self {
        Need(self.0 | 1 << d as u8)
    }

    #[must_use]
    pub(super) fn with_others(self) -> Self {
        Need(self.0 | Self::OTHERS)
    }

    /// Those that are not in the other.
    #[must_use]
    pub(super) fn but(self, other: Need) -> Self {
        Need(self.0 & !other.0)
    }

    #[must_use]
    pub(super) fn without(self, d: Dimension) -> Self {
        Need(self.0 & !(1 << d as u8))
    }
}

/// Values of a dimension that a rule matches: sorted, disjoint, inclusive ranges.
pub(super) type Ranges = Vec<(u128, u128)>;

impl Dimension {
    pub(super) const ALL: [Dimension; DIMENSIONS] = [
        Dimension::From,
        Dimension::To,
        Dimension::State,
        Dimension::Protocol,
        Dimension::DestinationPort,
        Dimension::SourcePort,
        Dimension::Destination,
        Dimension::Source,
    ];

    /// A packet's value.
    #[inline(always)]
    pub(super) fn value<A: Address>(self, f: &Facts<A>) -> u128 {
        match self {
            Dimension::From => f.from.into(),
            Dimension::To => f.to.map_or(NO_ZONE, Into::into),
            Dimension::State => f.state as u128,
            Dimension::Protocol => f.protocol.into(),
            Dimension::DestinationPort => f.destination_port.map_or(NO_PORT, Into::into),
            Dimension::SourcePort => f.source_port.map_or(NO_PORT, Into::into),
            Dimension::Destination => f.destination.number(),
            Dimension::Source => f.source.number(),
        }
    }

    /// The highest value.
    pub(super) fn highest<A: Address>(self) -> u128 {
        match self {
            Dimension::From | Dimension::To => NO_ZONE,
            Dimension::State => 7,
            Dimension::Protocol => 255,
            Dimension::DestinationPort | Dimension::SourcePort => NO_PORT,
            Dimension::Destination | Dimension::Source => A::default().offset_wide(u128::MAX).number(),
        }
    }

    /// What a rule asks for; `None` for anything. False when it also has addresses that are known only later.
    pub(super) fn ranges<A: Address>(self, m: &Match) -> Option<(Ranges, bool)> {
        let ports = |s: &PortSet| s.ranges().iter().map(|(a, b)| (u128::from(*a), u128::from(*b))).collect();
        let fixed = |r: Ranges| (r, true);
        match self {
            Dimension::From => m.from.map(|z| fixed(bits(z.0))),
            Dimension::To => m.to.map(|z| fixed(bits(z.0))),
            Dimension::State => m.states.map(|s| fixed(bits(s.0.into()))),
            Dimension::Protocol => m.protocols.as_ref().map(|p| {
                let mut sorted = p.clone();
                sorted.sort_unstable();
                fixed(values(&sorted))
            }),
            Dimension::DestinationPort => m.destination_port.as_ref().map(|s| fixed(ports(s))),
            Dimension::SourcePort => m.source_port.as_ref().map(|s| fixed(ports(s))),
            Dimension::Destination => m.destination.as_ref().map(addresses::<A>),
            Dimension::Source => m.source.as_ref().map(addresses::<A>),
        }
    }
}

fn addresses<A: Address>(set: &AddressSet) -> (Ranges, bool) {
    let ranges = match A::V6 {
        false => set.ranges_v4().iter().map(|(a, b)| (a.number(), b.number())).collect(),
        true => set.ranges_v6().iter().map(|(a, b)| (a.number(), b.number())).collect(),
    };
    (ranges, set.interfaces().is_empty())
}

/// The ranges of the bits that are set.
fn bits(mask: u64) -> Ranges {
    let set: Vec<u8> = (0..64).filter(|i| mask >> i & 1 == 1).collect();
    values(&set)
}

/// The ranges of sorted values.
fn values(all: &[u8]) -> Ranges {
    let mut out: Ranges = Vec::new();
    for v in all.iter().map(|v| u128::from(*v)) {
        match out.last_mut() {
            Some(last) if last.1 + 1 >= v => last.1 = v,
            _ => out.push((v, v)),
        }
    }
    out
}
