//! A ladder as a measure of a comparison: the same numbers, tables and charts that a report shows of any other
//! ([`hone_eval::measures`]).
//!
//! Each score of a task is a [`TaskMeasure`] of its own, `TASK-SCORE`, with a row for every question: the score in all models, its
//! correlation with compute, and what the step to it lost. The task's charts and notes are with its first score.
//!
//! What it does not know: whether the models of the comparison are on the ladder.

use hone_eval::measures::chart::{Bar, Point, Series};
use hone_eval::measures::{
    ChartData, Drawing, MeasureOptions, MeasureResult, Number, Origin, Table, TaskMeasure, Unit,
};
use serde_json::{Value, json};

use crate::found::{Ladder, Loss, Means, Model, ScoreLadder, TaskLadder};
use crate::ladder::{Correlation, by_model};

/// The measure's name.
pub const NAME: &str = "ladder";
/// The question it answers.
pub const QUESTION: &str = "How evenly do scores move with compute, and where is that lost?";

/// Correlations above which questions are counted.
const ABOVE: [f64; 3] = [0.0, 0.5, 0.9];
/// Means smaller than this everywhere say nothing in three decimals.
const TOO_SMALL: f64 = 5e-4;

/// A ladder's correlations as a measure. Its tasks hold their rows ([`TaskLadder::rows`]).
pub fn of(ladder: &Ladder) -> MeasureResult {
    let (models, correlation) = (ladder.models.len(), ladder.correlation.name());
    let person = person(ladder.correlation);
    let same = match ladder.correlation {
        Correlation::Pearson => "",
        Correlation::Spearman | Correlation::Kendall => " Ranks cannot tell a probability from its logarithm.",
    };
    let mut tasks: Vec<TaskMeasure> = ladder.tasks.iter().flat_map(|task| of_task(task, ladder)).collect();
    if let Some(first) = tasks.first_mut() {
        let all = [format!("{}; {person} correlation", series(ladder))];
        first.notes.splice(0..0, all.into_iter().chain(ladder.notes.iter().cloned()));
    }
    MeasureResult {
        name: NAME.into(),
        question: QUESTION.into(),
        legend: format!(
            "Five scores of the same answers, from the log-probability of the right one to accuracy, and each question's \
             correlation with compute ({person}) over {models} models: 1 where it rises with every model. Lost: the correlation by the \
             score before less that by this one.{same}"
        ),
        source: "Schaeffer et al. 2024, arXiv 2406.04391".into(),
        tasks,
        origin: Some(Origin {
            models: series(ladder),
            formulas: vec![
                format!("correlation = {correlation}(a question's score, compute) over {models} models"),
                "undefined: the score is the same in all models".into(),
                "lost = correlation by the score before − by this one, where both are defined".into(),
                "above t = questions with a correlation over t / questions with one".into(),
                "of_the_mean = correlation of the mean score over all questions with compute".into(),
            ],
            intervals: "percentiles of resamples of the questions (bootstrap)".into(),
        }),
    }
}

/// Whose correlation it is.
fn person(correlation: Correlation) -> &'static str {
    match correlation {
        Correlation::Spearman => "Spearman's",
        Correlation::Pearson => "Pearson's",
        Correlation::Kendall => "Kendall's",
    }
}

/// The models in words.
fn series(ladder: &Ladder) -> String {
    let of = |model: Option<&Model>| model.map_or_else(String::new, |model| amount(model.compute));
    let (first, last) = (of(ladder.models.first()), of(ladder.models.last()));
    format!("{} models of compute {first} to {last}", ladder.models.len())
}

/// `1.28e17`, and small numbers as they are.
fn amount(compute: f64) -> String {
    if (1e-3..1e6).contains(&compute) { format!("{compute}") } else { format!("{compute:e}") }
}

fn of_task(task: &TaskLadder, ladder: &Ladder) -> Vec<TaskMeasure> {
    let mut measures: Vec<TaskMeasure> = (0..task.scores.len()).map(|k| of_score(task, k)).collect();
    if let Some(first) = measures.first_mut() {
        first.charts = vec![survival(task, ladder.correlation), losses(task)];
        first.tables = vec![means(task, ladder)];
        first.notes = notes(task);
    }
    measures
}

fn of_score(task: &TaskLadder, k: usize) -> TaskMeasure {
    let score = &task.scores[k];
    let loss = task.losses.iter().find(|loss| loss.to == score.name).and_then(|loss| loss.loss);
    let correlations: Vec<Option<f64>> = task.rows.iter().map(|row| row[&score.name].as_f64()).collect();
    let defined: Vec<f64> = correlations.iter().copied().flatten().collect();
    let plain = |name: &str, label: &str, value: f64, ends| Number::new(name, label, value, ends, Unit::Plain);
    let mut numbers = Vec::new();
    numbers.extend(score.mean.map(|mean| plain("correlation_mean", "mean correlation", mean.value, mean.ends())));
    numbers.extend(loss.map(|loss| plain("lost", "lost in the step to it", loss.value, loss.ends())));
    numbers.extend(score.median.map(|median| plain("correlation_median", "median", median, None)));
    if !defined.is_empty() {
        numbers.extend(ABOVE.iter().map(|t| {
            let count = defined.iter().filter(|r| *r > t).count();
            let (name, label) = (format!("above_{t}_share"), format!("questions above {t}"));
            Number::share(&name, &label, count, defined.len(), &MeasureOptions::default())
        }));
    }
    numbers.push(Number::new("undefined", "undefined", score.undefined as f64, None, Unit::Count));
    numbers.extend(score.of_the_mean.map(|of| plain("of_the_mean", "correlation of the mean", of, None)));
    TaskMeasure {
        name: format!("{}-{}", task.name, score.name),
        metric: score.label.clone(),
        n: task.questions,
        tasks: vec![task.name.clone()],
        numbers,
        rows: task.rows.iter().map(|question| row(task, question, k)).collect(),
        ..TaskMeasure::default()
    }
}

/// What is known of a question by one score; the fields that numbers are made of bear their names. Rows of the first score have the
/// others' values too, for the table of means is with it.
fn row(task: &TaskLadder, question: &Value, k: usize) -> Value {
    let correlation_by = |k: usize| question[&task.scores[k].name].as_f64();
    let correlation = correlation_by(k);
    let lost = k.checked_sub(1).and_then(|before| Some(correlation_by(before)? - correlation?));
    let mut row = json!({ "id": question["id"], "undefined": correlation.is_none() });
    if let Some(r) = correlation {
        row["correlation"] = r.into();
        ABOVE.iter().for_each(|t| row[format!("above_{t}")] = (r > *t).into());
    }
    if let Some(lost) = lost {
        row["lost"] = lost.into();
    }
    let in_all = |score: &ScoreLadder| question.get(by_model(&score.name)).filter(|values| values.is_array());
    if let Some(values) = in_all(&task.scores[k]) {
        row["score_by_model"] = values.clone();
    }
    for score in task.scores.iter().skip(1).filter(|_| k == 0) {
        if let Some(values) = in_all(score) {
            row[by_model(&score.name)] = values.clone();
        }
    }
    row
}

/// The share of questions above each correlation. Scores that have the same one are one curve.
fn survival(task: &TaskLadder, correlation: Correlation) -> ChartData {
    let mut curves: Vec<(String, &[(f64, f64)])> = Vec::new();
    for score in task.scores.iter().filter(|score| !score.survival.is_empty()) {
        match curves.last_mut().filter(|(_, points)| *points == score.survival.as_slice()) {
            Some((name, _)) => *name = format!("{name}, {}", score.label),
            None => curves.push((score.label.clone(), &score.survival)),
        }
    }
    let point = |&(x, y): &(f64, f64)| Point { x, y, low: None, high: None };
    let series = |(name, points): (String, &[(f64, f64)])| Series { name, points: points.iter().map(point).collect() };
    let drawing = Drawing::Lines {
        x: format!("{} correlation with compute", person(correlation)),
        y: "questions above it".into(),
        unit: Unit::Share,
        diagonal: false,
        series: curves.into_iter().map(series).collect(),
    };
    ChartData { title: "Questions above a correlation".into(), drawing }
}

/// A score's name for people.
fn label<'a>(task: &'a TaskLadder, name: &'a str) -> &'a str {
    task.scores.iter().find(|score| score.name == name).map_or(name, |score| score.label.as_str())
}

/// What each step from one score to the next loses.
fn losses(task: &TaskLadder) -> ChartData {
    let bar = |loss: &Loss| {
        let (found, name) = (loss.loss?, format!("to {}", loss.to));
        let ends = found.ends();
        Some(Bar { name, value: found.value, low: ends.map(|(low, _)| low), high: ends.map(|(_, high)| high) })
    };
    let drawing = Drawing::Forest {
        x: "mean correlation lost".into(),
        unit: Unit::Plain,
        bars: task.losses.iter().filter_map(bar).collect(),
    };
    ChartData { title: "What each step loses".into(), drawing }
}

/// Mean scores by model; those that are too small to be seen everywhere are left out.
fn means(task: &TaskLadder, ladder: &Ladder) -> Table {
    let is_seen = |k: usize| task.means.iter().any(|means| means.scores.get(k).is_some_and(|v| v.abs() >= TOO_SMALL));
    let shown: Vec<usize> = (0..task.scores.len()).filter(|&k| is_seen(k)).collect();
    let model = |(m, means): (usize, &Means)| {
        let name = ladder.models.get(m).map_or("", |model| model.name.as_str());
        let name = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        format!("{} ({name})", amount(means.compute))
    };
    Table {
        title: "Mean score by compute".into(),
        unit: Unit::Plain,
        columns: shown.iter().map(|&k| task.scores[k].label.clone()).collect(),
        rows: task.means.iter().enumerate().map(model).collect(),
        cells: task.means.iter().map(|means| shown.iter().map(|&k| means.scores.get(k).copied()).collect()).collect(),
    }
}

fn notes(task: &TaskLadder) -> Vec<String> {
    let mut notes = Vec::new();
    match &task.lost_at {
        Some(name) => notes.push(format!("most of the correlation is lost in the step to {}", label(task, name))),
        None if task.notes.is_empty() => notes.push("no step surely loses correlation".into()),
        None => {}
    }
    if task.left_out > 0 {
        let left_out = task.left_out;
        notes.push(format!("{left_out} questions were not asked of all models, or have no one right answer"));
    }
    notes.extend(task.notes.iter().cloned());
    notes
}

#[cfg(test)]
mod tests {
    use hone_eval::statistics::mean;

    use super::*;
    use crate::ladder::tests::of as ladder_of;

    /// Eight models, twelve questions; on the last one the right answer is the most likely choice in all.
    fn ladder(correlation: Correlation) -> Ladder {
        let question = |m: usize, q: usize| {
            let wobble = |c: usize| ((q * 7 + c * 5 + m * m * 3) % 11) as f64 - 7.5;
            let wrong = |c: usize| if q == 11 { -60.0 } else { -20.0 + m as f64 + wobble(c) };
            vec![-20.0 + m as f64, wrong(1), wrong(2)]
        };
        let models: Vec<Vec<Vec<f64>>> = (0..8).map(|m| (0..12).map(|q| question(m, q)).collect()).collect();
        ladder_of(&models, correlation)
    }

    #[test]
    fn every_score_is_a_measure_whose_rows_make_its_numbers() {
        let found = of(&ladder(Correlation::Spearman));
        let names: Vec<&str> = found.tasks.iter().map(|task| task.name.as_str()).collect();
        assert_eq!(names, ["quiz-log_p", "quiz-p", "quiz-p_choices", "quiz-brier", "quiz-accuracy"]);
        for (k, task) in found.tasks.iter().enumerate() {
            assert_eq!((task.subject(), task.n, task.rows.len()), ("quiz", 12, 12));
            let of = |field: &str| task.rows.iter().filter_map(|row| row[field].as_f64()).collect::<Vec<f64>>();
            let flags = |field: &str| {
                let known: Vec<bool> = task.rows.iter().filter_map(|row| row[field].as_bool()).collect();
                known.iter().filter(|flag| **flag).count() as f64 / known.len() as f64
            };
            let number = |name: &str| task.numbers.iter().find(|number| number.name == name);
            let value = |name: &str| number(name).unwrap_or_else(|| panic!("no {name}: {:?}", task.numbers)).value;
            assert!((value("correlation_mean") - mean(&of("correlation"))).abs() < 1e-12);
            for t in ["0", "0.5", "0.9"] {
                let share = value(&format!("above_{t}_share"));
                assert!((share - flags(&format!("above_{t}"))).abs() < 1e-12, "{t}");
            }
            assert_eq!(value("undefined"), 12.0 * flags("undefined"));
            match k {
                0 => assert!(number("lost").is_none(), "there is no step to the first score"),
                _ => assert!((value("lost") - mean(&of("lost"))).abs() < 1e-12),
            }
            // A row's correlation is that of the score it shows.
            let row = &task.rows[3];
            let scores: Vec<f64> = row["score_by_model"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
            let compute: Vec<f64> = (0..8).map(|m| f64::from(1 << m)).collect();
            assert_eq!(Correlation::Spearman.of(&scores, &compute), row["correlation"].as_f64());
        }
        // Likelihood rises with every model; on one question accuracy never changes.
        assert_eq!(found.tasks[0].numbers[0].value, 1.0);
        let undefined = |k: usize| found.tasks[k].numbers.iter().find(|n| n.name == "undefined").unwrap().value;
        assert!(undefined(0) == 0.0 && undefined(4) >= 1.0, "{}", undefined(4));
    }

    #[test]
    fn charts_and_notes_are_with_the_first_score() {
        let found = of(&ladder(Correlation::Spearman));
        let first = &found.tasks[0];
        assert!(found.tasks[1..].iter().all(|task| task.charts.is_empty() && task.tables.is_empty()));
        let Drawing::Lines { series, .. } = &first.charts[0].drawing else { panic!("{:?}", first.charts) };
        assert_eq!(series[0].name, "log p(right), p(right)", "ranks do not tell them apart");
        assert_eq!((series.len(), series[0].points.len()), (4, 41));
        let Drawing::Forest { bars, .. } = &first.charts[1].drawing else { panic!("{:?}", first.charts) };
        let names: Vec<&str> = bars.iter().map(|bar| bar.name.as_str()).collect();
        assert_eq!(names, ["to p", "to p_choices", "to brier", "to accuracy"]);
        assert_eq!(bars[0].value, 0.0);
        assert!(bars[1].value > 0.1 && bars[1].low.is_some_and(|low| low > 0.0), "{bars:?}");
        let text = first.notes.join("\n");
        assert!(text.contains("8 models of compute 1 to 128; Spearman's correlation"), "{text}");
        assert!(text.contains("lost in the step to p(right) among the choices"), "{text}");
        // The means are of these rows.
        assert_eq!(first.rows[0]["accuracy_by_model"].as_array().map(Vec::len), Some(8));
        assert_eq!(found.tasks[1].rows[0].get("accuracy_by_model"), None);
        // Of small probabilities three decimals show nothing.
        assert_eq!(first.tables[0].columns, ["log p(right)", "p(right) among the choices", "−Brier", "accuracy"]);
        assert_eq!(first.tables[0].rows[7], "128 (model 7)");
        assert_eq!(first.tables[0].cells[7][0], Some(-13.0));
        let pearson = of(&ladder(Correlation::Pearson));
        let Drawing::Lines { series, .. } = &pearson.tasks[0].charts[0].drawing else { panic!("no curves") };
        assert_eq!(series.len(), 5);
        assert!(found.legend.contains("Ranks cannot") && !pearson.legend.contains("Ranks cannot"));
    }

    #[test]
    fn what_was_not_measured_has_no_number() {
        let mut bare = ladder(Correlation::Kendall);
        // As it reads back from its file, without the rows.
        bare.tasks[0].rows.clear();
        let task = &of(&bare).tasks[2];
        assert!(task.rows.is_empty() && task.numbers.iter().all(|number| !number.name.starts_with("above")));
        let nothing = TaskLadder { scores: Vec::new(), losses: Vec::new(), means: Vec::new(), ..bare.tasks[0].clone() };
        assert!(of(&Ladder { tasks: vec![nothing], ..bare }).tasks.is_empty());
    }

    #[test]
    fn compute_is_written_short() {
        assert_eq!([1.0, 128.0, 1e15, 1.28e17, 0.25].map(amount), ["1", "128", "1e15", "1.28e17", "0.25"]);
    }
}
