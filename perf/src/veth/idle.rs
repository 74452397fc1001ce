//! What a daemon costs that has nothing to do.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;

use super::gateway::sluice;
use super::lab::{self, Lab};
use crate::report::Report;
use crate::sys;

/// Its workers, and the queues of its interfaces.
pub(super) const IDLE_WORKERS: usize = 4;

/// `sluice-perf idle`
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A short look.
    #[arg(long)]
    quick: bool,
    /// The binary to run; by default the one beside this program.
    #[arg(long)]
    sluice: Option<PathBuf>,
    /// Where to write the figure as JSON.
    #[arg(long, default_value = "target/bench/idle.json")]
    output: PathBuf,
}

/// Measures the share of one core that a daemon with adaptive polling uses while no packet comes.
///
/// # Errors
/// When it does not start.
pub(crate) fn run(a: &Arguments) -> Result<()> {
    ensure!(sys::is_root(), "making namespaces and AF_XDP sockets needs root");
    lab::remove_stale()?;
    let beside = || Ok(std::env::current_exe()?.with_file_name("sluice"));
    let binary = a.sluice.clone().map_or_else(beside, anyhow::Ok)?;
    let lab = Lab::new("idle", IDLE_WORKERS)?;
    let files = tempfile::Builder::new().prefix("sluice-perf").tempdir()?;
    let daemon = sluice::start(&lab, &binary, files.path(), None, false)?;
    // Until it has settled.
    sleep(Duration::from_secs(1));
    let (start, before) = (Instant::now(), daemon.cpu_ns()?);
    sleep(Duration::from_secs(if a.quick { 2 } else { 10 }));
    let used = (daemon.cpu_ns()? - before) as f64 / start.elapsed().as_nanos() as f64;
    let mut report = Report::new(a.quick);
    println!("{}", report.add_below("idle-cpu-4-workers", 100.0 * used, "%", Some(2.0)));
    report.write(&a.output)
}
