//! The short way of plain segments against the long one: random conversations, some of them quite mad.

use std::cell::Cell;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::conntrack::tcp::{PlainSegment, TcpTimeout};
use crate::packet::transport::tcp_segment;
use crate::packet::{Headers, V4, protocol, view};

/// A segment, in relation to what its side has sent and seen so far.
#[derive(Clone, Debug)]
struct Turn {
    dir: Direction,
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    payload: usize,
    options: Vec<u8>,
    /// The same segment as the one before.
    again: bool,
}

/// What a number is beside the one expected.
fn off() -> impl Strategy<Value = u32> {
    let edges = vec![1, 4, 100, 1460, 65_535, 65_999, 66_000, 66_001, 1 << 20, 1 << 30, (1 << 31) - 1, 1 << 31];
    let near = select(edges).prop_flat_map(|n: u32| select(vec![n, n.wrapping_neg(), n + 1, (n + 1).wrapping_neg()]));
    prop_oneof![24 => Just(0), 2 => near, 1 => any::<u32>()]
}

fn options() -> impl Strategy<Value = Vec<u8>> {
    let timestamp = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let others = vec(prop_oneof![Just(1u8), Just(5), Just(8), Just(10), any::<u8>()], 0..=10).prop_map(|mut o| {
        o.resize(o.len().next_multiple_of(4), 0);
        o
    });
    let sack = off().prop_map(move |edge| {
        let block = [&[1, 1, 5, 10][..], &edge.to_be_bytes(), &edge.wrapping_add(9).to_be_bytes()].concat();
        [&timestamp[..], &block].concat()
    });
    let broken = vec(any::<u8>(), 12);
    prop_oneof![8 => Just(Vec::new()), 6 => Just(timestamp.to_vec()), 1 => sack, 1 => others, 1 => broken]
}

fn turn() -> impl Strategy<Value = Turn> {
    let flags = prop_oneof![
        60 => select(vec![ACK, PA, ACK | ECE, ACK | URG]),
        1 => select(vec![SYN, SA, RST, RA, FA, FA | PSH]),
    ];
    let dir = any::<bool>().prop_map(|d| if d { Direction::Reply } else { Direction::Original });
    let window = prop_oneof![1 => Just(0), 1 => Just(1), 1 => Just(65_535), 8 => 20_000..30_000u16, 1 => any::<u16>()];
    let payload = prop_oneof![3 => Just(0), 3 => Just(6), 3 => Just(1460), 1 => 0..9000usize];
    (dir, flags, off(), off(), window, payload, options(), prop::bool::weighted(0.1)).prop_map(
        |(dir, flags, seq, ack, window, payload, options, again)| Turn {
            dir,
            flags,
            seq,
            ack,
            window,
            payload,
            options,
            again,
        },
    )
}

/// The segment from `at` to the end of `b`, if it is plain.
fn read_plain(b: &[u8], at: usize) -> Option<PlainSegment> {
    PlainSegment::read(view(b, at), (b.len() - at) as u32, || *view(b, at + 20))
}

/// A sequence number to begin with: any, or near to where they start over, which is also what windows that are not
/// known yet have in them.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), select(vec![0, 0u32.wrapping_sub(3000)])]
}

/// How the connection begins: with a handshake of these options, or picked up in the middle.
fn beginning() -> impl Strategy<Value = Option<(Vec<u8>, Vec<u8>)>> {
    let syn = || select(vec![vec![], MSS.to_vec(), MSS_SCALE7.to_vec(), vec![4, 2, 1, 3, 3, 14, 0, 0]]);
    prop::option::weighted(0.8, (syn(), syn()))
}

fn settings() -> impl Strategy<Value = (TcpSettings, Timeouts)> {
    let short = vec![Timeouts::linux().tcp_unacknowledged, 1, 1_000_000];
    (any::<bool>(), any::<bool>(), 0..4u8, select(short.clone()), select(short)).prop_map(
        |(liberal, ignore_invalid_rst, max_retrans, tcp_unacknowledged, tcp_max_retrans)| {
            let settings = TcpSettings { loose: true, liberal, ignore_invalid_rst, max_retrans };
            (settings, Timeouts { tcp_unacknowledged, tcp_max_retrans, ..Timeouts::linux() })
        },
    )
}

/// A connection as one way of tracking has left it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Followed {
    tcp: TcpTrack,
    status: Status,
}

/// A segment on the wire, where an IP header would end at byte 34.
fn frame(t: &Turn, seq: u32, ack: u32) -> (Vec<u8>, Headers<V4>) {
    let mut b = vec![0; 34];
    b.extend([0, 80, 0, 81]);
    b.extend(seq.to_be_bytes());
    b.extend(ack.to_be_bytes());
    b.extend([(5 + t.options.len() as u8 / 4) << 4, t.flags]);
    b.extend(t.window.to_be_bytes());
    b.extend([0; 4]);
    b.extend(&t.options);
    b.resize(b.len() + t.payload, 0x55);
    let end = b.len() as u16;
    let (src, dst) = (V4(1), V4(2));
    (b, Headers { l3: 14, l4: 34, end, proto: protocol::TCP, ttl: 64, src, dst, fragment: None })
}

impl Followed {
    /// The long way, and what the worker makes of it.
    fn track(&mut self, dir: Direction, seg: &TcpSegment, settings: &TcpSettings, timeouts: &Timeouts) -> TcpOutcome {
        let outcome = self.tcp.track(dir, seg, settings, timeouts, self.status);
        if let TcpOutcome::Accept { assured: true, .. } = outcome {
            self.status.insert(Status::ASSURED);
        }
        if dir == Direction::Reply && matches!(outcome, TcpOutcome::Accept { .. } | TcpOutcome::Ignore) {
            self.status.insert(Status::SEEN_REPLY);
        }
        outcome
    }
}

#[test]
fn plain_segments() {
    let mut runner = TestRunner::new(Config { cases: 2000, failure_persistence: None, ..Config::default() });
    let (plain, all) = (Cell::new(0), Cell::new(0));
    let conversation = (settings(), beginning(), select(vec![ACK, SA]), (number(), number()), vec(turn(), 1..80));
    let result = runner.run(&conversation, |((settings, timeouts), beginning, late, numbers, turns)| {
        let mut sent: [u32; 2] = numbers.into();
        let shake = |dir, flags, seq, ack, options| Turn {
            flags,
            options,
            window: 30_000,
            ..Turn { dir, flags, seq, ack, window: 0, payload: 0, options: Vec::new(), again: false }
        };
        let turns: Vec<Turn> = match beginning {
            Some((client, server)) => [
                shake(Direction::Original, SYN, 0, 0, client),
                shake(Direction::Reply, SA, 0, 0, server),
                shake(Direction::Original, ACK, 0, 0, vec![]),
            ]
            .into_iter()
            .chain(turns)
            .collect(),
            None => [
                shake(Direction::Original, ACK, 0, 0, vec![]),
                // Lets ASSURED come before the first segment of this side that the windows see.
                shake(Direction::Reply, late, 0, 0, vec![]),
                shake(Direction::Original, ACK, 0, 1, vec![]),
            ]
            .into_iter()
            .chain(turns)
            .collect(),
        };
        let mut connection: Option<Followed> = None;
        let mut before: Option<(Turn, u32, u32)> = None;
        for t in turns {
            let (t, seq, ack) = match before.take() {
                Some(before) if t.again => before,
                _ => {
                    let (own, other) = (sent[t.dir as usize], sent[t.dir.other() as usize]);
                    let (seq, ack) = (own.wrapping_add(t.seq), other.wrapping_add(t.ack));
                    (t, seq, ack)
                }
            };
            let (b, headers) = frame(&t, seq, ack);
            let seg = tcp_segment(&b, &headers);
            let mut long = match connection {
                Some(c) => c,
                None if t.dir == Direction::Original && TcpTrack::new(&seg, &settings).is_some() => {
                    Followed { tcp: TcpTrack::new(&seg, &settings).unwrap(), status: Status::default() }
                }
                None => continue,
            };
            let mut short = long;
            let outcome = long.track(t.dir, &seg, &settings, &timeouts);
            all.set(all.get() + 1);
            if let Some(p) = read_plain(&b, usize::from(headers.l4))
                && let Some(unacknowledged) = short.tcp.track_plain(t.dir, &p, short.status)
            {
                plain.set(plain.get() + 1);
                let timeout = TcpTimeout::new(&settings, &timeouts).ms(unacknowledged) / 1000;
                prop_assert_eq!(outcome, TcpOutcome::Accept { timeout, assured: false, kill: false });
            } else {
                // Nothing was changed, so the long way leads to the same.
                prop_assert_eq!(short.track(t.dir, &seg, &settings, &timeouts), outcome);
            }
            prop_assert_eq!(short, long);
            if matches!(outcome, TcpOutcome::Accept { .. }) && t.seq == 0 {
                sent[t.dir as usize] = seg.end();
            }
            connection = (outcome != TcpOutcome::Reopen).then_some(long);
            before = Some((t, seq, ack));
        }
        Ok(())
    });
    result.unwrap();
    // Most of what it is meant for really takes the short way.
    assert!(plain.get() * 4 > all.get(), "{} of {} segments", plain.get(), all.get());
}
