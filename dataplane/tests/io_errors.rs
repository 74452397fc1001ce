//! What an operator is told when a device, a queue or a privilege is missing.

mod io_support;

use std::thread;

use dataplane::io::punt::Injector;
use dataplane::io::steer::{OnFailure, Steer};
use dataplane::io::xsk::{IoMode, check_queues, open_worker};
use io_support::{Lab, Namespace, privileged};

fn open_error(queue: u32, device: &str, mode: IoMode, frames: Option<u32>) -> String {
    open_worker(queue, &[device], mode, frames).map(drop).unwrap_err().to_string()
}

#[test]
fn devices_and_queues() {
    if !privileged() {
        return;
    }
    let lab = Lab::new(2);
    lab.gateway.enter(|| {
        assert_eq!(open_error(0, "wan7", IoMode::Auto, None), "there is no device wan7: check `ip link`");
        let no_device = Steer::load("wan7", OnFailure::Closed).map(drop).unwrap_err();
        assert_eq!(no_device.to_string(), "there is no device wan7: check `ip link`");
        let loopback = Steer::load("lo", OnFailure::Closed).map(drop).unwrap_err();
        assert_eq!(loopback.to_string(), "lo is not an Ethernet device, and AF_XDP steering needs one");

        let few = open_error(2, "d0", IoMode::Auto, None);
        assert!(
            few.starts_with("d0 has 2 receive queue(s), too few for 3 worker(s): `ethtool -L d0 combined 3`"),
            "{few}"
        );
        let many = check_queues("d0", 1).unwrap_err().to_string();
        assert!(many.starts_with("d0 has 2 receive queues and only 1 worker(s) would read them"), "{many}");
        assert!(check_queues("d0", 2).is_ok());

        let frames = open_error(0, "d0", IoMode::Auto, Some(100));
        assert_eq!(frames, "`io.frames: 100` is too few for 1 interface(s): at least 256 are needed");
        assert!(open_worker(0, &["d0"], IoMode::Auto, Some(256)).is_ok());

        let zero_copy = open_error(0, "d0", IoMode::ZeroCopy, None);
        assert!(zero_copy.starts_with("d0 has no zero-copy AF_XDP (Operation not supported"), "{zero_copy}");

        let first = open_worker(0, &["d0", "d1"], IoMode::Auto, None).unwrap();
        let busy = open_error(0, "d1", IoMode::Copy, None);
        assert!(busy.starts_with("queue 0 of d1 is taken by another AF_XDP socket"), "{busy}");
        drop(first);
        assert!(open_worker(0, &["d1"], IoMode::Copy, None).is_ok());
    });
}

#[test]
fn mtu() {
    if !privileged() {
        return;
    }
    let lab = Lab::new(1);
    let set = |n: u32| lab.gateway.sh(&format!("ip link set d0 mtu {n}"));
    let frame_size = || lab.gateway.enter(|| open_worker(0, &["d0"], IoMode::Auto, None).unwrap().pool.frame_size());
    assert_eq!(frame_size(), 2048);
    set(1774);
    assert_eq!(frame_size(), 2048);
    set(1775);
    assert_eq!(frame_size(), 4096);
    set(3823);
    lab.gateway.enter(|| {
        let error = open_error(0, "d0", IoMode::Auto, None);
        let wanted = "d0 has an MTU of 3823 bytes, and AF_XDP takes at most 3822: `ip link set d0 mtu 3822`";
        assert_eq!(error, wanted);
    });
    // The frames would do, but native XDP does not.
    set(3700);
    lab.client.sh("ip link set c0 mtu 3700");
    lab.gateway.enter(|| {
        let mut steer = Steer::load("d0", OnFailure::Closed).unwrap();
        let error = steer.attach(IoMode::Copy).unwrap_err().to_string();
        assert!(error.starts_with("cannot attach the XDP program to d0 in native mode: "), "{error}");
        assert!(error.contains("MTU") && error.ends_with("or use `io.mode: generic`"), "{error}");
        let attached = steer.attach(IoMode::Auto).unwrap();
        assert_eq!(attached.mode.to_string(), "generic");
        assert!(attached.native_refused.is_some());
        steer.detach().unwrap();
    });
}

#[test]
fn privileges() {
    if !privileged() {
        return;
    }
    let ns = Namespace::new();
    ns.sh("ip link add d0 type veth peer name c0; ip link set d0 up");
    ns.enter(|| {
        let errors = thread::scope(|s| s.spawn(as_nobody).join().unwrap());
        for (error, what) in errors.iter().zip(["loading the BPF program", "opening AF_XDP sockets", "loading the BPF"])
        {
            assert!(
                error.starts_with(what) && error.contains("not permitted: run as root, or with CAP_NET_ADMIN"),
                "{error}"
            );
        }
    });
}

fn as_nobody() -> Vec<String> {
    // SAFETY: takes plain numbers. The raw system call, unlike libc's function, affects this thread alone.
    assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) }, 0);
    vec![
        Steer::load("d0", OnFailure::Closed).map(drop).unwrap_err().to_string(),
        open_error(0, "d0", IoMode::Auto, None),
        Injector::new().map(drop).unwrap_err().to_string(),
    ]
}
