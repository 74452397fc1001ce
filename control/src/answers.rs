//! What the gateway host answers on connections that were redirected to it: the program that translates it
//! back, for as long as the policy or a connection needs it.

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use dataplane::io::host::{Attachment, HostError, HostProgram};
use dataplane::packet::{Address, V4, V6};
use dataplane::policy::{DestinationTranslation, Policy};
use dataplane::route::Fib;
use dataplane::worker::shared::{Punt, Shared, ToHost};

use crate::daemon::Steering;

/// The most redirected connections at a time; the kernel has room for an index of that many set aside.
const MAX_FLOWS: u32 = 1 << 20;
/// How often failures are logged.
const QUIET: Duration = Duration::from_secs(60);

/// The program, loaded when it is first needed.
pub(crate) struct Answers {
    shared: Arc<Shared>,
    steering: Arc<Steering>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    program: Option<HostProgram>,
    /// Whether the policy leads connections to the host.
    wanted: bool,
    /// Connections whose answers are translated.
    flows: usize,
    /// When a failure was last logged.
    told: Option<Instant>,
}

impl Answers {
    /// None yet.
    pub(crate) fn new(shared: Arc<Shared>, steering: Arc<Steering>) -> Self {
        Answers { shared, steering, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches the program if `policy` leads connections to the host. To be called before the policy is
    /// published, and when the host's addresses have changed.
    ///
    /// # Errors
    /// When the kernel refuses the program.
    pub(crate) fn ensure_attached(&self, policy: &Policy) -> anyhow::Result<()> {
        if leads_to_host(policy, &self.shared.current.load().fib) {
            let mut state = self.state();
            self.attach(&mut state, policy).context("answers of the gateway host could not be translated back")?;
            state.wanted = true;
            self.shared.host_answers.store(true, Ordering::Relaxed);
            // The punt thread polls one descriptor more.
            self.shared.punt_ready.signal();
        }
        Ok(())
    }

    /// Has the program go if `policy`, which is in force, does not lead connections to the host: as soon as the
    /// last of them has ended.
    pub(crate) fn settle(&self, policy: &Policy) {
        if !leads_to_host(policy, &self.shared.current.load().fib) {
            self.state().wanted = false;
            self.shared.host_answers.store(false, Ordering::Relaxed);
        }
    }

    fn attach(&self, state: &mut State, policy: &Policy) -> anyhow::Result<()> {
        if state.program.is_none() {
            let program = HostProgram::load(policy.max_connections.clamp(1, MAX_FLOWS))?;
            self.steering.set_redirected(&program)?;
            state.program = Some(program);
        }
        let Some(program) = &mut state.program else { return Ok(()) };
        program.heartbeat(crate::sys::monotonic_ns())?;
        policy.devices().iter().try_for_each(|(device, _)| Ok(program.attach(device, Attachment::of_kernel())?))
    }

    /// Gives a sign of life, and takes the program off when nothing needs it any more.
    pub(crate) fn heartbeat(&self) {
        let mut state = self.state();
        let idle = !state.wanted && state.flows == 0;
        let Some(p) = &mut state.program else { return };
        let done = if idle { p.detach() } else { p.heartbeat(crate::sys::monotonic_ns()) };
        if let Err(e) = done {
            tracing::warn!("{e}");
        }
    }

    /// Takes the program off all interfaces.
    pub(crate) fn detach(&self) {
        self.shared.host_answers.store(false, Ordering::Relaxed);
        if let Some(Err(e)) = self.state().program.as_mut().map(HostProgram::detach) {
            tracing::error!("{e}");
        }
    }

    /// The descriptor that can be read when the program has seen something.
    pub(crate) fn sights(&self) -> Option<RawFd> {
        self.state().program.as_ref().map(HostProgram::sights)
    }

    /// Tells the workers what the program has seen.
    pub(crate) fn pass_on_sights(&self) {
        let mut state = self.state();
        let Some(program) = &mut state.program else { return };
        while let Some(s) = program.next_sight() {
            let worker = usize::from(s.worker);
            if let Some(w) = self.shared.workers.get(worker) {
                // A worker that does not come round to it finds out by the client's packets, if later.
                let _ = w.sights.push(s);
                self.shared.wake(worker);
            }
        }
    }

    /// Takes in what the workers tell of connections, up to the next `max` frames, which are returned.
    pub(crate) fn next_frames(&self, max: usize) -> Vec<Punt> {
        let mut frames = Vec::new();
        let mut state = self.state();
        while frames.len() < max
            && let Some(message) = self.shared.to_host.pop()
        {
            let State { program, flows, told, .. } = &mut *state;
            let changed = match (message, program) {
                (ToHost::Frame(p), _) => {
                    frames.push(p);
                    continue;
                }
                (ToHost::Begins(flow, origin), Some(p)) => p.enter(&flow, &origin).map(|()| *flows += 1),
                (ToHost::Ends(flow, origin), Some(p)) => {
                    p.forget(&flow, &origin).map(|known| *flows -= usize::from(known))
                }
                // There can be no such connection without it.
                (_, None) => Ok(()),
            };
            if let Err(e) = changed {
                tell(told, &e);
            }
        }
        frames
    }
}

fn tell(told: &mut Option<Instant>, e: &HostError) {
    if told.is_none_or(|t| t.elapsed() > QUIET) {
        *told = Some(Instant::now());
        tracing::warn!("answers to redirected connections may leave with the gateway's own address: {e}");
    }
}

/// Whether connections may have their destination translated to an address of the host.
fn leads_to_host(policy: &Policy, fib: &Fib) -> bool {
    let local = |a: &IpAddr| match a {
        IpAddr::V4(_) => V4::from_ip(*a).is_some_and(|a| fib.is_local(a)),
        IpAddr::V6(_) => V6::from_ip(*a).is_some_and(|a| fib.is_local(a)),
    };
    policy.destination_nat.iter().any(|rule| match &rule.translate {
        DestinationTranslation::Redirect { .. } => true,
        DestinationTranslation::To { addresses, .. } => addresses.iter().any(local),
        DestinationTranslation::None | DestinationTranslation::Prefix(_) => false,
    })
}
