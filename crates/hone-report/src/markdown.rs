//! The report as Markdown, for a pull request or a summary of a CI run: the page's four questions in the page's order, without
//! its charts.

use std::fmt::Write;

use hone_eval::ledger::TaskComparison;
use hone_eval::measures::Grid;

use crate::links::{Side, href};
use crate::page::tasks::{self, TableRow};
use crate::page::{metrics, trust, verdict};
use crate::{Report, measures};

/// The whole report.
pub fn markdown(report: &Report) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut page, report);
    page
}

fn write(page: &mut String, report: &Report) -> std::fmt::Result {
    let ledger = &report.ledger;
    writeln!(page, "# {}\n", in_one_line(&report.title))?;
    writeln!(page, "{} → {}\n", code(&ledger.base), code(&ledger.tuned))?;
    let unseen =
        hone_eval::verdict::unseen(ledger).map(|unseen| format!("; {}", in_one_line(&unseen))).unwrap_or_default();
    let words = verdict::words(ledger);
    writeln!(page, "**{words}{unseen}.** {}.", tasks::capital(&in_one_line(&ledger.verdict)))?;
    for rule in &ledger.broken_rules {
        writeln!(page, "\n> **Rule broken:** {}", in_one_line(rule))?;
    }
    let (targets, others) = tasks::parts(ledger);
    writeln!(page, "\n## Is it better?\n")?;
    write_tasks(page, &targets)?;
    writeln!(page, "\n{}", tasks::MARKS)?;
    if let Some(others) = metrics::grid(report) {
        writeln!(page)?;
        write_grid(page, &others)?;
        writeln!(page, "\n{}", metrics::EXPLAINED)?;
    }
    writeln!(page, "\n## What did it lose?\n")?;
    match others.is_empty() {
        true => writeln!(page, "{}", tasks::nothing_else(ledger))?,
        false => write_tasks(page, &others)?,
    }
    let flips = tasks::flipped(ledger);
    if !flips.is_empty() {
        let header = ["task", "gained", "lost", "right twice", "wrong twice"];
        let row = |task: &&TaskComparison| {
            let counts = [task.gained, task.lost, task.both_right, task.both_wrong];
            std::iter::once(task.name.clone()).chain(counts.iter().map(usize::to_string)).collect()
        };
        writeln!(page)?;
        write_grid(page, &Grid { header: header.map(str::to_owned).into(), rows: flips.iter().map(row).collect() })?;
    }
    let of_losses = |wanted: bool| ledger.measures.iter().filter(move |m| measures::is_of_losses(m) == wanted);
    of_losses(true).try_for_each(|measure| measures::write_measure(page, measure, "###"))?;
    writeln!(page, "\n## Can I trust it?\n")?;
    write_power(page, report)?;
    of_losses(false).try_for_each(|measure| measures::write_measure(page, measure, "###"))?;
    if !report.invariants.is_empty() {
        writeln!(page)?;
    }
    for invariant in &report.invariants {
        let [name, status, detail] = [&invariant.name, &invariant.status, &invariant.detail].map(|t| in_one_line(t));
        writeln!(page, "- {name}: **{status}** ({detail})")?;
    }
    for note in &ledger.notes {
        writeln!(page, "- {}", in_one_line(note))?;
    }
    writeln!(page, "\n## Where are the examples?\n")?;
    write_sources(page, report)?;
    writeln!(page, "\nReproduce: {}", code(&report.command))
}

fn write_tasks(page: &mut String, rows: &[&TaskComparison]) -> std::fmt::Result {
    let header = ["task", "metric", "questions", "base", "tuned", "difference", "95 % interval", "p"];
    let cells = |task: &&TaskComparison| {
        let TableRow { base, tuned, difference, interval, p, arrow, .. } = tasks::row(task);
        let less = if task.higher_is_better { "" } else { " ↓" };
        vec![
            task.name.clone(),
            format!("{}{less}", task.metric),
            task.n.to_string(),
            base,
            tuned,
            format!("{arrow} {difference}"),
            interval,
            p,
        ]
    };
    write_grid(page, &Grid { header: header.map(str::to_owned).into(), rows: rows.iter().map(cells).collect() })
}

fn write_power(page: &mut String, report: &Report) -> std::fmt::Result {
    let header = [
        "task",
        "questions",
        "answers changed",
        "smallest change it would see",
        "change found",
        "effect",
        "questions needed to see it",
    ];
    let row = |power: trust::Power| {
        let trust::Power { task, n, changed, smallest, found, effect, needed, .. } = power;
        vec![task, n.to_string(), changed, smallest, found, effect, needed]
    };
    let rows = trust::power(&report.ledger, &|_| false).into_iter().map(row).collect();
    write_grid(page, &Grid { header: header.map(str::to_owned).into(), rows })?;
    writeln!(page, "\n{}\n\n{}", trust::EXPLAINED, trust::EFFECT)
}

/// The files that hold every row.
fn write_sources(page: &mut String, report: &Report) -> std::fmt::Result {
    if report.sources.is_empty() {
        return writeln!(page, "In the scorecards of both models, and on `report.html`.");
    }
    for task in report.ledger.asked() {
        let of = |side: Side| report.sources.iter().find(|source| source.task == task.name && source.side == side);
        let links = [(Side::Base, "base"), (Side::Tuned, "tuned")]
            .into_iter()
            .filter_map(|(side, word)| Some(format!("[{word}]({})", href(&of(side)?.path))));
        let links: Vec<String> = links.collect();
        if !links.is_empty() {
            writeln!(page, "- {}: {}", escaped(&task.name), links.join(", "))?;
        }
    }
    Ok(())
}

/// A table.
pub(crate) fn write_grid(page: &mut String, grid: &Grid) -> std::fmt::Result {
    let cells = |cells: &[String]| cells.iter().map(|cell| escaped(cell)).collect::<Vec<_>>().join(" | ");
    writeln!(page, "| {} |\n|{}", cells(&grid.header), "---|".repeat(grid.header.len()))?;
    grid.rows.iter().try_for_each(|row| writeln!(page, "| {} |", cells(row)))
}

/// Without line breaks, which would end a heading or an item.
pub(crate) fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A bar would end a table's cell.
fn escaped(text: &str) -> String {
    in_one_line(text).replace('|', "\\|")
}

/// Text as it is, whatever stands in it.
fn code(text: &str) -> String {
    let text = in_one_line(text);
    if text.contains('`') { format!("`` {text} ``") } else { format!("`{text}`") }
}
