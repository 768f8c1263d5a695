//! How a comparison is shown on a terminal.

use hone_eval::ledger::{Ledger, TaskComparison};

/// The ledger as a table with the verdict under it.
pub fn table(ledger: &Ledger) -> String {
    let header = ["task", "metric", "n", "base", "tuned", "difference", "95 % interval", "p", "gained", "lost"];
    let rows: Vec<[String; 10]> = ledger.tasks.iter().map(row).collect();
    let mut widths = header.map(|h| h.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = line(&header.map(str::to_owned), &widths);
    for row in &rows {
        out.push_str(&line(row, &widths));
    }
    out.push('\n');
    out.push_str(&ledger.verdict);
    out.push('\n');
    for note in &ledger.notes {
        out.push_str(&format!("note: {note}\n"));
    }
    for rule in &ledger.broken_rules {
        out.push_str(&format!("rule broken: {rule}\n"));
    }
    out
}

fn line(cells: &[String; 10], widths: &[usize; 10]) -> String {
    let cell = |(i, (text, width)): (usize, (&String, &usize))| {
        // Names to the left, numbers to the right.
        if i < 2 { format!("{text:<width$}") } else { format!("{text:>width$}") }
    };
    let mut line = cells.iter().zip(widths).enumerate().map(cell).collect::<Vec<_>>().join("  ");
    line.push('\n');
    line
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
        format!("{} to {}", signed(task.ci_low), signed(task.ci_high)),
        p.map_or_else(|| "–".into(), |p| if p < 0.001 { "<0.001".into() } else { format!("{p:.3}") }),
        task.mcnemar_p.map_or_else(|| "–".into(), |_| task.gained.to_string()),
        task.mcnemar_p.map_or_else(|| "–".into(), |_| task.lost.to_string()),
    ]
}
