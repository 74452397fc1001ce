//! Going down a large tree step by step, so that several packets wait for its nodes together.
//!
//! A large tree does not stay in the nearest cache, and each node says only when it has arrived which one is next. So the
//! ways of some packets are taken side by side, well before the first of them is needed: each step loads what the
//! next one looks at.

use super::{Candidate, Link, Need, Node, Tree, Values};
use crate::conntrack::region::prefetch;
use crate::policy::Facts;
use crate::policy::ranks::Key;

/// A packet's way as far as it has come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Walk<A> {
    /// What the packet is held to be.
    values: Values<A>,
    stage: Stage,
    /// A node, or the place of a link to it.
    node: u32,
    /// A block of the node's cuts.
    level: u32,
    block: u32,
    /// Candidates that have not been looked at.
    start: u32,
    end: u32,
    /// The first of them whose digest fits, and the next one; of both what is left to compare.
    fits: [Option<(u32, Need)>; 2],
    /// The rule that most likely decides: the first of which nothing is left to compare.
    likely: Option<u16>,
}

/// What has been loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Node,
    /// What tells where the node's cuts are.
    Inner,
    Cuts,
    Link,
    Candidates,
    Digests,
    /// Nothing more: the node leads to several lists.
    Several,
    /// Nothing more: it is known what fits.
    Fits,
}

impl<A: Key> Walk<A> {
    /// The way of a packet of which this is held to be known.
    #[inline]
    pub(crate) fn of(f: &Facts<A>) -> Self {
        let values = Values::of(f);
        Walk {
            values,
            stage: Stage::Node,
            node: 0,
            level: 0,
            block: 0,
            start: 0,
            end: 0,
            fits: [None; 2],
            likely: None,
        }
    }

    /// Whether it is the way of a packet with these values, and has ended.
    #[inline]
    pub(super) fn is_of(&self, values: &Values<A>) -> bool {
        matches!(self.stage, Stage::Several | Stage::Fits) && self.values == *values
    }

    /// The rule that most likely decides.
    #[inline]
    pub(crate) fn likely(&self) -> Option<u16> {
        self.likely
    }
}

/// Where a way has ended.
pub(super) enum End<'t> {
    /// At a node that leads to several lists.
    Several(u32),
    /// At candidates: these fit as far as their digests tell, if they are any, and then there are others.
    Fits { fits: [Option<(Candidate, Need)>; 2], others: &'t [Candidate] },
}

impl<A: Key> Tree<A> {
    /// Takes some ways to their ends.
    #[inline(never)]
    pub(super) fn walk(&self, walks: &mut [Walk<A>]) {
        for w in &mut *walks {
            self.node(w, self.root, true);
        }
        let mut going = true;
        while going {
            going = false;
            for w in &mut *walks {
                match w.stage {
                    Stage::Node => self.node(w, w.node, false),
                    Stage::Inner => self.inner(w),
                    Stage::Cuts => self.cuts(w),
                    Stage::Link => self.link(w),
                    Stage::Candidates => self.candidates(w),
                    Stage::Digests => self.digests(w),
                    Stage::Several | Stage::Fits => continue,
                }
                going = true;
            }
        }
    }

    /// Where a way has ended.
    #[inline(always)]
    pub(super) fn end(&self, w: &Walk<A>) -> End<'_> {
        if w.stage == Stage::Several {
            return End::Several(w.node);
        }
        let known = |fit: Option<(u32, Need)>| fit.map(|(i, need)| (self.candidates[i as usize], need));
        End::Fits { fits: w.fits.map(known), others: &self.candidates[w.start as usize..w.end as usize] }
    }

    /// From a node on to what is not near it. Those behind the root are looked at by all packets.
    #[inline(always)]
    fn node(&self, w: &mut Walk<A>, mut at: u32, root: bool) {
        loop {
            match &self.nodes[at as usize] {
                Node::Below { dimension, key, yes, no } => {
                    at = if w.values.get(*dimension) < *key { *yes } else { *no }
                }
                Node::Many { .. } if root => {
                    w.node = at;
                    return self.cuts(w);
                }
                Node::Many { cuts, .. } => {
                    prefetch(self.cuts.as_ptr().wrapping_add(*cuts as usize));
                    (w.node, w.stage) = (at, Stage::Inner);
                    return;
                }
                Node::Leaf { start, len, .. } => return self.leaf(w, *start, *len),
                Node::Both { .. } => {
                    (w.node, w.stage) = (at, Stage::Several);
                    return;
                }
            }
        }
    }

    #[inline(always)]
    fn leaf(&self, w: &mut Walk<A>, start: u32, len: u16) {
        prefetch(self.candidates.as_ptr().wrapping_add(start as usize));
        (w.start, w.end, w.stage) = (start, start + u32::from(len), Stage::Candidates);
    }

    #[inline(always)]
    fn inner(&self, w: &mut Walk<A>) {
        let Node::Many { cuts, .. } = &self.nodes[w.node as usize] else { return };
        self.cuts[*cuts as usize].prefetch(0, 0);
        (w.level, w.block, w.stage) = (0, 0, Stage::Cuts);
    }

    /// Looks at a block of a node's cuts, and at those on the next levels that are small.
    #[inline(always)]
    fn cuts(&self, w: &mut Walk<A>) {
        let Node::Many { dimension, cuts, children } = &self.nodes[w.node as usize] else { return };
        let (cuts, x) = (&self.cuts[*cuts as usize], w.values.get(*dimension));
        let rank = match cuts.descend(w.level, w.block, x) {
            Ok(rank) => rank,
            Err((level, block)) => {
                (w.level, w.block, w.stage) = (level, block, Stage::Cuts);
                return;
            }
        };
        let link = *children as usize + rank;
        prefetch(self.links.as_ptr().wrapping_add(link));
        (w.node, w.stage) = (link as u32, Stage::Link);
    }

    #[inline(always)]
    fn link(&self, w: &mut Walk<A>) {
        match self.links[w.node as usize] {
            Link::Node(node) => {
                prefetch(self.nodes.as_ptr().wrapping_add(node as usize));
                (w.node, w.stage) = (node, Stage::Node);
            }
            Link::Leaf { start, len, .. } => self.leaf(w, start, len),
        }
    }

    #[inline(always)]
    fn candidates(&self, w: &mut Walk<A>) {
        for c in &self.candidates[w.start as usize..w.end as usize] {
            prefetch(self.digests.as_ptr().wrapping_add(usize::from(c.rule)));
        }
        w.stage = Stage::Digests;
    }

    /// Looks for what fits.
    #[inline(always)]
    fn digests(&self, w: &mut Walk<A>) {
        while w.start < w.end {
            let i = w.start;
            w.start += 1;
            let c = &self.candidates[i as usize];
            let Some(need) = self.rest(c, &w.values) else { continue };
            w.fits[usize::from(w.fits[0].is_some())] = Some((i, need));
            if need == Need::NOTHING {
                w.likely = Some(c.rule);
            }
            if need == Need::NOTHING || w.fits[1].is_some() {
                break;
            }
        }
        w.stage = Stage::Fits;
    }
}
