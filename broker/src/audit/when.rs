//! What moment does a person mean?

use jiff::civil::{DateTime, Time};
use jiff::{SignedDuration, Span, Timestamp, Zoned};

use crate::error::{Class, Error, Result};

/// A moment as people write it: RFC 3339; `2026-01-31`, `2026-01-31 14:00[:30]` and `14:00`, `2pm`,
/// `2:30pm` in `now`'s time zone (a time of day is its last occurrence); `now`, `today` and `yesterday`
/// (their beginning), and a time of day on them: `yesterday 2pm`; `90s`, `10m`, `2 hours`, `3d`, `1w` before
/// `now`, with or without `ago`.
///
/// # Errors
/// `bad_time`.
pub fn parse_time(text: &str, now: &Zoned) -> Result<Timestamp> {
    let text = text.trim();
    named(text, now)
        .or_else(|| before(text, now))
        .or_else(|| text.parse().ok())
        .or_else(|| of_day(text, now))
        .or_else(|| of_named_day(text, now))
        .or_else(|| local(text, now))
        .ok_or_else(|| bad_time(text))
}

fn bad_time(text: &str) -> Error {
    let excerpt: String = text.chars().take(40).flat_map(char::escape_default).collect();
    Error::new(Class::Usage, "bad_time", format!("\"{excerpt}\" is not a time"))
        .hint("write 10m, 2h, 14:00, 2pm, yesterday, \"yesterday 2pm\", 2026-01-31, \"2026-01-31 14:00\" or RFC 3339")
}

fn named(text: &str, now: &Zoned) -> Option<Timestamp> {
    match text {
        "now" => Some(now.timestamp()),
        "today" => now.start_of_day().ok().map(|day| day.timestamp()),
        "yesterday" => now.yesterday().ok()?.start_of_day().ok().map(|day| day.timestamp()),
        _ => None,
    }
}

fn before(text: &str, now: &Zoned) -> Option<Timestamp> {
    let text = text.strip_suffix("ago").map_or(text, str::trim_end);
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let seconds = match unit.trim_start() {
        "s" | "sec" | "second" | "seconds" => 1,
        "m" | "min" | "minute" | "minutes" => 60,
        "h" | "hour" | "hours" => 3600,
        "d" | "day" | "days" => 86_400,
        "w" | "week" | "weeks" => 7 * 86_400,
        _ => return None,
    };
    let number: i64 = number.parse().ok()?;
    now.timestamp().checked_sub(SignedDuration::from_secs(number.checked_mul(seconds)?)).ok()
}

/// `yesterday 2pm`, `today 09:00`.
fn of_named_day(text: &str, now: &Zoned) -> Option<Timestamp> {
    let (day, time) = text.split_once(char::is_whitespace)?;
    let day = match day {
        "today" => now.date(),
        "yesterday" => now.date().checked_sub(Span::new().days(1)).ok()?,
        _ => return None,
    };
    let time = clock(time.trim_start())?;
    day.to_datetime(time).to_zoned(now.time_zone().clone()).ok().map(|time| time.timestamp())
}

fn of_day(text: &str, now: &Zoned) -> Option<Timestamp> {
    let time = clock(text)?;
    let today = now.date().to_datetime(time).to_zoned(now.time_zone().clone()).ok()?;
    if today <= *now {
        return Some(today.timestamp());
    }
    let day = now.date().checked_sub(Span::new().days(1)).ok()?;
    day.to_datetime(time).to_zoned(now.time_zone().clone()).ok().map(|time| time.timestamp())
}

/// `14:00`, `14:00:30`, `2pm`, `2:30pm`.
fn clock(text: &str) -> Option<Time> {
    let lower = text.to_ascii_lowercase();
    let (digits, half) = match (lower.strip_suffix("am"), lower.strip_suffix("pm")) {
        (Some(rest), _) => (rest, Some(0)),
        (_, Some(rest)) => (rest, Some(12)),
        _ => (lower.as_str(), None),
    };
    let mut parts = Vec::new();
    for part in digits.trim_end().split(':') {
        let two = matches!(part.len(), 1 | 2) && part.bytes().all(|byte| byte.is_ascii_digit());
        parts.push(two.then(|| part.parse::<i8>().ok())??);
    }
    let (hour, minute, second) = match (parts.as_slice(), half) {
        ([hour], Some(_)) => (*hour, 0, 0),
        ([hour, minute], _) => (*hour, *minute, 0),
        ([hour, minute, second], _) => (*hour, *minute, *second),
        _ => return None,
    };
    let hour = match half {
        None => hour,
        Some(half) if (1..=12).contains(&hour) => hour % 12 + half,
        Some(_) => return None,
    };
    Time::new(hour, minute, second, 0).ok()
}

fn local(text: &str, now: &Zoned) -> Option<Timestamp> {
    let moment: DateTime = text.parse().ok()?;
    moment.to_zoned(now.time_zone().clone()).ok().map(|time| time.timestamp())
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::*;

    fn now() -> Zoned {
        let central_europe = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        jiff::civil::date(2026, 11, 23).at(10, 30, 0, 0).to_zoned(central_europe).unwrap()
    }

    #[test]
    fn people_write_times_in_many_ways() {
        for (text, expected) in [
            ("2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z"),
            ("2026-11-01T02:00:00+02:00", "2026-11-01T00:00:00Z"),
            ("2026-11-01", "2026-10-31T23:00:00Z"),
            ("2026-07-01", "2026-06-30T22:00:00Z"),
            ("2026-11-01 14:00", "2026-11-01T13:00:00Z"),
            ("2026-11-01 14:00:30", "2026-11-01T13:00:30Z"),
            ("09:15", "2026-11-23T08:15:00Z"),
            ("23:00", "2026-11-22T22:00:00Z"),
            ("2pm", "2026-11-22T13:00:00Z"),
            ("2:30 AM", "2026-11-23T01:30:00Z"),
            ("12am", "2026-11-22T23:00:00Z"),
            ("now", "2026-11-23T09:30:00Z"),
            ("today", "2026-11-22T23:00:00Z"),
            ("yesterday", "2026-11-21T23:00:00Z"),
            ("90s", "2026-11-23T09:28:30Z"),
            ("10m", "2026-11-23T09:20:00Z"),
            ("2h ago", "2026-11-23T07:30:00Z"),
            ("10 minutes ago", "2026-11-23T09:20:00Z"),
            ("1 hour ago", "2026-11-23T08:30:00Z"),
            ("2 days", "2026-11-21T09:30:00Z"),
            ("yesterday 2pm", "2026-11-22T13:00:00Z"),
            ("yesterday 23:30", "2026-11-22T22:30:00Z"),
            ("today 9:00", "2026-11-23T08:00:00Z"),
            ("3d", "2026-11-20T09:30:00Z"),
            ("1w", "2026-11-16T09:30:00Z"),
        ] {
            assert_eq!(parse_time(text, &now()).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_a_usage_error() {
        let bad = [
            "",
            "m",
            "-5m",
            "5",
            "13pm",
            "0am",
            "25:00",
            "1:2:3:4",
            "10x",
            "tomorrow",
            "yesterday 25:00",
            "10 minutess",
            "9999999999999999w",
        ];
        for text in bad.into_iter().chain(["2026-13-01", "2026-02-30", "ago", "é", "\u{1b}[2J"]) {
            let error = parse_time(text, &now()).unwrap_err();
            assert_eq!((error.class, error.code.as_ref()), (Class::Usage, "bad_time"), "{text}");
            assert!(error.message.chars().all(|c| !c.is_control()));
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,12}|[0-9a-z: ]{0,8}") {
            let _ = parse_time(&text, &now());
        }
    }
}
