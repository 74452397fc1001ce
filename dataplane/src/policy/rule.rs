//! Forward rules: what they do with what they match.

use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use super::Match;
use crate::conntrack::region::prefetch;

/// Where something is written in the policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named to the reader.
    pub file: Arc<str>,
    /// The line, counted from 1; 0 for what is written nowhere.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A forward rule.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// The rule's name in the policy file.
    pub name: String,
    /// Where it is written.
    pub place: Place,
    /// What it matches.
    pub matcher: Match,
    /// How often it matches at most.
    pub limit: Option<Limit>,
    /// Whether it writes to the log what it matches.
    pub log: Option<Log>,
    /// What it does.
    pub action: Action,
    /// The mark that connections get.
    pub mark: Option<u32>,
    /// Index of its connections' timeouts in [`super::Policy::timeouts`].
    pub timeouts: u8,
}

impl Rule {
    /// Loads what is needed of a rule that is found to match.
    #[inline]
    pub(super) fn prefetch(&self) {
        prefetch(&raw const self.limit);
        prefetch(&raw const self.log);
        prefetch(&raw const self.action);
    }

    /// Whether no rule behind this one is asked about what its conditions fit.
    pub fn is_final(&self) -> bool {
        self.action != Action::Continue && self.limit.is_none()
    }
}

/// What a rule does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Action {
    /// Let it pass.
    Accept,
    /// Discard it silently.
    #[default]
    Drop,
    /// Discard it and say so.
    Reject(Reject),
    /// Ask the next rules.
    Continue,
}

impl Action {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Action::Accept => "accept",
            Action::Drop => "drop",
            Action::Reject(_) => "reject",
            Action::Continue => "continue",
        }
    }
}

/// How the sender of a packet is told that it was discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reject {
    /// As a closed port would: TCP RST, or ICMP port unreachable.
    #[default]
    Closed,
    /// TCP RST.
    TcpReset,
    /// ICMP port unreachable, to TCP too.
    PortUnreachable,
    /// ICMP host unreachable; of IPv6, address unreachable.
    HostUnreachable,
    /// ICMP network unreachable; of IPv6, no route.
    NoRoute,
    /// ICMP administratively prohibited.
    Prohibited,
}

/// How often a rule matches at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The rate.
    pub rate: Rate,
    /// Whether each source address is counted by itself.
    pub per_source: bool,
    /// It matches what is beyond the rate, in place of what is within.
    pub over: bool,
}

/// A rate with bursts, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds from one to the next.
    pub interval: u64,
    /// How many may come at once; at least 1.
    pub burst: u32,
    /// Tells apart what is counted by itself. The same rate of the same rule has the same one in every policy.
    pub id: u64,
}

impl Rate {
    /// One every `interval` nanoseconds, bursts of `burst`; counted for `owner`.
    pub fn new(owner: &str, interval: u64, burst: u32) -> Self {
        let mut h = ahash::RandomState::with_seeds(1, 2, 3, 4).build_hasher();
        h.write(owner.as_bytes());
        h.write_u64(interval);
        h.write_u32(burst);
        Rate { interval, burst, id: h.finish() }
    }

    /// How far in debt one may be that is still within the rate, in nanoseconds.
    pub(super) fn tolerance(&self) -> u64 {
        self.interval.saturating_mul(u64::from(self.burst.saturating_sub(1)))
    }
}

/// What a rule writes to the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Log {
    /// Put before each line.
    pub prefix: String,
    /// Lines at most; `None` for as many as come.
    pub rate: Option<Rate>,
}
