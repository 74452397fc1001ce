//! `nat.destination`.

use std::net::IpAddr;

use dataplane::packet::protocol::{SCTP, TCP, UDP, UDPLITE, has_ports};
use dataplane::policy::{DestinationNat, DestinationTranslation, Family, Match, SourceTranslation};

use super::prefix::{PREFIX, Side, prefix};
use super::source;
use crate::address::AddressRange;
use crate::lists::{single_address, single_port};
use crate::matching::{self, Placing, conditions, confine};
use crate::names::Names;
use crate::protocol;
use crate::read::{Fields, Keys, choice, scalar, some_items};
use crate::report::{Report, Span, short};
use crate::rules::{FROM, Head, IN_MATCH, NAME, Placed, list};
use crate::shape::{Leaf, Shape, key};
use crate::yaml::{Node, Value};

/// The most backends of a destination translation.
const MAX_BACKENDS: usize = 1024;

/// How a destination is translated.
const TRANSLATION: Shape = Shape::Either(&[Shape::Words(&["redirect", "none"]), Shape::Map(&TRANSLATE)]);
/// A destination translation.
pub(super) const DESTINATION: Keys = Keys {
    known: &[
        NAME,
        FROM,
        key("match", Shape::Map(&matching::DESTINATION), "The conditions; the egress zone is not known yet."),
        key("translate", TRANSLATION, "What the destination becomes.").required(),
    ],
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
const TRANSLATE: Keys = Keys {
    known: &[
        key("to", Shape::Some(&Shape::Leaf(Leaf::Address)), "The backend, or several of one family."),
        key("port", Shape::Leaf(Leaf::Port), "The port to translate to; a range in the match is moved to begin there."),
        key("prefix", Shape::Map(&PREFIX), "Addresses in `from` become their counterparts in `to`."),
        key("redirect", Shape::True, "To the gateway itself."),
        key("source", source::TRANSLATION, "A source translation for the same connections."),
    ],
    foreign: &[
        ("ports", "the first port to translate to is `port`"),
        ("netmap", "prefixes that correspond are `prefix: { from: ..., to: ... }`"),
    ],
};

/// Reads `nat.destination`.
pub(super) fn destination<'t>(
    report: &mut Report<'t>,
    node: Option<&Node<'t>>,
    names: &Names,
) -> Vec<Placed<DestinationNat>> {
    list(report, node, "nat.destination", &DESTINATION, |report, rule, Head { name, place }| {
        let mut matcher = conditions(report, rule, names, Placing::DestinationNat);
        let node = rule.require(report, "translate", "a destination translation")?;
        let (translate, source) = match &node.value {
            Value::Map(_) => map(report, rule, node, &mut matcher)?,
            _ => (word(report, node)?, None),
        };
        Some(DestinationNat { name, place, matcher, translate, source })
    })
}

fn word<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<DestinationTranslation> {
    let word = scalar(report, node, "`redirect`, `none` or a map")?;
    match word {
        "none" => return Some(DestinationTranslation::None),
        "redirect" => return Some(DestinationTranslation::Redirect { port: None }),
        _ => {}
    }
    let help = if word.parse::<AddressRange>().is_ok() {
        format!("write `translate: {{ to: {word} }}`")
    } else {
        "write `translate: { to: ADDRESS }`, with `port` if the port changes too, `redirect` or `none`".into()
    };
    report.error_help(node.at, format!("`{}` is not a destination translation", short(word)), help);
    None
}

fn map<'t>(
    report: &mut Report<'t>,
    rule: &Fields<'_, 't>,
    node: &Node<'t>,
    matcher: &mut Match,
) -> Option<(DestinationTranslation, Option<SourceTranslation>)> {
    let fields = Fields::of(report, node, "`translate`", &TRANSLATE)?;
    let translate = match (fields.get("prefix"), fields.get("redirect")) {
        (_, Some(node)) => redirect(report, rule, &fields, node, matcher)?,
        (Some(node), None) => inward(report, &fields, node, matcher)?,
        (None, None) => backends(report, rule, &fields, matcher)?,
    };
    let source = match fields.get("source") {
        Some(node) => Some(source::translation(report, node, matcher)?),
        None => None,
    };
    Some((translate, source))
}

fn inward<'t>(
    report: &mut Report<'t>,
    fields: &Fields<'_, 't>,
    node: &Node<'t>,
    matcher: &mut Match,
) -> Option<DestinationTranslation> {
    for key in ["to", "port"] {
        if let Some(at) = fields.key_at(key) {
            let help = "a prefix translates addresses one to one and keeps ports";
            report.error_help(at, format!("`{key}` and `prefix` exclude each other"), help);
        }
    }
    Some(DestinationTranslation::Prefix(prefix(report, node, matcher, Side::Destination)?.outside_in()))
}

fn redirect<'t>(
    report: &mut Report<'t>,
    rule: &Fields<'_, 't>,
    fields: &Fields<'_, 't>,
    node: &Node<'t>,
    matcher: &mut Match,
) -> Option<DestinationTranslation> {
    for (key, help) in [
        ("to", "packets are redirected to the gateway itself, at the address of the interface they come in on"),
        ("prefix", "a prefix translates addresses one to one"),
        ("source", "the gateway itself sees the client's own address"),
    ] {
        if let Some(at) = fields.key_at(key) {
            report.error_help(at, format!("`{key}` and `redirect` exclude each other"), help);
        }
    }
    let port = fields.get("port").and_then(|n| single_port(report, n, "`translate.port`"));
    if let (Some(port), Some(at)) = (port, fields.get("port").map(|n| n.at)) {
        port_fits(report, rule, matcher, port, at);
        match &matcher.protocols {
            // The checksum of SCTP covers all of the packet, more than the way out of the kernel can mend.
            Some(list) if list.contains(&SCTP) => {
                let help = "leave `port` out, or write a rule of its own for sctp";
                report.error_help(at, "a redirection keeps the port of sctp", help);
            }
            Some(_) => {}
            None => matcher.protocols = Some([TCP, UDP, UDPLITE].into()),
        }
    }
    wanted(report, node)?;
    Some(DestinationTranslation::Redirect { port })
}

/// The value of `redirect`: `true`, since a rule that does not want it does not name it.
fn wanted<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<()> {
    let word = scalar(report, node, "`true`")?;
    if word.parse::<u16>().is_ok() {
        let help = format!("write `{{ redirect: true, port: {word} }}`");
        report.error_help(node.at, format!("`{word}` is not a value for `redirect`"), help);
        return None;
    }
    choice(report, node, "a value for `redirect`", &[("true", ())])
}

fn backends<'t>(
    report: &mut Report<'t>,
    rule: &Fields<'_, 't>,
    fields: &Fields<'_, 't>,
    matcher: &mut Match,
) -> Option<DestinationTranslation> {
    let port = fields.get("port").and_then(|n| single_port(report, n, "`translate.port`"));
    let target = fields.require(report, "to", "`translate`")?;
    let list = some_items(report, target, "`translate.to`", "name the address to translate to")?;
    if list.len() > MAX_BACKENDS {
        report.error(target.at, format!("{} backends: there can be at most {MAX_BACKENDS}", list.len()));
        return None;
    }
    let addresses: Vec<IpAddr> = list.iter().filter_map(|n| single_address(report, n)).collect();
    if addresses.len() < list.len() {
        return None;
    }
    let one_family = Family::of(*addresses.first()?);
    if let Some(i) = addresses.iter().position(|a| Family::of(*a) != one_family) {
        report.error_help(
            list[i].at,
            format!("the backends are {one_family} and {}", Family::of(addresses[i])),
            "a translation stays within one family: write a rule for each",
        );
        return None;
    }
    confine(report, matcher, one_family, target.at, "the backend");
    if let (Some(port), Some(at)) = (port, fields.get("port").map(|n| n.at)) {
        port_fits(report, rule, matcher, port, at);
    }
    Some(DestinationTranslation::To { addresses, port })
}

/// Refuses `translate.port` where the match lets packets in that have no port, or shifts a port past 65535.
fn port_fits(report: &mut Report<'_>, rule: &Fields<'_, '_>, m: &Match, port: u16, at: Span) {
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
