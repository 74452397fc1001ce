//! Why AF_XDP sockets cannot be had, in words an operator can act on.

use std::io;

use thiserror::Error;

use crate::io::bpf::CAPABILITIES;
use crate::io::link::Refused;

/// Why a worker's sockets could not be had.
#[derive(Debug, Error)]
pub enum IoError {
    /// There is no such device.
    #[error("there is no device {device}: check `ip link`")]
    NoDevice {
        /// The device's name.
        device: String,
    },
    /// The device cannot be asked about.
    #[error("cannot ask the kernel about {device}: {cause}")]
    Query {
        /// The device's name.
        device: String,
        /// The kernel's answer.
        cause: Refused,
    },
    /// A worker would have no queue of this device.
    #[error(
        "{device} has {queues} receive queue(s), too few for {workers} worker(s): `ethtool -L {device} combined \
         {workers}` (create both ends of a veth with `numrxqueues {workers} numtxqueues {workers}`), or set \
         `workers.count` to {queues}"
    )]
    TooFewQueues {
        /// The device's name.
        device: String,
        /// How many queues it has.
        queues: u32,
        /// How many workers need one.
        workers: u32,
    },
    /// A queue of this device would have no worker.
    #[error(
        "{device} has {queues} receive queues and only {workers} worker(s) would read them: `ethtool -L {device} \
         combined {workers}`, or set `workers.count` to {queues}"
    )]
    TooManyQueues {
        /// The device's name.
        device: String,
        /// How many queues it has.
        queues: u32,
        /// How many workers there are.
        workers: u32,
    },
    /// The device's packets do not fit a frame.
    #[error("{device} has an MTU of {mtu} bytes, and AF_XDP takes at most {limit}: `ip link set {device} mtu {limit}`")]
    Mtu {
        /// The device's name.
        device: String,
        /// Its MTU in bytes.
        mtu: u32,
        /// The largest that fits, in bytes.
        limit: u32,
    },
    /// The configured number of frames cannot work.
    #[error("`io.frames: {frames}` is too few for {interfaces} interface(s): at least {least} are needed")]
    TooFewFrames {
        /// The configured number.
        frames: u32,
        /// How many interfaces share the frames.
        interfaces: usize,
        /// The least that works.
        least: u32,
    },
    /// Another socket has the queue.
    #[error(
        "queue {queue} of {device} is taken by another AF_XDP socket: is another gateway running on it? `ss --xdp -p` \
         lists the sockets"
    )]
    Busy {
        /// The device's name.
        device: String,
        /// The queue.
        queue: u32,
    },
    /// Zero-copy was asked for and the driver does not have it.
    #[error("{device} has no zero-copy AF_XDP ({cause}): use `io.mode: auto` or `copy`")]
    NoZeroCopy {
        /// The device's name.
        device: String,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// The process lacks capabilities.
    #[error("opening AF_XDP sockets is not permitted: {CAPABILITIES}")]
    NotPermitted,
    /// The frames' memory cannot be had.
    #[error("cannot make a UMEM of {frames} frames of {size} bytes: {cause}; lower `io.frames`")]
    Umem {
        /// How many frames.
        frames: u32,
        /// The size of each in bytes.
        size: u32,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// The kernel does not bind the socket.
    #[error("cannot bind an AF_XDP socket to queue {queue} of {device}: {cause}")]
    Bind {
        /// The device's name.
        device: String,
        /// The queue.
        queue: u32,
        /// The kernel's answer.
        cause: io::Error,
    },
}
