//! From counters to metric families. Names and labels are a contract with dashboards and alerts.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use dataplane::helper::HelperKind;
use dataplane::io::xsk::{RING, XskStatistics};
use dataplane::worker::counters::{Counter, Counters, HelperCounters, InterfaceCounters, PROTOCOLS};
use dataplane::worker::{DropReason, HandoffReason};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::families::{self as f, Family};
use super::page::Page;
use crate::context::Context;
use crate::rules;

/// Labels of the two address families, in the order in which figures about them are kept.
const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];

/// Rules of a section that have series of their own.
const RULES: usize = 256;
/// What stands in place of the name of the others.
const OTHERS: &str = "(others)";

/// Collects everything there is to know about the gateway.
pub(super) struct Gateway {
    ctx: Arc<Context>,
    desc: Desc,
}

impl Gateway {
    pub(super) fn new(ctx: Arc<Context>) -> Self {
        let Family { name, help, labels, .. } = f::BUILD_INFO;
        let labels = labels.iter().map(|l| (*l).to_owned()).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new());
        Gateway { ctx, desc: desc.expect("a valid name") }
    }
}

impl Collector for Gateway {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut page = Page::default();
        for part in [daemon, interfaces, drops, connections, by_rule, helpers, workers, frames, kernel, mirror] {
            part(&self.ctx, &mut page);
        }
        page.finish()
    }
}

fn load(a: &AtomicU64) -> f64 {
    a.load(Ordering::Relaxed) as f64
}

fn number(c: &Counter) -> f64 {
    c.get() as f64
}

fn truth(b: bool) -> f64 {
    f64::from(u8::from(b))
}

/// The workers' counters with their labels.
fn each(ctx: &Context) -> impl Iterator<Item = (String, &Counters)> {
    ctx.shared.workers.iter().enumerate().map(|(i, w)| (i.to_string(), &w.counters))
}

type Get = fn(&Counters) -> &Counter;

/// Counters that exist once per worker.
fn by_worker(ctx: &Context, page: &mut Page, families: &[(&'static Family, Get)]) {
    for (family, get) in families {
        let mut samples = page.family(family);
        for (worker, c) in each(ctx) {
            samples.add(&[&worker], number(get(c)));
        }
    }
}

fn daemon(ctx: &Context, page: &mut Page) {
    page.family(&f::BUILD_INFO).add(&[env!("CARGO_PKG_VERSION")], 1.0);
    page.single(&f::START_TIME, ctx.started.duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64()));
    page.single(&f::READY, truth(ctx.ready().is_ok()));
    let current = ctx.shared.current.load();
    let p = &current.policy;
    let mut rules = page.family(&f::POLICY_RULES);
    rules.add(&["forward"], p.rules.len() as f64);
    rules.add(&["source_nat"], p.source_nat.len() as f64);
    rules.add(&["destination_nat"], p.destination_nat.len() as f64);
}

fn interfaces(ctx: &Context, page: &mut Page) {
    let current = ctx.shared.current.load();
    let names = &current.policy.interfaces;
    let state: Vec<_> = names.iter().zip(&current.fib.interfaces).collect();
    let mut up = page.family(&f::INTERFACE_UP);
    state.iter().for_each(|(p, i)| up.add(&[&p.name, &p.device], truth(i.up)));
    let mut mtu = page.family(&f::INTERFACE_MTU);
    state.iter().for_each(|(p, i)| mtu.add(&[&p.name, &p.device], f64::from(i.mtu)));
    type Of = fn(&InterfaceCounters) -> &Counter;
    let traffic: [(_, Of); 4] = [
        (&f::RX_PACKETS, |c| &c.rx_packets),
        (&f::RX_BYTES, |c| &c.rx_bytes),
        (&f::TX_PACKETS, |c| &c.tx_packets),
        (&f::TX_BYTES, |c| &c.tx_bytes),
    ];
    for (family, get) in traffic {
        let mut samples = page.family(family);
        for (worker, c) in each(ctx) {
            for (p, i) in names.iter().zip(&c.interfaces) {
                samples.add(&[&p.name, &p.device, &worker], number(get(i)));
            }
        }
    }
    let mut ports = page.family(&f::PORT_INFO);
    for q in &ctx.queues {
        let i = &names[q.interface];
        ports.add(&[&i.name, &i.device, &q.queue.to_string(), &q.worker.to_string(), q.xdp, q.mode], 1.0);
    }
    let mut steered = page.family(&f::STEERED);
    for (interface, c) in ctx.steering.counters() {
        let i = &names[usize::from(interface)];
        for (verdict, n) in [
            ("to_kernel", c.passed),
            ("to_worker", c.redirected),
            ("unattended_host", c.unattended_host),
            ("failed_open", c.failed_open),
            ("failed_closed", c.failed_closed),
            ("bad_tags", c.bad_tags),
        ] {
            steered.add(&[&i.name, &i.device, verdict], n as f64);
        }
    }
}

fn drops(ctx: &Context, page: &mut Page) {
    let mut dropped = page.family(&f::DROPPED);
    for (worker, c) in each(ctx) {
        for r in DropReason::ALL {
            dropped.add(&[r.label(), &worker], number(&c.drops[*r as usize]));
        }
    }
    page.single(&f::PUNT_DROPPED, load(&ctx.shared.punts_dropped));
    by_worker(ctx, page, &[(&f::ICMP_SENT, |c| &c.icmp_sent), (&f::ICMP_LIMITED, |c| &c.icmp_limited)]);
}

fn connections(ctx: &Context, page: &mut Page) {
    let protocols = || FAMILIES.iter().flat_map(|family| PROTOCOLS.iter().map(move |p| (*family, *p)));
    let mut now = page.family(&f::CONNECTIONS);
    for (worker, c) in each(ctx) {
        for (i, (family, protocol)) in protocols().enumerate() {
            now.add(&[family, protocol, &worker], c.connections(i) as f64);
        }
    }
    page.single(&f::CONNECTIONS_MAX, f64::from(ctx.shared.current.load().policy.max_connections));
    let mut created = page.family(&f::CREATED);
    for (worker, c) in each(ctx) {
        for ((family, protocol), n) in protocols().zip(&c.created) {
            created.add(&[family, protocol, &worker], number(n));
        }
    }
    by_worker(
        ctx,
        page,
        &[
            (&f::EXPIRED, |c| &c.expired),
            (&f::DELETED, |c| &c.deleted),
            (&f::EARLY_DROPPED, |c| &c.early_dropped),
            (&f::REVALIDATED, |c| &c.revalidated),
        ],
    );
    let mut setup = page.family(&f::SETUP);
    for (worker, c) in each(ctx) {
        setup.add_durations(&[&worker], &c.setup, c.setup_ns.get());
    }
    let mut mappings = page.family(&f::MAPPINGS);
    for (family, n) in FAMILIES.iter().zip([ctx.shared.mappings4.len(), ctx.shared.mappings6.len()]) {
        mappings.add(&[family], n as f64);
    }
}

/// What rules count. Of each section only the first [`RULES`] have series of their own: there may be thousands.
fn by_rule(ctx: &Context, page: &mut Page) {
    let all = rules::gather(ctx);
    type Of = fn(&rules::Rule) -> u64;
    let families: [(_, Of); 2] = [(&f::RULE_PACKETS, |r| r.packets), (&f::RULE_BYTES, |r| r.bytes)];
    for (family, get) in families {
        let mut samples = page.family(family);
        for section in all.chunk_by(|a, b| a.list == b.list) {
            let mut others = None;
            for (i, r) in section.iter().enumerate() {
                if i < RULES || r.name == rules::DEFAULT {
                    samples.add(&[&r.list, &r.name], get(r) as f64);
                } else {
                    *others.get_or_insert(0) += get(r);
                }
            }
            if let Some(n) = others {
                samples.add(&[&section[0].list, OTHERS], n as f64);
            }
        }
    }
    by_worker(ctx, page, &[(&f::LOG_LIMITED, |c| &c.log_limited), (&f::LOG_LOST, |c| &c.log_lost)]);
    page.single(&f::LIMIT_FULL, ctx.shared.limiter.full() as f64);
}

fn helpers(ctx: &Context, page: &mut Page) {
    type Of = fn(&HelperCounters) -> &Counter;
    let counters: [(_, Of); 4] = [
        (&f::HELPER_CONNECTIONS, |c| &c.connections),
        (&f::HELPER_REWRITTEN, |c| &c.rewritten),
        (&f::HELPER_DROPPED, |c| &c.dropped),
        (&f::EXPECTATIONS_REFUSED, |c| &c.refused),
    ];
    for (family, get) in counters {
        let mut samples = page.family(family);
        for kind in HelperKind::ALL {
            samples.add(&[kind.name()], each(ctx).map(|(_, c)| number(get(&c.helpers[kind as usize]))).sum());
        }
    }
    let fates = || HelperKind::ALL.into_iter().map(|kind| (kind.name(), ctx.shared.expectations.fates(kind)));
    let mut now = page.family(&f::EXPECTATIONS);
    fates().for_each(|(helper, x)| now.add(&[helper], x.live() as f64));
    let mut created = page.family(&f::EXPECTATIONS_CREATED);
    fates().for_each(|(helper, x)| created.add(&[helper], load(&x.created)));
    let mut ended = page.family(&f::EXPECTATIONS_ENDED);
    for (helper, x) in fates() {
        for (outcome, n) in [("used", &x.used), ("expired", &x.expired), ("withdrawn", &x.withdrawn)] {
            ended.add(&[helper, outcome], load(n));
        }
    }
}

fn workers(ctx: &Context, page: &mut Page) {
    let states = || ctx.workers.iter().enumerate().map(|(i, w)| (i.to_string(), w));
    let mut info = page.family(&f::WORKER_INFO);
    for (worker, w) in states() {
        info.add(&[&worker, &w.cpu.map_or(String::new(), |c| c.to_string())], 1.0);
    }
    let mut up = page.family(&f::WORKER_UP);
    states().for_each(|(worker, w)| up.add(&[&worker], truth(w.alive.load(Ordering::Relaxed))));
    let mut time = page.family(&f::WORKER_SECONDS);
    for (worker, c) in each(ctx) {
        for (state, n) in [("busy", &c.busy_ns), ("idle", &c.idle_ns), ("sleep", &c.sleep_ns)] {
            time.add(&[&worker, state], number(n) / 1e9);
        }
    }
    let mut bursts = page.family(&f::BURST_TIME);
    for (worker, c) in each(ctx) {
        bursts.add_durations(&[&worker], &c.burst_time, c.busy_ns.get());
    }
    let mut handed_off = page.family(&f::HANDED_OFF);
    for (worker, c) in each(ctx) {
        for r in HandoffReason::ALL {
            handed_off.add(&[r.label(), &worker], number(&c.handed_off[*r as usize]));
        }
    }
    by_worker(
        ctx,
        page,
        &[
            (&f::TAKEN_OVER, |c| &c.taken_over),
            (&f::PUNTED, |c| &c.punted),
            (&f::CHECKSUMS, |c| &c.checksums_completed),
        ],
    );
}

fn frames(ctx: &Context, page: &mut Page) {
    by_worker(ctx, page, &[(&f::FRAMES_SIZE, |c| &c.frames_total)]);
    let mut frames = page.family(&f::FRAMES);
    for (worker, c) in each(ctx) {
        let held = |get: fn(&InterfaceCounters) -> &Counter| c.interfaces.iter().map(|i| number(get(i))).sum();
        for (place, n) in [
            ("free", number(&c.frames_free)),
            ("receive", held(|i| &i.frames_receive)),
            ("transmit", held(|i| &i.frames_transmit)),
            ("lent", number(&c.frames_lent)),
            ("waiting", number(&c.frames_waiting)),
        ] {
            frames.add(&[&worker, place], n);
        }
    }
    let policy = ctx.shared.current.load().policy;
    let devices = policy.devices();
    let mut rings = page.family(&f::RING_FRAMES);
    for (worker, c) in each(ctx) {
        for (_, interfaces) in &devices {
            let (p, i) = (&policy.interfaces[usize::from(interfaces[0])], c.interface(interfaces[0]));
            rings.add(&[&p.name, &p.device, &worker, "receive"], number(&i.frames_receive));
            rings.add(&[&p.name, &p.device, &worker, "transmit"], number(&i.frames_transmit));
        }
    }
    page.single(&f::RING_SIZE, f64::from(RING));
}

/// What the kernel counts for each socket.
fn kernel(ctx: &Context, page: &mut Page) {
    let names = &ctx.shared.current.load().policy.interfaces.clone();
    type Of = fn(&XskStatistics) -> u64;
    let families: [(_, Of); 6] = [
        (&f::XSK_DROPPED, |s| s.rx_dropped),
        (&f::XSK_RING_FULL, |s| s.rx_ring_full),
        (&f::XSK_FILL_EMPTY, |s| s.fill_ring_empty),
        (&f::XSK_TX_EMPTY, |s| s.tx_ring_empty),
        (&f::XSK_RX_INVALID, |s| s.rx_invalid),
        (&f::XSK_TX_INVALID, |s| s.tx_invalid),
    ];
    let all = ctx.socket_statistics();
    for (family, get) in families {
        let mut samples = page.family(family);
        for (q, s) in &all {
            let i = &names[q.interface];
            samples.add(&[&i.name, &i.device, &q.queue.to_string()], get(s) as f64);
        }
    }
}

fn mirror(ctx: &Context, page: &mut Page) {
    let m = &ctx.mirror;
    for (family, gauges) in [(&f::MIRROR_ROUTES, &m.routes), (&f::MIRROR_NEIGHBOURS, &m.neighbours)] {
        let mut samples = page.family(family);
        FAMILIES.iter().zip(gauges).for_each(|(label, n)| samples.add(&[label], load(n)));
    }
    page.single(&f::MIRROR_PUBLISHES, load(&m.publishes));
    page.single(&f::MIRROR_SECONDS, load(&m.publish_ns) / 1e9);
    page.single(&f::MIRROR_RESYNCS, load(&m.resyncs));
    page.single(&f::MIRROR_REQUESTS, load(&m.requests));
}
