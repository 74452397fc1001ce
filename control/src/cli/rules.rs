//! `sluice rules`.

use std::io::{BufWriter, Write, stdout};
use std::process::ExitCode;

use super::Client;
use super::client::{ask, print};
use crate::rules::Rule;
use crate::wire::{Request, Response};

pub(super) fn run(unused: bool, client: &Client) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::new(stdout().lock());
    let mut all: Vec<Rule> = Vec::new();
    ask(&client.socket, &Request::Rules, |r| {
        if let Response::Rule(rule) = r {
            all.extend(Some(rule).filter(|r| !unused || r.packets == 0));
        }
        Ok(())
    })?;
    if client.json {
        print(&mut out, serde_json::to_string_pretty(&all)?)?;
    } else {
        for list in all.chunk_by(|a, b| a.list == b.list) {
            print(&mut out, &list[0].list)?;
            for r in list {
                let place =
                    r.file.as_ref().zip(r.line).map_or_else(String::new, |(file, line)| format!("{file}:{line}"));
                let line =
                    format!("{:>12} packets {:>15} bytes  {:<10} {:<24} {place}", r.packets, r.bytes, r.action, r.name);
                print(&mut out, line.trim_end())?;
            }
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
