//! `sluice trace`: what real packets meet.

use std::fs::File;
use std::io::{BufWriter, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::Client;
use super::client::{ask, written};
use super::pcapng::{Pcapng, Record};
use crate::describe::{Condition, Misunderstood};
use crate::wire::{Request, Response, Traced};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only packets that meet all conditions, as they came or as they leave. Conditions are a protocol, ipv4, ipv6,
    /// [src|dst] host ADDRESS, [src|dst] net PREFIX, [src|dst] port PORT, sport, dport, in INTERFACE, out INTERFACE,
    /// dropped, reason NAME; `not` before one means its opposite
    #[arg(long = "match", value_name = "CONDITIONS", value_parser = conditions, default_value = "")]
    conditions: Conditions,
    /// Write the frames as they came into a pcapng file, each with its verdict as a comment; - for standard output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["steps", "json"])]
    pcap: Option<PathBuf>,
    /// End after so many packets
    #[arg(short = 'c', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print every step of each packet's way
    #[arg(long, conflicts_with = "json")]
    steps: bool,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Clone)]
struct Conditions(Vec<Condition>);

fn conditions(text: &str) -> Result<Conditions, Misunderstood> {
    Condition::parse_all(text).map(Conditions)
}

/// Where what was traced goes.
enum Sink {
    Lines(Box<dyn Write>),
    Steps(Box<dyn Write>),
    Json(Box<dyn Write>),
    Pcap(Pcapng<Box<dyn Write>>),
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { conditions, pcap, count, steps, client } = arguments;
    let mut sink = match pcap {
        Some(file) => Sink::Pcap(Pcapng::new(target(&file)?)?),
        None if client.json => Sink::Json(Box::new(BufWriter::new(stdout()))),
        None if steps => Sink::Steps(Box::new(BufWriter::new(stdout()))),
        None => Sink::Lines(Box::new(BufWriter::new(stdout()))),
    };
    let mut left = count;
    ask(&client.socket, &Request::Trace(conditions.0), |r| {
        match r {
            Response::Traced(t) => {
                written(sink.put(&t))?;
                if let Some(n) = &mut left {
                    *n -= 1;
                    if *n == 0 {
                        std::process::exit(0);
                    }
                }
            }
            Response::Lost(n) => {
                eprintln!("{n} packets were lost: they came faster than they were read");
                written(sink.lose(n))?;
            }
            // From here on every packet is seen.
            Response::Lines { .. } => eprintln!("tracing"),
            _ => {}
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn target(file: &Path) -> anyhow::Result<Box<dyn Write>> {
    if file == Path::new("-") {
        return Ok(Box::new(BufWriter::new(stdout())));
    }
    let file = File::create(file).with_context(|| format!("writing {}", file.display()))?;
    Ok(Box::new(BufWriter::new(file)))
}

impl Sink {
    /// Writes one, at once.
    fn put(&mut self, t: &Traced) -> std::io::Result<()> {
        match self {
            Sink::Json(out) => {
                serde_json::to_writer(&mut *out, t)?;
                writeln!(out)?;
                out.flush()
            }
            Sink::Lines(out) => {
                writeln!(out, "[{:.6}] {} {}: {}", t.at, t.way.interface.name, t.way.packet, t.way.brief())?;
                out.flush()
            }
            Sink::Steps(out) => {
                writeln!(out, "[{:.6}] {}", t.at, t.way)?;
                out.flush()
            }
            Sink::Pcap(out) => out.put(&Record {
                interface: &t.way.interface.name,
                at: t.at,
                frame: &bytes(&t.frame),
                comment: &format!("{}\n{}", t.way.brief(), t.way.text()),
            }),
        }
    }

    /// So many are missing here.
    fn lose(&mut self, n: u64) -> std::io::Result<()> {
        match self {
            Sink::Json(out) => {
                writeln!(out, "{}", serde_json::json!({ "lost": n }))?;
                out.flush()
            }
            Sink::Pcap(out) => {
                out.lose(n);
                Ok(())
            }
            Sink::Lines(_) | Sink::Steps(_) => Ok(()),
        }
    }
}

/// What two hexadecimal digits each stand for.
fn bytes(hex: &str) -> Vec<u8> {
    let digit = |d: u8| char::from(d).to_digit(16).unwrap_or(0) as u8;
    hex.as_bytes().chunks(2).map(|pair| pair.iter().fold(0, |n, d| n << 4 | digit(*d))).collect()
}
