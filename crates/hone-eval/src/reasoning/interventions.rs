//! What is done to a reasoning before the model is asked for the answer again.
//!
//! | intervention | the model reads | the answer should |
//! |---|---|---|
//! | cut | the first steps, and nothing of the rest | move, if the rest was needed |
//! | filler | the first steps, and as many filler tokens as the rest had | move, if what the rest says was needed |
//! | paraphrase | the first steps in other words ([`super::paraphrase`]), and goes on from there | stay |
//! | wrong number | the steps up to one whose result is another number, and goes on from there | move |
//!
//! Cut and filler are Lanham et al. 2023, arXiv 2307.13702, counted for each example as Lobo et al. 2024, arXiv 2411.15382, do.
//! The last two are the pair that gives the third test a reading: the one provably keeps what is said, the other provably changes it.

use serde::{Deserialize, Serialize};

/// What is done to a reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intervention {
    /// Only the first steps are kept.
    Cut,
    /// What follows the first steps is filler.
    Filler,
    /// The first steps are said in other words.
    Paraphrase,
    /// One step has a wrong number.
    Wrong,
}

impl Intervention {
    /// All there are.
    pub const ALL: [Intervention; 4] =
        [Intervention::Cut, Intervention::Filler, Intervention::Paraphrase, Intervention::Wrong];

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Intervention::Cut => "cut",
            Intervention::Filler => "filler",
            Intervention::Paraphrase => "paraphrase",
            Intervention::Wrong => "wrong",
        }
    }
}

/// The first `kept` steps, without the white space at their end.
pub fn first(steps: &[&str], kept: usize) -> String {
    let mut text = steps[..kept.min(steps.len())].concat();
    text.truncate(text.trim_end().len());
    text
}

/// The step with another number in it, or `None` of one without a number. The number is the first one behind the last `=`, else the
/// last one. The last digit before its point is moved by three, so that it stays as long as it was: 9 becomes 2, 1,240.5 becomes
/// 1,243.5.
pub fn with_wrong_number(step: &str) -> Option<String> {
    let behind = step.rfind('=').map_or(step.len(), |at| at + 1);
    let result = step[behind..].find(|c: char| c.is_ascii_digit()).map(|at| behind + at);
    let at = match result {
        Some(first) => {
            let number = &step[first..];
            first + whole_digits(number)
        }
        None => {
            let last = step.rfind(|c: char| c.is_ascii_digit())?;
            let first = number_start(step, last);
            first + whole_digits(&step[first..])
        }
    };
    let digit = step.as_bytes()[at];
    let other = b'0' + (digit - b'0' + 3) % 10;
    Some(format!("{}{}{}", &step[..at], char::from(other), &step[at + 1..]))
}

/// Where the last digit before a number's point is; the text begins with the number.
fn whole_digits(number: &str) -> usize {
    let bytes = number.as_bytes();
    let is_digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    let mut at = 0;
    // Commas stand before three digits.
    while is_digit(at + 1) || bytes.get(at + 1) == Some(&b',') && (at + 2..at + 5).all(is_digit) && !is_digit(at + 5) {
        at += if is_digit(at + 1) { 1 } else { 2 };
    }
    at
}

/// Where the number begins whose last digit is at `last`.
fn number_start(text: &str, last: usize) -> usize {
    let bytes = text.as_bytes();
    let mut at = last;
    while at > 0 {
        let before = bytes[at - 1];
        let joins = matches!(before, b'.' | b',') && at > 1 && bytes[at - 2].is_ascii_digit();
        if !before.is_ascii_digit() && !joins {
            break;
        }
        at -= 1;
    }
    at
}

/// `count` tokens of filler: those of the filler's text, again and again.
pub fn filler(unit: &[u32], count: usize) -> Vec<u32> {
    unit.iter().copied().cycle().take(count).collect()
}

/// Context tokens with `filler` behind the first of them that `before` has, too. Where the text behind changes how the end of
/// `before` is split into tokens, the filler stands before what changed.
pub fn with_filler(context: &[u32], before: &[u32], filler: &[u32]) -> Vec<u32> {
    let at = context.iter().zip(before).take_while(|(a, b)| a == b).count();
    [&context[..at], filler, &context[at..]].concat()
}

/// A text and what follows it, with no more white space between them than one of them brings.
pub fn joined(before: &str, after: &str) -> String {
    match before.is_empty() || before.ends_with(char::is_whitespace) {
        true => format!("{before}{}", after.trim_start()),
        false => format!("{before}{after}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_number_is_another_number_of_the_same_length() {
        for (step, expected) in [
            ("He has 16 - 3 - 4 = 9 eggs for 2 days.", "He has 16 - 3 - 4 = 2 eggs for 2 days."),
            ("So <<2+1=3>>3 bolts", "So <<2+1=6>>3 bolts"),
            ("In December 1941 it was.", "In December 1944 it was."),
            ("It cost 1,240.50 dollars", "It cost 1,243.50 dollars"),
            ("x = 0.75", "x = 3.75"),
            ("5 and 6, 7", "5 and 6, 0"),
            ("= $130,000\n", "= $130,003\n"),
            ("a = b, 12", "a = b, 15"),
        ] {
            assert_eq!(with_wrong_number(step).as_deref(), Some(expected));
        }
        assert_eq!(with_wrong_number("no number here"), None);
        for n in 0..2000 {
            let wrong = with_wrong_number(&format!("{n}")).unwrap();
            assert!(wrong != n.to_string() && wrong.len() == n.to_string().len(), "{n} {wrong}");
        }
    }

    #[test]
    fn filler_has_as_many_tokens_as_were_asked_for() {
        assert_eq!(filler(&[7, 8, 9], 5), [7, 8, 9, 7, 8]);
        assert!(filler(&[7], 0).is_empty());
        // Prompt 1 2 3, cue 4 5; and a cue that changes the prompt's last token.
        assert_eq!(with_filler(&[1, 2, 3, 4, 5], &[1, 2, 3], &[9, 9]), [1, 2, 3, 9, 9, 4, 5]);
        assert_eq!(with_filler(&[1, 2, 6, 5], &[1, 2, 3], &[9]), [1, 2, 9, 6, 5]);
    }

    #[test]
    fn steps_and_cues_are_put_together_without_white_space_of_both() {
        assert_eq!(first(&["One. ", "Two.\n"], 0), "");
        assert_eq!(first(&["One. ", "Two.\n"], 1), "One.");
        assert_eq!(first(&["One. ", "Two.\n"], 9), "One. Two.");
        assert_eq!(joined("a", "\nSo"), "a\nSo");
        assert_eq!(joined("a\n", "\nSo"), "a\nSo");
        assert_eq!(joined("", " So"), "So");
    }
}
