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
mod walk;

use arrayvec::ArrayVec;

use self::build::Builder;
use self::digest::Digest;
pub(super) use self::digest::Values;
pub(super) use self::dimension::{Dimension, Need};
use self::walk::End;
pub(crate) use self::walk::Walk;
use super::Match;
use super::ranks::{Key, Ranks};
use crate::packet::{V4, V6};

/// The most lists that a packet's candidates can be in.
const LISTS: usize = 8;

/// A tree of so many bytes is walked ahead: it is not in the nearest cache when it is needed.
const LARGE: usize = 1 << 16;

/// The decision trees of a list of rules.
#[derive(Debug)]
pub struct Classifier {
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

/// A node by its number, or a leaf itself.
#[derive(Debug, Clone, Copy)]
enum Link {
    Node(u32),
    Leaf { start: u32, len: u16, sure: bool },
}

const _: () = assert!(size_of::<Link>() == 8);

/// One family's decision tree.
#[derive(Debug)]
pub struct Tree<A> {
    nodes: Vec<Node<A>>,
    root: u32,
    candidates: Vec<Candidate>,
    /// By rule.
    digests: Vec<Digest<A>>,
    cuts: Vec<Ranks<A>>,
    /// The children of nodes with many, as they are in order.
    links: Vec<Link>,
    large: bool,
}

/// An address family with its tree.
pub trait Classified: Key {
    /// The family's tree.
    fn tree(c: &Classifier) -> &Tree<Self>;
}

impl Classified for V4 {
    #[inline]
    fn tree(c: &Classifier) -> &Tree<V4> {
        &c.v4
    }
}

impl Classified for V6 {
    #[inline]
    fn tree(c: &Classifier) -> &Tree<V6> {
        &c.v6
    }
}

impl Classifier {
    /// For a list of rules, each with its conditions and whether no later rule is asked when they hold.
    pub(super) fn new(rules: &[(&Match, bool)]) -> Self {
        Classifier { v4: Builder::build(rules), v6: Builder::build(rules) }
    }

    /// Calls `ask` for the rules that may match a packet, in order, with the conditions that are still to be
    /// compared, until it says that this is the one. The packet's way may have been walked ahead.
    #[inline(always)]
    pub(super) fn find<A: Classified>(
        &self,
        values: &Values<A>,
        ahead: Option<&Walk<A>>,
        ask: impl FnMut(u16, Need) -> bool,
    ) -> Option<u16> {
        A::tree(self).find(values, ahead, ask)
    }

    /// Whether packets' ways should be walked ahead.
    #[inline]
    pub(super) fn is_large<A: Classified>(&self) -> bool {
        A::tree(self).large
    }

    /// Walks the ways of some packets ahead.
    pub(super) fn walk<A: Classified>(&self, walks: &mut [Walk<A>]) {
        A::tree(self).walk(walks);
    }

    /// Its size in bytes.
    pub(super) fn size(&self) -> usize {
        self.v4.size() + self.v6.size()
    }
}

impl<A: Key> Tree<A> {
    #[inline(always)]
    fn find(&self, values: &Values<A>, ahead: Option<&Walk<A>>, mut ask: impl FnMut(u16, Need) -> bool) -> Option<u16> {
        if let Some(w) = ahead.filter(|w| w.is_of(values)) {
            return self.find_ahead(w, values, &mut ask);
        }
        match self.descend(self.root, values) {
            Link::Leaf { start, len, .. } => self.list(start, len).iter().find_map(
                #[inline(always)]
                |c| ask(c.rule, self.rest(c, values)?).then_some(c.rule),
            ),
            Link::Node(at) => self.find_in_several(at, values, &mut ask),
        }
    }

    /// [`Tree::find`] from where a packet's way has ended.
    #[inline(never)]
    fn find_ahead(&self, w: &Walk<A>, values: &Values<A>, ask: &mut dyn FnMut(u16, Need) -> bool) -> Option<u16> {
        let (fits, others) = match self.end(w) {
            End::Fits { fits, others } => (fits, others),
            End::Several(at) => return self.find_in_several(at, values, ask),
        };
        for (c, need) in fits.into_iter().flatten() {
            if ask(c.rule, need) {
                return Some(c.rule);
            }
        }
        others.iter().find_map(|c| ask(c.rule, self.rest(c, values)?).then_some(c.rule))
    }

    /// [`Tree::find`] from a node on behind which candidates may be in more than one list.
    #[inline(never)]
    fn find_in_several(&self, at: u32, values: &Values<A>, ask: &mut dyn FnMut(u16, Need) -> bool) -> Option<u16> {
        let mut lists = ArrayVec::new();
        self.lists(at, values, &mut lists);
        // None of them is ever empty, and no rule is in two.
        while !lists.is_empty() {
            let mut first = 0;
            for i in 1..lists.len() {
                if lists[i][0].rule < lists[first][0].rule {
                    first = i;
                }
            }
            let (next, rest) = lists[first].split_first()?;
            if rest.is_empty() {
                lists.swap_remove(first);
            } else {
                lists[first] = rest;
            }
            if let Some(need) = self.rest(next, values)
                && ask(next.rule, need)
            {
                return Some(next.rule);
            }
        }
        None
    }

    /// What is left to compare of a candidate if what its digest has of it holds.
    #[inline(always)]
    fn rest(&self, c: &Candidate, values: &Values<A>) -> Option<Need> {
        match c.need {
            Need::NOTHING => Some(c.need),
            need => self.digests[usize::from(c.rule)].compare(need, values),
        }
    }

    #[inline(always)]
    fn list(&self, start: u32, len: u16) -> &[Candidate] {
        &self.candidates[start as usize..start as usize + usize::from(len)]
    }

    /// The first from `at` on that does not lead to just one other: a leaf, or a node that leads to two.
    #[inline(always)]
    fn descend(&self, mut at: u32, values: &Values<A>) -> Link {
        loop {
            at = match self.nodes[at as usize] {
                Node::Below { dimension, key, yes, no } => {
                    if values.get(dimension) < key {
                        yes
                    } else {
                        no
                    }
                }
                Node::Many { dimension, cuts, children } => {
                    let interval = self.cuts[cuts as usize].rank(values.get(dimension));
                    match self.links[children as usize + interval] {
                        Link::Node(next) => next,
                        leaf @ Link::Leaf { .. } => return leaf,
                    }
                }
                Node::Leaf { start, len, sure } => return Link::Leaf { start, len, sure },
                Node::Both { .. } => return Link::Node(at),
            };
        }
    }

    /// The lists behind a node that may have rules for a packet.
    fn lists<'t>(&'t self, mut at: u32, values: &Values<A>, out: &mut ArrayVec<&'t [Candidate], LISTS>) {
        let mut waiting: ArrayVec<(u32, u16), LISTS> = ArrayVec::new();
        // The first rule that matches in any case: later ones are of no interest.
        let mut sure = u16::MAX;
        loop {
            match self.descend(at, values) {
                Link::Node(both) => {
                    if let Node::Both { first, second, low } = self.nodes[both as usize] {
                        waiting.push((second, low));
                        at = first;
                        continue;
                    }
                }
                Link::Leaf { start, len, sure: last_is_sure } => {
                    let list = self.list(start, len);
                    if let Some(last) = list.last() {
                        out.push(list);
                        if last_is_sure {
                            sure = sure.min(last.rule);
                        }
                    }
                }
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
            + self.links.len() * size_of::<Link>()
            + self.cuts.iter().map(Ranks::size).sum::<usize>()
    }
}
