//! Conditions on packets in words: `tcp dport 443 host 10.10.0.5 not in wan`.

use std::ops::RangeInclusive;

use dataplane::worker::DropReason;
use serde::{Deserialize, Serialize};

use super::{Misunderstood, Words};
use crate::wire::Addresses;

const WORDS: &str = "conditions are: a protocol, ipv4, ipv6, [src|dst] host ADDRESS, [src|dst] net PREFIX, [src|dst] port \
                     PORT[-PORT], sport, dport, in INTERFACE, out INTERFACE, dropped, reason NAME, and `not` before any";

/// One condition; a packet must meet all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Condition {
    /// IPv6 (`true`) or IPv4.
    V6(bool),
    /// The transport protocol.
    Protocol(u8),
    /// One of the addresses.
    Address(Side, Addresses),
    /// One of the ports.
    Port(Side, RangeInclusive<u16>),
    /// The interface it comes in on, by its name in the policy or its device.
    In(String),
    /// The interface it leaves by.
    Out(String),
    /// It is dropped, for the reason of that name or any.
    Dropped(Option<String>),
    /// The other does not hold.
    Not(Box<Condition>),
}

/// Which end of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Side {
    /// The source.
    Source,
    /// The destination.
    Destination,
    /// One of the two.
    Either,
}

impl Condition {
    /// Reads conditions.
    ///
    /// # Errors
    /// What is not understood, and where.
    pub(crate) fn parse_all(text: &str) -> Result<Vec<Condition>, Misunderstood> {
        let mut w = Words::new(text);
        let mut all = Vec::new();
        while let Some(word) = w.take() {
            if word != "and" {
                all.push(one(word, &mut w)?);
            }
        }
        Ok(all)
    }
}

fn one(word: &str, w: &mut Words<'_>) -> Result<Condition, Misunderstood> {
    Ok(match word {
        "not" => {
            let word = w.expect("the condition", WORDS)?;
            Condition::Not(Box::new(one(word, w)?))
        }
        "ip" | "ipv4" => Condition::V6(false),
        "ip6" | "ipv6" => Condition::V6(true),
        "proto" => {
            let name = w.expect("the protocol", "write `proto gre` or `proto 47`")?;
            let number = super::protocol(name).ok_or_else(|| w.wrong(format!("`{name}` is not a protocol"), ""))?;
            Condition::Protocol(number)
        }
        "src" => side(Side::Source, w)?,
        "dst" => side(Side::Destination, w)?,
        "host" | "net" => Condition::Address(Side::Either, addresses(w)?),
        "port" => Condition::Port(Side::Either, ports(w)?),
        "sport" => Condition::Port(Side::Source, ports(w)?),
        "dport" => Condition::Port(Side::Destination, ports(w)?),
        "in" => Condition::In(w.expect("the interface", "write `in lan`")?.to_owned()),
        "out" => Condition::Out(w.expect("the interface", "write `out wan`")?.to_owned()),
        "dropped" => Condition::Dropped(None),
        "reason" => {
            let name = w.expect("the reason", "write `reason policy`")?;
            if !DropReason::ALL.iter().any(|r| r.label() == name) {
                let help = "reasons are listed by `sluice status` and in docs/metrics.md";
                return Err(w.wrong(format!("`{name}` is not a reason for a drop"), help));
            }
            Condition::Dropped(Some(name.to_owned()))
        }
        _ => match super::protocol(word).filter(|_| !word.bytes().all(|b| b.is_ascii_digit())) {
            Some(p) => Condition::Protocol(p),
            None => return Err(w.wrong(format!("`{word}` is not understood"), WORDS)),
        },
    })
}

/// What follows `src` or `dst`: `host`, `net`, `port`, or the address at once.
fn side(side: Side, w: &mut Words<'_>) -> Result<Condition, Misunderstood> {
    match w.peek() {
        Some("port") => {
            w.take();
            Ok(Condition::Port(side, ports(w)?))
        }
        Some("host" | "net") => {
            w.take();
            Ok(Condition::Address(side, addresses(w)?))
        }
        _ => Ok(Condition::Address(side, addresses(w)?)),
    }
}

fn addresses(w: &mut Words<'_>) -> Result<Addresses, Misunderstood> {
    let word = w.expect("the address", "write an address, a prefix or a range")?;
    word.parse().map_err(|e: String| w.wrong(format!("`{word}` is not an address"), &e))
}

fn ports(w: &mut Words<'_>) -> Result<RangeInclusive<u16>, Misunderstood> {
    let word = w.expect("the port", "write a port or a range of ports")?;
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    match (first.parse(), last.parse()) {
        (Ok(a), Ok(b)) if a <= b => Ok(a..=b),
        _ => Err(w.wrong(format!("`{word}` is not a port or a range of ports"), "write 443 or 8000-8080")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions() {
        let all = Condition::parse_all("tcp dport 443 host 10.10.0.5 and not src net 10.0.0.0/8 in lan reason policy")
            .unwrap();
        assert_eq!(
            all,
            [
                Condition::Protocol(6),
                Condition::Port(Side::Destination, 443..=443),
                Condition::Address(Side::Either, "10.10.0.5".parse().unwrap()),
                Condition::Not(Box::new(Condition::Address(Side::Source, "10.0.0.0/8".parse().unwrap()))),
                Condition::In("lan".into()),
                Condition::Dropped(Some("policy".into())),
            ]
        );
        assert_eq!(Condition::parse_all("").unwrap(), []);
        assert_eq!(
            Condition::parse_all("ip6 src port 1-9 dst ::1 proto 47 dropped").unwrap(),
            [
                Condition::V6(true),
                Condition::Port(Side::Source, 1..=9),
                Condition::Address(Side::Destination, "::1".parse().unwrap()),
                Condition::Protocol(47),
                Condition::Dropped(None),
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_marked() {
        for (text, message, marked) in [
            ("tcp dprot 443", "`dprot` is not understood", 4..9),
            ("dport x", "`x` is not a port", 6..7),
            ("port 9-1", "`9-1` is not a port", 5..8),
            ("host 10.0.0.256", "`10.0.0.256` is not an address", 5..15),
            ("src", "the address is missing", 3..3),
            ("reason polcy", "`polcy` is not a reason", 7..12),
            ("not", "the condition is missing", 3..3),
            ("proto foo", "`foo` is not a protocol", 6..9),
            ("443", "`443` is not understood", 0..3),
        ] {
            let e = Condition::parse_all(text).expect_err(text);
            assert!(e.message.contains(message), "{text}: {e}");
            assert_eq!(e.at, marked, "{text}");
        }
    }
}
