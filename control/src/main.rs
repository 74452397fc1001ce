//! Sluice: a stateful NAT gateway in user space. The daemon and its command line.

mod answers;
mod cli;
mod context;
mod daemon;
mod describe;
mod expiry;
mod format;
mod metrics;
mod mirror;
mod packet_log;
mod punt;
mod reload;
mod rules;
mod socket;
mod status;
mod sys;
mod way;
mod wire;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::run(cli::Cli::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("sluice: {e:#}");
            ExitCode::FAILURE
        }
    }
}
