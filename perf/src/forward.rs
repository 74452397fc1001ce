//! A bare layer-2 forwarder between two interfaces: what the ports can do without the packet path.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use dataplane::io::steer::{OnFailure, Steer};
use dataplane::io::xsk::{IoMode, WorkerIo, open_worker};
use dataplane::io::{BURST, Port};

use crate::arguments::{Mac, mac};
use crate::sys;

/// Polls that find nothing before it sleeps, as a worker does.
const SPIN: Duration = Duration::from_micros(50);

/// `sluice-perf forward`
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The two interfaces, each with the Ethernet address of what is behind it.
    #[arg(value_name = "DEVICE=MAC", value_parser = side)]
    sides: Vec<(String, Mac)>,
    /// Never sleep.
    #[arg(long)]
    busy: bool,
}

fn side(text: &str) -> Result<(String, Mac), String> {
    let (device, address) = text.split_once('=').ok_or_else(|| format!("`{text}` is not DEVICE=MAC"))?;
    Ok((device.into(), mac(address)?))
}

/// Forwards between queue 0 of both interfaces until a signal comes: what arrives at one leaves by the other,
/// with new Ethernet addresses. Prints a line once it does.
///
/// # Errors
/// When the sockets cannot be had.
pub(crate) fn run(a: &Arguments) -> Result<()> {
    ensure!(a.sides.len() == 2, "two interfaces are needed, not {}", a.sides.len());
    let devices: Vec<&str> = a.sides.iter().map(|(d, _)| d.as_str()).collect();
    let mut steers = devices.iter().map(|d| Steer::load(d, OnFailure::Closed)).collect::<Result<Vec<_>, _>>()?;
    let io = open_worker(0, &devices, IoMode::Auto, None)?;
    for (steer, port) in steers.iter_mut().zip(&io.ports) {
        steer.set_socket(0, port)?;
        steer.attach(IoMode::Auto)?;
    }
    // What goes at the front of a frame sent by each side: the peer's address and the side's own.
    let headers: Vec<[u8; 12]> = a
        .sides
        .iter()
        .zip(&steers)
        .map(|((_, peer), own)| std::array::from_fn(|i| if i < 6 { peer.0[i] } else { own.link().mac[i - 6] }))
        .collect();
    println!("forwarding");
    forward(io, &headers, a.busy);
    for steer in &mut steers {
        steer.detach()?;
    }
    Ok(())
}

fn forward(io: WorkerIo, headers: &[[u8; 12]], busy: bool) {
    let WorkerIo { mut pool, mut ports, .. } = io;
    let mut frames = Vec::with_capacity(BURST);
    let mut idle_since = None;
    while !sys::stopped() {
        let mut received = 0;
        for from in 0..2 {
            let to = 1 - from;
            ports[from].receive(&mut pool, &mut frames, BURST);
            received += frames.len();
            let any = !frames.is_empty();
            for frame in frames.drain(..) {
                pool.bytes_mut(frame)[..12].copy_from_slice(&headers[to]);
                if let Err(frame) = ports[to].send(&mut pool, frame) {
                    pool.give(frame);
                }
            }
            if any || ports[to].unsent() > 0 {
                ports[to].flush(&mut pool);
            }
        }
        if received > 0 || busy {
            idle_since = None;
            continue;
        }
        let now = Instant::now();
        if now - *idle_since.get_or_insert(now) >= SPIN {
            let descriptors: Vec<RawFd> = ports.iter().filter_map(Port::poll_fd).collect();
            sys::wait_readable(&descriptors, if ports.iter().any(|p| p.unsent() > 0) { 1 } else { 100 });
            idle_since = None;
        }
    }
}
