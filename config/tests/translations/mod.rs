//! Good translations and what they compile to.

use dataplane::policy::{DestinationTranslation, Family, Filtering, PortChoice, PrefixMap, SourceTranslation};

use super::{config, contains, ip};

#[test]
fn source_translations() {
    let of = |text: &str| {
        let c = config(&format!("nat:\n  source:\n    - {{ name: x, to: outside, translate: {text} }}\n"));
        let nat = c.policy.source_nat.into_iter().next().expect("one rule");
        (nat.translate, nat.matcher)
    };
    assert_eq!(of("none").0, SourceTranslation::None);
    assert_eq!(of("masquerade").0, SourceTranslation::Masquerade(PortChoice::default()));
    let choice = PortChoice { ports: Some((1024, 65535)), random: true, ..PortChoice::default() };
    let masquerade = SourceTranslation::Masquerade(choice);
    assert_eq!(of("{ masquerade: true, ports: 1024-65535, random: true }").0, masquerade);
    let (pool, m) =
        of("{ pool: [203.0.113.9, 203.0.113.0/30, 203.0.113.9], persistent: true, mapping: endpoint-dependent }");
    let addresses = vec![(ip("203.0.113.0"), ip("203.0.113.3")), (ip("203.0.113.9"), ip("203.0.113.9"))];
    let choice = PortChoice { persistent: true, ..PortChoice::default() };
    assert_eq!(pool, SourceTranslation::Pool { addresses, choice });
    // An IPv4 pool translates IPv4 only, also when the rule does not say so.
    assert_eq!(m.family, Some(Family::V4));
    let (_, m) = of("{ pool: 2001:db8::1-2001:db8::f }");
    assert_eq!(m.family, Some(Family::V6));
}

#[test]
fn mappings_and_filterings() {
    for (text, expected) in [
        ("mapping: endpoint-dependent", None),
        ("mapping: endpoint-independent", Some(Filtering::EndpointDependent)),
        ("mapping: endpoint-independent, filtering: endpoint-dependent", Some(Filtering::EndpointDependent)),
        ("mapping: endpoint-independent, filtering: address-dependent", Some(Filtering::AddressDependent)),
        ("filtering: endpoint-independent, mapping: endpoint-independent", Some(Filtering::EndpointIndependent)),
        (
            "filtering: endpoint-independent, mapping: endpoint-independent, hold: 2m",
            Some(Filtering::EndpointIndependent),
        ),
    ] {
        for kind in ["masquerade: true", "pool: 203.0.113.9"] {
            let c = config(&format!("nat:\n  source: [{{ name: x, translate: {{ {kind}, {text} }} }}]\n"));
            let choice = match &c.policy.source_nat[0].translate {
                SourceTranslation::Masquerade(choice) | SourceTranslation::Pool { choice, .. } => *choice,
                other => panic!("{other:?}"),
            };
            assert_eq!(choice.independent, expected, "{kind}, {text}");
            assert_eq!(choice.hold, if text.contains("hold") { 120 } else { 0 });
        }
    }
}

fn prefix_map(inside: &str, outside: &str, length: u8, neutral: bool) -> PrefixMap {
    PrefixMap { inside: ip(inside), outside: ip(outside), length, neutral }
}

#[test]
fn source_prefixes() {
    let of = |rule: &str| {
        let c = config(&format!("nat:\n  source: [{{ name: x, {rule} }}]\n"));
        let nat = c.policy.source_nat.into_iter().next().expect("one rule");
        let SourceTranslation::Prefix(map) = nat.translate else { panic!("{:?}", nat.translate) };
        (map, nat.matcher)
    };
    let (map, m) = of("to: outside, translate: { prefix: { from: 10.1.0.0/16, to: 203.0.0.0/16 } }");
    assert_eq!(map, prefix_map("10.1.0.0", "203.0.0.0", 16, false));
    assert!(contains(&m.source, "10.1.255.255") && !contains(&m.source, "10.2.0.0") && m.destination.is_none());
    // Sources that the prefix does not hold pass the rule by.
    let (_, m) = of(
        "match: { source: [10.1.2.0/24, 10.2.0.0/16, '2001:db8::/32'] }, translate: { prefix: { from: 10.1.0.0/16, to: 10.9.0.0/16 } }",
    );
    assert!(contains(&m.source, "10.1.2.3") && !contains(&m.source, "10.1.3.1"));
    assert!(!contains(&m.source, "10.2.0.1") && !contains(&m.source, "2001:db8::1"));
    for (npt, length, neutral) in [
        ("", 48, true),
        (", npt: true", 112, true),
        (", npt: false", 48, false),
        (", npt: false", 120, false),
        ("", 128, false),
    ] {
        let prefix = format!("{{ from: 'fd00:1::/{length}', to: '2001:db8:1::/{length}'{npt} }}");
        let (map, _) = of(&format!("translate: {{ prefix: {prefix} }}"));
        assert_eq!(map, prefix_map("fd00:1::", "2001:db8:1::", length, neutral), "{prefix}");
    }
}

#[test]
fn destination_prefixes() {
    let c = config(
        "nat:
  destination:
    - { name: four, from: outside, translate: { prefix: { from: 203.0.113.0/24, to: 10.1.7.0/24 } } }
    - { name: six, match: { destination: '2001:db8:1::/64' }, translate: { prefix: { from: '2001:db8:1::/48', to: 'fd00:1::/48' } } }
    - { name: one, translate: { prefix: { from: 198.51.100.7, to: 10.0.0.7 } } }
policy: { default: accept }
",
    );
    let maps: Vec<_> = c.policy.destination_nat.iter().map(|d| d.translate.clone()).collect();
    let prefix =
        |inside, outside, length, neutral| DestinationTranslation::Prefix(prefix_map(inside, outside, length, neutral));
    assert_eq!(
        maps,
        [
            prefix("10.1.7.0", "203.0.113.0", 24, false),
            prefix("fd00:1::", "2001:db8:1::", 48, true),
            prefix("10.0.0.7", "198.51.100.7", 32, false)
        ]
    );
    let matched = |i: usize| &c.policy.destination_nat[i].matcher.destination;
    assert!(contains(matched(0), "203.0.113.255") && !contains(matched(0), "203.0.114.0"));
    assert!(contains(matched(1), "2001:db8:1::1") && !contains(matched(1), "2001:db8:1:1::1"));
}

#[test]
fn fixed_translations_come_first_in_both_lists() {
    let c = config(
        "nat:
  source: [{ name: rest, to: outside, translate: masquerade }]
  destination: [{ name: web, match: { protocol: tcp, port: 80 }, translate: { to: 10.0.0.9 } }]
  static:
    - { name: mail, inside: 10.0.0.5, outside: 203.0.113.5, to: outside }
    - { name: lab, inside: 'fd00:1::/48', outside: '2001:db8:1::/48', to: [outside] }
    - { name: host, inside: 'fd00:2::5', outside: '2001:db8:2::5', to: outside }
    - { name: long, inside: 'fd00:3::/120', outside: '2001:db8:3::/120', to: outside, npt: false }
    # In another zone the same host has another address.
    - { name: mail-in, inside: 10.0.0.5, outside: 192.0.2.5, to: inside }
policy: { default: accept }
",
    );
    let maps = [
        prefix_map("10.0.0.5", "203.0.113.5", 32, false),
        prefix_map("fd00:1::", "2001:db8:1::", 48, true),
        prefix_map("fd00:2::5", "2001:db8:2::5", 128, false),
        prefix_map("fd00:3::", "2001:db8:3::", 120, false),
        prefix_map("10.0.0.5", "192.0.2.5", 32, false),
    ];
    let p = &c.policy;
    let names = ["mail", "lab", "host", "long", "mail-in"];
    assert_eq!(p.source_nat.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), [&names[..], &["rest"]].concat());
    assert_eq!(p.destination_nat.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), [&names[..], &["web"]].concat());
    for (i, map) in maps.into_iter().enumerate() {
        assert_eq!(p.source_nat[i].translate, SourceTranslation::Prefix(map));
        assert_eq!(p.destination_nat[i].translate, DestinationTranslation::Prefix(map));
    }
    let (s, d) = (&p.source_nat[0].matcher, &p.destination_nat[0].matcher);
    assert!(contains(&s.source, "10.0.0.5") && !contains(&s.source, "10.0.0.6"));
    assert!(contains(&d.destination, "203.0.113.5") && !contains(&d.destination, "203.0.113.6"));
    assert_eq!((s.to.map(|z| z.0), s.from, d.from), (Some(2), None, None));
}

#[test]
fn destination_translations() {
    let c = config(
        "nat:
  destination:
    - name: web
      from: [outside, inside]
      match: { protocol: tcp, destination: 198.51.100.1, port: 8080 }
      translate: { to: 10.10.0.2, port: 80 }
    - name: range
      from: outside
      match: { protocol: [tcp, udp], destination: 198.51.100.2, port: [6000-6099, 7000] }
      translate: { to: [10.10.0.3, 10.10.0.4], port: 16000 }
    - name: host
      match: { destination: '2001:db8::5' }
      translate: { to: '2001:db8:1::5' }
    - name: not
      translate: none
    - { name: dns, from: inside, match: { port: 53 }, translate: redirect }
    - { name: proxy, from: inside, match: { port: 80 }, translate: { redirect: true, port: 3128 } }
    - { name: proxy-tls, match: { port: 443, protocol: tcp }, translate: { redirect: true, port: 3129 } }
policy:
  default: accept
",
    );
    let nat = &c.policy.destination_nat;
    for (i, port, protocols) in
        [(4, None, None), (5, Some(3128), Some(vec![6, 17, 136])), (6, Some(3129), Some(vec![6]))]
    {
        assert_eq!(nat[i].translate, DestinationTranslation::Redirect { port });
        assert_eq!(nat[i].matcher.protocols, protocols);
    }
    let to = |addresses: &[&str], port| {
        let addresses = addresses.iter().map(|a| ip(a)).collect();
        DestinationTranslation::To { addresses, port }
    };
    assert_eq!(nat[0].translate, to(&["10.10.0.2"], Some(80)));
    assert_eq!(nat[0].matcher.from.map(|z| z.0), Some(0b11));
    assert_eq!(nat[1].translate, to(&["10.10.0.3", "10.10.0.4"], Some(16000)));
    assert_eq!(nat[1].matcher.destination_port.as_ref().expect("a condition").ranges(), [(6000, 6099), (7000, 7000)]);
    assert_eq!(nat[2].translate, to(&["2001:db8:1::5"], None));
    assert_eq!(nat[3].translate, DestinationTranslation::None);
}
