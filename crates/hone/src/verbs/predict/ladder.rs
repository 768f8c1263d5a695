//! `hone predict ladder`: scorecards of models of one series; per question, the correlation of each score with compute.

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use hone_eval::files::{check_writable, is_file_name, read_scorecards, write_atomically};
use hone_eval::statistics::Estimate;
use hone_predict::found::{FILE, TaskLadder};
use hone_predict::{Correlation, Ladder, LadderOptions, PredictError, Rung, ladder};
use hone_study::results::{Cell, Mark, PlotResult};
use hone_study::study::PlotKind;

use super::super::compare::write_text;
use crate::args::Common;
use crate::fail::Failure;
use crate::print::outln;

/// Arguments of `hone predict ladder`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone predict ladder cards/1e15 cards/2e15 cards/4e15 --compute 1e15,2e15,4e15 --out ladder
  hone predict ladder cards/step-* --compute 1,2,4,8,16,32,64,128 --correlation pearson --out ladder --json

Compute is in any unit, such as 6 · parameters · tokens. The models have to be of one series: checkpoints of one run, or sizes of one
family. `hone compare … --ladder DIR` puts what is in DIR on a comparison's page.")]
pub struct LadderVerb {
    /// Directories with the models' scorecards (from `hone eval --out`), at least three.
    #[arg(required = true, value_name = "CARDS_DIR")]
    cards: Vec<PathBuf>,
    /// What was spent on each model, in the same order, separated by commas.
    #[arg(long, required = true, value_delimiter = ',', value_name = "NUMBERS")]
    compute: Vec<f64>,
    /// Of ranks (spearman), of the numbers (pearson), of pairs (kendall).
    #[arg(long, default_value = "spearman", value_name = "WHICH", value_parser = correlations())]
    correlation: Correlation,
    /// Where `ladder.json`, a picture and a line for every question go.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

fn correlations() -> impl TypedValueParser<Value = Correlation> {
    PossibleValuesParser::new(Correlation::NAMES.map(|(name, _)| name)).map(|found| {
        Correlation::NAMES.into_iter().find(|(name, _)| *name == found).map_or_else(Correlation::default, |(_, of)| of)
    })
}

impl LadderVerb {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        if self.cards.len() != self.compute.len() {
            let error = PredictError::Computes { models: self.cards.len(), computes: self.compute.len() };
            return Err(error.into());
        }
        check_writable(&self.out)?;
        let mut rungs = Vec::with_capacity(self.cards.len());
        for (directory, &compute) in self.cards.iter().zip(&self.compute) {
            let name = directory.display().to_string();
            rungs.push(Rung { name, compute, cards: read_scorecards(directory)? });
        }
        let options = LadderOptions { correlation: self.correlation, ..LadderOptions::default() };
        let ladder = ladder(rungs, &options)?;
        write(&self.out, &ladder)?;
        if common.json {
            outln!("{}", serde_json::to_string(&ladder)?)?;
            return Ok(0);
        }
        ladder.tasks.iter().try_for_each(|task| print(task, &ladder))?;
        ladder.notes.iter().try_for_each(|note| outln!("note: {note}"))?;
        outln!("\nwritten: {}", self.out.join(FILE).display())?;
        Ok(0)
    }
}

/// `ladder.json`, and for each task a picture of the survival functions and a line a question.
fn write(out: &Path, ladder: &Ladder) -> Result<(), Failure> {
    write_atomically(&out.join(FILE), |file| {
        serde_json::to_writer_pretty(&mut *file, ladder)?;
        writeln!(file)
    })?;
    for task in &ladder.tasks {
        // The name is from a scorecard, which may be from anywhere.
        if !is_file_name(&task.name) {
            let hint = "evaluate again with this version";
            return Err(Failure::user(format!("task `{}` of a scorecard has a slash in its name", task.name), hint));
        }
        write_atomically(&out.join(format!("{}.jsonl", task.name)), |file| {
            task.rows.iter().try_for_each(|row| {
                serde_json::to_writer(&mut *file, row)?;
                writeln!(file)
            })
        })?;
        let drawn =
            hone_report::study::draw(&picture(task, ladder)).map_err(|error| Failure::ours(error.to_string()))?;
        if let Some(svg) = drawn {
            write_text(&out.join(format!("{}.svg", task.name)), &svg)?;
        }
    }
    Ok(())
}

/// The share of questions whose correlation is above each value, score by score.
fn picture(task: &TaskLadder, ladder: &Ladder) -> PlotResult {
    let cell = |value: f64| Cell { value: Some(value), ..Cell::default() };
    let marks = task.scores.iter().flat_map(|score| {
        score.survival.iter().map(move |&(t, share)| Mark {
            series: score.label.clone(),
            label: String::new(),
            x: cell(t),
            y: cell(100.0 * share),
        })
    });
    PlotResult {
        name: task.name.clone(),
        title: format!("{}: correlation with compute, question by question", task.name),
        kind: PlotKind::Lines,
        x_label: format!("{} correlation with compute", ladder.correlation.name()),
        y_label: "questions above (%)".into(),
        x_logarithmic: false,
        y_logarithmic: false,
        front: None,
        marks: marks.collect(),
    }
}

fn print(task: &TaskLadder, ladder: &Ladder) -> Result<(), Failure> {
    let (models, correlation) = (ladder.models.len(), ladder.correlation.name());
    outln!("{} ({} questions, {models} models, {correlation} correlation with compute)\n", task.name, task.questions)?;
    let head = ["score", "mean", "95 % interval", "median", "area", "distance", "none", "of the mean"];
    let line = |cells: [String; 8]| {
        let [first, mean, interval, rest @ ..] = &cells;
        let rest: String = rest.iter().map(|cell| format!("  {cell:>11}")).collect();
        format!("{first:<26}  {mean:>7}  {interval:>18}{rest}")
    };
    outln!("{}", line(head.map(str::to_owned)))?;
    for score in &task.scores {
        let number = |value: Option<f64>| value.map_or_else(|| "–".into(), |value| format!("{value:.3}"));
        let cells = [
            score.label.clone(),
            number(score.mean.map(|mean| mean.value)),
            interval(score.mean),
            number(score.median),
            number(score.area),
            number(score.distance),
            score.undefined.to_string(),
            number(score.of_the_mean),
        ];
        outln!("{}", line(cells))?;
    }
    outln!("")?;
    for loss in &task.losses {
        let value = loss.loss.map_or_else(|| "–".into(), |of| format!("{:+.3}", of.value));
        let here = if task.lost_at.as_ref() == Some(&loss.to) { "  the most" } else { "" };
        outln!("from {} to {}: loses {value} ({}){here}", loss.from, loss.to, interval(loss.loss))?;
    }
    let mass = &task.wrong_mass;
    if let (Some(positive), Some(slope), Some(low), Some(high), Some(spread)) =
        (mass.positive, mass.slope, mass.slope_low, mass.slope_high, mass.spread)
    {
        outln!(
            "wrong choices rise with the right one on {:.0} % of the questions (median slope {slope:.2}, 90 % of them {low:.2} to \
             {high:.2}; single ones spread by {spread:.2} powers of ten)",
            100.0 * positive
        )?;
    }
    let (above, right) = (task.above_half, task.above_half_right);
    outln!("answers with a probability above 1/2 among all texts: {above}, {right} of them right")?;
    if task.left_out > 0 {
        outln!("note: {} questions were not asked of all models, or have no one right answer", task.left_out)?;
    }
    task.notes.iter().try_for_each(|note| outln!("note: {note}"))?;
    outln!("")
}

fn interval(of: Option<Estimate>) -> String {
    of.and_then(|of| of.ends()).map_or_else(|| "–".into(), |(low, high)| format!("{low:.3} to {high:.3}"))
}
