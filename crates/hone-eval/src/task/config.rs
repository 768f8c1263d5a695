//! What a task file says, as plain data: lm-evaluation-harness' keys ([`super::file`] reads them) and some of our own.

use std::collections::BTreeMap;

use hone_model::generate::GenerationConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::variants::Variant;
use crate::reasoning::ReasoningConfig;

/// What a task file says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskConfig {
    /// Name.
    pub task: String,
    /// A reader (`json`, `csv`, `parquet`, `text`, `squad`, `wikitext_pages`) with files in `dataset_kwargs`, one file, a directory
    /// that is laid out as the hub's data sets are, or the name of one that is in the hub's cache ([`super::data_set`]).
    pub dataset_path: Option<String>,
    /// Of a data set with several configurations: which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset_name: Option<String>,
    /// `data_files` by split, `field`.
    pub dataset_kwargs: DatasetKwargs,
    /// Split that shots come from when no other is named.
    pub training_split: Option<String>,
    /// Split evaluated when there is no test split.
    pub validation_split: Option<String>,
    /// Split evaluated.
    pub test_split: Option<String>,
    /// Split that shots come from.
    pub fewshot_split: Option<String>,
    /// Columns made from each row, in order.
    pub process_docs: Option<Map<String, Value>>,
    /// The question: a column's name or a template.
    pub doc_to_text: Option<Value>,
    /// The answer: a column's name, a template, an index into the choices, or a list.
    pub doc_to_target: Option<Value>,
    /// The choices: a column's name, a template that renders a list, a list, or a mapping.
    pub doc_to_choice: Option<Value>,
    /// Text whose words and bytes divide a document's log-likelihood; the target where not given.
    pub doc_to_count: Option<Value>,
    /// The passage that a written answer should rest on: a column's name or a template. Metrics of faithfulness read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doc_to_passage: Option<Value>,
    /// What the examples of one prompt share: a column's name or a template. Metrics that take examples together read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doc_to_group: Option<Value>,
    /// Whether prompts and answers are kept out of reports and terminals, because they may harm who reads them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sensitive: bool,
    /// Whether, and how, a reasoning is written before the answer; see [`crate::reasoning`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<ReasoningConfig>,
    /// Of a task that is asked in several ways: which of them this is. Not written in files; see [`super::variants`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<Variant>,
    /// Before everything else.
    pub description: String,
    /// Between question and answer.
    pub target_delimiter: String,
    /// Between shots.
    pub fewshot_delimiter: String,
    /// How shots are drawn and written.
    pub fewshot_config: FewshotConfig,
    /// Shots; 0 cannot be overridden.
    pub num_fewshot: Option<usize>,
    /// Kind of task, by the harness' names.
    pub output_type: String,
    /// How to generate.
    pub generation_kwargs: GenerationKwargs,
    /// What is measured.
    pub metric_list: Option<Vec<Map<String, Value>>>,
    /// What happens to generated text before it is scored.
    pub filter_list: Option<Vec<FilterConfig>>,
    /// Responses per example.
    pub repeats: usize,
    /// What the answer begins with.
    pub gen_prefix: Option<String>,
    /// Whether prompts go through the model's chat template when nobody says; hone's own key, off in the harness.
    pub chat_template: Option<bool>,
    /// `version` and anything else.
    pub metadata: Map<String, Value>,
    /// The metric that decides a comparison; the first where not given.
    pub main_metric: Option<String>,
}

/// Where the data is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatasetKwargs {
    /// File by split.
    pub data_files: BTreeMap<String, DataFileConfig>,
    /// Where the list of rows lies in a JSON file that holds one object.
    pub field: Option<String>,
    /// The split that stands first in the task's file; its files decide which types columns have.
    #[serde(skip)]
    pub first_split: Option<String>,
    /// Whether values of JSON and CSV stay as the file has them, instead of having the types of their columns; hone's own key.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub untyped: bool,
    /// The revision of a data set of the hub; `main` where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// A directory inside the data set, whose files are read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<String>,
    /// Read and not heeded: no code of a data set is ever run.
    #[serde(skip_serializing)]
    pub trust_remote_code: Option<Value>,
    /// Read and not heeded: rows are the same however they are fetched.
    #[serde(skip_serializing)]
    pub streaming: Option<Value>,
    /// Read and not heeded: files are read as they are, and their SHA-256 stands in the scorecard.
    #[serde(skip_serializing)]
    pub verification_mode: Option<Value>,
}

/// A split's file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DataFileConfig {
    /// The file, or a pattern of files.
    Path(String),
    /// Several, one behind the other.
    Paths(Vec<String>),
    /// The file and which of its rows.
    Part(DataFilePart),
}

/// Some rows of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFilePart {
    /// The file.
    pub path: String,
    /// A template expression that is true for the rows wanted. Besides the columns there is `row_number`, from 1.
    #[serde(rename = "where")]
    pub condition: Option<String>,
}

impl DataFileConfig {
    /// The files, or patterns of them.
    pub fn paths(&self) -> Vec<&str> {
        match self {
            DataFileConfig::Path(path) => vec![path],
            DataFileConfig::Paths(paths) => paths.iter().map(String::as_str).collect(),
            DataFileConfig::Part(part) => vec![&part.path],
        }
    }

    /// Which rows, if not all.
    pub fn condition(&self) -> Option<&str> {
        match self {
            DataFileConfig::Path(_) | DataFileConfig::Paths(_) => None,
            DataFileConfig::Part(part) => part.condition.as_deref(),
        }
    }
}

/// How shots are drawn, and what differs in how they are written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FewshotConfig {
    /// `default` (drawn), `first_n`, or `bm25` (those most similar to the question; [`super::similar`]).
    pub sampler: Option<String>,
    /// Split that shots come from.
    pub split: Option<String>,
    /// Rows to draw from, written here.
    pub samples: Option<Vec<Map<String, Value>>>,
    /// Read and not used: lm-evaluation-harness 0.4.13 never hands it to what draws.
    pub fewshot_indices: Option<Vec<usize>>,
    /// Hone's own: the rows of the split to draw from, counted from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<usize>>,
    /// Instead of the task's.
    pub doc_to_text: Option<Value>,
    /// Instead of the task's.
    pub doc_to_target: Option<Value>,
    /// Instead of the task's.
    pub doc_to_choice: Option<Value>,
    /// Instead of the task's.
    pub gen_prefix: Option<String>,
    /// Instead of the task's.
    pub fewshot_delimiter: Option<String>,
    /// Instead of the task's.
    pub target_delimiter: Option<String>,
}

/// How to generate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerationKwargs {
    /// Texts that end a generation; the shots' delimiter where not given.
    pub until: Option<OneOrMany>,
    /// Most tokens; 256 where not given.
    #[serde(alias = "max_new_tokens", alias = "max_tokens", alias = "max_completion_tokens")]
    pub max_gen_toks: Option<usize>,
    /// Draw instead of taking the most likely token.
    pub do_sample: Option<bool>,
    /// Temperature of the draw.
    pub temperature: Option<f32>,
    /// Keep the smallest set of tokens with this probability.
    pub top_p: Option<f32>,
    /// Keep so many tokens.
    pub top_k: Option<usize>,
    /// Drop tokens less likely than this share of the most likely one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// Divides (positive) or multiplies (negative) the logits of tokens that stand in the prompt or the answer; 1 is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    /// Texts followed at a time; 1, which is what is done.
    #[serde(skip_serializing)]
    pub num_beams: Option<usize>,
}

impl GenerationKwargs {
    /// Whether tokens are drawn: as the file says; where it does not, a temperature above 0 means it, as in the harness.
    pub fn draws(&self) -> bool {
        self.do_sample.unwrap_or_else(|| self.temperature.is_some_and(|temperature| temperature > 0.0))
    }

    /// How tokens are picked. Where none are drawn, what is about draws is left out.
    pub fn picking(&self) -> GenerationConfig {
        let greedy = GenerationConfig {
            temperature: 0.0,
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            ..GenerationConfig::default()
        };
        match self.draws() {
            false => greedy,
            true => GenerationConfig {
                temperature: self.temperature.unwrap_or(1.0),
                top_p: self.top_p.unwrap_or(1.0),
                top_k: self.top_k.unwrap_or(0),
                min_p: self.min_p.unwrap_or(0.0),
                ..greedy
            },
        }
    }
}

/// A text or a list of texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// As a list.
    pub fn to_vec(&self) -> Vec<String> {
        match self {
            OneOrMany::One(text) => vec![text.clone()],
            OneOrMany::Many(texts) => texts.clone(),
        }
    }
}

/// A named list of filters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterConfig {
    /// The metric column it makes.
    pub name: String,
    /// The steps.
    pub filter: Vec<Map<String, Value>>,
}

impl TaskConfig {
    /// What `metadata` says besides the version: labels that measures group tasks by (`skill`, `safety`, `level` …).
    pub fn labels(&self) -> BTreeMap<String, String> {
        let label = |(key, value): (&String, &Value)| match (key.as_str(), value) {
            ("version", _) => None,
            (_, Value::String(text)) => Some((key.clone(), text.clone())),
            (_, Value::Number(_) | Value::Bool(_)) => Some((key.clone(), value.to_string())),
            _ => None,
        };
        self.metadata.iter().filter_map(label).collect()
    }

    /// `metadata.version`, or `0`.
    pub fn version(&self) -> String {
        match self.metadata.get("version") {
            None | Some(Value::Null) => "0".into(),
            Some(Value::String(version)) => version.clone(),
            Some(other) => other.to_string(),
        }
    }
}
