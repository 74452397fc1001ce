//! The system calls that the standard library does not wrap.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// From now on SIGINT and SIGTERM do not end the process, but are seen by [`stopped`].
pub(crate) fn stop_on_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler.
        unsafe { libc::signal(signal, stop as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
}

/// Whether a signal asked the process to end.
pub(crate) fn stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Whether the process runs as root.
pub(crate) fn is_root() -> bool {
    // SAFETY: the call has no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// The process's niceness.
pub(crate) fn niceness() -> i32 {
    // SAFETY: no pointers are passed, and a process may always ask about itself.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

/// Sends a signal to a child process.
pub(crate) fn signal(pid: u32, signal: i32) {
    // SAFETY: no pointers are passed; a process that is gone is no error here.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// Moves the calling thread into a network namespace made by `ip netns add`.
///
/// # Errors
/// When there is no such namespace or the process lacks CAP_SYS_ADMIN.
pub(crate) fn enter(namespace: &str) -> Result<()> {
    let file = File::open(format!("/run/netns/{namespace}")).with_context(|| format!("no namespace {namespace}"))?;
    // SAFETY: no pointers are passed.
    let r = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    ensure!(r == 0, "cannot enter the namespace {namespace}: {}", io::Error::last_os_error());
    Ok(())
}

/// Pins the calling thread to a CPU.
///
/// # Errors
/// When the process may not use that CPU.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    ensure!(core_affinity::set_for_current(core_affinity::CoreId { id: cpu }), "cannot run on CPU {cpu}");
    Ok(())
}

/// CPU time that the calling thread has used.
pub(crate) fn thread_time() -> Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is writable. The clock exists on every Linux, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// Sleeps until one of the descriptors is readable, or some milliseconds have passed.
pub(crate) fn wait_readable(descriptors: &[RawFd], milliseconds: i32) {
    let mut fds: Vec<libc::pollfd> =
        descriptors.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    // SAFETY: `fds` is a valid array of that length. Errors (EINTR) end the sleep, which is harmless.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, milliseconds) };
}
