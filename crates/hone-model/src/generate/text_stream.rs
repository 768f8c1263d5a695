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
        if now.ends_with('\u{fffd}') {
            return Ok(false);
        }
        let new = match now.strip_prefix(before.as_str()) {
            Some(new) => new.to_owned(),
            // Bytes that are no character changed how those before them decode: go on from here.
            None => self.tokenizer.decode(&self.ids[self.taken..], true)?,
        };
        if new.is_empty() {
            return Ok(false);
        }
        let searched = self.text.len();
        self.text.push_str(&new);
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
    ///
    /// Bytes that turn out to be no character can change how those before them decode; what was shown stays, and
    /// [`TextStream::text`] is then what all tokens together decode to.
    pub fn finish(&mut self) -> Result<(String, bool), ModelError> {
        let searched = self.text.len();
        let all = self.tokenizer.decode(&self.ids, true)?;
        let rest = all.strip_prefix(self.text.as_str());
        match rest {
            Some(rest) => self.text.push_str(rest),
            None => self.text.push_str(&self.tokenizer.decode(&self.ids[self.taken..], true)?),
        }
        let stopped = self.cut_at_stop(searched);
        let last = self.text[self.given..].to_owned();
        if rest.is_none() && !stopped {
            self.text = all;
        }
        self.given = self.text.len();
        Ok((last, stopped))
    }

    /// The whole text, once the stream is finished.
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    /// A tokenizer with pieces of words and single bytes.
    fn tokenizer() -> Tokenizer {
        Tokenizer::from_directory(Path::new("../../assets/stories260k")).unwrap()
    }

    /// The pieces a stream gives out for `ids`, the last one apart, and whether it ended at a stop text.
    fn pieces(tokenizer: &Tokenizer, ids: &[u32], stop: &[String]) -> (Vec<String>, String, bool) {
        let mut stream = TextStream::new(tokenizer, stop);
        let mut pieces = Vec::new();
        let mut stopped = false;
        for &id in ids {
            stopped = stream.push(id).unwrap();
            if stopped {
                break;
            }
            pieces.push(stream.take().to_owned());
        }
        let (last, at_the_end) = stream.finish().unwrap();
        pieces.push(last);
        if !stream.text().contains('\u{fffd}') {
            assert_eq!(pieces.concat(), stream.text());
        }
        (pieces, stream.text().to_owned(), stopped || at_the_end)
    }

    #[test]
    fn characters_of_several_tokens_come_whole() {
        let tokenizer = tokenizer();
        let text = "a café, 日本語 and 🙂👩‍👩‍👧 faces";
        let ids = tokenizer.encode(text, false).unwrap().ids;
        assert!(ids.len() > text.chars().count(), "some characters take several tokens");
        let (pieces, whole, _) = pieces(&tokenizer, &ids, &[]);
        assert_eq!(whole, text);
        assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{pieces:?}");
        assert!(pieces.iter().filter(|piece| !piece.is_empty()).count() > 10, "text comes as it is made: {pieces:?}");
    }

    #[test]
    fn a_stop_text_is_cut_and_its_beginning_never_shown() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("One day they went home. END of it", false).unwrap().ids;
        let stop = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let (shown, text, stopped) = pieces(&tokenizer, &ids, &stop(&["END", "never"]));
        assert!(stopped);
        assert_eq!(text, "One day they went home. ");
        assert_eq!(shown.concat(), text);
        let (_, text, stopped) = pieces(&tokenizer, &ids, &stop(&["home. EN", "went"]));
        assert_eq!((text.as_str(), stopped), ("One day they ", true));
        // What only looked like the beginning of a stop text comes in the end.
        let (_, text, stopped) = pieces(&tokenizer, &ids, &stop(&["it is"]));
        assert_eq!((text.as_str(), stopped), ("One day they went home. END of it", false));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_tokens_stream_to_the_text_they_decode_to(ids in prop::collection::vec(0u32..512, 0..40)) {
            let tokenizer = tokenizer();
            let (_, whole, _) = pieces(&tokenizer, &ids, &[]);
            let decoded = tokenizer.decode(&ids, true).unwrap();
            prop_assert_eq!(whole, decoded);
        }
    }
}
