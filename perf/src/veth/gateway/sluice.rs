//! Sluice itself.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::sys;
use crate::veth::idle::IDLE_WORKERS;
use crate::veth::lab::{INSIDE_PORT, Lab, OUTSIDE_PORT};
use crate::veth::process::{Process, START, anywhere, command};

/// Starts `sluice run` with one worker on a CPU, or with one for each queue where none is named, and waits until
/// packets flow.
///
/// # Errors
/// With the daemon's log when it does not get there.
pub(in crate::veth) fn start(
    lab: &Lab,
    binary: &Path,
    files: &Path,
    cpu: Option<usize>,
    busy: bool,
) -> Result<Process> {
    let path = |name: &str| -> PathBuf { files.join(name) };
    let (config, socket, log) = (path("sluice.yaml"), path("control.sock"), path("sluice.log"));
    fs::write(&config, policy(&socket, cpu, busy))?;
    let arguments = ["run", "--config", &config.to_string_lossy()];
    let out = File::create(&log)?;
    let mut daemon = match cpu {
        Some(cpu) => command(&lab.gateway(), cpu, binary, &arguments),
        None => anywhere(&lab.gateway(), binary, &arguments),
    };
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
        if p.has_ended()? {
            return Err(ended("has ended"));
        }
        if Instant::now() > deadline || sys::stopped() {
            return Err(ended("is not ready: `sluice status` still fails"));
        }
        sleep(Duration::from_millis(50));
    }
}

fn policy(socket: &Path, cpu: Option<usize>, busy: bool) -> String {
    let poll = if busy { "busy" } else { "adaptive" };
    let workers = cpu.map_or(format!("count: {IDLE_WORKERS}"), |cpu| format!("count: 1, cpus: [{cpu}]"));
    format!(
        "version: 1
interfaces:
  lan: {{ device: {INSIDE_PORT}, zone: inside }}
  wan: {{ device: {OUTSIDE_PORT}, zone: outside }}
workers: {{ {workers}, poll: {poll} }}
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
