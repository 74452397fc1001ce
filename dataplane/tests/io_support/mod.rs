//! Network namespaces without names: client - gateway - server, which vanish with the test.
#![allow(dead_code, unreachable_pub)] // every test binary uses a part

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use dataplane::io::steer::Steer;
use dataplane::io::xsk::{WorkerIo, XskPort};
use dataplane::io::{BURST, Frame, FramePool, Port};

pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
pub const D0_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub const D1_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];
pub const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 2, 2];

/// Whether namespaces and AF_XDP sockets can be made; says so when not.
pub fn privileged() -> bool {
    // SAFETY: takes and gives plain numbers.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// A network namespace that lives as long as this value, and whatever runs in it.
pub struct Namespace(File);

impl Namespace {
    pub fn new() -> Self {
        let file = thread::spawn(|| {
            // SAFETY: takes and gives plain numbers; affects this thread alone.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", io::Error::last_os_error());
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let ns = Namespace(file.join().unwrap());
        ns.sh("ip link set lo up");
        ns
    }

    /// Runs `f` on a thread inside the namespace.
    pub fn enter<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        thread::scope(|s| {
            let inside = s.spawn(|| {
                // SAFETY: takes and gives plain numbers; affects this thread alone.
                let r = unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(r, 0, "{}", io::Error::last_os_error());
                f()
            });
            inside.join().unwrap_or_else(|e| std::panic::resume_unwind(e))
        })
    }

    /// Runs shell commands, which must succeed, and returns what they print.
    pub fn sh(&self, script: &str) -> String {
        let (ok, out) = self.try_sh(script);
        assert!(ok, "{script}\n{out}");
        out
    }

    /// Runs shell commands; whether they succeeded, and what they print.
    pub fn try_sh(&self, script: &str) -> (bool, String) {
        let o = self.enter(|| Command::new("sh").args(["-e", "-c", script]).output().unwrap());
        (o.status.success(), format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr)))
    }

    /// Whether a host answers one of three echo requests.
    pub fn ping(&self, to: &str) -> bool {
        (0..3).any(|_| self.try_sh(&format!("ping -n -c 1 -W 0.4 {to}")).0)
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// client 10.1.0.2 (c0) - (d0) 10.1.0.1 gateway 10.2.0.1 (d1) - (s0) 10.2.0.2 server; fd01::/64 and fd02::/64 likewise.
pub struct Lab {
    pub client: Namespace,
    pub gateway: Namespace,
    pub server: Namespace,
}

impl Lab {
    pub fn new(queues: u32) -> Self {
        let lab = Lab { client: Namespace::new(), gateway: Namespace::new(), server: Namespace::new() };
        let q = format!("numtxqueues {queues} numrxqueues {queues}");
        lab.gateway.sh(&format!(
            "ip link add d0 address 02:00:00:00:01:01 {q} type veth peer name c0 address 02:00:00:00:01:02 {q} netns {}
             ip link add d1 address 02:00:00:00:02:01 {q} type veth peer name s0 address 02:00:00:00:02:02 {q} netns {}",
            lab.client.path(),
            lab.server.path()
        ));
        side(&lab.client, "c0", "10.1.0.2/24", "fd01::2/64", "10.1.0.1", "fd01::1", "02:00:00:00:01:01");
        side(&lab.server, "s0", "10.2.0.2/24", "fd02::2/64", "10.2.0.1", "fd02::1", "02:00:00:00:02:01");
        lab.gateway.sh(
            "for i in 0 1; do ip addr add 10.$((i+1)).0.1/24 dev d$i; ip addr add fd0$((i+1))::1/64 dev d$i nodad
             ip link set d$i up; ethtool -K d$i gro on; done
             ip neigh add 10.1.0.2 lladdr 02:00:00:00:01:02 dev d0; ip neigh add 10.2.0.2 lladdr 02:00:00:00:02:02 dev d1
             ip neigh add fd01::2 lladdr 02:00:00:00:01:02 dev d0; ip neigh add fd02::2 lladdr 02:00:00:00:02:02 dev d1
             echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
        );
        lab
    }
}

fn side(ns: &Namespace, device: &str, v4: &str, v6: &str, gateway4: &str, gateway6: &str, mac: &str) {
    // Transmit checksum offload would leave the checksums of frames that AF_XDP carries incomplete.
    ns.sh(&format!(
        "ip addr add {v4} dev {device}; ip addr add {v6} dev {device} nodad; ip link set {device} up
         ethtool -K {device} gro on tx off tso off gso off
         ip neigh add {gateway4} lladdr {mac} dev {device}; ip neigh add {gateway6} lladdr {mac} dev {device}
         ip route add default via {gateway4}; ip route add default via {gateway6}"
    ));
}

/// Rewrites the Ethernet addresses of what either port receives and sends it out of the other, until told to stop.
pub fn forward(io: &mut WorkerIo, stop: &AtomicBool) {
    let headers = [[CLIENT_MAC, D0_MAC].concat(), [SERVER_MAC, D1_MAC].concat()];
    let WorkerIo { pool, ports, .. } = io;
    let mut frames = Vec::new();
    while !stop.load(Relaxed) {
        for from in 0..2 {
            let to = 1 - from;
            ports[from].receive(pool, &mut frames, BURST);
            for frame in frames.drain(..) {
                pool.bytes_mut(frame)[..12].copy_from_slice(&headers[to]);
                if let Err(frame) = ports[to].send(pool, frame) {
                    pool.give(frame);
                }
            }
            ports[to].flush(pool);
        }
        if ports.iter().all(|p| p.unsent() == 0) {
            wait(ports, 20);
        }
    }
}

/// Sleeps until one of the ports has frames.
pub fn wait(ports: &[XskPort], milliseconds: i32) {
    let fd = |p: &XskPort| libc::pollfd { fd: p.poll_fd().unwrap(), events: libc::POLLIN, revents: 0 };
    let mut fds: Vec<_> = ports.iter().map(fd).collect();
    // SAFETY: the array is valid for its length during the call.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, milliseconds) };
}

/// Enters a worker's sockets in the steering programs, which are in the ports' order.
pub fn enter_sockets(steers: &mut [Steer], io: &WorkerIo) {
    for (steer, port) in steers.iter_mut().zip(&io.ports) {
        steer.set_socket(port.queue(), port).unwrap();
    }
}

/// Receives what has arrived, for up to 200 ms, until there are `n` frames.
pub fn receive(port: &mut XskPort, pool: &mut FramePool, n: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    for _ in 0..20 {
        port.receive(pool, &mut frames, BURST);
        if frames.len() >= n {
            break;
        }
        wait(std::slice::from_ref(port), 10);
    }
    frames
}

/// Fails unless every frame of the pool is somewhere.
pub fn check_account(io: &WorkerIo) {
    let held: u32 = io.ports.iter().map(|p| p.held().receive + p.held().transmit).sum();
    assert_eq!(io.pool.available() as u32 + held, io.pool.frames());
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn monotonic() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Sends whole frames on a device of the current namespace.
pub struct RawSender(OwnedFd);

impl RawSender {
    pub fn new(device: &str) -> Self {
        let index = dataplane::io::link::Link::find(device).unwrap().index;
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: `fd` was just made; all-zero bytes are a valid address, which is readable for its size.
        unsafe {
            let owned = OwnedFd::from_raw_fd(fd as RawFd);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_ifindex = index as i32;
            let length = size_of_val(&address) as libc::socklen_t;
            assert_eq!(libc::bind(fd, (&raw const address).cast(), length), 0);
            RawSender(owned)
        }
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: `frame` is readable for its length.
        let n = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(n, frame.len() as isize, "{}", io::Error::last_os_error());
    }
}
