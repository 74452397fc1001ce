//! Warnings about policies that are valid and yet hardly what was meant.

use std::collections::HashMap;

use dataplane::conntrack::{CtState, Status};
use dataplane::packet::Address;
use dataplane::policy::{Action, AddressSet, DestinationNat, Match, PortSet, Rule};

use crate::report::{Report, Span};
use crate::rules::{Named, Placed};

/// Warns of rules that an earlier rule of the list covers. Rules that only several earlier ones together
/// cover are not found.
pub(crate) fn never_matched<R: Named>(report: &mut Report<'_>, rules: &[Placed<R>]) {
    let outlines: Vec<Outline> = rules.iter().map(|r| Outline::of(r.rule.matcher())).collect();
    let mut sets = Subsets::default();
    for (i, late) in rules.iter().enumerate() {
        let covering = (0..i).find(|j| {
            outlines[*j].may_cover(&outlines[i]) && covers(rules[*j].rule.matcher(), late.rule.matcher(), &mut sets)
        });
        if let Some(j) = covering {
            let early = &rules[j];
            let message = format!("`{}` never matches", late.rule.name());
            let help = format!(
                "`{}` on line {} matches all of its packets first: move or remove one of them",
                early.rule.name(),
                report.line_of(early.at)
            );
            report.warning(late.at, message, help);
        }
    }
}

/// What decides most comparisons of two matches, in one cache line: ten thousand rules are fifty million pairs.
struct Outline {
    from: u64,
    to: u64,
    /// Lowest and highest IPv4 address; (1, 0) for none.
    source: (u32, u32),
    destination: (u32, u32),
    port: (u16, u16),
    states: u8,
}

impl Outline {
    fn of(m: &Match) -> Self {
        let hull = |set: &Option<AddressSet>| match set {
            None => (0, u32::MAX),
            Some(s) => match (s.ranges_v4().first(), s.ranges_v4().last()) {
                (Some(a), Some(b)) => (a.0.0, b.1.0),
                _ => (1, 0),
            },
        };
        let port = match m.destination_port.as_ref().map(PortSet::ranges) {
            Some([first, .., last]) => (first.0, last.1),
            Some([only]) => *only,
            _ => (0, u16::MAX),
        };
        Outline {
            from: m.from.map_or(u64::MAX, |z| z.0),
            to: m.to.map_or(u64::MAX, |z| z.0),
            source: hull(&m.source),
            destination: hull(&m.destination),
            port,
            states: m.states.map_or(u8::MAX, |s| s.0),
        }
    }

    /// False only when a match with this outline cannot cover one with the outline `b`.
    fn may_cover(&self, b: &Outline) -> bool {
        let within = |a: (u32, u32), b: (u32, u32)| b.0 > b.1 || (a.0 <= b.0 && b.1 <= a.1);
        b.from & !self.from == 0
            && b.to & !self.to == 0
            && b.states & !self.states == 0
            && self.port.0 <= b.port.0
            && b.port.1 <= self.port.1
            && within(self.destination, b.destination)
            && within(self.source, b.source)
    }
}

/// Whether every packet that meets `b` meets `a`.
fn covers(a: &Match, b: &Match, sets: &mut Subsets) -> bool {
    fn wider<T>(a: &Option<T>, b: &Option<T>, holds: impl FnOnce(&T, &T) -> bool) -> bool {
        match (a, b) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(a), Some(b)) => holds(a, b),
        }
    }
    wider(&a.from, &b.from, |a, b| b.0 & !a.0 == 0)
        && wider(&a.to, &b.to, |a, b| b.0 & !a.0 == 0)
        && wider(&a.states, &b.states, |a, b| b.0 & !a.0 == 0)
        && wider(&a.status, &b.status, |a, b| b.contains(*a))
        && wider(&a.protocols, &b.protocols, |a, b| b.iter().all(|p| a.contains(p)))
        && wider(&a.destination_port, &b.destination_port, |a, b| within(a.ranges(), b.ranges()))
        && wider(&a.source_port, &b.source_port, |a, b| within(a.ranges(), b.ranges()))
        && wider(&a.destination, &b.destination, |a, b| sets.subset(a, b))
        && wider(&a.source, &b.source, |a, b| sets.subset(a, b))
}

/// Whether each range of `b` lies in one of `a`; both sorted and disjoint.
fn within<T: Ord + Copy>(a: &[(T, T)], b: &[(T, T)]) -> bool {
    b.iter().all(|(first, last)| {
        let i = a.partition_point(|r| r.0 <= *first);
        i > 0 && *last <= a[i - 1].1
    })
}

/// Answers about large sets, which many rules share, so that each pair is compared once.
#[derive(Default)]
struct Subsets(HashMap<[usize; 2], bool>);

impl Subsets {
    fn subset(&mut self, a: &AddressSet, b: &AddressSet) -> bool {
        let (large, check) = (b.ranges_v4().len() + b.ranges_v6().len() > 8, || {
            within(a.ranges_v4(), b.ranges_v4()) && within(a.ranges_v6(), b.ranges_v6())
        });
        if !large {
            return check();
        }
        *self.0.entry([identity(a), identity(b)]).or_insert_with(check)
    }
}

/// Tells apart sets that are alive at the same time; clones of one are the same.
fn identity(set: &AddressSet) -> usize {
    if set.ranges_v4().is_empty() { set.ranges_v6().as_ptr() as usize } else { set.ranges_v4().as_ptr() as usize }
}

/// Warns of a policy that accepts nothing at all.
pub(crate) fn nothing_accepted(report: &mut Report<'_>, default: Action, rules: &[Placed<Rule>], at: Span) {
    if default != Action::Accept && rules.iter().all(|r| r.rule.action != Action::Accept) {
        report.warning(at, "the policy accepts nothing", "add a rule with `action: accept`");
    }
}

/// Warns of destination translations whose packets no rule can accept.
pub(crate) fn translated_in_vain(
    report: &mut Report<'_>,
    translations: &[Placed<DestinationNat>],
    default: Action,
    rules: &[Placed<Rule>],
) {
    if default == Action::Accept {
        return;
    }
    let accepting: Vec<&Match> =
        rules.iter().filter(|r| r.rule.action == Action::Accept).map(|r| &r.rule.matcher).collect();
    for t in translations {
        if !accepting.iter().any(|m| may_accept(m, &t.rule)) {
            report.warning(
                t.at,
                format!("no rule accepts what `{}` translates, so it has no effect", t.rule.name),
                "add a rule with `match: { status: dst_nat }` and `action: accept`",
            );
        }
    }
}

/// Whether the first packet of a connection that `t` translates may meet `m`. The egress zone, and with
/// several conditions their combination, are not known: in doubt it may.
fn may_accept(m: &Match, t: &DestinationNat) -> bool {
    let holds = |set: &AddressSet, a: &std::net::IpAddr| match a {
        std::net::IpAddr::V4(a) => set.contains(dataplane::packet::V4(u32::from(*a))),
        std::net::IpAddr::V6(a) => set.contains(dataplane::packet::V6::from_bits(u128::from(*a))),
    };
    let ports_meet = |m: &PortSet| match (&t.matcher.destination_port, t.port) {
        (None, None) => true,
        (None, Some(port)) => m.contains(port),
        (Some(set), port) => set.ranges().iter().any(|(a, b)| {
            // A range is moved so that it begins at `port`.
            let first = port.unwrap_or(*a);
            overlap(m.ranges(), first, first.saturating_add(b - a))
        }),
    };
    m.states.is_none_or(|s| s.contains(CtState::New) || s.contains(CtState::Related))
        && m.status.is_none_or(|s| Status::DST_NAT.contains(s))
        && both(m.from.map(|z| z.0), t.matcher.from.map(|z| z.0), |a, b| a & b != 0)
        && both(m.protocols.as_ref(), t.matcher.protocols.as_ref(), |a, b| a.iter().any(|p| b.contains(p)))
        && m.destination_port.as_ref().is_none_or(ports_meet)
        && m.destination.as_ref().is_none_or(|set| t.to.iter().any(|a| holds(set, a)))
        && both(m.source.as_ref(), t.matcher.source.as_ref(), addresses_meet)
}

fn both<T>(a: Option<T>, b: Option<T>, meet: impl FnOnce(T, T) -> bool) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => meet(a, b),
        _ => true,
    }
}

fn addresses_meet(a: &AddressSet, b: &AddressSet) -> bool {
    fn meet<A: Address>(a: &[(A, A)], b: &[(A, A)]) -> bool {
        a.iter().any(|(first, last)| overlap(b, *first, *last))
    }
    meet(a.ranges_v4(), b.ranges_v4()) || meet(a.ranges_v6(), b.ranges_v6())
}

/// Whether the range from `first` to `last` meets one of the sorted, disjoint `ranges`.
fn overlap<T: Ord + Copy>(ranges: &[(T, T)], first: T, last: T) -> bool {
    let i = ranges.partition_point(|r| r.1 < first);
    i < ranges.len() && ranges[i].0 <= last
}
