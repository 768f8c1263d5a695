//! `hone eval`: a model on tasks, one scorecard a task.

mod tasks;

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hone_engine::DType;
use hone_eval::files::check_writable;
use hone_eval::resume::ask_into;
use hone_eval::rewards::Rewards;
use hone_eval::scorecard::Scorecard;
use hone_eval::task::group::{self, Loaded};
use hone_eval::{Applied, DataRoot, Endpoint, EvalError, EvalOptions, Task, evaluate, evaluate_to};
use hone_model::{Hooks, Model};
use hone_train::recipe::Recipe;

use super::gate::GateArguments;
use super::load::{ModelArguments, Ready, With};
use super::rewards::RewardArguments;
use super::routing::Routing;
use super::sandboxed::CodeArguments;
use crate::args::Common;
use crate::fail::Failure;
use crate::print::{outln, remark};
use crate::{interrupt, progress};
use tasks::each_task;

/// Arguments of `hone eval`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone eval smollm2-135m-instruct --tasks arc_easy,boolq --limit 200 --out cards/base
  hone eval smollm2-135m-instruct --edit runs/first/adapter --tasks mytask.yaml --out cards/tuned
  hone eval smollm2-135m-instruct --route domain --edit-for law=runs/law/adapter --edit-for other= --tasks mixed.yaml --out cards/routed
  hone eval my-model --against openai:http://localhost:8000/v1 --tasks gsm8k --out cards/server
  hone eval my-model --tasks mytask.yaml,boolq --out cards/new --baseline cards/main   # exit code 3 if one got measurably worse
  hone eval my-reward-model --tasks rewards --rewards head --out cards/rewards        # whole answers, scored by a reward model
  hone eval --list                                                  # tasks that ship with hone")]
pub struct Eval {
    /// A Hugging Face directory, a GGUF file, or a name that `hone pull` knows.
    #[arg(required_unless_present = "list")]
    model: Option<String>,
    #[command(flatten)]
    with: With,
    #[command(flatten)]
    routing: Routing,
    /// Names of tasks, groups or tags, or files, separated by commas; DIR/NAME is one of the task files in DIR or below.
    #[arg(long, value_delimiter = ',', required_unless_present = "list")]
    tasks: Vec<String>,
    /// At most so many questions a task (the first ones).
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
    /// Examples in the prompt (default: what the task says).
    #[arg(long, value_name = "N")]
    num_fewshot: Option<usize>,
    /// Put prompts through the model's chat template (default: what the task says).
    #[arg(long, value_name = "BOOL")]
    chat_template: Option<bool>,
    /// Ask a server that speaks OpenAI's protocol instead of loading a model: `openai:http://localhost:8000/v1`. MODEL is then its
    /// name there, and the key is taken from `OPENAI_API_KEY`. For tasks with written answers.
    #[arg(long, value_name = "openai:URL", conflicts_with_all = ["edit", "quantize", "task_group"])]
    against: Option<String>,
    /// Requests to the server at once.
    #[arg(long, default_value = "4", value_name = "N", requires = "against")]
    in_flight: NonZeroUsize,
    /// How long an answer of the server may take.
    #[arg(long, default_value = "120", value_name = "SECONDS", requires = "against")]
    answer_timeout: NonZeroU64,
    /// Where the scorecards go. An evaluation that was stopped or killed goes on there with the same command.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    gate: GateArguments,
    #[command(flatten)]
    code: CodeArguments,
    #[command(flatten)]
    rewards: RewardArguments,
    /// List the tasks that ship with hone and end.
    #[arg(long)]
    list: bool,
}

/// How questions are asked.
pub struct Asked {
    /// Where the tasks' data are.
    pub root: DataRoot,
    /// Limits and shots.
    pub options: EvalOptions,
    /// Whether prompts go through the chat template; `None` is what each task says.
    pub chat_template: Option<bool>,
    /// Type to compute in.
    pub dtype: DType,
}

impl Asked {
    /// The options of one task.
    pub(super) fn options_for(&self, task: &Task, edit: Option<Applied>) -> EvalOptions {
        let chat_template = self.chat_template.or(task.config.chat_template).unwrap_or(false);
        EvalOptions { edit, chat_template, ..self.options.clone() }
    }

    /// As a recipe says.
    pub fn from_recipe(recipe: &Recipe, common: &Common) -> Asked {
        let place = |path: &String| recipe.directory.join(path);
        let root = common.data_root.clone().or_else(|| recipe.eval.data_root.as_ref().map(place));
        Asked {
            root: DataRoot::discover(root.as_deref()),
            options: EvalOptions {
                limit: recipe.eval.limit,
                num_fewshot: recipe.eval.num_fewshot,
                ..EvalOptions::default()
            },
            chat_template: recipe.eval.chat_template,
            dtype: recipe.eval.dtype.unwrap_or(recipe.train.dtype).into(),
        }
    }
}

/// Loads tasks, groups of tasks and tags by name or file, and says which members of them are left out. A task that is named twice, by two
/// tags say, is scored once, as in the harness; one that a group shares with anything else is refused, as there.
pub fn load_tasks(references: &[String], asked: &Asked) -> Result<Loaded, Failure> {
    let mut all = Loaded { tasks: Vec::new(), groups: Vec::new(), left_out: Vec::new() };
    // Of each task, the group that brought it.
    let mut brought: Vec<Option<String>> = Vec::new();
    for reference in references {
        let loaded = group::load(reference, &asked.root)?;
        let by = loaded.groups.first().map(|group| group.name.clone());
        for group in loaded.groups {
            if !all.groups.contains(&group) {
                all.groups.push(group);
            }
        }
        for left in loaded.left_out.into_iter().filter(|left| !all.left_out.contains(left)).collect::<Vec<_>>() {
            remark!("note: {} is left out: {}", left.name, left.reason);
            all.left_out.push(left);
        }
        for task in loaded.tasks {
            let Some(at) = all.tasks.iter().position(|other| other.name() == task.name()) else {
                note_of(&task);
                all.tasks.push(task);
                brought.push(by.clone());
                continue;
            };
            let name = task.name();
            if all.tasks[at].sha256() != task.sha256() {
                let hint = "scorecards are told apart by the task's name: give one of them another (`task:`)";
                return Err(Failure::user(format!("two different tasks are called `{name}`"), hint));
            }
            if brought[at] != by {
                let place = |group: &Option<String>| match group {
                    Some(group) => format!("in the group `{group}`"),
                    None => "on its own".to_owned(),
                };
                let cause = format!("task `{name}` is asked for twice, {} and {}", place(&brought[at]), place(&by));
                return Err(Failure::user(cause, "leave one of them out"));
            }
        }
    }
    Ok(all)
}

/// Says what a task's file asks for in vain.
fn note_of(task: &Task) {
    if task.config.fewshot_config.fewshot_indices.is_some() {
        remark!(
            "warning: task `{}`: `fewshot_indices` changes no shots, as in lm-evaluation-harness 0.4.13, which never reads it; `rows` \
             names the rows to draw from",
            task.name()
        );
    }
}

/// Scores one task with a progress bar. `None` when asked to stop.
#[allow(clippy::too_many_arguments)]
pub fn score_tasks(
    model: &Arc<Model>,
    hooks: &Arc<dyn Hooks>,
    edit: Option<Applied>,
    task: &Task,
    asked: &Asked,
    side: &str,
    stop: &AtomicBool,
    common: &Common,
) -> Result<Option<Scorecard>, Failure> {
    watched(task, asked.options_for(task, edit), side, common, |options, shown| {
        evaluate(model, Arc::clone(hooks), asked.dtype, task, options, shown, stop)
    })
}

/// What `score` gives for the options, with a progress bar it can move. `None` when it was asked to stop.
pub fn watched<T>(
    task: &Task,
    options: EvalOptions,
    side: &str,
    common: &Common,
    score: impl FnOnce(&EvalOptions, &mut dyn FnMut(&hone_eval::Progress<'_>)) -> Result<T, EvalError>,
) -> Result<Option<T>, Failure> {
    let bar = progress::bar(0, side, common.quiet || common.json);
    bar.set_message(task.name().to_owned());
    let mut shown = |at: &hone_eval::Progress<'_>| {
        bar.set_length(at.total as u64);
        bar.set_position(at.done as u64);
    };
    let scored = score(&options, &mut shown);
    bar.finish_and_clear();
    match scored {
        Ok(scored) => Ok(Some(scored)),
        Err(EvalError::Stopped { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Eval {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        if self.list {
            return list(common);
        }
        let Some(model) = self.model else {
            return Err(Failure::user("which model?", "name one: `hone eval MODEL --tasks …`"));
        };
        let mut asked = Asked {
            root: DataRoot::discover(common.data_root.as_deref()),
            options: EvalOptions {
                limit: self.limit.map(NonZeroUsize::get),
                num_fewshot: self.num_fewshot,
                code: self.code.runner(common)?,
                rewards: self.rewards.asked(&self.with, common)?,
                route: self.routing.asked()?,
                ..EvalOptions::default()
            },
            chat_template: self.chat_template,
            dtype: self.with.dtype,
        };
        let tasks = load_tasks(&self.tasks, &asked)?;
        tasks.tasks.iter().try_for_each(|task| asked.options.allow(task))?;
        // Not after an hour of scoring.
        self.out.as_deref().map_or(Ok(()), check_place)?;
        let gate = self.gate.ready(&tasks.tasks, &asked)?;
        // One JSON document: of what was scored, or of how it compares.
        let printed = if gate.is_some() && common.json { Shown::Nothing } else { Shown::Cards };
        let stop = interrupt::stop_flag();
        let (out, place) = (self.out.clone(), self.out.unwrap_or_default());
        let judged = |code: u8| match &gate {
            Some(gate) if code == 0 => gate.judge(&place, common),
            _ => Ok(code),
        };
        if let Some(server) = &self.against {
            let mut endpoint = endpoint(server, &model)?;
            (endpoint.in_flight, endpoint.timeout) =
                (self.in_flight.get(), Duration::from_secs(self.answer_timeout.get()));
            tasks.tasks.iter().try_for_each(|task| endpoint.check(task, &asked.options_for(task, None)))?;
            gate.iter().try_for_each(|gate| gate.check(&tasks.tasks, &asked, None))?;
            let code =
                each_task(&tasks, &asked, None, out, printed, common, &mut |place, task, options, shown| match place {
                    Some(place) => Ok((ask_into(place, &endpoint, task, options, shown, &stop)?, None)),
                    None => {
                        let card = endpoint.card(task, options, shown, &stop)?;
                        Ok((card.header.clone(), Some(card)))
                    }
                });
            return judged(code?);
        }
        let arguments = ModelArguments { model, with: self.with };
        let ready = if self.rewards.by_head() {
            let (ready, head) = arguments.load_reward_model(common)?;
            asked.options.rewards = Some(Rewards::Head(head.into()));
            ready
        } else {
            match &self.routing.route {
                // The stack has the edits for all as well: each is read once, and its notes are said once.
                Some(_) => {
                    let routed = |model: &Model| {
                        let stack = self.routing.stack(&arguments, model, common)?;
                        Ok(stack.hooks(arguments.with.dtype))
                    };
                    arguments.load_hooked(false, routed, common)?
                }
                None => arguments.load(common)?,
            }
        };
        gate.iter().try_for_each(|gate| gate.check(&tasks.tasks, &asked, Some(&ready.model)))?;
        let applied = self.routing.applied(arguments.applied()?)?;
        judged(score_ready(&arguments, applied, &ready, &tasks, &asked, out, &stop, printed, common)?)
    }
}

/// What is printed of scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Every task's metrics, as text or as JSON.
    Cards,
    /// Nothing but progress: another verb says what came out.
    Nothing,
}

/// Scores a model with its edits on tasks; the number is the exit code.
pub fn score_model(
    arguments: &ModelArguments,
    tasks: &Loaded,
    asked: &Asked,
    out: Option<PathBuf>,
    stop: &AtomicBool,
    shown: Shown,
    common: &Common,
) -> Result<u8, Failure> {
    let applied = arguments.applied()?;
    score_ready(arguments, applied, &arguments.load(common)?, tasks, asked, out, stop, shown, common)
}

/// The same for a model that is loaded, with what was put on it as scorecards name it.
#[allow(clippy::too_many_arguments)]
fn score_ready(
    arguments: &ModelArguments,
    edit: Option<Applied>,
    ready: &Ready,
    tasks: &Loaded,
    asked: &Asked,
    out: Option<PathBuf>,
    stop: &AtomicBool,
    shown: Shown,
    common: &Common,
) -> Result<u8, Failure> {
    let contents = match (&asked.options.route, &edit) {
        (Some(_), Some(routed)) => format!("{} {}", arguments.contents()?, routed.sha256),
        _ => arguments.contents()?,
    };
    let (model, dtype) = (&ready.model, asked.dtype);
    tasks.tasks.iter().try_for_each(|task| asked.options_for(task, None).allow_with(task, model))?;
    each_task(tasks, asked, edit, out, shown, common, &mut |place, task, options, progress| {
        let hooks = Arc::clone(&ready.hooks);
        match place {
            Some(place) => {
                Ok((evaluate_to(place, &contents, model, hooks, dtype, task, options, progress, stop)?, None))
            }
            None => {
                let card = evaluate(model, hooks, dtype, task, options, progress, stop)?;
                Ok((card.header.clone(), Some(card)))
            }
        }
    })
}

/// The server that `openai:URL` names.
pub fn endpoint(server: &str, model: &str) -> Result<Endpoint, Failure> {
    let url = server.strip_prefix("openai:").filter(|url| url.starts_with("http://") || url.starts_with("https://"));
    let Some(url) = url else {
        let hint = "write `--against openai:http://HOST:PORT/v1`, the address up to the version";
        return Err(Failure::user(format!("`{server}` names no server"), hint));
    };
    let key = std::env::var("OPENAI_API_KEY").ok().filter(|key| !key.is_empty());
    Ok(Endpoint { key, ..Endpoint::new(url, model) })
}

/// Where a task's scorecard goes.
pub fn card_path(out: &Path, task: &str) -> PathBuf {
    out.join(format!("{task}.jsonl"))
}

/// Whether files can be made in `directory`, which need not be there and is not left behind: an evaluation that comes to nothing makes
/// no directory.
fn check_place(directory: &Path) -> Result<(), Failure> {
    let missing: Vec<&Path> =
        directory.ancestors().take_while(|place| !place.as_os_str().is_empty() && !place.exists()).collect();
    let checked = check_writable(directory);
    // The innermost first; one that somebody else has put a file into by now stays.
    for place in missing {
        if std::fs::remove_dir(place).is_err() {
            break;
        }
    }
    Ok(checked?)
}

fn list(common: &Common) -> Result<u8, Failure> {
    let names: Vec<&str> = hone_eval::task::bundled::names().collect();
    if common.json {
        outln!("{}", serde_json::to_string(&names)?)?;
    } else {
        names.iter().try_for_each(|name| outln!("{name}"))?;
    }
    Ok(0)
}
