//! Transport protocol numbers (IANA).

/// ICMP.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// GRE.
pub const GRE: u8 = 47;
/// ESP.
pub const ESP: u8 = 50;
/// AH.
pub const AH: u8 = 51;
/// ICMPv6.
pub const ICMPV6: u8 = 58;
/// SCTP.
pub const SCTP: u8 = 132;
/// UDP-Lite.
pub const UDPLITE: u8 = 136;

/// Whether the protocol's header begins with source and destination port.
#[inline]
pub fn has_ports(proto: u8) -> bool {
    matches!(proto, TCP | UDP | UDPLITE | SCTP)
}

/// The name conntrack-tools prints, or `unknown`.
pub fn name(proto: u8) -> &'static str {
    match proto {
        ICMP => "icmp",
        TCP => "tcp",
        UDP => "udp",
        GRE => "gre",
        ICMPV6 => "icmpv6",
        SCTP => "sctp",
        UDPLITE => "udplite",
        _ => "unknown",
    }
}
