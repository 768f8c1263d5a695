//! What a study found, as plain data: `results.json` is this, serialised, and the page is written from it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::claims::{Condition, Holds, judge};
use crate::error::StudyError;
use crate::measures::Measures;
use crate::plan::{Bindings, Plan};
use crate::quantity::{Grid, Measured, over_repetitions};
use crate::record::Record;
use crate::runner::shown;
use crate::study::{Axis, Claim, Front, PlotKind, Study};

/// Format version of `results.json`.
const FORMAT: u32 = 1;

/// A study's outcome.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// Format version of this file.
    pub format: u32,
    /// The study's name.
    pub study: String,
    /// Its question.
    pub title: String,
    /// Whose claims these are.
    pub paper: String,
    /// What the paper claims.
    pub about: String,
    /// What the reader should know besides.
    pub caveats: Vec<String>,
    /// Claim by claim.
    pub claims: Vec<ClaimResult>,
    /// The tables.
    pub tables: Vec<TableResult>,
    /// The plots.
    pub plots: Vec<PlotResult>,
    /// What was run.
    pub ran: Ran,
}

/// A claim and how it came out. Numbers are in its unit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClaimResult {
    /// The claim.
    pub claim: String,
    /// What the paper has.
    pub expected: String,
    /// The condition.
    pub condition: String,
    /// The formula.
    pub formula: String,
    /// The value and its interval.
    #[serde(flatten)]
    pub measured: Cell,
    /// Whether it holds.
    pub holds: Holds,
}

/// A number as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The value; `None` if it is not a number.
    pub value: Option<f64>,
    /// Lower end of the 95 % interval, where there is one.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// What the interval is over.
    pub basis: String,
    /// The unit.
    pub unit: String,
}

/// A table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableResult {
    /// Heading.
    pub title: String,
    /// The variables whose values begin a row, then the columns.
    pub header: Vec<String>,
    /// The rows: values of the variables, then cells.
    pub rows: Vec<(Vec<String>, Vec<Cell>)>,
    /// Which columns show their intervals.
    pub intervals: Vec<bool>,
}

/// A plot's marks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlotResult {
    /// Part of the file's name.
    pub name: String,
    /// Heading.
    pub title: String,
    /// How it is drawn.
    pub kind: PlotKind,
    /// What is across.
    pub x_label: String,
    /// What is up.
    pub y_label: String,
    /// Whether each step across is ten times the last.
    pub x_logarithmic: bool,
    /// Whether each step up is ten times the last.
    pub y_logarithmic: bool,
    /// Which corner is best.
    pub front: Option<Front>,
    /// The marks.
    pub marks: Vec<Mark>,
}

/// A mark of a plot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// The value of the first variable: marks that share it are joined.
    pub series: String,
    /// The values of the others.
    pub label: String,
    /// Across; nothing in a forest.
    pub x: Cell,
    /// Up.
    pub y: Cell,
}

/// What was run, where and with what.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ran {
    /// Version of hone.
    pub version: String,
    /// SHA-256 of the programs that ran the steps: one, unless the run was continued with another.
    pub programs: Vec<String>,
    /// The machine, in words.
    pub machine: String,
    /// Minutes all steps took together.
    pub minutes: f64,
    /// Models and their places.
    pub models: Vec<String>,
    /// Data files with their SHA-256.
    pub data: Vec<(String, String)>,
    /// The steps: name, command, seconds.
    pub steps: Vec<(String, String, f64)>,
}

impl Results {
    /// Reads the numbers of a finished run and judges the claims.
    pub fn of(plan: &Plan, directory: &Path, records: &[Record], ran: Ran) -> Result<Results, StudyError> {
        let study = &plan.study;
        let measures = Measures::new(study, directory);
        let step = |(step, record): (&crate::Step, &Record)| (step.name.clone(), shown(step), record.seconds);
        let mut programs: Vec<String> = records.iter().map(|record| record.program_sha256.clone()).collect();
        programs.sort();
        programs.dedup();
        let ran = Ran {
            programs,
            minutes: records.iter().map(|record| record.seconds).sum::<f64>() / 60.0,
            steps: plan.steps.iter().zip(records).map(step).collect(),
            ..ran
        };
        Ok(Results {
            format: FORMAT,
            study: plan.name.clone(),
            title: study.title.clone(),
            paper: study.paper.clone(),
            about: study.about.clone(),
            caveats: study.caveats.clone(),
            claims: study.claims.iter().map(|c| claim(c, &measures)).collect::<Result<_, _>>()?,
            tables: tables(study, &measures)?,
            plots: plots(study, &measures)?,
            ran,
        })
    }

    /// Whether every claim holds.
    pub fn all_hold(&self) -> bool {
        self.claims.iter().all(|claim| claim.holds == Holds::Yes)
    }
}

/// What a number is multiplied by to be in a unit.
fn scale(unit: &str) -> f64 {
    if matches!(unit, "points" | "%") { 100.0 } else { 1.0 }
}

fn cell(measured: &Measured, unit: &str) -> Cell {
    let scaled = |v: f64| Some(v * scale(unit)).filter(|v| v.is_finite());
    Cell {
        value: scaled(measured.value),
        low: measured.interval.and_then(|(low, _)| scaled(low)),
        high: measured.interval.and_then(|(_, high)| scaled(high)),
        basis: measured.basis.clone(),
        unit: unit.to_owned(),
    }
}

fn claim(claim: &Claim, measures: &Measures<'_>) -> Result<ClaimResult, StudyError> {
    let what = format!("claim `{}`", claim.claim);
    let grid = measures.compute(&what, &claim.measured)?;
    let problem =
        |problem: String| StudyError::Formula { what: what.clone(), formula: claim.measured.clone(), problem };
    let measured = match &claim.over {
        // A formula without the variable is the same for all of its values, which are then no repetitions.
        Some(variable) if grid.keys().all(|key| key.contains_key(variable)) => {
            over_repetitions(&grid.values().map(|quantity| quantity.value()).collect::<Vec<_>>(), variable)
        }
        Some(variable) => {
            return Err(problem(format!("it does not depend on `{variable}`, so its values say nothing")));
        }
        None => only(&grid).ok_or_else(|| problem("more than one number".into()))?,
    };
    let condition = Condition::parse(&claim.holds).map_err(problem)?;
    let by = scale(&claim.unit);
    let interval = measured.interval.map(|(low, high)| (low * by, high * by));
    Ok(ClaimResult {
        claim: claim.claim.clone(),
        expected: claim.expected.clone().unwrap_or_else(|| format!("{} {}", claim.holds, claim.unit).trim().to_owned()),
        condition: claim.holds.clone(),
        formula: claim.measured.clone(),
        holds: judge(condition, claim.by, measured.value * by, interval),
        measured: cell(&measured, &claim.unit),
    })
}

fn only(grid: &Grid) -> Option<Measured> {
    let mut all = grid.values();
    all.next().filter(|_| grid.len() == 1).map(|quantity| quantity.measured())
}

/// The value of a formula where its variables have the values of a row.
fn at(grid: &Grid, row: &Bindings) -> Option<Measured> {
    let agrees = |key: &&Bindings| key.iter().all(|(variable, value)| row.get(variable) == Some(value));
    grid.iter().find(|(key, _)| agrees(key)).map(|(_, quantity)| quantity.measured())
}

/// Every combination of some variables' values, in order.
fn rows(each: &[String], measures: &Measures<'_>) -> Vec<Bindings> {
    let mut rows = vec![Bindings::new()];
    for variable in each {
        let values = measures.order(variable);
        let with = |row: Bindings| {
            let value = |value: &String| {
                let mut row = row.clone();
                row.insert(variable.clone(), value.clone());
                row
            };
            values.iter().map(value).collect::<Vec<_>>()
        };
        rows = rows.into_iter().flat_map(with).collect();
    }
    rows
}

fn tables(study: &Study, measures: &Measures<'_>) -> Result<Vec<TableResult>, StudyError> {
    let mut tables = Vec::new();
    for table in &study.tables {
        let what = format!("table `{}`", table.title);
        let grids: Vec<Grid> =
            table.columns.iter().map(|column| measures.compute(&what, &column.of)).collect::<Result<_, _>>()?;
        let row = |bound: Bindings| {
            let cells = grids.iter().zip(&table.columns).map(|(grid, column)| {
                at(grid, &bound).map_or_else(Cell::default, |measured| cell(&measured, &column.unit))
            });
            (table.each.iter().map(|variable| bound[variable].clone()).collect::<Vec<_>>(), cells.collect::<Vec<_>>())
        };
        let mut rows: Vec<(Vec<String>, Vec<Cell>)> = rows(&table.each, measures).into_iter().map(row).collect();
        if let Some(at) = table.order_by.as_ref().and_then(|order| table.columns.iter().position(|c| c.name == *order))
        {
            let value = |row: &(Vec<String>, Vec<Cell>)| row.1[at].value.unwrap_or(f64::NEG_INFINITY);
            rows.sort_by(|a, b| value(b).total_cmp(&value(a)));
        }
        let unit = |unit: &str| if unit.is_empty() { String::new() } else { format!(", {unit}") };
        let columns = table.columns.iter().map(|column| format!("{}{}", column.name, unit(&column.unit)));
        tables.push(TableResult {
            title: table.title.clone(),
            header: table.each.iter().cloned().chain(columns).collect(),
            rows,
            intervals: table.columns.iter().map(|column| column.interval).collect(),
        });
    }
    Ok(tables)
}

fn plots(study: &Study, measures: &Measures<'_>) -> Result<Vec<PlotResult>, StudyError> {
    let mut plots = Vec::new();
    for plot in &study.plots {
        let what = format!("plot `{}`", plot.name);
        // A variable along an axis stands for its own values, which then have to be numbers.
        let along = |axis: &Axis| -> Result<Box<dyn Fn(&Bindings) -> Cell>, StudyError> {
            let unit = axis.unit.clone();
            if plot.each.contains(&axis.of) {
                let variable = axis.of.clone();
                let problem = format!("the values of `{variable}` are no numbers, so they cannot stand along an axis");
                if measures.order(&variable).iter().any(|value| value.parse::<f64>().is_err()) {
                    return Err(StudyError::Formula { what: what.clone(), formula: variable, problem });
                }
                let value = move |row: &Bindings| row[&variable].parse::<f64>().ok();
                return Ok(Box::new(move |row| Cell { value: value(row), unit: unit.clone(), ..Cell::default() }));
            }
            let grid = measures.compute(&what, &axis.of)?;
            Ok(Box::new(move |row| at(&grid, row).map_or_else(Cell::default, |measured| cell(&measured, &unit))))
        };
        let x = plot.x.as_ref().map(&along).transpose()?;
        let y = along(&plot.y)?;
        let mark = |row: Bindings| {
            let names: Vec<String> = plot.each.iter().map(|variable| row[variable].clone()).collect();
            Mark {
                series: names[0].clone(),
                label: names[1..].join(", "),
                x: x.as_ref().map_or_else(Cell::default, |x| x(&row)),
                y: y(&row),
            }
        };
        plots.push(PlotResult {
            name: plot.name.clone(),
            title: plot.title.clone(),
            kind: plot.kind,
            x_label: plot.x.as_ref().map_or_else(String::new, |axis| axis.label.clone()),
            y_label: plot.y.label.clone(),
            x_logarithmic: plot.x.as_ref().is_some_and(|axis| axis.logarithmic),
            y_logarithmic: plot.y.logarithmic,
            front: plot.front,
            marks: rows(&plot.each, measures).into_iter().map(mark).collect(),
        });
    }
    Ok(plots)
}
