//! From counters to metric families. Names and labels are a contract with dashboards and alerts.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use dataplane::worker::DropReason;
use dataplane::worker::counters::{Counter, Counters, InterfaceCounters, PROTOCOLS};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::by_policy::{helpers, rules, translations};
use super::by_worker::{frames, sockets, workers};
use super::families::{self as f, FAMILIES, Family};
use super::page::Page;
use crate::context::Context;
use crate::format::since_epoch;

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
        for part in [
            daemon,
            policies,
            interfaces,
            drops,
            connections,
            rules,
            translations,
            helpers,
            workers,
            frames,
            sockets,
            mirror,
        ] {
            part(&self.ctx, &mut page);
        }
        page.finish()
    }
}

pub(super) fn load(a: &AtomicU64) -> f64 {
    a.load(Ordering::Relaxed) as f64
}

pub(super) fn number(c: &Counter) -> f64 {
    c.get() as f64
}

pub(super) fn truth(b: bool) -> f64 {
    f64::from(u8::from(b))
}

/// The workers' counters with their labels.
pub(super) fn each(ctx: &Context) -> impl Iterator<Item = (String, &Counters)> {
    ctx.shared.workers.iter().enumerate().map(|(i, w)| (i.to_string(), &w.counters))
}

pub(super) type Get = fn(&Counters) -> &Counter;

/// Counters that exist once per worker.
pub(super) fn by_worker(ctx: &Context, page: &mut Page, families: &[(&'static Family, Get)]) {
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
    let mut sets = page.family(&f::SET_ENTRIES);
    for s in &p.sets {
        sets.add(&[&s.name], s.members.len() as f64);
    }
    let mut rules = page.family(&f::POLICY_RULES);
    rules.add(&["forward"], p.rules.len() as f64);
    rules.add(&["source_nat"], p.source_nat.len() as f64);
    rules.add(&["destination_nat"], p.destination_nat.len() as f64);
}

/// What became of attempts to change the policy.
fn policies(ctx: &Context, page: &mut Page) {
    let (p, report) = (&ctx.policies, ctx.policies.report());
    page.single(&f::POLICY_GENERATION, report.running().number as f64);
    page.single(&f::POLICY_UNCONFIRMED, truth(report.pending.is_some()));
    let mut reload = page.family(&f::RELOAD);
    reload.add(&["success"], load(&p.succeeded));
    reload.add(&["failure"], load(&p.failed));
    reload.add(&["rollback"], load(&p.rolled_back));
    page.single(&f::RELOAD_SUCCESSFUL, truth(report.successful));
    page.single(&f::RELOAD_SUCCESS_TIME, since_epoch(report.last_success).as_secs_f64());
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
