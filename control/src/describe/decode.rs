//! From a frame to the words for it.

use std::net::IpAddr;

use dataplane::packet::protocol;
use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};

use super::{ends, packet};

/// What a frame is, as far as it can be read.
pub(crate) fn words(frame: &[u8]) -> String {
    let unreadable = || format!("{} bytes that are no IP packet", frame.len());
    let Ok(p) = LaxSlicedPacket::from_ethernet(frame) else { return unreadable() };
    let (number, source, destination, is_fragment) = match &p.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let h = ip.header();
            let (s, d): (IpAddr, IpAddr) = (h.source_addr().into(), h.destination_addr().into());
            (ip.payload_ip_number().0, s, d, h.is_fragmenting_payload())
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let h = ip.header();
            let (s, d): (IpAddr, IpAddr) = (h.source_addr().into(), h.destination_addr().into());
            (ip.payload().ip_number.0, s, d, ip.is_payload_fragmented())
        }
        _ => return unreadable(),
    };
    let mut text = match &p.transport {
        Some(TransportSlice::Tcp(t)) => {
            let flags = packet::flag_names(t.header_slice()[13]);
            let both = ends(number, (source, t.source_port()), (destination, t.destination_port()));
            format!("{both} flags {flags}")
        }
        Some(TransportSlice::Udp(u)) => ends(number, (source, u.source_port()), (destination, u.destination_port())),
        Some(TransportSlice::Icmpv4(i)) => icmp(number, source, destination, (i.type_u8(), i.code_u8()), i.bytes5to8()),
        Some(TransportSlice::Icmpv6(i)) => icmp(number, source, destination, (i.type_u8(), i.code_u8()), i.bytes5to8()),
        // Later fragments have no ports to tell, others' are not read.
        _ => format!("{} {source} > {destination}", config::protocol_name(number)),
    };
    if is_fragment {
        text += " (a fragment)";
    }
    text
}

fn icmp(number: u8, source: IpAddr, destination: IpAddr, (kind, code): (u8, u8), rest: [u8; 4]) -> String {
    let both = ends(number, (source, 0), (destination, 0));
    let query = match number {
        protocol::ICMP => matches!(kind, 0 | 8 | 13..=18),
        _ => matches!(kind, 128 | 129),
    };
    let id = if query { format!(" id {}", u16::from_be_bytes([rest[0], rest[1]])) } else { String::new() };
    format!("{both} type {kind} code {code}{id}")
}

#[cfg(test)]
mod tests {
    use dataplane::route::Mac;

    use super::super::{Packet, build};
    use super::*;

    #[test]
    fn words_for_what_was_built() {
        for (text, expected) in [
            ("tcp 10.0.0.1:7 > 10.0.0.2:9 flags fin,psh,ack", "tcp 10.0.0.1:7 > 10.0.0.2:9 flags fin,psh,ack"),
            ("udp [2001:db8::1]:7 > [::2]:9", "udp [2001:db8::1]:7 > [::2]:9"),
            ("icmp 10.0.0.1 > 10.0.0.2 id 513", "icmp 10.0.0.1 > 10.0.0.2 type 8 code 0 id 513"),
            ("icmpv6 ::1 > ::2 type 1 code 4 about udp [::2]:1 > [::3]:2", "icmpv6 ::1 > ::2 type 1 code 4"),
            ("gre 10.0.0.1 > 10.0.0.2", "gre 10.0.0.1 > 10.0.0.2"),
        ] {
            let p: Packet = text.parse().unwrap();
            assert_eq!(words(&build(&p, Mac([2, 0, 0, 0, 0, 9]))), expected);
        }
        let mut piece = build(&"udp 10.0.0.1:7 > 10.0.0.2:9".parse().unwrap(), Mac([0; 6]));
        piece[21] = 5;
        assert_eq!(words(&piece), "udp 10.0.0.1 > 10.0.0.2 (a fragment)");
        assert_eq!(words(&[0; 20]), "20 bytes that are no IP packet");
        assert_eq!(words(&[]), "0 bytes that are no IP packet");
    }
}
