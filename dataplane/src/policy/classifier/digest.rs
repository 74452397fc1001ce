//! The conditions of a rule in a cache line, as far as they are simple: what most rules ask for.

use super::dimension::{DIMENSIONS, Dimension, Need};
use crate::packet::{Address, V4};
use crate::policy::{Facts, Match};

/// Protocols that fit.
const PROTOCOLS: usize = 4;

/// What a packet has in each dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Values<A>([A; DIMENSIONS]);

impl<A: Address> Values<A> {
    #[inline]
    pub(in super::super) fn of(f: &Facts<A>) -> Self {
        Values(Dimension::ALL.map(
            #[inline(always)]
            |d| A::from_number(d.value(f)),
        ))
    }

    #[inline]
    pub(super) fn get(&self, d: Dimension) -> A {
        self.0[d as usize]
    }

    /// A value that is no address.
    #[inline]
    fn small(&self, d: Dimension) -> u32 {
        self.get(d).number() as u32
    }
}

/// Conditions of a rule. What does not fit, or is not asked for, holds here; it is compared with the rule itself.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Digest<A> {
    from: u64,
    to: u64,
    destination: (A, A),
    source: (A, A),
    destination_port: (u32, u32),
    source_port: (u32, u32),
    protocols: [u8; PROTOCOLS],
    states: u8,
    /// Any protocol will do, any egress zone, also one that is not known.
    any_protocol: bool,
    any_to: bool,
    /// The dimensions whose conditions are here.
    holds: Need,
}

const _: () = assert!(size_of::<Digest<V4>>() == 64);

impl<A: Address> Digest<A> {
    pub(super) fn of(m: &Match) -> Self {
        let all = (A::from_number(0), A::from_number(u128::MAX));
        let mut d = Digest {
            from: m.from.map_or(u64::MAX, |z| z.0),
            to: m.to.map_or(0, |z| z.0),
            destination: all,
            source: all,
            destination_port: (0, u32::MAX),
            source_port: (0, u32::MAX),
            protocols: [0; PROTOCOLS],
            states: m.states.map_or(u8::MAX, |s| s.0),
            any_protocol: true,
            any_to: m.to.is_none(),
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
            if let Some([(a, b)]) = set.as_ref().map(|s| s.ranges()) {
                *slot = ((*a).into(), (*b).into());
                d.holds = d.holds.with(dimension);
            }
        }
        if let Some(all @ [first, ..]) = m.protocols.as_deref()
            && all.len() <= PROTOCOLS
        {
            d.protocols = [*first; PROTOCOLS];
            d.protocols[..all.len()].copy_from_slice(all);
            d.any_protocol = false;
            d.holds = d.holds.with(Dimension::Protocol);
        }
        d
    }

    /// Compares the conditions that it has; those of the needed ones that remain, `None` when one does not hold.
    #[inline(always)]
    pub(super) fn compare(&self, need: Need, v: &Values<A>) -> Option<Need> {
        let within = |range: (A, A), a: A| (range.0 <= a) & (a <= range.1);
        let port = |range: (u32, u32), d| (range.0 <= v.small(d)) & (v.small(d) <= range.1);
        let protocol = || self.protocols.contains(&(v.small(Dimension::Protocol) as u8));
        // An egress zone that is not known has a number that no zone has.
        let to = v.small(Dimension::To);
        let to = (self.to >> (to & 63)) as u32 & u32::from(to < 64) | u32::from(self.any_to);
        // Where a packet comes from and goes, and its state, are what most rules tell apart.
        let first = self.from >> (v.small(Dimension::From) & 63)
            & u64::from(self.states >> (v.small(Dimension::State) & 7))
            & u64::from(to);
        let holds = first & 1 == 1
            && within(self.destination, v.get(Dimension::Destination))
                & within(self.source, v.get(Dimension::Source))
                & port(self.destination_port, Dimension::DestinationPort)
                & port(self.source_port, Dimension::SourcePort)
            && (self.any_protocol || protocol());
        holds.then(|| need.but(self.holds))
    }
}
