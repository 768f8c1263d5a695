//! What task files and the reference harness take from CPython, reproduced exactly: the random generator behind few-shot
//! draws, `re` patterns, literals, methods of texts, formats, and which characters are white space.
//!
//! Nothing here runs Python; it knows nothing of tasks.

pub mod format;
pub mod literal;
pub mod random;
pub mod regex;
pub mod text;

/// `str.isspace` of one character: Unicode white space and the four information separators, which Rust leaves out.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

/// `len(re.split(r"\s+", text))`: runs of white space separate, and an empty piece at either end counts as a piece.
pub fn count_words(text: &str) -> usize {
    let mut separators = 0;
    let mut in_space = false;
    for c in text.chars() {
        let space = is_space(c);
        separators += usize::from(space && !in_space);
        in_space = space;
    }
    separators + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_as_re_split_counts_them() {
        // `len(re.split(r"\s+", text))` of CPython 3.11.
        for (text, count) in [("", 1), (" ", 2), ("a", 1), ("a b", 2), (" a \n b ", 4), ("a\x1cb\u{3000}c", 3)] {
            assert_eq!(count_words(text), count, "{text:?}");
        }
    }
}
