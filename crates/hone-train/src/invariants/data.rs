//! Checks of the data: what is trained, and whether the tokens say what the template wrote.

use hone_data::TokenisedExample;

use super::{Check, Status};

/// Examples in which everything is trained may be this share of all before the check fails (an empty prompt here and there
/// is the data's affair).
const MOST_UNMASKED: f64 = 0.5;

/// Of every example, some tokens are trained and some are not. The first token has nothing before it and does not count.
/// `exempt` says why everything may be trained (`train_on: all`, running text).
pub fn trained_share(examples: &[TokenisedExample], exempt: Option<&str>) -> Check {
    let name = "trained_share";
    let expected = "some tokens trained and some not, in every example";
    let shares: Vec<f64> = examples.iter().map(share).collect();
    let none = shares.iter().filter(|s| **s == 0.0).count();
    let all = shares.iter().filter(|s| **s >= 1.0).count();
    let mean = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
    let (least, most) = (shares.iter().copied().fold(1.0, f64::min), shares.iter().copied().fold(0.0, f64::max));
    let percent = |x: f64| format!("{:.1} %", 100.0 * x);
    let found = format!(
        "trained share from {} to {} (mean {}) over {} examples; {none} with nothing trained, {all} with everything",
        percent(least),
        percent(most),
        percent(mean),
        shares.len()
    );
    if none > 0 || shares.is_empty() {
        let next = "look at the rows with `hone data show`; raise `data.max_length` if answers are cut off";
        return Check::new(name, Status::Failed, found, expected, next);
    }
    if let Some(why) = exempt {
        return Check::new(name, Status::Held, format!("{found}; everything may be trained: {why}"), expected, "");
    }
    let next = "look at the rows with `hone data show`; set `data.train_on: all` if every token is meant to be trained";
    match all {
        0 => Check::new(name, Status::Held, found, expected, ""),
        n if n as f64 > MOST_UNMASKED * shares.len() as f64 => Check::new(name, Status::Failed, found, expected, next),
        _ => Check::new(name, Status::Warned, found, expected, next),
    }
}

/// Trained tokens as a share of those that can be (all but the first).
fn share(example: &TokenisedExample) -> f64 {
    match example.ids.len() {
        0 | 1 => 0.0,
        n => example.trained_tokens() as f64 / (n - 1) as f64,
    }
}

/// Text to ids.
pub type Encode<'a> = &'a dyn Fn(&str) -> Result<Vec<u32>, String>;
/// Ids to text.
pub type Decode<'a> = &'a dyn Fn(&[u32]) -> Result<String, String>;

/// A conversation tokenised and turned back is the text the template wrote.
pub fn chat_text(rendered: &[String], encode: Encode, decode: Decode) -> Check {
    let name = "chat_text";
    let expected = "the tokens of a conversation say exactly what the chat template wrote";
    let next = "the tokenizer and the chat template do not belong together: check the model's files";
    if rendered.is_empty() {
        return Check::skipped(name, "no conversations in the data", expected);
    }
    for (index, text) in rendered.iter().enumerate() {
        let said = match encode(text).and_then(|ids| decode(&ids)) {
            Ok(said) => said,
            Err(reason) => return Check::new(name, Status::Failed, reason, expected, next),
        };
        // SentencePiece tokenizers put a space before a text that does not begin with one.
        if said != *text && said.strip_prefix(' ') != Some(text) {
            let at = said.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
            let found = format!(
                "conversation {}: after {at} bytes the template wrote {:?}, the tokens say {:?}",
                index + 1,
                excerpt(text, at),
                excerpt(&said, at)
            );
            return Check::new(name, Status::Failed, found, expected, next);
        }
    }
    Check::new(name, Status::Held, format!("equal in {} conversations", rendered.len()), expected, "")
}

fn excerpt(text: &str, at: usize) -> String {
    let from = (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    text[from..].chars().take(30).collect()
}

/// The last trained token of an example that was not cut is one that ends a turn. `exempt` says why none has to be.
pub fn end_of_turn_trained(examples: &[TokenisedExample], ends: &[u32], exempt: Option<&str>) -> Check {
    let name = "end_of_turn_trained";
    let expected = "the token that ends a turn is trained, so that the model learns to stop";
    if let Some(why) = exempt {
        return Check::skipped(name, why, expected);
    }
    if ends.is_empty() {
        return Check::skipped(name, "the model declares no token that ends a turn", expected);
    }
    let whole: Vec<&TokenisedExample> = examples.iter().filter(|e| e.truncated == 0).collect();
    if whole.is_empty() {
        let next = "raise `data.max_length`: every example is cut off before its end";
        return Check::new(name, Status::Failed, "every example is cut off", expected, next);
    }
    let last = |e: &&&TokenisedExample| {
        let last = e.ids.iter().zip(&e.trained).rfind(|(_, trained)| **trained);
        last.is_some_and(|(id, _)| ends.contains(id))
    };
    let ending = whole.iter().filter(last).count();
    let found = format!("{ending} of {} whole examples end in a trained end-of-turn token", whole.len());
    let next = "use the chat template the model was made with, or a model that declares its end-of-turn token";
    match ending {
        0 => Check::new(name, Status::Failed, found, expected, next),
        n if n < whole.len() => Check::new(name, Status::Warned, found, expected, next),
        _ => Check::new(name, Status::Held, found, expected, ""),
    }
}
