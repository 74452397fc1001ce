//! `sluice run`: from a policy's file to packets that flow, and back.
//!
//! Nothing touches an interface before everything that can fail has been tried; what has been attached is
//! detached on every way out but a crash. After that the steering program stays and does what `on_failure`
//! says, until the next start replaces it.

mod checks;
mod logging;
mod service;
mod steering;
mod threads;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use config::{Config, OnFailure, Poll};
use dataplane::io::punt::Injector;
use dataplane::io::xsk::{self, WorkerIo};
use dataplane::policy::{InterfaceId, Policy};
use dataplane::worker::shared::Shared;
use dataplane::worker::{Options, Worker, backing};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

use crate::answers::Answers;
use crate::context::{Context, Queue, WorkerState};
use crate::mirror::Mirror;
use crate::reload::{Event, Policies};
use crate::socket::ControlSocket;
use crate::{expiry, metrics, packet_log, punt, reload};
pub(crate) use steering::Steering;
use threads::{Ended, Threads};

/// How often signs of life are given and loads are measured.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often devices that are not there yet are looked for.
const LOOK_FOR_DEVICES: Duration = Duration::from_millis(100);

/// Runs the gateway until a signal ends it.
///
/// # Errors
/// Whatever keeps it from running, in one message.
pub(crate) fn run(file: &Path, watch: bool, wait: Option<u32>) -> anyhow::Result<ExitCode> {
    logging::init();
    let policies = match config::load(file) {
        Ok(checked) => {
            for w in &checked.warnings {
                tracing::warn!("{}", w.to_string().trim_end());
            }
            Arc::new(Policies::new(file, checked))
        }
        Err(diagnostics) => {
            eprint!("{diagnostics}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        checks::privileges()?;
        checks::forwarding(policies.running().config.io.on_failure == OnFailure::Open);
        let mut signals = Signals::new()?;
        loop {
            if let Some(seconds) = wait {
                let (wanted, patience) = (policies.running(), Duration::from_secs(seconds.into()));
                tokio::select! {
                    () = signals.ending() => return Ok(ExitCode::SUCCESS),
                    () = devices(&wanted.config.policy, patience) => {}
                }
            }
            match gateway(&policies, watch, &mut signals).await? {
                Outcome::Signal => return Ok(ExitCode::SUCCESS),
                Outcome::Replaced(device) => {
                    tracing::warn!("{device} was made anew: starting again with it; all connections are lost");
                }
            }
        }
    })
}

/// The daemon's signals. Caught from the start, so that none ends the process between attaching and
/// detaching.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let catch = |kind| signal(kind).context("catching signals");
        Ok(Signals {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }

    /// Waits for one that ends the daemon.
    async fn ending(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for one that ends the daemon; passes SIGHUP on.
    async fn wait(&mut self, events: &Sender<Event>) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                // The thread that takes it ends with the gateway.
                _ = self.hangup.recv() => drop(events.send(Event::Signal)),
            }
        }
    }
}

/// Waits until every device of the policy is there, or for as long as `patience` lasts: which one is missing then
/// is said by whoever opens it.
async fn devices(policy: &Policy, patience: Duration) {
    let missing = || policy.devices().into_iter().map(|(name, _)| name).find(|name| checks::absent(name));
    let deadline = tokio::time::Instant::now() + patience;
    let mut told = false;
    while let Some(device) = missing().filter(|_| tokio::time::Instant::now() < deadline) {
        if !std::mem::replace(&mut told, true) {
            tracing::info!("waiting for device {device}");
        }
        tokio::time::sleep(LOOK_FOR_DEVICES).await;
    }
}

/// Why the gateway has stopped.
enum Outcome {
    /// A signal told it to.
    Signal,
    /// This device has gone and come back; sockets and steering program went with the old one.
    Replaced(String),
}

/// What keeps the steering programs, and the one for the host's answers, attached; dropping it detaches them.
struct Attachment(Arc<Steering>, Arc<Answers>);

impl Drop for Attachment {
    fn drop(&mut self) {
        self.0.detach();
        self.1.detach();
    }
}

async fn gateway(policies: &Arc<Policies>, watch_file: bool, signals: &mut Signals) -> anyhow::Result<Outcome> {
    let (started, running_since) = (SystemTime::now(), Instant::now());
    let running = policies.running();
    let config = &running.config;
    checks::vlan_tags(&config.policy)?;
    let steering = Arc::new(Steering::load(&config.policy, config.io.on_failure)?);
    let cpus = checks::cpus(config, &steering.receive_queues())?;
    let socket = ControlSocket::open(&config.control.socket)?;
    let metrics = config.control.metrics.map(listen).transpose()?;
    let ios = open_ports(config, cpus.len())?;
    let frames = ios.iter().map(|io| io.pool.frames()).max().unwrap_or(0);
    let interfaces = config.policy.interfaces.len();
    let shared = Shared::new(cpus.len(), interfaces, config.policy.max_connections, frames)
        .context("reserving memory for the connection tables; lower conntrack.max_connections")?;
    let generation = shared.current.publish(Some(Arc::new(config.policy.clone())), None);

    let mirror = Mirror::open(shared.clone())?;
    steering.update(mirror.interfaces(), mirror.local())?;
    for (worker, io) in ios.iter().enumerate() {
        steering.set_sockets(worker as u32, &io.ports)?;
    }
    let injector = Injector::new().context("loading the program that hands frames to the kernel")?;
    steering.heartbeat();
    let answers = Arc::new(Answers::new(shared.clone(), steering.clone()));
    let attachment = Attachment(steering.clone(), answers.clone());
    answers.ensure_attached(&config.policy)?;
    let attached = steering.attach(config.io.mode)?;

    let ctx = Arc::new(Context {
        shared: shared.clone(),
        mirror: mirror.stats(),
        queues: queues(&ios, &attached),
        monitors: Mutex::new(ios.iter().flat_map(|io| &io.ports).map(|p| p.monitor().ok()).collect()),
        attached: steering.indices(),
        steering: steering.clone(),
        answers: answers.clone(),
        workers: cpus.iter().map(|cpu| WorkerState::new(*cpu)).collect(),
        policies: policies.clone(),
        coming: mirror.coming(),
        adopted: AtomicU32::new(generation),
        max_connections: config.policy.max_connections,
        metrics: config.control.metrics,
        started,
        running_since,
        running: AtomicBool::new(false),
    });
    let (mut threads, ended) = Threads::new();
    let options = Options { busy_poll: config.workers.poll == Poll::Busy };
    for (id, io) in ios.into_iter().enumerate() {
        let shared = shared.clone();
        threads.start_worker(&ctx, id, move || Worker::new(id, shared, io.pool, io.ports, options))?;
    }
    let backed = shared.clone();
    threads.start("backing", move || {
        // Where it shares a worker's CPU: established connections come before memory for others.
        crate::sys::give_way()?;
        backing::run(&backed);
        Ok(())
    })?;
    let (punts, ingress, translated) = (shared.clone(), steering.ingress(), answers.clone());
    threads.start("punt", move || punt::run(&punts, &translated, injector, &ingress))?;
    let (mirrored, followed) = (steering.clone(), shared.clone());
    threads.start("mirror", move || {
        mirror.run(|interfaces, local| {
            if let Err(e) = mirrored.update(interfaces, local) {
                tracing::error!("{e:#}; the XDP programs do not know of the latest address changes");
            }
            // An address that the policy translates to may have become the host's.
            if let Err(e) = answers.ensure_attached(&followed.current.load().policy) {
                tracing::error!("{e:#}");
            }
        })
    })?;
    let served = ctx.clone();
    threads.start("socket", move || {
        socket.serve(&served);
        Ok(())
    })?;
    let (events, received) = std::sync::mpsc::channel();
    let (followed, watcher) = (ctx.clone(), watch_file.then(|| events.clone()));
    threads.start("policy", move || reload::follow(&followed, &received, watcher))?;
    let mut tasks = JoinSet::new();
    tasks.spawn(expiry::run(shared.clone()));
    tasks.spawn(packet_log::run(shared.clone()));
    if let Some(listener) = metrics {
        let served = ctx.clone();
        tasks.spawn(async {
            if let Err(e) = metrics::serve(listener, served).await {
                tracing::error!("serving metrics: {e}");
            }
        });
    }
    ctx.running.store(true, Ordering::Release);
    tell_ready(&ctx);

    let outcome = tokio::select! {
        () = signals.wait(&events) => {
            tracing::info!("stopping");
            // A second signal finds the default action and ends the process at once.
            crate::sys::default_signals();
            service::tell(sd_notify::NotifyState::Stopping);
            Ok(Outcome::Signal)
        }
        outcome = watch(&ctx, ended) => outcome,
    };
    tasks.shutdown().await;
    threads.stop(&shared);
    packet_log::drain(&shared);
    ctx.release();
    drop(attachment);
    outcome
}

/// Gives signs of life until a device is replaced, or a thread ends, which it must not.
async fn watch(ctx: &Context, mut ended: UnboundedReceiver<Ended>) -> anyhow::Result<Outcome> {
    let mut beat = tokio::time::interval(HEARTBEAT);
    let mut replaced = None;
    let mut watchdog = service::Watchdog::default();
    loop {
        tokio::select! {
            e = ended.recv() => {
                return match e {
                    Some(Ended { thread, error: Some(e) }) => Err(e.context(format!("thread {thread} failed"))),
                    Some(Ended { thread, error: None }) => bail!("thread {thread} ended unexpectedly"),
                    None => bail!("all threads have ended"),
                };
            }
            _ = beat.tick() => {
                ctx.steering.heartbeat();
                watchdog.beat(ctx);
                ctx.answers.heartbeat();
                for (state, w) in ctx.workers.iter().zip(&ctx.shared.workers) {
                    state.sample(&w.counters);
                }
                // Seen twice: whoever made the device has had the time to set it up.
                let former = std::mem::replace(&mut replaced, ctx.replaced());
                if let Some(device) = former && replaced.as_ref() == Some(&device) {
                    return Ok(Outcome::Replaced(device));
                }
            }
        }
    }
}

fn open_ports(config: &Config, workers: usize) -> anyhow::Result<Vec<WorkerIo>> {
    let devices: Vec<&str> = config.policy.devices().iter().map(|(name, _)| *name).collect();
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

/// `attached` is the first interface on each device, and how its program is attached.
fn queues(ios: &[WorkerIo], attached: &[(InterfaceId, &'static str)]) -> Vec<Queue> {
    let mut all = Vec::new();
    for (worker, io) in ios.iter().enumerate() {
        for ((interface, xdp), p) in attached.iter().zip(&io.ports) {
            all.push(Queue {
                interface: usize::from(*interface),
                queue: p.queue(),
                worker,
                xdp,
                mode: if p.zero_copy() { "zero-copy" } else { "copy" },
            });
        }
    }
    all
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address);
    listener.with_context(|| format!("serving metrics at {address}: set control.metrics to another address"))
}

fn tell_ready(ctx: &Context) {
    let forwarding = match ctx.ready() {
        Ok(()) => "packets flow".to_owned(),
        Err(reason) => format!("waiting: {reason}"),
    };
    tracing::info!("started, interfaces: {}, workers: {}; {forwarding}", ctx.attached.len(), ctx.workers.len());
    for q in &ctx.queues {
        let device = &ctx.shared.current.load().policy.interfaces[q.interface].device;
        tracing::debug!("{device} queue {}: worker {}, {} XDP, {}", q.queue, q.worker, q.xdp, q.mode);
    }
    service::tell(sd_notify::NotifyState::Ready);
}
