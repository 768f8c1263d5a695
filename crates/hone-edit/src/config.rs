//! Reading a method's fields: every field is honoured, refused by name, or known to be switched off. None is ignored.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{EditError, did_you_mean};
use crate::method::Origin;

/// Fields of every `adapter_config.json` that say nothing about the method.
pub const ENVELOPE: [&str; 6] =
    ["peft_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version"];

/// A field that Hugging Face has and a method does not honour, with the values that mean "off".
pub struct Inert {
    /// The field.
    pub field: &'static str,
    /// Values, as JSON, under which it has no effect.
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
            if !is_off(value) && !known.off.contains(&value.to_string().as_str()) {
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

/// Reads one field alone, so that an error can name it (all others have defaults).
fn check_alone<C: DeserializeOwned>(method: &'static str, field: &str, value: &Value) -> Result<(), EditError> {
    let alone = Map::from_iter([(field.to_string(), value.clone())]);
    match serde_json::from_value::<C>(Value::Object(alone)) {
        Ok(_) => Ok(()),
        Err(e) => Err(EditError::Field {
            method,
            field: field.into(),
            found: shorten(&value.to_string()),
            expected: e.to_string(),
        }),
    }
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
