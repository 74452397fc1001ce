//! Programs that run as long as a value lives.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::lab::enter;
use crate::sys;

/// How long one may take to start.
pub(super) const START: Duration = Duration::from_secs(20);
/// How long it may take to stop.
const STOP: Duration = Duration::from_secs(5);

/// A child process that ends with this value.
pub(super) struct Process(Child);

impl Process {
    /// Its process number.
    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(super) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }

    /// CPU time that its threads have used, in nanoseconds.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn cpu_ns(&self) -> Result<u64> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.0.id())).context("it has ended")?;
        threads.map(|t| run_time(&t?.path())).sum()
    }

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

/// The command that runs a program in a namespace, on any CPU.
pub(super) fn anywhere(namespace: &str, program: &Path, arguments: &[&str]) -> Command {
    let mut c = Command::new("nsenter");
    c.arg(enter(namespace)).arg(program).args(arguments);
    c
}

/// The command that runs a program on a CPU, in a namespace. Both helpers replace themselves with it: its
/// process number is the child's.
pub(super) fn command(namespace: &str, cpu: usize, program: &Path, arguments: &[&str]) -> Command {
    let mut c = Command::new("nsenter");
    c.args([&enter(namespace), "taskset", "-c", &cpu.to_string()]).arg(program).args(arguments);
    c
}

/// CPU time that a thread has used, in nanoseconds: proc_pid_schedstat, the first number.
///
/// # Errors
/// When it has ended.
pub(super) fn run_time(thread: &Path) -> Result<u64> {
    let text = fs::read_to_string(thread.join("schedstat")).context("the gateway has ended")?;
    text.split_whitespace().next().and_then(|n| n.parse().ok()).context("/proc has no schedstat figures")
}
