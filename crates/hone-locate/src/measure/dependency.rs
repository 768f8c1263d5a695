//! Scores of context-dependency as a measure: how they lie, before and after, and which turns moved.
//!
//! All turns of the data file are one [`TaskMeasure`], named by the file; groups of them are rows of a table and bars of a chart.
//! A row of its rows is a turn.

use std::collections::BTreeMap;

use hone_eval::measures::chart::{Bar, Point, Series};
use hone_eval::measures::{
    ChartData, Drawing, MeasureOptions, MeasureResult, Number, Origin, Table, TaskMeasure, Unit,
};
use hone_eval::statistics::{BootstrapOptions, Estimate, mean, quantile};
use serde_json::{Map, Value, json};

use super::{models, named};
use crate::dependency::TurnScore;
use crate::mark::ABOVE;
use crate::scored::{DependencyReport, OfTurn, RESAMPLES, ScoredTurn};

/// The measure's name.
pub const NAME: &str = "dependency";
/// The question it answers.
pub const QUESTION: &str = "How much do answers depend on what the user gave?";

/// Steps of the scores' curve from 0 to 1.
const STEPS: u32 = 20;
/// Groups that are shown, the largest ones.
const GROUPS: usize = 12;
/// Longest name of a group, in characters.
const NAME_LENGTH: usize = 40;
/// What the table of quantiles shows.
const QUANTILES: [(f64, &str); 5] = [
    (0.05, "5 % are below"),
    (0.25, "25 % are below"),
    (0.5, "half are below"),
    (0.75, "75 % are below"),
    (0.95, "95 % are below"),
];

/// A version's score of a turn.
type OfSide = fn(&ScoredTurn) -> Option<TurnScore>;
/// A version's gain on a turn.
type GainOf = fn(&ScoredTurn) -> Option<f64>;

/// A version of the model: its name in files, its name for people, and its numbers of a turn.
struct Side {
    name: &'static str,
    label: &'static str,
    score: OfSide,
    gain: GainOf,
}

const BEFORE: Side =
    Side { name: "_before", label: ", before", score: |turn| turn.before, gain: |turn| turn.gain_before };
const AFTER: Side =
    Side { name: "_after", label: ", after", score: |turn| Some(turn.after), gain: |turn| turn.gain_after };
/// Where there is one version.
const ALONE: Side = Side { name: "", label: "", ..AFTER };

/// A report's scores as a measure.
pub fn of(report: &DependencyReport) -> MeasureResult {
    let DependencyReport { layer, layers, form, .. } = report;
    MeasureResult {
        name: NAME.into(),
        question: QUESTION.into(),
        legend: format!(
            "A turn's score is the share of attention, 0 to 1, that its answer's words give to the user's words in layer {layer} of \
             {layers}, by the head that gives most. Gain: nats a token that the context is worth to the answer. Attention is a share, \
             not use."
        ),
        source: "Wang et al. 2025, arXiv 2411.02688".into(),
        tasks: vec![measure(report)],
        origin: Some(Origin {
            models: models(report.before.as_ref(), &report.subject),
            formulas: vec![
                format!(
                    "score = largest head's mean over the answer's tokens of attention to the user's words, layer {layer} of {layers}, {form}"
                ),
                format!(
                    "change = score after − score before; moved: by more than {}; above: a score over {ABOVE}",
                    report.moved
                ),
                "gain = (ln p(answer with context) − ln p(answer without)) / tokens of the answer".into(),
            ],
            intervals: format!(
                "percentiles of {RESAMPLES} resamples of the file's rows, all turns of a row together (bootstrap)"
            ),
        }),
    }
}

fn measure(report: &DependencyReport) -> TaskMeasure {
    let all: Vec<usize> = (0..report.turns.len()).collect();
    let options = BootstrapOptions { resamples: RESAMPLES, ..BootstrapOptions::default() };
    let sides: &[Side] = if report.before.is_some() { &[BEFORE, AFTER] } else { &[ALONE] };
    let mut charts = vec![curves(report, sides)];
    let mut tables = vec![quantiles(report, sides)];
    if let Some(column) = &report.group {
        let groups = groups(report);
        tables.push(by_group(report, sides, column, &groups));
        charts.extend(changes(report, column, &groups, &options));
    }
    TaskMeasure {
        name: file_name(&report.source),
        metric: "context dependency".into(),
        n: report.turns.len(),
        numbers: numbers(report, sides, &all, &options),
        tables,
        charts,
        notes: notes(report),
        rows: report.turns.iter().map(|turn| row(report, sides, turn).into()).collect(),
        ..TaskMeasure::default()
    }
}

fn numbers(report: &DependencyReport, sides: &[Side], all: &[usize], options: &BootstrapOptions) -> Vec<Number> {
    let mean = |name: String, label: String, of: OfTurn<'_>| {
        let Estimate { value, low, high } = report.mean(all, of, options)?;
        Some(Number::new(&name, &label, value, Some((low, high)), Unit::Plain))
    };
    let share = |name: String, label: String, has: &dyn Fn(&ScoredTurn) -> Option<bool>| {
        let (count, n) = report.count(has);
        (n > 0).then(|| Number::share(&name, &label, count, n, &MeasureOptions::default()))
    };
    let moved = |word: &str| format!("{word} by more than {}", report.moved);
    let fell = |turn: &ScoredTurn| report.fell(turn);
    let rose = |turn: &ScoredTurn| report.rose(turn);
    let either = |turn: &ScoredTurn| Some(report.fell(turn)? || report.rose(turn)?);
    let mut found: Vec<Option<Number>> = Vec::new();
    for side in sides {
        let score = |turn: &ScoredTurn| (side.score)(turn).map(|of| of.score);
        found.push(mean(format!("score{}", side.name), format!("mean score{}", side.label), &score));
    }
    found.push(mean("score_change".into(), "change of the score".into(), &ScoredTurn::change));
    found.push(share("moved_share".into(), moved("moved"), &either));
    found.push(share("fell_share".into(), moved("fell"), &fell));
    found.push(share("rose_share".into(), moved("rose"), &rose));
    for side in sides {
        let above = |turn: &ScoredTurn| (side.score)(turn).map(|of| of.score > ABOVE);
        found.push(share(format!("above{}_share", side.name), format!("above {ABOVE}{}", side.label), &above));
    }
    found.push(share("same_head_share".into(), "same head has most".into(), &ScoredTurn::same_head));
    for side in sides {
        found.push(mean(format!("gain{}", side.name), format!("gain{}", side.label), &side.gain));
    }
    found.push(mean("gain_change".into(), "change of the gain".into(), &ScoredTurn::gain_change));
    found.into_iter().flatten().collect()
}

/// What is known of a turn; the fields that numbers are made of bear their names.
fn row(report: &DependencyReport, sides: &[Side], turn: &ScoredTurn) -> Map<String, Value> {
    let mut row = Map::new();
    let mut put = |name: String, value: Value| row.insert(name, value);
    put("id".into(), json!(turn.id));
    put("group".into(), json!(turn.group));
    put("user".into(), json!(turn.user));
    put("answer".into(), json!(turn.answer));
    put("tokens".into(), json!(turn.after.tokens));
    for side in sides {
        let score = (side.score)(turn);
        put(format!("score{}", side.name), json!(score.map(|of| of.score)));
        put(format!("above{}", side.name), json!(score.map(|of| of.score > ABOVE)));
        put(format!("head{}", side.name), json!(score.map(|of| of.head)));
        put(format!("gain{}", side.name), json!((side.gain)(turn)));
    }
    if report.before.is_some() {
        let (fell, rose) = (report.fell(turn), report.rose(turn));
        put("score_change".into(), json!(turn.change()));
        put("moved".into(), json!(fell.zip(rose).map(|(fell, rose)| fell || rose)));
        put("fell".into(), json!(fell));
        put("rose".into(), json!(rose));
        put("same_head".into(), json!(turn.same_head()));
        put("gain_change".into(), json!(turn.gain_change()));
    }
    row.retain(|_, value| !value.is_null());
    row
}

/// The scores of a side, lowest first.
fn sorted(report: &DependencyReport, of: impl Fn(&ScoredTurn) -> Option<f64>) -> Vec<f64> {
    let mut values: Vec<f64> = report.turns.iter().filter_map(of).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The share of turns above each score.
fn curves(report: &DependencyReport, sides: &[Side]) -> ChartData {
    let series = |side: &Side| {
        let scores = sorted(report, |turn| (side.score)(turn).map(|of| of.score));
        let point = |step: u32| {
            let x = f64::from(step) / f64::from(STEPS);
            let above = scores.iter().filter(|score| **score > x).count();
            Point { x, y: above as f64 / scores.len() as f64, low: None, high: None }
        };
        let points = if scores.is_empty() { Vec::new() } else { (0..=STEPS).map(point).collect() };
        let name = side.label.trim_start_matches(", ");
        Series { name: if name.is_empty() { "all turns" } else { name }.into(), points }
    };
    let drawing = Drawing::Lines {
        x: "score".into(),
        y: "turns above it".into(),
        unit: Unit::Share,
        diagonal: false,
        series: sides.iter().map(series).collect(),
    };
    ChartData { title: "Turns above a score".into(), drawing }
}

fn quantiles(report: &DependencyReport, sides: &[Side]) -> Table {
    let mut all: Vec<Vec<f64>> =
        sides.iter().map(|side| sorted(report, |turn| (side.score)(turn).map(|of| of.score))).collect();
    let columns: &[&str] = if sides.len() > 1 { &["before", "after", "change of a turn"] } else { &["score"] };
    if sides.len() > 1 {
        all.push(sorted(report, ScoredTurn::change));
    }
    let cells = |(q, _): &(f64, &str)| {
        all.iter().map(|values| Some(quantile(values, *q)).filter(|value| value.is_finite())).collect()
    };
    Table {
        title: "Scores".into(),
        unit: Unit::Plain,
        columns: columns.iter().map(|&column| column.to_owned()).collect(),
        rows: QUANTILES.iter().map(|(_, name)| (*name).to_owned()).collect(),
        cells: QUANTILES.iter().map(cells).collect(),
    }
}

/// Groups with the places of their turns: the largest first, what goes beyond the first few together at the end.
fn groups(report: &DependencyReport) -> Vec<(String, Vec<usize>)> {
    let mut by_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, turn) in report.turns.iter().enumerate() {
        let name = turn.group.as_deref().unwrap_or("(none)");
        by_name.entry(name.to_owned()).or_default().push(at);
    }
    let mut groups: Vec<(String, Vec<usize>)> = by_name.into_iter().collect();
    groups.sort_by_key(|(_, turns)| std::cmp::Reverse(turns.len()));
    let rest = if groups.len() > GROUPS { groups.split_off(GROUPS - 1) } else { Vec::new() };
    // Names that begin alike stay apart: by their ends.
    groups.iter_mut().for_each(|(name, _)| *name = shortened(name));
    if !rest.is_empty() {
        groups.push((format!("{} others", rest.len()), rest.into_iter().flat_map(|(_, turns)| turns).collect()));
    }
    groups
}

/// A name of at most [`NAME_LENGTH`] characters: its beginning and its end.
fn shortened(name: &str) -> String {
    let characters: Vec<char> = name.chars().collect();
    if characters.len() <= NAME_LENGTH {
        return name.to_owned();
    }
    let kept = NAME_LENGTH - 1;
    let (head, tail) = (&characters[..kept - kept / 2], &characters[characters.len() - kept / 2..]);
    head.iter().chain(&['…']).chain(tail).collect()
}

fn by_group(report: &DependencyReport, sides: &[Side], column: &str, groups: &[(String, Vec<usize>)]) -> Table {
    let cells = |(_, turns): &(String, Vec<usize>)| {
        let of_group = |of: OfTurn<'_>| {
            let values: Vec<f64> = turns.iter().filter_map(|&at| of(&report.turns[at])).collect();
            (!values.is_empty()).then(|| mean(&values))
        };
        let score = |side: &Side| of_group(&|turn: &ScoredTurn| (side.score)(turn).map(|of| of.score));
        let mut cells: Vec<Option<f64>> = sides.iter().map(score).collect();
        if sides.len() > 1 {
            cells.push(of_group(&ScoredTurn::change));
        }
        cells
    };
    let columns: &[&str] = if sides.len() > 1 { &["before", "after", "change"] } else { &["mean score"] };
    Table {
        title: format!("By {column}"),
        unit: Unit::Plain,
        columns: columns.iter().map(|&column| column.to_owned()).collect(),
        rows: groups.iter().map(|(name, turns)| format!("{name} ({})", turns.len())).collect(),
        cells: groups.iter().map(cells).collect(),
    }
}

/// The change of each group with its interval; nothing where there is one version.
fn changes(
    report: &DependencyReport,
    column: &str,
    groups: &[(String, Vec<usize>)],
    options: &BootstrapOptions,
) -> Option<ChartData> {
    let bar = |(name, turns): &(String, Vec<usize>)| {
        let Estimate { value, low, high } = report.mean(turns, &ScoredTurn::change, options)?;
        Some(Bar { name: name.clone(), value, low: Some(low), high: Some(high) })
    };
    let bars: Vec<Bar> = groups.iter().filter_map(bar).collect();
    let drawing = Drawing::Forest { x: "change of the mean score".into(), unit: Unit::Plain, bars };
    report.before.is_some().then(|| ChartData { title: format!("Change by {column}"), drawing })
}

fn notes(report: &DependencyReport) -> Vec<String> {
    let mut notes = match &report.before {
        Some(before) => vec![format!("before: {}", named(before)), format!("after: {}", named(&report.subject))],
        None => vec![format!("model: {}", named(&report.subject))],
    };
    notes.push(format!("{}; the heads of layer {} of {}", report.form, report.layer, report.layers));
    if report.left_out > 0 {
        notes.push(format!("{} turns were not scored: without words, or behind the longest length", report.left_out));
    }
    let neighbours = |pair: &[ScoredTurn]| pair[0].row == pair[1].row;
    if report.turns.windows(2).any(neighbours) {
        notes.push(
            "rows have several turns: intervals of means draw those of a row together, intervals of shares take each by itself"
                .into(),
        );
    }
    notes
}

/// A file's name without its folders and its ending, which can name a file itself.
fn file_name(path: &str) -> String {
    let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let plain = |c: char| if c.is_alphanumeric() || "-_. ".contains(c) { c } else { '_' };
    let stem: String = stem.chars().map(plain).collect();
    if stem.trim_matches(['.', ' ']).is_empty() { "turns".into() } else { stem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scored::tests::report;

    const PAIRS: [(&str, Option<f64>, f64); 4] =
        [("1", Some(0.5), 0.625), ("2", Some(0.875), 0.5), ("3", Some(0.125), 0.25), ("4", Some(0.25), 0.25)];

    fn number(task: &TaskMeasure, name: &str) -> f64 {
        let found = task.numbers.iter().find(|number| number.name == name);
        found.unwrap_or_else(|| panic!("no {name}: {:?}", task.numbers)).value
    }

    #[test]
    fn numbers_say_what_moved_and_their_rows_make_them() {
        let found = of(&report(&PAIRS));
        let task = &found.tasks[0];
        assert_eq!((task.name.as_str(), task.n), ("train", 4));
        let change = (0.125 - 0.375 + 0.125 + 0.0) / 4.0;
        assert!((number(task, "score_change") - change).abs() < 1e-12);
        assert!((number(task, "score_after") - number(task, "score_before") - change).abs() < 1e-12);
        let shares = ["moved_share", "fell_share", "rose_share", "above_before_share", "above_after_share"];
        assert_eq!(shares.map(|name| number(task, name)), [0.75, 0.25, 0.5, 0.25, 0.25]);
        // Scores 0.25 and 0.25 have one head in this sample, the others two.
        assert_eq!(number(task, "same_head_share"), 0.25);
        assert!(task.numbers.iter().all(|number| !number.name.starts_with("gain")), "no context was named");
        // Every number is the mean or the share of a field of the rows.
        for number in &task.numbers {
            let field = number.name.strip_suffix("_share").unwrap_or(&number.name);
            let value =
                |row: &Value| row[field].as_f64().or(row[field].as_bool().map(|flag| f64::from(u8::from(flag))));
            let values: Vec<f64> = task.rows.iter().filter_map(value).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            assert!(values.len() == 4 && (mean - number.value).abs() < 1e-12, "{number:?} {values:?}");
        }
        assert_eq!(found.origin.as_ref().map(|origin| origin.models.as_str()), Some("old → new"));
    }

    #[test]
    fn the_curve_and_the_quantiles_are_those_of_the_scores() {
        let task = &of(&report(&PAIRS)).tasks[0];
        let Drawing::Lines { series, .. } = &task.charts[0].drawing else { panic!("{:?}", task.charts) };
        assert_eq!(series.iter().map(|series| series.name.as_str()).collect::<Vec<_>>(), ["before", "after"]);
        let above = |side: usize, step: usize| series[side].points[step].y;
        // Above 0, above 0.25 (strictly), above 0.5, above 1.
        assert_eq!([above(1, 0), above(1, 5), above(1, 10), above(1, 20)], [1.0, 0.5, 0.25, 0.0]);
        let table = &task.tables[0];
        assert_eq!(table.cells[2], [Some(0.375), Some(0.375), Some(0.0625)]);
    }

    #[test]
    fn groups_stand_beside_each_other_with_their_intervals() {
        let report = report(&PAIRS);
        let task = &of(&report).tasks[0];
        assert_eq!(
            (task.tables[1].title.as_str(), &task.tables[1].rows),
            ("By kind", &vec!["a (2)".into(), "b (2)".into()])
        );
        assert_eq!(task.tables[1].cells[0], [Some(0.3125), Some(0.4375), Some(0.125)]);
        let Drawing::Forest { bars, .. } = &task.charts[1].drawing else { panic!("{:?}", task.charts) };
        assert_eq!((bars[1].name.as_str(), bars[1].value), ("b", -0.1875));
        assert!(bars[1].low.is_some_and(|low| low <= -0.3), "{bars:?}");
        // Many groups: the largest, and the rest together.
        let mut many = report.clone();
        let turn = many.turns[0].clone();
        many.turns = (0..40).map(|i| ScoredTurn { group: Some(format!("g{:02}", i % 20)), ..turn.clone() }).collect();
        let rows = &of(&many).tasks[0].tables[1].rows;
        assert_eq!((rows.len(), rows[GROUPS - 1].as_str()), (GROUPS, "9 others (18)"));
    }

    #[test]
    fn one_version_has_scores_and_no_change() {
        let alone = report(&[("1", None, 0.5), ("2", None, 0.75)]);
        let task = &of(&alone).tasks[0];
        let names: Vec<&str> = task.numbers.iter().map(|number| number.name.as_str()).collect();
        assert_eq!(names, ["score", "above_share"]);
        assert_eq!((task.tables[0].columns.len(), task.charts.len()), (1, 1));
        // Nothing was scored: no number, and none that is none.
        let nothing = of(&DependencyReport { turns: Vec::new(), ..alone });
        assert!(
            nothing.tasks[0].numbers.is_empty()
                && nothing.tasks[0].tables[0].cells.iter().flatten().all(Option::is_none)
        );
    }

    #[test]
    fn a_measure_is_named_by_the_file() {
        for (path, name) in [
            ("data/train.v2.jsonl", "train.v2"),
            ("C:\\x\\my rows.csv", "my rows"),
            ("data/*.jsonl", "_"),
            (".jsonl", "turns"),
            ("..", "turns"),
            ("", "turns"),
        ] {
            assert_eq!(file_name(path), name);
        }
    }
}
