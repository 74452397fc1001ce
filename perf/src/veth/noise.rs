//! What else the machine does: CPU time of processes that have nothing to do with the measurement.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

/// More than this much of one CPU spoils a measurement.
pub(super) const LIMIT: f64 = 0.10;

/// `PF_KTHREAD` in include/linux/sched.h.
const KERNEL_THREAD: u64 = 0x0020_0000;
/// Clock ticks a second, as /proc counts (`USER_HZ`).
const TICKS: f64 = 100.0;

/// CPU time that other processes have used so far.
pub(super) struct Snapshot {
    at: Instant,
    /// By process number, in ticks.
    foreign: HashMap<u32, u64>,
}

struct Process {
    parent: u32,
    kernel: bool,
    ticks: u64,
}

impl Snapshot {
    /// The state of now.
    pub(super) fn now() -> Self {
        let mut all = HashMap::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_string_lossy().parse::<u32>();
            if let Ok(pid) = pid
                && let Some(p) = read(pid)
            {
                all.insert(pid, p);
            }
        }
        let own = std::process::id();
        let is_own = |mut pid: u32| {
            while pid != own {
                match all.get(&pid) {
                    Some(p) if p.parent != 0 => pid = p.parent,
                    _ => return false,
                }
            }
            true
        };
        let foreign =
            all.iter().filter(|(pid, p)| !p.kernel && !is_own(**pid)).map(|(pid, p)| (*pid, p.ticks)).collect();
        Snapshot { at: Instant::now(), foreign }
    }

    /// How much of one CPU others have used since then.
    pub(super) fn since(&self) -> f64 {
        let now = Snapshot::now();
        let before = |pid| self.foreign.get(pid).copied().unwrap_or(0);
        let ticks: u64 = now.foreign.iter().map(|(pid, t)| t.saturating_sub(before(pid))).sum();
        ticks as f64 / TICKS / (now.at - self.at).as_secs_f64()
    }
}

fn read(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc(5): the second field, the name, is in parentheses and may hold anything.
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let number = |nth: usize| fields.get(nth - 3)?.parse::<u64>().ok();
    Some(Process {
        parent: number(4)? as u32,
        kernel: number(9)? & KERNEL_THREAD != 0,
        ticks: number(14)? + number(15)?,
    })
}

/// Waits until the others are quiet, for some time at most.
pub(super) fn wait_for_quiet(patience: Duration) {
    let deadline = Instant::now() + patience;
    loop {
        let s = Snapshot::now();
        std::thread::sleep(Duration::from_millis(200));
        if s.since() < LIMIT || Instant::now() > deadline || crate::sys::stopped() {
            return;
        }
    }
}
