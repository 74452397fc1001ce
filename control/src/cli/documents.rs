//! What is made of the program's own definitions: the policy's schema, shell completions and manual pages.

use std::io::stdout;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;

/// Prints the JSON Schema of policies.
pub(super) fn schema() -> anyhow::Result<ExitCode> {
    println!("{}", serde_json::to_string_pretty(&config::schema())?);
    Ok(ExitCode::SUCCESS)
}

/// Prints the completions of a shell.
pub(super) fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    clap_complete::generate(shell, &mut Cli::command(), "sluice", &mut stdout());
    Ok(ExitCode::SUCCESS)
}

/// Writes a page for each verb, `sluice-conntrack-list.1`, and one for all of them.
pub(super) fn man(directory: &Path) -> anyhow::Result<ExitCode> {
    let write = || {
        std::fs::create_dir_all(directory)?;
        clap_mangen::generate_to(Cli::command(), directory)
    };
    write().with_context(|| format!("writing the manual's pages to {}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}
