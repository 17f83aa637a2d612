//! Durations as people write them (`1h30m`) and read them (`3m 12s`).

use std::ffi::OsStr;
use std::time::Duration;

use kin_broker::sys::limits;
use kin_broker::{Error, Result};

use super::{bad_usage, output};

/// A grant's time to live, `90s`, `10m`, `1h30m`, `2d`: whole numbers, each with its unit, the longest
/// first, one second to thirty days in all.
///
/// # Errors
/// `bad_ttl`.
pub(super) fn ttl(argument: &OsStr) -> Result<Duration> {
    argument.to_str().and_then(limits::duration).ok_or_else(|| bad(argument, "bad_ttl"))
}

/// The time until a rotation is due, in seconds: one second to ten years.
///
/// # Errors
/// `bad_time`.
pub(super) fn rotation(argument: &OsStr) -> Result<u64> {
    const LONGEST: u64 = 3650 * 24 * 60 * 60;
    let seconds = argument.to_str().and_then(limits::seconds);
    seconds.filter(|seconds| (1..=LONGEST).contains(seconds)).ok_or_else(|| {
        let message = format!("\"{}\" is not a time from 1s to 3650d", output::excerpt(argument));
        bad_usage("bad_time", message, "write it as 90d, 12h or 1d12h")
    })
}

/// How long after its start a command may open files, written as a time to live is.
///
/// # Errors
/// `bad_window`.
pub(super) fn window(argument: &OsStr) -> Result<Duration> {
    argument.to_str().and_then(limits::duration).ok_or_else(|| bad(argument, "bad_window"))
}

fn bad(argument: &OsStr, code: &'static str) -> Error {
    let message = format!("\"{}\" is not {}", output::excerpt(argument), limits::A_DURATION);
    bad_usage(code, message, limits::WRITE_A_DURATION)
}

/// Seconds for people: the two longest units that are not zero, `3m 12s`.
pub(super) fn brief(seconds: u64) -> String {
    let Some(first) = limits::UNITS.iter().position(|(_, length)| seconds >= *length) else {
        return "0s".into();
    };
    let (name, length) = limits::UNITS[first];
    let mut text = format!("{}{name}", seconds / length);
    if let Some((name, shorter)) = limits::UNITS.get(first + 1)
        && seconds % length >= *shorter
    {
        text += &format!(" {}{name}", seconds % length / shorter);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 60 * 60;

    #[test]
    fn times_to_live_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("1s", 1),
            ("90s", 90),
            ("10m", 600),
            ("1h30m", 5400),
            ("2d", 2 * DAY),
            ("30d", 30 * DAY),
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
            let error = window(OsStr::new(bad)).unwrap_err();
            assert_eq!((error.exit_code(), error.code.as_ref()), (2, "bad_window"), "{bad:?}");
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
