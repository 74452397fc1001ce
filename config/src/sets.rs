//! `sets`: named lists of addresses or of ports, in the policy and in files.

use std::collections::HashMap;
use std::net::IpAddr;

use dataplane::policy::{AddressSet, InterfaceId, Members, NamedSet, PortSet};

use crate::files;
use crate::lists::{address, port_range};
use crate::names::{BY_INTERFACE, Names, addresses_of, identifier};
use crate::read::{Fields, Keys, items, looks_like_v6, scalar};
use crate::report::{Report, Span};
use crate::shape::{Leaf, Shape, key};
use crate::yaml::{Node, Value};

/// A named set.
pub(crate) enum Set {
    Addresses(AddressSet),
    Ports(PortSet),
    /// No entries: fits wherever a set fits and matches nothing.
    Empty,
    /// Could not be read; using it is no fault of its user.
    Broken,
}

/// Named sets by name.
pub(crate) type Sets = HashMap<String, Set>;

/// Reads `sets`.
pub(crate) fn sets<'t>(report: &mut Report<'t>, node: Option<&Node<'t>>, names: &Names) -> (Sets, Vec<NamedSet>) {
    let (mut out, mut named) = (Sets::new(), Vec::new());
    let Some(node) = node else { return (out, named) };
    let Value::Map(entries) = &node.value else {
        report.error_help(
            node.at,
            format!("`sets` must be a map, not {}", crate::read::kind(node)),
            "write `sets: { offices: [10.10.0.0/24] }`",
        );
        return (out, named);
    };
    for (key, value) in entries {
        if let Some(name) = identifier(report, key, "the name of a set") {
            let set = one(report, name, value, names);
            if matches!(set, Set::Empty) {
                let help = "rules that use it alone match nothing until it has entries";
                report.warning(key.at, format!("the set `{name}` is empty"), help);
            }
            let members = match &set {
                Set::Addresses(a) => Some(Members::Addresses(a.clone())),
                Set::Ports(p) => Some(Members::Ports(p.clone())),
                Set::Empty | Set::Broken => None,
            };
            let place = report.place_of(key.at);
            named.extend(members.map(|members| NamedSet { name: name.to_owned(), place, members }));
            out.insert(name.to_owned(), set);
        }
    }
    (out, named)
}

const ENTRIES: Shape =
    Shape::List(&Shape::Either(&[Shape::Leaf(Leaf::Addresses), Shape::Leaf(Leaf::Ports), Shape::Map(&BY_INTERFACE)]));
/// A set: its entries, or where they are.
pub(crate) const SETS: Shape = Shape::Either(&[ENTRIES, Shape::Map(&SET), Shape::Empty]);
const SET: Keys = Keys {
    known: &[
        key(
            "file",
            Shape::List(&Shape::Leaf(Leaf::File)),
            "Files with an entry a line. What follows `#` or `;` is a comment.",
        ),
        key("entries", ENTRIES, "Entries beside those of the files."),
    ],
    foreign: &[
        ("files", "did you mean `file`? It may be a list"),
        ("path", "did you mean `file`?"),
        ("elements", "did you mean `entries`?"),
        ("interface", "write `[{ address: wan }]`"),
    ],
};

/// What a set has so far.
#[derive(Default)]
struct Entries {
    addresses: Vec<(IpAddr, IpAddr)>,
    interfaces: Vec<InterfaceId>,
    ports: Vec<(u16, u16)>,
    /// That it has both has been said.
    mixed: bool,
}

impl Entries {
    /// Takes a list, or a map with a file and a list.
    fn read<'t>(&mut self, report: &mut Report<'t>, name: &str, node: &Node<'t>, names: &Names) {
        match &node.value {
            Value::Null => {}
            Value::Map(entries) if !looks_like_v6(entries) && !is_address(entries) => {
                let Some(fields) = Fields::of(report, node, "a set", &SET) else { return };
                if fields.get("file").is_none() && fields.get("entries").is_none() {
                    report.error(fields.at, "a set of a map needs `file` or `entries`");
                }
                for file in fields.get("file").map_or(&[][..], items) {
                    self.file(report, name, file);
                }
                for item in fields.get("entries").map_or(&[][..], items) {
                    self.item(report, name, item, names);
                }
            }
            _ => items(node).iter().for_each(|item| self.item(report, name, item, names)),
        }
    }

    fn item<'t>(&mut self, report: &mut Report<'t>, name: &str, item: &Node<'t>, names: &Names) {
        match &item.value {
            Value::Map(entries) if !looks_like_v6(entries) => {
                self.interfaces.extend(addresses_of(report, item, names));
                self.unmixed(report, name, item.at);
            }
            _ => {
                let Some(text) = scalar(report, item, "an address or a port") else { return };
                self.entry(report, name, item.at, text);
            }
        }
    }

    /// A file with an entry a line.
    fn file<'t>(&mut self, report: &mut Report<'t>, name: &str, node: &Node<'t>) {
        let Some(path) = scalar(report, node, "the name of a file") else { return };
        let Some((source, text)) = report.open(node.at, path) else { return };
        for (start, entry) in files::entries(&text) {
            let at = Span { start: start as u32, len: entry.len() as u32, source };
            self.entry(report, name, at, entry);
        }
    }

    fn entry(&mut self, report: &mut Report<'_>, name: &str, at: Span, text: &str) {
        // An address has a dot or a colon, a port has neither.
        if text.contains(['.', ':']) || !text.starts_with(|c: char| c.is_ascii_digit()) {
            self.addresses.extend(address(report, at, text));
        } else {
            self.ports.extend(port_range(report, at, text));
        }
        self.unmixed(report, name, at);
    }

    /// Refuses a set that has addresses and ports.
    fn unmixed(&mut self, report: &mut Report<'_>, name: &str, at: Span) {
        let has_addresses = !self.addresses.is_empty() || !self.interfaces.is_empty();
        if has_addresses && !self.ports.is_empty() && !self.mixed {
            report.error_help(at, format!("the set `{name}` mixes addresses and ports"), "make two sets of it");
            self.mixed = true;
        }
    }
}

/// Whether a map stands for an interface's addresses.
fn is_address(entries: &[(Node<'_>, Node<'_>)]) -> bool {
    entries.iter().any(|(key, _)| matches!(&key.value, Value::Text(t) if t == "address"))
}

fn one<'t>(report: &mut Report<'t>, name: &str, node: &Node<'t>, names: &Names) -> Set {
    let before = report.errors();
    let mut entries = Entries::default();
    entries.read(report, name, node, names);
    let Entries { addresses, interfaces, ports, .. } = entries;
    if report.errors() > before {
        Set::Broken
    } else if !ports.is_empty() {
        Set::Ports(PortSet::new(ports))
    } else if addresses.is_empty() && interfaces.is_empty() {
        Set::Empty
    } else {
        Set::Addresses(AddressSet::new(addresses).with_interfaces(interfaces))
    }
}
