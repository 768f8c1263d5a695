//! What was measured besides the metrics ([`hone_eval::measures`]), for the page's template and as Markdown. Neither knows a
//! measure's numbers: both show the charts, numbers and tables that are there. Only which question of the page a measure
//! answers is said here.

use std::fmt::Write;

use hone_eval::measures::{Grid, MeasureResult, Number, Table, TaskMeasure};
use serde::Serialize;

use crate::ReportError;
use crate::charts::{self, how_to_read};
use crate::grid::{Block, Cell, NOTHING};
use crate::links::{Link, Places, Side, href};
use crate::markdown::{in_one_line, write_grid};
use crate::page::tasks;

/// Measures that answer "what did it lose"; the others are about whether to trust the rest.
const OF_LOSSES: [&str; 3] = ["forgetting", "compatibility", "safety"];
/// Those whose charts and tables show once more, with the sign turned, what the page shows of its tasks: they are folded.
const REPEATS: [&str; 1] = ["forgetting"];
/// The table that is drawn as a matrix.
const FLIP_MATRIX: &str = "Flip matrix";

/// Widest table of which two stand side by side, in pixels.
const SMALL: i32 = 380;

/// A measure as the template reads it.
#[derive(Serialize)]
pub(crate) struct Section<'a> {
    name: &'a str,
    question: &'a str,
    legend: &'a str,
    source: &'a str,
    overview: Vec<Block>,
    folded: bool,
    charts: Vec<Drawn<'a>>,
    tables: Vec<Titled<'a>>,
    notes: Vec<String>,
}

/// A chart of one task.
#[derive(Serialize)]
struct Drawn<'a> {
    task: &'a str,
    title: &'a str,
    how: &'static str,
    wide: String,
    narrow: String,
    half: bool,
}

/// A table of one task.
#[derive(Serialize)]
struct Titled<'a> {
    task: &'a str,
    title: &'a str,
    blocks: Vec<Block>,
    matrix: bool,
    /// Whether two of it stand side by side on a desktop.
    small: bool,
}

/// The sections of a report, one a measure: those about losses, then the others. `places` says where
/// the rows behind a number are.
pub(crate) fn sections<'a>(
    measures: &'a [MeasureResult],
    places: &Places<'_>,
) -> Result<(Vec<Section<'a>>, Vec<Section<'a>>), ReportError> {
    let (mut of_losses, mut others) = (Vec::new(), Vec::new());
    for measure in measures {
        let place = if OF_LOSSES.contains(&measure.name.as_str()) { &mut of_losses } else { &mut others };
        place.push(section(measure, places)?);
    }
    let rank = |section: &Section<'_>| OF_LOSSES.iter().position(|name| *name == section.name);
    of_losses.sort_by_key(rank);
    Ok((of_losses, others))
}

fn section<'a>(measure: &'a MeasureResult, places: &Places<'_>) -> Result<Section<'a>, ReportError> {
    let mut drawn = Vec::new();
    for task in &measure.tasks {
        for data in &task.charts {
            let Some(chart) = charts::draw(data)? else { continue };
            let (title, how) = (data.title.as_str(), how_to_read(&data.drawing));
            let charts::Chart { wide, narrow, half } = chart;
            drawn.push(Drawn { task: task.subject(), title, how, wide, narrow, half });
        }
    }
    let tables = measure.tasks.iter().flat_map(|task| {
        task.tables.iter().map(|table| {
            let matrix = table.title == FLIP_MATRIX;
            let leads = |row: &str, column: &str| leads_to(&measure.name, task, &[row, column], places);
            let blocks = if matrix { vec![flip_matrix(table, &leads)] } else { block(table, &leads).fitted() };
            let small = matrix || blocks.iter().all(|block| block.width() <= SMALL);
            Titled { task: task.subject(), title: &table.title, blocks, matrix, small }
        })
    });
    let notes =
        measure.tasks.iter().flat_map(|task| task.notes.iter().map(move |note| format!("{}: {note}", task.subject())));
    let leads = |task: &TaskMeasure, label: &str| leads_to(&measure.name, task, &[label], places);
    Ok(Section {
        name: &measure.name,
        question: &measure.question,
        legend: &measure.legend,
        source: &measure.source,
        overview: overview(measure, &leads).fitted(),
        folded: REPEATS.contains(&measure.name.as_str()),
        charts: drawn,
        tables: tables.collect(),
        notes: notes.collect(),
    })
}

/// Where a number of a measure leads: to what the measure says of every example, else to the answers of the tasks that the number
/// is over, which its labels tell: its own, or those of its row and its column.
fn leads_to(measure: &str, task: &TaskMeasure, labels: &[&str], places: &Places<'_>) -> Option<Link> {
    if !task.rows.is_empty() {
        return Some(Link { href: href(&format!("{measure}/{}.jsonl", task.name)), title: None });
    }
    let of: Vec<&str> = match task.over(labels) {
        [] => places.named(&task.name),
        named => named.iter().map(String::as_str).collect(),
    };
    let sides: Vec<Option<Side>> = labels.iter().map(|label| side(label)).filter(Option::is_some).collect();
    // "right before, wrong after" is of both.
    let side = sides.first().copied().flatten().filter(|first| sides.iter().all(|other| *other == Some(*first)));
    places.rows(&of, side)
}

/// Which model a number is of, as its label says: `recall, before`, `mean after`, `second, without`.
fn side(label: &str) -> Option<Side> {
    match (label.split_once(", "), label.rsplit(' ').next()) {
        (Some(("first", _)), _) | (_, Some("before")) => Some(Side::Base),
        (Some(("second", _)), _) | (_, Some("after")) => Some(Side::Tuned),
        _ => None,
    }
}

/// All numbers of all tasks, a row a task.
fn overview(measure: &MeasureResult, leads: &dyn Fn(&TaskMeasure, &str) -> Option<Link>) -> Block {
    let mut labels: Vec<&str> = Vec::new();
    for number in measure.tasks.iter().flat_map(|task| &task.numbers) {
        if !labels.contains(&number.label.as_str()) {
            labels.push(&number.label);
        }
    }
    let heads = [Cell::word("task"), Cell::word("metric"), Cell::number("questions")];
    let header = heads.into_iter().chain(labels.iter().map(|label| Cell::number(*label))).collect();
    let row = |task: &TaskMeasure| {
        let names = [
            Cell::word(&task.name),
            Cell::word(tasks::metric(&task.metric)),
            Cell::number(task.n.to_string()).with_rows(leads(task, "")),
        ];
        let cell = |label: &&str| match task.numbers.iter().find(|number| number.label == **label) {
            Some(number) => with_interval(number).with_rows(leads(task, label)),
            None => Cell::number(NOTHING),
        };
        names.into_iter().chain(labels.iter().map(cell)).collect()
    };
    Block { header, rows: measure.tasks.iter().map(row).collect() }
}

/// A number over its interval.
fn with_interval(number: &Number) -> Cell {
    let shown = number.shown();
    match shown.strip_suffix(')').and_then(|rest| rest.split_once(" (")) {
        Some((value, interval)) => Cell { under: Some(interval.replace('-', "−")), ..Cell::number(tidy(value)) },
        None => Cell::number(tidy(&shown)),
    }
}

fn tidy(number: &str) -> String {
    number.replace('-', "−")
}

/// Where a cell leads, by its row and its column.
type Leads<'l> = &'l dyn Fn(&str, &str) -> Option<Link>;

fn block(table: &Table, leads: Leads<'_>) -> Block {
    let Grid { header, rows } = table.grid();
    let cells = |cells: &[String]| -> Vec<Cell> {
        let cell = |(i, text): (usize, &String)| if i == 0 { Cell::word(text) } else { Cell::number(tidy(text)) };
        cells.iter().enumerate().map(cell).collect()
    };
    let row = |texts: &Vec<String>| -> Vec<Cell> {
        let link = |i: usize, text: &str| {
            let is_number = i > 0 && text != NOTHING;
            is_number.then(|| leads(&texts[0], header.get(i).map_or("", String::as_str))).flatten()
        };
        let linked = |(i, cell): (usize, Cell)| cell.with_rows(link(i, &texts[i]));
        cells(texts).into_iter().enumerate().map(linked).collect()
    };
    Block { header: cells(&header), rows: rows.iter().map(row).collect() }
}

/// Right or wrong before in the rows, what came of it in the columns: each cell with its share of all questions, in the colour of
/// what happened.
fn flip_matrix(table: &Table, leads: Leads<'_>) -> Block {
    let all: f64 = table.cells.iter().flatten().flatten().sum();
    let mut block = block(table, leads);
    for (i, (row, counts)) in block.rows.iter_mut().zip(&table.cells).enumerate() {
        for (j, (cell, count)) in row.iter_mut().skip(1).zip(counts).enumerate() {
            cell.class = Some(match (i, j, count) {
                (_, _, None) => "none",
                (_, _, Some(count)) if *count == 0.0 => "same",
                (0, 0, _) => "same",
                (0, ..) => "lost",
                (_, 0, _) => "gained",
                _ => "wrong",
            });
            cell.under = count.filter(|_| all > 0.0).map(|count| format!("{:.1} %", 100.0 * count / all));
        }
    }
    block
}

/// A measure in Markdown, under a heading of this level.
pub(crate) fn write_measure(page: &mut String, measure: &MeasureResult, level: &str) -> std::fmt::Result {
    writeln!(page, "\n{level} {}\n", measure.question)?;
    write_grid(page, &measure.overview())?;
    writeln!(page, "\n{} Source: {}.", measure.legend, measure.source)?;
    for task in &measure.tasks {
        for table in &task.tables {
            let name = in_one_line(task.subject());
            writeln!(page, "\n{level}# {name}: {}\n", table.title.to_lowercase())?;
            write_grid(page, &table.grid())?;
        }
    }
    let mut notes = measure.tasks.iter().flat_map(|task| task.notes.iter().map(move |note| (task, note))).peekable();
    if notes.peek().is_some() {
        writeln!(page)?;
    }
    notes.try_for_each(|(task, note)| writeln!(page, "- {}", in_one_line(&format!("{}: {note}", task.subject()))))
}

/// Whether a measure is about what was lost.
pub(crate) fn is_of_losses(measure: &MeasureResult) -> bool {
    OF_LOSSES.contains(&measure.name.as_str())
}

/// A table for a terminal: as it is, or, where that is wider than `width` letters and the other way is narrower, on its side.
pub fn narrowest(grid: Grid, width: usize) -> Grid {
    let turned = turned(&grid);
    if letters(&grid) <= width || letters(&turned) >= letters(&grid) { grid } else { turned }
}

fn letters(grid: &Grid) -> usize {
    let lines = || std::iter::once(&grid.header).chain(&grid.rows);
    let widest = |i: usize| lines().filter_map(|line| line.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    (0..grid.header.len()).map(|i| widest(i) + 2).sum()
}

fn turned(grid: &Grid) -> Grid {
    let column = |i: usize| -> Vec<String> {
        let lines = std::iter::once(&grid.header).chain(&grid.rows);
        lines.map(|line| line.get(i).cloned().unwrap_or_default()).collect()
    };
    Grid { header: column(0), rows: (1..grid.header.len()).map(column).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_tables_stand_on_their_side_on_a_terminal() {
        let cells = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let grid =
            Grid { header: cells(&["task", "a long heading", "another one"]), rows: vec![cells(&["x", "1", "2"])] };
        let side = Grid {
            header: cells(&["task", "x"]),
            rows: vec![cells(&["a long heading", "1"]), cells(&["another one", "2"])],
        };
        assert_eq!(narrowest(grid.clone(), 80), grid);
        assert_eq!(narrowest(grid, 20), side);
    }
}
