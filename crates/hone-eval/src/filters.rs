//! Filters between what a model wrote and what is scored: each named list of a task's `filter_list` makes its own metric
//! column. Names and behaviour are those of lm-evaluation-harness.

mod multi_choice;

use serde_json::{Map, Value};

use crate::error::did_you_mean;
use crate::python::is_space;
use crate::python::regex::{PythonRegex, RegexError};
use multi_choice::MultiChoice;

/// One step over the responses to an example (several where the task repeats).
enum Filter {
    Regex { regex: PythonRegex, group_select: i64, fallback: String },
    MultiChoice(MultiChoice),
    TakeFirst,
    TakeFirstK(usize),
    MajorityVote,
    Lowercase,
    Uppercase,
    RemoveWhitespace,
    Map { mapping: Map<String, Value>, default: Option<String> },
}

/// A named list of filters.
pub struct FilterList {
    /// The column's name; `none` for a task without filters.
    pub name: String,
    steps: Vec<Filter>,
}

const NAMES: [&str; 9] = [
    "regex",
    "multi_choice_regex",
    "take_first",
    "take_first_k",
    "majority_vote",
    "lowercase",
    "uppercase",
    "remove_whitespace",
    "map",
];

impl FilterList {
    /// What a task without `filter_list` does: take the first response.
    pub fn default_list() -> FilterList {
        FilterList { name: "none".into(), steps: vec![Filter::TakeFirst] }
    }

    /// From the `filter` part of a task file's entry. The error says what is wrong and what there is.
    pub fn new(name: &str, steps: &[Map<String, Value>]) -> Result<FilterList, String> {
        let steps = steps.iter().map(Filter::from_options).collect::<Result<_, _>>()?;
        Ok(FilterList { name: name.into(), steps })
    }

    /// Whether a filter looks for the choices of the question.
    pub fn needs_choices(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Filter::MultiChoice(_)))
    }

    /// The text that is scored; empty if there were no responses. The choices are those of the question, for filters that need
    /// them.
    pub fn apply(&self, responses: &[String], choices: &[String]) -> Result<String, RegexError> {
        let mut texts = responses.to_vec();
        for step in &self.steps {
            texts = step.apply(texts, choices)?;
        }
        Ok(texts.into_iter().next().unwrap_or_default())
    }
}

impl Filter {
    fn from_options(options: &Map<String, Value>) -> Result<Filter, String> {
        let Some(function) = options.get("function").and_then(Value::as_str) else {
            return Err("a filter needs `function: NAME`".into());
        };
        let allowed: &[&str] = match function {
            "regex" => &["regex_pattern", "group_select", "fallback"],
            "multi_choice_regex" => {
                &["regex_pattern", "group_select", "fallback", "ignore_case", "ignore_punctuation", "regexes_to_ignore"]
            }
            "take_first_k" => &["k"],
            "map" => &["mapping_dict", "default_value"],
            _ if NAMES.contains(&function) => &[],
            _ => {
                let hint = did_you_mean(function, NAMES.into_iter());
                return Err(format!("unknown filter `{function}`{hint}; known: {}", NAMES.join(", ")));
            }
        };
        if let Some(extra) = options.keys().find(|key| *key != "function" && !allowed.contains(&key.as_str())) {
            let known = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
            return Err(format!("filter `{function}` has no option `{extra}`; its options: {known}"));
        }
        let text = |key: &str, default: &str| match options.get(key) {
            None => Ok(default.to_owned()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(format!("filter `{function}`: `{key}` is {other}, expected text")),
        };
        let integer = |key: &str, default: Option<i64>| match options.get(key) {
            None => default.ok_or_else(|| format!("filter `{function}` needs `{key}`")),
            Some(value) => value
                .as_i64()
                .ok_or_else(|| format!("filter `{function}`: `{key}` is {value}, expected a whole number")),
        };
        let flag = |key: &str| match options.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(format!("filter `{function}`: `{key}` is {other}, expected true or false")),
        };
        let regex = |pattern: &str| PythonRegex::new(pattern).map_err(|error| error.to_string());
        let main_regex = || regex(&text("regex_pattern", r"#### (\-?[0-9\.\,]+)")?);
        Ok(match function {
            "regex" => Filter::Regex {
                regex: main_regex()?,
                group_select: integer("group_select", Some(0))?,
                fallback: text("fallback", "[invalid]")?,
            },
            "multi_choice_regex" => Filter::MultiChoice(MultiChoice {
                regex: main_regex()?,
                group_select: integer("group_select", Some(0))?,
                fallback: text("fallback", "[invalid]")?,
                ignore_case: flag("ignore_case")?,
                ignored: match options.get("regexes_to_ignore") {
                    None | Some(Value::Null) => Vec::new(),
                    Some(Value::Array(patterns)) => {
                        patterns.iter().map(|p| regex(&plain(p))).collect::<Result<_, _>>()?
                    }
                    Some(other) => {
                        return Err(format!("filter `{function}`: `regexes_to_ignore` is {other}, expected a list"));
                    }
                },
                punctuation: flag("ignore_punctuation")?.then(MultiChoice::any_punctuation).transpose()?,
            }),
            "take_first_k" => {
                let k = usize::try_from(integer("k", None)?).ok().filter(|k| *k > 0);
                Filter::TakeFirstK(k.ok_or("filter `take_first_k`: `k` must be at least 1")?)
            }
            "majority_vote" => Filter::MajorityVote,
            "lowercase" => Filter::Lowercase,
            "uppercase" => Filter::Uppercase,
            "remove_whitespace" => Filter::RemoveWhitespace,
            "map" => Filter::Map {
                mapping: match options.get("mapping_dict") {
                    None => Map::new(),
                    Some(Value::Object(mapping)) => mapping.clone(),
                    Some(other) => return Err(format!("filter `map`: `mapping_dict` is {other}, expected a mapping")),
                },
                default: options.get("default_value").filter(|v| !v.is_null()).map(plain),
            },
            _ => Filter::TakeFirst,
        })
    }

    fn apply(&self, texts: Vec<String>, choices: &[String]) -> Result<Vec<String>, RegexError> {
        Ok(match self {
            Filter::Regex { regex, group_select, fallback } => {
                let select =
                    |text: &String| Ok(pick(&regex.find_all(text)?, *group_select).unwrap_or(fallback.clone()));
                texts.iter().map(select).collect::<Result<_, RegexError>>()?
            }
            Filter::MultiChoice(filter) => {
                texts.iter().map(|text| filter.apply(text, choices)).collect::<Result<_, RegexError>>()?
            }
            Filter::TakeFirst => texts.into_iter().take(1).collect(),
            Filter::TakeFirstK(k) => texts.into_iter().take(*k).collect(),
            Filter::MajorityVote => most_common(&texts).into_iter().collect(),
            Filter::Lowercase => texts.iter().map(|t| t.to_lowercase()).collect(),
            Filter::Uppercase => texts.iter().map(|t| t.to_uppercase()).collect(),
            Filter::RemoveWhitespace => texts.iter().map(|t| t.trim_matches(is_space).to_owned()).collect(),
            Filter::Map { mapping, default } => {
                let map = |text: &String| mapping.get(text).map(plain).or(default.clone()).unwrap_or("None".into());
                texts.iter().map(map).collect()
            }
        })
    }
}

/// The chosen match (counted from the end if negative): its first group that is not empty, trimmed.
fn pick(matches: &[Vec<String>], select: i64) -> Option<String> {
    let index = if select < 0 { matches.len() as i64 + select } else { select };
    let groups = matches.get(usize::try_from(index).ok()?)?;
    // Without or with one group an empty text is a match like any other; of several groups an empty one did not match.
    let chosen = if groups.len() == 1 { groups.first() } else { groups.iter().find(|g| !g.is_empty()) };
    chosen.map(|text| text.trim_matches(is_space).to_owned())
}

/// The text that occurs most often; the earlier one on ties.
fn most_common(texts: &[String]) -> Option<String> {
    let count = |text: &String| texts.iter().filter(|t| *t == text).count();
    let most = texts.iter().map(count).max()?;
    texts.iter().find(|text| count(text) == most).cloned()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(steps: Value) -> Result<FilterList, String> {
        let steps: Vec<Map<String, Value>> = serde_json::from_value(steps).unwrap();
        FilterList::new("test", &steps)
    }

    fn apply(steps: Value, responses: &[&str]) -> String {
        let responses: Vec<String> = responses.iter().map(|r| (*r).to_owned()).collect();
        list(steps).unwrap().apply(&responses, &[]).unwrap()
    }

    #[test]
    fn gsm8k_answers_are_extracted_as_the_harness_does() {
        let strict =
            json!([{"function": "regex", "regex_pattern": "#### (\\-?[0-9\\.\\,]+)"}, {"function": "take_first"}]);
        assert_eq!(apply(strict.clone(), &["so\n#### 1,234.\nand #### 5"]), "1,234.");
        assert_eq!(apply(strict, &["no answer"]), "[invalid]");
        let flexible = json!([
            {"function": "regex", "group_select": -1, "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)"},
            {"function": "take_first"}
        ]);
        assert_eq!(apply(flexible.clone(), &["5 apples cost $12.50 or 7"]), "7");
        assert_eq!(apply(flexible, &["it costs $12.50"]), "$12.50");
    }

    #[test]
    fn votes_and_texts() {
        assert_eq!(apply(json!([{"function": "majority_vote"}]), &["a", "b", "b", "a", "c"]), "a");
        assert_eq!(
            apply(json!([{"function": "take_first_k", "k": 3}, {"function": "majority_vote"}]), &["a", "b", "b"]),
            "b"
        );
        assert_eq!(apply(json!([{"function": "remove_whitespace"}, {"function": "lowercase"}]), &["\n Yes "]), "yes");
        let map = json!([{"function": "map", "mapping_dict": {"A": 1}, "default_value": 0}]);
        assert_eq!((apply(map.clone(), &["A"]), apply(map, &["B"])), ("1".into(), "0".into()));
    }

    #[test]
    fn unknown_filters_and_options_are_named() {
        let error = |steps| list(steps).err().unwrap_or_default();
        assert!(error(json!([{"function": "regexp"}])).contains("did you mean `regex`?"));
        assert!(
            error(json!([{"function": "regex", "pattern": "a"}])).contains("`pattern`; its options: regex_pattern")
        );
        assert!(error(json!([{"function": "regex", "regex_pattern": "("}])).contains("not a regular expression"));
        assert!(error(json!([{"function": "take_first_k", "k": 0}])).contains("at least 1"));
    }
}
