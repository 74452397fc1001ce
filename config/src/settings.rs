//! What is not rules: `workers`, `io`, `control` and the switches of one word.

use std::net::SocketAddr;
use std::path::PathBuf;

use dataplane::policy::Zones;

use crate::names::{Names, zones};
use crate::read::{Fields, Keys, boolean, choice, number, scalar, some_items};
use crate::report::{Report, short};
use crate::yaml::{Node, Value};

/// Where the control socket is when the policy does not say.
const DEFAULT_SOCKET: &str = "/run/sluice/control.sock";
/// The longest path of a Unix socket (`sun_path` less the terminator).
const MAX_SOCKET: usize = 107;
/// The most workers.
const MAX_WORKERS: u64 = 256;
/// The highest CPU number that makes sense (the kernel's largest `CONFIG_NR_CPUS`).
const MAX_CPU: u64 = 8191;

const WORKERS: Keys = Keys { known: &["count", "cpus", "poll"], foreign: &[("cores", "did you mean `cpus`?")] };
const IO: Keys = Keys { known: &["mode", "frames", "on_failure"], foreign: &[] };
const CONTROL: Keys = Keys { known: &["socket", "metrics"], foreign: &[] };
const RELOAD: Keys = Keys { known: &["revalidate"], foreign: &[] };

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
    if let Some(n) = unless_auto(&fields, "count") {
        out.count = number(report, n, "`count` (`auto` or a number)", 1..=MAX_WORKERS).map(|n| n as u16);
    }
    if let Some(n) = unless_auto(&fields, "cpus") {
        out.cpus = cpus(report, n);
        if let (Some(count), Some(cpus)) = (out.count, &out.cpus)
            && usize::from(count) != cpus.len()
        {
            let message = format!("`count` is {count}, but `cpus` lists {}", cpus.len());
            report.error_help(n.at, message, "each worker has a CPU of its own: leave out `count`, or make both agree");
        }
    }
    let polls = [("adaptive", Poll::Adaptive), ("busy", Poll::Busy)];
    out.poll = fields.get("poll").and_then(|n| choice(report, n, "a way to poll", &polls)).unwrap_or_default();
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
    let modes =
        [("auto", IoMode::Auto), ("zero-copy", IoMode::ZeroCopy), ("copy", IoMode::Copy), ("generic", IoMode::Generic)];
    out.mode = fields.get("mode").and_then(|n| choice(report, n, "a mode", &modes)).unwrap_or_default();
    if let Some(n) = unless_auto(&fields, "frames") {
        let frames = number(report, n, "`frames` (`auto` or a number)", 1024..=524_288);
        out.frames = frames.map(|n| n as u32);
    }
    let failures = [("closed", OnFailure::Closed), ("open", OnFailure::Open)];
    let on_failure = fields.get("on_failure").and_then(|n| choice(report, n, "a value of `on_failure`", &failures));
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
    let node = fields.and_then(|f| f.get("revalidate"));
    let revalidate = node.and_then(|n| boolean(report, n, "`revalidate`"));
    Reload { revalidate: revalidate.unwrap_or_default() }
}

/// Reads `reverse_path`: the zones from which sources are checked against the routes.
pub(crate) fn strict_reverse_path<'t>(report: &mut Report<'t>, node: Option<&Node<'t>>, names: &Names) -> Zones {
    let words = [("strict", true), ("off", false)];
    let what = "a value of `reverse_path`";
    let mut strict = Zones::default();
    let Some(node) = node else { return strict };
    let Value::Map(entries) = &node.value else {
        let all = choice(report, node, what, &words).unwrap_or(false);
        return if all { Zones(u64::MAX) } else { strict };
    };
    for (key, value) in entries {
        let zone = zones(report, key, names, "reverse_path", "write `reverse_path: strict` for all zones");
        if let (Some(zone), Some(true)) = (zone, choice(report, value, what, &words)) {
            strict.0 |= zone.0;
        }
    }
    strict
}

/// Reads `tcp_mss`: whether the MSS of TCP connections is lowered to what fits.
pub(crate) fn clamp_mss<'t>(report: &mut Report<'t>, node: Option<&Node<'t>>) -> bool {
    let words = [("clamp", true), ("keep", false)];
    node.and_then(|n| choice(report, n, "a value of `tcp_mss`", &words)).unwrap_or(false)
}
