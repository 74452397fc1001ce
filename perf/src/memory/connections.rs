//! New connections a second, and the memory that a million of them take.

use anyhow::Result;

use super::flows::{Kind, Segment};
use super::gateway::{Gateway, policy};
use super::generator::Plan;
use super::samples::Samples;
use super::{Section, resident};

/// Fills empty tables several times.
pub(super) fn run(s: &mut Section) -> Result<()> {
    let flows = if s.quick { 100_000 } else { 1_000_000 };
    let mut rates = Samples::default();
    let mut memory = Samples::default();
    for _ in 0..if s.quick { 3 } else { 9 } {
        let mut g = Gateway::with_policy(Kind::Udp, policy(flows))?;
        let made = g.begin(Plan::each(flows, Segment::Data))?;
        rates.add(1e-6 * f64::from(flows) / made.as_secs_f64());
        memory.add(resident()? as f64 / 1e6);
    }
    s.above("udp-snat-cps-1M", &rates, "M/s", Some(5.0));
    s.below("memory-1M", &memory, "MB", Some(250.0));
    Ok(())
}
