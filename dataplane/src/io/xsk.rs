//! AF_XDP ports: one socket for each (interface, queue), all sockets of a worker on one UMEM.
//!
//! A frame is in exactly one of five places: the pool, the worker's hands, on the receive side of a port
//! (fill ring, kernel, receive ring), on its transmit side (batch, transmit ring, kernel, completion ring),
//! or lent to another worker. The port keeps the two counts of its own sides itself ([`XskPort::held`]),
//! and they bound the rings' use: never more frames on a side than its rings have slots, so that producing
//! into a ring, which is all or nothing, cannot fail.
//!
//! xsk-rs lets nobody make a frame descriptor from an address. The descriptors handed out at creation are
//! kept by frame number; all of them begin at the same offset in their frame, where the kernel also puts
//! what it receives. A packet that begins elsewhere is moved there before it is sent; that happens only to
//! packets that lost or got a VLAN tag.

mod error;
mod open;
mod sys;

pub use error::IoError;
pub use open::{IoMode, WorkerIo, check_queues, open_worker};
pub use sys::Monitor;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue, Umem};

use super::{BURST, Frame, FramePool, Held, Port};

/// Slots of each ring of a socket.
pub const RING: u32 = 2048;

/// Frames after which the fill ring is topped up; fewer would cost a ring update for every few packets.
const REFILL: u32 = BURST as u32;

/// A worker lags behind when this part of the frames for receiving has been received and waits: the rest is room for a
/// stall of some hundred microseconds.
const LAG: u32 = 4;

/// The most descriptors that one `sendto` sends in copy mode (`TX_BATCH_SIZE` in net/xdp/xsk.c).
const TX_BATCH: u32 = 32;

/// What the kernel counts for a socket, in packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct XskStatistics {
    /// Received and dropped, for want of room in a frame for instance.
    pub rx_dropped: u64,
    /// Received and dropped because the worker had not read the receive ring.
    pub rx_ring_full: u64,
    /// Times a frame was wanted and the fill ring was empty.
    pub fill_ring_empty: u64,
    /// Descriptors in the fill ring that the kernel refused.
    pub rx_invalid: u64,
    /// Descriptors in the transmit ring that the kernel refused.
    pub tx_invalid: u64,
    /// Times the kernel was told to send and the transmit ring was empty.
    pub tx_ring_empty: u64,
}

/// One socket, bound to one queue of one interface.
pub struct XskPort {
    device: String,
    queue: u32,
    zero_copy: bool,
    umem: Umem,
    /// By frame number.
    descriptors: Arc<[FrameDesc]>,
    /// Frame size is `1 << shift`.
    shift: u32,
    /// Where a packet begins in its frame.
    offset: u16,
    /// The most bytes a packet may have there.
    capacity: u16,
    rx: RxQueue,
    fill: FillQueue,
    tx: TxQueue,
    completion: CompQueue,
    /// Frames to keep on the receive side.
    fill_target: u32,
    held: Held,
    /// The kernel refuses to send at the moment: interface down or gone.
    down: bool,
    /// To be produced into the transmit ring at the next flush.
    batch: Vec<FrameDesc>,
    /// What a ring's entries are read into or written from.
    scratch: Vec<FrameDesc>,
    /// Numbers of frames on their way to the fill ring.
    numbers: Vec<u32>,
}

impl XskPort {
    /// The interface's name.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The queue it is bound to.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Whether the card reads and writes the frames itself; else the kernel copies.
    pub fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// What the kernel counts for the socket.
    ///
    /// # Errors
    /// When the socket cannot be asked.
    pub fn statistics(&self) -> io::Result<XskStatistics> {
        sys::statistics(self.as_raw_fd())
    }

    /// Something to read the statistics with while the port belongs to a worker's thread. To be dropped
    /// with the port: it keeps the socket, and so the queue, in use.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn monitor(&self) -> io::Result<Monitor> {
        Monitor::new(self.as_raw_fd())
    }

    /// Tops up the fill ring from the pool.
    fn refill(&mut self, pool: &mut FramePool) {
        let missing = self.fill_target - self.held.receive;
        if missing < REFILL {
            return;
        }
        self.numbers.clear();
        pool.take_many(missing as usize, &mut self.numbers);
        if self.numbers.is_empty() {
            return;
        }
        self.scratch.clear();
        self.scratch.extend(self.numbers.iter().map(|n| self.descriptors[*n as usize]));
        // SAFETY: the frames are of this port's UMEM and came from the pool, so nobody else uses them.
        let produced = unsafe { self.fill.produce(&self.scratch) };
        if produced == 0 {
            // Cannot happen while the receive side holds at most as many frames as the ring has slots.
            self.numbers.iter().for_each(|n| pool.give_index(*n));
        }
        self.held.receive += produced as u32;
    }

    /// Gives frames that have been sent back to the pool.
    fn complete(&mut self, pool: &mut FramePool) {
        while self.held.transmit > self.batch.len() as u32 {
            self.scratch.resize(BURST, FrameDesc::default());
            // SAFETY: the ring belongs to this port's UMEM.
            let n = unsafe { self.completion.consume(&mut self.scratch) };
            for d in &self.scratch[..n] {
                pool.give_index((d.addr() >> self.shift) as u32);
            }
            self.held.transmit -= n as u32;
            if n < BURST {
                return;
            }
        }
    }

    /// Makes the kernel send what is in the transmit ring.
    ///
    /// In copy mode a system call sends at most [`TX_BATCH`] packets, and fewer when the completion ring or
    /// the socket's send buffer is full: so it is repeated, with completions taken in between, but only
    /// while it gets ahead. Frames that another CPU has yet to complete are not waited for.
    fn kick(&mut self, pool: &mut FramePool) {
        let mut waiting = RING - self.tx.nb_free_exact();
        for _ in 0..=waiting / TX_BATCH {
            if waiting == 0 || !self.tx.needs_wakeup() {
                break;
            }
            self.down = sys::send(self.as_raw_fd()).is_err_and(|e| {
                matches!(e.raw_os_error(), Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV | libc::EBADF))
            });
            self.complete(pool);
            let left = RING - self.tx.nb_free_exact();
            if left == waiting {
                break;
            }
            waiting = left;
        }
    }

    /// Moves a packet to where this port's descriptors begin; `false` when it does not fit there.
    fn align(&self, pool: &mut FramePool, frame: Frame) -> bool {
        if frame.len > self.capacity {
            return false;
        }
        let offset = pool.offset(frame);
        let low = offset.min(self.offset);
        let (from, to) = (usize::from(offset - low), usize::from(self.offset - low));
        let all = Frame { at: frame.at - u32::from(offset - low), len: frame.len + offset.max(self.offset) - low };
        pool.bytes_mut(all).copy_within(from..from + usize::from(frame.len), to);
        true
    }
}

impl Port for XskPort {
    fn receive(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) {
        self.scratch.resize(BURST, FrameDesc::default());
        // SAFETY: the ring belongs to this port's UMEM.
        let n = unsafe { self.rx.consume(&mut self.scratch[..max.min(BURST)]) };
        out.extend(self.scratch[..n].iter().map(|d| Frame { at: d.addr() as u32, len: d.lengths().data() as u16 }));
        self.held.receive -= n as u32;
        self.refill(pool);
        if n == 0 && self.fill.needs_wakeup() {
            sys::wake_receive(self.as_raw_fd());
        }
    }

    fn lags(&mut self) -> bool {
        self.rx.nb_avail_exact() >= self.fill_target / LAG
    }

    #[inline(always)]
    fn send(&mut self, pool: &mut FramePool, frame: Frame) -> Result<(), Frame> {
        if self.held.transmit >= RING
            || (pool.offset(frame) != self.offset || frame.len > self.capacity) && !self.align(pool, frame)
        {
            return Err(frame);
        }
        let mut d = self.descriptors[pool.index(frame) as usize];
        // SAFETY: the frame is of this port's UMEM and belongs to the caller; its bytes are not touched.
        unsafe { self.umem.data_mut(&mut d) }.cursor().set_pos(usize::from(frame.len));
        self.batch.push(d);
        self.held.transmit += 1;
        Ok(())
    }

    fn flush(&mut self, pool: &mut FramePool) {
        self.complete(pool);
        if !self.batch.is_empty() {
            // SAFETY: the frames are of this port's UMEM, and `send` took them from their owner.
            if unsafe { self.tx.produce(&self.batch) } != 0 {
                self.batch.clear();
            }
        }
        self.kick(pool);
    }

    fn unsent(&self) -> usize {
        // Nothing is gained by flushing again and again while the interface is down.
        if self.down { 0 } else { self.held.transmit as usize }
    }

    fn poll_fd(&self) -> Option<RawFd> {
        Some(self.as_raw_fd())
    }

    fn held(&self) -> Held {
        self.held
    }
}

impl AsRawFd for XskPort {
    fn as_raw_fd(&self) -> RawFd {
        self.rx.fd().as_raw_fd()
    }
}

impl std::fmt::Debug for XskPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("XskPort")
            .field("device", &self.device)
            .field("queue", &self.queue)
            .field("zero_copy", &self.zero_copy)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}
