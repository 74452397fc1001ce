//! How connections begin, end and begin again.

use super::*;

#[test]
fn opening() {
    run_all(
        &TcpSettings::default(),
        vec![
            (
                "handshake and data",
                open(&[
                    c(PA, 1001, 5001, Accept(300), Established).len(18),
                    s(ACK, 5001, 1019, Accept(LONG), Established),
                    s(PA, 5001, 1019, Accept(300), Established).len(23),
                    c(ACK, 1019, 5024, Accept(LONG), Established),
                    c(PA | CWR, 1019, 5024, Accept(300), Established).len(1),
                    s(ACK | ECE, 5024, 1020, Accept(LONG), Established),
                    c(PA | URG, 1020, 5024, Accept(300), Established).len(6),
                ]),
            ),
            (
                "handshake across the wrap",
                vec![
                    c(SYN, 0xffff_fffe, 0, Accept(120), SynSent),
                    s(SA, 0xffff_ffff, 0xffff_ffff, Accept(60), SynRecv),
                    c(ACK, 0xffff_ffff, 0, Assured(LONG), Established),
                    c(PA, 0xffff_ffff, 0, Accept(300), Established).len(100),
                    s(ACK, 0, 99, Accept(LONG), Established),
                ],
            ),
            (
                "SYN again: does not renew the timeout",
                vec![
                    c(SYN, 1000, 0, Accept(120), SynSent),
                    c(SYN, 1000, 0, Ignore, SynSent),
                    s(SA, 5000, 1001, Accept(60), SynRecv),
                    s(SA, 5000, 1001, Ignore, SynRecv),
                    c(ACK, 1001, 5001, Assured(LONG), Established),
                ],
            ),
            (
                "SYN again with another sequence number",
                vec![
                    c(SYN, 1000, 0, Accept(120), SynSent),
                    c(SYN, 9_000_000, 0, Ignore, SynSent),
                    s(SA, 5000, 9_000_001, Accept(60), SynRecv),
                    c(ACK, 9_000_001, 5001, Assured(LONG), Established),
                    c(PA, 9_000_001, 5001, Accept(300), Established).len(4),
                    s(ACK, 5001, 9_000_005, Accept(LONG), Established),
                ],
            ),
            (
                "SYN/ACK of an earlier life",
                vec![
                    c(SYN, 1000, 0, Accept(120), SynSent).opt(MSS_SCALE7),
                    s(SA, 145_824_453, 643_160_523, Invalid, SynSent).opt(MSS),
                    c(SYN, 1000, 0, Ignore, SynSent).opt(MSS_SCALE7),
                    s(SA, 145_758_918, 1001, Accept(60), SynRecv),
                    c(ACK, 1001, 145_758_919, Assured(LONG), Established),
                ],
            ),
            (
                "refused, and tried again from the same port",
                vec![
                    c(SYN, 1000, 0, Accept(120), SynSent),
                    s(RA, 0, 1001, Kill, Close),
                    c(SYN, 77_777_777, 0, Accept(120), SynSent),
                    s(SA, 5000, 77_777_778, Accept(60), SynRecv),
                    c(ACK, 77_777_778, 5001, Assured(LONG), Established),
                ],
            ),
            (
                "refused with the wrong acknowledgement",
                vec![c(SYN, 1000, 0, Accept(120), SynSent), s(RA, 0, 1003, Invalid, SynSent)],
            ),
            (
                "the client does not wait",
                vec![
                    c(SYN, 1000, 0, Accept(120), SynSent),
                    c(ACK, 1001, 5001, Invalid, SynSent),
                    c(FA, 1001, 5001, Invalid, SynSent),
                    c(SA, 1000, 5001, Invalid, SynSent),
                ],
            ),
            (
                "simultaneous open",
                vec![
                    c(SYN, 1000, 0, Accept(120), SynSent),
                    s(SYN, 5000, 0, Ignore, SynSent2),
                    c(SA, 1000, 5001, Accept(60), SynRecv),
                    s(SA, 5000, 1001, Ignore, SynRecv),
                    s(ACK, 5001, 1001, Assured(LONG), Established),
                    c(ACK, 1001, 5001, Accept(LONG), Established),
                ],
            ),
            (
                "the server holds half of an older connection; the client resets it",
                vec![
                    c(SYN, 1000, 0, Accept(120), SynSent),
                    s(ACK, 70_000, 33_333, Ignore, SynSent),
                    c(RST, 33_333, 0, Accept(10), Close),
                ],
            ),
            (
                "neither RST nor SYN/ACK opens",
                vec![
                    c(RST, 1, 0, Refuse, TcpState::None),
                    c(RA, 1, 2, Refuse, TcpState::None),
                    c(SA, 1, 2, Refuse, TcpState::None),
                    c(FA, 1, 2, Refuse, TcpState::None),
                ],
            ),
        ],
    );
}

#[test]
fn picking_up() {
    let steps = [
        c(ACK, 1001, 5001, Accept(300), Established),
        s(PA, 5001, 1001, Accept(300), Established).len(6),
        c(ACK, 1001, 5007, Assured(LONG), Established),
        // What was negotiated is not known: windows are not held against it.
        s(PA, 300_000, 1001, Accept(LONG), Established).len(100),
    ];
    run("pick-up", &TcpSettings::default(), &steps);
    let keepalive = [c(ACK, 1000, 5001, Accept(300), Established), s(ACK, 5001, 1001, Accept(300), Established)];
    run("pick-up at a keep-alive", &TcpSettings::default(), &keepalive);
    let strict = TcpSettings { loose: false, ..TcpSettings::default() };
    run("no pick-up", &strict, &[c(ACK, 1001, 5001, Refuse, TcpState::None)]);
}

#[test]
fn closing() {
    run_all(
        &TcpSettings::default(),
        vec![
            (
                "in order, FIN repeated",
                closed(&[s(FA, 5001, 1002, Accept(120), TimeWait), c(ACK, 1002, 5002, Accept(120), TimeWait)]),
            ),
            (
                "both at once",
                open(&[
                    c(FA, 1001, 5001, Accept(120), FinWait),
                    s(FA, 5001, 1001, Accept(30), LastAck),
                    c(ACK, 1002, 5002, Accept(120), TimeWait),
                    s(ACK, 5002, 1002, Accept(120), TimeWait),
                ]),
            ),
            (
                "half closed: the other side goes on",
                open(&[
                    c(FA, 1001, 5001, Accept(120), FinWait),
                    s(ACK, 5001, 1002, Accept(60), CloseWait),
                    s(PA, 5001, 1002, Accept(60), CloseWait).len(1000),
                    c(ACK, 1002, 6001, Accept(60), CloseWait),
                ]),
            ),
            (
                "same ports after TIME_WAIT",
                closed(&[
                    c(SYN, 101_000, 0, Reopen, TimeWait),
                    c(SYN, 101_000, 0, Accept(120), SynSent),
                    s(SA, 105_000, 101_001, Accept(60), SynRecv),
                    c(ACK, 101_001, 105_001, Assured(LONG), Established),
                ]),
            ),
            (
                "the server's SYN after TIME_WAIT: a connection of its own",
                closed(&[s(SYN, 77_000_000, 0, Reopen, TimeWait)]),
            ),
            (
                "same ports after a RST of the client",
                open(&[c(RST, 1001, 0, Accept(10), Close), c(SYN, 101_000, 0, Reopen, Close)]),
            ),
            (
                "same ports after a RST of the server: the answer decides",
                open(&[
                    s(RST, 5001, 0, Accept(10), Close),
                    c(SYN, 101_000, 0, Ignore, Close),
                    s(SA, 105_000, 101_001, Accept(60), SynRecv),
                    c(ACK, 101_001, 105_001, Accept(LONG), Established),
                ]),
            ),
            (
                "SYN of the server on a reset connection",
                open(&[c(RST, 1001, 0, Accept(10), Close), s(SYN, 77_000_000, 0, Invalid, Close)]),
            ),
            (
                "a challenge ACK in LAST_ACK is not the last one",
                open(&[
                    s(FA, 5001, 1001, Accept(120), FinWait),
                    c(FA, 1001, 5002, Accept(30), LastAck),
                    c(SYN, 90_000, 0, Ignore, LastAck),
                    s(ACK, 5002, 1002, Ignore, LastAck),
                    c(RST, 1002, 0, Accept(10), Close),
                ]),
            ),
            (
                "late data after a RST",
                open(&[c(RST, 1001, 0, Accept(10), Close), s(PA, 5001, 1001, Accept(10), Close).len(10)]),
            ),
        ],
    );
}

#[test]
fn starting_over() {
    run_all(
        &TcpSettings::default(),
        vec![
            (
                "the client rebooted and the server agrees",
                open(&[
                    c(PA, 1001, 5001, Accept(300), Established).len(1),
                    s(ACK, 5001, 1002, Accept(LONG), Established),
                    c(SYN, 900_000_000, 0, Ignore, Established).opt(MSS_SCALE7),
                    s(SA, 800_000_000, 900_000_001, Accept(60), SynRecv).opt(MSS_SCALE7),
                    c(ACK, 900_000_001, 800_000_001, Accept(LONG), Established),
                    c(PA, 900_000_001, 800_000_001, Accept(300), Established).len(5),
                    // Scaling was agreed anew.
                    s(PA, 800_000_001 + 1_000_000, 900_000_006, Accept(300), Established).len(9),
                ]),
            ),
            (
                "the client rebooted and the server refuses",
                open(&[c(SYN, 900_000_000, 0, Ignore, Established), s(RA, 0, 900_000_001, Accept(10), Close)]),
            ),
            (
                "the client rebooted and the server answers another SYN",
                open(&[
                    c(SYN, 900_000_000, 0, Ignore, Established),
                    s(SA, 800_000_000, 900_000_002, Ignore, Established),
                ]),
            ),
            (
                "the client rebooted, is challenged and resets",
                open(&[
                    c(SYN, 900_000_000, 0, Ignore, Established),
                    s(ACK, 5001, 1001, Accept(LONG), Established),
                    c(RST, 1001, 0, Accept(10), Close),
                ]),
            ),
            (
                "nobody else starts over",
                open(&[
                    c(SA, 1000, 5001, Invalid, Established),
                    s(SYN, 5001, 0, Invalid, Established),
                    s(SA, 5000, 1001, Ignore, Established),
                ]),
            ),
        ],
    );
}
