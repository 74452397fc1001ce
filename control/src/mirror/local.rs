//! Addresses of the gateway host, and which of them packets of translated connections may carry.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dataplane::packet::{V4, V6};
use dataplane::policy::{AddressSet, Match, Policy, SourceTranslation, Zones};
use dataplane::route::Interface;

/// The host's addresses. `true` marks those that source or destination translation uses: frames for
/// them go to the workers first, frames for the others straight to the kernel.
pub(crate) type LocalAddresses = BTreeMap<IpAddr, bool>;

/// Whether a translation of the policy may use the host's address `a`: as an address of the interface a
/// masquerade rule sends to, as one of a pool, or as a destination that is translated.
pub(super) fn is_translated(policy: &Policy, interfaces: &[Interface], a: IpAddr) -> bool {
    if matches!(a, IpAddr::V6(x) if x.is_unicast_link_local()) {
        return false;
    }
    let mut rules = policy.source_nat.iter().filter(|rule| concerns(&rule.matcher, a.is_ipv4()));
    let source = rules.any(|rule| match &rule.translate {
        SourceTranslation::None => false,
        SourceTranslation::Masquerade { .. } => interfaces.iter().any(|i| carries(i, a) && leads_to(&rule.matcher, i)),
        SourceTranslation::Pool { addresses, .. } => addresses.iter().any(|(first, last)| *first <= a && a <= *last),
    });
    source
        || policy.destination_nat.iter().any(|rule| {
            let family = rule.to.first().is_none_or(|to| to.is_ipv4() == a.is_ipv4());
            family && rule.matcher.destination.as_ref().is_none_or(|s| in_set(s, a))
        })
}

/// Whether packets of the family can match.
fn concerns(m: &Match, v4: bool) -> bool {
    let has = |s: &AddressSet| if v4 { !s.ranges_v4().is_empty() } else { !s.ranges_v6().is_empty() };
    m.source.as_ref().is_none_or(has) && m.destination.as_ref().is_none_or(has)
}

fn carries(i: &Interface, a: IpAddr) -> bool {
    match a {
        IpAddr::V4(x) => i.v4.iter().any(|(y, _)| *y == V4(x.into())),
        IpAddr::V6(x) => i.v6.iter().any(|(y, _)| *y == V6::from_bits(x.into())),
    }
}

fn leads_to(m: &Match, i: &Interface) -> bool {
    m.to.is_none_or(|z: Zones| z.contains(i.zone))
}

fn in_set(s: &AddressSet, a: IpAddr) -> bool {
    match a {
        IpAddr::V4(x) => s.contains(V4(x.into())),
        IpAddr::V6(x) => s.contains(V6::from_bits(x.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::packet::Address;
    use dataplane::policy::{DestinationNat, SourceNat};

    fn policy(translate: SourceTranslation, to: Option<Zones>) -> Policy {
        let matcher = Match { to, ..Match::default() };
        Policy { source_nat: vec![SourceNat { name: "s".into(), matcher, translate }], ..Policy::default() }
    }

    #[test]
    fn masquerade_uses_the_egress_zone_only() {
        let interfaces = [
            Interface { zone: 0, v4: vec![(V4(0x0a00_0001), 24)], ..Interface::default() },
            Interface { zone: 1, v4: vec![(V4(0xc633_6401), 24)], ..Interface::default() },
        ];
        let p = policy(SourceTranslation::Masquerade { ports: None, random: false }, Some(Zones(0b10)));
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
        let mut p = policy(SourceTranslation::Pool { addresses: vec![range], ports: None, random: false }, None);
        assert!(is_translated(&p, &[], "203.0.113.9".parse().unwrap()));
        assert!(!is_translated(&p, &[], "203.0.113.16".parse().unwrap()));
        p.destination_nat.push(DestinationNat {
            name: "d".into(),
            matcher: Match { destination: Some(AddressSet::new([range])), ..Match::default() },
            to: vec!["10.0.0.2".parse().unwrap()],
            port: None,
        });
        p.source_nat.clear();
        assert!(is_translated(&p, &[], "203.0.113.15".parse().unwrap()));
        assert!(!is_translated(&p, &[], "203.0.113.7".parse().unwrap()));
        p.destination_nat[0].matcher.destination = None;
        assert!(is_translated(&p, &[], "203.0.113.7".parse().unwrap()));
        assert!(!is_translated(&p, &[], "2001:db8::1".parse().unwrap()));
    }
}
