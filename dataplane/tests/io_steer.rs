//! The steering program: what is whose, what happens when the daemon dies, and what it finds when it starts.

mod io_support;

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread::sleep;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::Xdp;
use dataplane::io::link::{Link, XdpMode};
use dataplane::io::steer::{LocalKind, Managed, OnFailure, Steer, SteerCounters};
use dataplane::io::xsk::{IoMode, open_worker};
use dataplane::io::{Frame, Port};
use io_support::*;

const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 9, 9];
const BROADCAST: [u8; 6] = [0xff; 6];

/// An Ethernet frame of at least 60 bytes.
fn frame(to: [u8; 6], tags: &[u16], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut f = [to, CLIENT_MAC].concat();
    for tag in tags {
        f.extend([0x8100u16.to_be_bytes(), tag.to_be_bytes()].concat());
    }
    f.extend(ethertype.to_be_bytes());
    f.extend_from_slice(payload);
    f.resize(f.len().max(60), 0);
    f
}

fn ipv4(to: &str, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let to: std::net::Ipv4Addr = to.parse().unwrap();
    let mut p = vec![0x45, 0, 0, 20 + payload.len() as u8, 0, 1];
    p.extend(fragment.to_be_bytes());
    p.extend([64, protocol, 0, 0, 10, 1, 0, 2]);
    p.extend(to.octets());
    p.extend_from_slice(payload);
    p
}

fn ipv6(from: &str, to: &str, next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let (from, to): (std::net::Ipv6Addr, std::net::Ipv6Addr) = (from.parse().unwrap(), to.parse().unwrap());
    let mut p = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next, hop_limit];
    p.extend(from.octets());
    p.extend(to.octets());
    p.extend_from_slice(payload);
    p
}

fn udp(from: u16, to: u16) -> Vec<u8> {
    [from.to_be_bytes(), to.to_be_bytes(), 8u16.to_be_bytes(), [0; 2]].concat()
}

/// A frame on the client's wire and the counter of [`SteerCounters`] that it must move.
type Case = (&'static str, Vec<u8>, fn(&SteerCounters) -> u64);

fn cases() -> Vec<Case> {
    let passed: fn(&SteerCounters) -> u64 = |c| c.passed;
    let redirected: fn(&SteerCounters) -> u64 = |c| c.redirected;
    let bad_tags: fn(&SteerCounters) -> u64 = |c| c.bad_tags;
    let v4 = |to: &str| ipv4(to, 17, 0, &udp(1000, 2000));
    let v6 = |from: &str, to: &str| ipv6(from, to, 17, 64, &udp(1000, 2000));
    let nd = |hops: u8| ipv6("fd01::2", "fd01::99", 58, hops, &[135, 0, 0, 0]);
    vec![
        ("transit", frame(D0_MAC, &[], 0x0800, &v4("10.2.0.2")), redirected),
        ("transit fragment", frame(D0_MAC, &[], 0x0800, &ipv4("10.2.0.2", 17, 5, &[0; 8])), redirected),
        ("transit over IPv6", frame(D0_MAC, &[], 0x86dd, &v6("fd01::2", "fd02::2")), redirected),
        ("the host's address", frame(D0_MAC, &[], 0x0800, &v4("10.1.0.1")), passed),
        ("the host's IPv6 address", frame(D0_MAC, &[], 0x86dd, &v6("fd01::2", "fd01::1")), passed),
        ("a translated address", frame(D0_MAC, &[], 0x0800, &v4("10.2.0.1")), redirected),
        (
            "a fragment for a translated address",
            frame(D0_MAC, &[], 0x0800, &ipv4("10.2.0.1", 17, 9, &[0; 8])),
            redirected,
        ),
        ("a translated IPv6 address", frame(D0_MAC, &[], 0x86dd, &v6("fd01::2", "fd02::1")), redirected),
        ("broadcast frame", frame(BROADCAST, &[], 0x0800, &v4("10.2.0.2")), passed),
        ("multicast frame", frame([1, 0, 0x5e, 0, 0, 9], &[], 0x0800, &v4("224.0.0.9")), passed),
        ("multicast address in a unicast frame", frame(D0_MAC, &[], 0x0800, &v4("224.0.0.9")), passed),
        ("broadcast address", frame(D0_MAC, &[], 0x0800, &v4("255.255.255.255")), passed),
        ("somebody else's frame", frame(OTHER_MAC, &[], 0x0800, &v4("10.2.0.2")), passed),
        ("ARP", frame(D0_MAC, &[], 0x0806, &[0; 28]), passed),
        ("IPv6 multicast", frame(D0_MAC, &[], 0x86dd, &v6("fd01::2", "ff05::2")), passed),
        ("to link-local", frame(D0_MAC, &[], 0x86dd, &v6("fd01::2", "fe80::2")), passed),
        ("from link-local", frame(D0_MAC, &[], 0x86dd, &v6("fe80::2", "fd02::2")), passed),
        ("neighbour solicitation", frame(D0_MAC, &[], 0x86dd, &nd(255)), passed),
        ("a forwarded neighbour solicitation", frame(D0_MAC, &[], 0x86dd, &nd(254)), redirected),
        ("a DHCP answer", frame(D0_MAC, &[], 0x0800, &ipv4("10.1.0.77", 17, 0, &udp(67, 68))), redirected),
        ("VLAN 5", frame(D0_MAC, &[5], 0x0800, &v4("10.2.0.2")), passed),
        ("priority tag", frame(D0_MAC, &[0xe000], 0x0800, &v4("10.2.0.2")), redirected),
        ("two priority tags", frame(D0_MAC, &[0xe000, 0], 0x0800, &v4("10.2.0.2")), redirected),
        ("priority tag around VLAN 5", frame(D0_MAC, &[0, 5], 0x0800, &v4("10.2.0.2")), passed),
        ("three priority tags", frame(D0_MAC, &[0, 0, 0], 0x0800, &v4("10.2.0.2")), bad_tags),
        ("priority tag, the host's address", frame(D0_MAC, &[0], 0x0800, &v4("10.1.0.1")), passed),
        ("managed VLAN", frame(D0_MAC, &[20], 0x0800, &v4("10.2.0.2")), redirected),
        ("managed VLAN, with a priority", frame(D0_MAC, &[0xe014], 0x86dd, &v6("fd01::2", "fd02::2")), redirected),
        ("managed VLAN, the host's address", frame(D0_MAC, &[20], 0x0800, &v4("10.1.0.1")), passed),
        ("managed VLAN, a translated address", frame(D0_MAC, &[20], 0x0800, &v4("10.2.0.1")), redirected),
        ("managed VLAN, ARP", frame(D0_MAC, &[20], 0x0806, &[0; 28]), passed),
        ("managed VLAN, broadcast frame", frame(BROADCAST, &[20], 0x0800, &v4("10.2.0.2")), passed),
        ("managed VLAN, somebody else's frame", frame(OTHER_MAC, &[20], 0x0800, &v4("10.2.0.2")), passed),
        ("managed VLAN with an address of its own", frame(OTHER_MAC, &[30], 0x0800, &v4("10.2.0.2")), redirected),
        ("the device's address on that VLAN", frame(D0_MAC, &[30], 0x0800, &v4("10.2.0.2")), passed),
        (
            "managed VLAN, a DHCP answer",
            frame(OTHER_MAC, &[30], 0x0800, &ipv4("10.1.0.77", 17, 0, &udp(67, 68))),
            passed,
        ),
        ("priority tag around a managed VLAN", frame(D0_MAC, &[0xe000, 20], 0x0800, &v4("10.2.0.2")), redirected),
        ("two priority tags around a managed VLAN", frame(D0_MAC, &[0, 0, 20], 0x0800, &v4("10.2.0.2")), bad_tags),
        ("priority tag in a managed VLAN", frame(D0_MAC, &[20, 0], 0x0800, &v4("10.2.0.2")), bad_tags),
        ("VLAN in a managed VLAN", frame(D0_MAC, &[20, 7], 0x0800, &v4("10.2.0.2")), passed),
    ]
}

/// Sends a frame and returns the counters before and after it was counted.
fn observe(steer: &Steer, send: &RawSender, bytes: &[u8]) -> (SteerCounters, SteerCounters) {
    let before = steer.counters().unwrap();
    send.send(bytes);
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        let after = steer.counters().unwrap();
        if after != before || Instant::now() > deadline {
            return (before, after);
        }
        sleep(Duration::from_micros(200));
    }
}

fn quiet_lab() -> Lab {
    let lab = Lab::new(1);
    // The kernels' own chatter (router solicitations, reports) would be counted too.
    lab.client.sh("ip link set c0 multicast off; echo 0 > /proc/sys/net/ipv6/conf/c0/router_solicitations");
    sleep(Duration::from_millis(100));
    lab
}

#[test]
fn who_gets_what() {
    if !privileged() {
        return;
    }
    let lab = quiet_lab();
    let send = lab.client.enter(|| RawSender::new("c0"));
    lab.gateway.enter(|| {
        let mut steer = Steer::load("d0", OnFailure::Closed).unwrap();
        let mut io = open_worker(0, &["d0"], IoMode::Copy, Some(1024)).unwrap();
        let address = |a: &str| a.parse::<IpAddr>().unwrap();
        let (host, translated) = (LocalKind::Host, LocalKind::Translated);
        steer.replace_locals(&[(address("10.9.9.9"), host), (address("10.2.0.1"), host)]).unwrap();
        steer
            .replace_locals(&[
                (address("10.1.0.1"), host),
                (address("fd01::1"), host),
                (address("10.2.0.1"), translated),
                (address("fd02::1"), translated),
            ])
            .unwrap();
        steer.remove_local(address("10.77.0.1")).unwrap();
        steer.heartbeat(monotonic()).unwrap();
        enter_sockets(std::slice::from_mut(&mut steer), &io);
        let managed = |mac, accept_dhcp| Some(Managed { mac, accept_dhcp });
        steer.set_interface(20, managed(D0_MAC, false)).unwrap();
        steer.set_interface(30, managed(OTHER_MAC, true)).unwrap();
        steer.attach(IoMode::Copy).unwrap();

        for (name, bytes, counter) in cases() {
            steer.heartbeat(monotonic()).unwrap();
            let (before, after) = observe(&steer, &send, &bytes);
            assert_eq!(counter(&after), counter(&before) + 1, "{name}: {before:?} {after:?}");
            let expected = usize::from(after.redirected > before.redirected);
            let received = receive(&mut io.ports[0], &mut io.pool, expected);
            assert_eq!(received.len(), expected, "{name}");
            for f in received {
                // Priority tags are gone: the addresses come right before the type, or the VLAN's tag.
                let b = io.pool.bytes(f);
                let type_at = if name.contains("managed") { 16 } else { 12 };
                assert!(b[..6] == bytes[..6] && b[6..12] == CLIENT_MAC, "{name}");
                assert!(type_at == 12 || matches!(b[12..16], [0x81, 0x00, _, 20 | 30]), "{name}");
                assert!(matches!(b[type_at..type_at + 2], [0x08, 0x00] | [0x86, 0xdd]), "{name}");
                assert!(io.pool.offset(f) == 256 || name.contains("priority"), "{name}: {f:?}");
                io.pool.give(f);
            }
        }

        let translated = frame(D0_MAC, &[], 0x0800, &ipv4("10.2.0.1", 17, 0, &udp(1, 2)));
        steer.heartbeat(monotonic() - 3_100_000_000).unwrap();
        let (before, after) = observe(&steer, &send, &translated);
        assert_eq!(after.unattended_host, before.unattended_host + 1, "the heartbeat is too old");

        steer.set_interface(0, managed(D0_MAC, true)).unwrap();
        let dhcp = frame(D0_MAC, &[], 0x0800, &ipv4("10.1.0.77", 17, 0, &udp(67, 68)));
        let (before, after) = observe(&steer, &send, &dhcp);
        assert_eq!(after.passed, before.passed + 1, "a DHCP answer while the device has no address");

        steer.set_interface(0, managed(OTHER_MAC, false)).unwrap();
        let (before, after) =
            observe(&steer, &send, &frame(OTHER_MAC, &[], 0x0800, &ipv4("10.2.0.2", 17, 0, &udp(1, 2))));
        assert_eq!(after.redirected, before.redirected + 1, "the device's new address");

        steer.set_interface(0, None).unwrap();
        steer.set_interface(30, None).unwrap();
        let packet = ipv4("10.2.0.2", 17, 0, &udp(1, 2));
        for tags in [&[][..], &[0], &[30]] {
            let (before, after) = observe(&steer, &send, &frame(OTHER_MAC, tags, 0x0800, &packet));
            assert_eq!(after.passed, before.passed + 1, "tags {tags:?}, which are not managed any more");
        }
        let (before, after) = observe(&steer, &send, &frame(D0_MAC, &[20], 0x0800, &packet));
        assert_eq!(after.redirected, before.redirected + 1, "a VLAN on a device whose untagged frames are not managed");
        check_all(&mut io);
        steer.detach().unwrap();
    });
}

/// Takes what is left in the receive ring, and checks the account.
fn check_all(io: &mut dataplane::io::xsk::WorkerIo) {
    for f in receive(&mut io.ports[0], &mut io.pool, 1) {
        io.pool.give(f);
    }
    check_account(io);
}

#[test]
fn a_moved_packet_is_sent_whole() {
    if !privileged() {
        return;
    }
    let lab = quiet_lab();
    let send = lab.client.enter(|| RawSender::new("c0"));
    let server = lab.server.enter(|| std::net::UdpSocket::bind("10.2.0.2:4321").unwrap());
    server.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    lab.gateway.enter(|| {
        let mut steers = ["d0", "d1"].map(|d| Steer::load(d, OnFailure::Closed).unwrap());
        let mut io = open_worker(0, &["d0", "d1"], IoMode::Copy, None).unwrap();
        enter_sockets(&mut steers, &io);
        steers.iter_mut().for_each(|s| drop(s.attach(IoMode::Copy).unwrap()));
        let packet = ipv4_with_checksum("10.2.0.2", &[&[4, 210, 16, 225, 0, 15, 0, 0], &b"payload"[..]].concat());
        for offset in [256, 260, 200, 256] {
            send.send(&frame(D0_MAC, &[], 0x0800, &packet));
            let f = receive(&mut io.ports[0], &mut io.pool, 1).pop().unwrap();
            assert_eq!(io.pool.offset(f), 256);
            let mut bytes = io.pool.bytes(f).to_vec();
            bytes[..12].copy_from_slice(&[SERVER_MAC, D1_MAC].concat());
            let moved = Frame { at: f.at - 256 + offset, ..f };
            io.pool.bytes_mut(moved).copy_from_slice(&bytes);
            io.ports[1].send(&mut io.pool, moved).unwrap();
            io.ports[1].flush(&mut io.pool);
            let mut payload = [0; 100];
            let n = server.recv(&mut payload).unwrap();
            assert_eq!(&payload[..n], b"payload", "offset {offset}");
        }
        let long = io.pool.take().map(|f| Frame { len: 1793, ..f }).unwrap();
        assert_eq!(io.ports[1].send(&mut io.pool, long), Err(long), "it does not fit the frame");
        io.pool.give(long);
        check_account(&io);
        steers.iter_mut().for_each(|s| s.detach().unwrap());
    });
}

/// An IPv4 packet of UDP that a host accepts.
fn ipv4_with_checksum(to: &str, payload: &[u8]) -> Vec<u8> {
    let mut p = ipv4(to, 17, 0, payload);
    let sum: u32 = p[..20].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    p[10..12].copy_from_slice(&sum.to_be_bytes());
    p
}

/// The process that the tests below kill: this test again, told by the environment to forward for ever.
#[test]
fn daemon() {
    let Ok(on_failure) = std::env::var("IO_STEER_DAEMON") else { return };
    let on_failure = if on_failure == "open" { OnFailure::Open } else { OnFailure::Closed };
    let mut steers = ["d0", "d1"].map(|d| Steer::load(d, on_failure).unwrap());
    for steer in &mut steers {
        steer.heartbeat(monotonic()).unwrap();
        steer.set_local("10.1.0.1".parse().unwrap(), LocalKind::Host).unwrap();
        steer.set_local("10.2.0.1".parse().unwrap(), LocalKind::Translated).unwrap();
    }
    let mut io = open_worker(0, &["d0", "d1"], IoMode::Auto, None).unwrap();
    enter_sockets(&mut steers, &io);
    let replaced = steers.iter_mut().map(|s| s.attach(IoMode::Auto).unwrap().replaced).collect::<Vec<_>>();
    eprintln!("ready, replaced {replaced:?}");
    forward(&mut io, &AtomicBool::new(false));
}

fn start_daemon(lab: &Lab, on_failure: &str) -> Child {
    let child = lab.gateway.enter(|| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "daemon", "--nocapture"])
            .env("IO_STEER_DAEMON", on_failure)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    });
    let deadline = Instant::now() + Duration::from_secs(5);
    while !lab.client.try_sh("ping -n -c 1 -W 0.2 10.2.0.2").0 || xdp(lab).is_empty() {
        assert!(Instant::now() < deadline, "the daemon does not forward");
    }
    child
}

fn xdp(lab: &Lab) -> Vec<(XdpMode, u32)> {
    lab.gateway.enter(|| Link::find("d0").unwrap().xdp)
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_killed_daemon_leaves_transit_closed_and_the_host_reachable() {
    if !privileged() {
        return;
    }
    let lab = Lab::new(1);
    assert!(lab.client.ping("10.2.0.2"), "the kernel forwards before the daemon starts");
    let child = start_daemon(&lab, "closed");
    let first = xdp(&lab);
    kill(child);
    assert_eq!(xdp(&lab), first, "the program stays");
    assert!(!lab.client.ping("10.2.0.2") && !lab.client.ping("fd02::2"), "transit is dropped");
    assert!(lab.client.ping("10.1.0.1"), "the host answers");
    assert!(lab.client.ping("10.2.0.1"), "the host answers on a translated address");

    let child = start_daemon(&lab, "closed");
    assert!(xdp(&lab).len() == 1 && xdp(&lab) != first, "the successor has replaced it");
    assert!(lab.client.ping("10.2.0.2"), "and forwards");
    kill(child);

    lab.gateway.enter(|| {
        let mut steer = Steer::load("d0", OnFailure::Closed).unwrap();
        // The stale program is native and must give way to a generic one, and that to a native one.
        let generic = steer.attach(IoMode::Generic).unwrap();
        assert!(generic.replaced && generic.mode == XdpMode::Generic);
        let mut next = Steer::load("d0", OnFailure::Closed).unwrap();
        assert!(next.attach(IoMode::Copy).unwrap().replaced);
        steer.detach().unwrap();
        assert_eq!(Link::find("d0").unwrap().xdp.len(), 1, "a successor's program is left alone");
        next.detach().unwrap();
        assert!(Link::find("d0").unwrap().xdp.is_empty());
        let mut d1 = Steer::load("d1", OnFailure::Closed).unwrap();
        d1.attach(IoMode::Auto).unwrap();
        d1.detach().unwrap();
    });
    assert!(lab.client.ping("10.2.0.2"), "the kernel forwards after a clean stop");
}

#[test]
fn a_killed_daemon_leaves_transit_to_the_kernel_when_open() {
    if !privileged() {
        return;
    }
    let lab = Lab::new(1);
    kill(start_daemon(&lab, "open"));
    assert!(!xdp(&lab).is_empty());
    assert!(lab.client.ping("10.2.0.2") && lab.client.ping("fd02::2") && lab.client.ping("10.1.0.1"));
}

#[test]
fn a_foreign_program_is_named_and_left_alone() {
    if !privileged() {
        return;
    }
    let lab = Lab::new(1);
    lab.gateway.enter(|| {
        let mut ebpf = Ebpf::load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/punt.bpf.o"))).unwrap();
        let foreign: &mut Xdp = ebpf.program_mut("sluice_punt").unwrap().try_into().unwrap();
        foreign.load().unwrap();
        let id = foreign.info().unwrap().id();
        foreign.attach("d0", aya::programs::XdpMode::Skb).unwrap();
        let mut steer = Steer::load("d0", OnFailure::Closed).unwrap();
        for mode in [IoMode::Auto, IoMode::Generic] {
            let error = steer.attach(mode).unwrap_err().to_string();
            let wanted = format!(
                "d0 already has an XDP program that is not Sluice's: id {id}, `sluice_punt`; stop what attached it, or \
                 detach it with `ip link set dev d0 xdpgeneric off`"
            );
            assert_eq!(error, wanted);
        }
        assert_eq!(Link::find("d0").unwrap().xdp, [(XdpMode::Generic, id)]);
    });
}
