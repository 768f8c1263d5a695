//! Placeholders: `{name}`, `{name.key}` and `{name.key[other]}`, the key being what `other` stands for. Jinja's `{{ … }}` and any other brace stay as they are, so
//! that task files can be written inside a study.
//!
//! A text that is one placeholder and nothing else takes the value with its type; within a text, numbers and words are
//! written out and lists are joined by commas, as options take them.

use serde_json::{Map, Value};

use crate::error::did_you_mean;

/// What placeholders stand for, by name.
pub type Values = Map<String, Value>;

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    /// The path of keys in the braces.
    Name(&'a str),
}

/// The keys of a path, each with whether it stands in brackets and so for the value of that name; `None` if this is no path.
fn keys(path: &str) -> Option<Vec<(&str, bool)>> {
    let word = |w: &str| {
        w.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && w.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let mut keys = Vec::new();
    for part in path.split('.') {
        let (plain, brackets) = part.split_once('[').map_or((part, None), |(plain, rest)| (plain, Some(rest)));
        keys.push((plain, false));
        if let Some(rest) = brackets {
            keys.extend(rest.strip_suffix(']')?.split("][").map(|name| (name, true)));
        }
    }
    keys.iter().all(|(key, _)| word(key)).then_some(keys)
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut from, mut at) = (0, 0);
    while let Some(open) = text[at..].find('{').map(|i| at + i) {
        if text[open..].starts_with("{{") {
            at = text[open..].find("}}").map_or(text.len(), |i| open + i + 2);
            continue;
        }
        let close = text[open..].find('}').map(|i| open + i);
        match close {
            Some(close) if keys(&text[open + 1..close]).is_some() => {
                if from < open {
                    pieces.push(Piece::Text(&text[from..open]));
                }
                pieces.push(Piece::Name(&text[open + 1..close]));
                (from, at) = (close + 1, close + 1);
            }
            _ => at = open + 1,
        }
    }
    if from < text.len() {
        pieces.push(Piece::Text(&text[from..]));
    }
    pieces
}

/// The names used in a text, without the keys that follow them.
pub fn names(text: &str) -> impl Iterator<Item = &str> {
    let of_path = |path| {
        let keys = keys(path).unwrap_or_default().into_iter().enumerate();
        keys.filter(|(at, (_, in_brackets))| *at == 0 || *in_brackets).map(|(_, (key, _))| key)
    };
    let paths = pieces(text).into_iter().filter_map(|piece| match piece {
        Piece::Name(path) => Some(path),
        Piece::Text(_) => None,
    });
    paths.flat_map(of_path)
}

/// The names used in a value, at any depth.
pub fn names_in(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => names(text).collect(),
        Value::Array(items) => items.iter().flat_map(names_in).collect(),
        Value::Object(map) => map.values().flat_map(names_in).collect(),
        _ => Vec::new(),
    }
}

fn named<'v>(name: &str, path: &str, values: &'v Values) -> Result<&'v Value, String> {
    values.get(name).ok_or_else(|| {
        let known = || values.keys().map(String::as_str);
        let list = known().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        format!("`{{{path}}}`: `{name}` stands for nothing here{}; here stand {list}", did_you_mean(name, known()))
    })
}

fn look_up<'v>(path: &str, values: &'v Values) -> Result<&'v Value, String> {
    let mut keys = keys(path).unwrap_or_default().into_iter();
    let mut name = keys.next().map_or("", |(name, _)| name).to_owned();
    let mut value = named(&name, path, values)?;
    for (key, in_brackets) in keys {
        let key = if in_brackets { as_text(named(key, path, values)?)? } else { key.to_owned() };
        let map = value.as_object();
        value = map.and_then(|map| map.get(&key)).ok_or_else(|| {
            let keys = map.map(|map| map.keys().cloned().collect::<Vec<_>>().join(", "));
            let has = keys.map_or("it is one value without keys".into(), |keys| format!("it has {keys}"));
            format!("`{{{path}}}`: `{name}` has no key `{key}`; {has}")
        })?;
        name = key;
    }
    Ok(value)
}

/// A value as text: a mapping by its `name`, a list joined by commas.
pub fn as_text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        Value::Array(items) => Ok(items.iter().map(as_text).collect::<Result<Vec<_>, _>>()?.join(",")),
        Value::Object(map) => match map.get("name") {
            Some(Value::String(name)) => Ok(name.clone()),
            _ => Err("a mapping without a `name` cannot stand within a text; take one of its keys".into()),
        },
        Value::Null => Err("nothing (null) cannot stand within a text".into()),
    }
}

/// A text with its placeholders filled in.
pub fn fill_text(text: &str, values: &Values) -> Result<String, String> {
    let filled = |piece| match piece {
        Piece::Text(text) => Ok(text.to_owned()),
        Piece::Name(path) => as_text(look_up(path, values)?).map_err(|problem| format!("`{{{path}}}`: {problem}")),
    };
    pieces(text).into_iter().map(filled).collect()
}

/// A value with the placeholders in all its texts filled in.
pub fn fill(value: &Value, values: &Values) -> Result<Value, String> {
    match value {
        Value::String(text) => match pieces(text)[..] {
            [Piece::Name(path)] => look_up(path, values).cloned(),
            _ => fill_text(text, values).map(Value::String),
        },
        Value::Array(items) => items.iter().map(|item| fill(item, values)).collect(),
        Value::Object(map) => {
            // YAML reads {seed} without quotes as a mapping from `seed` to nothing.
            if let (1, Some((key, Value::Null))) = (map.len(), map.iter().next())
                && values.contains_key(key)
            {
                return Err(format!("write \"{{{key}}}\" in quotes: without them YAML reads a mapping"));
            }
            let filled = map.iter().map(|(key, value)| Ok((key.clone(), fill(value, values)?)));
            filled.collect::<Result<_, _>>().map(Value::Object)
        }
        plain => Ok(plain.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values() -> Values {
        let values = json!({
            "seed": 3, "rate": 2e-4, "tasks": ["boolq", "piqa"],
            "method": {"name": "lora-r8", "recipe": {"type": "lora", "r": 8}, "rates": {"3": 0.5}},
        });
        values.as_object().expect("a mapping").clone()
    }

    #[test]
    fn texts_are_filled_and_other_braces_stay() {
        let fill = |text: &str| fill_text(text, &values());
        assert_eq!(fill("tune-{method}-{seed}").as_deref(), Ok("tune-lora-r8-3"));
        assert_eq!(
            fill("--tasks {tasks} --set train.lr={rate}").as_deref(),
            Ok("--tasks boolq,piqa --set train.lr=0.0002")
        );
        assert_eq!(fill("{method.rates[seed]}").as_deref(), Ok("0.5"));
        assert_eq!(names("{method.rates[seed]} {tasks}").collect::<Vec<_>>(), ["method", "seed", "tasks"]);
        for plain in ["{{ text }} {% if a %} {\"a\": 1} {}", "{{seed}}", "{", "{{", "{Upper}", "{a[}", "a}b{"] {
            assert_eq!(fill(plain).as_deref(), Ok(plain));
        }
        assert_eq!(fill("{{ x }}{seed}{{ y").as_deref(), Ok("{{ x }}3{{ y"));
    }

    #[test]
    fn a_lone_placeholder_keeps_its_type() {
        let filled =
            fill(&json!({"seed": "{seed}", "method": "{method.recipe}", "note": "r{method.recipe.r}"}), &values());
        assert_eq!(filled, Ok(json!({"seed": 3, "method": {"type": "lora", "r": 8}, "note": "r8"})));
    }

    #[test]
    fn what_stands_for_nothing_is_named() {
        let wrong = fill_text("{sed}", &values()).unwrap_err();
        assert!(wrong.contains("`sed` stands for nothing here; did you mean `seed`?"), "{wrong}");
        let wrong = fill_text("{method.recipe.rank}", &values()).unwrap_err();
        assert!(wrong.contains("has no key `rank`; it has type, r"), "{wrong}");
        assert!(fill_text("{method.recipe}", &values()).unwrap_err().contains("without a `name`"));
        let unquoted = fill(&json!({"seed": {"seed": null}}), &values()).unwrap_err();
        assert!(unquoted.contains("in quotes"), "{unquoted}");
    }
}
