//! Handing frames to the kernel as if their interface had just received them.
//!
//! A worker gets the frames for a translated address of the host; those that belong to no connection are
//! the host's own traffic and go back to it this way: through `BPF_PROG_TEST_RUN` with live frames and a
//! program (`bpf/punt.bpf.c`) that fills each fresh frame from a map and passes it on. The host's stack,
//! firewall and packet sockets see them as received frames.
//!
//! The kernel sets up a page pool in every call, so a call costs about 8 us for one frame and 57 us for 64
//! (Linux 6.18). But a call for more than one frame first enters the program in the kernel's XDP dispatcher
//! and afterwards removes it, each with an RCU grace period: 24 ms instead of 57 us. A program that is
//! attached somewhere is in the dispatcher already, so this one is attached, to no effect, to the loopback
//! device of a network namespace made for the purpose. Where that is not permitted
//! (it needs CAP_SYS_ADMIN) frames are handed over one by one.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::thread;

use aya::maps::{Array, MapData};
use aya::programs::ProgramFd;
use thiserror::Error;

use super::bpf::{BpfError, CAPABILITIES, Loaded};
use super::link::{XdpMode, attach_xdp};
use crate::packet::vlan;

/// Frames handed over in one system call (`BATCH` in punt.bpf.c).
const BATCH: u32 = 64;

/// Longest frame in bytes (`MAX_FRAME` in punt.bpf.c).
const MAX_FRAME: usize = 3396;

/// Length of `struct frame` in punt.bpf.c: a length and the bytes.
const SLOT: usize = 4 + MAX_FRAME;

const ETHERNET: usize = 14;
const SOURCE: std::ops::Range<usize> = 6..12;

/// An interface as frames are handed over on it; made by [`Steer::ingress`](super::steer::Steer::ingress).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ingress {
    /// The kernel's index of the device.
    pub ifindex: u32,
    /// The VLAN, whose tag the frames get back; 0 for none.
    pub vlan: u16,
    /// What marks an injected frame for the steering program, where that would see it again.
    pub cookie: Option<[u8; 6]>,
}

/// Why frames could not be handed over.
#[derive(Debug, Error)]
pub enum PuntError {
    /// The program or its maps cannot be used.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// The process lacks capabilities.
    #[error("handing frames to the kernel is not permitted: {CAPABILITIES}")]
    NotPermitted,
    /// The kernel refused the frames.
    #[error("handing frames to the kernel on the interface with index {ifindex} failed: {cause}")]
    Run {
        /// The interface.
        ifindex: u32,
        /// The kernel's answer; `ENODEV` or `EINVAL` when the interface is gone or down.
        cause: io::Error,
    },
}

/// Hands frames to the kernel.
pub struct Injector {
    program: ProgramFd,
    frames: Array<MapData, [u8; SLOT]>,
    next: Array<MapData, u32>,
    slot: Box<[u8; SLOT]>,
    /// Frames for one system call.
    batch: u32,
    /// Keeps the program in the dispatcher.
    _namespace: Option<File>,
}

impl Injector {
    /// Loads the program that does it.
    ///
    /// # Errors
    /// When the program cannot be loaded.
    pub fn new() -> Result<Self, PuntError> {
        let object = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/punt.bpf.o"));
        let mut loaded = Loaded::new(object, "sluice_punt")?;
        let program = loaded.program()?;
        let namespace = stay_dispatched(&program);
        Ok(Injector {
            program,
            frames: loaded.map("frames")?,
            next: loaded.map("next")?,
            slot: Box::new([0; SLOT]),
            batch: if namespace.is_some() { BATCH } else { 1 },
            _namespace: namespace,
        })
    }

    /// Hands frames to the kernel as if received on an interface, in order. Returns how many those were:
    /// frames shorter than an Ethernet header or longer than 3386 bytes are left out.
    ///
    /// # Errors
    /// When the kernel refuses; of a long list the first frames may have been handed over.
    pub fn inject(&mut self, to: Ingress, frames: &[impl AsRef<[u8]>]) -> Result<usize, PuntError> {
        let longest = MAX_FRAME - usize::from(vlan::TAG) - SOURCE.len();
        let mut done = 0;
        let mut waiting = 0;
        for frame in frames.iter().map(AsRef::as_ref).filter(|f| (ETHERNET..=longest).contains(&f.len())) {
            self.write(waiting, frame, to)?;
            waiting += 1;
            if waiting == self.batch {
                self.run(to.ifindex, waiting)?;
                done += waiting as usize;
                waiting = 0;
            }
        }
        if waiting > 0 {
            self.run(to.ifindex, waiting)?;
        }
        Ok(done + waiting as usize)
    }

    fn write(&mut self, at: u32, frame: &[u8], to: Ingress) -> Result<(), PuntError> {
        let mut length = frame.len();
        let bytes = &mut self.slot[4..];
        if to.vlan == 0 {
            bytes[..length].copy_from_slice(frame);
        } else {
            let tag = usize::from(vlan::TAG);
            bytes[tag..tag + length].copy_from_slice(frame);
            vlan::put_on(bytes, to.vlan);
            length += tag;
        }
        if let Some(cookie) = to.cookie {
            bytes.copy_within(SOURCE, length);
            bytes[SOURCE].copy_from_slice(&cookie);
            length += SOURCE.len();
        }
        self.slot[..4].copy_from_slice(&(length as u32).to_ne_bytes());
        self.frames.set(at, *self.slot, 0).map_err(|e| BpfError::new("writing a frame to hand over", &e))?;
        Ok(())
    }

    /// Runs the program for the first `count` frames of the map.
    fn run(&mut self, ifindex: u32, count: u32) -> Result<(), PuntError> {
        let failed = |e: &aya::maps::MapError| BpfError::new("handing over frames", e);
        self.next.set(0, 0, 0).map_err(|e| failed(&e))?;
        let mut done = 0;
        while done < count {
            match sys::test_run(self.program.as_fd().as_raw_fd(), ifindex, count - done) {
                Ok(()) => return Ok(()),
                // A signal interrupts between runs; the map says how many there were.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                    done = self.next.get(&0, 0).map_err(|e| failed(&e))?;
                }
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Err(PuntError::NotPermitted),
                Err(cause) => return Err(PuntError::Run { ifindex, cause }),
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Injector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Injector").finish_non_exhaustive()
    }
}

/// Attaches the program to the loopback device of a new network namespace, which lives as long as the file
/// returned; `None` when that is not permitted.
fn stay_dispatched(program: &ProgramFd) -> Option<File> {
    const LOOPBACK: u32 = 1;
    let inside = || {
        sys::leave_network_namespace()?;
        attach_xdp(LOOPBACK, program.as_fd(), XdpMode::Generic, None).map_err(|e| e.error)?;
        File::open("/proc/thread-self/ns/net")
    };
    // Namespaces are a thread's own, so this one's is not affected.
    thread::scope(|s| s.spawn(inside).join()).ok()?.ok()
}

/// The system calls: one is the bpf(2) command that aya does not wrap.
mod sys {
    use std::io;
    use std::os::fd::RawFd;

    use super::ETHERNET;

    const BPF_PROG_TEST_RUN: libc::c_int = 10;
    const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;

    /// `struct { ... } test` of `union bpf_attr`.
    #[repr(C)]
    #[derive(Default)]
    struct TestRun {
        prog_fd: u32,
        retval: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        ctx_size_in: u32,
        ctx_size_out: u32,
        ctx_in: u64,
        ctx_out: u64,
        flags: u32,
        cpu: u32,
        batch_size: u32,
        unused: u32,
    }

    /// `struct xdp_md`.
    #[repr(C)]
    #[derive(Default)]
    struct XdpMd {
        data: u32,
        data_end: u32,
        data_meta: u32,
        ingress_ifindex: u32,
        rx_queue_index: u32,
        egress_ifindex: u32,
    }

    /// Puts the calling thread into a network namespace of its own.
    pub(super) fn leave_network_namespace() -> io::Result<()> {
        // SAFETY: takes and gives plain numbers.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Runs an XDP program `count` times on live frames that seem to come from an interface.
    pub(super) fn test_run(program: RawFd, ifindex: u32, count: u32) -> io::Result<()> {
        let data = [0u8; ETHERNET];
        let ctx = XdpMd { data_end: ETHERNET as u32, ingress_ifindex: ifindex, ..XdpMd::default() };
        let attr = TestRun {
            prog_fd: program as u32,
            data_size_in: ETHERNET as u32,
            data_in: data.as_ptr().expose_provenance() as u64,
            repeat: count,
            ctx_size_in: size_of::<XdpMd>() as u32,
            ctx_in: (&raw const ctx).expose_provenance() as u64,
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            batch_size: count,
            ..TestRun::default()
        };
        // SAFETY: `attr` has the kernel's layout, and `data` and `ctx`, which it points to, are readable for
        // the lengths given and outlive the call. The kernel writes to none of them in live mode.
        let r = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw const attr, size_of::<TestRun>()) };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
