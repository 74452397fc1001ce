//! Why steering fails, in words an operator can act on.

use thiserror::Error;

use super::MAX_QUEUES;
use crate::io::bpf::{BpfError, CAPABILITIES};
use crate::io::link::{Refused, XdpMode};

/// Why steering could not be set up or changed.
#[derive(Debug, Error)]
pub enum SteerError {
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
    /// Its frames have no Ethernet header.
    #[error("{device} is not an Ethernet device, and AF_XDP steering needs one")]
    NotEthernet {
        /// The device's name.
        device: String,
    },
    /// Somebody else's XDP program is attached.
    #[error(
        "{device} already has an XDP program that is not Sluice's: id {id}, {name}; stop what attached it, or detach \
         it with `ip link set dev {device} {off} off`"
    )]
    Foreign {
        /// The device's name.
        device: String,
        /// The program's id, as in `bpftool prog show id`.
        id: u32,
        /// Its name, or why it is not known.
        name: String,
        /// What `ip link` calls the mode it is attached in.
        off: &'static str,
    },
    /// The process lacks capabilities.
    #[error("attaching an XDP program to {device} is not permitted: {CAPABILITIES}")]
    NotPermitted {
        /// The device's name.
        device: String,
    },
    /// The kernel does not attach the program.
    #[error("cannot attach the XDP program to {device} in {mode} mode: {cause}{hint}")]
    Attach {
        /// The device's name.
        device: String,
        /// The mode that was tried last.
        mode: XdpMode,
        /// The kernel's answer.
        cause: Refused,
        /// What may help.
        hint: &'static str,
    },
    /// The kernel does not detach the program.
    #[error("cannot detach the XDP program from {device}: {cause}; use `ip link set dev {device} xdp off`")]
    Detach {
        /// The device's name.
        device: String,
        /// The kernel's answer.
        cause: Refused,
    },
    /// The host has more addresses than the program has room for.
    #[error("the host has more than 4096 addresses of one family, which is the most steering can tell apart")]
    TooManyAddresses,
    /// The queue's number is out of range.
    #[error("queue {queue} of {device} is out of range: at most {MAX_QUEUES} queues are supported")]
    Queue {
        /// The device's name.
        device: String,
        /// The queue.
        queue: u32,
    },
    /// The program or one of its maps cannot be used.
    #[error(transparent)]
    Bpf(#[from] BpfError),
}
