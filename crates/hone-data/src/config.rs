//! The `data` part of a recipe.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::packing::Packing;

/// Which files to train on, how to read them and which tokens to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// One file, glob (`data/*.jsonl`) or directory. Relative paths start at the recipe's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Several files, globs or directories.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// How files are read; by default from the file's extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reader: Option<FileKind>,
    /// Where the list of rows lies in a JSON file that holds one object: `data`, `splits.train`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What one row of a plain text file is.
    pub sample_by: SampleBy,
    /// What the rows look like: `auto`, or a format's name (`alpaca`, `messages`, `sharegpt`, `prompt_completion`,
    /// `question_answer`, `preference`, `text`).
    pub format: String,
    /// Names of the columns that differ from the format's: `{prompt: question, completion: answer}`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// Jinja template that makes the prompt from a row's columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_template: Option<String>,
    /// More of them, which say the same in other words. A row becomes an example each; a step reads all of them or none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wordings: Vec<String>,
    /// Other rows of the same file that a row's templates see as `shots`, a list; so many, drawn by `seed`.
    #[serde(skip_serializing_if = "is_zero")]
    pub shots: usize,
    /// Jinja template that makes the completion from a row's columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_template: Option<String>,
    /// Whether rows with a prompt and an answer become a conversation in the model's chat template.
    pub chat_template: ChatUse,
    /// Which tokens are trained. By default `assistant` for conversations, `completion` for prompt and completion, `all`
    /// for text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_on: Option<TrainOn>,
    /// Longest example in tokens; by default the model's limit, at most 2048.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// What happens to longer examples. By default `split` for text and `truncate_right` for everything else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub too_long: Option<TooLong>,
    /// Several examples a row: `true` (the same as `first_fit_decreasing`), `in_order`, or `false`.
    pub packing: Packing,
    /// Tokens a packed row holds; by default `max_length`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence_length: Option<usize>,
    /// Share of the examples held out for validation, chosen by a hash of each example.
    pub validation_fraction: f64,
    /// Files held out for validation instead, read like the training files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub validation_files: Vec<String>,
    /// Whether examples come in a new random order each epoch.
    pub shuffle: bool,
    /// Seed of that order.
    pub seed: u64,
    /// Use only the first rows that make an example, so many (of each source, where several are mixed).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// What a malformed row does: `error` stops, `skip` drops and counts it.
    pub on_bad_row: OnBadRow,
    /// What happens to examples that say the same as an earlier one; they are counted either way.
    pub duplicates: Duplicates,
    /// Several sources with weights, instead of `path` and `files`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mix: Vec<SourceConfig>,
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig {
            path: None,
            files: Vec::new(),
            reader: None,
            field: None,
            sample_by: SampleBy::default(),
            format: "auto".into(),
            columns: BTreeMap::new(),
            prompt_template: None,
            wordings: Vec::new(),
            shots: 0,
            completion_template: None,
            chat_template: ChatUse::default(),
            train_on: None,
            max_length: None,
            too_long: None,
            packing: Packing::Off,
            sequence_length: None,
            validation_fraction: 0.0,
            validation_files: Vec::new(),
            shuffle: true,
            seed: 0,
            limit: None,
            on_bad_row: OnBadRow::default(),
            duplicates: Duplicates::default(),
            mix: Vec::new(),
        }
    }
}

/// One source of a mix. The keys mean what they mean in [`DataConfig`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SourceConfig {
    /// One file, glob or directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Several files, globs or directories.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Share of an epoch's rows that come from this source, relative to the other weights. Without weights every example
    /// comes once an epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// How files are read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reader: Option<FileKind>,
    /// Where the list of rows lies in a JSON file that holds one object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What one row of a plain text file is.
    pub sample_by: SampleBy,
    /// What the rows look like.
    pub format: String,
    /// Names of the columns that differ from the format's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// Jinja template that makes the prompt from a row's columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_template: Option<String>,
    /// More of them, which say the same in other words. A row becomes an example each; a step reads all of them or none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wordings: Vec<String>,
    /// Other rows of the same file that a row's templates see as `shots`, a list; so many, drawn by `seed`.
    #[serde(skip_serializing_if = "is_zero")]
    pub shots: usize,
    /// Jinja template that makes the completion from a row's columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_template: Option<String>,
    /// Whether rows with a prompt and an answer become a conversation.
    pub chat_template: ChatUse,
    /// Use only the first rows that make an example, so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl Default for SourceConfig {
    fn default() -> Self {
        DataConfig::default().as_source()
    }
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// One JSON object a line (`.jsonl`, `.ndjson`).
    Jsonl,
    /// A JSON list of objects, or an object that holds one (`.json`).
    Json,
    /// Comma-separated values with a header (`.csv`).
    Csv,
    /// Tab-separated values with a header (`.tsv`).
    Tsv,
    /// Parquet (`.parquet`).
    Parquet,
    /// Plain text in UTF-8 (`.txt`, `.md`).
    Text,
}

/// What one row of a plain text file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SampleBy {
    /// A line.
    Line,
    /// Lines up to an empty one.
    #[default]
    Paragraph,
    /// The whole file.
    Document,
}

/// Whether rows with a prompt and an answer become a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChatUse {
    /// `alpaca` and `question_answer` rows do where the model has a chat template; prompt and completion stay as they are.
    #[default]
    Auto,
    /// Prompt and completion do as well.
    Always,
    /// None do.
    Never,
}

/// Which tokens are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrainOn {
    /// Every turn of the assistant.
    Assistant,
    /// The completion; of a conversation, the assistant's last turn.
    Completion,
    /// Every token.
    All,
}

/// What happens to an example of more than `max_length` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// Its end is cut off.
    TruncateRight,
    /// Its start is cut off (a beginning-of-text token stays).
    TruncateLeft,
    /// It is cut into examples of `max_length` tokens.
    Split,
    /// It is dropped.
    Drop,
}

/// What a malformed row does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRow {
    /// Stops with the place of the error.
    #[default]
    Error,
    /// Is dropped and counted.
    Skip,
}

/// What happens to examples that say the same as an earlier one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Duplicates {
    /// Counted and kept.
    #[default]
    Keep,
    /// Counted and dropped.
    Drop,
}

impl DataConfig {
    /// The keys that describe where rows come from, as one source.
    fn as_source(&self) -> SourceConfig {
        SourceConfig {
            path: self.path.clone(),
            files: self.files.clone(),
            weight: None,
            reader: self.reader,
            field: self.field.clone(),
            sample_by: self.sample_by,
            format: self.format.clone(),
            columns: self.columns.clone(),
            prompt_template: self.prompt_template.clone(),
            wordings: self.wordings.clone(),
            shots: self.shots,
            completion_template: self.completion_template.clone(),
            chat_template: self.chat_template,
            limit: self.limit,
        }
    }

    /// The training sources: the entries of `mix`, or the recipe's own `path` or `files`.
    pub fn sources(&self) -> Result<Vec<SourceConfig>, DataError> {
        self.check()?;
        if self.mix.is_empty() {
            return Ok(vec![self.as_source()]);
        }
        let with_limit = |s: &SourceConfig| SourceConfig { limit: s.limit.or(self.limit), ..s.clone() };
        Ok(self.mix.iter().map(with_limit).collect())
    }

    /// The source of `validation_files`, if there are any; read like the training files.
    pub fn validation_source(&self) -> Option<SourceConfig> {
        let files = self.validation_files.clone();
        (!files.is_empty()).then(|| SourceConfig { path: None, files, limit: None, ..self.as_source() })
    }

    /// The weights of the mix; empty where every example comes once an epoch.
    pub fn weights(&self) -> Vec<f64> {
        self.mix.iter().filter_map(|s| s.weight).collect()
    }

    /// Longest example in tokens, for a model that takes `model_limit`.
    pub fn max_length_for(&self, model_limit: usize) -> Result<usize, DataError> {
        let wanted = self.max_length.unwrap_or_else(|| model_limit.min(DEFAULT_MAX_LENGTH));
        if wanted > model_limit {
            return Err(DataError::config(
                "max_length",
                wanted.to_string(),
                format!("at most {model_limit}, the longest sequence the model takes"),
                format!("set `max_length: {model_limit}` or lower, or use a model with a longer context"),
            ));
        }
        if wanted < 2 {
            return Err(DataError::config(
                "max_length",
                wanted.to_string(),
                "at least 2: one token to read and one to predict",
                "leave it out, or set it to the length of your examples",
            ));
        }
        Ok(wanted)
    }

    fn check(&self) -> Result<(), DataError> {
        let own = self.path.is_some() || !self.files.is_empty();
        if own && !self.mix.is_empty() {
            return Err(DataError::config(
                "mix",
                "both `mix` and `path` or `files`",
                "one of them",
                "move the files into an entry of `mix`",
            ));
        }
        if !own && self.mix.is_empty() {
            let next = "write `path: train.jsonl` under `data`";
            return Err(DataError::config("path", "no file", "`path`, `files` or `mix`", next));
        }
        if !(0.0..1.0).contains(&self.validation_fraction) {
            return Err(DataError::config(
                "validation_fraction",
                self.validation_fraction.to_string(),
                "a share from 0 up to, but not including, 1",
                "0.05 holds out one example in twenty",
            ));
        }
        if self.validation_fraction > 0.0 && !self.validation_files.is_empty() {
            return Err(DataError::config(
                "validation_fraction",
                "both `validation_fraction` and `validation_files`",
                "one of them",
                "remove `validation_fraction` to validate on the files alone",
            ));
        }
        let worded = self.mix.iter().any(|source| !source.wordings.is_empty()) || !self.wordings.is_empty();
        if worded && self.packing != Packing::Off {
            return Err(DataError::config(
                "packing",
                "`packing` beside `wordings`",
                "one of them: the wordings of a row are read together as they are",
                "remove `packing`; a step then reads `train.batch_size` rows, each in all its wordings",
            ));
        }
        let weighted = self.mix.iter().filter(|s| s.weight.is_some()).count();
        if weighted != 0 && weighted != self.mix.len() {
            return Err(DataError::config(
                "mix",
                format!("{weighted} of {} sources with a `weight`", self.mix.len()),
                "a weight for all of them or for none",
                "give the others a `weight` (shares are relative: 3 and 1 mean three quarters and one quarter)",
            ));
        }
        for (index, source) in self.mix.iter().enumerate() {
            if source.weight.is_some_and(|w| !w.is_finite() || w <= 0.0) {
                return Err(DataError::config(
                    format!("mix[{index}].weight"),
                    source.weight.map_or_else(String::new, |w| w.to_string()),
                    "a number above 0",
                    "remove the source from `mix` if it is not to be used",
                ));
            }
        }
        Ok(())
    }
}

/// Longest example in tokens where neither recipe nor model asks for less.
pub const DEFAULT_MAX_LENGTH: usize = 2048;
