use super::*;

const INSIDE: &str = "10.10.0.2";
const OUTSIDE: &str = "198.51.100.1";

fn inspect(payload: &[u8], direction: Direction, established: bool, speaker: &str) -> Inspection {
    Irc.inspect(&View {
        payload,
        seq: 1,
        direction,
        established,
        speaker: speaker.parse().unwrap(),
        speaker_port: 40_000,
        speaker_outside: OUTSIDE.parse().unwrap(),
    })
}

#[test]
fn invitations() {
    // 168427522 is 10.10.0.2, 3325256705 is 198.51.100.1.
    for (payload, told) in [
        ("PRIVMSG nick :\x01DCC SEND file 168427522 1025 77\x01\r\n", Some(("168427522 1025", 1025))),
        ("PRIVMSG nick :\x01DCC CHAT chat 168427522 1025\x01\n", Some(("168427522 1025", 1025))),
        ("PRIVMSG nick :\x01DCC MOVE m 168427522 65535\x01\n", Some(("168427522 65535", 65535))),
        ("PRIVMSG nick :\x01DCC TSEND f 168427522 1025 9\x01\n", Some(("168427522 1025", 1025))),
        ("PRIVMSG nick :\x01DCC SCHAT c 168427522 1025\x01\n", Some(("168427522 1025", 1025))),
        ("privmsg #room :\x01DCC SEND f 168427522    1025 9\x01\n", Some(("168427522    1025", 1025))),
        ("\r\n PRIVMSG nick :\x01DCC SEND f 168427522 1025 9\x01\n", Some(("168427522 1025", 1025))),
        // The address the client has outside.
        ("PRIVMSG nick :\x01DCC SEND file 3325256705 1025 7\x01\n", Some(("3325256705 1025", 1025))),
        // No name, as a first space ends it.
        ("PRIVMSG nick :\x01DCC SEND  168427522 1025 12\x01\n", Some(("168427522 1025", 1025))),
        // Another's address, port 0, numbers out of range.
        ("PRIVMSG nick :\x01DCC SEND file 168427523 1025 77\x01\n", None),
        ("PRIVMSG nick :\x01DCC SEND file 168427522 0 77\x01\n", None),
        ("PRIVMSG nick :\x01DCC SEND file 168427522 66561 77\x01\n", None),
        ("PRIVMSG nick :\x01DCC SEND file 4463394818 1025 77\x01\n", None),
        ("PRIVMSG nick :\x01DCC SEND file 10.10.0.2 1025 77\x01\n", None),
        // Cut before the end of the line, or short of arguments.
        ("PRIVMSG nick :\x01DCC SEND file 168427522 1025 77\x01", None),
        ("PRIVMSG nick :\x01DCC SEND averyveryverylongname\x01\n", None),
        ("PRIVMSG nick :\x01DCC SEND file 168427522\x01\nxxxxxxxx", None),
        // Not at the beginning of a PRIVMSG's text.
        ("NOTICE nick :\x01DCC SEND file 168427522 1025 77\x01\n", None),
        ("x PRIVMSG nick :\x01DCC SEND file 168427522 1025 77\x01\n", None),
        ("PRIVMSG nick :look \x01DCC SEND file 168427522 1025 7\x01\n", None),
        ("PRIVMSG nick :look :\x01DCC SEND file 168427522 1025 7\x01\n", None),
        ("PRIVMSG nick :\x01dcc SEND file 168427522 1025 77\x01\n", None),
        ("PRIVMSG nick :\x01DCC send file 168427522 1025 77\x01\n", None),
        ("PRIVMSG nick :\x01DCC RESUME file 168427522 1025 7\x01\n", None),
        // A command that is none is passed over.
        ("PRIVMSG n :\x01DCC X :\x01DCC SEND f 168427522 1025 7\x01\n", Some(("168427522 1025", 1025))),
        ("PRIVMSG nick :hello, how are you, my friend\r\n", None),
        ("PING :server\r\n", None),
        ("      \r\n", None),
        ("", None),
    ] {
        match inspect(payload.as_bytes(), Direction::Original, true, INSIDE) {
            Inspection::Announce(a) => {
                let (text, port) = told.unwrap_or_else(|| panic!("{payload:?}: {a:?}"));
                assert_eq!((&payload[a.range.clone()], a.port), (text, port), "{payload:?}");
                assert_eq!((a.address, a.protocol), (INSIDE.parse().unwrap(), 6), "{payload:?}");
                assert_eq!((a.listener, a.opener), (Direction::Original, Opener::Anyone), "{payload:?}");
                assert_eq!(a.format, Format::Decimal);
            }
            other => assert!(told.is_none() && other == Inspection::Nothing, "{payload:?}: {other:?}"),
        }
    }
}

#[test]
fn only_the_clients_words_on_an_established_ipv4_connection() {
    let invitation = b"PRIVMSG nick :\x01DCC SEND file 168427522 1025 77\x01\r\n";
    for (direction, established, speaker, announces) in [
        (Direction::Original, true, INSIDE, true),
        (Direction::Original, false, INSIDE, false),
        (Direction::Reply, true, INSIDE, false),
        (Direction::Original, true, "fd00:10::2", false),
    ] {
        let found = inspect(invitation, direction, established, speaker);
        assert_eq!(matches!(found, Inspection::Announce(_)), announces, "{direction:?} {established} {speaker}");
    }
}

#[test]
fn no_more_than_4095_bytes_are_searched() {
    let (before, after) = ("PRIVMSG ", " :\x01DCC SEND f 168427522 1025 7\x01\n");
    for (length, announces) in [(MAX_SEARCH, true), (MAX_SEARCH + 1, false)] {
        let payload = format!("{before}{}{after}", "n".repeat(length - before.len() - after.len()));
        let found = inspect(payload.as_bytes(), Direction::Original, true, INSIDE);
        assert_eq!(matches!(found, Inspection::Announce(_)), announces, "{length} bytes");
    }
}
