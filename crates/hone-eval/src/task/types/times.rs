//! Texts that pyarrow's JSON reader takes for times: ISO 8601 to the second, with or without an offset, which is taken off.
//!
//! `2020-01-31`, or that, a space or `T`, and `10`, `10:05` or `10:05:06`; behind a time of day `Z`, `+02`, `+0200` or `+02:00`. Fractions
//! of a second, leap seconds and the hour 24 are no times.

use hone_data::readers::civil::{date_and_time_text, day_of};

/// Longest such text, in bytes.
const LONGEST: usize = "2020-01-31T10:05:06+02:00".len();

/// `str` of the `datetime` that the text is; `None` if it is none.
pub(super) fn python_text(text: &str) -> Option<String> {
    Some(date_and_time_text(seconds(text)?, 0))
}

/// Whether the text is a time.
pub(super) fn is_time(text: &str) -> bool {
    seconds(text).is_some()
}

/// Seconds since 1970.
fn seconds(text: &str) -> Option<i64> {
    if !(10..=LONGEST).contains(&text.len()) || !text.is_ascii() {
        return None;
    }
    let (date, rest) = text.split_at(10);
    let (year, month_and_day) = date.split_at(4);
    let (month, day) = (month_and_day.get(1..3)?, month_and_day.get(4..6)?);
    if month_and_day.as_bytes()[0] != b'-' || month_and_day.as_bytes()[3] != b'-' {
        return None;
    }
    let midnight = day_of(number(year)?, number(month)? as u32, number(day)? as u32)? * 86_400;
    if rest.is_empty() {
        return Some(midnight);
    }
    let time = rest.strip_prefix([' ', 'T'])?;
    let (time, offset) = match time.strip_suffix('Z') {
        Some(time) => (time, 0),
        None => match time.find(['+', '-']) {
            Some(at) => (&time[..at], offset(&time[at..])?),
            None => (time, 0),
        },
    };
    let of_day = match (time.len(), time.as_bytes()) {
        (2, _) => clock(time, "00", "00"),
        (5, [_, _, b':', ..]) => clock(&time[..2], &time[3..], "00"),
        (8, [_, _, b':', _, _, b':', ..]) => clock(&time[..2], &time[3..5], &time[6..]),
        _ => None,
    }?;
    Some(midnight + of_day - offset)
}

/// `+02`, `-0230`, `+02:00` in seconds.
fn offset(text: &str) -> Option<i64> {
    let (sign, digits) = text.split_at(1);
    let seconds = match (digits.len(), digits.as_bytes()) {
        (2, _) => clock(digits, "00", "00"),
        (4, _) => clock(&digits[..2], &digits[2..], "00"),
        (5, [_, _, b':', ..]) => clock(&digits[..2], &digits[3..], "00"),
        _ => None,
    }?;
    Some(if sign == "-" { -seconds } else { seconds })
}

fn clock(hour: &str, minute: &str, second: &str) -> Option<i64> {
    let (hour, minute, second) = (number(hour)?, number(minute)?, number(second)?);
    (hour < 24 && minute < 60 && second < 60).then_some(hour * 3600 + minute * 60 + second)
}

/// Digits and nothing else.
fn number(digits: &str) -> Option<i64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_pyarrow() {
        for (text, time) in [
            ("2020-01-01", "2020-01-01 00:00:00"),
            ("2020-01-01T10", "2020-01-01 10:00:00"),
            ("2020-01-01 10:05", "2020-01-01 10:05:00"),
            ("2020-01-01T10:05:06Z", "2020-01-01 10:05:06"),
            ("2020-01-01 10:05:06+02:00", "2020-01-01 08:05:06"),
            ("2020-01-01 00:30+0200", "2019-12-31 22:30:00"),
            ("2020-01-01 23-01", "2020-01-02 00:00:00"),
            ("0001-01-01", "0001-01-01 00:00:00"),
        ] {
            assert_eq!(python_text(text).as_deref(), Some(time), "{text}");
        }
        for text in [
            "2020-01-01 10:05:06.5",
            "2020-13-01",
            "2020-02-30",
            "20-01-01",
            "2020-01-01 24:00",
            "2020-01-01Z",
            "2020-1-01x",
            "2020-01-01T10:05:06 Z",
            "2020-01-01T10:05:06z",
            "2020-01-01+01:00",
            "2020-01-01 10:05:60",
            "2020-01-01 1:05",
            "2020-01-01 +0:05",
            "2020-01-01 10:05+2",
            "2020/01/01",
            "2020-01-01 10-05-06",
            "2020-01-0é",
            "",
        ] {
            assert!(!is_time(text), "{text}");
        }
    }
}
