//! Building a decision tree: at each node the dimension is chosen that leaves the shortest lists.

use std::collections::{HashMap, HashSet};

use ahash::RandomState;

use super::digest::Digest;
use super::dimension::{DIMENSIONS, Dimension, Ranges};
use super::{Candidate, LARGE, LISTS, Link, Need, Node, Tree};
use crate::packet::Address;
use crate::policy::ranks::{Key, Ranks};
use crate::policy::{Family, Match};

/// A list this short is not divided further.
const SHORT: usize = 6;
/// Ranges of one rule in a dimension that are looked at one by one; of more, only first and last.
const RANGES: usize = 64;
/// Intervals that are told apart by comparing; more by [`Ranks`].
const FEW: usize = 8;
/// A node's children may have so many times its rules together.
const REPEATS: usize = 8;
/// The deepest a tree becomes.
const DEPTH: usize = 24;
/// Rules in all nodes together, for each rule and as such: what building may cost in time and memory.
const WORK: (usize, usize) = (48, 1 << 16);

/// What is known of a rule.
struct Projection {
    /// Its values in each dimension; `None` for all.
    ranges: [Option<Ranges>; DIMENSIONS],
    /// Conditions that no node can decide.
    always: Need,
    /// Whether no later rule is asked when it matches.
    last: bool,
}

/// Values that reach a node, in each dimension.
type Region = [(u128, u128); DIMENSIONS];

/// Builds one tree.
pub(super) struct Builder<A> {
    rules: Vec<Projection>,
    tree: Tree<A>,
    /// Leaves by their lists.
    leaves: HashMap<Vec<Candidate>, u32, RandomState>,
    work: usize,
}

/// A way to divide the rules of a node.
struct Plan {
    dimension: Dimension,
    /// Where intervals begin, the first excepted.
    cuts: Vec<u128>,
    /// Rules with a longer span than this go to a branch of their own.
    longest: usize,
    /// How long a list is expected to be; less is better.
    length: f64,
}

impl<A: Key> Builder<A> {
    /// The tree for a list of rules, each with its conditions and whether it is the last that is asked.
    pub(super) fn build(rules: &[(&Match, bool)]) -> Tree<A> {
        let family = Family::of_type::<A>();
        let tree = Tree {
            nodes: vec![],
            root: 0,
            candidates: vec![],
            digests: vec![],
            cuts: vec![],
            links: vec![],
            large: false,
        };
        let mut b = Builder { rules: vec![], tree, leaves: HashMap::default(), work: WORK.1 + WORK.0 * rules.len() };
        let mut all = Vec::new();
        for (i, (m, last)) in (0..).zip(rules) {
            let (projection, need) = project::<A>(m, *last);
            b.rules.push(projection);
            b.tree.digests.push(Digest::of(m));
            if m.admits(family) {
                all.push(Candidate { rule: i, need });
            }
        }
        let region = Dimension::ALL.map(|d| (0, d.highest::<A>()));
        b.tree.root = b.node(all, region, 0, LISTS);
        b.tree.large = b.tree.size() >= LARGE;
        b.tree
    }

    fn push(&mut self, n: Node<A>) -> u32 {
        self.tree.nodes.push(n);
        self.tree.nodes.len() as u32 - 1
    }

    /// A node for these rules. Its candidates may be in so many lists.
    fn node(&mut self, mut all: Vec<Candidate>, region: Region, depth: usize, lists: usize) -> u32 {
        let certain = |c: &Candidate| c.need == Need::NOTHING && self.rules[usize::from(c.rule)].last;
        let sure = all.iter().position(certain);
        all.truncate(sure.map_or(all.len(), |i| i + 1));
        self.work = self.work.saturating_sub(all.len());
        let by_state = if depth == 0 { self.by_state(&all, &region) } else { None };
        let plan = match by_state {
            None if all.len() > SHORT && depth < DEPTH => self.plan(&all, &region, lists),
            known => known,
        };
        let Some(plan) = plan.filter(|_| self.work > 0) else { return self.leaf(all, sure.is_some()) };
        let spans: Vec<usize> = all.iter().map(|c| self.span(c, plan.dimension, &plan.cuts)).collect();
        let (mut narrow, mut wide) = (Vec::new(), Vec::new());
        for (c, span) in all.into_iter().zip(spans) {
            if span <= plan.longest { narrow.push(c) } else { wide.push(c) }
        }
        if wide.is_empty() {
            return self.divide(&narrow, &plan, region, depth, lists);
        }
        let low = |list: &[Candidate]| list.first().map_or(u16::MAX, |c| c.rule);
        let (a, b) = (low(&narrow), low(&wide));
        let own = lists / 2;
        let divided = self.divide(&narrow, &plan, region, depth + 1, lists - own);
        let other = self.node(wide, region, depth + 1, own);
        self.push(match a < b {
            true => Node::Both { first: divided, second: other, low: b },
            false => Node::Both { first: other, second: divided, low: a },
        })
    }

    fn leaf(&mut self, all: Vec<Candidate>, sure: bool) -> u32 {
        if let Some(known) = self.leaves.get(&all) {
            return *known;
        }
        let start = self.tree.candidates.len() as u32;
        self.tree.candidates.extend_from_slice(&all);
        let node = self.push(Node::Leaf { start, len: all.len() as u16, sure });
        self.leaves.insert(all, node);
        node
    }

    /// A node that tells the intervals of a plan apart.
    fn divide(&mut self, all: &[Candidate], plan: &Plan, region: Region, depth: usize, lists: usize) -> u32 {
        let d = plan.dimension;
        let (first, last) = region[d as usize];
        let starts: Vec<u128> = std::iter::once(first).chain(plan.cuts.iter().copied()).collect();
        let ends = plan.cuts.iter().map(|c| c - 1).chain([last]);
        let intervals: Vec<(u128, u128)> = starts.iter().copied().zip(ends).collect();
        let mut of_interval: Vec<Vec<Candidate>> = vec![Vec::new(); intervals.len()];
        for c in all {
            let rule = &self.rules[usize::from(c.rule)];
            let Some(ranges) = rule.ranges[d as usize].as_ref().filter(|_| c.need.has(d)) else {
                of_interval.iter_mut().for_each(|list| list.push(*c));
                continue;
            };
            for (a, b) in ranges {
                if *b < first || *a > last {
                    continue;
                }
                let from = interval(&plan.cuts, *a);
                for i in from..=interval(&plan.cuts, *b) {
                    let inside = *a <= intervals[i].0 && intervals[i].1 <= *b;
                    let decided = inside && !rule.always.has(d);
                    let need = if decided { c.need.without(d) } else { c.need };
                    match of_interval[i].last_mut() {
                        // Another range of the rule reaches into the interval.
                        Some(same) if same.rule == c.rule => {}
                        _ => of_interval[i].push(Candidate { need, ..*c }),
                    }
                }
            }
        }
        // Intervals with the same rules have one child, which sees all their values.
        let mut kinds: HashMap<&[Candidate], usize, RandomState> = HashMap::default();
        let mut hulls: Vec<(usize, (u128, u128))> = Vec::new();
        let kind: Vec<usize> = of_interval
            .iter()
            .enumerate()
            .map(|(i, list)| {
                let k = *kinds.entry(list).or_insert_with(|| {
                    hulls.push((i, intervals[i]));
                    hulls.len() - 1
                });
                hulls[k].1.1 = intervals[i].1;
                k
            })
            .collect();
        drop(kinds);
        let children: Vec<u32> = hulls
            .iter()
            .map(|(i, hull)| {
                let mut inner = region;
                inner[d as usize] = *hull;
                self.node(std::mem::take(&mut of_interval[*i]), inner, depth + 1, lists)
            })
            .collect();
        // Neighbours with the same child need no cut.
        let mut cuts = Vec::new();
        let mut nodes = vec![children[kind[0]]];
        for (cut, k) in plan.cuts.iter().zip(&kind[1..]) {
            if nodes.last() != Some(&children[*k]) {
                cuts.push(A::from_number(*cut));
                nodes.push(children[*k]);
            }
        }
        self.decide(d, &cuts, &nodes)
    }

    /// The nodes that lead from the intervals between `cuts` to `nodes`.
    fn decide(&mut self, dimension: Dimension, cuts: &[A], nodes: &[u32]) -> u32 {
        if nodes.len() == 1 {
            return nodes[0];
        }
        if nodes.len() > FEW {
            let children = self.tree.links.len() as u32;
            let link = |n: &u32| match self.tree.nodes[*n as usize] {
                Node::Leaf { start, len, sure } => Link::Leaf { start, len, sure },
                _ => Link::Node(*n),
            };
            let links: Vec<Link> = nodes.iter().map(link).collect();
            self.tree.links.extend(links);
            self.tree.cuts.push(Ranks::new(cuts));
            let cuts = self.tree.cuts.len() as u32 - 1;
            return self.push(Node::Many { dimension, cuts, children });
        }
        let middle = cuts.len() / 2;
        let yes = self.decide(dimension, &cuts[..middle], &nodes[..=middle]);
        let no = self.decide(dimension, &cuts[middle + 1..], &nodes[middle + 1..]);
        self.push(Node::Below { dimension, key: cuts[middle], yes, no })
    }

    /// A division by the packet's state, where that does not double the rules. Nearly every packet that is asked
    /// about is a NEW one, and what rules say of others is out of its way behind this.
    fn by_state(&self, all: &[Candidate], region: &Region) -> Option<Plan> {
        let dimension = Dimension::State;
        let (first, last) = region[dimension as usize];
        let cuts = self.bounds(all, dimension, (first, last));
        if cuts.is_empty() {
            return None;
        }
        let mut kinds: HashSet<Vec<u16>, RandomState> = HashSet::default();
        for state in first..=last {
            let mut list = Vec::new();
            for c in all {
                let rule = &self.rules[usize::from(c.rule)];
                let has = |(a, b): &(u128, u128)| *a <= state && state <= *b;
                if rule.ranges[dimension as usize].as_ref().is_some_and(|r| !r.iter().any(has)) {
                    continue;
                }
                list.push(c.rule);
                if rule.last && c.need.without(dimension) == Need::NOTHING {
                    break;
                }
            }
            kinds.insert(list);
        }
        let together: usize = kinds.iter().map(Vec::len).sum();
        let fits = together <= 2 * all.len() + 64;
        fits.then_some(Plan { dimension, cuts, longest: usize::MAX, length: 0.0 })
    }

    /// The best way to divide the rules; `None` when none is worth it.
    fn plan(&self, all: &[Candidate], region: &Region, lists: usize) -> Option<Plan> {
        let mut best: Option<Plan> = None;
        for d in Dimension::ALL {
            let bounds = self.bounds(all, d, region[d as usize]);
            if bounds.is_empty() {
                continue;
            }
            // All intervals, or some that are coarser, where rules overlap each other much.
            for pieces in [usize::MAX, 16, 4, 2] {
                if pieces != usize::MAX && bounds.len() < pieces {
                    continue;
                }
                let cuts = if pieces == usize::MAX { bounds.clone() } else { quantiles(&bounds, pieces) };
                let plan = self.evaluate(all, d, cuts, lists);
                let enough = plan.length < all.len() as f64 / 8.0;
                if best.as_ref().is_none_or(|b| plan.length < b.length) {
                    best = Some(plan);
                }
                if enough {
                    break;
                }
            }
        }
        best.filter(|p| p.length < 0.9 * all.len() as f64)
    }

    /// Where the rules' ranges begin and where they have ended, within `(first, last)`.
    fn bounds(&self, all: &[Candidate], d: Dimension, (first, last): (u128, u128)) -> Vec<u128> {
        let mut out = Vec::new();
        for c in all.iter().filter(|c| c.need.has(d)) {
            for (a, b) in self.rules[usize::from(c.rule)].ranges[d as usize].iter().flatten() {
                out.extend(Some(*a).filter(|a| first < *a && *a <= last));
                out.extend(b.checked_add(1).filter(|b| first < *b && *b <= last));
            }
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    /// In how many intervals a rule is.
    fn span(&self, c: &Candidate, d: Dimension, cuts: &[u128]) -> usize {
        let ranges = self.rules[usize::from(c.rule)].ranges[d as usize].as_ref();
        let Some(ranges) = ranges.filter(|_| c.need.has(d)) else { return cuts.len() + 1 };
        let all: usize = ranges.iter().map(|(a, b)| interval(cuts, *b) - interval(cuts, *a) + 1).sum();
        all.min(cuts.len() + 1)
    }

    /// What a division by these cuts would be like.
    fn evaluate(&self, all: &[Candidate], dimension: Dimension, cuts: Vec<u128>, lists: usize) -> Plan {
        let spans: Vec<usize> = all.iter().map(|c| self.span(c, dimension, &cuts)).collect();
        let mut sorted = spans.clone();
        sorted.sort_unstable();
        // Those in most intervals are set aside until the others fit.
        let mut total: usize = sorted.iter().sum();
        let mut kept = sorted.len();
        while kept > 0 && total > REPEATS * kept + 64 {
            kept -= 1;
            total -= sorted[kept];
        }
        let longest = if kept == 0 { 0 } else { sorted[kept - 1] };
        // All of one span go the same way.
        let longest = if sorted.get(kept).is_some_and(|next| *next == longest) { longest - 1 } else { longest };
        let wide = spans.iter().filter(|s| **s > longest).count();
        let narrow = spans.len() - wide;
        if narrow == 0 || (wide > 0 && lists < 2) {
            return Plan { dimension, cuts, longest, length: f64::INFINITY };
        }
        // The length of the list in which a rule is, on average.
        let mut sizes = vec![0i64; cuts.len() + 2];
        for (c, _) in all.iter().zip(&spans).filter(|(_, s)| **s <= longest) {
            let ranges = self.rules[usize::from(c.rule)].ranges[dimension as usize].as_deref();
            let whole = [(0, u128::MAX)];
            for (a, b) in ranges.filter(|_| c.need.has(dimension)).unwrap_or(&whole) {
                sizes[interval(&cuts, *a)] += 1;
                sizes[interval(&cuts, *b) + 1] -= 1;
            }
        }
        let (mut size, mut sum, mut squares) = (0, 0.0, 0.0);
        for change in sizes {
            size += change;
            sum += size as f64;
            squares += (size * size) as f64;
        }
        Plan { dimension, cuts, longest, length: squares / f64::max(sum, 1.0) + wide as f64 }
    }
}

/// A rule as the tree sees it, and the conditions that are to be compared at first.
fn project<A: Address>(m: &Match, last: bool) -> (Projection, Need) {
    let mut always = Need::NOTHING;
    if m.status.is_some() || m.mark.is_some() || m.icmp.is_some() || m.tcp_flags.is_some() {
        always = always.with_others();
    }
    let mut need = always;
    let ranges = Dimension::ALL.map(|d| {
        let (mut ranges, complete) = d.ranges::<A>(m)?;
        need = need.with(d);
        if !complete {
            // Addresses of interfaces may be anywhere.
            always = always.with(d);
            return None;
        }
        if ranges.len() > RANGES {
            always = always.with(d);
            ranges = vec![(ranges[0].0, ranges[ranges.len() - 1].1)];
        }
        Some(ranges)
    });
    (Projection { ranges, always, last }, need)
}

/// The interval that a value is in.
fn interval(cuts: &[u128], value: u128) -> usize {
    cuts.partition_point(|c| *c <= value)
}

/// So many pieces with about as many bounds each.
fn quantiles(bounds: &[u128], pieces: usize) -> Vec<u128> {
    (1..pieces).map(|i| bounds[i * bounds.len() / pieces]).collect()
}
