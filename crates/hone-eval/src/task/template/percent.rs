//! The `%` of Python's texts in templates: `'%s of %s' % (a, b)`. The template engine knows `%` between numbers alone, so it is handed
//! `'%s of %s'|__percent((a, b))` instead.
//!
//! Precedence is Jinja's: the text is the whole left side unless a `*`, `/`, `//`, `%` or `**` stands before it; the right side is a power of
//! operands with their filters and tests.
//!
//! What it does not know: formats that are no literals (`form % x`), which the engine refuses.

use std::borrow::Cow;

/// The filter that does the work.
pub(super) const FILTER: &str = "__percent";

/// Words that end an operand.
const WORDS: [&str; 6] = ["and", "or", "not", "in", "if", "else"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Name,
    Sign,
}

/// A piece of an expression, by its bytes in the source.
#[derive(Clone, Copy, Debug)]
struct Token {
    kind: Kind,
    start: usize,
    end: usize,
}

/// A template with every such `%` replaced.
pub(super) fn template(source: &str) -> Cow<'_, str> {
    let mut edits = Vec::new();
    let mut at = 0;
    while let Some(found) = source[at..].find("{") {
        let open = at + found;
        let Some(after) = source[open..].chars().nth(1) else { break };
        at = open + 1;
        let inside = open + 2;
        match after {
            '#' => at = source[inside..].find("#}").map_or(source.len(), |end| inside + end + 2),
            '%' if is_raw(&source[inside..]) => {
                let ended = |tag: &str| tag.trim_start_matches(['-', '+']).trim_start().starts_with("endraw");
                let mut tags = source[inside..].match_indices("{%").map(|(tag, _)| inside + tag + 2);
                at = tags.find(|tag| ended(&source[*tag..])).unwrap_or(source.len());
            }
            '%' | '{' => {
                let close = if after == '%' { "%}" } else { "}}" };
                let (tokens, end) = tokens(source, inside, Some(close));
                collect(source, &tokens, &mut edits);
                at = end;
            }
            _ => {}
        }
    }
    apply(source, edits)
}

/// The same for an expression without its brackets.
pub(super) fn expression(source: &str) -> Cow<'_, str> {
    let mut edits = Vec::new();
    collect(source, &tokens(source, 0, None).0, &mut edits);
    apply(source, edits)
}

fn is_raw(tag: &str) -> bool {
    let word = tag.trim_start_matches(['-', '+']).trim_start();
    word.strip_prefix("raw").is_some_and(|rest| rest.trim_start().trim_start_matches('-').starts_with("%}"))
}

/// Tokens from `start` to `close`, and where the text after it starts.
fn tokens(source: &str, start: usize, close: Option<&str>) -> (Vec<Token>, usize) {
    let mut tokens = Vec::new();
    let mut depth = 0usize;
    let mut at = start;
    while let Some(c) = source[at..].chars().next() {
        let rest = &source[at..];
        if depth == 0 && close.is_some_and(|close| rest.starts_with(close)) {
            return (tokens, at + 2);
        }
        let length_of = |test: fn(char) -> bool| rest.find(|c| !test(c)).unwrap_or(rest.len());
        let (kind, length) = match c {
            _ if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '\'' | '"' => {
                let mut escaped = false;
                let end = rest.char_indices().skip(1).find(|(_, d)| {
                    let ends = *d == c && !escaped;
                    escaped = *d == '\\' && !escaped;
                    ends
                });
                (Kind::Text, end.map_or(rest.len(), |(end, _)| end + 1))
            }
            '0'..='9' => {
                let mut length = length_of(|c| c.is_alphanumeric() || c == '_');
                if rest[length..].starts_with('.') && rest[length + 1..].starts_with(|c: char| c.is_ascii_digit()) {
                    let places = &rest[length + 1..];
                    length += 1 + places.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(places.len());
                }
                if rest[..length].ends_with(['e', 'E']) && rest[length..].starts_with(['+', '-']) {
                    let digits = &rest[length + 1..];
                    length += 1 + digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
                }
                (Kind::Number, length)
            }
            _ if c.is_alphabetic() || c == '_' => (Kind::Name, length_of(|c| c.is_alphanumeric() || c == '_')),
            _ => {
                match c {
                    '(' | '[' | '{' => depth += 1,
                    ')' | ']' | '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                let double = ["**", "//", "==", "!=", "<=", ">="].iter().any(|double| rest.starts_with(double));
                (Kind::Sign, if double { 2 } else { c.len_utf8() })
            }
        };
        tokens.push(Token { kind, start: at, end: at + length });
        at += length;
    }
    (tokens, source.len())
}

/// What stands at bytes of the source instead: start, end, text.
type Edit = (usize, usize, String);

fn collect(source: &str, tokens: &[Token], edits: &mut Vec<Edit>) {
    let text = |i: usize| tokens.get(i).map_or("", |token: &Token| &source[token.start..token.end]);
    let percent = |i: usize| tokens.get(i).is_some_and(|token| token.kind == Kind::Sign) && text(i) == "%";
    for (i, token) in tokens.iter().enumerate() {
        if token.kind != Kind::Text || !percent(i + 1) {
            continue;
        }
        let first = (0..=i).rev().take_while(|j| tokens[*j].kind == Kind::Text).last().unwrap_or(i);
        let before = first.checked_sub(1).map_or("", text);
        if ["*", "/", "//", "%", "**", "."].contains(&before) {
            continue;
        }
        let mut at = i + 1;
        while percent(at) {
            let next = operand(tokens, &text, at + 1);
            if next == at + 1 {
                break;
            }
            edits.push((tokens[at].start, tokens[at].end, format!("|{FILTER}(")));
            let end = tokens[next - 1].end;
            edits.push((end, end, ")".into()));
            at = next;
        }
    }
}

/// The token after the operand that starts at `start`.
fn operand<'t>(tokens: &[Token], text: &dyn Fn(usize) -> &'t str, start: usize) -> usize {
    let mut at = start;
    let mut depth = 0usize;
    // A sign may stand here: at the start of an operand, and after `**`.
    let mut fresh = true;
    while at < tokens.len() {
        let word = text(at);
        let opens = matches!(tokens[at].kind, Kind::Sign) && ["(", "[", "{"].contains(&word);
        let closes = matches!(tokens[at].kind, Kind::Sign) && [")", "]", "}"].contains(&word);
        if depth == 0 && !opens {
            match tokens[at].kind {
                Kind::Sign if fresh && ["-", "+"].contains(&word) => {
                    at += 1;
                    continue;
                }
                Kind::Sign if !["**", "|", "."].contains(&word) => return at,
                Kind::Name if WORDS.contains(&word) && at > start => {
                    let after = text(at - 1);
                    let named = after == "." || (word == "not" && after == "is");
                    if !named {
                        return at;
                    }
                }
                _ => {}
            }
        }
        fresh = word == "**";
        if opens {
            depth += 1;
        } else if closes {
            depth -= 1;
        }
        at += 1;
    }
    at
}

fn apply(source: &str, mut edits: Vec<Edit>) -> Cow<'_, str> {
    if edits.is_empty() {
        return Cow::Borrowed(source);
    }
    edits.sort_by_key(|(start, ..)| *start);
    let mut out = String::with_capacity(source.len() + 16 * edits.len());
    let mut from = 0;
    for (start, end, text) in edits {
        out.push_str(&source[from..start]);
        out.push_str(&text);
        from = end;
    }
    out.push_str(&source[from..]);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_texts_before_a_percent_are_replaced() {
        for (source, expected) in [
            ("{{ '%s' % n }}", "{{ '%s' |__percent( n) }}"),
            ("{{'%s'%n}}", "{{'%s'|__percent(n)}}"),
            ("{{- 'a' 'b%s' % -n ** -2 + 1 -}}", "{{- 'a' 'b%s' |__percent( -n ** -2) + 1 -}}"),
            ("{{ '%s' % x.a[1](2)|upper is string and y }}", "{{ '%s' |__percent( x.a[1](2)|upper is string) and y }}"),
            ("{{ '%s%%s' % a % b }}", "{{ '%s%%s' |__percent( a) |__percent( b) }}"),
            (
                "{{ '%s' % ('%d' % n, {'a': {'b': 1}}) }}",
                "{{ '%s' |__percent( ('%d' |__percent( n), {'a': {'b': 1}})) }}",
            ),
            ("{% if '%d' % n == '7' %}'%s' % n{% endif %}", "{% if '%d' |__percent( n) == '7' %}'%s' % n{% endif %}"),
            ("{{ \"it's \\\" %s\" % n if y else 'z' }}", "{{ \"it's \\\" %s\" |__percent( n) if y else 'z' }}"),
        ] {
            assert_eq!(template(source), expected);
        }
        for source in [
            "{{ n % 4 }}",
            "{{ 2 * '%s' % n }}",
            "{# '%s' % n #}",
            "{%- raw -%}{{ '%s' % n }}{% endraw %}",
            "'%s' % n {",
            "{{ 'a",
            "{{ '%s' % }}",
        ] {
            assert_eq!(template(source), source);
        }
        assert_eq!(expression("'%s' % n"), "'%s' |__percent( n)");
    }
}
