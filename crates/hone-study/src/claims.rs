//! Whether a claim holds: a condition, a measured value and its interval.
//!
//! A claim holds if the whole interval satisfies its condition, it fails if no point of the interval does, and otherwise the
//! measurement does not decide. Where there is no interval, or the claim says `by: value`, the value decides. The condition's
//! numbers are in the claim's unit.

use serde::{Deserialize, Serialize};

use crate::study::By;

/// What should be true of a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Condition {
    /// `> x`
    Above(f64),
    /// `>= x`
    AtLeast(f64),
    /// `< x`
    Below(f64),
    /// `<= x`
    AtMost(f64),
    /// `within a to b`, ends included.
    Within(f64, f64),
}

impl Condition {
    /// Reads a condition.
    pub fn parse(text: &str) -> Result<Condition, String> {
        let wrong = || format!("found `{text}`, expected `> 0`, `>= 0`, `< 0`, `<= 0` or `within -1 to 1`");
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| n.is_finite()).ok_or_else(wrong);
        let text = text.trim();
        if let Some(ends) = text.strip_prefix("within ") {
            let (low, high) = ends.split_once(" to ").ok_or_else(wrong)?;
            let (low, high) = (number(low)?, number(high)?);
            return if low <= high { Ok(Condition::Within(low, high)) } else { Err(wrong()) };
        }
        let signs: [(&str, fn(f64) -> Condition); 4] =
            [(">=", Condition::AtLeast), ("<=", Condition::AtMost), (">", Condition::Above), ("<", Condition::Below)];
        let found = signs.into_iter().find_map(|(sign, condition)| Some((condition, text.strip_prefix(sign)?)));
        let (condition, rest) = found.ok_or_else(wrong)?;
        Ok(condition(number(rest)?))
    }

    /// Whether a number satisfies it. Not a number never does.
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Condition::Above(x) => value > x,
            Condition::AtLeast(x) => value >= x,
            Condition::Below(x) => value < x,
            Condition::AtMost(x) => value <= x,
            Condition::Within(low, high) => (low..=high).contains(&value),
        }
    }

    /// Whether any number from `low` to `high` satisfies it.
    fn is_met_somewhere(self, low: f64, high: f64) -> bool {
        match self {
            Condition::Within(from, to) => low <= to && high >= from,
            _ => self.is_met(low) || self.is_met(high),
        }
    }
}

/// How a claim came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// It holds.
    Yes,
    /// It does not.
    No,
    /// The interval has points of both kinds, or there is no number.
    Undecided,
}

impl Holds {
    /// As the table says it.
    pub fn in_words(self) -> &'static str {
        match self {
            Holds::Yes => "yes",
            Holds::No => "no",
            Holds::Undecided => "not decided",
        }
    }
}

/// Holds a value and its interval, both in the claim's unit, against a condition.
pub fn judge(condition: Condition, by: By, value: f64, interval: Option<(f64, f64)>) -> Holds {
    if value.is_nan() {
        return Holds::Undecided;
    }
    match interval.filter(|_| by == By::Interval) {
        None if condition.is_met(value) => Holds::Yes,
        None => Holds::No,
        Some((low, high)) if low.is_nan() || high.is_nan() => Holds::Undecided,
        Some((low, high)) if condition.is_met(low) && condition.is_met(high) => Holds::Yes,
        Some((low, high)) if condition.is_met_somewhere(low, high) => Holds::Undecided,
        Some(_) => Holds::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_and_mistakes_refused() {
        assert_eq!(Condition::parse("> 0"), Ok(Condition::Above(0.0)));
        assert_eq!(Condition::parse(" >=-1.5 "), Ok(Condition::AtLeast(-1.5)));
        assert_eq!(Condition::parse("within -2 to 2"), Ok(Condition::Within(-2.0, 2.0)));
        for wrong in ["", "0", "= 3", "> x", "> nan", "within 2 to -2", "within 1", "=> 3"] {
            assert!(Condition::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_whole_interval_decides_or_nothing_does() {
        let judged =
            |text: &str, value, interval| judge(Condition::parse(text).unwrap(), By::Interval, value, interval);
        assert_eq!(judged("> 0", 2.0, Some((0.5, 3.0))), Holds::Yes);
        assert_eq!(judged("> 0", 2.0, Some((-0.5, 3.0))), Holds::Undecided);
        assert_eq!(judged("> 0", 2.0, Some((0.0, 3.0))), Holds::Undecided);
        assert_eq!(judged("> 0", -2.0, Some((-3.0, -1.0))), Holds::No);
        assert_eq!(judged("within -1 to 1", 0.0, Some((-2.0, 2.0))), Holds::Undecided);
        assert_eq!(judged("within -1 to 1", 0.0, Some((-0.5, 1.0))), Holds::Yes);
        assert_eq!(judged("within -1 to 1", 3.0, Some((2.0, 4.0))), Holds::No);
        assert_eq!(judged("<= 1", 1.0, None), Holds::Yes);
        assert_eq!(judged("<= 1", f64::NAN, None), Holds::Undecided);
        assert_eq!(judged("<= 1", 1.0, Some((f64::NAN, f64::NAN))), Holds::Undecided);
        assert_eq!(judge(Condition::Above(0.0), By::Value, 2.0, Some((-0.5, 3.0))), Holds::Yes);
    }
}
