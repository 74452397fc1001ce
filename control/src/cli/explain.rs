//! `sluice explain`: what a packet would meet.

use std::io::stdout;
use std::process::ExitCode;

use clap::Args;

use super::Client;
use super::client::{ask, print};
use crate::describe::Packet;
use crate::way::Verdict;
use crate::wire::{Request, Response};

/// The exit status when something went wrong.
const TROUBLE: u8 = 2;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The packet, such as 'tcp 10.10.0.5:4000 > 1.1.1.1:443 in lan'. Without a source port it has one; without an
    /// interface it comes in where its source is routed to. Further words: flags syn,ack (of TCP; else SYN
    /// where it begins a connection, and ACK where it has one), type TYPE, code N and id N (of ICMP), ttl N, length N, df, bad-checksum, and for ICMP errors: about
    /// PACKET
    #[arg(required = true, value_name = "PACKET")]
    words: Vec<String>,
    #[command(flatten)]
    client: Client,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match explain(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("sluice: {e:#}");
            ExitCode::from(TROUBLE)
        }
    }
}

fn explain(arguments: &Arguments) -> anyhow::Result<u8> {
    let packet: Packet = arguments.words.join(" ").parse()?;
    let mut code = TROUBLE;
    ask(&arguments.client.socket, &Request::Explain(Box::new(packet)), |r| {
        if let Response::Explained(way) = r {
            code = u8::from(matches!(way.verdict, Verdict::Dropped { .. }));
            match arguments.client.json {
                true => print(&mut stdout(), serde_json::to_string_pretty(&way)?)?,
                false => print(&mut stdout(), way.to_string().trim_end())?,
            }
        }
        Ok(())
    })?;
    Ok(code)
}
