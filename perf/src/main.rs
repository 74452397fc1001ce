//! Sluice's benchmarks: the worker in memory, and gateways side by side on veth.

mod arguments;
mod bench;
mod connect;
mod echo;
mod forward;
mod generate;
mod memory;
mod ping;
mod report;
mod sink;
mod sys;
mod veth;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures Sluice. Without a command: the in-memory benches.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    memory: memory::Arguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All benches: one table, one file
    Bench(bench::Arguments),
    /// The worker over ports in memory
    Memory(memory::Arguments),
    /// What `memory` runs inside callgrind
    #[command(hide = true)]
    Count(memory::Count),
    /// What the rules cost a new connection
    Rules(memory::Rules),
    /// Gateways side by side, between two hosts in network namespaces (root)
    Veth(veth::Arguments),
    /// What a daemon costs that has nothing to do (root)
    Idle(veth::Idle),
    /// Sends UDP frames of many flows
    Generate(generate::Arguments),
    /// Counts what `generate` sends
    Sink(sink::Arguments),
    /// Forwards frames between two interfaces over AF_XDP
    Forward(forward::Arguments),
    /// Connects, asks and closes, as often as it can
    Connect(connect::Arguments),
    /// Measures the time to and back over UDP
    Ping(ping::Arguments),
    /// Answers `connect` and `ping`
    Echo(echo::Arguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(a: Arguments) -> anyhow::Result<()> {
    let command = a.command.unwrap_or(Command::Memory(a.memory));
    use Command::{Bench, Forward, Generate, Idle, Sink, Veth};
    if matches!(command, Bench(_) | Idle(_) | Veth(_) | Generate(_) | Sink(_) | Forward(_)) {
        // They leave things in the kernel that outlive the process.
        sys::stop_on_signals();
    }
    match command {
        Command::Bench(a) => bench::run(&a),
        Command::Idle(a) => veth::idle(&a),
        Command::Memory(a) => memory::run(&a),
        Command::Count(a) => memory::count(&a),
        Command::Rules(a) => memory::rules(&a),
        Command::Veth(a) => veth::run(&a),
        Command::Generate(a) => generate::run(&a),
        Command::Sink(a) => sink::run(&a),
        Command::Forward(a) => forward::run(&a),
        Command::Connect(a) => connect::run(&a),
        Command::Ping(a) => ping::run(&a),
        Command::Echo(a) => echo::run(&a),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Arguments::command().debug_assert();
    }
}
