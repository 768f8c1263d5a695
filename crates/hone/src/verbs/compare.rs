//! `hone compare`: two sets of scorecards, paired question by question.

mod given;

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, PossibleValuesParser};
use hone_eval::compare::{CompareOptions, compare};
use hone_eval::files::{check_writable, read_scorecards, write_ledger, write_measure_rows};
use hone_eval::ledger::Ledger;
use hone_eval::measures::{self, MEASURES, Measure};
use hone_eval::scorecard::Scorecard;
use hone_report::Report;

use self::given::{Given, KINDS};
use super::gate::{rules, worse_is_broken};
use super::outcome::{self, Measured};
use super::sources;
use crate::args::Common;
use crate::fail::{Failure, RULE};
use crate::print::{out, outln};

/// Arguments of `hone compare`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone compare cards/base cards/tuned --out comparison
  hone compare cards/base cards/tuned --out comparison --target telecom --fail-if boolq=3   # exit code 3 if boolq drops by more than 3 points
  hone compare cards/old cards/new --out comparison --measure compatibility                # what the update broke that worked
  hone compare cards/base cards/tuned --out comparison --measure context --attention look  # does it still use what it is given?
  hone compare cards/base cards/tuned --out comparison --dependency scores                 # what `hone locate context-dependency` wrote
  hone compare cards/1 cards/128 --out comparison --ladder ladder                          # what `hone predict ladder` wrote")]
pub struct Compare {
    /// Directory with the first model's scorecards (from `hone eval --out`).
    base: PathBuf,
    /// Directory with the second model's scorecards.
    tuned: PathBuf,
    /// Where `ledger.json`, `report.html` and `report.md` go.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Pair questions whose prompts differ, as those of two model families with their own chat templates do.
    #[arg(long)]
    allow_different_prompts: bool,
    /// A task the tuning was for (may be given several times).
    #[arg(long, value_name = "TASK")]
    target: Vec<String>,
    /// Paired examples that `ledger.json` keeps, by task and kind of change (the scorecards hold all).
    #[arg(long, value_name = "N", default_value_t = CompareOptions::default().examples_kept)]
    examples: usize,
    /// What to measure besides (may be given several times).
    #[arg(long, value_name = "NAME", value_parser = measure_names())]
    measure: Vec<String>,
    #[command(flatten)]
    given: Given,
    /// Changes of a score up to this count as none (measures over scores between right and wrong, such as ROUGE).
    #[arg(long, value_name = "SCORE", requires = "measure", default_value_t = 0.0, value_parser = parse_tolerance)]
    tolerance: f64,
    /// Exit with code 3 when TASK drops by more than POINTS (may be given several times).
    #[arg(long, value_name = "TASK=POINTS", value_parser = parse_rule)]
    fail_if: Vec<(String, f64)>,
    /// Exit with code 3 when any task got measurably worse.
    #[arg(long)]
    fail_if_worse: bool,
}

/// `TASK=POINTS`.
pub fn parse_rule(text: &str) -> Result<(String, f64), String> {
    let wrong = || format!("found `{text}`, expected TASK=POINTS with a drop of 0 points or more, such as `boolq=3`");
    let (task, points) = text.split_once('=').ok_or_else(wrong)?;
    let points: f64 = points.parse().map_err(|_| wrong())?;
    // Of a negative limit an improvement would be too large a drop.
    if points.is_finite() && points >= 0.0 { Ok((task.to_owned(), points.abs())) } else { Err(wrong()) }
}

/// The measures there are, with the questions they answer in `--help`.
fn measure_names() -> PossibleValuesParser {
    let of_cards = MEASURES.iter().map(|measure| (measure.name, measure.question.to_owned()));
    let given = KINDS.iter().map(|kind| (kind.name, format!("{} Needs --{} DIR", kind.question, kind.name)));
    PossibleValuesParser::new(of_cards.chain(given).map(|(name, question)| PossibleValue::new(name).help(question)))
}

fn parse_tolerance(text: &str) -> Result<f64, String> {
    let tolerance = text.parse().ok().filter(|tolerance: &f64| tolerance.is_finite() && *tolerance >= 0.0);
    tolerance
        .ok_or_else(|| format!("found `{text}`, expected a number from 0, in the metric's own unit (0.05 is 5 points)"))
}

impl Compare {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        self.given.check(&self.measure)?;
        let base = read_scorecards(&self.base)?;
        let tuned = read_scorecards(&self.tuned)?;
        let mut measures: Vec<&'static Measure> = Vec::new();
        for name in self.measure.iter().filter(|name| given::kind(name).is_none()) {
            let measure = measures::find(name)?;
            if measures.iter().all(|known| known.name != measure.name) {
                measures.push(measure);
            }
        }
        let options = CompareOptions {
            targets: self.target.clone(),
            fail_if: rules(&self.fail_if),
            allow_different_prompts: self.allow_different_prompts,
            examples_kept: self.examples,
            measures,
            tolerance: self.tolerance,
            ..CompareOptions::default()
        };
        let mut ledger = compare(&base, &tuned, &options)?;
        let given = self.given.measures()?;
        ledger.measures.extend(given.iter().map(|(_, measure)| measure.clone()));
        if self.fail_if_worse {
            worse_is_broken(&mut ledger);
        }
        let title = self.tuned.file_name().map_or_else(|| "comparison".into(), |n| n.to_string_lossy().into_owned());
        // Links are relative, so their start has to be there.
        check_writable(&self.out)?;
        let mut report = report(title, &base, &tuned, ledger);
        report.sources = sources::of_comparison(&self.out, &self.base, &self.tuned, &report.ledger);
        report.sources.extend(Given::sources(&self.out, &given));
        write(&self.out, &report)?;
        show(&report.ledger, Measured::Whole, &self.out, common)
    }
}

/// The page of a comparison.
pub fn report(title: String, base: &[Scorecard], tuned: &[Scorecard], ledger: Ledger) -> Report {
    Report {
        title,
        scorecards: headers(base, tuned),
        sources: Vec::new(),
        run: None,
        invariants: Vec::new(),
        provenance: provenance(base, tuned),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        ledger,
    }
}

/// The headers of both sides.
pub fn headers(base: &[Scorecard], tuned: &[Scorecard]) -> Vec<hone_eval::scorecard::ScorecardHeader> {
    base.iter().chain(tuned).map(|card| card.header.clone()).collect()
}

fn provenance(base: &[Scorecard], tuned: &[Scorecard]) -> Vec<(String, String)> {
    let side = |name: &str, cards: &[Scorecard]| {
        let header = cards.first().map(|card| &card.header)?;
        let sha256 = header.edit_sha256.as_deref().map(|sha256| format!(", sha256 {sha256}")).unwrap_or_default();
        let edit = header.edit.as_deref().map(|edit| format!("; with {edit}{sha256}")).unwrap_or_default();
        Some((name.to_owned(), format!("{}, sha256 {}{edit}", header.model, header.model_sha256)))
    };
    let mut facts: Vec<(String, String)> = [side("Base", base), side("Tuned", tuned)].into_iter().flatten().collect();
    facts.push(("Hone".into(), env!("CARGO_PKG_VERSION").into()));
    facts
}

/// Writes `ledger.json`, `report.html`, `report.md` and where the scorecards are; of measures, if there are any, what they say of
/// every example.
pub fn write(out: &Path, report: &Report) -> Result<(), Failure> {
    write_ledger(&out.join("ledger.json"), &report.ledger)?;
    let mut report = report.clone();
    if report.sources.is_empty() {
        report.sources = sources::beside(out, &report.ledger);
    }
    let page = hone_report::render(&report).map_err(|error| Failure::ours(error.to_string()))?;
    write_text(&out.join("report.html"), &page)?;
    write_text(&out.join("report.md"), &hone_report::markdown(&report))?;
    write_text(&out.join(sources::FILE), &serde_json::to_string_pretty(&report.sources)?)?;
    write_measure_rows(out, &report.ledger.measures)?;
    Ok(())
}

/// Writes a text file whole or not at all.
pub fn write_text(path: &Path, text: &str) -> Result<(), Failure> {
    hone_eval::files::write_atomically(path, |file| std::io::Write::write_all(file, text.as_bytes()))?;
    Ok(())
}

/// Prints the outcome; the number is the exit code.
pub fn show(ledger: &Ledger, measured: Measured, out: &Path, common: &Common) -> Result<u8, Failure> {
    if common.json {
        outln!("{}", serde_json::to_string(ledger)?)?;
    } else {
        out!("{}", outcome::table(ledger, measured))?;
        outln!("\nreport: {}", out.join("report.html").display())?;
    }
    Ok(if ledger.broken_rules.is_empty() { 0 } else { RULE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_has_a_task_and_a_drop_that_is_one() {
        assert_eq!(parse_rule("boolq=3"), Ok(("boolq".into(), 3.0)));
        assert_eq!(parse_rule("boolq=0"), Ok(("boolq".into(), 0.0)));
        for wrong in ["lambada=-5", "lambada=nan", "lambada=inf", "lambada", "lambada=x"] {
            let message = parse_rule(wrong).expect_err(wrong);
            assert!(message.contains(&format!("found `{wrong}`")) && message.contains("0 points or more"), "{message}");
        }
    }
}
