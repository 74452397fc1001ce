//! The XDP program in front of the sockets: loading, attaching, and the maps that tell it what is whose.
//!
//! Life cycle: [`Steer::load`] touches no interface; the caller binds the sockets, enters them and the host's
//! addresses, and only then calls [`Steer::attach`], so that neither a frame for the host nor one in transit
//! meets a half-filled program, and a program that a crash left behind works until the moment it is replaced.
//!
//! The attachment is a netlink one. It belongs to the interface and outlives this process, which is what
//! `on_failure: closed` needs: after `kill -9` the program stays, finds no socket any more and drops transit
//! traffic, while traffic for the host passes. A BPF link does that only when pinned in bpffs, which is often
//! not mounted, is hidden by `ip netns exec`, and dies with the mount namespace of a service manager. The
//! price: a successor recognizes the stale program by its name, for which the kernel asks CAP_SYS_ADMIN.
//! Dropping a `Steer` leaves the program attached; a clean stop calls [`Steer::detach`].

mod error;

pub use error::SteerError;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use super::bpf::{BpfError, Loaded};
use super::host::{Flows, HostProgram};
use super::link::{Link, Refused, XdpMode, attach_xdp, detach_xdp};
use super::punt::Ingress;
use super::xsk::IoMode;
use aya::maps::{Array, ArrayOfMaps, HashMap, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::{ProgramFd, loaded_programs};

/// The program's name in the kernel, by which a stale one is found.
pub const PROGRAM: &str = "sluice_steer";

/// The most queues of an interface (`MAX_QUEUES` in steer.bpf.c).
pub const MAX_QUEUES: u32 = 64;

const FLAG_MANAGED: u8 = 1;
const FLAG_ACCEPT_DHCP: u8 = 2;
const XDP_DROP: u8 = 1;
const XDP_PASS: u8 = 2;

/// What becomes of transit traffic while no worker is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// It is dropped: nothing leaves without policy and translation.
    #[default]
    Closed,
    /// The kernel gets it, and routes it under the host's own rules.
    Open,
}

/// An interface whose frames are the workers': those without a tag, or those of a VLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Managed {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Whether the host may be asking for its IPv4 address by DHCP: the answer goes to the address offered, which
    /// is not the host's yet, and would be taken for transit. Set it while the interface has no address.
    pub accept_dhcp: bool,
}

impl Managed {
    /// `struct interface` of steer.bpf.c.
    fn encode(this: Option<Self>) -> [u8; 8] {
        let mut out = [0; 8];
        if let Some(m) = this {
            out[..6].copy_from_slice(&m.mac);
            out[6] = FLAG_MANAGED | if m.accept_dhcp { FLAG_ACCEPT_DHCP } else { 0 };
        }
        out
    }
}

/// What an address of the gateway host is to the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LocalKind {
    /// The host's alone: its traffic never sees a worker.
    Host,
    /// Shared with translated connections: workers see its traffic first, and punt what is the host's.
    Translated,
}

impl LocalKind {
    fn code(self) -> u8 {
        match self {
            LocalKind::Host => 1,
            LocalKind::Translated => 2,
        }
    }
}

/// What the program has done so far, in frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SteerCounters {
    /// Left to the kernel, whose business they are.
    pub passed: u64,
    /// Given to a worker's socket.
    pub redirected: u64,
    /// For a translated address of the host, left to the kernel because no worker was alive.
    pub unattended_host: u64,
    /// In transit without a worker, left to the kernel (`on_failure: open`).
    pub failed_open: u64,
    /// In transit without a worker, dropped (`on_failure: closed`).
    pub failed_closed: u64,
    /// Dropped for priority tags where they mean nothing: more than two of them, or one inside a VLAN's.
    pub bad_tags: u64,
}

/// How a program came to be attached.
#[derive(Debug)]
pub struct Attached {
    /// The mode it runs in.
    pub mode: XdpMode,
    /// Why it is not the native mode, when that was tried first.
    pub native_refused: Option<Refused>,
    /// It took the place of a program that an earlier daemon had left.
    pub replaced: bool,
}

/// The steering program of one device.
pub struct Steer {
    link: Link,
    program: ProgramFd,
    attached: Option<XdpMode>,
    /// Mirrors `struct config` of steer.bpf.c.
    config: [u8; 16],
    config_map: Array<MapData, [u8; 16]>,
    vlans: Array<MapData, [u8; 8]>,
    sockets: XskMap<MapData>,
    heartbeat: Array<MapData, u64>,
    local4: HashMap<MapData, [u8; 4], u8>,
    local6: HashMap<MapData, [u8; 16], u8>,
    counters: PerCpuArray<MapData, [u64; 6]>,
    redirected: ArrayOfMaps<MapData, Flows>,
}

impl Steer {
    /// Loads the program for a device without attaching it. The untagged frames are managed, no VLAN is.
    ///
    /// # Errors
    /// When there is no such Ethernet device, or the program cannot be loaded.
    pub fn load(device: &str, on_failure: OnFailure) -> Result<Self, SteerError> {
        let link = find(device)?;
        if !link.ethernet {
            return Err(SteerError::NotEthernet { device: device.into() });
        }
        let mut loaded = Loaded::new(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o")), PROGRAM)?;
        let mut config = [0; 16];
        config[..8].copy_from_slice(&Managed::encode(Some(Managed { mac: link.mac, accept_dhcp: false })));
        config[8] = if on_failure == OnFailure::Open { XDP_PASS } else { XDP_DROP };
        let mut steer = Steer {
            program: loaded.program()?,
            attached: None,
            config,
            config_map: loaded.map("config")?,
            vlans: loaded.map("vlans")?,
            sockets: loaded.map("sockets")?,
            heartbeat: loaded.map("heartbeat")?,
            local4: loaded.map("local4")?,
            local6: loaded.map("local6")?,
            counters: loaded.map("counters")?,
            redirected: loaded.map("redirected")?,
            link,
        };
        steer.write_config()?;
        Ok(steer)
    }

    /// The device as it was when the program was loaded.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The mode it is attached in, when it is.
    pub fn attached(&self) -> Option<XdpMode> {
        self.attached
    }

    /// Attaches the program, in the native mode where the device has it and `mode` does not ask for another,
    /// replacing a program that an earlier daemon left.
    ///
    /// # Errors
    /// When another program is attached, the kernel refuses, or capabilities are missing.
    pub fn attach(&mut self, mode: IoMode) -> Result<Attached, SteerError> {
        let modes: &[XdpMode] = match mode {
            IoMode::Auto => &[XdpMode::Native, XdpMode::Generic],
            IoMode::ZeroCopy | IoMode::Copy => &[XdpMode::Native],
            IoMode::Generic => &[XdpMode::Generic],
        };
        let mut native_refused = None;
        let mut replaced = false;
        for &mode in modes {
            match self.attach_in(mode, &mut replaced) {
                Ok(()) => {
                    self.attached = Some(mode);
                    return Ok(Attached { mode, native_refused, replaced });
                }
                Err(SteerError::Attach { cause, .. }) if mode != modes[modes.len() - 1] => native_refused = Some(cause),
                Err(e) => return Err(e),
            }
        }
        unreachable!("the last mode either succeeds or returns its error")
    }

    fn attach_in(&mut self, mode: XdpMode, replaced: &mut bool) -> Result<(), SteerError> {
        let device = self.link.name.clone();
        let stale = stale_program(&find(&device)?)?;
        self.set_cookie(mode)?;
        let expected = match &stale {
            Some((m, program)) if *m == mode => Some(program.as_fd()),
            Some((m, program)) => {
                // The kernel does not run programs of two modes at once.
                detach_xdp(self.link.index, *m, program.as_fd()).map_err(|cause| self.refused(mode, cause))?;
                None
            }
            None => None,
        };
        *replaced |= stale.is_some();
        attach_xdp(self.link.index, self.program.as_fd(), mode, expected).map_err(|cause| self.refused(mode, cause))
    }

    fn refused(&self, mode: XdpMode, cause: Refused) -> SteerError {
        let device = self.link.name.clone();
        let hint = match cause.error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => return SteerError::NotPermitted { device },
            Some(libc::ENODEV) => return SteerError::NoDevice { device },
            Some(libc::ERANGE) => "; lower the MTU of the device (of both ends, for veth) or use `io.mode: generic`",
            Some(libc::EOPNOTSUPP) => "; the driver has no such mode: use `io.mode: auto` or `generic`",
            Some(libc::EINVAL | libc::ENOSPC) if mode == XdpMode::Native => {
                "; give a veth the same numbers of queues on both ends, turn off large receive offload with \
                 `ethtool -K DEVICE lro off`, or use `io.mode: generic`"
            }
            _ => "",
        };
        SteerError::Attach { device, mode, cause, hint }
    }

    /// Takes the program off the interface, which the kernel then has for itself. Leaves alone a program
    /// that has taken its place, and a device that is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&mut self) -> Result<(), SteerError> {
        let Some(mode) = self.attached.take() else { return Ok(()) };
        match detach_xdp(self.link.index, mode, self.program.as_fd()) {
            Ok(()) => Ok(()),
            Err(e) if matches!(e.error.raw_os_error(), Some(libc::ENODEV | libc::EEXIST)) => Ok(()),
            Err(cause) => Err(SteerError::Detach { device: self.link.name.clone(), cause }),
        }
    }

    /// Gives the frames of a queue to a socket that is bound to it.
    ///
    /// # Errors
    /// When the queue is out of range or the kernel refuses the socket.
    pub fn set_socket(&mut self, queue: u32, socket: &impl AsRawFd) -> Result<(), SteerError> {
        if queue >= MAX_QUEUES {
            return Err(SteerError::Queue { device: self.link.name.clone(), queue });
        }
        self.sockets.set(queue, socket.as_raw_fd(), 0).map_err(|e| map_error("entering a socket", &e))
    }

    /// Tells the program whose the frames of a VLAN are, or with 0 those without a tag: the kernel's alone, or a
    /// managed interface's.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_interface(&mut self, vlan: u16, interface: Option<Managed>) -> Result<(), SteerError> {
        let value = Managed::encode(interface);
        match vlan {
            0 => {
                self.config[..8].copy_from_slice(&value);
                self.write_config()
            }
            _ => self.vlans.set(vlan.into(), value, 0).map_err(|e| map_error("entering a VLAN", &e)),
        }
    }

    /// Tells the program that an address is the host's.
    ///
    /// # Errors
    /// When there are too many addresses, or the kernel refuses.
    pub fn set_local(&mut self, address: IpAddr, kind: LocalKind) -> Result<(), SteerError> {
        match address {
            IpAddr::V4(a) => self.local4.insert(a.octets(), kind.code(), 0),
            IpAddr::V6(a) => self.local6.insert(a.octets(), kind.code(), 0),
        }
        .map_err(|e| address_error(&e))
    }

    /// Tells the program that an address is the host's no longer; one it does not know is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_local(&mut self, address: IpAddr) -> Result<(), SteerError> {
        let removed = match address {
            IpAddr::V4(a) => self.local4.remove(&a.octets()),
            IpAddr::V6(a) => self.local6.remove(&a.octets()),
        };
        match removed {
            Err(e) if !is_missing(&e) => Err(address_error(&e)),
            _ => Ok(()),
        }
    }

    /// Makes these, and no others, the host's addresses. An address that stays is known all the while.
    ///
    /// # Errors
    /// When there are too many addresses, or the kernel refuses.
    pub fn replace_locals(&mut self, addresses: &[(IpAddr, LocalKind)]) -> Result<(), SteerError> {
        let wanted: HashSet<IpAddr> = addresses.iter().map(|(a, _)| *a).collect();
        let known4 = self.local4.keys().map(|k| k.map(|k| IpAddr::V4(Ipv4Addr::from(k))));
        let known6 = self.local6.keys().map(|k| k.map(|k| IpAddr::V6(Ipv6Addr::from(k))));
        let known = known4.chain(known6).collect::<Result<Vec<_>, _>>().map_err(|e| address_error(&e))?;
        for address in known.into_iter().filter(|a| !wanted.contains(a)) {
            self.remove_local(address)?;
        }
        addresses.iter().try_for_each(|(address, kind)| self.set_local(*address, *kind))
    }

    /// Has packets to the host that look like those of connections redirected to it seen by workers.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_redirected(&mut self, program: &HostProgram) -> Result<(), SteerError> {
        self.redirected.set(0, program.flows(), 0).map_err(|e| map_error("entering the redirected connections", &e))
    }

    /// Shows that the daemon is alive; `now` is CLOCK_MONOTONIC in nanoseconds. When this stops for 3
    /// seconds the kernel gets all traffic for the host, that for its translated addresses too.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn heartbeat(&mut self, now: u64) -> Result<(), SteerError> {
        self.heartbeat.set(0, now, 0).map_err(|e| map_error("writing the heartbeat", &e))
    }

    /// What the program has done so far.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn counters(&self) -> Result<SteerCounters, SteerError> {
        let per_cpu = self.counters.get(&0, 0).map_err(|e| map_error("reading the counters", &e))?;
        let sum = |i: usize| per_cpu.iter().map(|c| c[i]).sum();
        Ok(SteerCounters {
            passed: sum(0),
            redirected: sum(1),
            unattended_host: sum(2),
            failed_open: sum(3),
            failed_closed: sum(4),
            bad_tags: sum(5),
        })
    }

    /// Where the [`Injector`](super::punt::Injector) hands over frames that came in on a VLAN of this device, or
    /// with 0 those without a tag.
    pub fn ingress(&self, vlan: u16) -> Ingress {
        let cookie = (self.config[9] != 0).then(|| self.config[10..].try_into().expect("six bytes"));
        Ingress { ifindex: self.link.index, vlan, cookie }
    }

    /// Generic XDP sees injected frames too, and must tell them from received ones: see steer.bpf.c.
    fn set_cookie(&mut self, mode: XdpMode) -> Result<(), SteerError> {
        self.config[9] = u8::from(mode == XdpMode::Generic);
        if mode == XdpMode::Generic {
            self.config[10..].copy_from_slice(&random_mac().map_err(|e| BpfError::new("drawing a random number", &e))?);
        }
        self.write_config()
    }

    fn write_config(&mut self) -> Result<(), SteerError> {
        self.config_map.set(0, self.config, 0).map_err(|e| map_error("writing the steering configuration", &e))
    }
}

impl fmt::Debug for Steer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steer")
            .field("device", &self.link.name)
            .field("attached", &self.attached)
            .finish_non_exhaustive()
    }
}

/// The program that an earlier daemon left on the device, or an error when another is attached.
fn stale_program(link: &Link) -> Result<Option<(XdpMode, ProgramFd)>, SteerError> {
    let Some(&(mode, id)) = link.xdp.first() else { return Ok(None) };
    let foreign = |name: String| {
        let off = match mode {
            XdpMode::Native => "xdp",
            XdpMode::Generic => "xdpgeneric",
            XdpMode::Offloaded => "xdpoffload",
        };
        SteerError::Foreign { device: link.name.clone(), id, name, off }
    };
    // A program may vanish while the list is read: errors concern others, unless the list holds nothing else.
    let mut denied = false;
    for program in loaded_programs() {
        match program {
            Ok(p) if p.id() != id => (),
            Ok(p) if p.name_as_str() == Some(PROGRAM) => {
                return match p.fd() {
                    Ok(fd) => Ok(Some((mode, fd))),
                    Err(e) => Err(BpfError::new("opening the stale XDP program", &e).into()),
                };
            }
            Ok(p) => return Err(foreign(format!("`{}`", p.name_as_str().unwrap_or("?")))),
            Err(e) => denied |= matches!(BpfError::new("", &e), BpfError::NotPermitted { .. }),
        }
    }
    Err(foreign(if denied { "whose name only CAP_SYS_ADMIN may read".into() } else { "without a name".into() }))
}

fn find(device: &str) -> Result<Link, SteerError> {
    Link::find(device).map_err(|cause| match cause.error.raw_os_error() {
        Some(libc::ENODEV) => SteerError::NoDevice { device: device.into() },
        _ => SteerError::Query { device: device.into(), cause },
    })
}

fn map_error(what: &str, e: &MapError) -> SteerError {
    BpfError::new(what, e).into()
}

fn address_error(e: &MapError) -> SteerError {
    match e {
        MapError::SyscallError(s) if s.io_error.raw_os_error() == Some(libc::E2BIG) => SteerError::TooManyAddresses,
        _ => map_error("changing the list of local addresses", e),
    }
}

fn is_missing(e: &MapError) -> bool {
    match e {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(s) => s.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

/// A random unicast, locally administered Ethernet address.
fn random_mac() -> io::Result<[u8; 6]> {
    let mut mac = [0u8; 6];
    // SAFETY: `mac` is writable for its length.
    if unsafe { libc::getrandom(mac.as_mut_ptr().cast(), mac.len(), 0) } != mac.len() as isize {
        return Err(io::Error::last_os_error());
    }
    mac[0] = mac[0] & 0xfc | 0x02;
    Ok(mac)
}
