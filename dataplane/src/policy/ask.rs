//! Asking a policy: the first rule of a list that matches. Beside the rules, interfaces have a say with the
//! addresses they have at the moment.

use std::sync::Arc;

use super::classifier::{Classifier, Need, Values, Walk};
use super::{Action, DestinationNat, Facts, Limit, List, Match, Policy, Rule, SourceNat, TrackingRule};
use crate::route::FibFamily;
use crate::snapshot::Snapshot;

/// Who asks the rules, and what comes of it beside the answer.
pub trait Witness<A> {
    /// Whether a packet that fits all else is within the limit of rule `i`, which then counts it.
    fn is_within(&mut self, i: u16, limit: &Limit, facts: &Facts<A>) -> bool;
    /// A rule matches; `facts` have the mark it gives.
    fn matched(&mut self, i: u16, rule: &Rule, facts: &Facts<A>);
}

/// Asks without leaving a trace; everything is within its limits.
#[derive(Debug)]
pub struct Nobody;

impl<A> Witness<A> for Nobody {
    fn is_within(&mut self, _: u16, _: &Limit, _: &Facts<A>) -> bool {
        true
    }

    fn matched(&mut self, _: u16, _: &Rule, _: &Facts<A>) {}
}

/// The classifiers of a policy's lists.
#[derive(Debug)]
pub struct Index([Classifier; 4]);

impl Index {
    fn of(p: &Policy) -> Self {
        let forward: Vec<_> = p.rules.iter().map(|r| (&r.matcher, r.is_final())).collect();
        let destination: Vec<_> = p.destination_nat.iter().map(|r| (&r.matcher, true)).collect();
        let source: Vec<_> = p.source_nat.iter().map(|r| (&r.matcher, true)).collect();
        let tracking: Vec<_> = p.tracking.iter().map(|r| (&r.matcher, true)).collect();
        // As List numbers them.
        Index([forward, destination, source, tracking].map(|rules| Classifier::new(&rules)))
    }

    /// The size of all trees in bytes.
    pub fn size(&self) -> usize {
        self.0.iter().map(Classifier::size).sum()
    }
}

impl Policy {
    /// The index of no rule: the default decided.
    pub const DEFAULT: u16 = u16::MAX;

    /// Makes what finds the rules for a packet without walking the lists; the rules do not change any more.
    pub fn index(&mut self) {
        self.index = Some(Arc::new(Index::of(self)));
    }

    /// The first rule of a list of so many that `ask` says yes to, which gets the conditions to compare.
    // Inlined, so that what is asked stays in registers.
    #[inline(always)]
    fn find<A: FibFamily>(
        &self,
        list: List,
        rules: usize,
        values: &Values<A>,
        ahead: Option<&Walk<A>>,
        mut ask: impl FnMut(u16, Need) -> bool,
    ) -> Option<u16> {
        match &self.index {
            Some(index) => index.0[list as usize].find(values, ahead, &mut ask),
            None => walk(rules, &mut ask),
        }
    }
}

/// [`Policy::find`] without an index.
#[cold]
fn walk(rules: usize, ask: &mut dyn FnMut(u16, Need) -> bool) -> Option<u16> {
    (0..rules as u16).find(|i| ask(*i, Need::ALL))
}

impl Snapshot {
    /// The rule that decides and what it does, [`Policy::DEFAULT`] for the default. Rules on the way to it may
    /// change the mark in `facts`.
    #[inline]
    pub fn verdict<A: FibFamily>(&self, facts: &mut Facts<A>, witness: &mut impl Witness<A>) -> (u16, Action) {
        self.verdict_ahead(facts, None, witness)
    }

    /// The same where the packet's way through the forward rules may have been walked ahead, in this snapshot.
    #[inline]
    pub(crate) fn verdict_ahead<A: FibFamily>(
        &self,
        facts: &mut Facts<A>,
        ahead: Option<&Walk<A>>,
        witness: &mut impl Witness<A>,
    ) -> (u16, Action) {
        let (rules, live) = (&self.policy.rules, &self.fib.interfaces);
        let values = Values::of(facts);
        let decided = self.policy.find(
            List::Forward,
            rules.len(),
            &values,
            ahead,
            #[inline(always)]
            |i, need| {
                let rule = &rules[usize::from(i)];
                let within = |l: &Limit| witness.is_within(i, l, facts) != l.over;
                if !rule.matcher.fits(facts, live, need) || !rule.limit.as_ref().is_none_or(within) {
                    return false;
                }
                facts.mark = rule.mark.unwrap_or(facts.mark);
                witness.matched(i, rule, facts);
                rule.action != Action::Continue
            },
        );
        match decided {
            Some(i) => (i, rules[usize::from(i)].action),
            None => (Policy::DEFAULT, self.policy.default),
        }
    }

    /// Whether ways through the forward rules should be walked ahead.
    #[inline]
    pub(crate) fn walks_ahead<A: FibFamily>(&self) -> bool {
        self.policy.index.as_ref().is_some_and(|i| i.0[List::Forward as usize].is_large::<A>())
    }

    /// Walks packets' ways through the forward rules ahead, and loads what will be needed of the rules that most
    /// likely decide; `worker` counts for them.
    pub(crate) fn walk_ahead<A: FibFamily>(&self, walks: &mut [Walk<A>], worker: u16) {
        let Some(index) = &self.policy.index else { return };
        index.0[List::Forward as usize].walk(walks);
        let rules = || walks.iter().filter_map(Walk::likely).map(usize::from);
        for i in rules() {
            self.policy.rules[i].prefetch();
            self.tallies.prefetch_entry(worker, List::Forward, i);
        }
        for i in rules() {
            self.tallies.prefetch(worker, List::Forward, i);
        }
    }

    /// The first tracking rule that matches, with its index.
    #[inline]
    pub fn tracking<A: FibFamily>(&self, facts: &Facts<A>) -> Option<(usize, &TrackingRule)> {
        self.first(List::Tracking, &self.policy.tracking, |r| &r.matcher, facts)
    }

    /// The first destination translation that matches, with its index.
    #[inline]
    pub fn destination_nat<A: FibFamily>(&self, facts: &Facts<A>) -> Option<(usize, &DestinationNat)> {
        self.first(List::DestinationNat, &self.policy.destination_nat, |r| &r.matcher, facts)
    }

    /// The first source translation that matches, with its index.
    #[inline]
    pub fn source_nat<A: FibFamily>(&self, facts: &Facts<A>) -> Option<(usize, &SourceNat)> {
        self.first(List::SourceNat, &self.policy.source_nat, |r| &r.matcher, facts)
    }

    #[inline(always)]
    fn first<'s, A: FibFamily, R>(
        &'s self,
        list: List,
        rules: &'s [R],
        matcher: impl Fn(&R) -> &Match,
        facts: &Facts<A>,
    ) -> Option<(usize, &'s R)> {
        if rules.is_empty() {
            return None;
        }
        let live = &self.fib.interfaces;
        let i = self.policy.find(
            list,
            rules.len(),
            &Values::of(facts),
            None,
            #[inline(always)]
            |i, need| matcher(&rules[usize::from(i)]).fits(facts, live, need),
        )?;
        let i = usize::from(i);
        Some((i, &rules[i]))
    }
}
