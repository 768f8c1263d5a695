//! How long a server asks to wait: `Retry-After` as seconds or as a date (RFC 9110, 10.2.3 and 5.6.7), which is counted from the server's own
//! `Date` where it gives one, so that clocks need not agree.
//!
//! What it does not know: leap seconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The wait that a `Retry-After` asks for; nothing for a date that is past, `None` for what is neither number nor date.
pub(super) fn wait(asked: &str, date: Option<&str>) -> Option<Duration> {
    let asked = asked.trim();
    if asked.bytes().all(|b| b.is_ascii_digit()) {
        return asked.parse().ok().map(Duration::from_secs);
    }
    let here = || SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs() as i64);
    let now = date.and_then(seconds_of).or_else(here)?;
    Some(Duration::from_secs(u64::try_from(seconds_of(asked)? - now).unwrap_or(0)))
}

/// Seconds from 1970 to an HTTP date: `Sun, 06 Nov 1994 08:49:37 GMT`, or one of the two obsolete forms,
/// `Sunday, 06-Nov-94 08:49:37 GMT` and `Sun Nov  6 08:49:37 1994`.
fn seconds_of(date: &str) -> Option<i64> {
    let parts: Vec<&str> = date.split([' ', ',', '-']).filter(|part| !part.is_empty()).collect();
    let (day, month, year, time) = match parts[..] {
        [_, day, month, year, time, "GMT"] => (day, month, year, time),
        [_, month, day, time, year] => (day, month, year, time),
        _ => return None,
    };
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let number = |text: &str, most: i64| text.parse::<i64>().ok().filter(|n| (0..=most).contains(n));
    let year = match (number(year, 9999)?, year.len()) {
        // Of two digits: from 1970 to 2069.
        (short, 2) => short + if short < 70 { 2000 } else { 1900 },
        (year, _) => year,
    };
    let [hour, minute, second] = time.split(':').collect::<Vec<_>>()[..] else { return None };
    let within = number(hour, 23)? * 3600 + number(minute, 59)? * 60 + number(second, 60)?;
    Some(days(year, month, number(day, 31)?) * 86_400 + within)
}

/// Days from 1970-01-01 in the Gregorian calendar, with years that begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 + day
        - 719_469
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_all_three_forms_are_read() {
        // `email.utils.parsedate_to_datetime(…).timestamp()` of CPython.
        for (date, seconds) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(784_111_777)),
            ("Sun Nov  6 08:49:37 1994", Some(784_111_777)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Thu, 29 Feb 2024 23:59:59 GMT", Some(1_709_251_199)),
            ("Fri, 01 Mar 2024 00:00:00 GMT", Some(1_709_251_200)),
            ("Sun, 06 Nov 1994 08:49 GMT", None),
            ("Sun, 06 Nov 1994 25:49:37 GMT", None),
            ("Sun, 06 Okt 1994 08:49:37 GMT", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(seconds_of(date), seconds, "{date}");
        }
    }

    #[test]
    fn waits_are_counted_from_the_servers_clock() {
        let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:07 GMT", date), Some(Duration::from_secs(30)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:07 GMT", date), Some(Duration::ZERO));
        assert_eq!(wait(" 7 ", None), Some(Duration::from_secs(7)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT", None), Some(Duration::ZERO), "long past");
        assert!(wait("Fri, 31 Dec 9999 23:59:59 GMT", None) > Some(Duration::from_secs(1 << 30)));
        assert_eq!((wait("soon", date), wait("-1", None)), (None, None));
    }
}
