//! Counters that one worker writes and anybody reads, without shared read-modify-write.

use std::sync::atomic::{AtomicU64, Ordering};

use super::reason::{DropReason, HandoffReason};
use crate::helper::HelperKind;
use crate::packet::protocol;
use crate::policy::InterfaceId;

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`; to be called by the owning worker only.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Adds one; to be called by the owning worker only.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Sets the value, for gauges.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Durations by their length, with one writer. Bucket `i` counts those of at most `BASE << i` nanoseconds that fit
/// no bucket before it; the last one those that are longer than all bounds.
#[derive(Debug, Default)]
pub struct Histogram<const BASE: u64>([Counter; BUCKETS + 1]);

/// Buckets of a histogram that have an upper bound.
const BUCKETS: usize = 16;

impl<const BASE: u64> Histogram<BASE> {
    /// Counts one duration; to be called by the owning worker only.
    #[inline]
    pub fn record(&self, ns: u64) {
        let doublings = u64::BITS - (ns.saturating_sub(1) / BASE).leading_zeros();
        self.0[(doublings as usize).min(BUCKETS)].inc();
    }

    /// The upper bounds in nanoseconds, each with the number of durations up to it.
    pub fn cumulative(&self) -> [(u64, u64); BUCKETS] {
        let mut sum = 0;
        std::array::from_fn(|i| {
            sum += self.0[i].get();
            (BASE << i, sum)
        })
    }

    /// Durations longer than all bounds.
    pub fn beyond(&self) -> u64 {
        self.0[BUCKETS].get()
    }
}

/// Protocols whose connections are counted apart.
pub const PROTOCOLS: [&str; 6] = ["tcp", "udp", "icmp", "sctp", "gre", "other"];

/// Where connections of a protocol are counted in [`Counters::created`] and [`Counters::ended`]: IPv4 in the first
/// half, IPv6 in the second, each by [`PROTOCOLS`].
#[inline]
pub fn by_protocol(v6: bool, proto: u8) -> usize {
    // Nearly all are one of the first two.
    let kind = match proto {
        _ if proto == protocol::TCP => 0,
        _ if proto == protocol::UDP => 1,
        protocol::ICMP | protocol::ICMPV6 => 2,
        protocol::SCTP => 3,
        protocol::GRE => 4,
        _ => 5,
    };
    kind + if v6 { PROTOCOLS.len() } else { 0 }
}

/// What one worker counts for one helper.
#[derive(Debug, Default)]
pub struct HelperCounters {
    /// Connections it began to read.
    pub connections: Counter,
    /// Packets in which it changed what they announce.
    pub rewritten: Counter,
    /// Announced connections that could not be expected: too many, or another expects the same.
    pub refused: Counter,
    /// Packets dropped on its word.
    pub dropped: Counter,
}

/// What one worker counts for one interface.
#[derive(Debug, Default)]
pub struct InterfaceCounters {
    /// Packets received.
    pub rx_packets: Counter,
    /// Bytes received, Ethernet header included.
    pub rx_bytes: Counter,
    /// Packets sent.
    pub tx_packets: Counter,
    /// Bytes sent, Ethernet header included.
    pub tx_bytes: Counter,
    /// Frames in the receive rings (gauge).
    pub frames_receive: Counter,
    /// Frames in the transmit rings (gauge).
    pub frames_transmit: Counter,
}

/// All counters of one worker.
#[derive(Debug)]
pub struct Counters {
    /// By interface.
    pub interfaces: Vec<InterfaceCounters>,
    /// By [`DropReason`].
    pub drops: [Counter; DropReason::COUNT],
    /// Connections entered in the table, by [`by_protocol`].
    pub created: [Counter; 2 * PROTOCOLS.len()],
    /// Connections that have left the table, likewise.
    pub ended: [Counter; 2 * PROTOCOLS.len()],
    /// Time from the look at a first packet to its connection's entry in the table, of one in
    /// [`SETUP_SAMPLE`](super::SETUP_SAMPLE) connections.
    pub setup: Histogram<100>,
    /// Sum of those times in nanoseconds.
    pub setup_ns: Counter,
    /// Connections that expired.
    pub expired: Counter,
    /// Connections deleted or flushed by the operator, or replaced by a reopened one.
    pub deleted: Counter,
    /// IPv4 connections now (gauge).
    pub connections4: Counter,
    /// IPv6 connections now (gauge).
    pub connections6: Counter,
    /// Unassured connections dropped early because the table was full.
    pub early_dropped: Counter,
    /// Connections that a new policy forbade.
    pub revalidated: Counter,
    /// Frames handed to another worker, by [`HandoffReason`].
    pub handed_off: [Counter; HandoffReason::COUNT],
    /// Frames taken over from another worker.
    pub taken_over: Counter,
    /// Frames given to the kernel as traffic to the host itself.
    pub punted: Counter,
    /// ICMP errors sent.
    pub icmp_sent: Counter,
    /// ICMP errors not sent because of the rate limit.
    pub icmp_limited: Counter,
    /// Checksums that a sender had left to its network card, completed here.
    pub checksums_completed: Counter,
    /// Packets that rules would have logged, but for the rate limit of the log.
    pub log_limited: Counter,
    /// Packets that were not logged because the queue was full.
    pub log_lost: Counter,
    /// By [`HelperKind`].
    pub helpers: [HelperCounters; HelperKind::ALL.len()],
    /// Times that bursts with at least one frame took.
    pub burst_time: Histogram<1000>,
    /// Nanoseconds spent on bursts with at least one frame.
    pub busy_ns: Counter,
    /// Nanoseconds spent polling without finding a frame.
    pub idle_ns: Counter,
    /// Nanoseconds asleep.
    pub sleep_ns: Counter,
    /// Frames of the UMEM in all (gauge).
    pub frames_total: Counter,
    /// Frames in the free list (gauge).
    pub frames_free: Counter,
    /// Frames lent to other workers (gauge).
    pub frames_lent: Counter,
    /// Frames that wait for a neighbour's address or for other fragments (gauge).
    pub frames_waiting: Counter,
}

impl Counters {
    /// Counters for a worker with this many interfaces.
    pub fn new(interfaces: usize) -> Self {
        Counters {
            interfaces: (0..interfaces).map(|_| InterfaceCounters::default()).collect(),
            drops: std::array::from_fn(|_| Counter::default()),
            created: std::array::from_fn(|_| Counter::default()),
            ended: std::array::from_fn(|_| Counter::default()),
            setup: Histogram::default(),
            setup_ns: Counter::default(),
            expired: Counter::default(),
            deleted: Counter::default(),
            connections4: Counter::default(),
            connections6: Counter::default(),
            early_dropped: Counter::default(),
            revalidated: Counter::default(),
            handed_off: std::array::from_fn(|_| Counter::default()),
            taken_over: Counter::default(),
            punted: Counter::default(),
            icmp_sent: Counter::default(),
            icmp_limited: Counter::default(),
            checksums_completed: Counter::default(),
            log_limited: Counter::default(),
            log_lost: Counter::default(),
            helpers: std::array::from_fn(|_| HelperCounters::default()),
            burst_time: Histogram::default(),
            busy_ns: Counter::default(),
            idle_ns: Counter::default(),
            sleep_ns: Counter::default(),
            frames_total: Counter::default(),
            frames_free: Counter::default(),
            frames_lent: Counter::default(),
            frames_waiting: Counter::default(),
        }
    }

    /// Connections now, by [`by_protocol`].
    pub fn connections(&self, i: usize) -> u64 {
        let ended = self.ended[i].get();
        self.created[i].get().saturating_sub(ended)
    }

    /// Counts a drop.
    #[inline]
    pub fn drop(&self, r: DropReason) {
        self.drops[r as usize].inc();
    }

    /// The interface's counters.
    #[inline]
    pub fn interface(&self, i: InterfaceId) -> &InterfaceCounters {
        &self.interfaces[usize::from(i)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_bucket_of_their_bound() {
        for (ns, bound) in [
            (0, 1000),
            (1000, 1000),
            (1001, 2000),
            (2000, 2000),
            (2001, 4000),
            (4000, 4000),
            (4001, 8000),
            (32_768_000, 32_768_000),
        ] {
            let h = Histogram::<1000>::default();
            h.record(ns);
            for (b, n) in h.cumulative() {
                assert_eq!(n, u64::from(b >= bound), "{ns} ns below {b} ns");
            }
            assert_eq!(h.beyond(), 0);
        }
        let h = Histogram::<1000>::default();
        h.record(32_768_001);
        h.record(u64::MAX);
        assert_eq!((h.cumulative()[BUCKETS - 1].1, h.beyond()), (0, 2));
    }
}
