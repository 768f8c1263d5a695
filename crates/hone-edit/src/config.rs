//! Reading a method's fields: every field is honoured, refused by name, or known to be switched off. None is ignored.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{EditError, did_you_mean};
use crate::method::Origin;
use crate::registry::METHODS;

/// Fields of every `adapter_config.json` that say nothing about the method.
pub const ENVELOPE: [&str; 6] =
    ["peft_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version"];

/// A field that Hugging Face has and a method does not honour, with the values that mean "off".
pub struct Inert {
    /// The field.
    pub field: &'static str,
    /// Values, as JSON, under which it has no effect, beside `null`, `false` and `[]`. Not `{}`: a feature's settings without
    /// any are its defaults.
    pub off: &'static [&'static str],
    /// Why it is not honoured and what to use instead.
    pub reason: &'static str,
}

/// The field of maps that are kept turned round.
pub const TRANSPOSED: Inert = Inert {
    field: "fan_in_fan_out",
    off: &["false"],
    reason: "it is for GPT-2's transposed maps, which these models lack",
};

/// Reads `fields` into `C`, whose own fields (all with defaults) are the honoured ones. `words` are fields a recipe
/// or a file may carry beside them (`type`).
pub fn read<C: DeserializeOwned + Serialize + Default>(
    method: &'static str,
    fields: &Map<String, Value>,
    inert: &[Inert],
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<C, EditError> {
    let honoured: Vec<String> = match serde_json::to_value(C::default()) {
        Ok(Value::Object(map)) => map.keys().cloned().collect(),
        _ => Vec::new(),
    };
    let mut kept = Map::new();
    for (field, value) in fields {
        if honoured.contains(field) {
            check_alone::<C>(method, field, value)?;
            kept.insert(field.clone(), value.clone());
        } else if let Some(known) = inert.iter().find(|i| i.field == field) {
            let off = is_off(value) && !value.is_object();
            if !off && !known.off.contains(&value.to_string().as_str()) {
                return Err(unsupported(method, field, value, known.reason));
            }
        } else if origin == Origin::File && ENVELOPE.contains(&field.as_str()) {
            continue;
        } else if origin == Origin::File && is_off(value) {
            warnings
                .push(format!("adapter_config.json: `{field}` is not known; it is switched off, so it is passed over"));
        } else if origin == Origin::File {
            return Err(unsupported(method, field, value, "the field is not known; it may come from a newer PEFT"));
        } else {
            let hint = did_you_mean(field, honoured.iter().map(String::as_str));
            return Err(EditError::UnknownField { method, field: field.clone(), hint, known: honoured.join(", ") });
        }
    }
    serde_json::from_value(Value::Object(kept)).map_err(|e| EditError::Field {
        method,
        field: "(all)".into(),
        found: e.to_string(),
        expected: "fields of the documented types".into(),
    })
}

/// Largest count or size that a field may have.
const LARGEST_SIZE: u64 = 1_000_000_000;

/// Reads one field alone, so that an error can name it (all others have defaults).
fn check_alone<C: DeserializeOwned>(method: &'static str, field: &str, value: &Value) -> Result<(), EditError> {
    let alone = |value: Value| serde_json::from_value::<C>(Value::Object(Map::from_iter([(field.to_string(), value)])));
    let Err(error) = alone(value.clone()) else {
        // Products of sizes stay within what can be counted; a seed is no size.
        let is_size = !["seed", "key"].iter().any(|word| field.contains(word));
        return match value.as_u64().filter(|size| is_size && *size > LARGEST_SIZE) {
            Some(size) => {
                let (field, found) = (field.into(), size.to_string());
                Err(EditError::Field { method, field, found, expected: format!("at most {LARGEST_SIZE}") })
            }
            None => Ok(()),
        };
    };
    // Of a choice of words serde tells the words only to who gives another word.
    let error = match error.to_string().ends_with("expected string or map") {
        true => alone(Value::from("")).err().unwrap_or(error),
        false => error,
    };
    let mut expected = expected(&error).unwrap_or_else(|| error.to_string());
    if is_inside(&error.to_string(), value) {
        expected.push_str(" for each of its values");
    }
    Err(EditError::Field { method, field: field.into(), found: shorten(&value.to_string()), expected })
}

/// Whether what is wrong is in the list or map `value`, not that it is one.
fn is_inside(message: &str, value: &Value) -> bool {
    let whole = ["invalid type: sequence", "invalid type: map"].iter().any(|start| message.starts_with(start));
    (value.is_array() || value.is_object()) && message.starts_with("invalid ") && !whole
}

/// What ends an error's text where several of the expected kind may stand in a list.
pub(crate) const OR_LIST: &str = ", or a list of them";

/// What a value should have been, in a reader's words rather than Rust's, if `error` is that it is not.
pub fn expected(error: &serde_json::Error) -> Option<String> {
    let message = error.to_string();
    let (_, kind) = message.split_once(", expected ")?;
    let (kind, or_list) = kind.strip_suffix(OR_LIST).map_or((kind, ""), |kind| (kind, OR_LIST));
    let words = match kind {
        "usize" | "u64" => "a whole number, 0 or more",
        "u32" => "a whole number from 0 to 4294967295",
        "u16" => "a whole number from 0 to 65535",
        "u8" => "a whole number from 0 to 255",
        "isize" | "i64" | "i32" => "a whole number",
        "f64" | "f32" => "a number",
        "a boolean" => "true or false",
        "a string" => "a text",
        "path string" => "a path",
        "a sequence" => "a list (`[a, b]`)",
        "a map" => "names with values (`{name: value}`)",
        "a tuple of size 2" => "a list of two",
        other => other,
    };
    Some(format!("{words}{or_list}"))
}

/// Refuses a recipe's `method` without a word in `type`. What PEFT calls the method tells which word it is.
pub fn check_type(fields: &Map<String, Value>) -> Result<(), EditError> {
    let next = match fields.get("type") {
        Some(Value::String(_)) => return Ok(()),
        Some(other) => format!("is {}, expected the method's word, as in `type: lora`", shorten(&other.to_string())),
        None => {
            let peft_type = fields.get("peft_type").and_then(Value::as_str);
            let named = |word: &str| METHODS.iter().find(|method| method.peft_type.eq_ignore_ascii_case(word));
            match peft_type.map(|word| (word, named(word))) {
                Some((word, Some(method))) => {
                    format!("is missing; PEFT's `peft_type` {word} is `type: {}` here", method.name)
                }
                Some((word, None)) => format!("is missing, and no method here is PEFT's `peft_type` {word}"),
                None => "is missing; write the method's word, as in `type: lora`".to_string(),
            }
        }
    };
    Err(EditError::NoType { next })
}

fn unsupported(method: &'static str, field: &str, value: &Value, reason: &str) -> EditError {
    EditError::Unsupported { method, field: field.into(), found: shorten(&value.to_string()), reason: reason.into() }
}

/// Whether a value means "not used" in Hugging Face's configurations.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

/// A struct's fields as a JSON object.
pub fn to_map(config: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// A number as JSON writes it best: `16`, not `16.0`.
pub fn number<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        serializer.serialize_i64(*value as i64)
    } else {
        serializer.serialize_f64(*value)
    }
}
