//! From counters of two samples to rates, and numbers as people read them.

use crate::status::Traffic;
use crate::wire::Sample;

/// Packets and bits a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rate {
    pub(super) rx_packets: f64,
    pub(super) rx_bits: f64,
    pub(super) tx_packets: f64,
    pub(super) tx_bits: f64,
}

/// What happens a second between two samples.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rates {
    /// By interface.
    pub(super) interfaces: Vec<Rate>,
    /// By worker.
    pub(super) workers: Vec<Rate>,
    /// By drop reason: since the start, and a second; the most frequent now first.
    pub(super) drops: Vec<(String, u64, f64)>,
    /// New connections.
    pub(super) created: f64,
}

impl Rates {
    pub(super) fn between(before: &Sample, now: &Sample) -> Self {
        let seconds = (now.at - before.at).max(0.001);
        let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let rate = |now: &Traffic, before: Option<&Traffic>| {
            let none = Traffic::default();
            let before = before.unwrap_or(&none);
            Rate {
                rx_packets: per_second(now.rx_packets, before.rx_packets),
                rx_bits: per_second(now.rx_bytes, before.rx_bytes) * 8.0,
                tx_packets: per_second(now.tx_packets, before.tx_packets),
                tx_bits: per_second(now.tx_bytes, before.tx_bytes) * 8.0,
            }
        };
        let (a, b) = (&before.status, &now.status);
        let interfaces = b.interfaces.iter().enumerate();
        let workers = b.workers.iter().enumerate();
        let created = |s: &Sample| s.status.connections.created.values().sum::<u64>();
        let mut drops: Vec<_> = b
            .drops
            .iter()
            .map(|(r, n)| (r.clone(), *n, per_second(*n, a.drops.get(r).copied().unwrap_or(0))))
            .collect();
        drops.sort_by(|x, y| (y.2, y.1).partial_cmp(&(x.2, x.1)).expect("rates are numbers"));
        Rates {
            interfaces: interfaces.map(|(i, x)| rate(&x.traffic, a.interfaces.get(i).map(|x| &x.traffic))).collect(),
            workers: workers.map(|(i, x)| rate(&x.traffic, a.workers.get(i).map(|x| &x.traffic))).collect(),
            drops,
            created: per_second(created(now), created(before)),
        }
    }
}

/// Three digits and a unit: 1.23 M.
pub(super) fn short(n: f64) -> String {
    let (mut n, mut unit) = (n, "");
    for next in ["k", "M", "G", "T"] {
        if n < 999.5 {
            break;
        }
        n /= 1000.0;
        unit = next;
    }
    let digits = match n {
        _ if unit.is_empty() => 0,
        n if n < 9.995 => 2,
        n if n < 99.95 => 1,
        _ => 0,
    };
    if unit.is_empty() { format!("{n:.0}") } else { format!("{n:.digits$} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits() {
        for (n, text) in [
            (0.0, "0"),
            (0.4, "0"),
            (999.4, "999"),
            (999.6, "1.00 k"),
            (1234.0, "1.23 k"),
            (12_345.0, "12.3 k"),
            (123_456.0, "123 k"),
            (9_996_000.0, "10.0 M"),
            (2.5e12, "2.50 T"),
            (7e15, "7000 T"),
        ] {
            assert_eq!(short(n), text);
        }
    }
}
