//! Sluice's benchmarks.

mod memory;
mod port;
mod report;

use std::path::PathBuf;

use clap::Parser;

/// Runs the in-memory benches and prints a table.
#[derive(Debug, Parser)]
struct Arguments {
    /// Fewer packets and smaller tables: shows that the benches work, not how fast the worker is.
    #[arg(long)]
    quick: bool,
    /// Where to write the figures as JSON.
    #[arg(long, default_value = "target/bench/results.json")]
    output: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let a = Arguments::parse();
    let mut report = report::Report::default();
    memory::run(&mut report, a.quick)?;
    report.write(&a.output)
}
