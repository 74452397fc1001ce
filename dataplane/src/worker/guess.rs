//! What the connections that begin in a burst will most likely look like.
//!
//! A connection's second entry goes into a bucket that is known only once its source has been translated, which is
//! too late to load it ahead. Most sources are translated as the one before and keep their port, though. So the
//! bucket of that guess is loaded some packets before it is needed, and where the guess was right the hash need
//! not be computed again.
//!
//! Likewise most of them leave by the zone that the one before has left by. Where there are many rules, the ways
//! through them are walked ahead for several connections together, and hold where the guess was right.

use super::core::Core;
use super::family::Packet;
use super::rules::describe;
use crate::conntrack::{CtState, HashKeys, Key, Table, Tuple};
use crate::packet::{Address, Ip};
use crate::policy::{Facts, Walk, ZoneId};

/// A bucket is loaded while so many connections before it begin: more at a time than the processor can wait for
/// would only stand in a queue.
const AHEAD: usize = 4;
/// Ways through the rules are walked for so many connections together, and for no fewer than this.
const GROUP: usize = 16;
const FEW: usize = 4;

#[derive(Debug, Clone, Copy)]
struct Guess<A> {
    /// Hash of the first packet's key.
    packet: u64,
    /// The first packet's key; once guessed, that of its replies.
    key: Key<A>,
    /// Its hash, once guessed.
    hash: u64,
}

/// The packets of a burst that seem to begin a connection, in order.
#[derive(Debug)]
pub(super) struct Guesses<A> {
    list: Vec<Guess<A>>,
    /// The one that is needed next, and the one to guess next.
    at: usize,
    guessed: usize,
    /// The ways through the rules of the first ones, and the generation of the snapshot that has these rules.
    walks: Vec<Walk<A>>,
    generation: u32,
    /// The zone that the connection that has begun last has left by.
    pub(super) egress: Option<ZoneId>,
    /// What the source of the connection that has begun last was translated to, if it was.
    pub(super) translated: Option<A>,
}

impl<A> Default for Guesses<A> {
    fn default() -> Self {
        Guesses {
            list: Vec::with_capacity(crate::io::BURST),
            at: 0,
            guessed: 0,
            walks: Vec::with_capacity(crate::io::BURST),
            generation: 0,
            egress: None,
            translated: None,
        }
    }
}

impl<A: Address> Guesses<A> {
    /// Forgets the burst before.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.walks.clear();
        (self.at, self.guessed) = (0, 0);
    }

    /// A packet whose key has this hash seems to begin a connection.
    #[inline]
    pub(super) fn add(&mut self, packet: u64, key: Key<A>) {
        self.list.push(Guess { packet, key, hash: 0 });
    }

    /// The first packet of a connection has come. Those of the list that are before it have not begun one.
    #[inline]
    pub(super) fn arrive<P>(&mut self, w: &Core<P>, p: &Packet<A>)
    where
        A: Ip,
    {
        if self.list.get(self.at).is_none_or(|g| g.packet != p.hash) {
            self.skip_to(p.hash);
        }
        // Before their keys become those of the replies.
        if self.walks.len() <= self.at + AHEAD && w.snapshot.walks_ahead::<A>() {
            self.walk_ahead(w, p);
        }
    }

    #[cold]
    fn skip_to(&mut self, packet: u64) {
        let n = self.list.iter().skip(self.at).position(|g| g.packet == packet);
        self.at += n.unwrap_or(0);
    }

    /// Walks the ways of some more.
    #[inline(never)]
    fn walk_ahead<P>(&mut self, w: &Core<P>, p: &Packet<A>)
    where
        A: Ip,
    {
        let from = self.walks.len();
        let some = &self.list[from..self.list.len().min(from + GROUP)];
        if some.len() < FEW || self.guessed > from {
            return;
        }
        self.generation = w.snapshot.generation;
        self.walks.extend(some.iter().map(|g| {
            let facts = describe(&w.snapshot.policy, &g.key, p.interface, CtState::New);
            Walk::of(&Facts { to: self.egress, ..facts })
        }));
        w.snapshot.walk_ahead(&mut self.walks[from..], w.id);
    }

    /// The way through the rules that was walked for the packet that has come, if one was.
    #[inline]
    pub(super) fn walk(&self, generation: u32) -> Option<&Walk<A>> {
        self.walks.get(self.at).filter(|_| self.generation == generation)
    }

    /// The key of the replies to such a packet with its hash, if it was guessed. Loads the bucket of a later one.
    #[inline]
    pub(super) fn next(&mut self, packet: u64, keys: &HashKeys, table: &Table) -> Option<(Key<A>, u64)> {
        if self.list.get(self.at).is_none_or(|g| g.packet != packet) {
            return None;
        }
        let end = self.list.len().min(self.at + 1 + AHEAD);
        for g in &mut self.list[self.guessed.min(end)..end] {
            let Tuple { src, dst, sport, dport } = g.key.tuple;
            g.key.tuple = Tuple { src: dst, dst: self.translated.unwrap_or(src), sport: dport, dport: sport };
            g.hash = g.key.hash(keys);
            table.prefetch(g.hash);
        }
        self.guessed = end;
        let g = self.list[self.at];
        self.at += 1;
        Some((g.key, g.hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{V4, protocol};

    fn key(src: u32, dst: u32, sport: u16, dport: u16) -> Key<V4> {
        Key { tuple: Tuple { src: V4(src), dst: V4(dst), sport, dport }, proto: protocol::UDP }
    }

    #[test]
    fn replies_are_guessed_in_order() {
        let (keys, table) = (HashKeys::default(), Table::new(64).unwrap());
        let mut g = Guesses { translated: Some(V4(9)), ..Guesses::default() };
        let flows: Vec<_> = (0..20).map(|n| key(n, 7, 4000 + n as u16, 53)).collect();
        for k in &flows {
            g.add(k.hash(&keys), *k);
        }
        for (n, k) in (0..).zip(&flows) {
            assert_eq!(g.next(1, &keys, &table), None, "some other packet");
            let reply = key(7, 9, 53, 4000 + n);
            assert_eq!(g.next(k.hash(&keys), &keys, &table), Some((reply, reply.hash(&keys))));
        }
        assert_eq!(g.next(flows[19].hash(&keys), &keys, &table), None);
        g.clear();
        assert_eq!(g.next(flows[0].hash(&keys), &keys, &table), None);
    }
}
