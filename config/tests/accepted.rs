//! Good policies and what they compile to.

mod agreement;
mod translations;

use std::net::IpAddr;

use config::{Checked, Config, IoMode, OnFailure, Poll, parse};
use dataplane::conntrack::{CtState, Status, TcpSettings, TcpState, Timeouts};
use dataplane::helper::HelperKind;
use dataplane::packet::{Address, V4, V6};
use dataplane::policy::{
    Action, AddressSet, Family, IcmpTypes, Match, PortSet, Reject, SourceLimits, TcpFlags, TrackingAction, Zones,
};

const HEAD: &str = "version: 1
interfaces:
  lan: { device: eth1, zone: inside }
  wan: { device: eth0, zone: outside }
  wifi: { device: wlan0, zone: inside }
";

fn checked(sections: &str) -> Checked {
    let text = format!("{HEAD}{sections}");
    let checked = parse("p.yaml", &text).unwrap_or_else(|d| panic!("{d}"));
    agreement::agrees(&text);
    checked
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
        IpAddr::V4(a) => set.contains(V4(a.into()), &[]),
        IpAddr::V6(a) => set.contains(V6::from_bits(a.into()), &[]),
    }
}

#[test]
fn defaults() {
    let c = config("");
    assert_eq!(c.policy.default, Action::Drop);
    assert_eq!(c.policy.timeouts, [Timeouts::linux()]);
    assert_eq!(c.policy.limits, SourceLimits::default());
    assert!(!c.policy.clamp_mss);
    assert_eq!(c.policy.tcp, TcpSettings::default());
    assert!(c.policy.checksum);
    assert_eq!(c.policy.max_connections, 1_000_000);
    assert!(!c.policy.keep_unassured);
    assert_eq!(c.policy.strict_reverse_path, Zones(0));
    assert_eq!(c.policy.icmp_errors_per_second, 1000);
    assert_eq!((c.workers.count, c.workers.cpus, c.workers.poll), (None, None, Poll::Adaptive));
    assert_eq!((c.io.mode, c.io.frames, c.io.on_failure), (IoMode::Auto, None, OnFailure::Closed));
    assert_eq!(c.control.socket.to_str(), Some("/run/sluice/control.sock"));
    assert_eq!(c.control.metrics, None);
    assert!(c.policy.helpers.is_empty());
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
fn vlans_share_a_device() {
    let text = "version: 1
interfaces:
  guests: { device: eth1, vlan: 20, zone: guests }
  lan: { device: eth1, zone: inside }
  phones: { device: eth1, vlan: 4_094, zone: inside }
policy: { default: accept }
";
    let p = parse("p.yaml", text).unwrap_or_else(|d| panic!("{d}")).config.policy;
    let seen: Vec<(&str, u16)> = p.interfaces.iter().map(|i| (i.device.as_str(), i.vlan)).collect();
    assert_eq!(seen, [("eth1", 20), ("eth1", 0), ("eth1", 4094)]);
}

#[test]
fn every_setting() {
    let c = config(
        "workers: { count: 2, cpus: [1, 3], poll: busy }
io: { mode: zero-copy, frames: 65_536, on_failure: open }
control: { socket: /tmp/s.sock, metrics: '[::1]:9464' }
reverse_path: strict
icmp: { errors_per_second: 0 }
tcp_mss: clamp
conntrack:
  max_connections: 10_000_000
  limits: { connections_per_source: 1_000, tcp_per_source: 800, udp_per_source: 600, icmp_per_source: 9, new_per_second_per_source: 50 }
  checksum: false
  tcp: { loose: false, liberal: true, ignore_invalid_rst: true, max_retrans: 5 }
  helpers: [ftp, tftp, { helper: ftp, port: 2121 }, { helper: irc }]
",
    );
    assert_eq!((c.workers.count, c.workers.cpus.as_deref(), c.workers.poll), (Some(2), Some(&[1, 3][..]), Poll::Busy));
    assert_eq!((c.io.mode, c.io.frames, c.io.on_failure), (IoMode::ZeroCopy, Some(65_536), OnFailure::Open));
    assert_eq!(c.control.metrics, Some("[::1]:9464".parse().expect("an address")));
    assert!(c.policy.strict_reverse_path == Zones(u64::MAX) && !c.policy.checksum);
    assert_eq!(c.policy.icmp_errors_per_second, 0);
    assert_eq!(c.policy.max_connections, 10_000_000);
    let tcp = TcpSettings { loose: false, liberal: true, ignore_invalid_rst: true, max_retrans: 5 };
    assert_eq!(c.policy.tcp, tcp);
    let (ftp, tftp, irc) = (HelperKind::Ftp, HelperKind::Tftp, HelperKind::Irc);
    assert_eq!(c.policy.helpers, [(ftp, 21), (tftp, 69), (ftp, 2121), (irc, 6667)]);
    assert!(c.policy.clamp_mss);
    assert_eq!(c.policy.limits, SourceLimits { connections: 1000, tcp: 800, udp: 600, icmp: 9, rate: 50 });
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
    let of = |text: &str| config(&format!("conntrack: {{ timeouts: {text} }}")).policy.timeouts.remove(0);
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
fn marks() {
    for (text, expected) in
        [("7", (7, u32::MAX)), ("0x1F", (31, u32::MAX)), ("0x10/0xff", (16, 255)), ("'0/0x80000000'", (0, 1 << 31))]
    {
        assert_eq!(conditions(&format!("{{ mark: {text} }}")).mark, Some(expected), "{text}");
    }
    let c = config(
        "policy:
  rules:
    - { name: a, match: { port: 1 }, action: accept, mark: 0xff }
    - { name: b, match: { port: 2, mark: 1 }, action: accept, mark: 0 }
    - { name: c, action: drop }
",
    );
    let set: Vec<Option<u32>> = c.policy.rules.iter().map(|r| r.mark).collect();
    assert_eq!(set, [Some(255), Some(0), None]);
}

#[test]
fn timeouts_of_rules() {
    let c = config(
        "conntrack: { timeouts: { udp: 45s } }
policy:
  rules:
    - { name: voice, match: { port: 1 }, action: accept, timeouts: { udp: 5m } }
    - { name: ssh, match: { port: 2 }, action: accept, timeouts: { tcp_established: 1h, udp: 1m } }
    - { name: same, match: { port: 3 }, action: accept, timeouts: { udp: 5m } }
    - { name: rfc, match: { port: 4 }, action: accept, timeouts: rfc }
    - { name: base, match: { port: 5 }, action: accept, timeouts: { base: linux } }
    - { name: none, match: { port: 6 }, action: accept }
    - { name: unchanged, match: { port: 7 }, action: accept, timeouts: { udp: 45s } }
",
    );
    let index: Vec<u8> = c.policy.rules.iter().map(|r| r.timeouts).collect();
    assert_eq!(index, [1, 2, 1, 3, 4, 0, 0]);
    let all = Timeouts { udp: 45, ..Timeouts::linux() };
    let mut ssh = Timeouts { udp: 60, ..all.clone() };
    ssh.tcp[TcpState::Established as usize] = 3600;
    let voice = Timeouts { udp: 300, ..all.clone() };
    assert_eq!(c.policy.timeouts, [all, voice, ssh, Timeouts::rfc(), Timeouts::linux()]);
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
    assert_eq!(c.policy.default, Action::Reject(Reject::Closed));
    let seen: Vec<(&str, Action)> = c.policy.rules.iter().map(|r| (r.name.as_str(), r.action)).collect();
    assert_eq!(seen, [("a", Action::Drop), ("b", Action::Accept), ("c", Action::Reject(Reject::Closed))]);
}

#[test]
fn icmp_types() {
    let kind = |k: u16| (k << 8, k << 8 | 255);
    for (text, v4, v6, protocols) in [
        ("icmp_type: echo-request", vec![kind(8)], vec![kind(128)], &[1, 58][..]),
        ("protocol: icmp, icmp_type: echo-request", vec![kind(8)], vec![], &[1]),
        ("family: ipv6, icmp_type: [1, nd-redirect]", vec![], vec![kind(1), kind(137)], &[58]),
        ("icmp_type: packet-too-big", vec![], vec![kind(2)], &[58]),
        ("protocol: icmp, icmp_type: 3/4", vec![(0x304, 0x304)], vec![], &[1]),
        ("icmp_type: destination-unreachable/port-unreachable", vec![(0x303, 0x303)], vec![(0x104, 0x104)], &[1, 58]),
        ("icmp_type: destination-unreachable/frag-needed", vec![(0x304, 0x304)], vec![], &[1]),
        ("icmp_type: time-exceeded/1", vec![(0xb01, 0xb01)], vec![(0x301, 0x301)], &[1, 58]),
    ] {
        let m = conditions(&format!("{{ {text} }}"));
        assert_eq!(m.icmp, Some(IcmpTypes { v4: PortSet::new(v4), v6: PortSet::new(v6) }), "{text}");
        assert_eq!(m.protocols.as_deref(), Some(protocols), "{text}");
    }
}

#[test]
fn tcp_flags() {
    for (text, set, clear) in [
        ("syn", 0x02, 0),
        ("[syn, ack]", 0x12, 0),
        ("{ set: syn, clear: [ack, rst, fin] }", 0x02, 0x15),
        ("{ clear: [cwr, ece, urg, psh] }", 0, 0xe8),
    ] {
        let m = conditions(&format!("{{ tcp_flags: {text} }}"));
        assert_eq!((m.tcp_flags, m.protocols), (Some(TcpFlags { set, clear }), Some(vec![6])), "{text}");
    }
}

#[test]
fn actions() {
    let c = config(
        "policy:
  default: { reject: admin-prohibited }
  rules:
    - { name: a, action: log }
    - { name: b, action: log, mark: 1, log: { prefix: 'B: ', rate: unlimited } }
    - { name: c, action: mark, mark: 2 }
    - { name: d, match: { protocol: tcp }, action: { reject: tcp-reset }, log: true }
    - { name: e, action: { reject: no-route }, log: { rate: 5/m, burst: 1 } }
    - { name: f, action: drop, log: false, limit: 100/h }
    - { name: g, action: accept, limit: { rate: 1_000/second, burst: 50, per: source, over: true } }
",
    );
    assert_eq!(c.policy.default, Action::Reject(Reject::Prohibited));
    let rules = &c.policy.rules;
    let actions: Vec<Action> = rules.iter().map(|r| r.action).collect();
    let on = Action::Continue;
    let rejects = [Reject::TcpReset, Reject::NoRoute].map(Action::Reject);
    assert_eq!(actions, [on, on, on, rejects[0], rejects[1], Action::Drop, Action::Accept]);
    let of = |interval: u64, burst: u32| Some((interval, burst));
    let logs: Vec<_> = rules
        .iter()
        .map(|r| r.log.as_ref().map(|l| (l.prefix.as_str(), l.rate.map(|r| (r.interval, r.burst)))))
        .collect();
    let usual = Some(("", of(100_000_000, 20)));
    assert_eq!(logs, [usual, Some(("B: ", None)), None, usual, Some(("", of(12_000_000_000, 1))), None, None]);
    let limits: Vec<_> = rules[5..]
        .iter()
        .filter_map(|r| r.limit)
        .map(|l| (l.rate.interval, l.rate.burst, l.per_source, l.over))
        .collect();
    assert_eq!(limits, [(36_000_000_000, 5, false, false), (1_000_000, 50, true, true)]);
    assert_eq!(rules[4].place.to_string(), "p.yaml:13");
    // Limits outlive a policy by their rule's name.
    let again = config(
        "policy: { rules: [{ name: f, action: accept, limit: 100/h }, { name: z, action: drop, limit: 100/h }] }",
    );
    let id = |r: &dataplane::policy::Rule| r.limit.map(|l| l.rate.id);
    assert!(id(&again.policy.rules[0]) == id(&rules[5]) && id(&again.policy.rules[1]) != id(&rules[5]));
}

#[test]
fn addresses_by_interface() {
    let c = config(
        "sets: { own: [{ address: lan }, 10.9.0.0/16] }
nat:
  destination:
    - name: web
      match: { protocol: tcp, destination: { address: wan }, port: 80 }
      translate: { to: 10.0.0.1 }
policy:
  rules:
    - { name: a, match: { source: own }, action: accept }
    - { name: b, match: { source: [own, { address: [wifi, wan] }, 10.8.0.1] }, action: accept }
",
    );
    let web = &c.policy.destination_nat[0].matcher;
    assert_eq!((web.destination.as_ref().expect("a condition").interfaces(), web.family), (&[1][..], Some(Family::V4)));
    let sources: Vec<_> = c
        .policy
        .rules
        .iter()
        .filter_map(|r| r.matcher.source.as_ref())
        .map(|s| (s.interfaces(), s.ranges_v4().len()))
        .collect();
    assert_eq!(sources, [(&[0][..], 1), (&[0, 1, 2][..], 2)]);
}

#[test]
fn sets_from_files() {
    let c = config(
        "sets:
  bad: { file: tests/lists/networks.txt, entries: [10.9.0.1, { address: wan }] }
  web: { file: [tests/lists/ports.txt, ./tests/lists/empty.txt], entries: 8443 }
  own: { address: [lan, wan] }
policy:
  rules:
    - { name: a, match: { source: bad, destination: own, port: web }, action: drop }
",
    );
    let m = &c.policy.rules[0].matcher;
    for (address, expected) in [
        ("192.0.2.77", true),
        ("198.51.100.7", true),
        ("198.51.100.8", false),
        ("203.0.113.9", true),
        ("2001:db8:5::1", true),
        ("10.9.0.1", true),
        ("10.9.0.2", false),
    ] {
        assert_eq!(contains(&m.source, address), expected, "{address}");
    }
    assert_eq!(m.source.as_ref().expect("a condition").interfaces(), [1]);
    assert_eq!(m.destination.as_ref().expect("a condition").interfaces(), [0, 1]);
    let web = [(80, 80), (443, 443), (8000, 8080), (8443, 8443)];
    assert_eq!(m.destination_port.as_ref().expect("a condition").ranges(), web);
    let files: Vec<&str> = c.files.iter().filter_map(|f| f.path.to_str()).collect();
    assert_eq!(files, ["tests/lists/networks.txt", "tests/lists/ports.txt", "./tests/lists/empty.txt"]);
    let sets: Vec<(&str, String, usize)> =
        c.policy.sets.iter().map(|s| (s.name.as_str(), s.place.to_string(), s.members.len())).collect();
    assert_eq!(sets, [("bad", "p.yaml:7".into(), 6), ("web", "p.yaml:8".into(), 4), ("own", "p.yaml:9".into(), 2)]);
}

#[test]
fn a_changed_file_is_a_changed_policy() {
    let directory = tempfile::tempdir().expect("a writable directory");
    let name = directory.path().join("p.yaml");
    let read = |list: &str| {
        std::fs::write(directory.path().join("list"), list).expect("a writable directory");
        let text = format!("{HEAD}sets: {{ a: {{ file: list }} }}\n");
        parse(&name.to_string_lossy(), &text).unwrap_or_else(|d| panic!("{d}")).written
    };
    let (before, after) = (read("10.0.0.1\n10.0.0.2 # two\n"), read("# none\n10.0.0.1\n10.0.0.3\n"));
    assert!(!before.same(&after) && before.same(&read("10.0.0.1\n\n10.0.0.2\n")));
    let difference = config::Difference::between(&before, &after);
    let entries = &difference.entries[0];
    assert_eq!(
        (&entries.added[..], &entries.removed[..]),
        (&["10.0.0.3".to_owned()][..], &["10.0.0.2".to_owned()][..])
    );
    assert_eq!(entries.key, directory.path().join("list").to_string_lossy());
}

#[test]
fn reverse_path_by_zone() {
    let of = |text: &str| config(&format!("reverse_path: {text}\n")).policy.strict_reverse_path;
    assert_eq!(of("{ outside: strict, inside: off }"), Zones(0b10));
    assert_eq!(of("off"), Zones(0));
}

#[test]
fn tracking() {
    let c = config(
        "tracking:
  - { name: dns, match: { from: inside, protocol: udp, port: 53 }, action: untracked }
  - { name: ftp, match: { port: 2121 }, action: { helper: ftp } }
  - { name: tftp, match: { protocol: [tcp, udp], port: 6969 }, action: { helper: tftp } }
  - { name: not, match: { port: 21 }, action: no-helper }
",
    );
    let seen: Vec<(&str, TrackingAction, Option<&[u8]>)> =
        c.policy.tracking.iter().map(|t| (t.name.as_str(), t.action, t.matcher.protocols.as_deref())).collect();
    // A helper reads one protocol: others pass its rule by.
    assert_eq!(
        seen,
        [
            ("dns", TrackingAction::Untracked, Some(&[17][..])),
            ("ftp", TrackingAction::Helper(HelperKind::Ftp), Some(&[6])),
            ("tftp", TrackingAction::Helper(HelperKind::Tftp), Some(&[17])),
            ("not", TrackingAction::NoHelper, None),
        ]
    );
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
