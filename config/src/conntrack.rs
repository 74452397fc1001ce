//! `conntrack`: table size, limits, timeouts, TCP switches and helpers.

use dataplane::conntrack::{TcpSettings, Timeouts};
use dataplane::helper::HelperKind;
use dataplane::policy::SourceLimits;

use crate::lists::single_port;
use crate::read::{Fields, Keys, choice, items};
use crate::report::Report;
use crate::shape::{Leaf, Shape, key};
use crate::timeouts::{TIMEOUTS, timeouts};
use crate::yaml::{Node, Value};

/// Connections when the policy names no number.
const DEFAULT_CONNECTIONS: u32 = 1_000_000;
/// The most connections a policy can ask for; about 32 GB of memory when all are there.
const MAX_CONNECTIONS: u64 = 1 << 27;
/// The highest rate of new connections that can be asked for; above what a worker can enter in a second.
const MAX_RATE: u64 = 10_000_000;

pub(crate) const CONNTRACK: Keys = Keys {
    known: &[
        key("max_connections", Shape::Number(1, MAX_CONNECTIONS), "The most connections at a time."),
        key(
            "early_drop",
            Shape::Switch,
            "Let a new connection take the place of one that is not assured when the table is full.",
        ),
        key("limits", Shape::Map(&LIMITS), "Limits for each source address."),
        key("timeouts", TIMEOUTS, "Idle timeouts: `linux`, `rfc`, or a map that changes single ones."),
        key("tcp", Shape::Map(&TCP), "Switches of TCP tracking."),
        key("checksum", Shape::Switch, "Verify transport checksums; packets that fail are `invalid`."),
        key(
            "helpers",
            Shape::List(&Shape::Either(&[Shape::Leaf(Leaf::Helper), Shape::Map(&HELPER)])),
            "Protocols whose control connections are read, and the ports of these.",
        ),
    ],
    foreign: &[
        ("max", "the most connections are `max_connections`"),
        ("timeout", "did you mean `timeouts`?"),
        ("connections_per_source", "it stands in `limits`"),
        ("new_per_second_per_source", "it stands in `limits`"),
    ],
};
const LIMITS: Keys = Keys {
    known: &[
        key(
            "connections_per_source",
            Shape::Number(0, MAX_CONNECTIONS),
            "The most connections of one source address at a time; 0 is no limit.",
        ),
        key("tcp_per_source", Shape::Number(0, MAX_CONNECTIONS), "Of these, the most of TCP."),
        key("udp_per_source", Shape::Number(0, MAX_CONNECTIONS), "Of these, the most of UDP."),
        key("icmp_per_source", Shape::Number(0, MAX_CONNECTIONS), "Of these, the most ICMP queries of both families."),
        key(
            "new_per_second_per_source",
            Shape::Number(0, MAX_RATE),
            "The most new connections of one source address each second; 0 is no limit.",
        ),
    ],
    foreign: &[
        ("connections", "did you mean `connections_per_source`?"),
        ("new_per_second", "did you mean `new_per_second_per_source`?"),
        ("max_connections", "the most connections of all sources together stand in `conntrack`"),
    ],
};
const TCP: Keys = Keys {
    known: &[
        key("loose", Shape::Switch, "Take up TCP connections from the middle."),
        key("liberal", Shape::Switch, "Let segments outside the window pass, except RST."),
        key("ignore_invalid_rst", Shape::Switch, "As nf_conntrack_tcp_ignore_invalid_rst."),
        key(
            "max_retrans",
            Shape::Number(1, 255),
            "So many repetitions of a segment lower the timeout to `tcp_max_retrans`.",
        ),
    ],
    foreign: &[],
};
const HELPER: Keys = Keys {
    known: &[
        key("helper", Shape::Leaf(Leaf::Helper), "The helper.").required(),
        key("port", Shape::Leaf(Leaf::Port), "The port of its control connections, after destination translation."),
    ],
    foreign: &[("name", "the kind of helper is `helper`")],
};

/// What `conntrack` says.
pub(crate) struct Conntrack {
    pub(crate) max_connections: u32,
    pub(crate) early_drop: bool,
    pub(crate) limits: SourceLimits,
    pub(crate) timeouts: Timeouts,
    pub(crate) tcp: TcpSettings,
    pub(crate) checksum: bool,
    /// Helpers and the destination ports of their control streams.
    pub(crate) helpers: Vec<(HelperKind, u16)>,
}

impl Default for Conntrack {
    fn default() -> Self {
        Conntrack {
            max_connections: DEFAULT_CONNECTIONS,
            early_drop: true,
            limits: SourceLimits::default(),
            timeouts: Timeouts::linux(),
            tcp: TcpSettings::default(),
            checksum: true,
            helpers: Vec::new(),
        }
    }
}

/// Reads `conntrack`.
pub(crate) fn conntrack<'t>(report: &mut Report<'t>, node: Option<&Node<'t>>) -> Conntrack {
    let mut out = Conntrack::default();
    let Some(fields) = node.and_then(|n| Fields::of(report, n, "`conntrack`", &CONNTRACK)) else { return out };
    if let Some(n) = fields.number(report, "max_connections") {
        out.max_connections = n as u32;
    }
    if let Some(b) = fields.switch(report, "early_drop") {
        out.early_drop = b;
    }
    if let Some(f) = fields.get("limits").and_then(|n| Fields::of(report, n, "`conntrack.limits`", &LIMITS)) {
        for (key, slot) in [
            ("connections_per_source", &mut out.limits.connections),
            ("tcp_per_source", &mut out.limits.tcp),
            ("udp_per_source", &mut out.limits.udp),
            ("icmp_per_source", &mut out.limits.icmp),
            ("new_per_second_per_source", &mut out.limits.rate),
        ] {
            if let Some(n) = f.number(report, key) {
                *slot = n as u32;
            }
        }
    }
    if let Some(n) = fields.get("timeouts") {
        out.timeouts = timeouts(report, n, &out.timeouts);
    }
    if let Some(f) = fields.get("tcp").and_then(|n| Fields::of(report, n, "`conntrack.tcp`", &TCP)) {
        for (key, slot) in [
            ("loose", &mut out.tcp.loose),
            ("liberal", &mut out.tcp.liberal),
            ("ignore_invalid_rst", &mut out.tcp.ignore_invalid_rst),
        ] {
            if let Some(b) = f.switch(report, key) {
                *slot = b;
            }
        }
        if let Some(n) = f.number(report, "max_retrans") {
            out.tcp.max_retrans = n as u8;
        }
    }
    if let Some(b) = fields.switch(report, "checksum") {
        out.checksum = b;
    }
    if let Some(n) = fields.get("helpers") {
        out.helpers = helpers(report, n);
    }
    out
}

fn helpers<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Vec<(HelperKind, u16)> {
    let mut out: Vec<(HelperKind, u16)> = Vec::new();
    for item in items(node) {
        let one = match &item.value {
            Value::Map(_) => Fields::of(report, item, "a helper", &HELPER).and_then(|f| {
                let kind = f.require(report, "helper", "a helper").and_then(|n| helper(report, n))?;
                let port = match f.get("port") {
                    Some(n) => single_port(report, n, "`port`")?,
                    None => kind.properties().standard_port,
                };
                Some((kind, port))
            }),
            _ => helper(report, item).map(|kind| (kind, kind.properties().standard_port)),
        };
        let Some((kind, port)) = one else { continue };
        let protocol = kind.properties().protocol;
        if let Some((other, _)) = out.iter().find(|(k, p)| *p == port && k.properties().protocol == protocol) {
            report.error(item.at, format!("the helper {other} already reads port {port}"));
            continue;
        }
        out.push((kind, port));
    }
    out
}

/// One helper by its name.
pub(crate) fn helper<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<HelperKind> {
    choice(report, node, "a helper", &HelperKind::ALL.map(|h| (h.name(), h)))
}
