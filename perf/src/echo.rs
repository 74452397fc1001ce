//! The server of `connect` and `ping`.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;

use anyhow::{Context, Result};
use clap::Args;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};

/// First of the TCP ports.
pub(crate) const TCP_PORT: u16 = 6000;
/// How many TCP ports there are: one would give a client too few tuples.
pub(crate) const TCP_PORTS: u16 = 32;
/// The UDP port.
pub(crate) const UDP_PORT: u16 = 7000;

/// `sluice-perf echo`
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0")]
    address: Ipv4Addr,
}

/// Sends back what comes, by TCP and UDP. Prints a line once it listens.
///
/// # Errors
/// When it cannot listen.
pub(crate) fn run(a: &Arguments) -> Result<()> {
    let udp = UdpSocket::bind((a.address, UDP_PORT)).context("cannot listen for UDP")?;
    let mut poll = Poll::new()?;
    let mut listeners = Vec::new();
    for (i, port) in (TCP_PORT..TCP_PORT + TCP_PORTS).enumerate() {
        let address = SocketAddr::from((a.address, port));
        let mut l = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        poll.registry().register(&mut l, Token(i), Interest::READABLE)?;
        listeners.push(l);
    }
    println!("listening");
    thread::spawn(move || datagrams(&udp));
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    let mut free = Vec::new();
    let mut events = Events::with_capacity(256);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            let Some(at) = event.token().0.checked_sub(listeners.len()) else {
                accept(&listeners[event.token().0], listeners.len(), poll.registry(), &mut streams, &mut free)?;
                continue;
            };
            if streams[at].as_mut().is_some_and(is_over) {
                streams[at] = None;
                free.push(at);
            }
        }
    }
}

fn datagrams(socket: &UdpSocket) {
    let mut bytes = [0; 2048];
    loop {
        if let Ok((n, from)) = socket.recv_from(&mut bytes) {
            // A lost answer is the client's to notice.
            let _ = socket.send_to(&bytes[..n], from);
        }
    }
}

fn accept(
    listener: &TcpListener,
    first: usize,
    registry: &Registry,
    streams: &mut Vec<Option<TcpStream>>,
    free: &mut Vec<usize>,
) -> Result<()> {
    while let Ok((mut stream, _)) = listener.accept() {
        let at = free.pop().unwrap_or_else(|| {
            streams.push(None);
            streams.len() - 1
        });
        registry.register(&mut stream, Token(first + at), Interest::READABLE)?;
        streams[at] = Some(stream);
    }
    Ok(())
}

/// Sends back what a stream has to read; whether the stream is at its end.
fn is_over(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 2048];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(n) => {
                if stream.write_all(&bytes[..n]).is_err() {
                    return true;
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => (),
            Err(e) => return e.kind() != ErrorKind::WouldBlock,
        }
    }
}
