//! IRC: one client invites another, through the server, to connect to it directly (DCC).
//!
//! `PRIVMSG someone :^ADCC SEND file 168427522 1025^A`, the address as one decimal number. Who will
//! connect cannot be known: the invitation goes through the server to anyone. Read are only segments of
//! the client's that begin with such a command, and only IPv4, as DCC has no agreed form for IPv6.
//!
//! Linux takes port numbers modulo 65536; here a port above 65535 is none, and nothing is announced.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};

use super::{Announcement, Format, Helper, Inspection, Opener, Properties, View};
use crate::conntrack::Direction;
use crate::packet::protocol;

/// No more of a segment is searched.
const MAX_SEARCH: usize = 4095;
/// What a message must be longer than to hold a command: `PRIVMSG x `.
const MIN_COMMAND: usize = 10;
/// What must be left from ` :` on: it, `^ADCC `, the shortest of [`COMMANDS`] and [`MIN_ARGUMENTS`].
const MIN_MESSAGE: usize = 26;
/// What must be left from a space before the address on: `AAAAAAAA P^A\n`.
const MIN_ARGUMENTS: usize = 12;

/// DCC commands that name an address and a port.
const COMMANDS: [&[u8]; 5] = [b"SEND ", b"CHAT ", b"MOVE ", b"TSEND ", b"SCHAT "];

/// The IRC helper; it has no state.
#[derive(Debug, Clone, Copy, Default)]
pub struct Irc;

impl Helper for Irc {
    const PROPERTIES: Properties =
        Properties { name: "irc", protocol: protocol::TCP, standard_port: 6667, timeout: 300, max_expected: 8 };

    fn inspect(&mut self, view: &View) -> Inspection {
        if view.direction == Direction::Reply || !view.established {
            return Inspection::Nothing;
        }
        let payload = &view.payload[..view.payload.len().min(MAX_SEARCH)];
        let Some(invitation) = arguments(payload).and_then(|at| read_arguments(payload, at)) else {
            return Inspection::Nothing;
        };
        // The client may know its address outside. Any other is forged.
        let own = [view.speaker, view.speaker_outside].contains(&IpAddr::V4(invitation.address));
        if !own || invitation.port == 0 {
            return Inspection::Nothing;
        }
        Inspection::Announce(Announcement {
            range: invitation.start..invitation.end,
            format: Format::Decimal,
            listener: Direction::Original,
            address: view.speaker,
            port: invitation.port,
            protocol: protocol::TCP,
            opener: Opener::Anyone,
        })
    }
}

/// Finds where the arguments of a DCC command begin.
fn arguments(payload: &[u8]) -> Option<usize> {
    let end = payload.len();
    let mut at = 0;
    while at + MIN_COMMAND < end && matches!(payload[at], b' ' | b'\r' | b'\n') {
        at += 1;
    }
    if at + MIN_COMMAND >= end || !payload[at..at + 8].eq_ignore_ascii_case(b"PRIVMSG ") {
        return None;
    }
    at += 8;
    while at + MIN_MESSAGE < end {
        let Some(rest) = payload[at..].strip_prefix(b" :") else {
            at += 1;
            continue;
        };
        // The command stands at the very beginning of the message or not at all.
        let command = rest.strip_prefix(b"\x01DCC ")?;
        at = end - command.len();
        if let Some(word) = COMMANDS.iter().find(|w| command.starts_with(w)) {
            return Some(at + word.len());
        }
    }
    None
}

/// Address and port of an invitation, and where they stand.
struct Invitation {
    address: Ipv4Addr,
    port: u16,
    start: usize,
    end: usize,
}

/// Reads `file 168427522 1025^A\n` from `at`, where the file's name has no space.
fn read_arguments(payload: &[u8], at: usize) -> Option<Invitation> {
    // Before each further character the shortest arguments must still fit.
    let space =
        payload[at..].iter().position(|b| *b == b' ').filter(|n| *n == 0 || at + n + MIN_ARGUMENTS <= payload.len())?;
    let start = at + space + 1;
    if !payload[start..].contains(&b'\n') {
        return None;
    }
    let (address, digits) = decimal(&payload[start..]);
    let blanks = payload[start + digits..].iter().take_while(|b| **b == b' ').count();
    let second = start + digits + blanks;
    let (port, digits) = decimal(&payload[second..]);
    Some(Invitation {
        address: Ipv4Addr::from(address?),
        port: u16::try_from(port?).ok()?,
        start,
        end: second + digits,
    })
}

/// The decimal number `text` begins with, 0 if there is none, `None` above 32 bits; and its length.
fn decimal(text: &[u8]) -> (Option<u32>, usize) {
    let len = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let add = |n: u32, b: &u8| n.checked_mul(10)?.checked_add(u32::from(b - b'0'));
    (text[..len].iter().try_fold(0, add), len)
}
