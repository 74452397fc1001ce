//! The few system calls that the standard library does not offer.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// Waits until one of `fds` can be read or `timeout` has passed; whether one can be read, or has ended. Signals may
/// end the wait early.
pub(crate) fn readable(fds: &[RawFd], timeout: Duration) -> bool {
    let mut polled: Vec<libc::pollfd> =
        fds.iter().map(|fd| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 }).collect();
    let ms = i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    // SAFETY: `polled` is an array of that many valid pollfd.
    unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, ms) > 0 }
}

/// CLOCK_MONOTONIC in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid timespec; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Lets others that share a CPU with the calling thread go first, for the most part.
///
/// # Errors
/// When the system refuses.
pub(crate) fn give_way() -> io::Result<()> {
    const NICENESS: libc::c_int = 15;
    // SAFETY: no pointers are passed. Linux keeps a niceness for each thread; 0 is the calling one.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Lets SIGINT and SIGTERM end the process at once from here on.
pub(crate) fn default_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: SIG_DFL is a valid disposition for both.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
