//! Programs, before and after: how many solve their problem (pass@k, Chen et al. 2021, arXiv 2107.03374), which problems were gained
//! and lost, and how the programs ended.
//!
//! ```text
//! pass@k     = mean over problems of the task's own estimate (`crate::code::pass_at_k`)
//! gained     = problems with a program that passes after and none before; lost, the other way round
//! ```
//!
//! How a program ended is read off the card (`scored`), which counts each problem's programs by it: a test that does not hold is not
//! a program that is no Python, and a model that now never ends says something else than one that is wrong. Intervals: the paired
//! bootstrap over problems.
//!
//! What it does not know: whether the tests are enough; what the program would have done outside the sandbox's limits.

use serde_json::json;

use super::chart::{Bar, ChartData, Drawing};
use super::{How, Measure, MeasureOptions, Number, Table, TaskMeasure, Unit};
use crate::error::EvalError;
use crate::metrics::ExampleScore;
use crate::pairing::Paired;
use crate::scorecard::ScorecardRow;
use crate::statistics::groups;

/// The measure.
pub const MEASURE: Measure = Measure {
    name: "code",
    question: "Do its programs work, and how do they fail?",
    legend: "A program passes if it runs to its end and every test holds. Gained and lost count problems that are solved on one side \
             alone. The table counts programs by how they ended.",
    source: "Chen et al. 2021, arXiv 2107.03374",
    formulas: &[
        "pass@k = mean over problems of the unbiased estimate from their programs",
        "gained, lost = problems that are solved on one side alone",
    ],
    how: |_| How::Bootstrap("the problems, both models' programs for a problem together"),
    differences: &[],
    unasked: true,
    of,
};

/// Ways for a program to end, by the words that cards have for them; those of a failure by its exception.
const ENDS: [(&str, &[&str]); 7] = [
    ("passed", &["passed"]),
    ("a test does not hold", &["failed: AssertionError"]),
    ("no Python", &["failed: SyntaxError", "failed: IndentationError", "failed: TabError"]),
    ("another exception", &["failed"]),
    ("timed out", &["timed out"]),
    ("over a limit", &["out of memory", "too much", "too many", "killed by signal 9"]),
    ("forbidden or crashed", &["forbidden", "crashed"]),
];

fn of(all: &[Paired<'_>], options: &MeasureOptions) -> Result<Vec<TaskMeasure>, EvalError> {
    let runs = |paired: &&Paired<'_>| paired.metric.name.starts_with("pass@");
    Ok(all.iter().filter(runs).map(|paired| of_task(paired, options)).collect())
}

fn of_task(paired: &Paired<'_>, options: &MeasureOptions) -> TaskMeasure {
    let n = paired.n();
    let over =
        |scores: &[ExampleScore], at: &[usize]| at.iter().map(|&i| scores[i].score).sum::<f64>() / at.len() as f64;
    let whole: Vec<usize> = (0..n).collect();
    let number = |name: &str, label: &str, unit: Unit, of: &(dyn Fn(&[usize]) -> f64 + Sync)| {
        let interval = groups::interval(&[n], &options.bootstrap, &|drawn| of(&drawn[0]));
        Number::new(name, label, of(&whole), Some((interval.low, interval.high)), unit)
    };
    let (before, after) = (&paired.before, &paired.after);
    let solved = |score: &ExampleScore| score.parts.get(1).map_or(score.score > 0.0, |passed| *passed > 0.0);
    let sides: Vec<(bool, bool)> = before.iter().zip(after).map(|(b, a)| (solved(b), solved(a))).collect();
    let count = |name: &str, side: (bool, bool)| {
        let problems = sides.iter().filter(|other| **other == side).count();
        Number::new(name, name, problems as f64, None, Unit::Count)
    };
    let metric = paired.metric.name.split(',').next().unwrap_or_default();
    let ends = [counted(paired.rows.iter().map(|(b, _)| *b)), counted(paired.rows.iter().map(|(_, a)| *a))];
    TaskMeasure {
        name: paired.task().into(),
        metric: paired.metric.name.clone(),
        n,
        numbers: vec![
            number("pass_before", &format!("{metric} before"), Unit::Share, &|at| over(before, at)),
            number("pass_after", &format!("{metric} after"), Unit::Share, &|at| over(after, at)),
            number("pass_change", "change", Unit::Points, &|at| over(after, at) - over(before, at)),
            count("gained", (false, true)),
            count("lost", (true, false)),
        ],
        tables: vec![table(&ends)],
        charts: vec![chart(&ends)],
        rows: paired.rows.iter().zip(&sides).map(|(rows, side)| row(*rows, *side)).collect(),
        ..TaskMeasure::default()
    }
}

/// How many programs ended in each of [`ENDS`].
fn counted<'a>(rows: impl Iterator<Item = &'a ScorecardRow>) -> [f64; ENDS.len()] {
    let mut counts = [0.0; ENDS.len()];
    for row in rows {
        for (end, programs) in ended(row.scored.as_deref().unwrap_or_default()) {
            counts[end] += programs as f64;
        }
    }
    counts
}

/// A card's words, `2 passed; 1 timed out`, as ends and numbers of programs. A message may hold `; ` itself: what begins with no
/// known words belongs to the one before it.
fn ended(text: &str) -> Vec<(usize, usize)> {
    let known = |part: &str| ENDS.iter().position(|(_, words)| words.iter().any(|words| part.starts_with(words)));
    let one = |part: &str| {
        let numbered = part.split_once(' ').and_then(|(count, rest)| Some((known(rest)?, count.parse().ok()?)));
        numbered.or_else(|| Some((known(part)?, 1)))
    };
    text.split("; ").filter_map(one).collect()
}

/// Programs by their end, before and after.
type Ends = [[f64; ENDS.len()]; 2];

fn table(sides: &Ends) -> Table {
    Table {
        title: "How programs ended".into(),
        unit: Unit::Count,
        columns: ["before", "after"].map(str::to_owned).into(),
        rows: ENDS.iter().map(|(name, _)| (*name).to_owned()).collect(),
        cells: (0..ENDS.len()).map(|end| sides.iter().map(|side| Some(side[end])).collect()).collect(),
    }
}

/// The change of each way to end, in points of all programs.
fn chart(sides: &Ends) -> ChartData {
    let share = |side: &[f64; ENDS.len()], end: usize| side[end] / side.iter().sum::<f64>().max(1.0);
    let bar = |(end, (name, _)): (usize, &(&str, &[&str]))| Bar {
        name: (*name).into(),
        value: share(&sides[1], end) - share(&sides[0], end),
        low: None,
        high: None,
    };
    let bars = ENDS.iter().enumerate().map(bar).collect();
    let drawing = Drawing::Forest { x: "change (points of all programs)".into(), unit: Unit::Points, bars };
    ChartData { title: "How programs end, after less before".into(), drawing }
}

fn row((before, after): (&ScorecardRow, &ScorecardRow), (solved, solves): (bool, bool)) -> serde_json::Value {
    json!({
        "id": before.id,
        "before": before.scored,
        "after": after.scored,
        "gained": u8::from(!solved && solves),
        "lost": u8::from(solved && !solves),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_read_as_cards_write_them() {
        use crate::code::Outcome;
        let failed = |message: &str| Outcome::Failed { message: message.into() };
        for (outcome, name) in [
            (Outcome::Passed, "passed"),
            (failed("AssertionError: a; 2 passed of b"), "a test does not hold"),
            (failed("IndentationError: unexpected indent"), "no Python"),
            (failed("KeyError: 'x'"), "another exception"),
            (Outcome::TimedOut, "timed out"),
            (Outcome::OutOfMemory, "over a limit"),
            (Outcome::DiskLimit, "over a limit"),
            (Outcome::Crashed { signal: 9 }, "over a limit"),
            (Outcome::Crashed { signal: 11 }, "forbidden or crashed"),
            (Outcome::Forbidden { what: "a socket".into() }, "forbidden or crashed"),
        ] {
            let found = ended(&outcome.to_string());
            assert_eq!(ENDS[found[0].0].0, name, "{outcome}");
            assert_eq!(found[0].1, 1, "{outcome}");
        }
        assert_eq!(ended("1 failed: KeyError: 1; 3 passed; 12 timed out"), [(3, 1), (0, 3), (4, 12)]);
        assert_eq!(ended(""), []);
    }
}
