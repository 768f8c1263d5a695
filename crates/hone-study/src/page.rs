//! A study's page, in Markdown: the claims first, then plots and tables, then what was run and how to run it again. It holds
//! no place of the machine it was made on.

use std::fmt::Write;

use crate::claims::Holds;
use crate::plan::Plan;
use crate::results::{Cell, Results, TableResult};

/// Writes the page. Its plots are looked for beside it, under `STUDY-PLOT.svg`.
pub fn write(plan: &Plan, results: &Results) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = sections(&mut page, plan, results);
    page
}

fn sections(page: &mut String, plan: &Plan, results: &Results) -> std::fmt::Result {
    writeln!(page, "# {}\n", results.title)?;
    writeln!(page, "{}\n", in_one_line(&results.about))?;
    writeln!(page, "Source of the claims: {}\n", results.paper)?;
    let held = results.claims.iter().filter(|claim| claim.holds == Holds::Yes).count();
    writeln!(page, "**{held} of {} claims hold.**\n", results.claims.len())?;
    writeln!(page, "| claim | expected | measured | 95 % interval | holds? |\n|---|---|---|---|---|")?;
    for claim in &results.claims {
        let measured = &claim.measured;
        let cells = [claim.claim.clone(), claim.expected.clone(), value(measured), interval(measured)];
        let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
        writeln!(page, "| {} | **{}** |", cells.join(" | "), claim.holds.in_words())?;
    }
    writeln!(
        page,
        "\nA claim holds if the whole interval satisfies it, and is not decided if only a part of the interval does."
    )?;
    writeln!(
        page,
        "Each interval covers its own claim in 95 of 100 repetitions; they are not corrected for their number.\n"
    )?;
    for plot in &results.plots {
        writeln!(page, "## {}\n\n![{}]({}-{}.svg)\n", plot.title, plot.title, results.study, plot.name)?;
    }
    for table in &results.tables {
        write_table(page, table)?;
    }
    writeln!(page, "## How each claim was measured\n")?;
    for claim in &results.claims {
        writeln!(
            page,
            "- {}: `{}`, to be `{}`; {}",
            claim.claim, claim.formula, claim.condition, claim.measured.basis
        )?;
    }
    if !results.caveats.is_empty() {
        writeln!(page, "\n## What it does not show\n")?;
        results.caveats.iter().try_for_each(|caveat| writeln!(page, "- {}", in_one_line(caveat)))?;
    }
    what_was_run(page, plan, results)
}

fn write_table(page: &mut String, table: &TableResult) -> std::fmt::Result {
    writeln!(page, "## {}\n", table.title)?;
    writeln!(page, "| {} |", table.header.iter().map(|cell| escaped(cell)).collect::<Vec<_>>().join(" | "))?;
    writeln!(page, "|{}", "---|".repeat(table.header.len()))?;
    for (names, cells) in &table.rows {
        let shown = |(cell, with): (&Cell, &bool)| {
            let value = number_or_dash(cell);
            if *with && cell.low.is_some() { format!("{value} ({})", interval(cell)) } else { value }
        };
        let cells: Vec<String> = names.iter().cloned().chain(cells.iter().zip(&table.intervals).map(shown)).collect();
        writeln!(page, "| {} |", cells.iter().map(|cell| escaped(cell)).collect::<Vec<_>>().join(" | "))?;
    }
    writeln!(page)
}

fn what_was_run(page: &mut String, plan: &Plan, results: &Results) -> std::fmt::Result {
    let ran = &results.ran;
    writeln!(page, "\n## What was run\n\n| | |\n|---|---|")?;
    let list = |items: &[String]| if items.is_empty() { "none".to_owned() } else { items.join("<br>") };
    writeln!(page, "| models | {} |", list(&ran.models))?;
    let data: Vec<String> = ran.data.iter().map(|(file, hash)| format!("`{file}` (sha256 {}…)", start(hash))).collect();
    writeln!(page, "| data | {} |", list(&data))?;
    for (name, values) in &plan.study.variables {
        let labels: Vec<String> = values.iter().filter_map(|value| crate::plan::label(value).ok()).collect();
        writeln!(page, "| {name} | {} |", escaped(&labels.join(", ")))?;
    }
    let programs: Vec<String> = ran.programs.iter().map(|hash| format!("sha256 {}…", start(hash))).collect();
    writeln!(page, "| hone | {} ({}) |", ran.version, programs.join(", "))?;
    writeln!(page, "| machine | {} |", escaped(&ran.machine))?;
    writeln!(page, "| time | {:.1} minutes, {} steps |", ran.minutes, ran.steps.len())?;
    writeln!(page, "\n## Run it again\n")?;
    let data_root = if plan.study.needs.data.is_empty() { "" } else { " --data-root DIR" };
    writeln!(page, "```sh\nhone study run {}{data_root}\n```\n", results.study)?;
    writeln!(page, "It runs these commands, of which the run's `commands.sh` holds every repetition:\n\n```sh")?;
    for template in &plan.study.steps {
        let times = plan.steps.iter().filter(|step| step.template == template.name).count();
        let repeated = if times > 1 { format!("   # {times} times: {}", template.name) } else { String::new() };
        writeln!(page, "hone {} --json{repeated}", in_one_line(&template.hone))?;
    }
    writeln!(page, "```")
}

fn start(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A bar would end a table's cell.
fn escaped(text: &str) -> String {
    in_one_line(text).replace('|', "\\|")
}

/// A number in as many digits as say something.
pub fn number(value: f64) -> String {
    // A whole number that a sum of shares missed by its rounding is one.
    let value = if (value - value.round()).abs() <= 1e-9 * value.abs() { value.round() } else { value };
    let text = match value.abs() {
        // What is left of a sum that is 0.
        zero if zero < 1e-12 => "0".into(),
        whole if whole.fract() == 0.0 && whole < 1e6 => format!("{value}"),
        large if large >= 1e6 => format!("{value:.2e}"),
        large if large >= 100.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        middle if middle >= 1.0 => format!("{value:.2}"),
        small if small >= 1e-3 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    };
    text.replace('-', "−")
}

fn number_or_dash(cell: &Cell) -> String {
    cell.value.map_or_else(|| "–".into(), number)
}

/// A value with its unit.
pub fn value(cell: &Cell) -> String {
    let number = number_or_dash(cell);
    if cell.unit.is_empty() || cell.value.is_none() { number } else { format!("{number} {}", cell.unit) }
}

/// An interval, or a dash.
pub fn interval(cell: &Cell) -> String {
    match (cell.low, cell.high) {
        (Some(low), Some(high)) => format!("{} to {}", number(low), number(high)),
        _ => "–".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_say_something() {
        let shown = [
            0.0,
            -1.4e-15,
            3.0,
            -0.1 * 10.0 - 2e-11,
            9.999_999_999_9,
            -12.345,
            0.034_56,
            1.234,
            123.456,
            0.000_012,
            134_515_008.0,
        ];
        let shown = shown.map(number);
        assert_eq!(shown, ["0", "0", "3", "−1", "10", "−12.3", "0.035", "1.23", "123", "1.2e−5", "1.35e8"]);
    }
}
