//! Counters that one worker writes and anybody reads, without shared read-modify-write.

use std::sync::atomic::{AtomicU64, Ordering};

use super::reason::DropReason;
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
    /// Connections entered in the table, by protocol: TCP, UDP, ICMP and ICMPv6, others.
    pub created: [Counter; 4],
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
    /// Frames handed to another worker.
    pub handed_off: Counter,
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
    /// Bursts with at least one frame.
    pub bursts: Counter,
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
            expired: Counter::default(),
            deleted: Counter::default(),
            connections4: Counter::default(),
            connections6: Counter::default(),
            early_dropped: Counter::default(),
            revalidated: Counter::default(),
            handed_off: Counter::default(),
            taken_over: Counter::default(),
            punted: Counter::default(),
            icmp_sent: Counter::default(),
            icmp_limited: Counter::default(),
            checksums_completed: Counter::default(),
            log_limited: Counter::default(),
            log_lost: Counter::default(),
            bursts: Counter::default(),
            busy_ns: Counter::default(),
            idle_ns: Counter::default(),
            sleep_ns: Counter::default(),
            frames_total: Counter::default(),
            frames_free: Counter::default(),
            frames_lent: Counter::default(),
            frames_waiting: Counter::default(),
        }
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
