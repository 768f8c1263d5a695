//! `hone locate context-dependency`: which answers of a training set depend on what the user gave?

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use hone_data::readers::Row;
use hone_eval::files::{check_writable, write_atomically};
use hone_locate::conversation::{self, Conversation};
use hone_locate::dependency::{LONGEST, Summary, TurnScore, gain, scores};
use hone_locate::mark::{ABOVE, marked};
use hone_locate::prompt::Form;
use hone_locate::question::{self, Question};
use hone_locate::{LocateError, Looker};
use hone_model::template::Message;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::super::load::{ModelArguments, With, load_model_as};
use super::{Templates, columns, forms, layer};
use crate::args::Common;
use crate::fail::{Failure, INTERRUPTED};
use crate::print::{outln, remark};
use crate::{interrupt, progress};

/// Arguments of `hone locate context-dependency`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone locate context-dependency smollm2-135m-instruct --data chats.jsonl --out scored.jsonl
  hone locate context-dependency smollm2-135m-instruct --data train.jsonl \\
      --context passage --question ask --answer reply --out scored.jsonl
  hone locate context-dependency smollm2-135m-instruct --data chats.jsonl --indicator '[IND]' --above 0.6 --out marked.jsonl

Without `--indicator` the rows keep their columns and get `context_dependency` (the last turn's score, 0 to 1),
`context_dependency_max_first`, `context_dependency_turns` and, where the context has a column of its own, `context_gain`.
With it they are conversations (`messages`) in which the user's turns above the threshold carry the indicator.")]
pub struct ContextDependency {
    #[command(flatten)]
    model: ModelArguments,
    /// A data file: conversations or instructions in any known format, or rows with a question and an answer.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Its column with the passage, if it has one.
    #[arg(long, value_name = "COLUMN", requires = "question")]
    context: Option<String>,
    /// Its column with the question.
    #[arg(long, value_name = "COLUMN", requires = "answer")]
    question: Option<String>,
    /// Its column with the answer.
    #[arg(long, value_name = "COLUMN", requires = "question")]
    answer: Option<String>,
    /// At most so many rows (the first ones).
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
    /// Whether conversations go through the chat template (default: on, where the model has one).
    #[arg(long, value_enum, value_name = "on|off", hide_possible_values = true)]
    chat_template: Option<Templates>,
    /// The layer whose heads are looked at, from 0 (default: the middle one).
    #[arg(long, value_name = "N")]
    layer: Option<usize>,
    /// Turns that end behind so many tokens are not scored.
    #[arg(long, default_value_t = LONGEST, value_name = "N")]
    max_length: usize,
    /// Write conversations, with this text behind the user's words where the answer depends on them.
    #[arg(long, value_name = "TEXT")]
    indicator: Option<String>,
    /// The score above which an answer depends on its context.
    #[arg(long, default_value_t = ABOVE, value_name = "SCORE", requires = "indicator")]
    above: f64,
    /// Where the rows go.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output<'a> {
    data: &'a std::path::Path,
    out: &'a std::path::Path,
    model: &'a str,
    edit: Option<String>,
    form: Form,
    layer: usize,
    /// Layers of the model.
    layers: usize,
    rows: usize,
    #[serde(flatten)]
    summary: &'a Summary,
    /// Turns that carry the indicator.
    #[serde(skip_serializing_if = "Option::is_none")]
    marked: Option<usize>,
}

/// A row to score.
struct Subject {
    conversation: Conversation,
    /// The row as a question, where its columns were named.
    question: Option<Question>,
}

impl ContextDependency {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        if self.chat_template == Some(Templates::Both) {
            return Err(Failure::user("--chat-template both: a score is of one form", "say `on` or `off`"));
        }
        let directory = self.out.parent().filter(|parent| !parent.as_os_str().is_empty());
        check_writable(directory.unwrap_or(std::path::Path::new(".")))?;
        let subjects = self.subjects()?;
        let With { dtype, quantize, .. } = self.model.with;
        let model = load_model_as(&self.model.model, dtype, quantize, common)?;
        let layer = layer(self.layer, &model)?;
        let stack = self.model.stack(&model, common)?.unwrap_or_default();
        let form = forms(self.chat_template, Templates::On, &model, common)[0];
        let looker = Looker::new(&model, &stack, dtype);
        let encoder = looker.encoder()?;
        let bar = progress::bar(subjects.len() as u64, "scoring", common.quiet || common.json);
        let stop = interrupt::stop_flag();
        let (mut turns, mut contexts, mut gains) = (Vec::new(), Vec::new(), Vec::new());
        let (mut rows, mut carrying) = (Vec::new(), 0);
        for Subject { conversation, question } in &subjects {
            if stop.load(Ordering::Relaxed) {
                bar.finish_and_clear();
                remark!("stopped; nothing is kept");
                return Ok(INTERRUPTED);
            }
            let scored = scores(&looker, &encoder, conversation, form, layer, self.max_length)?;
            let context = question.as_ref().map(|question| !question.context.is_empty());
            contexts.extend(std::iter::repeat_n(context.filter(|_| self.context.is_some()), scored.len()));
            let gain = match question {
                Some(question) => gain(&looker, &encoder, question, form)?,
                None => None,
            };
            gains.extend(gain);
            rows.push(match &self.indicator {
                Some(indicator) => self.marked_row(conversation, &scored, indicator, &mut carrying),
                None => scored_row(conversation, &scored, gain),
            });
            turns.extend(scored);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let summary = Summary::new(&turns, &contexts, &gains);
        write_atomically(&self.out, |out| {
            for row in &rows {
                serde_json::to_writer(&mut *out, row)?;
                writeln!(out)?;
            }
            Ok(())
        })?;
        let output = Output {
            data: &self.data,
            out: &self.out,
            model: &self.model.model,
            edit: self.model.edit_name(),
            form,
            layer,
            layers: model.spec.layers.len(),
            rows: rows.len(),
            summary: &summary,
            marked: self.indicator.is_some().then_some(carrying),
        };
        if common.json {
            outln!("{}", serde_json::to_string(&output)?)?;
            return Ok(0);
        }
        self.print(&output)?;
        Ok(0)
    }

    /// The rows, as conversations.
    fn subjects(&self) -> Result<Vec<Subject>, Failure> {
        let limit = self.limit.map_or(usize::MAX, NonZeroUsize::get);
        let named = columns(self.context.as_ref(), self.question.as_ref(), self.answer.as_ref());
        let subjects: Vec<Subject> = match named {
            Some(columns) => {
                let rows = question::of_rows(&self.data, &columns, limit)?;
                let subject = |(row, question): (Row, Question)| {
                    let says =
                        |role: &str, text: &str| Message { role: role.into(), content: text.into(), extra: Map::new() };
                    let messages = vec![says("user", &question.user), says("assistant", &question.answer)];
                    let conversation = Conversation { id: question.id.clone(), row, messages };
                    Subject { conversation, question: Some(question) }
                };
                rows.into_iter().map(subject).collect()
            }
            None => {
                let conversations = conversation::of_file(&self.data, limit)?;
                conversations.into_iter().map(|conversation| Subject { conversation, question: None }).collect()
            }
        };
        if subjects.is_empty() {
            let (place, problem) = (self.data.display().to_string(), "the file has no rows".into());
            return Err(LocateError::Nothing { place, problem }.into());
        }
        Ok(subjects)
    }

    /// The conversation with the indicator behind what the user said before each turn that depends on it.
    fn marked_row(
        &self,
        conversation: &Conversation,
        scored: &[Option<TurnScore>],
        indicator: &str,
        carrying: &mut usize,
    ) -> Row {
        let mut messages = conversation.messages.clone();
        let answers: Vec<usize> = (0..messages.len()).filter(|i| messages[*i].role == "assistant").collect();
        for (answer, turn) in answers.into_iter().zip(scored) {
            let depends = turn.is_some_and(|turn| turn.score > self.above);
            if let Some(user) =
                messages[..answer].iter_mut().rfind(|message| message.role == "user").filter(|_| depends)
            {
                user.content = marked(&user.content, indicator);
                *carrying += 1;
            }
        }
        let mut row = Map::new();
        row.insert("messages".into(), json!(messages));
        row.insert("context_dependency".into(), last(scored, |turn| turn.score));
        row
    }

    fn print(&self, output: &Output<'_>) -> Result<(), Failure> {
        let Summary { turns, left_out, mean, above, separation, mean_gain } = output.summary;
        outln!(
            "{}: {} rows, {turns} turns scored in layer {} of {}",
            self.data.display(),
            output.rows,
            output.layer,
            output.layers
        )?;
        if *left_out > 0 {
            outln!("  {left_out} turns not scored: no words, or behind {} tokens", self.max_length)?;
        }
        outln!("  mean score {mean:.3}")?;
        let shares: Vec<String> =
            above.iter().map(|s| format!("{:.1} % above {}", 100.0 * s.share, s.threshold)).collect();
        outln!("  {}", shares.join(", "))?;
        if let Some(area) = separation {
            let pairs =
                area.in_words(|value| format!("{:.1} % of pairs", 100.0 * value), |end| format!("{:.1}", 100.0 * end));
            outln!("  rows with a context score higher than those without in {pairs}; chance is 50")?;
        }
        if let Some(gain) = mean_gain {
            outln!("  the context is worth {gain:.2} nats a token of the answer, where there is one")?;
        }
        if let Some(marked) = output.marked {
            outln!("  {marked} turns carry the indicator")?;
        }
        outln!("written: {}", self.out.display())
    }
}

/// The row's columns and its scores.
fn scored_row(conversation: &Conversation, scored: &[Option<TurnScore>], gain: Option<f64>) -> Row {
    let mut row = conversation.row.clone();
    row.insert("context_dependency".into(), last(scored, |turn| turn.score));
    row.insert("context_dependency_max_first".into(), last(scored, |turn| turn.max_first));
    let turns: Vec<Value> = scored.iter().map(|turn| turn.map_or(Value::Null, |turn| json!(turn))).collect();
    row.insert("context_dependency_turns".into(), turns.into());
    if let Some(gain) = gain {
        row.insert("context_gain".into(), gain.into());
    }
    row
}

/// A number of the last turn.
fn last(scored: &[Option<TurnScore>], of: impl Fn(&TurnScore) -> f64) -> Value {
    scored.last().and_then(Option::as_ref).map_or(Value::Null, |turn| of(turn).into())
}
