//! What a source's connections are translated to, where that binds its later ones.
//!
//! Two kinds of source have an entry here, shared by all workers because one source's connections may be
//! owned by several: those with endpoint-independent mapping (RFC 4787 REQ-1), whose outside endpoint is
//! theirs alone, and those whose port a collision has changed, which keep the changed port towards other
//! remotes as netfilter's `find_appropriate_src` has it. Asked on first packets only; while there is no
//! entry, that costs one relaxed load.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ahash::RandomState;

use super::outside::Outside;
use crate::conntrack::{Key, Ticks};
use crate::packet::{Address, Ip};
use crate::policy::Filtering;

/// An address with a port (or ICMP identifier) of a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint<A> {
    /// The address.
    pub address: A,
    /// The port.
    pub port: u16,
    /// The transport protocol.
    pub proto: u8,
}

/// The outside endpoint that a connection's replies are addressed to.
pub fn endpoint<A: Ip>(reply: &Key<A>) -> Endpoint<A> {
    let port = if reply.proto == A::ICMP { reply.tuple.sport } else { reply.tuple.dport };
    Endpoint { address: reply.tuple.dst, port, proto: reply.proto }
}

/// What a source is translated to.
#[derive(Debug, Clone)]
struct Mapping<A> {
    outside: Endpoint<A>,
    independent: Option<Filtering>,
    /// Seconds that the endpoint is kept after the last connection.
    hold: u32,
    connections: u32,
    /// Addresses sent to, for address-dependent filtering.
    remotes: HashMap<A, u32, RandomState>,
    /// Sources inside whose outside endpoints it has sent to, and that did not let it in; the latest ones.
    called: VecDeque<Endpoint<A>>,
}

impl<A: Address> Mapping<A> {
    /// Whether the filtering lets `from` in.
    fn admits(&self, filtering: Filtering, from: &Endpoint<A>) -> bool {
        match filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => {
                self.remotes.contains_key(&from.address) || self.called.iter().any(|c| c.address == from.address)
            }
            // Remotes outside answer within the connections that there are.
            Filtering::EndpointDependent => self.called.contains(from),
        }
    }
}

/// How many of the sources inside that a source has called are remembered.
const CALLED: usize = 32;

pub(super) const SHARDS: usize = 64;

type Shards<A, T> = [Mutex<HashMap<Endpoint<A>, T, RandomState>>; SHARDS];

/// The mappings of one family.
#[derive(Debug)]
pub struct Mappings<A> {
    count: AtomicUsize,
    inside: Shards<A, Mapping<A>>,
    outside: Outside<A>,
}

impl<A> Default for Mappings<A> {
    fn default() -> Self {
        Mappings {
            count: AtomicUsize::new(0),
            inside: std::array::from_fn(|_| Mutex::default()),
            outside: Outside::default(),
        }
    }
}

fn shard<'a, A: Address, T>(
    all: &'a Shards<A, T>,
    e: &Endpoint<A>,
) -> MutexGuard<'a, HashMap<Endpoint<A>, T, RandomState>> {
    all[usize::from(e.port) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
}

impl<A: Address> Mappings<A> {
    /// Number of sources that have a mapping.
    #[inline]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a source is translated to, and whether for all remotes.
    #[inline]
    pub fn of(&self, source: &Endpoint<A>) -> Option<(Endpoint<A>, Option<Filtering>)> {
        if self.is_empty() { None } else { self.find(source) }
    }

    #[inline(never)]
    fn find(&self, source: &Endpoint<A>) -> Option<(Endpoint<A>, Option<Filtering>)> {
        shard(&self.inside, source).get(source).map(|m| (m.outside, m.independent))
    }

    /// Claims an outside endpoint for a source that is to have it for all remotes. False when it is another's.
    pub fn claim(&self, outside: &Endpoint<A>, source: &Endpoint<A>, now: Ticks) -> bool {
        self.outside.claim(outside, source, now)
    }

    /// The source that has claimed an outside endpoint.
    pub fn owner(&self, outside: &Endpoint<A>, now: Ticks) -> Option<Endpoint<A>> {
        self.outside.owner(outside, now)
    }

    /// For a source with one connection: the seconds that its endpoint would be kept were that one gone.
    pub fn kept_after_last(&self, source: &Endpoint<A>) -> Option<u32> {
        shard(&self.inside, source).get(source).filter(|m| m.connections == 1).map(|m| m.hold)
    }

    /// Gives up a claim for which no connection was made.
    pub fn unclaim(&self, outside: &Endpoint<A>, source: &Endpoint<A>) {
        let inside = shard(&self.inside, source);
        let held = inside.get(source).is_some_and(|m| m.independent.is_some() && m.outside == *outside);
        if !held {
            self.outside.release(outside, source);
        }
    }

    /// A new policy: the source keeps the endpoint it has for all remotes with this filtering from now on, or
    /// (`None`) has it only for the connections that are there.
    pub fn renew(&self, source: &Endpoint<A>, independent: Option<Filtering>) {
        let mut inside = shard(&self.inside, source);
        let Some(m) = inside.get_mut(source).filter(|m| m.independent.is_some()) else { return };
        m.independent = independent;
        if independent.is_none() {
            self.outside.release(&m.outside, source);
        }
    }

    /// A connection of `source` has come, translated to `outside`; if that is for all remotes, with this
    /// filtering, and to be kept for so many seconds after the last connection.
    pub fn add(
        &self,
        source: &Endpoint<A>,
        outside: &Endpoint<A>,
        independent: Option<(Filtering, u32)>,
        remote: Option<A>,
    ) {
        let hold = independent.map_or(0, |(_, hold)| hold);
        let independent = independent.map(|(filtering, _)| filtering);
        let mut shard = shard(&self.inside, source);
        let m = shard.entry(*source).or_insert_with(|| {
            self.count.fetch_add(1, Ordering::Relaxed);
            let (remotes, called) = (HashMap::default(), VecDeque::new());
            Mapping { outside: *outside, independent, hold, connections: 0, remotes, called }
        });
        // Another endpoint for all remotes, of a policy that no longer gives the former.
        if m.independent.is_some() && independent.is_some() && m.outside != *outside {
            self.outside.release(&m.outside, source);
            m.outside = *outside;
        }
        if m.independent.is_none() {
            (m.outside, m.independent) = (*outside, independent);
        }
        if independent.is_some() {
            m.hold = hold;
        }
        m.connections += 1;
        if let Some(r) = remote.filter(|_| m.independent == Some(Filtering::AddressDependent)) {
            *m.remotes.entry(r).or_default() += 1;
        }
    }

    /// A connection that [`Mappings::add`] was told of has gone.
    pub fn remove(&self, source: &Endpoint<A>, remote: Option<A>, now: Ticks) {
        let mut inside = shard(&self.inside, source);
        let Some(m) = inside.get_mut(source) else { return };
        m.connections -= 1;
        if let Some(r) = remote
            && let Some(n) = m.remotes.get_mut(&r)
        {
            *n -= 1;
            if *n == 0 {
                m.remotes.remove(&r);
            }
        }
        if m.connections == 0 {
            match m.independent {
                Some(_) if m.hold > 0 => self.outside.keep(&m.outside, source, now.after(m.hold)),
                Some(_) => self.outside.release(&m.outside, source),
                None => {}
            }
            inside.remove(source);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The source that `from` may reach at an outside endpoint.
    #[inline(never)]
    pub fn inbound(&self, outside: &Endpoint<A>, from: &Endpoint<A>) -> Option<Endpoint<A>> {
        let source = self.outside.user(outside)?;
        let inside = shard(&self.inside, &source);
        let m = inside.get(&source)?;
        m.admits(m.independent?, from).then_some(source)
    }

    /// `from` has sent to an outside endpoint and was not let in. If it is a source inside that has an outside
    /// endpoint too, it lets the other in from now on: two sources inside meet when both have sent (RFC 4787
    /// REQ-9), though the first packet has made no connection that would tell.
    #[inline(never)]
    pub fn call(&self, outside: &Endpoint<A>, from: &Endpoint<A>) {
        let Some(other) = self.outside.user(outside) else { return };
        let mut inside = shard(&self.inside, from);
        let Some(m) = inside.get_mut(from).filter(|m| m.independent.is_some()) else { return };
        if !m.called.contains(&other) {
            m.called.truncate(CALLED - 1);
            m.called.push_front(other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::V4;

    const NOW: Ticks = Ticks(1);

    fn at(address: u32, port: u16) -> Endpoint<V4> {
        Endpoint { address: V4(address), port, proto: 17 }
    }

    #[test]
    fn filtering() {
        for (filtering, stranger, other_port) in [
            (Filtering::EndpointIndependent, true, true),
            (Filtering::AddressDependent, false, true),
            (Filtering::EndpointDependent, false, false),
        ] {
            let m = Mappings::default();
            let (source, outside) = (at(10, 4000), at(99, 4000));
            assert!(m.claim(&outside, &source, NOW) && !m.claim(&outside, &at(11, 4000), NOW));
            m.add(&source, &outside, Some((filtering, 0)), Some(V4(7)));
            assert_eq!(m.of(&source), Some((outside, Some(filtering))));
            assert_eq!(m.inbound(&outside, &at(8, 1)), stranger.then_some(source));
            assert_eq!(m.inbound(&outside, &at(7, 1)), other_port.then_some(source));
            m.remove(&source, Some(V4(7)), NOW);
            assert!(m.is_empty() && m.inbound(&outside, &at(7, 1)).is_none());
            assert!(m.claim(&outside, &at(11, 4000), NOW), "the endpoint is free again");
        }
    }

    #[test]
    fn two_sources_meet_when_both_have_called() {
        for (filtering, other_port) in [(Filtering::AddressDependent, true), (Filtering::EndpointDependent, false)] {
            let m = Mappings::default();
            let (a, b, at_a, at_b) = (at(10, 4000), at(11, 4000), at(99, 4000), at(99, 5000));
            for (source, outside) in [(a, at_a), (b, at_b)] {
                assert!(m.claim(&outside, &source, NOW));
                m.add(&source, &outside, Some((filtering, 0)), Some(V4(7)));
            }
            assert_eq!(m.inbound(&at_b, &a), None);
            m.call(&at_b, &a);
            assert_eq!((m.inbound(&at_b, &a), m.inbound(&at_a, &b)), (None, Some(a)));
            assert_eq!(m.inbound(&at_a, &at(11, 4001)), other_port.then_some(a));
            // Neither who was not called, nor what was called and is nobody's.
            assert_eq!(m.inbound(&at_a, &at(12, 4000)), None);
            m.call(&at(99, 6000), &b);
            assert_eq!(m.inbound(&at_b, &a), None);
            // The latest ones are remembered.
            for n in 0..CALLED as u16 {
                let (source, outside) = (at(20, n), at(98, n));
                assert!(m.claim(&outside, &source, NOW));
                m.add(&source, &outside, Some((filtering, 0)), None);
                m.call(&outside, &a);
            }
            assert_eq!((m.inbound(&at_a, &b), m.inbound(&at_a, &at(20, 0))), (None, Some(a)));
        }
    }

    #[test]
    fn a_claim_without_connection_is_given_up_but_not_one_with() {
        let m = Mappings::default();
        let (source, outside) = (at(10, 4000), at(99, 4000));
        assert!(m.claim(&outside, &source, NOW));
        m.unclaim(&outside, &source);
        assert!(m.claim(&outside, &at(11, 1), NOW));
        m.unclaim(&outside, &at(11, 1));
        assert!(m.claim(&outside, &source, NOW));
        m.add(&source, &outside, Some((Filtering::EndpointIndependent, 0)), None);
        m.unclaim(&outside, &source);
        assert!(!m.claim(&outside, &at(11, 1), NOW));
    }

    #[test]
    fn an_endpoint_is_kept_for_its_source_but_admits_nobody() {
        let m = Mappings::default();
        let (source, outside, other) = (at(10, 4000), at(99, 4000), at(11, 1));
        for now in [Ticks(1), Ticks(500_000)] {
            // Twice, so that the source takes back what is kept for it.
            for _ in 0..2 {
                assert!(m.claim(&outside, &source, now));
                m.add(&source, &outside, Some((Filtering::EndpointIndependent, 120)), None);
                assert_eq!(m.inbound(&outside, &at(8, 1)), Some(source));
                m.remove(&source, None, now);
            }
            assert!(m.is_empty() && m.inbound(&outside, &at(8, 1)).is_none());
            assert!(!m.claim(&outside, &other, now.after(119)));
            assert!(m.claim(&outside, &other, now.after(120)));
            m.unclaim(&outside, &other);
        }
    }
}
