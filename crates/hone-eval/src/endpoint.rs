//! Tasks put to a server that speaks OpenAI's protocol (`/completions`, and `/chat/completions` with the chat template): what it
//! writes is filtered and scored as what a model here writes. For tasks with written answers only: servers do not give the
//! log-likelihood of a text that is not theirs.
//!
//! A bounded number of requests is in flight. One that fails for a reason that may pass (no answer in time, a broken connection, 408,
//! 429, 5xx, an answer that is no answer) is asked again, after 1, 2, 4 … seconds, or as many as the server asks for. What becomes
//! of one that fails for good depends on whose fault it is ([`wave`]): an example that this server does not answer gets a row that
//! says so and counts as wrong; a server that answers nobody ends the evaluation. An example's row is made as soon as its last answer
//! is there, and stays: the same command asks only for those without one.
//!
//! What is not known: which weights answer, in which type, whether greedy decoding is deterministic there, and whether a prompt was
//! cut. Stop texts are sent (the protocol allows four) and applied again here. With the chat template a question with its shots is
//! one message of the user's; the server's template does the rest.

mod retry;
mod wave;

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::EvalError;
use crate::evaluate::{
    Course, Done, EvalOptions, Finished, MAX_GEN_TOKS, Progress, Sink, Subject, Summary, Wave, header, in_order,
};
use crate::metrics::Kind;
use crate::rewards::Rewards;
use crate::rewards::ratings::RatingQuestion;
use crate::rows;
use crate::scorecard::Scorecard;
use crate::tally::Tally;
use crate::task::{Item, PromptOptions, Prompts, Question, Task};
use wave::{Asker, Earlier, Had};

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
    /// Those of [`EvalOptions::allow`]; or the task needs log-likelihoods, a way of picking tokens that the protocol has no word for, or
    /// a reasoning that goes on, or rewards that are no ratings.
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
        if let Some(setting) = unsayable(task).filter(|_| options.rewards.is_none()) {
            let what = "the protocol has no field for it, and a server would pick its tokens otherwise; leave it out, or evaluate \
                        the task with a model here";
            return problem(&format!("generation_kwargs.{setting}"), what.into());
        }
        if task.config.reasoning.is_some() {
            let what = "a server does not go on from a reasoning that was changed; evaluate the task with a model here";
            return problem("reasoning", what.into());
        }
        Ok(())
    }

    /// The prompts of a task; the server puts them through a chat template, if there is one.
    pub(crate) fn prompts<'a>(task: &'a Task, options: &EvalOptions) -> Result<Prompts<'a>, EvalError> {
        let prompt_options = PromptOptions {
            num_fewshot: options.num_fewshot,
            seed: options.seed,
            multiturn: false,
            // It is a message of its own in a chat, and a part of the text otherwise.
            system_instruction: options.system_instruction.clone().filter(|_| !options.chat_template),
            whole_turns: false,
            route: None,
        };
        Prompts::new(task, None, &prompt_options)
    }

    /// The rows of a task but those that are `done`, each as soon as it is made.
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
        let mut prompts = Endpoint::prompts(task, options)?;
        let total = options.limit.unwrap_or(usize::MAX).min(task.docs.len());
        let mut course = Course::begin(task, &mut prompts, total, done, progress, stop, sink)?;
        let mut asker = Asker::new(self, options, stop);
        while let Some(wave) = course.wave(&mut prompts)? {
            match &options.rewards {
                Some(Rewards::Ratings(question)) => rated(&mut asker, question, task, &wave, &mut course)?,
                _ => written(&mut asker, task, &wave, &mut course)?,
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
        let mut finished = Vec::new();
        let summary = self.ask(task, options, Done::default(), progress, stop, &mut |examples| {
            finished.extend(examples);
            Ok(())
        })?;
        let rows = in_order(finished);
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
        let picking = settings.picking();
        let Question::Generate { context, .. } = &item.question else { return Value::Null };
        let mut body = json!({
            "model": self.model,
            "max_tokens": settings.max_gen_toks.unwrap_or(MAX_GEN_TOKS),
            "temperature": picking.temperature,
            "stop": task.answer_stops().into_iter().take(STOPS).collect::<Vec<_>>(),
            "seed": options.seed.wrapping_add(repeat as u64),
        });
        if settings.draws() {
            body["top_p"] = json!(picking.top_p);
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

/// Asks for the words of a wave.
fn written(asker: &mut Asker<'_>, task: &Task, wave: &Wave, course: &mut Course<'_>) -> Result<(), EvalError> {
    let runner = asker.options.code.as_deref();
    let items = wave.left();
    let earlier = Earlier { examples: wave.from, in_wave: wave.items.len() - items.len() };
    let (had, ended) = asker.wave(task, &items, earlier, &mut |answered| {
        let Some((n, texts)) = answered else { return course.report() };
        course.finish(vec![wave.finished(n, rows::of_texts(task, items[n], &texts, runner)?, 0)])
    });
    let missing = had.iter().zip(&items).enumerate().filter_map(|(n, (had, item))| {
        let Had::Missing(why) = had else { return None };
        Some(rows::unanswered(task, item, why, runner).map(|row| wave.finished(n, row, 0)))
    });
    finish_all(course, missing.collect::<Result<_, _>>()?, ended)
}

/// Asks for ratings of a wave's choices. A rating that could not be had is none, as a reply without a number.
fn rated(
    asker: &mut Asker<'_>,
    question: &RatingQuestion,
    task: &Task,
    wave: &Wave,
    course: &mut Course<'_>,
) -> Result<(), EvalError> {
    let asked = question.about(&wave.items, &task.file, None)?;
    // The questions about what is left, and which are about which example.
    let mut questions: Vec<&Item> = Vec::new();
    let mut own = Vec::with_capacity(wave.left.len());
    for &at in &wave.left {
        let from = questions.len();
        questions.extend(&asked.questions[asked.of(at)]);
        own.push(from..questions.len());
    }
    let of = |n: usize| own[n].clone();
    let row = |n: usize, replies: &[Option<Vec<String>>]| {
        let none = vec![String::new()];
        let replies = replies[of(n)].iter().map(|reply| reply.as_ref().unwrap_or(&none));
        question.row(&asked, task, &wave.items[wave.left[n]], replies)
    };
    let earlier = Earlier { examples: wave.from, in_wave: asked.questions.len() - questions.len() };
    let mut replies: Vec<Option<Vec<String>>> = vec![None; questions.len()];
    let (had, ended) = asker.wave(&asked.task, &questions, earlier, &mut |answered| {
        let Some((place, texts)) = answered else { return course.report() };
        replies[place] = Some(texts);
        let n = own.partition_point(|own| own.end <= place);
        match replies[of(n)].iter().all(Option::is_some) {
            true => course.finish(vec![wave.finished(n, row(n, &replies)?, 0)]),
            false => course.report(),
        }
    });
    // What lacks a rating for good.
    let missing = (0..wave.left.len()).filter_map(|n| {
        let had = &had[of(n)];
        let why = had.iter().enumerate().find_map(|(i, had)| match had {
            Had::Missing(why) => Some(format!("answer {}: {why}", i + 1)),
            _ => None,
        })?;
        let is_over = had.iter().all(|had| !matches!(had, Had::Nothing));
        let unrated = |row| rows::unrated(task, &wave.items[wave.left[n]], row, why);
        is_over.then(|| row(n, &replies).map(|row| wave.finished(n, unrated(row), 0)))
    });
    finish_all(course, missing.collect::<Result<_, _>>()?, ended)
}

/// Hands over what is there at the end of a wave, and says why it ended early, if it did.
fn finish_all(course: &mut Course<'_>, examples: Vec<Finished>, ended: Option<EvalError>) -> Result<(), EvalError> {
    let finished = if examples.is_empty() { Ok(()) } else { course.finish(examples) };
    ended.map_or(finished, Err)
}

/// A setting that changes which tokens are picked and for which the protocol has no field.
fn unsayable(task: &Task) -> Option<&'static str> {
    let picking = task.config.generation_kwargs.picking();
    let settings = [
        ("top_k", picking.top_k > 0),
        ("min_p", picking.min_p > 0.0),
        ("repetition_penalty", picking.repetition_penalty != 1.0),
    ];
    settings.into_iter().find(|(_, changes)| *changes).map(|(name, _)| name)
}
