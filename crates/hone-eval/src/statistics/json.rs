//! Numbers that are not there, as ends of an interval or scores, in JSON, which has no NaN: they are written as `null`, and are NaN
//! again where they are read.
//!
//! For fields of `#[serde(deserialize_with = "…")]`; what a file may leave out besides is not said here.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// An end of an interval.
///
/// # Errors
/// Neither a number nor `null`.
pub fn end<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// The ends of several intervals.
///
/// # Errors
/// Those of [`end`].
pub fn ends<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f64>, D::Error> {
    let ends: Vec<Option<f64>> = Vec::deserialize(from)?;
    Ok(ends.into_iter().map(|end| end.unwrap_or(f64::NAN)).collect())
}

/// Scores by name.
///
/// # Errors
/// Those of [`end`].
pub fn by_name<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let scores: BTreeMap<String, Option<f64>> = BTreeMap::deserialize(from)?;
    Ok(scores.into_iter().map(|(name, score)| (name, score.unwrap_or(f64::NAN))).collect())
}

/// Several numbers by name.
///
/// # Errors
/// Those of [`end`].
pub fn lists_by_name<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Vec<f64>>, D::Error> {
    let lists: BTreeMap<String, Vec<Option<f64>>> = BTreeMap::deserialize(from)?;
    let list = |list: Vec<Option<f64>>| list.into_iter().map(|number| number.unwrap_or(f64::NAN)).collect();
    Ok(lists.into_iter().map(|(name, numbers)| (name, list(numbers))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Serialize, Deserialize)]
    struct Both {
        #[serde(deserialize_with = "end")]
        low: f64,
        #[serde(deserialize_with = "ends")]
        high: Vec<f64>,
    }

    #[test]
    fn an_end_that_is_not_there_comes_back() {
        let text = serde_json::to_string(&Both { low: f64::NAN, high: vec![0.5, f64::NAN] }).unwrap();
        assert_eq!(text, r#"{"low":null,"high":[0.5,null]}"#);
        let both: Both = serde_json::from_str(&text).unwrap();
        assert!(both.low.is_nan() && both.high[0] == 0.5 && both.high[1].is_nan());
        assert!(serde_json::from_str::<Both>(r#"{"high":[]}"#).is_err(), "left out is no end");
        assert!(serde_json::from_str::<Both>(r#"{"low":"1","high":[]}"#).is_err());
    }
}
