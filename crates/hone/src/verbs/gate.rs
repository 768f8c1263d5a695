//! `hone eval --baseline`: a new version against the kept scorecards of an old one, with an exit code for CI.

use std::path::{Path, PathBuf};

use hone_eval::Task;
use hone_eval::compare::{CompareOptions, compare};
use hone_eval::files::{read_scorecard, read_scorecards};
use hone_eval::foreseen::{check_asked, check_prompts, check_settings};
use hone_eval::ledger::Ledger;
use hone_eval::rules::{Rule, Rules};
use hone_eval::scorecard::Scorecard;
use hone_model::Model;

use super::compare::{parse_rule, report, show, write};
use super::eval::{Asked, card_path};
use super::outcome::Measured;
use super::sources;
use crate::args::Common;
use crate::fail::Failure;

/// Arguments of the gate.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct GateArguments {
    /// Compare with the scorecards of another version, kept in DIR: exit code 3 if a task got measurably worse, or, with
    /// `--fail-if`, if a rule is broken. The comparison goes to OUT/comparison.
    #[arg(long, value_name = "DIR", requires = "out")]
    baseline: Option<PathBuf>,
    /// Exit with code 3 when TASK drops by more than POINTS, and not because another one got worse (may be given several times).
    #[arg(long, value_name = "TASK=POINTS", value_parser = parse_rule, requires = "baseline")]
    fail_if: Vec<(String, f64)>,
    /// With `--fail-if`: exit with code 3 when any task got measurably worse, too.
    #[arg(long, requires = "baseline")]
    fail_if_worse: bool,
}

/// A baseline that fits the tasks.
pub struct Gate {
    directory: PathBuf,
    cards: Vec<Scorecard>,
    options: CompareOptions,
    any_worse: bool,
}

impl GateArguments {
    /// Reads the baseline, so that one that does not fit is known before an hour of scoring. `None` without one.
    pub fn ready(&self, tasks: &[Task], asked: &Asked) -> Result<Option<Gate>, Failure> {
        let Some(directory) = &self.baseline else { return Ok(None) };
        let all = read_scorecards(directory)?;
        let mut cards = Vec::new();
        for task in tasks {
            let Some(card) = all.iter().find(|card| card.header.task == task.name()) else {
                // A guard that checks nothing must not pass.
                let cause = format!("{}: the baseline has no scorecard of `{}`", directory.display(), task.name());
                return Err(Failure::user(cause, "score the baseline's model on that task too, or leave the task out"));
            };
            if card.header.task_sha256 != task.sha256() {
                let cause = format!(
                    "{}: the task `{}` or its data are not what the baseline was asked",
                    directory.display(),
                    task.name()
                );
                return Err(Failure::user(cause, "score the baseline's model anew with the task as it is now"));
            }
            check_settings(&card.header, task, &asked.options_for(task, None))?;
            cards.push(card.clone());
        }
        let options = CompareOptions { fail_if: rules(&self.fail_if), ..CompareOptions::default() };
        options.check_names(tasks.iter().map(Task::name))?;
        let any_worse = self.fail_if_worse || self.fail_if.is_empty();
        Ok(Some(Gate { directory: directory.clone(), cards, options, any_worse }))
    }
}

impl Gate {
    /// Whether the first prompts are those of the baseline: another chat template shows in them alone. `model` is what is loaded; a
    /// server has none.
    pub fn check(&self, tasks: &[Task], asked: &Asked, model: Option<&Model>) -> Result<(), Failure> {
        for (card, task) in self.cards.iter().zip(tasks) {
            let options = asked.options_for(task, None);
            match model {
                Some(model) => check_prompts(card, task, &options, model)?,
                None => check_asked(card, task, &options)?,
            }
        }
        Ok(())
    }

    /// Compares what was scored into `out` with the baseline, writes the comparison and prints it; the number is the exit code.
    pub fn judge(&self, out: &Path, common: &Common) -> Result<u8, Failure> {
        let card = |base: &Scorecard| read_scorecard(&card_path(out, &base.header.task));
        let tuned = self.cards.iter().map(card).collect::<Result<Vec<Scorecard>, _>>()?;
        let mut ledger = compare(&self.cards, &tuned, &self.options)?;
        if self.any_worse {
            worse_is_broken(&mut ledger);
        }
        let place = out.join("comparison");
        // Links are relative, so their start has to be there.
        hone_eval::files::check_writable(&place)?;
        let title = out.file_name().map_or_else(|| "comparison".into(), |name| name.to_string_lossy().into_owned());
        let mut report = report(title, &self.cards, &tuned, ledger);
        report.sources = sources::of_comparison(&place, &self.directory, out, &report.ledger);
        write(&place, &report)?;
        show(&report.ledger, Measured::Numbers, &place, common)
    }
}

/// Rules as they are typed.
pub fn rules(typed: &[(String, f64)]) -> Rules {
    let rule = |(task, points): &(String, f64)| (task.clone(), Rule { drop_over: Some(*points), ..Rule::default() });
    typed.iter().map(rule).collect()
}

/// Makes every task that got measurably worse a broken rule, unless it broke one of its own.
pub fn worse_is_broken(ledger: &mut Ledger) {
    let mut broken = Vec::new();
    for task in ledger.asked().filter(|task| task.verdict == "worse") {
        let own = format!("{}: ", task.name);
        if ledger.broken_rules.iter().any(|rule| rule.starts_with(&own)) {
            continue;
        }
        let (factor, unit) = if task.is_share { (100.0, " points") } else { (1.0, "") };
        let [size, low, high] = [task.difference.abs(), task.ci_low, task.ci_high].map(|value| value * factor);
        broken.push(
            format!("{own}{} measurably worse by {size:.1}{unit} (95 % interval {low:+.1} to {high:+.1})", task.metric)
                .replace('-', "−"),
        );
    }
    ledger.broken_rules.extend(broken);
}
