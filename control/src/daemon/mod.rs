//! `sluice run`: from a policy's file to packets that flow, and back.
//!
//! Nothing touches an interface before everything that can fail has been tried; what has been attached is
//! detached on every way out but a crash. After that the steering program stays and does what `on_failure`
//! says, until the next start replaces it.

mod checks;
mod logging;
mod steering;
mod threads;

use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use config::{Config, OnFailure, Poll};
use dataplane::io::punt::Injector;
use dataplane::io::xsk::{self, WorkerIo};
use dataplane::worker::shared::Shared;
use dataplane::worker::{Options, Worker};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::context::{Context, Queue, WorkerState};
use crate::mirror::Mirror;
use crate::socket::ControlSocket;
use crate::{expiry, metrics, punt};
pub(crate) use steering::Steering;
use threads::{Ended, Threads};

/// How often signs of life are given and loads are measured.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Runs the gateway until a signal ends it.
///
/// # Errors
/// Whatever keeps it from running, in one message.
pub(crate) fn run(file: &Path) -> anyhow::Result<ExitCode> {
    logging::init();
    let config = match config::load(file) {
        Ok(checked) => {
            for w in &checked.warnings {
                tracing::warn!("{}", w.to_string().trim_end());
            }
            checked.config
        }
        Err(diagnostics) => {
            eprint!("{diagnostics}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(gateway(file, config))
}

/// What keeps the steering programs attached; dropping it detaches them.
struct Attachment(Arc<Steering>);

impl Drop for Attachment {
    fn drop(&mut self) {
        self.0.detach();
    }
}

async fn gateway(file: &Path, config: Config) -> anyhow::Result<ExitCode> {
    let started = SystemTime::now();
    checks::privileges()?;
    checks::forwarding(config.io.on_failure == OnFailure::Open);
    // Signals are caught from here on, so that none ends the process between attaching and detaching.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let steering = Arc::new(Steering::load(&config.policy, config.io.on_failure)?);
    let cpus = checks::cpus(&config, &steering.receive_queues())?;
    let socket = ControlSocket::open(&config.control.socket)?;
    let metrics = config.control.metrics.map(|a| TcpListener::bind(a).map(|l| (a, l))).transpose();
    let metrics = metrics
        .with_context(|| format!("serving metrics at {}: set control.metrics to another address", shown(&config)))?;
    let ios = open_ports(&config, cpus.len())?;
    let frames = ios.iter().map(|io| io.pool.frames()).max().unwrap_or(0);
    let interfaces = config.policy.interfaces.len();
    let shared = Shared::new(cpus.len(), interfaces, config.policy.max_connections, frames)
        .context("reserving memory for the connection tables; lower conntrack.max_connections")?;
    shared.current.publish(Some(Arc::new(config.policy.clone())), None);

    let mirror = Mirror::open(shared.clone())?;
    steering.update(mirror.interfaces(), mirror.local())?;
    for (worker, io) in ios.iter().enumerate() {
        steering.set_sockets(worker as u32, &io.ports)?;
    }
    let injector = Injector::new().context("loading the program that hands frames to the kernel")?;
    steering.heartbeat();
    let attachment = Attachment(steering.clone());
    let modes = steering.attach(config.io.mode)?;

    let ctx = Arc::new(Context {
        shared: shared.clone(),
        mirror: mirror.stats(),
        queues: queues(&ios, &modes),
        attached: steering.indices(),
        steering: steering.clone(),
        workers: cpus.iter().map(|cpu| WorkerState::new(*cpu)).collect(),
        file: file.to_owned(),
        started,
        running: AtomicBool::new(false),
    });
    let (mut threads, ended) = Threads::new();
    let options = Options { busy_poll: config.workers.poll == Poll::Busy };
    for (id, io) in ios.into_iter().enumerate() {
        let shared = shared.clone();
        threads.start_worker(&ctx, id, move || Worker::new(id, shared, io.pool, io.ports, options))?;
    }
    let (punts, ingress) = (shared.clone(), steering.ingress());
    threads.start("punt", move || punt::run(&punts, injector, &ingress))?;
    let mirrored = steering.clone();
    threads.start("mirror", move || mirror.run(|interfaces, local| mirrored.update(interfaces, local)))?;
    tokio::spawn(expiry::run(shared.clone()));
    if let Some((address, listener)) = metrics {
        tracing::info!("serving metrics at http://{address}/metrics");
        tokio::spawn(metrics::serve(listener, ctx.clone()));
    }
    ctx.running.store(true, Ordering::Release);
    socket.serve(ctx.clone()).context("starting the control socket's thread")?;
    tell_ready(&ctx);

    let result = tokio::select! {
        _ = terminate.recv() => Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
        failure = watch(&ctx, ended) => Err(failure),
    };
    tracing::info!("stopping");
    // A second signal finds the default action and ends the process at once.
    crate::sys::default_signals();
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    threads.stop(&shared);
    drop(attachment);
    drop(socket);
    result
}

/// Gives signs of life until a thread ends, which it must not.
async fn watch(ctx: &Context, mut ended: UnboundedReceiver<Ended>) -> anyhow::Error {
    let mut beat = tokio::time::interval(HEARTBEAT);
    loop {
        tokio::select! {
            e = ended.recv() => {
                return match e {
                    Some(Ended { thread, error: Some(e) }) => e.context(format!("thread {thread} failed")),
                    Some(Ended { thread, error: None }) => anyhow::anyhow!("thread {thread} ended unexpectedly"),
                    None => anyhow::anyhow!("all threads have ended"),
                };
            }
            _ = beat.tick() => {
                ctx.steering.heartbeat();
                for (state, w) in ctx.workers.iter().zip(&ctx.shared.workers) {
                    state.sample(&w.counters);
                }
            }
        }
    }
}

fn open_ports(config: &Config, workers: usize) -> anyhow::Result<Vec<WorkerIo>> {
    let devices: Vec<&str> = config.policy.interfaces.iter().map(|i| i.device.as_str()).collect();
    for d in &devices {
        xsk::check_queues(d, workers as u32)?;
    }
    let mode = match config.io.mode {
        config::IoMode::Auto => xsk::IoMode::Auto,
        config::IoMode::ZeroCopy => xsk::IoMode::ZeroCopy,
        config::IoMode::Copy => xsk::IoMode::Copy,
        config::IoMode::Generic => xsk::IoMode::Generic,
    };
    (0..workers as u32).map(|queue| Ok(xsk::open_worker(queue, &devices, mode, config.io.frames)?)).collect()
}

fn queues(ios: &[WorkerIo], modes: &[&'static str]) -> Vec<Queue> {
    let mut all = Vec::new();
    for (worker, io) in ios.iter().enumerate() {
        for (interface, p) in io.ports.iter().enumerate() {
            all.push(Queue {
                interface,
                queue: p.queue(),
                worker,
                xdp: modes[interface],
                mode: if p.zero_copy() { "zero-copy" } else { "copy" },
                monitor: p.monitor().ok(),
            });
        }
    }
    all
}

fn shown(config: &Config) -> String {
    config.control.metrics.map_or_else(String::new, |a| a.to_string())
}

fn tell_ready(ctx: &Context) {
    let forwarding = match ctx.ready() {
        Ok(()) => "packets flow".to_owned(),
        Err(reason) => format!("waiting: {reason}"),
    };
    tracing::info!("{} workers on {} interfaces; {forwarding}", ctx.workers.len(), ctx.attached.len());
    for q in &ctx.queues {
        let device = &ctx.shared.current.load().policy.interfaces[q.interface].device;
        tracing::debug!("{device} queue {}: worker {}, {} XDP, {}", q.queue, q.worker, q.xdp, q.mode);
    }
    if let Err(e) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!("telling systemd that sluice is ready: {e}");
    }
}
