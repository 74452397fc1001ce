//! A policy that is to replace the one in force: what cannot change while the daemon runs.

use std::fmt::Display;

use dataplane::policy::InterfacePolicy;

use crate::report::{Report, Span};
use crate::settings::{IoMode, OnFailure, Poll};
use crate::yaml::{Node, Value};
use crate::{Config, Running};

/// A setting that only a restart can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// The setting, as a path of keys.
    pub key: String,
    /// What is wrong, one sentence without the help.
    pub message: String,
}

/// The interfaces in the order of those that run, which the daemon's ports have; new ones behind them.
pub(crate) fn in_order(mut all: Vec<InterfacePolicy>, running: &Running<'_>) -> Vec<InterfacePolicy> {
    let now = &running.config.policy.interfaces;
    all.sort_by_key(|i| now.iter().position(|n| n.is_same_link(i)).unwrap_or(now.len()));
    all
}

/// Every setting in which `wanted` differs from what runs and that only a restart can change.
pub fn fixed(running: &Running<'_>, wanted: &Config) -> Vec<Fixed> {
    let mut out = interfaces(&running.config.policy.interfaces, &wanted.policy.interfaces);
    let (a, b) = (running.config, wanted);
    let mut compare = |key: &str, now: String, then: String| {
        if now != then {
            let message = format!("`{key}` is {now} and cannot become {then} while sluice runs");
            out.push(Fixed { key: key.to_owned(), message });
        }
    };
    compare("workers.count", auto(a.workers.count), auto(b.workers.count));
    compare("workers.cpus", list(a.workers.cpus.as_deref()), list(b.workers.cpus.as_deref()));
    compare("workers.poll", poll(a.workers.poll), poll(b.workers.poll));
    compare("io.mode", mode(a.io.mode), mode(b.io.mode));
    compare("io.frames", auto(a.io.frames), auto(b.io.frames));
    compare("io.on_failure", on_failure(a.io.on_failure), on_failure(b.io.on_failure));
    compare("control.socket", a.control.socket.display().to_string(), b.control.socket.display().to_string());
    let metrics = |c: &Config| c.control.metrics.map_or("off".to_owned(), |m| m.to_string());
    compare("control.metrics", metrics(a), metrics(b));
    if wanted.policy.max_connections > running.max_connections {
        out.push(Fixed {
            key: "conntrack.max_connections".to_owned(),
            message: format!(
                "`conntrack.max_connections` cannot become {} while sluice runs: its tables were made for {}",
                wanted.policy.max_connections, running.max_connections
            ),
        });
    }
    out
}

fn interfaces(now: &[InterfacePolicy], then: &[InterfacePolicy]) -> Vec<Fixed> {
    let without = |all: &[InterfacePolicy], i: &InterfacePolicy| !all.iter().any(|o| o.is_same_link(i));
    let added = then.iter().filter(|i| without(now, i)).map(|i| Fixed {
        key: format!("interfaces.{}.device", i.name),
        message: format!("{} cannot be added while sluice runs", part(i)),
    });
    let gone = now.iter().filter(|i| without(then, i)).map(|i| Fixed {
        key: "interfaces".to_owned(),
        message: format!("{} of interface `{}` cannot be taken away while sluice runs", part(i), i.name),
    });
    added.chain(gone).collect()
}

/// The device, or the part of it that an interface stands for.
fn part(i: &InterfacePolicy) -> String {
    if i.vlan == 0 { format!("the device {i}") } else { i.to_string() }
}

/// Reports what only a restart can change, each at its place.
pub(crate) fn check<'t>(report: &mut Report<'t>, root: &Node<'t>, running: &Running<'_>, wanted: &Config) {
    for f in fixed(running, wanted) {
        let at = place(root, &f.key);
        report.error_help(at, f.message, "restart sluice to change it");
    }
}

/// Where the value of a path of keys is written, or the nearest key above it.
fn place(root: &Node<'_>, path: &str) -> Span {
    let mut at = Span { len: 0, ..root.at };
    let mut node = root;
    for key in path.split('.') {
        let Value::Map(entries) = &node.value else { return at };
        if at.len == 0
            && let Some((first, _)) = entries.first()
        {
            at = first.at;
        }
        let Some((k, v)) = entries.iter().find(|(k, _)| matches!(&k.value, Value::Text(t) if t == key)) else {
            return at;
        };
        at = if matches!(v.value, Value::Map(_) | Value::List(_) | Value::Null) { k.at } else { v.at };
        node = v;
    }
    at
}

fn auto<T: Display>(n: Option<T>) -> String {
    n.map_or("auto".to_owned(), |n| n.to_string())
}

fn list(cpus: Option<&[usize]>) -> String {
    cpus.map_or("auto".to_owned(), |c| format!("{c:?}"))
}

fn poll(p: Poll) -> String {
    match p {
        Poll::Adaptive => "adaptive",
        Poll::Busy => "busy",
    }
    .to_owned()
}

fn mode(m: IoMode) -> String {
    match m {
        IoMode::Auto => "auto",
        IoMode::ZeroCopy => "zero-copy",
        IoMode::Copy => "copy",
        IoMode::Generic => "generic",
    }
    .to_owned()
}

fn on_failure(f: OnFailure) -> String {
    match f {
        OnFailure::Closed => "closed",
        OnFailure::Open => "open",
    }
    .to_owned()
}
