//! Gateways side by side. Each stands between hosts of its own; all run at once and are measured in turn,
//! so that what else the machine does meets them alike. What counts is the ratio between them in one run.
//!
//! The gateway has CPU 1 and the hosts have CPU 0. One part of a gateway's work is on the hosts' CPU: a
//! frame that the generator sends meets the XDP program and is copied for the AF_XDP socket there, as a
//! network card's interrupts may go to another CPU than the worker's. The kernel's gateway `kernel` does all
//! of its work in NAPI threads on CPU 1; `kernel-softirq`, the kernel as nobody has configured it, does all
//! of it on the hosts' CPU, whoever sends. The budget of TCP connections a second is of the latter, those of
//! UDP rates are of the former.

mod gateway;
mod idle;
mod kernel_table;
mod lab;
mod measure;
mod noise;
mod plot;
mod process;
mod samples;

use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use self::gateway::{Gateway, Kind};
pub(crate) use self::idle::{Arguments as Idle, run as idle};
use self::kernel_table::KernelTable;
use self::measure::{Delivered, Quietly, Subject};
use self::samples::{Samples, Test};
use crate::report::{Report, write_file};
use crate::sys;

/// Connections that last, while others flood.
const LASTING: &str = "udp-lasting-1k";
/// About as many as begin in a flood, at least.
const BEGUN: u32 = 1 << 20;
/// What share of their packets Sluice should forward, in per cent.
const KEPT: f64 = 90.0;

/// `sluice-perf veth`
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// One short round with 1024 flows: shows that the benches work, and the figures roughly.
    #[arg(long)]
    quick: bool,
    /// What to compare; the first is set in relation to the others.
    #[arg(long, value_delimiter = ',', default_value = "sluice,kernel,kernel-softirq,forwarder")]
    gateways: Vec<Kind>,
    /// Numbers of UDP flows.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1024, 65_536], value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    flows: Vec<u32>,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// What to measure.
    #[arg(long, default_value = "all")]
    mode: Mode,
    /// Gateways that poll in user space never sleep; otherwise they do after 50 microseconds without a frame.
    #[arg(long)]
    busy: bool,
    /// The binary to run as the gateway `sluice`; by default the one beside this program.
    #[arg(long)]
    sluice: Option<PathBuf>,
    /// Where to write the figures as JSON.
    #[arg(long, default_value = "target/bench/veth.json")]
    output: PathBuf,
    /// Where to write them as a Markdown table.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Where to draw the UDP rates over the number of flows, as SVG.
    #[arg(long)]
    plot: Option<PathBuf>,
}

impl Arguments {
    fn flows(&self) -> &[u32] {
        if self.quick { &[1024] } else { &self.flows }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// The highest rate of 64-byte UDP at which less than half a per cent is lost
    Paced,
    /// That, and what is left of it under three times as much
    Flood,
    /// One TCP stream, TCP connections a second, and round-trip times
    Tcp,
    /// All of these
    All,
}

impl Mode {
    fn includes(self, one: Mode) -> bool {
        self == one || self == Mode::All
    }
}

/// Runs the comparison, prints and writes the figures.
///
/// # Errors
/// When a gateway does not start, a measurement fails, or a signal comes; the namespaces are removed.
pub(crate) fn run(a: &Arguments) -> Result<()> {
    ensure!(!a.gateways.is_empty(), "no gateway to measure");
    ensure!(sys::is_root(), "making namespaces and AF_XDP sockets needs root");
    let cpus = available_parallelism()?.get();
    ensure!(cpus >= 2, "two CPUs are needed, one for the hosts and one for the gateway; there is {cpus}");
    lab::remove_stale()?;
    let beside = || Ok(std::env::current_exe()?.with_file_name("sluice"));
    let sluice = a.sluice.clone().map_or_else(beside, anyhow::Ok)?;
    let tcp = a.mode.includes(Mode::Tcp);
    let mut subjects = Vec::new();
    for kind in &a.gateways {
        ensure!(*kind != Kind::Sluice || sluice.exists(), "{} does not exist: `make build`", sluice.display());
        let gateway = Gateway::start(*kind, &sluice, a.busy).with_context(|| format!("the gateway {kind}"))?;
        subjects.push(Subject::new(gateway, tcp)?);
    }
    let mut samples = Samples::default();
    let (flows, repeat) = (a.flows(), if a.quick { 1 } else { a.repeat });
    let _table = KernelTable::hold(flows.iter().copied().max().unwrap_or(0).max(BEGUN))?;
    for round in 0..repeat as usize {
        for n in flows {
            udp(&mut subjects, &mut samples, round, *n, a)?;
        }
        if a.mode.includes(Mode::Flood) {
            lasting(&mut subjects, &mut samples, round, a)?;
        }
        if tcp {
            connections(&subjects, &mut samples, round, a.quick)?;
        }
    }
    drop(subjects);
    show(&samples, a)
}

fn udp(subjects: &mut [Subject], samples: &mut Samples, round: usize, flows: u32, a: &Arguments) -> Result<()> {
    let duration = Duration::from_millis(if a.quick { 500 } else { 1000 });
    let mut take = |what: &str, kind, d: Quietly<Delivered>| {
        let mut add = |what: &str, unit, value| samples.add(round, kind, &udp_name(what, flows), unit, value);
        add(what, "Mpps", d.value.rate / 1e6);
        add(&format!("{what}-offered"), "Mpps", d.value.offered / 1e6);
        add(&format!("{what}-loss"), "%", 100.0 * d.value.loss);
        add(&format!("{what}-cpu"), "ns/packet", d.value.cpu_ns);
        samples.noise = samples.noise.max(d.noise);
    };
    let flood = a.mode.includes(Mode::Flood);
    if a.mode.includes(Mode::Paced) || flood {
        for s in subjects.iter_mut().filter(|s| s.gateway.kind.has_own_cpu()) {
            take("paced", s.gateway.kind, s.paced(flows, duration)?);
        }
    }
    if flood {
        for s in subjects.iter_mut().filter(|s| s.gateway.kind.has_own_cpu()) {
            take("flood", s.gateway.kind, s.flood(flows, duration)?);
        }
    }
    Ok(())
}

/// What share of a thousand flows' frames arrives while others begin seven times as many.
fn lasting(subjects: &mut [Subject], samples: &mut Samples, round: usize, a: &Arguments) -> Result<()> {
    let duration = Duration::from_millis(if a.quick { 300 } else { 1000 });
    for s in subjects.iter_mut().filter(|s| s.gateway.kind.has_own_cpu() && s.gateway.kind.translates()) {
        let d = s.flood_of_new(1024, duration)?;
        samples.add(round, s.gateway.kind, LASTING, "%", 100.0 * d.value.kept);
        samples.noise = samples.noise.max(d.noise);
    }
    Ok(())
}

/// The name of a test with UDP flows.
fn udp_name(what: &str, flows: u32) -> String {
    format!("udp-{what}-{}", flows_name(flows))
}

fn flows_name(n: u32) -> String {
    match n {
        n if n >= 1 << 20 => format!("{}M", n >> 20),
        n if n >= 1024 => format!("{}k", n >> 10),
        n => n.to_string(),
    }
}

fn connections(subjects: &[Subject], samples: &mut Samples, round: usize, quick: bool) -> Result<()> {
    let seconds = if quick { 1 } else { 2 };
    for s in subjects {
        ensure!(!sys::stopped(), "interrupted");
        let r = s.stream(seconds)?;
        samples.add(round, s.gateway.kind, "tcp-stream", "Gbit/s", r.value);
        samples.noise = samples.noise.max(r.noise);
    }
    for s in subjects {
        ensure!(!sys::stopped(), "interrupted");
        let r = s.connects(seconds)?;
        samples.add(round, s.gateway.kind, "tcp-connect", "k/s", r.value.per_second / 1e3);
        if r.value.errors > 0 {
            println!("{}: {} connections failed", s.gateway.kind, r.value.errors);
        }
        samples.noise = samples.noise.max(r.noise);
    }
    for s in subjects {
        ensure!(!sys::stopped(), "interrupted");
        let r = s.ping(if quick { 5000 } else { 20_000 })?;
        samples.add(round, s.gateway.kind, "udp-rtt-p50", "us", r.value.p50);
        samples.add(round, s.gateway.kind, "udp-rtt-p99", "us", r.value.p99);
        samples.noise = samples.noise.max(r.noise);
    }
    Ok(())
}

/// What the first gateway should reach, relative to another.
fn budget(test: &Test, gateway: Kind, to: Kind) -> Option<Budget> {
    if gateway != Kind::Sluice {
        return None;
    }
    let least = |factor| Some(Budget::AtLeast(factor));
    match (test.name.as_str(), to) {
        ("udp-rtt-p50", Kind::Forwarder) => Some(Budget::AtMost(1.1)),
        ("udp-rtt-p99", Kind::Forwarder) => Some(Budget::AtMost(1.2)),
        ("tcp-connect", Kind::KernelSoftirq) => least(2.0),
        ("udp-flood-1k", Kind::Kernel) => least(1.2),
        ("udp-flood-64k", Kind::Kernel) => least(1.5),
        ("udp-flood-1M", Kind::Kernel) => least(2.0),
        ("udp-flood-1k" | "udp-flood-64k" | "udp-flood-1M", Kind::Forwarder) => least(0.9),
        ("udp-paced-1k" | "udp-paced-64k", Kind::Forwarder) => least(0.92),
        ("udp-paced-1k" | "udp-paced-64k", Kind::Kernel) => least(1.5),
        ("udp-paced-1k" | "udp-paced-64k", Kind::Openvswitch) => least(1.15),
        _ => None,
    }
}

/// A bound for a ratio.
#[derive(Debug, Clone, Copy)]
enum Budget {
    AtLeast(f64),
    AtMost(f64),
}

fn show(samples: &Samples, a: &Arguments) -> Result<()> {
    let (first, others) = (a.gateways[0], &a.gateways[1..]);
    let mut report = Report::new(a.quick);
    for (i, test) in samples.tests().iter().enumerate() {
        for g in &a.gateways {
            let Some(s) = samples.summary(i, *g) else { continue };
            let budget = (test.name == LASTING && *g == Kind::Sluice).then_some(KEPT);
            report.add_above(&format!("veth-{}-{g}", test.name), s.median, test.unit, budget);
            report.add_below(&format!("veth-{}-{g}-spread", test.name), s.most - s.least, test.unit, None);
        }
    }
    let table = samples.markdown(&a.gateways);
    println!("\n{table}");
    for (i, test) in samples.tests().iter().enumerate() {
        for g in others {
            let Some(s) = samples.ratio(i, first, *g) else { continue };
            let budget = budget(test, first, *g);
            let name = format!("veth-{}-{first}/{g}", test.name);
            let figure = match budget {
                Some(Budget::AtMost(b)) => report.add_below(&name, s.median, "ratio", Some(b)),
                Some(Budget::AtLeast(b)) => report.add_above(&name, s.median, "ratio", Some(b)),
                None => report.add_above(&name, s.median, "ratio", None),
            };
            if budget.is_some() {
                println!("{figure}");
            }
        }
    }
    println!("{}", report.add_below("veth-foreign-cpu", 100.0 * samples.noise, "%", Some(100.0 * noise::LIMIT)));
    report.write(&a.output)?;
    if let Some(path) = &a.markdown {
        write_file(path, &table)?;
    }
    if let Some(path) = &a.plot {
        plot::write(path, samples, &a.gateways, a.flows())?;
    }
    Ok(())
}
