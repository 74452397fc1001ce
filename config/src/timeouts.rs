//! Idle timeouts: those of all connections, and those of single rules.

use dataplane::conntrack::{TcpState, Timeouts};

use crate::duration;
use crate::read::{Fields, Keys, choice, scalar};
use crate::report::Report;
use crate::yaml::{Node, Value};

/// The most different timeouts of rules, beside those of all.
const MAX_OF_RULES: usize = dataplane::policy::TIMEOUTS - 1;

const TIMEOUTS: Keys = Keys {
    known: &[
        "base",
        "udp",
        "udp_stream",
        "tcp_syn_sent",
        "tcp_syn_recv",
        "tcp_established",
        "tcp_fin_wait",
        "tcp_close_wait",
        "tcp_last_ack",
        "tcp_time_wait",
        "tcp_close",
        "tcp_syn_sent2",
        "tcp_max_retrans",
        "tcp_unacknowledged",
        "icmp",
        "icmpv6",
        "gre",
        "gre_stream",
        "sctp_closed",
        "sctp_cookie_wait",
        "sctp_cookie_echoed",
        "sctp_established",
        "sctp_shutdown_sent",
        "sctp_shutdown_received",
        "sctp_shutdown_ack_sent",
        "sctp_heartbeat_sent",
        "generic",
    ],
    foreign: &[("tcp", "name the state: `tcp_established`"), ("sctp", "name the state: `sctp_established`")],
};

/// All timeouts of a policy; the first are those of connections whose rule has none of its own.
pub(crate) struct Profiles(Vec<Timeouts>);

impl Profiles {
    /// Those of all connections.
    pub(crate) fn new(of_all: Timeouts) -> Self {
        Profiles(vec![of_all])
    }

    /// Reads the `timeouts` of a rule, which change those of all connections. Returns their index; equal
    /// ones share it.
    pub(crate) fn of_rule<'t>(&mut self, report: &mut Report<'t>, node: &Node<'t>) -> u8 {
        let t = timeouts(report, node, &self.0[0]);
        if let Some(i) = self.0.iter().position(|other| *other == t) {
            return i as u8;
        }
        if self.0.len() > MAX_OF_RULES {
            let message = format!("more than {MAX_OF_RULES} different `timeouts` of rules");
            report.error_help(node.at, message, "give rules the same timeouts where you can");
            return 0;
        }
        self.0.push(t);
        (self.0.len() - 1) as u8
    }

    /// All of them by index.
    pub(crate) fn into_vec(self) -> Vec<Timeouts> {
        self.0
    }
}

/// Reads timeouts: a word, or a map that changes `default` or the `base` that it names.
pub(crate) fn timeouts<'t>(report: &mut Report<'t>, node: &Node<'t>, default: &Timeouts) -> Timeouts {
    let base = |report: &mut Report<'t>, node: &Node<'t>| match choice(
        report,
        node,
        "a set of timeouts",
        &[("linux", false), ("rfc", true)],
    ) {
        Some(true) => Timeouts::rfc(),
        _ => Timeouts::linux(),
    };
    if !matches!(node.value, Value::Map(_)) {
        return base(report, node);
    }
    let Some(fields) = Fields::of(report, node, "`timeouts`", &TIMEOUTS) else { return default.clone() };
    let mut t = fields.get("base").map_or_else(|| default.clone(), |n| base(report, n));
    for key in TIMEOUTS.known.iter().filter(|k| **k != "base") {
        let Some(node) = fields.get(key) else { continue };
        let Some(text) = scalar(report, node, "a duration") else { continue };
        match duration::parse(text) {
            Ok(seconds) => {
                if let Some(slot) = slot(&mut t, key) {
                    *slot = seconds;
                }
            }
            Err(e) => report.refuse(node.at, &e, e.help()),
        }
    }
    t
}

fn slot<'s>(t: &'s mut Timeouts, key: &str) -> Option<&'s mut u32> {
    let tcp = |state: TcpState| state as usize;
    Some(match key {
        "udp" => &mut t.udp,
        "udp_stream" => &mut t.udp_stream,
        "tcp_syn_sent" => &mut t.tcp[tcp(TcpState::SynSent)],
        "tcp_syn_recv" => &mut t.tcp[tcp(TcpState::SynRecv)],
        "tcp_established" => &mut t.tcp[tcp(TcpState::Established)],
        "tcp_fin_wait" => &mut t.tcp[tcp(TcpState::FinWait)],
        "tcp_close_wait" => &mut t.tcp[tcp(TcpState::CloseWait)],
        "tcp_last_ack" => &mut t.tcp[tcp(TcpState::LastAck)],
        "tcp_time_wait" => &mut t.tcp[tcp(TcpState::TimeWait)],
        "tcp_close" => &mut t.tcp[tcp(TcpState::Close)],
        "tcp_syn_sent2" => &mut t.tcp[tcp(TcpState::SynSent2)],
        "tcp_max_retrans" => &mut t.tcp_max_retrans,
        "tcp_unacknowledged" => &mut t.tcp_unacknowledged,
        "icmp" => &mut t.icmp,
        "icmpv6" => &mut t.icmpv6,
        "gre" => &mut t.gre,
        "gre_stream" => &mut t.gre_stream,
        "sctp_closed" => &mut t.sctp[0],
        "sctp_cookie_wait" => &mut t.sctp[1],
        "sctp_cookie_echoed" => &mut t.sctp[2],
        "sctp_established" => &mut t.sctp[3],
        "sctp_shutdown_sent" => &mut t.sctp[4],
        "sctp_shutdown_received" => &mut t.sctp[5],
        "sctp_shutdown_ack_sent" => &mut t.sctp[6],
        "sctp_heartbeat_sent" => &mut t.sctp[7],
        "generic" => &mut t.generic,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_timeout_key_has_its_own_place() {
        let mut t = Timeouts::linux();
        let mut seen = std::collections::HashSet::new();
        for key in TIMEOUTS.known.iter().filter(|k| **k != "base") {
            let place: *const u32 = slot(&mut t, key).expect(key);
            assert!(seen.insert(place), "{key}");
        }
    }
}
