//! The rules of the policy in force with what they have decided, for metrics and `sluice rules`.

use dataplane::policy::{
    Action, DestinationTranslation, List, Place, Policy, SourceTranslation, Tallies, TrackingAction,
};
use serde::{Deserialize, Serialize};

use crate::context::Context;

/// What stands in place of the name of the default.
pub(crate) const DEFAULT: &str = "(default)";

/// A rule with what it has decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    /// The list it is in, by its section of the policy.
    pub(crate) list: String,
    /// Its name; [`DEFAULT`] for the default.
    pub(crate) name: String,
    /// What it does, in a word.
    pub(crate) action: String,
    /// The file it is written in; none for the default.
    pub(crate) file: Option<String>,
    /// The line it is written in.
    pub(crate) line: Option<u32>,
    /// Packets it has decided.
    pub(crate) packets: u64,
    /// Their bytes, IP header included.
    pub(crate) bytes: u64,
}

/// All rules in the order in which a packet meets their lists.
pub(crate) fn gather(ctx: &Context) -> Vec<Rule> {
    let current = ctx.shared.current.load();
    List::ALL.iter().flat_map(|l| of_list(&current.policy, &current.tallies, *l)).collect()
}

fn of_list(p: &Policy, tallies: &Tallies, list: List) -> Vec<Rule> {
    let rule = |(i, (name, action, place)): (usize, About<'_>)| {
        let (packets, bytes) = tallies.total(list, i);
        Rule {
            list: list.label().to_owned(),
            name: name.to_owned(),
            action: action.to_owned(),
            file: place.map(|p| p.file.to_string()),
            line: place.map(|p| p.line),
            packets,
            bytes,
        }
    };
    (0..).map_while(|i| about(p, list, i)).enumerate().map(rule).collect()
}

/// A rule's name, what it does in a word, and where it is written.
type About<'p> = (&'p str, &'static str, Option<&'p Place>);

/// What is to be said of the rule with this index.
pub(crate) fn about(p: &Policy, list: List, i: usize) -> Option<About<'_>> {
    let (name, action, place) = match list {
        List::Tracking => p.tracking.get(i).map(|r| (&r.name, tracking(r.action), &r.place)),
        List::DestinationNat => p.destination_nat.get(i).map(|r| (&r.name, destination(&r.translate), &r.place)),
        List::SourceNat => p.source_nat.get(i).map(|r| (&r.name, source(&r.translate), &r.place)),
        List::Forward if i == p.rules.len() => return Some((DEFAULT, p.default.name(), None)),
        List::Forward => p.rules.get(i).map(|r| (&r.name, forward(r), &r.place)),
    }?;
    Some((name, action, Some(place)))
}

/// The word for a forward rule's action, as its policy has it.
fn forward(r: &dataplane::policy::Rule) -> &'static str {
    match r.action {
        Action::Continue if r.log.is_some() => "log",
        Action::Continue => "mark",
        other => other.name(),
    }
}

fn tracking(action: TrackingAction) -> &'static str {
    match action {
        TrackingAction::Untracked => "untracked",
        TrackingAction::Helper(kind) => kind.name(),
        TrackingAction::NoHelper => "no-helper",
    }
}

fn destination(t: &DestinationTranslation) -> &'static str {
    match t {
        DestinationTranslation::None => "none",
        DestinationTranslation::To { .. } => "to",
        DestinationTranslation::Prefix(_) => "prefix",
        DestinationTranslation::Redirect { .. } => "redirect",
    }
}

fn source(t: &SourceTranslation) -> &'static str {
    match t {
        SourceTranslation::None => "none",
        SourceTranslation::Masquerade(_) => "masquerade",
        SourceTranslation::Pool { .. } => "pool",
        SourceTranslation::Prefix(_) => "prefix",
    }
}
