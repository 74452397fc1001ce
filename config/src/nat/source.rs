//! `nat.source`.

use std::net::IpAddr;

use dataplane::policy::{AddressSet, Family, Filtering, Match, PortChoice, SourceNat, SourceTranslation};

use super::prefix::{PREFIX, Side, prefix};
use crate::address::AddressRange;
use crate::duration;
use crate::lists::{literal_addresses, port_range, ranges_of, sendable};
use crate::matching::{self, Placing, conditions, confine, family};
use crate::names::Names;
use crate::read::{Fields, Keys, choice, scalar, some_items};
use crate::report::{Report, short};
use crate::rules::{FROM, Head, IN_MATCH, NAME, Placed, TO, list};
use crate::shape::{Leaf, Shape, key, words};
use crate::yaml::{Node, Value};

/// The words in place of a map, and whether they translate.
const WORDS: [(&str, bool); 2] = [("masquerade", true), ("none", false)];
/// How a source is translated.
pub(super) const TRANSLATION: Shape = Shape::Either(&[Shape::Words(&words(&WORDS)), Shape::Map(&TRANSLATE)]);
/// A source translation.
pub(super) const SOURCE: Keys = Keys {
    known: &[
        NAME,
        FROM,
        TO,
        key("match", Shape::Map(&matching::SOURCE), "The conditions, on addresses after destination translation."),
        key("translate", TRANSLATION, "What the source becomes.").required(),
    ],
    foreign: &[
        ("source", IN_MATCH),
        ("destination", IN_MATCH),
        ("protocol", IN_MATCH),
        ("port", IN_MATCH),
        ("masquerade", "write `translate: masquerade`"),
        ("action", "a translation has `translate` in place of `action`"),
    ],
};
const TRANSLATE: Keys = Keys {
    known: &[
        key("pool", Shape::Some(&Shape::Leaf(Leaf::Addresses)), "The addresses to choose from, of one family."),
        key("masquerade", Shape::True, "The egress interface's own address, with the keys below."),
        key("prefix", Shape::Map(&PREFIX), "Addresses in `from` become their counterparts in `to`."),
        key(
            "ports",
            Shape::Leaf(Leaf::Ports),
            "The ports to choose from. Without it the source's port is kept if it is free.",
        ),
        key("random", Shape::Switch, "Take a random port even when the source's own is free."),
        key("persistent", Shape::Switch, "With `pool`: a source keeps its address even when that has no port left."),
        key(
            "mapping",
            Shape::Words(&words(&MAPPINGS)),
            "Whether a source's port has one port outside for all remotes (RFC 4787).",
        ),
        key(
            "filtering",
            Shape::Words(&words(&FILTERINGS)),
            "Who may open connections to a port outside that is in use (RFC 4787).",
        ),
        key(
            "hold",
            Shape::Leaf(Leaf::Duration),
            "How long a port outside is kept for its source after the last connection.",
        ),
    ],
    foreign: &[
        ("to", "the addresses to translate a source to are `pool`"),
        ("address", "the addresses to translate a source to are `pool`"),
        ("port", "the ports to choose from are `ports`"),
        ("netmap", "prefixes that correspond are `prefix: { from: ..., to: ... }`"),
    ],
};
/// Ranges of a pool that are looked for among the host's own addresses.
const MAX_ASKED: usize = 64;
/// What the mappings are called (RFC 4787 section 4.1), and whether they depend on the remote endpoint.
const MAPPINGS: [(&str, bool); 2] = [("endpoint-dependent", true), ("endpoint-independent", false)];
/// What the filterings are called (RFC 4787 section 5).
const FILTERINGS: [(&str, Filtering); 3] = [
    ("endpoint-dependent", Filtering::EndpointDependent),
    ("address-dependent", Filtering::AddressDependent),
    ("endpoint-independent", Filtering::EndpointIndependent),
];

/// Reads `nat.source`.
pub(super) fn source<'t>(report: &mut Report<'t>, node: Option<&Node<'t>>, names: &Names) -> Vec<Placed<SourceNat>> {
    list(report, node, "nat.source", &SOURCE, |report, rule, Head { name, place }| {
        let mut matcher = conditions(report, rule, names, Placing::SourceNat);
        let node = rule.require(report, "translate", "a source translation")?;
        let translate = translation(report, node, &mut matcher)?;
        Some(SourceNat { name, place, matcher, translate })
    })
}

/// Reads how a source is translated, and confines the match to the family of that translation.
pub(super) fn translation<'t>(
    report: &mut Report<'t>,
    node: &Node<'t>,
    matcher: &mut Match,
) -> Option<SourceTranslation> {
    match &node.value {
        Value::Map(_) => map(report, node, matcher),
        _ => word(report, node),
    }
}

fn word<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<SourceTranslation> {
    let word = scalar(report, node, "`masquerade`, `none` or a map")?;
    if word.parse::<AddressRange>().is_ok() {
        let help = format!("write `translate: {{ pool: [{word}] }}`");
        report.error_help(node.at, format!("`{word}` is an address, not a translation"), help);
        return None;
    }
    if let Some(address) = word.strip_prefix("masquerade ") {
        let help =
            format!("it uses the egress interface's; for others write `translate: {{ pool: [{}] }}`", short(address));
        report.error_help(node.at, "`masquerade` takes no address", help);
        return None;
    }
    let masquerade = choice(report, node, "a translation", &WORDS)?;
    Some(if masquerade { SourceTranslation::Masquerade(PortChoice::default()) } else { SourceTranslation::None })
}

fn map<'t>(report: &mut Report<'t>, node: &Node<'t>, matcher: &mut Match) -> Option<SourceTranslation> {
    let fields = Fields::of(report, node, "`translate`", &TRANSLATE)?;
    let kinds: Vec<&str> = ["pool", "masquerade", "prefix"].into_iter().filter(|k| fields.get(k).is_some()).collect();
    let kind = match kinds[..] {
        [one] => one,
        [] => {
            report.error_help(fields.at, "`translate` needs `pool`", "or write `translate: masquerade`");
            return None;
        }
        [a, b, ..] => {
            report.error(fields.at, format!("`{a}` and `{b}` exclude each other"));
            return None;
        }
    };
    let node = fields.get(kind)?;
    match kind {
        "pool" => {
            let choice = port_choice(report, &fields);
            let addresses = pool(report, node)?;
            let owns = report.host().owns;
            if addresses.iter().take(MAX_ASKED).any(|(first, _)| owns(*first)) {
                ports_of_host(report, &fields, &choice);
            }
            confine(report, matcher, Family::of(addresses[0].0), node.at, "the pool");
            Some(SourceTranslation::Pool { addresses, choice })
        }
        "masquerade" => {
            let help = "the address is the egress interface's: leave the key out";
            refuse_keys(report, &fields, &["persistent"], "with `masquerade`", help);
            let choice = port_choice(report, &fields);
            masquerade(report, node)?;
            ports_of_host(report, &fields, &choice);
            Some(SourceTranslation::Masquerade(choice))
        }
        _ => {
            let all = ["ports", "random", "persistent", "mapping", "filtering", "hold"];
            let help = "a prefix translates addresses one to one and keeps ports: leave the key out";
            refuse_keys(report, &fields, &all, "with `prefix`", help);
            Some(SourceTranslation::Prefix(prefix(report, node, matcher, Side::Source)?.inside_out()))
        }
    }
}

fn refuse_keys(report: &mut Report<'_>, fields: &Fields<'_, '_>, keys: &[&str], context: &str, help: &str) {
    for key in keys {
        if let Some(at) = fields.key_at(key) {
            report.error_help(at, format!("`{key}` {context}"), help);
        }
    }
}

/// The value of `masquerade`: `true`, since a policy that does not want it does not name it.
fn masquerade<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<()> {
    let text = scalar(report, node, "`true`")?;
    if text.parse::<AddressRange>().is_ok() {
        let help = format!("it uses the egress interface's; for others write `pool: [{text}]`");
        report.error_help(node.at, "`masquerade` takes no address", help);
        return None;
    }
    choice(report, node, "a value for `masquerade`", &[("true", ())])
}

fn switch<'t>(report: &mut Report<'t>, fields: &Fields<'_, 't>, key: &str) -> bool {
    fields.switch(report, key).unwrap_or(false)
}

fn port_choice<'t>(report: &mut Report<'t>, fields: &Fields<'_, 't>) -> PortChoice {
    let independent = independent(report, fields);
    PortChoice {
        ports: fields.get("ports").and_then(|n| port_pool(report, n)),
        random: switch(report, fields, "random"),
        persistent: switch(report, fields, "persistent"),
        independent,
        hold: hold(report, fields, independent),
    }
}

/// Warns of ports on an address of the host's own that the kernel gives the host's own connections as well.
/// Where the policy names no ports, they are not chosen.
fn ports_of_host(report: &mut Report<'_>, fields: &Fields<'_, '_>, choice: &PortChoice) {
    let (Some((first, last)), Some((a, b)), Some(node)) = (choice.ports, report.host().ports, fields.get("ports"))
    else {
        return;
    };
    if first > b || a > last {
        return;
    }
    let message = format!("`ports` {first}-{last} overlap those of the gateway's own connections, {a}-{b}");
    let help = "answers to one could be taken for the other's: choose ports beside these, or change the sysctl \
                net.ipv4.ip_local_port_range";
    report.warning(node.at, message, help);
}

/// For how long a port is kept; 0 when it is not.
fn hold<'t>(report: &mut Report<'t>, fields: &Fields<'_, 't>, independent: Option<Filtering>) -> u32 {
    let (Some(node), Some(at)) = (fields.get("hold"), fields.key_at("hold")) else { return 0 };
    if independent != Some(Filtering::EndpointIndependent) {
        let help = "leave the key out: with another filtering nobody reaches the port's next source by mistake";
        report.error_help(at, "`hold` needs `filtering: endpoint-independent`", help);
        return 0;
    }
    let Some(text) = scalar(report, node, "a duration") else { return 0 };
    duration::parse(text).unwrap_or_else(|e| {
        report.refuse(node.at, &e, e.help());
        0
    })
}

/// The filtering of an endpoint-independent mapping; `None` for an endpoint-dependent one.
fn independent<'t>(report: &mut Report<'t>, fields: &Fields<'_, 't>) -> Option<Filtering> {
    let mapping = fields.get("mapping").map(|n| choice(report, n, "a mapping", &MAPPINGS));
    let filtering = fields.get("filtering").map(|n| choice(report, n, "a filtering", &FILTERINGS));
    let dependent = match mapping {
        None => true,
        Some(dependent) => dependent?,
    };
    if !dependent {
        return Some(filtering.flatten().unwrap_or_default());
    }
    if let (Some(_), Some(at)) = (filtering, fields.key_at("filtering")) {
        let help = "add `mapping: endpoint-independent`, or leave the key out: who was not sent to cannot answer";
        report.error_help(at, "`filtering` needs an endpoint-independent mapping", help);
    }
    None
}

/// The addresses of a pool, sorted and disjoint; all of one family.
fn pool<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<Vec<(IpAddr, IpAddr)>> {
    let list =
        some_items(report, node, "`pool`", "name the addresses to translate to, or write `translate: masquerade`")?;
    let ranges = literal_addresses(report, list);
    if ranges.len() < list.len() {
        return None;
    }
    if let Some((first, last)) = ranges.iter().find(|(a, b)| !sendable(*a) || !sendable(*b)) {
        let bad = if sendable(*first) { last } else { first };
        report.error(node.at, format!("`{bad}` is not an address packets can be sent from"));
        return None;
    }
    let set = AddressSet::new(ranges);
    if family(&set).is_none() {
        report.error_help(node.at, "the pool has IPv4 and IPv6 addresses", "write a rule for each family");
        return None;
    }
    Some(ranges_of(&set).collect())
}

fn port_pool<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<(u16, u16)> {
    let text = scalar(report, node, "a range of ports")?;
    let (first, last) = port_range(report, node.at, text)?;
    if first == 0 {
        report.error_help(node.at, "port 0 cannot be used", "the usual range is 1024-65535");
        return None;
    }
    Some((first, last))
}
