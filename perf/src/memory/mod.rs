//! In-memory benches: the daemon's worker over ports that make their own frames.

mod flows;
mod gateway;
mod generator;
mod instructions;
mod rules;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use self::flows::Kind;
use self::gateway::Gateway;
pub(crate) use self::instructions::{Count, run as count};
pub(crate) use self::rules::{Arguments as Rules, run as rules};
use crate::report::{Figure, Report};

/// `sluice-perf memory`
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Fewer packets and smaller tables: shows that the benches work, not how fast the worker is.
    #[arg(long)]
    quick: bool,
    /// Only figures whose names contain this.
    #[arg(long, default_value = "")]
    only: String,
    /// Where to write the figures as JSON.
    #[arg(long, default_value = "target/bench/results.json")]
    output: PathBuf,
}

/// Resident memory of this process in bytes.
fn resident() -> Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split_whitespace().nth(1).unwrap_or("0").parse()?;
    Ok(pages * 4096)
}

/// Runs all in-memory benches, prints and writes the figures.
///
/// # Errors
/// When a frame was not forwarded: the figures would be of something else.
pub(crate) fn run(a: &Arguments) -> Result<()> {
    let mut report = Report::default();
    let sizes: &[(u32, &str, f64)] =
        &[(1000, "1k", 20.0), (65_536, "64k", 24.0), (1_000_000, "1M", 32.0), (10_000_000, "10M", 40.0)];
    let kinds = [
        (Kind::Udp, "udp-snat-established", 1.0),
        (Kind::Tcp, "tcp-snat-data", 1.25),
        (Kind::Udp6, "udp6-established", 1.25),
    ];
    let show = |f: &Figure| println!("{f}");
    for (kind, what, factor) in kinds {
        for (flows, name, budget) in sizes.iter().take(if a.quick { 2 } else { 4 }) {
            let name = format!("{what}-{name}");
            if !name.contains(&a.only) {
                continue;
            }
            let mut b = Gateway::new(kind, *flows)?;
            let before = resident()?;
            let setup = b.establish(*flows)?;
            let memory = resident()?;
            let packets = if a.quick { 1 << 19 } else { 1 << 22 };
            let mut samples: Vec<f64> = (0..7).map(|_| b.data(*flows, packets)).collect::<Result<_>>()?;
            samples.sort_by(f64::total_cmp);
            show(report.add_below(&name, samples[3], "ns/packet", Some(*budget * factor)));
            show(report.add_below(&format!("{name}-spread"), samples[6] - samples[0], "ns/packet", None));
            if *flows == 1_000_000 && kind == Kind::Udp {
                let rate = 1e-6 * f64::from(*flows) / setup.as_secs_f64();
                show(report.add_above("udp-snat-cps-1M", rate, "M/s", Some(5.0)));
                show(report.add_below("memory-1M", memory as f64 / 1e6, "MB", Some(250.0)));
                show(report.add_below("memory-before-1M", before as f64 / 1e6, "MB", None));
            }
        }
    }
    report.write(&a.output)
}
