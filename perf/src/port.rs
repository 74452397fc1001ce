//! A port that makes its frames itself and takes back at once what is sent: what is left is the worker.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use dataplane::io::{Frame, FramePool, Held, Port};
use dataplane::packet::checksum::{checksum, fold, pseudo_header, sum};
use dataplane::packet::{Address, V4};

/// The gateway's Ethernet addresses on lan and wan, and its peers' there.
pub(crate) const GATEWAY: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
pub(crate) const PEER: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 3], [2, 0, 0, 0, 0, 4]];
/// The address clients are translated to.
pub(crate) const OUTSIDE: V4 = V4(0xc633_6401);
/// Length of the IP packet in a 64-byte frame (the FCS is not part of what a port sees).
const LENGTH: usize = 46;
/// Making a burst takes a microsecond or a few; when it takes so long, something else ran meanwhile.
const INTERRUPTED: Duration = Duration::from_micros(40);
/// Source ports of one client; each client talks to a server of its own, so that every port is kept.
const PORTS: u32 = 60_000;

/// Which side of flow `i` a frame shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// From the client to the server.
    Request,
    /// From the server to the outside address.
    Reply,
}

/// The order in which flows take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// As they were made.
    Sequential,
    /// Pseudo-random, all alike often.
    Random,
}

/// UDP flows 0 to `flows`, 64-byte frames.
#[derive(Debug)]
pub(crate) struct Generator {
    side: Side,
    flows: u32,
    order: Order,
    next: u32,
    /// Frames still to make.
    left: u64,
    /// Frames whose making was timed without interruption, and the time that took.
    timed: u64,
    spent: Duration,
    /// Frames the worker has sent here.
    pub(crate) sent: u64,
    /// Sum of the header that all packets of this side share.
    template: [u8; 14 + LENGTH],
}

fn client(i: u32) -> V4 {
    V4(0x0a00_0002 + i / PORTS)
}

fn server(i: u32) -> V4 {
    V4(0xcb00_0001 + i / PORTS)
}

fn port(i: u32) -> u16 {
    1024 + (i % PORTS) as u16
}

impl Generator {
    pub(crate) fn new(side: Side) -> Self {
        let lan = usize::from(side == Side::Reply);
        let mut t = [0u8; 14 + LENGTH];
        t[..6].copy_from_slice(&GATEWAY[lan]);
        t[6..12].copy_from_slice(&PEER[lan]);
        t[12..14].copy_from_slice(&[8, 0]);
        t[14] = 0x45;
        t[17] = LENGTH as u8;
        t[22] = 64;
        t[23] = 17;
        t[39] = (LENGTH - 20) as u8;
        Generator {
            side,
            flows: 1,
            order: Order::Sequential,
            next: 0,
            left: 0,
            timed: 0,
            spent: Duration::ZERO,
            sent: 0,
            template: t,
        }
    }

    /// Begins a run of `left` frames.
    pub(crate) fn start(&mut self, flows: u32, order: Order, left: u64) {
        (self.flows, self.order, self.left, self.sent, self.timed, self.spent) =
            (flows, order, left, 0, 0, Duration::ZERO);
    }

    /// Time that making `frames` frames takes, which is not the worker's. It is timed by the wall clock, as
    /// the thread's own clock costs a system call, but without the bursts in which something else ran.
    pub(crate) fn cost(&self, frames: u64) -> Duration {
        self.spent.mul_f64(frames as f64 / self.timed.max(1) as f64)
    }

    fn write(&self, i: u32, b: &mut [u8]) {
        b.copy_from_slice(&self.template);
        let (src, dst, sport, dport) = match self.side {
            Side::Request => (client(i), server(i), port(i), 53),
            Side::Reply => (server(i), OUTSIDE, 53, port(i)),
        };
        src.write(&mut b[26..]);
        dst.write(&mut b[30..]);
        let c = checksum(&b[14..34]);
        b[24..26].copy_from_slice(&c.to_be_bytes());
        b[34..36].copy_from_slice(&sport.to_be_bytes());
        b[36..38].copy_from_slice(&dport.to_be_bytes());
        let c = !fold(sum(&b[34..]) + pseudo_header(src, dst, 17, LENGTH - 20));
        b[40..42].copy_from_slice(&c.to_be_bytes());
    }
}

impl Port for Generator {
    fn receive(&mut self, pool: &mut FramePool, out: &mut Vec<Frame>, max: usize) {
        let n = self.left.min(max as u64);
        if n == 0 {
            return;
        }
        let start = Instant::now();
        self.left -= n;
        for _ in 0..n {
            let i = match self.order {
                Order::Sequential => self.next % self.flows,
                Order::Random => {
                    // A full-period step over 32 bits, mixed, so that neighbours in time are far apart.
                    let x = self.next.wrapping_mul(0x9e37_79b1);
                    ((u64::from(x ^ (x >> 15)) * u64::from(self.flows)) >> 32) as u32
                }
            };
            self.next = self.next.wrapping_add(1);
            let Some(f) = pool.take() else { break };
            let f = Frame { len: (14 + LENGTH) as u16, ..f };
            self.write(i, pool.bytes_mut(f));
            out.push(f);
        }
        let spent = start.elapsed();
        if spent < INTERRUPTED {
            self.timed += n;
            self.spent += spent;
        }
    }

    fn send(&mut self, pool: &mut FramePool, frame: Frame) -> Result<(), Frame> {
        self.sent += 1;
        pool.give(frame);
        Ok(())
    }

    fn flush(&mut self, _pool: &mut FramePool) {}

    fn unsent(&self) -> usize {
        0
    }

    fn poll_fd(&self) -> Option<RawFd> {
        None
    }

    fn held(&self) -> Held {
        Held::default()
    }
}
