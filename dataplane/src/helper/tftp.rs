//! TFTP (RFC 1350): the server answers a request from a port of its choice.
//!
//! Linux also takes a read or write request in reply direction for one, and opens the way to the client
//! once more; here only the client asks.

use super::{Announcement, Format, Helper, Inspection, Opener, Properties, View};
use crate::conntrack::Direction;
use crate::packet::protocol;

/// Read request, RFC 1350 section 5.
const RRQ: u8 = 1;
/// Write request.
const WRQ: u8 = 2;

/// The TFTP helper; it has no state.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tftp;

impl Helper for Tftp {
    const PROPERTIES: Properties =
        Properties { name: "tftp", protocol: protocol::UDP, standard_port: 69, timeout: 5 * 60, max_expected: 1 };

    fn inspect(&mut self, view: &View) -> Inspection {
        match view.payload {
            [0, RRQ | WRQ, ..] if view.direction == Direction::Original => Inspection::Announce(Announcement {
                range: 0..0,
                format: Format::Unwritten,
                listener: Direction::Original,
                address: view.speaker,
                port: view.speaker_port,
                protocol: protocol::UDP,
                opener: Opener::OtherEnd,
            }),
            _ => Inspection::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        for (name, payload, direction, announces) in [
            ("read", &b"\0\x01file\0octet\0"[..], Direction::Original, true),
            ("write", b"\0\x02file\0octet\0", Direction::Original, true),
            ("opcode alone", b"\0\x01", Direction::Original, true),
            ("data", b"\0\x03\0\x01data", Direction::Original, false),
            ("acknowledgement", b"\0\x04\0\x01", Direction::Original, false),
            ("error", b"\0\x05\0\x01no\0", Direction::Original, false),
            ("opcode 257", b"\x01\x01file\0octet\0", Direction::Original, false),
            ("half an opcode", b"\0", Direction::Original, false),
            ("nothing", b"", Direction::Original, false),
            ("from the server", b"\0\x01file\0octet\0", Direction::Reply, false),
        ] {
            for address in ["10.10.0.2", "2001:db8::2"] {
                let address = address.parse().unwrap();
                let view = View {
                    payload,
                    seq: 0,
                    direction,
                    // A request is the first packet of its connection.
                    established: false,
                    speaker: address,
                    speaker_port: 40_000,
                    speaker_outside: address,
                };
                match Tftp.inspect(&view) {
                    Inspection::Announce(a) => {
                        assert!(announces, "{name}");
                        assert_eq!((a.address, a.port, a.protocol, a.range), (address, 40_000, 17, 0..0), "{name}");
                        assert_eq!((a.listener, a.opener), (Direction::Original, Opener::OtherEnd), "{name}");
                    }
                    other => assert!(!announces && other == Inspection::Nothing, "{name}: {other:?}"),
                }
            }
        }
    }
}
