//! Typed reading of a `config.json`, every error naming the file and the field.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::ModelError;

/// An object of a configuration file.
pub(super) struct Fields<'a> {
    /// The file, for errors.
    pub path: &'a Path,
    map: &'a Map<String, Value>,
    /// Where in the file this object is (`rope_parameters.`), for errors.
    prefix: String,
}

impl<'a> Fields<'a> {
    /// The outermost object.
    pub fn new(path: &'a Path, config: &'a Value) -> Result<Self, ModelError> {
        let Some(map) = config.as_object() else {
            return Err(ModelError::Malformed {
                path: path.to_owned(),
                place: "top level".into(),
                found: kind(config).into(),
                expected: "an object with the model's settings".into(),
            });
        };
        Ok(Fields { path, map, prefix: String::new() })
    }

    /// The object under `name`, `None` if absent or null.
    pub fn object(&self, name: &str) -> Result<Option<Fields<'a>>, ModelError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Fields { path: self.path, map, prefix: format!("{}{name}.", self.prefix) }))
            }
            Some(other) => Err(self.malformed(name, kind(other), "an object")),
        }
    }

    /// An error about the field `name`.
    pub fn malformed(&self, name: &str, found: impl ToString, expected: impl Into<String>) -> ModelError {
        ModelError::Malformed {
            path: self.path.to_owned(),
            place: format!("field `{}{name}`", self.prefix),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    /// The names present.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.map.keys().map(String::as_str)
    }

    /// The whole object.
    pub fn to_value(&self) -> Value {
        Value::Object(self.map.clone())
    }

    /// The value under `name`, `None` if absent or null.
    pub fn value(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|v| !v.is_null())
    }

    /// Whether `name` is there and null.
    pub fn is_null(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(Value::is_null)
    }

    /// A positive whole number up to `max`.
    pub fn size(&self, name: &str, default: Option<usize>, max: usize) -> Result<usize, ModelError> {
        let expected = || format!("a whole number from 1 to {max}");
        let Some(value) = self.value(name) else {
            return default.ok_or_else(|| self.malformed(name, "nothing", expected()));
        };
        match value.as_u64().and_then(|v| usize::try_from(v).ok()) {
            Some(size) if (1..=max).contains(&size) => Ok(size),
            _ => Err(self.malformed(name, short(value), expected())),
        }
    }

    /// A whole number, zero allowed.
    pub fn count(&self, name: &str, default: usize) -> Result<usize, ModelError> {
        let Some(value) = self.value(name) else { return Ok(default) };
        let count = value.as_u64().and_then(|v| usize::try_from(v).ok());
        count.ok_or_else(|| self.malformed(name, short(value), "a whole number"))
    }

    /// A finite number.
    pub fn number(&self, name: &str, default: Option<f64>) -> Result<f64, ModelError> {
        let Some(value) = self.value(name) else {
            return default.ok_or_else(|| self.malformed(name, "nothing", "a number"));
        };
        match value.as_f64() {
            Some(number) if number.is_finite() => Ok(number),
            _ => Err(self.malformed(name, short(value), "a number")),
        }
    }

    /// A finite number above zero.
    pub fn positive(&self, name: &str, default: Option<f64>) -> Result<f64, ModelError> {
        let number = self.number(name, default)?;
        if number > 0.0 { Ok(number) } else { Err(self.malformed(name, number, "a number above zero")) }
    }

    /// A switch.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, ModelError> {
        match self.value(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.malformed(name, short(other), "true or false")),
        }
    }

    /// A text that must be there.
    pub fn text(&self, name: &str) -> Result<&'a str, ModelError> {
        self.optional_text(name)?.ok_or_else(|| self.malformed(name, "nothing", "a text"))
    }

    /// A text.
    pub fn optional_text(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.malformed(name, short(other), "a text")),
        }
    }

    /// `layer_types` as "is it sliding", `None` if absent.
    pub fn layer_types(&self, layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
        let name = "layer_types";
        let Some(value) = self.value(name) else { return Ok(None) };
        let Some(types) = value.as_array() else { return Err(self.malformed(name, kind(value), "a list")) };
        if types.len() != layers {
            return Err(self.malformed(name, format!("{} entries", types.len()), format!("{layers}, one a layer")));
        }
        let is_sliding = |value: &Value| match value.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => Err(self.malformed(name, short(value), "`full_attention` or `sliding_attention`")),
        };
        types.iter().map(is_sliding).collect::<Result<_, _>>().map(Some)
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value as it stands in the file, cut to a length that fits a message.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
