//! How addresses and ports stand in payloads.

use std::fmt::Write;
use std::net::IpAddr;

use arrayvec::ArrayString;

/// Text that takes the place of an announced address and port. The longest is an extended address:
/// `|2|`, 39 characters of IPv6, `|65535|`.
pub type Text = ArrayString<64>;

/// How an announcement tells address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Not at all: the new connection goes to the address and port that the announcing packet itself
    /// came from, as its receiver sees them. There is no port to choose and nothing to replace.
    Unwritten,
    /// Six decimal numbers, `10,10,0,2,4,1` (RFC 959 section 4.1.2). IPv4 only.
    Numbers,
    /// Family, address and port, `|2|2001:db8::1|1025|` (RFC 2428 section 2).
    Extended,
    /// Port alone, `|||1025|` (RFC 2428 section 3).
    ExtendedPort,
    /// Address and port as two decimal numbers, `168427522 1025` (DCC). IPv4 only.
    Decimal,
}

impl Format {
    /// Writes an address and a port in this format; `None` when it cannot tell an address of that family.
    pub fn render(self, address: IpAddr, port: u16) -> Option<Text> {
        let mut out = Text::new();
        match (self, address) {
            (Format::Unwritten, _) => Ok(()),
            (Format::Numbers, IpAddr::V4(a)) => {
                let [a, b, c, d] = a.octets();
                write!(out, "{a},{b},{c},{d},{},{}", port >> 8, port & 0xff)
            }
            (Format::Extended, IpAddr::V4(a)) => write!(out, "|1|{a}|{port}|"),
            (Format::Extended, IpAddr::V6(a)) => write!(out, "|2|{a}|{port}|"),
            (Format::ExtendedPort, _) => write!(out, "|||{port}|"),
            (Format::Decimal, IpAddr::V4(a)) => write!(out, "{} {port}", u32::from(a)),
            (Format::Numbers | Format::Decimal, IpAddr::V6(_)) => return None,
        }
        .ok()?;
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders() {
        let v4: IpAddr = "198.51.100.1".parse().unwrap();
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        let longest: IpAddr = "aaaa:bbbb:cccc:dddd:eeee:ffff:aaaa:bbbb".parse().unwrap();
        for (format, address, port, text) in [
            (Format::Unwritten, v4, 1, Some("")),
            (Format::Numbers, v4, 0x1234, Some("198,51,100,1,18,52")),
            (Format::Numbers, v6, 1, None),
            (Format::Extended, v4, 1025, Some("|1|198.51.100.1|1025|")),
            (Format::Extended, v6, 1025, Some("|2|2001:db8::1|1025|")),
            (Format::Extended, longest, 65535, Some("|2|aaaa:bbbb:cccc:dddd:eeee:ffff:aaaa:bbbb|65535|")),
            (Format::ExtendedPort, v6, 1025, Some("|||1025|")),
            (Format::Decimal, v4, 1025, Some("3325256705 1025")),
            (Format::Decimal, v6, 1025, None),
        ] {
            assert_eq!(format.render(address, port).as_deref(), text, "{format:?}");
        }
    }
}
