//! What one source address may have and do: connections at a time, new ones a second.

use std::collections::HashMap;

use ahash::RandomState;

use super::reason::DropReason;
use crate::conntrack::Ticks;
use crate::packet::Address;
use crate::policy::SourceLimits;

/// Sources that are remembered for their rate alone; beyond, the whole memory is swept.
const IDLE_SOURCES: usize = 65_536;

#[derive(Debug)]
struct Use {
    connections: u32,
    /// Connections it may make now, in thousandths.
    tokens: u64,
    filled: Ticks,
}

/// The sources of one family.
#[derive(Debug)]
pub(super) struct Sources<A>(HashMap<A, Use, RandomState>);

impl<A> Default for Sources<A> {
    fn default() -> Self {
        Sources(HashMap::default())
    }
}

impl<A: Address> Sources<A> {
    /// Counts a new connection of a source, unless that is beyond its limits.
    pub(super) fn admit(&mut self, source: A, limits: &SourceLimits, now: Ticks) -> Result<(), DropReason> {
        let full = u64::from(limits.rate) * 1000;
        if self.0.len() > IDLE_SOURCES {
            self.0.retain(|_, u| u.connections > 0 || !u.filled.after(1).reached(now));
        }
        let u = self.0.entry(source).or_insert(Use { connections: 0, tokens: full, filled: now });
        if limits.connections > 0 && u.connections >= limits.connections {
            return Err(DropReason::SourceConnections);
        }
        if limits.rate > 0 {
            let elapsed = u64::from(now.0.wrapping_sub(u.filled.0));
            u.tokens = (u.tokens + elapsed * u64::from(limits.rate)).min(full);
            u.filled = now;
            if u.tokens < 1000 {
                return Err(DropReason::SourceRate);
            }
            u.tokens -= 1000;
        }
        u.connections += 1;
        Ok(())
    }

    /// A counted connection has gone.
    pub(super) fn release(&mut self, source: A) {
        if let Some(u) = self.0.get_mut(&source) {
            u.connections = u.connections.saturating_sub(1);
            if u.connections == 0 && u.tokens == 0 {
                self.0.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::V4;

    #[test]
    fn connections_and_rate() {
        let mut s = Sources::default();
        let limits = SourceLimits { connections: 2, rate: 0 };
        assert_eq!(s.admit(V4(1), &limits, Ticks(1)), Ok(()));
        assert_eq!(s.admit(V4(1), &limits, Ticks(1)), Ok(()));
        assert_eq!(s.admit(V4(1), &limits, Ticks(1)), Err(DropReason::SourceConnections));
        assert_eq!(s.admit(V4(2), &limits, Ticks(1)), Ok(()));
        s.release(V4(1));
        assert_eq!(s.admit(V4(1), &limits, Ticks(1)), Ok(()));

        let mut s = Sources::default();
        let limits = SourceLimits { connections: 0, rate: 10 };
        let made = |s: &mut Sources<V4>, now| (0..100).filter(|_| s.admit(V4(1), &limits, Ticks(now)).is_ok()).count();
        assert_eq!((made(&mut s, 1), made(&mut s, 501), made(&mut s, 10_000)), (10, 5, 10));
    }
}
