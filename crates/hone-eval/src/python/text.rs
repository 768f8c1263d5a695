//! Methods of Python's `str`: where texts are cut, filled and cased as Python does it, which Rust's methods of the same names do
//! not always (white space, word beginnings, digits, characters instead of bytes).
//!
//! What it does not know: title case of Greek letters with a iota below (`ᾳ`), which comes out as upper case; characters that later
//! versions of Unicode added than the Python at hand has.

use std::sync::LazyLock;

use regex::Regex;

use super::is_space;

/// Ranges that `isdigit` holds for besides decimal digits: superscripts, numbers in circles and the like.
const DIGITS: [(u32, u32); 20] = [
    (0xb2, 0xb3),
    (0xb9, 0xb9),
    (0x1369, 0x1371),
    (0x19da, 0x19da),
    (0x2070, 0x2070),
    (0x2074, 0x2079),
    (0x2080, 0x2089),
    (0x2460, 0x2468),
    (0x2474, 0x247c),
    (0x2488, 0x2490),
    (0x24ea, 0x24ea),
    (0x24f5, 0x24fd),
    (0x24ff, 0x24ff),
    (0x2776, 0x277e),
    (0x2780, 0x2788),
    (0x278a, 0x2792),
    (0x10a40, 0x10a43),
    (0x10e60, 0x10e68),
    (0x11052, 0x1105a),
    (0x1f100, 0x1f10a),
];

/// Ideographs that `isnumeric` holds for, though they are letters.
const NUMBERS: &str = "㐅㒃㠪㭍一七万三九二五亖亿什仟仨伍佰億兆兩八六十千卄卅卌叁参參叄四壱壹幺廾廿弌弍弎弐拾捌柒漆玖百肆萬貮貳贰阡陆陌陸零\
    \u{f96b}\u{f973}\u{f978}\u{f9b2}\u{f9d1}\u{f9d3}\u{f9fd}𠀁𠁤𠃢𠄡𠤪𠦃𠦌𠦜𠫪𠫽𠬙𢎐𢦘𣬛𦉭\u{2f890}";

// Patterns of these are fixed and compile; a class that could not be made holds for nothing.
static DECIMAL: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{Nd}+$").ok());
static LETTERS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{L}+$").ok());
static HIDDEN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[\p{C}\p{Z}]").ok());

fn all_of(class: &Option<Regex>, text: &str) -> bool {
    class.as_ref().is_some_and(|class| class.is_match(text))
}

fn of_one(class: &Option<Regex>, c: char) -> bool {
    all_of(class, c.encode_utf8(&mut [0; 4]))
}

/// `str.isprintable` of one character: `repr` writes the others as escapes.
pub fn is_printable(c: char) -> bool {
    match c.is_ascii() {
        true => (' '..='~').contains(&c),
        false => !of_one(&HIDDEN, c),
    }
}

/// `str.isdecimal`.
pub fn is_decimal(text: &str) -> bool {
    all_of(&DECIMAL, text)
}

/// `str.isalpha`.
pub fn is_alpha(text: &str) -> bool {
    all_of(&LETTERS, text)
}

fn digit(c: char) -> bool {
    let code = c as u32;
    c.is_ascii_digit() || DIGITS.iter().any(|(low, high)| (*low..=*high).contains(&code)) || of_one(&DECIMAL, c)
}

/// `str.isdigit`.
pub fn is_digit(text: &str) -> bool {
    !text.is_empty() && text.chars().all(digit)
}

fn numeric(c: char) -> bool {
    c.is_numeric() || NUMBERS.contains(c)
}

/// `str.isnumeric`.
pub fn is_numeric(text: &str) -> bool {
    !text.is_empty() && text.chars().all(numeric)
}

/// `str.isalnum`.
pub fn is_alnum(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c != '_' && is_word(c))
}

/// Whether `\w` holds for a character.
pub fn is_word(c: char) -> bool {
    c == '_' || numeric(c) || of_one(&LETTERS, c)
}

/// `str.islower`.
pub fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(|c| c.is_uppercase() || is_title(c))
}

/// `str.isupper`.
pub fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(|c| c.is_lowercase() || is_title(c))
}

/// `str.istitle`: upper case at the beginning of words and nowhere else.
pub fn is_titled(text: &str) -> bool {
    let (mut inside, mut found) = (false, false);
    for c in text.chars() {
        let high = c.is_uppercase() || is_title(c);
        if high && inside || c.is_lowercase() && !inside {
            return false;
        }
        inside = high || c.is_lowercase();
        found |= inside;
    }
    found
}

/// A character that is upper case with lower case after it, as `ǅ`.
fn is_title(c: char) -> bool {
    matches!(c, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ' | '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}' | '\u{1fa8}'..='\u{1faf}' | 'ᾼ' | 'ῌ' | 'ῼ')
}

fn cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || is_title(c)
}

/// The title case of a character.
fn to_title(c: char, out: &mut String) {
    match c {
        'Ǆ'..='ǆ' => out.push('ǅ'),
        'Ǉ'..='ǉ' => out.push('ǈ'),
        'Ǌ'..='ǌ' => out.push('ǋ'),
        'Ǳ'..='ǳ' => out.push('ǲ'),
        'ŉ' => out.push_str("ʼN"),
        // Georgian has no title case.
        '\u{10d0}'..='\u{10ff}' => out.push(c),
        _ if is_title(c) => out.push(c),
        _ => {
            let mut upper = c.to_uppercase();
            out.extend(upper.next());
            out.extend(upper.flat_map(char::to_lowercase));
        }
    }
}

/// Lower case of the characters from `at` on; a sigma that ends a word is written so.
fn to_lower(chars: &[char], at: usize, out: &mut String) {
    if chars[at] != 'Σ' {
        out.extend(chars[at].to_lowercase());
        return;
    }
    let between = |c: &&char| matches!(**c, '\'' | '.' | ':' | '^' | '`' | '\u{ad}' | '\u{b7}' | '\u{2019}');
    let before = chars[..at].iter().rev().find(|c| !between(c)).is_some_and(|c| cased(*c));
    let after = chars[at + 1..].iter().find(|c| !between(c)).is_some_and(|c| cased(*c));
    out.push(if before && !after { 'ς' } else { 'σ' });
}

/// `str.title`: letters after anything that has no case begin a word.
pub fn title(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::new();
    let mut inside = false;
    for (i, &c) in chars.iter().enumerate() {
        match inside {
            true => to_lower(&chars, i, &mut out),
            false => to_title(c, &mut out),
        }
        inside = cased(c);
    }
    out
}

/// `str.capitalize`.
pub fn capitalize(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::new();
    for (i, &c) in chars.iter().enumerate() {
        match i {
            0 => to_title(c, &mut out),
            _ => to_lower(&chars, i, &mut out),
        }
    }
    out
}

/// `str.swapcase`.
pub fn swap_case(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::new();
    for (i, &c) in chars.iter().enumerate() {
        match (c.is_uppercase(), c.is_lowercase()) {
            (true, _) => to_lower(&chars, i, &mut out),
            (_, true) => out.extend(c.to_uppercase()),
            _ => out.push(c),
        }
    }
    out
}

/// `str.casefold`: full case folding, which is lower case of upper case but for dotless i and the Cherokee letters.
pub fn case_fold(text: &str) -> String {
    let fold = |c: char| -> String {
        match c {
            'ı' => c.into(),
            '\u{13a0}'..='\u{13fd}' | '\u{ab70}'..='\u{abbf}' => c.to_uppercase().collect(),
            _ => c.to_lowercase().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect(),
        }
    };
    text.chars().map(fold).collect()
}

/// Which ends of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// `lstrip`.
    Left,
    /// `rstrip`.
    Right,
    /// `strip`.
    Both,
}

/// `str.strip` and its kin: white space, or any of `chars`, taken off.
pub fn strip<'t>(text: &'t str, chars: Option<&str>, ends: Ends) -> &'t str {
    let gone = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if ends == Ends::Right { text } else { text.trim_start_matches(gone) };
    if ends == Ends::Left { text } else { text.trim_end_matches(gone) }
}

/// `str.split` and, from the right, `str.rsplit`: at most `most` cuts; at runs of white space where no separator is given. The separator
/// is not empty.
pub fn split(text: &str, separator: Option<&str>, most: Option<usize>, from_right: bool) -> Vec<String> {
    let most = most.unwrap_or(usize::MAX - 1);
    let own = |pieces: Vec<&str>| pieces.into_iter().map(str::to_owned).collect::<Vec<_>>();
    match (separator, from_right) {
        (Some(separator), false) => own(text.splitn(most + 1, separator).collect()),
        (Some(separator), true) => {
            let mut pieces = own(text.rsplitn(most + 1, separator).collect());
            pieces.reverse();
            pieces
        }
        (None, false) => {
            let mut pieces = Vec::new();
            let mut rest = text.trim_start_matches(is_space);
            while !rest.is_empty() {
                let end = if pieces.len() < most { rest.find(is_space).unwrap_or(rest.len()) } else { rest.len() };
                pieces.push(&rest[..end]);
                rest = rest[end..].trim_start_matches(is_space);
            }
            own(pieces)
        }
        (None, true) => {
            let mut pieces = Vec::new();
            let mut rest = text.trim_end_matches(is_space);
            while !rest.is_empty() {
                let cut = rest.char_indices().rev().find(|(_, c)| is_space(*c)).map(|(at, c)| at + c.len_utf8());
                let start = if pieces.len() < most { cut.unwrap_or(0) } else { 0 };
                pieces.push(&rest[start..]);
                rest = rest[..start].trim_end_matches(is_space);
            }
            pieces.reverse();
            own(pieces)
        }
    }
}

/// `str.splitlines`: also at form feeds, separators and the line ends of Unicode.
pub fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let ends = |c: char| matches!(c, '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some((at, c)) = rest.char_indices().find(|(_, c)| ends(*c)) {
        let next = if rest[at..].starts_with("\r\n") { at + 2 } else { at + c.len_utf8() };
        lines.push(&rest[..if keep_ends { next } else { at }]);
        rest = &rest[next..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// Where a text of `length` characters stands in a field of `width`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// `ljust`.
    Left,
    /// `rjust`.
    Right,
    /// `center`, with the odd place to the left in an odd field.
    Centre,
}

/// `str.ljust`, `rjust` and `center`.
pub fn justify(text: &str, width: usize, fill: char, align: Align) -> String {
    let missing = width.saturating_sub(text.chars().count());
    let left = match align {
        Align::Left => 0,
        Align::Right => missing,
        Align::Centre => missing / 2 + (missing & width & 1),
    };
    let filled = |count: usize| std::iter::repeat_n(fill, count);
    filled(left).chain(text.chars()).chain(filled(missing - left)).collect()
}

/// `str.zfill`: zeros between the sign and the rest.
pub fn zero_fill(text: &str, width: usize) -> String {
    let sign = text.starts_with(['+', '-']);
    let (sign, rest) = text.split_at(usize::from(sign));
    let zeros = width.saturating_sub(text.chars().count());
    format!("{sign}{}{rest}", "0".repeat(zeros))
}

/// `str.expandtabs`.
pub fn expand_tabs(text: &str, size: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    for c in text.chars() {
        match c {
            '\t' => {
                let count = if size == 0 { 0 } else { size - column % size };
                out.extend(std::iter::repeat_n(' ', count));
                column += count;
            }
            _ => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    out
}

/// `str.replace`: the first `most` occurrences; an empty text stands before every character and at the end.
pub fn replace(text: &str, old: &str, new: &str, most: Option<usize>) -> String {
    most.map_or_else(|| text.replace(old, new), |most| text.replacen(old, new, most))
}
