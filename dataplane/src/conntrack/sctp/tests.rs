//! Sequences of packets with what netfilter of Linux 6.18 makes of each.

use super::chunks::*;
use super::*;
use Direction::{Original as C, Reply as S};
use SctpState::{
    Closed, CookieEchoed, CookieWait, Established, HeartbeatSent, ShutdownAckSent, ShutdownReceived, ShutdownSent,
};

/// Tags that client and server want to see.
const TAG_C: u32 = 0xc11e_0001;
const TAG_S: u32 = 0x5e17_0002;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Expect {
    Accept(u32),
    Ignore,
    Invalid,
    /// Cannot start a connection.
    Refuse,
}
use Expect::{Accept, Ignore, Invalid, Refuse};

type Step = (Direction, u32, Vec<u8>, Expect, SctpState);

/// A chunk without flags and with this much after the header.
fn chunk(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut c = vec![kind, 0, 0, (HEADER + body.len()) as u8];
    c.extend(body);
    c.resize(c.len().next_multiple_of(4), 0);
    c
}

fn plain(kind: u8) -> Vec<u8> {
    chunk(kind, &[])
}

fn reflected(kind: u8) -> Vec<u8> {
    vec![kind, REFLECTED, 0, 4]
}

/// INIT or INIT ACK that announces `tag`.
fn init(kind: u8, tag: u32) -> Vec<u8> {
    let mut body = tag.to_be_bytes().to_vec();
    body.extend([0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 3, 0xe8]);
    chunk(kind, &body)
}

/// The four-way handshake, followed by `rest`.
fn open(rest: Vec<Step>) -> Vec<Step> {
    let mut steps = vec![
        (C, 0, init(INIT, TAG_C), Accept(10), Closed),
        (S, TAG_C, init(INIT_ACK, TAG_S), Accept(3), CookieWait),
        (C, TAG_S, chunk(COOKIE_ECHO, &[7; 9]), Accept(3), CookieEchoed),
        (S, TAG_C, plain(COOKIE_ACK), Accept(210), Established),
    ];
    steps.extend(rest);
    steps
}

fn run(name: &str, steps: &[Step]) {
    let mut track: Option<SctpTrack> = None;
    for (i, (dir, vtag, chunks, expect, state)) in steps.iter().enumerate() {
        let at = format!("{name}, step {}", i + 1);
        let packet = SctpPacket { vtag: *vtag, chunks };
        let Some(mut t) = track.or_else(|| SctpTrack::new(&packet)) else {
            assert_eq!(Refuse, *expect, "{at}");
            continue;
        };
        let got = match t.track(*dir, &packet, &Timeouts::linux()) {
            SctpOutcome::Accept { timeout, assured } => {
                assert_eq!(assured, *state == Established, "{at}");
                Accept(timeout)
            }
            SctpOutcome::Ignore => Ignore,
            SctpOutcome::Invalid => Invalid,
        };
        assert_eq!((got, t.state()), (*expect, *state), "{at}");
        track = Some(t);
    }
}

#[test]
fn associations() {
    let end = vec![
        (C, TAG_S, plain(SHUTDOWN), Accept(3), ShutdownSent),
        (S, TAG_C, plain(SHUTDOWN_ACK), Accept(3), ShutdownAckSent),
        (C, TAG_S, plain(SHUTDOWN_COMPLETE), Accept(10), Closed),
    ];
    for (name, steps) in [
        (
            "opened, used and ended",
            open(
                [
                    vec![
                        (C, TAG_S, chunk(DATA, &[1; 20]), Accept(210), Established),
                        (S, TAG_C, plain(3), Accept(210), Established),
                        (S, TAG_C, plain(HEARTBEAT), Accept(210), Established),
                        (C, TAG_S, plain(HEARTBEAT_ACK), Accept(210), Established),
                    ],
                    end.clone(),
                ]
                .concat(),
            ),
        ),
        (
            "ended by the server",
            open(vec![
                (S, TAG_C, plain(SHUTDOWN), Accept(3), ShutdownReceived),
                (C, TAG_S, plain(SHUTDOWN_ACK), Accept(3), ShutdownAckSent),
                (S, TAG_C, plain(SHUTDOWN_COMPLETE), Accept(10), Closed),
            ]),
        ),
        (
            "not waited for the end",
            open(vec![
                (C, TAG_S, plain(SHUTDOWN), Accept(3), ShutdownSent),
                (C, 0, init(INIT, TAG_C + 1), Accept(10), Closed),
                (S, TAG_C + 1, init(INIT_ACK, TAG_S + 1), Accept(3), CookieWait),
            ]),
        ),
        ("aborted", open(vec![(S, TAG_C, plain(ABORT), Accept(10), Closed)])),
        ("aborted by one who lost the association", open(vec![(S, TAG_S, reflected(ABORT), Accept(10), Closed)])),
        (
            "cookie refused",
            vec![
                (C, 0, init(INIT, TAG_C), Accept(10), Closed),
                (S, TAG_C, init(INIT_ACK, TAG_S), Accept(3), CookieWait),
                (C, TAG_S, plain(COOKIE_ECHO), Accept(3), CookieEchoed),
                (S, TAG_C, chunk(ERROR, &[0; 8]), Accept(10), Closed),
            ],
        ),
        (
            "INIT again does not renew the timeout",
            vec![(C, 0, init(INIT, TAG_C), Accept(10), Closed), (C, 0, init(INIT, TAG_C), Ignore, Closed)],
        ),
        (
            "both begin",
            vec![
                (C, 0, init(INIT, TAG_C), Accept(10), Closed),
                (S, 0, init(INIT, TAG_S), Ignore, Closed),
                (S, TAG_C, init(INIT_ACK, TAG_S + 1), Invalid, Closed),
                (S, TAG_C, init(INIT_ACK, TAG_S), Accept(3), CookieWait),
                (C, TAG_S, plain(COOKIE_ECHO), Accept(3), CookieEchoed),
                (S, TAG_C, plain(COOKIE_ACK), Accept(210), Established),
            ],
        ),
    ] {
        run(name, &steps);
    }
}

#[test]
fn tags() {
    run(
        "wrong tags",
        &open(vec![
            (C, TAG_S + 1, chunk(DATA, &[1; 20]), Invalid, Established),
            (S, TAG_S, plain(SHUTDOWN), Invalid, Established),
            (C, TAG_S + 1, plain(ABORT), Invalid, Established),
            (C, TAG_S, reflected(ABORT), Invalid, Established),
            (C, 7, init(INIT, 7), Invalid, Established),
            // Nothing of a packet counts that ends wrong.
            (C, TAG_S + 1, [plain(SHUTDOWN), plain(ABORT)].concat(), Invalid, Established),
            (C, TAG_S, plain(SHUTDOWN), Accept(3), ShutdownSent),
        ]),
    );
    run(
        "wrong COOKIE ECHO",
        &[
            (C, 0, init(INIT, TAG_C), Accept(10), Closed),
            (S, TAG_C, init(INIT_ACK, TAG_S), Accept(3), CookieWait),
            (C, TAG_S + 1, plain(COOKIE_ECHO), Invalid, CookieWait),
        ],
    );
}

#[test]
fn other_paths() {
    run(
        "second path",
        &[
            (C, TAG_S, plain(HEARTBEAT), Accept(30), HeartbeatSent),
            (S, TAG_C, plain(SHUTDOWN), Invalid, HeartbeatSent),
            (S, TAG_C, plain(HEARTBEAT_ACK), Accept(210), Established),
            (C, TAG_S, chunk(DATA, &[1; 20]), Accept(210), Established),
        ],
    );
    run(
        "new tags on it are believed once answered",
        &[
            (C, TAG_S, plain(HEARTBEAT), Accept(30), HeartbeatSent),
            (S, TAG_C, plain(HEARTBEAT_ACK), Accept(210), Established),
            (C, TAG_S + 1, plain(HEARTBEAT), Ignore, Established),
            (C, TAG_S + 1, chunk(DATA, &[1; 20]), Invalid, Established),
            (S, TAG_C + 1, plain(HEARTBEAT_ACK), Accept(210), Established),
            (C, TAG_S + 1, plain(HEARTBEAT), Accept(210), Established),
            (C, TAG_S + 1, chunk(DATA, &[1; 20]), Accept(210), Established),
        ],
    );
    run(
        "nobody asked",
        &[
            (C, TAG_S, plain(HEARTBEAT), Accept(30), HeartbeatSent),
            (S, TAG_C, plain(HEARTBEAT_ACK), Accept(210), Established),
            (S, TAG_C + 1, plain(HEARTBEAT_ACK), Invalid, Established),
            (C, TAG_S + 1, [plain(HEARTBEAT), chunk(DATA, &[1; 20])].concat(), Invalid, Established),
        ],
    );
    // The answer to an association that is gone.
    run(
        "SHUTDOWN ACK out of the blue",
        &[
            (C, 9, plain(SHUTDOWN_ACK), Accept(3), ShutdownAckSent),
            (S, 9, plain(SHUTDOWN_COMPLETE), Accept(10), Closed),
        ],
    );
}

#[test]
fn first_packets_refused() {
    let zero_length = vec![HEARTBEAT, 0, 0, 0];
    let cut_off = init(INIT, TAG_C)[..16].to_vec();
    for chunks in [
        plain(ABORT),
        plain(SHUTDOWN_COMPLETE),
        plain(COOKIE_ACK),
        chunk(DATA, &[1; 20]),
        plain(200),
        [init(INIT, TAG_C), plain(HEARTBEAT)].concat(),
        [plain(HEARTBEAT), plain(COOKIE_ECHO)].concat(),
        zero_length,
        cut_off,
        vec![INIT, 0, 0],
        vec![],
    ] {
        run(&format!("{chunks:?}"), &[(C, 0, chunks, Refuse, SctpState::None)]);
    }
    run("INIT with a tag", &[(C, 1, init(INIT, TAG_C), Refuse, SctpState::None)]);
}
