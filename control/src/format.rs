//! Connections and events as lines, in the format of `conntrack -L` and `-E` of conntrack-tools 1.4.7.

use std::fmt::{self, Write};
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use dataplane::conntrack::Status;
use dataplane::packet::protocol;
use dataplane::worker::events::{Event, EventKind};
use dataplane::worker::listing::{ConnectionInfo, FlowInfo};

use crate::wire::{self, Expectation, Style};

/// Appends a connection's line, newline included.
pub(crate) fn connection(c: &ConnectionInfo, style: Style, out: &mut String) {
    if style.json {
        json(&wire::Connection::from(c), out);
    } else {
        line(c, style.counters, true, out);
    }
    out.push('\n');
}

/// Appends an event's line, newline included.
pub(crate) fn event(e: &Event, style: Style, out: &mut String) {
    if style.json {
        json(&wire::Event::from(e), out);
        out.push('\n');
        return;
    }
    if style.timestamps {
        let t = since_epoch(e.at);
        // Never fails: it is a String.
        let _ = write!(out, "[{}.{:06}]\t", t.as_secs(), t.subsec_micros());
    }
    let (kind, gone) = match e.kind {
        EventKind::New => ("    [NEW] ", None),
        EventKind::Update => (" [UPDATE] ", None),
        EventKind::Destroy(why) => ("[DESTROY] ", Some(why)),
    };
    out.push_str(kind);
    line(&e.connection, style.counters || gone.is_some(), gone.is_none(), out);
    if let Some(why) = gone {
        out.push_str(" reason=");
        out.push_str(why.label());
    }
    out.push('\n');
}

/// Time since the epoch; zero before it.
pub(crate) fn since_epoch(t: SystemTime) -> std::time::Duration {
    t.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn json(value: &impl serde::Serialize, out: &mut String) {
    out.push_str(&serde_json::to_string(value).expect("plain values are JSON"));
}

/// A connection in the line format; `alive`: with its timeout and state.
fn line(c: &ConnectionInfo, counters: bool, alive: bool, out: &mut String) {
    // Never fails: it is a String.
    let _ = write_line(c, counters, alive, out);
}

fn write_line(c: &ConnectionInfo, counters: bool, alive: bool, f: &mut String) -> fmt::Result {
    write!(f, "{:<8} {} ", protocol::name(c.proto), c.proto)?;
    if alive {
        write!(f, "{} ", c.remaining_ms / 1000)?;
        if let Some(state) = c.state {
            f.push_str(state);
            f.push(' ');
        }
    }
    flow(c.proto, &c.original, counters, f)?;
    if !c.status.contains(Status::SEEN_REPLY) {
        f.push_str("[UNREPLIED] ");
    }
    flow(c.proto, &c.reply, counters, f)?;
    if c.status.contains(Status::ASSURED) {
        f.push_str("[ASSURED] ");
    }
    // `use` counts references in the kernel; here a connection has one owner.
    write!(f, "mark={} use=1", c.mark)
}

fn flow(proto: u8, x: &FlowInfo, counters: bool, f: &mut String) -> fmt::Result {
    write!(f, "src={} dst={} ", x.source, x.destination)?;
    match proto {
        protocol::ICMP | protocol::ICMPV6 => {
            let [kind, code] = x.destination_port.to_be_bytes();
            write!(f, "type={kind} code={code} id={} ", x.source_port)?;
        }
        protocol::GRE => write!(f, "srckey=0x{:x} dstkey=0x{:x} ", x.source_port, x.destination_port)?,
        p if protocol::has_ports(p) => write!(f, "sport={} dport={} ", x.source_port, x.destination_port)?,
        _ => {}
    }
    if counters {
        write!(f, "packets={} bytes={} ", x.packets, x.bytes)?;
    }
    Ok(())
}

/// In the format of `conntrack -L expect`. Source ports and, where anybody may come, addresses have empty masks.
impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (none, all) = match self.destination {
            IpAddr::V4(_) => ("0.0.0.0", "255.255.255.255"),
            IpAddr::V6(_) => ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        };
        let source = self.source.map_or(none.to_owned(), |s| s.to_string());
        let mask = if self.source.is_some() { all } else { none };
        write!(f, "{} proto={} src={source} dst={} ", self.timeout, self.protocol_number, self.destination)?;
        write!(f, "sport=0 dport={} mask-src={mask} mask-dst={all} sport=0 dport=65535 ", self.destination_port)?;
        let m = &self.master;
        write!(f, "master-src={} master-dst={} sport={} ", m.source, m.destination, m.source_port)?;
        write!(f, "dport={} class=0 helper={}", m.destination_port, self.helper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Connection;

    fn info(proto: u8, addresses: [&str; 4], ports: [u16; 4], seconds: u32, status: u16) -> ConnectionInfo {
        let flow = |s: &str, d: &str, source_port, destination_port| FlowInfo {
            source: s.parse().unwrap(),
            destination: d.parse().unwrap(),
            source_port,
            destination_port,
            packets: 1,
            bytes: 60,
        };
        ConnectionInfo {
            worker: 0,
            proto,
            original: flow(addresses[0], addresses[1], ports[0], ports[1]),
            reply: flow(addresses[2], addresses[3], ports[2], ports[3]),
            remaining_ms: seconds * 1000 + 999,
            state: None,
            status: Status(status),
            mark: 0,
        }
    }

    const SEEN: u16 = Status::SEEN_REPLY.0 | Status::CONFIRMED.0;
    const NAT: [&str; 4] = ["10.10.0.2", "198.51.100.2", "198.51.100.2", "198.51.100.1"];
    const PLAIN: [&str; 4] = ["10.10.0.2", "198.51.100.2", "198.51.100.2", "10.10.0.2"];

    #[track_caller]
    fn check(c: &ConnectionInfo, line: &str) {
        let mut text = String::new();
        connection(c, Style::default(), &mut text);
        assert_eq!(text.strip_suffix('\n'), Some(line));
        let c = Connection::from(c);
        let json = serde_json::to_string(&c).unwrap();
        assert_eq!(serde_json::from_str::<Connection>(&json).unwrap(), c, "{json}");
    }

    // The expected lines but the first two are what conntrack-tools 1.4.7 printed for such entries.
    #[test]
    fn lines_are_those_of_conntrack_tools() {
        let mut tcp = info(6, NAT, [40000, 80, 80, 40000], 431_999, SEEN | Status::ASSURED.0);
        tcp.state = Some("ESTABLISHED");
        check(
            &tcp,
            "tcp      6 431999 ESTABLISHED src=10.10.0.2 dst=198.51.100.2 sport=40000 dport=80 src=198.51.100.2 \
             dst=198.51.100.1 sport=80 dport=40000 [ASSURED] mark=0 use=1",
        );
        tcp.state = Some("SYN_SENT");
        tcp.status = Status::CONFIRMED;
        tcp.mark = 7;
        check(
            &tcp,
            "tcp      6 431999 SYN_SENT src=10.10.0.2 dst=198.51.100.2 sport=40000 dport=80 [UNREPLIED] \
             src=198.51.100.2 dst=198.51.100.1 sport=80 dport=40000 mark=7 use=1",
        );
        check(
            &info(17, PLAIN, [40000, 80, 80, 40000], 28, Status::CONFIRMED.0),
            "udp      17 28 src=10.10.0.2 dst=198.51.100.2 sport=40000 dport=80 [UNREPLIED] src=198.51.100.2 \
             dst=10.10.0.2 sport=80 dport=40000 mark=0 use=1",
        );
        let lo = ["127.0.0.1"; 4];
        check(
            &info(1, lo, [19317, 0x0800, 19317, 0], 29, SEEN),
            "icmp     1 29 src=127.0.0.1 dst=127.0.0.1 type=8 code=0 id=19317 src=127.0.0.1 dst=127.0.0.1 type=0 \
             code=0 id=19317 mark=0 use=1",
        );
        check(
            &info(58, ["::1"; 4], [19318, 0x8000, 19318, 0x8100], 29, SEEN),
            "icmpv6   58 29 src=::1 dst=::1 type=128 code=0 id=19318 src=::1 dst=::1 type=129 code=0 id=19318 mark=0 \
             use=1",
        );
        check(
            &info(50, PLAIN, [0; 4], 598, Status::CONFIRMED.0),
            "unknown  50 598 src=10.10.0.2 dst=198.51.100.2 [UNREPLIED] src=198.51.100.2 dst=10.10.0.2 mark=0 use=1",
        );
        check(
            &info(47, PLAIN, [5, 0x1ff, 0x1ff, 5], 28, Status::CONFIRMED.0),
            "gre      47 28 src=10.10.0.2 dst=198.51.100.2 srckey=0x5 dstkey=0x1ff [UNREPLIED] src=198.51.100.2 \
             dst=10.10.0.2 srckey=0x1ff dstkey=0x5 mark=0 use=1",
        );
    }
}
