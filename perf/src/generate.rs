//! The load: UDP frames of many flows, made in the kernel by `bpf/generate.bpf.c`.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use clap::Args;
use dataplane::io::link::Link;
use serde::Serialize;

use crate::arguments::{Mac, mac};
use crate::sys;

/// Port that the frames are addressed to.
pub(crate) const PORT: u16 = 5001;

/// Length of a frame without its FCS, in bytes (`FRAME` in generate.bpf.c).
const FRAME: usize = 60;
/// Frames after which the kernel flushes what was redirected.
const BATCH: u32 = 64;
/// About what can be made, in frames a second: how many to make when they are not paced.
const FLOOD_RATE: f64 = 3e6;

/// Size of `struct plan` of generate.bpf.c, and where two of its members are.
const PLAN: usize = 80;
const FIRST_NS: usize = 16;
const LAST_NS: usize = 24;
const BEGUN: usize = 56;

/// Makes frames in one network namespace.
pub(crate) struct Generator {
    ebpf: Ebpf,
    plan: Array<MapData, [u8; PLAN]>,
    link: Link,
    to: [u8; 6],
    client: u32,
    server: u32,
    /// Flows of one frame that were begun so far.
    begun: u32,
}

/// What was sent.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Offered {
    /// Frames.
    pub(crate) frames: u64,
    /// The time that took, in seconds.
    pub(crate) seconds: f64,
}

impl Offered {
    /// Frames a second.
    pub(crate) fn rate(self) -> f64 {
        self.frames as f64 / self.seconds
    }
}

impl Generator {
    /// A generator that sends out of `interface` of the calling thread's namespace to the Ethernet address
    /// `to`. Flow `i` is from port 10000 + `i` mod 16384 of client `i` / 16384 to the server of the same
    /// number; clients and servers are numbered from the two addresses on.
    ///
    /// # Errors
    /// When there is no such interface, or the program cannot be loaded.
    pub(crate) fn new(interface: &str, to: [u8; 6], client: u32, server: u32) -> Result<Self> {
        let link = Link::find(interface).with_context(|| format!("no interface {interface}"))?;
        let mut ebpf = Ebpf::load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/generate.bpf.o")))?;
        let program: &mut Xdp = ebpf.program_mut("generate").context("no such program")?.try_into()?;
        program.load().context("loading the generator needs root and Linux 5.18")?;
        let plan = Array::try_from(ebpf.take_map("plan").context("no such map")?)?;
        Ok(Generator { ebpf, plan, link, to, client, server, begun: 0 })
    }

    /// Sends frames of `flows` flows in turn, `rate` a second (0: as fast as can be, as many as take about
    /// this long), for `duration`. One frame in `spread` is of these flows; each of the others begins a flow of its own,
    /// to the port after [`PORT`]. To be called in the namespace of the interface.
    ///
    /// # Errors
    /// When the kernel refuses, and when a signal asks the process to end.
    pub(crate) fn run(&mut self, flows: u32, spread: u32, rate: f64, duration: Duration) -> Result<Offered> {
        let gap = if rate > 0.0 { (1e9 / rate).round() as u64 } else { 0 };
        self.plan.set(0, self.plan(flows, spread, gap), 0)?;
        let program: &Xdp = self.ebpf.program("generate").context("no such program")?.try_into()?;
        let repeat = (if rate > 0.0 { rate } else { FLOOD_RATE } * duration.as_secs_f64()) as u32;
        let frame = [0u8; FRAME];
        // struct xdp_md: where the data begins and ends.
        let mut context = [0u8; 24];
        context[4..8].copy_from_slice(&(FRAME as u32).to_ne_bytes());
        let run = program.test_run(TestRunOptions {
            data_in: Some(&frame),
            ctx_in: Some(&context),
            repeat,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        });
        ensure!(!sys::stopped(), "interrupted");
        run.context("sending frames")?;
        // The program's own clock: setting up and tearing down the kernel's page pool for the run takes up to
        // tens of milliseconds.
        let after = self.plan.get(&0, 0)?;
        let word = |at: usize| u64::from_ne_bytes(after[at..at + 8].try_into().expect("eight bytes"));
        self.begun = u32::from_ne_bytes(after[BEGUN..BEGUN + 4].try_into().expect("four bytes"));
        Ok(Offered { frames: u64::from(repeat), seconds: (word(LAST_NS) - word(FIRST_NS)) as f64 / 1e9 })
    }

    /// `struct plan` of generate.bpf.c.
    fn plan(&self, flows: u32, spread: u32, gap_ns: u64) -> [u8; PLAN] {
        let mut p = [0; PLAN];
        p[..8].copy_from_slice(&gap_ns.to_ne_bytes());
        let words = [flows, 0, self.link.index, self.client, self.server, spread, self.begun];
        for (at, word) in p[32..60].chunks_exact_mut(4).zip(words) {
            at.copy_from_slice(&word.to_ne_bytes());
        }
        p[60..62].copy_from_slice(&PORT.to_ne_bytes());
        p[62..68].copy_from_slice(&self.to);
        p[68..74].copy_from_slice(&self.link.mac);
        p
    }
}

/// `sluice-perf generate`
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where to send.
    #[arg(long)]
    interface: String,
    /// Ethernet address to send to.
    #[arg(long, value_parser = mac)]
    to: Mac,
    /// First client's address.
    #[arg(long, default_value = "10.81.16.0")]
    client: Ipv4Addr,
    /// First server's address.
    #[arg(long, default_value = "203.0.113.1")]
    server: Ipv4Addr,
    /// How many flows take turns.
    #[arg(long, default_value_t = 1)]
    flows: u32,
    /// One frame in so many is of these flows; each of the others begins a flow of its own, to the next port.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    spread: u32,
    /// Frames a second; 0: as fast as can be.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// How long, in seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

/// Sends, and prints what was sent as JSON.
///
/// # Errors
/// As [`Generator::new`] and [`Generator::run`].
pub(crate) fn run(a: &Arguments) -> Result<()> {
    let mut g = Generator::new(&a.interface, a.to.0, a.client.into(), a.server.into())?;
    let offered = g.run(a.flows.max(1), a.spread, a.rate, Duration::from_secs_f64(a.seconds))?;
    println!("{}", serde_json::to_string(&offered)?);
    Ok(())
}
