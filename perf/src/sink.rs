//! The far end: counts the generator's frames and reads each one's source address.

use std::net::Ipv4Addr;
use std::ops::Sub;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TcAttachType, tc};
use clap::Args;

use crate::generate::PORT;
use crate::sys;

/// What has arrived.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Frames of the generator.
    pub(crate) frames: u64,
    /// Of them, with the expected source address.
    pub(crate) from_source: u64,
    /// Of these, of flows that the generator takes in turn.
    pub(crate) known: u64,
}

impl Sub for Counts {
    type Output = Counts;

    fn sub(self, before: Counts) -> Counts {
        Counts {
            frames: self.frames - before.frames,
            from_source: self.from_source - before.from_source,
            known: self.known - before.known,
        }
    }
}

/// Counts, and drops, until it is dropped itself.
pub(crate) struct Sink {
    counts: PerCpuArray<MapData, [u64; 3]>,
    _ebpf: Ebpf,
}

impl Sink {
    /// A sink at `interface` of the calling thread's namespace, which tells frames from `source` apart.
    ///
    /// # Errors
    /// When the program cannot be loaded or attached.
    pub(crate) fn new(interface: &str, source: Ipv4Addr) -> Result<Self> {
        let mut ebpf = Ebpf::load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sink.bpf.o")))?;
        let mut expected: Array<MapData, [u8; 8]> = Array::try_from(ebpf.take_map("expected").context("no such map")?)?;
        let mut e = [0; 8];
        e[..4].copy_from_slice(&u32::from(source).to_ne_bytes());
        e[4..6].copy_from_slice(&PORT.to_ne_bytes());
        expected.set(0, e, 0)?;
        let counts = PerCpuArray::try_from(ebpf.take_map("counts").context("no such map")?)?;
        let program: &mut SchedClassifier = ebpf.program_mut("sink").context("no such program")?.try_into()?;
        program.load().context("loading the sink needs root")?;
        // Kernels before 6.6 attach to this qdisc; it may be there already.
        let _ = tc::qdisc_add_clsact(interface);
        program
            .attach(interface, TcAttachType::Ingress)
            .with_context(|| format!("attaching the sink to {interface}"))?;
        Ok(Sink { counts, _ebpf: ebpf })
    }

    /// What has arrived so far.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn counts(&self) -> Result<Counts> {
        let per_cpu = self.counts.get(&0, 0)?;
        let sum = |i: usize| per_cpu.iter().map(|c| c[i]).sum();
        Ok(Counts { frames: sum(0), from_source: sum(1), known: sum(2) })
    }
}

/// `sluice-perf sink`
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where the frames arrive.
    #[arg(long)]
    interface: String,
    /// The source address that they should have.
    #[arg(long)]
    source: Ipv4Addr,
}

/// Prints every second what has arrived, until a signal comes.
///
/// # Errors
/// As [`Sink::new`].
pub(crate) fn run(a: &Arguments) -> Result<()> {
    let sink = Sink::new(&a.interface, a.source)?;
    let (mut then, mut before) = (Instant::now(), sink.counts()?);
    while !sys::stopped() {
        std::thread::sleep(Duration::from_secs(1));
        let (now, all) = (Instant::now(), sink.counts()?);
        let (new, seconds) = (all - before, (now - then).as_secs_f64());
        let rate = |n: u64| n as f64 / seconds / 1e6;
        println!("{:.3} Mpps, {:.3} from {}", rate(new.frames), rate(new.from_source), a.source);
        (then, before) = (now, all);
    }
    Ok(())
}
