//! The letter of the choice that an answer names, as lm-evaluation-harness' `multi_choice_regex` takes it out: by a pattern;
//! where that finds nothing, by the text of a choice; where no choice is named either, by a letter behind a colon.
//!
//! A choice's text becomes `(A)`, `(B)` …, a letter behind a colon too; what the pattern finds stays as it is. Of several
//! matches the one that `group_select` names is taken. Where the harness breaks off because there are not so many, this goes
//! on to the next way.

use super::pick;
use crate::python::is_space;
use crate::python::regex::{PythonRegex, RegexError};

/// Letters there are for choices.
const LETTERS: usize = 26;

/// The filter with its options.
pub(super) struct MultiChoice {
    /// What is looked for first.
    pub regex: PythonRegex,
    /// Which match is taken, counted from the end if negative.
    pub group_select: i64,
    /// What an answer without any becomes.
    pub fallback: String,
    /// Whether choices are looked for in lower case.
    pub ignore_case: bool,
    /// What is left out of choices and answers when choices are looked for.
    pub ignored: Vec<PythonRegex>,
    /// Punctuation, where that is left out too.
    pub punctuation: Option<regex::Regex>,
}

impl MultiChoice {
    /// All of Unicode's punctuation.
    pub fn any_punctuation() -> Result<regex::Regex, String> {
        regex::Regex::new(r"\p{P}").map_err(|error| error.to_string())
    }

    /// What is left of an answer to a question with these choices.
    pub fn apply(&self, text: &str, choices: &[String]) -> Result<String, RegexError> {
        // Without any group that took part nothing was found.
        let found = pick(&self.regex.find_all(text)?, self.group_select).filter(|found| !found.is_empty());
        if let Some(found) = found {
            return Ok(found);
        }
        let mut known = Vec::with_capacity(choices.len());
        for choice in choices {
            known.push(self.bare(choice.trim_matches(is_space))?);
        }
        if let Some(found) = self.named(&self.bare(text)?, &known) {
            return Ok(found);
        }
        Ok(self.letter(text, choices.len())?.unwrap_or_else(|| self.fallback.clone()))
    }

    /// A text without what is ignored.
    fn bare(&self, text: &str) -> Result<String, RegexError> {
        let mut text = text.to_owned();
        for ignored in &self.ignored {
            text = ignored.replace_all(&text, "")?;
        }
        if self.ignore_case {
            text = text.to_lowercase();
        }
        Ok(match &self.punctuation {
            Some(marks) => marks.replace_all(&text, "").into_owned(),
            None => text,
        })
    }

    /// The letter of the choice whose text stands in `text`. At each place the longest choice goes first, so that one which
    /// another begins with is not taken for it.
    fn named(&self, text: &str, choices: &[String]) -> Option<String> {
        let mut longest_first: Vec<&str> = choices.iter().map(String::as_str).collect();
        longest_first.sort_by_key(|choice| std::cmp::Reverse(escaped_length(choice)));
        let mut matches: Vec<Vec<String>> = Vec::new();
        let mut from = 0;
        while from <= text.len() {
            let rest = &text[from..];
            let found = longest_first.iter().find(|choice| rest.starts_with(**choice));
            matches.extend(found.map(|choice| vec![(*choice).to_owned()]));
            let next = || rest.chars().next().map_or(1, char::len_utf8);
            from += found.map(|choice| choice.len()).filter(|length| *length > 0).unwrap_or_else(next);
        }
        let found = pick(&matches, self.group_select).filter(|found| !found.is_empty())?;
        // Of choices with one text the last.
        Some(match choices.iter().rposition(|choice| *choice == found).and_then(letter) {
            Some(letter) => format!("({letter})"),
            None => found,
        })
    }

    /// The letter behind a colon, if it is that of a choice.
    fn letter(&self, text: &str, choices: usize) -> Result<Option<String>, RegexError> {
        let Some(last) = choices.min(LETTERS).checked_sub(1).and_then(letter) else { return Ok(None) };
        let found = PythonRegex::new(&format!(r":[\s]*([A-{last}])"))?.find_all(text)?;
        Ok(pick(&found, self.group_select).map(|letter| format!("({letter})")))
    }
}

/// The letter of choice number `i`.
fn letter(i: usize) -> Option<char> {
    ('A'..='Z').nth(i)
}

/// Characters of a text that stands in a Python pattern, which the harness sorts choices by: those with a meaning there take two.
fn escaped_length(text: &str) -> usize {
    let has_meaning = |c: char| "()[]{}?*+-|^$\\.&~# \t\n\r\u{b}\u{c}".contains(c);
    text.chars().map(|c| 1 + usize::from(has_meaning(c))).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::super::FilterList;

    fn apply(options: Value, choices: &[&str], text: &str) -> String {
        let mut options: Map<String, Value> = serde_json::from_value(options).unwrap();
        options.insert("function".into(), "multi_choice_regex".into());
        let list = FilterList::new("test", &[options]).unwrap();
        assert!(list.needs_choices() && !FilterList::default_list().needs_choices());
        let choices: Vec<String> = choices.iter().map(|choice| (*choice).to_owned()).collect();
        list.apply(&[text.to_owned()], &choices).unwrap()
    }

    /// Expected values are those of `MultiChoiceRegexFilter` of lm-evaluation-harness.
    #[test]
    fn letters_are_those_the_harness_finds() {
        let choices = ["Paris", "Paris, Texas", "it's 3.5%", "Über—Straße"];
        let check = |options: Value, expected: &[(&str, &str)]| {
            for (text, letter) in expected {
                assert_eq!(apply(options.clone(), &choices, text), *letter, "{text:?} with {options}");
            }
        };
        let plain = [
            ("so (C) or (A)", "[invalid]"),
            ("Answer: B", "(B)"),
            ("I say Paris, Texas.", "(B)"),
            ("I say Paris", "(A)"),
            ("none", "[invalid]"),
            ("Answer:\n D", "(D)"),
        ];
        check(json!({}), &plain);
        let loose = [
            ("so (C) or (A)", "(A)"),
            ("paris texas!", "(B)"),
            ("PARIS; or its 35", "(C)"),
            ("über-straße", "(D)"),
            ("Answer: B. Or: C", "(C)"),
            ("Answer: F", "[invalid]"),
            ("x", "[invalid]"),
        ];
        let options = json!({
            "regex_pattern": "(\\([A-Z]\\))", "group_select": -1, "ignore_case": true, "ignore_punctuation": true
        });
        check(options, &loose);
        let second = [("x y", "y"), ("y x", "x"), ("none : B:A", "(A)")];
        check(json!({"regex_pattern": "(x)|(y)", "group_select": 1, "fallback": "?", "ignore_case": true}), &second);
        let ignored = [("t's % of", "(C)"), ("a Pars", "(A)")];
        check(json!({"regex_pattern": "zz*", "regexes_to_ignore": ["[0-9.]+", "i"]}), &ignored);
        check(json!({"regex_pattern": "q()"}), &[("q Paris", "(A)")]);
    }

    #[test]
    fn odd_choices_are_taken_as_the_harness_takes_them() {
        let never = json!({"regex_pattern": "zz*"});
        assert_eq!(apply(never.clone(), &["a", "", "a "], "b a"), "[invalid]");
        assert_eq!(apply(never.clone(), &["a", "a"], "b a"), "(B)");
        assert_eq!(apply(never, &[], "x: A"), "[invalid]");
        let last = json!({"regex_pattern": "zz*", "group_select": -1, "ignore_punctuation": true});
        assert_eq!(apply(last, &["- foo", "x"], "b - foo"), "foo");
        let options: Map<String, Value> =
            serde_json::from_value(json!({"function": "multi_choice_regex", "ignore_case": "yes"})).unwrap();
        let error = FilterList::new("test", &[options]).err().unwrap_or_default();
        assert!(error.contains("`ignore_case` is \"yes\", expected true or false"), "{error}");
    }
}
