//! How good two reward models (or judges) are at telling right completions from wrong ones, domain by domain.
//!
//! Malik et al. 2025, "RewardBench 2", arXiv 2506.01937. A task takes part if its completions were scored by rewards
//! ([`crate::rewards`]) and its file's `metadata` says `reward: NAME` (which benchmark) and, perhaps, `domain` and `weight`:
//!
//! ```text
//! domain score   best of n: mean over items of 1/#{ties at the top} if the right completion is among them
//!                ties: the Ties score over prompts ([`crate::metrics::best_of`])
//! overall        Σ weight · domain score / Σ weight; weights are 1 where nobody says (the paper's unweighted mean)
//! pairs          share of (right, wrong) pairs whose right one scores higher, equal ones counting half; mean over items
//! longest        the overall score of who takes the longest completion for the best; `shortest` of the other way
//! ```
//!
//! Intervals are a bootstrap that draws items anew within each domain, and prompts in a domain of ties, both models on the same
//! ones. Items of several tasks in one domain are taken together.
//!
//! What it does not know: whether a model that ranks better makes a better policy; the lineage of policy and reward model counts
//! for as much (section 5 of the paper).

use super::chart::{Bar, ChartData, Drawing};
use super::{How, Measure, MeasureOptions, Number, Table, TaskMeasure, Unit};
use crate::error::EvalError;
use crate::metrics::Aggregation;
use crate::metrics::best_of::{TieItem, Ties, best_of, pairs};
use crate::pairing::Paired;
use crate::rewards::ratings::UNPARSED;
use crate::scorecard::{Completion, ScorecardRow};
use crate::statistics::{groups, mean};

/// The measure.
pub const MEASURE: Measure = Measure {
    name: "rewards",
    question: "Does it tell good answers from bad ones better?",
    legend: "The share of items whose right completion gets the highest reward (equal ones share the credit), by domain and, with the \
             domains' weights, overall. `longest` and `shortest` are what looking at length alone would score.",
    source: "Malik et al. 2025, arXiv 2506.01937",
    formulas: &[
        "domain score = mean over items of 1/(ties at the top) where a right completion is among them; of ties, the Ties score over prompts",
        "overall = Σ weight · domain score / Σ weight",
    ],
    how: |_| How::Bootstrap("the items within each domain (of ties, the prompts), both models on the same ones"),
    differences: &[],
    unasked: true,
    of,
};

/// Who scores the completions: both models, and two that look at length alone.
const SCORERS: usize = 4;
const BEFORE: usize = 0;
const AFTER: usize = 1;
const LONGEST: usize = 2;
const SHORTEST: usize = 3;

/// A domain's items.
struct Domain {
    name: String,
    weight: f64,
    units: Units,
}

/// What is drawn anew, with what each scorer makes of it.
enum Units {
    /// Items: their scores.
    Items(Vec<[f64; SCORERS]>),
    /// Prompts: their two items.
    Prompts(Vec<[(TieItem, TieItem); SCORERS]>),
}

impl Domain {
    fn len(&self) -> usize {
        match &self.units {
            Units::Items(items) => items.len(),
            Units::Prompts(prompts) => prompts.len(),
        }
    }

    /// The score over the units at `indices`.
    fn score(&self, indices: &[usize], scorer: usize) -> f64 {
        match &self.units {
            Units::Items(items) => indices.iter().map(|&i| items[i][scorer]).sum::<f64>() / indices.len() as f64,
            Units::Prompts(prompts) => Ties::of_pairs(indices.iter().map(|&i| prompts[i][scorer])).score(),
        }
    }

    fn whole(&self, scorer: usize) -> f64 {
        self.score(&(0..self.len()).collect::<Vec<_>>(), scorer)
    }
}

fn of(all: &[Paired<'_>], options: &MeasureOptions) -> Result<Vec<TaskMeasure>, EvalError> {
    let scored = |paired: &&Paired<'_>| paired.rows.iter().any(|(b, a)| !b.rewards.is_empty() && !a.rewards.is_empty());
    let scored: Vec<&Paired<'_>> = all.iter().filter(scored).collect();
    let mut names: Vec<&str> = Vec::new();
    for paired in &scored {
        if !names.contains(&benchmark(paired)) {
            names.push(benchmark(paired));
        }
    }
    let one = |name: &&str| {
        let own: Vec<&Paired<'_>> = scored.iter().copied().filter(|paired| benchmark(paired) == *name).collect();
        of_benchmark(name, &own, options)
    };
    names.iter().map(one).collect()
}

fn benchmark<'a>(paired: &Paired<'a>) -> &'a str {
    let base: &'a crate::scorecard::ScorecardHeader = paired.base;
    base.labels.get("reward").map_or(base.task.as_str(), String::as_str)
}

fn of_benchmark(name: &str, own: &[&Paired<'_>], options: &MeasureOptions) -> Result<TaskMeasure, EvalError> {
    let mut measure = TaskMeasure {
        name: name.into(),
        metric: "best_of".into(),
        n: own.iter().map(|paired| paired.n()).sum(),
        tasks: super::names(own),
        ..TaskMeasure::default()
    };
    let domains = domains(own, &mut measure.notes)?;
    for domain in &domains {
        let of: Vec<&Paired<'_>> = own.iter().filter(|paired| name_of_domain(paired) == domain.name).copied().collect();
        let labels = [row(domain), format!("{}, change", domain.name)];
        measure.parts.extend(labels.map(|label| (label, super::names(&of))));
    }
    let sizes: Vec<usize> = domains.iter().map(Domain::len).collect();
    if sizes.is_empty() {
        return Ok(measure);
    }
    let overall = |drawn: &[Vec<usize>], scorer: usize| {
        let weights: f64 = domains.iter().map(|domain| domain.weight).sum();
        let scores = domains.iter().zip(drawn).map(|(domain, at)| domain.weight * domain.score(at, scorer));
        scores.sum::<f64>() / weights
    };
    let whole: Vec<Vec<usize>> = sizes.iter().map(|&n| (0..n).collect()).collect();
    let mut number = |name: &str, label: &str, unit: Unit, statistic: &(dyn Fn(&[Vec<usize>]) -> f64 + Sync)| {
        let interval = groups::interval(&sizes, &options.bootstrap, statistic);
        let number = Number::new(name, label, statistic(&whole), Some((interval.low, interval.high)), unit);
        measure.numbers.push(number.clone());
        number
    };
    number("overall_before", "overall, before", Unit::Share, &|drawn| overall(drawn, BEFORE));
    number("overall_after", "overall, after", Unit::Share, &|drawn| overall(drawn, AFTER));
    number("overall_change", "overall, change", Unit::Points, &|drawn| overall(drawn, AFTER) - overall(drawn, BEFORE));
    let mut bars = Vec::new();
    if domains.len() > 1 {
        for (at, domain) in domains.iter().enumerate() {
            let change = |drawn: &[Vec<usize>]| domain.score(&drawn[at], AFTER) - domain.score(&drawn[at], BEFORE);
            let name = domain.name.to_lowercase().replace(' ', "_");
            let label = format!("{}, change", domain.name);
            let Number { value, low, high, .. } = number(&format!("{name}_change"), &label, Unit::Points, &change);
            bars.push(Bar { name: domain.name.clone(), value, low, high });
        }
    }
    let of_pairs = |side: fn(&(&ScorecardRow, &ScorecardRow)) -> Vec<f64>| {
        mean(&own.iter().flat_map(|paired| paired.rows.iter().flat_map(side)).collect::<Vec<_>>())
    };
    measure.numbers.extend([
        Number::new("pairs_before", "pairs, before", of_pairs(|(b, _)| pair_accuracy(b)), None, Unit::Share),
        Number::new("pairs_after", "pairs, after", of_pairs(|(_, a)| pair_accuracy(a)), None, Unit::Share),
        Number::new("longest", "longest wins", overall(&whole, LONGEST), None, Unit::Share),
        Number::new("shortest", "shortest wins", overall(&whole, SHORTEST), None, Unit::Share),
    ]);
    measure.tables.push(table(&domains));
    if !bars.is_empty() {
        let drawing = Drawing::Forest { x: "change (points)".into(), unit: Unit::Points, bars };
        measure.charts.push(ChartData { title: "Change by domain".into(), drawing });
    }
    notes(own, &mut measure.notes);
    Ok(measure)
}

/// A task's label `domain`, else its name.
fn name_of_domain(paired: &Paired<'_>) -> String {
    paired.base.labels.get("domain").cloned().unwrap_or_else(|| paired.task().to_owned())
}

/// Domains in the order of the tasks, with their items.
fn domains(own: &[&Paired<'_>], notes: &mut Vec<String>) -> Result<Vec<Domain>, EvalError> {
    let mut domains: Vec<Domain> = Vec::new();
    for paired in own {
        let labels = &paired.base.labels;
        let name = name_of_domain(paired);
        let weight = labels.get("weight").map_or(Some(1.0), |weight| weight.parse().ok());
        let Some(weight) = weight.filter(|weight| f64::is_finite(*weight) && *weight > 0.0) else {
            return Err(EvalError::TaskFile {
                file: paired.task().into(),
                place: "metadata.weight".into(),
                problem: format!("`{}`, expected a number over 0", labels["weight"]),
            });
        };
        let units = match paired.metric.aggregation {
            Aggregation::Ties => Units::Prompts(prompts(paired, notes)),
            _ => Units::Items(paired.rows.iter().map(|rows| by_each(rows, &best_of)).collect()),
        };
        match domains.iter_mut().find(|domain| domain.name == name) {
            None => domains.push(Domain { name, weight, units }),
            Some(domain) => match (&mut domain.units, units) {
                (Units::Items(all), Units::Items(more)) => all.extend(more),
                (Units::Prompts(all), Units::Prompts(more)) => all.extend(more),
                _ => notes.push(format!("{} was left out: {name} has items of the other rule", paired.task())),
            },
        }
    }
    domains.retain(|domain| domain.len() > 0);
    Ok(domains)
}

/// What each scorer makes of an item by a rule over scores and right ones.
fn by_each<T>((before, after): &(&ScorecardRow, &ScorecardRow), rule: &dyn Fn(&[f64], &[usize]) -> T) -> [T; SCORERS] {
    let right: Vec<usize> = (0..before.rewards.len()).filter(|&i| before.rewards[i].right).collect();
    let of = |row: &ScorecardRow, score: fn(&Completion) -> f64| {
        rule(&row.rewards.iter().map(score).collect::<Vec<_>>(), &right)
    };
    [
        of(before, |c| c.reward),
        of(after, |c| c.reward),
        of(before, |c| c.characters as f64),
        of(before, |c| -(c.characters as f64)),
    ]
}

/// The prompts of a domain of ties that have both items.
fn prompts(paired: &Paired<'_>, notes: &mut Vec<String>) -> Vec<[(TieItem, TieItem); SCORERS]> {
    let items: Vec<[Option<TieItem>; SCORERS]> = paired
        .rows
        .iter()
        .map(|rows| {
            let group = rows.0.group.as_deref().unwrap_or_default();
            by_each(rows, &|scores, right| TieItem::new(scores, right, group))
        })
        .collect();
    let of: Vec<Vec<(TieItem, TieItem)>> =
        (0..SCORERS).map(|scorer| pairs(items.iter().filter_map(|item| item[scorer]))).collect();
    let used = 2 * of[BEFORE].len();
    if used < items.len() {
        notes.push(format!(
            "{}: {} of {} items have no counterpart with the same prompt (one item with one right completion, one with \
             several) and count nothing",
            paired.task(),
            items.len() - used,
            items.len()
        ));
    }
    (0..of[BEFORE].len()).map(|prompt| std::array::from_fn(|scorer| of[scorer][prompt])).collect()
}

/// An item's share of (right, wrong) pairs in order; nothing of an item with rewards of one kind.
fn pair_accuracy(row: &ScorecardRow) -> Vec<f64> {
    let (right, wrong): (Vec<&Completion>, Vec<&Completion>) = row.rewards.iter().partition(|c| c.right);
    let pair = |r: &Completion, w: &Completion| match r.reward.total_cmp(&w.reward) {
        std::cmp::Ordering::Greater => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Less => 0.0,
    };
    let scores: Vec<f64> = right.iter().flat_map(|r| wrong.iter().map(|w| pair(r, w))).collect();
    if scores.is_empty() { Vec::new() } else { vec![mean(&scores)] }
}

/// A domain's name in the table.
fn row(domain: &Domain) -> String {
    format!("{} ({})", domain.name, domain.len())
}

fn table(domains: &[Domain]) -> Table {
    let cells = |domain: &Domain| (0..SCORERS).map(|scorer| Some(domain.whole(scorer))).collect();
    Table {
        title: "Scores by domain".into(),
        unit: Unit::Share,
        columns: ["before", "after", "longest wins", "shortest wins"].map(str::to_owned).into(),
        rows: domains.iter().map(row).collect(),
        cells: domains.iter().map(cells).collect(),
    }
}

fn notes(own: &[&Paired<'_>], notes: &mut Vec<String>) {
    let of = |header: &crate::scorecard::ScorecardHeader| header.rewards.clone().unwrap_or_default();
    if let Some(first) = own.first() {
        notes.push(format!("rewards: before, {}; after, {}", of(first.base), of(first.tuned)));
    }
    let cut: usize = own.iter().map(|paired| paired.base.truncated.max(paired.tuned.truncated)).sum();
    if cut > 0 {
        notes.push(format!("{cut} items were cut from the left to fit a model: what differs may have been cut off"));
    }
    for (side, pick) in [("before", 0), ("after", 1)] {
        let completions = own.iter().flat_map(|paired| &paired.rows).flat_map(|rows| match pick {
            0 => &rows.0.rewards,
            _ => &rows.1.rewards,
        });
        let (mut replies, mut unparsed) = (0usize, 0usize);
        for completion in completions.filter(|completion| completion.reply.is_some()) {
            replies += 1;
            unparsed += usize::from(completion.reward == UNPARSED);
        }
        if unparsed > 0 {
            notes.push(format!("{side}: {unparsed} of {replies} replies held no rating and count as {UNPARSED}"));
        }
    }
}
