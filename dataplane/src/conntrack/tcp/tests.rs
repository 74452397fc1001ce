//! Sequences of segments with what netfilter of Linux 6.18 makes of each.
//!
//! The client's initial sequence number is 1000, the server's 5000, unless a row says otherwise.

mod life;
mod plain;
mod windows;

use super::flags::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG};
use super::{TcpOutcome, TcpSegment, TcpSettings, TcpState, TcpTrack, valid_flags};
use crate::conntrack::{Direction, Status, Timeouts};
use TcpState::{Close, CloseWait, Established, FinWait, LastAck, SynRecv, SynSent, SynSent2, TimeWait};

const SA: u8 = SYN | ACK;
const FA: u8 = FIN | ACK;
const RA: u8 = RST | ACK;
const PA: u8 = PSH | ACK;

const MSS: &[u8] = &[2, 4, 5, 0xb4];
const MSS_SCALE7: &[u8] = &[2, 4, 5, 0xb4, 1, 3, 3, 7];
const MSS_SACK: &[u8] = &[2, 4, 5, 0xb4, 1, 1, 4, 2];

/// Established, nothing unacknowledged.
const LONG: u32 = 432_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Expect {
    Accept(u32),
    /// Accepted, and ASSURED from now on.
    Assured(u32),
    Kill,
    Ignore,
    Invalid,
    InvalidClose,
    Reopen,
    /// Cannot start a connection.
    Refuse,
}
use Expect::{Accept, Assured, Ignore, Invalid, InvalidClose, Kill, Refuse, Reopen};

#[derive(Clone, Copy)]
struct Step {
    dir: Direction,
    seg: TcpSegment<'static>,
    expect: Expect,
    state: TcpState,
}

/// A segment of the client without data, and what is to become of it.
fn c(flags: u8, seq: u32, ack: u32, expect: Expect, state: TcpState) -> Step {
    let seg = TcpSegment { flags, seq, ack, window: 65535, payload: 0, options: &[] };
    Step { dir: Direction::Original, seg, expect, state }
}

/// The same of the server.
fn s(flags: u8, seq: u32, ack: u32, expect: Expect, state: TcpState) -> Step {
    Step { dir: Direction::Reply, ..c(flags, seq, ack, expect, state) }
}

impl Step {
    fn len(mut self, payload: u32) -> Self {
        self.seg.payload = payload;
        self
    }

    fn win(mut self, window: u16) -> Self {
        self.seg.window = window;
        self
    }

    fn opt(mut self, options: &'static [u8]) -> Self {
        self.seg.options = options;
        self
    }
}

/// The sequence number `by` before `seq`.
fn back(seq: u32, by: u32) -> u32 {
    seq.wrapping_sub(by)
}

/// A handshake with these options of client and server, followed by `rest`.
fn open_with(client: &'static [u8], server: &'static [u8], rest: &[Step]) -> Vec<Step> {
    let handshake = [
        c(SYN, 1000, 0, Accept(120), SynSent).opt(client),
        s(SA, 5000, 1001, Accept(60), SynRecv).opt(server),
        c(ACK, 1001, 5001, Assured(LONG), Established),
    ];
    [&handshake[..], rest].concat()
}

fn open(rest: &[Step]) -> Vec<Step> {
    open_with(MSS, MSS, rest)
}

/// A connection that the client closed first, followed by `rest`.
fn closed(rest: &[Step]) -> Vec<Step> {
    let close = [
        c(FA, 1001, 5001, Accept(120), FinWait),
        s(ACK, 5001, 1002, Accept(60), CloseWait),
        s(FA, 5001, 1002, Accept(30), LastAck),
        c(ACK, 1002, 5002, Accept(120), TimeWait),
    ];
    open(&[&close[..], rest].concat())
}

fn run(name: &str, settings: &TcpSettings, steps: &[Step]) {
    let timeouts = Timeouts::linux();
    let mut connection: Option<(TcpTrack, Status)> = None;
    for (i, step) in steps.iter().enumerate() {
        let at = format!("{name}, step {}", i + 1);
        assert!(valid_flags(step.seg.flags), "{at}: flags");
        let (mut tcp, mut status) = match connection {
            Some(c) => c,
            None => match TcpTrack::new(&step.seg, settings) {
                Some(tcp) => {
                    assert_eq!(step.dir, Direction::Original, "{at}: a reply to nothing");
                    (tcp, Status::default())
                }
                None => {
                    assert_eq!(Refuse, step.expect, "{at}");
                    continue;
                }
            },
        };
        let got = match tcp.track(step.dir, &step.seg, settings, &timeouts, status) {
            TcpOutcome::Accept { kill: true, .. } => Kill,
            TcpOutcome::Accept { timeout, assured: true, .. } => Assured(timeout),
            TcpOutcome::Accept { timeout, .. } => Accept(timeout),
            TcpOutcome::Ignore => Ignore,
            TcpOutcome::Invalid => Invalid,
            TcpOutcome::InvalidClose { timeout } => {
                assert_eq!(timeout, timeouts.tcp_unacknowledged, "{at}");
                InvalidClose
            }
            TcpOutcome::Reopen => Reopen,
        };
        assert_eq!((got, tcp.state()), (step.expect, step.state), "{at}");
        if matches!(got, Assured(_)) {
            status.insert(Status::ASSURED);
        }
        if step.dir == Direction::Reply && matches!(got, Accept(_) | Assured(_) | Ignore) {
            status.insert(Status::SEEN_REPLY);
        }
        connection = if matches!(got, Kill | Reopen) { None } else { Some((tcp, status)) };
    }
}

fn run_all(settings: &TcpSettings, rows: Vec<(&str, Vec<Step>)>) {
    for (name, steps) in rows {
        run(name, settings, &steps);
    }
}

#[test]
fn flag_combinations() {
    for base in [SYN, SYN | URG, SA, RST, RA, FA, FA | URG, ACK, ACK | URG] {
        for more in [0, PSH, ECE, CWR, PSH | ECE | CWR] {
            assert!(valid_flags(base | more), "{:#04x}", base | more);
        }
    }
    let wrong =
        [0, FIN, URG, PSH, PSH | URG, SYN | FIN, SYN | RST, FIN | RST | ACK, FIN | PSH | URG, 0x3f, 0xff, RST | URG];
    for flags in wrong {
        assert!(!valid_flags(flags), "{flags:#04x}");
    }
    assert_eq!((0..=255).filter(|f| valid_flags(*f)).count(), 9 * 8);
}
