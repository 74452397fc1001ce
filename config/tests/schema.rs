//! The schema and the reader know the same keys.

mod agreement;

use serde_json::{Value, json};

use agreement::{agrees, faults};

const HEAD: &str =
    "version: 1\ninterfaces: { lan: { device: eth1, zone: inside }, wan: { device: eth0, zone: outside } }\n";

#[test]
fn the_schema_is_one() {
    let schema = config::schema();
    assert!(jsonschema::draft7::meta::is_valid(&schema));
    agrees(HEAD);
}

/// A value that a schema accepts, with the required keys and no others.
fn sample(schema: &Value) -> Value {
    if let Some(name) = schema["$ref"].as_str() {
        return match name.trim_start_matches("#/definitions/") {
            "Version" => json!(1),
            "Name" | "RuleName" | "Device" => json!("inside"),
            "Rate" => json!("1/s"),
            "Helper" => json!("ftp"),
            "Net" => json!("10.0.0.0/8"),
            other => panic!("no sample of {other}"),
        };
    }
    if let Some(word) = schema["enum"].get(0) {
        return word.clone();
    }
    if let Some(first) = schema["anyOf"].get(0) {
        return sample(first);
    }
    let mut out = json!({});
    for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        out[key] = sample(&schema["properties"][key]);
    }
    // One of several keys must be there, which the schema does not say.
    for (of, sample) in [("pool", json!({ "pool": "192.0.2.1" })), ("redirect", json!({ "to": "10.0.0.1" }))] {
        if schema["properties"][of].is_object() {
            out = sample;
        }
    }
    out
}

/// A map with this key and those that must be there.
fn with(schema: &Value, key: &str, value: Value) -> Value {
    let mut out = sample(schema);
    if let (true, Some(map)) = (["masquerade", "prefix"].contains(&key), out.as_object_mut()) {
        // They exclude each other.
        map.remove("pool");
    }
    out[key] = value;
    out
}

/// Makes a policy of a part of one.
type Around<'a> = &'a dyn Fn(Value) -> Value;

/// Every map of a schema, with what makes a policy of such a map.
fn maps(schema: &Value, around: Around<'_>, visit: &mut dyn FnMut(&Value, Around<'_>)) {
    for of in schema["anyOf"].as_array().into_iter().flatten() {
        maps(of, around, visit);
    }
    if schema["items"].is_object() {
        maps(&schema["items"], &|v| around(json!([v])), visit);
    }
    if schema["additionalProperties"].is_object() {
        maps(&schema["additionalProperties"], &|v| around(json!({ "lan": v })), visit);
    }
    let Some(properties) = schema["properties"].as_object() else { return };
    visit(schema, around);
    for (key, value) in properties {
        let inside = |v: Value| around(with(schema, key, v));
        maps(value, &inside, visit);
    }
}

/// The reader looks at each key that the schema has, and so complains of a value that no key can have; at a
/// key that the schema has not, both complain.
#[test]
fn every_key_is_read() {
    let mut keys = 0;
    maps(&config::schema(), &|v| v, &mut |map, around| {
        let names = map["properties"].as_object().into_iter().flatten().map(|(k, _)| k.as_str());
        for name in names.chain(["unheard-of"]) {
            // The place of the fault: flow style goes on over lines.
            let text = around(with(map, name, json!("HERE")))
                .to_string()
                .replace(&format!("\"{name}\":\"HERE\""), &format!("\n\"{name}\":[[[7]]]\n"));
            let text = if text.contains("\"version\"") { text } else { format!("{{\"version\":1,{}", &text[1..]) };
            let Err(found) = config::parse("p.yaml", &text) else { panic!("{name} is not read:\n{text}") };
            assert!(found.diagnostics.iter().any(|d| d.line == 2), "{name}:\n{text}\n{found}");
            assert!(!faults(&text).is_empty(), "{text}");
            keys += 1;
        }
    });
    assert!(keys > 300, "{keys}");
}

const PAGE: &str = include_str!("../../docs/configuration.md");

/// The rows of the tables of keys below a heading: the keys of the first cell, and the type.
fn rows(heading: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let (mut below, mut table) = (false, false);
    for line in PAGE.lines() {
        if let Some(title) = line.strip_prefix('#') {
            below = title.trim_start_matches('#').trim() == heading;
        }
        if !line.starts_with('|') {
            table = false;
        }
        if below && line.starts_with("| key | type |") {
            table = true;
        } else if below && table && !line.starts_with("|---") {
            let cells: Vec<&str> = line.split(" | ").collect();
            for key in cells[0].trim_start_matches("| ").split(", ") {
                out.push((key.trim_matches('`').to_owned(), cells[1].to_owned()));
            }
        }
    }
    out
}

/// The map at a path of keys; `*` is what a map of names or a list is of.
fn at<'s>(schema: &'s Value, path: &str) -> &'s Value {
    let alternatives = |v: &'s Value| match v["anyOf"].as_array() {
        Some(all) => all.iter().max_by_key(|v| v["properties"].as_object().map_or(0, |p| p.len())).unwrap_or(v),
        None => v,
    };
    let step = |v: &'s Value, key| match key {
        "*" if v["items"].is_object() => &v["items"],
        "*" => &v["additionalProperties"],
        key => &v["properties"][key],
    };
    path.split('/').filter(|k| !k.is_empty()).fold(schema, |v, key| alternatives(step(v, key)))
}

/// As the page writes numbers: 4094, 65,000.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    if digits.len() < 5 {
        return digits;
    }
    let groups: Vec<&str> = (0..digits.len().div_ceil(3))
        .rev()
        .map(|i| &digits[digits.len().saturating_sub(3 * i + 3)..digits.len() - 3 * i])
        .collect();
    groups.join(",")
}

/// What the type of a key must say in the reference.
fn expected(property: &Value) -> Vec<String> {
    let of_one = |v: &Value| {
        let range = v["maximum"].as_u64().map(|last| format!("{} to {}", v["minimum"], grouped(last)));
        let words = v["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
        words.map(|w| format!("`{w}`")).chain(range).collect::<Vec<_>>()
    };
    let inner = property["anyOf"].as_array().into_iter().flatten();
    inner.chain([property]).flat_map(of_one).collect()
}

/// The reference in the documentation has the schema's keys, their ranges and their words.
#[test]
fn the_reference_agrees() {
    let schema = config::schema();
    let mut wrong = String::new();
    for (heading, maps) in [
        ("interfaces", &[("interfaces/*", "")][..]),
        ("sets", &[("sets/*", "")]),
        ("policy", &[("policy", ""), ("policy/rules/*", "")]),
        ("Limits", &[("policy/rules/*/limit", "")]),
        ("Log", &[("policy/rules/*/log", "")]),
        ("match", &[("policy/rules/*/match", "")]),
        ("nat.source", &[("nat/source/*", ""), ("nat/source/*/translate", "")]),
        ("nat.destination", &[("nat/destination/*", ""), ("nat/destination/*/translate", "translate.")]),
        ("nat.static", &[("nat/static/*", "")]),
        ("tracking", &[("tracking/*", "")]),
        ("conntrack", &[("conntrack", ""), ("conntrack/limits", "limits."), ("conntrack/tcp", "tcp.")]),
        ("icmp", &[("icmp", "")]),
        ("workers", &[("workers", "")]),
        ("io", &[("io", "")]),
        ("control", &[("control", "")]),
        ("reload", &[("reload", "")]),
    ] {
        let mut rows = rows(heading);
        for (path, prefix) in maps {
            for (key, property) in at(&schema, path)["properties"].as_object().expect(path) {
                let name = format!("{prefix}{key}");
                // Those that have rows for their keys.
                if heading == "conntrack" && ["tcp", "limits"].contains(&key.as_str()) {
                    continue;
                }
                let Some(i) = rows.iter().position(|(k, _)| *k == name) else {
                    wrong.push_str(&format!("{heading}: no row for `{name}`\n"));
                    continue;
                };
                let (_, said) = rows.remove(i);
                if said == "the same" || said == "see below" {
                    continue;
                }
                let expected = expected(property);
                // Many words stand below the table.
                let said = if expected.len() > 6 { PAGE.to_owned() } else { said };
                for text in expected.iter().filter(|t| !said.contains(*t)) {
                    wrong.push_str(&format!("{heading}: `{name}` is {said}, which does not say {text}\n"));
                }
            }
        }
        for (key, _) in rows {
            wrong.push_str(&format!("{heading}: there is no key `{key}`\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
