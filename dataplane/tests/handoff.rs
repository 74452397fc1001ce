//! Replies that reach another worker than their connection's owner: order, contents, a full queue, and where the
//! frames are.

mod support;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dataplane::io::memory::MemoryPort;
use dataplane::worker::listing::Filter;
use dataplane::worker::{DropReason, HandoffReason, Worker};
use etherparse::{NetHeaders, PacketBuilder, PacketHeaders};
use support::*;

/// Bytes of data that make frames of each way of handing over: copied whole, in two parts, lent.
const LENGTHS: [usize; 8] = [4, 20, 21, 48, 49, 68, 69, 1000];

/// A UDP packet with so many bytes of data, which begin with a number and go on in a way that depends on it.
fn numbered(src: &str, dst: &str, (sport, dport): (u16, u16), number: u32, length: usize) -> Vec<u8> {
    let mut v = Vec::new();
    let b = match (ip(src), ip(dst)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => PacketBuilder::ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => PacketBuilder::ipv6(src.octets(), dst.octets(), 64),
        _ => unreachable!("both are of one family"),
    };
    b.udp(sport, dport).write(&mut v, &data(number, length)).unwrap();
    v
}

fn data(number: u32, length: usize) -> Vec<u8> {
    let mut v: Vec<u8> = (0..length).map(|i| (number as usize + 7 * i) as u8).collect();
    v[..4].copy_from_slice(&number.to_be_bytes());
    v
}

fn query(port: u16) -> Vec<u8> {
    numbered(CLIENT, SERVER, (port, 53), 0, 4)
}

fn answer(port: u16, number: u32, length: usize) -> Vec<u8> {
    numbered(SERVER, OUTSIDE, (53, port), number, length)
}

/// The client's port and the number in each frame that has left on lan, all else of which must be as due; the frames
/// are given back.
fn answers(w: &mut Worker<MemoryPort>) -> Vec<(u16, u32)> {
    let sent = w.ports()[LAN].sent();
    let read = |f| {
        let b = w.pool().bytes(f);
        assert_eq!(b[..12], [mac(PEER_MAC[LAN]).0, mac(GATEWAY_MAC[LAN]).0].concat());
        let p = PacketHeaders::from_ethernet_slice(b).unwrap();
        let udp = p.transport.unwrap().udp().unwrap();
        assert_eq!(udp.source_port, 53);
        let length = udp.length as usize - 8;
        let number = u32::from_be_bytes(p.payload.slice()[..4].try_into().unwrap());
        assert_eq!(p.payload.slice(), data(number, length));
        let (dst, right) = match p.net.unwrap() {
            NetHeaders::Ipv4(h, _) => {
                assert_eq!(h.header_checksum, h.calc_header_checksum());
                (h.destination.into(), udp.calc_checksum_ipv4(&h, p.payload.slice()).unwrap())
            }
            NetHeaders::Ipv6(h, _) => (h.destination.into(), udp.calc_checksum_ipv6(&h, p.payload.slice()).unwrap()),
            NetHeaders::Arp(_) => unreachable!("only IP was sent"),
        };
        assert_eq!(udp.checksum, right);
        assert!([ip(CLIENT), ip(CLIENT6)].contains(&dst));
        w.pool().give(f);
        (udp.destination_port, number)
    };
    sent.into_iter().map(read).collect()
}

#[test]
fn what_does_not_fit_is_dropped_and_the_rest_stays_in_order() {
    // Places that a frame takes, and whether it is lent.
    for (length, places, lent) in [(4, 1, false), (50, 2, false), (1000, 1, true)] {
        let mut g = Gateway::new(2, policy(), fib());
        assert_eq!(g.packet_at(0, LAN, &query(4000)).len(), 1);
        let [owner, other] = &mut g.workers[..] else { unreachable!("there are two") };
        let frames = other.pool().frames();
        for number in 0..frames {
            inject(other, WAN, &answer(4000, number, length));
        }
        while other.turn() > 0 {}
        // There are half as many places as frames.
        let fit = frames / 2 / places;
        let lost = g.shared.workers[1].counters.drops[DropReason::HandoffFull as usize].get();
        assert_eq!(lost, u64::from(frames - fit));
        assert_eq!(other.pool().available() as u32, if lent { frames - fit } else { frames });
        // In a turn of the owner's only so many are taken over; each time some come back.
        while owner.turn() > 0 {}
        let numbers: Vec<u32> = answers(owner).into_iter().map(|(_, n)| n).collect();
        assert_eq!(numbers, (0..fit).collect::<Vec<_>>());
        assert_eq!(owner.pool().available() as u32, frames);
        other.turn();
        assert_eq!(other.pool().available() as u32, frames, "all that were lent have come back");
        let counted = g.shared.workers[1].counters.handed_off[HandoffReason::Connection as usize].get();
        assert_eq!(counted, u64::from(fit));
        assert_eq!(g.shared.workers[0].counters.taken_over.get(), counted);
        // There is room again.
        inject(other, WAN, &answer(4000, 7, length));
        other.turn();
        owner.turn();
        assert_eq!(answers(owner), [(4000, 7)]);
    }
}

#[test]
fn what_finds_no_frame_is_dropped() {
    for length in LENGTHS {
        let mut g = Gateway::new(2, policy(), fib());
        assert_eq!(g.packet_at(0, LAN, &query(4000)).len(), 1);
        let [owner, other] = &mut g.workers[..] else { unreachable!("there are two") };
        let all: Vec<_> = std::iter::from_fn(|| owner.pool().take()).collect();
        inject(other, WAN, &answer(4000, 1, length));
        other.turn();
        owner.turn();
        assert_eq!(g.shared.workers[0].counters.drops[DropReason::NoFrame as usize].get(), 1);
        assert_eq!(g.shared.workers[0].counters.taken_over.get(), 0);
        all.into_iter().for_each(|f| owner.pool().give(f));
        inject(other, WAN, &answer(4000, 2, length));
        other.turn();
        owner.turn();
        assert_eq!(answers(owner), [(4000, 2)]);
        other.turn();
        assert_eq!(other.pool().available() as u32, other.pool().frames());
    }
}

#[test]
fn short_and_long_frames_of_both_families_stay_in_order() {
    let mut g = Gateway::new(2, policy(), fib());
    assert_eq!(g.packet_at(0, LAN, &query(4000)).len(), 1);
    assert_eq!(g.packet_at(0, LAN, &numbered(CLIENT6, SERVER6, (4006, 53), 0, 4)).len(), 1);
    let [owner, other] = &mut g.workers[..] else { unreachable!("there are two") };
    let mut number = 0;
    // Places of two parts come to lie at the end of a burst and of the queue.
    for n in (1..60).cycle().take(300) {
        let first = number;
        for _ in 0..n {
            let length = LENGTHS[(number * number) as usize % LENGTHS.len()];
            let frame = match number % 3 {
                0 => numbered(SERVER6, CLIENT6, (53, 4006), number, length),
                _ => answer(4000, number, length),
            };
            inject(other, WAN, &frame);
            number += 1;
        }
        while other.turn() > 0 {}
        while owner.turn() > 0 {}
        // One family after the other.
        let due = |six| (first..number).filter(move |n| n.is_multiple_of(3) == six);
        let due: Vec<_> = due(false).map(|n| (4000, n)).chain(due(true).map(|n| (4006, n))).collect();
        let mut got = answers(owner);
        got.sort_by_key(|(port, _)| *port);
        assert_eq!(got, due);
    }
    other.turn();
    for w in [owner, other] {
        assert_eq!(w.pool().available() as u32, w.pool().frames());
    }
}

#[test]
fn what_was_said_of_a_connection_that_has_gone_is_of_no_use() {
    let mut g = Gateway::new(2, policy(), fib());
    let replies = |g: &mut Gateway, port, number| {
        inject(&mut g.workers[1], WAN, &answer(port, number, 4));
        g.workers[1].turn();
        g.workers[0].turn();
        answers(&mut g.workers[0])
    };
    for round in 0..3 {
        // Others take the slots that the ones before had.
        let ports = if round % 2 == 0 { [4000, 4001, 4002] } else { [4002, 4003, 4000] };
        for port in ports {
            assert_eq!(g.packet_at(0, LAN, &query(port)).len(), 1);
        }
        for number in 1..4 {
            for port in ports {
                assert_eq!(replies(&mut g, port, number), [(port, number)]);
            }
        }
        g.delete(Filter::default());
        for port in ports {
            assert_eq!(replies(&mut g, port, 9), []);
        }
    }
}

#[test]
fn a_burst_of_own_and_others_packets() {
    let mut g = Gateway::new(2, policy(), fib());
    for port in 4000..4008 {
        assert_eq!(g.packet_at(usize::from(port % 2), LAN, &query(port)).len(), 1);
    }
    let [even, odd] = &mut g.workers[..] else { unreachable!("there are two") };
    for number in 0..40 {
        inject(odd, WAN, &answer(4000 + number as u16 % 8, number, 4));
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
    // By the worker they arrive at.
    let arrived = [const { AtomicU32::new(0) }; 2];
    let all = || arrived.iter().map(|a| a.load(Ordering::Relaxed)).sum::<u32>();
    let give_up = Instant::now() + Duration::from_secs(60);
    thread::scope(|s| {
        for (i, w) in g.workers.iter_mut().enumerate() {
            let (own, others, [arrived, there]) = (ports[i], ports[1 - i], [&arrived[i], &arrived[1 - i]]);
            let all = &all;
            s.spawn(move || {
                let (mut next, mut expected) = (0, [0, 0]);
                while all() < 2 * ANSWERS {
                    assert!(Instant::now() < give_up, "{} answers have arrived", all());
                    // No more than have a place, two at most: nothing is to be lost.
                    let room = w.pool().frames() / 4 - (next - there.load(Ordering::Relaxed));
                    for _ in 0..room.min(ANSWERS - next) {
                        let length = LENGTHS[next as usize / 3 % LENGTHS.len()];
                        inject(w, WAN, &answer(others[next as usize % 2], next / 2, length));
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
