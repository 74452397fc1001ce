//! From one policy to the next: what becomes of the indices that connections carry.
//!
//! A connection remembers the rule that admitted it and its timeouts as indices into its policy. When
//! another policy follows, every worker brings its connections over in slices between bursts, so that for
//! a while both sorts of indices are about. The top bit of a timeouts' index tells them apart: policies
//! take turns with the two halves of its values, and each carries the timeouts of the one before it in the
//! half that is not its own. So the path reads the right timeouts without asking whose they are. A third
//! policy must not follow before all workers have brought their connections over.

use std::collections::HashMap;

use super::{List, Policy, Timeouts};

/// Half of the values of a timeouts' index: the most different timeouts one policy can have.
pub const TIMEOUTS: usize = 128;

/// What a policy knows of the one before it.
#[derive(Debug, Clone, Default)]
pub struct Succession {
    /// Whether its own timeouts are in the upper half.
    upper: bool,
    /// For each rule of the policy before, its index in this one; [`Policy::GONE`] when there is none.
    rules: Vec<u16>,
    /// The same for its source and its destination translations.
    source_nat: Vec<u16>,
    destination_nat: Vec<u16>,
    /// Whether connections that the policy would not let begin any more shall go.
    pub revalidate: bool,
}

impl Policy {
    /// The rule index of a connection whose rule is not in the policy any more.
    pub const GONE: u16 = u16::MAX - 1;

    /// Makes this policy, as compiled, the one that follows `former`. Rules are the same when they have the
    /// same name.
    pub fn follow(&mut self, former: &Policy, revalidate: bool) {
        self.succession = Succession {
            upper: !former.succession.upper,
            rules: successors(&former.rules, &self.rules, |r| &r.name),
            source_nat: successors(&former.source_nat, &self.source_nat, |r| &r.name),
            destination_nat: successors(&former.destination_nat, &self.destination_nat, |r| &r.name),
            revalidate,
        };
        let base = self.timeouts_of_all();
        for r in &mut self.rules {
            r.timeouts += base;
        }
        let (own, theirs) = (self.timeouts.clone(), former.own_timeouts().to_vec());
        let (mut lower, upper) = if base == 0 { (own, theirs) } else { (theirs, own) };
        lower.resize(TIMEOUTS, Timeouts::default());
        self.timeouts = lower;
        self.timeouts.extend(upper);
    }

    /// The timeouts that are this policy's own and not those of the one before.
    fn own_timeouts(&self) -> &[Timeouts] {
        if self.succession.upper {
            &self.timeouts[TIMEOUTS..]
        } else {
            &self.timeouts[..self.timeouts.len().min(TIMEOUTS)]
        }
    }

    /// The index of the timeouts of connections whose rule has none of its own.
    pub fn timeouts_of_all(&self) -> u8 {
        if self.succession.upper { TIMEOUTS as u8 } else { 0 }
    }

    /// Whether a connection with these timeouts has the indices of this policy, not of the one before.
    pub fn is_own(&self, timeouts: u8) -> bool {
        (usize::from(timeouts) >= TIMEOUTS) == self.succession.upper
    }

    /// What the index of a rule and of timeouts of the policy before are in this one.
    pub fn successors(&self, rule: u16) -> (u16, u8) {
        let rule = match rule {
            u16::MAX | Self::GONE => rule,
            r => self.succession.rules.get(usize::from(r)).copied().unwrap_or(Self::GONE),
        };
        (rule, self.rules.get(usize::from(rule)).map_or(self.timeouts_of_all(), |r| r.timeouts))
    }

    /// What the index of a source or destination translation of the policy before is in this one.
    pub fn translation_successor(&self, list: List, rule: u16) -> Option<u16> {
        let all = match list {
            List::SourceNat => &self.succession.source_nat,
            List::DestinationNat => &self.succession.destination_nat,
            List::Forward | List::Tracking => return None,
        };
        all.get(usize::from(rule)).copied().filter(|i| *i != Self::GONE)
    }
}

/// The index in `now` of each rule of `former`, by name; [`Policy::GONE`] when it is not there.
fn successors<R>(former: &[R], now: &[R], name: impl Fn(&R) -> &String) -> Vec<u16> {
    let index: HashMap<&String, u16> = now.iter().zip(0..).map(|(r, i)| (name(r), i)).collect();
    former.iter().map(|r| index.get(name(r)).copied().unwrap_or(Policy::GONE)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Rule;

    fn policy(seconds: u32, rules: &[(&str, u8)]) -> Policy {
        let timeouts = |n| Timeouts { udp: seconds + n, ..Timeouts::default() };
        Policy {
            rules: rules.iter().map(|(n, t)| Rule { name: (*n).into(), timeouts: *t, ..Rule::default() }).collect(),
            timeouts: (0..3).map(timeouts).collect(),
            ..Policy::default()
        }
    }

    #[test]
    fn indices_of_both_policies_mean_what_they_did() {
        let mut current = policy(100, &[("a", 1), ("b", 2), ("c", 0)]);
        for round in 1..6u32 {
            let seconds = 100 + round * 10;
            let mut next = policy(seconds, &[("c", 2), ("new", 0), ("a", 1)]);
            if round % 2 == 0 {
                next.rules.reverse();
            }
            next.follow(&current, false);
            for (i, r) in current.rules.iter().enumerate() {
                assert!(current.is_own(r.timeouts) && !next.is_own(r.timeouts));
                assert_eq!(
                    next.timeouts(r.timeouts).udp,
                    current.timeouts(r.timeouts).udp,
                    "before it is brought over"
                );
                let (rule, timeouts) = next.successors(i as u16);
                assert!(next.is_own(timeouts));
                match next.rules.get(usize::from(rule)) {
                    Some(n) => assert_eq!((&n.name, n.timeouts), (&r.name, timeouts)),
                    None => assert_eq!((rule, timeouts), (Policy::GONE, next.timeouts_of_all())),
                }
            }
            assert_eq!(next.successors(u16::MAX), (u16::MAX, next.timeouts_of_all()));
            assert_eq!(next.timeouts(next.timeouts_of_all()).udp, seconds);
            current = next;
        }
    }
}
