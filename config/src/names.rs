//! Interfaces and their zones, and everything else that rules refer to by name.

use std::collections::HashMap;

use dataplane::policy::{InterfaceId, InterfacePolicy, ZoneId, Zones};

use crate::read::{Fields, Keys, scalar, some_items};
use crate::report::{Report, Span, short};
use crate::sets::Sets;
use crate::shape::{Leaf, Shape, key};
use crate::yaml::{Node, Value};

/// The most zones: one bit each in a rule's zone set.
const MAX_ZONES: usize = 64;
/// The longest device name the kernel takes (IFNAMSIZ less the terminator).
const MAX_DEVICE: usize = 15;
/// The highest VLAN id; 4095 is reserved.
const MAX_VLAN: u64 = 4094;

pub(crate) const INTERFACE: Keys = Keys {
    known: &[
        key("device", Shape::Leaf(Leaf::Device), "The kernel's name, as `ip link` shows it.").required(),
        key(
            "vlan",
            Shape::Number(1, MAX_VLAN),
            "The interface is this VLAN of the device, and not its untagged frames.",
        ),
        key("zone", Shape::Leaf(Leaf::Name), "The zone; interfaces with the same zone are alike to rules.").required(),
    ],
    foreign: &[
        ("name", "the interface's name is the key above"),
        ("zones", "an interface has one `zone`"),
        ("vlans", "an interface has one `vlan`: write one interface for each"),
    ],
};

pub(crate) const BY_INTERFACE: Keys = Keys {
    known: &[key(
        "address",
        Shape::Some(&Shape::Leaf(Leaf::Name)),
        "The interfaces whose addresses are meant, as they are at the moment.",
    )
    .required()],
    foreign: &[("interface", "write `{ address: wan }`"), ("file", "files stand in `sets`")],
};

/// What rules may refer to.
#[derive(Default)]
pub(crate) struct Names {
    /// Zones in the order of their first interface.
    pub(crate) zones: Vec<String>,
    /// Interfaces in the order of the policy.
    pub(crate) interfaces: Vec<String>,
    /// False when an interface could not be read, so that a zone may be missing through no fault of its user.
    pub(crate) zones_complete: bool,
    /// Named sets.
    pub(crate) sets: Sets,
}

/// Reads `interfaces`; fills in the zones they form.
pub(crate) fn interfaces<'t>(
    report: &mut Report<'t>,
    node: Option<&Node<'t>>,
    names: &mut Names,
) -> Vec<InterfacePolicy> {
    let mut out = Vec::new();
    let Some(node) = node else { return out };
    let Value::Map(entries) = &node.value else {
        let help = "write `interfaces: { lan: { device: eth1, zone: inside } }`";
        report.error_help(node.at, format!("`interfaces` must be a map, not {}", crate::read::kind(node)), help);
        return out;
    };
    if entries.is_empty() {
        report.error(node.at, "`interfaces` is empty: there is nothing to forward between");
    }
    names.zones_complete = !entries.is_empty();
    let mut seen: HashMap<(&str, u16), Span> = HashMap::new();
    for (key, value) in entries {
        let name = identifier(report, key, "an interface name");
        let Some(fields) = Fields::of(report, value, "an interface", &INTERFACE) else {
            names.zones_complete = false;
            continue;
        };
        let link = link(report, &fields, &mut seen);
        let zone = fields.require(report, "zone", "an interface").and_then(|n| zone(report, n, names));
        names.zones_complete &= zone.is_some();
        if let (Some(name), Some((device, vlan)), Some(zone)) = (name, link, zone) {
            names.interfaces.push(name.to_owned());
            out.push(InterfacePolicy { name: name.to_owned(), device: device.to_owned(), vlan, zone });
        }
    }
    out
}

/// The device and the VLAN of an interface, which no other may have; 0 for no VLAN.
fn link<'n, 't>(
    report: &mut Report<'t>,
    fields: &Fields<'n, 't>,
    seen: &mut HashMap<(&'n str, u16), Span>,
) -> Option<(&'n str, u16)> {
    let node = fields.require(report, "device", "an interface");
    let device = node.and_then(|n| device(report, n));
    let vlan = match fields.get("vlan") {
        Some(_) => fields.number(report, "vlan")? as u16,
        None => 0,
    };
    let (device, node) = (device?, node?);
    let Some(first) = seen.insert((device, vlan), node.at) else { return Some((device, vlan)) };
    let line = report.line_of(first);
    if vlan == 0 {
        let message = format!("the device `{device}` is already used by the interface on line {line}");
        report.error_help(node.at, message, "interfaces share a device when they have a `vlan` each, but for one");
    } else {
        report.error(node.at, format!("VLAN {vlan} of `{device}` is already used by the interface on line {line}"));
    }
    None
}

fn device<'n, 't>(report: &mut Report<'t>, node: &'n Node<'t>) -> Option<&'n str> {
    let name = scalar(report, node, "a device name")?;
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > MAX_DEVICE || name.contains(bad) || name == "." || name == ".." {
        let help = format!("a name as `ip link` shows it, at most {MAX_DEVICE} characters");
        report.error_help(node.at, format!("`{}` cannot be the name of a device", short(name)), help);
        return None;
    }
    Some(name)
}

/// The zone of an interface, made when it is the first in it.
fn zone<'t>(report: &mut Report<'t>, node: &Node<'t>, names: &mut Names) -> Option<ZoneId> {
    let name = identifier(report, node, "a zone name")?;
    if let Some(i) = names.zones.iter().position(|z| z == name) {
        return Some(i as ZoneId);
    }
    if names.zones.len() == MAX_ZONES {
        report.error(node.at, format!("`{name}` would be zone {}: there can be at most {MAX_ZONES}", MAX_ZONES + 1));
        return None;
    }
    names.zones.push(name.to_owned());
    Some((names.zones.len() - 1) as ZoneId)
}

/// The zones a rule names; `help` says what to do instead of naming none or all.
pub(crate) fn zones<'t>(
    report: &mut Report<'t>,
    node: &Node<'t>,
    names: &Names,
    key: &str,
    help: &str,
) -> Option<Zones> {
    let mut set = Zones(0);
    for item in some_items(report, node, &format!("`{key}`"), help)? {
        let Some(name) = scalar(report, item, "a zone") else { continue };
        match names.zones.iter().position(|z| z == name) {
            Some(i) => set.0 |= 1 << i,
            None if !names.zones_complete => {}
            None if name == "any" || name == "all" => {
                report.error_help(item.at, format!("unknown zone `{name}`"), help);
            }
            None => report.unknown(item.at, "zone", name, names.zones.iter().map(String::as_str)),
        }
    }
    Some(set)
}

/// The interfaces whose addresses are meant, in `{ address: NAME }`.
pub(crate) fn addresses_of<'t>(report: &mut Report<'t>, node: &Node<'t>, names: &Names) -> Vec<InterfaceId> {
    let Some(fields) = Fields::of(report, node, "an address by interface", &BY_INTERFACE) else { return Vec::new() };
    let Some(node) = fields.require(report, "address", "an address by interface") else { return Vec::new() };
    let help = "name the interface, as in `{ address: wan }`";
    let mut out = Vec::new();
    for item in some_items(report, node, "`address`", help).unwrap_or_default() {
        let Some(name) = scalar(report, item, "the name of an interface") else { continue };
        match names.interfaces.iter().position(|i| i == name) {
            Some(i) => out.push(i as InterfaceId),
            None if !names.zones_complete => {}
            None => report.unknown(item.at, "interface", name, names.interfaces.iter().map(String::as_str)),
        }
    }
    out
}

/// A name that other parts of the policy refer to: a letter or `_`, then letters, digits, `_` and `-`.
pub(crate) fn identifier<'n, 't>(report: &mut Report<'t>, node: &'n Node<'t>, what: &str) -> Option<&'n str> {
    let name = scalar(report, node, what)?;
    if is_identifier(name) {
        return Some(name);
    }
    let help = "begin with a letter, go on with letters, digits, `_` or `-`, at most 63 in all";
    report.error_help(node.at, format!("`{}` cannot be {what}", short(name)), help);
    None
}

/// Whether `name` is formed like a name, and so cannot be an address or a number.
pub(crate) fn is_identifier(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}
