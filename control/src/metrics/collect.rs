//! From counters to metric families. Names and labels are a contract with dashboards and alerts.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use dataplane::io::xsk::XskStatistics;
use dataplane::worker::DropReason;
use dataplane::worker::counters::{Counter, Counters, InterfaceCounters};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};

use crate::context::Context;
use crate::rules;
use crate::status::CREATED;

/// Labels of the two address families, in the order in which figures about them are kept.
const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];

/// Collects everything there is to know about the gateway.
pub(super) struct Gateway {
    ctx: Arc<Context>,
    desc: Desc,
}

impl Gateway {
    pub(super) fn new(ctx: Arc<Context>) -> Self {
        let name = "sluice_build_info".to_owned();
        let desc = Desc::new(name, "The running version.".to_owned(), vec!["version".to_owned()], HashMap::new());
        Gateway { ctx, desc: desc.expect("a valid name") }
    }
}

impl Collector for Gateway {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut out = Vec::new();
        daemon(&self.ctx, &mut out);
        interfaces(&self.ctx, &mut out);
        connections(&self.ctx, &mut out);
        workers(&self.ctx, &mut out);
        by_rule(&self.ctx, &mut out);
        kernel(&self.ctx, &mut out);
        mirror(&self.ctx, &mut out);
        out.retain(|f| !f.get_metric().is_empty());
        out
    }
}

/// Starts a family of `kind`; its samples follow by [`Samples::add`].
fn family<'o>(out: &'o mut Vec<MetricFamily>, kind: MetricType, name: &str, help: &str) -> Samples<'o> {
    let mut f = MetricFamily::default();
    f.set_name(format!("sluice_{name}"));
    f.set_help(help.to_owned());
    f.set_field_type(kind);
    out.push(f);
    Samples { family: out.last_mut().expect("just pushed"), kind }
}

fn counter<'o>(out: &'o mut Vec<MetricFamily>, name: &str, help: &str) -> Samples<'o> {
    family(out, MetricType::COUNTER, name, help)
}

fn gauge<'o>(out: &'o mut Vec<MetricFamily>, name: &str, help: &str) -> Samples<'o> {
    family(out, MetricType::GAUGE, name, help)
}

struct Samples<'o> {
    family: &'o mut MetricFamily,
    kind: MetricType,
}

impl Samples<'_> {
    fn add(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        let pair = |(name, value): &(&str, &str)| {
            let mut l = LabelPair::default();
            l.set_name((*name).to_owned());
            l.set_value((*value).to_owned());
            l
        };
        let mut m = Metric::from_label(labels.iter().map(pair).collect());
        if self.kind == MetricType::COUNTER {
            let mut c = proto::Counter::default();
            c.set_value(value);
            m.set_counter(c);
        } else {
            let mut g = proto::Gauge::default();
            g.set_value(value);
            m.set_gauge(g);
        }
        self.family.mut_metric().push(m);
        self
    }
}

fn load(a: &AtomicU64) -> f64 {
    a.load(Ordering::Relaxed) as f64
}

fn number(c: &Counter) -> f64 {
    c.get() as f64
}

/// The workers' counters with their labels.
fn each(ctx: &Context) -> impl Iterator<Item = (String, &Counters)> {
    ctx.shared.workers.iter().enumerate().map(|(i, w)| (i.to_string(), &w.counters))
}

fn daemon(ctx: &Context, out: &mut Vec<MetricFamily>) {
    gauge(out, "build_info", "The running version.").add(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let started = ctx.started.duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    gauge(out, "start_time_seconds", "When the daemon started, in seconds since 1970.").add(&[], started);
    gauge(out, "ready", "1 when packets flow.").add(&[], f64::from(u8::from(ctx.ready().is_ok())));
    let current = ctx.shared.current.load();
    let p = &current.policy;
    gauge(out, "policy_rules", "Rules of the policy.")
        .add(&[("kind", "forward")], p.rules.len() as f64)
        .add(&[("kind", "source_nat")], p.source_nat.len() as f64)
        .add(&[("kind", "destination_nat")], p.destination_nat.len() as f64);
    let mut ports = gauge(out, "port_info", "A queue of an interface, and how its worker gets the frames.");
    for q in &ctx.queues {
        let i = &p.interfaces[q.interface];
        let (queue, worker) = (q.queue.to_string(), q.worker.to_string());
        let labels = [
            ("interface", i.name.as_str()),
            ("device", &i.device),
            ("queue", &queue),
            ("worker", &worker),
            ("xdp", q.xdp),
            ("mode", q.mode),
        ];
        ports.add(&labels, 1.0);
    }
}

fn interfaces(ctx: &Context, out: &mut Vec<MetricFamily>) {
    let current = ctx.shared.current.load();
    let names = &current.policy.interfaces;
    let mut up = gauge(out, "interface_up", "1 when the interface is up and has carrier.");
    for (p, i) in names.iter().zip(&current.fib.interfaces) {
        up.add(&[("interface", &p.name), ("device", &p.device)], f64::from(u8::from(i.up)));
    }
    type Of = fn(&InterfaceCounters) -> &Counter;
    let families: [(&str, &str, Of); 4] = [
        ("interface_receive_packets_total", "Packets received.", |c| &c.rx_packets),
        ("interface_receive_bytes_total", "Bytes received, Ethernet header included.", |c| &c.rx_bytes),
        ("interface_transmit_packets_total", "Packets sent.", |c| &c.tx_packets),
        ("interface_transmit_bytes_total", "Bytes sent, Ethernet header included.", |c| &c.tx_bytes),
    ];
    for (name, help, get) in families {
        let mut f = counter(out, name, help);
        for (worker, c) in each(ctx) {
            for (p, i) in names.iter().zip(&c.interfaces) {
                f.add(&[("interface", &p.name), ("device", &p.device), ("worker", &worker)], number(get(i)));
            }
        }
    }
    let mut drops = counter(out, "dropped_packets_total", "Packets dropped, by reason.");
    for (worker, c) in each(ctx) {
        for r in DropReason::ALL {
            drops.add(&[("reason", r.label()), ("worker", &worker)], number(&c.drops[*r as usize]));
        }
    }
}

fn connections(ctx: &Context, out: &mut Vec<MetricFamily>) {
    let mut now = gauge(out, "connections", "Connections in the table.");
    for (worker, c) in each(ctx) {
        for (family, n) in FAMILIES.iter().zip([&c.connections4, &c.connections6]) {
            now.add(&[("family", family), ("worker", &worker)], number(n));
        }
    }
    let max = ctx.shared.current.load().policy.max_connections;
    gauge(out, "connections_max", "The most connections there may be.").add(&[], f64::from(max));
    let mut created = counter(out, "connections_created_total", "Connections entered in the table.");
    for (worker, c) in each(ctx) {
        for (protocol, n) in CREATED.iter().zip(&c.created) {
            created.add(&[("protocol", protocol), ("worker", &worker)], number(n));
        }
    }
}

type Get = fn(&Counters) -> &Counter;

/// Counters that exist once per worker.
const BY_WORKER: [(&str, &str, Get); 12] = [
    ("connections_expired_total", "Connections that timed out.", |c| &c.expired),
    ("connections_deleted_total", "Connections deleted by the operator, or reopened.", |c| &c.deleted),
    ("connections_early_dropped_total", "Unassured connections dropped because the table was full.", |c| {
        &c.early_dropped
    }),
    ("handed_off_packets_total", "Packets handed to the worker that owns their connection.", |c| &c.handed_off),
    ("taken_over_packets_total", "Packets taken over from other workers.", |c| &c.taken_over),
    ("punted_packets_total", "Packets for the gateway host given to the kernel.", |c| &c.punted),
    ("icmp_errors_sent_total", "ICMP errors sent.", |c| &c.icmp_sent),
    ("icmp_errors_limited_total", "ICMP errors not sent because of the rate limit.", |c| &c.icmp_limited),
    ("checksums_completed_total", "Checksums completed that a sender had left to its network card.", |c| {
        &c.checksums_completed
    }),
    ("log_limited_packets_total", "Packets not logged because of the rate limit of a rule's log.", |c| &c.log_limited),
    ("log_lost_packets_total", "Packets not logged because the queue was full.", |c| &c.log_lost),
    ("bursts_total", "Bursts with at least one packet.", |c| &c.bursts),
];

fn workers(ctx: &Context, out: &mut Vec<MetricFamily>) {
    for (name, help, get) in BY_WORKER {
        let mut f = counter(out, name, help);
        for (worker, c) in each(ctx) {
            f.add(&[("worker", &worker)], number(get(c)));
        }
    }
    let mut time = counter(out, "worker_seconds_total", "What the worker's time went on: packets, polling, sleep.");
    for (worker, c) in each(ctx) {
        for (state, n) in [("busy", &c.busy_ns), ("idle", &c.idle_ns), ("sleep", &c.sleep_ns)] {
            time.add(&[("worker", &worker), ("state", state)], number(n) / 1e9);
        }
    }
    let mut size = gauge(out, "umem_frames_size", "Frames of the worker's UMEM.");
    for (worker, c) in each(ctx) {
        size.add(&[("worker", &worker)], number(&c.frames_total));
    }
    let mut frames = gauge(out, "umem_frames", "Frames of the worker's UMEM by the place where they are.");
    for (worker, c) in each(ctx) {
        let held = |get: fn(&InterfaceCounters) -> &Counter| c.interfaces.iter().map(|i| number(get(i))).sum();
        let places = [
            ("free", number(&c.frames_free)),
            ("receive", held(|i| &i.frames_receive)),
            ("transmit", held(|i| &i.frames_transmit)),
            ("lent", number(&c.frames_lent)),
            ("waiting", number(&c.frames_waiting)),
        ];
        for (place, n) in places {
            frames.add(&[("worker", &worker), ("place", place)], n);
        }
    }
    counter(
        out,
        "punt_dropped_packets_total",
        "Packets for the gateway host dropped: over the rate limit, or refused.",
    )
    .add(&[], load(&ctx.shared.punts_dropped));
}

/// What rules count.
fn by_rule(ctx: &Context, out: &mut Vec<MetricFamily>) {
    let all = rules::gather(ctx);
    type Of = fn(&rules::Rule) -> u64;
    let families: [(&str, &str, Of); 2] = [
        (
            "rule_packets_total",
            "Packets that the rule has decided: first packets of connections, and others by themselves.",
            |r| r.packets,
        ),
        ("rule_bytes_total", "Bytes of the packets that the rule has decided.", |r| r.bytes),
    ];
    for (name, help, get) in families {
        let mut f = counter(out, name, help);
        for r in &all {
            f.add(&[("chain", &r.list), ("rule", &r.name)], get(r) as f64);
        }
    }
    counter(out, "limit_table_full_total", "Packets held beyond a rule's limit because too many sources are counted.")
        .add(&[], ctx.shared.limiter.full() as f64);
}

/// What the kernel counts: for each socket, and in the steering programs.
fn kernel(ctx: &Context, out: &mut Vec<MetricFamily>) {
    let names = &ctx.shared.current.load().policy.interfaces.clone();
    type Of = fn(&XskStatistics) -> u64;
    let families: [(&str, &str, Of); 5] = [
        ("xsk_receive_dropped_packets_total", "Packets dropped before the socket, as too large ones.", |s| {
            s.rx_dropped
        }),
        ("xsk_receive_ring_full_packets_total", "Packets dropped because the worker was too slow.", |s| s.rx_ring_full),
        ("xsk_fill_ring_empty_total", "Times that no frame was left to receive into.", |s| s.fill_ring_empty),
        ("xsk_receive_invalid_total", "Descriptors of the fill ring that the kernel refused.", |s| s.rx_invalid),
        ("xsk_transmit_invalid_total", "Descriptors of the transmit ring that the kernel refused.", |s| s.tx_invalid),
    ];
    let all = ctx.socket_statistics();
    for (name, help, get) in families {
        let mut f = counter(out, name, help);
        for (q, s) in &all {
            let (i, queue) = (&names[q.interface], q.queue.to_string());
            f.add(&[("interface", &i.name), ("device", &i.device), ("queue", &queue)], get(s) as f64);
        }
    }
    let mut steered = counter(out, "steered_packets_total", "Packets by what the XDP program did with them.");
    for (i, c) in names.iter().zip(ctx.steering.counters()) {
        let Some(c) = c else { continue };
        let verdicts = [
            ("to_kernel", c.passed),
            ("to_worker", c.redirected),
            ("unattended_host", c.unattended_host),
            ("failed_open", c.failed_open),
            ("failed_closed", c.failed_closed),
            ("bad_tags", c.bad_tags),
        ];
        for (verdict, n) in verdicts {
            steered.add(&[("interface", &i.name), ("device", &i.device), ("verdict", verdict)], n as f64);
        }
    }
}

fn mirror(ctx: &Context, out: &mut Vec<MetricFamily>) {
    let m = &ctx.mirror;
    let mut routes = gauge(out, "mirror_routes", "Prefixes mirrored from the kernel.");
    for (family, n) in FAMILIES.iter().zip(&m.routes) {
        routes.add(&[("family", family)], load(n));
    }
    let mut neighbours = gauge(out, "mirror_neighbours", "Resolved neighbours mirrored from the kernel.");
    for (family, n) in FAMILIES.iter().zip(&m.neighbours) {
        neighbours.add(&[("family", family)], load(n));
    }
    counter(out, "mirror_publishes_total", "Times that changes were published to the workers.")
        .add(&[], load(&m.publishes));
    counter(out, "mirror_resyncs_total", "Times that everything was read again because changes were lost.")
        .add(&[], load(&m.resyncs));
    counter(out, "mirror_neighbour_requests_total", "Neighbours the kernel was asked to resolve or confirm.")
        .add(&[], load(&m.requests));
}
