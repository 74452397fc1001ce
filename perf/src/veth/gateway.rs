//! The gateways that are compared, each on the gateway's CPU.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use tempfile::TempDir;

use super::lab::{self, CLIENT_MAC, INSIDE_PORT, Lab, OUTSIDE_PORT, SERVER_MAC, enter, run};
use crate::sys;

/// The CPU of every gateway.
pub(super) const GATEWAY_CPU: usize = 1;
/// How long a gateway may take to start.
const START: Duration = Duration::from_secs(20);
/// How long it takes to run as before, after it was stopped.
const WAKING: Duration = Duration::from_millis(1100);
/// How long it may take to stop.
const STOP: Duration = Duration::from_secs(5);

/// What stands between the client and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// `sluice run`, one worker, masquerade
    Sluice,
    /// nftables masquerade, its NAPI threads on the gateway's CPU
    Kernel,
    /// Layer-2 forwarding over AF_XDP, without looking at the packets: the ceiling
    Forwarder,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Sluice => "sluice",
            Kind::Kernel => "kernel",
            Kind::Forwarder => "forwarder",
        })
    }
}

impl Kind {
    /// Whether packets leave with the gateway's address.
    pub(super) fn translates(self) -> bool {
        self != Kind::Forwarder
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
    KernelThreads(Vec<u32>),
}

impl Gateway {
    /// Makes the hosts and starts the gateway. `sluice` is the binary to run; with `busy`, what polls in user
    /// space never sleeps.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) fn start(kind: Kind, sluice: &Path, busy: bool) -> Result<Self> {
        let lab = Lab::new(&kind.to_string())?;
        let files = tempfile::Builder::new().prefix("sluice-perf").tempdir()?;
        let work = match kind {
            Kind::Sluice => Work::Process(start_sluice(&lab, sluice, files.path(), busy)?),
            Kind::Kernel => Work::KernelThreads(start_kernel(&lab)?),
            Kind::Forwarder => Work::Process(start_forwarder(&lab, busy)?),
        };
        let gateway = Gateway { kind, work, busy, lab, _files: files };
        drop(gateway.awake());
        Ok(gateway)
    }

    /// Lets it run, for as long as the answer lives; between measurements a busy gateway stands still.
    pub(super) fn awake(&self) -> Awake {
        let stopped = match &self.work {
            Work::Process(p) if self.busy => Some(p.0.id()),
            _ => None,
        };
        if let Some(pid) = stopped {
            sys::signal(pid, libc::SIGCONT);
            // Sluice steers the host's traffic to its worker again after its next sign of life.
            sleep(WAKING);
        }
        Awake(stopped)
    }

    /// CPU time that the gateway has used, in nanoseconds.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn cpu_ns(&self) -> Result<u64> {
        match &self.work {
            Work::Process(p) => {
                let threads = fs::read_dir(format!("/proc/{}/task", p.0.id())).context("the gateway has ended")?;
                threads.map(|t| run_time(&t?.path())).sum()
            }
            Work::KernelThreads(threads) => threads.iter().map(|t| run_time(Path::new(&format!("/proc/{t}")))).sum(),
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

/// proc_pid_schedstat: the first number is the time on the CPU, in nanoseconds.
fn run_time(thread: &Path) -> Result<u64> {
    let text = fs::read_to_string(thread.join("schedstat")).context("the gateway has ended")?;
    text.split_whitespace().next().and_then(|n| n.parse().ok()).context("/proc has no schedstat figures")
}

/// A child process that ends with this value.
pub(super) struct Process(Child);

impl Process {
    /// Starts it; it has nothing to read.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Process(child))
    }

    /// Starts a tool that prints a line once it is ready, and waits for that.
    ///
    /// # Errors
    /// When it cannot be started, or ends without that line.
    pub(super) fn start_ready(command: &mut Command) -> Result<Self> {
        let mut p = Process::start(command.stdout(Stdio::piped()))?;
        let mut line = String::new();
        BufReader::new(p.0.stdout.take().context("no pipe")?).read_line(&mut line)?;
        ensure!(!line.is_empty(), "{command:?} has ended");
        Ok(p)
    }

    /// Waits until it listens on a TCP port, over IPv4.
    ///
    /// # Errors
    /// When it ends, or takes too long.
    pub(super) fn wait_for_port(&mut self, port: u16) -> Result<()> {
        let deadline = Instant::now() + START;
        // proc_pid_net: the local address and port in hexadecimal, the remote ones, and LISTEN as 0A.
        let local = format!(":{port:04X}");
        let listens = |line: &str| {
            let f: Vec<&str> = line.split_whitespace().collect();
            f.len() > 3 && f[1].ends_with(&local) && f[3] == "0A"
        };
        loop {
            let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", self.0.id())).unwrap_or_default();
            if sockets.lines().any(listens) {
                return Ok(());
            }
            ensure!(self.0.try_wait()?.is_none(), "it has ended");
            ensure!(Instant::now() < deadline && !sys::stopped(), "it does not listen on port {port}");
            sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        sys::signal(self.0.id(), libc::SIGTERM);
        // It may have been stopped.
        sys::signal(self.0.id(), libc::SIGCONT);
        let deadline = Instant::now() + STOP;
        while matches!(self.0.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.0.kill();
            }
            sleep(Duration::from_millis(10));
        }
    }
}

/// The command that runs a program on a CPU, in a namespace. Both helpers replace themselves with it: its
/// process number is the child's.
pub(super) fn command(namespace: &str, cpu: usize, program: &Path, arguments: &[&str]) -> Command {
    let mut c = Command::new("nsenter");
    c.args([&enter(namespace), "taskset", "-c", &cpu.to_string()]).arg(program).args(arguments);
    c
}

fn start_forwarder(lab: &Lab, busy: bool) -> Result<Process> {
    lab::set(&lab.gateway(), "ipv4/ip_forward", "0")?;
    let sides = [format!("{INSIDE_PORT}={CLIENT_MAC}"), format!("{OUTSIDE_PORT}={SERVER_MAC}")];
    let mut arguments = vec!["forward", &sides[0], &sides[1]];
    arguments.extend(busy.then_some("--busy"));
    Process::start_ready(&mut command(&lab.gateway(), GATEWAY_CPU, &std::env::current_exe()?, &arguments))
}

fn start_sluice(lab: &Lab, binary: &Path, files: &Path, busy: bool) -> Result<Process> {
    lab::set(&lab.gateway(), "ipv4/ip_forward", "0")?;
    let path = |name: &str| -> PathBuf { files.join(name) };
    let (config, socket, log) = (path("sluice.yaml"), path("control.sock"), path("sluice.log"));
    fs::write(&config, policy(&socket, busy))?;
    let arguments = ["run", "--config", &config.to_string_lossy()];
    let out = File::create(&log)?;
    let mut daemon = command(&lab.gateway(), GATEWAY_CPU, binary, &arguments);
    let mut p = Process::start(daemon.stdout(out.try_clone()?).stderr(out))?;
    let deadline = Instant::now() + START;
    let ended = |why: &str| {
        let log = fs::read_to_string(&log).unwrap_or_default();
        anyhow::anyhow!("{} run {why}:\n{}", binary.display(), log.trim())
    };
    loop {
        let status = Command::new(binary)
            .args(["status", "--socket"])
            .arg(&socket)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        if status.success() {
            return Ok(p);
        }
        if p.0.try_wait()?.is_some() {
            return Err(ended("has ended"));
        }
        if Instant::now() > deadline || sys::stopped() {
            return Err(ended("is not ready: `sluice status` still fails"));
        }
        sleep(Duration::from_millis(50));
    }
}

fn policy(socket: &Path, busy: bool) -> String {
    let poll = if busy { "busy" } else { "adaptive" };
    format!(
        "version: 1
interfaces:
  lan: {{ device: {INSIDE_PORT}, zone: inside }}
  wan: {{ device: {OUTSIDE_PORT}, zone: outside }}
workers: {{ count: 1, cpus: [{GATEWAY_CPU}], poll: {poll} }}
nat:
  source:
    - {{ name: internet, from: inside, to: outside, match: {{ source: 10.81.0.0/16 }}, translate: masquerade }}
policy:
  default: drop
  rules:
    - {{ name: invalid,     match: {{ state: invalid }},                action: drop }}
    - {{ name: established, match: {{ state: [established, related] }}, action: accept }}
    - {{ name: lan-out,     match: {{ from: inside, to: outside }},     action: accept }}
control: {{ socket: {}, metrics: off }}
",
        socket.display()
    )
}

/// The same policy.
const RULES: &str = "
table ip bench {
  chain translate {
    type nat hook postrouting priority srcnat; policy accept;
    oifname d1 ip saddr 10.81.0.0/16 masquerade
  }
  chain transit {
    type filter hook forward priority filter; policy drop;
    ct state invalid drop
    ct state established,related accept
    iifname d0 oifname d1 accept
  }
}
";

fn start_kernel(lab: &Lab) -> Result<Vec<u32>> {
    let ns = lab.gateway();
    lab::set(&ns, "ipv4/ip_forward", "1")?;
    lab::feed(Command::new("nsenter").args([&enter(&ns), "nft", "-f", "-"]), RULES)?;
    let before = napi_threads()?;
    for port in [INSIDE_PORT, OUTSIDE_PORT] {
        // `ip netns exec` rather than nsenter: /sys shows the devices of the namespace it was mounted in.
        let script = format!("echo 1 > /sys/class/net/{port}/threaded");
        run(Command::new("ip").args(["netns", "exec", &ns, "sh", "-c", &script]))?;
    }
    let threads: Vec<u32> = napi_threads()?.difference(&before).copied().collect();
    if threads.is_empty() {
        bail!("the kernel made no NAPI threads for {ns}");
    }
    for t in &threads {
        let t = t.to_string();
        run(Command::new("taskset").args(["-p", "-c", &GATEWAY_CPU.to_string(), &t]))?;
        // The other gateways inherit this process's niceness.
        run(Command::new("renice").args(["-n", &sys::niceness().to_string(), "-p", &t]))?;
    }
    Ok(threads)
}

fn napi_threads() -> Result<BTreeSet<u32>> {
    let mut threads = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if let Ok(pid) = entry.file_name().to_string_lossy().parse()
            && name.starts_with("napi/")
        {
            threads.insert(pid);
        }
    }
    Ok(threads)
}
