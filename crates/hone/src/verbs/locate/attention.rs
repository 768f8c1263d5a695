//! `hone locate attention`: how much attention goes to the user's context?

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use hone_edit::EditStack;
use hone_eval::files::{check_writable, write_atomically};
use hone_eval::statistics::BootstrapOptions;
use hone_eval::task::group::{self, Loaded};
use hone_eval::{DataRoot, Task};
use hone_locate::attention::{AttentionReport, Before, Looked, Shares, measure};
use hone_locate::difference::{Difference, changes, difference};
use hone_locate::prompt::{Form, Part};
use hone_locate::question::{self, Question};
use hone_locate::{LocateError, Looker};
use hone_model::Model;

use super::super::load::{ModelArguments, With, load_model_as};
use super::{Templates, columns, forms, layer, subject};
use crate::args::Common;
use crate::fail::{Failure, INTERRUPTED};
use crate::print::{outln, remark};
use crate::{interrupt, progress};

/// Resamples of each interval: there is one for every head.
const RESAMPLES: usize = 2000;
/// Cells of the longest bar.
const BAR: usize = 30;

/// Arguments of `hone locate attention`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone locate attention smollm2-135m-instruct --tasks nq_context --limit 50 --out look
  hone locate attention smollm2-135m-instruct --edit runs/first/adapter --before smollm2-135m-instruct \\
      --tasks nq_context --out look
  hone locate attention smollm2-135m-instruct --data mine.jsonl --context passage --question ask --answer reply --out look

Shares of attention, in the mean over the examples. The row that looks is the prompt's last token, which predicts the answer's
first; `attention.json` also has the answer's own tokens, every part of the prompt, and each example.")]
pub struct Attention {
    #[command(flatten)]
    model: ModelArguments,
    /// Another version of the model, without edits: what is different from it, question by question.
    #[arg(long, value_name = "MODEL")]
    before: Option<String>,
    /// A task whose file names the passage (`doc_to_passage`): nq_context, kv_retrieval, needle, or a file of your own.
    #[arg(long, value_name = "TASK", required_unless_present = "data", conflicts_with = "data")]
    tasks: Option<String>,
    /// A data file (JSONL, JSON, CSV, Parquet) with the three columns.
    #[arg(long, value_name = "FILE", requires_all = ["context", "question", "answer"])]
    data: Option<PathBuf>,
    /// Its column with the passage.
    #[arg(long, value_name = "COLUMN", requires = "data")]
    context: Option<String>,
    /// Its column with the question.
    #[arg(long, value_name = "COLUMN", requires = "data")]
    question: Option<String>,
    /// Its column with the answer.
    #[arg(long, value_name = "COLUMN", requires = "data")]
    answer: Option<String>,
    /// At most so many questions (the first ones).
    #[arg(long, default_value = "100", value_name = "N")]
    limit: NonZeroUsize,
    /// With the chat template, without, or both (the default, where the model has one).
    #[arg(long, value_enum, value_name = "both|on|off", hide_possible_values = true)]
    chat_template: Option<Templates>,
    /// The layer of the paper's number, from 0 (default: the middle one).
    #[arg(long, value_name = "N")]
    layer: Option<usize>,
    /// Heads shown.
    #[arg(long, default_value_t = 8, value_name = "N")]
    top: usize,
    /// Where `attention.json` and `examples.jsonl` go.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// What every model is asked.
struct Asked<'a> {
    questions: &'a [Question],
    forms: &'a [Form],
    /// The layer of the paper's number.
    layer: usize,
    options: &'a BootstrapOptions,
    stop: &'a AtomicBool,
}

impl Attention {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        let (source, questions) = self.questions(common)?;
        check_writable(&self.out)?;
        let With { dtype, quantize, .. } = self.model.with;
        let model = load_model_as(&self.model.model, dtype, quantize, common)?;
        let layer = layer(self.layer, &model)?;
        let stack = self.model.stack(&model, common)?.unwrap_or_default();
        let forms = forms(self.chat_template, Templates::Both, &model, common);
        let options = BootstrapOptions { resamples: RESAMPLES, ..BootstrapOptions::default() };
        let asked =
            Asked { questions: &questions, forms: &forms, layer, options: &options, stop: &interrupt::stop_flag() };
        let Some((looked, shares)) = self.look(&model, &stack, &asked, "looking", common)? else {
            return Ok(INTERRUPTED);
        };
        let mut before = None;
        if let Some(reference) = &self.before {
            let other = load_model_as(reference, dtype, quantize, common)?;
            let Some((looked, shares)) = self.look(&other, &EditStack::new(), &asked, "before", common)? else {
                return Ok(INTERRUPTED);
            };
            before = Some(Before { subject: subject(&other, None, dtype), looked, shares });
        }
        let changes = match &before {
            Some(before) => changes(&before.looked, &looked, &options)?,
            None => Vec::new(),
        };
        let template = match (looked.form(Form::Plain), looked.form(Form::Chat)) {
            (Some(plain), Some(chat)) => {
                let pairs: Vec<(usize, usize)> = (0..looked.ids.len()).map(|i| (i, i)).collect();
                let [plain, chat] = [plain, chat].map(|measured| measured.from_prompt.part(Part::Context));
                Some(difference(plain, chat, &pairs, &options)?)
            }
            _ => None,
        };
        let subject = subject(&model, self.model.edit_name(), dtype);
        let report = AttentionReport { source, subject, looked, shares, template, before, changes };
        self.write(&report)?;
        if common.json {
            outln!("{}", serde_json::to_string(&report)?)?;
            return Ok(0);
        }
        print(&report, self.top)?;
        if !common.quiet {
            remark!("written: {}", self.out.join("attention.json").display());
        }
        Ok(0)
    }

    /// What is asked, and where it is from.
    fn questions(&self, common: &Common) -> Result<(String, Vec<Question>), Failure> {
        let columns = columns(self.context.as_ref(), self.question.as_ref(), self.answer.as_ref());
        if let (Some(file), Some(columns)) = (&self.data, columns) {
            let rows = question::of_rows(file, &columns, self.limit.get())?;
            return Ok((file.display().to_string(), rows.into_iter().map(|(_, question)| question).collect()));
        }
        let reference = self.tasks.as_deref().unwrap_or_default();
        let Loaded { tasks, left_out, .. } = group::load(reference, &DataRoot::discover(common.data_root.as_deref()))?;
        left_out.iter().for_each(|left| remark!("note: {} is left out: {}", left.name, left.reason));
        let [task] = tasks.as_slice() else {
            let names: Vec<&str> = tasks.iter().map(Task::name).collect();
            let cause = format!("--tasks {reference}: {} tasks ({})", tasks.len(), names.join(", "));
            return Err(Failure::user(cause, "name one of them"));
        };
        Ok((task.name().to_owned(), question::of_task(task, self.limit.get())?))
    }

    /// A model's maps with the paper's number; `None` when asked to stop.
    fn look(
        &self,
        model: &Model,
        stack: &EditStack,
        asked: &Asked<'_>,
        what: &str,
        common: &Common,
    ) -> Result<Option<(Looked, Shares)>, Failure> {
        let Asked { questions, forms, layer, options, stop } = *asked;
        let looker = Looker::new(model, stack, self.model.with.dtype);
        let bar = progress::bar(questions.len() as u64, what, common.quiet || common.json);
        let looked = measure(&looker, questions, forms, &mut |done| bar.set_position(done as u64), stop);
        bar.finish_and_clear();
        let mut looked = match looked {
            Ok(looked) => looked,
            Err(LocateError::Stopped { .. }) => {
                remark!("stopped; nothing is kept");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let Some(shares) = looked.shares(layer, options) else {
            let place = self.tasks.clone().unwrap_or_else(|| "the data".into());
            let problem = format!(
                "of {} questions every one is without a passage, or longer than the {} tokens the model reads; give others",
                questions.len(),
                model.spec.max_position_embeddings
            );
            return Err(LocateError::Nothing { place, problem }.into());
        };
        looked.slim();
        Ok(Some((looked, shares)))
    }

    fn write(&self, report: &AttentionReport) -> Result<(), Failure> {
        write_atomically(&self.out.join("attention.json"), |out| Ok(serde_json::to_writer(out, report)?))?;
        write_atomically(&self.out.join("examples.jsonl"), |out| {
            for example in report.looked.examples(&report.shares) {
                serde_json::to_writer(&mut *out, &example)?;
                writeln!(out)?;
            }
            Ok(())
        })?;
        Ok(())
    }
}

fn print(report: &AttentionReport, top: usize) -> Result<(), Failure> {
    let looked = &report.looked;
    let edit = report.subject.edit.as_ref().map_or_else(String::new, |edit| format!(" with {edit}"));
    let left_out = match looked.left_out.len() {
        0 => String::new(),
        count => format!(", {count} left out (no passage, or too long)"),
    };
    outln!("{}{edit} on {}: {} questions{left_out}", report.subject.model, report.source, looked.ids.len())?;
    outln!("\nShare of attention from the prompt's last token to the context, all heads of a layer in the mean")?;
    let maps: Vec<_> =
        looked.forms.iter().map(|m| (m.form.to_string(), m.from_prompt.part(Part::Context).by_layer())).collect();
    let largest = maps.iter().flat_map(|(_, layers)| layers).copied().fold(0.0, f64::max);
    let heading: String = maps.iter().map(|(form, _)| format!("  {form:<width$}", width = BAR + 6)).collect();
    outln!("layer{}", heading.trim_end())?;
    for layer in 0..maps.first().map_or(0, |(_, layers)| layers.len()) {
        let cell = |(_, layers): &(String, Vec<f64>)| {
            let length = (layers[layer] / largest.max(f64::MIN_POSITIVE) * BAR as f64).round() as usize;
            format!("  {:.3} {:<BAR$}", layers[layer], "█".repeat(length))
        };
        outln!("{layer:>5}{}", maps.iter().map(cell).collect::<String>().trim_end())?;
    }
    for measured in &looked.forms {
        let context = measured.from_prompt.part(Part::Context);
        let heads: Vec<String> =
            context.top(top).iter().map(|(layer, head, mass)| format!("{layer}.{head} {mass:.2}")).collect();
        outln!("\n{} (layer.head share): {}", measured.form, heads.join(", "))?;
        let mut parts: Vec<(&str, f64)> = [
            ("context", Part::Context),
            ("question", Part::Question),
            ("assistant's role", Part::Role),
            ("markup", Part::Markup),
            ("first token", Part::First),
        ]
        .map(|(name, part)| (name, measured.from_prompt.part(part).overall()))
        .into();
        parts.extend(measured.from_prompt.virtual_tokens.as_ref().map(|mass| ("virtual tokens", mass.overall())));
        let parts: Vec<String> = parts.iter().map(|(name, share)| format!("{name} {:.1} %", 100.0 * share)).collect();
        outln!("  all heads: {}", parts.join(", "))?;
        if let Some(evidence) = &measured.from_prompt.evidence {
            let (layer, head, mass) = evidence.top(1)[0];
            outln!(
                "  the answer's own words in the context: {:.1} %, most by {layer}.{head} ({mass:.2}), {} questions",
                100.0 * evidence.overall(),
                evidence.n
            )?;
        }
    }
    let shares = &report.shares;
    outln!("\nHead {} of layer {}, without markup", shares.head, shares.layer)?;
    for form in &shares.forms {
        let per_cent = |of: hone_eval::statistics::Estimate| {
            of.in_words(|value| format!("{:.1} %", 100.0 * value), |end| format!("{:.1}", 100.0 * end))
        };
        let [user, role, first] = [form.user, form.role, form.first].map(per_cent);
        outln!("  {:<22} user {user}, role {role}, first token {first}", form.form.to_string())?;
    }
    if let Some(template) = &report.template {
        outln!("\nThe template's doing: {}", difference_line(template))?;
    }
    if let Some(before) = &report.before {
        outln!("\nSince {}", before.subject.model)?;
        for change in &report.changes {
            outln!("  {}, from the prompt: {}", change.form, difference_line(&change.from_prompt))?;
            outln!("  {}, from the answer: {}", change.form, difference_line(&change.from_answer))?;
        }
    }
    Ok(())
}

/// A difference in words.
fn difference_line(of: &Difference) -> String {
    let points = |value: f64| format!("{:+.2}", 100.0 * value);
    let cells = of.layers * of.heads;
    let largest = (0..cells).max_by(|a, b| of.difference[*a].abs().total_cmp(&of.difference[*b].abs()));
    let largest = largest.map_or_else(String::new, |cell| {
        let (layer, head) = (cell / of.heads, cell % of.heads);
        format!(", most in {layer}.{head} ({})", points(of.difference[cell]))
    });
    format!(
        "{}; {} of {cells} heads apart from 0{largest}",
        of.overall.in_words(|value| format!("{} points to the context", points(value)), points),
        of.apart,
    )
}
