//! Frames between two veths through the ports: echo and TCP, one and two queues, every frame accounted for.

mod io_support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use dataplane::io::steer::{OnFailure, Steer};
use dataplane::io::xsk::{IoMode, WorkerIo, check_queues, open_worker};
use dataplane::io::{Port, link::XdpMode};
use io_support::{Lab, check_account, enter_sockets, forward, privileged};

/// Runs `traffic` while workers forward, and checks their accounts afterwards.
fn while_forwarding(lab: &Lab, queues: u32, mode: IoMode, expected: XdpMode, traffic: impl FnOnce() + Send) {
    let (mut steers, mut workers) = lab.gateway.enter(|| {
        check_queues("d0", queues).unwrap();
        let mut steers = ["d0", "d1"].map(|d| Steer::load(d, OnFailure::Closed).unwrap());
        let workers: Vec<WorkerIo> = (0..queues).map(|q| open_worker(q, &["d0", "d1"], mode, None).unwrap()).collect();
        workers.iter().for_each(|io| enter_sockets(&mut steers, io));
        for s in &mut steers {
            assert_eq!(s.attach(mode).unwrap().mode, expected);
        }
        (steers, workers)
    });
    let stop = AtomicBool::new(false);
    thread::scope(|s| {
        let stop = &stop;
        for io in &mut workers {
            s.spawn(move || forward(io, stop));
        }
        let traffic = s.spawn(traffic).join();
        stop.store(true, Relaxed);
        traffic.unwrap();
    });
    for io in &mut workers {
        assert!(io.ports.iter().all(|p| !p.zero_copy()));
        for port in &mut io.ports {
            port.flush(&mut io.pool);
            assert_eq!(port.held().transmit, 0, "{port:?}");
            assert_eq!(port.statistics().unwrap().tx_invalid, 0);
            assert_eq!(port.monitor().unwrap().statistics().unwrap(), port.statistics().unwrap());
        }
        check_account(io);
    }
    lab.gateway.enter(|| {
        for s in &mut steers {
            let c = s.counters().unwrap();
            assert!(c.redirected > 0 && c.failed_closed + c.failed_open + c.bad_tags == 0, "{c:?}");
            s.detach().unwrap();
        }
    });
}

fn transfer(lab: &Lab, bytes: usize) {
    let listener = lab.server.enter(|| TcpListener::bind("10.2.0.2:5000").unwrap());
    let server = thread::spawn(move || {
        let (mut s, _) = listener.accept().unwrap();
        let mut data = Vec::new();
        s.read_to_end(&mut data).unwrap();
        s.write_all(&data).unwrap();
    });
    let mut client = lab.client.enter(|| TcpStream::connect("10.2.0.2:5000").unwrap());
    let sent: Vec<u8> = (0..bytes).map(|i| (i * 7 + i / 251) as u8).collect();
    client.write_all(&sent).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut back = Vec::new();
    client.read_to_end(&mut back).unwrap();
    assert!(back == sent, "{} of {bytes} bytes came back, or other ones", back.len());
    server.join().unwrap();
}

#[test]
fn one_queue() {
    if privileged() {
        let lab = Lab::new(1);
        while_forwarding(&lab, 1, IoMode::Auto, XdpMode::Native, || {
            assert!(lab.client.ping("10.2.0.2") && lab.client.ping("fd02::2"));
            transfer(&lab, 20_000_000);
        });
    }
}

#[test]
fn two_queues() {
    if privileged() {
        let lab = Lab::new(2);
        while_forwarding(&lab, 2, IoMode::Copy, XdpMode::Native, || {
            assert!(lab.client.ping("10.2.0.2") && lab.server.ping("10.1.0.2"));
            (0..4).for_each(|_| transfer(&lab, 2_000_000));
        });
    }
}

#[test]
fn generic_mode() {
    if privileged() {
        let lab = Lab::new(1);
        while_forwarding(&lab, 1, IoMode::Generic, XdpMode::Generic, || {
            assert!(lab.client.ping("10.2.0.2"));
            transfer(&lab, 5_000_000);
        });
    }
}

#[test]
fn an_interface_that_goes_down_and_comes_back() {
    if !privileged() {
        return;
    }
    let lab = Lab::new(1);
    lab.gateway.enter(|| {
        let mut io = open_worker(0, &["d0", "d1"], IoMode::Copy, None).unwrap();
        lab.gateway.sh("ip link set d1 down");
        let send = |io: &mut WorkerIo| {
            let mut frame = io.pool.take().unwrap();
            frame.len = 60;
            io.pool.bytes_mut(frame).fill(0);
            io.ports[1].send(&mut io.pool, frame)
        };
        send(&mut io).unwrap();
        io.ports[1].flush(&mut io.pool);
        assert_eq!((io.ports[1].unsent(), io.ports[1].held().transmit), (0, 1), "nothing to wait for");
        // What cannot be sent is refused when the rings are full, and none of it is lost.
        while send(&mut io).is_ok() {
            io.ports[1].flush(&mut io.pool);
        }
        assert_eq!(io.ports[1].held().transmit, 2048);
        lab.gateway.sh("ip link set d1 up");
        for _ in 0..200 {
            io.ports[1].flush(&mut io.pool);
        }
        assert_eq!((io.ports[1].unsent(), io.ports[1].held().transmit), (0, 0));
        // The last frame refused was dropped by this test.
        let held: u32 = io.ports.iter().map(|p| p.held().receive).sum();
        assert_eq!(io.pool.available() as u32 + held, io.pool.frames() - 1);
    });
}
