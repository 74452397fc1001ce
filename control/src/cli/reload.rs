//! `sluice reload`, `confirm` and `rollback`.

use std::io::stdout;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use super::Client;
use super::client::{ask, print};
use crate::wire::{Reloaded, Request, Response};

/// The seconds of a duration as a policy writes it.
pub(super) fn seconds(text: &str) -> Result<u32, String> {
    config::duration::parse(text).map_err(|e| match e.help() {
        Some(help) => format!("{e}: {help}"),
        None => e.to_string(),
    })
}

/// The daemon may be elsewhere.
pub(super) fn absolute(file: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(file).with_context(|| format!("finding {}", file.display()))
}

pub(super) fn reload(file: Option<&Path>, confirm: Option<u32>, client: &Client) -> anyhow::Result<ExitCode> {
    let file = file.map(absolute).transpose()?;
    run(&Request::Reload { file, confirm }, client, |r| {
        let mut text = match r.unchanged {
            true => format!("nothing has changed: generation {} of {} stays in force", r.generation, r.file.display()),
            false => format!("generation {} of {} is in force", r.generation, r.file.display()),
        };
        if let (Some(back_to), Some(seconds)) = (r.back_to, confirm) {
            text +=
                &format!("; it returns to generation {back_to} in {seconds} s unless `sluice confirm` comes before");
        }
        text
    })
}

pub(super) fn rollback(client: &Client) -> anyhow::Result<ExitCode> {
    run(&Request::Rollback, client, |r| {
        format!("generation {} of {} is in force again", r.generation, r.file.display())
    })
}

pub(super) fn confirm(client: &Client) -> anyhow::Result<ExitCode> {
    ask(&client.socket, &Request::Confirm, |r| match r {
        Response::Confirmed(n) if client.json => print(&mut stdout(), serde_json::json!({ "generation": n })),
        Response::Confirmed(n) => print(&mut stdout(), format!("generation {n} is confirmed")),
        _ => Ok(()),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn run(request: &Request, client: &Client, text: impl Fn(&Reloaded) -> String) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    ask(&client.socket, request, |r| {
        match r {
            Response::Reloaded(r) => {
                if client.json {
                    print(&mut stdout(), serde_json::to_string_pretty(&r)?)?;
                } else {
                    eprint!("{}", r.warnings);
                    print(&mut stdout(), text(&r))?;
                    if r.deleted > 0 {
                        print(&mut stdout(), format!("{} connections were deleted, which it forbids", r.deleted))?;
                    }
                }
                if let Some(late) = r.late {
                    eprintln!("sluice: not everywhere yet: {late}");
                    code = ExitCode::FAILURE;
                }
            }
            Response::Refused(d) => {
                if client.json {
                    print(&mut stdout(), serde_json::to_string_pretty(&d)?)?;
                } else {
                    eprint!("{d}");
                    eprintln!("sluice: the running policy stays in force");
                }
                code = ExitCode::FAILURE;
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(code)
}
