//! The recipe: one YAML file that says what to train on what, how, and what to measure before and after.
//!
//! ```yaml
//! model: SmolLM2-135M-Instruct
//! data: {path: train.jsonl, validation_fraction: 0.05}
//! method: {type: lora, r: 16}
//! train: {epochs: 2, learning_rate: 2e-4}
//! eval: {before_after: [telecom, arc_easy], fail_if: {arc_easy: {drop_over: 3}}}
//! ```
//!
//! Every key has a default but `model` and the data's files. [`read`] is strict: an unknown key, a wrong type or an
//! impossible value is an error that names file, line and key. [`Recipe::schema`] is the published JSON Schema.

mod compatibility;
mod read;
mod train;
mod verify;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hone_data::DataConfig;
use hone_edit::words::WORDS;
use hone_edit::{Method, registry, warm_start};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use compatibility::{Compatibility, Mask, NewVersion, OldVersion};
pub use read::{Overrides, parse, read};
pub use train::{Optimizer, Precision, Quantize, Schedule, TrainConfig};

use crate::error::TrainError;

/// A recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// A Hugging Face directory, a GGUF file, or a name that `hone pull` knows.
    pub model: String,
    /// Keep the frozen linear maps in few bits (QLoRA); by default they are in `train.dtype`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantize: Option<Quantize>,
    /// What to train on.
    pub data: DataConfig,
    /// Which edit to train.
    #[serde(default)]
    pub method: MethodConfig,
    /// How to train.
    #[serde(default)]
    pub train: TrainConfig,
    /// What to measure.
    #[serde(default)]
    pub eval: EvalConfig,
    /// Where the recipe was read from: relative paths in `data` and `method` start there.
    #[serde(skip)]
    pub directory: PathBuf,
}

/// `method`: the word in `type`, and that method's fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MethodConfig(pub Map<String, Value>);

impl Default for MethodConfig {
    fn default() -> Self {
        MethodConfig(Map::from_iter([("type".to_string(), Value::from("lora"))]))
    }
}

impl MethodConfig {
    /// The configured method of a recipe in `directory`, and what is to be said aloud about it.
    pub fn method(&self, directory: &Path) -> Result<(Arc<dyn Method>, Vec<String>), TrainError> {
        let mut warnings = Vec::new();
        let method = registry::from_recipe(&registry::with_paths_from(directory, &self.0), &mut warnings)?;
        Ok((method, warnings))
    }

    /// The adapter that training goes on from, whether that is for the method to read ([`warm_start`]) or not.
    fn init_from(&self, directory: &Path) -> Option<String> {
        let fields = registry::with_paths_from(directory, &self.0);
        fields.get(warm_start::FIELD).and_then(Value::as_str).map(str::to_string)
    }

    /// The adapter whose values are the first ones, where the method has no such field itself.
    pub fn warm_start(&self, directory: &Path) -> Option<PathBuf> {
        warm_start::directory(&registry::with_paths_from(directory, &self.0))
    }

    /// The word in `type`.
    pub fn word(&self) -> &str {
        self.0.get("type").and_then(Value::as_str).unwrap_or_default()
    }
}

impl JsonSchema for MethodConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MethodConfig".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut one_of = Vec::new();
        let own = registry::METHODS.iter().map(|method| (method, method.name, method.summary.to_owned()));
        let others = WORDS.iter().filter_map(|word| {
            let method = registry::METHODS.iter().find(|method| method.name == word.method)?;
            Some((method, word.name, format!("`{}` with {}", word.method, (word.fields)())))
        });
        for (method, name, summary) in own.chain(others) {
            let fields = (method.schema)(generator);
            let word = serde_json::json!({ "const": name, "description": summary });
            let defaults = serde_json::json!({
                "enum": ["hone", "peft"], "default": "hone",
                "description": "Whose defaults the other fields have. Those that are written here are PEFT's.",
            });
            let mut properties = serde_json::json!({ "type": word, "defaults": defaults });
            if !warm_start::is_own(method) {
                properties[warm_start::FIELD] = serde_json::json!({
                    "type": ["string", "null"], "format": "path",
                    "description": "Directory of a trained adapter of this method, and of the same fields, to go on from.",
                });
            }
            one_of.push(serde_json::json!({
                "allOf": [fields, { "type": "object", "properties": properties, "required": ["type"] }],
            }));
        }
        json_schema!({ "description": "Which edit to train: `type` and that method's fields.", "oneOf": one_of })
    }
}

/// What to measure before and after. Plain data: the loop does not look at it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Tasks to score the base model and the tuned one on, by name or file.
    pub before_after: Vec<String>,
    /// Which of them the tuning is for; by default the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub target: Vec<String>,
    /// At most so many examples a task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Where task files are looked for, beside those that come with the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks_directory: Option<String>,
    /// Where the tasks' data files are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_root: Option<String>,
    /// Examples in the prompt; by default what the task says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_fewshot: Option<usize>,
    /// Whether prompts go through the chat template; by default what the task says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<bool>,
    /// Compute type; by default that of the training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Precision>,
    /// Rules that set the exit code: `{boolq: {drop_over: 3}}`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fail_if: BTreeMap<String, FailRule>,
}

/// A rule on one task. Numbers are points (hundredths) for metrics that are shares, else in the metric's unit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FailRule {
    /// Fail if the tuned model is worse than the base by more than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_over: Option<f64>,
    /// Fail if the tuned model scores worse than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worse_than: Option<f64>,
    /// Count a drop only if it is measurable.
    pub measurable: bool,
}

impl Recipe {
    /// The JSON Schema of recipes.
    pub fn schema() -> Value {
        schemars::schema_for!(Recipe).to_value()
    }

    /// The recipe with every default written out, as a run keeps it: reading it back gives the same run. Relative paths of
    /// data and method are made absolute.
    pub fn resolved(&self) -> Result<Recipe, TrainError> {
        let (method, _) = self.method.method(&self.directory)?;
        let mut fields = Map::from_iter([("type".to_string(), Value::from(method.info().name))]);
        fields.extend(method.fields().into_iter().filter(|(_, value)| !value.is_null()));
        if let Some(dir) = self.method.warm_start(&self.directory) {
            fields.insert(warm_start::FIELD.into(), dir.to_string_lossy().into());
        }
        let mut resolved = self.clone();
        resolved.method = MethodConfig(fields);
        resolved.train = self.train.resolved(method.as_ref());
        let init_from = self.method.init_from(&self.directory);
        let compatibility = self.train.compatibility.as_ref();
        resolved.train.compatibility = compatibility.map(|c| c.resolved(&self.directory, init_from));
        let absolute = |path: &String| absolute(&self.directory, path);
        let data = &mut resolved.data;
        data.path = data.path.as_ref().map(absolute);
        data.files = data.files.iter().map(absolute).collect();
        data.validation_files = data.validation_files.iter().map(absolute).collect();
        for source in &mut data.mix {
            source.path = source.path.as_ref().map(absolute);
            source.files = source.files.iter().map(absolute).collect();
        }
        Ok(resolved)
    }

    /// As YAML.
    pub fn to_yaml(&self) -> Result<String, TrainError> {
        serde_yaml_ng::to_string(self)
            .map_err(|e| TrainError::Recipe { place: "the resolved recipe".into(), what: e.to_string() })
    }
}

fn absolute(directory: &Path, path: &str) -> String {
    let joined = directory.join(path);
    std::path::absolute(&joined).unwrap_or(joined).to_string_lossy().into_owned()
}
