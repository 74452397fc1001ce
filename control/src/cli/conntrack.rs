//! `sluice conntrack`: the table, in conntrack-tools' words.

use std::io::{BufWriter, Write, stdout};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use dataplane::packet::protocol;

use super::Client;
use super::client::{ask, print, written};
use crate::wire::{
    Addresses, EventName, Family, Filter, FlowFilter, Mark, Nat, Request, Response, Style, TrackingStats,
};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List connections, one a line
    List {
        #[command(flatten)]
        filter: Marked,
        /// Print packets and bytes (JSON always has them)
        #[arg(long)]
        counters: bool,
        #[command(flatten)]
        client: Client,
    },
    /// Print the number of connections, or of those that meet the conditions
    Count {
        #[command(flatten)]
        filter: Marked,
        #[command(flatten)]
        client: Client,
    },
    /// Delete the connections that meet the conditions
    Delete {
        #[command(flatten)]
        filter: Marked,
        #[command(flatten)]
        client: Client,
    },
    /// Change the connections that meet the conditions
    Update {
        #[command(flatten)]
        filter: Conditions,
        /// The new mark; with a mask only its bits change
        #[arg(short = 'm', long, value_name = "MARK[/MASK]", required_unless_present = "timeout")]
        mark: Option<Mark>,
        /// Seconds until they expire unless packets come
        #[arg(short = 't', long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=2_000_000))]
        timeout: Option<u32>,
        #[command(flatten)]
        client: Client,
    },
    /// Delete all connections
    Flush {
        #[command(flatten)]
        client: Client,
    },
    /// Print what happens to connections as it happens, one event a line
    Events {
        #[command(flatten)]
        filter: Marked,
        /// Only these events
        #[arg(short = 'e', long = "event", value_name = "EVENTS", value_delimiter = ',', ignore_case = true)]
        kinds: Vec<EventName>,
        /// Print the time of each event (JSON always has it)
        #[arg(long)]
        timestamps: bool,
        /// Print packets and bytes with every event, not only with DESTROY
        #[arg(long)]
        counters: bool,
        #[command(flatten)]
        client: Client,
    },
    /// List the connections that helpers expect, one a line
    Expectations {
        #[command(flatten)]
        client: Client,
    },
    /// Print what each worker has counted, one a line
    Stats {
        #[command(flatten)]
        client: Client,
    },
}

/// Conditions on connections, all of which must hold. Addresses may be prefixes or ranges.
#[derive(Debug, Args)]
pub(super) struct Conditions {
    /// Transport protocol, a name or a number
    #[arg(short = 'p', long = "proto", value_name = "PROTOCOL", value_parser = parse_protocol)]
    protocol: Option<u8>,
    /// Original source
    #[arg(short = 's', long = "src", visible_alias = "orig-src", value_name = "ADDRESS")]
    source: Option<Addresses>,
    /// Original destination
    #[arg(short = 'd', long = "dst", visible_alias = "orig-dst", value_name = "ADDRESS")]
    destination: Option<Addresses>,
    /// Original source port
    #[arg(long = "sport", visible_alias = "orig-port-src", value_name = "PORT")]
    source_port: Option<u16>,
    /// Original destination port
    #[arg(long = "dport", visible_alias = "orig-port-dst", value_name = "PORT")]
    destination_port: Option<u16>,
    /// Source of replies
    #[arg(short = 'r', long = "reply-src", value_name = "ADDRESS")]
    reply_source: Option<Addresses>,
    /// Destination of replies
    #[arg(short = 'q', long = "reply-dst", value_name = "ADDRESS")]
    reply_destination: Option<Addresses>,
    /// Source port of replies
    #[arg(long = "reply-port-src", value_name = "PORT")]
    reply_source_port: Option<u16>,
    /// Destination port of replies
    #[arg(long = "reply-port-dst", value_name = "PORT")]
    reply_destination_port: Option<u16>,
    /// Address family
    #[arg(short = 'f', long = "family")]
    family: Option<Family>,
    /// State of TCP and SCTP, such as ESTABLISHED
    #[arg(long = "state", value_name = "STATE")]
    state: Option<String>,
    /// Status bits that are all set, such as ASSURED,SRC_NAT; UNREPLIED and UNASSURED are the opposites
    #[arg(short = 'u', long = "status", value_name = "BITS", value_delimiter = ',')]
    status: Vec<String>,
    /// The source is translated, to this if given
    #[arg(short = 'n', long = "src-nat", value_name = "ADDRESS", num_args = 0..=1)]
    source_nat: Option<Option<Addresses>>,
    /// The destination is translated, to this if given
    #[arg(short = 'g', long = "dst-nat", value_name = "ADDRESS", num_args = 0..=1)]
    destination_nat: Option<Option<Addresses>>,
    /// One of the two is translated, to this if given
    #[arg(short = 'j', long = "any-nat", value_name = "ADDRESS", num_args = 0..=1)]
    any_nat: Option<Option<Addresses>>,
}

/// Conditions, that on the mark among them.
#[derive(Debug, Args)]
pub(super) struct Marked {
    #[command(flatten)]
    conditions: Conditions,
    /// Connection mark; with a mask only its bits are compared
    #[arg(short = 'm', long, value_name = "MARK[/MASK]")]
    mark: Option<Mark>,
}

impl From<Conditions> for Filter {
    fn from(c: Conditions) -> Self {
        Filter {
            family: c.family,
            protocol: c.protocol,
            original: FlowFilter {
                source: c.source,
                destination: c.destination,
                source_port: c.source_port,
                destination_port: c.destination_port,
            },
            reply: FlowFilter {
                source: c.reply_source,
                destination: c.reply_destination,
                source_port: c.reply_source_port,
                destination_port: c.reply_destination_port,
            },
            status: c.status,
            state: c.state,
            mark: None,
            source_nat: c.source_nat.map(Nat::from),
            destination_nat: c.destination_nat.map(Nat::from),
            any_nat: c.any_nat.map(Nat::from),
        }
    }
}

impl From<Marked> for Filter {
    fn from(m: Marked) -> Self {
        Filter { mark: m.mark, ..m.conditions.into() }
    }
}

fn parse_protocol(s: &str) -> Result<u8, String> {
    let by_name = (0..=255).find(|p| protocol::name(*p) == s.to_ascii_lowercase() && s != "unknown");
    by_name
        .or_else(|| s.parse().ok())
        .ok_or_else(|| "expected a number or one of tcp, udp, icmp, icmpv6, sctp, dccp, udplite, gre".to_owned())
}

pub(super) fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::List { filter, counters, client } => {
            let style = Style { json: client.json, counters, timestamps: false };
            let shown = lines(&Request::List { filter: filter.into(), style }, &client)?;
            if !client.json {
                eprintln!("{shown} connections have been shown.");
            }
        }
        Verb::Count { filter, client } => {
            let n = number(&Request::Count(filter.into()), &client)?;
            match client.json {
                true => print(&mut stdout(), serde_json::json!({ "connections": n }))?,
                false => print(&mut stdout(), n)?,
            }
        }
        Verb::Delete { filter, client } => edit(&Request::Delete(filter.into()), &client, "deleted")?,
        Verb::Update { filter, mark, timeout, client } => {
            edit(&Request::Update { filter: filter.into(), mark, timeout }, &client, "updated")?;
        }
        Verb::Flush { client } => edit(&Request::Delete(Filter::default()), &client, "deleted")?,
        Verb::Events { filter, kinds, timestamps, counters, client } => {
            let style = Style { json: client.json, counters, timestamps };
            lines(&Request::Events { filter: filter.into(), kinds, style }, &client)?;
        }
        Verb::Expectations { client } => expectations(&client)?,
        Verb::Stats { client } => ask(&client.socket, &Request::Stats, |r| match r {
            Response::Stats(s) if client.json => print(&mut stdout(), serde_json::to_string(&s)?),
            Response::Stats(s) => print(&mut stdout(), stats_line(&s)),
            _ => Ok(()),
        })?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the lines that answer a request, and returns how many they were.
fn lines(request: &Request, client: &Client) -> anyhow::Result<u64> {
    let mut out = BufWriter::new(stdout().lock());
    let mut shown = 0;
    ask(&client.socket, request, |r| {
        match r {
            Response::Lines { count, text } => {
                shown += count;
                written(out.write_all(text.as_bytes()))?;
                // Whoever follows events wants each at once.
                if matches!(request, Request::Events { .. }) {
                    written(out.flush())?;
                }
            }
            Response::Lost(n) if client.json => print(&mut out, serde_json::json!({ "lost": n }))?,
            Response::Lost(n) => eprintln!("{n} events were lost: they came faster than they were read"),
            _ => {}
        }
        Ok(())
    })?;
    written(out.flush())?;
    Ok(shown)
}

fn number(request: &Request, client: &Client) -> anyhow::Result<u64> {
    let mut n = 0;
    ask(&client.socket, request, |r| {
        if let Response::Count(answer) = r {
            n = answer;
        }
        Ok(())
    })?;
    Ok(n)
}

fn edit(request: &Request, client: &Client, done: &str) -> anyhow::Result<()> {
    let n = number(request, client)?;
    if client.json {
        return print(&mut stdout(), serde_json::json!({ done: n }));
    }
    eprintln!("{n} connections have been {done}.");
    Ok(())
}

fn stats_line(s: &TrackingStats) -> String {
    format!(
        "worker={} entries={} insert={} insert_failed={} invalid={} table_full={} early_drop={} nat_exhausted={} \
         source_limit={} expired={} deleted={} handed_off={} taken_over={}",
        s.worker,
        s.entries,
        s.insert,
        s.insert_failed,
        s.invalid,
        s.table_full,
        s.early_drop,
        s.nat_exhausted,
        s.source_limit,
        s.expired,
        s.deleted,
        s.handed_off,
        s.taken_over
    )
}

fn expectations(client: &Client) -> anyhow::Result<()> {
    let mut shown = 0u64;
    ask(&client.socket, &Request::Expectations, |r| {
        if let Response::Expectation(e) = r {
            shown += 1;
            match client.json {
                true => print(&mut stdout(), serde_json::to_string(&e)?)?,
                false => print(&mut stdout(), e)?,
            }
        }
        Ok(())
    })?;
    if !client.json {
        eprintln!("{shown} expectations have been shown.");
    }
    Ok(())
}
