//! In-memory benches: the daemon's worker over ports that make their own frames.

mod connections;
mod established;
mod expiry;
mod flows;
mod gateway;
mod generator;
mod instructions;
mod pauses;
mod rules;
mod samples;
mod workers;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

pub(crate) use self::instructions::{Count, run as count};
pub(crate) use self::rules::{Arguments as Rules, run as rules};
use self::samples::Samples;
use crate::report::Report;

/// `sluice-perf memory`
#[derive(Debug, Args)]
#[group(id = "memory")]
pub(crate) struct Arguments {
    /// Fewer packets and smaller tables: shows that the benches work, not how fast the worker is.
    #[arg(long)]
    quick: bool,
    /// Only figures whose names contain this.
    #[arg(long, default_value = "")]
    only: String,
    /// Where to write the figures as JSON.
    #[arg(long, default_value = "target/bench/memory.json")]
    output: PathBuf,
}

/// Resident memory of this process in bytes.
fn resident() -> Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split_whitespace().nth(1).unwrap_or("0").parse()?;
    Ok(pages * 4096)
}

/// The names of some figures, and what measures them.
type Bench = (&'static [&'static str], fn(&mut Section) -> Result<()>);

const SECTIONS: [Bench; 5] = [
    (&["udp-snat-cps-1M", "memory-1M"], connections::run),
    (&["expiry-1M-established-rate", "expiry-1M-duration"], expiry::run),
    (&["workers-two-of-one", "workers-two-of-one-handed-off"], workers::run),
    (&["instructions-"], instructions::figures),
    (&["pause-growth-10M", "pause-reload-10M", "pause-expiry-10M"], pauses::run),
];

/// How the benches run, and what they have found.
struct Section {
    quick: bool,
    only: String,
    report: Report,
}

impl Section {
    /// Whether a figure is asked for.
    fn wants(&self, name: &str) -> bool {
        name.contains(&self.only)
    }

    /// A measure that should stay below its budget, and how much its values differ.
    fn below(&mut self, name: &str, values: &Samples, unit: &'static str, budget: Option<f64>) {
        println!("{}", self.report.add_below(name, values.median(), unit, budget));
        self.spread(name, values, unit);
    }

    /// A measure that should reach its budget, likewise.
    fn above(&mut self, name: &str, values: &Samples, unit: &'static str, budget: Option<f64>) {
        println!("{}", self.report.add_above(name, values.median(), unit, budget));
        self.spread(name, values, unit);
    }

    /// A measure that is taken once and should stay below its budget.
    fn single_below(&mut self, name: &str, value: f64, unit: &'static str, budget: Option<f64>) {
        println!("{}", self.report.add_below(name, value, unit, budget));
    }

    fn spread(&mut self, name: &str, values: &Samples, unit: &'static str) {
        println!("{}", self.report.add_below(&format!("{name}-spread"), values.spread(), unit, None));
    }
}

/// Runs all in-memory benches and prints the figures.
///
/// # Errors
/// When a frame was not forwarded: the figures would be of something else.
pub(crate) fn figures(quick: bool, only: &str) -> Result<Report> {
    let mut s = Section { quick, only: only.into(), report: Report::new(quick) };
    established::run(&mut s)?;
    for (names, run) in SECTIONS {
        if names.iter().any(|n| s.wants(n)) {
            run(&mut s)?;
        }
    }
    Ok(s.report)
}

/// [`figures`], written as JSON.
///
/// # Errors
/// As above, or when the file cannot be written.
pub(crate) fn run(a: &Arguments) -> Result<()> {
    figures(a.quick, &a.only)?.write(&a.output)
}
