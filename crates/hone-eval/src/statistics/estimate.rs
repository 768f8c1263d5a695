//! A number and how well it is known.

use serde::{Deserialize, Serialize};

use super::{BootstrapOptions, bootstrap_interval, json, mean};

/// A number with the ends of its 95 % interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Lower end; NaN, in files `null`, where there is none.
    #[serde(deserialize_with = "json::end")]
    pub low: f64,
    /// Upper end.
    #[serde(deserialize_with = "json::end")]
    pub high: f64,
}

impl Estimate {
    /// The mean of examples, which are resampled.
    pub fn of_mean(values: &[f64], options: &BootstrapOptions) -> Estimate {
        let resampled = |indices: &[usize]| indices.iter().map(|&i| values[i]).sum::<f64>() / indices.len() as f64;
        let interval = bootstrap_interval(values.len(), options, &resampled);
        Estimate { value: mean(values), low: interval.low, high: interval.high }
    }

    /// Its ends, where both are there.
    pub fn ends(&self) -> Option<(f64, f64)> {
        (self.low.is_finite() && self.high.is_finite()).then_some((self.low, self.high))
    }

    /// In words: the value as `shown` writes it, then the ends, where there are any, as `end` does.
    pub fn in_words(&self, shown: impl Fn(f64) -> String, end: impl Fn(f64) -> String) -> String {
        let value = shown(self.value);
        match self.ends() {
            Some((low, high)) => format!("{value} ({} to {})", end(low), end(high)),
            None => value,
        }
    }
}
