//! The traffic control program that translates back what the gateway host answers on redirected connections.
//!
//! A worker translates the destination of such a connection to an address of the host and hands its packets
//! to the kernel ([`super::punt`]). The answers leave through the kernel, and `bpf/host.bpf.c`, attached to
//! the way out of each interface, gives them the source that the client knows. [`HostProgram::enter`] tells it
//! of a connection, [`HostProgram::forget`] that it has gone, and [`HostProgram::next_sight`] what it has seen.
//!
//! The program is attached with a TCX link, which goes with the process, or on kernels before 6.6 as a filter of
//! a `clsact` queueing discipline, which a crash leaves behind: it then finds no sign of life and lets
//! everything pass, until the next start replaces it. Dropping a `HostProgram` detaches it everywhere.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, RawFd};

use aya::maps::{Array, HashMap, MapData, MapError, RingBuf};
use aya::programs::tc::{NlOptions, SchedClassifierLinkId, TcAttachOptions, TcError};
use aya::programs::{LinkOrder, ProgramError, TcAttachType, tc};
use aya::util::KernelVersion;
use thiserror::Error;

use super::bpf::{BpfError, CAPABILITIES, Loaded};
use crate::packet::protocol;

/// The program's name in the kernel.
pub const PROGRAM: &str = "sluice_host";

/// The host's answers on one connection, as it sends them. For ICMP queries the host's port is the identifier
/// and the client's port type and code; protocols without ports have zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostFlow {
    /// Transport protocol number.
    pub protocol: u8,
    /// The host's address and port.
    pub host: (IpAddr, u16),
    /// The client's address and port.
    pub client: (IpAddr, u16),
}

/// What a [`HostFlow`] becomes on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The address and port that the client has sent to.
    pub host: (IpAddr, u16),
    /// The port that it has sent from.
    pub client_port: u16,
    /// The worker that owns the connection, for [`Sight`].
    pub worker: u16,
}

/// What the program has seen of a connection's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// The connection.
    pub flow: HostFlow,
    /// The worker that owns it.
    pub worker: u16,
    /// The answer was a TCP segment with FIN.
    pub finished: bool,
    /// The answer was a TCP segment with RST.
    pub reset: bool,
}

/// How the program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// As a link that goes with the process (Linux 6.6).
    Tcx,
    /// As a filter of a `clsact` queueing discipline.
    Clsact,
}

impl Attachment {
    /// The best that this kernel has.
    pub fn of_kernel() -> Self {
        let has_tcx = KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(6, 6, 0));
        if has_tcx { Attachment::Tcx } else { Attachment::Clsact }
    }
}

/// Why the host's answers cannot be translated back.
#[derive(Debug, Error)]
pub enum HostError {
    /// The program or one of its maps cannot be used.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// The kernel does not attach the program.
    #[error(
        "cannot attach the traffic control program that redirections to the gateway host need to {device}: {reason}"
    )]
    Attach {
        /// The device's name.
        device: String,
        /// The whole chain of causes.
        reason: String,
    },
}

/// The connections that the program knows.
pub(super) type Flows = HashMap<MapData, [u8; FLOW], [u8; ORIGIN]>;

/// The loaded program with its maps, for all interfaces together.
pub struct HostProgram {
    loaded: Loaded,
    flows: Flows,
    heartbeat: Array<MapData, u64>,
    events: RingBuf<MapData>,
    links: Vec<(String, SchedClassifierLinkId)>,
}

impl HostProgram {
    /// Loads the program for up to `max_flows` connections without attaching it.
    ///
    /// # Errors
    /// When the program cannot be loaded.
    pub fn load(max_flows: u32) -> Result<Self, HostError> {
        let object = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/host.bpf.o"));
        let mut loaded = Loaded::classifier(object, PROGRAM, ("flows", max_flows))?;
        Ok(HostProgram {
            flows: loaded.map("flows")?,
            heartbeat: loaded.map("heartbeat")?,
            events: loaded.map("events")?,
            links: Vec::new(),
            loaded,
        })
    }

    /// Attaches the program to the way out of a device, unless it is attached there. What an earlier daemon left
    /// behind is replaced. Give a sign of life before.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&mut self, device: &str, how: Attachment) -> Result<(), HostError> {
        if self.links.iter().any(|(d, _)| d == device) {
            return Ok(());
        }
        let failed = |e: &(dyn std::error::Error + 'static)| match BpfError::new("", e) {
            BpfError::NotPermitted { .. } => {
                HostError::Attach { device: device.into(), reason: format!("not permitted: {CAPABILITIES}") }
            }
            BpfError::Failed { reason, .. } => HostError::Attach { device: device.into(), reason },
        };
        let options = match how {
            Attachment::Tcx => TcAttachOptions::TcxOrder(LinkOrder::default()),
            Attachment::Clsact => {
                match tc::qdisc_add_clsact(device) {
                    Err(e) if !exists(&e) => return Err(failed(&e)),
                    _ => {}
                }
                // Whatever keeps a stale filter from being found or taken away, it does no harm beside the new one.
                let _ = tc::qdisc_detach_program(device, TcAttachType::Egress, PROGRAM);
                TcAttachOptions::Netlink(NlOptions::default())
            }
        };
        let program = self.loaded.traffic_control()?;
        let link =
            program.attach_with_options(device, TcAttachType::Egress, options).map_err(|e: ProgramError| failed(&e))?;
        self.links.push((device.into(), link));
        Ok(())
    }

    /// Takes the program off all devices. A device that is gone is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&mut self) -> Result<(), HostError> {
        let program = self.loaded.traffic_control()?;
        for (device, link) in self.links.drain(..) {
            match program.detach(link) {
                Err(e) if !gone(&e) => {
                    return Err(BpfError::new(format!("detaching {PROGRAM} from {device}"), &e).into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The devices that the program is attached to.
    pub fn devices(&self) -> impl Iterator<Item = &str> {
        self.links.iter().map(|(d, _)| d.as_str())
    }

    pub(super) fn flows(&self) -> &Flows {
        &self.flows
    }

    /// Has the answers on a connection translated from now on.
    ///
    /// # Errors
    /// When there are too many connections, or the kernel is out of memory.
    pub fn enter(&mut self, flow: &HostFlow, origin: &Origin) -> Result<(), HostError> {
        let mut insert = |key| self.flows.insert(key, origin.encode(), 0);
        let entered = flow.asked_directly(origin).map_or(Ok(()), |asked| insert(asked.diverted()));
        let entered = entered.and_then(|()| insert(flow.encode()));
        entered.map_err(|e| BpfError::new("entering a redirected connection", &e).into())
    }

    /// Ends the translation of a connection's answers. Returns whether it was known.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forget(&mut self, flow: &HostFlow, origin: &Origin) -> Result<bool, HostError> {
        let mut remove = |key| match self.flows.remove(&key) {
            Ok(()) => Ok(true),
            Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(false),
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(BpfError::new("removing a redirected connection", &e)),
        };
        if let Some(asked) = flow.asked_directly(origin) {
            remove(asked.diverted())?;
        }
        Ok(remove(flow.encode())?)
    }

    /// Shows that the daemon is alive; `now` is CLOCK_MONOTONIC in nanoseconds. When this stops for 3 seconds
    /// everything the host sends passes untouched.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn heartbeat(&mut self, now: u64) -> Result<(), HostError> {
        self.heartbeat.set(0, now, 0).map_err(|e| BpfError::new("writing the heartbeat", &e).into())
    }

    /// What the program has seen since; to be asked when [`HostProgram::sights`] becomes readable.
    pub fn next_sight(&mut self) -> Option<Sight> {
        // One that is cut short cannot be: the program writes whole ones.
        self.events.next().and_then(|e| Sight::decode(&e))
    }

    /// The descriptor to poll for sights.
    pub fn sights(&self) -> RawFd {
        self.events.as_raw_fd()
    }
}

impl fmt::Debug for HostProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostProgram").field("devices", &self.devices().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

fn exists(e: &TcError) -> bool {
    match e {
        TcError::AlreadyAttached => true,
        e => cause(e).is_some_and(|e| e.kind() == io::ErrorKind::AlreadyExists),
    }
}

fn gone(e: &ProgramError) -> bool {
    cause(e).is_some_and(|e| matches!(e.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::EINVAL)))
}

/// The kernel's answer at the end of a chain of errors.
fn cause<'a>(e: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    std::iter::successors(Some(e), |e| e.source()).find_map(|e| e.downcast_ref())
}

// The layouts of flow.h and host.bpf.c.

/// `struct flow`: host, client, ports, protocol, family, whether it is diverted.
const FLOW: usize = 40;
/// `struct origin`: host, ports, worker, what was seen.
const ORIGIN: usize = 24;
const FINISHED: u8 = 2;
const RESET: u8 = 4;

impl HostFlow {
    fn encode(&self) -> [u8; FLOW] {
        let mut b = [0; FLOW];
        b[..16].copy_from_slice(&address(self.host.0));
        b[16..32].copy_from_slice(&address(self.client.0));
        b[32..34].copy_from_slice(&self.host.1.to_be_bytes());
        b[34..36].copy_from_slice(&self.client.1.to_be_bytes());
        b[36] = self.protocol;
        b[37] = u8::from(self.host.0.is_ipv6());
        b
    }

    /// The flow as it would be without translation, where the client has asked the host itself. Such a
    /// connection was translated because the host knows another one by that.
    fn asked_directly(&self, origin: &Origin) -> Option<HostFlow> {
        // ICMP queries have type and code where others have the client's port.
        let icmp = matches!(self.protocol, protocol::ICMP | protocol::ICMPV6);
        let client_port = if icmp { self.client.1 } else { origin.client_port };
        let asked = HostFlow { protocol: self.protocol, host: origin.host, client: (self.client.0, client_port) };
        (origin.host.0 == self.host.0).then_some(asked)
    }

    /// The key that has steer.bpf.c give packets of the client to a worker.
    fn diverted(&self) -> [u8; FLOW] {
        let mut b = self.encode();
        b[38] = 1;
        b
    }

    fn decode(b: &[u8; FLOW]) -> Self {
        let ip = |at: usize| {
            let bytes: [u8; 16] = std::array::from_fn(|i| b[at + i]);
            if b[37] == 0 {
                IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
            } else {
                IpAddr::V6(Ipv6Addr::from(bytes))
            }
        };
        let port = |at: usize| u16::from_be_bytes([b[at], b[at + 1]]);
        HostFlow { protocol: b[36], host: (ip(0), port(32)), client: (ip(16), port(34)) }
    }
}

impl Origin {
    fn encode(&self) -> [u8; ORIGIN] {
        let mut b = [0; ORIGIN];
        b[..16].copy_from_slice(&address(self.host.0));
        b[16..18].copy_from_slice(&self.host.1.to_be_bytes());
        b[18..20].copy_from_slice(&self.client_port.to_be_bytes());
        b[20..22].copy_from_slice(&self.worker.to_ne_bytes());
        b
    }
}

impl Sight {
    fn decode(b: &[u8]) -> Option<Self> {
        let flow = HostFlow::decode(b.first_chunk()?);
        let [worker_a, worker_b, seen, _] = *b.get(FLOW..)?.first_chunk()?;
        let worker = u16::from_ne_bytes([worker_a, worker_b]);
        Some(Sight { flow, worker, finished: seen & FINISHED != 0, reset: seen & RESET != 0 })
    }
}

fn address(a: IpAddr) -> [u8; 16] {
    match a {
        IpAddr::V4(a) => {
            let mut b = [0; 16];
            b[..4].copy_from_slice(&a.octets());
            b
        }
        IpAddr::V6(a) => a.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_come_back_as_they_were_entered() {
        for (host, client) in [("10.10.0.1", "10.10.0.2"), ("2001:db8::1", "2001:db8::2"), ("::1", "::")] {
            let flow =
                HostFlow { protocol: 17, host: (host.parse().unwrap(), 53), client: (client.parse().unwrap(), 40_000) };
            assert_eq!(HostFlow::decode(&flow.encode()), flow);
            let event = [&flow.encode()[..], &3u16.to_ne_bytes(), &[FINISHED | 1, 0]].concat();
            assert_eq!(Sight::decode(&event), Some(Sight { flow, worker: 3, finished: true, reset: false }));
            assert_eq!(Sight::decode(&event[1..]), None);
        }
    }
}
