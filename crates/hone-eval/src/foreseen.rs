//! Whether an evaluation will compare with a scorecard that is kept, said before anything is scored: its settings, which are known
//! without the model, and then its first prompts, which also tell another chat template or system message.
//!
//! What it does not know: prompts further on than [`FIRST`], and those of reasoning in stages, which depend on what is written.

use hone_model::Model;

use crate::endpoint::Endpoint;
use crate::error::EvalError;
use crate::evaluate::{EvalOptions, prompts_of};
use crate::pairing::{check_same_prompts, check_same_questions};
use crate::rows::empty_row;
use crate::scorecard::{Scorecard, ScorecardHeader};
use crate::task::{Prompts, Task};

/// So many prompts are compared.
const FIRST: usize = 32;

/// The settings of an evaluation of `task` beside those of the card of `base`.
///
/// # Errors
/// They ask other questions; the message says what differs.
pub fn check_settings(base: &ScorecardHeader, task: &Task, options: &EvalOptions) -> Result<(), EvalError> {
    let planned = ScorecardHeader {
        task: task.name().into(),
        version: task.config.version(),
        task_sha256: task.sha256(),
        definition: task.definition(),
        data_sha256: Some(task.data_sha256.clone()),
        kind: task.kind.name().into(),
        num_fewshot: task.shots(options.num_fewshot),
        fewshot_seed: options.seed,
        chat_template: options.chat_template,
        main_metric: task.main_metric()?,
        ..ScorecardHeader::default()
    };
    check_same_questions(base, &planned)
}

/// The first prompts of an evaluation of a `model` beside those of the card.
///
/// # Errors
/// Some differ; or they cannot be made.
pub fn check_prompts(base: &Scorecard, task: &Task, options: &EvalOptions, model: &Model) -> Result<(), EvalError> {
    check(base, task, options, prompts_of(task, options, options.template(task, model)?)?)
}

/// The same for a model behind a server.
///
/// # Errors
/// Those of [`check_prompts`].
pub fn check_asked(base: &Scorecard, task: &Task, options: &EvalOptions) -> Result<(), EvalError> {
    check(base, task, options, Endpoint::prompts(task, options)?)
}

fn check(base: &Scorecard, task: &Task, options: &EvalOptions, mut prompts: Prompts<'_>) -> Result<(), EvalError> {
    if task.config.reasoning.is_some() {
        return Ok(());
    }
    let count = task.docs.len().min(options.limit.unwrap_or(usize::MAX)).min(FIRST);
    let planned = (0..count).map(|i| Ok(empty_row(&prompts.item(i)?))).collect::<Result<Vec<_>, EvalError>>()?;
    let kept = |id: &str| base.rows.iter().take(FIRST).find(|row| row.id == id);
    let pairs: Vec<_> = planned.iter().filter_map(|row| Some((kept(&row.id)?, row))).collect();
    check_same_prompts(task.name(), &pairs)
}
