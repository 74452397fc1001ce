//! The time to a server and back, over UDP.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::echo::UDP_PORT;

/// Length of the datagrams, for 64-byte frames.
const LENGTH: usize = 18;
/// Datagrams before it counts.
const WARM_UP: u32 = 200;
/// A datagram that is not answered in this time is lost.
const PATIENCE: Duration = Duration::from_millis(200);
/// Losses after which it gives up.
const MAX_LOST: u32 = 20;

/// `sluice-perf ping`
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where `sluice-perf echo` listens.
    server: Ipv4Addr,
    /// How many datagrams, one after the other.
    #[arg(long, default_value_t = 20_000)]
    count: u32,
}

/// What came of it; times in microseconds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Half of the answers came in this time.
    pub(crate) p50: f64,
    /// Of 100, 99 came in this time.
    pub(crate) p99: f64,
    /// Datagrams without an answer.
    pub(crate) lost: u32,
}

/// Measures, and prints the outcome as JSON.
///
/// # Errors
/// When there is no answer.
pub(crate) fn run(a: &Arguments) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((a.server, UDP_PORT)).with_context(|| format!("no route to {}", a.server))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut times = Vec::with_capacity(a.count as usize);
    let mut lost = 0;
    for i in 0..a.count + WARM_UP {
        let start = Instant::now();
        match ask(&socket, i) {
            Ok(()) if i >= WARM_UP => times.push(start.elapsed().as_nanos() as f64 / 1e3),
            Ok(()) => (),
            Err(_) => lost += 1,
        }
        ensure!(lost <= MAX_LOST, "{lost} of {} datagrams to {} were not answered", i + 1, a.server);
    }
    times.sort_by(f64::total_cmp);
    let quantile = |q: usize| times[(times.len() * q / 100).min(times.len() - 1)];
    ensure!(!times.is_empty(), "no answer from {}", a.server);
    println!("{}", serde_json::to_string(&Outcome { p50: quantile(50), p99: quantile(99), lost })?);
    Ok(())
}

/// Sends datagram number `i` and waits for it to come back; late ones before it are passed over.
fn ask(socket: &UdpSocket, i: u32) -> std::io::Result<()> {
    let mut bytes = [0; LENGTH];
    bytes[..4].copy_from_slice(&i.to_ne_bytes());
    socket.send(&bytes)?;
    let mut answer = [0; LENGTH];
    loop {
        socket.recv(&mut answer)?;
        if answer == bytes {
            return Ok(());
        }
    }
}
