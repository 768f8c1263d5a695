//! Text out of tokens as they come: never half a character, never the start of a stop text that might still complete.
//!
//! A token's text depends on its neighbours (byte pieces of one character, a space that the first token drops), so the
//! last few tokens are decoded again with every new one and what they add is taken. A character whose bytes are not all
//! there decodes to U+FFFD at the end; the text waits until it is whole.

use crate::error::ModelError;
use crate::tokenizer::Tokenizer;

/// The text of one continuation.
pub(super) struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    stop: &'a [String],
    ids: Vec<u32>,
    /// Tokens from here on are decoded again with the next one.
    window: usize,
    /// Tokens before this one are in `text`.
    taken: usize,
    /// Decoded so far.
    text: String,
    /// Bytes of `text` already given out.
    given: usize,
}

impl<'a> TextStream<'a> {
    /// A stream that ends before the first of the `stop` texts.
    pub fn new(tokenizer: &'a Tokenizer, stop: &'a [String]) -> Self {
        TextStream { tokenizer, stop, ids: Vec::new(), window: 0, taken: 0, text: String::new(), given: 0 }
    }

    /// Adds a token; `true` if a stop text is complete, which cuts the text before it.
    pub fn push(&mut self, id: u32) -> Result<bool, ModelError> {
        self.ids.push(id);
        let before = self.tokenizer.decode(&self.ids[self.window..self.taken], true)?;
        let now = self.tokenizer.decode(&self.ids[self.window..], true)?;
        let whole = !now.ends_with('\u{fffd}');
        let Some(new) = now.strip_prefix(before.as_str()).filter(|new| whole && !new.is_empty()) else {
            return Ok(false);
        };
        let searched = self.text.len();
        self.text.push_str(new);
        (self.window, self.taken) = (self.taken, self.ids.len());
        Ok(self.cut_at_stop(searched))
    }

    /// Text that is safe to show and was not given out yet.
    pub fn take(&mut self) -> &str {
        let end = self.given.max(self.text.len() - self.held_back());
        let from = std::mem::replace(&mut self.given, end);
        &self.text[from..self.given]
    }

    /// Ends the stream: the last piece to show, with what was held back; `true` if a stop text was in it.
    pub fn finish(&mut self) -> Result<(&str, bool), ModelError> {
        let searched = self.text.len();
        let all = self.tokenizer.decode(&self.ids, true)?;
        match all.strip_prefix(self.text.as_str()) {
            Some(rest) => self.text.push_str(rest),
            None => self.text.push_str(&self.tokenizer.decode(&self.ids[self.taken..], true)?),
        }
        let stopped = self.cut_at_stop(searched);
        let from = std::mem::replace(&mut self.given, self.text.len());
        Ok((&self.text[from..], stopped))
    }

    /// The whole text; what was given out, put together, once the stream is finished.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Cuts before the first stop text that ends after byte `searched`.
    fn cut_at_stop(&mut self, searched: usize) -> bool {
        let longest = self.stop.iter().map(String::len).max().unwrap_or(0);
        let mut from = searched.saturating_sub(longest);
        while !self.text.is_char_boundary(from) {
            from -= 1;
        }
        let found = self.stop.iter().filter(|s| !s.is_empty()).filter_map(|s| self.text[from..].find(s.as_str())).min();
        let Some(at) = found else { return false };
        self.text.truncate(from + at);
        true
    }

    /// Bytes at the end that may become a stop text.
    fn held_back(&self) -> usize {
        let starts_stop = |&length: &usize| {
            let tail = &self.text.as_bytes()[self.text.len() - length..];
            self.stop.iter().any(|stop| stop.len() > length && stop.as_bytes().starts_with(tail))
        };
        let longest = self.stop.iter().map(String::len).max().unwrap_or(0);
        let ends = self.text.char_indices().rev().map(|(at, _)| self.text.len() - at);
        ends.take_while(|length| *length < longest).filter(starts_stop).max().unwrap_or(0)
    }
}
