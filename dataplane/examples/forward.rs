//! A bare forwarder between two interfaces: what the ports can do without the packet path.
//!
//! ```text
//! forward [--mode auto|zero-copy|copy|generic] [--queues N] [--frames N] [--open] [--sleep] eth0=PEERMAC eth1=PEERMAC
//! ```
//! A frame that comes in on one interface leaves by the other, addressed to that interface's PEERMAC.
//! `--open` is `on_failure: open`; `--sleep` sleeps in poll(2) while nothing is received. Runs until SIGINT
//! or SIGTERM, then detaches and prints what the kernel counted and where every frame is.

use std::error::Error;
use std::os::fd::RawFd;
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use dataplane::io::steer::{OnFailure, Steer};
use dataplane::io::xsk::{IoMode, WorkerIo, XskPort, open_worker};
use dataplane::io::{BURST, Frame, FramePool, Port};

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: libc::c_int) {
    STOP.store(true, Relaxed);
}

struct Options {
    mode: IoMode,
    queues: u32,
    frames: Option<u32>,
    on_failure: OnFailure,
    sleep: bool,
    /// Devices, and the Ethernet addresses of what is behind them.
    sides: Vec<(String, [u8; 6])>,
}

fn main() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler.
        unsafe { libc::signal(signal, on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
    if let Err(e) = options().and_then(|o| run(&o)) {
        eprintln!("error: {e}");
        exit(1);
    }
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut o = Options {
        mode: IoMode::Auto,
        queues: 1,
        frames: None,
        on_failure: OnFailure::Closed,
        sleep: false,
        sides: Vec::new(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(a) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{a} needs a value"));
        match a.as_str() {
            "--mode" => {
                o.mode = match value()?.as_str() {
                    "auto" => IoMode::Auto,
                    "zero-copy" => IoMode::ZeroCopy,
                    "copy" => IoMode::Copy,
                    "generic" => IoMode::Generic,
                    m => return Err(format!("--mode {m}: not auto, zero-copy, copy or generic").into()),
                }
            }
            "--queues" => o.queues = value()?.parse()?,
            "--frames" => o.frames = Some(value()?.parse()?),
            "--open" => o.on_failure = OnFailure::Open,
            "--sleep" => o.sleep = true,
            side => {
                let (device, mac) = side.split_once('=').ok_or(format!("{side}: not DEVICE=PEERMAC"))?;
                let bytes = mac.split(':').map(|b| u8::from_str_radix(b, 16)).collect::<Result<Vec<_>, _>>()?;
                let mac = bytes.try_into().map_err(|_| format!("{mac}: not an Ethernet address"))?;
                o.sides.push((device.into(), mac));
            }
        }
    }
    if o.sides.len() != 2 {
        return Err("two interfaces are needed".into());
    }
    Ok(o)
}

fn run(o: &Options) -> Result<(), Box<dyn Error>> {
    let devices: Vec<&str> = o.sides.iter().map(|(d, _)| d.as_str()).collect();
    let mut steers = devices.iter().map(|d| Steer::load(d, o.on_failure)).collect::<Result<Vec<_>, _>>()?;
    let mut workers = Vec::new();
    for queue in 0..o.queues {
        let io = open_worker(queue, &devices, o.mode, o.frames)?;
        for (steer, port) in steers.iter_mut().zip(&io.ports) {
            steer.set_socket(queue, port)?;
            println!("{} queue {queue}: zero-copy {}, huge pages {}", port.device(), port.zero_copy(), io.huge_pages);
        }
        workers.push(io);
    }
    for steer in &mut steers {
        let a = steer.attach(o.mode)?;
        println!("{}: {} XDP, replaced a stale program: {}", steer.link().name, a.mode, a.replaced);
    }
    let ours: Vec<[u8; 6]> = steers.iter().map(|s| s.link().mac).collect();
    // What goes at the front of a frame sent by each side: the peer's address and the side's own.
    let headers: Vec<[u8; 12]> = o
        .sides
        .iter()
        .zip(&ours)
        .map(|((_, peer), own)| std::array::from_fn(|i| if i < 6 { peer[i] } else { own[i - 6] }))
        .collect();
    println!("forwarding");
    thread::scope(|s| {
        for io in workers {
            s.spawn(|| work(io, &headers, o.sleep));
        }
    });
    for steer in &mut steers {
        println!("{}: {:?}", steer.link().name, steer.counters()?);
        steer.detach()?;
    }
    Ok(())
}

fn work(io: WorkerIo, headers: &[[u8; 12]], sleep: bool) {
    let WorkerIo { mut pool, mut ports, .. } = io;
    let mut frames = Vec::with_capacity(BURST);
    let mut dropped = 0u64;
    while !STOP.load(Relaxed) {
        let mut idle = true;
        for from in 0..2 {
            let to = 1 - from;
            ports[from].receive(&mut pool, &mut frames, BURST);
            if frames.is_empty() {
                if ports[to].unsent() > 0 {
                    ports[to].flush(&mut pool);
                }
                continue;
            }
            idle = false;
            for frame in frames.drain(..) {
                dropped += u64::from(!forward(&mut ports[to], &mut pool, frame, &headers[to]));
            }
            ports[to].flush(&mut pool);
        }
        if idle && sleep && ports.iter().all(|p| p.unsent() == 0) {
            wait(&ports);
        }
    }
    thread::sleep(Duration::from_millis(10));
    let mut total = pool.available();
    for p in &mut ports {
        p.flush(&mut pool);
        println!("{} queue {}: {:?} {:?}", p.device(), p.queue(), p.held(), p.statistics());
    }
    total = ports.iter().fold(pool.available(), |n, p| n + (p.held().receive + p.held().transmit) as usize).max(total);
    println!("dropped {dropped}; frames accounted for: {total} of {}", pool.frames());
}

fn forward(port: &mut XskPort, pool: &mut FramePool, frame: Frame, header: &[u8; 12]) -> bool {
    pool.bytes_mut(frame)[..12].copy_from_slice(header);
    match port.send(pool, frame) {
        Ok(()) => true,
        Err(frame) => {
            pool.give(frame);
            false
        }
    }
}

fn wait(ports: &[XskPort]) {
    let fd = |p: &XskPort| p.poll_fd().unwrap_or(-1 as RawFd);
    let mut fds: Vec<libc::pollfd> =
        ports.iter().map(|p| libc::pollfd { fd: fd(p), events: libc::POLLIN, revents: 0 }).collect();
    // SAFETY: the array is valid for its length during the call.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, 100) };
}
