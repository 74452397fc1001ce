//! Pairs of prefixes that translate to each other.

use std::net::IpAddr;

use dataplane::policy::{AddressSet, Family, Match, PrefixMap};
use ipnet::IpNet;

use crate::address::AddressRange;
use crate::lists::{ranges_of, sendable};
use crate::matching::confine;
use crate::read::{Fields, Keys, boolean, scalar};
use crate::report::{Report, Span, short};
use crate::shape::{Key, Leaf, Shape, key};
use crate::yaml::Node;

/// The longest prefix behind which there is a 16-bit word to keep the checksum with (RFC 6296 section 3.5).
const MAX_NEUTRAL: u8 = 112;

/// The key that fixed translations and prefixes share.
pub(super) const NPT: Key =
    key("npt", Shape::Switch, "Whether the translation of IPv6 prefixes keeps checksums (RFC 6296).");

/// The value of `prefix`.
pub(super) const PREFIX: Keys = Keys {
    known: &[
        key("from", Shape::Leaf(Leaf::Net), "The prefix that packets have.").required(),
        key("to", Shape::Leaf(Leaf::Net), "The prefix that they get; of the same length.").required(),
        NPT,
    ],
    foreign: &[
        ("inside", "here the prefixes are `from` and `to`; `inside` and `outside` are keys of `nat.static`"),
        ("outside", "here the prefixes are `from` and `to`; `inside` and `outside` are keys of `nat.static`"),
    ],
};

/// Two different prefixes of one family and length, and how their addresses correspond.
pub(super) struct Pair {
    pub(super) a: IpNet,
    pub(super) b: IpNet,
    /// Where `b` is written.
    pub(super) at: Span,
    neutral: bool,
}

impl Pair {
    /// The translation with `a` inside and `b` outside.
    pub(super) fn inside_out(&self) -> PrefixMap {
        let (inside, outside) = (self.a.network(), self.b.network());
        PrefixMap { inside, outside, length: self.a.prefix_len(), neutral: self.neutral }
    }

    /// The translation with `a` outside and `b` inside.
    pub(super) fn outside_in(&self) -> PrefixMap {
        let (inside, outside) = (self.b.network(), self.a.network());
        PrefixMap { inside, outside, length: self.a.prefix_len(), neutral: self.neutral }
    }
}

/// The address whose match a translation is confined to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Destination,
}

/// Reads the value of a `prefix`, and confines the match to the addresses that it translates.
pub(super) fn prefix<'t>(report: &mut Report<'t>, node: &Node<'t>, m: &mut Match, side: Side) -> Option<Pair> {
    let fields = Fields::of(report, node, "`prefix`", &PREFIX)?;
    let pair = pair(report, &fields, "`prefix`", ["from", "to"])?;
    let (key, slot) = match side {
        Side::Source => ("source", &mut m.source),
        Side::Destination => ("destination", &mut m.destination),
    };
    if slot.as_ref().is_some_and(|set| !set.interfaces().is_empty()) {
        let message = format!("`{key}` names an interface's address, which is not known beforehand");
        report.error_help(pair.at, message, "a prefix translates fixed addresses: name them, or leave the key out");
        return None;
    }
    let translated = (pair.a.network(), pair.a.broadcast());
    let both = slot.as_ref().map_or_else(|| AddressSet::new([translated]), |set| clip(set, translated));
    if ranges_of(&both).next().is_none() {
        let message = format!("`{key}` matches no address in {}", pair.a);
        report.error_help(pair.at, message, format!("`from` must hold the addresses that `{key}` names"));
        return None;
    }
    *slot = Some(both);
    confine(report, m, Family::of(pair.a.network()), pair.at, "the prefix");
    Some(pair)
}

/// Reads two prefixes, under the keys `names`, and `npt`.
pub(super) fn pair<'t>(report: &mut Report<'t>, fields: &Fields<'_, 't>, what: &str, names: [&str; 2]) -> Option<Pair> {
    let [a_node, b_node] = names.map(|key| fields.require(report, key, what));
    let npt = fields.get("npt").map(|n| (n, boolean(report, n, "`npt`")));
    let [a, b] = [a_node, b_node].map(|n| n.and_then(|n| one(report, n)));
    let (a, b, at) = (a?, b?, b_node?.at);
    let [a_name, b_name] = names;
    let (a_family, b_family) = (Family::of(a.network()), Family::of(b.network()));
    if a_family != b_family {
        let help = "a translation stays within one family: write a rule for each";
        report.error_help(at, format!("`{a_name}` is {a_family} and `{b_name}` is {b_family}"), help);
        return None;
    }
    if a.prefix_len() != b.prefix_len() {
        let message = format!("`{a_name}` has the length /{} and `{b_name}` /{}", a.prefix_len(), b.prefix_len());
        report.error_help(at, message, "addresses correspond one to one: both must have the same length");
        return None;
    }
    if a == b {
        report.error(at, format!("`{a_name}` and `{b_name}` are the same"));
        return None;
    }
    let neutral = match npt {
        Some((n, Some(_))) if a_family == Family::V4 => {
            report.error_help(n.at, "`npt` with IPv4 prefixes", "it is IPv6's (RFC 6296): leave the key out");
            return None;
        }
        Some((n, Some(true))) if a.prefix_len() > MAX_NEUTRAL => {
            too_long(report, n.at, a);
            return None;
        }
        // One address has no bits behind it that could be changed, so nobody can expect it.
        None if a_family == Family::V6 && (MAX_NEUTRAL + 1..128).contains(&a.prefix_len()) => {
            too_long(report, at, a);
            return None;
        }
        Some((_, choice)) => choice?,
        None => a_family == Family::V6 && a.prefix_len() < 128,
    };
    Some(Pair { a, b, at, neutral })
}

fn too_long(report: &mut Report<'_>, at: Span, prefix: IpNet) {
    report.error_help(
        at,
        format!("a /{} is too long to keep checksums: `npt` needs /{MAX_NEUTRAL} or shorter", prefix.prefix_len()),
        "write `npt: false` to replace the prefix and nothing else",
    );
}

/// One prefix, or an address for the prefix that holds it alone.
fn one<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<IpNet> {
    let text = scalar(report, node, "a prefix")?;
    let range = match text.parse::<AddressRange>() {
        Ok(r) => r,
        Err(e) => {
            report.refuse(node.at, &e, e.help());
            return None;
        }
    };
    let Some(net) = range.prefix() else {
        let help = "write 192.0.2.0/24, or 192.0.2.1 for one address; IPv6 the same way";
        report.error_help(node.at, format!("`{}` is not a prefix", short(text)), help);
        return None;
    };
    if !sendable(range.first()) || !sendable(range.last()) {
        report.error(node.at, format!("`{net}` holds addresses that packets cannot be forwarded to"));
        return None;
    }
    Some(net)
}

/// What `set` and a range of one family have in common.
fn clip(set: &AddressSet, (first, last): (IpAddr, IpAddr)) -> AddressSet {
    let family = |a: IpAddr| a.is_ipv4() == first.is_ipv4();
    AddressSet::new(ranges_of(set).filter(|(a, _)| family(*a)).map(|(a, b)| (a.max(first), b.min(last))))
}
