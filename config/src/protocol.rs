//! Transport protocols by name (IANA) or number.

use dataplane::packet::protocol;

use crate::read::scalar;
use crate::report::Report;
use crate::yaml::Node;

/// Names a policy may use.
pub(crate) const NAMES: [(&str, u8); 19] = [
    ("icmp", protocol::ICMP),
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", protocol::TCP),
    ("udp", protocol::UDP),
    ("dccp", 33),
    ("ipv6", 41),
    ("rsvp", 46),
    ("gre", protocol::GRE),
    ("esp", protocol::ESP),
    ("ah", protocol::AH),
    ("icmpv6", protocol::ICMPV6),
    ("eigrp", 88),
    ("ospf", 89),
    ("pim", 103),
    ("vrrp", 112),
    ("l2tp", 115),
    ("sctp", protocol::SCTP),
    ("udplite", protocol::UDPLITE),
];

/// The protocol with a name a policy may use, or a number.
pub fn named(word: &str) -> Option<u8> {
    match NAMES.iter().find(|(name, _)| *name == word) {
        Some((_, n)) => Some(*n),
        None => word.parse().ok().filter(|_| word.bytes().all(|b| b.is_ascii_digit())),
    }
}

/// The protocol at `node`.
pub(crate) fn read<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<u8> {
    let word = scalar(report, node, "a protocol")?;
    if let Some((_, n)) = NAMES.iter().find(|(name, _)| *name == word) {
        return Some(*n);
    }
    if !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit()) {
        let n = word.parse().ok();
        if n.is_none() {
            report.error(node.at, "a protocol number must be between 0 and 255");
        }
        return n;
    }
    report.unknown(node.at, "protocol", word, NAMES.iter().map(|(n, _)| *n));
    None
}

/// The name of a protocol in messages, or its number.
pub fn name(number: u8) -> String {
    NAMES.iter().find(|(_, n)| *n == number).map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}
