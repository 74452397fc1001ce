//! Packets in words: one that `explain` is asked about, and the conditions of `trace --match`.

mod condition;
mod decode;
mod frame;
mod packet;

use std::net::IpAddr;
use std::ops::Range;

use dataplane::packet::protocol::has_ports;

pub(crate) use condition::{Condition, Side};
pub(crate) use decode::words;
pub(crate) use frame::build;
pub(crate) use packet::Packet;

/// Why a text is not understood: where, what, and what could stand there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misunderstood {
    text: String,
    at: Range<usize>,
    message: String,
    help: String,
}

impl std::fmt::Display for Misunderstood {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let before = self.text[..self.at.start].chars().count();
        let marked = self.text[self.at.clone()].chars().count().max(1);
        write!(f, "{}\n  {}\n  {:before$}{}", self.message, self.text, "", "^".repeat(marked))?;
        if self.help.is_empty() { Ok(()) } else { write!(f, "\n  = help: {}", self.help) }
    }
}

impl std::error::Error for Misunderstood {}

/// The words of a text, one after the other.
struct Words<'t> {
    text: &'t str,
    words: Vec<(Range<usize>, &'t str)>,
    next: usize,
}

impl<'t> Words<'t> {
    fn new(text: &'t str) -> Self {
        let mut words = Vec::new();
        let mut at = 0;
        for word in text.split_whitespace() {
            let start = at + text[at..].find(word).unwrap_or(0);
            at = start + word.len();
            words.push((start..at, word));
        }
        Words { text, words, next: 0 }
    }

    fn peek(&self) -> Option<&'t str> {
        self.words.get(self.next).map(|(_, w)| *w)
    }

    fn take(&mut self) -> Option<&'t str> {
        let word = self.peek()?;
        self.next += 1;
        Some(word)
    }

    /// The next word, which must be there: `what` says what is missing.
    fn expect(&mut self, what: &str, help: &str) -> Result<&'t str, Misunderstood> {
        match self.take() {
            Some(w) => Ok(w),
            None => Err(self.error(self.words.len(), format!("{what} is missing"), help)),
        }
    }

    /// The last word taken is wrong.
    fn wrong(&self, message: String, help: &str) -> Misunderstood {
        self.error(self.next.saturating_sub(1), message, help)
    }

    fn error(&self, word: usize, message: String, help: &str) -> Misunderstood {
        let end = self.text.trim_end().len();
        let at = self.words.get(word).map_or(end..end, |(at, _)| at.clone());
        Misunderstood { text: self.text.to_owned(), at, message, help: help.to_owned() }
    }

    /// The rest of the text.
    fn rest(&mut self) -> &'t str {
        let start = self.words.get(self.next).map_or(self.text.len(), |(at, _)| at.start);
        self.next = self.words.len();
        &self.text[start..]
    }

    /// The next word as a number up to `max`.
    fn number<T: std::str::FromStr>(&mut self, what: &str) -> Result<T, Misunderstood> {
        let word = self.expect(what, "")?;
        word.parse().map_err(|_| self.wrong(format!("`{word}` is not {what}"), "write a whole number"))
    }
}

/// The transport protocol with a name or number.
fn protocol(word: &str) -> Option<u8> {
    config::protocol_named(word)
}

/// Both ends of a packet as they are written here.
pub(crate) fn ends(protocol: u8, source: (IpAddr, u16), destination: (IpAddr, u16)) -> String {
    let name = config::protocol_name(protocol);
    let ports = has_ports(protocol);
    let end = |(a, port): (IpAddr, u16)| match a {
        _ if !ports => a.to_string(),
        IpAddr::V4(a) => format!("{a}:{port}"),
        IpAddr::V6(a) => format!("[{a}]:{port}"),
    };
    format!("{name} {} > {}", end(source), end(destination))
}

/// An address with or without a port: `10.0.0.1:80`, `[2001:db8::1]:80`.
fn endpoint(word: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Ok(a) = word.parse() {
        return Some((a, None));
    }
    if let Some(rest) = word.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let port = port.strip_prefix(':').map(str::parse).transpose().ok()?;
        return Some((IpAddr::V6(address.parse().ok()?), port));
    }
    let (address, port) = word.rsplit_once(':')?;
    Some((IpAddr::V4(address.parse().ok()?), Some(port.parse().ok()?)))
}
