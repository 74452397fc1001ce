//! What a source's connections are translated to, where that binds its later ones.
//!
//! Two kinds of source have an entry here, shared by all workers because one source's connections may be
//! owned by several: those with endpoint-independent mapping (RFC 4787 REQ-1), whose outside endpoint is
//! theirs alone, and those whose port a collision has changed, which keep the changed port towards other
//! remotes as netfilter's `find_appropriate_src` has it. Asked on first packets only; while there is no
//! entry, that costs one relaxed load.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ahash::RandomState;

use crate::conntrack::Key;
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
    connections: u32,
    /// Addresses sent to, for address-dependent filtering.
    remotes: HashMap<A, u32, RandomState>,
}

const SHARDS: usize = 64;

type Shards<A, T> = [Mutex<HashMap<Endpoint<A>, T, RandomState>>; SHARDS];

/// The mappings of one family.
#[derive(Debug)]
pub struct Mappings<A> {
    count: AtomicUsize,
    inside: Shards<A, Mapping<A>>,
    /// Outside endpoints of endpoint-independent mappings, and whose they are.
    outside: Shards<A, Endpoint<A>>,
}

impl<A> Default for Mappings<A> {
    fn default() -> Self {
        Mappings {
            count: AtomicUsize::new(0),
            inside: std::array::from_fn(|_| Mutex::default()),
            outside: std::array::from_fn(|_| Mutex::default()),
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
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a source is translated to, and whether for all remotes.
    pub fn of(&self, source: &Endpoint<A>) -> Option<(Endpoint<A>, Option<Filtering>)> {
        if self.is_empty() {
            return None;
        }
        shard(&self.inside, source).get(source).map(|m| (m.outside, m.independent))
    }

    /// Claims an outside endpoint for a source that is to have it for all remotes. False when it is another's.
    pub fn claim(&self, outside: &Endpoint<A>, source: &Endpoint<A>) -> bool {
        shard(&self.outside, outside).entry(*outside).or_insert(*source) == source
    }

    /// Gives up a claim for which no connection was made.
    pub fn unclaim(&self, outside: &Endpoint<A>, source: &Endpoint<A>) {
        let inside = shard(&self.inside, source);
        let held = inside.get(source).is_some_and(|m| m.independent.is_some() && m.outside == *outside);
        if !held {
            self.release(outside, source);
        }
    }

    /// Frees an outside endpoint if it is the source's.
    fn release(&self, outside: &Endpoint<A>, source: &Endpoint<A>) {
        let mut shard = shard(&self.outside, outside);
        if shard.get(outside) == Some(source) {
            shard.remove(outside);
        }
    }

    /// A new policy: the source keeps the endpoint it has for all remotes with this filtering from now on, or
    /// (`None`) has it only for the connections that are there.
    pub fn renew(&self, source: &Endpoint<A>, independent: Option<Filtering>) {
        let mut inside = shard(&self.inside, source);
        let Some(m) = inside.get_mut(source).filter(|m| m.independent.is_some()) else { return };
        m.independent = independent;
        if independent.is_none() {
            self.release(&m.outside, source);
        }
    }

    /// A connection of `source` has come, translated to `outside`.
    pub fn add(&self, source: &Endpoint<A>, outside: &Endpoint<A>, independent: Option<Filtering>, remote: Option<A>) {
        let mut shard = shard(&self.inside, source);
        let m = shard.entry(*source).or_insert_with(|| {
            self.count.fetch_add(1, Ordering::Relaxed);
            Mapping { outside: *outside, independent, connections: 0, remotes: HashMap::default() }
        });
        // Another endpoint for all remotes, of a policy that no longer gives the former.
        if m.independent.is_some() && independent.is_some() && m.outside != *outside {
            self.release(&m.outside, source);
            m.outside = *outside;
        }
        if m.independent.is_none() {
            (m.outside, m.independent) = (*outside, independent);
        }
        m.connections += 1;
        if let Some(r) = remote.filter(|_| m.independent == Some(Filtering::AddressDependent)) {
            *m.remotes.entry(r).or_default() += 1;
        }
    }

    /// A connection that [`Mappings::add`] was told of has gone.
    pub fn remove(&self, source: &Endpoint<A>, remote: Option<A>) {
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
            if m.independent.is_some() {
                self.release(&m.outside, source);
            }
            inside.remove(source);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The source that `remote` may reach at an outside endpoint.
    pub fn inbound(&self, outside: &Endpoint<A>, remote: A) -> Option<Endpoint<A>> {
        if self.is_empty() {
            return None;
        }
        let source = *shard(&self.outside, outside).get(outside)?;
        let inside = shard(&self.inside, &source);
        let m = inside.get(&source)?;
        let admitted = match m.independent? {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => m.remotes.contains_key(&remote),
            Filtering::EndpointDependent => false,
        };
        admitted.then_some(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::V4;

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
            assert!(m.claim(&outside, &source) && !m.claim(&outside, &at(11, 4000)));
            m.add(&source, &outside, Some(filtering), Some(V4(7)));
            assert_eq!(m.of(&source), Some((outside, Some(filtering))));
            assert_eq!(m.inbound(&outside, V4(8)), stranger.then_some(source));
            assert_eq!(m.inbound(&outside, V4(7)), other_port.then_some(source));
            m.remove(&source, Some(V4(7)));
            assert!(m.is_empty() && m.inbound(&outside, V4(7)).is_none());
            assert!(m.claim(&outside, &at(11, 4000)), "the endpoint is free again");
        }
    }

    #[test]
    fn a_claim_without_connection_is_given_up_but_not_one_with() {
        let m = Mappings::default();
        let (source, outside) = (at(10, 4000), at(99, 4000));
        assert!(m.claim(&outside, &source));
        m.unclaim(&outside, &source);
        assert!(m.claim(&outside, &at(11, 1)));
        m.unclaim(&outside, &at(11, 1));
        assert!(m.claim(&outside, &source));
        m.add(&source, &outside, Some(Filtering::EndpointIndependent), None);
        m.unclaim(&outside, &source);
        assert!(!m.claim(&outside, &at(11, 1)));
    }
}
