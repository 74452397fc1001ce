//! A policy that is to replace another: what differs, and what cannot change while the daemon runs.

use config::{Difference, Running, parse, parse_to_replace};

const POLICY: &str = "\
version: 1
interfaces:
  lan: { device: eth1, zone: inside }
  wan: { device: eth0, zone: outside }
workers: { count: 2 }
conntrack: { max_connections: 1000, timeouts: { udp: 30s } }
sets:
  offices: [10.1.0.0/24, 10.2.0.0/24]
nat:
  source:
    - { name: internet, from: inside, to: outside, translate: masquerade }
policy:
  default: drop
  rules:
    - { name: a, match: { from: inside, source: offices }, action: accept }
    - { name: b, match: { protocol: tcp, port: 80 }, action: accept }
    - { name: c, match: { state: invalid }, action: drop }
    - { name: d, match: { protocol: udp }, action: accept }
";

/// The policy with pieces of its text replaced.
fn edited(edits: &[(&str, &str)]) -> String {
    edits.iter().fold(POLICY.to_owned(), |text, (old, new)| {
        assert!(text.contains(old), "{old}");
        text.replacen(old, new, 1)
    })
}

fn difference(edits: &[(&str, &str)]) -> Difference {
    let written = |text: &str| parse("p", text).unwrap_or_else(|d| panic!("{d}")).written;
    Difference::between(&written(POLICY), &written(&edited(edits)))
}

#[test]
fn differences() {
    let b = "    - { name: b, match: { protocol: tcp, port: 80 }, action: accept }\n";
    let d = "    - { name: d, match: { protocol: udp }, action: accept }\n";
    let c = "    - { name: c, match: { state: invalid }, action: drop }\n";
    for (edits, text) in [
        (&[("version: 1\n", "# Only a comment.\nversion: 1\n")][..], ""),
        (
            &[
                ("port: 80", "port: [80]"),
                ("{ name: c, match", "{ action: drop, name: c, match"),
                ("invalid }, action: drop }", "invalid } }"),
            ],
            "",
        ),
        (&[("[10.1.0.0/24, 10.2.0.0/24]", "[10.2.0.0/24, 10.1.0.0/24]")], ""),
        (
            &[("port: 80", "port: [80, 443]"), ("udp }, action: accept", "udp }, action: reject")],
            "policy.rules\n  ~ b\n      match.port: 80 -> [80, 443]\n  ~ d\n      action: accept -> reject\n",
        ),
        (
            &[(b, ""), (d, "")],
            "policy.rules\n  - b { match: { protocol: tcp, port: 80 }, action: accept }\n  - d { match: { protocol: udp }, action: accept }\n",
        ),
        (
            &[(
                c,
                "    - { name: e, match: { port: [1, 2], protocol: tcp }, action: drop }\n    - { name: c, match: { state: invalid }, action: drop }\n",
            )],
            "policy.rules\n  + e (rule 3) { match: { port: [1, 2], protocol: tcp }, action: drop }\n",
        ),
        (&[(d, ""), (b, &format!("{d}{b}"))], "policy.rules\n  > d from place 4 to 2\n"),
        (
            &[("10.2.0.0/24]", "10.3.0.0/24, 10.4.0.1]")],
            "sets.offices\n  + 10.3.0.0/24\n  + 10.4.0.1\n  - 10.2.0.0/24\n",
        ),
        (
            &[
                ("udp: 30s", "udp: 45s"),
                ("translate: masquerade", "translate: { pool: 192.0.2.1 }"),
                ("default: drop\n", ""),
            ],
            "nat.source\n  ~ internet\n      translate: masquerade -> { pool: 192.0.2.1 }\nconntrack.timeouts.udp: 30s -> 45s\npolicy.default: drop -> (not set)\n",
        ),
        (&[("sets:\n", "reload: { revalidate: true }\nsets:\n")], "reload.revalidate: (not set) -> true\n"),
    ] {
        let found = difference(edits);
        assert_eq!(found.to_string(), text);
        assert_eq!(found.is_empty(), text.is_empty());
        let json = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Difference>(&json).unwrap(), found);
    }
}

/// What is said when the edited policy is to replace the other; line and column before each message.
fn refused(edits: &[(&str, &str)]) -> Vec<String> {
    let running = parse("p", POLICY).unwrap().config;
    let running = Running { config: &running, max_connections: 1000 };
    match parse_to_replace("p", &edited(edits), &running) {
        Ok(_) => Vec::new(),
        Err(d) => d.diagnostics.iter().map(|d| format!("{}:{} {}", d.line, d.column, d.message)).collect(),
    }
}

#[test]
fn what_only_a_restart_can_change_is_refused_at_its_place() {
    for (edits, expected) in [
        (&[("udp: 30s", "udp: 45s"), ("max_connections: 1000", "max_connections: 10")][..], &[][..]),
        (
            &[
                ("zone: inside", "zone: office"),
                ("from: inside, source", "from: office, source"),
                ("from: inside, to", "from: office, to"),
            ],
            &[],
        ),
        (
            &[("workers: { count: 2 }", "workers: { count: 3, poll: busy }")],
            &[
                "5:19 `workers.count` is 2 and cannot become 3 while sluice runs",
                "5:28 `workers.poll` is adaptive and cannot become busy while sluice runs",
            ],
        ),
        (
            &[("workers: { count: 2 }\n", "io: { frames: 4096 }\ncontrol: { socket: /tmp/x, metrics: 127.0.0.1:1 }\n")],
            &[
                "1:1 `workers.count` is 2 and cannot become auto while sluice runs",
                "5:15 `io.frames` is auto and cannot become 4096 while sluice runs",
                "6:20 `control.socket` is /run/sluice/control.sock and cannot become /tmp/x while sluice runs",
                "6:37 `control.metrics` is off and cannot become 127.0.0.1:1 while sluice runs",
            ],
        ),
        (
            &[("max_connections: 1000", "max_connections: 1001")],
            &["6:31 `conntrack.max_connections` cannot become 1001 while sluice runs: its tables were made for 1000"],
        ),
        (
            &[("device: eth0", "device: eth7")],
            &[
                "2:1 the device eth0 of interface `wan` cannot be taken away while sluice runs",
                "4:18 the device eth7 cannot be added while sluice runs",
            ],
        ),
        (
            &[("device: eth0", "device: eth0, vlan: 20")],
            &[
                "2:1 the device eth0 of interface `wan` cannot be taken away while sluice runs",
                "4:18 VLAN 20 of eth0 cannot be added while sluice runs",
            ],
        ),
        // Other faults come first.
        (
            &[("count: 2", "count: 3"), ("port: 80", "port: 80000")],
            &["16:48 port 80000 is too large: ports end at 65535"],
        ),
    ] {
        assert_eq!(refused(edits), expected);
    }
}

#[test]
fn interfaces_keep_the_order_that_the_ports_have() {
    let running = parse("p", POLICY).unwrap().config;
    let lan = "  lan: { device: eth1, zone: inside }\n";
    let wan = "  wan: { device: eth0, zone: outside }\n";
    let text = edited(&[
        (lan, ""),
        (wan, "  internet: { device: eth0, zone: outside }\n  lan: { device: eth1, zone: inside }\n"),
    ]);
    let replaced = parse_to_replace("p", &text, &Running { config: &running, max_connections: 1000 }).unwrap().config;
    let names: Vec<&str> = replaced.policy.interfaces.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["lan", "internet"]);
    let zone = |i: usize| &replaced.policy.zones[usize::from(replaced.policy.interfaces[i].zone)];
    assert_eq!((zone(0).as_str(), zone(1).as_str()), ("inside", "outside"));
}
