//! Values on the command line.

use std::fmt;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Reads `02:00:00:00:00:01`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn mac(text: &str) -> Result<Mac, String> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|b| u8::from_str_radix(b, 16)).collect();
    let bytes = bytes.ok().and_then(|b| b.try_into().ok());
    bytes.map(Mac).ok_or_else(|| format!("`{text}` is not an Ethernet address such as 02:00:00:00:00:01"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ethernet_addresses_have_six_bytes() {
        assert_eq!(mac("02:00:0a:ff:00:01"), Ok(Mac([2, 0, 10, 255, 0, 1])));
        for bad in ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "02:00:00:00:00:1ff"] {
            assert!(mac(bad).is_err(), "{bad}");
        }
    }
}
