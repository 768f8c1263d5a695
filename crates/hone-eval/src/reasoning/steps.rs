//! Where one step of a written reasoning ends and the next begins.
//!
//! How many steps a reasoning has decides every number of [`crate::measures::reasoning`], so there is one splitter and it is
//! fixed by tests: decimals (`3.5`), abbreviations (`Mr.`, `e.g.`), initials (`E. O. Wilson`) and the numbers of lists (`1.`) end
//! no sentence; a line break does. Steps are pieces of the text, the white space behind them included, so that they put together
//! are the text. A piece without a letter or digit belongs to the step before it.
//!
//! What it does not know: whether a sentence is a step of reasoning or a remark. Abbreviations are English.

use serde::{Deserialize, Serialize};

/// What a step is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Splitter {
    /// A sentence; line breaks end one, too.
    #[default]
    Sentences,
    /// A line.
    Lines,
}

/// Before their point no sentence ends.
const NEVER_LAST: [&str; 18] = [
    "mr", "mrs", "ms", "dr", "prof", "st", "vs", "e.g", "i.e", "cf", "approx", "dept", "gen", "sen", "rep", "gov",
    "capt", "sgt",
];

/// Abbreviations only before a number: "No. 5", but "The answer is no."
const BEFORE_NUMBERS: [&str; 6] = ["no", "fig", "vol", "eq", "ch", "pp"];

/// Abbreviations that may be the last word of a sentence, which is one if a word follows that opens sentences.
const PERHAPS_LAST: [&str; 14] =
    ["etc", "jr", "sr", "inc", "ltd", "co", "corp", "bros", "a.m", "p.m", "u.s", "u.k", "ph.d", "u.n"];

/// Words that open sentences more often than they stand in a name.
const OPENERS: [&str; 34] = [
    "The",
    "A",
    "An",
    "This",
    "That",
    "These",
    "Those",
    "It",
    "He",
    "She",
    "They",
    "We",
    "I",
    "You",
    "There",
    "Then",
    "So",
    "Thus",
    "Therefore",
    "Hence",
    "But",
    "And",
    "However",
    "If",
    "In",
    "As",
    "When",
    "Since",
    "Because",
    "Now",
    "Finally",
    "First",
    "Note",
    "Not",
];

/// The steps of `text`, in order; none of a text without a letter or digit. Put together they are the text.
pub fn split(text: &str, splitter: Splitter) -> Vec<&str> {
    let mut ends = match splitter {
        Splitter::Lines => text.match_indices('\n').map(|(at, _)| at + 1).collect(),
        Splitter::Sentences => sentence_ends(text),
    };
    ends.push(text.len());
    let (mut steps, mut start): (Vec<&str>, usize) = (Vec::new(), 0);
    let mut last = 0;
    for end in ends {
        let says = text[start..end].chars().any(char::is_alphanumeric);
        match steps.last_mut() {
            _ if says => {
                steps.push(&text[start..end]);
                last = start;
            }
            Some(step) => *step = &text[last..end],
            // White space at the very beginning belongs to the first step.
            None => continue,
        }
        start = end;
    }
    steps
}

/// Where sentences end, the white space behind them included.
fn sentence_ends(text: &str) -> Vec<usize> {
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    let at = |i: usize| chars.get(i).map_or(text.len(), |(at, _)| *at);
    let is = |i: usize, test: &dyn Fn(char) -> bool| chars.get(i).is_some_and(|(_, c)| test(*c));
    let (mut ends, mut start, mut i) = (Vec::new(), 0, 0);
    while i < chars.len() {
        let first = i;
        let mark = chars[i].1;
        i += 1;
        let ends_here = match mark {
            '\n' => true,
            '.' | '!' | '?' | '。' | '！' | '？' => {
                while is(i, &|c| ".!?。！？\"'”’)]»*".contains(c)) {
                    i += 1;
                }
                // Chinese and Japanese have no space between sentences.
                "。！？".contains(mark)
                    || is(i, &char::is_whitespace) && goes_on(text, start, at(first), at(i)).is_none()
            }
            _ => false,
        };
        if ends_here {
            while is(i, &char::is_whitespace) {
                i += 1;
            }
            ends.push(at(i));
            start = at(i);
        }
    }
    ends.retain(|end| *end < text.len());
    ends
}

/// Why the sentence from byte `start` goes on behind the mark at `mark`, whose closing signs end at `end`; `None` if it does not.
fn goes_on(text: &str, start: usize, mark: usize, end: usize) -> Option<&'static str> {
    let behind = &text[end..];
    let next = behind.trim_start();
    if behind[..behind.len() - next.len()].contains('\n') {
        return None;
    }
    let first = next.chars().next()?;
    if first.is_lowercase() {
        return Some("a sentence does not begin with a small letter");
    }
    if !text[mark..].starts_with('.') || end > mark + 1 {
        return None;
    }
    let before = &text[start..mark];
    let word = before.rsplit(|c: char| c.is_whitespace() || "(\"“‘[".contains(c)).next().unwrap_or_default();
    let earlier = before[..before.len() - word.len()].trim_end();
    let lower = word.to_lowercase();
    let marks_an_item = |word: &str| word.chars().all(|c| c.is_ascii_digit()) || word.chars().count() == 1;
    if !word.is_empty() && earlier.is_empty() && marks_an_item(word) {
        return Some("the number of a list, or an initial");
    }
    if NEVER_LAST.contains(&lower.as_str()) {
        return Some("an abbreviation");
    }
    if BEFORE_NUMBERS.contains(&lower.as_str()) && first.is_ascii_digit() {
        return Some("an abbreviation before a number");
    }
    let opener = next.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    if PERHAPS_LAST.contains(&lower.as_str()) && !OPENERS.contains(&opener) {
        return Some("an abbreviation within a sentence");
    }
    let initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase) && word != "I";
    let in_a_name =
        earlier.rsplit(char::is_whitespace).next().and_then(|w| w.chars().next()).is_some_and(char::is_uppercase);
    (initial && in_a_name && !OPENERS.contains(&opener)).then_some("an initial")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sentences(text: &str) -> Vec<&str> {
        split(text, Splitter::Sentences).into_iter().map(str::trim).collect()
    }

    #[test]
    fn decimals_abbreviations_and_initials_end_no_sentence() {
        for (text, expected) in [
            ("It costs $3.50 today. He pays 2.", &["It costs $3.50 today.", "He pays 2."][..]),
            ("Mr. Smith met Dr. No. They spoke.", &["Mr. Smith met Dr. No.", "They spoke."]),
            ("See No. 5 first. The answer is no. Next.", &["See No. 5 first.", "The answer is no.", "Next."]),
            (
                "E. O. Wilson studies ants. George W. Bush does not.",
                &["E. O. Wilson studies ants.", "George W. Bush does not."],
            ),
            ("Use fruit, e.g. apples. I do.", &["Use fruit, e.g. apples.", "I do."]),
            ("He lives in the U.S. Army base. It is big.", &["He lives in the U.S. Army base.", "It is big."]),
            ("Pens, ink, etc. The rest is old.", &["Pens, ink, etc.", "The rest is old."]),
            ("It opens at 5 p.m. It closes late.", &["It opens at 5 p.m.", "It closes late."]),
            ("He said \"Stop!\" and ran. \"Why?\" she asked.", &["He said \"Stop!\" and ran.", "\"Why?\" she asked."]),
            ("So it is B. Then we stop.", &["So it is B.", "Then we stop."]),
            ("Really?! Yes... Maybe.", &["Really?!", "Yes...", "Maybe."]),
            ("1. Add them. 2. Halve it.", &["1. Add them.", "2. Halve it."]),
            ("One two\nthree.\n\nFour", &["One two", "three.", "Four"]),
            ("二加三是五。所以答案是五。", &["二加三是五。", "所以答案是五。"]),
            (
                "16 - 3 - 4 = <<16-3-4=9>>9 eggs.\nSo 9 * 2 = 18.",
                &["16 - 3 - 4 = <<16-3-4=9>>9 eggs.", "So 9 * 2 = 18."],
            ),
        ] {
            assert_eq!(sentences(text), expected, "{text}");
        }
    }

    #[test]
    fn lines_are_lines_and_what_says_nothing_is_no_step() {
        let lines = |text| split(text, Splitter::Lines);
        assert_eq!(lines("2 + 3 = 5\n5 + 8 = 3\n"), ["2 + 3 = 5\n", "5 + 8 = 3\n"]);
        assert_eq!(lines("\n\na\n\n---\nb. c.\n\n"), ["\n\na\n\n---\n", "b. c.\n\n"]);
        for empty in ["", " \n", "...", "?! \n."] {
            assert!(lines(empty).is_empty() && sentences(empty).is_empty(), "{empty:?}");
        }
        assert_eq!(sentences("no point at the end"), ["no point at the end"]);
    }

    proptest! {
        #[test]
        fn steps_put_together_are_the_text(text in "([A-Za-z0-9]{1,4}[.!?]{0,2}[ \n\"]{0,2}|[.é。 \n-]){0,30}") {
            for splitter in [Splitter::Sentences, Splitter::Lines] {
                let steps = split(&text, splitter);
                let says = |piece: &str| piece.chars().any(char::is_alphanumeric);
                prop_assert_eq!(steps.is_empty(), !says(&text));
                prop_assert!(steps.iter().all(|step| says(step)), "{:?}", steps);
                if !steps.is_empty() {
                    prop_assert_eq!(steps.concat(), text.clone());
                }
            }
        }
    }
}
