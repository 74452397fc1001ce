//! `conntrack`: table size, timeouts, TCP switches and helpers.

use dataplane::conntrack::{TcpSettings, TcpState, Timeouts};
use dataplane::packet::protocol;

use crate::duration;
use crate::read::{Fields, Keys, boolean, choice, items, number, scalar};
use crate::report::Report;
use crate::sets::single_port;
use crate::yaml::{Node, Value};

/// Connections when the policy names no number.
const DEFAULT_CONNECTIONS: u32 = 1_000_000;
/// The most connections a policy can ask for; about 32 GB of memory when all are there.
const MAX_CONNECTIONS: u64 = 1 << 27;

const CONNTRACK: Keys = Keys {
    known: &["max_connections", "timeouts", "tcp", "checksum", "helpers"],
    foreign: &[("max", "the most connections are `max_connections`"), ("timeout", "did you mean `timeouts`?")],
};
const TCP: Keys = Keys { known: &["loose", "liberal", "ignore_invalid_rst", "max_retrans"], foreign: &[] };
const HELPER: Keys = Keys { known: &["helper", "port"], foreign: &[("name", "the kind of helper is `helper`")] };
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

/// What `conntrack` says.
pub(crate) struct Conntrack {
    pub(crate) max_connections: u32,
    pub(crate) timeouts: Timeouts,
    pub(crate) tcp: TcpSettings,
    pub(crate) checksum: bool,
    pub(crate) helpers: Vec<HelperConfig>,
}

impl Default for Conntrack {
    fn default() -> Self {
        Conntrack {
            max_connections: DEFAULT_CONNECTIONS,
            timeouts: Timeouts::linux(),
            tcp: TcpSettings::default(),
            checksum: true,
            helpers: Vec::new(),
        }
    }
}

/// A helper: it reads a control stream for the connections that it announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Helper {
    /// FTP (RFC 959, RFC 2428), on TCP.
    Ftp,
    /// TFTP (RFC 1350), on UDP.
    Tftp,
    /// DCC in IRC, on TCP.
    Irc,
}

impl Helper {
    /// The name in the policy.
    pub fn name(self) -> &'static str {
        match self {
            Helper::Ftp => "ftp",
            Helper::Tftp => "tftp",
            Helper::Irc => "irc",
        }
    }

    /// The transport protocol of the control stream.
    pub fn protocol(self) -> u8 {
        match self {
            Helper::Ftp | Helper::Irc => protocol::TCP,
            Helper::Tftp => protocol::UDP,
        }
    }

    /// The port it listens to when the policy names none.
    pub fn standard_port(self) -> u16 {
        match self {
            Helper::Ftp => 21,
            Helper::Tftp => 69,
            Helper::Irc => 6667,
        }
    }
}

/// A helper and the port its control streams go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HelperConfig {
    /// Which helper.
    pub helper: Helper,
    /// The destination port of its control streams.
    pub port: u16,
}

/// Reads `conntrack`.
pub(crate) fn conntrack<'t>(report: &mut Report<'t>, node: Option<&Node<'t>>) -> Conntrack {
    let mut out = Conntrack::default();
    let Some(fields) = node.and_then(|n| Fields::of(report, n, "`conntrack`", &CONNTRACK)) else { return out };
    if let Some(n) = fields.get("max_connections")
        && let Some(n) = number(report, n, "`max_connections`", 1..=MAX_CONNECTIONS)
    {
        out.max_connections = n as u32;
    }
    if let Some(n) = fields.get("timeouts") {
        out.timeouts = timeouts(report, n);
    }
    if let Some(f) = fields.get("tcp").and_then(|n| Fields::of(report, n, "`conntrack.tcp`", &TCP)) {
        for (key, slot) in [
            ("loose", &mut out.tcp.loose),
            ("liberal", &mut out.tcp.liberal),
            ("ignore_invalid_rst", &mut out.tcp.ignore_invalid_rst),
        ] {
            if let Some(b) = f.get(key).and_then(|n| boolean(report, n, &format!("`{key}`"))) {
                *slot = b;
            }
        }
        if let Some(n) = f.get("max_retrans").and_then(|n| number(report, n, "`max_retrans`", 1..=255)) {
            out.tcp.max_retrans = n as u8;
        }
    }
    if let Some(b) = fields.get("checksum").and_then(|n| boolean(report, n, "`checksum`")) {
        out.checksum = b;
    }
    if let Some(n) = fields.get("helpers") {
        out.helpers = helpers(report, n);
    }
    out
}

fn timeouts<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Timeouts {
    if !matches!(node.value, Value::Map(_)) {
        return base(report, node);
    }
    let Some(fields) = Fields::of(report, node, "`timeouts`", &TIMEOUTS) else { return Timeouts::linux() };
    let mut t = fields.get("base").map_or_else(Timeouts::linux, |n| base(report, n));
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

fn base<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Timeouts {
    match choice(report, node, "a set of timeouts", &[("linux", false), ("rfc", true)]) {
        Some(true) => Timeouts::rfc(),
        _ => Timeouts::linux(),
    }
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

fn helpers<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Vec<HelperConfig> {
    let mut out: Vec<HelperConfig> = Vec::new();
    for item in items(node) {
        let one = match &item.value {
            Value::Map(_) => Fields::of(report, item, "a helper", &HELPER).and_then(|f| {
                let kind = f.require(report, "helper", "a helper").and_then(|n| helper(report, n))?;
                let port = match f.get("port") {
                    Some(n) => single_port(report, n, "`port`")?,
                    None => kind.standard_port(),
                };
                Some(HelperConfig { helper: kind, port })
            }),
            _ => helper(report, item).map(|kind| HelperConfig { helper: kind, port: kind.standard_port() }),
        };
        let Some(one) = one else { continue };
        let clash = out.iter().find(|h| h.port == one.port && h.helper.protocol() == one.helper.protocol());
        if let Some(other) = clash {
            let message = format!("the helper {} already reads port {}", other.helper.name(), one.port);
            report.error(item.at, message);
            continue;
        }
        out.push(one);
    }
    out
}

fn helper<'t>(report: &mut Report<'t>, node: &Node<'t>) -> Option<Helper> {
    let all = [Helper::Ftp, Helper::Tftp, Helper::Irc];
    choice(report, node, "a helper", &all.map(|h| (h.name(), h)))
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
