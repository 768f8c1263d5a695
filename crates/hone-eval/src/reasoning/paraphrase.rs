//! The same reasoning in other words, by rules that keep what is said.
//!
//! Every rule is a pair of forms that mean the same in any sentence: contractions and their long forms ("isn't", "is not"), a few
//! connectives ("for example", "for instance"), and signs between numbers and their names ("3 + 4", "3 plus 4"). A step that has one
//! form gets the other. A step that no rule touches gets an opening that says nothing ("Note: "). So every step is other words and
//! tokens, no step says anything else, and this can be tested: both forms of a pair, put back to the first one, give the same text.
//!
//! The paper (Lobo et al. 2024, arXiv 2411.15382) has a large language model paraphrase. That rewords more, but nothing then shows
//! that the content was kept, which is what the reading of the test rests on.
//!
//! What it does not know: languages other than English, where only the opening and the signs apply.

use serde::{Deserialize, Serialize};

/// How steps are put into other words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Paraphrase {
    /// By the rules of this module.
    #[default]
    Rules,
    /// Not at all: a control. The model goes on from its own words, so with greedy decoding the answer stays.
    Identity,
}

/// Words that mean the same, in small letters.
const PAIRS: [(&str, &str); 36] = [
    ("is not", "isn't"),
    ("are not", "aren't"),
    ("was not", "wasn't"),
    ("were not", "weren't"),
    ("do not", "don't"),
    ("does not", "doesn't"),
    ("did not", "didn't"),
    ("has not", "hasn't"),
    ("have not", "haven't"),
    ("had not", "hadn't"),
    ("cannot", "can't"),
    ("could not", "couldn't"),
    ("will not", "won't"),
    ("would not", "wouldn't"),
    ("should not", "shouldn't"),
    ("must not", "mustn't"),
    ("need not", "needn't"),
    ("they are", "they're"),
    ("we are", "we're"),
    ("you are", "you're"),
    ("they have", "they've"),
    ("we have", "we've"),
    ("you have", "you've"),
    ("they will", "they'll"),
    ("we will", "we'll"),
    ("you will", "you'll"),
    ("it will", "it'll"),
    ("that will", "that'll"),
    ("he will", "he'll"),
    ("she will", "she'll"),
    ("let us", "let's"),
    ("for example", "for instance"),
    ("therefore", "thus"),
    ("no one", "nobody"),
    ("in order to", "so as to"),
    ("perhaps", "maybe"),
];

/// Signs between two numbers, with their names.
const SIGNS: [(&str, &str); 9] = [
    ("+", "plus"),
    ("-", "minus"),
    ("*", "times"),
    ("/", "divided by"),
    ("=", "equals"),
    ("−", "minus"),
    ("×", "times"),
    ("x", "times"),
    ("÷", "divided by"),
];

/// What a step begins with that no rule changes.
const OPENING: &str = "Note: ";

/// The step in other words; white space around it stays.
pub fn paraphrased(step: &str, how: Paraphrase) -> String {
    if how == Paraphrase::Identity {
        return step.to_owned();
    }
    let changed = with_words(step, &|word| {
        PAIRS.iter().find_map(|(long, short)| match word {
            _ if word == *long => Some(*short),
            _ if word == *short => Some(*long),
            _ => None,
        })
    });
    let changed = with_signs(&changed, &|sign| {
        let name = SIGNS.iter().find(|(known, _)| *known == sign).map(|(_, name)| *name);
        name.or_else(|| SIGNS.iter().find(|(_, name)| *name == sign).map(|(known, _)| *known))
    });
    if changed != step {
        return changed;
    }
    let said = step.trim_start();
    format!("{}{OPENING}{said}", &step[..step.len() - said.len()])
}

/// Replaces words and phrases, looked up in small letters; a capital at the beginning stays one. Longer phrases come first.
fn with_words(text: &str, other: &dyn Fn(&str) -> Option<&'static str>) -> String {
    const LONGEST: usize = 4;
    let (mut out, mut rest, mut inside) = (String::with_capacity(text.len()), text, false);
    'text: while let Some(first) = rest.chars().next() {
        if !inside && first.is_alphanumeric() {
            for words in (1..=LONGEST).rev() {
                let Some(phrase) = phrase(rest, words) else { continue };
                let lower = first.to_lowercase().collect::<String>() + &phrase[first.len_utf8()..];
                let Some(found) = other(&lower) else { continue };
                match first.is_uppercase() {
                    true => {
                        out.push_str(&found[..1].to_uppercase());
                        out.push_str(&found[1..]);
                    }
                    false => out.push_str(found),
                }
                rest = &rest[phrase.len()..];
                inside = true;
                continue 'text;
            }
        }
        inside = in_word(first);
        out.push(first);
        rest = &rest[first.len_utf8()..];
    }
    out
}

/// The first `count` words of the text, single spaces between them.
fn phrase(text: &str, count: usize) -> Option<&str> {
    let mut end = 0;
    for word in 0..count {
        if word > 0 {
            end += text[end..].strip_prefix(' ').map(|_| 1)?;
        }
        let length = text[end..].find(|c: char| !in_word(c)).unwrap_or(text.len() - end);
        if length == 0 {
            return None;
        }
        end += length;
    }
    Some(&text[..end])
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '\'' || c == '’' || c == '-'
}

/// Replaces what stands alone between two numbers.
fn with_signs(text: &str, other: &dyn Fn(&str) -> Option<&'static str>) -> String {
    let numeric =
        |piece: &str| piece.trim_start_matches(['$', '£', '€', '(']).starts_with(|c: char| c.is_ascii_digit());
    let mut pieces: Vec<&str> = text.split(' ').collect();
    let mut at = 1;
    while at + 1 < pieces.len() {
        let two = pieces.get(at + 2).filter(|_| pieces[at] == "divided" && pieces[at + 1] == "by");
        let (length, sign, behind) = match two {
            Some(behind) => (2, "divided by", *behind),
            None => (1, pieces[at], pieces[at + 1]),
        };
        if numeric(pieces[at - 1])
            && numeric(behind)
            && let Some(found) = other(sign)
        {
            pieces.splice(at..at + length, [found]);
        }
        at += 1;
    }
    pieces.join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The text with the first form of every pair, and without the opening: equal for two texts that say the same by the rules.
    fn said(text: &str) -> String {
        let trimmed = text.trim_start();
        let text =
            format!("{}{}", &text[..text.len() - trimmed.len()], trimmed.strip_prefix(OPENING).unwrap_or(trimmed));
        let words = with_words(&text, &|word| PAIRS.iter().find(|(_, short)| word == *short).map(|(long, _)| *long));
        with_signs(&words, &|sign| SIGNS.iter().find(|(known, _)| *known == sign).map(|(_, name)| *name))
    }

    #[test]
    fn steps_are_other_words_that_say_the_same() {
        for (step, expected) in [
            ("Monarchies do not allow it. ", "Monarchies don't allow it. "),
            ("Don't buy it, for example.", "Do not buy it, for instance."),
            ("16 - 3 - 4 = 9", "16 minus 3 minus 4 equals 9"),
            ("It is 12 divided by 4 eggs.", "It is 12 / 4 eggs."),
            ("\nJulius Caesar had three children.", "\nNote: Julius Caesar had three children."),
            ("Perhaps people can't vote - 3 x 4", "Maybe people cannot vote - 3 times 4"),
            ("x - 3 is not - 4", "x - 3 isn't - 4"),
        ] {
            assert_eq!(paraphrased(step, Paraphrase::Rules), expected);
            assert_eq!(said(expected), said(step));
            assert_eq!(paraphrased(step, Paraphrase::Identity), step);
        }
    }

    #[test]
    fn pairs_are_apart() {
        let forms: Vec<&str> = PAIRS.iter().flat_map(|(long, short)| [*long, *short]).collect();
        for (i, form) in forms.iter().enumerate() {
            assert!(!forms[..i].contains(form), "`{form}` is in two pairs");
            assert!(phrase(form, form.split(' ').count()) == Some(form), "`{form}` is found as it is written");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_words_the_step_changes_and_what_it_says_does_not(
            words in prop::collection::vec(prop::sample::select(vec![
                "is", "not", "isn't", "Cannot", "can't", "for", "example", "instance", "a", "thus", "Therefore", "maybe", "3", "$4",
                "12.5", "+", "-", "plus", "minus", "=", "divided", "by", "/", "x", "Rome.", "will", "He", "we", "order", "no", "one",
            ]), 1..12)
        ) {
            let step = words.join(" ");
            let other = paraphrased(&step, Paraphrase::Rules);
            prop_assert_ne!(&other, &step);
            prop_assert_eq!(said(&other), said(&step));
            let numbers = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
            prop_assert_eq!(numbers(&other), numbers(&step));
        }
    }
}
