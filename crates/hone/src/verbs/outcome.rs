//! How a comparison is shown on a terminal.

use hone_eval::ledger::{Ledger, TaskComparison};
use hone_eval::measures::{Grid, MeasureResult};
use hone_eval::verdict;

/// How much is shown of what was measured besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// What was asked for by name: all of it.
    Whole,
    /// What nobody asked for: the numbers of each measure; its tables stand in the report.
    Numbers,
}

/// The ledger as a table with the verdict under it, then what was measured besides.
pub fn table(ledger: &Ledger, measured: Measured) -> String {
    let header = ["task", "metric", "n", "base", "tuned", "difference", "95 % interval", "p", "gained", "lost"];
    let rows = ledger.asked().map(|task| row(task).into()).collect();
    let mut out = aligned(&Grid { header: header.map(str::to_owned).into(), rows }, 2);
    out.push('\n');
    out.push_str(&ledger.verdict);
    out.push('\n');
    if let Some(unseen) = verdict::unseen(ledger) {
        out.push_str(&format!("{unseen}\n"));
    }
    for note in &ledger.notes {
        out.push_str(&format!("note: {note}\n"));
    }
    for rule in &ledger.broken_rules {
        out.push_str(&format!("rule broken: {rule}\n"));
    }
    ledger.measures.iter().for_each(|result| out.push_str(&measure(result, measured)));
    out
}

/// Letters in a line of a terminal that is not small.
const LINE: usize = 120;

/// A measure: its question, all tasks in one table, then the tables of each.
fn measure(result: &MeasureResult, measured: Measured) -> String {
    let mut out = format!("\n{} ({}; {})\n", result.question, result.name, result.source);
    let overview = hone_report::measures::narrowest(result.overview(), LINE);
    let words = if overview.header.get(1).is_some_and(|name| name == "metric") { 2 } else { 1 };
    out.push_str(&aligned(&overview, words));
    if measured == Measured::Numbers {
        return out;
    }
    for task in &result.tasks {
        for table in &task.tables {
            let heading = format!("{}: {}", task.subject(), table.title.to_lowercase());
            let mut grid = table.grid();
            if let Some(corner) = grid.header.first_mut() {
                *corner = heading;
            }
            out.push('\n');
            out.push_str(&aligned(&grid, 1));
        }
    }
    for task in &result.tasks {
        task.notes.iter().for_each(|note| out.push_str(&format!("note: {}: {note}\n", task.subject())));
    }
    out.push_str(&format!("\n{}\n", result.legend));
    out
}

/// Columns as wide as their widest cell; names, the first `left`, to the left, numbers to the right.
fn aligned(grid: &Grid, left: usize) -> String {
    let lines = || std::iter::once(&grid.header).chain(&grid.rows);
    let width = |i: usize| lines().filter_map(|line| line.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..grid.header.len()).map(width).collect();
    let cell = |(i, (text, width)): (usize, (&String, &usize))| {
        if i < left { format!("{text:<width$}") } else { format!("{text:>width$}") }
    };
    let line =
        |cells: &Vec<String>| cells.iter().zip(&widths).enumerate().map(cell).collect::<Vec<_>>().join("  ") + "\n";
    lines().map(line).collect()
}

fn row(task: &TaskComparison) -> [String; 10] {
    let value = |v: f64| if task.is_share { format!("{:.1} %", v * 100.0) } else { format!("{v:.3}") };
    let signed = |v: f64| if task.is_share { format!("{:+.1}", v * 100.0) } else { format!("{v:+.3}") };
    let p = task.p_holm.or(task.mcnemar_p);
    [
        if task.is_target { format!("{} (target)", task.name) } else { task.name.clone() },
        task.metric.clone(),
        task.n.to_string(),
        value(task.base),
        value(task.tuned),
        signed(task.difference),
        match task.ci_low.is_finite() && task.ci_high.is_finite() {
            true => format!("{} to {}", signed(task.ci_low), signed(task.ci_high)),
            false => "–".into(),
        },
        p.map_or_else(|| "–".into(), |p| if p < 0.001 { "<0.001".into() } else { format!("{p:.3}") }),
        task.mcnemar_p.map_or_else(|| "–".into(), |_| task.gained.to_string()),
        task.mcnemar_p.map_or_else(|| "–".into(), |_| task.lost.to_string()),
    ]
}
