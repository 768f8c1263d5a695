//! Instruction tuning against in-context learning: is what the tuned model does without examples what the base model does with
//! them?
//!
//! Bigoulaeva, Tayyar Madabushi & Gurevych 2025, "The Inherent Limits of Pretrained LLMs", arXiv 2501.08716. Over tasks `t`, each
//! asked without examples (set `zero`) and with some (set `shots`) in one family (`metadata: {variants: shots}`):
//!
//! ```text
//! u_t = score of the first model with examples       v_t = score of the second model without
//! ρ   = Spearman's correlation of u and v over tasks    (beside it: of the first model without examples, and v)
//! gap = mean(v − u)
//! ```
//!
//! Scores of choices are freed of chance first, `(acc − 1/m) / (1 − 1/m)` with `m` the mean number of choices, because tasks differ
//! in it. Intervals draw tasks anew; of fewer than five tasks there is none. The permutation test's `p` is the share of orders of
//! the tasks that correlate as much (1,000 orders).
//!
//! What it does not know: a correlation over tasks mixes how hard tasks are with what models can do, so any two competent models
//! correlate, and it is no upper bound: read the gap beside it.

use super::variants::{Family, families};
use super::{How, Measure, MeasureOptions, Number, Table, TaskMeasure, Unit};
use crate::error::EvalError;
use crate::metrics::Kind;
use crate::pairing::Paired;
use crate::python::random::PythonRandom;
use crate::statistics::correlation::spearman;
use crate::statistics::{bootstrap_interval, mean};

/// The measure.
pub const MEASURE: Measure = Measure {
    name: "shots",
    question: "Does tuning do more than examples in the prompt?",
    legend: "The correlation over tasks of the first model with examples and the second without; near 1, tuning brought out what \
             examples bring out too. The gap is how much the second model is above the first one with examples. Scores of \
             choices are freed of chance (0 is guessing, 100 all right).",
    source: "Bigoulaeva et al. 2025, arXiv 2501.08716",
    formulas: &[
        "u = score of the first model with examples, v = of the second without, task by task, freed of chance",
        "correlation = Spearman of u and v over tasks; gap = mean(v − u)",
    ],
    how: |_| How::Bootstrap("the tasks"),
    differences: &[],
    unasked: true,
    of,
};

/// Fewer tasks than this have no interval.
const FEWEST: usize = 5;

/// Orders of the permutation test.
const PERMUTATIONS: usize = 1000;

/// A task's four scores.
struct Cells {
    name: String,
    base_zero: f64,
    base_shots: f64,
    tuned_zero: f64,
    tuned_shots: f64,
    n: usize,
    /// The two ways it was asked.
    tasks: Vec<String>,
}

fn of(all: &[Paired<'_>], options: &MeasureOptions) -> Result<Vec<TaskMeasure>, EvalError> {
    let of_shots = |family: &&Family<'_, '_>| {
        family.members.iter().any(|(_, paired)| paired.base.labels.get("variants").is_some_and(|v| v == "shots"))
    };
    let families = families(all);
    let tasks: Vec<Cells> = families.iter().filter(of_shots).filter_map(cells).collect();
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let mut measure = TaskMeasure {
        name: "over tasks".into(),
        metric: "each task's own, freed of chance".into(),
        n: tasks.iter().map(|task| task.n).sum(),
        tasks: tasks.iter().flat_map(|task| task.tasks.clone()).collect(),
        parts: tasks.iter().map(|task| (task.name.clone(), task.tasks.clone())).collect(),
        ..TaskMeasure::default()
    };
    let column = |of: fn(&Cells) -> f64| tasks.iter().map(of).collect::<Vec<f64>>();
    let (zero, shots, tuned) = (column(|t| t.base_zero), column(|t| t.base_shots), column(|t| t.tuned_zero));
    let correlation = |name: &str, label: &str, a: &[f64], b: &[f64]| {
        let value = spearman(a, b);
        let on = |at: &[usize]| {
            let pick = |values: &[f64]| at.iter().map(|&i| values[i]).collect::<Vec<f64>>();
            spearman(&pick(a), &pick(b))
        };
        let interval = bootstrap_interval(a.len(), &options.bootstrap, &on);
        let ends = (a.len() >= FEWEST).then_some((interval.low, interval.high));
        value.is_finite().then(|| Number::new(name, label, value, ends, Unit::Plain))
    };
    measure.numbers.extend(correlation("correlation_with_shots", "correlation, first with examples", &shots, &tuned));
    measure.numbers.extend(correlation("correlation_without_shots", "correlation, first without", &zero, &tuned));
    let observed = spearman(&shots, &tuned);
    if observed.is_finite() && tasks.len() >= FEWEST {
        let p = permutation_p(&shots, &tuned, observed, options.bootstrap.seed);
        measure.numbers.push(Number::new("permutation_p", "permutation test's p", p, None, Unit::Plain));
    }
    let gaps: Vec<f64> = tuned.iter().zip(&shots).map(|(v, u)| v - u).collect();
    let gap = |at: &[usize]| at.iter().map(|&i| gaps[i]).sum::<f64>() / at.len() as f64;
    let interval = bootstrap_interval(gaps.len(), &options.bootstrap, &gap);
    let ends = (gaps.len() >= FEWEST).then_some((interval.low, interval.high));
    measure.numbers.push(Number::new("gap", "second without − first with examples", mean(&gaps), ends, Unit::Points));
    measure.numbers.push(Number::new("tasks", "tasks", tasks.len() as f64, None, Unit::Count));
    if tasks.len() < FEWEST {
        measure.notes.push(format!("{} tasks are too few for an interval; ask at least {FEWEST}", tasks.len()));
    }
    measure.tables.push(Table {
        title: "Task by task".into(),
        unit: Unit::Points,
        columns: ["first, without", "first, with examples", "second, without", "second, with examples"]
            .map(str::to_owned)
            .into(),
        rows: tasks.iter().map(|task| task.name.clone()).collect(),
        cells: tasks
            .iter()
            .map(|t| [t.base_zero, t.base_shots, t.tuned_zero, t.tuned_shots].map(Some).into())
            .collect(),
    });
    Ok(vec![measure])
}

/// A family's four scores; `None` without both sets, or where its metric is no share.
fn cells(family: &Family<'_, '_>) -> Option<Cells> {
    let member =
        |set: &str| family.members.iter().find(|(v, _)| v.set.as_deref() == Some(set)).map(|(_, paired)| *paired);
    let (zero, shots) = (member("zero")?, member("shots")?);
    if !zero.metric.is_share {
        return None;
    }
    let value = |paired: &Paired<'_>, tuned: bool| {
        let scores = if tuned { &paired.after } else { &paired.before };
        freed_of_chance(paired.value(scores.iter()), choices(paired))
    };
    Some(Cells {
        name: family.name.to_owned(),
        base_zero: value(zero, false),
        base_shots: value(shots, false),
        tuned_zero: value(zero, true),
        tuned_shots: value(shots, true),
        n: zero.n(),
        tasks: super::names(&[zero, shots]),
    })
}

/// The mean number of choices; 0 for a task without.
fn choices(paired: &Paired<'_>) -> f64 {
    match Kind::from_name(&paired.base.kind) {
        Some(Kind::MultipleChoice) => {
            mean(&paired.rows.iter().map(|(row, _)| row.choices.len() as f64).collect::<Vec<_>>())
        }
        _ => 0.0,
    }
}

fn freed_of_chance(score: f64, choices: f64) -> f64 {
    if choices > 1.0 { (score - 1.0 / choices) / (1.0 - 1.0 / choices) } else { score }
}

/// The share of orders whose correlation is at least as large, the observed one among them.
fn permutation_p(a: &[f64], b: &[f64], observed: f64, seed: u32) -> f64 {
    let mut random = PythonRandom::new(u64::from(seed));
    let mut order: Vec<f64> = b.to_vec();
    let mut as_large = 1usize;
    for _ in 0..PERMUTATIONS {
        for i in (1..order.len()).rev() {
            order.swap(i, random.choice(i + 1));
        }
        as_large += usize::from(spearman(a, &order) >= observed - 1e-12);
    }
    as_large as f64 / (PERMUTATIONS + 1) as f64
}
