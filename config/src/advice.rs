//! Warnings about policies that are valid and yet hardly what was meant.

use std::collections::HashMap;
use std::net::IpAddr;

use dataplane::conntrack::{CtState, Status};
use dataplane::packet::{Address, V4, V6};
use dataplane::policy::{
    Action, AddressSet, DestinationNat, DestinationTranslation, Family, Match, PortSet, PrefixMap, Rule, SourceNat,
};
use ipnet::IpNet;

use crate::nat::Nat;
use crate::report::{Report, Span};
use crate::rules::{Named, Placed};

/// Warns of rules that an earlier rule of the list covers. Rules that only several earlier ones together
/// cover are not found.
pub(crate) fn never_matched<R: Named>(report: &mut Report<'_>, rules: &[Placed<R>]) {
    let outlines: Vec<Outline> = rules.iter().map(|r| Outline::of(r.rule.matcher())).collect();
    let mut sets = Subsets::default();
    for (i, late) in rules.iter().enumerate() {
        let covering = (0..i).find(|j| {
            rules[*j].rule.is_final()
                && outlines[*j].may_cover(&outlines[i])
                && covers(rules[*j].rule.matcher(), late.rule.matcher(), &mut sets)
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
        && wider(&a.family, &family_of(b), |a, b| a == b)
        && wider(&a.icmp, &b.icmp, |a, b| within(a.v4.ranges(), b.v4.ranges()) && within(a.v6.ranges(), b.v6.ranges()))
        && wider(&a.tcp_flags, &b.tcp_flags, |a, b| a.set & !b.set == 0 && a.clear & !b.clear == 0)
        && wider(&a.states, &b.states, |a, b| b.0 & !a.0 == 0)
        && wider(&a.status, &b.status, |a, b| b.contains(*a))
        && wider(&a.mark, &b.mark, |a, b| a.1 & !b.1 == 0 && b.0 & a.1 == a.0)
        && wider(&a.protocols, &b.protocols, |a, b| b.iter().all(|p| a.contains(p)))
        && wider(&a.destination_port, &b.destination_port, |a, b| within(a.ranges(), b.ranges()))
        && wider(&a.source_port, &b.source_port, |a, b| within(a.ranges(), b.ranges()))
        && wider(&a.destination, &b.destination, |a, b| sets.subset(a, b))
        && wider(&a.source, &b.source, |a, b| sets.subset(a, b))
}

/// The one family that packets must have to match.
fn family_of(m: &Match) -> Option<Family> {
    match (m.concerns(Family::V4), m.concerns(Family::V6)) {
        (true, false) => Some(Family::V4),
        (false, true) => Some(Family::V6),
        _ => None,
    }
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
        // What addresses interfaces will have is not known.
        if !b.interfaces().iter().all(|i| a.interfaces().contains(i)) {
            return false;
        }
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

/// Warns of destination translations whose packets no rule can accept, and of fixed translations of which
/// that is true in both directions.
pub(crate) fn translated_in_vain(report: &mut Report<'_>, nat: &Nat, default: Action, rules: &[Placed<Rule>]) {
    if default == Action::Accept {
        return;
    }
    // Rules before the one that accepts may have given it a mark.
    let marked = rules.iter().any(|r| r.rule.action == Action::Continue && r.rule.mark.is_some());
    let accepting: Vec<&Match> =
        rules.iter().filter(|r| r.rule.action == Action::Accept).map(|r| &r.rule.matcher).collect();
    for (i, t) in nat.destination.iter().enumerate() {
        let opposite = nat.source.get(i).filter(|_| i < nat.fixed);
        let passes = |m: &&Match| {
            may_accept(m, &t.rule, marked) || opposite.is_some_and(|s| may_accept_from(m, &s.rule, marked))
        };
        if accepting.iter().any(passes) {
            continue;
        }
        let help = match opposite {
            None => "add a rule with `match: { status: dst_nat }` and `action: accept`",
            Some(_) => "add a rule with `match: { status: dst_nat }` for connections to it, or one for those it opens",
        };
        report.warning(t.at, format!("no rule accepts what `{}` translates, so it has no effect", t.rule.name), help);
    }
}

/// Whether the first packet of a connection that `t` translates may meet `m`. The egress zone, and with
/// several conditions their combination, are not known: in doubt it may.
fn may_accept(m: &Match, t: &DestinationNat, marked: bool) -> bool {
    let port = match &t.translate {
        // Not translated, or to the host, about whose own traffic no rule is asked.
        DestinationTranslation::None | DestinationTranslation::Redirect { .. } => return true,
        DestinationTranslation::To { port, .. } => *port,
        DestinationTranslation::Prefix(_) => None,
    };
    let leads_into = |set: &AddressSet| match &t.translate {
        DestinationTranslation::None | DestinationTranslation::Redirect { .. } => true,
        DestinationTranslation::To { addresses, .. } => addresses.iter().any(|a| meets(set, *a, *a)),
        DestinationTranslation::Prefix(map) => {
            let (first, last) = inside(map);
            meets(set, first, last)
        }
    };
    let ports_meet = |m: &PortSet| match (&t.matcher.destination_port, port) {
        (None, None) => true,
        (None, Some(port)) => m.contains(port),
        (Some(set), port) => set.ranges().iter().any(|(a, b)| {
            // A range is moved so that it begins at `port`.
            let first = port.unwrap_or(*a);
            overlap(m.ranges(), first, first.saturating_add(b - a))
        }),
    };
    begins(m, marked)
        && [Family::V4, Family::V6].iter().any(|f| m.concerns(*f) && t.matcher.concerns(*f))
        && both(m.from.map(|z| z.0), t.matcher.from.map(|z| z.0), |a, b| a & b != 0)
        && both(m.protocols.as_ref(), t.matcher.protocols.as_ref(), |a, b| a.iter().any(|p| b.contains(p)))
        && m.destination_port.as_ref().is_none_or(ports_meet)
        && m.destination.as_ref().is_none_or(leads_into)
        && both(m.source.as_ref(), t.matcher.source.as_ref(), addresses_meet)
}

/// Whether the first packet of a connection whose source the fixed translation `s` translates may meet `m`.
fn may_accept_from(m: &Match, s: &SourceNat, marked: bool) -> bool {
    begins(m, marked)
        && [Family::V4, Family::V6].iter().any(|f| m.concerns(*f) && s.matcher.concerns(*f))
        && both(m.to.map(|z| z.0), s.matcher.to.map(|z| z.0), |a, b| a & b != 0)
        && both(m.source.as_ref(), s.matcher.source.as_ref(), addresses_meet)
}

/// Whether the first packet of a connection may meet `m` as far as its state goes; it has no mark unless a rule gives it one.
fn begins(m: &Match, marked: bool) -> bool {
    m.states.is_none_or(|s| s.contains(CtState::New) || s.contains(CtState::Related))
        && m.status.is_none_or(|s| Status::DST_NAT.contains(s))
        && m.mark.is_none_or(|(value, _)| marked || value == 0)
}

/// First and last inside address of a translation.
fn inside(map: &PrefixMap) -> (IpAddr, IpAddr) {
    let last = IpNet::new(map.inside, map.length).map_or(map.inside, |net| net.broadcast());
    (map.inside, last)
}

/// Whether a set has addresses between `first` and `last`, which are of one family, or may have.
fn meets(set: &AddressSet, first: IpAddr, last: IpAddr) -> bool {
    if !set.interfaces().is_empty() {
        return true;
    }
    match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => overlap(set.ranges_v4(), V4(a.into()), V4(b.into())),
        (IpAddr::V6(a), IpAddr::V6(b)) => overlap(set.ranges_v6(), V6::from_bits(a.into()), V6::from_bits(b.into())),
        _ => false,
    }
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
    !a.interfaces().is_empty()
        || !b.interfaces().is_empty()
        || meet(a.ranges_v4(), b.ranges_v4())
        || meet(a.ranges_v6(), b.ranges_v6())
}

/// Whether the range from `first` to `last` meets one of the sorted, disjoint `ranges`.
fn overlap<T: Ord + Copy>(ranges: &[(T, T)], first: T, last: T) -> bool {
    let i = ranges.partition_point(|r| r.1 < first);
    i < ranges.len() && ranges[i].0 <= last
}
