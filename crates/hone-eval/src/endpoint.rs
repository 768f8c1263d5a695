//! Tasks put to a server that speaks OpenAI's protocol (`/completions`, and `/chat/completions` with the chat template): what it
//! writes is filtered and scored as what a model here writes. For tasks with written answers only: servers do not give the
//! log-likelihood of a text that is not theirs.
//!
//! A bounded number of requests is in flight. One that fails for a reason that may pass (no answer in time, a broken connection, 408,
//! 429, 5xx, an answer that is no answer) is asked again, after 1, 2, 4 … seconds, or as many as the server asks for. What becomes
//! of one that fails for good depends on whose fault it is ([`wave`]): an example that this server does not answer gets a row that
//! says so and counts as wrong; a server that answers nobody ends the evaluation. What is done stays, up to the first example that is
//! still to be asked, and the same command goes on there.
//!
//! What is not known: which weights answer, in which type, whether greedy decoding is deterministic there, and whether a prompt was
//! cut. Stop texts are sent (the protocol allows four) and applied again here. With the chat template a question with its shots is
//! one message of the user's; the server's template does the rest.

mod wave;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::EvalError;
use crate::evaluate::{Done, EvalOptions, MAX_GEN_TOKS, Progress, Subject, Summary, WAVE, check_gold, header};
use crate::metrics::Kind;
use crate::resume::Sink;
use crate::rewards::Rewards;
use crate::rewards::ratings::RatingQuestion;
use crate::rows;
use crate::scorecard::{Scorecard, ScorecardRow};
use crate::tally::Tally;
use crate::task::{Item, PromptOptions, Prompts, Question, Task};
use wave::{Asker, Had};

/// Stop texts that the protocol allows.
const STOPS: usize = 4;

/// A server, and how it is asked.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Up to the version: `http://localhost:8000/v1`.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// Sent as a bearer token.
    pub key: Option<String>,
    /// Requests at once.
    pub in_flight: usize,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How often a request is tried again.
    pub retries: u32,
    /// The wait before the first of them; it doubles.
    pub first_wait: Duration,
}

impl Endpoint {
    /// A server by its address, with defaults for the rest.
    pub fn new(url: &str, model: &str) -> Endpoint {
        Endpoint {
            url: url.trim_end_matches('/').into(),
            model: model.into(),
            key: None,
            in_flight: 4,
            timeout: Duration::from_secs(120),
            retries: 5,
            first_wait: Duration::from_secs(1),
        }
    }

    /// What scorecards say of it.
    pub fn subject(&self) -> Subject {
        let model = format!("openai:{} {}", self.url, self.model);
        Subject { model, model_sha256: String::new(), dtype: "the server's".into() }
    }

    /// Whether a server can be asked the task so: said before the first question of any task.
    ///
    /// # Errors
    /// Those of [`EvalOptions::allow`]; or the task needs log-likelihoods, or a reasoning that goes on, or rewards that are no ratings.
    pub fn check(&self, task: &Task, options: &EvalOptions) -> Result<(), EvalError> {
        options.allow(task)?;
        let problem = |place: &str, problem: String| {
            Err(EvalError::TaskFile { file: task.file.clone(), place: place.into(), problem })
        };
        match &options.rewards {
            Some(Rewards::Ratings(_)) => {}
            Some(_) => {
                let what = "a server gives no rewards of this kind; ask it for `--rewards ratings`";
                return problem("rewards", what.into());
            }
            None if task.kind != Kind::GenerateUntil => {
                let kind = task.kind.name();
                let what = format!(
                    "a server is asked for written answers only, and this task is `{kind}`; evaluate it with a model here"
                );
                return problem("output_type", what);
            }
            None => {}
        }
        if task.config.reasoning.is_some() {
            let what = "a server does not go on from a reasoning that was changed; evaluate the task with a model here";
            return problem("reasoning", what.into());
        }
        Ok(())
    }

    /// The rows of a task behind those that are `done`, wave by wave; of a wave that ends before its end those that are there.
    pub fn ask(
        &self,
        task: &Task,
        options: &EvalOptions,
        done: Done,
        progress: &mut dyn FnMut(&Progress<'_>),
        stop: &AtomicBool,
        sink: &mut Sink<'_>,
    ) -> Result<Summary, EvalError> {
        self.check(task, options)?;
        let prompt_options = PromptOptions {
            num_fewshot: options.num_fewshot,
            seed: options.seed,
            multiturn: false,
            // It is a message of its own in a chat, and a part of the text otherwise.
            system_instruction: options.system_instruction.clone().filter(|_| !options.chat_template),
            whole_turns: false,
        };
        let mut prompts = Prompts::new(task, None, &prompt_options)?;
        let total = options.limit.unwrap_or(usize::MAX).min(task.docs.len());
        (0..done.examples).try_for_each(|index| prompts.skip(index))?;
        let mut asker = Asker::new(self, options, stop);
        for from in (done.examples..total).step_by(WAVE) {
            let items: Vec<Item> = (from..total.min(from + WAVE)).map(|i| prompts.item(i)).collect::<Result<_, _>>()?;
            if from == 0 {
                check_gold(task, &items)?;
            }
            asker.earlier = from;
            let mut report = |in_wave: usize| {
                let done = from + in_wave;
                progress(&Progress { task: task.name(), done, total });
                match stop.load(Ordering::Relaxed) {
                    true => Err(EvalError::Stopped { task: task.name().into(), done, total }),
                    false => Ok(()),
                }
            };
            let (rows, ended) = match &options.rewards {
                Some(Rewards::Ratings(question)) => rated(&mut asker, question, task, &items, &mut report)?,
                _ => written(&mut asker, task, &items, &mut report)?,
            };
            if !rows.is_empty() {
                let through = Done { examples: from + rows.len(), truncated: 0 };
                sink(rows, through)?;
            }
            if let Some(error) = ended {
                return Err(error);
            }
        }
        Ok(Summary { shots: prompts.shots(), truncated: 0 })
    }

    /// A task's scorecard in memory.
    pub fn card(
        &self,
        task: &Task,
        options: &EvalOptions,
        progress: &mut dyn FnMut(&Progress<'_>),
        stop: &AtomicBool,
    ) -> Result<Scorecard, EvalError> {
        let started = Instant::now();
        let mut rows = Vec::new();
        let summary = self.ask(task, options, Done::default(), progress, stop, &mut |wave, _| {
            rows.extend(wave);
            Ok(())
        })?;
        let header =
            header(&self.subject(), task, options, summary, &Tally::of(&rows), started.elapsed().as_secs_f64())?;
        Ok(Scorecard { header, rows })
    }

    fn error(&self, options: &EvalOptions, item: &Item, problem: String) -> EvalError {
        EvalError::Endpoint { url: self.place(options), problem: format!("example {}: {problem}", item.id) }
    }

    fn place(&self, options: &EvalOptions) -> String {
        let path = if options.chat_template { "chat/completions" } else { "completions" };
        format!("{}/{path}", self.url)
    }

    /// What is sent for an example.
    fn body(&self, task: &Task, item: &Item, options: &EvalOptions, repeat: usize) -> Value {
        let settings = &task.config.generation_kwargs;
        let samples = settings.do_sample == Some(true);
        let Question::Generate { context, .. } = &item.question else { return Value::Null };
        let mut body = json!({
            "model": self.model,
            "max_tokens": settings.max_gen_toks.unwrap_or(MAX_GEN_TOKS),
            "temperature": if samples { settings.temperature.unwrap_or(1.0) } else { 0.0 },
            "stop": stops(task).into_iter().take(STOPS).collect::<Vec<_>>(),
            "seed": options.seed.wrapping_add(repeat as u64),
        });
        if samples {
            body["top_p"] = json!(settings.top_p.unwrap_or(1.0));
        }
        match options.chat_template {
            false => body["prompt"] = json!(context),
            true => {
                let system = options.system_instruction.iter().map(|text| json!({ "role": "system", "content": text }));
                let user = json!({ "role": "user", "content": context });
                body["messages"] = system.chain([user]).collect();
            }
        }
        body
    }
}

/// Rows of a wave from its first example on, and why they are not all.
type Rows = (Vec<ScorecardRow>, Option<EvalError>);

/// Rows of a wave that was asked for words.
fn written(
    asker: &mut Asker<'_>,
    task: &Task,
    items: &[Item],
    report: &mut dyn FnMut(usize) -> Result<(), EvalError>,
) -> Result<Rows, EvalError> {
    let runner = asker.options.code.as_deref();
    let (had, ended) = asker.wave(task, items, report);
    let row = |(item, had): (&Item, &Had)| match had {
        Ok(texts) => rows::of_texts(task, item, texts, runner),
        Err(why) => rows::unanswered(task, item, why, runner),
    };
    Ok((items.iter().zip(&had).map(row).collect::<Result<_, _>>()?, ended))
}

/// Rows of a wave whose choices were rated. A rating that could not be had is none, as a reply without a number.
fn rated(
    asker: &mut Asker<'_>,
    question: &RatingQuestion,
    task: &Task,
    items: &[Item],
    report: &mut dyn FnMut(usize) -> Result<(), EvalError>,
) -> Result<Rows, EvalError> {
    let texts = |had: &[Had]| -> Vec<Vec<String>> {
        had.iter().map(|had| had.clone().unwrap_or_else(|_| vec![String::new()])).collect()
    };
    let mut had: Vec<Had> = Vec::new();
    let whole = question.rows(task, items, None, &mut |asked, questions| {
        let each = (questions.len() / items.len().max(1)).max(1);
        let (answers, ended) = asker.wave(asked, questions, &mut |done| report(done / each));
        had = answers;
        ended.map_or_else(|| Ok(texts(&had)), Err)
    });
    // Where each example's ratings end.
    let choices = |item: &Item| match &item.question {
        Question::Choices { choices, .. } => choices.len(),
        _ => 0,
    };
    let ends: Vec<usize> = items
        .iter()
        .scan(0, |end, item| {
            *end += choices(item);
            Some(*end)
        })
        .collect();
    let (rows, ended) = match whole {
        Ok(rows) => (rows, None),
        Err(error) => {
            let whole = &items[..ends.partition_point(|end| *end <= had.len())];
            let rows = question.rows(task, whole, None, &mut |_, questions| Ok(texts(&had[..questions.len()])))?;
            (rows, Some(error))
        }
    };
    let marked = rows.into_iter().zip(items).zip(&ends).map(|((row, item), end)| {
        let own = &had[end - choices(item)..*end];
        match own.iter().enumerate().find_map(|(n, had)| Some((n + 1, had.as_ref().err()?))) {
            Some((n, why)) => rows::unrated(task, item, row, format!("answer {n}: {why}")),
            None => row,
        }
    });
    Ok((marked.collect(), ended))
}

/// Texts that end an answer.
fn stops(task: &Task) -> Vec<String> {
    let own = task.config.generation_kwargs.until.as_ref().map(|until| until.to_vec());
    let mut stops = own.unwrap_or_else(|| vec![task.config.fewshot_delimiter.clone()]);
    stops.retain(|stop| !stop.is_empty());
    stops
}
