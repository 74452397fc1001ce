//! Lists of rules: what forwarding, tracking and both translations have in common, and `tracking`.

use std::collections::HashMap;

use dataplane::helper::HelperKind;
use dataplane::policy::{Match, Place, Rule, TrackingAction, TrackingRule};

use crate::conntrack::helper;
use crate::matching::{self, Placing, conditions};
use crate::names::Names;
use crate::protocol;
use crate::read::{Fields, Keys, choice, scalar};
use crate::report::{Report, Span, short};
use crate::shape::{Key, Leaf, Shape, ZONES, key, words};
use crate::yaml::{Node, Value};

/// The most rules in a list: connections remember the rule that admitted them in 16 bits.
pub(crate) const MAX_RULES: usize = 65_000;
/// The longest name of a rule in bytes.
pub(crate) const MAX_NAME: usize = 63;

/// The name that every rule has.
pub(crate) const NAME: Key =
    key("name", Shape::Leaf(Leaf::RuleName), "Tells the rule apart in listings, metrics and the log.").required();
/// Zones beside `match`.
pub(crate) const FROM: Key = key("from", ZONES, "Ingress zones; may stand in `match` instead.");
pub(crate) const TO: Key = key("to", ZONES, "Egress zones; may stand in `match` instead.");
const EXEMPTIONS: [(&str, TrackingAction); 2] =
    [("untracked", TrackingAction::Untracked), ("no-helper", TrackingAction::NoHelper)];
const ACTION: Shape = Shape::Either(&[Shape::Words(&words(&EXEMPTIONS)), Shape::Map(&TRACKING_ACTION)]);

/// A rule of `tracking`.
pub(crate) const TRACKING: Keys = Keys {
    known: &[
        NAME,
        FROM,
        key("match", Shape::Map(&matching::TRACKING), "The conditions, all of which must hold."),
        key("action", ACTION, "`untracked`, `no-helper`, or the helper that reads the connection.").required(),
    ],
    foreign: &[
        ("source", IN_MATCH),
        ("destination", IN_MATCH),
        ("protocol", IN_MATCH),
        ("port", IN_MATCH),
        ("helper", "write `action: { helper: ftp }`"),
    ],
};
const TRACKING_ACTION: Keys = Keys {
    known: &[key("helper", Shape::Leaf(Leaf::Helper), "The helper that reads the connection.").required()],
    foreign: &[("port", "the port stands in `match`")],
};
/// Help for a condition that was written beside `match`.
pub(crate) const IN_MATCH: &str = "conditions stand in `match`";

/// What rules of all lists begin with.
pub(crate) struct Head {
    pub(crate) name: String,
    pub(crate) place: Place,
}

/// A rule of any list, with what the checks between rules need.
pub(crate) struct Placed<R> {
    pub(crate) rule: R,
    /// Where its name is written.
    pub(crate) at: Span,
}

/// Reads the list at `node`: each rule's name and fields, then `one` for what differs between the lists.
pub(crate) fn list<'t, R>(
    report: &mut Report<'t>,
    node: Option<&Node<'t>>,
    section: &str,
    keys: &'static Keys,
    mut one: impl FnMut(&mut Report<'t>, &Fields<'_, 't>, Head) -> Option<R>,
) -> Vec<Placed<R>> {
    let Some(node) = node else { return Vec::new() };
    let Value::List(items) = &node.value else {
        let message = format!("`{section}` must be a list of rules, not {}", crate::read::kind(node));
        report.error_help(node.at, message, "begin each rule with `- name: ...`");
        return Vec::new();
    };
    if items.len() > MAX_RULES {
        report.error(node.at, format!("`{section}` has {} rules: there can be at most {MAX_RULES}", items.len()));
        return Vec::new();
    }
    let mut seen: HashMap<String, Span> = HashMap::new();
    let mut out = Vec::with_capacity(items.len());
    for item in items {
        let Some(fields) = Fields::of(report, item, &format!("a rule of `{section}`"), keys) else { continue };
        let named = fields.require(report, "name", "a rule");
        let name = named.and_then(|n| rule_name(report, n)).unwrap_or_default().to_owned();
        let at = named.map_or(fields.at, |n| n.at);
        if !name.is_empty()
            && let Some(first) = seen.insert(name.clone(), at)
        {
            let message = format!("`{name}` is already the name of the rule on line {}", report.line_of(first));
            report.error_help(at, message, "names tell rules apart in counters and listings: give each its own");
        }
        if let Some(rule) = one(report, &fields, Head { name, place: report.place_of(at) }) {
            out.push(Placed { rule, at });
        }
    }
    out
}

fn rule_name<'n, 't>(report: &mut Report<'t>, node: &'n Node<'t>) -> Option<&'n str> {
    let name = scalar(report, node, "a name")?;
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        let help = format!("at least one printable character, at most {MAX_NAME} bytes");
        report.error_help(node.at, format!("`{}` cannot be the name of a rule", short(name)), help);
        return None;
    }
    Some(name)
}

/// Reads `tracking`.
pub(crate) fn tracking<'t>(
    report: &mut Report<'t>,
    node: Option<&Node<'t>>,
    names: &Names,
) -> Vec<Placed<TrackingRule>> {
    list(report, node, "tracking", &TRACKING, |report, rule, Head { name, place }| {
        let mut matcher = conditions(report, rule, names, Placing::Tracking);
        let node = rule.require(report, "action", "a rule")?;
        let action = tracking_action(report, node, &mut matcher)?;
        Some(TrackingRule { name, place, matcher, action })
    })
}

fn tracking_action<'t>(report: &mut Report<'t>, node: &Node<'t>, matcher: &mut Match) -> Option<TrackingAction> {
    if !matches!(node.value, Value::Map(_)) {
        let word = scalar(report, node, "`untracked`, `no-helper` or a map")?;
        let named = word.parse::<HelperKind>().ok();
        if named.is_some() || word.starts_with("helper") {
            let help = format!("write `action: {{ helper: {} }}`", named.unwrap_or(HelperKind::Ftp));
            report.error_help(node.at, format!("`{}` is not an action of `tracking`", short(word)), help);
            return None;
        }
        return choice(report, node, "an action of `tracking`", &EXEMPTIONS);
    }
    let fields = Fields::of(report, node, "`action`", &TRACKING_ACTION)?;
    let node = fields.require(report, "helper", "`action`")?;
    let kind = helper(report, node)?;
    let reads = kind.properties().protocol;
    if matcher.protocols.as_ref().is_some_and(|p| !p.contains(&reads)) {
        let name = protocol::name(reads);
        report.error_help(
            node.at,
            format!("the helper {kind} reads {name}, which `protocol` does not match"),
            format!("write `protocol: {name}` or leave it out"),
        );
        return None;
    }
    // Other protocols pass the rule by.
    matcher.protocols = Some(vec![reads]);
    Some(TrackingAction::Helper(kind))
}

/// What checks between rules ask of a rule.
pub(crate) trait Named {
    fn name(&self) -> &str;
    fn matcher(&self) -> &Match;
    /// Whether no later rule is asked about what its conditions fit.
    fn is_final(&self) -> bool;
}

macro_rules! named {
    ($($t:ty: $last:expr;)*) => {$(
        impl Named for $t {
            fn name(&self) -> &str {
                &self.name
            }
            fn matcher(&self) -> &Match {
                &self.matcher
            }
            fn is_final(&self) -> bool {
                $last(self)
            }
        }
    )*};
}
named! {
    Rule: Rule::is_final;
    TrackingRule: |_| true;
    dataplane::policy::DestinationNat: |_| true;
    dataplane::policy::SourceNat: |_| true;
}
