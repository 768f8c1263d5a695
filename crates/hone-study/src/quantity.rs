//! Numbers that know the examples they came from, so that any formula over them can be resampled.
//!
//! A measure is a [`Grid`]: a [`Quantity`] for every combination of its variables' values. A quantity is a number, the score of
//! some examples, or others combined. Its value on a resample of the examples is what the formula gives when each score is
//! computed over the resampled examples: the statistic of the bootstrap ([`hone_eval::statistics::groups`]). Scores over the
//! same examples are resampled together, which pairs them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hone_eval::metrics::{Aggregation, ExampleScore};
use hone_eval::statistics::correlation::spearman;
use hone_eval::statistics::groups::interval as bootstrap;
use hone_eval::statistics::{BootstrapOptions, mean, t_interval};

use crate::formula::{Formula, Operator, Reduction};
use crate::plan::Bindings;

/// Coverage of the intervals.
pub const LEVEL: f64 = 0.95;

/// Scored examples.
#[derive(Clone, Debug)]
pub struct Examples {
    /// Which examples these are: the task, and the ids in order. Equal identities are resampled together.
    pub identity: Arc<(String, Vec<String>)>,
    /// What each contributes, in that order.
    pub scores: Vec<ExampleScore>,
    /// How they make a number.
    pub aggregation: Aggregation,
}

/// A number and where it came from.
#[derive(Clone, Debug)]
pub enum Quantity {
    /// A number.
    Number(f64),
    /// The score of some examples.
    Examples(Arc<Examples>),
    /// Two combined.
    Binary(Operator, Arc<Quantity>, Arc<Quantity>),
    /// Several, in the order of a variable's values, made one.
    Over(Reduction, Vec<Arc<Quantity>>),
    /// The rank correlation of two rows of them.
    Correlation(Vec<Arc<Quantity>>, Vec<Arc<Quantity>>),
}

/// A quantity for every combination of some variables' values.
pub type Grid = BTreeMap<Bindings, Arc<Quantity>>;

/// The groups of examples in a quantity: comparing identities takes long, so it is done once and not for every resample.
#[derive(Default)]
struct Groups<'a> {
    identities: Vec<&'a (String, Vec<String>)>,
    /// Which of them the examples at an address belong to.
    of: HashMap<usize, usize>,
}

/// A value with its interval.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The value.
    pub value: f64,
    /// The ends of its interval, where it has one.
    pub interval: Option<(f64, f64)>,
    /// What the interval is over: `95 % over 200 examples`.
    pub basis: String,
}

fn address(examples: &Arc<Examples>) -> usize {
    Arc::as_ptr(examples) as usize
}

impl Quantity {
    /// Its value on the examples as they are.
    pub fn value(&self) -> f64 {
        self.on(None)
    }

    fn on(&self, resample: Option<(&HashMap<usize, usize>, &[Vec<usize>])>) -> f64 {
        match self {
            Quantity::Number(number) => *number,
            Quantity::Examples(examples) => {
                let drawn = resample.and_then(|(groups, drawn)| drawn.get(*groups.get(&address(examples))?));
                match drawn {
                    Some(drawn) => examples.aggregation.value(drawn.iter().map(|&i| &examples.scores[i])),
                    None => examples.aggregation.value(examples.scores.iter()),
                }
            }
            Quantity::Binary(operator, a, b) => {
                let (a, b) = (a.on(resample), b.on(resample));
                match operator {
                    Operator::Add => a + b,
                    Operator::Subtract => a - b,
                    Operator::Multiply => a * b,
                    Operator::Divide if b == 0.0 => f64::NAN,
                    Operator::Divide => a / b,
                }
            }
            Quantity::Over(reduction, all) => {
                reduce(*reduction, &all.iter().map(|q| q.on(resample)).collect::<Vec<_>>())
            }
            Quantity::Correlation(a, b) => {
                let values = |all: &[Arc<Quantity>]| all.iter().map(|q| q.on(resample)).collect::<Vec<f64>>();
                spearman(&values(a), &values(b))
            }
        }
    }

    fn collect<'a>(&'a self, groups: &mut Groups<'a>) {
        match self {
            Quantity::Number(_) => {}
            Quantity::Examples(examples) => {
                let known = groups.identities.iter().position(|identity| **identity == *examples.identity);
                let group = known.unwrap_or_else(|| {
                    groups.identities.push(&examples.identity);
                    groups.identities.len() - 1
                });
                groups.of.insert(address(examples), group);
            }
            Quantity::Binary(_, a, b) => [a, b].into_iter().for_each(|q| q.collect(groups)),
            Quantity::Over(_, all) => all.iter().for_each(|q| q.collect(groups)),
            Quantity::Correlation(a, b) => a.iter().chain(b).for_each(|q| q.collect(groups)),
        }
    }

    /// Its value, and the bootstrap interval over its examples; no interval without any.
    pub fn measured(&self) -> Measured {
        let mut groups = Groups::default();
        self.collect(&mut groups);
        let value = self.value();
        if groups.identities.is_empty() {
            return Measured { value, interval: None, basis: "one measurement".into() };
        }
        let sizes: Vec<usize> = groups.identities.iter().map(|identity| identity.1.len()).collect();
        let options = BootstrapOptions { level: LEVEL, ..BootstrapOptions::default() };
        let of = groups.of;
        let found = bootstrap(&sizes, &options, &|drawn| self.on(Some((&of, drawn))));
        let count: usize = sizes.iter().sum();
        Measured { value, interval: Some((found.low, found.high)), basis: format!("bootstrap over {count} examples") }
    }
}

/// The mean of independent repetitions with Student's interval.
pub fn over_repetitions(values: &[f64], variable: &str) -> Measured {
    let basis = format!("Student's t over {} values of `{variable}`", values.len());
    Measured { value: mean(values), interval: t_interval(values, LEVEL), basis }
}

fn reduce(reduction: Reduction, values: &[f64]) -> f64 {
    // A value that is missing makes the whole missing: `f64::min` would pass over it.
    if values.is_empty() || values.iter().any(|v| v.is_nan()) {
        return f64::NAN;
    }
    let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
    let smallest = || least(&mut values.iter().copied());
    let largest = || values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match reduction {
        Reduction::Mean => mean(values),
        Reduction::Min => smallest(),
        Reduction::Max => largest(),
        Reduction::Spread => largest() - smallest(),
        Reduction::LeastStep if values.len() < 2 => f64::NAN,
        Reduction::LeastStep => least(&mut values.windows(2).map(|pair| pair[1] - pair[0])),
        Reduction::RankCorrelation => spearman(&(0..values.len()).map(|i| i as f64).collect::<Vec<_>>(), values),
    }
}

/// Computes a formula. `measure` gives the grids of the measures, `order` the values of a variable in their order.
pub fn compute(
    formula: &Formula,
    measure: &dyn Fn(&str) -> Result<Arc<Grid>, String>,
    order: &dyn Fn(&str) -> Vec<String>,
) -> Result<Grid, String> {
    let inside = |formula: &Formula| compute(formula, measure, order);
    match formula {
        Formula::Number(number) => Ok(Grid::from([(Bindings::new(), Arc::new(Quantity::Number(*number)))])),
        Formula::Measure(name, picks) => {
            let grid: Arc<Grid> = measure(name)?;
            Ok(pick(&grid, picks))
        }
        Formula::Binary(operator, a, b) => {
            let combine = |a: &Arc<Quantity>, b: &Arc<Quantity>| Quantity::Binary(*operator, a.clone(), b.clone());
            Ok(join(&inside(a)?, &inside(b)?, combine))
        }
        Formula::Over(reduction, of, variable) => {
            let rows = rows(&inside(of)?, variable, &order(variable));
            Ok(rows.into_iter().map(|(key, row)| (key, Arc::new(Quantity::Over(*reduction, row)))).collect())
        }
        Formula::Correlation(a, b, variable) => {
            // Joined first, so that both rows have the same values of the variable.
            let pairs = join(&inside(a)?, &inside(b)?, |a, b| Quantity::Correlation(vec![a.clone()], vec![b.clone()]));
            let unzip = |(key, row): (Bindings, Vec<Arc<Quantity>>)| {
                let sides = row.iter().filter_map(|pair| match &**pair {
                    Quantity::Correlation(a, b) => Some((a[0].clone(), b[0].clone())),
                    _ => None,
                });
                let (a, b) = sides.unzip();
                (key, Arc::new(Quantity::Correlation(a, b)))
            };
            Ok(rows(&pairs, variable, &order(variable)).into_iter().map(unzip).collect())
        }
    }
}

fn pick(grid: &Grid, picks: &[(String, String)]) -> Grid {
    let picked = grid.iter().filter(|(key, _)| picks.iter().all(|(variable, value)| key.get(variable) == Some(value)));
    let without = |(key, quantity): (&Bindings, &Arc<Quantity>)| {
        let kept = key.iter().filter(|(variable, _)| picks.iter().all(|(picked, _)| picked != *variable));
        (kept.map(|(k, v)| (k.clone(), v.clone())).collect(), quantity.clone())
    };
    picked.map(without).collect()
}

/// Every pair of cells that agree on the variables both have.
fn join(a: &Grid, b: &Grid, combine: impl Fn(&Arc<Quantity>, &Arc<Quantity>) -> Quantity) -> Grid {
    let mut joined = Grid::new();
    for (ka, qa) in a {
        for (kb, qb) in b {
            if ka.iter().all(|(variable, value)| kb.get(variable).is_none_or(|other| other == value)) {
                let key = ka.iter().chain(kb).map(|(k, v)| (k.clone(), v.clone())).collect();
                joined.insert(key, Arc::new(combine(qa, qb)));
            }
        }
    }
    joined
}

/// The cells along a variable, in the order of its values, for each combination of the others.
fn rows(grid: &Grid, variable: &str, order: &[String]) -> BTreeMap<Bindings, Vec<Arc<Quantity>>> {
    let mut rows: BTreeMap<Bindings, Vec<Arc<Quantity>>> = BTreeMap::new();
    for value in order {
        for (key, quantity) in grid.iter().filter(|(key, _)| key.get(variable) == Some(value)) {
            let mut rest = key.clone();
            rest.remove(variable);
            rows.entry(rest).or_default().push(quantity.clone());
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formula::parse;

    fn key(pairs: &[(&str, &str)]) -> Bindings {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn scored(task: &str, scores: &[f64]) -> Arc<Quantity> {
        let ids = (0..scores.len()).map(|i| i.to_string()).collect();
        let scores = scores.iter().map(|&score| ExampleScore { score, parts: Vec::new() }).collect();
        let identity = Arc::new((task.to_owned(), ids));
        Arc::new(Quantity::Examples(Arc::new(Examples { identity, scores, aggregation: Aggregation::Mean })))
    }

    fn number(n: f64) -> Arc<Quantity> {
        Arc::new(Quantity::Number(n))
    }

    fn measures(name: &str) -> Result<Arc<Grid>, String> {
        let grid = match name {
            "share" => {
                let cells = [("0.1", 3.0), ("0.2", 5.0), ("0.4", 4.0)];
                cells.map(|(s, n)| (key(&[("share", s)]), number(n))).into()
            }
            "base" => {
                let cells = [("a", vec![1.0, 0.0, 0.0, 1.0]), ("b", vec![0.0, 0.0])];
                cells.map(|(t, s)| (key(&[("task", t)]), scored(t, &s))).into()
            }
            "tuned" => {
                let cells = [
                    ("a", "0", vec![1.0, 1.0, 0.0, 1.0]),
                    ("b", "0", vec![1.0, 0.0]),
                    ("a", "1", vec![0.0; 4]),
                    ("b", "1", vec![1.0, 1.0]),
                ];
                cells.map(|(t, seed, s)| (key(&[("task", t), ("seed", seed)]), scored(t, &s))).into()
            }
            other => return Err(format!("no measure `{other}`")),
        };
        Ok(Arc::new(grid))
    }

    fn grid(text: &str) -> Grid {
        let order = |variable: &str| -> Vec<String> {
            let values: &[&str] = match variable {
                "share" => &["0.1", "0.2", "0.4"],
                "task" => &["a", "b"],
                _ => &["0", "1"],
            };
            values.iter().map(|v| (*v).to_owned()).collect()
        };
        compute(&parse(text).unwrap(), &measures, &order).unwrap()
    }

    fn only(text: &str) -> Arc<Quantity> {
        let grid = grid(text);
        assert_eq!(grid.len(), 1, "{text}");
        grid[&Bindings::new()].clone()
    }

    #[test]
    fn measures_meet_on_the_variables_they_share() {
        let gain = grid("tuned - base");
        assert_eq!(gain.len(), 4);
        assert_eq!(gain[&key(&[("seed", "0"), ("task", "a")])].value(), 0.25);
        assert_eq!(gain[&key(&[("seed", "1"), ("task", "b")])].value(), 1.0);
        let mean = grid("mean(tuned - base over task)");
        assert_eq!(mean[&key(&[("seed", "0")])].value(), (0.25 + 0.5) / 2.0);
        assert_eq!(only("2 * base[task=a] + 1").value(), 2.0);
    }

    #[test]
    fn reductions_follow_the_order_of_the_values() {
        assert_eq!(only("least_step(share over share)").value(), -1.0);
        assert_eq!(only("spread(share over share)").value(), 2.0);
        assert_eq!(only("max(share over share) / min(share over share)").value(), 5.0 / 3.0);
        assert_eq!(only("rank_correlation(share over share)").value(), 0.5);
        assert_eq!(only("correlation(share, 0 - share over share)").value(), -1.0);
        assert!(only("1 / (base[task=b])").value().is_nan());
    }

    #[test]
    fn the_same_examples_are_resampled_together() {
        // Equal scores: whatever is drawn, the difference is 0. Drawn apart it would spread.
        let same = only("base[task=a] - base[task=a]").measured();
        assert_eq!((same.value, same.interval), (0.0, Some((0.0, 0.0))));
        let other = only("base[task=a] - tuned[task=b, seed=0]").measured();
        assert_eq!(other.value, 0.0);
        assert_eq!(other.basis, "bootstrap over 6 examples");
        assert!(other.interval.is_some_and(|(low, high)| low < 0.0 && high > 0.0));
        assert_eq!(only("min(share over share)").measured().interval, None);
    }

    /// Every example is right and as sure as the others, so each resample has the same error; a mean of the examples' own
    /// scores, which are wrong on purpose, would give another.
    #[test]
    fn a_calibration_error_is_binned_anew_on_every_resample() {
        let of = |confidence: &[f64]| {
            let score = |&c: &f64| ExampleScore { score: 9.0, parts: vec![c, 1.0] };
            let ids = (0..confidence.len()).map(|i| i.to_string()).collect();
            let scores = confidence.iter().map(score).collect();
            let aggregation = Aggregation::Ece { bins: 10 };
            Quantity::Examples(Arc::new(Examples { identity: Arc::new(("t".into(), ids)), scores, aggregation }))
        };
        let alike = of(&[0.8; 12]).measured();
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(close(alike.value, 0.2), "{alike:?}");
        assert!(alike.interval.is_some_and(|(low, high)| close(low, 0.2) && close(high, 0.2)), "{alike:?}");
        // Two models on the same questions: paired, and both errors computed anew.
        let difference = Quantity::Binary(Operator::Subtract, Arc::new(of(&[0.8; 12])), Arc::new(of(&[0.95; 12])));
        let found = difference.measured();
        assert!(close(found.value, 0.15) && found.basis == "bootstrap over 12 examples", "{found:?}");
        let spread = of(&[0.55, 0.65, 0.75, 0.95, 0.99, 0.6]).measured();
        assert!(spread.interval.is_some_and(|(low, high)| low < spread.value && spread.value < high), "{spread:?}");
    }
}
