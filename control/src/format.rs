//! A connection as one line, in the format of `conntrack -L` of conntrack-tools 1.4.7.

use std::fmt;

use std::net::IpAddr;

use crate::wire::{Connection, Detail, Expectation, Flow};

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8} {} {} ", self.protocol, self.protocol_number, self.timeout)?;
        if let Some(state) = &self.state {
            write!(f, "{state} ")?;
        }
        let has = |name: &str| self.status.iter().any(|s| s == name);
        write!(f, "{} ", self.original)?;
        if !has("seen_reply") {
            f.write_str("[UNREPLIED] ")?;
        }
        write!(f, "{} ", self.reply)?;
        if has("assured") {
            f.write_str("[ASSURED] ")?;
        }
        // `use` counts references in the kernel; here a connection has one owner.
        write!(f, "mark={} use=1", self.mark)
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src={} dst={}", self.source, self.destination)?;
        match self.detail {
            Detail::Ports { source_port, destination_port } => {
                write!(f, " sport={source_port} dport={destination_port}")
            }
            Detail::Icmp { icmp_type, icmp_code, icmp_id } => {
                write!(f, " type={icmp_type} code={icmp_code} id={icmp_id}")
            }
            Detail::Keys { source_key, destination_key } => {
                write!(f, " srckey=0x{source_key:x} dstkey=0x{destination_key:x}")
            }
            Detail::None {} => Ok(()),
        }
    }
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
    use dataplane::conntrack::Status;
    use dataplane::worker::shared::{ConnectionInfo, FlowInfo};

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
        let c = Connection::from(c);
        assert_eq!(c.to_string(), line);
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
