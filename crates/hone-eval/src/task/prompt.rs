//! From an example to what the model is asked: the request strings of lm-evaluation-harness, with or without shots, with or
//! without the model's chat template.

use hone_model::ModelError;
use hone_model::template::{ChatTemplate, Message};
use serde_json::Map;

use super::Task;
use super::data::Doc;
use super::docs::Docs;
use super::fewshot::{NoShots, Sampler, Way};
use super::fields::{Answer, Role, row_error};
use super::similar::Similar;
use crate::error::EvalError;
use crate::filters::FilterList;
use crate::metrics::Kind;
use crate::metrics::choice::Gold;
use crate::python::{count_words, is_space};
use crate::route::Route;

/// What is asked of the model for one example.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// Which continuation is most likely.
    Choices {
        /// One for all continuations, or one each.
        contexts: Vec<String>,
        /// As they follow the context, delimiter included. One for all contexts, or one each.
        continuations: Vec<String>,
        /// The bare choices.
        choices: Vec<String>,
        /// The right ones.
        gold: Gold,
    },
    /// How likely a continuation is.
    Target {
        /// What stands before.
        context: String,
        /// What is scored.
        continuation: String,
    },
    /// How likely a document is.
    Document {
        /// The document.
        text: String,
        /// Words its log-likelihood is divided by.
        words: usize,
        /// Bytes its log-likelihood is divided by.
        bytes: usize,
    },
    /// What the model writes.
    Generate {
        /// What stands before.
        context: String,
        /// Right answers.
        references: Vec<String>,
    },
}

/// An example, ready to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its number in the evaluated split.
    pub id: String,
    /// The prompt, for people.
    pub prompt: String,
    /// The right answer, for people.
    pub target: String,
    /// The passage that the answer should rest on, where the task names one.
    pub passage: Option<String>,
    /// What the answer chooses from, where a filter looks for it.
    pub choices: Vec<String>,
    /// What it shares with others of its prompt, where the task says so.
    pub group: Option<String>,
    /// The group of its rows in a batch, where that says which edit is for it ([`crate::route`]).
    pub edit_group: Option<u32>,
    /// What is asked.
    pub question: Question,
}

/// How prompts are made.
#[derive(Clone, Debug, Default)]
pub struct PromptOptions {
    /// Shots; the task's own number where `None`. A task that says 0 keeps 0.
    pub num_fewshot: Option<usize>,
    /// Seed of the shots.
    pub seed: u64,
    /// Shots as turns of their own (with a chat template only).
    pub multiturn: bool,
    /// A system message before everything.
    pub system_instruction: Option<String>,
    /// Choices are whole answers: behind a chat template they end as it ends a turn.
    pub whole_turns: bool,
    /// What says which edit an example is answered with, where there are several to choose from.
    pub route: Option<Route>,
}

/// The prompts of a task's examples, in order: shots are drawn from one stream.
pub struct Prompts<'a> {
    task: &'a Task,
    sampler: Option<Sampler<'a>>,
    shots: usize,
    template: Option<&'a ChatTemplate>,
    multiturn: bool,
    system_instruction: String,
    whole_turns: bool,
    route: Option<Route>,
}

/// A piece of a prompt: a message of a conversation, or text with what follows it.
#[derive(Clone, Debug, PartialEq)]
struct Piece {
    role: &'static str,
    content: String,
    delimiter: String,
}

impl Piece {
    fn new(role: &'static str, content: impl Into<String>, delimiter: &str) -> Piece {
        Piece { role, content: content.into(), delimiter: delimiter.into() }
    }
}

impl<'a> Prompts<'a> {
    /// Prompts of `task`; through the chat template if one is given.
    pub fn new(
        task: &'a Task,
        template: Option<&'a ChatTemplate>,
        options: &PromptOptions,
    ) -> Result<Prompts<'a>, EvalError> {
        let shots = task.shots(options.num_fewshot);
        let sampler = match shots {
            0 => None,
            _ => {
                let pool = task.fewshot_pool()?;
                let way = match task.config.fewshot_config.sampler.as_deref() {
                    Some("first_n") => Way::FirstN,
                    Some("bm25") => Way::Similar(similar(task, &pool)?),
                    _ => Way::Draw,
                };
                Some(Sampler::new(pool, options.seed, way, task.shots_from_evaluated()))
            }
        };
        Ok(Prompts {
            task,
            sampler,
            shots,
            template,
            multiturn: options.multiturn,
            system_instruction: options.system_instruction.clone().unwrap_or_default(),
            whole_turns: options.whole_turns,
            route: options.route.clone(),
        })
    }

    /// Shots before each question.
    pub fn shots(&self) -> usize {
        self.shots
    }

    /// The prompt of example `index`. Call it for 0, 1, 2 … in order: each call draws the next shots.
    pub fn item(&mut self, index: usize) -> Result<Item, EvalError> {
        let task = self.task;
        let Some(doc) = task.docs.get(index)? else {
            return Err(EvalError::Empty { task: task.name().into(), place: format!("example {index}") });
        };
        let doc = &*doc;
        let id = index.to_string();
        let edit_group = self.route.as_ref().map(|route| route.group(doc)).transpose()?;
        if task.kind == Kind::LoglikelihoodRolling {
            let text = task.fields.target(doc, Role::Evaluated)?.to_text();
            let counted = task.fields.count_text(doc)?;
            let question =
                Question::Document { words: count_words(&counted), bytes: counted.len(), text: text.clone() };
            let prompt = String::new();
            let choices = Vec::new();
            return Ok(Item { id, prompt, target: text, passage: None, choices, group: None, edit_group, question });
        }
        let mut before = self.opening(doc)?;
        before.extend(self.shot_pieces(doc)?);
        let gen_prefix = task.fields.gen_prefix(doc, Role::Evaluated)?;
        let text = task.fields.text(doc, Role::Evaluated)?;
        let choices = task.fields.choices(doc, Role::Evaluated)?;
        let target = task.fields.target(doc, Role::Evaluated)?;

        let mut contexts = Vec::new();
        let mut whole = None;
        if task.fields.multiple_input {
            for context in choices.as_deref().unwrap_or_default() {
                let turn = question_turn(context, "", gen_prefix.as_deref());
                contexts.push(self.render([before.clone(), turn].concat(), gen_prefix.as_deref(), doc)?);
            }
        } else {
            let Answer::Text(text) = &text else {
                return Err(row_error(doc, "doc_to_text", format!("found {}, expected text", text.to_text())));
            };
            let turn = question_turn(text, &task.config.target_delimiter, gen_prefix.as_deref());
            let pieces = [before, turn].concat();
            contexts.push(self.render(pieces.clone(), gen_prefix.as_deref(), doc)?);
            if let (true, Some(template), Some(choices)) = (self.whole_turns, self.template, &choices) {
                let answered = |choice: &String| self.answered(template, &pieces, choice, &contexts[0], doc);
                whole = Some(choices.iter().map(answered).collect::<Result<Vec<_>, _>>()?);
            }
        }
        let prompt = contexts.join("\n");
        let filtered = match task.filters.iter().any(FilterList::needs_choices) {
            true => task.fields.filtered_choices(doc, choices.as_deref())?,
            false => Vec::new(),
        };
        let (target_text, mut question) = self.question(doc, contexts, choices, &text, target)?;
        if let (Some(whole), Question::Choices { continuations, .. }) = (whole, &mut question) {
            *continuations = whole;
        }
        let (passage, group) = (task.fields.passage(doc)?, task.fields.group(doc)?);
        Ok(Item { id, prompt, target: target_text, passage, choices: filtered, group, edit_group, question })
    }

    /// Draws what example `index` would draw, and makes no prompt: for those that an earlier run asked.
    pub fn skip(&mut self, index: usize) -> Result<(), EvalError> {
        match self.task.kind {
            Kind::LoglikelihoodRolling => Ok(()),
            _ => match self.task.docs.get(index)? {
                Some(doc) => self.shot_pieces(&doc).map(drop),
                None => Ok(()),
            },
        }
    }

    fn question(
        &self,
        doc: &Doc,
        mut contexts: Vec<String>,
        choices: Option<Vec<String>>,
        text: &Answer,
        target: Answer,
    ) -> Result<(String, Question), EvalError> {
        let task = self.task;
        let question = match task.kind {
            Kind::MultipleChoice => {
                let choices = choices.unwrap_or_default();
                let delimiter = self.choice_delimiter();
                let multiple_input = task.fields.multiple_input;
                let gold = gold(if multiple_input { text } else { &target }, &choices);
                let continuations = match multiple_input {
                    true => vec![format!("{delimiter}{}", target.to_text())],
                    false => choices.iter().map(|choice| format!("{delimiter}{choice}")).collect(),
                };
                let right: Vec<&str> = gold.indices.iter().map(|&i| choices[i].as_str()).collect();
                (right.join(" | "), Question::Choices { contexts, continuations, choices, gold })
            }
            Kind::Loglikelihood => {
                let continuation = target.to_text();
                (continuation.clone(), Question::Target { context: contexts.swap_remove(0), continuation })
            }
            _ => {
                let references = match (&target, &choices) {
                    (Answer::Index(i), Some(choices)) => vec![choice_at(choices, *i, doc)?],
                    (Answer::List(several), _) => several.iter().map(Answer::to_text).collect(),
                    (one, _) => vec![one.to_text()],
                };
                let shown = references.join(" | ");
                (shown, Question::Generate { context: contexts.swap_remove(0), references })
            }
        };
        Ok(question)
    }

    /// What stands between context and choice: nothing after a chat template, which ends its own way.
    fn choice_delimiter(&self) -> &str {
        let delimiter = self.task.config.target_delimiter.as_str();
        match (&self.template, self.task.config.gen_prefix.as_deref()) {
            (None, _) => delimiter,
            (Some(_), Some(prefix)) if !prefix.is_empty() && !prefix.ends_with(is_space) => delimiter,
            (Some(_), _) => "",
        }
    }

    /// System instruction and description.
    fn opening(&self, doc: &Doc) -> Result<Vec<Piece>, EvalError> {
        let description = self.task.fields.description(doc)?;
        let system = delimited(&self.system_instruction, &description, &self.task.config.fewshot_delimiter);
        Ok(if system.is_empty() { Vec::new() } else { vec![Piece::new("system", system, "")] })
    }

    fn shot_pieces(&mut self, doc: &Doc) -> Result<Vec<Piece>, EvalError> {
        let task = self.task;
        let Some(sampler) = &mut self.sampler else { return Ok(Vec::new()) };
        let question = match sampler.reads_the_question() {
            true => task.fields.text(doc, Role::Shot)?.to_text(),
            false => String::new(),
        };
        let shots = sampler.shots(self.shots, doc, &question).map_err(|why| match why {
            NoShots::TooFew(problem) => {
                EvalError::TaskFile { file: task.file.clone(), place: "num_fewshot".into(), problem }
            }
            NoShots::Unread(error) => error,
        })?;
        let fewshot = &task.config.fewshot_config;
        let target_delimiter = fewshot.target_delimiter.as_deref().unwrap_or(&task.config.target_delimiter);
        let fewshot_delimiter = fewshot.fewshot_delimiter.as_deref().unwrap_or(&task.config.fewshot_delimiter);
        let mut pieces = Vec::new();
        for shot in &shots {
            let shot = &**shot;
            let text = task.fields.text(shot, Role::Shot)?;
            let choices = task.fields.choices(shot, Role::Shot)?;
            let target = task.fields.target(shot, Role::Shot)?;
            let prefix = task.fields.gen_prefix(shot, Role::Shot)?.unwrap_or_default();
            let (question, answer) = match (&text, &choices) {
                (Answer::Index(i), Some(contexts)) if task.fields.multiple_input => {
                    (choice_at(contexts, *i, shot)?, target.to_text())
                }
                (Answer::Text(question), _) => (question.clone(), answer_text(&target, choices.as_deref(), shot)?),
                (other, _) => {
                    return Err(row_error(shot, "doc_to_text", format!("found {}, expected text", other.to_text())));
                }
            };
            let delimiter = match (answer.is_empty(), prefix.is_empty()) {
                (false, true) => target_delimiter,
                _ if !prefix.is_empty() && needs_delimiter(&question, &prefix) => target_delimiter,
                _ => "",
            };
            pieces.push(Piece::new("user", question, delimiter));
            if !answer.is_empty() {
                pieces.push(Piece::new("assistant", delimited(&prefix, &answer, " "), fewshot_delimiter));
            } else if !prefix.is_empty() {
                pieces.push(Piece::new("assistant", prefix, ""));
            }
        }
        Ok(pieces)
    }

    /// What follows `context` where the conversation is answered by `choice`: the answer and what ends its turn.
    fn answered(
        &self,
        template: &ChatTemplate,
        pieces: &[Piece],
        choice: &str,
        context: &str,
        doc: &Doc,
    ) -> Result<String, EvalError> {
        let mut messages = self.messages(pieces.to_vec());
        messages.push(Message { role: "assistant".into(), content: choice.into(), extra: Map::new() });
        let whole = rendered(template, &messages, false).map_err(|e| row_error(doc, "chat template", e.to_string()))?;
        match whole.strip_prefix(context) {
            Some(answer) => Ok(answer.to_owned()),
            None => {
                let what = "it writes the question in another way where the answer follows; without `chat_template` the texts \
                            are taken as they are";
                Err(row_error(doc, "chat template", what.into()))
            }
        }
    }

    /// The pieces as the messages of a conversation.
    fn messages(&self, pieces: Vec<Piece>) -> Vec<Message> {
        let pieces = if self.multiturn { pieces } else { single_turn(pieces) };
        let message = |piece: Piece| Message { role: piece.role.into(), content: piece.content, extra: Map::new() };
        pieces.into_iter().map(message).collect()
    }

    /// Joins the pieces, or renders them by the chat template.
    fn render(&self, pieces: Vec<Piece>, gen_prefix: Option<&str>, doc: &Doc) -> Result<String, EvalError> {
        let Some(template) = self.template else {
            return Ok(pieces.iter().flat_map(|piece| [piece.content.as_str(), piece.delimiter.as_str()]).collect());
        };
        let messages = self.messages(pieces);
        let opens_answer = gen_prefix.is_none_or(str::is_empty);
        let rendered = rendered(template, &messages, opens_answer)
            .map_err(|error| row_error(doc, "chat template", error.to_string()))?;
        if opens_answer {
            return Ok(rendered);
        }
        // The answer goes on after the prefix: what the template puts behind the last message is cut.
        let last = messages.last().map_or("", |m| m.content.trim());
        let end = rendered.rfind(last).map_or(rendered.len(), |at| at + last.len());
        Ok(rendered[..end].to_owned())
    }
}

/// A conversation by the chat template. Some templates refuse a system message; the harness leaves it out then.
fn rendered(template: &ChatTemplate, messages: &[Message], opens_answer: bool) -> Result<String, ModelError> {
    template.render(messages, opens_answer, &Map::new()).or_else(|error| {
        let without: Vec<Message> = messages.iter().filter(|m| m.role != "system").cloned().collect();
        if without.len() == messages.len() {
            return Err(error);
        }
        template.render(&without, opens_answer, &Map::new())
    })
}

/// The index of the pool's questions, written as shots are.
fn similar(task: &Task, pool: &Docs) -> Result<Similar, EvalError> {
    let questions = pool.iter().map(|shot| task.fields.text(&*shot?, Role::Shot).map(|text| text.to_text()));
    let questions = questions.collect::<Result<_, _>>()?;
    Similar::new(questions).map_err(|problem| EvalError::TaskFile {
        file: task.file.clone(),
        place: "fewshot_config.sampler".into(),
        problem,
    })
}

/// The question as the last turn, with what the answer begins with.
fn question_turn(question: &str, delimiter: &str, gen_prefix: Option<&str>) -> Vec<Piece> {
    let prefix = gen_prefix.unwrap_or_default();
    let joined = !prefix.is_empty() && needs_delimiter(question, prefix);
    let mut pieces = vec![Piece::new("user", question, if joined { delimiter } else { "" })];
    if !prefix.is_empty() {
        pieces.push(Piece::new("assistant", prefix, ""));
    }
    pieces
}

/// All turns in one user message, but for the system message and an opened answer.
fn single_turn(mut pieces: Vec<Piece>) -> Vec<Piece> {
    let mut out = Vec::new();
    if pieces.first().is_some_and(|piece| piece.role == "system") {
        out.push(pieces.remove(0));
    }
    let opened = if pieces.last().is_some_and(|piece| piece.role == "assistant") { pieces.pop() } else { None };
    if let Some(last) = pieces.last_mut() {
        last.delimiter.clear();
    }
    let text: String = pieces.iter().flat_map(|piece| [piece.content.as_str(), piece.delimiter.as_str()]).collect();
    out.push(Piece::new("user", text, ""));
    out.extend(opened);
    out
}

/// Joins with the delimiter unless one side already has white space at the join, or is empty.
fn delimited(before: &str, after: &str, delimiter: &str) -> String {
    match before.is_empty() || after.is_empty() || !needs_delimiter(before, after) {
        true => format!("{before}{after}"),
        false => format!("{before}{delimiter}{after}"),
    }
}

fn needs_delimiter(before: &str, after: &str) -> bool {
    !before.is_empty() && !before.ends_with(is_space) && !after.starts_with(is_space)
}

/// A shot's answer as text.
fn answer_text(target: &Answer, choices: Option<&[String]>, shot: &Doc) -> Result<String, EvalError> {
    match (target, choices) {
        (Answer::Index(i), Some(choices)) => choice_at(choices, *i, shot),
        (Answer::List(several), _) => match several.first() {
            Some(first) => answer_text(first, choices, shot),
            None => Ok(String::new()),
        },
        (other, _) => Ok(other.to_text()),
    }
}

/// A choice by its index, counted from the end if negative.
fn choice_at(choices: &[String], index: i64, doc: &Doc) -> Result<String, EvalError> {
    let at = if index < 0 { choices.len() as i64 + index } else { index };
    let found = usize::try_from(at).ok().and_then(|at| choices.get(at));
    found.cloned().ok_or_else(|| row_error(doc, "doc_to_target", format!("index {index} of {} choices", choices.len())))
}

/// Which choices are right: an index, a choice's text, or a list of either. What is no choice is never right.
fn gold(target: &Answer, choices: &[String]) -> Gold {
    let index = |answer: &Answer| match answer {
        Answer::Index(i) => usize::try_from(*i).ok().filter(|i| *i < choices.len()),
        Answer::Text(text) => choices.iter().position(|choice| choice == text),
        Answer::List(_) => None,
    };
    let indices = match target {
        Answer::List(several) => several.iter().filter_map(index).collect(),
        one => index(one).into_iter().collect(),
    };
    Gold { indices }
}
