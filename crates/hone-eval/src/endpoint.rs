//! Tasks put to a server that speaks OpenAI's protocol (`/completions`, and `/chat/completions` with the chat template): what it
//! writes is filtered and scored as what a model here writes. For tasks with written answers only: servers do not give the
//! log-likelihood of a text that is not theirs.
//!
//! A bounded number of requests is in flight. One that fails for a reason that may pass (no answer in time, a broken connection, 408,
//! 429, 5xx, an answer that is no answer) is asked again, after 1, 2, 4 … seconds, or as many as the server asks for. One that is
//! refused for good ends the evaluation; what is done stays, and the same command goes on.
//!
//! What is not known: which weights answer, in which type, whether greedy decoding is deterministic there, and whether a prompt was
//! cut. Stop texts are sent (the protocol allows four) and applied again here. With the chat template a question with its shots is
//! one message of the user's; the server's template does the rest.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::EvalError;
use crate::evaluate::{Done, EvalOptions, MAX_GEN_TOKS, Progress, Subject, Summary, WAVE, cut_at_stops, header};
use crate::metrics::Kind;
use crate::resume::Sink;
use crate::rewards::Rewards;
use crate::rows;
use crate::scorecard::Scorecard;
use crate::tally::Tally;
use crate::task::{Item, PromptOptions, Prompts, Question, Task};

/// Stop texts that the protocol allows.
const STOPS: usize = 4;
/// Longest answer read, in bytes.
const MAX_ANSWER: u64 = 16 << 20;
/// Longest wait before another try.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

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

/// Why a request has no answer.
enum Trouble {
    /// It may pass: what it was, and how long the server asks to wait.
    Passing(String, Option<Duration>),
    /// It will not.
    Lasting(String),
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

    /// The rows of a task behind those that are `done`, wave by wave.
    pub fn ask(
        &self,
        task: &Task,
        options: &EvalOptions,
        done: Done,
        progress: &mut dyn FnMut(&Progress<'_>),
        stop: &AtomicBool,
        sink: &mut Sink<'_>,
    ) -> Result<Summary, EvalError> {
        options.allow(task)?;
        let ratings = match &options.rewards {
            None => None,
            Some(Rewards::Ratings(question)) => Some(question),
            Some(_) => {
                let problem = "a server gives no rewards of this kind; ask it for `--rewards ratings`".into();
                return Err(EvalError::TaskFile { file: task.file.clone(), place: "rewards".into(), problem });
            }
        };
        if ratings.is_none() && task.kind != Kind::GenerateUntil {
            let problem = format!(
                "a server is asked for written answers only, and this task is `{}`; evaluate it with a model here",
                task.kind.name()
            );
            return Err(EvalError::TaskFile { file: task.file.clone(), place: "output_type".into(), problem });
        }
        if task.config.reasoning.is_some() {
            let problem =
                "a server does not go on from a reasoning that was changed; evaluate the task with a model here".into();
            return Err(EvalError::TaskFile { file: task.file.clone(), place: "reasoning".into(), problem });
        }
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
        let agent = ureq::AgentBuilder::new().timeout(self.timeout).build();
        for from in (done.examples..total).step_by(WAVE) {
            let items: Vec<Item> = (from..total.min(from + WAVE)).map(|i| prompts.item(i)).collect::<Result<_, _>>()?;
            let mut report = |in_wave: usize| {
                let done = from + in_wave;
                progress(&Progress { task: task.name(), done, total });
                match stop.load(Ordering::Relaxed) {
                    true => Err(EvalError::Stopped { task: task.name().into(), done, total }),
                    false => Ok(()),
                }
            };
            let through = Done { examples: from + items.len(), truncated: 0 };
            if let Some(question) = ratings {
                let rows = question.rows(task, &items, None, &mut |asked, questions| {
                    let each = questions.len() / items.len().max(1);
                    let mut report = |done: usize| report(done / each.max(1));
                    self.wave(&agent, asked, questions, options, &mut report, stop)
                })?;
                sink(rows, through)?;
                continue;
            }
            let responses = self.wave(&agent, task, &items, options, &mut report, stop)?;
            let rows = items
                .iter()
                .zip(&responses)
                .map(|(item, texts)| rows::of_texts(task, item, texts, options.code.as_deref()));
            sink(rows.collect::<Result<_, _>>()?, through)?;
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

    /// The answers to a wave of questions, in their order, each as often as the task repeats.
    fn wave(
        &self,
        agent: &ureq::Agent,
        task: &Task,
        items: &[Item],
        options: &EvalOptions,
        report: &mut dyn FnMut(usize) -> Result<(), EvalError>,
        stop: &AtomicBool,
    ) -> Result<Vec<Vec<String>>, EvalError> {
        report(0)?;
        let repeats = task.config.repeats.max(1);
        let asked = items.len() * repeats;
        let bodies: Vec<Value> =
            (0..asked).map(|at| self.body(task, &items[at / repeats], options, at % repeats)).collect();
        let (next, given_up) = (AtomicUsize::new(0), AtomicBool::new(false));
        let mut responses: Vec<Vec<Option<String>>> = vec![vec![None; repeats]; items.len()];
        std::thread::scope(|scope| {
            let (answers, incoming) = mpsc::channel();
            for _ in 0..self.in_flight.clamp(1, asked.max(1)) {
                let (answers, next, given_up, bodies) = (answers.clone(), &next, &given_up, &bodies);
                scope.spawn(move || {
                    let over = || stop.load(Ordering::Relaxed) || given_up.load(Ordering::Relaxed);
                    while !over() {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(body) = bodies.get(at) else { break };
                        if answers.send((at, self.answered(agent, options, body, &over))).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(answers);
            let mut outcome = Ok(());
            let mut done = 0;
            for (at, answer) in incoming {
                done += 1;
                let step = match answer {
                    Ok(text) => {
                        responses[at / repeats][at % repeats] = Some(cut_at_stops(text, &stops(task)));
                        report(done / repeats)
                    }
                    Err(problem) => Err(self.error(options, &items[at / repeats], problem)),
                };
                if step.is_err() && outcome.is_ok() {
                    given_up.store(true, Ordering::Relaxed);
                    outcome = step;
                }
            }
            outcome
        })?;
        // Without an error every question has its answers, unless the user stopped between two of them.
        let whole: Option<Vec<Vec<String>>> =
            responses.into_iter().map(|own| own.into_iter().collect::<Option<Vec<String>>>()).collect();
        match whole {
            Some(whole) => Ok(whole),
            None => report(0).and_then(|()| Err(self.error(options, &items[0], "no answer".into()))),
        }
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

    /// The answer to `body`, after as many tries as it takes; `Err` says why there is none.
    fn answered(
        &self,
        agent: &ureq::Agent,
        options: &EvalOptions,
        body: &Value,
        over: &dyn Fn() -> bool,
    ) -> Result<String, String> {
        let mut wait = self.first_wait;
        let mut tries = 0;
        loop {
            let (problem, asked) = match self.once(agent, options, body) {
                Ok(text) => return Ok(text),
                Err(Trouble::Lasting(problem)) => return Err(problem),
                Err(Trouble::Passing(problem, asked)) => (problem, asked),
            };
            if tries == self.retries || over() {
                return Err(format!("{problem} (tried {} times)", tries + 1));
            }
            tries += 1;
            let until = Instant::now() + asked.unwrap_or(wait).min(LONGEST_WAIT);
            // In small pieces, so that Ctrl-C does not wait.
            while Instant::now() < until && !over() {
                std::thread::sleep(Duration::from_millis(50).min(until.saturating_duration_since(Instant::now())));
            }
            wait *= 2;
        }
    }

    fn once(&self, agent: &ureq::Agent, options: &EvalOptions, body: &Value) -> Result<String, Trouble> {
        let mut request = agent.post(&self.place(options)).set("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.set("Authorization", &format!("Bearer {key}"));
        }
        match request.send_string(&body.to_string()) {
            Ok(response) => {
                let mut text = String::new();
                let read = response.into_reader().take(MAX_ANSWER).read_to_string(&mut text);
                read.map_err(|error| Trouble::Passing(format!("the answer broke off: {error}"), None))?;
                let answer: Value = serde_json::from_str(&text).map_err(|error| {
                    Trouble::Passing(format!("the answer is no JSON ({error}): {}", start(&text)), None)
                })?;
                let written = match options.chat_template {
                    true => answer.pointer("/choices/0/message/content"),
                    false => answer.pointer("/choices/0/text"),
                };
                let written = written.and_then(Value::as_str).map(str::to_owned);
                written.ok_or_else(|| Trouble::Passing(format!("the answer holds no text: {}", start(&text)), None))
            }
            Err(ureq::Error::Status(code, response)) => {
                let asked = response.header("Retry-After").and_then(|seconds| seconds.parse().ok());
                let mut text = String::new();
                // What the server says besides its status is only shown.
                let _ = response.into_reader().take(MAX_ANSWER).read_to_string(&mut text);
                let problem = format!("status {code}: {}", start(&text));
                match code {
                    408 | 429 | 500.. => Err(Trouble::Passing(problem, asked.map(Duration::from_secs))),
                    _ => Err(Trouble::Lasting(format!("{problem}; mend the request or the address"))),
                }
            }
            Err(ureq::Error::Transport(error)) => Err(Trouble::Passing(error.to_string(), None)),
        }
    }
}

/// Texts that end an answer.
fn stops(task: &Task) -> Vec<String> {
    let own = task.config.generation_kwargs.until.as_ref().map(|until| until.to_vec());
    let mut stops = own.unwrap_or_else(|| vec![task.config.fewshot_delimiter.clone()]);
    stops.retain(|stop| !stop.is_empty());
    stops
}

/// The beginning of what a server said.
fn start(text: &str) -> String {
    const SHOWN: usize = 200;
    let text = text.trim();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None if text.is_empty() => "(nothing)".into(),
        None => text.into(),
    }
}
