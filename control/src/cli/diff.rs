//! `sluice diff`: what a policy would change. Exit status as of diff(1).

use std::fmt::Write as _;
use std::io::stdout;
use std::path::Path;
use std::process::ExitCode;

use super::Client;
use super::client::{ask, print};
use super::reload::absolute;
use crate::wire::{Diff, Request, Response};

/// The exit status when something went wrong.
const TROUBLE: u8 = 2;

pub(super) fn run(file: &Path, client: &Client) -> ExitCode {
    match difference(file, client) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("sluice: {e:#}");
            ExitCode::from(TROUBLE)
        }
    }
}

fn difference(file: &Path, client: &Client) -> anyhow::Result<u8> {
    let mut code = TROUBLE;
    ask(&client.socket, &Request::Diff { file: absolute(file)? }, |r| {
        match r {
            Response::Diff(d) => {
                code = u8::from(!d.difference.is_empty());
                if client.json {
                    print(&mut stdout(), serde_json::to_string_pretty(&d)?)?;
                } else {
                    eprint!("{}", d.warnings);
                    print(&mut stdout(), text(&d).trim_end())?;
                }
            }
            Response::Refused(d) if client.json => print(&mut stdout(), serde_json::to_string_pretty(&d)?)?,
            Response::Refused(d) => eprint!("{d}"),
            _ => {}
        }
        Ok(())
    })?;
    Ok(code)
}

fn text(d: &Diff) -> String {
    if d.difference.is_empty() {
        return format!("{} says what generation {} says, which is in force", d.file.display(), d.generation);
    }
    let mut t = String::new();
    write_text(d, &mut t).expect("a String takes everything");
    t
}

fn write_text(d: &Diff, t: &mut String) -> std::fmt::Result {
    writeln!(t, "--- {} (generation {}, in force)", d.running.display(), d.generation)?;
    writeln!(t, "+++ {}", d.file.display())?;
    write!(t, "{}", d.difference)?;
    if !d.restart.is_empty() {
        writeln!(t, "\na reload would be refused, this needs a restart:")?;
        d.restart.iter().try_for_each(|m| writeln!(t, "  {m}"))?;
    }
    let Some(c) = &d.connections else {
        return writeln!(t, "\nthe connections it concerns cannot be counted: the devices are others");
    };
    writeln!(
        t,
        "\nof {} connections, {} would not be let through, {} would be translated in another way, {} would not be tracked",
        c.connections, c.denied, c.translated, c.untracked
    )?;
    match (c.denied + c.translated + c.untracked, d.revalidate) {
        (0, _) => Ok(()),
        (_, true) => writeln!(t, "a reload would delete these (reload.revalidate: true)"),
        (_, false) => writeln!(t, "they would stay until they end (reload.revalidate: false)"),
    }
}
