//! What stretch of time does a person mean?

use jiff::civil::{Date, DateTime, Time};
use jiff::{SignedDuration, Timestamp, Zoned};

use crate::sys::error::{Class, Error, Result};

/// From when to when, both included; a bound that is missing bounds nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
}

/// A stretch of time as people write its bounds: RFC 3339; `2026-01-31`, `2026-01-31 14:00[:30]` and `14:00`,
/// `2pm`, `2:30pm` in `now`'s time zone; `now`, `today`, `yesterday`, and a time of day on them: `yesterday
/// 2pm`; `90s`, `10m`, `2 hours`, `3d`, `1w` before `now`, with or without `ago`.
///
/// A day is meant from its first moment, or until its last. A time of day is its last occurrence; but `until` is
/// the first one after `since`, and where that would be tomorrow, a `since` that is a time of day as well is
/// that of the day before.
///
/// # Errors
/// `bad_time`, also where it would end before it begins.
pub fn parse_window(since: Option<&str>, until: Option<&str>, now: &Zoned) -> Result<Window> {
    let read = |text: &str| written(text.trim(), now).ok_or_else(|| bad_time(text.trim()));
    let (since, until) = (since.map(read).transpose()?, until.map(read).transpose()?);
    let window = match (since, until) {
        (Some(since), Some(Written::TimeOfDay(time))) => Some(until_first(since, time, now)?),
        (since, until) => bounded(since, until, now),
    };
    let window = window.ok_or_else(|| no_window("that time is too far away"))?;
    match window.since.zip(window.until) {
        Some((since, until)) if until < since => {
            let local = |time: Timestamp| shown(&time.to_zoned(now.time_zone().clone()));
            Err(no_window(&format!("{} is before {}", local(until), local(since))))
        }
        _ => Ok(window),
    }
}

/// What was written, before it is known which bound it is.
#[derive(Clone, Copy)]
enum Written {
    Moment(Timestamp),
    Day(Date),
    TimeOfDay(Time),
}

impl Written {
    fn begin(self, now: &Zoned) -> Option<Timestamp> {
        match self {
            Self::Moment(moment) => Some(moment),
            Self::Day(day) => moment(day.to_datetime(Time::midnight()), now),
            Self::TimeOfDay(time) => {
                let today = moment(now.date().to_datetime(time), now)?;
                if today <= now.timestamp() {
                    Some(today)
                } else {
                    moment(yesterday(now)?.to_datetime(time), now)
                }
            }
        }
    }

    fn end(self, now: &Zoned) -> Option<Timestamp> {
        let Self::Day(day) = self else { return self.begin(now) };
        let next = moment(day.tomorrow().ok()?.to_datetime(Time::midnight()), now)?;
        // Records count microseconds.
        next.checked_sub(SignedDuration::from_micros(1)).ok()
    }
}

fn bounded(since: Option<Written>, until: Option<Written>, now: &Zoned) -> Option<Window> {
    let since = match since {
        Some(since) => Some(since.begin(now)?),
        None => None,
    };
    let until = match until {
        Some(until) => Some(until.end(now)?),
        None => None,
    };
    Some(Window { since, until })
}

/// Until the first such time after `since`, and never after today.
fn until_first(since: Written, time: Time, now: &Zoned) -> Result<Window> {
    let far = || no_window("that time is too far away");
    let begin = since.begin(now).ok_or_else(far)?.to_zoned(now.time_zone().clone());
    let until = first_after(&begin, time).ok_or_else(far)?;
    if until.date() <= now.date() {
        return Ok(Window { since: Some(begin.timestamp()), until: Some(until.timestamp()) });
    }
    let Written::TimeOfDay(_) = since else {
        let time = time.strftime("%H:%M:%S");
        return Err(no_window(&format!("from {} on it was not {time} yet", shown(&begin))));
    };
    let begin = begin.yesterday().ok().ok_or_else(far)?;
    let until = first_after(&begin, time).ok_or_else(far)?;
    Ok(Window { since: Some(begin.timestamp()), until: Some(until.timestamp()) })
}

fn first_after(begin: &Zoned, time: Time) -> Option<Zoned> {
    let on = |day: Date| day.to_datetime(time).to_zoned(begin.time_zone().clone()).ok();
    let same_day = on(begin.date())?;
    if same_day > *begin { Some(same_day) } else { on(begin.date().tomorrow().ok()?) }
}

fn moment(local: DateTime, now: &Zoned) -> Option<Timestamp> {
    local.to_zoned(now.time_zone().clone()).ok().map(|time| time.timestamp())
}

fn yesterday(now: &Zoned) -> Option<Date> {
    now.date().yesterday().ok()
}

fn shown(time: &Zoned) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn bad_time(text: &str) -> Error {
    let excerpt: String = text.chars().take(40).flat_map(char::escape_default).collect();
    Error::new(Class::Usage, "bad_time", format!("\"{excerpt}\" is not a time"))
        .hint("write 10m, 2h, 14:00, 2pm, yesterday, \"yesterday 2pm\", 2026-01-31, \"2026-01-31 14:00\" or RFC 3339")
}

fn no_window(why: &str) -> Error {
    Error::new(Class::Usage, "bad_time", format!("nothing is between these times: {why}"))
        .hint("write both with their days: \"yesterday 2pm\", \"2026-01-31 14:00\"")
}

fn written(text: &str, now: &Zoned) -> Option<Written> {
    named_day(text, now)
        .map(Written::Day)
        .or_else(|| clock(text).map(Written::TimeOfDay))
        .or_else(|| fixed(text, now).map(Written::Moment))
}

fn named_day(text: &str, now: &Zoned) -> Option<Date> {
    match text {
        "today" => Some(now.date()),
        "yesterday" => yesterday(now),
        _ if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') => text.parse().ok(),
        _ => None,
    }
}

fn fixed(text: &str, now: &Zoned) -> Option<Timestamp> {
    if text == "now" {
        return Some(now.timestamp());
    }
    ago(text, now)
        .or_else(|| text.parse().ok())
        .or_else(|| on_named_day(text, now))
        .or_else(|| moment(text.parse().ok()?, now))
}

fn ago(text: &str, now: &Zoned) -> Option<Timestamp> {
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
fn on_named_day(text: &str, now: &Zoned) -> Option<Timestamp> {
    let (day, time) = text.split_once(char::is_whitespace)?;
    let day = match day {
        "today" => now.date(),
        "yesterday" => yesterday(now)?,
        _ => return None,
    };
    moment(day.to_datetime(clock(time.trim_start())?), now)
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

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::*;

    fn now() -> Zoned {
        at(10, 30)
    }

    /// 2026-11-23 in Central Europe.
    fn at(hour: i8, minute: i8) -> Zoned {
        let central_europe = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        jiff::civil::date(2026, 11, 23).at(hour, minute, 0, 0).to_zoned(central_europe).unwrap()
    }

    fn parse_time(text: &str, now: &Zoned) -> Result<Timestamp> {
        parse_window(Some(text), None, now).map(|window| window.since.unwrap())
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

    /// Local times; a dash is a bound that was not given.
    fn meant(since: &str, until: &str, now: &Zoned) -> Result<(String, String)> {
        let given = |text| (text != "-").then_some(text);
        let local = |time: Option<Timestamp>| {
            let time = time.map(|time| time.to_zoned(now.time_zone().clone()));
            time.map_or_else(|| "-".to_owned(), |time| time.strftime("%d %H:%M:%S").to_string())
        };
        parse_window(given(since), given(until), now).map(|window| (local(window.since), local(window.until)))
    }

    #[test]
    fn a_window_is_the_one_that_people_mean() {
        for (now, since, until, begin, end) in [
            // A window that has begun, whether or not it has ended.
            (at(13, 0), "12pm", "4pm", "23 12:00:00", "23 16:00:00"),
            (at(13, 0), "1pm", "11pm", "23 13:00:00", "23 23:00:00"),
            (at(17, 0), "1pm", "4pm", "23 13:00:00", "23 16:00:00"),
            (at(13, 0), "13:00", "16:00", "23 13:00:00", "23 16:00:00"),
            (at(11, 0), "13:00", "16:00", "22 13:00:00", "22 16:00:00"),
            (at(11, 0), "13:00", "12:00", "22 13:00:00", "23 12:00:00"),
            (at(11, 0), "13:00", "10:00", "22 13:00:00", "23 10:00:00"),
            // Tomorrow is never meant.
            (at(17, 0), "4pm", "2pm", "22 16:00:00", "23 14:00:00"),
            (at(23, 0), "22:00", "06:00", "22 22:00:00", "23 06:00:00"),
            (at(7, 0), "22:00", "06:00", "22 22:00:00", "23 06:00:00"),
            (at(0, 30), "23:00", "1am", "22 23:00:00", "23 01:00:00"),
            (at(17, 0), "4pm", "4pm", "22 16:00:00", "23 16:00:00"),
            (at(15, 0), "4pm", "4pm", "22 16:00:00", "23 16:00:00"),
            // After a moment, or a day's beginning.
            (at(13, 0), "1h", "23:59", "23 12:00:00", "23 23:59:00"),
            (at(13, 0), "1d", "12:00", "22 13:00:00", "23 12:00:00"),
            (at(13, 0), "yesterday", "4pm", "22 00:00:00", "22 16:00:00"),
            (at(13, 0), "yesterday 2pm", "1pm", "22 14:00:00", "23 13:00:00"),
            (at(13, 0), "2026-11-20", "4pm", "20 00:00:00", "20 16:00:00"),
            (at(13, 0), "2026-11-20 15:00", "16:00", "20 15:00:00", "20 16:00:00"),
            // Whole days.
            (at(13, 0), "2026-11-23", "2026-11-23", "23 00:00:00", "23 23:59:59"),
            (at(13, 0), "2026-11-20", "2026-11-21", "20 00:00:00", "21 23:59:59"),
            (at(13, 0), "yesterday", "yesterday", "22 00:00:00", "22 23:59:59"),
            (at(13, 0), "today", "today", "23 00:00:00", "23 23:59:59"),
            (at(13, 0), "10m", "today", "23 12:50:00", "23 23:59:59"),
            (at(13, 0), "-", "yesterday", "-", "22 23:59:59"),
            // The rest is as written.
            (at(13, 0), "-", "4pm", "-", "22 16:00:00"),
            (at(13, 0), "-", "12pm", "-", "23 12:00:00"),
            (at(13, 0), "1pm", "today 4pm", "23 13:00:00", "23 16:00:00"),
            (at(13, 0), "2h", "1h", "23 11:00:00", "23 12:00:00"),
            (at(13, 0), "1h", "now", "23 12:00:00", "23 13:00:00"),
            (at(13, 0), "now", "now", "23 13:00:00", "23 13:00:00"),
            (at(13, 0), "4pm", "-", "22 16:00:00", "-"),
            (at(13, 0), "-", "-", "-", "-"),
        ] {
            let expected = (begin.to_owned(), end.to_owned());
            assert_eq!(meant(since, until, &now).unwrap(), expected, "{since} to {until} at {now}");
        }
    }

    #[test]
    fn a_day_that_ends_a_window_is_in_it_to_its_last_microsecond() {
        let window = parse_window(None, Some("2026-11-23"), &now()).unwrap();
        assert_eq!(window.until.unwrap().to_string(), "2026-11-23T22:59:59.999999Z");
        // The day on which clocks go back has 25 hours.
        let window = parse_window(Some("2026-10-25"), Some("2026-10-25"), &now()).unwrap();
        let hours = window.until.unwrap().duration_since(window.since.unwrap()).as_hours();
        assert_eq!(hours, 24);
    }

    #[test]
    fn a_window_that_ends_before_it_begins_is_a_usage_error() {
        for (since, until) in [
            ("1h", "2h"),
            ("today", "yesterday"),
            ("now", "10m"),
            ("12pm", "yesterday 4pm"),
            ("2026-11-21", "2026-11-20"),
            // Not yet: 12:00 is the first one after 12:30 tomorrow alone.
            ("30m", "12:00"),
            ("2026-11-24", "12:00"),
        ] {
            let error = parse_window(Some(since), Some(until), &at(13, 0)).unwrap_err();
            assert_eq!((error.class, error.code.as_ref()), (Class::Usage, "bad_time"), "{since} to {until}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,12}|[0-9a-z: ]{0,8}") {
            let _ = parse_window(Some(&text), Some(&text), &now());
        }

        #[test]
        fn a_window_of_two_times_of_day_has_begun_is_not_longer_than_a_day_and_ends_today_at_the_latest(
            since in 0_i8..24, until in 0_i8..24, hour in 0_i8..24, minute in 0_i8..60
        ) {
            let now = at(hour, minute);
            let window = parse_window(Some(&format!("{since}:00")), Some(&format!("{until}:00")), &now).unwrap();
            let (begin, end) = (window.since.unwrap(), window.until.unwrap());
            prop_assert!(begin <= now.timestamp() && begin < end);
            prop_assert!(end.duration_since(begin).as_hours() <= 24);
            prop_assert!(end.to_zoned(now.time_zone().clone()).date() <= now.date());
        }
    }
}
