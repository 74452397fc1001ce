//! Large policies are read in about a second (in release; the bounds leave room for slow builds).

use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// Ten thousand rules that differ in destination and port, two large sets, a thousand translations.
fn large() -> String {
    let mut text = String::from(
        "version: 1
interfaces:
  lan: { device: eth1, zone: inside }
  wan: { device: eth0, zone: outside }
sets:
  blocked:
",
    );
    for i in 0..100_000u32 {
        writeln!(text, "    - 45.{}.{}.{}", i >> 16, i >> 8 & 255, i & 255).expect("a string");
    }
    text.push_str("nat:\n  destination:\n");
    for i in 0..1000 {
        writeln!(
            text,
            "    - {{ name: d{i}, from: outside, match: {{ protocol: tcp, destination: 198.51.100.1, port: {} }}, \
             translate: {{ to: 10.0.0.{} }} }}",
            1000 + i,
            i % 250 + 1
        )
        .expect("a string");
    }
    text.push_str("policy:\n  rules:\n    - { name: blocked, match: { source: blocked }, action: drop }\n");
    for i in 0..9_998 {
        writeln!(
            text,
            "    - {{ name: r{i}, match: {{ from: inside, to: outside, source: [blocked], destination: 10.{}.{}.0/24, \
             protocol: tcp, port: {} }}, action: accept }}",
            i >> 8,
            i & 255,
            i + 1
        )
        .expect("a string");
        if i == 0 {
            // The rules behind this one share its set; the set must be compared once, not ten thousand times.
            text = text.replace("match: { source: blocked }", "match: { source: blocked, port: 65535 }");
        }
    }
    text.push_str("    - { name: forwards, match: { status: dst_nat }, action: accept }\n");
    text
}

#[test]
fn a_large_file() {
    let directory = tempfile::tempdir().expect("a writable directory");
    let mut list = String::from("# Made by a test\n");
    for i in 0..100_000u32 {
        writeln!(list, "45.{}.{}.{} ; entry {i}", i >> 15, i >> 7 & 255, i << 1 & 255).expect("a string");
    }
    std::fs::write(directory.path().join("list"), list).expect("a writable directory");
    let text = "version: 1
interfaces: { lan: { device: eth1, zone: inside } }
sets: { all: { file: list } }
policy: { default: accept, rules: [{ name: a, match: { source: all }, action: drop }] }
";
    let begun = Instant::now();
    let name = directory.path().join("p.yaml");
    let checked = config::parse(&name.to_string_lossy(), text).unwrap_or_else(|d| panic!("{d}"));
    let took = begun.elapsed();
    println!("100,000 entries: {took:?}");
    assert_eq!(checked.config.policy.sets[0].members.len(), 100_000);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_large_policy() {
    let text = large();
    let begun = Instant::now();
    let checked = config::parse("large.yaml", &text).unwrap_or_else(|d| panic!("{d}"));
    let took = begun.elapsed();
    println!("{} bytes: {took:?}", text.len());
    assert!(checked.warnings.is_empty(), "{}", checked.warnings[0]);
    assert_eq!(checked.config.policy.rules.len(), 10_000);
    assert!(took < Duration::from_secs(20), "{took:?}");
}
