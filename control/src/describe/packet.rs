//! A packet in words: `tcp 10.10.0.5:4000 > 1.1.1.1:443 in lan`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use dataplane::conntrack::tcp::flags;
use dataplane::packet::protocol;
use serde::{Deserialize, Serialize};

use super::{Misunderstood, Words, endpoint};

/// The source port of a packet that is described without one: one that programs have.
const SOURCE_PORT: u16 = 50_000;

const EXAMPLE: &str = "write it like `tcp 10.10.0.5:4000 > 1.1.1.1:443 in lan`";
const WORDS: &str = "after the addresses may follow: in INTERFACE, flags syn,ack, type TYPE, code N, id N, ttl N, length N, \
                     df, bad-checksum, about PACKET";
/// Words that are not known here and that people may try, and what to do instead.
const OTHERS: [(&[&str], &str); 8] = [
    (
        &["fragment", "frag", "fragments", "mf", "offset"],
        "describe the whole datagram: fragments wait until it is complete, and meet what it meets",
    ),
    (&["payload", "data", "content"], "only helpers look at payload; `length N` says how much of it there is"),
    (&["seq", "win", "window"], "sequence numbers and window are those that the connection expects"),
    (&["options", "option", "mss", "sack", "wscale"], "only packets without options can be asked about"),
    (&["from", "on", "iif", "dev", "vlan"], "where it comes in is written `in INTERFACE`"),
    (&["out", "oif", "via"], "where it leaves is for the routes to say: leave it out"),
    (&["sport", "dport", "port"], "ports stand behind the addresses: 10.10.0.5:4000"),
    (&["syn", "ack", "rst", "fin", "psh", "urg"], "write `flags syn,ack`"),
];
const FLAGS: [(&str, u8); 6] =
    [("fin", flags::FIN), ("syn", flags::SYN), ("rst", flags::RST), ("psh", 8), ("ack", flags::ACK), ("urg", 32)];

/// A packet that nobody has sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Packet {
    /// Transport protocol.
    pub(crate) protocol: u8,
    /// Source address.
    pub(crate) source: IpAddr,
    /// Destination address.
    pub(crate) destination: IpAddr,
    /// Source port.
    pub(crate) source_port: u16,
    /// Destination port.
    pub(crate) destination_port: u16,
    /// The interface it comes in on, by its name in the policy or its device; `None` for the one its source is
    /// routed to.
    pub(crate) interface: Option<String>,
    /// TCP flags; `None` for SYN where it begins a connection and ACK where it has one.
    pub(crate) flags: Option<u8>,
    /// ICMP type and code.
    pub(crate) icmp: (u8, u8),
    /// ICMP identifier.
    pub(crate) id: u16,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// Length of the IP packet; `None` for no payload.
    pub(crate) length: Option<u16>,
    /// It must not be fragmented.
    pub(crate) dont_fragment: bool,
    /// Its transport checksum is wrong.
    pub(crate) bad_checksum: bool,
    /// The packet that an ICMP error is about.
    pub(crate) about: Option<Box<Packet>>,
}

impl FromStr for Packet {
    type Err = Misunderstood;

    fn from_str(text: &str) -> Result<Self, Misunderstood> {
        let mut w = Words::new(text);
        let word = w.expect("the protocol", EXAMPLE)?;
        let Some(protocol) = super::protocol(word) else {
            return Err(w.wrong(format!("`{word}` is not a protocol"), EXAMPLE));
        };
        let (source, source_port) = end(&mut w, "the source")?;
        match w.expect("`>`", EXAMPLE)? {
            ">" | "->" | "to" => {}
            other => return Err(w.wrong(format!("expected `>`, found `{other}`"), EXAMPLE)),
        }
        let (destination, destination_port) = end(&mut w, "the destination")?;
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(w.wrong("source and destination are of two address families".to_owned(), ""));
        }
        let ports = protocol::has_ports(protocol);
        if ports && destination_port.is_none() {
            return Err(w.wrong("the destination port is missing".to_owned(), "write ADDRESS:PORT, or [ADDRESS]:PORT"));
        }
        if !ports && (source_port.is_some() || destination_port.is_some()) {
            return Err(w.wrong(format!("{word} has no ports"), ""));
        }
        let v6 = source.is_ipv6();
        let mut p = Packet {
            protocol,
            source,
            destination,
            source_port: source_port.unwrap_or(if ports { SOURCE_PORT } else { 0 }),
            destination_port: destination_port.unwrap_or(0),
            interface: None,
            flags: None,
            icmp: (if v6 { 128 } else { 8 }, 0),
            id: 1,
            ttl: 64,
            length: None,
            dont_fragment: false,
            bad_checksum: false,
            about: None,
        };
        let mut length_at = 0;
        while let Some(word) = w.take() {
            p.option(word, &mut w)?;
            if word == "length" {
                length_at = w.next - 1;
            }
        }
        let shortest = super::frame::shortest(&p);
        match p.length {
            Some(n) if usize::from(n) < shortest => {
                let help = format!("with its headers it has {shortest} bytes at least");
                Err(w.error(length_at, format!("{n} bytes are too few"), &help))
            }
            _ => Ok(p),
        }
    }
}

/// TCP flags as they are written here.
pub(super) fn flag_names(flags: u8) -> String {
    let names: Vec<&str> = FLAGS.iter().filter(|(_, b)| flags & b != 0).map(|(n, _)| *n).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(",") }
}

fn end(w: &mut Words<'_>, what: &str) -> Result<(IpAddr, Option<u16>), Misunderstood> {
    let word = w.expect(what, EXAMPLE)?;
    endpoint(word).ok_or_else(|| w.wrong(format!("`{word}` is not an address with or without a port"), EXAMPLE))
}

impl Packet {
    fn is_icmp(&self) -> bool {
        self.protocol == if self.source.is_ipv6() { protocol::ICMPV6 } else { protocol::ICMP }
    }

    fn option(&mut self, word: &str, w: &mut Words<'_>) -> Result<(), Misunderstood> {
        let only = |holds: bool, what: &str, w: &Words<'_>| match holds {
            true => Ok(()),
            false => Err(w.wrong(format!("`{word}` belongs to {what} packets"), "")),
        };
        match word {
            "in" => self.interface = Some(w.expect("the interface", "write `in lan`")?.to_owned()),
            "flags" => {
                only(self.protocol == protocol::TCP, "TCP", w)?;
                let mut all = 0;
                for name in w.expect("the flags", "write `flags syn,ack`, or `flags none`")?.split(',') {
                    match FLAGS.iter().find(|(n, _)| *n == name) {
                        Some((_, bit)) => all |= bit,
                        None if name == "none" => {}
                        None => {
                            let help = "flags are: fin, syn, rst, psh, ack, urg; `none` for none of them";
                            return Err(w.wrong(format!("`{name}` is not a TCP flag"), help));
                        }
                    }
                }
                self.flags = Some(all);
            }
            "type" => {
                only(self.is_icmp(), "ICMP", w)?;
                let name = w.expect("the ICMP type", "write `type echo-request`")?;
                let found = config::icmp_named(name, self.source.is_ipv6());
                let (kind, code) = found.ok_or_else(|| {
                    let help = "write a number, or a name as policies have it: echo-request, time-exceeded, \
                                destination-unreachable/port-unreachable";
                    w.wrong(format!("`{name}` is not a type of ICMP messages of this family"), help)
                })?;
                self.icmp = (kind, code.unwrap_or(0));
            }
            "code" => {
                only(self.is_icmp(), "ICMP", w)?;
                self.icmp.1 = w.number("an ICMP code")?;
            }
            "id" => {
                only(self.is_icmp(), "ICMP", w)?;
                self.id = w.number("an identifier")?;
            }
            "ttl" => self.ttl = w.number("a TTL")?,
            "length" => {
                let length: u16 = w.number("a length")?;
                if length > super::frame::LONGEST {
                    let help =
                        format!("the longest IP packet that can be asked about has {} bytes", super::frame::LONGEST);
                    return Err(w.wrong(format!("{length} bytes are too many"), &help));
                }
                self.length = Some(length);
            }
            "df" => {
                only(self.source.is_ipv4(), "IPv4", w)?;
                self.dont_fragment = true;
            }
            "bad-checksum" => self.bad_checksum = true,
            "about" => {
                only(self.is_icmp(), "ICMP", w)?;
                let start = w.next;
                let rest = w.rest();
                let about: Packet = rest.parse().map_err(|e: Misunderstood| {
                    // The place in the whole text.
                    let shift = w.text.len() - rest.len();
                    let at = e.at.start + shift..e.at.end + shift;
                    Misunderstood { text: w.text.to_owned(), at, ..e }
                })?;
                if about.source.is_ipv4() != self.source.is_ipv4() {
                    return Err(w.error(start, "the packet it is about is of another address family".to_owned(), ""));
                }
                if self.icmp == (8, 0) || self.icmp == (128, 0) {
                    // An error, and what else than that nobody listens.
                    self.icmp = if self.source.is_ipv6() { (1, 4) } else { (3, 3) };
                }
                self.about = Some(Box::new(about));
            }
            _ => {
                let help = OTHERS.iter().find(|(words, _)| words.contains(&word)).map_or(WORDS, |(_, help)| help);
                return Err(w.wrong(format!("`{word}` is not understood"), help));
            }
        }
        Ok(())
    }
}

/// The packet as it may be described.
impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, destination) = ((self.source, self.source_port), (self.destination, self.destination_port));
        f.write_str(&super::ends(self.protocol, source, destination))?;
        if let Some(flags) = self.flags {
            write!(f, " flags {}", flag_names(flags))?;
        }
        if self.is_icmp() {
            write!(f, " type {} code {}", self.icmp.0, self.icmp.1)?;
        }
        match &self.about {
            Some(p) => write!(f, " about {p}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Packet {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn packets() {
        let p = parse("tcp 10.10.0.5:4000 > 1.1.1.1:443 in lan");
        assert_eq!((p.protocol, p.source_port, p.destination_port, p.flags), (6, 4000, 443, None));
        assert_eq!((p.source, p.interface.as_deref()), ("10.10.0.5".parse().unwrap(), Some("lan")));
        let p = parse("udp [2001:db8::1]:53 -> [2001:db8::2]:5353 length 100 ttl 1");
        assert_eq!((p.source, p.source_port, p.length, p.ttl), ("2001:db8::1".parse().unwrap(), 53, Some(100), 1));
        assert_eq!(parse("tcp 10.0.0.1 to 10.0.0.2:22 flags ack,psh df").flags, Some(24));
        assert_eq!(parse("tcp 10.0.0.1 > 10.0.0.2:22 flags none").source_port, 50_000);
        assert_eq!(parse("gre 10.0.0.1 > 10.0.0.2").protocol, 47);
        assert_eq!(parse("89 10.0.0.1 > 10.0.0.2 bad-checksum").protocol, 89);
        assert_eq!(parse("icmp 10.0.0.1 > 10.0.0.2").icmp, (8, 0));
        assert_eq!(parse("icmpv6 fe80::1 > 2001:db8::1 type time-exceeded id 9").icmp, (3, 0));
        let p = parse("icmp 10.0.0.1 > 10.0.0.2 in wan about udp 10.0.0.2:1 > 10.9.9.9:53");
        assert_eq!((p.icmp, p.about.map(|a| a.destination_port)), ((3, 3), Some(53)));
        assert_eq!(parse("icmp 10.0.0.1 > 10.0.0.2 type 11 about udp 10.0.0.2:1 > 10.9.9.9:53").icmp, (11, 0));
        for text in [
            "tcp [::1]:1 > [::2]:2 flags syn,ack",
            "gre 10.0.0.1 > 10.0.0.2",
            "icmp 1.1.1.1 > 2.2.2.2 type 3 code 1 about udp 2.2.2.2:1 > 3.3.3.3:2",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_marked() {
        for (text, message, marked) in [
            ("", "the protocol is missing", 0..0),
            ("tpc 10.0.0.1:1 > 10.0.0.2:2", "`tpc` is not a protocol", 0..3),
            ("tcp 10.0.0.256:1 > 10.0.0.2:2", "`10.0.0.256:1` is not an address", 4..16),
            ("tcp 10.0.0.1:1 10.0.0.2:2", "expected `>`", 15..25),
            ("tcp 10.0.0.1:1 >", "the destination is missing", 16..16),
            ("tcp 10.0.0.1:1 > 10.0.0.2", "the destination port is missing", 17..25),
            ("gre 10.0.0.1 > 10.0.0.2:7", "gre has no ports", 15..25),
            ("tcp 10.0.0.1:1 > [::1]:2", "two address families", 17..24),
            ("tcp 10.0.0.1:1 > 10.0.0.2:2 in", "the interface is missing", 30..30),
            ("tcp 10.0.0.1:1 > 10.0.0.2:2 flags syn,fni", "`fni` is not a TCP flag", 34..41),
            ("udp 10.0.0.1:1 > 10.0.0.2:2 flags syn", "`flags` belongs to TCP", 28..33),
            ("udp 10.0.0.1:1 > 10.0.0.2:2 ttl x", "`x` is not a TTL", 32..33),
            ("udp 10.0.0.1:1 > 10.0.0.2:2 from lan", "`from` is not understood", 28..32),
            ("icmp 10.0.0.1 > 10.0.0.2 type echo", "`echo` is not a type", 30..34),
            ("icmp 10.0.0.1 > 10.0.0.2 about udp 10.0.0.2 > x", "`x` is not an address", 46..47),
            ("udp 10.0.0.1:1 > 10.0.0.2:2 length 60000", "too many", 35..40),
            ("udp 10.0.0.1:1 > 10.0.0.2:2 length 27 ttl 9", "27 bytes are too few", 35..37),
            ("icmp 1.1.1.1 > 2.2.2.2 length 55 about udp 2.2.2.2:1 > 3.3.3.3:2", "55 bytes are too few", 30..32),
        ] {
            let e = text.parse::<Packet>().expect_err(text);
            assert!(e.message.contains(message), "{text}: {e}");
            assert_eq!(e.at, marked, "{text}");
            let shown = e.to_string();
            assert!(shown.lines().count() >= 3 && shown.contains('^'), "{shown}");
        }
    }
}
