//! `nat.source` and `nat.destination`.

use std::net::IpAddr;

use dataplane::packet::protocol::has_ports;
use dataplane::policy::{AddressSet, DestinationNat, Match, SourceNat, SourceTranslation};

use crate::address::AddressRange;
use crate::matching::{Family, Place, conditions, confine, family};
use crate::names::Names;
use crate::protocol;
use crate::read::{Fields, Keys, boolean, choice, scalar, some_items};
use crate::report::{Report, short};
use crate::rules::{IN_MATCH, Placed, list};
use crate::sets::{literal_addresses, port_range, ranges_of, sendable, single_address, single_port};
use crate::yaml::{Node, Value};

/// The most backends of a destination translation.
const MAX_BACKENDS: usize = 1024;

const NAT: Keys = Keys {
    known: &["source", "destination"],
    foreign: &[
        ("snat", "source translations stand in `source`"),
        ("dnat", "destination translations stand in `destination`"),
    ],
};
const SOURCE: Keys = Keys {
    known: &["name", "from", "to", "match", "translate"],
    foreign: &[
        ("source", IN_MATCH),
        ("destination", IN_MATCH),
        ("protocol", IN_MATCH),
        ("port", IN_MATCH),
        ("masquerade", "write `translate: masquerade`"),
        ("action", "a translation has `translate` in place of `action`"),
    ],
};
const DESTINATION: Keys = Keys {
    known: &["name", "from", "match", "translate"],
    foreign: &[
        (
            "to",
            "the egress zone is not known before the destination is translated; the backend is `translate: { to: ... }`",
        ),
        ("source", IN_MATCH),
        ("destination", IN_MATCH),
        ("protocol", IN_MATCH),
        ("port", IN_MATCH),
        ("action", "a translation has `translate` in place of `action`"),
    ],
};
const TRANSLATE_SOURCE: Keys = Keys {
    known: &["pool", "masquerade", "ports", "random", "mapping"],
    foreign: &[
        ("to", "the addresses to translate a source to are `pool`"),
        ("address", "the addresses to translate a source to are `pool`"),
        ("port", "the ports to choose from are `ports`"),
    ],
};
const TRANSLATE_DESTINATION: Keys =
    Keys { known: &["to", "port"], foreign: &[("ports", "the first port to translate to is `port`")] };

/// Reads `nat`: source and destination translations.
pub(crate) fn nat<'t>(
    report: &mut Report<'t>,
    node: Option<&Node<'t>>,
    names: &Names,
) -> (Vec<Placed<SourceNat>>, Vec<Placed<DestinationNat>>) {
    let Some(fields) = node.and_then(|n| Fields::of(report, n, "`nat`", &NAT)) else {
        return (Vec::new(), Vec::new());
    };
    let source = list(report, fields.get("source"), "nat.source", &SOURCE, |report, rule, name| {
        let mut matcher = conditions(report, rule, names, Place::SourceNat);
        let node = rule.require(report, "translate", "a source translation")?;
        let translate = translate_source(report, node, &mut matcher)?;
        Some(SourceNat { name, matcher, translate })
    });
    let destination = list(report, fields.get("destination"), "nat.destination", &DESTINATION, |report, rule, name| {
        let matcher = conditions(report, rule, names, Place::DestinationNat);
        let node = rule.require(report, "translate", "a destination translation")?;
        translate_destination(report, rule, node, name, matcher)
    });
    (source, destination)
}

fn translate_source<'t>(report: &mut Report<'t>, node: &Node<'t>, matcher: &mut Match) -> Option<SourceTranslation> {
    if !matches!(node.value, Value::Map(_)) {
        let word = scalar(report, node, "`masquerade`, `none` or a map")?;
        if word.parse::<AddressRange>().is_ok() {
            let help = format!("write `translate: {{ pool: [{word}] }}`");
            report.error_help(node.at, format!("`{word}` is an address, not a translation"), help);
            return None;
        }
        if let Some(address) = word.strip_prefix("masquerade ") {
            let help = format!(
                "it uses the egress interface's; for others write `translate: {{ pool: [{}] }}`",
                short(address)
            );
            report.error_help(node.at, "`masquerade` takes no address", help);
            return None;
        }
        let masquerade = choice(report, node, "a translation", &[("masquerade", true), ("none", false)])?;
        return Some(if masquerade {
            SourceTranslation::Masquerade { ports: None, random: false }
        } else {
            SourceTranslation::None
        });
    }
    let fields = Fields::of(report, node, "`translate`", &TRANSLATE_SOURCE)?;
    let ports = fields.get("ports").and_then(|n| port_pool(report, n));
    let random = fields.get("random").and_then(|n| boolean(report, n, "`random`")).unwrap_or(false);
    if let Some(n) = fields.get("mapping") {
        mapping(report, n);
    }
    match (fields.get("pool"), fields.get("masquerade")) {
        (Some(_), Some(_)) => {
            report.error(fields.at, "`pool` and `masquerade` exclude each other");
            None
        }
        (None, None) => {
            report.error_help(fields.at, "`translate` needs `pool`", "or write `translate: masquerade`");
            None
        }
        (None, Some(n)) => {
            let text = scalar(report, n, "`true`")?;
            if text.parse::<AddressRange>().is_ok() {
                let help = format!("it uses the egress interface's; for others write `pool: [{text}]`");
                report.error_help(n.at, "`masquerade` takes no address", help);
                return None;
            }
            choice(report, n, "a value for `masquerade`", &[("true", ())])?;
            Some(SourceTranslation::Masquerade { ports, random })
        }
        (Some(n), None) => {
            let addresses = pool(report, n)?;
            confine(report, matcher, Family::of(addresses[0].0), n.at, "the pool");
            Some(SourceTranslation::Pool { addresses, ports, random })
        }
    }
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
    let (first, last) = port_range(report, node, text)?;
    if first == 0 {
        report.error_help(node.at, "port 0 cannot be used", "the usual range is 1024-65535");
        return None;
    }
    Some((first, last))
}

fn mapping<'t>(report: &mut Report<'t>, node: &Node<'t>) {
    let words = [("endpoint-dependent", true), ("endpoint-independent", false)];
    if choice(report, node, "a mapping", &words) == Some(false) {
        report.error_help(
            node.at,
            "`mapping: endpoint-independent` is not supported yet",
            "leave the key out: the mapping is endpoint-dependent, as netfilter's",
        );
    }
}

fn translate_destination<'t>(
    report: &mut Report<'t>,
    rule: &Fields<'_, 't>,
    node: &Node<'t>,
    name: String,
    mut matcher: Match,
) -> Option<DestinationNat> {
    if let Value::Text(word) = &node.value {
        let help = if word.parse::<AddressRange>().is_ok() {
            format!("write `translate: {{ to: {word} }}`")
        } else {
            "write `translate: { to: ADDRESS }`, with `port` if the port changes too".into()
        };
        report.error_help(node.at, format!("`{}` is not a destination translation", short(word)), help);
        return None;
    }
    let fields = Fields::of(report, node, "`translate`", &TRANSLATE_DESTINATION)?;
    let port = fields.get("port").and_then(|n| single_port(report, n, "`translate.port`"));
    let target = fields.require(report, "to", "`translate`")?;
    let list = some_items(report, target, "`translate.to`", "name the address to translate to")?;
    if list.len() > MAX_BACKENDS {
        report.error(target.at, format!("{} backends: there can be at most {MAX_BACKENDS}", list.len()));
        return None;
    }
    let to: Vec<IpAddr> = list.iter().filter_map(|n| single_address(report, n)).collect();
    if to.len() < list.len() {
        return None;
    }
    let one_family = Family::of(*to.first()?);
    if let Some(i) = to.iter().position(|a| Family::of(*a) != one_family) {
        report.error_help(
            list[i].at,
            format!("the backends are {one_family} and {}", Family::of(to[i])),
            "a translation stays within one family: write a rule for each",
        );
        return None;
    }
    confine(report, &mut matcher, one_family, target.at, "the backend");
    if let (Some(port), Some(at)) = (port, fields.get("port").map(|n| n.at)) {
        port_fits(report, rule, &matcher, port, at);
    }
    Some(DestinationNat { name, matcher, to, port })
}

/// Refuses `translate.port` where the match lets packets in that have no port, or shifts a port past 65535.
fn port_fits(report: &mut Report<'_>, rule: &Fields<'_, '_>, m: &Match, port: u16, at: crate::report::Span) {
    match (&m.protocols, &m.destination_port) {
        (Some(list), _) => {
            if let Some(portless) = list.iter().find(|p| !has_ports(**p)) {
                let message =
                    format!("`translate.port` with the protocol {}, which has no ports", protocol::name(*portless));
                report.error_help(at, message, "ports exist in tcp, udp, udplite and sctp; write two rules");
            }
        }
        (None, None) if rule.get("match").is_none_or(|n| matches!(n.value, Value::Map(_))) => {
            let help = "add `protocol: tcp` (or another with ports) or `port` to the match";
            report.error_help(at, "`translate.port` needs a match that only packets with ports meet", help);
        }
        (None, _) => {}
    }
    for (first, last) in m.destination_port.iter().flat_map(|s| s.ranges()) {
        if last - first > u16::MAX - port {
            let message = format!("ports {first}-{last} moved to begin at {port} would end beyond 65535");
            report.error_help(at, message, format!("the highest `port` that fits is {}", u16::MAX - (last - first)));
        }
    }
}
