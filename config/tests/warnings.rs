//! Policies that are valid, and what is said about them.

mod agreement;

use config::parse;

const HEAD: &str = "version: 1
interfaces:
  lan: { device: eth1, zone: inside }
  wan: { device: eth0, zone: outside }
";

/// `line:column message` of each warning.
fn warnings(sections: &str) -> Vec<String> {
    let text = format!("{HEAD}{sections}");
    let checked = parse("p.yaml", &text).unwrap_or_else(|d| panic!("{d}"));
    agreement::agrees(&text);
    checked.warnings.iter().map(|d| format!("{}:{} {}", d.line, d.column, d.message)).collect()
}

/// Whether a rule with the conditions `late` is said to never match behind one with `early`.
fn covered(early: &str, late: &str) -> bool {
    let text = format!(
        "sets:
  all: [10.0.0.0/8, 192.0.2.1, 192.0.2.3, 192.0.2.5, 192.0.2.7, 192.0.2.9, 192.0.2.11, 192.0.2.13, 192.0.2.15]
  few: [10.1.0.0/16, 192.0.2.1, 192.0.2.3, 192.0.2.5, 192.0.2.7, 192.0.2.9, 192.0.2.11, 192.0.2.13, 192.0.2.15]
policy:
  rules:
    - {{ name: early, match: {early}, action: accept }}
    - {{ name: late, match: {late}, action: drop }}
"
    );
    let w = warnings(&text);
    assert!(w.is_empty() || w == ["11:15 `late` never matches"], "{w:?}");
    !w.is_empty()
}

#[test]
fn covered_rules() {
    for (early, late) in [
        ("{}", "{}"),
        ("{}", "{ from: inside, port: 80 }"),
        ("{ from: inside }", "{ from: inside, to: outside }"),
        ("{ from: [inside, outside] }", "{ from: outside }"),
        ("{ protocol: [tcp, udp] }", "{ protocol: tcp, port: 80 }"),
        ("{ port: 1-1000 }", "{ port: [80, 443] }"),
        ("{ port: [80, 443] }", "{ port: 443, protocol: tcp }"),
        ("{ source_port: 1-1000 }", "{ source_port: 5 }"),
        ("{ source: 10.0.0.0/8 }", "{ source: [10.1.0.0/16, 10.2.0.1] }"),
        ("{ destination: '2001:db8::/32' }", "{ destination: '2001:db8::1' }"),
        ("{ source: all }", "{ source: few }"),
        ("{ source: all }", "{ source: all }"),
        ("{ source: { address: [lan, wan] } }", "{ source: { address: lan } }"),
        ("{ source: [all, { address: lan }] }", "{ source: all }"),
        ("{ state: [established, related] }", "{ state: related }"),
        ("{ status: dst_nat }", "{ status: [dst_nat, assured] }"),
        ("{ mark: 0x10/0xf0 }", "{ mark: 0x1f }"),
        ("{ family: ipv4 }", "{ source: 10.0.0.1 }"),
        ("{ family: ipv6 }", "{ protocol: icmpv6 }"),
        ("{ protocol: icmp }", "{ protocol: icmp, icmp_type: echo-request }"),
        ("{ icmp_type: destination-unreachable }", "{ icmp_type: destination-unreachable/port-unreachable }"),
        ("{ tcp_flags: syn }", "{ tcp_flags: { set: [syn, ack], clear: rst } }"),
        ("{ mark: 0x10/0x10 }", "{ mark: 0x30/0x70 }"),
    ] {
        assert!(covered(early, late), "{early} covers {late}");
    }
}

#[test]
fn rules_that_go_on_cover_nothing() {
    for early in ["action: log", "action: mark, mark: 1", "action: drop, limit: 1/s"] {
        let text = format!("policy:\n  rules:\n    - {{ name: a, {early} }}\n    - {{ name: b, action: accept }}\n");
        assert_eq!(warnings(&text), [""; 0], "{early}");
    }
}

#[test]
fn a_forward_accepted_by_its_mark() {
    let text = |mark: &str| {
        format!(
            "nat:
  destination:
    - {{ name: web, match: {{ protocol: tcp, destination: 192.0.2.1 }}, translate: {{ to: 10.0.0.1 }} }}
policy:
  rules:
    - {{ name: mark, match: {{ destination: 10.0.0.1 }}, {mark} }}
    - {{ name: marked, match: {{ mark: 1 }}, action: accept }}
"
        )
    };
    assert_eq!(warnings(&text("action: mark, mark: 1")), [""; 0]);
    assert_eq!(warnings(&text("action: log")), ["7:15 no rule accepts what `web` translates, so it has no effect"]);
}

#[test]
fn rules_that_are_not_covered() {
    for (early, late) in [
        ("{ from: inside }", "{}"),
        ("{ from: inside }", "{ from: [inside, outside] }"),
        ("{ from: inside }", "{ to: inside }"),
        ("{ protocol: tcp }", "{ protocol: [tcp, udp] }"),
        ("{ protocol: tcp }", "{ port: 80 }"),
        ("{ port: 0-65535 }", "{}"),
        ("{ port: [80, 443] }", "{ port: 80-443 }"),
        ("{ port: 80 }", "{ source_port: 80 }"),
        ("{ source: 10.0.0.0/8 }", "{ source: [10.1.0.0/16, 11.0.0.1] }"),
        ("{ source: 10.0.0.0/8 }", "{ source: [10.1.0.0/16, '2001:db8::1'] }"),
        ("{ source: '2001:db8::/32' }", "{ source: 10.0.0.1 }"),
        ("{ source: few }", "{ source: all }"),
        ("{ source: { address: lan } }", "{ source: { address: [lan, wan] } }"),
        ("{ source: 10.0.0.0/8 }", "{ source: [10.1.0.0/16, { address: lan }] }"),
        ("{ source: all }", "{ source: [all, { address: lan }] }"),
        ("{ source: few }", "{ source: 10.2.0.1 }"),
        ("{ state: related }", "{ state: [established, related] }"),
        ("{ status: [dst_nat, assured] }", "{ status: dst_nat }"),
        ("{ mark: 7 }", "{}"),
        ("{ mark: 7 }", "{ mark: 8 }"),
        ("{ family: ipv4 }", "{ source: '2001:db8::1' }"),
        ("{ family: ipv4 }", "{}"),
        ("{ icmp_type: echo-request }", "{ protocol: icmp }"),
        ("{ protocol: icmp, icmp_type: echo-request }", "{ icmp_type: echo-request }"),
        ("{ tcp_flags: { set: syn, clear: ack } }", "{ tcp_flags: syn }"),
        ("{ mark: 0x1f }", "{ mark: 0x10/0xf0 }"),
        ("{ mark: 0x10/0x10 }", "{ mark: 0x20/0x70 }"),
    ] {
        assert!(!covered(early, late), "{early} does not cover {late}");
    }
}

#[test]
fn covered_translations_and_tracking() {
    let w = warnings(
        "tracking:
  - { name: a, match: { protocol: udp }, action: untracked }
  - { name: b, match: { protocol: udp, port: 53 }, action: untracked }
nat:
  source:
    - { name: a, translate: masquerade }
    - { name: b, from: inside, translate: none }
  destination:
    - { name: a, match: { port: 80 }, translate: { to: 10.0.0.2 } }
    - { name: b, match: { port: 80, protocol: tcp }, translate: { to: 10.0.0.3 } }
policy: { default: accept }
",
    );
    assert_eq!(w, ["7:13 `b` never matches", "11:15 `b` never matches", "14:15 `b` never matches"]);
}

#[test]
fn the_warning_names_the_covering_rule() {
    let text = format!(
        "{HEAD}policy:\n  rules:\n    - {{ name: all, action: accept }}\n    - {{ name: late, match: {{ port: 1 }}, action: drop }}\n"
    );
    let warnings = parse("p.yaml", &text).expect("valid").warnings;
    assert_eq!(
        warnings[0].to_string(),
        "warning: `late` never matches
 --> p.yaml:8:15
  |
8 |     - { name: late, match: { port: 1 }, action: drop }
  |               ^^^^
  = help: `all` on line 7 matches all of its packets first: move or remove one of them
"
    );
}

#[test]
fn a_policy_that_accepts_nothing() {
    assert_eq!(warnings("policy: { default: drop }\n"), ["5:1 the policy accepts nothing"]);
    assert_eq!(warnings("conntrack:\n"), ["1:1 the policy accepts nothing"]);
    assert!(warnings("policy: { default: accept }\n").is_empty());
}

/// Warnings about a destination translation of ports 8000 to 8009 of 198.51.100.1 to ports from 80 of
/// 10.0.0.2, from outside, under a policy with one accepting rule.
fn in_vain(rule: &str) -> bool {
    let w = warnings(&format!(
        "nat:
  destination:
    - name: web
      from: outside
      match: {{ protocol: tcp, destination: 198.51.100.1, port: 8000-8009 }}
      translate: {{ to: 10.0.0.2, port: 80 }}
policy:
  rules:
    - {{ name: x, match: {rule}, action: accept }}
"
    ));
    assert!(w.is_empty() || w == ["7:13 no rule accepts what `web` translates, so it has no effect"], "{w:?}");
    !w.is_empty()
}

#[test]
fn translations_in_vain() {
    for rule in [
        "{ state: [established, related] , from: inside }",
        "{ from: inside }",
        "{ destination: 198.51.100.1 }",
        "{ port: 8000 }",
        "{ protocol: udp }",
        "{ status: src_nat }",
        "{ state: [established, invalid] }",
        "{ destination: '2001:db8::/32' }",
        "{ mark: 7 }",
    ] {
        assert!(in_vain(rule), "{rule}");
    }
    for rule in [
        "{}",
        "{ status: dst_nat }",
        "{ state: new, from: outside }",
        "{ destination: 10.0.0.0/8, port: 89 }",
        "{ to: inside, protocol: [udp, tcp] }",
        "{ source: 192.0.2.0/24 }",
        "{ mark: 0/0xff }",
    ] {
        assert!(!in_vain(rule), "{rule}");
    }
}

#[test]
fn an_exception_is_not_in_vain() {
    let w = warnings(
        "nat:
  destination: [{ name: x, match: { destination: 198.51.100.1 }, translate: none }]
policy:
  rules: [{ name: x, from: inside, match: { state: established }, action: accept }]
",
    );
    assert!(w.is_empty(), "{w:?}");
}

#[test]
fn prefixes_in_vain() {
    for (rule, vain) in [
        ("{ destination: 10.1.0.9 }", false),
        ("{ destination: 10.2.0.9 }", true),
        ("{ destination: 203.0.0.0/16 }", true),
        ("{ status: dst_nat, from: outside }", false),
        ("{ from: inside }", true),
    ] {
        let w = warnings(&format!(
            "nat:
  destination: [{{ name: lab, from: outside, translate: {{ prefix: {{ from: 203.0.0.0/16, to: 10.1.0.0/16 }} }} }}]
policy:
  rules: [{{ name: x, match: {rule}, action: accept }}]
"
        ));
        assert_eq!(w.is_empty(), !vain, "{rule}: {w:?}");
    }
}

#[test]
fn fixed_translations_in_vain() {
    for (rule, vain) in [
        ("{ destination: 10.0.0.5 }", false),
        ("{ status: dst_nat }", false),
        ("{ from: inside, to: outside }", false),
        ("{ source: 10.0.0.0/24, to: outside }", false),
        ("{ source: 10.0.0.6 }", false),
        ("{ source: 10.0.0.6, destination: 10.0.1.0/24 }", true),
        ("{ destination: 203.0.113.5, to: inside }", true),
        ("{ to: inside, state: established }", true),
        ("{ destination: '2001:db8::/32', to: inside }", true),
    ] {
        let w = warnings(&format!(
            "nat:
  static: [{{ name: mail, inside: 10.0.0.5, outside: 203.0.113.5, to: outside }}]
policy:
  rules: [{{ name: x, match: {rule}, action: accept }}]
"
        ));
        let expected: &[&str] =
            if vain { &["6:20 no rule accepts what `mail` translates, so it has no effect"] } else { &[] };
        assert_eq!(w, expected, "{rule}");
    }
}

#[test]
fn a_fixed_translation_covers_rules_behind_it() {
    let w = warnings(
        "nat:
  static: [{ name: mail, inside: 10.0.0.5, outside: 203.0.113.5, to: outside }]
  source:
    - { name: late, to: outside, match: { source: 10.0.0.5 }, translate: masquerade }
    - { name: rest, to: outside, translate: masquerade }
policy: { default: accept }
",
    );
    assert_eq!(w, ["8:15 `late` never matches"]);
}

#[test]
fn ports_of_the_host() {
    let host = config::Host { ports: Some((32768, 60999)), owns: |a| a.to_string() == "198.51.100.1" };
    for (translate, expected) in [
        ("masquerade", ""),
        ("{ masquerade: true }", ""),
        ("{ masquerade: true, ports: 1024-32767 }", ""),
        ("{ masquerade: true, ports: 61000-65535 }", ""),
        ("{ masquerade: true, ports: 1024-65535 }", "1024-65535"),
        ("{ masquerade: true, ports: 60999-61999 }", "60999-61999"),
        ("{ pool: 198.51.100.1, ports: 40000-50000 }", "40000-50000"),
        ("{ pool: 198.51.100.1 }", ""),
        ("{ pool: [203.0.113.1, 198.51.100.1], ports: 1-32768 }", "1-32768"),
        ("{ pool: 203.0.113.1, ports: 1024-65535 }", ""),
    ] {
        let text = format!(
            "{HEAD}nat:
  source: [{{ name: x, from: inside, to: outside, translate: {translate} }}]
policy: {{ default: accept }}
"
        );
        let found = config::parse_for("p.yaml", &text, host).unwrap_or_else(|d| panic!("{d}")).warnings;
        let found: Vec<&str> = found.iter().map(|w| w.message.as_str()).collect();
        let message = format!("`ports` {expected} overlap those of the gateway's own connections, 32768-60999");
        let expected: &[&str] = if expected.is_empty() { &[] } else { &[&message] };
        assert_eq!(found, expected, "{translate}");
        assert!(parse("p.yaml", &text).expect("valid").warnings.is_empty(), "of an unknown machine nothing is said");
    }
}
