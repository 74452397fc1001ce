//! The JSON Schema of a policy, for editors: made of the tables that the readers use.

use dataplane::helper::HelperKind;
use serde_json::{Map, Value, json};

use crate::document::DOCUMENT;
use crate::read::Keys;
use crate::rules::MAX_RULES;
use crate::shape::{Key, Leaf, Shape};
use crate::{icmp, protocol, rate, settings};

/// A name that other parts of the policy refer to.
const NAME: &str = "[A-Za-z_][A-Za-z0-9_-]{0,62}";
const V4: &str = r"[0-9]{1,3}(\.[0-9]{1,3}){3}";
const V6: &str = r"[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*";
const MARK: &str = "(0x[0-9A-Fa-f]+|[0-9]+)";

/// The schema (draft 7, which every editor knows).
pub fn schema() -> Value {
    let mut all = map(&DOCUMENT);
    let definitions: Map<String, Value> = Leaf::ALL.iter().map(|l| (format!("{l:?}"), leaf(*l))).collect();
    if let Value::Object(all) = &mut all {
        all.insert("$schema".into(), "http://json-schema.org/draft-07/schema#".into());
        all.insert("title".into(), "A policy of Sluice".into());
        all.insert("definitions".into(), definitions.into());
    }
    all
}

fn map(keys: &Keys) -> Value {
    let property = |k: &Key| {
        let value = of(&k.shape);
        // A key without a value is as good as none.
        let mut value = if k.required { value } else { or_null(value) };
        value["description"] = k.about.into();
        (k.name.to_owned(), value)
    };
    let properties: Map<String, Value> = keys.known.iter().map(property).collect();
    let required: Vec<&str> = keys.known.iter().filter(|k| k.required).map(|k| k.name).collect();
    let mut out = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        out["required"] = required.into();
    }
    out
}

/// The same, or nothing. Editors say more about what is wrong where there is one alternative.
fn or_null(mut value: Value) -> Value {
    let nothing = json!({ "type": "null" });
    if let Some(name) = value["type"].as_str() {
        value["type"] = json!([name, "null"]);
    } else if let Some(Value::Array(words)) = value.get_mut("enum") {
        words.push(Value::Null);
    } else if let Some(Value::Array(all)) = value.get_mut("anyOf") {
        all.push(nothing);
    } else {
        value = json!({ "anyOf": [value, nothing] });
    }
    value
}

fn of(shape: &Shape) -> Value {
    let number = |a, b| json!({ "type": "integer", "minimum": a, "maximum": b });
    // As 1_000_000 is for YAML.
    let spaced = json!({ "type": "string", "pattern": "^[0-9][0-9_]*$" });
    match *shape {
        Shape::Map(keys) => map(keys),
        Shape::Named(of_each) => json!({
            "type": "object",
            "propertyNames": { "pattern": whole(NAME) },
            "additionalProperties": of(of_each),
        }),
        Shape::Rules(keys) => json!({ "type": "array", "items": map(keys), "maxItems": MAX_RULES }),
        Shape::List(item) => any([of(item), json!({ "type": "array", "items": of(item) })]),
        Shape::Some(item) => any([of(item), json!({ "type": "array", "items": of(item), "minItems": 1 })]),
        Shape::Either(all) => any(all.iter().map(of)),
        Shape::Words(words) => json!({ "enum": words }),
        Shape::Number(a, b) => any([number(a, b), spaced]),
        Shape::AutoNumber(a, b) => any([json!({ "enum": ["auto"] }), number(a, b), spaced]),
        Shape::Switch => json!({ "type": "boolean" }),
        Shape::True => json!({ "enum": [true] }),
        Shape::Empty => json!({ "type": "null" }),
        Shape::Leaf(leaf) => json!({ "$ref": format!("#/definitions/{leaf:?}") }),
    }
}

fn any(all: impl IntoIterator<Item = Value>) -> Value {
    // Alternatives of alternatives are alternatives.
    let flat = all.into_iter().flat_map(|v| match v.get("anyOf") {
        Some(Value::Array(inner)) => inner.clone(),
        _ => vec![v],
    });
    json!({ "anyOf": flat.collect::<Vec<_>>() })
}

fn whole(pattern: &str) -> String {
    format!("^({pattern})$")
}

fn leaf(leaf: Leaf) -> Value {
    let text =
        |pattern: &str, about: &str| json!({ "type": "string", "pattern": whole(pattern), "description": about });
    let or_number = |last: u32, pattern: &str, about: &str| {
        let number = json!({ "type": "integer", "minimum": 0, "maximum": last });
        json!({ "anyOf": [number, { "type": "string", "pattern": whole(pattern) }], "description": about })
    };
    let addresses = format!(r"({V4}|{V6})(/[0-9]{{1,3}}| *- *({V4}|{V6}))?");
    match leaf {
        Leaf::Version => json!({ "enum": [1, "1"] }),
        Leaf::RuleName => {
            json!({ "type": ["string", "number", "boolean"], "minLength": 1, "maxLength": crate::rules::MAX_NAME })
        }
        Leaf::Name => text(NAME, "a name: letters, digits, `_` and `-`"),
        Leaf::Device => text(r"[^/:\s]{1,15}", "the name of a network device, as `ip link` shows it"),
        Leaf::File => {
            json!({ "type": "string", "minLength": 1, "description": "the path of a file, relative to the policy's" })
        }
        Leaf::Socket => json!({ "type": "string", "pattern": "^/.*[^/]$", "maxLength": settings::MAX_SOCKET }),
        Leaf::Prefix => json!({ "type": ["string", "number", "boolean"], "maxLength": rate::MAX_PREFIX }),
        Leaf::Endpoint => text(&format!(r"({V4}|\[{V6}\]):[0-9]{{1,5}}"), "an address with a port, 127.0.0.1:9464"),
        Leaf::Address => text(&format!("{V4}|{V6}"), "an IPv4 or IPv6 address"),
        Leaf::Addresses => {
            text(&addresses, "an address, a prefix or a range: 192.0.2.1, 10.0.0.0/8, 192.0.2.1-192.0.2.9")
        }
        Leaf::Net => text(&format!("({V4}|{V6})(/[0-9]{{1,3}})?"), "a prefix: 10.0.0.0/8"),
        Leaf::Port => json!({
            "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 65_535 }, { "type": "string", "pattern": "^[0-9]{1,5}$" }],
            "description": "a port",
        }),
        Leaf::Ports => or_number(65_535, "[0-9]{1,5}( *- *[0-9]{1,5})?", "a port or a range of ports: 80, 8000-8080"),
        Leaf::Duration => text(
            r"([0-9]+d)([0-9]+h)?([0-9]+m)?([0-9]+s)?|([0-9]+h)([0-9]+m)?([0-9]+s)?|([0-9]+m)([0-9]+s)?|[0-9]+s",
            "a duration: 45s, 2m, 1h30m, 5d",
        ),
        Leaf::Rate => {
            let units: Vec<&str> = rate::UNITS.iter().map(|(u, _)| *u).collect();
            text(&format!(r"[0-9_]+ */ *({})", units.join("|")), "a rate: 10/s, 30/m, 100/h, 5/d")
        }
        Leaf::Mark => or_number(u32::MAX, MARK, "a mark: 7, 0x10"),
        Leaf::MaskedMark => or_number(u32::MAX, &format!("{MARK}( */ *{MARK})?"), "a mark: 7, 0x10, 0x10/0xff"),
        Leaf::Protocol => {
            let names: Vec<&str> = protocol::NAMES.iter().map(|(n, _)| *n).collect();
            let number = json!({ "type": "integer", "minimum": 0, "maximum": 255 });
            json!({ "anyOf": [{ "enum": names }, number], "description": "a protocol by name or number" })
        }
        Leaf::IcmpType => {
            let names: Vec<&str> = icmp::TYPES.iter().map(|(n, ..)| *n).collect();
            let codes: Vec<&str> = icmp::CODES.iter().map(|(n, ..)| *n).collect();
            let coded = format!("({}|[0-9]+)(/({}|[0-9]+))?", names.join("|"), codes.join("|"));
            let number = json!({ "type": "integer", "minimum": 0, "maximum": 255 });
            json!({
                "anyOf": [{ "enum": names }, number, { "type": "string", "pattern": whole(&coded) }],
                "description": "a type of ICMP messages, with a code behind a slash",
            })
        }
        Leaf::Helper => json!({ "enum": HelperKind::ALL.map(HelperKind::name) }),
        Leaf::Cpus => or_number(settings::MAX_CPU as u32, "[0-9]+ *- *[0-9]+", "a CPU or a range of them: 2, 4-7"),
    }
}
