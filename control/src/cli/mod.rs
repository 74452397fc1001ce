//! The command line.

mod client;
mod conntrack;
mod diff;
mod documents;
mod explain;
mod health;
mod pcapng;
mod reload;
mod rules;
mod status;
mod top;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// A stateful NAT gateway in user space.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the gateway in the foreground
    Run {
        /// The policy's file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Reload the policy whenever its file changes
        #[arg(long)]
        watch: bool,
        /// Wait this long for devices that are not there yet, as when a container's network is made after it
        #[arg(long, value_name = "TIME", value_parser = reload::seconds)]
        wait: Option<u32>,
    },
    /// Check a policy; exits with 0 when it is valid
    Check {
        /// The policy's file
        file: PathBuf,
        /// Print the findings as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of policies, for editors
    Schema,
    /// Show how the gateway is; exits with 0 once packets flow, else with 1 and the reason
    Status {
        #[command(flatten)]
        client: Client,
    },
    /// Ask the daemon's /healthz; exits with 0 when it answers ok, else with 1 and the reason
    Health {
        #[command(flatten)]
        client: Client,
    },
    /// Show live what the gateway does
    Top(top::Arguments),
    /// Print docs/metrics.md
    #[command(hide = true)]
    MetricsReference,
    /// Print a shell's completions for this command line
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual's pages
    #[command(hide = true)]
    Man {
        /// Where to; made if it is not there
        directory: PathBuf,
    },
    /// List the rules with the packets they have decided
    Rules {
        /// Only those that have decided none
        #[arg(long)]
        unused: bool,
        #[command(flatten)]
        client: Client,
    },
    /// Put a policy in force without losing a packet; a file with an error changes nothing
    Reload {
        /// The policy's file [default: the one of `run --config`]
        file: Option<PathBuf>,
        /// Return to the running policy after this time unless `sluice confirm` comes before
        #[arg(long, value_name = "TIME", value_parser = reload::seconds)]
        confirm: Option<u32>,
        #[command(flatten)]
        client: Client,
    },
    /// Keep the policy of `reload --confirm`
    Confirm {
        #[command(flatten)]
        client: Client,
    },
    /// Return to the policy that was in force before
    Rollback {
        #[command(flatten)]
        client: Client,
    },
    /// Show what a policy would change, in its text and for how many connections; exits with 0 when nothing
    /// differs, 1 when something does, 2 when in trouble
    Diff {
        /// The policy's file
        file: PathBuf,
        #[command(flatten)]
        client: Client,
    },
    /// Show what a packet would meet, by the policy and the tables in force; nothing changes. Exits with 0 when it
    /// would pass, 1 when it would be dropped, 2 when in trouble
    Explain(explain::Arguments),
    /// Print what real packets meet, as they come
    Trace(trace::Arguments),
    /// Look at the connections, change and delete them, and follow what happens to them
    Conntrack {
        #[command(subcommand)]
        verb: Box<conntrack::Verb>,
    },
}

/// What every verb that talks to a running daemon takes.
#[derive(Debug, Args)]
struct Client {
    /// The daemon's control socket
    #[arg(long, value_name = "PATH", default_value = "/run/sluice/control.sock")]
    socket: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Does what the command line says.
///
/// # Errors
/// What went wrong, for people.
pub(crate) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.verb {
        Verb::Run { config, watch, wait } => crate::daemon::run(&config, watch, wait),
        Verb::Check { file, json } => check(&file, json),
        Verb::Schema => documents::schema(),
        Verb::Status { client } => status::run(&client),
        Verb::Health { client } => health::run(&client),
        Verb::Top(arguments) => top::run(arguments),
        Verb::MetricsReference => {
            print!("{}", crate::metrics::markdown());
            Ok(ExitCode::SUCCESS)
        }
        Verb::Completions { shell } => documents::completions(shell),
        Verb::Man { directory } => documents::man(&directory),
        Verb::Rules { unused, client } => rules::run(unused, &client),
        Verb::Reload { file, confirm, client } => reload::reload(file.as_deref(), confirm, &client),
        Verb::Confirm { client } => reload::confirm(&client),
        Verb::Rollback { client } => reload::rollback(&client),
        Verb::Diff { file, client } => Ok(diff::run(&file, &client)),
        Verb::Explain(arguments) => Ok(explain::run(&arguments)),
        Verb::Trace(arguments) => trace::run(arguments),
        Verb::Conntrack { verb } => conntrack::run(*verb),
    }
}

fn check(file: &std::path::Path, json: bool) -> anyhow::Result<ExitCode> {
    let (found, valid) = match config::load(file) {
        Ok(checked) => (config::Diagnostics { diagnostics: checked.warnings, ..Default::default() }, true),
        Err(found) => (found, false),
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&found)?);
    } else {
        eprint!("{found}");
        if valid {
            println!("{} is valid", file.display());
        }
    }
    Ok(if valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
