//! The gateways that are compared, all but one on the gateway's CPU.

mod kernel;
mod openvswitch;
mod redirect;
pub(super) mod sluice;

use std::fmt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use tempfile::TempDir;

use self::redirect::Redirect;
use super::lab::{self, CLIENT_MAC, INSIDE_PORT, Lab, OUTSIDE_PORT, SERVER_MAC};
use super::process::{Process, command, run_time};
use crate::sys;

/// The CPU of every gateway but [`Kind::KernelSoftirq`].
pub(super) const GATEWAY_CPU: usize = 1;
/// How long it takes to run as before, after it was stopped.
const WAKING: Duration = Duration::from_millis(1100);

/// What stands between the client and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// `sluice run`, one worker, masquerade
    Sluice,
    /// nftables masquerade, its NAPI threads on the gateway's CPU
    Kernel,
    /// The same as it is when nobody configures NAPI: its work is done in the softirq of whoever sends, on the hosts'
    /// CPU. A generator of UDP would measure itself; so TCP and round trips only
    KernelSoftirq,
    /// Open vSwitch's user space datapath on AF_XDP, connection tracking and SNAT
    Openvswitch,
    /// Layer-2 forwarding over AF_XDP, without looking at the packets: the ceiling of AF_XDP
    Forwarder,
    /// Layer-2 forwarding by an XDP program in the kernel: the ceiling of the wire
    Redirect,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Sluice => "sluice",
            Kind::Kernel => "kernel",
            Kind::KernelSoftirq => "kernel-softirq",
            Kind::Openvswitch => "openvswitch",
            Kind::Forwarder => "forwarder",
            Kind::Redirect => "redirect",
        })
    }
}

impl Kind {
    /// Whether packets leave with the gateway's address.
    pub(super) fn translates(self) -> bool {
        !matches!(self, Kind::Forwarder | Kind::Redirect)
    }

    /// Whether it works on another CPU than the hosts.
    pub(super) fn has_own_cpu(self) -> bool {
        self != Kind::KernelSoftirq
    }
}

/// A running gateway with its hosts.
pub(super) struct Gateway {
    pub(super) kind: Kind,
    work: Work,
    /// It would take the CPU from the others while they are measured.
    busy: bool,
    // The last to be dropped: the processes end before their namespaces.
    pub(super) lab: Lab,
    _files: TempDir,
}

/// Who does the work, and is charged for it.
enum Work {
    Process(Process),
    /// With what else it needs to run.
    Switch(Process, #[expect(dead_code, reason = "lives as long as the switch")] Process),
    KernelThreads(Vec<u32>),
    /// Nobody else than the hosts.
    Hosts,
    Redirect(Vec<u32>, #[expect(dead_code, reason = "detaches the program when dropped")] Redirect),
}

impl Gateway {
    /// Makes the hosts and starts the gateway. `sluice` is the binary to run; with `busy`, what polls in user
    /// space never sleeps, as Open vSwitch never does.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) fn start(kind: Kind, sluice: &Path, busy: bool) -> Result<Self> {
        let lab = Lab::new(&kind.to_string(), 1)?;
        let files = tempfile::Builder::new().prefix("sluice-perf").tempdir()?;
        if !matches!(kind, Kind::Kernel | Kind::KernelSoftirq) {
            lab::set(&lab.gateway(), "ipv4/ip_forward", "0")?;
        }
        let work = match kind {
            Kind::Sluice => Work::Process(sluice::start(&lab, sluice, files.path(), Some(GATEWAY_CPU), busy)?),
            Kind::Kernel => {
                kernel::masquerade(&lab)?;
                Work::KernelThreads(kernel::napi_on_gateway_cpu(&lab)?)
            }
            Kind::KernelSoftirq => {
                kernel::masquerade(&lab)?;
                Work::Hosts
            }
            Kind::Openvswitch => {
                let (switch, database) = openvswitch::start(&lab, files.path())?;
                Work::Switch(switch, database)
            }
            Kind::Forwarder => Work::Process(start_forwarder(&lab, busy)?),
            Kind::Redirect => {
                let redirect = Redirect::attach(&lab)?;
                Work::Redirect(kernel::napi_on_gateway_cpu(&lab)?, redirect)
            }
        };
        let gateway = Gateway { kind, work, busy: busy || kind == Kind::Openvswitch, lab, _files: files };
        drop(gateway.awake());
        Ok(gateway)
    }

    /// Lets it run, for as long as the answer lives; between measurements a busy gateway stands still.
    pub(super) fn awake(&self) -> Awake {
        let stopped = match &self.work {
            Work::Process(p) | Work::Switch(p, _) if self.busy => Some(p.id()),
            _ => None,
        };
        if let Some(pid) = stopped {
            sys::signal(pid, libc::SIGCONT);
            // Sluice steers the host's traffic to its worker again after its next sign of life.
            sleep(WAKING);
        }
        Awake(stopped)
    }

    /// CPU time that the gateway has used, in nanoseconds, besides that of the hosts.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn cpu_ns(&self) -> Result<u64> {
        match &self.work {
            Work::Process(p) | Work::Switch(p, _) => p.cpu_ns(),
            Work::KernelThreads(threads) | Work::Redirect(threads, _) => {
                threads.iter().map(|t| run_time(Path::new(&format!("/proc/{t}")))).sum()
            }
            Work::Hosts => Ok(0),
        }
    }
}

/// While it lives, a gateway runs; then its process stands still, if there is one.
pub(super) struct Awake(Option<u32>);

impl Drop for Awake {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            sys::signal(pid, libc::SIGSTOP);
        }
    }
}

fn start_forwarder(lab: &Lab, busy: bool) -> Result<Process> {
    let sides = [format!("{INSIDE_PORT}={CLIENT_MAC}"), format!("{OUTSIDE_PORT}={SERVER_MAC}")];
    let mut arguments = vec!["forward", &sides[0], &sides[1]];
    arguments.extend(busy.then_some("--busy"));
    Process::start_ready(&mut command(&lab.gateway(), GATEWAY_CPU, &std::env::current_exe()?, &arguments))
}
