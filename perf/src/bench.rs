//! All benches one after the other: one table, one file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Parser};
use serde_json::Value;

use crate::{Command, memory, report, sys, veth};

/// `sluice-perf bench`
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A few minutes' worth of it: shows that the benches work, and the figures roughly.
    #[arg(long)]
    quick: bool,
    /// Where to write the figures as JSON; the parts' own files lie beside it.
    #[arg(long, default_value = "target/bench/results.json")]
    output: PathBuf,
}

/// One part, parsed as its own command line is.
#[derive(Parser)]
struct Part {
    #[command(subcommand)]
    command: Command,
}

/// Runs every part and puts their figures together.
///
/// # Errors
/// When a part fails that can be measured here. What takes root is left out, and said, where that is not had.
pub(crate) fn run(a: &Arguments) -> Result<()> {
    let directory = a.output.parent().unwrap_or(Path::new("."));
    let mut all = Vec::new();
    for (name, needs_root) in [("memory", false), ("rules", false), ("idle", true), ("veth", true)] {
        println!("\n{name}");
        if needs_root && !sys::is_root() {
            println!("not measured: it takes root");
            continue;
        }
        let file = directory.join(format!("{name}.json"));
        let mut line = vec!["sluice-perf".into(), name.into(), "--output".into(), file.clone().into_os_string()];
        line.extend(a.quick.then(|| "--quick".into()));
        match Part::try_parse_from(line)?.command {
            Command::Memory(a) => memory::run(&a)?,
            Command::Rules(a) => memory::rules(&a)?,
            Command::Idle(a) => veth::idle(&a)?,
            Command::Veth(a) => veth::run(&a)?,
            _ => unreachable!("there is no such part"),
        }
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        all.extend(serde_json::from_str::<Vec<Value>>(&text)?);
    }
    let missed: Vec<&str> = all.iter().filter(|f| f["met"] == false).filter_map(|f| f["name"].as_str()).collect();
    let met = all.iter().filter(|f| f["met"] == true).count();
    match a.quick {
        true => println!("\na quick run: no figure is compared with its budget"),
        false => println!("\nbudgets: {met} met, {} missed: {}", missed.len(), missed.join(", ")),
    }
    report::write_file(&a.output, &(serde_json::to_string_pretty(&all)? + "\n"))
}
