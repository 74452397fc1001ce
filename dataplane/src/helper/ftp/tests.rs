use super::*;
use crate::conntrack::Direction;

const CLIENT: &str = "10.10.0.2";
const SERVER: &str = "203.0.113.9";

/// A control connection, both ends of which count from 1000.
struct Control {
    ftp: Ftp,
    next: [u32; 2],
    ends: [IpAddr; 2],
}

impl Control {
    fn new(client: &str, server: &str) -> Self {
        let ends = [client.parse().unwrap(), server.parse().unwrap()];
        Control { ftp: Ftp::default(), next: [1000; 2], ends }
    }

    /// A connection whose first line of each direction has passed.
    fn ready(client: &str, server: &str) -> Self {
        let mut c = Self::new(client, server);
        assert_eq!(c.send(Direction::Reply, b"220 ready\r\n"), Inspection::Nothing);
        assert_eq!(c.send(Direction::Original, b"USER anonymous\r\n"), Inspection::Nothing);
        c
    }

    fn send_at(&mut self, direction: Direction, seq: u32, payload: &[u8]) -> Inspection {
        let speaker = self.ends[direction as usize];
        self.ftp.inspect(&View {
            payload,
            seq,
            direction,
            established: true,
            speaker,
            speaker_port: 40_000,
            speaker_outside: "198.51.100.1".parse().unwrap(),
        })
    }

    /// Sends what comes next; a segment that is dropped must be sent again.
    fn send(&mut self, direction: Direction, payload: &[u8]) -> Inspection {
        let seq = self.next[direction as usize];
        let found = self.send_at(direction, seq, payload);
        if found != Inspection::Drop {
            self.next[direction as usize] = seq.wrapping_add(payload.len() as u32);
        }
        found
    }
}

/// What a line is expected to be.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Passes,
    Dropped,
    /// The text of the announcement, and its port.
    Tells(&'static str, u16),
}
use Line::{Dropped, Passes, Tells};

fn check(ends: [&str; 2], direction: Direction, line: &[u8], expected: Line) {
    let mut c = Control::ready(ends[0], ends[1]);
    let name = String::from_utf8_lossy(line);
    match c.send(direction, line) {
        Inspection::Nothing => assert_eq!(expected, Passes, "{name}"),
        Inspection::Drop => assert_eq!(expected, Dropped, "{name}"),
        Inspection::Announce(a) => {
            let Tells(text, port) = expected else { panic!("{name}: {a:?}, not {expected:?}") };
            assert_eq!(&line[a.range.clone()], text.as_bytes(), "{name}");
            assert_eq!((a.port, a.address), (port, c.ends[direction as usize]), "{name}");
            assert_eq!((a.listener, a.opener, a.protocol), (direction, Opener::OtherEnd, 6), "{name}");
        }
    }
}

#[test]
fn commands() {
    for (line, expected) in [
        (&b"PORT 10,10,0,2,4,1\r\n"[..], Tells("10,10,0,2,4,1", 1025)),
        (b"port 10,10,0,2,255,255\r\n", Tells("10,10,0,2,255,255", 65535)),
        (b"PORT 010,10,,2,0,21\r", Tells("010,10,,2,0,21", 21)),
        (b"PORTAL 10,10,0,2,4,1\r\n", Tells("10,10,0,2,4,1", 1025)),
        (b"PORT 10,10,0,3,4,1\r\n", Passes),
        (b"PORT 10,10,0,3,0,0\r\n", Passes),
        // Too few numbers, junk, too many, too large, port 0, no carriage return.
        (b"PORT 10,10,0,2,4\r\n", Dropped),
        (b"PORT hello\r\n", Dropped),
        (b"PORT\r\n", Dropped),
        (b"PORT \r\n", Dropped),
        (b"PORT 10,10,0,2,4,5x\r\n", Dropped),
        (b"PORT 10,10,0,2,4,5,6\r\n", Dropped),
        (b"PORT 10,10,0,2,256,5\r\n", Dropped),
        (b"PORT 10,10,0,2,0,0\r\n", Dropped),
        (b"PORT 10,10,0,2,4,1\n", Dropped),
        (b"PORT  10,10,0,2,4,1\r\n", Dropped),
        // Cut in the middle.
        (b"PORT 10,10,0", Dropped),
        (b"PORT 10,10,0,2,4,1", Dropped),
        (b"PORT ", Dropped),
        (b"PORT", Dropped),
        (b"Po", Dropped),
        (b"E", Dropped),
        // Something else.
        (b"POST 10,10,0,2,4,1\r\n", Passes),
        (b"NOOP\r\n", Passes),
        (b" PORT 10,10,0,2,4,1\r\n", Passes),
        (b"NOOP\r\nPORT 10,10,0,2,4,1\r\n", Passes),
        (b"227 (10,10,0,2,4,1)\r\n", Passes),
        (b"\xff\xfe\r\n", Passes),
    ] {
        check([CLIENT, SERVER], Direction::Original, line, expected);
    }
}

#[test]
fn extended_commands() {
    for (line, expected) in [
        (&b"EPRT |1|10.10.0.2|1025|\r\n"[..], Tells("|1|10.10.0.2|1025|", 1025)),
        (b"eprt !1!10.10.0.2!65535!", Tells("!1!10.10.0.2!65535!", 65535)),
        (b"EPRT |1|10.10.0.3|1025|\r\n", Passes),
        (b"EPRT 1\r\n", Dropped),
        (b"EPRT |1|10.10.0.2|1\r\n", Dropped),
        (b"EPRT |1|10.10.0.2|0|\r\n", Dropped),
        (b"EPRT |1|10.10.0.3|0|\r\n", Dropped),
        (b"EPRT |1|10.10.0.2|65536|\r\n", Dropped),
        (b"EPRT |1|10.10.0.2||\r\n", Dropped),
        (b"EPRT |1|10.10.0|1025|\r\n", Dropped),
        (b"EPRT |1|10.10.0.2.1|1025|\r\n", Dropped),
        (b"EPRT |1|10.10.0.2!1025|\r\n", Dropped),
        (b"EPRT |3|10.10.0.2|44|\r\n", Dropped),
        (b"EPRT |2|10.10.0.2|99|\r\n", Dropped),
        (b"EPRT |2|fd00::2|99|\r\n", Dropped),
        (b"EPRT 11110.10.0.211025|\r\n", Dropped),
        (b"EPRT .1.10.10.0.2.1025.\r\n", Dropped),
        (b"EPRT |1|\r\n", Dropped),
        (b"EPRT |", Dropped),
        (b"EPRT ", Dropped),
    ] {
        check([CLIENT, SERVER], Direction::Original, line, expected);
    }
}

#[test]
fn answers() {
    for (line, expected) in [
        (&b"227 Entering Passive Mode (203,0,113,9,4,1)\r\n"[..], Tells("203,0,113,9,4,1", 1025)),
        (b"227 Entering Passive Mode (203,0,113,9,4,1).\r\n", Tells("203,0,113,9,4,1", 1025)),
        (b"227 =203,0,113,9,4,1\r\n", Tells("203,0,113,9,4,1", 1025)),
        (b"227 203,0,113,9,4,1\n", Tells("203,0,113,9,4,1", 1025)),
        (b"227 Entering Passive Mode (203,0,113,10,4,1)\r\n", Passes),
        (b"227 Mode 2 (203,0,113,9,4,1)\r\n", Dropped),
        (b"227 Entering Passive Mode (203,0,113,9,0,0)\r\n", Dropped),
        (b"227 203,0,113,9,4,1", Dropped),
        (b"227 no\r\n", Dropped),
        (b"227 ", Dropped),
        (b"22", Dropped),
        (b"227-203,0,113,9,4,1\r\n", Passes),
        (b"229 Entering Extended Passive Mode (|||1025|)\r\n", Tells("|||1025|", 1025)),
        (b"229 (!!!65535!", Tells("!!!65535!", 65535)),
        (b"229 |||1025|\r\n", Dropped),
        (b"229 (|||0|)\r\n", Dropped),
        (b"229 (|||65536|)\r\n", Dropped),
        (b"229 (|||10x|)\r\n", Dropped),
        (b"229 (|||1025)\r\n", Dropped),
        (b"229 (||1025|)\r\n", Dropped),
        (b"229 (1111025|)\r\n", Dropped),
        (b"229 (|||", Dropped),
        (b"229 (", Dropped),
        (b"230 ok\r\n", Passes),
        (b"PORT 203,0,113,9,4,1\r\n", Passes),
    ] {
        check([CLIENT, SERVER], Direction::Reply, line, expected);
    }
}

#[test]
fn ipv6() {
    let ends = ["fd00:10::2", "2001:db8::9"];
    for (direction, line, expected) in [
        (Direction::Original, &b"EPRT |2|fd00:10::2|1025|\r\n"[..], Tells("|2|fd00:10::2|1025|", 1025)),
        (Direction::Original, b"EPRT |2|FD00:0010:0:0::0:2|1025|\r\n", Tells("|2|FD00:0010:0:0::0:2|1025|", 1025)),
        (Direction::Original, b"EPRT |2|fd00:10::3|1025|\r\n", Passes),
        (Direction::Original, b"EPRT |1|10.10.0.2|1025|\r\n", Dropped),
        (Direction::Original, b"EPRT |2|10.10.0.2|1025|\r\n", Dropped),
        (Direction::Original, b"EPRT |2|fd00:10::2|", Dropped),
        (Direction::Original, b"EPRT |2|fd00:10::2", Dropped),
        (Direction::Original, b"EPRT |2|\xff::2|1025|\r\n", Dropped),
        // An IPv4 command names another host, whatever its numbers.
        (Direction::Original, b"PORT 253,0,0,16,4,1\r\n", Passes),
        (Direction::Original, b"PORT 10,10,0,2\r\n", Dropped),
        (Direction::Reply, b"229 Extended (|||1025|)\r\n", Tells("|||1025|", 1025)),
        (Direction::Reply, b"227 (32,1,13,184,4,1)\r\n", Passes),
    ] {
        check(ends, direction, line, expected);
    }
}

#[test]
fn formats() {
    for (direction, line, format) in [
        (Direction::Original, &b"PORT 10,10,0,2,4,1\r\n"[..], Format::Numbers),
        (Direction::Original, b"EPRT |1|10.10.0.2|1025|\r\n", Format::Extended),
        (Direction::Reply, b"227 (203,0,113,9,4,1)\r\n", Format::Numbers),
        (Direction::Reply, b"229 (|||1025|)\r\n", Format::ExtendedPort),
    ] {
        let Inspection::Announce(a) = Control::ready(CLIENT, SERVER).send(direction, line) else { panic!() };
        assert_eq!(a.format, format);
        // What the announcement says, written anew, is what stood there.
        assert_eq!(a.format.render(a.address, a.port).unwrap().as_bytes(), &line[a.range]);
    }
}

#[test]
fn loose_believes_another_address() {
    let mut c = Control::ready(CLIENT, SERVER);
    c.ftp.loose = true;
    let Inspection::Announce(a) = c.send(Direction::Original, b"PORT 10,10,0,3,4,1\r\n") else { panic!() };
    assert_eq!((a.address, a.port), ("10.10.0.3".parse().unwrap(), 1025));
    let mut c = Control::ready("fd00:10::2", "2001:db8::9");
    c.ftp.loose = true;
    assert_eq!(c.send(Direction::Original, b"PORT 10,10,0,3,4,1\r\n"), Inspection::Nothing);
}

const PORT: &[u8] = b"PORT 10,10,0,2,4,1\r\n";

fn announces(i: &Inspection) -> bool {
    matches!(i, Inspection::Announce(_))
}

#[test]
fn only_a_segment_that_begins_a_line_is_read() {
    let mut c = Control::new(CLIENT, SERVER);
    assert_eq!(c.send(Direction::Original, PORT), Inspection::Nothing, "the first line");
    assert!(announces(&c.send(Direction::Original, PORT)), "the second line");
    assert_eq!(c.send(Direction::Original, b"STOR "), Inspection::Nothing);
    assert_eq!(c.send(Direction::Original, PORT), Inspection::Nothing, "in the middle of a line");
    assert!(announces(&c.send(Direction::Original, PORT)), "the line after");
    // Each direction has its own lines.
    assert_eq!(c.send(Direction::Reply, b"227 (203,0,113,9,4,1)\r\n"), Inspection::Nothing);
    assert!(announces(&c.send(Direction::Reply, b"227 (203,0,113,9,4,1)\r\n")));
    // Ahead of what is known, as after a loss.
    let ahead = c.next[0].wrapping_add(500);
    assert_eq!(c.send_at(Direction::Original, ahead, PORT), Inspection::Nothing);
}

#[test]
fn a_dropped_segment_may_be_sent_again() {
    let mut c = Control::ready(CLIENT, SERVER);
    for line in [&b"PORT 10,10,0"[..], b"PORT hello\r\n", b"PORT 10,10,0,2,0,0\r\n", b"EPRT 1\r\n", b"P"] {
        assert_eq!(c.send(Direction::Original, line), Inspection::Drop);
    }
    assert!(announces(&c.send(Direction::Original, PORT)));
}

#[test]
fn the_last_two_line_starts_are_known() {
    let mut c = Control::ready(CLIENT, SERVER);
    let first = c.next[0];
    assert!(announces(&c.send(Direction::Original, PORT)));
    assert!(announces(&c.send_at(Direction::Original, first, PORT)), "repeated");
    let second = c.next[0];
    assert!(announces(&c.send(Direction::Original, PORT)));
    assert!(announces(&c.send_at(Direction::Original, second, PORT)), "the last but one start");
    assert_eq!(c.send_at(Direction::Original, first, PORT), Inspection::Nothing, "older");
    // What is older does not displace what is known.
    assert!(announces(&c.send(Direction::Original, PORT)));
}

#[test]
fn line_starts_across_the_wrap() {
    let mut c = Control::new(CLIENT, SERVER);
    c.next[0] = u32::MAX - 40;
    assert_eq!(c.send(Direction::Original, b"USER a\r\n"), Inspection::Nothing);
    for i in 0..6 {
        assert!(announces(&c.send(Direction::Original, PORT)), "{i}");
    }
    assert!(c.next[0] < 200);
}

#[test]
fn nothing_is_read_before_both_ends_were_heard() {
    let mut ftp = Ftp::default();
    let mut view = View {
        payload: b"USER a\r\n",
        seq: 100,
        direction: Direction::Original,
        established: false,
        speaker: CLIENT.parse().unwrap(),
        speaker_port: 40_000,
        speaker_outside: CLIENT.parse().unwrap(),
    };
    assert_eq!(ftp.inspect(&view), Inspection::Nothing);
    (view.payload, view.seq, view.established) = (PORT, 108, true);
    assert_eq!(ftp.inspect(&view), Inspection::Nothing, "no line start was learnt");
    view.payload = b"";
    assert_eq!(ftp.inspect(&view), Inspection::Nothing, "no payload");
}
