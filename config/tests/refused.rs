//! Bad policies and the faults that are reported for them.
//!
//! The rows are in `tests/refused/*.txt`: a text, then after `!!` each fault as
//! `line:column+length message | help`, with the name of another file before it. Rows are separated by `====`. Except in `document.txt` a text is
//! read behind [`HEAD`].

use config::{Diagnostic, Diagnostics, Severity, parse};

mod agreement;

/// Two zones; the row's text begins in line 5.
const HEAD: &str = "version: 1
interfaces:
  lan: { device: eth1, zone: inside }
  wan: { device: eth0, zone: outside }
";

fn faults(text: &str) -> Diagnostics {
    match parse("p.yaml", text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(d) => d,
    }
}

fn row(d: &Diagnostic) -> String {
    let help = d.help.as_ref().map(|h| format!(" | {h}")).unwrap_or_default();
    let file = if d.file == "p.yaml" || d.file == "p" { String::new() } else { format!("{}:", d.file) };
    format!("{file}{}:{}+{} {}{help}", d.line, d.column, d.length, d.message)
}

fn check(rows: &str, head: &str) {
    let mut wrong = String::new();
    for case in rows.split("====\n") {
        let (expected, text): (Vec<&str>, Vec<&str>) = case.lines().partition(|l| l.starts_with("!! "));
        let expected: Vec<&str> = expected.iter().map(|l| &l[3..]).collect();
        assert!(!expected.is_empty(), "a row without a fault:\n{case}");
        let text = format!("{head}{}\n", text.join("\n"));
        let found: Vec<String> = faults(&text).diagnostics.iter().map(row).collect();
        if expected.iter().any(|f| f.contains("unknown key")) {
            assert!(!agreement::faults(&text).is_empty(), "the schema accepts\n{text}");
        }
        if found != expected {
            wrong.push_str(&format!("{case}found:\n  {}\n\n", found.join("\n  ")));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

macro_rules! tables {
    ($($name:ident: $file:literal, $head:expr;)*) => {$(
        #[test]
        fn $name() {
            check(include_str!(concat!("refused/", $file)), $head);
        }
    )*};
}
tables! {
    document: "document.txt", "";
    top_level: "top-level.txt", HEAD;
    settings: "settings.txt", HEAD;
    conntrack: "conntrack.txt", HEAD;
    sets: "sets.txt", HEAD;
    rules: "rules.txt", HEAD;
    source_nat: "source-nat.txt", HEAD;
    destination_nat: "destination-nat.txt", HEAD;
    static_nat: "static-nat.txt", HEAD;
}

#[test]
fn rendering() {
    let text = format!("{HEAD}policy:\n  rules:\n    - {{ name: x, match: {{ from: insid }}, action: accept }}\n");
    assert_eq!(
        faults(&text).to_string(),
        "error: unknown zone `insid`
 --> p.yaml:7:33
  |
7 |     - { name: x, match: { from: insid }, action: accept }
  |                                 ^^^^^
  = help: did you mean `inside`?
"
    );
}

#[test]
fn every_fault_is_reported_at_once() {
    let text = format!(
        "{HEAD}workers: {{ count: 0 }}
conntrack: {{ timeouts: {{ udp: 45 }}, helpers: [sip] }}
sets: {{ office: [10.0.0.0/33] }}
nat:
  source:
    - {{ name: a, from: insid, translate: {{ pool: [] }} }}
policy:
  default: deny
  rules:
    - {{ name: b, match: {{ source: office, state: old }}, action: pass }}
"
    );
    let d = faults(&text);
    let places: Vec<(u32, u32)> = d.diagnostics.iter().map(|d| (d.line, d.column)).collect();
    assert_eq!(places, [(5, 19), (6, 31), (6, 47), (7, 18), (10, 24), (10, 50), (12, 12), (14, 50), (14, 65)], "{d}");
}

#[test]
fn at_most_64_zones() {
    let with = |n: usize| {
        let lines: Vec<String> = (0..n).map(|i| format!("  i{i}: {{ device: eth{i}, zone: z{i} }}\n")).collect();
        format!("version: 1\ninterfaces:\n{}policy: {{ default: accept }}\n", lines.concat())
    };
    assert_eq!(parse("p", &with(64)).expect("64 zones fit").config.policy.zones.len(), 64);
    let d = faults(&with(65));
    assert_eq!(d.diagnostics.len(), 1);
    assert_eq!(row(&d.diagnostics[0]), "67:31+3 `z64` would be zone 65: there can be at most 64");
}

#[test]
fn too_many_rules() {
    let rules: String = (0..65_001).map(|i| format!("  - {{ name: r{i}, action: untracked }}\n")).collect();
    let d = faults(&format!("{HEAD}tracking:\n{rules}"));
    assert_eq!(row(&d.diagnostics[0]), "6:3+1 `tracking` has 65001 rules: there can be at most 65000");
}

#[test]
fn too_many_timeouts_of_rules() {
    let with = |n: u32| {
        let rule =
            |i| format!("    - {{ name: r{i}, match: {{ port: {i} }}, action: accept, timeouts: {{ udp: {i}s }} }}\n");
        let rules: String = (1..=n)
            .chain([1])
            .enumerate()
            .map(|(k, i)| rule(i).replacen("name: r", &format!("name: n{k}r"), 1))
            .collect();
        format!("{HEAD}conntrack: {{ timeouts: {{ udp: 1h }} }}\npolicy:\n  rules:\n{rules}")
    };
    let policy = parse("p", &with(127)).expect("127 fit").config.policy;
    assert_eq!((policy.timeouts.len(), policy.rules[126].timeouts, policy.rules[127].timeouts), (128, 127, 1));
    let d = faults(&with(128));
    assert_eq!(d.diagnostics.len(), 1);
    assert!(row(&d.diagnostics[0]).contains(" more than 127 different `timeouts` of rules | "), "{d}");
}

#[test]
fn too_many_translations() {
    let many = |section: &str, rule: &str| -> String {
        let rules: String = (0..33_000u32)
            .map(|i| {
                let [_, a, b, c] = i.to_be_bytes();
                format!("    - {{ name: {section}{i}, {} }}\n", rule.replace('?', &format!("{a}.{b}.{c}")))
            })
            .collect();
        format!("  {section}:\n{rules}")
    };
    let fixed = many("static", "inside: 10.?, outside: 203.?, to: outside");
    let d = faults(&format!("{HEAD}nat:\n{fixed}{}", many("source", "to: outside, translate: none")));
    assert_eq!(d.diagnostics.len(), 1);
    let text = "33007:3+6 `nat.static` and `nat.source` have 66000 rules: there can be at most 65000";
    assert_eq!(row(&d.diagnostics[0]), text);
}

#[test]
fn a_flood_of_faults_is_cut_and_counted() {
    let bad: String = (0..1000).map(|i| format!("  - bad{i}\n")).collect();
    let d = faults(&format!("{HEAD}sets:\n  a:\n{}", bad.replace("  - ", "    - ")));
    assert_eq!((d.diagnostics.len(), d.omitted), (100, 900));
    assert!(d.to_string().ends_with("\n900 more not shown\n"));
}

#[test]
fn warnings_do_not_crowd_out_errors() {
    let empty: String = (0..200).map(|i| format!("  s{i}: []\n")).collect();
    let d = faults(&format!("{HEAD}sets:\n{empty}policy: {{ default: deny }}\n"));
    let errors: Vec<String> = d.diagnostics.iter().filter(|d| d.severity == Severity::Error).map(row).collect();
    assert_eq!(errors, ["206:20+4 `deny` is not an action | valid are: accept, drop, reject"]);
}

#[test]
fn aliases_do_not_explode() {
    let mut text = String::from("version: 1\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..20 {
        let ten = vec![format!("*a{}", i - 1); 10].join(", ");
        text.push_str(&format!("a{i}: &a{i} [{ten}]\n"));
    }
    let begun = std::time::Instant::now();
    let d = faults(&text);
    assert!(d.diagnostics[0].message.starts_with("not valid YAML"), "{d}");
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

#[test]
fn deep_nesting_is_refused() {
    for open in ["[", "{a: "] {
        let d = faults(&format!("version: {}", open.repeat(100_000)));
        assert!(d.diagnostics[0].message.starts_with("not valid YAML"), "{d}");
    }
}

#[test]
fn line_ends_and_byte_order_marks_do_not_move_places() {
    let text = format!("{HEAD}polices: {{}}\n");
    for text in [text.replace('\n', "\r\n"), format!("\u{feff}{text}")] {
        let d = faults(&text);
        assert_eq!((d.diagnostics[0].line, d.diagnostics[0].column), (5, 1), "{d}");
        assert_eq!(d.diagnostics[0].source_line.as_deref(), Some("polices: {}"));
    }
    let d = faults("\u{feff}verson: 1\n");
    assert_eq!((d.diagnostics[0].line, d.diagnostics[0].column), (1, 1), "{d}");
}

#[test]
fn columns_count_characters() {
    let d = faults(&format!("{HEAD}? \"schlüssel\"\n: 1\nsets: {{ \"ä\": [], b: [größe] }}\n"));
    let places: Vec<(u32, u32, u32)> = d.diagnostics.iter().map(|d| (d.line, d.column, d.length)).collect();
    assert_eq!(places, [(5, 3, 11), (7, 9, 3), (7, 22, 5)], "{d}");
}

#[test]
fn a_fault_behind_an_alias_points_at_what_is_written() {
    let text = format!(
        "{HEAD}policy:\n  rules:\n    - {{ name: a, match: &m {{ from: insid }}, action: accept }}\n    \
         - {{ name: b, match: *m, action: drop }}\n"
    );
    let d = faults(&text);
    assert!(d.diagnostics.iter().all(|d| (d.line, d.column) == (7, 36)), "{d}");
}

#[test]
fn files_that_cannot_be_read() {
    let d = config::load(std::path::Path::new("/nonexistent/policy.yaml")).expect_err("no such file");
    assert!(d.to_string().starts_with("error: cannot read the policy: No such file"), "{d}");
    assert_eq!(d.diagnostics[0].severity, Severity::Error);
    let path = std::env::temp_dir().join(format!("sluice-not-utf8-{}.yaml", std::process::id()));
    std::fs::write(&path, b"version: 1\nname: \xff\n").expect("a writable directory");
    let d = config::load(&path).expect_err("not UTF-8");
    std::fs::remove_file(&path).expect("just written");
    assert_eq!(d.diagnostics[0].message, "cannot read the policy: it is not UTF-8: byte 18 in line 2");
}
