//! The gateway's state as `sluice status` shows it: gathered by the daemon, printed by the client.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Instant;

use dataplane::packet::Address;
use dataplane::worker::DropReason;
use dataplane::worker::counters::{Counter, Counters, InterfaceCounters, PROTOCOLS};
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::format::since_epoch;
use crate::reload::Report;

/// The gateway's state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Whether packets flow.
    pub(crate) ready: bool,
    /// Why not.
    pub(crate) reason: Option<String>,
    /// The daemon's version.
    pub(crate) version: String,
    /// The daemon's process id.
    pub(crate) pid: u32,
    /// Seconds since its start.
    pub(crate) uptime_seconds: u64,
    /// The policy.
    pub(crate) policy: Policy,
    /// Where metrics and health are served over HTTP, if they are.
    #[serde(default)]
    pub(crate) metrics: Option<SocketAddr>,
    /// By interface, in the policy's order.
    pub(crate) interfaces: Vec<Interface>,
    /// By worker.
    pub(crate) workers: Vec<Worker>,
    /// Connections of all workers.
    pub(crate) connections: Connections,
    /// Dropped packets by reason; reasons that did not occur are left out.
    pub(crate) drops: BTreeMap<String, u64>,
    /// What is mirrored from the kernel.
    pub(crate) mirror: Mirror,
}

/// The policy in short.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Policy {
    /// Its file.
    pub(crate) file: String,
    /// Its number, counted from the daemon's start.
    pub(crate) generation: u64,
    /// When it was read, in seconds since 1970.
    pub(crate) loaded: u64,
    /// Number of forward rules.
    pub(crate) rules: usize,
    /// Number of source translations.
    pub(crate) source_nat: usize,
    /// Number of destination translations.
    pub(crate) destination_nat: usize,
    /// It awaits confirmation.
    pub(crate) unconfirmed: Option<Unconfirmed>,
    /// Generations that `rollback` can return to, the latest first.
    pub(crate) former: Vec<Former>,
    /// The last attempt to load a policy that left the running one in force.
    pub(crate) last_failure: Option<FailedReload>,
}

/// The policy awaits confirmation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Unconfirmed {
    /// Seconds until it goes.
    pub(crate) seconds_left: u64,
    /// The generation that is in force then.
    pub(crate) back_to: u64,
}

/// A policy that was in force.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Former {
    /// Its number.
    pub(crate) generation: u64,
    /// Its file.
    pub(crate) file: String,
    /// When it was read, in seconds since 1970.
    pub(crate) loaded: u64,
}

/// An attempt that left the running policy in force.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FailedReload {
    /// When, in seconds since 1970.
    pub(crate) time: u64,
    /// Who wanted it.
    pub(crate) cause: String,
    /// Why not.
    pub(crate) message: String,
    /// Whether nothing has been loaded since.
    pub(crate) latest: bool,
}

/// An interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Interface {
    /// Its name in the policy.
    pub(crate) name: String,
    /// The device.
    pub(crate) device: String,
    /// The VLAN on the device, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vlan: Option<u16>,
    /// The zone's name.
    pub(crate) zone: String,
    /// Whether it is up and has carrier.
    pub(crate) up: bool,
    /// Ethernet address.
    pub(crate) mac: String,
    /// Largest IP packet in bytes.
    pub(crate) mtu: u16,
    /// Addresses with prefix lengths.
    pub(crate) addresses: Vec<String>,
    /// Its queues.
    pub(crate) queues: Vec<Queue>,
    /// Packets and bytes in both directions.
    pub(crate) traffic: Traffic,
}

/// A queue of an interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Queue {
    /// Its number.
    pub(crate) queue: u32,
    /// The worker that owns it.
    pub(crate) worker: usize,
    /// How the XDP program is attached.
    pub(crate) xdp: String,
    /// How frames get to the worker.
    pub(crate) mode: String,
}

/// Packets and bytes, Ethernet headers included.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Traffic {
    pub(crate) rx_packets: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_packets: u64,
    pub(crate) tx_bytes: u64,
}

impl<'a> FromIterator<&'a InterfaceCounters> for Traffic {
    fn from_iter<I: IntoIterator<Item = &'a InterfaceCounters>>(all: I) -> Self {
        let mut t = Traffic::default();
        for c in all {
            t.rx_packets += c.rx_packets.get();
            t.rx_bytes += c.rx_bytes.get();
            t.tx_packets += c.tx_packets.get();
            t.tx_bytes += c.tx_bytes.get();
        }
        t
    }
}

/// A worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Worker {
    /// The CPU it is pinned to.
    pub(crate) cpu: Option<usize>,
    /// Whether it runs.
    pub(crate) alive: bool,
    /// The part of the last second that it spent on packets, 0 to 1.
    pub(crate) load: f64,
    /// Connections it owns.
    pub(crate) connections: u64,
    /// Frames handed to other workers.
    pub(crate) handed_off: u64,
    /// Frames taken over from other workers.
    pub(crate) taken_over: u64,
    /// Frames given to the kernel.
    pub(crate) punted: u64,
    /// What it has received and sent on all interfaces.
    #[serde(default)]
    pub(crate) traffic: Traffic,
    /// Where its frames are.
    pub(crate) frames: Frames,
}

/// The account of a worker's frames: `total` is the sum of the others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Frames {
    /// All frames of its UMEM.
    pub(crate) total: u64,
    /// Nobody uses them.
    pub(crate) free: u64,
    /// In fill and receive rings.
    pub(crate) receive: u64,
    /// In transmit and completion rings.
    pub(crate) transmit: u64,
    /// Lent to other workers.
    pub(crate) lent: u64,
    /// Waiting for a neighbour or for other fragments.
    pub(crate) waiting: u64,
}

/// Connections of all workers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Connections {
    /// IPv4 connections now.
    pub(crate) ipv4: u64,
    /// IPv6 connections now.
    pub(crate) ipv6: u64,
    /// The most there may be.
    pub(crate) max: u32,
    /// Entered so far, by protocol.
    pub(crate) created: BTreeMap<String, u64>,
    /// Expired so far.
    pub(crate) expired: u64,
    /// Deleted so far.
    pub(crate) deleted: u64,
    /// Dropped early so far because the table was full.
    pub(crate) early_dropped: u64,
}

/// What is mirrored from the kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Mirror {
    /// IPv4 and IPv6 prefixes.
    pub(crate) routes: [u64; 2],
    /// Resolved IPv4 and IPv6 neighbours.
    pub(crate) neighbours: [u64; 2],
    /// Times that changes were published.
    pub(crate) publishes: u64,
    /// Times that everything was read again because changes were lost.
    pub(crate) resyncs: u64,
}

/// Gathers the state.
pub(crate) fn gather(ctx: &Context) -> Status {
    let reason = ctx.ready().err();
    let current = ctx.shared.current.load();
    let policy = &current.policy;
    let all: Vec<&Counters> = ctx.shared.workers.iter().map(|w| &w.counters).collect();
    let sum = |f: &dyn Fn(&Counters) -> &Counter| all.iter().map(|c| f(c).get()).sum::<u64>();
    let load = |a: &std::sync::atomic::AtomicU64| a.load(Ordering::Relaxed);
    Status {
        ready: reason.is_none(),
        reason,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: ctx.running_since.elapsed().as_secs(),
        policy: describe(policy, &ctx.policies.report()),
        metrics: ctx.metrics,
        interfaces: (0..policy.interfaces.len()).map(|i| interface(ctx, &all, i)).collect(),
        workers: ctx.workers.iter().zip(&all).map(|(w, c)| worker(w, c)).collect(),
        connections: Connections {
            ipv4: sum(&|c| &c.connections4),
            ipv6: sum(&|c| &c.connections6),
            max: policy.max_connections,
            created: (PROTOCOLS.iter().enumerate())
                .map(|(i, n)| ((*n).to_owned(), sum(&|c| &c.created[i]) + sum(&|c| &c.created[i + PROTOCOLS.len()])))
                .collect(),
            expired: sum(&|c| &c.expired),
            deleted: sum(&|c| &c.deleted),
            early_dropped: sum(&|c| &c.early_dropped),
        },
        drops: DropReason::ALL
            .iter()
            .map(|r| (r.label().to_owned(), sum(&|c| &c.drops[*r as usize])))
            .filter(|(_, n)| *n > 0)
            .collect(),
        mirror: Mirror {
            routes: [0, 1].map(|f| load(&ctx.mirror.routes[f])),
            neighbours: [0, 1].map(|f| load(&ctx.mirror.neighbours[f])),
            publishes: load(&ctx.mirror.publishes),
            resyncs: load(&ctx.mirror.resyncs),
        },
    }
}

fn describe(policy: &dataplane::policy::Policy, report: &Report) -> Policy {
    let seconds = |t| since_epoch(t).as_secs();
    let running = report.running();
    let former = report.history.iter().rev().skip(1);
    Policy {
        file: running.file.display().to_string(),
        generation: running.number,
        loaded: seconds(running.loaded),
        rules: policy.rules.len(),
        source_nat: policy.source_nat.len(),
        destination_nat: policy.destination_nat.len(),
        unconfirmed: report.pending.map(|p| Unconfirmed {
            seconds_left: p.until.saturating_duration_since(Instant::now()).as_secs(),
            back_to: p.back_to,
        }),
        former: former
            .map(|g| Former { generation: g.number, file: g.file.display().to_string(), loaded: seconds(g.loaded) })
            .collect(),
        last_failure: report.last_failure.as_ref().map(|f| FailedReload {
            time: seconds(f.at),
            cause: f.cause.to_owned(),
            message: f.message.clone(),
            latest: !report.successful,
        }),
    }
}

fn interface(ctx: &Context, all: &[&Counters], id: usize) -> Interface {
    let current = ctx.shared.current.load();
    let (p, i) = (&current.policy.interfaces[id], current.fib.interfaces.get(id).cloned().unwrap_or_default());
    let with_prefix = |a: IpAddr, l: u8| format!("{a}/{l}");
    Interface {
        name: p.name.clone(),
        device: p.device.clone(),
        vlan: Some(p.vlan).filter(|v| *v != 0),
        zone: current.policy.zones.get(usize::from(p.zone)).cloned().unwrap_or_default(),
        up: i.up,
        mac: i.mac.to_string(),
        mtu: i.mtu,
        addresses: (i.v4.iter().map(|(a, l)| with_prefix(a.ip(), *l)))
            .chain(i.v6.iter().map(|(a, l)| with_prefix(a.ip(), *l)))
            .collect(),
        queues: (ctx.queues.iter().filter(|q| current.policy.interfaces[q.interface].device == p.device))
            .map(|q| Queue { queue: q.queue, worker: q.worker, xdp: q.xdp.to_owned(), mode: q.mode.to_owned() })
            .collect(),
        traffic: all.iter().map(|c| &c.interfaces[id]).collect(),
    }
}

fn worker(w: &crate::context::WorkerState, c: &Counters) -> Worker {
    let held = |f: fn(&InterfaceCounters) -> &Counter| c.interfaces.iter().map(|i| f(i).get()).sum();
    Worker {
        cpu: w.cpu,
        alive: w.alive.load(Ordering::Relaxed),
        load: w.load(),
        connections: c.connections4.get() + c.connections6.get(),
        handed_off: c.handed_off.iter().map(Counter::get).sum(),
        taken_over: c.taken_over.get(),
        punted: c.punted.get(),
        traffic: c.interfaces.iter().collect(),
        frames: Frames {
            total: c.frames_total.get(),
            free: c.frames_free.get(),
            receive: held(|i| &i.frames_receive),
            transmit: held(|i| &i.frames_transmit),
            lent: c.frames_lent.get(),
            waiting: c.frames_waiting.get(),
        },
    }
}
