//! A wave of questions put to a server: what came back to each, and whose fault it is where nothing did.
//!
//! A request fails for good when it is refused (400, 413, 422), or when it has failed as often as it may. Then the fault is
//!
//! - the server's, where the next request would fare no better: no connection, 429, 502, 503, and what is about the address or the
//!   key (401, 403, 404 and the other statuses). The wave ends.
//! - the question's otherwise. It is not answered, and the wave goes on; unless more than half of the wave is not, or the first few
//!   are not and nobody was answered yet: then the fault is the server's after all.
//!
//! What it does not know: whether a server that fails for a minute would have answered the questions of that minute.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::ErrorKind;

use super::{Endpoint, retry};
use crate::error::EvalError;
use crate::evaluate::{EvalOptions, cut_at_stops};
use crate::task::{Item, Task};

/// Longest answer read, in bytes.
const MAX_ANSWER: u64 = 16 << 20;
/// Longest wait before another try.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Half of a wave of fewer examples than this says nothing of the server, if it was asked others before.
const FEW: usize = 8;
/// If so many questions, or as many as are asked at once, have no answer after all tries and none has one, nobody will have.
const FIRST: usize = 4;

/// What there is of a question at the end of a wave.
pub(super) enum Had {
    /// Its answers, which were handed over.
    Answers,
    /// It has none, and will have none: why.
    Missing(String),
    /// It is still to be asked.
    Nothing,
}

/// What was asked before a wave, whoever asked it.
#[derive(Clone, Copy, Default)]
pub(super) struct Earlier {
    /// Examples of earlier waves.
    pub examples: usize,
    /// Questions of this wave.
    pub in_wave: usize,
}

/// Why a try has no answer.
enum Trouble {
    /// It may pass: what it was, how long the server asks to wait, and whether it would be the same for every question.
    Passing { problem: String, wait: Option<Duration>, for_all: bool },
    /// This question is refused.
    Refused(String),
    /// So would be every other.
    Lasting(String),
}

/// What comes of a request.
enum Reply {
    Text(String),
    /// The question's fault.
    Missing(Missing),
    /// The server's fault.
    Wrong(String),
    /// The wave ended while it was waiting for another try.
    Interrupted,
}

/// Why a question has no answer.
struct Missing {
    problem: String,
    /// The server said so; it would say the same again.
    refused: bool,
}

/// Asks a server one wave after another.
pub(super) struct Asker<'a> {
    endpoint: &'a Endpoint,
    pub options: &'a EvalOptions,
    stop: &'a AtomicBool,
    agent: ureq::Agent,
    earlier: Earlier,
    /// Whether anything was answered.
    answered: bool,
}

impl<'a> Asker<'a> {
    pub fn new(endpoint: &'a Endpoint, options: &'a EvalOptions, stop: &'a AtomicBool) -> Asker<'a> {
        let agent = ureq::AgentBuilder::new().timeout(endpoint.timeout).build();
        Asker { endpoint, options, stop, agent, earlier: Earlier::default(), answered: false }
    }

    /// Asks the questions, each as often as the task repeats. `on` is called after every reply: with the answers to a question, by its
    /// place, as soon as all of them are there, else with nothing; it ends the wave by an error. What there is of each question, and
    /// why the wave ended early, if it did.
    pub fn wave(
        &mut self,
        task: &Task,
        items: &[&Item],
        earlier: Earlier,
        on: &mut dyn FnMut(Option<(usize, Vec<String>)>) -> Result<(), EvalError>,
    ) -> (Vec<Had>, Option<EvalError>) {
        self.earlier = earlier;
        let (endpoint, options, stop) = (self.endpoint, self.options, self.stop);
        let repeats = task.config.repeats.max(1);
        let sensitive = task.config.sensitive;
        let asked = items.len() * repeats;
        let bodies: Vec<Value> =
            (0..asked).map(|at| endpoint.body(task, items[at / repeats], options, at % repeats)).collect();
        let mut texts: Vec<Vec<Option<String>>> = vec![vec![None; repeats]; items.len()];
        let mut missing: Vec<Option<Missing>> = items.iter().map(|_| None).collect();
        let mut answered = vec![false; items.len()];
        let mut ended = on(None).err();
        let (next, given_up) = (AtomicUsize::new(0), AtomicBool::new(ended.is_some()));
        std::thread::scope(|scope| {
            let (replies, incoming) = mpsc::channel();
            for _ in 0..endpoint.in_flight.clamp(1, asked.max(1)) {
                let (replies, next, given_up, bodies) = (replies.clone(), &next, &given_up, &bodies);
                let agent = self.agent.clone();
                scope.spawn(move || {
                    let over = || stop.load(Ordering::Relaxed) || given_up.load(Ordering::Relaxed);
                    while !over() {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(body) = bodies.get(at) else { break };
                        let reply = endpoint.answered(&agent, options, (body, sensitive), &over);
                        if matches!(reply, Reply::Wrong(_)) {
                            given_up.store(true, Ordering::Relaxed);
                        }
                        if replies.send((at, reply)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(replies);
            for (at, reply) in incoming {
                let n = at / repeats;
                let step = match reply {
                    Reply::Text(text) => {
                        self.answered = true;
                        texts[n][at % repeats] = Some(cut_at_stops(text, &task.answer_stops()));
                        answered[n] = texts[n].iter().all(Option::is_some);
                        on(answered[n].then(|| (n, std::mem::take(&mut texts[n]).into_iter().flatten().collect())))
                    }
                    Reply::Missing(why) => {
                        missing[n].get_or_insert(why);
                        self.verdict(items, &missing).and_then(|()| on(None))
                    }
                    Reply::Wrong(problem) => Err(endpoint.error(options, items[n], problem)),
                    Reply::Interrupted => on(None),
                };
                if let Err(error) = step {
                    given_up.store(true, Ordering::Relaxed);
                    ended.get_or_insert(error);
                }
            }
        });
        let is_open = |n: &usize| !answered[*n] && missing[*n].is_none();
        if ended.is_none()
            && let Some(open) = (0..items.len()).find(is_open)
        {
            // The user stopped it between two questions.
            ended = on(None).err().or_else(|| Some(endpoint.error(options, items[open], "no answer".into())));
        }
        // Of a wave that ended early, what failed too often may be the doing of what ended it, and is asked again.
        let (done, failed) = (items.len() - (0..items.len()).filter(is_open).count(), missing.iter().flatten().count());
        let is_kept = |missing: &Missing| {
            ended.is_none() || missing.refused && !self.are_too_many(failed, done + self.earlier.in_wave)
        };
        let had = answered.iter().zip(&missing).map(|(answered, missing)| match missing {
            _ if *answered => Had::Answers,
            Some(missing) if is_kept(missing) => Had::Missing(missing.problem.clone()),
            _ => Had::Nothing,
        });
        (had.collect(), ended)
    }

    /// Whether it is the server that is wrong, if `failed` of `of` questions have no answer.
    fn are_too_many(&self, failed: usize, of: usize) -> bool {
        let of = if self.earlier.examples > 0 { of.max(FEW) } else { of };
        2 * failed > of
    }

    /// An error if those that are `missing` say that it is the server that is wrong.
    fn verdict(&self, items: &[&Item], missing: &[Option<Missing>]) -> Result<(), EvalError> {
        let of = items.len() + self.earlier.in_wave;
        let failed = missing.iter().flatten().count();
        let exhausted = missing.iter().flatten().filter(|missing| !missing.refused).count();
        let nobody = !self.answered && exhausted >= self.endpoint.in_flight.max(FIRST);
        if !nobody && !self.are_too_many(failed, of) {
            return Ok(());
        }
        let first = items.iter().zip(missing).find_map(|(item, missing)| Some((item, missing.as_ref()?)));
        let Some((item, Missing { problem, .. })) = first else { return Ok(()) };
        let others = match failed {
            1 => String::new(),
            _ => format!("; {failed} of these {of} questions have no answer"),
        };
        Err(self.endpoint.error(self.options, item, format!("{problem}{others}; mend the request or the server")))
    }
}

impl Endpoint {
    /// What comes of `body`, after as many tries as it takes. If it is `sensitive`, what the server says is not repeated.
    fn answered(
        &self,
        agent: &ureq::Agent,
        options: &EvalOptions,
        (body, sensitive): (&Value, bool),
        over: &dyn Fn() -> bool,
    ) -> Reply {
        let mut wait = self.first_wait;
        let mut tries = 0;
        loop {
            let (problem, asked, for_all) = match self.once(agent, options, (body, sensitive)) {
                Ok(text) => return Reply::Text(text),
                Err(Trouble::Refused(problem)) => return Reply::Missing(Missing { problem, refused: true }),
                Err(Trouble::Lasting(problem)) => return Reply::Wrong(problem),
                Err(Trouble::Passing { problem, wait, for_all }) => (problem, wait, for_all),
            };
            if over() {
                return Reply::Interrupted;
            }
            if tries == self.retries {
                let problem = format!("{problem} (tried {} times)", tries + 1);
                return match for_all {
                    true => Reply::Wrong(problem),
                    false => Reply::Missing(Missing { problem, refused: false }),
                };
            }
            tries += 1;
            let until = Instant::now() + asked.unwrap_or(wait).min(LONGEST_WAIT);
            // In small pieces, so that Ctrl-C does not wait.
            while Instant::now() < until && !over() {
                std::thread::sleep(Duration::from_millis(50).min(until.saturating_duration_since(Instant::now())));
            }
            if over() {
                return Reply::Interrupted;
            }
            wait *= 2;
        }
    }

    fn once(
        &self,
        agent: &ureq::Agent,
        options: &EvalOptions,
        (body, sensitive): (&Value, bool),
    ) -> Result<String, Trouble> {
        let start = |text: &str| match sensitive {
            true => "(not shown: it may repeat a question that is `sensitive`)".to_string(),
            false => start(text),
        };
        let passing = |problem: String| Trouble::Passing { problem, wait: None, for_all: false };
        let mut request = agent.post(&self.place(options)).set("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.set("Authorization", &format!("Bearer {key}"));
        }
        match request.send_string(&body.to_string()) {
            Ok(response) => {
                let mut text = String::new();
                let read = response.into_reader().take(MAX_ANSWER).read_to_string(&mut text);
                read.map_err(|error| passing(format!("the answer broke off: {error}")))?;
                let answer: Value = serde_json::from_str(&text)
                    .map_err(|error| passing(format!("the answer is no JSON ({error}): {}", start(&text))))?;
                let written = match options.chat_template {
                    true => answer.pointer("/choices/0/message/content"),
                    false => answer.pointer("/choices/0/text"),
                };
                let written = written.and_then(Value::as_str).map(str::to_owned);
                written.ok_or_else(|| passing(format!("the answer holds no text: {}", start(&text))))
            }
            Err(ureq::Error::Status(code, response)) => {
                let asked =
                    response.header("Retry-After").and_then(|asked| retry::wait(asked, response.header("Date")));
                let mut text = String::new();
                // What the server says besides its status is only shown.
                let _ = response.into_reader().take(MAX_ANSWER).read_to_string(&mut text);
                let problem = format!("status {code}: {}", start(&text));
                Err(match code {
                    400 | 413 | 422 => Trouble::Refused(problem),
                    408 | 429 | 500.. => {
                        Trouble::Passing { problem, wait: asked, for_all: matches!(code, 429 | 502 | 503) }
                    }
                    _ => Trouble::Lasting(format!("{problem}; mend the request or the address")),
                })
            }
            Err(ureq::Error::Transport(error)) => {
                // A connection that breaks, or an answer that is late or no HTTP, may be this question's fault.
                let of_one = matches!(error.kind(), ErrorKind::Io | ErrorKind::BadStatus | ErrorKind::BadHeader);
                Err(Trouble::Passing { problem: error.to_string(), wait: None, for_all: !of_one })
            }
        }
    }
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
