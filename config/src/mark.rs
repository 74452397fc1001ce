//! Marks of connections as a policy writes them: `7`, `0x10`, `0x10/0xff`.

/// Why a text is no mark.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MarkError {
    /// Not a decimal or hexadecimal number.
    #[error("`{0}` is not a mark")]
    Malformed(String),
    /// More than 32 bits.
    #[error("the mark {0} is too large: marks have 32 bits")]
    TooLarge(String),
    /// A mask where a value is set.
    #[error("a mark that is set has no mask")]
    Mask,
    /// The mask compares nothing.
    #[error("the mask 0 matches every mark")]
    EmptyMask,
    /// Bits that the mask removes before the comparison.
    #[error("no mark matches {value:#x}/{mask:#x}: the value has bits that the mask has not")]
    Outside {
        /// What was written.
        value: u32,
        /// What was written.
        mask: u32,
    },
}

impl MarkError {
    /// What to write instead.
    pub(crate) fn help(&self) -> Option<String> {
        match self {
            MarkError::Malformed(_) => {
                Some("write 7 or 0x10, and in `match` also 0x10/0xff to compare some bits".into())
            }
            MarkError::TooLarge(_) => None,
            MarkError::Mask => Some("write the value alone; the whole mark is set".into()),
            MarkError::EmptyMask => Some("leave the key out".into()),
            MarkError::Outside { value, mask } => Some(format!("{:#x}/{mask:#x} compares the same bits", value & mask)),
        }
    }
}

/// The mark to set: a value without a mask.
///
/// # Errors
/// When the text is no such value.
pub(crate) fn value(text: &str) -> Result<u32, MarkError> {
    if text.contains('/') { Err(MarkError::Mask) } else { number(text, text) }
}

/// Value and mask to compare a mark with; without a mask all bits are compared.
///
/// # Errors
/// When the text is none, or matches nothing or everything.
pub(crate) fn masked(text: &str) -> Result<(u32, u32), MarkError> {
    let Some((value, mask)) = text.split_once('/') else { return Ok((number(text, text)?, u32::MAX)) };
    let (value, mask) = (number(value.trim(), text)?, number(mask.trim(), text)?);
    match mask {
        0 => Err(MarkError::EmptyMask),
        _ if value & !mask != 0 => Err(MarkError::Outside { value, mask }),
        _ => Ok((value, mask)),
    }
}

/// A decimal or hexadecimal number; `whole` is the text it is part of.
fn number(text: &str, whole: &str) -> Result<u32, MarkError> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(hex) => (hex, 16),
        None => (text, 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(MarkError::Malformed(crate::report::short(whole)));
    }
    u32::from_str_radix(digits, radix).map_err(|_| MarkError::TooLarge(crate::report::short(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_values_and_masks() {
        for (text, pair) in [
            ("7", (7, u32::MAX)),
            ("0xfF", (255, u32::MAX)),
            ("0x10/0xff", (16, 255)),
            ("0/1", (0, 1)),
            ("4294967295", (u32::MAX, u32::MAX)),
        ] {
            assert_eq!(masked(text), Ok(pair), "{text}");
        }
        assert_eq!(value("0x10"), Ok(16));
        assert_eq!(value("0"), Ok(0));
    }

    #[test]
    fn refuses_the_rest() {
        for (text, message) in [
            ("", "`` is not a mark"),
            ("seven", "`seven` is not a mark"),
            ("-1", "`-1` is not a mark"),
            ("0x", "`0x` is not a mark"),
            ("7/", "`7/` is not a mark"),
            ("1/2/3", "`1/2/3` is not a mark"),
            ("4294967296", "the mark 4294967296 is too large: marks have 32 bits"),
            ("1/0x100000000", "the mark 0x100000000 is too large: marks have 32 bits"),
            ("0/0", "the mask 0 matches every mark"),
            ("0x110/0xff", "no mark matches 0x110/0xff: the value has bits that the mask has not"),
        ] {
            assert_eq!(masked(text).expect_err(text).to_string(), message);
        }
        assert_eq!(value("1/1"), Err(MarkError::Mask));
    }
}
