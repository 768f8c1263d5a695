//! Two models compared: their scorecards paired example by example.
//!
//! Pairs are made by [`crate::pairing`]. Intervals come from resampling the paired examples ([`crate::statistics`]); the
//! value of a metric that is no mean of scores (perplexity, BLEU) is computed anew on every resample. What else is asked of
//! the same pairs is a measure ([`crate::measures`]).

use crate::error::{EvalError, did_you_mean};
use crate::intervals::interval_of;
use crate::ledger::{Ledger, Outcome, PairedExample, TaskComparison};
use crate::measures::{Measure, MeasureOptions, MeasureResult};
use crate::metrics::{Aggregation, ExampleScore};
use crate::pairing::Paired;
use crate::rules::{self, Rules};
use crate::scorecard::{MetricValue, Scorecard};
use crate::statistics::effect::{cohens_dz, cohens_dz_of_interval, cohens_h};
use crate::statistics::{self, BootstrapOptions};
use crate::verdict;

/// Fewer pairs than this cannot show a change: even if all go one way, chance does the same in more than 5 of 100 tries
/// (two-sided sign test, `2 · 0.5⁵`).
const FEWEST_PAIRS: usize = 6;

/// Level below which a p-value counts.
pub const SIGNIFICANCE: f64 = 0.05;

/// Settings of a comparison.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// Resampling.
    pub bootstrap: BootstrapOptions,
    /// What breaks the comparison.
    pub fail_if: Rules,
    /// Tasks the tuning was for.
    pub targets: Vec<String>,
    /// Pair examples whose prompts differ (two model families with their own chat templates).
    pub allow_different_prompts: bool,
    /// Examples kept per task and kind of change.
    pub examples_kept: usize,
    /// What is measured besides, see [`crate::measures::find`].
    pub measures: Vec<&'static Measure>,
    /// Whether measures that no task is for are left out; else a note says so.
    pub only_fitting_measures: bool,
    /// Changes of an example's score up to this count as none in measures over scores between right and wrong.
    pub tolerance: f64,
}

impl Default for CompareOptions {
    fn default() -> Self {
        CompareOptions {
            bootstrap: BootstrapOptions::default(),
            fail_if: Rules::new(),
            targets: Vec::new(),
            allow_different_prompts: false,
            examples_kept: 20,
            measures: Vec::new(),
            only_fitting_measures: false,
            tolerance: 0.0,
        }
    }
}

impl CompareOptions {
    /// Refuses rules and targets that name no task of the comparison: a guard that checks nothing must not pass.
    pub fn check_names<'a>(&self, compared: impl Iterator<Item = &'a str> + Clone) -> Result<(), EvalError> {
        let rules = self.fail_if.keys().map(|name| ("fail_if", name));
        let targets = self.targets.iter().map(|name| ("target", name));
        match rules.chain(targets).find(|(_, name)| compared.clone().all(|task| task != *name)) {
            None => Ok(()),
            Some((what, name)) => Err(EvalError::Rule {
                what,
                problem: format!(
                    "task `{name}` is not compared{}; compared: {}",
                    did_you_mean(name, compared.clone()),
                    compared.collect::<Vec<_>>().join(", ")
                ),
            }),
        }
    }
}

/// Compares the tasks that both sides have, in the first side's order.
pub fn compare(base: &[Scorecard], tuned: &[Scorecard], options: &CompareOptions) -> Result<Ledger, EvalError> {
    let mut tasks = Vec::new();
    let mut examples = Vec::new();
    let mut notes = Vec::new();
    let mut all = Vec::new();
    for card in base {
        let Some(other) = tuned.iter().find(|t| t.header.task == card.header.task) else {
            notes.push(format!("{} was left out: the second model was not evaluated on it", card.header.task));
            continue;
        };
        let mut paired = Paired::new(card, other, options.allow_different_prompts)?;
        paired.is_target = options.targets.contains(&card.header.task);
        let (mut task, mut pairs) = compare_task(&paired, options);
        task.is_variant = is_further_way(card, base, tuned);
        if task.is_variant {
            pairs.clear();
        }
        if task.unpaired > 0 {
            notes.push(format!("{}: {} examples are on one side only and left out", task.name, task.unpaired));
        }
        for header in [&card.header, &other.header].into_iter().filter(|header| header.unanswered > 0) {
            let (count, model) = (header.unanswered, header.named());
            notes.push(format!("{}: {count} answers of {model} could not be had and count as wrong", task.name));
        }
        if card.header.gold_missing > 0 {
            let count = card.header.gold_missing;
            notes.push(format!("{}: {count} questions name a right choice that is not among their choices", task.name));
        }
        tasks.push(task);
        examples.extend(pairs);
        all.push(paired);
    }
    let measured = MeasureOptions { bootstrap: options.bootstrap, tolerance: options.tolerance };
    let mut measures = Vec::new();
    for measure in &options.measures {
        let tasks = (measure.of)(&all, &measured)?;
        if !tasks.is_empty() {
            measures.push(MeasureResult { tasks, ..MeasureResult::new(measure) });
        } else if !options.only_fitting_measures {
            notes.push(format!("none of the tasks is one that the measure `{}` is for", measure.name));
        }
    }
    for card in tuned.iter().filter(|t| !base.iter().any(|b| b.header.task == t.header.task)) {
        notes.push(format!("{} was left out: the first model was not evaluated on it", card.header.task));
    }
    let (Some(first), false) = (base.first(), tasks.is_empty()) else {
        let names = |cards: &[Scorecard]| cards.iter().map(|c| c.header.task.clone()).collect::<Vec<_>>().join(", ");
        let difference = format!("no task in common: {} against {}", names(base), names(tuned));
        return Err(EvalError::NotComparable { task: "compare".into(), difference });
    };
    // Further ways of asking a task are no further tasks.
    let mut counted: Vec<&mut TaskComparison> = tasks.iter_mut().filter(|task| !task.is_variant).collect();
    let p_values: Vec<f64> = counted.iter().map(|t| t.mcnemar_p.or(t.bootstrap_p).unwrap_or(1.0)).collect();
    for (task, corrected) in counted.iter_mut().zip(statistics::holm(&p_values)) {
        task.p_holm = Some(corrected);
    }
    options.check_names(tasks.iter().map(|t| t.name.as_str()))?;
    let broken_rules = rules::broken(&options.fail_if, &tasks)?;
    let tuned_name = tuned.first().map_or_else(String::new, |card| card.header.named());
    Ok(Ledger {
        format: 1,
        base: first.header.named(),
        tuned: tuned_name,
        verdict: verdict::in_words(&tasks.iter().filter(|task| !task.is_variant).cloned().collect::<Vec<_>>()),
        outcome: outcome(&tasks),
        broken_rules,
        notes,
        tasks,
        examples,
        measures,
    })
}

/// Whether both sides were asked the card's task in a way that stands before this one in the task's file.
fn is_further_way(card: &Scorecard, base: &[Scorecard], tuned: &[Scorecard]) -> bool {
    let Some(own) = &card.header.variant else { return false };
    let both = |other: &Scorecard| tuned.iter().any(|card| card.header.task == other.header.task);
    let before = |other: &Scorecard| {
        other.header.variant.as_ref().is_some_and(|other| other.of == own.of && other.index < own.index)
    };
    base.iter().any(|other| before(other) && both(other))
}

fn outcome(tasks: &[TaskComparison]) -> Outcome {
    let any = |verdict: &str| tasks.iter().any(|t| t.verdict == verdict && !t.is_variant);
    match (any("better"), any("worse")) {
        (true, false) => Outcome::Better,
        (true, true) => Outcome::Mixed,
        (false, true) => Outcome::Worse,
        (false, false) => Outcome::Unchanged,
    }
}

/// One task: the numbers over its pairs, and the pairs that are shown.
fn compare_task(paired: &Paired<'_>, options: &CompareOptions) -> (TaskComparison, Vec<PairedExample>) {
    let Paired { metric, before, after, .. } = paired;
    let name = paired.task();
    let difference_on = |indices: &[usize]| {
        let on = |scores: &[ExampleScore]| paired.value(indices.iter().map(|&i| &scores[i]));
        on(after) - on(before)
    };
    let interval = interval_of(metric.aggregation, before, &options.bootstrap, &difference_on);
    let sign = paired.sign();
    let changes: Vec<Change> = before.iter().zip(after).map(|(b, a)| Change::of(b.score, a.score, metric)).collect();
    let count = |change: Change| changes.iter().filter(|c| **c == change).count();
    let (gained, lost) = (count(Change::Gained), count(Change::Lost));
    let right_or_wrong = metric.aggregation == Aggregation::Mean && paired.right_or_wrong();
    let mcnemar_p = right_or_wrong.then(|| statistics::mcnemar_exact(gained as u64, lost as u64));
    let (base_value, tuned_value) = (paired.value(before.iter()), paired.value(after.iter()));
    let difference = tuned_value - base_value;
    let n = paired.n();
    let measurable = n >= FEWEST_PAIRS
        && (interval.low > 0.0 || interval.high < 0.0)
        && mcnemar_p.unwrap_or(interval.p) < SIGNIFICANCE;
    let task_verdict = match measurable {
        true if sign * difference > 0.0 => "better",
        true => "worse",
        false => "unchanged",
    };
    let task = TaskComparison {
        name: name.to_owned(),
        metric: metric.name.clone(),
        higher_is_better: metric.higher_is_better,
        is_share: metric.is_share,
        n,
        base: base_value,
        tuned: tuned_value,
        difference,
        ci_low: interval.low,
        ci_high: interval.high,
        mcnemar_p,
        bootstrap_p: Some(interval.p),
        effect: match (right_or_wrong, metric.aggregation) {
            (true, _) => Some(cohens_h(base_value, tuned_value)),
            (false, Aggregation::Mean) => {
                cohens_dz(&before.iter().zip(after).map(|(b, a)| a.score - b.score).collect::<Vec<_>>())
            }
            // Of long texts that count for more, the mean over examples may go the other way than the score.
            (false, _) => {
                let units = metric.aggregation.units(before).map_or(n, |units| units.len());
                let ends = (interval.low, interval.high);
                cohens_dz_of_interval(difference, ends, options.bootstrap.level, units)
            }
        }
        .filter(|effect| effect.is_finite()),
        p_holm: None,
        unpaired: paired.unpaired,
        gained,
        lost,
        both_right: count(Change::BothRight),
        both_wrong: count(Change::BothWrong),
        negative_flip_rate: lost as f64 / n as f64,
        positive_flip_rate: gained as f64 / n as f64,
        verdict: task_verdict.into(),
        is_target: options.targets.iter().any(|target| target == name),
        is_variant: false,
    };
    let kept = examples(paired, &changes, options.examples_kept);
    (task, kept)
}

/// What became of an example. For scores between right and wrong any change counts as gained or lost, and an unchanged
/// score as right unless it is the worst there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Gained,
    Lost,
    BothRight,
    BothWrong,
}

impl Change {
    fn of(before: f64, after: f64, metric: &MetricValue) -> Change {
        let (change, is_worst) = match (metric.higher_is_better, metric.is_share) {
            (true, _) => (after - before, before.is_nan() || before <= 0.0),
            (false, true) => (before - after, before >= 1.0),
            // A perplexity can always be worse.
            (false, false) => (before - after, false),
        };
        match change {
            change if change > 0.0 => Change::Gained,
            change if change < 0.0 => Change::Lost,
            _ if is_worst => Change::BothWrong,
            _ => Change::BothRight,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Change::Gained => "gained",
            Change::Lost => "lost",
            Change::BothRight => "both_right",
            Change::BothWrong => "both_wrong",
        }
    }
}

/// The examples kept for the report: of every kind of change the largest, at most `kept`, and a quarter as many unchanged.
fn examples(paired: &Paired<'_>, changes: &[Change], kept: usize) -> Vec<PairedExample> {
    let Paired { rows, before, after, .. } = paired;
    let mut out = Vec::new();
    for change in [Change::Lost, Change::Gained, Change::BothWrong, Change::BothRight] {
        let mut indices: Vec<usize> = (0..rows.len()).filter(|&i| changes[i] == change).collect();
        let size = |i: usize| (after[i].score - before[i].score).abs();
        indices.sort_by(|&a, &b| size(b).total_cmp(&size(a)));
        let flipped = matches!(change, Change::Lost | Change::Gained);
        for &i in indices.iter().take(if flipped { kept } else { kept.div_ceil(4) }) {
            let (base, tuned) = rows[i];
            out.push(PairedExample {
                task: paired.task().into(),
                id: base.id.clone(),
                change: change.name().into(),
                prompt: paired.shown(&base.prompt),
                target: paired.shown(&base.target),
                base_answer: paired.shown(&base.answer),
                tuned_answer: paired.shown(&tuned.answer),
                base_score: before[i].score,
                tuned_score: after[i].score,
            });
        }
    }
    out
}
