//! What the machine's own connections take of what translations may choose from.

use std::net::{IpAddr, UdpSocket};

/// The machine that a policy is read on.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    /// The ports its own connections take, both ends inclusive.
    pub ports: Option<(u16, u16)>,
    /// Whether an address is one of its own.
    pub owns: fn(IpAddr) -> bool,
}

impl Host {
    /// The machine this runs on, as it is now.
    pub fn here() -> Self {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let mut ports = text.split_whitespace().map_while(|p| p.parse().ok());
        let ports = ports.next().zip(ports.next());
        // The kernel binds sockets to no other addresses.
        Host { ports, owns: |a| UdpSocket::bind((a, 0)).is_ok() }
    }

    /// A machine of which nothing is known.
    pub(crate) fn unknown() -> Self {
        Host { ports: None, owns: |_| false }
    }
}
