//! Sequence numbers, acknowledgements and windows; repetitions; RST.

use super::*;

#[test]
fn windows() {
    let sacked: &[u8] = &[1, 1, 5, 10, 0, 0, 0x13, 0xed, 0, 0, 0x14, 0x51]; // 5101 to 5201
    run_all(
        &TcpSettings::default(),
        vec![
            (
                "data far beyond",
                open(&[
                    c(PA, 1_001_001, 5001, Invalid, Established).len(4),
                    c(PA, 1001, 5001, Accept(300), Established).len(4),
                ]),
            ),
            (
                "acknowledges what was not sent",
                open(&[c(ACK, 1001, 5001 + 1, Invalid, Established), s(ACK, 5001, 1001 + 1, Invalid, Established)]),
            ),
            (
                "acknowledgement too old",
                open(&[
                    c(ACK, 1001, back(5001, 65_999), Accept(LONG), Established),
                    c(ACK, 1001, back(5001, 66_001), Ignore, Established),
                ]),
            ),
            (
                "data acknowledged long ago",
                open(&[
                    c(ACK, back(1001, 65_535), 5001, Accept(LONG), Established),
                    c(ACK, back(1001, 65_536), 5001, Ignore, Established),
                ]),
            ),
            (
                "the edge of the window",
                vec![
                    c(SYN, 1000, 0, Accept(120), SynSent).win(4096),
                    s(SA, 5000, 1001, Accept(60), SynRecv).win(4096),
                    c(ACK, 1001, 5001, Assured(LONG), Established).win(4096),
                    s(ACK, 5001 + 4095, 1001, Accept(300), Established).len(1),
                    s(ACK, 5001 + 20_000, 1001, Invalid, Established).len(1),
                ],
            ),
            (
                "a little beyond the window passes, and so does its acknowledgement",
                vec![
                    c(SYN, 1000, 0, Accept(120), SynSent).win(4096),
                    s(SA, 5000, 1001, Accept(60), SynRecv),
                    c(ACK, 1001, 5001, Assured(LONG), Established).win(4096),
                    s(ACK, 5001 + 4097, 1001, Ignore, Established).len(100),
                    c(ACK, 1001, 5001 + 4197, Accept(LONG), Established).win(4096),
                ],
            ),
            (
                "scaling counts when both offer it",
                open_with(
                    MSS_SCALE7,
                    MSS_SCALE7,
                    &[
                        c(ACK, 1001, 5001, Accept(LONG), Established).win(512),
                        s(ACK, 5001 + 60_000, 1001, Accept(300), Established).len(1),
                        s(ACK, 5001 + 1_000_000, 1001, Accept(300), Established).len(1),
                    ],
                ),
            ),
            (
                "scaling offered by one side only",
                open_with(
                    MSS_SCALE7,
                    MSS,
                    &[
                        c(ACK, 1001, 5001, Accept(LONG), Established),
                        s(ACK, 5001 + 200_000, 1001, Invalid, Established).len(1),
                    ],
                ),
            ),
            (
                "out of order, with SACK",
                open_with(
                    MSS_SACK,
                    MSS_SACK,
                    &[
                        s(ACK, 5101, 1001, Accept(300), Established).len(100),
                        c(ACK, 1001, 5001, Accept(300), Established).opt(sacked),
                        s(ACK, 5001, 1001, Accept(300), Established).len(100),
                        c(ACK, 1001, 5201, Accept(LONG), Established),
                    ],
                ),
            ),
            (
                "SACK of what was not sent",
                open_with(MSS_SACK, MSS_SACK, &[c(ACK, 1001, 5001, Invalid, Established).opt(sacked)]),
            ),
            (
                "SACK not agreed: its blocks are not read",
                open(&[c(ACK, 1001, 5001, Accept(LONG), Established).opt(sacked)]),
            ),
            (
                "closed window, probed",
                open(&[
                    s(PA, 5001, 1001, Accept(300), Established).len(1000),
                    c(ACK, 1001, 6001, Accept(300), Established).win(0),
                    s(ACK, 6001, 1001, Accept(300), Established).len(1),
                    c(ACK, 1001, 6001, Accept(300), Established).win(0),
                    c(ACK, 1001, 6001, Accept(300), Established),
                    s(PA, 6001, 1001, Accept(300), Established).len(1000),
                    c(ACK, 1001, 7001, Accept(LONG), Established),
                ]),
            ),
            (
                "FINs outside the window from both sides",
                open(&[
                    c(FA, 1_001_001, 5001, Invalid, Established),
                    s(FA, 9_005_001, 1001, InvalidClose, Established),
                ]),
            ),
        ],
    );
    let liberal = TcpSettings { liberal: true, ..TcpSettings::default() };
    run(
        "liberal",
        &liberal,
        &open(&[
            c(PA, 1_001_001, 5001, Accept(LONG), Established).len(4),
            c(ACK, 1001, 5002, Accept(LONG), Established),
            // RST is held to what was acknowledged all the same.
            s(RST, 5000, 0, Invalid, Established),
        ]),
    );
}

#[test]
fn repetitions() {
    let ack = c(ACK, 1001, 5001, Accept(LONG), Established);
    let after = c(ACK, 1001, 5001, Accept(300), Established);
    // The ACK of the handshake is the first of its kind.
    run("three repetitions", &TcpSettings::default(), &open(&[ack, ack, after, after]));
    run(
        "counting starts again",
        &TcpSettings::default(),
        &open(&[ack, ack, s(ACK, 5001, 1001, Accept(LONG), Established), ack]),
    );
    let eager = TcpSettings { max_retrans: 1, ..TcpSettings::default() };
    run("one repetition", &eager, &open(&[after]));
}

#[test]
fn resets() {
    let data = [
        s(PA, 5001, 1001, Accept(300), Established).len(1000),
        c(ACK, 1001, 6001, Accept(LONG), Established),
        c(PA, 1001, 6001, Accept(300), Established).len(1),
        s(ACK, 6001, 1002, Accept(LONG), Established),
    ];
    let after_data = |rest: &[Step]| open(&[&data[..], rest].concat());
    run_all(
        &TcpSettings::default(),
        vec![
            ("exact", after_data(&[s(RST, 6001, 0, Accept(10), Close)])),
            (
                "inside the window but not exact: may be challenged",
                after_data(&[
                    s(RST, 6101, 0, Accept(10), Established),
                    c(ACK, 1002, 6001, Accept(300), Established),
                    s(PA, 6001, 1002, Accept(300), Established).len(5),
                    // The RST is taken for data, too, which nobody acknowledges.
                    c(ACK, 1002, 6006, Accept(300), Established),
                ]),
            ),
            ("before what was acknowledged", after_data(&[s(RST, 6000, 0, Invalid, Established)])),
            ("a little beyond the window", after_data(&[s(RST, 6001 + 70_000, 0, Ignore, Established)])),
            ("far beyond the window", after_data(&[s(RST, 6001 + 200_000, 0, Invalid, Established)])),
            (
                "right after data that was not acknowledged yet",
                after_data(&[
                    s(PA, 6001, 1002, Accept(300), Established).len(19),
                    s(RA, 6020, 1002, Accept(10), Close),
                ]),
            ),
            ("with ACK and no number", after_data(&[s(RA, 6001, 0, Accept(10), Close)])),
            (
                "while closing anything goes",
                open(&[
                    s(ACK, 5001, 1001, Accept(300), Established).len(3000),
                    c(ACK, 1001, 8001, Accept(LONG), Established),
                    c(PA, 1001, 8001, Accept(300), Established).len(1000),
                    s(FA, 8001, 2001, Accept(120), FinWait),
                    c(ACK, 2001, 8002, Accept(60), CloseWait),
                    c(RA, 2001, 8002, Accept(10), Close),
                    s(RST, 7002, 0, Accept(10), Close),
                ]),
            ),
            (
                "of both sides, outside the window",
                open(&[c(RST, 900_000, 0, Invalid, Established), s(RST, 900_000, 0, InvalidClose, Established)]),
            ),
        ],
    );
    let trusting = TcpSettings { ignore_invalid_rst: true, ..TcpSettings::default() };
    run("old, but believed", &trusting, &after_data(&[s(RST, 6000, 0, Accept(10), Established)]));
}
