//! Good policies and what they compile to.

use std::net::IpAddr;

use config::{Checked, Config, Helper, IoMode, OnFailure, Poll, parse};
use dataplane::conntrack::{CtState, Status, TcpSettings, TcpState, Timeouts};
use dataplane::packet::{Address, V4, V6};
use dataplane::policy::{Action, AddressSet, Match, SourceTranslation};

const HEAD: &str = "version: 1
interfaces:
  lan: { device: eth1, zone: inside }
  wan: { device: eth0, zone: outside }
  wifi: { device: wlan0, zone: inside }
";

fn checked(sections: &str) -> Checked {
    parse("p.yaml", &format!("{HEAD}{sections}")).unwrap_or_else(|d| panic!("{d}"))
}

fn config(sections: &str) -> Config {
    checked(sections).config
}

/// The conditions of the one rule with these.
fn conditions(text: &str) -> Match {
    let sets = "sets:\n  office: [10.1.0.0/16, 2001:db8:1::/48]\n  web: [80, 443, 8000-8080]\n  none: []\n";
    let rule = format!("policy:\n  rules:\n    - {{ name: x, match: {text}, action: accept }}\n");
    config(&format!("{sets}{rule}")).policy.rules.remove(0).matcher
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn contains(set: &Option<AddressSet>, address: &str) -> bool {
    let set = set.as_ref().expect("a condition");
    match ip(address) {
        IpAddr::V4(a) => set.contains(V4(a.into())),
        IpAddr::V6(a) => set.contains(V6::from_bits(a.into())),
    }
}

#[test]
fn defaults() {
    let c = config("");
    assert_eq!(c.policy.default, Action::Drop);
    assert_eq!(c.policy.timeouts, Timeouts::linux());
    assert_eq!(c.policy.tcp, TcpSettings::default());
    assert!(c.policy.checksum);
    assert_eq!(c.policy.max_connections, 1_000_000);
    assert!(!c.policy.strict_reverse_path);
    assert_eq!(c.policy.icmp_errors_per_second, 1000);
    assert_eq!((c.workers.count, c.workers.cpus, c.workers.poll), (None, None, Poll::Adaptive));
    assert_eq!((c.io.mode, c.io.frames, c.io.on_failure), (IoMode::Auto, None, OnFailure::Closed));
    assert_eq!(c.control.socket.to_str(), Some("/run/sluice/control.sock"));
    assert_eq!(c.control.metrics, None);
    assert!(c.helpers.is_empty());
}

#[test]
fn interfaces_form_zones() {
    let p = config("").policy;
    assert_eq!(p.zones, ["inside", "outside"]);
    let seen: Vec<(&str, &str, u8)> =
        p.interfaces.iter().map(|i| (i.name.as_str(), i.device.as_str(), i.zone)).collect();
    assert_eq!(seen, [("lan", "eth1", 0), ("wan", "eth0", 1), ("wifi", "wlan0", 0)]);
}

#[test]
fn every_setting() {
    let c = config(
        "workers: { count: 2, cpus: [1, 3], poll: busy }
io: { mode: zero-copy, frames: 65_536, on_failure: open }
control: { socket: /tmp/s.sock, metrics: '[::1]:9464' }
reverse_path: strict
icmp: { errors_per_second: 0 }
conntrack:
  max_connections: 10_000_000
  checksum: false
  tcp: { loose: false, liberal: true, ignore_invalid_rst: true, max_retrans: 5 }
  helpers: [ftp, tftp, { helper: ftp, port: 2121 }, { helper: irc }]
",
    );
    assert_eq!((c.workers.count, c.workers.cpus.as_deref(), c.workers.poll), (Some(2), Some(&[1, 3][..]), Poll::Busy));
    assert_eq!((c.io.mode, c.io.frames, c.io.on_failure), (IoMode::ZeroCopy, Some(65_536), OnFailure::Open));
    assert_eq!(c.control.metrics, Some("[::1]:9464".parse().expect("an address")));
    assert!(c.policy.strict_reverse_path && !c.policy.checksum);
    assert_eq!(c.policy.icmp_errors_per_second, 0);
    assert_eq!(c.policy.max_connections, 10_000_000);
    let tcp = TcpSettings { loose: false, liberal: true, ignore_invalid_rst: true, max_retrans: 5 };
    assert_eq!(c.policy.tcp, tcp);
    let helpers: Vec<(Helper, u16)> = c.helpers.iter().map(|h| (h.helper, h.port)).collect();
    assert_eq!(helpers, [(Helper::Ftp, 21), (Helper::Tftp, 69), (Helper::Ftp, 2121), (Helper::Irc, 6667)]);
}

#[test]
fn settings_may_say_auto_or_nothing() {
    let c = config("workers: { count: auto, cpus: auto }\nio: { frames: auto, mode: auto }\nsets:\npolicy:\nnat: {}\n");
    assert_eq!((c.workers.count, c.workers.cpus, c.io.frames), (None, None, None));
    assert_eq!(config("workers: { cpus: [4-6, 0] }").workers.cpus.as_deref(), Some(&[4, 5, 6, 0][..]));
    assert_eq!(config("control: { metrics: off }").control.metrics, None);
}

#[test]
fn timeouts() {
    let of = |text: &str| config(&format!("conntrack: {{ timeouts: {text} }}")).policy.timeouts;
    assert_eq!(of("linux"), Timeouts::linux());
    assert_eq!(of("rfc"), Timeouts::rfc());
    let mut expected = Timeouts::rfc();
    expected.udp = 45;
    expected.tcp[TcpState::Established as usize] = 5 * 86_400;
    expected.sctp[3] = 5400;
    assert_eq!(of("{ base: rfc, udp: 45s, tcp_established: 5d, sctp_established: 1h30m }"), expected);
    assert_eq!(of("{ generic: 10m }"), Timeouts { generic: 600, ..Timeouts::linux() });
}

#[test]
fn conditions_take_one_or_many() {
    let m = conditions("{ from: inside, protocol: tcp, port: 80, state: new }");
    let n = conditions("{ from: [inside], protocol: [tcp], port: [80], state: [new] }");
    assert_eq!(format!("{m:?}"), format!("{n:?}"));
    let m =
        conditions("{ from: [inside, outside], to: outside, protocol: [udp, 6, udp], state: [established, related] }");
    assert_eq!(m.from.map(|z| z.0), Some(0b11));
    assert_eq!(m.to.map(|z| z.0), Some(0b10));
    assert_eq!(m.protocols.as_deref(), Some(&[6, 17][..]));
    let states = m.states.expect("a condition");
    assert!(states.contains(CtState::Established) && states.contains(CtState::Related));
    assert!(!states.contains(CtState::New));
}

#[test]
fn zones_may_stand_beside_match() {
    let c = config("policy:\n  rules: [{ name: x, from: inside, to: [outside], action: accept }]\n");
    let m = &c.policy.rules[0].matcher;
    assert_eq!((m.from.map(|z| z.0), m.to.map(|z| z.0)), (Some(1), Some(2)));
}

#[test]
fn addresses_and_sets_mix() {
    let m = conditions("{ source: [office, 192.0.2.1, 198.51.100.8-198.51.100.9], destination: '2001:db8::/32' }");
    for inside in ["10.1.2.3", "192.0.2.1", "198.51.100.9", "2001:db8:1::5"] {
        assert!(contains(&m.source, inside), "{inside}");
    }
    for outside in ["10.2.0.0", "192.0.2.2", "198.51.100.10", "2001:db8:2::"] {
        assert!(!contains(&m.source, outside), "{outside}");
    }
    assert!(contains(&m.destination, "2001:db8:ffff::") && !contains(&m.destination, "10.0.0.1"));
}

#[test]
fn ports_and_sets_mix() {
    let m = conditions("{ port: [web, 22, 9000-9001], source_port: 1024-65535 }");
    let ports = m.destination_port.expect("a condition");
    for p in [22, 80, 443, 8000, 8080, 9001] {
        assert!(ports.contains(p), "{p}");
    }
    assert!(!ports.contains(81) && !ports.contains(9002));
    assert_eq!(m.source_port.expect("a condition").ranges(), [(1024, 65535)]);
}

#[test]
fn an_empty_set_matches_nothing() {
    let c = checked(
        "sets: { blocked: [], also: }\npolicy:\n  rules: [{ name: x, match: { source: blocked }, action: accept }]\n",
    );
    let texts: Vec<&str> = c.warnings.iter().map(|w| w.message.as_str()).collect();
    assert_eq!(texts, ["the set `blocked` is empty", "the set `also` is empty"]);
    assert!(!contains(&c.config.policy.rules[0].matcher.source, "10.0.0.1"));
}

#[test]
fn status_bits_must_all_be_set() {
    let m = conditions("{ status: [dst_nat, assured] }");
    assert_eq!(m.status, Some(Status(Status::DST_NAT.0 | Status::ASSURED.0)));
}

#[test]
fn actions_in_order() {
    let c = config(
        "policy:
  default: reject
  rules:
    - { name: a, match: { port: 1 }, action: drop }
    - { name: b, match: { port: 2 }, action: accept }
    - { name: c, action: reject }
",
    );
    assert_eq!(c.policy.default, Action::Reject);
    let seen: Vec<(&str, Action)> = c.policy.rules.iter().map(|r| (r.name.as_str(), r.action)).collect();
    assert_eq!(seen, [("a", Action::Drop), ("b", Action::Accept), ("c", Action::Reject)]);
}

#[test]
fn source_translations() {
    let of = |text: &str| {
        let c = config(&format!("nat:\n  source:\n    - {{ name: x, to: outside, translate: {text} }}\n"));
        let nat = c.policy.source_nat.into_iter().next().expect("one rule");
        (nat.translate, nat.matcher)
    };
    assert_eq!(of("none").0, SourceTranslation::None);
    assert_eq!(of("masquerade").0, SourceTranslation::Masquerade { ports: None, random: false });
    let masquerade = SourceTranslation::Masquerade { ports: Some((1024, 65535)), random: true };
    assert_eq!(of("{ masquerade: true, ports: 1024-65535, random: true }").0, masquerade);
    let (pool, m) = of("{ pool: [203.0.113.9, 203.0.113.0/30, 203.0.113.9], mapping: endpoint-dependent }");
    let addresses = vec![(ip("203.0.113.0"), ip("203.0.113.3")), (ip("203.0.113.9"), ip("203.0.113.9"))];
    assert_eq!(pool, SourceTranslation::Pool { addresses, ports: None, random: false });
    // An IPv4 pool translates IPv4 only, also when the rule does not say so.
    assert!(contains(&m.destination, "8.8.8.8") && !contains(&m.destination, "2001:db8::1"));
    let (_, m) = of("{ pool: 2001:db8::1-2001:db8::f }");
    assert!(contains(&m.destination, "2001:db8:9::1") && !contains(&m.destination, "8.8.8.8"));
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
policy:
  default: accept
",
    );
    let nat = &c.policy.destination_nat;
    assert_eq!((nat[0].to.as_slice(), nat[0].port), (&[ip("10.10.0.2")][..], Some(80)));
    assert_eq!(nat[0].matcher.from.map(|z| z.0), Some(0b11));
    assert_eq!((nat[1].to.len(), nat[1].port), (2, Some(16000)));
    assert_eq!(nat[1].matcher.destination_port.as_ref().expect("a condition").ranges(), [(6000, 6099), (7000, 7000)]);
    assert_eq!((nat[2].to.as_slice(), nat[2].port), (&[ip("2001:db8:1::5")][..], None));
}

#[test]
fn tracking() {
    let c =
        config("tracking:\n  - { name: dns, match: { from: inside, protocol: udp, port: 53 }, action: untracked }\n");
    assert_eq!(c.policy.tracking[0].name, "dns");
    assert_eq!(c.policy.tracking[0].matcher.protocols.as_deref(), Some(&[17][..]));
}

#[test]
fn anchors_aliases_and_merge_keys() {
    let c = config(
        "policy:
  rules:
    - { name: a, match: &web { protocol: tcp, port: [80, 443] }, action: accept }
    - { name: b, match: { <<: *web, from: outside }, action: drop }
    - { name: c, from: inside, match: *web, action: reject }
",
    );
    for rule in &c.policy.rules {
        assert_eq!(rule.matcher.destination_port.as_ref().map(|p| p.ranges().len()), Some(2), "{}", rule.name);
    }
}

#[test]
fn scalars_may_be_quoted_and_words_may_look_like_other_types() {
    let c = config(
        "policy:\n  default: \"accept\"\n  rules:\n    - { name: 12, match: { port: \"80\" }, action: 'drop' }\n    - { name: true, action: drop }\n    - { name: 1e3, match: { port: 7 }, action: drop }\n",
    );
    let names: Vec<&str> = c.policy.rules.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["12", "true", "1e3"]);
}

#[test]
fn a_set_is_shared_by_the_rules_that_use_it() {
    let c = config(
        "sets: { a: [10.0.0.0/8, 192.0.2.1] }
policy:
  rules:
    - { name: x, match: { source: a }, action: accept }
    - { name: y, match: { destination: a }, action: accept }
",
    );
    let [x, y] = &c.policy.rules[..] else { panic!("two rules") };
    let source = x.matcher.source.as_ref().expect("a condition").ranges_v4();
    let destination = y.matcher.destination.as_ref().expect("a condition").ranges_v4();
    assert_eq!(source.as_ptr(), destination.as_ptr());
    assert_eq!(source[0].0.ip(), ip("10.0.0.0"));
}
