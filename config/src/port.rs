//! Ports and ranges of ports as a policy writes them.

/// Why a text is no port or range of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PortError {
    /// Not a number or two.
    #[error("`{0}` is not a port or a range of ports")]
    Malformed(String),
    /// Above 65535.
    #[error("port {0} is too large: ports end at 65535")]
    TooLarge(String),
    /// The range ends before it begins.
    #[error("the range of ports ends before it begins")]
    Reversed,
}

impl PortError {
    /// What to write instead.
    pub(crate) fn help(&self) -> Option<String> {
        match self {
            PortError::Malformed(_) => Some("write 80 or 8000-8080".into()),
            PortError::TooLarge(_) => None,
            PortError::Reversed => Some("write the lower port first".into()),
        }
    }
}

/// The inclusive range of ports in `text`: `80` or `8000-8080`.
///
/// # Errors
/// When the text is neither.
pub(crate) fn parse(text: &str) -> Result<(u16, u16), PortError> {
    let one = |t: &str| {
        if t.is_empty() || !t.bytes().all(|b| b.is_ascii_digit()) {
            return Err(PortError::Malformed(crate::report::short(text)));
        }
        t.parse::<u16>().map_err(|_| PortError::TooLarge(crate::report::short(t)))
    };
    let (first, last) = match text.split_once('-') {
        Some((a, b)) => (one(a.trim())?, one(b.trim())?),
        None => (one(text)?, one(text)?),
    };
    if last < first {
        return Err(PortError::Reversed);
    }
    Ok((first, last))
}

/// The port of a service often written by name.
pub(crate) fn service(name: &str) -> Option<u16> {
    const SERVICES: [(&str, u16); 16] = [
        ("ftp", 21),
        ("ssh", 22),
        ("telnet", 23),
        ("smtp", 25),
        ("dns", 53),
        ("domain", 53),
        ("tftp", 69),
        ("http", 80),
        ("ntp", 123),
        ("snmp", 161),
        ("ldap", 389),
        ("https", 443),
        ("imaps", 993),
        ("rdp", 3389),
        ("sip", 5060),
        ("wireguard", 51820),
    ];
    SERVICES.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, p)| *p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ports_and_ranges() {
        for (text, range) in [("80", (80, 80)), ("0-65535", (0, 65535)), ("8000 - 8080", (8000, 8080))] {
            assert_eq!(parse(text), Ok(range), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for (text, message) in [
            ("", "`` is not a port or a range of ports"),
            ("http", "`http` is not a port or a range of ports"),
            ("+80", "`+80` is not a port or a range of ports"),
            ("80-", "`80-` is not a port or a range of ports"),
            ("1-2-3", "`1-2-3` is not a port or a range of ports"),
            ("65536", "port 65536 is too large: ports end at 65535"),
            ("90-80", "the range of ports ends before it begins"),
        ] {
            assert_eq!(parse(text).expect_err(text).to_string(), message);
        }
    }
}
