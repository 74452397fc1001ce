//! From a described packet to the frame that would come in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::conntrack::tcp::flags;
use dataplane::packet::{crc32c, protocol};
use dataplane::route::Mac;
use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader};

use super::Packet;

/// The longest IP packet that can be asked about: what every worker's frame can take.
pub(crate) const LONGEST: u16 = 1900;

/// The whole frame, Ethernet header first, sent by nobody to `to`.
pub(crate) fn build(p: &Packet, to: Mac) -> Vec<u8> {
    let kind: [u8; 2] = if p.source.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
    // A locally administered address that is no interface's.
    let from = [2, 0, 0, 0, 0, 0];
    [&to.0[..], &from, &kind, &ip_packet(p)].concat()
}

/// Bytes of the IP packet without a payload.
pub(super) fn shortest(p: &Packet) -> usize {
    let header = if p.source.is_ipv4() { 20 } else { 40 };
    let about = p.about.as_ref().map_or(0, |a| shortest(a).max(usize::from(a.length.unwrap_or(0))));
    header + transport_length(p) + about
}

fn ip_packet(p: &Packet) -> Vec<u8> {
    let about = p.about.as_ref().map(|a| ip_packet(a)).unwrap_or_default();
    let padding = usize::from(p.length.unwrap_or(0)).saturating_sub(shortest(p));
    let payload = [about, vec![0; padding]].concat();
    let l4 = transport(p, &payload);
    match (p.source, p.destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => v4(p, s, d, &l4),
        (IpAddr::V6(s), IpAddr::V6(d)) => v6(p, s, d, &l4),
        // Refused by the parser.
        _ => Vec::new(),
    }
}

fn v4(p: &Packet, source: Ipv4Addr, destination: Ipv4Addr, l4: &[u8]) -> Vec<u8> {
    let mut h = Ipv4Header {
        total_len: (20 + l4.len()) as u16,
        dont_fragment: p.dont_fragment,
        time_to_live: p.ttl,
        protocol: IpNumber(p.protocol),
        source: source.octets(),
        destination: destination.octets(),
        ..Ipv4Header::default()
    };
    h.header_checksum = h.calc_header_checksum();
    [&h.to_bytes()[..], l4].concat()
}

fn v6(p: &Packet, source: Ipv6Addr, destination: Ipv6Addr, l4: &[u8]) -> Vec<u8> {
    let h = Ipv6Header {
        traffic_class: 0,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: l4.len() as u16,
        next_header: IpNumber(p.protocol),
        hop_limit: p.ttl,
        source: source.octets(),
        destination: destination.octets(),
    };
    [&h.to_bytes()[..], l4].concat()
}

/// Bytes of the transport header, and of what must follow it.
fn transport_length(p: &Packet) -> usize {
    match p.protocol {
        protocol::TCP => 20,
        protocol::SCTP => 32,
        protocol::GRE => 4,
        _ => 8,
    }
}

fn transport(p: &Packet, payload: &[u8]) -> Vec<u8> {
    let (sport, dport) = (p.source_port, p.destination_port);
    let mut l4 = match p.protocol {
        protocol::TCP => tcp(p, payload),
        protocol::UDP => {
            let mut h = UdpHeader {
                source_port: sport,
                destination_port: dport,
                length: (8 + payload.len()) as u16,
                checksum: 0,
            };
            h.checksum = checksum(p, &h.to_bytes(), payload);
            [&h.to_bytes()[..], payload].concat()
        }
        protocol::UDPLITE => {
            // The checksum covers everything.
            let mut h = [&sport.to_be_bytes()[..], &dport.to_be_bytes(), &[0; 4]].concat();
            let sum = checksum(p, &h, payload);
            h[6..8].copy_from_slice(&sum.to_be_bytes());
            [&h[..], payload].concat()
        }
        protocol::SCTP => sctp(sport, dport, payload),
        protocol::ICMP | protocol::ICMPV6 => {
            let mut h = vec![p.icmp.0, p.icmp.1, 0, 0];
            // Errors have no identifier.
            h.extend(if p.about.is_some() { [0; 4] } else { [(p.id >> 8) as u8, p.id as u8, 0, 1] });
            let sum = checksum(p, &h, payload);
            h[2..4].copy_from_slice(&sum.to_be_bytes());
            [&h[..], payload].concat()
        }
        protocol::GRE => [&[0, 0, 8, 0][..], payload].concat(),
        _ => [&[0; 8][..], payload].concat(),
    };
    if p.bad_checksum
        && let Some(last) = l4.last_mut()
    {
        *last ^= 1;
    }
    l4
}

fn tcp(p: &Packet, payload: &[u8]) -> Vec<u8> {
    let flag = |bit: u8| p.flags.unwrap_or(flags::SYN) & bit != 0;
    let mut h = TcpHeader::new(p.source_port, p.destination_port, 1, 65_535);
    (h.fin, h.syn, h.rst) = (flag(1), flag(2), flag(4));
    (h.psh, h.ack, h.urg) = (flag(8), flag(16), flag(32));
    h.checksum = checksum(p, &h.to_bytes(), payload);
    [&h.to_bytes()[..], payload].concat()
}

/// An INIT, which begins a connection.
fn sctp(sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let init = [1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1];
    let mut l4 = [&sport.to_be_bytes()[..], &dport.to_be_bytes(), &[0; 8], &init, payload].concat();
    crc32c::fill(&mut l4);
    l4
}

/// The Internet checksum over pseudo header, header (whose own field is 0) and payload.
fn checksum(p: &Packet, header: &[u8], payload: &[u8]) -> u16 {
    let mut pseudo = Vec::new();
    let length = (header.len() + payload.len()) as u32;
    match (p.source, p.destination) {
        // ICMP has none.
        _ if p.protocol == protocol::ICMP => {}
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            pseudo.extend(s.octets());
            pseudo.extend(d.octets());
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            pseudo.extend(s.octets());
            pseudo.extend(d.octets());
        }
        _ => {}
    }
    if p.protocol != protocol::ICMP {
        pseudo.extend(length.to_be_bytes());
        pseudo.extend([0, 0, 0, p.protocol]);
    }
    let sum = dataplane::packet::checksum::sum;
    match !dataplane::packet::checksum::fold(sum(&pseudo) + sum(&[header, payload].concat())) {
        0 => 0xffff,
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use dataplane::packet::transport::{ChecksumState, Transport, classify, verify};
    use dataplane::packet::{ETHERNET, Ip, V4, V6};

    use super::*;

    fn check<A: Ip>(text: &str) -> (Transport, ChecksumState, usize) {
        let frame = build(&text.parse().unwrap(), Mac([2, 0, 0, 0, 0, 9]));
        let h = A::parse(&frame, ETHERNET).unwrap_or_else(|e| panic!("{text}: {e:?}"));
        assert_eq!(usize::from(h.end), frame.len(), "{text}");
        (classify(&frame, &h), verify(&frame, h), frame.len() - ETHERNET)
    }

    #[test]
    fn frames_are_what_was_described() {
        for text in [
            "tcp 10.0.0.1:7 > 10.0.0.2:9",
            "udp 10.0.0.1:7 > 10.0.0.2:9",
            "sctp 10.0.0.1:7 > 10.0.0.2:9",
            "udplite 10.0.0.1:7 > 10.0.0.2:9",
        ] {
            let (t, sum, _) = check::<V4>(text);
            let Transport::Flow(ports) = t else { panic!("{text}: {t:?}") };
            assert_eq!((ports.source(), ports.destination(), sum), (7, 9, ChecksumState::Good), "{text}");
            assert_eq!(check::<V4>(&format!("{text} length 1000")).2, 1000, "{text}");
            assert_eq!(check::<V4>(&format!("{text} length 1001")).1, ChecksumState::Good, "{text}");
            if !text.starts_with("udplite") {
                assert_eq!(check::<V4>(&format!("{text} bad-checksum")).1, ChecksumState::Bad, "{text}");
            }
            let six = text.replace("10.0.0.1", "[2001:db8::1]").replace("10.0.0.2", "[2001:db8::2]");
            assert_eq!(check::<V6>(&six).1, ChecksumState::Good, "{six}");
        }
        for text in ["gre 10.0.0.1 > 10.0.0.2", "esp 10.0.0.1 > 10.0.0.2", "icmp 10.0.0.1 > 10.0.0.2"] {
            assert!(matches!(check::<V4>(text), (Transport::Flow(_), ChecksumState::Good, _)), "{text}");
        }
        let text = "icmpv6 2001:db8::1 > 2001:db8::2 type time-exceeded about tcp [2001:db8::2]:1 > [2001:db8::9]:2";
        assert!(matches!(check::<V6>(text), (Transport::IcmpError, ChecksumState::Good, _)));
    }
}
