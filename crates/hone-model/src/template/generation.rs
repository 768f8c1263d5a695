//! `{% generation %}` … `{% endgeneration %}`: transformers' own tags around what the model writes. They become a filter
//! block here, which puts a sign before and behind what it encloses; the signs are taken out of the rendered text again.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// Noncharacters of Unicode, which no text may carry.
const START: char = '\u{10FFFE}';
const END: char = '\u{10FFFF}';
pub(super) const FILTER: &str = "generation_marks";

static TAG: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("a constant expression"));

pub(super) fn has_tags(source: &str) -> bool {
    TAG.is_match(source)
}

/// The source with the tags as filter blocks, white-space control kept.
pub(super) fn as_filter(source: &str) -> String {
    let replaced = TAG.replace_all(source, |tag: &regex::Captures| {
        let block = if tag.get(2).is_some() { "endfilter".to_owned() } else { format!("filter {FILTER}") };
        format!("{{%{} {block} {}%}}", &tag[1], &tag[3])
    });
    replaced.into_owned()
}

/// The filter.
pub(super) fn mark(enclosed: String) -> String {
    format!("{START}{enclosed}{END}")
}

/// The text without signs, and the byte ranges that were between them.
pub(super) fn split(rendered: &str) -> (String, Vec<Range<usize>>) {
    let mut text = String::with_capacity(rendered.len());
    let mut ranges = Vec::new();
    let mut start = 0;
    for piece in rendered.split_inclusive([START, END]) {
        text.push_str(piece.trim_end_matches([START, END]));
        match piece.chars().next_back() {
            Some(START) => start = text.len(),
            Some(END) => ranges.push(start..text.len()),
            _ => {}
        }
    }
    (text, ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_become_filter_blocks_and_keep_their_dashes() {
        let source = "{%- generation -%}x{% endgeneration+%}{% if generation %}";
        assert_eq!(as_filter(source), "{%- filter generation_marks -%}x{% endfilter +%}{% if generation %}");
        assert!(has_tags(source) && !has_tags("{{ generation }}"));
    }

    #[test]
    fn marked_text_is_split() {
        let rendered = format!("é{}ü{}", mark("ab".to_owned()), mark(String::new()));
        assert_eq!(split(&rendered), ("éabü".to_owned(), vec![2..4, 6..6]));
    }
}
