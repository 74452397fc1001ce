//! The conditions of a rule in a cache line, as far as they are simple: what most rules ask for.

use super::dimension::{Dimension, Need};
use crate::packet::Address;
use crate::policy::Match;

/// Protocols that fit.
const PROTOCOLS: usize = 4;

/// Conditions of a rule. What does not fit is compared with the rule itself.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Digest<A> {
    from: u64,
    to: u64,
    destination: (A, A),
    source: (A, A),
    destination_port: (u16, u16),
    source_port: (u16, u16),
    protocols: [u8; PROTOCOLS],
    states: u8,
    /// The dimensions whose conditions are here.
    holds: Need,
}

impl<A: Address> Digest<A> {
    pub(super) fn of(m: &Match) -> Self {
        let mut d = Digest {
            from: m.from.map_or(0, |z| z.0),
            to: m.to.map_or(0, |z| z.0),
            destination: Default::default(),
            source: Default::default(),
            destination_port: (0, 0),
            source_port: (0, 0),
            protocols: [0; PROTOCOLS],
            states: m.states.map_or(0, |s| s.0),
            holds: Need::NOTHING.with(Dimension::From).with(Dimension::To).with(Dimension::State),
        };
        for (dimension, slot) in [(Dimension::Destination, &mut d.destination), (Dimension::Source, &mut d.source)] {
            if let Some((ranges, true)) = dimension.ranges::<A>(m)
                && let [(a, b)] = ranges[..]
            {
                *slot = (A::from_number(a), A::from_number(b));
                d.holds = d.holds.with(dimension);
            }
        }
        for (dimension, set, slot) in [
            (Dimension::DestinationPort, &m.destination_port, &mut d.destination_port),
            (Dimension::SourcePort, &m.source_port, &mut d.source_port),
        ] {
            if let Some([range]) = set.as_ref().map(|s| s.ranges()) {
                *slot = *range;
                d.holds = d.holds.with(dimension);
            }
        }
        if let Some(all @ [first, ..]) = m.protocols.as_deref()
            && all.len() <= PROTOCOLS
        {
            d.protocols = [*first; PROTOCOLS];
            d.protocols[..all.len()].copy_from_slice(all);
            d.holds = d.holds.with(Dimension::Protocol);
        }
        d
    }

    /// Compares the conditions that are needed and that it has; those that remain, `None` when one does not hold.
    #[inline]
    pub(super) fn compare(&self, need: Need, value: impl Fn(Dimension) -> A) -> Option<Need> {
        let here = need.and(self.holds);
        let small = |d: Dimension| value(d).number() as u32;
        let bit = |mask: u64, n: u32| n < 64 && mask >> n & 1 == 1;
        let port = |range: (u16, u16), p: u32| u32::from(range.0) <= p && p <= u32::from(range.1);
        let within = |range: (A, A), a: A| range.0 <= a && a <= range.1;
        let holds = (!here.has(Dimension::Destination) || within(self.destination, value(Dimension::Destination)))
            && (!here.has(Dimension::DestinationPort)
                || port(self.destination_port, small(Dimension::DestinationPort)))
            && (!here.has(Dimension::Protocol) || self.protocols.contains(&(small(Dimension::Protocol) as u8)))
            && (!here.has(Dimension::From) || bit(self.from, small(Dimension::From)))
            && (!here.has(Dimension::To) || bit(self.to, small(Dimension::To)))
            && (!here.has(Dimension::Source) || within(self.source, value(Dimension::Source)))
            && (!here.has(Dimension::State) || bit(self.states.into(), small(Dimension::State)))
            && (!here.has(Dimension::SourcePort) || port(self.source_port, small(Dimension::SourcePort)));
        holds.then(|| need.but(self.holds))
    }
}
