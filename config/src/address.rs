//! Addresses, prefixes and ranges as a policy writes them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// Consecutive addresses of one family, both ends inclusive: one address, a prefix or a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

/// Why a text is no address, prefix or range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither an IPv4 nor an IPv6 address.
    #[error("`{0}` is not an address, a prefix or a range")]
    Malformed(String),
    /// The text behind the slash is no prefix length of the family.
    #[error("`{length}` is not a prefix length: it goes from 0 to {max}")]
    PrefixLength {
        /// What was written.
        length: String,
        /// The longest prefix of the family.
        max: u8,
    },
    /// Bits behind the prefix are set.
    #[error("`{given}` has bits set behind the prefix")]
    HostBits {
        /// What was written.
        given: IpNet,
    },
    /// The ends of a range are of two families.
    #[error("the range begins with an IPv4 and ends with an IPv6 address, or the other way round")]
    TwoFamilies,
    /// The range ends before it begins.
    #[error("the range ends before it begins")]
    Reversed,
}

impl AddressError {
    /// What to write instead.
    pub fn help(&self) -> Option<String> {
        match self {
            AddressError::Malformed(_) => {
                Some("write 192.0.2.1, 192.0.2.0/24 or 192.0.2.1-192.0.2.9; IPv6 the same way".into())
            }
            AddressError::HostBits { given } => {
                Some(format!("write {} for the network, {} for the one address", given.trunc(), given.addr()))
            }
            AddressError::Reversed => Some("write the lower address first".into()),
            AddressError::PrefixLength { .. } | AddressError::TwoFamilies => None,
        }
    }
}

impl AddressRange {
    /// The range from `first` to `last`.
    ///
    /// # Errors
    /// When the two differ in family or `last` comes first.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, AddressError> {
        if first.is_ipv4() != last.is_ipv4() {
            return Err(AddressError::TwoFamilies);
        }
        if last < first {
            return Err(AddressError::Reversed);
        }
        Ok(AddressRange { first, last })
    }

    /// The lowest address.
    pub fn first(self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(self) -> IpAddr {
        self.last
    }

    /// The prefix with exactly these addresses, if there is one.
    pub(crate) fn prefix(self) -> Option<IpNet> {
        let (host_bits, width) = match (self.first, self.last) {
            (IpAddr::V4(a), IpAddr::V4(b)) => ((u32::from(a) ^ u32::from(b)).count_ones(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => ((u128::from(a) ^ u128::from(b)).count_ones(), 128),
            _ => return None,
        };
        let net = IpNet::new(self.first, (width - host_bits) as u8).ok()?;
        (net.network() == self.first && net.broadcast() == self.last).then_some(net)
    }
}

impl FromStr for AddressRange {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let malformed = || AddressError::Malformed(crate::report::short(text));
        if let Some((first, last)) = text.split_once('-') {
            let first = first.trim().parse().map_err(|_| malformed())?;
            let last = last.trim().parse().map_err(|_| malformed())?;
            return AddressRange::new(first, last);
        }
        let Some((address, length)) = text.split_once('/') else {
            let a = text.parse().map_err(|_| malformed())?;
            return AddressRange::new(a, a);
        };
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        let digits = length.bytes().all(|b| b.is_ascii_digit());
        let net = length
            .parse()
            .ok()
            .filter(|_| digits)
            .and_then(|n| IpNet::new(address, n).ok())
            .ok_or_else(|| AddressError::PrefixLength { length: crate::report::short(length), max })?;
        if net.network() != address {
            return Err(AddressError::HostBits { given: net });
        }
        AddressRange::new(net.network(), net.broadcast())
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "{}", self.first);
        }
        match self.prefix() {
            Some(net) => write!(f, "{net}"),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_every_form() {
        for (text, first, last) in [
            ("192.0.2.1", "192.0.2.1", "192.0.2.1"),
            ("10.0.0.0/8", "10.0.0.0", "10.255.255.255"),
            ("0.0.0.0/0", "0.0.0.0", "255.255.255.255"),
            ("192.0.2.1-192.0.2.9", "192.0.2.1", "192.0.2.9"),
            ("192.0.2.1 - 192.0.2.9", "192.0.2.1", "192.0.2.9"),
            ("2001:db8::/127", "2001:db8::", "2001:db8::1"),
            ("::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("2001:db8::1-2001:db8::ff", "2001:db8::1", "2001:db8::ff"),
        ] {
            let r: AddressRange = text.parse().expect(text);
            assert_eq!((r.first().to_string(), r.last().to_string()), (first.into(), last.into()), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_none() {
        for (text, message) in [
            ("", "`` is not an address, a prefix or a range"),
            ("10.0.0", "`10.0.0` is not an address, a prefix or a range"),
            ("10.0.0.256", "`10.0.0.256` is not an address, a prefix or a range"),
            ("10.0.0.0/33", "`33` is not a prefix length: it goes from 0 to 32"),
            ("10.0.0.0/+8", "`+8` is not a prefix length: it goes from 0 to 32"),
            ("2001:db8::/129", "`129` is not a prefix length: it goes from 0 to 128"),
            ("10.0.0.1/24", "`10.0.0.1/24` has bits set behind the prefix"),
            ("10.0.0.9-10.0.0.1", "the range ends before it begins"),
            ("10.0.0.1-::1", "the range begins with an IPv4 and ends with an IPv6 address, or the other way round"),
        ] {
            assert_eq!(text.parse::<AddressRange>().expect_err(text).to_string(), message);
        }
    }

    fn any_range() -> impl Strategy<Value = AddressRange> {
        let v4 =
            (any::<u32>(), any::<u32>()).prop_map(|(a, b)| (IpAddr::V4(a.min(b).into()), IpAddr::V4(a.max(b).into())));
        let v6 = (any::<u128>(), any::<u128>())
            .prop_map(|(a, b)| (IpAddr::V6(a.min(b).into()), IpAddr::V6(a.max(b).into())));
        let net4 = (any::<u32>(), 0..=32u8)
            .prop_map(|(a, n)| IpNet::new(IpAddr::V4(a.into()), n).expect("a length of the family").trunc())
            .prop_map(|n| (n.network(), n.broadcast()));
        let net6 = (any::<u128>(), 0..=128u8)
            .prop_map(|(a, n)| IpNet::new(IpAddr::V6(a.into()), n).expect("a length of the family").trunc())
            .prop_map(|n| (n.network(), n.broadcast()));
        prop_oneof![v4, v6, net4, net6].prop_map(|(a, b)| AddressRange::new(a, b).expect("in order"))
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(r in any_range()) {
            prop_assert_eq!(r.to_string().parse::<AddressRange>(), Ok(r));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-f:./-]{0,40}|.{0,20}") {
            if let Ok(r) = text.parse::<AddressRange>() {
                prop_assert!(r.first() <= r.last());
            }
        }
    }
}
