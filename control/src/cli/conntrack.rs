//! `sluice conntrack`: the table, in conntrack-tools' words.

use std::io::{BufWriter, Write, stdout};
use std::net::IpAddr;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use dataplane::packet::protocol;

use super::Client;
use super::client::{ask, print};
use crate::wire::{Family, Filter, Request, Response};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List connections, one a line
    List {
        #[command(flatten)]
        filter: Conditions,
        #[command(flatten)]
        client: Client,
    },
    /// Print the number of connections
    Count {
        #[command(flatten)]
        client: Client,
    },
    /// Delete the connections that meet the conditions
    Delete {
        #[command(flatten)]
        filter: Conditions,
        #[command(flatten)]
        client: Client,
    },
    /// List the connections that helpers expect, one a line
    Expectations {
        #[command(flatten)]
        client: Client,
    },
    /// Delete all connections
    Flush {
        #[command(flatten)]
        client: Client,
    },
}

/// Conditions on connections, all of which must hold.
#[derive(Debug, Args)]
pub(super) struct Conditions {
    /// Transport protocol, a name or a number
    #[arg(short = 'p', long = "proto", value_name = "PROTOCOL", value_parser = parse_protocol)]
    protocol: Option<u8>,
    /// Original source address
    #[arg(short = 's', long = "src", visible_alias = "orig-src", value_name = "ADDRESS")]
    source: Option<IpAddr>,
    /// Original destination address
    #[arg(short = 'd', long = "dst", visible_alias = "orig-dst", value_name = "ADDRESS")]
    destination: Option<IpAddr>,
    /// Original source port
    #[arg(long = "sport", visible_alias = "orig-port-src", value_name = "PORT")]
    source_port: Option<u16>,
    /// Original destination port
    #[arg(long = "dport", visible_alias = "orig-port-dst", value_name = "PORT")]
    destination_port: Option<u16>,
    /// Destination address of replies, to which the source is translated
    #[arg(short = 'q', long = "reply-dst", value_name = "ADDRESS")]
    reply_destination: Option<IpAddr>,
    /// Address family
    #[arg(short = 'f', long = "family")]
    family: Option<Family>,
    /// Status bits that are all set, such as ASSURED,SRC_NAT
    #[arg(short = 'u', long = "status", value_name = "BITS", value_delimiter = ',')]
    status: Vec<String>,
    /// Connection mark
    #[arg(short = 'm', long = "mark", value_name = "MARK")]
    mark: Option<u32>,
}

impl From<Conditions> for Filter {
    fn from(c: Conditions) -> Self {
        Filter {
            family: c.family,
            protocol: c.protocol,
            source: c.source,
            destination: c.destination,
            source_port: c.source_port,
            destination_port: c.destination_port,
            reply_destination: c.reply_destination,
            status: c.status,
            mark: c.mark,
        }
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
        Verb::List { filter, client } => list(filter.into(), &client)?,
        Verb::Count { client } => {
            ask(&client.socket, &Request::Count, |r| match r {
                Response::Count(n) if client.json => print(&mut stdout(), serde_json::json!({ "connections": n })),
                Response::Count(n) => print(&mut stdout(), n),
                _ => Ok(()),
            })?;
        }
        Verb::Expectations { client } => expectations(&client)?,
        Verb::Delete { filter, client } => delete(filter.into(), &client)?,
        Verb::Flush { client } => delete(Filter::default(), &client)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(filter: Filter, client: &Client) -> anyhow::Result<()> {
    let mut out = BufWriter::new(stdout().lock());
    let mut shown = 0u64;
    ask(&client.socket, &Request::List(filter), |r| {
        if let Response::Connection(c) = r {
            shown += 1;
            match client.json {
                true => print(&mut out, serde_json::to_string(&c)?)?,
                false => print(&mut out, c)?,
            }
        }
        Ok(())
    })?;
    out.flush()?;
    if !client.json {
        eprintln!("{shown} connections have been shown.");
    }
    Ok(())
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

fn delete(filter: Filter, client: &Client) -> anyhow::Result<()> {
    ask(&client.socket, &Request::Delete(filter), |r| match r {
        Response::Deleted(n) if client.json => print(&mut stdout(), serde_json::json!({ "deleted": n })),
        Response::Deleted(n) => {
            eprintln!("{n} connections have been deleted.");
            Ok(())
        }
        _ => Ok(()),
    })
}
