//! FTP: the ends agree on a data connection by PORT and EPRT, or 227 and 229 (RFC 959, RFC 2428).
//!
//! Only a segment that begins a line is read, and only its first line: the helper remembers where lines
//! ended. A line whose beginning it cannot know is left alone, so a text inside another command's
//! argument, or inside what is transferred, announces nothing. The first line of a connection is such a
//! line. A command that the segment does not hold to its end is dropped.
//!
//! Linux 6.18 computes numbers above 255 and ports above 65535 modulo the space they have, and PORT on an
//! IPv6 connection may match the first four bytes of the address; here the first are malformed, and the
//! second names another host. Port 0 is dropped without translation too.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::sequence::after;
use super::{Announcement, Format, Helper, Inspection, Opener, Properties, View};
use crate::packet::protocol;

/// The FTP helper's state of one connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ftp {
    /// Believe an end that names another host's address: the parameter `loose` of Linux's module. Off
    /// unless set, because it lets any host behind the gateway open ways to the others.
    pub loose: bool,
    /// Where lines begin, by direction.
    lines: [LineStarts; 2],
}

impl Helper for Ftp {
    const PROPERTIES: Properties =
        Properties { name: "ftp", protocol: protocol::TCP, standard_port: 21, timeout: 5 * 60, max_expected: 1 };

    fn inspect(&mut self, view: &View) -> Inspection {
        let Some(last) = view.payload.last() else { return Inspection::Nothing };
        if !view.established {
            return Inspection::Nothing;
        }
        let lines = &mut self.lines[view.direction as usize];
        let found = if lines.contain(view.seq) { read_line(view, self.loose) } else { Inspection::Nothing };
        if *last == b'\n' && found != Inspection::Drop {
            lines.add(view.seq.wrapping_add(view.payload.len() as u32));
        }
        found
    }
}

/// The two highest sequence numbers that follow a newline. Two, because the segment before the last may
/// come again.
#[derive(Debug, Clone, Copy, Default)]
struct LineStarts {
    at: [u32; 2],
    known: u8,
}

impl LineStarts {
    fn contain(&self, seq: u32) -> bool {
        self.at[..usize::from(self.known)].contains(&seq)
    }

    fn add(&mut self, seq: u32) {
        if self.contain(seq) {
            return;
        }
        if let Some(free) = self.at.get_mut(usize::from(self.known)) {
            *free = seq;
            self.known += 1;
            return;
        }
        let oldest = usize::from(!after(self.at[1], self.at[0]));
        if after(seq, self.at[oldest]) {
            self.at[oldest] = seq;
        }
    }
}

/// A command or answer that announces a connection.
struct Announcer {
    /// What its line begins with, in any case.
    word: &'static [u8],
    format: Format,
    /// Finds the announcement in what follows the word.
    parse: fn(&[u8], bool) -> Option<Announced>,
}

/// An address and port read from a line.
#[derive(Debug, PartialEq, Eq)]
struct Announced {
    /// Where they stand.
    range: Range<usize>,
    /// `None` where the format tells none.
    address: Option<IpAddr>,
    port: u16,
}

/// By direction: commands come from the client, answers from the server.
static ANNOUNCERS: [[Announcer; 2]; 2] = [
    [
        Announcer { word: b"PORT", format: Format::Numbers, parse: port_command },
        Announcer { word: b"EPRT", format: Format::Extended, parse: extended_command },
    ],
    [
        Announcer { word: b"227 ", format: Format::Numbers, parse: passive_answer },
        Announcer { word: b"229 ", format: Format::ExtendedPort, parse: extended_answer },
    ],
];

/// Reads the line that `view.payload` begins with.
fn read_line(view: &View, loose: bool) -> Inspection {
    let line = view.payload;
    let begins_alike = |a: &&Announcer| {
        let common = a.word.len().min(line.len());
        line[..common].eq_ignore_ascii_case(&a.word[..common])
    };
    let Some(announcer) = ANNOUNCERS[view.direction as usize].iter().find(begins_alike) else {
        return Inspection::Nothing;
    };
    // A line shorter than the word is the beginning of one, cut off.
    let rest = line.get(announcer.word.len()..).unwrap_or_default();
    let Some(found) = (announcer.parse)(rest, view.speaker.is_ipv6()) else { return Inspection::Drop };
    let address = found.address.unwrap_or(view.speaker);
    // Another host than the speaker: a bounce attack, or a server that really means another one. Nothing
    // is opened for it, and the ends may try.
    if address != view.speaker && !(loose && address.is_ipv6() == view.speaker.is_ipv6()) {
        return Inspection::Nothing;
    }
    if found.port == 0 {
        return Inspection::Drop;
    }
    let skipped = announcer.word.len();
    Inspection::Announce(Announcement {
        range: skipped + found.range.start..skipped + found.range.end,
        format: announcer.format,
        listener: view.direction,
        address,
        port: found.port,
        protocol: protocol::TCP,
        opener: Opener::OtherEnd,
    })
}

/// `PORT 10,10,0,2,4,1`, ended by a carriage return. What stands before the first space is not looked at.
fn port_command(rest: &[u8], _v6: bool) -> Option<Announced> {
    let start = position(rest, |b| b == b' ')? + 1;
    host_port(rest, start, |end| end == b'\r')
}

/// `227 Entering Passive Mode (10,10,0,2,4,1).`, of which RFC 1123 section 4.1.2.6 trusts only the digits:
/// they begin at the first digit, and anything ends them but the end of the segment.
fn passive_answer(rest: &[u8], _v6: bool) -> Option<Announced> {
    host_port(rest, position(rest, |b| b.is_ascii_digit())?, |_| true)
}

/// `EPRT |1|10.10.0.2|1025|`; the family must be the connection's.
fn extended_command(rest: &[u8], v6: bool) -> Option<Announced> {
    let start = position(rest, |b| b == b' ')? + 1;
    let text = &rest[start..];
    let delimiter = delimiter(text)?;
    if text.get(1) != Some(if v6 { &b'2' } else { &b'1' }) || text.get(2) != Some(&delimiter) {
        return None;
    }
    let text = &text[3..];
    let (address, len) = if v6 {
        let len = position(text, |b| b == delimiter)?;
        let address: Ipv6Addr = std::str::from_utf8(&text[..len]).ok()?.parse().ok()?;
        (IpAddr::V6(address), len)
    } else {
        let (octets, len) = numbers::<4>(text, b'.', |end| end == delimiter)?;
        (IpAddr::V4(Ipv4Addr::from(octets)), len)
    };
    let (port, digits) = delimited_port(&text[len + 1..], delimiter)?;
    Some(Announced { range: start..start + 3 + len + 1 + digits + 1, address: Some(address), port })
}

/// `229 Entering Extended Passive Mode (|||1025|)`: the address is the speaker's.
fn extended_answer(rest: &[u8], _v6: bool) -> Option<Announced> {
    let start = position(rest, |b| b == b'(')? + 1;
    let text = &rest[start..];
    let delimiter = delimiter(text)?;
    if text.get(1..3) != Some(&[delimiter; 2]) {
        return None;
    }
    let (port, digits) = delimited_port(&text[3..], delimiter)?;
    Some(Announced { range: start..start + 3 + digits + 1, address: None, port })
}

fn position(text: &[u8], wanted: impl Fn(u8) -> bool) -> Option<usize> {
    text.iter().position(|b| wanted(*b))
}

/// Six numbers from `start`: the bytes of address and port (RFC 959 section 5.3.2).
fn host_port(text: &[u8], start: usize, ends: impl Fn(u8) -> bool) -> Option<Announced> {
    let ([a, b, c, d, high, low], len) = numbers::<6>(&text[start..], b',', ends)?;
    let address = IpAddr::V4(Ipv4Addr::new(a, b, c, d));
    Some(Announced { range: start..start + len, address: Some(address), port: u16::from_be_bytes([high, low]) })
}

/// `N` decimal numbers below 256, and the length of their text, which something that `ends` them follows.
/// A number may be left out, it is 0 then.
fn numbers<const N: usize>(text: &[u8], separator: u8, ends: impl Fn(u8) -> bool) -> Option<([u8; N], usize)> {
    let mut out = [0u8; N];
    let mut n = 0;
    for (len, b) in text.iter().enumerate() {
        if b.is_ascii_digit() {
            let number = out.get_mut(n)?;
            *number = number.checked_mul(10)?.checked_add(b - b'0')?;
        } else if *b == separator {
            n += 1;
        } else {
            return (n + 1 == N && ends(*b)).then_some((out, len));
        }
    }
    None
}

/// The delimiter of RFC 2428 that `text` begins with: printable, not a digit.
fn delimiter(text: &[u8]) -> Option<u8> {
    text.first().copied().filter(|d| d.is_ascii_graphic() && !d.is_ascii_digit())
}

/// A port other than 0 that `delimiter` ends, and the number of its digits.
fn delimited_port(text: &[u8], delimiter: u8) -> Option<(u16, usize)> {
    let len = position(text, |b| b == delimiter)?;
    let add = |n: u16, b: &u8| n.checked_mul(10)?.checked_add(u16::from(b.is_ascii_digit().then(|| b - b'0')?));
    let port = text[..len].iter().try_fold(0, add)?;
    (port != 0).then_some((port, len))
}
