//! The addresses and ports that rules and translations name.

use std::net::IpAddr;

use dataplane::packet::Address;
use dataplane::policy::{AddressSet, PortSet};

use crate::address::AddressRange;
use crate::names::{Names, addresses_of, is_identifier};
use crate::port;
use crate::read::{looks_like_v6, scalar, some_items};
use crate::report::{Report, Span, short};
use crate::sets::{Set, Sets};
use crate::yaml::{Node, Value};

/// The addresses a rule names: literals, sets, or a list that mixes them.
pub(crate) fn addresses<'t>(report: &mut Report<'t>, node: &Node<'t>, names: &Names, key: &str) -> Option<AddressSet> {
    let sets = &names.sets;
    let help = "leave the key out to match every address";
    let list = some_items(report, node, &format!("`{key}`"), help)?;
    let mut ranges = Vec::new();
    let mut interfaces = Vec::new();
    for item in list {
        if let Value::Map(entries) = &item.value
            && !looks_like_v6(entries)
        {
            interfaces.extend(addresses_of(report, item, names));
            continue;
        }
        let Some(text) = scalar(report, item, "an address or the name of a set") else { continue };
        if !is_identifier(text) {
            ranges.extend(address(report, item.at, text));
            continue;
        }
        match sets.get(text) {
            // The one set alone is shared, not copied: many rules may use a large one.
            Some(Set::Addresses(set)) if list.len() == 1 => return Some(set.clone()),
            Some(Set::Addresses(set)) => {
                ranges.extend(ranges_of(set));
                interfaces.extend_from_slice(set.interfaces());
            }
            Some(Set::Empty | Set::Broken) => {}
            Some(Set::Ports(_)) => {
                report.error(item.at, format!("`{text}` is a set of ports: `{key}` wants addresses"));
            }
            None => report.unknown(item.at, "set", text, of_kind(sets, |s| matches!(s, Set::Addresses(_)))),
        }
    }
    Some(AddressSet::new(ranges).with_interfaces(interfaces))
}

/// The ports a rule names: literals, sets, or a list that mixes them.
pub(crate) fn ports<'t>(report: &mut Report<'t>, node: &Node<'t>, sets: &Sets, key: &str) -> Option<PortSet> {
    let help = "leave the key out to match every port";
    let list = some_items(report, node, &format!("`{key}`"), help)?;
    let mut ranges = Vec::new();
    for item in list {
        let Some(text) = scalar(report, item, "a port or the name of a set") else { continue };
        if !is_identifier(text) {
            ranges.extend(port_range(report, item.at, text));
            continue;
        }
        match sets.get(text) {
            Some(Set::Ports(set)) => ranges.extend_from_slice(set.ranges()),
            Some(Set::Empty | Set::Broken) => {}
            Some(Set::Addresses(_)) => {
                report.error(item.at, format!("`{text}` is a set of addresses: `{key}` wants ports"));
            }
            None => match port::service(text) {
                Some(n) => {
                    let help = format!("ports are numbers: write {n}");
                    report.error_help(item.at, format!("unknown set `{text}`"), help);
                }
                None => report.unknown(item.at, "set", text, of_kind(sets, |s| matches!(s, Set::Ports(_)))),
            },
        }
    }
    Some(PortSet::new(ranges))
}

fn of_kind(sets: &Sets, kind: fn(&Set) -> bool) -> Vec<&str> {
    let mut names: Vec<&str> = sets.iter().filter(|(_, s)| kind(s)).map(|(n, _)| n.as_str()).collect();
    names.sort_unstable();
    names
}

/// Addresses without names of sets, as a pool has them.
pub(crate) fn literal_addresses<'t>(report: &mut Report<'t>, list: &[Node<'t>]) -> Vec<(IpAddr, IpAddr)> {
    let mut ranges = Vec::new();
    for item in list {
        if let Some(text) = scalar(report, item, "an address") {
            ranges.extend(address(report, item.at, text));
        }
    }
    ranges
}

pub(crate) fn address(report: &mut Report<'_>, at: Span, text: &str) -> Option<(IpAddr, IpAddr)> {
    match text.parse::<AddressRange>() {
        Ok(r) => Some((r.first(), r.last())),
        Err(e) => {
            report.refuse(at, &e, e.help());
            None
        }
    }
}

/// One port or range of ports.
pub(crate) fn port_range(report: &mut Report<'_>, at: Span, text: &str) -> Option<(u16, u16)> {
    match port::parse(text) {
        Ok(r) => Some(r),
        Err(e) => {
            report.refuse(at, &e, e.help());
            None
        }
    }
}

/// One port, not 0 and not a range.
pub(crate) fn single_port<'t>(report: &mut Report<'t>, node: &Node<'t>, what: &str) -> Option<u16> {
    let text = scalar(report, node, what)?;
    match port_range(report, node.at, text)? {
        (0, _) => report.error(node.at, format!("{what} cannot be 0")),
        (first, last) if first != last => {
            report.error_help(node.at, format!("{what} must be one port"), format!("write {first}"));
        }
        (port, _) => return Some(port),
    }
    None
}

/// One address, not a prefix or range, that a packet can be sent to.
pub(crate) fn single_address<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<IpAddr> {
    let text = scalar(report, node, "an address")?;
    let parsed = text.parse::<IpAddr>();
    match parsed {
        Ok(a) if sendable(a) => return Some(a),
        Ok(a) => report.error(node.at, format!("`{a}` is not an address packets can be forwarded to")),
        Err(_) if text.parse::<AddressRange>().is_ok() => {
            report.error_help(node.at, format!("`{text}` is more than one address"), "list the addresses one by one");
        }
        Err(_) if text.parse::<std::net::SocketAddr>().is_ok() => report.error_help(
            node.at,
            format!("`{text}` is an address with a port"),
            "write the port as a key of its own, `port`",
        ),
        Err(_) => report.error_help(
            node.at,
            format!("`{}` is not an address", short(text)),
            "write an IPv4 or IPv6 address; names of hosts are not looked up",
        ),
    }
    None
}

/// Whether an address can be a destination or source of forwarded packets.
pub(crate) fn sendable(a: IpAddr) -> bool {
    let broadcast = matches!(a, IpAddr::V4(v4) if v4.is_broadcast());
    !(a.is_unspecified() || a.is_multicast() || a.is_loopback() || broadcast)
}

/// The ranges of both families.
pub(crate) fn ranges_of(set: &AddressSet) -> impl Iterator<Item = (IpAddr, IpAddr)> {
    let v4 = set.ranges_v4().iter().map(|(a, b)| (a.ip(), b.ip()));
    v4.chain(set.ranges_v6().iter().map(|(a, b)| (a.ip(), b.ip())))
}
