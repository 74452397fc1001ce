//! Packets of established connections, in random order.

use anyhow::Result;

use super::Section;
use super::flows::Kind;
use super::gateway::Gateway;
use super::samples::Samples;

/// Numbers of connections, each with its budget for UDP in nanoseconds a packet.
const SIZES: [(u32, &str, f64); 4] =
    [(1000, "1k", 20.0), (65_536, "64k", 24.0), (1_000_000, "1M", 32.0), (10_000_000, "10M", 40.0)];

/// What flows, with what it may take in relation to UDP.
const KINDS: [(Kind, &str, f64); 3] = [
    (Kind::Udp, "udp-snat-established", 1.0),
    (Kind::Tcp, "tcp-snat-data", 1.25),
    (Kind::Udp6, "udp6-established", 1.25),
];

/// All kinds and sizes.
pub(super) fn run(s: &mut Section) -> Result<()> {
    let packets = if s.quick { 1 << 19 } else { 1 << 22 };
    for (kind, what, factor) in KINDS {
        for (flows, size, budget) in SIZES.iter().take(if s.quick { 2 } else { 4 }) {
            let name = format!("{what}-{size}");
            if !s.wants(&name) {
                continue;
            }
            let mut g = Gateway::new(kind, *flows)?;
            g.establish(*flows)?;
            let mut samples = Samples::default();
            for _ in 0..7 {
                samples.add(g.data(*flows, packets)?);
            }
            s.below(&name, &samples, "ns/packet", Some(budget * factor));
        }
    }
    Ok(())
}
