//! Ports: where frames come from and go to. AF_XDP in the daemon, memory in benches and tests, pcap files.

pub mod bpf;
pub mod ethtool;
mod eventfd;
mod frame;
pub mod host;
pub mod link;
pub mod memory;
pub mod pcap;
pub mod punt;
pub mod steer;
pub mod xsk;

pub use eventfd::EventFd;
pub use frame::{Frame, FramePool};

use std::os::fd::RawFd;

/// The most frames handled in one burst.
pub const BURST: usize = 64;

/// One queue of one interface, owned by one worker.
///
/// Every frame a port has taken from the pool is accounted for by [`Port::held`]. What a port implements only if
/// a kernel is behind it has a default.
pub trait Port {
    /// Appends up to `max` received frames to `out`. Also refills what the kernel receives into.
    fn receive(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize);

    /// Whether so much waits to be received that frames will soon be lost for want of room.
    fn lags(&mut self) -> bool {
        false
    }

    /// Queues a frame for sending. When the port cannot take it the frame is given back as the error.
    ///
    /// # Errors
    /// The frame itself, when the transmit ring is full.
    fn send(&mut self, pool: &mut FramePool, frame: Frame) -> Result<(), Frame>;

    /// Hands queued frames to the kernel (waking it when it asks for that) and takes back what it has
    /// sent. Called once per burst, and while [`Port::unsent`] says that frames are outstanding.
    fn flush(&mut self, _pool: &mut FramePool) {}

    /// Frames given to the kernel for sending and not yet completed.
    fn unsent(&self) -> usize {
        0
    }

    /// The descriptor to sleep on until frames arrive, where there is one.
    fn poll_fd(&self) -> Option<RawFd> {
        None
    }

    /// Frames of the pool that this port holds: in the fill, receive, transmit and completion rings.
    fn held(&self) -> Held {
        Held::default()
    }
}

/// Where a port's frames are, for the account that `status` gives of every frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// In the fill ring, in the kernel, or received and not yet read.
    pub receive: u32,
    /// Queued for sending, in the kernel, or sent and not yet taken back.
    pub transmit: u32,
}
