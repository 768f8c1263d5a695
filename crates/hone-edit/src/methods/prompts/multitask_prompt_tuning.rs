//! Multitask prompt tuning (Wang et al. 2023, arXiv 2303.02861): one prompt for all tasks, times a low-rank matrix for each,
//! `P_t = P ⊙ (U_t V_t)`, `P` `[p, hidden]`, `U_t` `[p, ranks]`, `V_t` `[ranks, hidden]`.
//!
//! The task of a sequence is its group: the source of the recipe's mix in training, the stack's group elsewhere. Parameters:
//! `p · hidden + tasks · ranks · (p + hidden)`; `U` and `V` start at `N(0, 0.02²)` and `P` like any prompt, as in Hugging Face
//! PEFT. So `P_t` starts near zero.
//!
//! A second stage starts from a trained first one (`prompt_tuning_init_state_dict_path`, an adapter's `.safetensors`): from all of
//! it with the tasks' matrices averaged (`AVERAGE_SOURCE_TASKS`) or those of `prompt_tuning_init_task` (`EXACT_SOURCE_TASK`), or from
//! its prompt alone (`ONLY_SOURCE_SHARED`). The paper's distillation from single-task prompts is no part of the method's file.

use std::path::Path;
use std::sync::Arc;

use hone_engine::ops;
use hone_engine::{Tensor, Var};
use hone_model::Sharing;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::fields::{
    FirstPrompt, INERT, NO_WEIGHT, PROMPT, PromptFields, PromptInit, at_virtual_tokens, scaled, write_inert,
};
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::files::TensorFile;
use crate::method::{At, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase};
use crate::planning::{check_rank, wrong};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "multitask_prompt_tuning",
    peft_type: "MULTITASK_PROMPT_TUNING",
    family: "prompt",
    summary: "one prompt for several tasks, times a low-rank matrix for each",
    paper: "arXiv 2303.02861",
    formula: "[P ⊙ (U_t V_t); E(x)]",
    mergeable: Mergeable::No(NO_WEIGHT),
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<MultitaskConfig>(),
};

const COLUMNS: &str = "prefix_task_cols";
const ROWS: &str = "prefix_task_rows";

/// Hugging Face's `MultitaskPromptTuningConfig`, the honoured fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MultitaskConfig {
    /// How long, for what.
    #[serde(flatten)]
    pub prompt: PromptFields,
    /// Tasks.
    pub num_tasks: usize,
    /// Rank of a task's matrix.
    pub num_ranks: usize,
    /// How it starts.
    pub prompt_tuning_init: MultitaskInit,
    /// The text of `TEXT`.
    pub prompt_tuning_init_text: Option<String>,
    /// The tokenizer of `TEXT`: the model's own.
    pub tokenizer_name_or_path: Option<String>,
    /// The `.safetensors` file of a trained first stage.
    #[schemars(extend("format" = "path"))]
    pub prompt_tuning_init_state_dict_path: Option<String>,
    /// The task of the first stage to start from.
    pub prompt_tuning_init_task: usize,
    #[serde(skip)]
    stored: bool,
}

/// How a multitask prompt starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MultitaskInit {
    /// `N(0, 1)`.
    #[default]
    Random,
    /// The embeddings of a text.
    Text,
    /// The embeddings of tokens drawn from the vocabulary.
    SampleVocab,
    /// A first stage's prompt, and the mean of its tasks' matrices.
    AverageSourceTasks,
    /// A first stage's prompt and the matrices of one of its tasks.
    ExactSourceTask,
    /// A first stage's prompt.
    OnlySourceShared,
}

impl Default for MultitaskConfig {
    fn default() -> Self {
        MultitaskConfig {
            prompt: PromptFields::default(),
            num_tasks: 1,
            num_ranks: 1,
            prompt_tuning_init: MultitaskInit::Random,
            prompt_tuning_init_text: None,
            tokenizer_name_or_path: None,
            prompt_tuning_init_state_dict_path: None,
            prompt_tuning_init_task: 0,
            stored: false,
        }
    }
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        PromptFields::recommend(&mut fields);
    }
    let mut config: MultitaskConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    config.stored = origin == Origin::File;
    config.prompt.check(METHOD.name)?;
    config.first().check(METHOD.name)?;
    check_rank(METHOD.name, "num_ranks", config.num_ranks)?;
    if config.num_tasks == 0 {
        return Err(wrong(METHOD.name, "num_tasks", "0", "1 or more"));
    }
    if config.has_source() && config.num_tasks != 1 && config.prompt_tuning_init != MultitaskInit::OnlySourceShared {
        return Err(wrong(METHOD.name, "num_tasks", config.num_tasks.to_string(), "1: a second stage has one task"));
    }
    Ok(Arc::new(config))
}

impl MultitaskConfig {
    fn has_source(&self) -> bool {
        use MultitaskInit::*;
        matches!(self.prompt_tuning_init, AverageSourceTasks | ExactSourceTask | OnlySourceShared) && !self.stored
    }

    fn first(&self) -> FirstPrompt {
        FirstPrompt {
            prompt_tuning_init: match self.prompt_tuning_init {
                MultitaskInit::Text => PromptInit::Text,
                MultitaskInit::SampleVocab => PromptInit::SampleVocab,
                _ => PromptInit::Random,
            },
            prompt_tuning_init_text: self.prompt_tuning_init_text.clone(),
            tokenizer_name_or_path: self.tokenizer_name_or_path.clone(),
            stored: self.stored,
            ..FirstPrompt::default()
        }
    }

    /// First values of `P`, `U` and `V`.
    fn init(&self, base: &Base) -> Result<[Init; 3], EditError> {
        let (tokens, hidden) = (self.prompt.num_virtual_tokens, base.geometry.hidden);
        let small = || Init::Normal { std: 0.02 };
        if !self.has_source() {
            return Ok([self.first().init(METHOD.name, base, tokens)?, small(), small()]);
        }
        let Some(path) = &self.prompt_tuning_init_state_dict_path else {
            let expected = "the `.safetensors` file of a trained first stage";
            return Err(wrong(METHOD.name, "prompt_tuning_init_state_dict_path", "nothing", expected));
        };
        let mut file = TensorFile::read(Path::new(path))?;
        let known = |value: Tensor| Init::Computed(Box::new(move |_: &Base| value.clone()));
        let prompt = known(file.tensor(PROMPT, &[tokens, hidden])?);
        if self.prompt_tuning_init == MultitaskInit::OnlySourceShared {
            return Ok([prompt, small(), small()]);
        }
        let tasks = file.shape(COLUMNS).and_then(|shape| shape.first().copied()).unwrap_or(0);
        let columns = file.tensor(COLUMNS, &[tasks, tokens, self.num_ranks])?;
        let rows = file.tensor(ROWS, &[tasks, self.num_ranks, hidden])?;
        let (from, to) = match self.prompt_tuning_init {
            MultitaskInit::AverageSourceTasks => (0, tasks),
            _ => (self.prompt_tuning_init_task, self.prompt_tuning_init_task + 1),
        };
        if from >= to || to > tasks {
            let found = self.prompt_tuning_init_task.to_string();
            return Err(wrong(
                METHOD.name,
                "prompt_tuning_init_task",
                found,
                format!("a task of the source's {tasks}"),
            ));
        }
        Ok([prompt, known(mean(&columns, from..to)), known(mean(&rows, from..to))])
    }
}

/// The mean of entries `range` of the first axis, which stays as an axis of one.
fn mean(tensor: &Tensor, range: std::ops::Range<usize>) -> Tensor {
    let dims = [1, tensor.dim(1), tensor.dim(2)];
    let (size, count) = (dims[1] * dims[2], range.len() as f32);
    let mut sum = vec![0f32; size];
    for entry in tensor.as_slice::<f32>().chunks(size.max(1)).skip(range.start).take(range.len()) {
        sum.iter_mut().zip(entry).for_each(|(sum, value)| *sum += value / count);
    }
    Tensor::from_slice(dims, &sum)
}

impl Method for MultitaskConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let (tokens, hidden) = (self.prompt.num_virtual_tokens, base.geometry.hidden);
        let prompt = self.prompt.sized(METHOD.name, base, (hidden, base.geometry.query_heads))?;
        let mut config = config::to_map(&MultitaskConfig { prompt, ..self.clone() });
        if self.prompt_tuning_init == MultitaskInit::Text {
            config.insert("tokenizer_name_or_path".into(), json!(base.reference));
        }
        write_inert(&mut config, INERT);
        let [prompt, columns, rows] = self.init(base)?;
        let params = vec![
            ParamPlan::new(COLUMNS, &[self.num_tasks, tokens, self.num_ranks], columns),
            ParamPlan::new(ROWS, &[self.num_tasks, self.num_ranks, hidden], rows),
            ParamPlan::new(PROMPT, &[tokens, hidden], prompt),
        ];
        Ok(Plan { config, params, placed: vec![at_virtual_tokens(TaskPrompts, vec![0, 1, 2])] })
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn default_learning_rate(&self) -> f64 {
        0.03
    }

    fn virtual_tokens(&self) -> usize {
        self.prompt.num_virtual_tokens
    }

    fn virtual_token_sharing(&self) -> Sharing {
        if self.num_tasks > 1 { Sharing::Group } else { Sharing::All }
    }

    fn groups(&self) -> Option<usize> {
        (self.num_tasks > 1).then_some(self.num_tasks)
    }
}

/// `P_t` for each block of virtual tokens. Whoever names a task has asked whether there is one (`check_group`).
struct TaskPrompts;

impl Part for TaskPrompts {
    fn virtual_embeddings(&self, at: &At) -> Option<Var> {
        let [columns, rows, prompt] = at.values else { unreachable!("three values") };
        let tape = &at.cx.tape;
        let tasks = columns.value.dim(0);
        let groups = at.row_groups();
        let of_blocks: Vec<usize> =
            at.virtual_rows().iter().map(|block| (groups[block.start] as usize).min(tasks - 1)).collect();
        let made: Vec<Option<Var>> = (0..tasks)
            .map(|task| {
                let of_task = |all: &Var| {
                    let dims = all.value.dims()[1..].to_vec();
                    ops::reshape(tape, &ops::rows(tape, all, task..task + 1), &dims)
                };
                let factor = || ops::product(tape, &of_task(columns), &of_task(rows));
                of_blocks.contains(&task).then(|| scaled(at, ops::multiply(tape, prompt, &factor())))
            })
            .collect();
        let blocks: Vec<Var> = of_blocks.iter().filter_map(|task| made[*task].clone()).collect();
        Some(ops::concat_rows(tape, &blocks))
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(NO_WEIGHT.into())
    }
}
