//! Fragments: held until their datagram is complete, then sent on as they came, translated alike.
//!
//! Nothing of a datagram leaves before all of it has arrived, as with netfilter's defragmentation: so an
//! overlap or an impossible length condemns all of it, and what the rules see is the whole. But nothing
//! is copied together: the pieces keep their frames. What may wait is bounded by datagram, by source, in
//! all, and in time.

use std::collections::{HashMap, VecDeque};

use ahash::RandomState;

use super::{HashKeys, Ticks};
use crate::io::Frame;
use crate::packet::{FragmentInfo, Headers, Ip};
use crate::policy::InterfaceId;

/// Pieces of one datagram: 64 KiB in pieces of the smallest MTU hosts must accept (576 bytes).
const PIECES: usize = 128;
/// Frames that one source may keep waiting.
const PER_SOURCE: u32 = 256;
/// Incomplete datagrams are given up after this time: Linux's `ipfrag_time` and `ip6frag_time`.
const TIMEOUT_S: [u32; 2] = [30, 60];

/// What the pieces of one datagram have in common (RFC 791 3.2, RFC 8200 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FragmentKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Identification.
    pub id: u32,
    /// Transport protocol (IPv4 only: IPv6 identifies without it).
    pub proto: u8,
}

/// One fragment.
#[derive(Debug, Clone, Copy)]
pub struct Piece<A> {
    /// Its frame.
    pub frame: Frame,
    /// Where it came in.
    pub interface: InterfaceId,
    /// Its headers.
    pub headers: Headers<A>,
    /// Its place.
    pub info: FragmentInfo,
}

impl<A> Piece<A> {
    fn payload(&self) -> u32 {
        self.headers.transport_length() as u32
    }

    fn end(&self) -> u32 {
        u32::from(self.info.offset) + self.payload()
    }
}

#[derive(Debug)]
struct Datagram<A> {
    /// Sorted by offset, disjoint.
    pieces: Vec<Piece<A>>,
    received: u32,
    /// Length of the whole payload, once the last piece is there.
    total: Option<u32>,
}

/// What became of a fragment.
#[derive(Debug)]
pub enum Collected<A> {
    /// It waits for the others.
    Waits,
    /// It completes its datagram; the pieces in order.
    Complete(Vec<Piece<A>>),
    /// It repeats one that is there already.
    Duplicate(Frame),
    /// It contradicts the others, or what a datagram can be: these frames are to be dropped.
    Refused(Vec<Frame>),
    /// A limit is reached: these frames are to be dropped.
    Full(Vec<Frame>),
}

/// Datagrams of one family that are not complete.
#[derive(Debug)]
pub struct Fragments<A> {
    datagrams: HashMap<FragmentKey<A>, Datagram<A>, RandomState>,
    /// In the order in which they expire. An entry may outlive its datagram.
    order: VecDeque<(Ticks, FragmentKey<A>)>,
    by_source: HashMap<A, u32, RandomState>,
    waiting: u32,
}

impl<A> Default for Fragments<A> {
    fn default() -> Self {
        Fragments { datagrams: HashMap::default(), order: VecDeque::new(), by_source: HashMap::default(), waiting: 0 }
    }
}

impl<A: Ip> Fragments<A> {
    /// The key of a fragment.
    pub fn key(h: &Headers<A>, info: &FragmentInfo) -> FragmentKey<A> {
        FragmentKey { src: h.src, dst: h.dst, id: info.id, proto: if A::V6 { 0 } else { h.proto } }
    }

    /// The hash of that key, the same on every worker.
    pub fn hash(h: &Headers<A>, info: &FragmentInfo, keys: &HashKeys) -> u64 {
        let k = Self::key(h, info);
        k.src.hash_with(k.dst, u64::from(k.id) << 8 | u64::from(k.proto), keys)
    }

    /// Frames that wait.
    pub fn waiting(&self) -> u32 {
        self.waiting
    }

    /// Adds a fragment. At most `room` frames may wait in all.
    pub fn add(&mut self, p: Piece<A>, now: Ticks, room: u32) -> Collected<A> {
        let key = Self::key(&p.headers, &p.info);
        // All but the last piece are multiples of 8 long; the whole fits the length field.
        if p.payload() == 0 || (p.info.more && !p.payload().is_multiple_of(8)) || p.end() > 65_535 - 20 {
            let mut frames = self.take(&key);
            frames.push(p.frame);
            return Collected::Refused(frames);
        }
        if self.waiting >= room || *self.by_source.get(&key.src).unwrap_or(&0) >= PER_SOURCE {
            return Collected::Full(vec![p.frame]);
        }
        let d = self.datagrams.entry(key).or_insert_with(|| {
            self.order.push_back((now.after(TIMEOUT_S[usize::from(A::V6)]), key));
            Datagram { pieces: Vec::new(), received: 0, total: None }
        });
        let at = d.pieces.partition_point(|x| x.info.offset < p.info.offset);
        if d.pieces.get(at).is_some_and(|x| x.info == p.info && x.payload() == p.payload()) {
            return Collected::Duplicate(p.frame);
        }
        let overlaps = at > 0 && d.pieces[at - 1].end() > u32::from(p.info.offset)
            || d.pieces.get(at).is_some_and(|x| p.end() > u32::from(x.info.offset));
        let beyond = match (d.total, p.info.more) {
            (Some(total), true) => p.end() > total,
            (Some(total), false) => p.end() != total,
            (None, false) => d.pieces.last().is_some_and(|x| x.end() > p.end()),
            (None, true) => false,
        };
        if overlaps || beyond || d.pieces.len() == PIECES {
            let mut frames = self.take(&key);
            frames.push(p.frame);
            return Collected::Refused(frames);
        }
        if !p.info.more {
            d.total = Some(p.end());
        }
        d.received += p.payload();
        d.pieces.insert(at, p);
        self.waiting += 1;
        *self.by_source.entry(key.src).or_default() += 1;
        if d.total == Some(d.received) {
            return Collected::Complete(self.remove(&key));
        }
        Collected::Waits
    }

    /// Gives up datagrams whose time is over; their frames.
    pub fn expire(&mut self, now: Ticks) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some((t, key)) = self.order.front().copied() {
            if !t.reached(now) {
                break;
            }
            self.order.pop_front();
            frames.extend(self.take(&key));
        }
        frames
    }

    fn take(&mut self, key: &FragmentKey<A>) -> Vec<Frame> {
        self.remove(key).iter().map(|p| p.frame).collect()
    }

    fn remove(&mut self, key: &FragmentKey<A>) -> Vec<Piece<A>> {
        let Some(d) = self.datagrams.remove(key) else { return Vec::new() };
        let n = d.pieces.len() as u32;
        self.waiting -= n;
        if let Some(s) = self.by_source.get_mut(&key.src) {
            *s -= n;
            if *s == 0 {
                self.by_source.remove(&key.src);
            }
        }
        // Entries of datagrams that are gone leave when their time comes, or here when they pile up.
        if self.order.len() > 64 + 2 * self.datagrams.len() {
            self.order.retain(|(_, k)| self.datagrams.contains_key(k));
        }
        d.pieces
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::V4;

    fn piece(id: u32, offset: u16, len: u16, more: bool) -> Piece<V4> {
        let info = FragmentInfo { id, offset, more };
        Piece {
            frame: Frame { at: u32::from(offset), len },
            interface: 0,
            headers: Headers {
                l3: 0,
                l4: 20,
                end: 20 + len,
                proto: 17,
                ttl: 64,
                src: V4(1),
                dst: V4(2),
                fragment: Some(info),
            },
            info,
        }
    }

    #[test]
    fn refusals() {
        for (name, pieces) in [
            ("overlap by one byte unit", vec![piece(1, 0, 800, true), piece(1, 792, 100, false)]),
            ("odd length in the middle", vec![piece(1, 0, 801, true)]),
            ("beyond 65535", vec![piece(1, 0, 800, true), piece(1, 65_528, 800, false)]),
            ("two ends", vec![piece(1, 800, 80, false), piece(1, 880, 80, false)]),
            ("data after the end", vec![piece(1, 800, 80, false), piece(1, 1600, 80, true)]),
            ("end before data", vec![piece(1, 1600, 80, true), piece(1, 800, 80, false)]),
        ] {
            let mut f = Fragments::default();
            let n = pieces.len();
            let mut last = Collected::Waits;
            for p in pieces {
                last = f.add(p, Ticks(1), 100);
            }
            assert!(matches!(&last, Collected::Refused(frames) if frames.len() == n), "{name}: {last:?}");
            assert_eq!(f.waiting(), 0, "{name}");
        }
    }

    #[test]
    fn limits() {
        let mut f = Fragments::default();
        for i in 0..10 {
            assert!(matches!(f.add(piece(i, 8, 8, true), Ticks(1), 10), Collected::Waits));
        }
        assert!(matches!(f.add(piece(99, 8, 8, true), Ticks(1), 10), Collected::Full(_)));
        assert_eq!(f.expire(Ticks(30_001)).len(), 10);
        assert_eq!((f.waiting(), f.by_source.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn any_order_with_duplicates_completes_once(len in 1u16..6000, size in 1u16..40, seed: u64, repeats in 0usize..5) {
            let size = size * 8;
            let mut pieces: Vec<_> = (0..len.div_ceil(size))
                .map(|i| piece(1, i * size, size.min(len - i * size), (i + 1) * size < len))
                .take(PIECES)
                .collect();
            prop_assume!(!pieces.last().unwrap().info.more && pieces.len() > 1);
            let n = pieces.len();
            let mut x = seed | 1;
            for i in (1..n).rev() {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                pieces.swap(i, (x >> 33) as usize % (i + 1));
            }
            for i in 0..repeats.min(n - 1) {
                pieces.insert(i + 1, pieces[i]);
            }
            let mut f = Fragments::default();
            let mut complete = 0;
            for p in pieces {
                match f.add(p, Ticks(1), 1000) {
                    Collected::Complete(all) => {
                        complete += 1;
                        prop_assert_eq!(all.len(), n);
                        prop_assert!(all.windows(2).all(|w| w[0].end() == u32::from(w[1].info.offset)));
                    }
                    Collected::Waits | Collected::Duplicate(_) => {}
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            prop_assert_eq!((complete, f.waiting()), (1, 0));
        }
    }
}
