//! The YAML in `docs` is what it says: valid, and without warnings.

mod agreement;

const PAGE: &str = include_str!("../../docs/configuration.md");
const COMPLIANCE: &str = include_str!("../../docs/rfc-compliance.md");
const INTERFACES: &str = "interfaces:
  lan: { device: eth1, zone: inside }
  wan: { device: eth0, zone: outside }
  servers: { device: eth2, zone: dmz }
";

#[test]
fn every_example_is_valid() {
    let examples = |page: &'static str| page.split("```yaml\n").skip(1).filter_map(|b| b.split("```").next());
    let blocks: Vec<&str> = examples(PAGE).chain(examples(COMPLIANCE)).collect();
    assert!(blocks.len() > 10, "{} examples", blocks.len());
    for block in blocks {
        let mut text = String::new();
        for (key, section) in
            [("version:", "version: 1\n"), ("interfaces:", INTERFACES), ("policy:", "policy: { default: accept }\n")]
        {
            if !block.lines().any(|l| l.starts_with(key)) {
                text.push_str(section);
            }
        }
        text.push_str(block);
        let checked = config::parse("tests/configuration.md", &text).unwrap_or_else(|d| panic!("{d}"));
        assert!(checked.warnings.is_empty(), "{}", checked.warnings[0]);
        agreement::agrees(&text);
    }
}

#[test]
fn every_timeout_is_listed_with_its_defaults() {
    use dataplane::conntrack::{TcpState, Timeouts};
    let (linux, rfc) = (Timeouts::linux(), Timeouts::rfc());
    let row = |t: &Timeouts| {
        [
            ("udp", t.udp),
            ("udp_stream", t.udp_stream),
            ("icmp", t.icmp),
            ("icmpv6", t.icmpv6),
            ("gre", t.gre),
            ("gre_stream", t.gre_stream),
            ("generic", t.generic),
            ("tcp_syn_sent", t.tcp[TcpState::SynSent as usize]),
            ("tcp_syn_recv", t.tcp[TcpState::SynRecv as usize]),
            ("tcp_established", t.tcp[TcpState::Established as usize]),
            ("tcp_fin_wait", t.tcp[TcpState::FinWait as usize]),
            ("tcp_close_wait", t.tcp[TcpState::CloseWait as usize]),
            ("tcp_last_ack", t.tcp[TcpState::LastAck as usize]),
            ("tcp_time_wait", t.tcp[TcpState::TimeWait as usize]),
            ("tcp_close", t.tcp[TcpState::Close as usize]),
            ("tcp_syn_sent2", t.tcp[TcpState::SynSent2 as usize]),
            ("tcp_max_retrans", t.tcp_max_retrans),
            ("tcp_unacknowledged", t.tcp_unacknowledged),
            ("sctp_closed", t.sctp[0]),
            ("sctp_cookie_wait", t.sctp[1]),
            ("sctp_cookie_echoed", t.sctp[2]),
            ("sctp_established", t.sctp[3]),
            ("sctp_shutdown_sent", t.sctp[4]),
            ("sctp_shutdown_received", t.sctp[5]),
            ("sctp_shutdown_ack_sent", t.sctp[6]),
            ("sctp_heartbeat_sent", t.sctp[7]),
        ]
    };
    for ((key, a), (_, b)) in row(&linux).into_iter().zip(row(&rfc)) {
        let text = format!("| `{key}` | {} | {} |", config::duration::format(a), config::duration::format(b));
        assert!(PAGE.contains(&text), "{text}");
    }
}
