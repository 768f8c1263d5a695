//! `hone locate context-dependency`: which answers of a training set depend on what the user gave, and did tuning change that?

mod rows;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hone_data::readers::Row;
use hone_edit::EditStack;
use hone_eval::files::{check_writable, write_atomically};
use hone_eval::statistics::BootstrapOptions;
use hone_locate::conversation::Conversation;
use hone_locate::dependency::{LONGEST, Summary, TurnScore, gain, scores};
use hone_locate::mark::{ABOVE, marked};
use hone_locate::prompt::Form;
use hone_locate::scored::{Change, FILE, MOVED, RESAMPLES, RowScores, turns};
use hone_locate::{DependencyReport, LocateError, Looker};
use hone_model::Model;
use serde::Serialize;
use serde_json::{Map, Value, json};

use self::rows::{Example, Groups};
use super::super::load::{ModelArguments, With, load_model_as};
use super::{Templates, columns, forms, layer, subject};
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
  hone locate context-dependency smollm2-135m-instruct --edit runs/first/adapter --before smollm2-135m-instruct \\
      --data chats.jsonl --group topic --report scores     # for `hone compare … --dependency scores`

Without `--indicator` the rows keep their columns and get `context_dependency` (the last turn's score, 0 to 1),
`context_dependency_max_first`, `context_dependency_turns` and, where the context has a column of its own, `context_gain`.
With it they are conversations (`messages`) in which the user's turns above the threshold carry the indicator.")]
pub struct ContextDependency {
    #[command(flatten)]
    model: ModelArguments,
    /// Another version of the model, without edits: how the scores of the same turns changed since.
    #[arg(long, value_name = "MODEL", requires = "report")]
    before: Option<String>,
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
    #[arg(long, value_name = "TEXT", requires = "out")]
    indicator: Option<String>,
    /// The score above which an answer depends on its context.
    #[arg(long, default_value_t = ABOVE, value_name = "SCORE", requires = "indicator")]
    above: f64,
    /// Where the rows go.
    #[arg(long, value_name = "FILE", required_unless_present = "report")]
    out: Option<PathBuf>,
    /// Where `dependency.json` goes, with the scores of every turn: what `hone compare --dependency` shows.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// The column that groups of rows are named by (default: whether a row has a context, where `--context` names one).
    #[arg(long, value_name = "COLUMN", requires = "report")]
    group: Option<String>,
    /// A change of a turn's score by more than this counts as a move.
    #[arg(long, default_value_t = MOVED, value_name = "SCORE", requires = "report", value_parser = parse_moved)]
    moved: f64,
}

fn parse_moved(text: &str) -> Result<f64, String> {
    let moved = text.parse().ok().filter(|moved: &f64| (0.0..=1.0).contains(moved));
    moved.ok_or_else(|| format!("found `{text}`, expected a score from 0 to 1"))
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output<'a> {
    data: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<&'a Path>,
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
    /// How the scores changed since the other version.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<Change>,
}

/// What every version of the model scores.
struct Asked<'a> {
    examples: &'a [Example],
    form: Form,
    layer: usize,
    longest: usize,
    stop: &'a AtomicBool,
}

impl ContextDependency {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        if self.chat_template == Some(Templates::Both) {
            return Err(Failure::user("--chat-template both: a score is of one form", "say `on` or `off`"));
        }
        if let Some(out) = &self.out {
            let directory = out.parent().filter(|parent| !parent.as_os_str().is_empty());
            check_writable(directory.unwrap_or(Path::new(".")))?;
        }
        if let Some(directory) = &self.report {
            check_writable(directory)?;
        }
        let named = columns(self.context.as_ref(), self.question.as_ref(), self.answer.as_ref());
        let examples = rows::read(&self.data, named.as_ref(), self.limit.map_or(usize::MAX, NonZeroUsize::get))?;
        let groups = match &self.group {
            Some(column) => Some(Groups::of_column(&examples, column, &self.data)?),
            None => self.context.is_some().then(|| Groups::of_contexts(&examples)).flatten(),
        };
        let With { dtype, quantize, .. } = self.model.with;
        let model = load_model_as(&self.model.model, dtype, quantize, common)?;
        let layer = layer(self.layer, &model)?;
        let stack = self.model.stack(&model, common)?.unwrap_or_default();
        let form = forms(self.chat_template, Templates::On, &model, common)[0];
        let stop = interrupt::stop_flag();
        let asked = Asked { examples: &examples, form, layer, longest: self.max_length, stop: &stop };
        let Some(scored) = self.scored(&model, &stack, &asked, "scoring", common)? else { return Ok(INTERRUPTED) };
        let mut before = None;
        if let Some(reference) = &self.before {
            let other = self.other(reference, &model, common)?;
            match self.scored(&other, &EditStack::new(), &asked, "before", common)? {
                Some(scored) => before = Some((subject(&other, None, dtype), scored)),
                None => return Ok(INTERRUPTED),
            }
        }
        let mut carrying = 0;
        if let Some(out) = &self.out {
            write_atomically(out, |out| {
                for (Example { conversation, .. }, scored) in examples.iter().zip(&scored) {
                    let row = match &self.indicator {
                        Some(indicator) => self.marked_row(conversation, &scored.turns, indicator, &mut carrying),
                        None => scored_row(conversation, scored),
                    };
                    serde_json::to_writer(&mut *out, &row)?;
                    writeln!(out)?;
                }
                Ok(())
            })?;
        }
        let mut change = None;
        if let Some(directory) = &self.report {
            let mut report = DependencyReport {
                source: self.data.display().to_string(),
                form,
                layer,
                layers: model.spec.layers.len(),
                moved: self.moved,
                group: groups.as_ref().map(|groups| groups.by.clone()),
                subject: subject(&model, self.model.edit_name(), dtype),
                before: before.as_ref().map(|(subject, _)| subject.clone()),
                left_out: 0,
                turns: Vec::new(),
            };
            for (at, (example, scored)) in examples.iter().zip(&scored).enumerate() {
                let group = groups.as_ref().and_then(|groups| groups.names[at].as_deref());
                let other = before.as_ref().map(|(_, scored)| &scored[at]);
                let (scored, left_out) = turns(&example.conversation, group, scored, other);
                report.turns.extend(scored);
                report.left_out += left_out;
            }
            write_atomically(&directory.join(FILE), |out| Ok(serde_json::to_writer(out, &report)?))?;
            change = report.change(&BootstrapOptions { resamples: RESAMPLES, ..BootstrapOptions::default() });
        }
        let output = Output {
            data: &self.data,
            out: self.out.as_deref(),
            report: self.report.as_deref(),
            model: &self.model.model,
            edit: self.model.edit_name(),
            form,
            layer,
            layers: model.spec.layers.len(),
            rows: examples.len(),
            summary: &self.summary(&examples, &scored),
            marked: self.indicator.is_some().then_some(carrying),
            change,
        };
        if common.json {
            outln!("{}", serde_json::to_string(&output)?)?;
            return Ok(0);
        }
        self.print(&output)?;
        Ok(0)
    }

    /// What a version of the model says of every row; `None` when asked to stop.
    fn scored(
        &self,
        model: &Model,
        stack: &EditStack,
        asked: &Asked<'_>,
        what: &str,
        common: &Common,
    ) -> Result<Option<Vec<RowScores>>, Failure> {
        let Asked { examples, form, layer, longest, stop } = *asked;
        let looker = Looker::new(model, stack, self.model.with.dtype);
        let encoder = looker.encoder()?;
        let bar = progress::bar(examples.len() as u64, what, common.quiet || common.json);
        let mut all = Vec::with_capacity(examples.len());
        for Example { conversation, question } in examples {
            if stop.load(Ordering::Relaxed) {
                bar.finish_and_clear();
                remark!("stopped; nothing is kept");
                return Ok(None);
            }
            let turns = scores(&looker, &encoder, conversation, form, layer, longest)?;
            let gain = match question {
                Some(question) => gain(&looker, &encoder, question, form)?,
                None => None,
            };
            all.push(RowScores { turns, gain });
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Some(all))
    }

    /// The other version; a score in a layer of one model is none of a model that is built otherwise.
    fn other(&self, reference: &str, model: &Model, common: &Common) -> Result<Arc<Model>, Failure> {
        let With { dtype, quantize, .. } = self.model.with;
        let other = load_model_as(reference, dtype, quantize, common)?;
        let (found, expected) = (other.spec.layers.len(), model.spec.layers.len());
        if found != expected {
            let difference = format!(
                "{reference} has {found} layers, {} {expected}; compare versions of one model",
                model.source.reference
            );
            return Err(LocateError::NotComparable { difference }.into());
        }
        Ok(other)
    }

    fn summary(&self, examples: &[Example], scored: &[RowScores]) -> Summary {
        let of_turns = |(example, scored): (&Example, &RowScores)| {
            let context = example.has_context().filter(|_| self.context.is_some());
            std::iter::repeat_n(context, scored.turns.len())
        };
        let contexts: Vec<Option<bool>> = examples.iter().zip(scored).flat_map(of_turns).collect();
        let turns: Vec<Option<TurnScore>> = scored.iter().flat_map(|row| row.turns.iter().copied()).collect();
        let gains: Vec<f64> = scored.iter().filter_map(|row| row.gain).collect();
        Summary::new(&turns, &contexts, &gains)
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
        if let (Some(change), Some(before)) = (output.change, &self.before) {
            let Change { turns, before: was, change, fell, rose } = change;
            let change = change.in_words(|value| format!("{value:+.3}"), |end| format!("{end:+.3}"));
            outln!("\nSince {before}, over {turns} turns")?;
            outln!("  mean score {was:.3} before, {change} since")?;
            let (fell, rose, moved) = (100.0 * fell, 100.0 * rose, self.moved);
            outln!("  {fell:.1} % fell by more than {moved}, {rose:.1} % rose by more")?;
        }
        let written = self.out.clone().into_iter().chain(self.report.iter().map(|directory| directory.join(FILE)));
        let written: Vec<String> = written.map(|path| path.display().to_string()).collect();
        outln!("written: {}", written.join(", "))
    }
}

/// The row's columns and its scores.
fn scored_row(conversation: &Conversation, RowScores { turns: scored, gain }: &RowScores) -> Row {
    let mut row = conversation.row.clone();
    row.insert("context_dependency".into(), last(scored, |turn| turn.score));
    row.insert("context_dependency_max_first".into(), last(scored, |turn| turn.max_first));
    let turns: Vec<Value> = scored.iter().map(|turn| turn.map_or(Value::Null, |turn| json!(turn))).collect();
    row.insert("context_dependency_turns".into(), turns.into());
    if let Some(gain) = gain {
        row.insert("context_gain".into(), json!(gain));
    }
    row
}

/// A number of the last turn.
fn last(scored: &[Option<TurnScore>], of: impl Fn(&TurnScore) -> f64) -> Value {
    scored.last().and_then(Option::as_ref).map_or(Value::Null, |turn| of(turn).into())
}
