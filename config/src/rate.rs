//! Rates, and what has one: `limit` and `log` of a rule.

use dataplane::policy::{Limit, Log, Rate};

use crate::read::{Fields, Keys, boolean, choice, scalar};
use crate::report::{Report, short};
use crate::shape::{Leaf, Shape, key, words};
use crate::yaml::{Node, Value};

/// The value of `limit`.
pub(crate) const LIMIT: Shape = Shape::Either(&[Shape::Leaf(Leaf::Rate), Shape::Map(&LIMIT_KEYS)]);
/// The value of `log`.
pub(crate) const LOG: Shape = Shape::Either(&[Shape::Switch, Shape::Map(&LOG_KEYS)]);
const PERS: [(&str, bool); 2] = [("rule", false), ("source", true)];
const LIMIT_KEYS: Keys = Keys {
    known: &[
        key("rate", Shape::Leaf(Leaf::Rate), "How often it matches.").required(),
        key("burst", Shape::Number(1, MAX_BURST), "How many may come at once after a pause."),
        key(
            "per",
            Shape::Words(&words(&PERS)),
            "What is counted by itself: the rule's packets together, or those of each source address.",
        ),
        key("over", Shape::Switch, "Match what is beyond the rate, instead of what is within."),
    ],
    foreign: &[("limit", "did you mean `rate`?"), ("per_source", "write `per: source`")],
};
const LOG_KEYS: Keys = Keys {
    known: &[
        key("prefix", Shape::Leaf(Leaf::Prefix), "What the line begins with."),
        key("rate", Shape::Either(&[Shape::Leaf(Leaf::Rate), Shape::Words(&["unlimited"])]), "How many lines."),
        key("burst", Shape::Number(1, MAX_BURST), "How many lines at once."),
    ],
    foreign: &[("limit", "did you mean `rate`?"), ("level", "lines have the level info")],
};
/// Units a rate may have, and their nanoseconds.
pub(crate) const UNITS: [(&str, u64); 8] = [
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("second", 1_000_000_000),
    ("minute", 60_000_000_000),
    ("hour", 3_600_000_000_000),
    ("day", 86_400_000_000_000),
];
/// The highest number of a rate.
const MAX_COUNT: u64 = 10_000_000;
/// The largest burst.
const MAX_BURST: u64 = 100_000;
/// The burst of a limit when the policy names none: nft's.
const BURST: u32 = 5;
/// What a rule logs when the policy does not say how much.
const LOG_INTERVAL: u64 = UNITS[0].1 / 10;
const LOG_BURST: u32 = 20;
/// The longest prefix of a log line in bytes.
pub(crate) const MAX_PREFIX: usize = 63;

/// Reads `limit` of the rule `name`.
pub(crate) fn limit<'t>(report: &mut Report<'t>, node: &Node<'t>, name: &str) -> Option<Limit> {
    let owner = format!("limit {name}");
    let Value::Map(_) = node.value else {
        let rate = Rate::new(&owner, interval(report, node)?, BURST);
        return Some(Limit { rate, per_source: false, over: false });
    };
    let fields = Fields::of(report, node, "`limit`", &LIMIT_KEYS)?;
    let interval = fields.require(report, "rate", "`limit`").and_then(|n| interval(report, n));
    let burst = burst(report, &fields, BURST);
    let per_source = fields.get("per").map_or(Some(false), |n| choice(report, n, "a value of `per`", &PERS));
    let over = fields.get("over").map_or(Some(false), |n| boolean(report, n, "`over`"));
    Some(Limit { rate: Rate::new(&owner, interval?, burst?), per_source: per_source?, over: over? })
}

/// Reads `log` of the rule `name`; `None` when it says no.
pub(crate) fn log<'t>(report: &mut Report<'t>, node: &Node<'t>, name: &str) -> Option<Log> {
    let Value::Map(_) = node.value else {
        return boolean(report, node, "`log`").filter(|yes| *yes).map(|_| default_log(name));
    };
    let fields = Fields::of(report, node, "`log`", &LOG_KEYS)?;
    let mut log = default_log(name);
    if let Some(n) = fields.get("prefix")
        && let Some(text) = scalar(report, n, "a prefix")
    {
        if text.len() > MAX_PREFIX || text.chars().any(char::is_control) {
            let help = format!("printable characters, at most {MAX_PREFIX} bytes");
            report.error_help(n.at, format!("`{}` cannot be the prefix of log lines", short(text)), help);
        }
        text.clone_into(&mut log.prefix);
    }
    let burst = burst(report, &fields, LOG_BURST)?;
    let unlimited = fields.get("rate").filter(|n| matches!(&n.value, Value::Text(t) if t == "unlimited"));
    let interval = match fields.get("rate") {
        _ if unlimited.is_some() => {
            if let Some(at) = fields.key_at("burst") {
                report.error(at, "`burst` without a rate");
            }
            log.rate = None;
            return Some(log);
        }
        Some(n) => interval(report, n)?,
        None => LOG_INTERVAL,
    };
    log.rate = Some(log_rate(name, interval, burst));
    Some(log)
}

/// What `log: true` means.
pub(crate) fn default_log(name: &str) -> Log {
    Log { prefix: String::new(), rate: Some(log_rate(name, LOG_INTERVAL, LOG_BURST)) }
}

fn log_rate(name: &str, interval: u64, burst: u32) -> Rate {
    Rate::new(&format!("log {name}"), interval, burst)
}

fn burst<'t>(report: &mut Report<'t>, fields: &Fields<'_, 't>, default: u32) -> Option<u32> {
    match fields.get("burst") {
        None => Some(default),
        Some(_) => fields.number(report, "burst").map(|n| n as u32),
    }
}

/// Nanoseconds from one to the next at a rate such as `10/s`.
fn interval<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<u64> {
    let text = scalar(report, node, "a rate")?;
    let (count, unit) = text.split_once('/').map_or((text, None), |(count, unit)| (count, Some(unit)));
    let digits = count.trim().replace('_', "");
    let well_formed = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let per = unit.and_then(|unit| UNITS.iter().find(|(name, _)| *name == unit.trim()));
    let (true, Some((_, per))) = (well_formed, per) else {
        let help = match unit {
            None if well_formed => format!("write `{digits}/s`"),
            _ => "write 10/s, 30/m, 100/h or 5/d".into(),
        };
        report.error_help(node.at, format!("`{}` is not a rate", short(text)), help);
        return None;
    };
    match digits.parse::<u64>() {
        Ok(n) if (1..=MAX_COUNT).contains(&n) => Some(per / n),
        _ => {
            report.error(node.at, format!("the number of a rate must be between 1 and {MAX_COUNT}"));
            None
        }
    }
}
