//! Destination translation: port forwards.

use crate::conntrack::Key;
use crate::packet::{Ip, protocol};
use crate::policy::DestinationNat;

/// The flow with its destination translated by `rule`; `None` when no backend is of its family.
///
/// With several backends a source always meets the same one. A forward of a port range to a first port
/// keeps each port's distance from the range's first.
pub fn destination<A: Ip>(rule: &DestinationNat, flow: &Key<A>) -> Option<Key<A>> {
    let n = rule.to.len() as u64;
    let pick = if n == 1 { 0 } else { flow.tuple.src.sum().wrapping_mul(0x9e37_79b9) % n.max(1) };
    let to = A::from_ip(*rule.to.get(pick as usize)?)?;
    let mut translated = *flow;
    translated.tuple.dst = to;
    if let Some(port) = rule.port.filter(|_| protocol::has_ports(flow.proto)) {
        let matched = rule.matcher.destination_port.as_ref().map_or(&[][..], |s| s.ranges());
        let shift = matched
            .iter()
            .find(|(a, b)| (*a..=*b).contains(&flow.tuple.dport))
            .map_or(0, |(a, _)| flow.tuple.dport - a);
        translated.tuple.dport = port.wrapping_add(shift);
    }
    Some(translated)
}
