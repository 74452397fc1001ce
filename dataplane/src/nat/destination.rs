//! Destination translation: port forwards, prefixes.

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;

use ahash::RandomState;

use super::prefix;
use crate::conntrack::Key;
use crate::packet::{Ip, protocol};
use crate::policy::{DestinationNat, DestinationTranslation};

/// The flow with its destination translated by `rule`; `None` when the rule has nothing for its family. `own` is
/// the address of the gateway host that a redirection leads to.
///
/// A forward of a port range to a first port keeps each port's distance from the range's first.
pub fn destination<A: Ip>(rule: &DestinationNat, flow: &Key<A>, own: Option<A>) -> Option<Key<A>> {
    let mut translated = *flow;
    match &rule.translate {
        DestinationTranslation::None => {}
        DestinationTranslation::Prefix(map) => translated.tuple.dst = prefix::inward(map, flow.tuple.dst)?,
        DestinationTranslation::To { addresses, port } => {
            translated.tuple.dst = A::from_ip(backend(addresses, flow.tuple.src.ip())?)?;
            translated.tuple.dport = shifted(rule, flow, *port);
        }
        DestinationTranslation::Redirect { port } => {
            translated.tuple.dst = own?;
            translated.tuple.dport = shifted(rule, flow, *port);
        }
    }
    Some(translated)
}

/// Whether `rule` may lead the flow to this address and port: to any of its backends, whichever it would
/// choose for a new flow.
pub fn may_lead_to<A: Ip>(rule: &DestinationNat, flow: &Key<A>, own: Option<A>, address: A, port: u16) -> bool {
    match &rule.translate {
        DestinationTranslation::To { addresses, port: to } => {
            addresses.contains(&address.ip()) && shifted(rule, flow, *to) == port
        }
        _ => destination(rule, flow, own).is_some_and(|k| (k.tuple.dst, k.tuple.dport) == (address, port)),
    }
}

/// The destination port when `rule` translates to `first` and the ports after it.
fn shifted<A: Ip>(rule: &DestinationNat, flow: &Key<A>, first: Option<u16>) -> u16 {
    let Some(first) = first.filter(|_| protocol::has_ports(flow.proto)) else { return flow.tuple.dport };
    let matched = rule.matcher.destination_port.as_ref().map_or(&[][..], |s| s.ranges());
    let range = matched.iter().find(|(a, b)| (*a..=*b).contains(&flow.tuple.dport));
    first.wrapping_add(range.map_or(0, |(a, _)| flow.tuple.dport - a))
}

/// The backend of a source: the one of highest weight for it (rendezvous hashing), so that a source always
/// meets the same one, and a backend that is added or taken away moves only its own sources.
fn backend(all: &[IpAddr], source: IpAddr) -> Option<IpAddr> {
    if all.len() == 1 {
        return all.first().copied();
    }
    // Fixed keys: the choice must outlive the daemon and agree between two gateways.
    let keys = RandomState::with_seeds(1, 2, 3, 4);
    let weight = |b: &&IpAddr| {
        let mut h = keys.build_hasher();
        for ip in [source, **b] {
            match ip {
                IpAddr::V4(a) => h.write_u32(a.into()),
                IpAddr::V6(a) => h.write_u128(a.into()),
            }
        }
        h.finish()
    };
    all.iter().max_by_key(weight).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_removed_backends_sources_move() {
        let ip = |net: u8, n: u8| IpAddr::from([10, net, 0, n]);
        let all: Vec<IpAddr> = (1..=5).map(|n| ip(1, n)).collect();
        let less: Vec<IpAddr> = all.iter().copied().filter(|a| *a != ip(1, 3)).collect();
        let mut counts = [0; 6];
        for n in 0..=255 {
            let before = backend(&all, ip(9, n)).unwrap();
            let after = backend(&less, ip(9, n)).unwrap();
            assert!(before == after || before == ip(1, 3));
            let IpAddr::V4(b) = before else { unreachable!() };
            counts[usize::from(b.octets()[3])] += 1;
        }
        assert!(counts[1..].iter().all(|n| (25..90).contains(n)), "{counts:?}");
    }
}
