//! One measurement of one gateway.

use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::gateway::{Gateway, Kind};
use super::lab::{self, CLIENT_PORT, INSIDE_MAC, LOAD_CLIENT, LOAD_SERVER, OUTSIDE, SERVER, SERVER_PORT};
use super::noise::{self, Snapshot, wait_for_quiet};
use super::process::{Process, command};
use crate::generate::{Generator, Offered};
use crate::sink::{Counts, Sink};
use crate::{connect, ping, sys};

/// The CPU of both hosts: of the generator, and of clients and servers.
const HOST_CPU: usize = 0;
/// The greatest share of the frames that may get lost at a rate that counts as sustained.
const MAX_LOSS: f64 = 0.005;
/// How near the search goes, relative to the rate.
const PRECISION: f64 = 0.015;
/// First rate to try, in frames a second, and the first step, relative to it.
const GUESS: f64 = 800_000.0;
const STEP: f64 = 0.2;
/// A flood, relative to the rate that is sustained.
const OVERLOAD: f64 = 3.0;
/// One frame in so many of a flood of new flows is of one that has been there before: three eighths of what is sustained.
const LASTING: u32 = 8;
/// Rate at which connections are made before they are measured, in frames a second.
const WARM_UP_RATE: f64 = 150_000.0;
/// How long to wait until the others are quiet, before each measurement.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often a measurement is repeated for the sake of quiet.
const TRIES: u32 = 3;
/// Where iperf3 listens.
const IPERF_PORT: u16 = 5201;
/// Until frames on their way have arrived.
const DRAIN: Duration = Duration::from_millis(30);

/// A gateway with what measures it.
pub(super) struct Subject {
    generator: Generator,
    sink: Sink,
    _servers: Vec<Process>,
    // The last: namespaces go when nothing is in them any more.
    pub(super) gateway: Gateway,
    /// The rate that was sustained last, where the next search begins.
    sustained: f64,
}

/// A result, and what share of a CPU others used meanwhile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quietly<T> {
    pub(super) value: T,
    pub(super) noise: f64,
}

/// What came of a load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delivered {
    /// Frames a second that were offered.
    pub(super) offered: f64,
    /// Frames a second that arrived.
    pub(super) rate: f64,
    /// Share of the frames that did not arrive.
    pub(super) loss: f64,
    /// The gateway's CPU time for each frame that arrived, in nanoseconds.
    pub(super) cpu_ns: f64,
    /// Share of the frames of lasting flows that arrived.
    pub(super) kept: f64,
}

impl Subject {
    /// Equips a gateway with a generator at the client, and a sink and servers at the server.
    ///
    /// # Errors
    /// When one of them does not start.
    pub(super) fn new(gateway: Gateway, tcp: bool) -> Result<Self> {
        let (client, server) = (gateway.lab.client(), gateway.lab.server());
        let generator =
            lab::inside(&client, || Generator::new(CLIENT_PORT, INSIDE_MAC.0, LOAD_CLIENT.into(), LOAD_SERVER.into()))?;
        let source = if gateway.kind.translates() { OUTSIDE } else { LOAD_CLIENT };
        let sink = lab::inside(&server, || Sink::new(SERVER_PORT, source))?;
        let mut servers = Vec::new();
        if tcp {
            let own = std::env::current_exe()?;
            let echo = Process::start_ready(&mut command(&server, HOST_CPU, &own, &["echo"]))?;
            let arguments = ["-s", "-B", &SERVER.to_string()];
            let mut tool = command(&server, HOST_CPU, Path::new("iperf3"), &arguments);
            let mut iperf = Process::start(tool.stdout(Stdio::null()).stderr(Stdio::null()))?;
            iperf.wait_for_port(IPERF_PORT).context("iperf3 -s: `apt-get install iperf3`")?;
            servers = vec![echo, iperf];
        }
        Ok(Subject { generator, sink, _servers: servers, gateway, sustained: GUESS })
    }

    /// The highest rate, of `flows` flows, at which less than half a per cent is lost.
    ///
    /// # Errors
    /// When the load cannot be made, or frames leave Sluice untranslated.
    pub(super) fn paced(&mut self, flows: u32, duration: Duration) -> Result<Quietly<Delivered>> {
        let _awake = self.gateway.awake();
        self.warm_up(flows)?;
        let mut noise = 0f64;
        let mut best: Option<Delivered> = None;
        let (mut low, mut high) = (0.0, f64::INFINITY);
        let (mut rate, mut step) = (self.sustained, STEP);
        while high - low > PRECISION * rate {
            let (d, n) = self.attempt(flows, rate, duration)?;
            noise = noise.max(n);
            if d.loss < MAX_LOSS {
                low = rate;
                if best.is_none_or(|b| d.rate > b.rate) {
                    best = Some(d);
                }
                // The generator's own limit: more cannot be offered.
                if d.offered < 0.8 * rate {
                    break;
                }
            } else {
                high = rate;
            }
            rate = if low > 0.0 && high.is_finite() {
                (low + high) / 2.0
            } else if low > 0.0 {
                low * (1.0 + step)
            } else {
                high / (1.0 + step)
            };
            step *= 1.5;
            ensure!(rate > 1000.0, "{}: frames get lost even at {high:.0} a second", self.gateway.kind);
        }
        let value = best.with_context(|| format!("{}: no rate is sustained", self.gateway.kind))?;
        self.sustained = value.rate;
        Ok(Quietly { value, noise })
    }

    /// One rate; tried again when it fails, as others may have been the reason.
    fn attempt(&mut self, flows: u32, rate: f64, duration: Duration) -> Result<(Delivered, f64)> {
        let mut tries = 0;
        loop {
            let before = Snapshot::now();
            let d = self.load(flows, 1, rate, duration)?;
            let noise = before.since();
            tries += 1;
            if d.loss < MAX_LOSS || tries >= if noise > noise::LIMIT { TRIES } else { 2 } {
                return Ok((d, noise));
            }
            wait_for_quiet(PATIENCE);
        }
    }

    /// What arrives of three times the rate that [`Subject::paced`] has found last.
    ///
    /// # Errors
    /// As there.
    pub(super) fn flood(&mut self, flows: u32, duration: Duration) -> Result<Quietly<Delivered>> {
        let _awake = self.gateway.awake();
        self.warm_up(flows)?;
        let rate = OVERLOAD * self.sustained;
        quietly(|| self.load(flows, 1, rate, duration))
    }

    /// The same, but most of the frames begin a flow each: what share of the others', of `flows` flows that were there
    /// before, arrives.
    ///
    /// # Errors
    /// As there.
    pub(super) fn flood_of_new(&mut self, flows: u32, duration: Duration) -> Result<Quietly<Delivered>> {
        let _awake = self.gateway.awake();
        self.warm_up(flows)?;
        let rate = OVERLOAD * self.sustained;
        quietly(|| self.load(flows, LASTING, rate, duration))
    }

    fn warm_up(&mut self, flows: u32) -> Result<()> {
        let seconds = 0.2 + 2.0 * f64::from(flows) / WARM_UP_RATE;
        self.load(flows, 1, WARM_UP_RATE, Duration::from_secs_f64(seconds)).map(|_| ())
    }

    fn load(&mut self, flows: u32, spread: u32, rate: f64, duration: Duration) -> Result<Delivered> {
        let (before, cpu) = (self.sink.counts()?, self.gateway.cpu_ns()?);
        let generator = &mut self.generator;
        let offered: Offered = lab::inside(&self.gateway.lab.client(), || {
            sys::pin(HOST_CPU)?;
            generator.run(flows, spread, rate, duration)
        })?;
        let cpu = self.gateway.cpu_ns()? - cpu;
        sleep(DRAIN);
        let arrived: Counts = self.sink.counts()? - before;
        let kind = self.gateway.kind;
        let frames = if kind.translates() { arrived.from_source } else { arrived.frames };
        let bad = arrived.frames - frames;
        if bad > 0 {
            ensure!(kind != Kind::Sluice, "{kind}: {bad} of {} frames left untranslated", arrived.frames);
            println!("{kind}: {bad} of {} frames left untranslated and count as lost", arrived.frames);
        }
        ensure!(frames > 0, "{kind}: none of {} frames arrived", offered.frames);
        Ok(Delivered {
            offered: offered.rate(),
            rate: frames as f64 / offered.seconds,
            loss: 1.0 - frames as f64 / offered.frames as f64,
            cpu_ns: cpu as f64 / frames as f64,
            kept: arrived.known as f64 * f64::from(spread) / offered.frames as f64,
        })
    }

    /// iperf3 with one stream, in Gbit/s.
    ///
    /// # Errors
    /// When iperf3 fails.
    pub(super) fn stream(&self, seconds: u32) -> Result<Quietly<f64>> {
        let _awake = self.gateway.awake();
        quietly(|| {
            let seconds = seconds.to_string();
            let out = self.client(
                Path::new("iperf3"),
                &["-c", &SERVER.to_string(), "-t", &seconds, "-O", "1", "--json", "--connect-timeout", "3000"],
            )?;
            let result: serde_json::Value = serde_json::from_str(&out)?;
            let rate = result["end"]["sum_received"]["bits_per_second"].as_f64();
            Ok(rate.context("iperf3 reports no rate")? / 1e9)
        })
    }

    /// TCP connections a second.
    ///
    /// # Errors
    /// When the client fails.
    pub(super) fn connects(&self, seconds: u32) -> Result<Quietly<connect::Outcome>> {
        let seconds = seconds.to_string();
        let _awake = self.gateway.awake();
        quietly(|| {
            let out = self.own(&["connect", &SERVER.to_string(), "--seconds", &seconds])?;
            Ok(serde_json::from_str(&out)?)
        })
    }

    /// Times to the server and back.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(super) fn ping(&self, count: u32) -> Result<Quietly<ping::Outcome>> {
        let count = count.to_string();
        let _awake = self.gateway.awake();
        quietly(|| Ok(serde_json::from_str(&self.own(&["ping", &SERVER.to_string(), "--count", &count])?)?))
    }

    fn own(&self, arguments: &[&str]) -> Result<String> {
        self.client(&std::env::current_exe()?, arguments)
    }

    fn client(&self, program: &Path, arguments: &[&str]) -> Result<String> {
        lab::output(&mut command(&self.gateway.lab.client(), HOST_CPU, program, arguments))
            .with_context(|| format!("through {}", self.gateway.kind))
    }
}

/// Measures when the machine is quiet; again when it was not, and then keeps the quietest result.
fn quietly<T>(mut measure: impl FnMut() -> Result<T>) -> Result<Quietly<T>> {
    let mut best: Option<Quietly<T>> = None;
    for _ in 0..TRIES {
        wait_for_quiet(PATIENCE);
        let before = Snapshot::now();
        let value = measure()?;
        let noise = before.since();
        if best.as_ref().is_none_or(|b| noise < b.noise) {
            best = Some(Quietly { value, noise });
        }
        if noise < noise::LIMIT {
            break;
        }
    }
    best.context("nothing was measured")
}
