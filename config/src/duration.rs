//! Durations as a policy writes them: `45s`, `2m`, `1h30m`, `5d`.

/// The longest duration, 24 days in seconds: what the workers' 32-bit millisecond clock can tell apart.
pub const MAX_SECONDS: u32 = 24 * 86_400;

/// Units from the largest to the smallest, with their seconds.
const UNITS: [(char, u32); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// A number without a unit.
    #[error("the duration `{0}` has no unit")]
    NoUnit(String),
    /// Not a series of numbers and units, largest unit first.
    #[error("`{0}` is not a duration")]
    Malformed(String),
    /// Zero, or more than 24 days.
    #[error("a duration must be between 1s and 24d")]
    OutOfRange,
}

impl DurationError {
    /// What to write instead.
    pub fn help(&self) -> Option<String> {
        match self {
            DurationError::NoUnit(n) => Some(format!("for seconds write `{n}s`")),
            DurationError::Malformed(_) => {
                Some("write whole numbers with the units d, h, m, s, largest first: 45s, 2m, 1h30m, 5d".into())
            }
            DurationError::OutOfRange => None,
        }
    }
}

/// The seconds of a duration between one second and 24 days.
///
/// # Errors
/// When the text is no duration or out of that range.
pub fn parse(text: &str) -> Result<u32, DurationError> {
    let malformed = || DurationError::Malformed(crate::report::short(text));
    let mut units = UNITS.iter();
    let mut rest = text;
    let mut total: u64 = 0;
    if rest.is_empty() {
        return Err(malformed());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let unit = rest[digits..].chars().next();
        if digits > 0 && unit.is_none() && digits == text.len() {
            return Err(DurationError::NoUnit(crate::report::short(text)));
        }
        // `find` goes on behind the last unit found, so a unit cannot come twice or after a smaller one.
        let (name, seconds) = units.find(|(u, _)| Some(*u) == unit).ok_or_else(malformed)?;
        if digits == 0 {
            return Err(malformed());
        }
        let n: u64 = rest[..digits].parse().map_err(|_| DurationError::OutOfRange)?;
        total = total.saturating_add(n.saturating_mul(u64::from(*seconds)));
        rest = &rest[digits + name.len_utf8()..];
    }
    u32::try_from(total).ok().filter(|t| (1..=MAX_SECONDS).contains(t)).ok_or(DurationError::OutOfRange)
}

/// A duration in seconds as a policy writes it.
pub fn format(seconds: u32) -> String {
    let mut rest = seconds;
    let mut out = String::new();
    for (unit, size) in UNITS {
        if rest >= size {
            out.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    if out.is_empty() { "0s".into() } else { out }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_units() {
        for (text, seconds) in
            [("45s", 45), ("2m", 120), ("1h30m", 5400), ("5d", 432_000), ("24d", MAX_SECONDS), ("90m", 5400)]
        {
            assert_eq!(parse(text), Ok(seconds), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for (text, message) in [
            ("", "`` is not a duration"),
            ("45", "the duration `45` has no unit"),
            ("45 s", "`45 s` is not a duration"),
            ("s", "`s` is not a duration"),
            ("1m1h", "`1m1h` is not a duration"),
            ("1m1m", "`1m1m` is not a duration"),
            ("1h30", "`1h30` is not a duration"),
            ("-1s", "`-1s` is not a duration"),
            ("1.5h", "`1.5h` is not a duration"),
            ("3w", "`3w` is not a duration"),
            ("0s", "a duration must be between 1s and 24d"),
            ("25d", "a duration must be between 1s and 24d"),
            ("99999999999999999999999s", "a duration must be between 1s and 24d"),
            ("9999999999999999999d", "a duration must be between 1s and 24d"),
        ] {
            assert_eq!(parse(text).expect_err(text).to_string(), message);
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(seconds in 1..=MAX_SECONDS) {
            prop_assert_eq!(parse(&format(seconds)), Ok(seconds));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9dhms]{0,12}|.{0,20}") {
            if let Ok(s) = parse(&text) {
                prop_assert_eq!(parse(&format(s)), Ok(s));
            }
        }
    }
}
