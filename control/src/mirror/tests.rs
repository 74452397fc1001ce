//! The mirror against a real kernel, each test in a network namespace of its own. They need root.

use std::net::IpAddr;
use std::process::Command as Process;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dataplane::packet::{Address, V4, V6};
use dataplane::policy::{InterfacePolicy, Policy, PortChoice, SourceNat, SourceTranslation};
use dataplane::route::{Fib, NextHop, Target};
use dataplane::worker::shared::{Command, NeighbourRequest, Shared};

use super::Mirror;

/// Runs `ip` with these arguments in the calling thread's namespace.
#[track_caller]
fn ip(arguments: &str) {
    let out = Process::new("ip").args(arguments.split_whitespace()).output().expect("running ip");
    assert!(out.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Runs `test` on a thread with a fresh network namespace; says so and skips it without root.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: concerns the calling thread only, which ends with the test.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            eprintln!("skipped: making a network namespace needs root");
            return;
        }
        ip("link set lo up");
        ip("link add lan0 type veth peer name lan1");
        ip("link add wan0 type veth peer name wan1");
        for device in ["lan0", "lan1", "wan0", "wan1"] {
            ip(&format!("link set {device} addrgenmode none up"));
        }
        ip("addr add 10.0.0.1/24 dev lan0");
        ip("addr add 198.51.100.1/24 dev wan0");
        ip("addr add 2001:db8:2::1/64 dev wan0 nodad");
        ip("addr add fe80::1/64 dev wan0 nodad");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A policy over lan0 (interface 0) and wan0 (interface 1) that masquerades.
fn shared() -> Arc<Shared> {
    let interface = |name: &str, device: &str, zone| InterfacePolicy {
        name: name.into(),
        device: device.into(),
        zone,
        ..InterfacePolicy::default()
    };
    let policy = Policy {
        interfaces: vec![interface("lan", "lan0", 0), interface("wan", "wan0", 1)],
        source_nat: vec![SourceNat {
            name: "internet".into(),
            matcher: dataplane::policy::Match { to: Some(dataplane::policy::Zones(0b10)), ..Default::default() },
            translate: SourceTranslation::Masquerade(PortChoice::default()),
            ..SourceNat::default()
        }],
        ..Policy::default()
    };
    let shared = Shared::new(1, 2, 1024, 16).unwrap();
    shared.current.publish(Some(Arc::new(policy)), None);
    shared
}

/// A mirror that runs on a thread until it is dropped.
struct Running {
    shared: Arc<Shared>,
    stats: Arc<super::Stats>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start() -> Self {
        Self::follow(Mirror::open(shared()).unwrap())
    }

    fn follow(mirror: Mirror) -> Self {
        let (shared, stats) = (mirror.shared.clone(), mirror.stats());
        let thread = std::thread::spawn(move || mirror.run(|_, _| ()).unwrap());
        Running { shared, stats, thread: Some(thread) }
    }

    fn fib(&self) -> Arc<Fib> {
        self.shared.current.load().fib
    }

    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&Fib) -> bool) {
        let began = Instant::now();
        while !holds(&self.fib()) {
            assert!(began.elapsed() < Duration::from_secs(5), "not within 5 s: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.control_ready.signal();
        let _ = self.thread.take().unwrap().join();
    }
}

fn v4(s: &str) -> V4 {
    V4::from_ip(s.parse().unwrap()).unwrap()
}

fn v6(s: &str) -> V6 {
    V6::from_ip(s.parse().unwrap()).unwrap()
}

fn hop<A>(gateway: A, interface: u16, weight: u16) -> NextHop<A> {
    NextHop { gateway: Some(gateway), interface: Some(interface), weight }
}

fn via4(gateway: &str, interface: u16) -> Target<V4> {
    Target::Via(vec![hop(v4(gateway), interface, 1)])
}

#[test]
fn every_kind_of_route_is_read_at_the_start() {
    in_namespace(|| {
        ip("route add default via 198.51.100.2 metric 20");
        ip("route add default via 198.51.100.3 metric 10");
        ip("route add 10.1.0.0/16 nexthop via 10.0.0.2 weight 1 nexthop via 198.51.100.2 weight 3");
        ip("route add blackhole 10.2.0.0/16");
        ip("route add unreachable 10.3.0.0/16");
        ip("route add prohibit 10.4.0.0/16");
        ip("route add throw 10.5.0.0/16");
        ip("route add 10.6.0.0/16 dev lo");
        ip("route add 10.7.0.0/16 via 10.0.0.9 table 100");
        ip("route add 10.8.0.0/16 via inet6 fe80::2 dev wan0");
        ip("nexthop add id 7 via 10.0.0.7 dev lan0");
        ip("route add 10.9.0.0/16 nhid 7");
        ip("route add default via fe80::2 dev wan0");
        ip("-6 route add 2001:db8:5::/48 nexthop via 2001:db8:2::2 nexthop via 2001:db8:2::3 weight 2");
        ip("-6 route add prohibit 2001:db8:6::/48");
        let m = Mirror::open(shared()).unwrap();
        let fib = m.shared.current.load().fib;

        assert_eq!(fib.lookup(v4("8.8.8.8")), Some(&via4("198.51.100.3", 1)));
        let both = vec![hop(v4("10.0.0.2"), 0, 1), hop(v4("198.51.100.2"), 1, 3)];
        assert_eq!(fib.lookup(v4("10.1.2.3")), Some(&Target::Via(both)));
        assert_eq!(fib.lookup(v4("10.2.0.1")), Some(&Target::Blackhole));
        assert_eq!(fib.lookup(v4("10.3.0.1")), Some(&Target::Unreachable));
        assert_eq!(fib.lookup(v4("10.4.0.1")), Some(&Target::Prohibit));
        assert_eq!(fib.lookup(v4("10.5.0.1")), Some(&Target::Unreachable));
        let nowhere = Target::Via(vec![NextHop { gateway: None, interface: None, weight: 1 }]);
        assert_eq!(fib.lookup(v4("10.6.0.1")), Some(&nowhere), "an interface that is not Sluice's");
        assert_eq!(fib.lookup(v4("10.7.0.1")), Some(&via4("198.51.100.3", 1)), "another table");
        assert_eq!(fib.lookup(v4("10.8.0.1")), Some(&nowhere), "a gateway of the other family");
        assert_eq!(fib.lookup(v4("10.9.0.1")), Some(&via4("10.0.0.7", 0)));
        let on_link = Target::Via(vec![NextHop { gateway: None, interface: Some(0), weight: 1 }]);
        assert_eq!(fib.lookup(v4("10.0.0.77")), Some(&on_link));
        assert_eq!(fib.lookup(v4("10.0.0.255")), Some(&Target::Broadcast));
        assert!(fib.is_local(v4("10.0.0.1")) && fib.is_local(v4("127.3.2.1")) && !fib.is_local(v4("10.0.0.2")));

        let six = vec![hop(v6("2001:db8:2::2"), 1, 1), hop(v6("2001:db8:2::3"), 1, 2)];
        assert_eq!(fib.lookup(v6("2001:db8:5::9")), Some(&Target::Via(six)));
        assert_eq!(fib.lookup(v6("2001:db8:6::9")), Some(&Target::Prohibit));
        assert!(fib.is_local(v6("2001:db8:2::1")) && fib.is_local(v6("fe80::1")));
        let default = vec![hop(v6("fe80::2"), 1, 1)];
        assert_eq!(fib.lookup(v6("2620::1")), Some(&Target::Via(default)));

        let wan = &fib.interfaces[1];
        assert_eq!((wan.up, wan.mtu), (true, 1500));
        assert_eq!(wan.v4, [(v4("198.51.100.1"), 24)]);
        assert_eq!(wan.v6, [(v6("2001:db8:2::1"), 64), (v6("fe80::1"), 64)], "global ones first");
        let translated: Vec<_> = m.local().iter().filter(|(_, t)| **t).map(|(a, _)| *a).collect();
        let expected: [IpAddr; 2] = ["198.51.100.1", "2001:db8:2::1"].map(|a| a.parse().unwrap());
        assert_eq!(translated, expected);
        assert_eq!(m.local().get(&"10.0.0.1".parse().unwrap()), Some(&false));
        assert!(fib.host_ports.is_some_and(|(first, last)| first < last));
    });
}

#[test]
fn route_changes_are_followed() {
    in_namespace(|| {
        let m = Running::start();
        let to = |a: &'static str, t: Option<Target<V4>>| move |f: &Fib| f.lookup(v4(a)) == t.as_ref();
        ip("route add 10.1.0.0/16 via 10.0.0.2 metric 5");
        m.until("added", to("10.1.0.1", Some(via4("10.0.0.2", 0))));
        ip("route add 10.1.0.0/16 via 10.0.0.3 metric 4");
        m.until("a better metric", to("10.1.0.1", Some(via4("10.0.0.3", 0))));
        ip("route replace 10.1.0.0/16 via 198.51.100.3 metric 4");
        m.until("replaced", to("10.1.0.1", Some(via4("198.51.100.3", 1))));
        ip("route prepend 10.1.0.0/16 via 198.51.100.4 metric 4");
        m.until("prepended", to("10.1.0.1", Some(via4("198.51.100.4", 1))));
        ip("route append 10.1.0.0/16 via 198.51.100.5 metric 4");
        ip("route del 10.1.0.0/16 via 198.51.100.4 metric 4");
        m.until("the second of three", to("10.1.0.1", Some(via4("198.51.100.3", 1))));
        ip("route del 10.1.0.0/16 via 198.51.100.3 metric 4");
        m.until("the appended one", to("10.1.0.1", Some(via4("198.51.100.5", 1))));
        ip("route del 10.1.0.0/16 metric 4");
        m.until("the worse metric again", to("10.1.0.1", Some(via4("10.0.0.2", 0))));
        ip("route del 10.1.0.0/16");
        m.until("none", to("10.1.0.1", None));

        // IPv6 grows and shrinks multipath routes one next hop at a time.
        let hops = |f: &Fib| match f.lookup(v6("2001:db8:7::1")) {
            Some(Target::Via(h)) => h.iter().map(|h| h.gateway.unwrap().to_string()).collect(),
            _ => Vec::new(),
        };
        for (order, expected) in [
            ("add 2001:db8:7::/48 via 2001:db8:2::a", &["2001:db8:2::a"][..]),
            ("append 2001:db8:7::/48 via 2001:db8:2::b", &["2001:db8:2::a", "2001:db8:2::b"]),
            ("append 2001:db8:7::/48 via 2001:db8:2::c", &["2001:db8:2::a", "2001:db8:2::b", "2001:db8:2::c"]),
            ("del 2001:db8:7::/48 via 2001:db8:2::b", &["2001:db8:2::a", "2001:db8:2::c"]),
            ("replace 2001:db8:7::/48 via 2001:db8:2::d", &["2001:db8:2::d"]),
            ("del 2001:db8:7::/48", &[]),
        ] {
            ip(&format!("-6 route {order}"));
            m.until(order, |f| hops(f) == expected);
        }
    });
}

#[test]
fn links_and_addresses_are_followed() {
    in_namespace(|| {
        ip("route add 10.1.0.0/16 nexthop via 10.0.0.2 nexthop via 198.51.100.2");
        ip("route add 10.2.0.0/16 via 198.51.100.2 src 198.51.100.1");
        let m = Running::start();
        let index = m.fib().interfaces[1].ifindex;
        let ways = |f: &Fib| match f.lookup(v4("10.1.0.1")) {
            Some(Target::Via(h)) => h.len(),
            _ => 0,
        };
        assert_eq!(ways(&m.fib()), 2);
        ip("link set wan0 mtu 1400");
        m.until("mtu", |f| f.interfaces[1].mtu == 1400);
        ip("link set wan1 down");
        m.until("no carrier", |f| !f.interfaces[1].up);
        assert_eq!(ways(&m.fib()), 2, "without ignore_routes_with_linkdown the kernel keeps using it");
        ip("link set wan1 up");
        m.until("carrier", |f| f.interfaces[1].up);
        // The kernel tells of none of these routes, neither the dead next hop nor those that are gone.
        ip("link set wan0 down");
        m.until("a dead next hop", |f| ways(f) == 1);
        m.until("routes gone with the device", |f| f.lookup(v4("10.2.0.1")).is_none());
        ip("link set wan0 up");
        m.until("the next hop lives again", |f| ways(f) == 2);
        ip("route add 10.2.0.0/16 via 198.51.100.2 src 198.51.100.1");
        m.until("route", |f| f.lookup(v4("10.2.0.1")).is_some());
        ip("addr add 203.0.113.1/32 dev wan0");
        m.until("second address", |f| f.interfaces[1].v4.len() == 2 && f.is_local(v4("203.0.113.1")));
        ip("addr del 198.51.100.1/24 dev wan0");
        m.until("address gone", |f| f.interfaces[1].v4 == [(v4("203.0.113.1"), 32)] && !f.is_local(v4("198.51.100.1")));
        m.until("routes gone with the address", |f| f.lookup(v4("10.2.0.1")).is_none());
        let deleted = std::iter::from_fn(|| m.shared.workers[0].commands.pop());
        let gone: Vec<_> = deleted
            .map(|c| match c {
                Command::Edit { filter, .. } => filter.reply.destination.unwrap().first.to_string(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(gone.contains(&"198.51.100.1".to_owned()), "{gone:?}");

        ip("link del wan0");
        m.until("device gone", |f| f.interfaces[1].ifindex == 0 && !f.interfaces[1].up);
        ip("link add wan0 index 77 type veth peer name wan1");
        ip("link set wan1 up");
        ip("link set wan0 up");
        ip("addr add 198.51.100.1/24 dev wan0");
        let back = |f: &Fib| {
            let i = &f.interfaces[1];
            i.ifindex == 77 && i.up && i.v4 == [(v4("198.51.100.1"), 24)] && f.is_local(v4("198.51.100.1"))
        };
        m.until("device back", back);
        assert_ne!(index, 77);
        let on_link = Target::Via(vec![NextHop { gateway: None, interface: Some(1), weight: 1 }]);
        m.until("its route", |f| f.lookup(v4("198.51.100.9")) == Some(&on_link));
    });
}

#[test]
fn neighbours_are_followed_and_asked_for() {
    in_namespace(|| {
        // A process in another namespace, to which the far end goes.
        let mut host = Process::new("unshare").args(["-n", "sleep", "30"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        ip(&format!("link set lan1 netns {}", host.id()));
        let set_up = "ip addr add 10.0.0.2/24 dev lan1 && ip link set lan1 up";
        let pid = host.id().to_string();
        assert!(Process::new("nsenter").args(["-n", "-t", &pid, "sh", "-c", set_up]).status().unwrap().success());
        let m = Running::start();
        let key = (0, v4("10.0.0.2"));
        let ask = |address: &str| {
            let request = NeighbourRequest { interface: 0, address: address.parse().unwrap() };
            m.shared.neighbour_requests.push(request).unwrap();
            m.shared.control_ready.signal();
        };
        ask("10.0.0.2");
        m.until("resolved", |f| f.neighbours4.contains_key(&key));
        ask("10.0.0.3");
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(m.stats.requests.load(Ordering::Relaxed), 2);
        // Only what changes a packet's way is published.
        let generation = m.shared.current.generation();
        ip("neigh change 10.0.0.2 dev lan0 nud stale");
        ip("neigh change 10.0.0.2 dev lan0 nud reachable");
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(m.shared.current.generation(), generation);
        assert!(!m.fib().neighbours4.contains_key(&(0, v4("10.0.0.3"))));
        ip("neigh replace 10.0.0.2 dev lan0 lladdr 02:00:00:00:00:99 nud permanent");
        m.until("changed", |f| f.neighbours4[&key].0[5] == 0x99);
        ip("neigh del 10.0.0.2 dev lan0");
        m.until("gone", |f| !f.neighbours4.contains_key(&key));
        ip("neigh add fe80::2 dev wan0 lladdr 02:00:00:00:00:66 nud stale");
        m.until("link-local", |f| f.neighbours6.contains_key(&(1, v6("fe80::2"))));
        host.kill().and_then(|()| host.wait()).unwrap();
    });
}

#[test]
fn lost_changes_are_made_good() {
    in_namespace(|| {
        let mirror = Mirror::open(shared()).unwrap();
        // Far more than the socket's buffer holds, while nobody reads it.
        let routes: String =
            (0..40_000).map(|n| format!("route add 10.{}.{}.0/24 via 10.0.0.2\n", 1 + n / 256, n % 256)).collect();
        let file = std::env::temp_dir().join(format!("sluice-mirror-routes-{}", std::process::id()));
        std::fs::write(&file, routes).unwrap();
        ip(&format!("-batch {}", file.display()));
        std::fs::remove_file(&file).unwrap();
        let m = Running::follow(mirror);
        m.until("all routes", |f| f.routes4.len() > 40_000);
        assert!(m.stats.resyncs.load(Ordering::Relaxed) >= 1);
        ip("route flush proto boot");
        m.until("no route", |f| f.routes4.len() < 100);
    });
}
