//! Durations as people write them (`1h30m`) and read them (`3m 12s`).

use std::ffi::OsStr;
use std::time::Duration;

use kin_broker::{Error, Result};

use super::{bad_usage, output};

/// The shortest and the longest time that a grant may be given, in seconds.
const SHORTEST: u64 = 1;
const LONGEST: u64 = 30 * DAY;
const DAY: u64 = 24 * 60 * 60;

/// Units, from the longest, in seconds.
const UNITS: [(char, u64); 4] = [('d', DAY), ('h', 60 * 60), ('m', 60), ('s', 1)];

/// A grant's time to live, `90s`, `10m`, `1h30m`, `2d`: whole numbers, each with its unit, the longest
/// first, one second to thirty days in all.
///
/// # Errors
/// `bad_ttl`.
pub(super) fn ttl(argument: &OsStr) -> Result<Duration> {
    argument.to_str().and_then(seconds).map(Duration::from_secs).ok_or_else(|| bad_ttl(argument))
}

fn bad_ttl(argument: &OsStr) -> Error {
    let mut short: String = output::printable_bytes(argument.as_encoded_bytes());
    if let Some((cut, _)) = short.char_indices().nth(40) {
        short.truncate(cut);
        short.push('…');
    }
    bad_usage(
        "bad_ttl",
        format!("\"{short}\" is not a time from 1s to 30d"),
        "write it as 90s, 10m, 1h30m or 2d",
    )
}

fn seconds(text: &str) -> Option<u64> {
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
    (SHORTEST..=LONGEST).contains(&total).then_some(total)
}

/// Seconds for people: the two longest units that are not zero, `3m 12s`.
pub(super) fn brief(seconds: u64) -> String {
    let Some(first) = UNITS.iter().position(|(_, length)| seconds >= *length) else { return "0s".into() };
    let (name, length) = UNITS[first];
    let mut text = format!("{}{name}", seconds / length);
    if let Some((name, shorter)) = UNITS.get(first + 1)
        && seconds % length >= *shorter
    {
        text += &format!(" {}{name}", seconds % length / shorter);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_live_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("1s", 1),
            ("90s", 90),
            ("10m", 600),
            ("1h30m", 5400),
            ("2d", 2 * DAY),
            ("30d", LONGEST),
            ("1d1s", DAY + 1),
        ] {
            assert_eq!(ttl(OsStr::new(text)).unwrap(), Duration::from_secs(seconds), "{text}");
        }
    }

    #[test]
    fn e04_times_that_are_none_are_refused() {
        for bad in [
            "",
            "0",
            "0s",
            "-1",
            "-1s",
            "1",
            "1ns",
            "10m5",
            "5s10m",
            "1m1m",
            "NaN",
            "inf",
            "1e3s",
            "1.5h",
            " 1s",
            "1s ",
            "１s",
            "18446744073709551616",
            "18446744073709551616s",
            "18446744073709551615d",
            "31d",
            "30d1s",
        ] {
            let error = ttl(OsStr::new(bad)).unwrap_err();
            assert_eq!((error.exit_code(), error.code.as_ref()), (2, "bad_ttl"), "{bad:?}");
        }
    }

    #[test]
    fn durations_are_shown_in_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (192, "3m 12s"),
            (3600, "1h"),
            (3605, "1h"),
            (90061, "1d 1h"),
        ] {
            assert_eq!(brief(seconds), text);
        }
    }
}
