//! How are limits written, in `kin.toml` and on a command line?

use std::time::Duration;

/// The shortest and the longest time that there is, in seconds.
const SHORTEST: u64 = 1;
const LONGEST: u64 = 30 * DAY;
const DAY: u64 = 24 * 60 * 60;
/// The most opens that a limit may allow: whoever wants more wants none.
const MOST_OPENS: u64 = 1_000_000_000;

/// Units, from the longest, in seconds.
pub const UNITS: [(char, u64); 4] = [('d', DAY), ('h', 60 * 60), ('m', 60), ('s', 1)];

/// What a time looks like, for messages.
pub const A_DURATION: &str = "a time from 1s to 30d";
/// How it is written, for hints.
pub const WRITE_A_DURATION: &str = "write it as 90s, 10m, 1h30m or 2d";
/// What a number of opens looks like, for messages.
pub const OPENS: &str = "a whole number from 1 to 1000000000";

/// `90s`, `10m`, `1h30m`, `2d`: whole numbers, each with its unit, the longest first, one second to thirty
/// days in all.
pub fn duration(text: &str) -> Option<Duration> {
    seconds(text).filter(|seconds| (SHORTEST..=LONGEST).contains(seconds)).map(Duration::from_secs)
}

/// The same of any length, in seconds.
pub fn seconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].chars().next()?;
        let (_, length) = units.find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.checked_mul(*length)?)?;
        rest = &rest[digits + unit.len_utf8()..];
    }
    (!text.is_empty()).then_some(total)
}

/// How often: digits and nothing else, 1 to 1,000,000,000.
pub fn opens(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|opens| plain && (1..=MOST_OPENS).contains(opens))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_opens_that_are_none_are_refused() {
        for bad in ["", "0", "-1", "+1", "1.0", "1e3", "NaN", "0x1", " 1", "１", "1000000001"] {
            assert_eq!(opens(bad), None, "{bad:?}");
        }
        assert_eq!(opens("18446744073709551616"), None);
        assert_eq!((opens("1"), opens("1000000000")), (Some(1), Some(MOST_OPENS)));
    }
}
