//! What one source address may have and do: connections at a time, new ones a second.

use std::collections::HashMap;

use ahash::RandomState;

use super::reason::DropReason;
use crate::conntrack::Ticks;
use crate::packet::{Address, protocol};
use crate::policy::SourceLimits;

/// Sources that are remembered for their rate alone; beyond, the whole memory is swept.
const IDLE_SOURCES: usize = 65_536;

#[derive(Debug)]
struct Use {
    connections: u32,
    /// TCP, UDP, ICMP.
    by_protocol: [u32; 3],
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
    pub(super) fn admit(&mut self, source: A, proto: u8, limits: &SourceLimits, now: Ticks) -> Result<(), DropReason> {
        let full = u64::from(limits.rate) * 1000;
        if self.0.len() > IDLE_SOURCES {
            self.0.retain(|_, u| u.connections > 0 || !u.filled.after(1).reached(now));
        }
        let u = self.0.entry(source).or_insert(Use { connections: 0, by_protocol: [0; 3], tokens: full, filled: now });
        let kind = kind(proto);
        let own = kind.map(|k| (u.by_protocol[k], most_of(limits, k)));
        if full_up((u.connections, limits.connections)) || own.is_some_and(full_up) {
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
        if let Some(k) = kind {
            u.by_protocol[k] += 1;
        }
        Ok(())
    }

    /// What [`Sources::admit`] would say were the connections of these protocols gone; nothing is counted.
    pub(super) fn would_admit(
        &self,
        source: A,
        proto: u8,
        limits: &SourceLimits,
        now: Ticks,
        gone: &[u8],
    ) -> Result<(), DropReason> {
        let Some(u) = self.0.get(&source) else { return Ok(()) };
        let gone_of = |k| gone.iter().filter(|p| kind(**p) == Some(k)).count() as u32;
        let own = kind(proto).map(|k| (u.by_protocol[k] - gone_of(k), most_of(limits, k)));
        if full_up((u.connections - gone.len() as u32, limits.connections)) || own.is_some_and(full_up) {
            return Err(DropReason::SourceConnections);
        }
        let elapsed = u64::from(now.0.wrapping_sub(u.filled.0));
        if limits.rate > 0 && u.tokens + elapsed * u64::from(limits.rate) < 1000 {
            return Err(DropReason::SourceRate);
        }
        Ok(())
    }

    /// A counted connection has gone.
    pub(super) fn release(&mut self, source: A, proto: u8) {
        if let Some(u) = self.0.get_mut(&source) {
            u.connections = u.connections.saturating_sub(1);
            if let Some(k) = kind(proto) {
                u.by_protocol[k] = u.by_protocol[k].saturating_sub(1);
            }
            if u.connections == 0 && u.tokens == 0 {
                self.0.remove(&source);
            }
        }
    }
}

/// Place among the protocols that have a limit of their own.
fn kind(proto: u8) -> Option<usize> {
    match proto {
        protocol::TCP => Some(0),
        protocol::UDP => Some(1),
        protocol::ICMP | protocol::ICMPV6 => Some(2),
        _ => None,
    }
}

fn most_of(limits: &SourceLimits, kind: usize) -> u32 {
    [limits.tcp, limits.udp, limits.icmp][kind]
}

fn full_up((n, most): (u32, u32)) -> bool {
    most > 0 && n >= most
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::V4;

    #[test]
    fn connections_and_rate() {
        let mut s = Sources::default();
        let limits = SourceLimits { connections: 2, ..SourceLimits::default() };
        assert_eq!(s.admit(V4(1), 17, &limits, Ticks(1)), Ok(()));
        assert_eq!(s.admit(V4(1), 17, &limits, Ticks(1)), Ok(()));
        assert_eq!(s.admit(V4(1), 17, &limits, Ticks(1)), Err(DropReason::SourceConnections));
        assert_eq!(s.admit(V4(2), 17, &limits, Ticks(1)), Ok(()));
        s.release(V4(1), 17);
        assert_eq!(s.admit(V4(1), 17, &limits, Ticks(1)), Ok(()));

        let mut s = Sources::default();
        let limits = SourceLimits { rate: 10, ..SourceLimits::default() };
        let made =
            |s: &mut Sources<V4>, now| (0..100).filter(|_| s.admit(V4(1), 17, &limits, Ticks(now)).is_ok()).count();
        assert_eq!((made(&mut s, 1), made(&mut s, 501), made(&mut s, 10_000)), (10, 5, 10));
    }

    #[test]
    fn each_protocol_by_itself() {
        let mut s = Sources::default();
        let limits = SourceLimits { connections: 5, tcp: 3, udp: 1, icmp: 2, rate: 0 };
        let mut made = |proto| (0..9).filter(|_| s.admit(V4(1), proto, &limits, Ticks(1)).is_ok()).count();
        assert_eq!((made(protocol::UDP), made(protocol::TCP), made(protocol::ICMP), made(protocol::GRE)), (1, 3, 1, 0));
        s.release(V4(1), protocol::TCP);
        let mut made = |proto| s.admit(V4(1), proto, &limits, Ticks(1)).is_ok();
        assert!(!made(protocol::UDP) && made(protocol::TCP) && !made(protocol::ICMP));
    }
}
