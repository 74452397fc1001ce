//! Connection-tracking helpers: they read a control stream for the connections it announces.
//!
//! Some protocols agree on addresses and ports inside their payload: FTP opens a second connection for
//! the data, TFTP's server answers from another port, IRC clients invite each other to a direct chat. A
//! helper reads the packets of such a master connection and says what is announced, and where in the
//! payload it stands. The caller enters an expectation, chooses the port the other side shall be told,
//! has [`Format::render`] write the new text and [`mangle::replace`] put it in place, and records the
//! change of length in [`sequence::SequenceOffsets`].
//!
//! Nothing here knows tables or translation, and nothing allocates. The semantics are those of Linux
//! 6.18 (`nf_conntrack_ftp.c` and its siblings); where they differ on purpose, the file says so.

mod format;
mod ftp;
mod irc;
pub mod mangle;
pub mod sequence;
mod tftp;

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::str::FromStr;

use crate::conntrack::Direction;

pub use format::{Format, Text};
pub use ftp::Ftp;
pub use irc::Irc;
pub use tftp::Tftp;

/// The helpers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HelperKind {
    /// FTP, RFC 959 and RFC 2428.
    Ftp,
    /// TFTP, RFC 1350.
    Tftp,
    /// IRC's direct client connections (DCC), IPv4 only.
    Irc,
}

/// What is fixed about a helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Properties {
    /// Name in configuration and listings.
    pub name: &'static str,
    /// Transport protocol of the master connection.
    pub protocol: u8,
    /// Destination port of the master connection, unless configured otherwise.
    pub standard_port: u16,
    /// Seconds an announced connection is waited for.
    pub timeout: u32,
    /// Announced connections of one master that are waited for at a time; the oldest gives way.
    pub max_expected: usize,
}

impl HelperKind {
    /// All of them.
    pub const ALL: [HelperKind; 3] = [HelperKind::Ftp, HelperKind::Tftp, HelperKind::Irc];

    /// What is fixed about it.
    pub fn properties(self) -> &'static Properties {
        match self {
            HelperKind::Ftp => &Ftp::PROPERTIES,
            HelperKind::Tftp => &Tftp::PROPERTIES,
            HelperKind::Irc => &Irc::PROPERTIES,
        }
    }

    /// Name in configuration and listings.
    pub fn name(self) -> &'static str {
        self.properties().name
    }
}

impl fmt::Display for HelperKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no helper has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no helper is called `{0}`: use `ftp`, `tftp` or `irc`")]
pub struct UnknownHelper(pub String);

impl FromStr for HelperKind {
    type Err = UnknownHelper;

    fn from_str(s: &str) -> Result<Self, UnknownHelper> {
        Self::ALL.into_iter().find(|k| k.name() == s).ok_or_else(|| UnknownHelper(s.to_owned()))
    }
}

/// A packet of a master connection as its helper sees it.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// What follows the transport header.
    pub payload: &'a [u8],
    /// TCP: sequence number of the first byte of `payload`, as the sender wrote it. Otherwise 0.
    pub seq: u32,
    /// Direction of the packet.
    pub direction: Direction,
    /// Whether both ends have been heard: the packet's state is ESTABLISHED.
    pub established: bool,
    /// The sender's address before translation: the source of the tuple of `direction`.
    pub speaker: IpAddr,
    /// The sender's port, likewise.
    pub speaker_port: u16,
    /// The sender's address as the receiver sees it: the destination of the tuple of the other direction.
    pub speaker_outside: IpAddr,
}

/// What a helper found in a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inspection {
    /// Nothing that concerns it; the packet goes on as it is.
    Nothing,
    /// A command it cannot read to the end. The packet is dropped: let through, it could announce a
    /// connection that nobody here expects, and cut in the middle it could not be translated. Its sender
    /// repeats it, whole if it was cut.
    Drop,
    /// A connection is announced. If it cannot be expected, or the text not be replaced, the packet is
    /// dropped.
    Announce(Announcement),
}

/// A connection that one end of the master connection, the listener, waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Which bytes of the payload tell address and port; empty for [`Format::Unwritten`].
    pub range: Range<usize>,
    /// How they tell it.
    pub format: Format,
    /// The listener is the end that sends packets of this direction. The other one opens.
    pub listener: Direction,
    /// Where the listener waits, in its own words, before translation: its own address, except when FTP
    /// is [`Ftp::loose`].
    pub address: IpAddr,
    /// Port it waits at, not 0.
    pub port: u16,
    /// Transport protocol of the new connection.
    pub protocol: u8,
    /// Who may open it.
    pub opener: Opener,
}

/// Who may open an announced connection; any source port will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opener {
    /// The other end of the master connection: the source of the tuple of the direction other than
    /// [`Announcement::listener`].
    OtherEnd,
    /// Any address: the master connection's other end only passes the invitation on.
    Anyone,
}

/// What reads the packets of one protocol's master connections; the value is the state of one connection.
pub trait Helper {
    /// What is fixed about it.
    const PROPERTIES: Properties;

    /// Reads a packet. Call it for each packet of the connection that passes, in order of arrival, before
    /// the packet is changed. Never panics.
    fn inspect(&mut self, view: &View) -> Inspection;
}

/// A helper with its state of one connection.
#[derive(Debug, Clone)]
pub enum HelperState {
    /// FTP.
    Ftp(Ftp),
    /// TFTP.
    Tftp(Tftp),
    /// IRC.
    Irc(Irc),
}

impl HelperState {
    /// The state before the connection's first packet.
    pub fn new(kind: HelperKind) -> Self {
        match kind {
            HelperKind::Ftp => HelperState::Ftp(Ftp::default()),
            HelperKind::Tftp => HelperState::Tftp(Tftp),
            HelperKind::Irc => HelperState::Irc(Irc),
        }
    }

    /// Which helper it is.
    pub fn kind(&self) -> HelperKind {
        match self {
            HelperState::Ftp(_) => HelperKind::Ftp,
            HelperState::Tftp(_) => HelperKind::Tftp,
            HelperState::Irc(_) => HelperKind::Irc,
        }
    }

    /// Reads a packet, see [`Helper::inspect`].
    pub fn inspect(&mut self, view: &View) -> Inspection {
        match self {
            HelperState::Ftp(h) => h.inspect(view),
            HelperState::Tftp(h) => h.inspect(view),
            HelperState::Irc(h) => h.inspect(view),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn properties() {
        for (name, protocol, port, timeout, max_expected) in
            [("ftp", 6, 21, 300, 1), ("tftp", 17, 69, 300, 1), ("irc", 6, 6667, 300, 8)]
        {
            let kind: HelperKind = name.parse().unwrap();
            let p = kind.properties();
            assert_eq!((kind.to_string().as_str(), HelperState::new(kind).kind()), (name, kind));
            assert_eq!(
                (p.protocol, p.standard_port, p.timeout, p.max_expected),
                (protocol, port, timeout, max_expected)
            );
        }
        let e = "sip".parse::<HelperKind>().unwrap_err();
        assert_eq!(e.to_string(), "no helper is called `sip`: use `ftp`, `tftp` or `irc`");
    }

    /// Payloads near enough to commands to get past the first letters.
    fn payload() -> impl Strategy<Value = Vec<u8>> {
        let word = prop::sample::select(vec![
            "PORT ",
            "EPRT ",
            "227 ",
            "229 ",
            "|1|",
            "|2|",
            "|||",
            "(",
            ")",
            ",",
            "|",
            "10",
            "255",
            "0",
            "fe80::1",
            "\r\n",
            "PRIVMSG ",
            "x :",
            "\u{1}DCC ",
            "SEND ",
            "a ",
            "168427522 ",
            "65536",
            "\n",
            " ",
            "\0",
            "\0\u{1}",
        ]);
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..100),
            prop::collection::vec(word, 0..20).prop_map(|w| w.concat().into_bytes()),
        ]
    }

    proptest! {
        #[test]
        fn what_is_announced_lies_in_the_payload(
            packets in prop::collection::vec((payload(), any::<bool>(), any::<bool>()), 1..12),
            kind in prop::sample::select(HelperKind::ALL.to_vec()),
            start: u32,
            v6: bool,
        ) {
            let mut state = HelperState::new(kind);
            let mut next = [start; 2];
            for (payload, reply, established) in packets {
                let direction = if reply { Direction::Reply } else { Direction::Original };
                let speaker: IpAddr = if v6 { "fe80::1" } else { "10.10.0.2" }.parse().unwrap();
                let view = View {
                    payload: &payload,
                    seq: next[direction as usize],
                    direction,
                    established,
                    speaker,
                    speaker_port: 1024,
                    speaker_outside: speaker,
                };
                next[direction as usize] = view.seq.wrapping_add(payload.len() as u32);
                if let Inspection::Announce(a) = state.inspect(&view) {
                    prop_assert!(payload.get(a.range.clone()).is_some());
                    prop_assert!(a.port != 0 && a.address == speaker && a.listener == direction);
                    prop_assert_eq!(a.range.is_empty(), a.format == Format::Unwritten);
                }
            }
        }
    }
}
