//! Patterns of Python's `re`, as task files write them: translated to `fancy-regex` (which adds look-around and back
//! references to Rust's `regex`), with `findall` and `sub` as Python has them.
//!
//! Known difference: `\w` of Rust counts combining marks as word characters, Python does not.

use fancy_regex::{Regex, RegexBuilder};

type Captures<'t> = fancy_regex::Captures<'t, str>;

/// Work a pattern may do on one text before it counts as failed: task files come from outside, and look-around can take
/// exponential time.
const BACKTRACK_LIMIT: usize = 1_000_000;

/// A compiled pattern of Python's `re`.
pub struct PythonRegex {
    pattern: String,
    regex: Regex,
}

/// Why a pattern cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RegexError {
    /// It does not compile.
    #[error("`{pattern}` is not a regular expression: {reason}")]
    Syntax {
        /// As written.
        pattern: String,
        /// The parser's words.
        reason: String,
    },
    /// It took too long on a text.
    #[error("`{pattern}` gave up on a text of {length} bytes: {reason}; write it without nested repetition")]
    TooCostly {
        /// As written.
        pattern: String,
        /// Bytes of the text.
        length: usize,
        /// The matcher's words.
        reason: String,
    },
}

impl PythonRegex {
    /// Compiles a pattern written for Python.
    pub fn new(pattern: &str) -> Result<PythonRegex, RegexError> {
        let regex = RegexBuilder::new(&translate(pattern)).backtrack_limit(BACKTRACK_LIMIT).build();
        let syntax =
            |error: fancy_regex::Error| RegexError::Syntax { pattern: pattern.into(), reason: error.to_string() };
        Ok(PythonRegex { pattern: pattern.into(), regex: regex.map_err(syntax)? })
    }

    /// As written.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// All matches from left to right. Where Python 3.7 allows an empty match (directly after a match that was not
    /// empty), so does this.
    fn matches<'t>(&self, text: &'t str) -> Result<Vec<Captures<'t>>, RegexError> {
        let mut found = Vec::new();
        let mut from = 0;
        while from <= text.len() {
            let captures = self.regex.captures_from_pos(text, from).map_err(|error| RegexError::TooCostly {
                pattern: self.pattern.clone(),
                length: text.len(),
                reason: error.to_string(),
            })?;
            let Some(captures) = captures else { break };
            let Some(whole) = captures.get(0) else { break };
            let (start, end) = (whole.start(), whole.end());
            found.push(captures);
            from = if end > start { end } else { end + text[end..].chars().next().map_or(1, char::len_utf8) };
        }
        Ok(found)
    }

    /// `re.findall`: for each match its groups, or the whole match if the pattern has no groups. A group that took no
    /// part is empty.
    pub fn find_all(&self, text: &str) -> Result<Vec<Vec<String>>, RegexError> {
        let groups = |captures: Captures<'_>| -> Vec<String> {
            let from = usize::from(captures.len() > 1);
            (from..captures.len()).map(|i| captures.get(i).map_or("", |m| m.as_str()).to_owned()).collect()
        };
        Ok(self.matches(text)?.into_iter().map(groups).collect())
    }

    /// `re.search`: the first group of the first match, or the whole match if the pattern has no groups.
    pub fn find(&self, text: &str) -> Result<Option<String>, RegexError> {
        Ok(self.find_all(text)?.into_iter().next().and_then(|groups| groups.into_iter().next()))
    }

    /// `re.split` for a pattern without groups: the text between the matches.
    pub fn split(&self, text: &str) -> Result<Vec<String>, RegexError> {
        let mut pieces = Vec::new();
        let mut from = 0;
        for captures in self.matches(text)? {
            let Some(whole) = captures.get(0) else { continue };
            pieces.push(text[from..whole.start()].to_owned());
            from = whole.end();
        }
        pieces.push(text[from..].to_owned());
        Ok(pieces)
    }

    /// `re.sub`: every match replaced; `\1` and `\g<1>`, `\g<name>` in the replacement stand for groups.
    pub fn replace_all(&self, text: &str, replacement: &str) -> Result<String, RegexError> {
        let mut out = String::with_capacity(text.len());
        let mut from = 0;
        for captures in self.matches(text)? {
            let Some(whole) = captures.get(0) else { continue };
            out.push_str(&text[from..whole.start()]);
            expand(replacement, &captures, &mut out);
            from = whole.end();
        }
        out.push_str(&text[from..]);
        Ok(out)
    }
}

/// Appends a replacement template with its groups filled in.
fn expand(replacement: &str, captures: &Captures<'_>, out: &mut String) {
    let group = |name: &str| {
        let found = match name.parse::<usize>() {
            Ok(number) => captures.get(number),
            Err(_) => captures.name(name),
        };
        found.map_or("", |m| m.as_str()).to_owned()
    };
    let mut rest = replacement;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some((name, after)) = rest.strip_prefix("g<").and_then(|r| r.split_once('>')) {
            out.push_str(&group(name));
            rest = after;
            continue;
        }
        let digits = rest.bytes().take(2).take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            out.push_str(&group(&rest[..digits]));
            rest = &rest[digits..];
            continue;
        }
        let mut following = rest.chars();
        match following.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('\\') => out.push('\\'),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
        rest = following.as_str();
    }
    out.push_str(rest);
}

/// Rewrites what Python and Rust read differently: `$` also matches before a final newline, `\Z` is the end of the text,
/// `\s` includes the information separators, `[` and doubled operators inside a class are themselves, `{` that opens no
/// repetition is itself, `\<` is `<`.
fn translate(pattern: &str) -> String {
    let multi_line = multi_line_flag(pattern);
    let chars: Vec<char> = pattern.chars().collect();
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut class_start = None;
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        let next = chars.get(i + 1).copied();
        let in_class = class_start.is_some();
        match c {
            '\\' => {
                match next {
                    Some('Z') if !in_class => out.push_str(r"\z"),
                    Some('s') if in_class => out.push_str(r"\s\x1c-\x1f"),
                    Some('s') => out.push_str(r"[\s\x1c-\x1f]"),
                    Some('S') if !in_class => out.push_str(r"[^\s\x1c-\x1f]"),
                    Some(escaped @ ('<' | '>')) => out.push(escaped),
                    Some(escaped) => out.extend(['\\', escaped]),
                    None => out.push('\\'),
                }
                i += 2;
                continue;
            }
            '[' if !in_class => {
                // A `]` right after the opening (or its `^`) is a member of the class.
                let members = i + 1 + usize::from(next == Some('^'));
                class_start = Some(members);
                out.push(c);
            }
            ']' if class_start == Some(i) => out.push_str(r"\]"),
            ']' if in_class => {
                class_start = None;
                out.push(c);
            }
            '[' => out.push_str(r"\["),
            '&' | '~' | '-' if in_class && next == Some(c) => {
                out.extend(['\\', c, '\\', c]);
                i += 2;
                continue;
            }
            '$' if !in_class && !multi_line => out.push_str(r"(?=\n?\z)"),
            '{' if !in_class && !opens_repetition(&chars[i + 1..]) => out.push_str(r"\{"),
            _ => out.push(c),
        }
        i += 1;
    }
    out
}

/// Whether the pattern opens with flags that include `m`, under which `$` matches before every newline in both.
fn multi_line_flag(pattern: &str) -> bool {
    let flags = pattern.strip_prefix("(?").and_then(|rest| rest.split_once(')'));
    flags.is_some_and(|(flags, _)| flags.chars().all(|c| c.is_ascii_alphabetic()) && flags.contains('m'))
}

/// Whether what follows a `{` makes it a repetition: `2}`, `2,}`, `,3}`, `2,3}`.
fn opens_repetition(after: &[char]) -> bool {
    let Some(close) = after.iter().position(|&c| c == '}') else { return false };
    let inside = &after[..close];
    let commas = inside.iter().filter(|&&c| c == ',').count();
    let digits = inside.iter().filter(|c| c.is_ascii_digit()).count();
    commas <= 1 && digits >= 1 && commas + digits == inside.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pattern: &str, text: &str) -> Vec<Vec<String>> {
        PythonRegex::new(pattern).unwrap().find_all(text).unwrap()
    }

    fn sub(pattern: &str, replacement: &str, text: &str) -> String {
        PythonRegex::new(pattern).unwrap().replace_all(text, replacement).unwrap()
    }

    #[test]
    fn findall_gives_what_python_gives() {
        // Expected values printed by CPython 3.11's `re.findall`.
        assert_eq!(all(r"#### (\-?[0-9\.\,]+)", "so #### -1,234.5 and #### 7"), [["-1,234.5"], ["7"]]);
        let flexible = r"(-?[$0-9.,]{2,})|(-?[0-9]+)";
        assert_eq!(all(flexible, "5 apples cost $12.50"), [["", "5"], ["$12.50", ""]]);
        assert_eq!(all("a*", "baac"), [[""], ["aa"], [""], [""]]);
        assert_eq!(all(r"(?<=answer is )(.*)(?=\.)", "the answer is (B). ok"), [["(B)"]]);
        assert_eq!(all(r"\.$", "a.\n"), [["."]]);
        assert_eq!(all(r"[[\]&&x]+", "a[&x]b"), [["[&x]"]]);
        assert_eq!(all(r"[]a]+", "x]a]"), [["]a]"]]);
        assert_eq!(all(r"(?m)^b$", "a\nb\nc"), [["b"]]);
        assert_eq!(all(r"a\s+b", "a\x1c b"), [["a\x1c b"]]);
    }

    #[test]
    fn sub_gives_what_python_gives() {
        assert_eq!(sub(r"\(\s*([^\)]*?)\s*\)", r"(\1)", "a ( b c ) ( d )"), "a (b c) (d)");
        assert_eq!(sub(r"{\s*([^}]*?)\s*}", r"{\1}", "x { y } z"), "x {y} z");
        assert_eq!(sub(r"(?P<q>['.,])", r"<\g<q>\g<1>>\n", "a,b"), "a<,,>\nb");
        assert_eq!(sub(r"(?s).*#### ", "", "one\ntwo #### 3"), "3");
        assert_eq!(sub("x*", "-", "abxd"), "-a-b--d-");
        assert_eq!(PythonRegex::new(r"\s+").unwrap().split(" a b ").unwrap(), ["", "a", "b", ""]);
    }

    #[test]
    fn bad_patterns_are_refused_with_a_reason() {
        assert!(matches!(PythonRegex::new("(a"), Err(RegexError::Syntax { .. })));
        let slow = PythonRegex::new(r"^(?:(a|aa))+\1c$").unwrap();
        assert!(matches!(slow.find_all(&("a".repeat(60) + "b")), Err(RegexError::TooCostly { .. })));
    }
}
