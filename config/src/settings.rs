//! What is not rules: `workers`, `io`, `control` and the switches of one word.

use std::net::SocketAddr;
use std::path::PathBuf;

use dataplane::policy::Zones;

use crate::names::{Names, zones};
use crate::read::{Fields, Keys, choice, scalar, some_items};
use crate::report::{Report, short};
use crate::shape::{Leaf, Shape, key, words};
use crate::yaml::{Node, Value};

/// Where the control socket is when the policy does not say.
const DEFAULT_SOCKET: &str = "/run/sluice/control.sock";
/// The longest path of a Unix socket (`sun_path` less the terminator).
pub(crate) const MAX_SOCKET: usize = 107;
/// The most workers.
const MAX_WORKERS: u64 = 256;
/// The highest CPU number that makes sense (the kernel's largest `CONFIG_NR_CPUS`).
pub(crate) const MAX_CPU: u64 = 8191;

pub(crate) const WORKERS: Keys = Keys {
    known: &[
        key("count", Shape::AutoNumber(1, MAX_WORKERS), "How many workers; each serves one queue of every interface."),
        key(
            "cpus",
            Shape::Either(&[Shape::Words(&["auto"]), Shape::Some(&Shape::Leaf(Leaf::Cpus))]),
            "The CPUs to pin workers to, one each.",
        ),
        key("poll", Shape::Words(&words(&POLLS)), "`adaptive` sleeps when nothing comes; `busy` never does."),
    ],
    foreign: &[("cores", "did you mean `cpus`?")],
};
pub(crate) const IO: Keys = Keys {
    known: &[
        key(
            "mode",
            Shape::Words(&words(&MODES)),
            "How AF_XDP sockets are bound. `auto` takes the best the driver has; the others are taken or fail.",
        ),
        key("frames", Shape::AutoNumber(1024, 524_288), "Packet buffers of each worker."),
        key(
            "on_failure",
            Shape::Words(&words(&FAILURES)),
            "What happens to transit traffic when no worker runs: `closed` drops it, `open` lets the kernel route it, untranslated.",
        ),
    ],
    foreign: &[],
};
pub(crate) const CONTROL: Keys = Keys {
    known: &[
        key("socket", Shape::Leaf(Leaf::Socket), "The Unix socket of the command line."),
        key(
            "metrics",
            Shape::Either(&[Shape::Words(&["off"]), Shape::Leaf(Leaf::Endpoint)]),
            "Where Prometheus metrics are served over HTTP, without authentication.",
        ),
    ],
    foreign: &[],
};
pub(crate) const RELOAD: Keys = Keys {
    known: &[key(
        "revalidate",
        Shape::Switch,
        "Delete the connections that the new policy would not let begin, would translate in another way, or would not track.",
    )],
    foreign: &[],
};

const POLLS: [(&str, Poll); 2] = [("adaptive", Poll::Adaptive), ("busy", Poll::Busy)];
const MODES: [(&str, IoMode); 4] =
    [("auto", IoMode::Auto), ("zero-copy", IoMode::ZeroCopy), ("copy", IoMode::Copy), ("generic", IoMode::Generic)];
const FAILURES: [(&str, OnFailure); 2] = [("closed", OnFailure::Closed), ("open", OnFailure::Open)];
const STRICT: [(&str, bool); 2] = [("strict", true), ("off", false)];
const CLAMP: [(&str, bool); 2] = [("clamp", true), ("keep", false)];
/// The value of `reverse_path`.
pub(crate) const REVERSE_PATH: Shape =
    Shape::Either(&[Shape::Words(&words(&STRICT)), Shape::Named(&Shape::Words(&words(&STRICT)))]);
/// The value of `tcp_mss`.
pub(crate) const TCP_MSS: Shape = Shape::Words(&words(&CLAMP));

/// The workers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Workers {
    /// How many; `None` for one for each CPU in use.
    pub count: Option<u16>,
    /// The CPUs to pin them to, in order; `None` for the daemon's choice.
    pub cpus: Option<Vec<usize>>,
    /// What a worker does while nothing arrives.
    pub poll: Poll,
}

/// What a worker does while nothing arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Poll {
    /// Looks again for a short while, then sleeps until the kernel wakes it.
    #[default]
    Adaptive,
    /// Never sleeps: least latency, a whole core.
    Busy,
}

/// How frames are received and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Io {
    /// How AF_XDP sockets are bound.
    pub mode: IoMode,
    /// Frames of one worker's memory; `None` for the daemon's choice.
    pub frames: Option<u32>,
    /// What happens to transit traffic while no worker runs.
    pub on_failure: OnFailure,
}

/// How AF_XDP sockets are bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoMode {
    /// The best of what the driver has: zero copy, else copy, else generic.
    #[default]
    Auto,
    /// The driver writes into our memory; fails where it cannot.
    ZeroCopy,
    /// The driver runs the XDP program, the kernel copies.
    Copy,
    /// The kernel runs the XDP program behind any driver.
    Generic,
}

/// What happens to transit traffic while no worker runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// It is dropped.
    #[default]
    Closed,
    /// The kernel routes it under the host's own rules, untranslated.
    Open,
}

/// The daemon's own endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// The Unix socket of the command line.
    pub socket: PathBuf,
    /// Where metrics are served over HTTP; `None` for nowhere.
    pub metrics: Option<SocketAddr>,
}

impl Default for Control {
    fn default() -> Self {
        Control { socket: DEFAULT_SOCKET.into(), metrics: None }
    }
}

/// What a reload does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reload {
    /// Delete the connections that the new policy would not let begin, or would translate in another way.
    pub revalidate: bool,
}

/// The node of `key`, unless it is absent or says `auto`.
fn unless_auto<'n, 't>(fields: &Fields<'n, 't>, key: &str) -> Option<&'n Node<'t>> {
    fields.get(key).filter(|n| !matches!(&n.value, Value::Text(t) if t == "auto"))
}

/// Reads `workers`.
pub(crate) fn workers<'t>(report: &mut Report<'t>, node: Option<&Node<'t>>) -> Workers {
    let mut out = Workers::default();
    let Some(fields) = node.and_then(|n| Fields::of(report, n, "`workers`", &WORKERS)) else { return out };
    out.count = fields.number(report, "count").map(|n| n as u16);
    if let Some(n) = unless_auto(&fields, "cpus") {
        out.cpus = cpus(report, n);
        if let (Some(count), Some(cpus)) = (out.count, &out.cpus)
            && usize::from(count) != cpus.len()
        {
            let message = format!("`count` is {count}, but `cpus` lists {}", cpus.len());
            report.error_help(n.at, message, "each worker has a CPU of its own: leave out `count`, or make both agree");
        }
    }
    out.poll = fields.get("poll").and_then(|n| choice(report, n, "a way to poll", &POLLS)).unwrap_or_default();
    out
}

/// CPU numbers and ranges of them, `[0, 2-3]`.
fn cpus<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<Vec<usize>> {
    let mut out = Vec::new();
    for item in some_items(report, node, "`cpus`", "write `auto` or leave the key out")? {
        let text = scalar(report, item, "a CPU number")?;
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let parse = |t: &str| t.trim().parse::<u64>().ok().filter(|n| *n <= MAX_CPU);
        let (Some(first), Some(last)) = (parse(first), parse(last)) else {
            let help = "write numbers or ranges as `lscpu` shows them: [2, 4-7]";
            report.error_help(item.at, format!("`{}` is not a CPU", short(text)), help);
            return None;
        };
        if last < first {
            report.error(item.at, "the range of CPUs ends before it begins");
            return None;
        }
        for cpu in first as usize..=last as usize {
            if out.contains(&cpu) {
                report.error(item.at, format!("CPU {cpu} is listed twice"));
                return None;
            }
            out.push(cpu);
        }
    }
    if out.len() as u64 > MAX_WORKERS {
        report.error(node.at, format!("{} CPUs: there can be at most {MAX_WORKERS} workers", out.len()));
        return None;
    }
    Some(out)
}

/// Reads `io`.
pub(crate) fn io<'t>(report: &mut Report<'t>, node: Option<&Node<'t>>) -> Io {
    let mut out = Io::default();
    let Some(fields) = node.and_then(|n| Fields::of(report, n, "`io`", &IO)) else { return out };
    out.mode = fields.get("mode").and_then(|n| choice(report, n, "a mode", &MODES)).unwrap_or_default();
    out.frames = fields.number(report, "frames").map(|n| n as u32);
    let on_failure = fields.get("on_failure").and_then(|n| choice(report, n, "a value of `on_failure`", &FAILURES));
    out.on_failure = on_failure.unwrap_or_default();
    out
}

/// Reads `control`.
pub(crate) fn control<'t>(report: &mut Report<'t>, node: Option<&Node<'t>>) -> Control {
    let mut out = Control::default();
    let Some(fields) = node.and_then(|n| Fields::of(report, n, "`control`", &CONTROL)) else { return out };
    if let Some(n) = fields.get("socket")
        && let Some(path) = scalar(report, n, "a path")
    {
        if !path.starts_with('/') || path.ends_with('/') || path.len() > MAX_SOCKET || path.contains('\0') {
            let help = format!("write an absolute path of at most {MAX_SOCKET} bytes");
            report.error_help(n.at, format!("`{}` cannot be the path of a socket", short(path)), help);
        }
        out.socket = path.into();
    }
    if let Some(n) = fields.get("metrics")
        && let Some(text) = scalar(report, n, "an address with a port")
        && text != "off"
    {
        match text.parse::<SocketAddr>() {
            Ok(a) if a.port() != 0 => out.metrics = Some(a),
            _ => report.error_help(
                n.at,
                format!("`{}` is not an address with a port", short(text)),
                "write 127.0.0.1:9464, \"[::1]:9464\" or off",
            ),
        }
    }
    out
}

/// Reads `reload`.
pub(crate) fn reload<'t>(report: &mut Report<'t>, node: Option<&Node<'t>>) -> Reload {
    let fields = node.and_then(|n| Fields::of(report, n, "`reload`", &RELOAD));
    let revalidate = fields.and_then(|f| f.switch(report, "revalidate"));
    Reload { revalidate: revalidate.unwrap_or_default() }
}

/// Reads `reverse_path`: the zones from which sources are checked against the routes.
pub(crate) fn strict_reverse_path<'t>(report: &mut Report<'t>, node: Option<&Node<'t>>, names: &Names) -> Zones {
    let what = "a value of `reverse_path`";
    let mut strict = Zones::default();
    let Some(node) = node else { return strict };
    let Value::Map(entries) = &node.value else {
        let all = choice(report, node, what, &STRICT).unwrap_or(false);
        return if all { Zones(u64::MAX) } else { strict };
    };
    for (key, value) in entries {
        let zone = zones(report, key, names, "reverse_path", "write `reverse_path: strict` for all zones");
        if let (Some(zone), Some(true)) = (zone, choice(report, value, what, &STRICT)) {
            strict.0 |= zone.0;
        }
    }
    strict
}

/// Reads `tcp_mss`: whether the MSS of TCP connections is lowered to what fits.
pub(crate) fn clamp_mss<'t>(report: &mut Report<'t>, node: Option<&Node<'t>>) -> bool {
    node.and_then(|n| choice(report, n, "a value of `tcp_mss`", &CLAMP)).unwrap_or(false)
}
