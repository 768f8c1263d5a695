//! What was measured besides the metrics ([`hone_eval::measures`]), for the page's template and as Markdown. Neither knows a
//! measure by name: both show the numbers and tables that are there.

use std::fmt::Write;

use hone_eval::ledger::Ledger;
use hone_eval::measures::{Grid, MeasureResult};
use serde::Serialize;

/// A measure as the template reads it.
#[derive(Serialize)]
pub(crate) struct Section<'a> {
    name: &'a str,
    question: &'a str,
    legend: &'a str,
    source: &'a str,
    overview: Grid,
    tables: Vec<Titled<'a>>,
    notes: Vec<String>,
}

/// A table of one task.
#[derive(Serialize)]
struct Titled<'a> {
    task: &'a str,
    title: &'a str,
    grid: Grid,
}

/// The sections of a report, one a measure.
pub(crate) fn sections(measures: &[MeasureResult]) -> Vec<Section<'_>> {
    measures.iter().map(section).collect()
}

fn section(measure: &MeasureResult) -> Section<'_> {
    let tables = measure.tasks.iter().flat_map(|task| {
        task.tables.iter().map(|table| Titled { task: &task.name, title: &table.title, grid: table.grid() })
    });
    let notes =
        measure.tasks.iter().flat_map(|task| task.notes.iter().map(move |note| format!("{}: {note}", task.name)));
    Section {
        name: &measure.name,
        question: &measure.question,
        legend: &measure.legend,
        source: &measure.source,
        overview: measure.overview(),
        tables: tables.collect(),
        notes: notes.collect(),
    }
}

/// The measures as a page in Markdown.
pub fn markdown(ledger: &Ledger) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = write_page(&mut page, ledger);
    page
}

fn write_page(page: &mut String, ledger: &Ledger) -> std::fmt::Result {
    writeln!(page, "# {} → {}", in_one_line(&ledger.base), in_one_line(&ledger.tuned))?;
    for section in sections(&ledger.measures) {
        writeln!(page, "\n## {}\n", section.question)?;
        write_grid(page, &section.overview)?;
        writeln!(page, "\n{} Source: {}.", section.legend, section.source)?;
        for table in &section.tables {
            writeln!(page, "\n### {}: {}\n", in_one_line(table.task), table.title.to_lowercase())?;
            write_grid(page, &table.grid)?;
        }
        if !section.notes.is_empty() {
            writeln!(page)?;
        }
        section.notes.iter().try_for_each(|note| writeln!(page, "- {}", in_one_line(note)))?;
    }
    Ok(())
}

fn write_grid(page: &mut String, grid: &Grid) -> std::fmt::Result {
    let cells = |cells: &[String]| cells.iter().map(|cell| escaped(cell)).collect::<Vec<_>>().join(" | ");
    writeln!(page, "| {} |\n|{}", cells(&grid.header), "---|".repeat(grid.header.len()))?;
    grid.rows.iter().try_for_each(|row| writeln!(page, "| {} |", cells(row)))
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A bar would end a table's cell.
fn escaped(text: &str) -> String {
    in_one_line(text).replace('|', "\\|")
}
