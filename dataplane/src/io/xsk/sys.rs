//! The system calls on AF_XDP sockets that xsk-rs does not wrap, or whose errors it hides.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::XskStatistics;

// From linux/if_xdp.h.
const XDP_STATISTICS: libc::c_int = 7;
const XDP_OPTIONS: libc::c_int = 8;
const XDP_OPTIONS_ZEROCOPY: u32 = 1;

/// Makes the kernel send from the transmit ring.
///
/// # Errors
/// `EAGAIN`, `ENOBUFS` and `EBUSY` when it has not sent everything; `ENETDOWN` or `ENXIO` when it cannot.
pub(super) fn send(socket: RawFd) -> io::Result<()> {
    // SAFETY: no bytes are sent from user memory and no address is given.
    let sent = unsafe { libc::sendto(socket, ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Tells a driver that sleeps for want of frames that the fill ring has some.
pub(super) fn wake_receive(socket: RawFd) {
    // SAFETY: no memory is passed. The call's only effect is the driver's wake-up; an error (interface
    // down) is met again at the next call.
    unsafe { libc::recvfrom(socket, ptr::null_mut(), 0, libc::MSG_DONTWAIT, ptr::null_mut(), ptr::null_mut()) };
}

/// Whether a bound socket works without copying.
pub(super) fn is_zero_copy(socket: RawFd) -> io::Result<bool> {
    let mut options = [0u32; 1];
    option(socket, XDP_OPTIONS, &mut options)?;
    Ok(options[0] & XDP_OPTIONS_ZEROCOPY != 0)
}

/// What the kernel counts for a socket.
pub(super) fn statistics(socket: RawFd) -> io::Result<XskStatistics> {
    // struct xdp_statistics; kernels before 5.9 fill in the first three only.
    let mut s = [0u64; 6];
    option(socket, XDP_STATISTICS, &mut s)?;
    Ok(XskStatistics {
        rx_dropped: s[0],
        rx_invalid: s[1],
        tx_invalid: s[2],
        rx_ring_full: s[3],
        fill_ring_empty: s[4],
        tx_ring_empty: s[5],
    })
}

fn option<T: Copy, const N: usize>(socket: RawFd, name: libc::c_int, value: &mut [T; N]) -> io::Result<()> {
    let mut length = size_of_val(value) as libc::socklen_t;
    // SAFETY: `value` is writable for `length` bytes, and the callers' integers may hold any bits.
    if unsafe { libc::getsockopt(socket, libc::SOL_XDP, name, value.as_mut_ptr().cast(), &mut length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A second descriptor of a port's socket, to read its statistics from another thread.
#[derive(Debug)]
pub struct Monitor(OwnedFd);

impl Monitor {
    pub(super) fn new(socket: RawFd) -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::fcntl(socket, libc::F_DUPFD_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made and belongs to nobody else.
        Ok(Monitor(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// What the kernel counts for the socket.
    ///
    /// # Errors
    /// When the socket cannot be asked.
    pub fn statistics(&self) -> io::Result<XskStatistics> {
        statistics(self.0.as_raw_fd())
    }
}
