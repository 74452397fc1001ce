//! Addresses of the gateway host, and which of them packets of translated connections may carry.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dataplane::packet::{Address, V4, V6};
use dataplane::policy::{
    AddressSet, DestinationTranslation, Family, Match, Policy, PrefixMap, SourceTranslation, ZoneId,
};
use dataplane::route::Interface;

/// The host's addresses. `true` marks those that source or destination translation uses: frames for
/// them go to the workers first, frames for the others straight to the kernel.
pub(crate) type LocalAddresses = BTreeMap<IpAddr, bool>;

/// Whether a translation of the policy may use the host's address `a`: as an address of the interface a
/// masquerade rule sends to, as one of a pool or an outside prefix, as a destination that is translated, or
/// as the source of connections that turn round on the interface.
pub(crate) fn is_translated(policy: &Policy, interfaces: &[Interface], a: IpAddr) -> bool {
    if matches!(a, IpAddr::V6(x) if x.is_unicast_link_local()) {
        return false;
    }
    // Each interface that has the address, with its zone.
    let carriers = || policy.interfaces.iter().zip(interfaces).filter(|(_, i)| carries(i, a)).map(|(p, _)| p.zone);
    let by_source = policy.source_nat.iter().map(|rule| (&rule.matcher, &rule.translate));
    let by_destination = policy.destination_nat.iter().filter_map(|rule| Some((&rule.matcher, rule.source.as_ref()?)));
    let mut rules = by_source.chain(by_destination).filter(|(matcher, _)| matcher.concerns(Family::of(a)));
    let source = rules.any(|(matcher, translate)| match translate {
        SourceTranslation::None => false,
        SourceTranslation::Masquerade(_) => carriers().any(|zone| matcher.to.is_none_or(|z| z.contains(zone))),
        SourceTranslation::Pool { addresses, .. } => addresses.iter().any(|(first, last)| *first <= a && a <= *last),
        SourceTranslation::Prefix(map) => outside(map, a),
    });
    source
        || carriers().any(|zone| turns_round(policy, zone, Family::of(a)))
        || policy.destination_nat.iter().any(|rule| {
            let translates = match &rule.translate {
                DestinationTranslation::None => false,
                DestinationTranslation::To { addresses, .. } => addresses.iter().any(|to| to.is_ipv4() == a.is_ipv4()),
                DestinationTranslation::Prefix(map) => outside(map, a),
                DestinationTranslation::Redirect { port } => {
                    port.is_some() || redirection_changes(&rule.matcher, policy, interfaces, a)
                }
            };
            translates
                && rule.matcher.concerns(Family::of(a))
                && rule.matcher.destination.as_ref().is_none_or(|s| in_set(s, interfaces, a))
        })
}

/// Whether connections may come from an interface of the zone and be translated back to where they came from; they
/// get the interface's address as their source when no rule says otherwise.
fn turns_round(policy: &Policy, zone: ZoneId, family: Family) -> bool {
    let from = |m: &Match| m.concerns(family) && m.from.is_none_or(|z| z.contains(zone));
    let forward = policy.destination_nat.iter().any(|rule| {
        let translates = match &rule.translate {
            DestinationTranslation::None => false,
            DestinationTranslation::To { addresses, .. } => addresses.iter().any(|to| Family::of(*to) == family),
            DestinationTranslation::Prefix(map) => Family::of(map.inside) == family,
            DestinationTranslation::Redirect { .. } => false,
        };
        translates && from(&rule.matcher)
    });
    let mapping = policy.source_nat.iter().any(|rule| match &rule.translate {
        SourceTranslation::Masquerade(choice) | SourceTranslation::Pool { choice, .. } => {
            choice.independent.is_some() && from(&rule.matcher)
        }
        SourceTranslation::None | SourceTranslation::Prefix(_) => false,
    });
    forward || mapping
}

/// Whether a redirection that keeps ports changes anything about packets to `a`: it leads to the primary address
/// of the interface they come in on, which that may be.
fn redirection_changes(m: &Match, policy: &Policy, interfaces: &[Interface], a: IpAddr) -> bool {
    let mut from = policy.interfaces.iter().zip(interfaces).filter(|(p, _)| m.from.is_none_or(|z| z.contains(p.zone)));
    from.any(|(_, i)| match a {
        IpAddr::V4(_) => i.primary_address() != V4::from_ip(a),
        IpAddr::V6(_) => i.primary_address() != V6::from_ip(a),
    })
}

/// Whether `a` lies in the outside prefix of a translation.
fn outside(map: &PrefixMap, a: IpAddr) -> bool {
    fn same<A: Address>(a: IpAddr, b: IpAddr, length: u8) -> bool {
        match (A::from_ip(a), A::from_ip(b)) {
            (Some(a), Some(b)) => a.masked(length) == b.masked(length),
            _ => false,
        }
    }
    same::<V4>(a, map.outside, map.length) || same::<V6>(a, map.outside, map.length)
}

fn carries(i: &Interface, a: IpAddr) -> bool {
    match a {
        IpAddr::V4(x) => i.v4.iter().any(|(y, _)| *y == V4(x.into())),
        IpAddr::V6(x) => i.v6.iter().any(|(y, _)| *y == V6::from_bits(x.into())),
    }
}

fn in_set(s: &AddressSet, interfaces: &[Interface], a: IpAddr) -> bool {
    match a {
        IpAddr::V4(x) => s.contains(V4(x.into()), interfaces),
        IpAddr::V6(x) => s.contains(V6::from_bits(x.into()), interfaces),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::policy::{DestinationNat, Filtering, InterfacePolicy, PortChoice, SourceNat, Zones};

    /// Two interfaces in zones 0 and 1.
    fn zones() -> Vec<InterfacePolicy> {
        [0, 1].map(|zone| InterfacePolicy { zone, ..InterfacePolicy::default() }).to_vec()
    }

    fn policy(translate: SourceTranslation, to: Option<Zones>) -> Policy {
        let matcher = Match { to, ..Match::default() };
        let source_nat = vec![SourceNat { name: "s".into(), matcher, translate, ..SourceNat::default() }];
        Policy { interfaces: zones(), source_nat, ..Policy::default() }
    }

    #[test]
    fn masquerade_uses_the_egress_zone_only() {
        let interfaces = [
            Interface { v4: vec![(V4(0x0a00_0001), 24)], ..Interface::default() },
            Interface { v4: vec![(V4(0xc633_6401), 24)], ..Interface::default() },
        ];
        let p = policy(SourceTranslation::Masquerade(PortChoice::default()), Some(Zones(0b10)));
        assert!(is_translated(&p, &interfaces, "198.51.100.1".parse().unwrap()));
        assert!(!is_translated(&p, &interfaces, "10.0.0.1".parse().unwrap()));
        let mut six = interfaces.to_vec();
        six[1].v6 = ["2001:db8::1", "fe80::1"].map(|a| (V6::from_ip(a.parse().unwrap()).unwrap(), 64)).to_vec();
        let mut p = p;
        assert!(is_translated(&p, &six, "2001:db8::1".parse().unwrap()));
        assert!(!is_translated(&p, &six, "fe80::1".parse().unwrap()));
        let inside = ("10.0.0.0".parse().unwrap(), "10.0.0.255".parse().unwrap());
        p.source_nat[0].matcher.source = Some(AddressSet::new([inside]));
        assert!(!is_translated(&p, &six, "2001:db8::1".parse().unwrap()), "the rule is about IPv4");
        assert!(is_translated(&p, &six, "198.51.100.1".parse().unwrap()));
        let p = policy(SourceTranslation::None, None);
        assert!(!is_translated(&p, &interfaces, "198.51.100.1".parse().unwrap()));
    }

    #[test]
    fn pools_and_destinations() {
        let range = ("203.0.113.8".parse().unwrap(), "203.0.113.15".parse().unwrap());
        let mut p = policy(SourceTranslation::Pool { addresses: vec![range], choice: PortChoice::default() }, None);
        assert!(is_translated(&p, &[], "203.0.113.9".parse().unwrap()));
        assert!(!is_translated(&p, &[], "203.0.113.16".parse().unwrap()));
        p.destination_nat.push(DestinationNat {
            name: "d".into(),
            matcher: Match { destination: Some(AddressSet::new([range])), ..Match::default() },
            translate: DestinationTranslation::To { addresses: vec!["10.0.0.2".parse().unwrap()], port: None },
            ..DestinationNat::default()
        });
        p.source_nat.clear();
        assert!(is_translated(&p, &[], "203.0.113.15".parse().unwrap()));
        assert!(!is_translated(&p, &[], "203.0.113.7".parse().unwrap()));
        p.destination_nat[0].matcher.destination = None;
        assert!(is_translated(&p, &[], "203.0.113.7".parse().unwrap()));
        assert!(!is_translated(&p, &[], "2001:db8::1".parse().unwrap()));
        p.destination_nat[0].translate = DestinationTranslation::None;
        assert!(!is_translated(&p, &[], "203.0.113.7".parse().unwrap()));
    }

    #[test]
    fn hairpins_without_a_rule() {
        let interfaces = [
            Interface { v4: vec![(V4(0x0a00_0001), 24)], ..Interface::default() },
            Interface { v4: vec![(V4(0xc633_6401), 24)], ..Interface::default() },
        ];
        let lan = "10.0.0.1".parse().unwrap();
        let forward = |from| DestinationNat {
            name: "d".into(),
            matcher: Match {
                from: Some(from),
                destination: Some(AddressSet::new([(
                    "198.51.100.1".parse().unwrap(),
                    "198.51.100.1".parse().unwrap(),
                )])),
                ..Match::default()
            },
            translate: DestinationTranslation::To { addresses: vec!["10.0.0.2".parse().unwrap()], port: None },
            ..DestinationNat::default()
        };
        for (zones, expected) in [(Zones(0b11), true), (Zones(0b10), false)] {
            let p = Policy { interfaces: self::zones(), destination_nat: vec![forward(zones)], ..Policy::default() };
            assert_eq!(is_translated(&p, &interfaces, lan), expected);
        }
        let independent = |independent| {
            policy(
                SourceTranslation::Masquerade(PortChoice { independent, ..PortChoice::default() }),
                Some(Zones(0b10)),
            )
        };
        assert!(is_translated(&independent(Some(Filtering::EndpointIndependent)), &interfaces, lan));
        assert!(!is_translated(&independent(None), &interfaces, lan));
    }

    #[test]
    fn outside_prefixes() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let four = PrefixMap { inside: ip("10.1.0.0"), outside: ip("203.0.112.0"), length: 22, neutral: false };
        let six = PrefixMap { inside: ip("fd00::"), outside: ip("2001:db8::"), length: 48, neutral: true };
        for (map, yes, no) in [(four, "203.0.115.1", "10.1.0.1"), (six, "2001:db8::1", "2001:db8:1::1")] {
            let p = policy(SourceTranslation::Prefix(map), None);
            assert!(is_translated(&p, &[], ip(yes)) && !is_translated(&p, &[], ip(no)));
            let destination = DestinationNat {
                name: "d".into(),
                matcher: Match::default(),
                translate: DestinationTranslation::Prefix(map),
                ..DestinationNat::default()
            };
            let p = Policy { destination_nat: vec![destination], ..Policy::default() };
            assert!(is_translated(&p, &[], ip(yes)) && !is_translated(&p, &[], ip(no)));
        }
    }
}
