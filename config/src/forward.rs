//! `policy`: the rules about what is forwarded.

use dataplane::packet::protocol::TCP;
use dataplane::policy::{Action, Reject, Rule};

use crate::matching::{self, Placing, conditions};
use crate::names::Names;
use crate::read::{Fields, Keys, choice, scalar};
use crate::report::Report;
use crate::rules::{FROM, Head, IN_MATCH, NAME, Placed, TO, list};
use crate::shape::{Leaf, Shape, key, words};
use crate::timeouts::{Profiles, TIMEOUTS};
use crate::yaml::{Node, Value};
use crate::{mark, rate};

pub(crate) const POLICY: Keys = Keys {
    known: &[
        key("default", DEFAULT, "What happens to packets that no rule matches."),
        key("rules", Shape::Rules(&FORWARD), "Asked in order; the first that matches decides."),
    ],
    foreign: &[],
};
const FORWARD: Keys = Keys {
    known: &[
        NAME,
        FROM,
        TO,
        key("match", Shape::Map(&matching::FORWARD), "The conditions, all of which must hold."),
        key("limit", rate::LIMIT, "How often it matches; beyond that the next rules are asked."),
        key("log", rate::LOG, "Write what it matches to the log."),
        key("action", ACTION, "What happens to the packets it matches.").required(),
        key("mark", Shape::Leaf(Leaf::Mark), "The mark that it gives connections."),
        key("timeouts", TIMEOUTS, "Idle timeouts of the connections it accepts."),
    ],
    foreign: &[
        ("source", IN_MATCH),
        ("destination", IN_MATCH),
        ("protocol", IN_MATCH),
        ("port", IN_MATCH),
        ("source_port", IN_MATCH),
        ("state", IN_MATCH),
        ("status", IN_MATCH),
        ("helper", "helpers are given in `tracking`: `action: { helper: ftp }`"),
        ("limits", "did you mean `limit`? Limits on connections stand in `conntrack`"),
        ("rate", "write `limit: 10/s`"),
        ("reject", "write `action: reject`, or `action: { reject: host-unreachable }`"),
        ("with", "write `action: { reject: host-unreachable }`"),
        ("counter", "every rule counts: see `sluice rules`"),
        ("family", IN_MATCH),
        ("icmp_type", IN_MATCH),
        ("tcp_flags", IN_MATCH),
    ],
};
const REJECTION: Keys = Keys {
    known: &[key("reject", Shape::Words(&words(&REJECT)), "How the sender is told.").required()],
    foreign: &[("with", "write `action: { reject: host-unreachable }`")],
};
/// How a rejected packet's sender is told; names are nft's.
const REJECT: [(&str, Reject); 5] = [
    ("tcp-reset", Reject::TcpReset),
    ("port-unreachable", Reject::PortUnreachable),
    ("host-unreachable", Reject::HostUnreachable),
    ("no-route", Reject::NoRoute),
    ("admin-prohibited", Reject::Prohibited),
];

/// The actions that decide.
const DECISIONS: [(&str, Verb); 3] = [
    ("accept", Verb::Decide(Action::Accept)),
    ("drop", Verb::Decide(Action::Drop)),
    ("reject", Verb::Decide(Action::Reject(Reject::Closed))),
];
/// Those that do not.
const NOTES: [(&str, Verb); 2] = [("log", Verb::Log), ("mark", Verb::Mark)];
const DEFAULT: Shape = Shape::Either(&[Shape::Words(&words(&DECISIONS)), Shape::Map(&REJECTION)]);
const ACTION: Shape = Shape::Either(&[DEFAULT, Shape::Words(&words(&NOTES))]);

/// Reads `policy`.
pub(crate) fn policy<'t>(
    report: &mut Report<'t>,
    node: Option<&Node<'t>>,
    names: &Names,
    profiles: &mut Profiles,
) -> (Action, Vec<Placed<Rule>>) {
    let none = (Action::Drop, Vec::new());
    let Some(node) = node else { return none };
    let Some(fields) = Fields::of(report, node, "`policy`", &POLICY) else { return none };
    let default = fields.get("default").and_then(|n| default_action(report, n)).unwrap_or(Action::Drop);
    let rules = list(report, fields.get("rules"), "policy.rules", &FORWARD, |report, rule, head| {
        forward(report, rule, head, names, profiles)
    });
    (default, rules)
}

/// One rule of `policy.rules`.
fn forward<'t>(
    report: &mut Report<'t>,
    rule: &Fields<'_, 't>,
    Head { name, place }: Head,
    names: &Names,
    profiles: &mut Profiles,
) -> Option<Rule> {
    let matcher = conditions(report, rule, names, Placing::Forward);
    let limit = rule.get("limit").and_then(|n| rate::limit(report, n, &name));
    let log = rule.get("log").map(|n| rate::log(report, n, &name));
    let mark = rule.get("mark").and_then(|n| mark(report, n));
    let timeouts = rule.get("timeouts").map_or(0, |n| profiles.of_rule(report, n));
    let node = rule.require(report, "action", "a rule")?;
    let verb = verb(report, node)?;
    if verb == Verb::Decide(Action::Reject(Reject::TcpReset)) && matcher.protocols.as_deref() != Some(&[TCP]) {
        report.error_help(
            node.at,
            "only TCP has resets",
            "add `protocol: tcp` to the match, or write `action: reject`",
        );
    }
    let passes = matches!(verb, Verb::Decide(Action::Accept));
    let discards = matches!(verb, Verb::Decide(_)) && !passes;
    for (key, misplaced, help) in [
        ("mark", discards, "a rule that accepts gives its connections a mark, and so does one with `action: mark`"),
        ("timeouts", !passes, "only the rule that accepts a connection gives it timeouts"),
    ] {
        if let Some(at) = rule.key_at(key).filter(|_| misplaced) {
            report.error_help(at, format!("`{key}` in a rule that accepts nothing"), help);
        }
    }
    let log = match (verb, log) {
        (Verb::Log, Some(None)) => {
            let at = rule.key_at("log").unwrap_or(node.at);
            report.error(at, "a rule whose action is `log` cannot leave it");
            None
        }
        (Verb::Log, None) => Some(rate::default_log(&name)),
        (_, log) => log.flatten(),
    };
    if verb == Verb::Mark && rule.get("mark").is_none() {
        report.error_help(node.at, "the action `mark` needs `mark`", "add `mark: 0x10` beside it");
    }
    let action = match verb {
        Verb::Decide(action) => action,
        Verb::Log | Verb::Mark => Action::Continue,
    };
    Some(Rule { name, place, matcher, limit, log, action, mark, timeouts })
}

/// What `action` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Decide(Action),
    Log,
    Mark,
}

fn verb<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<Verb> {
    if let Value::Map(_) = node.value {
        return reject(report, node).map(Verb::Decide);
    }
    let all = [&DECISIONS[..], &NOTES].concat();
    choice(report, node, "an action", &all)
}

fn reject<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<Action> {
    let fields = Fields::of(report, node, "`action`", &REJECTION)?;
    let how = fields.require(report, "reject", "`action`")?;
    choice(report, how, "a way to reject", &REJECT).map(Action::Reject)
}

/// The action for what no rule matches.
fn default_action<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<Action> {
    let action = match node.value {
        Value::Map(_) => reject(report, node)?,
        _ => match choice(report, node, "an action", &DECISIONS)? {
            Verb::Decide(action) => action,
            Verb::Log | Verb::Mark => return None,
        },
    };
    if action == Action::Reject(Reject::TcpReset) {
        report.error_help(node.at, "only TCP has resets", "write `default: reject`: TCP is answered with resets, too");
        return None;
    }
    Some(action)
}

fn mark<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<u32> {
    let text = scalar(report, node, "a mark")?;
    mark::value(text).map_err(|e| report.refuse(node.at, &e, e.help())).ok()
}
