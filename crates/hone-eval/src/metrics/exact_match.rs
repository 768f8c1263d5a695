//! Exact match with the harness' options: what is ignored on both sides is removed first, in a fixed order.

use serde_json::{Map, Value};

use super::{MetricError, squad};
use crate::python::regex::PythonRegex;

/// What to ignore in the comparison.
#[derive(Default)]
pub struct ExactMatch {
    regexes_to_ignore: Vec<PythonRegex>,
    ignore_case: bool,
    ignore_punctuation: bool,
    ignore_numbers: bool,
    squad: bool,
}

impl ExactMatch {
    /// Reads the options from a task file's metric entry. `normalize: squad` (not in the harness' list, where the tasks that
    /// need it call Python) compares as the SQuAD script does.
    pub fn from_options(options: &Map<String, Value>) -> Result<ExactMatch, MetricError> {
        let wrong = |option: &str, found: &Value, expected: &str| MetricError::Option {
            metric: "exact_match".into(),
            option: option.into(),
            found: found.to_string(),
            expected: expected.into(),
        };
        let flag = |option: &str| match options.get(option) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(wrong(option, other, "`true` or `false`")),
        };
        let mut exact = ExactMatch {
            ignore_case: flag("ignore_case")?,
            ignore_punctuation: flag("ignore_punctuation")?,
            ignore_numbers: flag("ignore_numbers")?,
            ..ExactMatch::default()
        };
        match options.get("regexes_to_ignore") {
            None | Some(Value::Null) => {}
            Some(Value::Array(patterns)) => {
                for pattern in patterns {
                    let text = pattern.as_str().ok_or_else(|| wrong("regexes_to_ignore", pattern, "text"))?;
                    exact.regexes_to_ignore.push(PythonRegex::new(text)?);
                }
            }
            Some(other) => return Err(wrong("regexes_to_ignore", other, "a list of regular expressions")),
        }
        match options.get("normalize") {
            None | Some(Value::Null) => {}
            Some(Value::String(name)) if name == "squad" => exact.squad = true,
            Some(other) => return Err(wrong("normalize", other, "`squad`")),
        }
        Ok(exact)
    }

    /// Names of the options.
    pub const OPTIONS: [&'static str; 5] =
        ["regexes_to_ignore", "ignore_case", "ignore_punctuation", "ignore_numbers", "normalize"];

    /// 1 if the texts are equal, else 0.
    pub fn score(&self, prediction: &str, reference: &str) -> Result<f64, MetricError> {
        Ok(f64::from(self.reduce(prediction)? == self.reduce(reference)?))
    }

    fn reduce(&self, text: &str) -> Result<String, MetricError> {
        let mut text = text.to_owned();
        for regex in &self.regexes_to_ignore {
            text = regex.replace_all(&text, "")?;
        }
        if self.ignore_case {
            text = text.to_lowercase();
        }
        if self.ignore_punctuation {
            text.retain(|c| !c.is_ascii_punctuation());
        }
        if self.ignore_numbers {
            text.retain(|c| !c.is_ascii_digit());
        }
        Ok(if self.squad { squad::normalize(&text) } else { text })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn score(options: Value, prediction: &str, reference: &str) -> f64 {
        let options = options.as_object().cloned().unwrap();
        ExactMatch::from_options(&options).unwrap().score(prediction, reference).unwrap()
    }

    #[test]
    fn options_remove_what_they_say() {
        let gsm8k = json!({"ignore_case": true, "regexes_to_ignore": [",", "\\$", "(?s).*#### ", "\\.$"]});
        assert_eq!(score(gsm8k.clone(), "$1,234.", "She sells\nthem.\n#### 1234"), 1.0);
        assert_eq!(score(gsm8k, "1235", "#### 1234"), 0.0);
        assert_eq!(score(json!({}), "Paris", "paris"), 0.0);
        assert_eq!(score(json!({"ignore_case": true}), "Paris", "paris"), 1.0);
        assert_eq!(score(json!({"ignore_punctuation": true, "ignore_numbers": true}), "a-1!", "a"), 1.0);
        assert_eq!(score(json!({"normalize": "squad"}), "The Alps.", "alps"), 1.0);
        let wrong = ExactMatch::from_options(json!({"ignore_case": "yes"}).as_object().unwrap());
        assert!(matches!(wrong, Err(MetricError::Option { .. })));
    }
}
