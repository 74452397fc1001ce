//! ICMP messages as a policy writes them: `echo-request`, `destination-unreachable/port-unreachable`, `3/4`.

use dataplane::policy::{Family, IcmpTypes, Match, PortSet};

use crate::read::{scalar, some_items};
use crate::report::{Report, short};
use crate::yaml::Node;

/// Names of types, as nft has them, with their numbers in ICMP and in ICMPv6.
pub(crate) const TYPES: [(&str, Option<u8>, Option<u8>); 28] = [
    ("echo-reply", Some(0), Some(129)),
    ("destination-unreachable", Some(3), Some(1)),
    ("source-quench", Some(4), None),
    ("redirect", Some(5), None),
    ("echo-request", Some(8), Some(128)),
    ("router-advertisement", Some(9), None),
    ("router-solicitation", Some(10), None),
    ("time-exceeded", Some(11), Some(3)),
    ("parameter-problem", Some(12), Some(4)),
    ("timestamp-request", Some(13), None),
    ("timestamp-reply", Some(14), None),
    ("info-request", Some(15), None),
    ("info-reply", Some(16), None),
    ("address-mask-request", Some(17), None),
    ("address-mask-reply", Some(18), None),
    ("packet-too-big", None, Some(2)),
    ("mld-listener-query", None, Some(130)),
    ("mld-listener-report", None, Some(131)),
    ("mld-listener-done", None, Some(132)),
    ("nd-router-solicit", None, Some(133)),
    ("nd-router-advert", None, Some(134)),
    ("nd-neighbor-solicit", None, Some(135)),
    ("nd-neighbor-advert", None, Some(136)),
    ("nd-redirect", None, Some(137)),
    ("router-renumbering", None, Some(138)),
    ("ind-neighbor-solicit", None, Some(141)),
    ("ind-neighbor-advert", None, Some(142)),
    ("mld2-listener-report", None, Some(143)),
];

/// Names of the codes of `destination-unreachable`, as nft has them, in ICMP and in ICMPv6.
pub(crate) const CODES: [(&str, Option<u8>, Option<u8>); 12] = [
    ("net-unreachable", Some(0), None),
    ("host-unreachable", Some(1), None),
    ("prot-unreachable", Some(2), None),
    ("port-unreachable", Some(3), Some(4)),
    ("frag-needed", Some(4), None),
    ("net-prohibited", Some(9), None),
    ("host-prohibited", Some(10), None),
    ("admin-prohibited", Some(13), Some(1)),
    ("no-route", None, Some(0)),
    ("addr-unreachable", None, Some(3)),
    ("policy-fail", None, Some(5)),
    ("reject-route", None, Some(6)),
];

/// Type and code of a message as a policy names it: a type's name or number, behind a `/` a code's.
pub fn message(text: &str, v6: bool) -> Option<(u8, Option<u8>)> {
    let find = |all: &[(&str, Option<u8>, Option<u8>)], word: &str| match all.iter().find(|(n, ..)| *n == word) {
        Some((_, four, six)) => {
            if v6 {
                *six
            } else {
                *four
            }
        }
        None => word.parse().ok(),
    };
    let (kind, code) = text.split_once('/').map_or((text, None), |(k, c)| (k, Some(c)));
    let code = match code {
        Some(c) => Some(find(&CODES, c)?),
        None => None,
    };
    Some((find(&TYPES, kind)?, code))
}

/// Reads `icmp_type`; `m` has the conditions that say which of the two protocols is meant.
pub(crate) fn types<'t>(report: &mut Report<'t>, node: &Node<'t>, m: &Match) -> Option<IcmpTypes> {
    let may_be =
        |f: Family| m.family.is_none_or(|x| x == f) && m.protocols.as_ref().is_none_or(|all| all.contains(&f.icmp()));
    let meant = match (may_be(Family::V4), may_be(Family::V6)) {
        (true, false) => Some(Family::V4),
        (false, true) => Some(Family::V6),
        _ => None,
    };
    let mut ranges = [Vec::new(), Vec::new()];
    for item in some_items(report, node, "`icmp_type`", "leave the key out to match every type")? {
        let Some(text) = scalar(report, item, "a type of ICMP messages") else { continue };
        let (kind, code) = match text.split_once('/') {
            Some((kind, code)) => (kind, Some(code)),
            None => (text, None),
        };
        let Some(kinds) = type_numbers(report, item, kind, meant) else { continue };
        let codes = match code {
            None => Some([Some((0, 255)); 2]),
            Some(text) => code_numbers(report, item, text, kinds).map(|both| both.map(|c| c.map(|c| (c, c)))),
        };
        let Some(codes) = codes else { continue };
        for i in 0..2 {
            if let (Some(kind), Some((first, last))) = (kinds[i], codes[i]) {
                let of = |code: u8| u16::from(kind) << 8 | u16::from(code);
                ranges[i].push((of(first), of(last)));
            }
        }
    }
    let [v4, v6] = ranges.map(PortSet::new);
    // Empty only when every entry was refused.
    (!v4.ranges().is_empty() || !v6.ranges().is_empty()).then_some(IcmpTypes { v4, v6 })
}

/// A number in ICMP and one in ICMPv6, where it exists.
type Both = [Option<u8>; 2];

fn type_numbers<'t>(report: &mut Report<'t>, node: &Node<'t>, text: &str, meant: Option<Family>) -> Option<Both> {
    if !is_number(text) {
        return named(report, node, "ICMP type", text, meant, &TYPES);
    }
    let n = byte(report, node, "ICMP type", text)?;
    match meant {
        Some(Family::V4) => Some([Some(n), None]),
        Some(Family::V6) => Some([None, Some(n)]),
        None => {
            let help = "add `protocol: icmp` or `protocol: icmpv6`, or write the name";
            report.error_help(node.at, format!("the number {n} is one type in ICMP and another in ICMPv6"), help);
            None
        }
    }
}

/// The code behind the types `kinds`.
fn code_numbers<'t>(report: &mut Report<'t>, node: &Node<'t>, text: &str, kinds: Both) -> Option<Both> {
    if is_number(text) {
        let n = byte(report, node, "ICMP code", text)?;
        return Some([Some(n); 2]);
    }
    if !matches!(kinds, [None | Some(3), None | Some(1)]) {
        let help = "write its number; only the codes of destination-unreachable have names";
        report.error_help(node.at, format!("unknown ICMP code `{}`", short(text)), help);
        return None;
    }
    let meant = match kinds {
        [Some(_), None] => Some(Family::V4),
        [None, Some(_)] => Some(Family::V6),
        _ => None,
    };
    named(report, node, "ICMP code", text, meant, &CODES)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn byte<'t>(report: &mut Report<'t>, node: &Node<'t>, what: &str, text: &str) -> Option<u8> {
    let n = text.parse().ok();
    if n.is_none() {
        report.error(node.at, format!("an {what} must be between 0 and 255"));
    }
    n
}

/// What a name stands for; `meant` is the protocol that the rule is about, if it is about one.
fn named<'t>(
    report: &mut Report<'t>,
    node: &Node<'t>,
    what: &str,
    text: &str,
    meant: Option<Family>,
    names: &[(&'static str, Option<u8>, Option<u8>)],
) -> Option<Both> {
    let Some((name, v4, v6)) = names.iter().find(|(name, ..)| *name == text) else {
        report.unknown(node.at, what, text, names.iter().map(|(name, ..)| *name));
        return None;
    };
    let of = |f: Family, n: Option<u8>| n.filter(|_| meant.is_none_or(|m| m == f));
    let found = [of(Family::V4, *v4), of(Family::V6, *v6)];
    if found == [None, None] {
        let (is, not) = if v4.is_some() { (Family::V4, Family::V6) } else { (Family::V6, Family::V4) };
        let [is, not] = [is, not].map(|f| crate::protocol::name(f.icmp()));
        report.error(node.at, format!("`{name}` is an {what} of {is}, and the rule is about {not}"));
        return None;
    }
    Some(found)
}
