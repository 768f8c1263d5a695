//! `hone explain`: how a number came about, down to its examples.

use std::path::{Path, PathBuf};

use hone_eval::explain::{
    self, EXAMPLES, Example, ExplainError, Explanation, Options, Way, card, comparison, measured,
};
use hone_eval::files::read_scorecards;
use hone_eval::ledger::{Ledger, TaskComparison};
use hone_eval::pairing::WITHHELD;
use hone_eval::scorecard::Scorecard;
use hone_report::Source;

use super::sources;
use crate::args::Common;
use crate::fail::Failure;
use crate::print::outln;

/// Arguments of `hone explain`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone explain cards/base acc --task boolq                  # a metric of a model: formula, interval, examples
  hone explain comparison acc                               # a change: flips, test, interval, the questions that flipped
  hone explain comparison negative_flip_rate --limit 20     # a number of `hone compare --measure`
  hone explain runs/first acc_norm --json                   # of a run of `hone tune`")]
pub struct Explain {
    /// A directory of `hone compare`, `tune` or `battery` (it holds `ledger.json`), one of `hone eval --out`, or a scorecard.
    run: PathBuf,
    /// A metric (`acc`, `exact_match`, `word_perplexity`, `ece` …), a number of a measure (`negative_flip_rate`,
    /// `compatibility/negative_flip_rate` …), or one of a comparison (`difference`, `lost`, `gained`, `mcnemar_p`, `p_holm`).
    metric: String,
    /// Only this task, or this way of asking it (`TASK@NAME`).
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// Examples shown of each number.
    #[arg(long, value_name = "N", default_value_t = EXAMPLES)]
    limit: usize,
    /// Show prompts and answers of tasks that are marked sensitive.
    #[arg(long)]
    show_sensitive: bool,
}

impl Explain {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        let ledger = self.run.join("ledger.json");
        let found = if ledger.is_file() { self.of_comparison(&ledger)? } else { self.of_cards()? };
        if common.json {
            outln!("{}", serde_json::to_string(&found)?)?;
            return Ok(0);
        }
        for (i, explanation) in found.iter().enumerate() {
            if i > 0 {
                outln!("")?;
            }
            print(explanation)?;
        }
        Ok(0)
    }

    fn options(&self) -> Options {
        Options { limit: self.limit, show_sensitive: self.show_sensitive, ..Options::default() }
    }

    fn place(&self) -> String {
        self.run.display().to_string()
    }

    /// Whether a task is wanted: named, or a way of the one that is named; without a name the first way of each.
    fn wants(&self, task: &str, is_further_way: bool) -> bool {
        match &self.task {
            Some(name) if name == task => true,
            Some(name) => !is_further_way && of(task) == Some(name),
            None => !is_further_way,
        }
    }

    /// Metrics of scorecards.
    fn of_cards(&self) -> Result<Vec<Explanation>, Failure> {
        let cards = read_scorecards(&self.run)?;
        let further = |card: &Scorecard| card.header.variant.as_ref().is_some_and(|variant| variant.index > 0);
        let wanted: Vec<&Scorecard> =
            cards.iter().filter(|card| self.wants(&card.header.task, further(card))).collect();
        if wanted.is_empty() {
            let known: Vec<&str> = cards.iter().map(|card| card.header.task.as_str()).collect();
            return Err(
                ExplainError::unknown_task(self.task.as_deref().unwrap_or_default(), &self.place(), &known).into()
            );
        }
        let has =
            |card: &&&Scorecard| card.header.metrics.iter().any(|metric| explain::names(&self.metric, &metric.name));
        let mut explained = Vec::new();
        for card in wanted.iter().filter(has) {
            let mut explanation = card::of(card, &self.metric, &self.options())?;
            explanation.variants = ways(&cards, card, &self.metric);
            explained.push(explanation);
        }
        if explained.is_empty() {
            let names = wanted.iter().flat_map(|card| &card.header.metrics).map(|metric| metric.name.as_str());
            return Err(ExplainError::unknown(&self.metric, &self.place(), &once(names)).into());
        }
        Ok(explained)
    }

    /// Numbers of a comparison: the metric it was made by, a measure's, one of its own, or another metric of its cards.
    fn of_comparison(&self, path: &Path) -> Result<Vec<Explanation>, Failure> {
        let reading = || format!("reading {}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| Failure::from(error).doing(reading()))?;
        let ledger: Ledger = serde_json::from_str(&text).map_err(|error| {
            Failure::user(format!("{}: {error}", path.display()), "compare again, which writes it anew")
        })?;
        let sources = sources::read(&self.run, &ledger)?;
        let own: Vec<&TaskComparison> =
            ledger.tasks.iter().filter(|task| self.wants(&task.name, task.is_variant)).collect();
        let of_measures = measured::find(&ledger, &self.metric);
        let further = |name: &str| ledger.tasks.iter().any(|task| task.name == name && task.is_variant);
        let wanted = |found: &&measured::Found<'_>| {
            let of_the_task = self.task.as_deref() == Some(found.task.subject());
            of_the_task || self.wants(&found.task.name, further(&found.task.name))
        };
        let mut numbers: Vec<_> = of_measures.iter().filter(wanted).collect();
        if let (true, Some(task)) = (numbers.is_empty(), &self.task) {
            // What is over several tasks is of each of them, too.
            numbers =
                of_measures.iter().filter(|found| found.task.over(&[&found.number.label]).contains(task)).collect();
        }
        if own.is_empty() && numbers.is_empty() {
            let tasks = ledger.tasks.iter().map(|task| task.name.as_str());
            let measures = of_measures.iter().map(|found| found.task.name.as_str());
            let known = once(tasks.chain(measures));
            return Err(
                ExplainError::unknown_task(self.task.as_deref().unwrap_or_default(), &self.place(), &known).into()
            );
        }
        let compared: Vec<_> = own.iter().filter(|task| explain::names(&self.metric, &task.metric)).collect();
        if !compared.is_empty() {
            return compared.into_iter().map(|task| self.of_task(&ledger, &sources, task)).collect();
        }
        if !numbers.is_empty() {
            return numbers.into_iter().map(|found| self.of_measure(&ledger, &sources, *found)).collect();
        }
        if comparison::NUMBERS.contains(&self.metric.as_str()) {
            return own.into_iter().map(|task| self.of_task(&ledger, &sources, task)).collect();
        }
        let mut explained = Vec::new();
        let mut known: Vec<String> = Vec::new();
        for task in &own {
            let Some((base, tuned)) = sources::cards(&self.run, &sources, &task.name)? else { continue };
            known.extend(base.header.metrics.iter().map(|metric| metric.name.clone()));
            if base.header.metrics.iter().any(|metric| explain::names(&self.metric, &metric.name)) {
                explained.push(comparison::of_cards(&base, &tuned, &self.metric, &self.options())?);
            }
        }
        if explained.is_empty() && !of_measures.is_empty() {
            // It is a number, of something else than the task that was asked for.
            let known = once(of_measures.iter().map(|found| found.task.name.as_str()));
            let asked = self.task.as_deref().unwrap_or_default();
            return Err(ExplainError::unknown_task(asked, &self.place(), &known).into());
        }
        if explained.is_empty() {
            let compared = own.iter().map(|task| task.metric.as_str());
            let measures = ledger.measures.iter().flat_map(|measure| &measure.tasks).flat_map(|task| &task.numbers);
            let names =
                compared.chain(known.iter().map(String::as_str)).chain(measures.map(|number| number.name.as_str()));
            let known = once(names.chain(comparison::NUMBERS));
            return Err(ExplainError::unknown(&self.metric, &self.place(), &known).into());
        }
        Ok(explained)
    }

    /// A task's change. The scorecards have all examples and their texts, the ledger some.
    fn of_task(&self, ledger: &Ledger, sources: &[Source], task: &TaskComparison) -> Result<Explanation, Failure> {
        let cards = sources::cards(&self.run, sources, &task.name)?;
        let (all, card, sensitive) = match &cards {
            Some((base, tuned)) => {
                let sensitive = base.header.sensitive || tuned.header.sensitive;
                (comparison::examples(base, tuned, &task.metric)?, Some(&base.header), sensitive)
            }
            None => {
                let of_task = ledger.examples.iter().filter(|example| example.task == task.name);
                (of_task.cloned().collect(), None, false)
            }
        };
        let known = comparison::Known {
            task,
            examples: all.iter().collect(),
            tasks: ledger.asked().count(),
            models: (&ledger.base, &ledger.tuned),
            card,
            sensitive,
        };
        let mut explanation = comparison::of(&known, &self.metric, &self.options());
        explanation.variants = comparison::ways(&ledger.tasks, &task.name);
        Ok(explanation)
    }

    fn of_measure(
        &self,
        ledger: &Ledger,
        sources: &[Source],
        found: measured::Found<'_>,
    ) -> Result<Explanation, Failure> {
        let task = found.task.name.as_str();
        let rows = measured::read_rows(&measured::rows_path(&self.run, &found.measure.name, task))?;
        // Of a measure over a family of tasks each member says it; without cards the ledger does.
        let members =
            ledger.tasks.iter().map(|other| other.name.as_str()).filter(|name| *name == task || of(name) == Some(task));
        let mut sensitive =
            ledger.examples.iter().any(|e| (e.task == task || of(&e.task) == Some(task)) && e.prompt == WITHHELD);
        for member in members {
            if let Some((base, tuned)) = sources::cards(&self.run, sources, member)? {
                sensitive |= base.header.sensitive || tuned.header.sensitive;
            }
        }
        Ok(measured::of(found, &rows, ledger, sensitive, &self.options()))
    }
}

/// The task that a way of asking belongs to: `sentiment` of `sentiment@plain`.
fn of(task: &str) -> Option<&str> {
    task.split_once(hone_eval::task::variants::SEPARATOR).map(|(of, _)| of)
}

/// The other ways a card's task was asked, with their values.
fn ways(cards: &[Scorecard], card: &Scorecard, asked: &str) -> Vec<Way> {
    let Some(variant) = &card.header.variant else { return Vec::new() };
    let family = cards.iter().filter(|other| {
        other.header.task != card.header.task && other.header.variant.as_ref().is_some_and(|v| v.of == variant.of)
    });
    let way = |other: &Scorecard| {
        let metric = other.header.metrics.iter().find(|metric| explain::names(asked, &metric.name))?;
        Some(Way { task: other.header.task.clone(), value: metric.value })
    };
    family.filter_map(way).collect()
}

/// Each name once, in the order of their first.
fn once<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut all = Vec::new();
    for name in names {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

fn print(explanation: &Explanation) -> Result<(), Failure> {
    let Explanation { task, metric, model, definition, steps, variants, n, order, examples, .. } = explanation;
    outln!("{metric} of {task}: {model}")?;
    outln!("  {definition}")?;
    for step in steps {
        outln!("  {step}")?;
    }
    if !variants.is_empty() {
        outln!("  other ways of asking it:")?;
    }
    for way in variants {
        outln!("    {}  {:.4}", way.task, way.value)?;
    }
    if !examples.is_empty() {
        outln!("  examples ({} of {n}), {order}:", examples.len())?;
    }
    examples.iter().try_for_each(print_example)
}

fn print_example(example: &Example) -> Result<(), Failure> {
    let influence = example.influence.map(|by| format!(", moves the value by {by:+.2e}").replace('-', "−"));
    outln!("  example {}{}", example.id, influence.unwrap_or_default())?;
    let widest = example.facts.iter().map(|fact| fact.label.chars().count()).max().unwrap_or(0);
    for fact in &example.facts {
        let mut lines = fact.value.lines();
        outln!("    {:<widest$}  {}", fact.label, lines.next().unwrap_or_default())?;
        lines.try_for_each(|line| outln!("    {:<widest$}  {line}", ""))?;
    }
    Ok(())
}
