//! Idle timeouts: those of all connections, and those of single rules.

use dataplane::conntrack::{TcpState, Timeouts};

use crate::duration;
use crate::read::{Fields, Keys, choice, scalar};
use crate::report::Report;
use crate::shape::{Leaf, Shape, key, words};
use crate::yaml::{Node, Value};

/// The most different timeouts of rules, beside those of all.
const MAX_OF_RULES: usize = dataplane::policy::TIMEOUTS - 1;

const KEYS: Keys = Keys {
    known: &[
        key("base", BASE, "The timeouts that the other keys change."),
        key("udp", DURATION, "UDP before an answer, and after single ones."),
        key("udp_stream", DURATION, "UDP when traffic goes on in both directions."),
        key("tcp_syn_sent", DURATION, "TCP after the SYN."),
        key("tcp_syn_recv", DURATION, "TCP after the SYN's answer."),
        key("tcp_established", DURATION, "TCP that is established."),
        key("tcp_fin_wait", DURATION, "TCP after the first FIN."),
        key("tcp_close_wait", DURATION, "TCP after the FIN's acknowledgement."),
        key("tcp_last_ack", DURATION, "TCP after both FINs."),
        key("tcp_time_wait", DURATION, "TCP after the last acknowledgement."),
        key("tcp_close", DURATION, "TCP after a RST."),
        key("tcp_syn_sent2", DURATION, "TCP when both sides sent a SYN."),
        key("tcp_max_retrans", DURATION, "TCP whose segments are repeated in vain."),
        key("tcp_unacknowledged", DURATION, "TCP whose data is not acknowledged."),
        key("icmp", DURATION, "ICMP queries."),
        key("icmpv6", DURATION, "ICMPv6 queries."),
        key("gre", DURATION, "GRE before an answer."),
        key("gre_stream", DURATION, "GRE after an answer."),
        key("sctp_closed", DURATION, "SCTP in the state CLOSED."),
        key("sctp_cookie_wait", DURATION, "SCTP in the state COOKIE_WAIT."),
        key("sctp_cookie_echoed", DURATION, "SCTP in the state COOKIE_ECHOED."),
        key("sctp_established", DURATION, "SCTP in the state ESTABLISHED."),
        key("sctp_shutdown_sent", DURATION, "SCTP in the state SHUTDOWN_SENT."),
        key("sctp_shutdown_received", DURATION, "SCTP in the state SHUTDOWN_RECEIVED."),
        key("sctp_shutdown_ack_sent", DURATION, "SCTP in the state SHUTDOWN_ACK_SENT."),
        key("sctp_heartbeat_sent", DURATION, "SCTP in the state HEARTBEAT_SENT."),
        key("generic", DURATION, "Other protocols."),
    ],
    foreign: &[("tcp", "name the state: `tcp_established`"), ("sctp", "name the state: `sctp_established`")],
};

/// The sets of timeouts, and whether they are those of the RFCs.
const BASES: [(&str, bool); 2] = [("linux", false), ("rfc", true)];
const BASE: Shape = Shape::Words(&words(&BASES));
const DURATION: Shape = Shape::Leaf(Leaf::Duration);
/// The value of `timeouts`.
pub(crate) const TIMEOUTS: Shape = Shape::Either(&[BASE, Shape::Map(&KEYS)]);

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
    let base = |report: &mut Report<'t>, node: &Node<'t>| match choice(report, node, "a set of timeouts", &BASES) {
        Some(true) => Timeouts::rfc(),
        _ => Timeouts::linux(),
    };
    if !matches!(node.value, Value::Map(_)) {
        return base(report, node);
    }
    let Some(fields) = Fields::of(report, node, "`timeouts`", &KEYS) else { return default.clone() };
    let mut t = fields.get("base").map_or_else(|| default.clone(), |n| base(report, n));
    for key in KEYS.known.iter().map(|k| k.name).filter(|k| *k != "base") {
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
        for key in KEYS.known.iter().map(|k| k.name).filter(|k| *k != "base") {
            let place: *const u32 = slot(&mut t, key).expect(key);
            assert!(seen.insert(place), "{key}");
        }
    }
}
