//! Binding a worker's sockets: one UMEM, a socket on the worker's queue of every interface.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{FrameDesc, Socket, Umem};

use super::super::link::Link;
use super::super::{BURST, FramePool, Held};
use super::{IoError, REFILL, RING, XskPort, sys};

/// How frames get from the card to the worker and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoMode {
    /// The best that the device has: zero-copy, else native XDP with copies, else generic XDP.
    #[default]
    Auto,
    /// The card reads and writes the frames itself, or nothing.
    ZeroCopy,
    /// Native XDP in the driver; the kernel copies the frames.
    Copy,
    /// Generic XDP in the network core; works on every device.
    Generic,
}

/// What a worker receives from and sends to.
#[derive(Debug)]
pub struct WorkerIo {
    /// All frames.
    pub pool: FramePool,
    /// One port for each interface, in the order they were asked for.
    pub ports: Vec<XskPort>,
    /// Whether the frames lie in huge pages.
    pub huge_pages: bool,
    /// Why zero-copy was not had, when it was tried first.
    pub zero_copy_refused: Option<io::Error>,
}

/// Ethernet header and one VLAN tag, which the MTU does not count, in bytes.
const LINK_HEADER: u32 = 14 + 4;

/// What the kernel keeps free in front of each packet (`XDP_PACKET_HEADROOM`), in bytes.
const HEADROOM: u32 = 256;

/// Frames beside those that fill the rings: in the worker's hands, lent, waiting for neighbours or fragments.
const SPARE: u32 = 4096;

/// The least frames for which a port works: a burst in each of its rings and one in hand.
const LEAST_PER_PORT: u32 = 4 * BURST as u32;

/// Size of a huge page, in bytes.
const HUGE_PAGE: u32 = 2 << 20;

/// How long a queue that is taken is tried again: the kernel frees a crashed daemon's sockets with a delay.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Checks that `workers` workers are one for each queue of a device.
///
/// # Errors
/// When there are too few or too many queues, or there is no such device.
pub fn check_queues(device: &str, workers: u32) -> Result<(), IoError> {
    let queues = find(device)?.rx_queues;
    let device = device.to_owned();
    match queues.cmp(&workers) {
        std::cmp::Ordering::Less => Err(IoError::TooFewQueues { device, queues, workers }),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(IoError::TooManyQueues { device, queues, workers }),
    }
}

/// Opens a worker's sockets: one on queue `queue` of each device, with their frames in one UMEM.
///
/// `frames` is how many frames there are in all; by default as many as fill every ring, and some to spare.
/// With fewer the rings are kept less full. The number is rounded up to whole huge pages.
///
/// # Errors
/// When a device does not exist or does not fit, a queue is taken, or the kernel refuses.
pub fn open_worker(queue: u32, devices: &[&str], mode: IoMode, frames: Option<u32>) -> Result<WorkerIo, IoError> {
    let links = devices.iter().map(|d| find(d)).collect::<Result<Vec<_>, _>>()?;
    if let Some(l) = links.iter().find(|l| queue >= l.rx_queues) {
        return Err(IoError::TooFewQueues { device: l.name.clone(), queues: l.rx_queues, workers: queue + 1 });
    }
    let plan = Plan::new(&links, frames)?;
    let zero_copy_refused = match mode {
        IoMode::Copy | IoMode::Generic => None,
        IoMode::Auto | IoMode::ZeroCopy => match open_patiently(queue, &links, &plan, BindFlags::XDP_ZEROCOPY) {
            Ok(io) => return Ok(io),
            Err(IoError::Bind { cause, .. }) if mode == IoMode::Auto => Some(cause),
            Err(IoError::Bind { device, cause, .. }) => return Err(IoError::NoZeroCopy { device, cause }),
            Err(e) => return Err(e),
        },
    };
    let io = open_patiently(queue, &links, &plan, BindFlags::XDP_COPY)?;
    Ok(WorkerIo { zero_copy_refused, ..io })
}

/// Sizes that follow from the devices and the configuration.
struct Plan {
    frame_size: u32,
    frames: u32,
    /// Frames to keep on the receive side of each port.
    fill_target: u32,
}

impl Plan {
    fn new(links: &[Link], frames: Option<u32>) -> Result<Self, IoError> {
        // The kernel takes frame sizes that are powers of two from 2048 bytes to a page.
        let room = |size: u32| size - HEADROOM - LINK_HEADER;
        let fits = |size: u32| links.iter().all(|l| l.mtu <= room(size));
        let frame_size = if fits(2048) { 2048 } else { 4096 };
        if let Some(l) = links.iter().find(|l| l.mtu > room(4096)) {
            return Err(IoError::Mtu { device: l.name.clone(), mtu: l.mtu, limit: room(4096) });
        }
        let ports = links.len() as u32;
        let frames = match frames {
            None => ports * 2 * RING + SPARE,
            Some(n) if n < ports * LEAST_PER_PORT => {
                let least = ports * LEAST_PER_PORT;
                return Err(IoError::TooFewFrames { frames: n, interfaces: links.len(), least });
            }
            Some(n) => n,
        };
        let fill_target = (frames / ports.max(1) / 2).clamp(REFILL, RING);
        let frames = frames.max(1).checked_next_multiple_of(HUGE_PAGE / frame_size).unwrap_or(frames);
        Ok(Plan { frame_size, frames, fill_target })
    }
}

fn find(device: &str) -> Result<Link, IoError> {
    Link::find(device).map_err(|cause| match cause.error.raw_os_error() {
        Some(libc::ENODEV) => IoError::NoDevice { device: device.into() },
        _ => IoError::Query { device: device.into(), cause },
    })
}

fn open_patiently(queue: u32, links: &[Link], plan: &Plan, copy: BindFlags) -> Result<WorkerIo, IoError> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match open(queue, links, plan, copy) {
            Err(IoError::Busy { .. }) if Instant::now() < deadline => sleep(Duration::from_millis(50)),
            result => return result,
        }
    }
}

fn open(queue: u32, links: &[Link], plan: &Plan, copy: BindFlags) -> Result<WorkerIo, IoError> {
    let (umem, descriptors, huge_pages) = make_umem(plan)?;
    let ring = QueueSize::new(RING).expect("RING is a power of two");
    let config = SocketConfig::builder()
        .rx_queue_size(ring)
        .tx_queue_size(ring)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(copy | BindFlags::XDP_USE_NEED_WAKEUP)
        .build();
    let offset = descriptors[0].addr() as u16;
    let mut pool = make_pool(&umem, descriptors[0], plan);
    let mut ports = Vec::with_capacity(links.len());
    for link in links {
        let device = link.name.clone();
        let name: Interface = device.parse().map_err(|_| IoError::NoDevice { device: device.clone() })?;
        // SAFETY: program loading is inhibited, which is what the function asks for shared UMEMs.
        let (tx, rx, fill_and_completion) = unsafe { Socket::new(config, &umem, &name, queue) }
            .map_err(|e| bind_error(device.clone(), queue, cause(&e)))?;
        let (fill, completion) = fill_and_completion.expect("the first socket of a UMEM on a queue gets its rings");
        let zero_copy = sys::is_zero_copy(rx.fd().as_raw_fd()).map_err(|cause| IoError::Bind {
            device: device.clone(),
            queue,
            cause,
        })?;
        ports.push(XskPort {
            device,
            queue,
            zero_copy,
            umem: umem.clone(),
            descriptors: Arc::clone(&descriptors),
            shift: plan.frame_size.trailing_zeros(),
            offset,
            capacity: plan.frame_size as u16 - offset,
            rx,
            fill,
            tx,
            completion,
            fill_target: plan.fill_target,
            held: Held::default(),
            down: false,
            batch: Vec::with_capacity(RING as usize),
            scratch: Vec::with_capacity(RING as usize),
            numbers: Vec::with_capacity(RING as usize),
        });
    }
    ports.iter_mut().for_each(|p| p.refill(&mut pool));
    Ok(WorkerIo { pool, ports, huge_pages, zero_copy_refused: None })
}

fn make_umem(plan: &Plan) -> Result<(Umem, Arc<[FrameDesc]>, bool), IoError> {
    let ring = QueueSize::new(RING).expect("RING is a power of two");
    let config = UmemConfig::builder()
        .frame_size(FrameSize::new(plan.frame_size).expect("2048 or 4096"))
        .fill_queue_size(ring)
        .comp_queue_size(ring)
        .build()
        .expect("a frame has room beside its headroom");
    let frames = NonZeroU32::new(plan.frames).expect("rounded up from at least 1");
    let failed = |cause: io::Error| match cause.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => IoError::NotPermitted,
        _ => IoError::Umem { frames: plan.frames, size: plan.frame_size, cause },
    };
    // Whether huge pages can be had shows only when they are asked for.
    let (umem, descriptors, huge) = match Umem::new(config, frames, true) {
        Ok((u, d)) => (u, d, true),
        Err(_) => Umem::new(config, frames, false).map(|(u, d)| (u, d, false)).map_err(|e| failed(cause(&e)))?,
    };
    Ok((umem, descriptors.into(), huge))
}

fn make_pool(umem: &Umem, first: FrameDesc, plan: &Plan) -> FramePool {
    // SAFETY: the descriptor is of this UMEM, no bytes are read through it, and no socket exists yet.
    let data = unsafe { umem.data(&first) }.contents().as_ptr().cast_mut();
    let base = NonNull::new(data.wrapping_sub(first.addr())).expect("a mapping does not lie at address 0");
    // SAFETY: the region begins `first.addr()` bytes before the first packet, has `frames * frame_size`
    // bytes, and stays mapped while the UMEM handle lives. Rust references to it are made by the pool
    // alone; the ports' descriptors are only lengths and offsets.
    unsafe { FramePool::from_raw(base, plan.frame_size, plan.frames, first.addr() as u16, Box::new(umem.clone())) }
}

fn bind_error(device: String, queue: u32, cause: io::Error) -> IoError {
    match cause.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => IoError::NotPermitted,
        Some(libc::EBUSY) => IoError::Busy { device, queue },
        Some(libc::ENODEV) => IoError::NoDevice { device },
        _ => IoError::Bind { device, queue, cause },
    }
}

/// The system's error behind one of xsk-rs's.
fn cause(e: &dyn std::error::Error) -> io::Error {
    match e.source().and_then(|s| s.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(e.to_string()),
    }
}
