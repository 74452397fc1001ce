//! The whole document: every section in its order, then the checks between sections.

use dataplane::policy::Policy;

use crate::advice;
use crate::conntrack::{CONNTRACK, conntrack};
use crate::forward::{POLICY, policy};
use crate::names::{INTERFACE, Names, interfaces};
use crate::nat::{NAT, Nat, nat};
use crate::read::{Fields, Keys, scalar};
use crate::report::{Report, Span, short};
use crate::rules::{Placed, TRACKING, tracking};
use crate::sets::{SETS, sets};
use crate::settings;
use crate::shape::{Leaf, Shape, key};
use crate::timeouts::Profiles;
use crate::yaml::{Node, Value};
use crate::{Beside, Config, running};

/// ICMP errors a worker may send each second when the policy names no number.
const DEFAULT_ICMP_ERRORS: u32 = 1000;

pub(crate) const DOCUMENT: Keys = Keys {
    known: &[
        key("version", Shape::Leaf(Leaf::Version), "The version of this format.").required(),
        key(
            "interfaces",
            Shape::Named(&Shape::Map(&INTERFACE)),
            "The interfaces Sluice forwards between, by the name the policy and listings use.",
        )
        .required(),
        key(
            "workers",
            Shape::Map(&settings::WORKERS),
            "How many workers there are, where they run, and whether they sleep.",
        ),
        key("io", Shape::Map(&settings::IO), "How frames are received and sent."),
        key(
            "conntrack",
            Shape::Map(&CONNTRACK),
            "The table of connections: its size, limits, timeouts, switches and helpers.",
        ),
        key("reverse_path", settings::REVERSE_PATH, "Whether sources are checked against the routes."),
        key("icmp", Shape::Map(&ICMP), "ICMP errors that Sluice sends."),
        key("tcp_mss", settings::TCP_MSS, "Whether the MSS of TCP connections is lowered to what fits the MTU."),
        key("sets", Shape::Named(&SETS), "Named lists of addresses or of ports, for conditions of rules."),
        key("tracking", Shape::Rules(&TRACKING), "Exceptions from connection tracking and its helpers."),
        key("nat", Shape::Map(&NAT), "Translation of addresses and ports."),
        key("policy", Shape::Map(&POLICY), "What is forwarded."),
        key("control", Shape::Map(&settings::CONTROL), "The daemon's own endpoints."),
        key("reload", Shape::Map(&settings::RELOAD), "What happens to connections when another policy takes effect."),
    ],
    foreign: &[
        (
            "zones",
            "a zone is made by the interfaces that name it: `interfaces: { lan: { device: eth1, zone: inside } }`",
        ),
        ("rules", "rules stand in `policy`"),
        ("default", "the default action stands in `policy`"),
        ("timeouts", "timeouts stand in `conntrack`"),
        ("max_connections", "it stands in `conntrack`"),
        ("limits", "limits stand in `conntrack`"),
        ("clamp_mss", "write `tcp_mss: clamp`"),
        ("mss", "write `tcp_mss: clamp`"),
        ("helpers", "helpers stand in `conntrack`"),
        ("checksum", "it stands in `conntrack`"),
        ("tcp", "the switches of TCP tracking stand in `conntrack`"),
        ("on_failure", "it stands in `io`"),
        ("frames", "it stands in `io`"),
        ("metrics", "it stands in `control`"),
        ("socket", "it stands in `control`"),
        ("revalidate", "it stands in `reload`"),
        ("errors_per_second", "it stands in `icmp`"),
        ("snat", "source translations stand in `nat: { source: [...] }`"),
        ("dnat", "destination translations stand in `nat: { destination: [...] }`"),
    ],
};
const ICMP: Keys = Keys {
    known: &[key(
        "errors_per_second",
        Shape::Number(0, 10_000_000),
        "ICMP errors each worker may send each second; 0 is no limit.",
    )],
    foreign: &[],
};

/// Compiles the document. The value is of use only when nothing was
/// reported as an error.
pub(crate) fn compile<'t>(report: &mut Report<'t>, root: &Node<'t>, beside: Beside<'_>) -> Option<Config> {
    if matches!(root.value, Value::Null) {
        report.error_help(Span::default(), "the policy is empty", "begin with `version: 1` and `interfaces`");
        return None;
    }
    let fields = Fields::of(report, root, "the policy", &DOCUMENT)?;
    version(report, &fields);
    let mut names = Names::default();
    let node = fields.require(report, "interfaces", "the policy");
    let mut interfaces = interfaces(report, node, &mut names);
    if let Beside::Comparing(r) | Beside::Replacing(r) = beside {
        interfaces = running::in_order(interfaces, r);
        names.interfaces = interfaces.iter().map(|i| i.name.clone()).collect();
    }
    let (by_name, sets) = sets(report, fields.get("sets"), &names);
    names.sets = by_name;
    let conntrack = conntrack(report, fields.get("conntrack"));
    let workers = settings::workers(report, fields.get("workers"));
    let io = settings::io(report, fields.get("io"));
    let control = settings::control(report, fields.get("control"));
    let reload = settings::reload(report, fields.get("reload"));
    let strict_reverse_path = settings::strict_reverse_path(report, fields.get("reverse_path"), &names);
    let icmp_errors_per_second = icmp_errors(report, fields.get("icmp"));
    let tracking = tracking(report, fields.get("tracking"), &names);
    let clamp_mss = settings::clamp_mss(report, fields.get("tcp_mss"));
    let nat = nat(report, fields.get("nat"), &names);
    let mut timeouts = Profiles::new(conntrack.timeouts);
    let (default, rules) = policy(report, fields.get("policy"), &names, &mut timeouts);
    if report.errors() == 0 {
        advice::never_matched(report, &rules);
        advice::never_matched(report, &tracking);
        advice::never_matched(report, &nat.source);
        advice::never_matched(report, &nat.destination);
        advice::nothing_accepted(report, default, &rules, fields.key_at("policy").unwrap_or(fields.at));
        advice::translated_in_vain(report, &nat, default, &rules);
    }
    let Nat { source, destination, .. } = nat;
    let mut config = Config {
        policy: Policy {
            zones: names.zones,
            interfaces,
            sets,
            rules: plain(rules),
            default,
            destination_nat: plain(destination),
            source_nat: plain(source),
            tracking: plain(tracking),
            helpers: conntrack.helpers,
            timeouts: timeouts.into_vec(),
            clamp_mss,
            limits: conntrack.limits,
            tcp: conntrack.tcp,
            checksum: conntrack.checksum,
            max_connections: conntrack.max_connections,
            keep_unassured: !conntrack.early_drop,
            strict_reverse_path,
            icmp_errors_per_second,
            ..Policy::default()
        },
        workers,
        io,
        control,
        reload,
        files: report.named().to_vec(),
    };
    if report.errors() == 0 {
        config.policy.index();
    }
    if let Beside::Replacing(r) = beside
        && report.errors() == 0
    {
        running::check(report, root, r, &config);
    }
    Some(config)
}

fn plain<R>(rules: Vec<Placed<R>>) -> Vec<R> {
    rules.into_iter().map(|p| p.rule).collect()
}

fn version<'t>(report: &mut Report<'t>, fields: &Fields<'_, 't>) {
    let Some(node) = fields.get("version") else {
        let at = fields.key_at("version").unwrap_or(fields.at);
        report.error_help(at, "`version` is missing", "begin the policy with `version: 1`");
        return;
    };
    match scalar(report, node, "a version") {
        Some("1") | None => {}
        Some(v) => {
            let message = format!("version `{}` is not supported", short(v));
            report.error_help(node.at, message, "this release reads version 1");
        }
    }
}

fn icmp_errors<'t>(report: &mut Report<'t>, node: Option<&Node<'t>>) -> u32 {
    let fields = node.and_then(|n| Fields::of(report, n, "`icmp`", &ICMP));
    let limit = fields.and_then(|f| f.number(report, "errors_per_second"));
    limit.map_or(DEFAULT_ICMP_ERRORS, |n| n as u32)
}
