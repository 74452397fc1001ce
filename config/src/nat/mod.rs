//! `nat`: translations of sources, of destinations, and fixed ones of both.

mod destination;
mod fixed;
mod prefix;
mod source;

use std::collections::HashMap;

use dataplane::policy::{DestinationNat, SourceNat};

use crate::names::Names;
use crate::read::{Fields, Keys};
use crate::report::{Report, Span};
use crate::rules::{MAX_RULES, Named, Placed};
use crate::shape::{Shape, key};
use crate::yaml::Node;

pub(crate) const NAT: Keys = Keys {
    known: &[
        key(
            "static",
            Shape::Rules(&fixed::STATIC),
            "Addresses or prefixes inside that have a fixed one outside, in both directions.",
        ),
        key("source", Shape::Rules(&source::SOURCE), "Source translations; the first that matches applies."),
        key(
            "destination",
            Shape::Rules(&destination::DESTINATION),
            "Destination translations; the first that matches applies.",
        ),
    ],
    foreign: &[
        ("snat", "source translations stand in `source`"),
        ("dnat", "destination translations stand in `destination`"),
        ("one_to_one", "fixed translations in both directions stand in `static`"),
        ("netmap", "write `translate: { prefix: { from: ..., to: ... } }`, or `static` for both directions"),
        ("npt", "write `static: [{ name: ..., inside: PREFIX, outside: PREFIX, to: ZONE }]`"),
    ],
};

/// What `nat` says.
#[derive(Default)]
pub(crate) struct Nat {
    /// Source translations, the fixed ones first.
    pub(crate) source: Vec<Placed<SourceNat>>,
    /// Destination translations, the fixed ones first.
    pub(crate) destination: Vec<Placed<DestinationNat>>,
    /// How many of each are fixed; the two with the same index are the two directions of one.
    pub(crate) fixed: usize,
}

/// Reads `nat`.
pub(crate) fn nat<'t>(report: &mut Report<'t>, node: Option<&Node<'t>>, names: &Names) -> Nat {
    let Some(fields) = node.and_then(|n| Fields::of(report, n, "`nat`", &NAT)) else { return Nat::default() };
    let (mut source, mut destination) = fixed::fixed(report, fields.get("static"), names);
    let fixed = source.len();
    source.extend(source::source(report, fields.get("source"), names));
    destination.extend(destination::destination(report, fields.get("destination"), names));
    names_differ(report, &source, fixed);
    names_differ(report, &destination, fixed);
    for (key, count) in [("source", source.len()), ("destination", destination.len())] {
        if count > MAX_RULES && fixed > 0 {
            let message = format!("`nat.static` and `nat.{key}` have {count} rules: there can be at most {MAX_RULES}");
            report.error(fields.key_at(key).unwrap_or(fields.at), message);
        }
    }
    Nat { source, destination, fixed }
}

/// Refuses names that the first `fixed` rules share with later ones; within a list they have been compared.
fn names_differ<R: Named>(report: &mut Report<'_>, rules: &[Placed<R>], fixed: usize) {
    let (fixed, others) = rules.split_at(fixed);
    let taken: HashMap<&str, Span> = fixed.iter().map(|r| (r.rule.name(), r.at)).collect();
    for r in others {
        if let Some(first) = taken.get(r.rule.name()).filter(|_| !r.rule.name().is_empty()) {
            let line = report.line_of(*first);
            let message = format!("`{}` is already the name of the fixed translation on line {line}", r.rule.name());
            report.error_help(r.at, message, "names tell rules apart in counters and listings: give each its own");
        }
    }
}
