//! Replies that reach another worker than their connection's owner: order, a full queue, and where the frames are.

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dataplane::io::memory::MemoryPort;
use dataplane::worker::{DropReason, HandoffReason, Worker};
use etherparse::PacketBuilder;
use support::*;

/// Ethernet, IPv4 and UDP header.
const HEADERS: usize = 42;

/// A UDP packet with a number in it.
fn numbered(src: &str, dst: &str, (sport, dport): (u16, u16), number: u32) -> Vec<u8> {
    let four = |a: &str| a.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let mut v = Vec::new();
    let b = PacketBuilder::ipv4(four(src), four(dst), 64).udp(sport, dport);
    b.write(&mut v, &number.to_be_bytes()).unwrap();
    v
}

fn query(port: u16) -> Vec<u8> {
    numbered(CLIENT, SERVER, (port, 53), 0)
}

fn answer(port: u16, number: u32) -> Vec<u8> {
    numbered(SERVER, OUTSIDE, (53, port), number)
}

/// The client's port and the number in each frame that has left on lan; the frames are given back.
fn answers(w: &mut Worker<MemoryPort>) -> Vec<(u16, u32)> {
    let sent = w.ports()[LAN].sent();
    let read = |f| {
        let b = w.pool().bytes(f);
        let number = u32::from_be_bytes(b[HEADERS..HEADERS + 4].try_into().unwrap());
        let port = u16::from_be_bytes(b[HEADERS - 6..HEADERS - 4].try_into().unwrap());
        w.pool().give(f);
        (port, number)
    };
    sent.into_iter().map(read).collect()
}

#[test]
fn what_does_not_fit_is_dropped_and_the_rest_stays_in_order() {
    let mut g = Gateway::new(2, policy(), fib());
    assert_eq!(g.packet_at(0, LAN, &query(4000)).len(), 1);
    let [owner, other] = &mut g.workers[..] else { unreachable!("there are two") };
    let frames = other.pool().frames();
    for number in 0..frames {
        inject(other, WAN, &answer(4000, number));
    }
    while other.turn() > 0 {}
    let lost = g.shared.workers[1].counters.drops[DropReason::HandoffFull as usize].get();
    assert_eq!(lost, u64::from(frames) / 2, "half of the frames may be lent");
    assert_eq!(other.pool().available() as u32, frames / 2);
    // In a turn of the owner's only so many are taken over; each time some come back.
    while owner.turn() > 0 {}
    let numbers: Vec<u32> = answers(owner).into_iter().map(|(_, n)| n).collect();
    assert_eq!(numbers, (0..frames / 2).collect::<Vec<_>>());
    assert_eq!(owner.pool().available() as u32, frames);
    other.turn();
    assert_eq!(other.pool().available() as u32, frames, "all that were lent have come back");
    let counted = g.shared.workers[1].counters.handed_off[HandoffReason::Connection as usize].get();
    assert_eq!(counted, u64::from(frames / 2));
    assert_eq!(g.shared.workers[0].counters.taken_over.get(), counted);
}

#[test]
fn a_burst_of_own_and_others_packets() {
    let mut g = Gateway::new(2, policy(), fib());
    for port in 4000..4008 {
        assert_eq!(g.packet_at(usize::from(port % 2), LAN, &query(port)).len(), 1);
    }
    let [even, odd] = &mut g.workers[..] else { unreachable!("there are two") };
    for number in 0..40 {
        inject(odd, WAN, &answer(4000 + number as u16 % 8, number));
    }
    odd.turn();
    even.turn();
    for (w, parity) in [(odd, 1), (even, 0)] {
        let expected: Vec<_> = (0..40).filter(|n| n % 2 == parity).map(|n| (4000 + n as u16 % 8, n)).collect();
        assert_eq!(answers(w), expected);
    }
}

#[test]
fn two_threads_hand_each_other_everything() {
    const ANSWERS: u32 = 20_000;
    let mut g = Gateway::new(2, policy(), fib());
    // Each worker's connections; the answers to them come in at the other one.
    let ports = [[4000u16, 4002], [4001, 4003]];
    for (w, ports) in ports.iter().enumerate() {
        for port in ports {
            assert_eq!(g.packet_at(w, LAN, &query(*port)).len(), 1);
        }
    }
    let arrived = AtomicU32::new(0);
    let give_up = Instant::now() + Duration::from_secs(60);
    thread::scope(|s| {
        for (i, w) in g.workers.iter_mut().enumerate() {
            let (own, others, arrived) = (ports[i], ports[1 - i], &arrived);
            s.spawn(move || {
                let (mut next, mut expected) = (0, [0, 0]);
                while arrived.load(Ordering::Relaxed) < 2 * ANSWERS {
                    assert!(Instant::now() < give_up, "{} answers have arrived", arrived.load(Ordering::Relaxed));
                    // No more than may be lent: nothing is to be lost.
                    let room = w.pool().available().saturating_sub(w.pool().frames() as usize * 3 / 4);
                    for _ in 0..room.min((ANSWERS - next) as usize) {
                        inject(w, WAN, &answer(others[next as usize % 2], next / 2));
                        next += 1;
                    }
                    if w.turn() == 0 {
                        thread::yield_now();
                    }
                    let got = answers(w);
                    arrived.fetch_add(got.len() as u32, Ordering::Relaxed);
                    for (port, number) in got {
                        let connection = own.iter().position(|p| *p == port).expect("an own connection's");
                        assert_eq!(number, expected[connection]);
                        expected[connection] += 1;
                    }
                }
            });
        }
    });
    for w in &mut g.workers {
        w.turn();
        assert_eq!(w.pool().available() as u32, w.pool().frames());
    }
}
