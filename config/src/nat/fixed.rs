//! `nat.static`: an address or prefix inside has a fixed one outside, in both directions.

use std::cmp::Reverse;

use dataplane::policy::{
    AddressSet, DestinationNat, DestinationTranslation, Match, SourceNat, SourceTranslation, Zones,
};
use ipnet::IpNet;

use super::prefix::{NPT, Pair, pair};
use crate::names::{Names, zones};
use crate::read::Keys;
use crate::report::Report;
use crate::rules::{Head, NAME, Placed, list};
use crate::shape::{Leaf, Shape, ZONES, key};
use crate::yaml::Node;

pub(super) const STATIC: Keys = Keys {
    known: &[
        NAME,
        key("inside", Shape::Leaf(Leaf::Net), "The addresses inside.").required(),
        key("outside", Shape::Leaf(Leaf::Net), "The addresses outside; a prefix of the same length.").required(),
        key("to", ZONES, "The zones where the outside addresses are seen.").required(),
        NPT,
    ],
    foreign: &[
        ("from", "connections may begin on either side; `to` is the zone where the outside addresses are seen"),
        ("match", CONDITIONS),
        ("protocol", CONDITIONS),
        ("port", CONDITIONS),
        ("translate", "the addresses are `inside` and `outside`"),
        ("prefix", "the prefixes are `inside` and `outside`"),
        ("internal", "did you mean `inside`?"),
        ("external", "did you mean `outside`?"),
    ],
};
/// Help for what cannot be said of a fixed translation.
const CONDITIONS: &str = "a fixed translation has no conditions: write rules of `source` and `destination` with `translate: { prefix: ... }`";

/// A fixed translation before it is made into two rules.
struct Fixed {
    head: Head,
    to: Zones,
    pair: Pair,
}

/// Reads `nat.static`. The two lists have the two directions of each translation, under one index.
pub(super) fn fixed<'t>(
    report: &mut Report<'t>,
    node: Option<&Node<'t>>,
    names: &Names,
) -> (Vec<Placed<SourceNat>>, Vec<Placed<DestinationNat>>) {
    let all = list(report, node, "nat.static", &STATIC, |report, rule, head| {
        let help = "name the zones where the outside addresses are seen";
        let to = rule.require(report, "to", "a fixed translation");
        let to = to.and_then(|n| zones(report, n, names, "to", help));
        let pair = pair(report, rule, "a fixed translation", ["inside", "outside"])?;
        Some(Fixed { head, to: to?, pair })
    });
    // Inside addresses may have another outside address in another zone; outside ones have one meaning.
    disjoint(report, &all, "inside", |f| (f.pair.a, f.to.0));
    disjoint(report, &all, "outside", |f| (f.pair.b, u64::MAX));
    all.into_iter().map(rules).unzip()
}

/// The two directions of a fixed translation.
fn rules(
    Placed { rule: Fixed { head: Head { name, place }, to, pair }, at }: Placed<Fixed>,
) -> (Placed<SourceNat>, Placed<DestinationNat>) {
    let set = |net: IpNet| Some(AddressSet::new([(net.network(), net.broadcast())]));
    let map = pair.inside_out();
    let source = SourceNat {
        name: name.clone(),
        place: place.clone(),
        matcher: Match { to: Some(to), source: set(pair.a), ..Match::default() },
        translate: SourceTranslation::Prefix(map),
    };
    let destination = DestinationNat {
        name,
        place,
        matcher: Match { destination: set(pair.b), ..Match::default() },
        translate: DestinationTranslation::Prefix(map),
        source: None,
    };
    (Placed { rule: source, at }, Placed { rule: destination, at })
}

/// Refuses two translations whose prefixes `of` overlap in a zone.
fn disjoint(report: &mut Report<'_>, all: &[Placed<Fixed>], key: &str, of: impl Fn(&Fixed) -> (IpNet, u64)) {
    let mut order: Vec<&Placed<Fixed>> = all.iter().collect();
    // A prefix comes before those that it holds.
    order.sort_by_key(|p| {
        let net = of(&p.rule).0;
        (net.network(), Reverse(net.broadcast()), p.at.start)
    });
    // Those that may hold the next one, each in the one before it.
    let mut open: Vec<&Placed<Fixed>> = Vec::new();
    for p in order {
        let (net, zones) = of(&p.rule);
        open.retain(|o| of(&o.rule).0.contains(&net));
        let Some(other) = open.iter().find(|o| of(&o.rule).1 & zones != 0) else {
            open.push(p);
            continue;
        };
        let (late, early) = if p.at.start > other.at.start { (p, other) } else { (*other, &p) };
        let line = report.line_of(early.at);
        let message =
            format!("`{key}` of `{}` overlaps that of `{}` on line {line}", late.rule.head.name, early.rule.head.name);
        let help = match key {
            "inside" => "in one zone an address has one address outside",
            _ => "an address outside stands for one inside",
        };
        report.error_help(late.at, message, help);
    }
}
