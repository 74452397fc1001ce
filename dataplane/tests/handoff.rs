//! Replies that reach another worker than their connection's owner: order, contents, a full queue, and where the
//! frames are.

mod support;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dataplane::io::memory::MemoryPort;
use dataplane::route::Target;
use dataplane::worker::listing::Filter;
use dataplane::worker::shared::Shared;
use dataplane::worker::{DropReason, HandoffReason, Worker};
use etherparse::{NetHeaders, PacketBuilder, PacketHeaders};
use support::*;

/// Bytes of data that make frames of each way of handing over: copied whole, in two parts, lent.
const LENGTHS: [usize; 8] = [4, 20, 21, 56, 57, 76, 77, 1000];

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
        assert_eq!(dropped(&g.shared, 1), [(DropReason::HandoffFull, u64::from(frames - fit))]);
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
        other.turn();
        for w in [owner, other] {
            assert_eq!(w.pool().available() as u32, frames);
        }
        assert_eq!(dropped(&g.shared, 0), []);
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
    // Which packets of a burst are another worker's.
    let others: [fn(u32) -> bool; 7] =
        [|n| n % 2 == 0, |_| true, |n| n == 0, |n| n > 20, |n| n > 40, |n| n == 63, |n| n / 16 % 2 == 1];
    for is_others in others {
        let mut g = Gateway::new(2, policy(), fib());
        for worker in 0..2 {
            assert_eq!(g.packet_at(worker, LAN, &query(4000 + worker as u16)).len(), 1);
        }
        let [other, own] = &mut g.workers[..] else { unreachable!("there are two") };
        let packets: Vec<(u16, u32)> = (0..64).map(|n| (if is_others(n) { 4000 } else { 4001 }, n)).collect();
        for (port, number) in &packets {
            inject(own, WAN, &answer(*port, *number, 4));
        }
        own.turn();
        other.turn();
        for (w, port) in [(own, 4001), (other, 4000)] {
            let due: Vec<_> = packets.iter().copied().filter(|p| p.0 == port).collect();
            assert_eq!(answers(w), due);
            assert_eq!(w.pool().available() as u32, w.pool().frames());
        }
    }
}

/// A segment of `data`, as a row of [`a_connection_of_tcp_is_the_same_wherever_its_packets_arrive`] has it.
fn segment(six: bool, from: usize, seq: u32, ack: u32, flags: &str, data: &[u8]) -> Vec<u8> {
    let (client, server) = ((if six { CLIENT6 } else { CLIENT }, 4000), (if six { SERVER6 } else { SERVER }, 80));
    // There is no translation for IPv6.
    let outside = (if six { CLIENT6 } else { OUTSIDE }, 4000);
    let (src, dst) = if from == LAN { (client, server) } else { (server, outside) };
    let builder = match (ip(src.0), ip(dst.0)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => PacketBuilder::ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => PacketBuilder::ipv6(src.octets(), dst.octets(), 64),
        _ => unreachable!("both are of one family"),
    };
    let mut b = builder.tcp(src.1, dst.1, seq, 4000);
    for flag in flags.chars() {
        b = match flag {
            'S' => b.syn(),
            'A' => b.ack(ack),
            'F' => b.fin(),
            'R' => b.rst(),
            'P' => b.psh(),
            _ => unreachable!("there is no such flag"),
        };
    }
    let mut v = Vec::new();
    b.write(&mut v, data).unwrap();
    v
}

/// The same as it leaves on the other side.
fn forwarded(six: bool, segment: &[u8]) -> Vec<u8> {
    let mut p = PacketHeaders::from_ip_slice(segment).unwrap();
    let mut tcp = p.transport.take().unwrap().tcp().unwrap();
    let data = p.payload.slice();
    let mut v = Vec::new();
    match p.net.unwrap() {
        NetHeaders::Ipv4(mut h, _) => {
            assert!(!six);
            for (a, from, to) in [(&mut h.source, CLIENT, OUTSIDE), (&mut h.destination, OUTSIDE, CLIENT)] {
                if IpAddr::from(*a) == ip(from) {
                    *a = to.parse::<std::net::Ipv4Addr>().unwrap().octets();
                }
            }
            h.time_to_live -= 1;
            h.header_checksum = h.calc_header_checksum();
            tcp.checksum = tcp.calc_checksum_ipv4(&h, data).unwrap();
            h.write(&mut v).unwrap();
        }
        NetHeaders::Ipv6(mut h, _) => {
            h.hop_limit -= 1;
            tcp.checksum = tcp.calc_checksum_ipv6(&h, data).unwrap();
            h.write(&mut v).unwrap();
        }
        NetHeaders::Arp(_) => unreachable!("only IP was sent"),
    }
    tcp.write(&mut v).unwrap();
    v.extend(data);
    v
}

#[test]
fn a_connection_of_tcp_is_the_same_wherever_its_packets_arrive() {
    // Where it comes in, its sequence number and acknowledgement (each counted from the first one of its side), its flags,
    // bytes of data, whether it passes, and the connection's state then.
    type Row = (usize, u32, u32, &'static str, usize, bool, &'static str);
    let begins: &[Row] = &[
        (LAN, 0, 0, "S", 0, true, "SYN_SENT"),
        (WAN, 0, 1, "SA", 0, true, "SYN_RECV"),
        (LAN, 1, 1, "A", 0, true, "ESTABLISHED"),
        // Data of all lengths, to and fro.
        (LAN, 1, 1, "PA", 8, true, "ESTABLISHED"),
        (WAN, 1, 9, "A", 8, true, "ESTABLISHED"),
        (WAN, 9, 9, "PA", 9, true, "ESTABLISHED"),
        (LAN, 9, 18, "A", 44, true, "ESTABLISHED"),
        (LAN, 53, 18, "A", 45, true, "ESTABLISHED"),
        (WAN, 18, 98, "A", 64, true, "ESTABLISHED"),
        (WAN, 82, 98, "A", 65, true, "ESTABLISHED"),
        (LAN, 98, 147, "A", 1300, true, "ESTABLISHED"),
        (WAN, 147, 1398, "A", 1300, true, "ESTABLISHED"),
        (LAN, 1398, 1447, "A", 0, true, "ESTABLISHED"),
        // Too far ahead of the window, of all lengths; then an answer to what was never sent.
        (WAN, 20_000, 1398, "A", 0, false, "ESTABLISHED"),
        (WAN, 20_000, 1398, "A", 8, false, "ESTABLISHED"),
        (WAN, 20_000, 1398, "A", 64, false, "ESTABLISHED"),
        (LAN, 20_000, 1447, "A", 1300, false, "ESTABLISHED"),
        (LAN, 1398, 1448, "A", 8, false, "ESTABLISHED"),
        (WAN, 1447, 1399, "A", 64, false, "ESTABLISHED"),
        (WAN, 1447, 1398, "A", 100, true, "ESTABLISHED"),
        (LAN, 1398, 1548, "A", 0, false, "ESTABLISHED"),
        (LAN, 1398, 1547, "A", 0, true, "ESTABLISHED"),
    ];
    let fin: &[Row] = &[
        (LAN, 1398, 1547, "FA", 0, true, "FIN_WAIT"),
        (WAN, 1547, 1399, "A", 0, true, "CLOSE_WAIT"),
        (WAN, 1547, 1399, "FA", 5, true, "LAST_ACK"),
        (LAN, 1399, 1553, "A", 0, true, "TIME_WAIT"),
    ];
    let rst: &[Row] = &[(WAN, 1547, 1398, "RA", 0, true, "CLOSE")];
    let blind: &[Row] = &[(WAN, 20_000, 1398, "RA", 0, false, "ESTABLISHED"), (WAN, 1547, 1398, "R", 0, true, "CLOSE")];
    for (six, ends, elsewhere) in [false, true]
        .into_iter()
        .flat_map(|six| [fin, rst, blind].map(|e| (six, e)))
        .flat_map(|(six, e)| [0, 1].map(|elsewhere| (six, e, elsewhere)))
    {
        let mut g = Gateway::new(2, policy(), fib());
        let (mut handed, mut refused) = (0, 0);
        // Sequence numbers wrap on the way.
        let first = [u32::MAX - 60, u32::MAX - 5000];
        for (n, row) in begins.iter().chain(ends).enumerate() {
            let (from, seq, ack, flags, length, passes, state) = *row;
            let data: Vec<u8> = (0..length).map(|i| (n * 31 + i) as u8).collect();
            let (seq, ack) = (first[from].wrapping_add(seq), first[1 - from].wrapping_add(ack));
            let sent = segment(six, from, seq, ack, flags, &data);
            // The first packet makes the connection one of worker 0.
            let out = g.packet_at(elsewhere.min(n), from, &sent);
            let due: Vec<_> = passes.then(|| (1 - from, forwarded(six, &sent))).into_iter().collect();
            assert!(out == due, "{row:?}: {out:02x?} instead of {due:02x?}");
            handed += elsewhere.min(n) as u64;
            refused += u64::from(!passes);
            assert_eq!(g.shared.workers[0].counters.taken_over.get(), handed, "{row:?}");
            assert_eq!(g.drops(DropReason::Invalid), refused, "{row:?}");
            let all = g.list();
            assert_eq!(all.iter().map(|c| (c.worker, c.state)).collect::<Vec<_>>(), [(0, Some(state))], "{row:?}");
        }
        for w in &mut g.workers {
            w.turn();
            assert_eq!(w.pool().available() as u32, w.pool().frames());
        }
    }
}

/// What is dropped: the number of drops for each reason for which there are any.
fn dropped(shared: &Shared, worker: usize) -> Vec<(DropReason, u64)> {
    let counters = &shared.workers[worker].counters;
    DropReason::ALL.iter().map(|why| (*why, counters.drops[*why as usize].get())).filter(|(_, n)| *n > 0).collect()
}

#[test]
fn an_interface_goes_while_its_packets_wait() {
    // An answer in two fragments is lent, to be put together at the owner.
    let fragments = |number| {
        let whole = answer(4000, number, 24);
        [(20, 36, 0x2000u16), (36, whole.len(), 2)].map(|(from, to, offset)| {
            let mut v = [&whole[..20], &whole[from..to]].concat();
            let length = v.len() as u16;
            v[2..4].copy_from_slice(&length.to_be_bytes());
            v[6..8].copy_from_slice(&offset.to_be_bytes());
            v[10..12].fill(0);
            let sum = dataplane::packet::checksum::checksum(&v[..20]);
            v[10..12].copy_from_slice(&sum.to_be_bytes());
            v
        })
    };
    let mut g = Gateway::new(2, policy(), fib());
    assert_eq!(g.packet_at(0, LAN, &query(4000)).len(), 1);
    assert_eq!(g.packet_at(0, LAN, &numbered(CLIENT6, SERVER6, (4006, 53), 0, 4)).len(), 1);
    let hand_over = |g: &mut Gateway, number, more: &[Vec<u8>]| {
        let both = |l: &usize| [answer(4000, number, *l), numbered(SERVER6, CLIENT6, (53, 4006), number, *l)];
        let all: Vec<_> = LENGTHS.iter().flat_map(both).chain(more.iter().cloned()).collect();
        all.iter().for_each(|p| inject(&mut g.workers[1], WAN, p));
        while g.workers[1].turn() > 0 {}
        all.len()
    };
    let mut all = 0;
    // Twice, so that the directory knows where the connections are, and they go the short way.
    for number in 1..3 {
        all += hand_over(&mut g, number, &[]);
        g.workers[0].turn();
        assert_eq!(answers(&mut g.workers[0]).len(), 2 * LENGTHS.len());
    }
    let waiting = hand_over(&mut g, 3, &fragments(3));
    all += waiting;
    let (mut narrow, mut one) = (policy(), fib());
    narrow.interfaces.truncate(1);
    one.interfaces.truncate(1);
    one.routes4.insert(v4("0.0.0.0"), 0, Target::Unreachable);
    one.routes6.insert(v6("::"), 0, Target::Unreachable);
    one.neighbours4.retain(|(i, _), _| usize::from(*i) == LAN);
    one.neighbours6.retain(|(i, _), _| usize::from(*i) == LAN);
    g.shared.current.publish(Some(Arc::new(narrow)), Some(Arc::new(one)));
    assert_eq!(g.run(), []);
    assert_eq!(dropped(&g.shared, 0), [(DropReason::OtherHost, waiting as u64)]);
    assert_eq!(g.shared.workers[0].counters.taken_over.get(), all as u64);
    for w in &mut g.workers {
        assert_eq!(w.pool().available() as u32, w.pool().frames());
    }
    // It comes back.
    g.shared.current.publish(Some(Arc::new(policy())), Some(Arc::new(fib())));
    g.run();
    hand_over(&mut g, 4, &[]);
    g.workers[0].turn();
    assert_eq!(answers(&mut g.workers[0]).len(), 2 * LENGTHS.len());
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
