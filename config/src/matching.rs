//! The `match` of a rule, wherever the rule stands.

use dataplane::conntrack::{CtState, Status};
use dataplane::packet::protocol::{self, has_ports};
use dataplane::policy::{AddressSet, Match, States};

use crate::mark;
use crate::names::{Names, zones};
use crate::protocol as protocols;
use crate::read::{Fields, Keys, choice, scalar, some_items};
use crate::report::{Report, Span};
use crate::sets::{addresses, ports};
use crate::yaml::Node;

/// The list a rule stands in; it decides which facts are known when the rule is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
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
            ("proto", "the transport protocol is `protocol`"),
            ("ctmark", "the connection's mark is `mark`"),
            ("connmark", "the connection's mark is `mark`"),
            ("iif", "rules match zones: `from` is the zone of the ingress interface"),
            ("oif", "rules match zones: `to` is the zone of the egress interface"),
            ("interface", "rules match zones: `from` and `to`"),
        ]
    };
}

const FORWARD: Keys = Keys {
    known: &["from", "to", "source", "destination", "protocol", "port", "source_port", "state", "status", "mark"],
    foreign: vocabulary![],
};
const TRACKING: Keys = Keys {
    known: &["from", "source", "destination", "protocol", "port", "source_port"],
    foreign: vocabulary![
        ("to", "the egress zone is not known before a packet is tracked"),
        ("state", "the state is not known before a packet is tracked"),
        ("status", "the status is not known before a packet is tracked"),
        ("mark", "the mark is not known before a packet is tracked"),
    ],
};
const DESTINATION: Keys = Keys {
    known: &["from", "source", "destination", "protocol", "port", "source_port"],
    foreign: vocabulary![
        ("to", "the egress zone is not known before the destination is translated"),
        ("state", "a translation is chosen on the first packet of a connection, whatever its state"),
        ("status", "nothing is translated yet when a destination translation is chosen"),
        ("mark", NO_MARK_YET),
    ],
};
const SOURCE: Keys = Keys {
    known: &["from", "to", "source", "destination", "protocol", "port", "source_port", "status"],
    foreign: vocabulary![
        ("state", "a translation is chosen on the first packet of a connection, whatever its state"),
        ("mark", NO_MARK_YET),
    ],
};

/// Help for marks where translations are chosen.
const NO_MARK_YET: &str = "a connection has no mark yet when its translations are chosen";

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
pub(crate) fn conditions<'t>(report: &mut Report<'t>, rule: &Fields<'_, 't>, names: &Names, place: Place) -> Match {
    let mut m = Match::default();
    let keys = match place {
        Place::Forward => &FORWARD,
        Place::Tracking => &TRACKING,
        Place::DestinationNat => &DESTINATION,
        Place::SourceNat => &SOURCE,
    };
    let inner = rule.get("match").and_then(|n| Fields::of(report, n, "`match`", keys));
    let get = |key: &str| inner.as_ref().and_then(|f| f.get(key));
    for (key, slot) in [("from", &mut m.from), ("to", &mut m.to)] {
        if !keys.known.contains(&key) {
            continue;
        }
        if let (Some(outer), Some(_)) = (rule.key_at(key), get(key)) {
            report.error(outer, format!("`{key}` stands both beside `match` and in it"));
        }
        if let Some(n) = get(key).or_else(|| rule.get(key)) {
            *slot = zones(report, n, names, key, "leave the key out to match every zone");
        }
    }
    m.source = get("source").and_then(|n| addresses(report, n, &names.sets, "source"));
    m.destination = get("destination").and_then(|n| addresses(report, n, &names.sets, "destination"));
    m.protocols = get("protocol").and_then(|n| protocol_list(report, n));
    m.destination_port = get("port").and_then(|n| ports(report, n, &names.sets, "port"));
    m.source_port = get("source_port").and_then(|n| ports(report, n, &names.sets, "source_port"));
    if keys.known.contains(&"state") {
        m.states = get("state").and_then(|n| states(report, n));
    }
    if keys.known.contains(&"status") {
        m.status = get("status").and_then(|n| status(report, n));
    }
    if keys.known.contains(&"mark") {
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

/// Refuses conditions on addresses that no packet can meet, since it has one family.
fn families_fit(report: &mut Report<'_>, fields: &Fields<'_, '_>, m: &Match) {
    let only = |s: &Option<AddressSet>| s.as_ref().and_then(family);
    let (source, destination) = (only(&m.source), only(&m.destination));
    if let (Some(a), Some(b)) = (source, destination)
        && a != b
    {
        let at = fields.key_at("destination").unwrap_or_default();
        report.error(at, format!("`source` is {a} only and `destination` is {b} only: no packet is both"));
        return;
    }
    let Some(only_protocol) = m.protocols.as_deref() else { return };
    let fits = |f: Family| {
        let wrong = if f == Family::V4 { protocol::ICMPV6 } else { protocol::ICMP };
        only_protocol.iter().any(|p| *p != wrong)
    };
    if let Some(f) = source.or(destination).filter(|f| !fits(*f)) {
        let right = if f == Family::V4 { "icmp" } else { "icmpv6" };
        let at = fields.key_at("protocol").unwrap_or_default();
        report.error_help(
            at,
            format!("the addresses are {f}, the protocol is not"),
            format!("did you mean `{right}`?"),
        );
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Family::V4 { "IPv4" } else { "IPv6" })
    }
}

impl Family {
    /// The family of an address.
    pub(crate) fn of(a: std::net::IpAddr) -> Self {
        if a.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Every address of the family.
    pub(crate) fn all(self) -> AddressSet {
        AddressSet::new([match self {
            Family::V4 => ([0; 4].into(), [255; 4].into()),
            Family::V6 => ([0; 16].into(), [255; 16].into()),
        }])
    }
}

/// The family of all addresses of a set; `None` when it has both or none.
pub(crate) fn family(set: &AddressSet) -> Option<Family> {
    match (set.ranges_v4().is_empty(), set.ranges_v6().is_empty()) {
        (false, true) => Some(Family::V4),
        (true, false) => Some(Family::V6),
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
    if m.source.is_none() && m.destination.is_none() {
        m.destination = Some(f.all());
    }
}
