//! TCP connections a second: connect, ask, read the answer, close.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use crate::echo::{TCP_PORT, TCP_PORTS};

/// How long to wait for anything to happen.
const PATIENCE: Duration = Duration::from_millis(100);

/// `sluice-perf connect`
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where `sluice-perf echo` listens.
    server: Ipv4Addr,
    /// How many connections there are at a time.
    #[arg(long, default_value_t = 64)]
    concurrency: usize,
    /// How long, in seconds.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Connections a second that got their answer.
    pub(crate) per_second: f64,
    /// Connections that failed.
    pub(crate) errors: u64,
}

struct Connection {
    stream: TcpStream,
    asked: bool,
}

struct Client {
    server: Ipv4Addr,
    started: u64,
    answered: u64,
    errors: u64,
}

enum Progress {
    Waiting,
    Answered,
    Failed,
}

impl Client {
    fn connect(&mut self, registry: &Registry, token: usize) -> Result<Connection> {
        let port = TCP_PORT + (self.started % u64::from(TCP_PORTS)) as u16;
        self.started += 1;
        let mut stream = TcpStream::connect(SocketAddr::from((self.server, port)))?;
        // Closing resets the connection: no TIME-WAIT takes the client's ports.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        registry.register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Connection { stream, asked: false })
    }
}

/// Measures, and prints the outcome as JSON.
///
/// # Errors
/// When the process is out of descriptors or ports.
pub(crate) fn run(a: &Arguments) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(a.concurrency);
    let mut client = Client { server: a.server, started: 0, answered: 0, errors: 0 };
    let start = Instant::now();
    let duration = Duration::from_secs_f64(a.seconds);
    let mut connections = (0..a.concurrency).map(|i| client.connect(poll.registry(), i)).collect::<Result<Vec<_>>>()?;
    while start.elapsed() < duration {
        poll.poll(&mut events, Some(PATIENCE))?;
        for event in &events {
            let at = event.token().0;
            match proceed(&mut connections[at], event.is_writable(), event.is_readable()) {
                Progress::Waiting => continue,
                Progress::Answered => client.answered += 1,
                Progress::Failed => client.errors += 1,
            }
            connections[at] = client.connect(poll.registry(), at)?;
        }
    }
    let per_second = client.answered as f64 / start.elapsed().as_secs_f64();
    println!("{}", serde_json::to_string(&Outcome { per_second, errors: client.errors })?);
    Ok(())
}

fn proceed(c: &mut Connection, writable: bool, readable: bool) -> Progress {
    if !c.asked && writable {
        if !matches!(c.stream.write(b"ask\n"), Ok(4)) {
            return Progress::Failed;
        }
        c.asked = true;
    }
    if !readable {
        return Progress::Waiting;
    }
    let mut answer = [0; 16];
    match c.stream.read(&mut answer) {
        Ok(4) => Progress::Answered,
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Progress::Waiting,
        _ => Progress::Failed,
    }
}
