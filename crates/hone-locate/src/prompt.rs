//! A question as a model reads it, with or without the chat template, and what each of its tokens belongs to.
//!
//! The user's text is the same in both forms; with the template it is one user message and the assistant's turn is opened. A
//! token belongs to the part that its first character lies in that is no white space, so ` Paris` belongs to what `Paris`
//! stands in. Not so:
//!
//! - the first token of a sequence is its own part, whatever it says: heads that look for nothing rest there (an attention
//!   sink, Xiao et al. 2024, arXiv 2309.17453), with a template on a token of the template, without one on the user's first
//!   word, which would pass for attention to the user;
//! - line breaks and special tokens inside the user's text count as markup, as in the context-dependency score
//!   (arXiv 2411.02688).
//!
//! Prompt and answer are tokenised together. The answer begins with the first token that reaches beyond the prompt's text.

use std::ops::Range;

use hone_eval::requests::{Encoder, Request};
use hone_model::Model;
use hone_model::template::{ChatTemplate, Message};
use hone_model::tokenizer::{Encoding, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::error::LocateError;
use crate::question::Question;

/// How a question is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// The user's text alone.
    Plain,
    /// Through the model's chat template.
    Chat,
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Form::Plain => "without chat template",
            Form::Chat => "with chat template",
        })
    }
}

/// What a token belongs to. Together the parts are the whole sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The first token.
    First,
    /// The passage.
    Context,
    /// The rest of the user's text.
    Question,
    /// What opens the assistant's turn.
    Role,
    /// Everything else that is no text of user or assistant: the template's marks and system message, line breaks.
    Markup,
    /// The answer.
    Answer,
}

impl Part {
    /// Every part.
    pub const ALL: [Part; 6] = [Part::First, Part::Context, Part::Question, Part::Role, Part::Markup, Part::Answer];
}

/// A question and its answer as ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Prompt and answer.
    pub ids: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// What each token belongs to.
    pub parts: Vec<Part>,
    /// Which tokens of the passage say the answer; none where it does not stand there word for word.
    pub evidence: Vec<bool>,
}

impl Prompt {
    /// Writes `question` in a form for the encoder's model.
    pub fn new(question: &Question, form: Form, model: &Model, encoder: &Encoder<'_>) -> Result<Prompt, LocateError> {
        let written = written(question, form, model)?;
        let continuation = match form {
            Form::Plain => format!("{}{}", question.delimiter, question.answer),
            Form::Chat => question.answer.clone(),
        };
        let (prompt, whole) = (written.text.len(), format!("{}{continuation}", written.text));
        let encoding = encoder.encoding(&whole)?;
        let evidence = whole[written.context.clone()].find(&question.answer).map(|at| {
            let start = written.context.start + at;
            start..start + question.answer.len()
        });
        // Special tokens that the tokenizer puts before have no text.
        let prompt_tokens = encoding.offsets.iter().take_while(|(_, end)| *end <= prompt).count();
        if prompt_tokens == 0 || prompt_tokens == encoding.ids.len() {
            let problem = "prompt and answer have no tokens of their own; ask something longer".into();
            return Err(LocateError::Row { place: format!("example {}", question.id), problem });
        }
        let part = |(at, offsets): (usize, &(usize, usize))| {
            if at == 0 {
                return Part::First;
            }
            if at >= prompt_tokens {
                return Part::Answer;
            }
            match seat(&whole, *offsets) {
                _ if model.tokenizer.is_special(encoding.ids[at]) && at_user(&written, *offsets) => Part::Markup,
                Some(at) if written.context.contains(&at) => Part::Context,
                Some(at) if written.user.contains(&at) => Part::Question,
                Some(at) if at >= written.opened => Part::Role,
                _ => Part::Markup,
            }
        };
        let parts: Vec<Part> = encoding.offsets.iter().enumerate().map(part).collect();
        let says = |(part, offsets): (&Part, &(usize, usize))| {
            let seat = seat(&whole, *offsets);
            *part == Part::Context && evidence.as_ref().zip(seat).is_some_and(|(range, at)| range.contains(&at))
        };
        let evidence = parts.iter().zip(&encoding.offsets).map(says).collect();
        Ok(Prompt { ids: encoding.ids, prompt_tokens, parts, evidence })
    }

    /// The request that reads all of it and scores the answer, with `closing` behind it.
    pub fn request(&self, closing: u32) -> Request {
        let mut targets = self.ids[self.prompt_tokens..].to_vec();
        targets.push(closing);
        Request { input: self.ids.clone(), targets, truncated: false, edit_group: None }
    }

    /// Tokens of the part.
    pub fn of(&self, part: Part) -> impl Iterator<Item = bool> {
        self.parts.iter().map(move |own| *own == part)
    }
}

/// A prompt's text, and where its parts stand in it, in bytes.
#[derive(Clone, Debug, PartialEq)]
struct Written {
    text: String,
    context: Range<usize>,
    user: Range<usize>,
    /// Where the assistant's turn is opened.
    opened: usize,
}

fn at_user(written: &Written, (start, _): (usize, usize)) -> bool {
    written.user.contains(&start)
}

fn written(question: &Question, form: Form, model: &Model) -> Result<Written, LocateError> {
    let Question { user, context, .. } = question;
    if form == Form::Plain {
        let (text, context, opened) = (user.clone(), context.clone(), user.len());
        return Ok(Written { text, context, user: 0..user.len(), opened });
    }
    let template = template_of(model)?;
    let messages = [message("user", user)];
    let text = template.render(&messages, true, &Map::new())?;
    let changed = || LocateError::Template {
        model: model.source.reference.clone(),
        problem: format!(
            "the chat template changes the user's text in example {}, so its passage cannot be found there; measure without \
             the template (`--chat-template off`)",
            question.id
        ),
    };
    let span = content_span(&messages, 0, &text, &|messages| {
        template.render(messages, true, &Map::new()).map_err(LocateError::from)
    });
    let span = span.ok_or_else(changed)?;
    // Templates may trim a message.
    let rendered = &text[span.clone()];
    let shift = if rendered == user || rendered == user.trim_end() {
        0
    } else if rendered == user.trim_start() || rendered == user.trim() {
        user.len() - user.trim_start().len()
    } else {
        return Err(changed());
    };
    let place = |at: usize| span.start + at.max(shift).min(shift + rendered.len()) - shift;
    // A template that does not write the conversation so far opens the turn right behind the user's text.
    let closed = template
        .render(&messages, false, &Map::new())
        .ok()
        .map_or(span.end, |closed| if text.starts_with(&closed) { closed.len().max(span.end) } else { span.end });
    Ok(Written { context: place(context.start)..place(context.end), user: span, opened: closed, text })
}

pub(crate) fn message(role: &str, content: &str) -> Message {
    Message { role: role.to_owned(), content: content.to_owned(), extra: Map::new() }
}

/// The model's chat template.
pub(crate) fn template_of(model: &Model) -> Result<&ChatTemplate, LocateError> {
    model.template.as_ref().ok_or_else(|| LocateError::Template {
        model: model.source.reference.clone(),
        problem: "it has no chat template; measure without one (`--chat-template off`)".into(),
    })
}

/// Where the content of message `index` stands in `text`, what `render` makes of the messages: a mark is put in its place and
/// what stands around it compared. `None` where the template does not show it as one piece.
pub(crate) fn content_span(
    messages: &[Message],
    index: usize,
    text: &str,
    render: &dyn Fn(&[Message]) -> Result<String, LocateError>,
) -> Option<Range<usize>> {
    let mut mark = String::from("hOneMark");
    while text.contains(&mark) {
        mark.push('x');
    }
    let mut marked = messages.to_vec();
    marked[index].content = mark.clone();
    let rendered = render(&marked).ok()?;
    let (before, after) = rendered.split_once(&mark)?;
    let fits = text.len() >= before.len() + after.len() && text.starts_with(before) && text.ends_with(after);
    fits.then(|| before.len()..text.len() - after.len())
}

/// The byte that decides where a token belongs: its first that is no white space; for white space alone its first, unless it
/// breaks a line. `None` also for tokens without text.
pub(crate) fn seat(text: &str, (start, end): (usize, usize)) -> Option<usize> {
    // Byte-level tokens may cut a character: what is left of it is no white space.
    let Some(own) = text.get(start..end) else { return Some(start) };
    match own.find(|c: char| !c.is_whitespace()) {
        Some(at) => Some(start + at),
        None if own.is_empty() || own.contains('\n') => None,
        None => Some(start),
    }
}

/// Which tokens of a text are the words in `spans`: line breaks, special tokens and the first token are not.
pub(crate) fn words_in(text: &str, encoding: &Encoding, spans: &[Range<usize>], tokenizer: &Tokenizer) -> Vec<bool> {
    let inside = |(at, offsets): (usize, &(usize, usize))| {
        let seat = seat(text, *offsets);
        at > 0
            && !tokenizer.is_special(encoding.ids[at])
            && seat.is_some_and(|at| spans.iter().any(|span| span.contains(&at)))
    };
    encoding.offsets.iter().enumerate().map(inside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_sits_at_its_first_letter() {
        let text = "a  bc\n\n d é";
        assert_eq!(seat(text, (0, 1)), Some(0));
        assert_eq!(seat(text, (1, 5)), Some(3));
        assert_eq!(seat(text, (1, 2)), Some(1));
        assert_eq!(seat(text, (5, 7)), None, "line breaks");
        assert_eq!(seat(text, (5, 9)), Some(8));
        assert_eq!(seat(text, (3, 3)), None, "no text");
        assert_eq!(seat(text, (11, 12)), Some(11), "half a letter");
    }

    #[test]
    fn content_is_found_by_what_stands_around_it() {
        let render = |messages: &[Message]| {
            let line = |m: &Message| format!("<{}>{}</>\n", m.role, m.content.trim());
            Ok(messages.iter().map(line).collect::<String>())
        };
        // The same word stands in the template and in both messages.
        let messages = [message("user", " user "), message("assistant", "user")];
        let text = render(&messages).unwrap();
        assert_eq!(text, "<user>user</>\n<assistant>user</>\n");
        assert_eq!(content_span(&messages, 0, &text, &render), Some(6..10));
        assert_eq!(content_span(&messages, 1, &text, &render), Some(25..29));
        let shouting = |messages: &[Message]| render(messages).map(|text| text.to_uppercase());
        let text = shouting(&messages).unwrap();
        assert_eq!(content_span(&messages, 0, &text, &shouting), None);
    }
}
