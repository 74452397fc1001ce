//! The `match` of a rule, wherever the rule stands.

use dataplane::conntrack::tcp::flags;
use dataplane::conntrack::{CtState, Status};
use dataplane::packet::protocol::{self, has_ports};
use dataplane::policy::{AddressSet, Family, IcmpTypes, Match, States, TcpFlags};

use crate::icmp;
use crate::lists::{addresses, ports};
use crate::mark;
use crate::names::{BY_INTERFACE, Names, zones};
use crate::protocol as protocols;
use crate::read::{Fields, Keys, choice, scalar, some_items};
use crate::report::{Report, Span};
use crate::shape::{Key, Leaf, Shape, ZONES, key, words};
use crate::yaml::{Node, Value};

/// The list a rule stands in; it decides which facts are known when the rule is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placing {
    Forward,
    Tracking,
    DestinationNat,
    SourceNat,
}

macro_rules! vocabulary {
    ($($extra:expr),* $(,)?) => {
        &[
            $($extra,)*
            ("saddr", "the source address is `source`"),
            ("src", "the source address is `source`"),
            ("daddr", "the destination address is `destination`"),
            ("dst", "the destination address is `destination`"),
            ("dport", "the destination port is `port`"),
            ("ports", "the destination port is `port`; it may be a list"),
            ("destination_port", "the destination port is `port`"),
            ("sport", "the source port is `source_port`"),
            ("icmp", "the type of ICMP and ICMPv6 messages is `icmp_type`"),
            ("icmpv6", "the type of ICMP and ICMPv6 messages is `icmp_type`"),
            ("icmpv6_type", "`icmp_type` is for ICMPv6 too"),
            ("icmp_code", "the code follows the type: `icmp_type: destination-unreachable/port-unreachable`"),
            ("flags", "the flags of TCP segments are `tcp_flags`"),
            ("syn", "write `tcp_flags: { set: syn, clear: ack }`"),
            ("proto", "the transport protocol is `protocol`"),
            ("ctmark", "the connection's mark is `mark`"),
            ("connmark", "the connection's mark is `mark`"),
            ("iif", "rules match zones: `from` is the zone of the ingress interface"),
            ("oif", "rules match zones: `to` is the zone of the egress interface"),
            ("interface", "rules match zones: `from` and `to`"),
        ]
    };
}

const ADDRESS: Shape =
    Shape::Either(&[Shape::Leaf(Leaf::Addresses), Shape::Leaf(Leaf::Name), Shape::Map(&BY_INTERFACE)]);
const PORTS: Shape = Shape::Some(&Shape::Either(&[Shape::Leaf(Leaf::Ports), Shape::Leaf(Leaf::Name)]));
const BITS: Shape = Shape::Some(&Shape::Words(&words(&flags::NAMES)));

const FROM: Key = key("from", ZONES, "It came in on an interface of such a zone.");
const TO: Key = key("to", ZONES, "It will leave on an interface of such a zone.");
const FAMILY: Key = key("family", Shape::Words(&words(&FAMILIES)), "It is of this family.");
const SRC: Key = key("source", Shape::Some(&ADDRESS), "Its source address is among these addresses and sets.");
const DST: Key =
    key("destination", Shape::Some(&ADDRESS), "Its destination address is among these addresses and sets.");
const PROTOCOL: Key =
    key("protocol", Shape::Some(&Shape::Leaf(Leaf::Protocol)), "Its transport protocol is among these.");
const PORT: Key = key("port", PORTS, "Its destination port is among these ports and sets.");
const SOURCE_PORT: Key = key("source_port", PORTS, "Its source port is among these ports and sets.");
const ICMP_TYPE: Key =
    key("icmp_type", Shape::Some(&Shape::Leaf(Leaf::IcmpType)), "It is an ICMP or ICMPv6 message of such a type.");
const FLAGS: Key = key(
    "tcp_flags",
    Shape::Either(&[BITS, Shape::Map(&TCP_FLAGS)]),
    "It is a TCP segment on which all of these flags are set, or with flags that are set and such that are not.",
);
const STATE: Key = key("state", Shape::Some(&Shape::Words(&words(&STATES))), "It is in one of these states.");
const CT_STATUS: Key = key("status", Shape::Some(&Shape::Words(&words(&STATUS))), "The connection has all of these.");
const MARK: Key =
    key("mark", Shape::Leaf(Leaf::MaskedMark), "Its connection's mark has this value, in the bits of the mask.");

/// `match` of a rule of `policy.rules`.
pub(crate) const FORWARD: Keys = Keys {
    known: &[FROM, TO, FAMILY, SRC, DST, PROTOCOL, PORT, SOURCE_PORT, ICMP_TYPE, FLAGS, STATE, CT_STATUS, MARK],
    foreign: vocabulary![],
};
/// `match` of a rule of `tracking`.
pub(crate) const TRACKING: Keys = Keys {
    known: &[FROM, FAMILY, SRC, DST, PROTOCOL, PORT, SOURCE_PORT, ICMP_TYPE, FLAGS],
    foreign: vocabulary![
        ("to", "the egress zone is not known before a packet is tracked"),
        ("state", "the state is not known before a packet is tracked"),
        ("status", "the status is not known before a packet is tracked"),
        ("mark", "the mark is not known before a packet is tracked"),
    ],
};
/// `match` of a destination translation.
pub(crate) const DESTINATION: Keys = Keys {
    known: &[FROM, FAMILY, SRC, DST, PROTOCOL, PORT, SOURCE_PORT, ICMP_TYPE, FLAGS],
    foreign: vocabulary![
        ("to", "the egress zone is not known before the destination is translated"),
        ("state", "a translation is chosen on the first packet of a connection, whatever its state"),
        ("status", "nothing is translated yet when a destination translation is chosen"),
        ("mark", "a connection gets its mark from the rules, which come after the destination is translated"),
    ],
};
/// `match` of a source translation.
pub(crate) const SOURCE: Keys = Keys {
    known: &[FROM, TO, FAMILY, SRC, DST, PROTOCOL, PORT, SOURCE_PORT, ICMP_TYPE, FLAGS, CT_STATUS, MARK],
    foreign: vocabulary![("state", "a translation is chosen on the first packet of a connection, whatever its state")],
};

const TCP_FLAGS: Keys = Keys {
    known: &[key("set", BITS, "Flags that are set."), key("clear", BITS, "Flags that are not set.")],
    foreign: &[("mask", "flags that neither `set` nor `clear` names are not looked at")],
};

const FAMILIES: [(&str, Family); 2] = [("ipv4", Family::V4), ("ipv6", Family::V6)];
const STATES: [(&str, CtState); 5] = [
    ("new", CtState::New),
    ("established", CtState::Established),
    ("related", CtState::Related),
    ("invalid", CtState::Invalid),
    ("untracked", CtState::Untracked),
];
const STATUS: [(&str, Status); 5] = [
    ("dst_nat", Status::DST_NAT),
    ("src_nat", Status::SRC_NAT),
    ("seen_reply", Status::SEEN_REPLY),
    ("assured", Status::ASSURED),
    ("expected", Status::EXPECTED),
];

/// Reads the conditions of a rule. `from` and `to` may stand beside `match` or in it.
pub(crate) fn conditions<'t>(report: &mut Report<'t>, rule: &Fields<'_, 't>, names: &Names, place: Placing) -> Match {
    let mut m = Match::default();
    let keys = match place {
        Placing::Forward => &FORWARD,
        Placing::Tracking => &TRACKING,
        Placing::DestinationNat => &DESTINATION,
        Placing::SourceNat => &SOURCE,
    };
    let inner = rule.get("match").and_then(|n| Fields::of(report, n, "`match`", keys));
    let get = |key: &str| inner.as_ref().and_then(|f| f.get(key));
    for (key, slot) in [("from", &mut m.from), ("to", &mut m.to)] {
        if keys.find(key).is_none() {
            continue;
        }
        if let (Some(outer), Some(_)) = (rule.key_at(key), get(key)) {
            report.error(outer, format!("`{key}` stands both beside `match` and in it"));
        }
        if let Some(n) = get(key).or_else(|| rule.get(key)) {
            *slot = zones(report, n, names, key, "leave the key out to match every zone");
        }
    }
    m.family = get("family").and_then(|n| choice(report, n, "an address family", &FAMILIES));
    m.source = get("source").and_then(|n| addresses(report, n, names, "source"));
    m.destination = get("destination").and_then(|n| addresses(report, n, names, "destination"));
    m.protocols = get("protocol").and_then(|n| protocol_list(report, n));
    m.destination_port = get("port").and_then(|n| ports(report, n, &names.sets, "port"));
    m.source_port = get("source_port").and_then(|n| ports(report, n, &names.sets, "source_port"));
    if let Some(n) = get("tcp_flags") {
        m.tcp_flags = tcp_flags(report, n);
        imply(report, n.at, &mut m, "tcp_flags", &[protocol::TCP]);
    }
    if let Some(n) = get("icmp_type") {
        m.icmp = icmp::types(report, n, &m);
        imply(report, n.at, &mut m, "icmp_type", &[protocol::ICMP, protocol::ICMPV6]);
    }
    if keys.find("state").is_some() {
        m.states = get("state").and_then(|n| states(report, n));
    }
    if keys.find("status").is_some() {
        m.status = get("status").and_then(|n| status(report, n));
    }
    if keys.find("mark").is_some() {
        m.mark = get("mark").and_then(|n| mark(report, n));
    }
    if let Some(f) = &inner {
        ports_fit_protocol(report, f, &m);
        families_fit(report, f, &m);
    }
    m
}

fn protocol_list<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<Vec<u8>> {
    let list = some_items(report, node, "`protocol`", "leave the key out to match every protocol")?;
    let mut out: Vec<u8> = list.iter().filter_map(|n| protocols::read(report, n)).collect();
    out.sort_unstable();
    out.dedup();
    // Empty only when every entry was refused.
    (!out.is_empty()).then_some(out)
}

/// Flags that are set, as a word or list, or a map with those that are set and those that are not.
fn tcp_flags<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<TcpFlags> {
    let Value::Map(_) = node.value else {
        return Some(TcpFlags { set: flag_bits(report, node, "`tcp_flags`")?, clear: 0 });
    };
    let fields = Fields::of(report, node, "`tcp_flags`", &TCP_FLAGS)?;
    let mut bits = |key| fields.get(key).map_or(Some(0), |n| flag_bits(report, n, &format!("`{key}`")));
    let found = TcpFlags { set: bits("set")?, clear: bits("clear")? };
    if found.set & found.clear != 0 {
        report.error(fields.at, "a flag cannot be both set and clear: no segment matches");
        return None;
    }
    if found == TcpFlags::default() {
        report.error(fields.at, "`tcp_flags` needs `set` or `clear`");
    }
    Some(found)
}

fn flag_bits<'t>(report: &mut Report<'t>, node: &Node<'t>, what: &str) -> Option<u8> {
    let list = some_items(report, node, what, "leave the key out to match whatever flags")?;
    Some(list.iter().filter_map(|n| choice(report, n, "a TCP flag", &flags::NAMES)).fold(0, |all, f| all | f))
}

/// Confines a rule to the protocols that have what `key` is about.
fn imply(report: &mut Report<'_>, at: Span, m: &mut Match, key: &str, having: &[u8]) {
    match &mut m.protocols {
        Some(all) => {
            if let Some(other) = all.iter().find(|p| !having.contains(p)) {
                let help = format!("it holds for {} only; write two rules", listed(having));
                report.error_help(at, format!("`{key}` with the protocol {}", protocols::name(*other)), help);
            }
        }
        none => *none = Some(having.to_vec()),
    }
    let of_family = |types: &IcmpTypes, p: u8| {
        let set = if p == protocol::ICMP { &types.v4 } else { &types.v6 };
        !set.ranges().is_empty()
    };
    if let (Some(all), Some(types)) = (&mut m.protocols, &m.icmp) {
        all.retain(|p| of_family(types, *p));
    }
}

fn listed(all: &[u8]) -> String {
    all.iter().map(|p| protocols::name(*p)).collect::<Vec<_>>().join(" and ")
}

fn states<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<States> {
    let list = some_items(report, node, "`state`", "leave the key out to match every state")?;
    let all = list.iter().filter_map(|n| choice(report, n, "a state", &STATES));
    Some(all.fold(States::default(), States::with))
}

fn status<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<Status> {
    let list = some_items(report, node, "`status`", "leave the key out to match every status")?;
    let mut out = Status::default();
    for n in list {
        if let Some(s) = choice(report, n, "a status", &STATUS) {
            out.insert(s);
        }
    }
    Some(out)
}

fn mark<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<(u32, u32)> {
    let text = scalar(report, node, "a mark")?;
    mark::masked(text).map_err(|e| report.refuse(node.at, &e, e.help())).ok()
}

/// Refuses ports together with a protocol that has none.
fn ports_fit_protocol(report: &mut Report<'_>, fields: &Fields<'_, '_>, m: &Match) {
    let Some(portless) = m.protocols.iter().flatten().find(|p| !has_ports(**p)) else { return };
    for (key, set) in [("port", &m.destination_port), ("source_port", &m.source_port)] {
        if let (Some(at), Some(_)) = (fields.key_at(key), set) {
            let message = format!("`{key}` with the protocol {}, which has no ports", protocols::name(*portless));
            report.error_help(at, message, "ports exist in tcp, udp, udplite and sctp; write two rules");
        }
    }
}

/// Refuses conditions that no packet can meet, since it has one family.
fn families_fit(report: &mut Report<'_>, fields: &Fields<'_, '_>, m: &Match) {
    let only = |s: &Option<AddressSet>| s.as_ref().and_then(family);
    let mut of: Option<(&str, Family)> = None;
    for (key, found) in [("family", m.family), ("source", only(&m.source)), ("destination", only(&m.destination))] {
        match (of, found) {
            (Some((before, a)), Some(b)) if a != b => {
                let at = fields.key_at(key).unwrap_or_default();
                let message = format!("`{before}` is {a} only and `{key}` is {b} only: no packet is both");
                report.error(at, message);
                return;
            }
            (None, Some(f)) => of = Some((key, f)),
            _ => {}
        }
    }
    let (Some((what, f)), Some(all)) = (of, m.protocols.as_deref()) else { return };
    if all.iter().all(|p| *p == f.other().icmp()) && !all.is_empty() {
        let key = if m.icmp.is_some() { "icmp_type" } else { "protocol" };
        let at = fields.key_at("protocol").or(fields.key_at(key)).unwrap_or_default();
        let help = match fields.key_at("protocol") {
            Some(_) => format!("did you mean `{}`?", protocols::name(f.icmp())),
            None => format!("these types are {}'s", protocols::name(f.other().icmp())),
        };
        let what = if what == "family" { "the family is" } else { "the addresses are" };
        report.error_help(at, format!("{what} {f}, the protocol is not"), help);
    }
}

/// The family of all addresses of a set; `None` when it has both or none.
pub(crate) fn family(set: &AddressSet) -> Option<Family> {
    match (set.concerns(Family::V4), set.concerns(Family::V6)) {
        (true, false) => Some(Family::V4),
        (false, true) => Some(Family::V6),
        _ => None,
    }
}

/// Confines a translation to the family it can translate, and refuses conditions on the other one.
/// `to` is what it translates to, in messages.
pub(crate) fn confine(report: &mut Report<'_>, m: &mut Match, f: Family, at: Span, to: &str) {
    for (key, set) in [("source", &m.source), ("destination", &m.destination)] {
        let Some(set) = set else { continue };
        let other = if f == Family::V4 { !set.ranges_v6().is_empty() } else { !set.ranges_v4().is_empty() };
        if other {
            let wrong = if f == Family::V4 { Family::V6 } else { Family::V4 };
            let message = format!("{to} is {f}, but `{key}` matches {wrong} addresses");
            report.error_help(at, message, "a translation stays within one family: write a rule for each");
            return;
        }
    }
    if m.family.is_some_and(|x| x != f) {
        report.error(at, format!("{to} is {f}, but the rule is about {}", f.other()));
        return;
    }
    m.family = Some(f);
}
