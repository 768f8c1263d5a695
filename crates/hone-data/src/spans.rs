//! Where the assistant's turns lie in a rendered conversation, found from the chat template itself: the template is
//! rendered again with a part of the conversation, or with a mark set into one message, and the results are compared.
//! No template has to be known by name and none has to carry `{% generation %}` tags.
//!
//! A turn **starts** where the model takes over: behind the conversation before it with the generation prompt open, where
//! the whole text starts so; else at the message's content. It **ends** behind its end-of-turn marker: where the
//! conversation up to the turn ends, where the whole text starts so; else behind what follows the content both in the
//! conversation cut off after the turn and in the whole. White space behind the marker is the template's, not the turn's.
//!
//! Knows nothing of tokens.

use std::ops::Range;

use crate::error::CodecError;
use crate::example::Message;

/// Renders messages; the flag opens the assistant's turn at the end.
pub type Render<'a> = &'a dyn Fn(&[Message], bool) -> Result<String, CodecError>;

/// The rendered conversation and, for each message of the role `assistant` in order, the byte range of its turn.
pub fn assistant_spans(messages: &[Message], render: Render) -> Result<(String, Vec<Range<usize>>), CodecError> {
    let text = render(messages, false)?;
    let mut spans: Vec<Range<usize>> = Vec::new();
    for index in (0..messages.len()).filter(|&i| messages[i].role == "assistant") {
        let unfound = |what: &str| {
            let place = index + 1;
            CodecError::from(format!(
                "the chat template does not show where the assistant's turn (message {place}) {what}: it changes the \
                 message's text, or the turns before it, in a way that rendering parts of the conversation does not explain"
            ))
        };
        let start = turn_start(messages, index, &text, render).ok_or_else(|| unfound("starts"))?;
        let end = turn_end(messages, index, &text, render).ok_or_else(|| unfound("ends"))?;
        let after_last = spans.last().map_or(0, |s| s.end);
        let start = start.max(after_last);
        spans.push(start..end.max(start));
    }
    Ok((text, spans))
}

fn turn_start(messages: &[Message], index: usize, text: &str, render: Render) -> Option<usize> {
    // Templates may refuse a part of a conversation (roles must alternate): that is no error here, only no answer.
    match render(&messages[..index], true) {
        Ok(opened) if text.starts_with(&opened) => Some(opened.len()),
        _ => content_edge(messages, index, text, Edge::Start, render),
    }
}

fn turn_end(messages: &[Message], index: usize, text: &str, render: Render) -> Option<usize> {
    let upto = &messages[..=index];
    let closed = render(upto, false).ok()?;
    if text.starts_with(&closed) {
        let end = closed.trim_end().len();
        // A template without any marker: the answer's own white space at its end is still the answer's.
        let own = messages[index].content.trim_end().len();
        let bare = closed.ends_with(&messages[index].content) && own < messages[index].content.len();
        return Some(if bare { closed.len() } else { end });
    }
    let in_text = content_edge(messages, index, text, Edge::End, render)?;
    let in_closed = content_edge(upto, index, &closed, Edge::End, render)?;
    let marker = common_prefix(&text[in_text..], &closed[in_closed..]);
    Some(in_text + marker.trim_end().len())
}

#[derive(Clone, Copy)]
enum Edge {
    Start,
    End,
}

/// Where the content of a message starts or ends in `text`, the rendering of `messages`.
fn content_edge(messages: &[Message], index: usize, text: &str, edge: Edge, render: Render) -> Option<usize> {
    let mut mark = String::from("hOneMark");
    while text.contains(&mark) {
        mark.push('x');
    }
    let content = &messages[index].content;
    // Inside the white space around the content, which many templates trim away.
    let at = match edge {
        Edge::Start => content.len() - content.trim_start().len(),
        Edge::End => content.trim_end().len(),
    };
    let mut added = content.clone();
    added.insert_str(at, &mark);
    let around = |content: String| {
        let mut marked = messages.to_vec();
        marked[index].content = content;
        let rendered = render(&marked, false).ok()?;
        let (before, after) = rendered.split_once(&mark)?;
        Some((before.to_string(), after.to_string()))
    };
    if let Some((before, after)) = around(added)
        && text.strip_prefix(&before) == Some(&after)
    {
        return Some(before.len());
    }
    // The template drops the part the mark stood in (a thought of an earlier turn): the mark takes the whole content's place.
    let (before, after) = around(mark.clone())?;
    let fits = text.len() >= before.len() + after.len() && text.starts_with(&before) && text.ends_with(&after);
    fits.then_some(match edge {
        Edge::Start => before.len(),
        Edge::End => text.len() - after.len(),
    })
}

fn common_prefix<'a>(a: &'a str, b: &str) -> &'a str {
    let same = a.char_indices().zip(b.chars()).find(|((_, x), y)| x != y);
    match same {
        Some(((at, _), _)) => &a[..at],
        None => &a[..a.len().min(b.len())],
    }
}
