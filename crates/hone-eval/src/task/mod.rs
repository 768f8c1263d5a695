//! Tasks: examples, how they are asked and how an answer is scored.

pub mod bundled;
pub mod config;
pub mod data;
pub mod data_set;
pub mod docs;
pub mod fewshot;
pub mod fields;
pub mod file;
pub mod group;
mod index;
mod layouts;
pub mod prompt;
pub mod similar;
pub mod template;
mod typed;
pub mod types;
pub mod variants;
mod yaml;

use std::path::Path;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub use config::TaskConfig;
pub use data::{DataRoot, Doc};
pub use docs::Docs;
pub use prompt::{Item, PromptOptions, Prompts, Question};

use crate::error::{EvalError, did_you_mean};
use crate::files::is_file_name;
use crate::filters::FilterList;
use crate::metrics::{Kind, Metric};
use config::OneOrMany;
use fewshot::Pool;
use fields::Fields;

/// A task, its examples loaded.
pub struct Task {
    /// What the task file says.
    pub config: TaskConfig,
    /// Where the task file is; the name of one that ships with the program.
    pub file: String,
    /// Kind of task.
    pub kind: Kind,
    /// What is measured.
    pub metrics: Vec<Metric>,
    /// What happens to generated text first; one metric column each.
    pub filters: Vec<FilterList>,
    /// The evaluated examples.
    pub docs: Docs,
    fields: Fields,
    root: DataRoot,
    pub(crate) data_sha256: String,
}

impl Task {
    /// Loads a task by the name of one that ships with the program, or by the path of a task file.
    pub fn load(reference: &str, root: &DataRoot) -> Result<Task, EvalError> {
        let (file, keys) = keys_of(reference)?;
        Task::from_config(TaskConfig::from_keys(&file, keys)?, file, root)
    }

    /// A task from its settings. `file` is for messages, and data files may lie beside it.
    pub fn from_config(config: TaskConfig, file: String, root: &DataRoot) -> Result<Task, EvalError> {
        Task::made(config, file, root, |config, file| {
            let split = evaluated_split(config).ok_or_else(|| EvalError::TaskFile {
                file: file.into(),
                place: "test_split".into(),
                problem: "neither `test_split` nor `validation_split` is given; name the split to evaluate".into(),
            })?;
            data::load_split(config, file, &split, root)
        })
    }

    /// The same over examples that are there already.
    pub fn over(config: TaskConfig, file: String, split: data::Split) -> Result<Task, EvalError> {
        Task::made(config, file, &DataRoot::default(), |_, _| Ok(split))
    }

    fn made(
        config: TaskConfig,
        file: String,
        root: &DataRoot,
        split: impl FnOnce(&TaskConfig, &str) -> Result<data::Split, EvalError>,
    ) -> Result<Task, EvalError> {
        let problem =
            |place: &str, problem: String| EvalError::TaskFile { file: file.clone(), place: place.into(), problem };
        if !is_file_name(&config.task) || config.task.starts_with('.') {
            let problem_text =
                format!("`{}`, expected a name without slashes; scorecards are named after it", config.task);
            return Err(problem("task", problem_text));
        }
        let kind = Kind::from_name(&config.output_type)
            .ok_or_else(|| problem("output_type", format!("`{}` is not known", config.output_type)))?;
        let metrics = metrics(&config, kind, &file)?;
        let filters = match config.filter_list.as_deref() {
            None => vec![FilterList::default_list()],
            Some(lists) => lists
                .iter()
                .map(|list| FilterList::new(&list.name, &list.filter))
                .collect::<Result<_, _>>()
                .map_err(|what| problem("filter_list", what))?,
        };
        let data::Split { docs, sha256 } = split(&config, &file)?;
        let Some(first) = docs.first() else {
            return Err(EvalError::Empty { task: config.task.clone(), place: file.clone() });
        };
        let fields = Fields::new(&config, kind, &file, first)?;
        let task = Task { fields, kind, metrics, filters, docs, data_sha256: sha256, root: root.clone(), config, file };
        task.main_metric()?;
        Ok(task)
    }

    /// The task's name.
    pub fn name(&self) -> &str {
        &self.config.task
    }

    /// SHA-256 over the task's definition and its data.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(serde_json::to_string(&self.config).unwrap_or_default());
        hash.update(&self.data_sha256);
        data::hex(&hash.finalize())
    }

    /// What the task's file says, key by key; what it does not say is left out.
    pub fn definition(&self) -> Map<String, Value> {
        let Ok(Value::Object(mut keys)) = serde_json::to_value(&self.config) else { return Map::new() };
        keys.retain(|_, value| !value.is_null());
        keys
    }

    /// The metric columns: a metric under each filter list. Without filter lists the names are the metrics' own.
    pub fn columns(&self) -> impl Iterator<Item = (String, &Metric, &FilterList)> {
        let plain = self.config.filter_list.is_none();
        self.filters.iter().flat_map(move |filter| {
            self.metrics.iter().map(move |metric| {
                let name = if plain { metric.name.clone() } else { format!("{},{}", metric.name, filter.name) };
                (name, metric, filter)
            })
        })
    }

    /// Texts that end an answer.
    pub fn answer_stops(&self) -> Vec<String> {
        self.stops(self.config.generation_kwargs.until.as_ref())
    }

    /// Texts that end something written: those of `until`, else the delimiter of shots. None is empty.
    pub fn stops(&self, until: Option<&OneOrMany>) -> Vec<String> {
        let mut stops = until.map_or_else(|| vec![self.config.fewshot_delimiter.clone()], OneOrMany::to_vec);
        stops.retain(|stop| !stop.is_empty());
        stops
    }

    /// A metric that runs what the model writes, if the task has one.
    pub fn runs_code(&self) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.code().is_some())
    }

    /// The metric column that decides a comparison: `main_metric`, else the first.
    pub fn main_metric(&self) -> Result<String, EvalError> {
        let names: Vec<String> = self.columns().map(|(name, ..)| name).collect();
        let wanted = self.config.main_metric.as_ref();
        let found = match wanted {
            None => names.first(),
            Some(wanted) => names.iter().find(|name| *name == wanted || name.split(',').next() == Some(wanted)),
        };
        found.cloned().ok_or_else(|| EvalError::TaskFile {
            file: self.file.clone(),
            place: "main_metric".into(),
            problem: format!("`{}` is none of {}", wanted.map_or("", |w| w), names.join(", ")),
        })
    }

    /// The rows that shots are drawn from: `fewshot_split`, else `fewshot_config.samples`, else the training, validation or
    /// test split.
    fn fewshot_pool(&self) -> Result<Pool<'_>, EvalError> {
        let config = &self.config;
        let fewshot = &config.fewshot_config;
        if let (None, Some(samples)) = (self.named_for_shots(), &fewshot.samples) {
            let place = hone_data::example::SourceRef { file: Path::new(&self.file).into(), row: 1, line: None };
            let docs = samples.iter().map(|columns| Doc { columns: columns.clone(), place: place.clone() });
            return Ok(Pool::Own(docs.collect()));
        }
        let split = self.split_of_shots();
        let pool = match &split {
            Some(split) if evaluated_split(config).as_ref() != Some(split) => {
                Pool::Own(data::load_split(config, &self.file, split, &self.root)?.docs)
            }
            _ => Pool::Evaluated(&self.docs),
        };
        let Some(rows) = &fewshot.rows else { return Ok(pool) };
        let pick = |&i: &usize| {
            let doc = pool.get(i)?.ok_or_else(|| EvalError::TaskFile {
                file: self.file.clone(),
                place: "fewshot_config.rows".into(),
                problem: format!("{i} is beyond the {} rows of `{}`", pool.len(), split.as_deref().unwrap_or("test")),
            })?;
            Ok(doc.into_owned())
        };
        Ok(Pool::Own(rows.iter().map(pick).collect::<Result<_, EvalError>>()?))
    }

    /// The split that the task names for its shots.
    fn named_for_shots(&self) -> Option<&String> {
        self.config.fewshot_config.split.as_ref().or(self.config.fewshot_split.as_ref())
    }

    /// The split that shots are drawn from, where they are no `samples`; none where it is the one that is evaluated and has no name.
    fn split_of_shots(&self) -> Option<String> {
        let named = self.named_for_shots().or(self.config.training_split.as_ref());
        named.cloned().or_else(|| evaluated_split_for_shots(&self.config))
    }

    /// How many shots stand before each question, where `asked` are asked for: a task that says 0 keeps 0.
    pub(crate) fn shots(&self, asked: Option<usize>) -> usize {
        match self.config.num_fewshot {
            Some(0) => 0,
            _ if self.kind == Kind::LoglikelihoodRolling => 0,
            own => asked.or(own).unwrap_or(0),
        }
    }

    /// SHA-256 of the files besides the evaluated split's that prompts with so many `shots` depend on: those of the shots, and those
    /// that say which types the columns have.
    ///
    /// # Errors
    /// The files of the shots are not there, or one cannot be read.
    pub(crate) fn other_data_sha256(&self, shots: usize) -> Result<Vec<String>, EvalError> {
        let (config, evaluated) = (&self.config, evaluated_split(&self.config));
        let is_other = |split: &String| Some(split) != evaluated.as_ref();
        let hash = |split: &String| data::split_sha256(config, &self.file, split, &self.root);
        let from_samples = self.named_for_shots().is_none() && config.fewshot_config.samples.is_some();
        let pool = (shots > 0 && !from_samples).then(|| self.split_of_shots()).flatten().filter(is_other);
        let mut hashes: Vec<String> = pool.as_ref().map(hash).transpose()?.into_iter().collect();
        // Where its files are not there the types are those of the evaluated split.
        let first = data::first_split(config, &self.file, &self.root).filter(|split| is_other(split));
        hashes.extend(first.filter(|split| pool.as_ref() != Some(split)).and_then(|split| hash(&split).ok()));
        Ok(hashes)
    }

    /// Whether the pool of shots counts as the evaluated split, so that the evaluated example is taken out: both names are
    /// the same, also where neither is given.
    fn shots_from_evaluated(&self) -> bool {
        self.named_for_shots() == self.config.test_split.as_ref()
    }
}

/// The split that is evaluated: the test split, else the validation split; `test` for a task with one file.
fn evaluated_split(config: &TaskConfig) -> Option<String> {
    let one_file = config.dataset_kwargs.data_files.is_empty().then(|| "test".to_owned());
    config.test_split.clone().or_else(|| config.validation_split.clone()).or(one_file)
}

fn evaluated_split_for_shots(config: &TaskConfig) -> Option<String> {
    config.validation_split.clone().or_else(|| config.test_split.clone())
}

/// The task file's path (or bundled name) and its keys.
fn keys_of(reference: &str) -> Result<(String, Map<String, Value>), EvalError> {
    let (file, text) = find(reference)?;
    let keys = file::read_keys(&file, &text, &|name| included(&file, name))?;
    Ok((file, keys))
}

/// The text of the file that `file` includes by `name`.
fn included(file: &str, name: &str) -> Result<String, EvalError> {
    let path = Path::new(file).parent().unwrap_or(Path::new("")).join(name);
    match bundled::task(name).filter(|_| !Path::new(file).is_file()) {
        Some(text) => Ok(text.into()),
        None => std::fs::read_to_string(&path).map_err(|source| EvalError::Io { path, source }),
    }
}

/// The task file's path (or bundled name) and text.
fn find(reference: &str) -> Result<(String, String), EvalError> {
    let path = Path::new(reference);
    if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
        let text = std::fs::read_to_string(path).map_err(|source| EvalError::Io { path: path.into(), source })?;
        return Ok((reference.into(), text));
    }
    match bundled::task(reference) {
        Some(text) => Ok((format!("tasks/{reference}.yaml"), text.into())),
        None => Err(EvalError::UnknownTask {
            name: reference.into(),
            hint: did_you_mean(reference, bundled::names()),
            known: bundled::names().collect::<Vec<_>>().join(", "),
        }),
    }
}

fn metrics(config: &TaskConfig, kind: Kind, file: &str) -> Result<Vec<Metric>, EvalError> {
    let wrong = |source| EvalError::Metric { file: file.to_owned(), source };
    let Some(list) = &config.metric_list else {
        let defaults = kind.default_metrics().iter();
        return defaults.map(|name| Metric::new(kind, name, &Default::default()).map_err(wrong)).collect();
    };
    let mut metrics = Vec::new();
    for entry in list {
        let problem = |problem: String| EvalError::TaskFile { file: file.into(), place: "metric_list".into(), problem };
        let mut options = entry.clone();
        let Some(Value::String(name)) = options.remove("metric") else {
            return Err(problem("an entry without `metric: NAME`".into()));
        };
        let aggregation = options.remove("aggregation");
        let direction = options.remove("higher_is_better");
        let mut metric = Metric::new(kind, &name, &options).map_err(wrong)?;
        if let Some(Value::Bool(higher)) = direction {
            metric.higher_is_better = higher;
        }
        if let Some(named) = aggregation.as_ref().and_then(Value::as_str) {
            metric.aggregate_by(named).map_err(wrong)?;
        }
        if let Some(code) = metric.code() {
            if code.k > config.repeats {
                let repeats = config.repeats;
                return Err(problem(format!(
                    "`{name}` takes {} answers or more a question; `repeats` is {repeats}",
                    code.k
                )));
            }
            if config.filter_list.is_some() || config.reasoning.is_some() {
                let what = "takes all answers as they are; leave `filter_list` and `reasoning` out, and say `answer`";
                return Err(problem(format!("`{name}` {what}")));
            }
        }
        if metric.needs_passage() && config.doc_to_passage.is_none() {
            return Err(problem(format!("`{name}` holds an answer against a passage; name it in `doc_to_passage`")));
        }
        if metric.needs_group() && config.doc_to_group.is_none() {
            return Err(problem(format!("`{name}` takes items together; name what they share in `doc_to_group`")));
        }
        metrics.push(metric);
    }
    if metrics.is_empty() {
        return Err(EvalError::TaskFile {
            file: file.into(),
            place: "metric_list".into(),
            problem: "is empty; leave it out for the defaults".into(),
        });
    }
    Ok(metrics)
}
