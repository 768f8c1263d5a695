//! Reading a recipe: YAML, then the overrides of `--set`, then checks key by key.

use std::path::Path;

use hone_data::yaml::line_of;
use hone_edit::error::did_you_mean;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::verify;
use super::{Compatibility, EvalConfig, MethodConfig, Quantize, Recipe, TrainConfig};
use crate::error::{TrainError, io_error};

/// Longest recipe that is read, in bytes.
const MAX_LENGTH: u64 = 1 << 20;
/// Most keys in the path of a `--set`; the deepest of a recipe is five. Values are walked level by level, on the stack.
const MAX_KEYS: usize = 32;

/// `--set` arguments, `key=value` each: `train.learning_rate=1e-4`, `data.mix.0.weight=2`.
pub type Overrides<'a> = &'a [String];

/// Reads the recipe at `path` with overrides.
pub fn read(path: &Path, overrides: Overrides) -> Result<Recipe, TrainError> {
    let length = std::fs::metadata(path).map_err(io_error(path))?.len();
    if length > MAX_LENGTH {
        let what = format!("{length} bytes, a recipe is at most {MAX_LENGTH}; is this the data file?");
        return Err(TrainError::Recipe { place: path.display().to_string(), what });
    }
    let text = std::fs::read_to_string(path).map_err(io_error(path))?;
    parse_in(path.parent().unwrap_or(Path::new("")), &text, &path.display().to_string(), overrides)
}

/// Reads a recipe's text; `name` is what errors call it.
pub fn parse(text: &str, name: &str, overrides: Overrides) -> Result<Recipe, TrainError> {
    parse_in(Path::new(""), text, name, overrides)
}

/// Reads the text of a recipe in `directory`.
fn parse_in(directory: &Path, text: &str, name: &str, overrides: Overrides) -> Result<Recipe, TrainError> {
    let source = Source { text, name, overrides, directory };
    let value: Value =
        serde_yaml_ng::from_str(text).map_err(|e| source.error_at_line(yaml_line(&e), &e.to_string()))?;
    let Value::Object(mut root) = value else {
        return Err(source.error_at_line(None, "expected keys (`model`, `data`, …) at the top of the recipe"));
    };
    spell_out(&mut root).map_err(|what| source.error(&["train".into(), "lr".into()], &what))?;
    let schema = Recipe::schema();
    for setting in overrides {
        apply(&mut root, setting, &schema)?;
    }
    verify::unknown_keys(&Value::Object(root.clone()), &schema).map_err(|(path, what)| source.error(&path, &what))?;
    if let Some(Value::Object(fields)) = root.get("train").and_then(|train| train.get("compatibility")) {
        source.one_by_one::<Compatibility>(fields, &["train", "compatibility"])?;
    }
    let recipe = Recipe {
        model: source.model(&root)?,
        quantize: source.quantize(&root)?,
        data: source.section(&root, "data", true)?,
        method: source.method(&root)?,
        train: source.section::<TrainConfig>(&root, "train", false)?,
        eval: source.section::<EvalConfig>(&root, "eval", false)?,
        directory: directory.to_path_buf(),
    };
    verify::values(&recipe).map_err(|(path, what)| source.error(&path, &what))?;
    Ok(recipe)
}

/// `train.lr` is short for `train.learning_rate`.
fn spell_out(root: &mut Map<String, Value>) -> Result<(), String> {
    let Some(Value::Object(train)) = root.get_mut("train") else { return Ok(()) };
    let Some(rate) = train.shift_remove("lr") else { return Ok(()) };
    match train.insert("learning_rate".into(), rate) {
        Some(_) => Err("both `lr` and `learning_rate`, which are the same; remove one".into()),
        None => Ok(()),
    }
}

struct Source<'a> {
    text: &'a str,
    name: &'a str,
    overrides: Overrides<'a>,
    directory: &'a Path,
}

impl Source<'_> {
    /// An error at a key (`["train", "steps"]`): in the `--set` that gave its value, else on its line.
    fn error(&self, path: &[String], what: &str) -> TrainError {
        let key = path.join(".");
        let gives = |setting: &&String| setting.split_once('=').is_some_and(|(set, _)| set.trim() == key);
        if let Some(setting) = self.overrides.iter().rev().find(gives) {
            return TrainError::Recipe { place: format!("--set {setting}"), what: what.to_string() };
        }
        self.error_at_line(line_of(self.text, path), what)
    }

    fn error_at_line(&self, line: Option<usize>, what: &str) -> TrainError {
        let place = line.map_or_else(|| self.name.to_string(), |line| format!("{}, line {line}", self.name));
        TrainError::Recipe { place, what: what.to_string() }
    }

    fn model(&self, root: &Map<String, Value>) -> Result<String, TrainError> {
        match root.get("model") {
            Some(Value::String(model)) if !model.is_empty() => Ok(model.clone()),
            None => Err(self.error_at_line(None, "no `model`; name a model directory, a GGUF file or a known model")),
            Some(other) => {
                Err(self.error(&["model".into()], &format!("`model`: found {other}, expected a path or name")))
            }
        }
    }

    fn quantize(&self, root: &Map<String, Value>) -> Result<Option<Quantize>, TrainError> {
        let Some(value) = root.get("quantize").filter(|value| !value.is_null()) else { return Ok(None) };
        serde_json::from_value(value.clone()).map(Some).map_err(|_| {
            let what = format!("`quantize`: found {}, expected `nf4`, `q8_0`, `q4_0` or `keep`", shown(value));
            self.error(&["quantize".into()], &what)
        })
    }

    /// A part whose fields all have defaults: read one by one first, so that an error names its field.
    fn section<T: DeserializeOwned>(
        &self,
        root: &Map<String, Value>,
        key: &str,
        needed: bool,
    ) -> Result<T, TrainError> {
        let fields = match root.get(key) {
            Some(Value::Object(fields)) => fields.clone(),
            None | Some(Value::Null) if !needed => Map::new(),
            None => return Err(self.error_at_line(None, &format!("no `{key}`; it needs at least `path`"))),
            Some(other) => {
                let what = format!("`{key}`: found {}, expected keys and values", shown(other));
                return Err(self.error(&[key.to_string()], &what));
            }
        };
        self.one_by_one::<T>(&fields, &[key])?;
        serde_json::from_value(Value::Object(fields))
            .map_err(|e| self.error(&[key.to_string()], &format!("`{key}`: {e}")))
    }

    /// Reads the fields at a key by themselves; all have defaults.
    fn one_by_one<T: DeserializeOwned>(&self, fields: &Map<String, Value>, at: &[&str]) -> Result<(), TrainError> {
        for (field, value) in fields {
            let alone = Value::Object(Map::from_iter([(field.clone(), value.clone())]));
            if let Err(e) = serde_json::from_value::<T>(alone) {
                let path: Vec<String> = at.iter().map(ToString::to_string).chain([field.clone()]).collect();
                let what = format!("`{}`: found {}{}", path.join("."), shown(value), expected(&e));
                return Err(self.error(&path, &what));
            }
        }
        Ok(())
    }

    fn method(&self, root: &Map<String, Value>) -> Result<MethodConfig, TrainError> {
        let config = match root.get("method") {
            None | Some(Value::Null) => MethodConfig::default(),
            Some(Value::Object(fields)) => MethodConfig(fields.clone()),
            Some(Value::String(word)) => MethodConfig(Map::from_iter([("type".to_string(), word.clone().into())])),
            Some(other) => {
                let what = format!("`method`: found {}, expected `{{type: lora, …}}`", shown(other));
                return Err(self.error(&["method".into()], &what));
            }
        };
        match config.method(self.directory) {
            Ok(_) => Ok(config),
            Err(e) => {
                let message = e.to_string();
                // The message names the field in back quotes; the line of that field is the place.
                let named = |field: &&String| message.contains(&format!("`{field}`"));
                let field = config.0.keys().find(named).cloned();
                let path: Vec<String> = std::iter::once("method".to_string()).chain(field).collect();
                Err(self.error(&path, &format!("`method`: {message}")))
            }
        }
    }
}

/// Sets one key of the recipe. The value is read as YAML unless the key holds text.
fn apply(root: &mut Map<String, Value>, setting: &str, schema: &Value) -> Result<(), TrainError> {
    let fail = |what: String| TrainError::Recipe { place: format!("--set {setting}"), what };
    let (key, text) = setting
        .split_once('=')
        .ok_or_else(|| fail("expected `key=value`, for example `train.learning_rate=1e-4`".into()))?;
    let key = if key.trim() == "train.lr" { "train.learning_rate" } else { key.trim() };
    let path: Vec<String> = key.split('.').map(str::to_string).collect();
    if path.len() > MAX_KEYS {
        let found = format!("{} keys one in another, expected at most {MAX_KEYS}", path.len());
        return Err(TrainError::Recipe { place: format!("--set {}…", path[0]), what: found });
    }
    let value = match verify::holds_text(&path, schema) {
        true => Value::String(text.to_string()),
        false => serde_yaml_ng::from_str(text)
            .map_err(|e| fail(format!("the value is no YAML: {e}; quote text: `key=\"text\"`")))?,
    };
    let mut single = value.clone();
    for key in path.iter().rev() {
        single = Value::Object(Map::from_iter([(key.clone(), single)]));
    }
    verify::unknown_keys(&single, schema).map_err(|(_, what)| fail(what))?;
    set(root, &path, value).map_err(fail)
}

fn set(root: &mut Map<String, Value>, path: &[String], value: Value) -> Result<(), String> {
    let (Some(key), rest) = (path.first(), path.get(1..).unwrap_or_default()) else { return Ok(()) };
    if rest.is_empty() {
        root.insert(key.clone(), value);
        return Ok(());
    }
    // `method: lora` is short for `method: {type: lora}`.
    if let (true, Some(Value::String(word))) = (key == "method", root.get(key)) {
        let word = word.clone();
        root.insert(key.clone(), Value::Object(Map::from_iter([("type".to_string(), word.into())])));
    }
    match root.entry(key.clone()).or_insert(Value::Null) {
        Value::Object(inner) => set(inner, rest, value),
        Value::Array(list) => set_in_list(list, key, rest, value),
        empty @ Value::Null => {
            let mut inner = Map::new();
            set(&mut inner, rest, value)?;
            *empty = Value::Object(inner);
            Ok(())
        }
        other => Err(format!("`{key}` holds {}, which has no `{}`", shown(other), rest[0])),
    }
}

fn set_in_list(list: &mut [Value], key: &str, rest: &[String], value: Value) -> Result<(), String> {
    let length = list.len();
    let entry = rest[0].parse::<usize>().ok().and_then(|i| list.get_mut(i));
    match (entry, &rest[1..]) {
        (None, _) => Err(format!("`{key}` is a list of {length}; expected a number from 0 after it")),
        (Some(entry), []) => {
            *entry = value;
            Ok(())
        }
        (Some(Value::Object(inner)), rest) => set(inner, rest, value),
        (Some(other), _) => Err(format!("`{key}.{}` holds {}", rest[0], shown(other))),
    }
}

/// What a value should have been, behind what was found.
fn expected(error: &serde_json::Error) -> String {
    match hone_edit::config::expected(error) {
        Some(kind) => format!(", expected {kind}{}", nearest_word(error)),
        None => format!(": {error}"),
    }
}

/// "; did you mean …" for a word that is none of a choice's.
fn nearest_word(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let mut words = message.strip_prefix("unknown variant ").unwrap_or_default().split('`').skip(1).step_by(2);
    words.next().map_or_else(String::new, |found| did_you_mean(found, words))
}

fn yaml_line(error: &serde_yaml_ng::Error) -> Option<usize> {
    error.location().map(|l| l.line())
}

/// A value in a few words.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
