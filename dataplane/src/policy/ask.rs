//! Asking a policy: the first rule of a list that matches. Beside the rules, interfaces have a say with the
//! addresses they have at the moment.

use super::{Action, DestinationNat, Facts, Limit, Policy, Rule, SourceNat, TrackingRule};
use crate::route::FibFamily;
use crate::snapshot::Snapshot;

/// Who asks the rules, and what comes of it beside the answer.
pub trait Witness<A> {
    /// Whether a packet that fits all else is within the limit of a rule, which then counts it.
    fn is_within(&mut self, limit: &Limit, facts: &Facts<A>) -> bool;
    /// A rule matches; `facts` have the mark it gives.
    fn matched(&mut self, i: u16, rule: &Rule, facts: &Facts<A>);
}

/// Asks without leaving a trace; everything is within its limits.
#[derive(Debug)]
pub struct Nobody;

impl<A> Witness<A> for Nobody {
    fn is_within(&mut self, _: &Limit, _: &Facts<A>) -> bool {
        true
    }

    fn matched(&mut self, _: u16, _: &Rule, _: &Facts<A>) {}
}

impl Policy {
    /// The index of no rule: the default decided.
    pub const DEFAULT: u16 = u16::MAX;
}

impl Snapshot {
    /// The rule that decides and what it does, [`Policy::DEFAULT`] for the default. Rules on the way to it may
    /// change the mark in `facts`.
    pub fn verdict<A: FibFamily>(&self, facts: &mut Facts<A>, witness: &mut impl Witness<A>) -> (u16, Action) {
        for (rule, i) in self.policy.rules.iter().zip(0..) {
            let within = |l: &Limit| witness.is_within(l, facts) != l.over;
            if !rule.matcher.matches(facts, &self.fib.interfaces) || !rule.limit.as_ref().is_none_or(within) {
                continue;
            }
            facts.mark = rule.mark.unwrap_or(facts.mark);
            witness.matched(i, rule, facts);
            if rule.action != Action::Continue {
                return (i, rule.action);
            }
        }
        (Policy::DEFAULT, self.policy.default)
    }

    /// The first tracking rule that matches, with its index.
    pub fn tracking<A: FibFamily>(&self, facts: &Facts<A>) -> Option<(usize, &TrackingRule)> {
        self.policy.tracking.iter().enumerate().find(|(_, r)| r.matcher.matches(facts, &self.fib.interfaces))
    }

    /// The first destination translation that matches, with its index.
    pub fn destination_nat<A: FibFamily>(&self, facts: &Facts<A>) -> Option<(usize, &DestinationNat)> {
        self.policy.destination_nat.iter().enumerate().find(|(_, r)| r.matcher.matches(facts, &self.fib.interfaces))
    }

    /// The first source translation that matches, with its index.
    pub fn source_nat<A: FibFamily>(&self, facts: &Facts<A>) -> Option<(usize, &SourceNat)> {
        self.policy.source_nat.iter().enumerate().find(|(_, r)| r.matcher.matches(facts, &self.fib.interfaces))
    }
}
