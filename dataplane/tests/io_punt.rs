//! The host's own traffic through a worker and back to the kernel: echo and TCP on a translated address.

mod io_support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use dataplane::io::punt::{Ingress, Injector};
use dataplane::io::steer::{LocalKind, OnFailure, Steer};
use dataplane::io::xsk::{IoMode, open_worker};
use dataplane::io::{BURST, Port};
use io_support::*;

/// Punts everything that a worker gets on d0 while `traffic` runs; returns how many frames that were.
fn while_punting(lab: &Lab, mode: IoMode, traffic: impl FnOnce() + Send) -> u64 {
    let stop = AtomicU64::new(0);
    thread::scope(|s| {
        let stop = &stop;
        let punter = s.spawn(move || {
            lab.gateway.enter(|| {
                let mut steer = Steer::load("d0", OnFailure::Closed).unwrap();
                for a in ["10.1.0.1", "fd01::1"] {
                    steer.set_local(a.parse().unwrap(), LocalKind::Translated).unwrap();
                }
                let mut io = open_worker(0, &["d0"], mode, None).unwrap();
                enter_sockets(std::slice::from_mut(&mut steer), &io);
                let mut injector = Injector::new().unwrap();
                steer.attach(mode).unwrap();
                let (mut frames, mut punted) = (Vec::new(), 0);
                stop.store(1, Relaxed);
                // After the traffic its last acknowledgements may still be on their way.
                let mut last = None;
                while last.is_none_or(|t: Instant| t.elapsed() < Duration::from_millis(100)) {
                    if stop.load(Relaxed) == 2 && last.is_none() {
                        last = Some(Instant::now());
                    }
                    steer.heartbeat(monotonic()).unwrap();
                    io.ports[0].receive(&mut io.pool, &mut frames, BURST);
                    let bytes: Vec<&[u8]> = frames.iter().map(|f| io.pool.bytes(*f)).collect();
                    assert_eq!(injector.inject(steer.ingress(0), &bytes).unwrap(), bytes.len());
                    punted += bytes.len() as u64;
                    frames.drain(..).for_each(|f| io.pool.give(f));
                    wait(&io.ports, 5);
                }
                assert_eq!(steer.counters().unwrap().redirected, punted, "no injected frame comes round again");
                check_account(&io);
                steer.detach().unwrap();
                punted
            })
        });
        while stop.load(Relaxed) == 0 && !punter.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        let result = s.spawn(traffic).join();
        stop.store(2, Relaxed);
        let punted = punter.join().unwrap();
        result.unwrap();
        punted
    })
}

fn echo_and_tcp(lab: &Lab) {
    lab.client.sh("ping -n -c 200 -i 0.002 -W 1 10.1.0.1 | grep ' 200 received'");
    lab.client.sh("ping -n -c 20 -i 0.002 -W 1 fd01::1 | grep ' 20 received'");
    // The host's firewall and sockets see the frame as it was sent, source address of Ethernet included.
    let listener = lab.gateway.enter(|| TcpListener::bind("10.1.0.1:8022").unwrap());
    let server = thread::spawn(move || {
        for _ in 0..20 {
            let (mut s, _) = listener.accept().unwrap();
            let mut request = [0; 5];
            s.read_exact(&mut request).unwrap();
            s.write_all(&request).unwrap();
        }
    });
    for _ in 0..20 {
        lab.client.enter(|| {
            let mut s = TcpStream::connect("10.1.0.1:8022").unwrap();
            s.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            s.write_all(b"hello").unwrap();
            let mut answer = [0; 5];
            s.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"hello");
        });
    }
    server.join().unwrap();
}

#[test]
fn the_host_answers_in_native_mode() {
    if privileged() {
        let lab = Lab::new(1);
        assert!(while_punting(&lab, IoMode::Copy, || echo_and_tcp(&lab)) >= 220 + 20 * 5);
    }
}

#[test]
fn the_host_answers_in_generic_mode() {
    if privileged() {
        let lab = Lab::new(1);
        lab.gateway.sh(
            "nft 'add table netdev f; add chain netdev f i { type filter hook ingress device d0 priority 0; }; add rule \
             netdev f i ether saddr 02:00:00:00:01:02 ip protocol icmp counter comment \"restored\"'",
        );
        assert!(while_punting(&lab, IoMode::Generic, || echo_and_tcp(&lab)) >= 220 + 20 * 5);
        let counted = lab.gateway.sh("nft list table netdev f");
        assert!(counted.contains("counter packets 200 "), "the source address was not put back: {counted}");
    }
}

#[test]
fn sizes_and_batches() {
    if !privileged() {
        return;
    }
    let lab = Lab::new(1);
    lab.gateway.enter(|| {
        // A veth has NAPI, and takes live frames, while an XDP program or GRO is on.
        let mut steer = Steer::load("d0", OnFailure::Closed).unwrap();
        steer.attach(IoMode::Copy).unwrap();
        let mut injector = Injector::new().unwrap();
        let received = || {
            let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
            let line = text.lines().filter(|l| l.starts_with("Icmp:")).nth(1).unwrap().to_owned();
            line.split(' ').nth(1).unwrap().parse::<u64>().unwrap()
        };
        let before = received();
        let echo = |length: usize| {
            let mut f = [D0_MAC, CLIENT_MAC].concat();
            f.extend([8, 0, 0x45, 0]);
            f.extend((length as u16 - 14).to_be_bytes());
            f.extend([0, 1, 0, 0, 64, 1, 0, 0, 10, 1, 0, 2, 10, 1, 0, 1]);
            let sum: u32 = f[14..34].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            f[24..26].copy_from_slice(&sum.to_be_bytes());
            f.resize(length, 0);
            f[34] = 8;
            f[36..38].copy_from_slice(&[0xf7, 0xff]);
            f
        };
        let sizes: Vec<Vec<u8>> = (0..150).map(|i| echo(60 + i * 20)).chain([vec![0; 13], echo(3387)]).collect();
        assert_eq!(injector.inject(steer.ingress(0), &sizes).unwrap(), 150);
        assert_eq!(injector.inject(steer.ingress(0), &[echo(3386)]).unwrap(), 1);
        assert_eq!(injector.inject(steer.ingress(0), &[] as &[Vec<u8>]).unwrap(), 0);
        let deadline = Instant::now() + Duration::from_secs(2);
        while received() < before + 151 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(received(), before + 151);
        let gone = Ingress { ifindex: 9999, vlan: 0, cookie: None };
        let error = injector.inject(gone, &[echo(60)]).unwrap_err().to_string();
        assert!(error.contains("index 9999 failed"), "{error}");
        steer.detach().unwrap();
    });
}
