//! Which rules of a list may match a packet, found without walking the list.
//!
//! For each family a decision tree is built, off the path. Its nodes look at one *dimension* of a packet (a
//! zone, the state, the protocol, a port or an address) and lead on by the interval that the value lies in.
//! Where few rules would have to be repeated in many intervals, a node has two branches instead, and both are
//! taken. A leaf lists the rules that are left, in order, each with the conditions that the way to it has not
//! decided already: those are compared with the packet itself. So the tree need not be complete, and a
//! policy that it cannot divide is walked as if there were none.
//!
//! Behind a rule that certainly matches, and decides, a leaf lists nothing.

mod build;
mod digest;
mod dimension;
#[cfg(test)]
mod tests;

use arrayvec::ArrayVec;

use self::build::Builder;
use self::digest::Digest;
pub(super) use self::digest::Values;
pub(super) use self::dimension::{Dimension, Need};
use super::ranks::{Key, Ranks};
use super::{Family, Match};
use crate::packet::{Address, V4, V6};

/// The most lists that a packet's candidates can be in.
const LISTS: usize = 8;

/// The decision trees of a list of rules.
#[derive(Debug)]
pub(super) struct Classifier {
    v4: Tree<V4>,
    v6: Tree<V6>,
}

/// A rule that may match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Candidate {
    /// Its index.
    pub(super) rule: u16,
    /// The conditions that are still to be compared.
    pub(super) need: Need,
}

#[derive(Debug, Clone, Copy)]
enum Node<A> {
    /// Candidates from `start` on. `sure`: the last one matches in any case.
    Leaf { start: u32, len: u16, sure: bool },
    /// Below `key`, or not.
    Below { dimension: Dimension, key: A, yes: u32, no: u32 },
    /// By the interval among many.
    Many { dimension: Dimension, cuts: u32, children: u32 },
    /// Both. No rule in the second comes before `low`.
    Both { first: u32, second: u32, low: u16 },
}

#[derive(Debug)]
struct Tree<A> {
    nodes: Vec<Node<A>>,
    root: u32,
    candidates: Vec<Candidate>,
    /// By rule.
    digests: Vec<Digest<A>>,
    cuts: Vec<Ranks<A>>,
    children: Vec<u32>,
}

impl Classifier {
    /// For a list of rules, each with its conditions and whether no later rule is asked when they hold.
    pub(super) fn new(rules: &[(&Match, bool)]) -> Self {
        Classifier { v4: Builder::build(rules), v6: Builder::build(rules) }
    }

    /// Calls `ask` for the rules that may match a packet, in order, with the conditions that are still to be
    /// compared, until it says that this is the one.
    #[inline(always)]
    pub(super) fn find<A: Address>(&self, values: &Values<A>, ask: impl FnMut(u16, Need) -> bool) -> Option<u16> {
        match Family::of_type::<A>() {
            Family::V4 => self.v4.find(&values.of_family(), ask),
            Family::V6 => self.v6.find(&values.of_family(), ask),
        }
    }

    /// Its size in bytes.
    pub(super) fn size(&self) -> usize {
        self.v4.size() + self.v6.size()
    }
}

impl<A: Key> Tree<A> {
    #[inline(always)]
    fn find(&self, values: &Values<A>, mut ask: impl FnMut(u16, Need) -> bool) -> Option<u16> {
        match *self.descend(self.root, values) {
            Node::Leaf { start, len, .. } => {
                for c in self.list(start, len) {
                    if let Some(found) = self.compare(c, values, &mut ask) {
                        return Some(found);
                    }
                }
                None
            }
            _ => self.find_in_several(values, &mut ask),
        }
    }

    /// [`Tree::find`] where candidates may be in more than one list.
    #[inline(never)]
    fn find_in_several(&self, values: &Values<A>, ask: &mut dyn FnMut(u16, Need) -> bool) -> Option<u16> {
        let mut lists = ArrayVec::new();
        self.lists(values, &mut lists);
        loop {
            let first: &mut &[Candidate] = lists.iter_mut().filter(|l| !l.is_empty()).min_by_key(|l| l[0].rule)?;
            let (next, rest) = first.split_first()?;
            *first = rest;
            if let Some(found) = self.compare(next, values, &mut *ask) {
                return Some(found);
            }
        }
    }

    /// Asks about a candidate if what its digest has of it holds.
    #[inline(always)]
    fn compare(&self, c: &Candidate, values: &Values<A>, mut ask: impl FnMut(u16, Need) -> bool) -> Option<u16> {
        let need = match c.need {
            Need::NOTHING => c.need,
            need => self.digests[usize::from(c.rule)].compare(need, values)?,
        };
        ask(c.rule, need).then_some(c.rule)
    }

    #[inline(always)]
    fn list(&self, start: u32, len: u16) -> &[Candidate] {
        &self.candidates[start as usize..start as usize + usize::from(len)]
    }

    /// The first node from `at` on that does not lead to just one other.
    #[inline(always)]
    fn descend(&self, mut at: u32, values: &Values<A>) -> &Node<A> {
        loop {
            at = match &self.nodes[at as usize] {
                Node::Below { dimension, key, yes, no } => {
                    if values.get(*dimension) < *key {
                        *yes
                    } else {
                        *no
                    }
                }
                Node::Many { dimension, cuts, children } => {
                    let interval = self.cuts[*cuts as usize].rank(values.get(*dimension));
                    self.children[*children as usize + interval]
                }
                end => return end,
            };
        }
    }

    /// The lists that may have rules for a packet.
    fn lists<'t>(&'t self, values: &Values<A>, out: &mut ArrayVec<&'t [Candidate], LISTS>) {
        let mut waiting: ArrayVec<(u32, u16), LISTS> = ArrayVec::new();
        // The first rule that matches in any case: later ones are of no interest.
        let mut sure = u16::MAX;
        let mut at = self.root;
        loop {
            match *self.descend(at, values) {
                Node::Both { first, second, low } => {
                    waiting.push((second, low));
                    at = first;
                    continue;
                }
                Node::Leaf { start, len, sure: last_is_sure } => {
                    let list = self.list(start, len);
                    if let Some(last) = list.last() {
                        out.push(list);
                        if last_is_sure {
                            sure = sure.min(last.rule);
                        }
                    }
                }
                Node::Below { .. } | Node::Many { .. } => {}
            }
            loop {
                match waiting.pop() {
                    None => return,
                    Some((_, low)) if low > sure => {}
                    Some((next, _)) => {
                        at = next;
                        break;
                    }
                }
            }
        }
    }

    fn size(&self) -> usize {
        self.nodes.len() * size_of::<Node<A>>()
            + self.candidates.len() * size_of::<Candidate>()
            + self.digests.len() * size_of::<Digest<A>>()
            + self.children.len() * size_of::<u32>()
            + self.cuts.iter().map(Ranks::size).sum::<usize>()
    }
}
