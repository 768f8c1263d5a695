//! Days of the (proleptic) Gregorian calendar and times of day, as Python's `datetime` prints them.
//!
//! Days are counted from 1 January 1970. What it does not know: time zones other than UTC, and leap seconds.

/// Days in 400 years.
const ERA: i64 = 146_097;
/// Seconds of a day.
const DAY: i64 = 86_400;

/// The day of a date; `None` if there is no such day.
pub fn day_of(year: i64, month: u32, day: u32) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u32::from(leap),
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    // Years are counted from March, so that the day that comes and goes is the last one.
    let year = year - i64::from(month <= 2);
    let month = i64::from((month + 9) % 12);
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + i64::from(day) - 1;
    Some(era * ERA + year * 365 + year / 4 - year / 100 + of_year - 719_468)
}

/// Year, month and day.
pub fn date_of(day: i64) -> (i64, u32, u32) {
    let day = day.saturating_add(719_468);
    let (era, of_era) = (day.div_euclid(ERA), day.rem_euclid(ERA));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = (of_year - (153 * month + 2) / 5 + 1) as u32;
    let month = if month < 10 { month + 3 } else { month - 9 } as u32;
    (era * 400 + year + i64::from(month <= 2), month, date)
}

/// `2020-01-31`.
pub fn date_text(day: i64) -> String {
    let (year, month, date) = date_of(day);
    format!("{year:04}-{month:02}-{date:02}")
}

/// `12:30:00`, with six digits behind a point if there are microseconds, and nine if there are nanoseconds.
pub fn time_text(second: i64, nanosecond: u32) -> String {
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let fraction = match nanosecond {
        0 => String::new(),
        whole if whole % 1000 == 0 => format!(".{:06}", whole / 1000),
        fine => format!(".{fine:09}"),
    };
    format!("{hour:02}:{minute:02}:{second:02}{fraction}")
}

/// `2020-01-31 12:30:00`, of seconds since 1970.
pub fn date_and_time_text(seconds: i64, nanosecond: u32) -> String {
    format!("{} {}", date_text(seconds.div_euclid(DAY)), time_text(seconds.rem_euclid(DAY), nanosecond))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_those_of_python() {
        // `(datetime.date(y, m, d) - datetime.date(1970, 1, 1)).days`.
        for (day, date) in [
            (0, (1970, 1, 1)),
            (-1, (1969, 12, 31)),
            (-719_162, (1, 1, 1)),
            (2_932_896, (9999, 12, 31)),
            (18_321, (2020, 2, 29)),
            (-25_509, (1900, 2, 28)),
            (-25_508, (1900, 3, 1)),
            (11_016, (2000, 2, 29)),
        ] {
            assert_eq!(date_of(day), date);
            assert_eq!(day_of(date.0, date.1, date.2), Some(day), "{date:?}");
        }
        for nothing in [(2021, 2, 29), (1900, 2, 29), (2020, 13, 1), (2020, 0, 1), (2020, 4, 31), (2020, 1, 0)] {
            assert_eq!(day_of(nothing.0, nothing.1, nothing.2), None, "{nothing:?}");
        }
        for day in (-800_000..800_000).step_by(97) {
            let (year, month, date) = date_of(day);
            assert_eq!(day_of(year, month, date), Some(day));
        }
        date_of(i64::MAX);
        date_of(i64::MIN);
    }

    #[test]
    fn times_print_as_in_python() {
        assert_eq!(date_and_time_text(-1, 0), "1969-12-31 23:59:59");
        assert_eq!(date_and_time_text(1_577_873_106, 7000), "2020-01-01 10:05:06.000007");
        assert_eq!(date_and_time_text(1_577_836_800, 1), "2020-01-01 00:00:00.000000001");
        assert_eq!(date_text(-719_162), "0001-01-01");
    }
}
