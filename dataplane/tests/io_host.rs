//! Answers of the host to redirected connections: what leaves, and what becomes of the program.

mod io_support;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use dataplane::io::host::{Attachment, HostFlow, HostProgram, Origin};
use io_support::*;

const BOTH: [Attachment; 2] = [Attachment::Tcx, Attachment::Clsact];

fn at(s: &str) -> SocketAddr {
    s.parse().unwrap()
}

/// A connection from the client's port 4000 to 203.0.113.5:53 (2001:db8::5), which the host knows as one from
/// port 4001 to its own port 5353.
fn flow(v6: bool) -> (HostFlow, Origin) {
    let (host, client, asked) =
        if v6 { ("fd01::1", "fd01::2", "2001:db8::5") } else { ("10.1.0.1", "10.1.0.2", "203.0.113.5") };
    let [host, client, asked] = [host, client, asked].map(|a| a.parse().unwrap());
    let flow = HostFlow { protocol: 17, host: (host, 5353), client: (client, 4001) };
    (flow, Origin { host: (asked, 53), client_port: 4000, worker: 0 })
}

/// Sends a datagram of `size` bytes from the host's port 5353 to the client's port 4001. Returns the port it
/// arrived at, and where it seemed to come from.
fn answer(lab: &Lab, v6: bool, size: usize) -> (u16, SocketAddr) {
    let any = if v6 { "[::]" } else { "0.0.0.0" };
    let open = |port| {
        let s = UdpSocket::bind(at(&format!("{any}:{port}"))).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        s
    };
    let sockets = lab.client.enter(|| [4000, 4001].map(open));
    lab.gateway.enter(|| {
        let to = if v6 { "[fd01::2]:4001" } else { "10.1.0.2:4001" };
        assert_eq!(open(5353).send_to(&vec![b'x'; size], at(to)).unwrap(), size);
    });
    let mut buffer = vec![0; 1 << 16];
    for s in &sockets {
        s.set_nonblocking(true).unwrap();
    }
    for _ in 0..200 {
        for s in &sockets {
            if let Ok((n, from)) = s.recv_from(&mut buffer) {
                assert_eq!((n, &buffer[..n]), (size, &vec![b'x'; size][..]));
                return (s.local_addr().unwrap().port(), from);
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("no answer of {size} bytes has arrived");
}

/// The client knows itself and the server by these.
fn translated(v6: bool) -> (u16, SocketAddr) {
    (4000, at(if v6 { "[2001:db8::5]:53" } else { "203.0.113.5:53" }))
}

fn untouched(v6: bool) -> (u16, SocketAddr) {
    (4001, at(if v6 { "[fd01::1]:5353" } else { "10.1.0.1:5353" }))
}

fn filters(lab: &Lab) -> usize {
    lab.gateway.sh("tc filter show dev d0 egress").matches("direct-action").count()
}

#[test]
fn answers_are_translated_while_the_daemon_lives() {
    if !privileged() {
        return;
    }
    for how in BOTH {
        let lab = Lab::new(1);
        // The host's checksums are left to the device, as they are on a real one.
        lab.gateway.sh("ethtool -K d0 tx on");
        lab.gateway.enter(|| {
            let mut p = HostProgram::load(100).unwrap();
            p.heartbeat(monotonic()).unwrap();
            p.attach("d0", how).unwrap();
            p.attach("d0", how).unwrap();
            assert_eq!(p.devices().collect::<Vec<_>>(), ["d0"]);
            for v6 in [false, true] {
                let (flow, origin) = flow(v6);
                assert_eq!(answer(&lab, v6, 100), untouched(v6), "{how:?}");
                p.enter(&flow, &origin).unwrap();
                for size in [100, 0, 4000, 65_000] {
                    p.heartbeat(monotonic()).unwrap();
                    assert_eq!(answer(&lab, v6, size), translated(v6), "{how:?}, {size} bytes");
                }
                // One report for all of them.
                let sight = p.next_sight().unwrap();
                assert_eq!((sight.flow, sight.finished, sight.reset), (flow, false, false));
                assert_eq!(p.next_sight(), None);
                // No sign of life for too long.
                p.heartbeat(monotonic() - 4_000_000_000).unwrap();
                assert_eq!(answer(&lab, v6, 100), untouched(v6), "{how:?}");
                p.heartbeat(monotonic()).unwrap();
                assert_eq!(answer(&lab, v6, 100), translated(v6), "{how:?}");
                assert!(p.forget(&flow, &origin).unwrap());
                assert!(!p.forget(&flow, &origin).unwrap());
                assert_eq!(answer(&lab, v6, 100), untouched(v6), "{how:?}");
            }
            p.detach().unwrap();
            assert_eq!((filters(&lab), p.devices().count()), (0, 0));
        });
    }
}

#[test]
fn a_stale_filter_is_replaced_and_others_stay() {
    if !privileged() {
        return;
    }
    let lab = Lab::new(1);
    lab.gateway.sh("tc qdisc add dev d0 clsact; tc filter add dev d0 egress prio 7 bpf bytecode '1,6 0 0 0,'");
    lab.gateway.enter(|| {
        for _ in 0..2 {
            let mut p = HostProgram::load(100).unwrap();
            p.heartbeat(monotonic()).unwrap();
            p.attach("d0", Attachment::Clsact).unwrap();
            assert_eq!(filters(&lab), 1);
            // As after a crash.
            std::mem::forget(p);
        }
        let mut p = HostProgram::load(100).unwrap();
        p.attach("d0", Attachment::Clsact).unwrap();
        drop(p);
        assert_eq!(filters(&lab), 0);
    });
    assert!(lab.gateway.sh("tc filter show dev d0 egress").contains("bytecode"));
}

#[test]
fn a_full_map_and_a_missing_device_are_told() {
    if !privileged() {
        return;
    }
    let lab = Lab::new(1);
    lab.gateway.enter(|| {
        let mut p = HostProgram::load(1).unwrap();
        let (flow, origin) = flow(false);
        p.enter(&flow, &origin).unwrap();
        let another = HostFlow { protocol: 6, ..flow };
        assert!(p.enter(&another, &origin).unwrap_err().to_string().contains("entering a redirected connection"));
        for how in BOTH {
            let e = p.attach("nothing", how).unwrap_err().to_string();
            assert!(e.contains("to nothing: "), "{e}");
        }
    });
}
