//! From one policy to the next: what becomes of the indices that connections carry.
//!
//! A connection remembers the rule that admitted it and its timeouts as indices into its policy. When
//! another policy follows, every worker brings its connections over in slices between bursts, so that for
//! a while both sorts of indices are about. The top bit of a timeouts' index tells them apart: policies
//! take turns with the two halves of its values, and each carries the timeouts of the one before it in the
//! half that is not its own. So the path reads the right timeouts without asking whose they are. A third
//! policy must not follow before all workers have brought their connections over.

use std::collections::HashMap;

use super::{Policy, Timeouts};

/// Half of the values of a timeouts' index: the most different timeouts one policy can have.
pub const TIMEOUTS: usize = 128;

/// What a policy knows of the one before it.
#[derive(Debug, Clone, Default)]
pub struct Succession {
    /// Whether its own timeouts are in the upper half.
    upper: bool,
    /// For each rule of the policy before, its index in this one; [`Policy::GONE`] when there is none.
    rules: Vec<u16>,
    /// Whether connections that the policy would not let begin any more shall go.
    pub revalidate: bool,
}

impl Policy {
    /// The rule index of a connection whose rule is not in the policy any more.
    pub const GONE: u16 = u16::MAX - 1;

    /// Makes this policy, as compiled, the one that follows `former`. Rules are the same when they have the
    /// same name.
    pub fn follow(&mut self, former: &Policy, revalidate: bool) {
        let index: HashMap<&str, u16> = self.rules.iter().zip(0..).map(|(r, i)| (r.name.as_str(), i)).collect();
        let successor = |name: &String| index.get(name.as_str()).copied().unwrap_or(Self::GONE);
        let rules = former.rules.iter().map(|r| successor(&r.name)).collect();
        self.succession = Succession { upper: !former.succession.upper, rules, revalidate };
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
