//! Source translation: an address and port whose reply tuple nobody else uses (netfilter's `get_unique_tuple`).

#[cfg(test)]
mod tests;

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
#[inline(always)]
pub fn source<A: Ip>(
    flow: &Key<A>,
    range: &Range<'_, A>,
    random: &Random,
    mut claim: impl FnMut(&Key<A>) -> bool,
) -> Option<Key<A>> {
    // Most often there is one address and nothing else to heed, and what is tried first is free.
    if let [(a, b)] = range.addresses
        && a == b
        && range.ports.is_none()
        && !range.random
        && range.moved.is_none()
        && let Some(k) = reply(flow, *a, flow.tuple.sport)
        && claim(&k)
    {
        return Some(k);
    }
    source_among(flow, range, random, &mut claim)
}

/// The key of a flow's replies, its source being translated to this.
#[inline(always)]
fn reply<A: Ip>(flow: &Key<A>, src: A, sport: u16) -> Option<Key<A>> {
    Key { tuple: Tuple { src, sport, ..flow.tuple }, proto: flow.proto }.inverse()
}

/// [`source`] among several that come into question.
#[inline(never)]
pub fn source_among<A: Ip>(
    flow: &Key<A>,
    range: &Range<'_, A>,
    random: &Random,
    claim: &mut dyn FnMut(&Key<A>) -> bool,
) -> Option<Key<A>> {
    let own = flow.tuple;
    let keyed = own_port_counts::<A>(flow.proto);
    // A range of ports speaks of ports, not of ICMP identifiers.
    let ports = range.ports.filter(|_| flow.proto != A::ICMP);
    let keeps = !keyed || (!range.random && ports.is_none_or(|(a, b)| (a..=b).contains(&own.sport)));
    let mut attempt = |src: A, sport: u16| {
        let k = reply(flow, src, sport)?;
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
    let start = if total <= 1 { 0 } else { src.sum().wrapping_mul(0x9e37_79b9) % total };
    (0..total).filter_map(move |i| {
        let mut n = if i < total - start { start + i } else { i - (total - start) };
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
