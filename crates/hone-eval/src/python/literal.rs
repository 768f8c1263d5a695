//! Python's `str` and `repr` of values, and `ast.literal_eval` back: the harness renders a list in a template and parses the
//! text again, so both directions must agree.

use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use serde_json::Value as Json;

use super::text::is_printable;

/// Nesting allowed in a literal; deeper ones are refused instead of exhausting the stack.
const MAX_DEPTH: usize = 32;

/// `str(value)`: text as it is, nothing where the value is missing, everything else as [`repr`].
pub fn str_of(value: &minijinja::Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None if value.is_undefined() => String::new(),
        None => repr(value),
    }
}

/// `repr(value)`.
pub fn repr(value: &minijinja::Value) -> String {
    let mut out = String::new();
    write_repr(value, &mut out);
    out
}

fn write_repr(value: &minijinja::Value, out: &mut String) {
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::Iterable if value.downcast_object_ref::<View>().is_some() => out.push_str(&value.to_string()),
        ValueKind::Seq | ValueKind::Iterable => {
            let [open, close] = if is_tuple(value) { ['(', ')'] } else { ['[', ']'] };
            out.push(open);
            let mut count = 0;
            for item in value.try_iter().into_iter().flatten() {
                out.push_str(if count > 0 { ", " } else { "" });
                write_repr(&item, out);
                count += 1;
            }
            // A tuple of one would read as its item.
            out.push_str(if open == '(' && count == 1 { "," } else { "" });
            out.push(close);
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(&key, out);
                out.push_str(": ");
                write_repr(&value.get_item(&key).unwrap_or_default(), out);
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
}

/// Tuples, and the named ones that `groupby` gives.
fn is_tuple(value: &minijinja::Value) -> bool {
    let grouper = || value.len() == Some(2) && value.get_attr("grouper").is_ok_and(|name| !name.is_undefined());
    value.is_tuple() || (value.kind() == ValueKind::Seq && grouper())
}

/// What `keys`, `values` and `items` of a mapping give: Python prints its name around the list.
#[derive(Debug)]
pub struct View {
    /// `dict_keys`, `dict_values` or `dict_items`.
    pub name: &'static str,
    /// What is in it.
    pub items: Vec<minijinja::Value>,
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.items.len())
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({})", self.name, repr(&minijinja::Value::from(self.items.clone())))
    }
}

/// Integers as they are; floats with the shortest digits that read back, and an exponent where Python uses one.
fn number(value: &minijinja::Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(float) = f64::try_from(value.clone()) else { return value.to_string() };
    if float.is_nan() || float.is_infinite() {
        return if float.is_nan() {
            "nan".into()
        } else if float > 0.0 {
            "inf".into()
        } else {
            "-inf".into()
        };
    }
    if float != 0.0 && !(1e-4..1e16).contains(&float.abs()) {
        let text = format!("{float:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |e| ("-", e));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{float:?}")
}

/// A string literal: single quotes unless only double ones avoid an escape.
fn quote(text: &str, out: &mut String) {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(mark);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if c == mark => out.extend(['\\', c]),
            _ if !is_printable(c) => out.push_str(&escape(c as u32)),
            _ => out.push(c),
        }
    }
    out.push(mark);
}

fn escape(code: u32) -> String {
    match code {
        0..=0xff => format!("\\x{code:02x}"),
        0x100..=0xffff => format!("\\u{code:04x}"),
        _ => format!("\\U{code:08x}"),
    }
}

/// `ast.literal_eval`: strings, numbers, booleans, `None`, lists, tuples and dictionaries (with text keys). `None` if the
/// text is no such literal.
pub fn literal_eval(text: &str) -> Option<Json> {
    let mut parser = Parser { rest: text.trim() };
    let value = parser.value(0)?;
    parser.skip_space();
    parser.rest.is_empty().then_some(value)
}

struct Parser<'t> {
    rest: &'t str,
}

impl Parser<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, c: char) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Option<Json> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.skip_space();
        for (word, value) in [("None", Json::Null), ("True", Json::Bool(true)), ("False", Json::Bool(false))] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Some(value);
            }
        }
        match self.rest.chars().next()? {
            '[' => self.items('[', ']', depth),
            '(' => self.items('(', ')', depth),
            '{' => self.dictionary(depth),
            '\'' | '"' => self.strings(),
            _ => self.number(),
        }
    }

    fn items(&mut self, open: char, close: char, depth: usize) -> Option<Json> {
        self.take(open);
        let mut items = Vec::new();
        let mut commas = 0;
        while !self.take(close) {
            items.push(self.value(depth + 1)?);
            if self.take(',') {
                commas += 1;
            } else if !self.take(close) {
                return None;
            } else {
                break;
            }
        }
        // Parentheses without a comma only group.
        if open == '(' && commas == 0 && items.len() == 1 {
            return items.pop();
        }
        Some(Json::Array(items))
    }

    fn dictionary(&mut self, depth: usize) -> Option<Json> {
        self.take('{');
        let mut map = serde_json::Map::new();
        while !self.take('}') {
            let Json::String(key) = self.value(depth + 1)? else { return None };
            if !self.take(':') {
                return None;
            }
            map.insert(key, self.value(depth + 1)?);
            if !self.take(',') {
                return self.take('}').then_some(Json::Object(map));
            }
        }
        Some(Json::Object(map))
    }

    /// One or more string literals side by side, which Python joins.
    fn strings(&mut self) -> Option<Json> {
        let mut text = String::new();
        while self.rest.starts_with(['\'', '"']) {
            self.string(&mut text)?;
            self.skip_space();
        }
        Some(Json::String(text))
    }

    fn string(&mut self, out: &mut String) -> Option<()> {
        let mark = self.rest.chars().next()?;
        let mut chars = self.rest[1..].chars();
        loop {
            match chars.next()? {
                '\n' => return None,
                '\\' => match chars.next()? {
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    'r' => out.push('\r'),
                    '0' => out.push('\0'),
                    'a' => out.push('\x07'),
                    'b' => out.push('\x08'),
                    'f' => out.push('\x0c'),
                    'v' => out.push('\x0b'),
                    '\n' => {}
                    kind @ ('x' | 'u' | 'U') => {
                        let digits = match kind {
                            'x' => 2,
                            'u' => 4,
                            _ => 8,
                        };
                        let hex: String = chars.by_ref().take(digits).collect();
                        let code = u32::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == digits)?;
                        out.push(char::from_u32(code)?);
                    }
                    c @ ('\\' | '\'' | '"') => out.push(c),
                    other => out.extend(['\\', other]),
                },
                c if c == mark => break,
                c => out.push(c),
            }
        }
        self.rest = chars.as_str();
        Some(())
    }

    fn number(&mut self) -> Option<Json> {
        let end =
            self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c))).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        let plain = text.replace('_', "");
        let value = match plain.parse::<i64>() {
            Ok(integer) => Json::from(integer),
            Err(_) => {
                let float = plain.parse::<f64>().ok().filter(|f| f.is_finite())?;
                Json::from(float)
            }
        };
        self.rest = rest;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use minijinja::Value;
    use minijinja::value::Serde;
    use serde_json::json;

    use super::*;

    #[test]
    fn values_print_as_in_python() {
        let value =
            Value::from(Serde(json!(["a", "it's", "both ' and \"", "naïve\n", 1, 1.0, 1e20, 1e-7, true, null])));
        let expected = r#"['a', "it's", 'both \' and "', 'naïve\n', 1, 1.0, 1e+20, 1e-07, True, None]"#;
        assert_eq!(str_of(&value), expected);
        assert_eq!(str_of(&Value::from(Serde(json!({"k": ["v"]})))), "{'k': ['v']}");
        assert_eq!(str_of(&Value::from("plain 'text'")), "plain 'text'");
    }

    #[test]
    fn literals_read_as_in_python() {
        assert_eq!(
            literal_eval(" ['a', \"b\", 3, -2.5, (1,), ('g'), None] "),
            Some(json!(["a", "b", 3, -2.5, [1], "g", null]))
        );
        assert_eq!(literal_eval(r"'\x41\u00e9' 'b'"), Some(json!("Aéb")));
        assert_eq!(literal_eval("{'a': [1, 2,], }"), Some(json!({"a": [1, 2]})));
        for bad in ["[1, 2", "['a' 2]", "hello", "[1] x", "'a", "['\\x4']", "[a]", "1 2", "inf", ""] {
            assert_eq!(literal_eval(bad), None, "{bad}");
        }
        assert_eq!(literal_eval(&"[".repeat(10_000)), None);
    }

    proptest::proptest! {
        #[test]
        fn what_is_printed_reads_back(texts in proptest::collection::vec(".*", 0..5)) {
            let printed = repr(&Value::from(Serde(&texts)));
            proptest::prop_assert_eq!(literal_eval(&printed), Some(json!(texts)));
        }
    }
}
