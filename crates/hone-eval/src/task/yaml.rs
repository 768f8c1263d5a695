//! YAML as PyYAML reads it where the two differ: of a key that stands twice the last one counts. A Python function (`!function`) is
//! kept as the mapping `{"!function": NAME}`, so that it can be refused by its name and place, and only where it is read: another
//! key may lie over it.

use std::fmt;

use serde::de::{EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// The tag of a Python function, and the key of the mapping that it is kept as.
const PYTHON: &str = "!function";

/// A value of a file.
pub enum Node {
    /// Nothing, a truth value, a finite number or text.
    Plain(Value),
    /// A number that JSON cannot hold.
    NotFinite(f64),
    /// A list.
    List(Vec<Node>),
    /// Keys and values, in the file's order, with those that stand twice.
    Mapping(Vec<(Node, Node)>),
    /// A value with a tag, without the `!`.
    Tagged(String, Box<Node>),
}

/// Where something is wrong in a file, and what.
pub type Wrong = (String, String);

impl Node {
    /// The keys and values of a mapping, the last value of each key.
    pub fn entries(self) -> Result<Option<Vec<(String, Node)>>, Wrong> {
        let Node::Mapping(entries) = self else { return Ok(None) };
        last_of_each(entries, "").map(Some)
    }

    /// As JSON; `place` is where it stands. A Python function is what [`python_in`] finds.
    ///
    /// # Errors
    /// Tags besides `!function`, keys that are no text, numbers that are none.
    pub fn into_json(self, place: &str) -> Result<Value, Wrong> {
        Ok(match self {
            Node::Plain(value) => value,
            Node::NotFinite(number) => return refuse(place, format!("the number {number} is not one")),
            Node::List(items) => {
                let item = |(i, item): (usize, Node)| item.into_json(&format!("{place}[{i}]"));
                Value::Array(items.into_iter().enumerate().map(item).collect::<Result<_, _>>()?)
            }
            Node::Mapping(entries) => {
                let mut out = Map::new();
                for (key, value) in last_of_each(entries, place)? {
                    let inner = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                    out.insert(key, value.into_json(&inner)?);
                }
                Value::Object(out)
            }
            Node::Tagged(tag, value) => {
                let function = match *value {
                    Node::Plain(Value::String(name)) => name,
                    _ => "…".into(),
                };
                if tag != PYTHON.trim_start_matches('!') {
                    return refuse(place, format!("the YAML tag `!{tag}` is not known"));
                }
                Value::Object(Map::from_iter([(PYTHON.to_owned(), Value::from(function))]))
            }
        })
    }
}

/// The first Python function in `value`, which stands at `place`: where, and why it is not read.
pub fn python_in(value: &Value, place: &str) -> Option<Wrong> {
    match value {
        Value::Array(items) => items.iter().enumerate().find_map(|(i, item)| python_in(item, &format!("{place}[{i}]"))),
        Value::Object(entries) => match entries.get(PYTHON).and_then(Value::as_str) {
            None => entries.iter().find_map(|(key, value)| python_in(value, &format!("{place}.{key}"))),
            Some(function) => {
                let what = format!(
                    "`!function {function}` is Python, which is never run; write a template instead (`process_docs` makes \
                     columns from templates)"
                );
                Some((place.to_owned(), what))
            }
        },
        _ => None,
    }
}

fn refuse<T>(place: &str, what: String) -> Result<T, Wrong> {
    Err((if place.is_empty() { "the file".to_owned() } else { place.to_owned() }, what))
}

/// The last value of each key, in the order of those.
fn last_of_each(entries: Vec<(Node, Node)>, place: &str) -> Result<Vec<(String, Node)>, Wrong> {
    let mut last: Vec<(String, Node)> = Vec::new();
    for (key, value) in entries.into_iter().rev() {
        let key = match key {
            Node::Plain(Value::String(text)) => text,
            Node::Plain(key @ (Value::Bool(_) | Value::Number(_))) => key.to_string(),
            _ => return refuse(place, "a key that is no text".into()),
        };
        if !last.iter().any(|(known, _)| *known == key) {
            last.push((key, value));
        }
    }
    last.reverse();
    Ok(last)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Plain(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Plain(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Plain(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Plain(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Plain(i64::try_from(value).map_or_else(|_| Value::from(value as f64), Value::from)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(if value.is_finite() { Node::Plain(value.into()) } else { Node::NotFinite(value) })
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Plain(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Mapping(entries))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Node, A::Error> {
        let (tag, value): (String, _) = data.variant()?;
        Ok(Node::Tagged(tag.trim_start_matches('!').to_owned(), Box::new(value.newtype_variant()?)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Value, Wrong> {
        serde_yaml_ng::from_str::<Node>(text).unwrap().into_json("")
    }

    /// `yaml.safe_load` of PyYAML 6.0 gives the same.
    #[test]
    fn of_a_key_that_stands_twice_the_last_one_counts() {
        let text = "a: 1\nb: {c: x, c: [y, 2.5, null, true]}\na: !function f.g\na: 3\n";
        assert_eq!(read(text).unwrap(), json!({"b": {"c": ["y", 2.5, null, true]}, "a": 3}));
        assert_eq!(read("a: 1\na: !function f.g\n").unwrap(), json!({"a": {"!function": "f.g"}}));
    }

    #[test]
    fn tags_and_odd_keys_are_refused_by_place() {
        let wrong = |text: &str| read(text).unwrap_err();
        let found = read("a: [1, {b: {c: !function utils.f}}, !function g]").unwrap();
        let (place, what) = python_in(&found["a"], "a").unwrap();
        assert!(place == "a[1].b.c" && what.contains("`!function utils.f` is Python"), "{place}: {what}");
        assert_eq!(python_in(&json!([{"a": "!function f", "b": null}]), "a"), None);
        assert_eq!(wrong("a: !other x"), ("a".into(), "the YAML tag `!other` is not known".into()));
        assert_eq!(wrong("a: {[1]: 2}").0, "a");
        assert!(wrong("a: .nan").1.contains("not one"));
    }
}
