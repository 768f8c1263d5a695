//! The page: the template with its values. Verdict first, then four questions in order: is it better, what did it lose, can I
//! trust it, where are the examples; then the run and how to repeat it.

pub(crate) mod examples;
pub(crate) mod metrics;
pub(crate) mod tasks;
pub(crate) mod trust;
pub(crate) mod verdict;

use hone_eval::ledger::{Ledger, TaskComparison};
use hone_eval::scorecard::ScorecardHeader;
use minijinja::Environment;
use serde::Serialize;

use crate::charts::{self, Chart};
use crate::grid::Block;
use crate::links::{Places, anchor};
use crate::measures::{self, Section};
use crate::{InvariantResult, Report, ReportError, RunSummary, theme};
use tasks::TableRow;

/// What the template reads.
#[derive(Serialize)]
struct Page<'a> {
    css: &'static str,
    plot_css: String,
    title: &'a str,
    ledger: &'a Ledger,
    verdict: String,
    outcome: &'static str,
    /// Losses that could go unseen, where none was found.
    unseen: Option<String>,
    outcome_class: &'static str,
    /// What the tuning was for, where it did not gain.
    deciders: Vec<verdict::Decider<'a>>,
    /// Under "Is it better?".
    better: Part<'a>,
    other_metrics: Vec<Block>,
    other_metrics_explained: &'static str,
    /// Under "What did it lose?".
    lost: Part<'a>,
    nothing_else: &'static str,
    has_targets: bool,
    flips: Vec<Flips<'a>>,
    of_losses: Vec<Section<'a>>,
    of_trust: Vec<Section<'a>>,
    power: Vec<trust::Power>,
    power_explained: &'static str,
    effect_explained: &'static str,
    examples: Vec<examples::OfTask<'a>>,
    run: Option<&'a RunSummary>,
    loss: Option<Svg>,
    scorecards: &'a [ScorecardHeader],
    invariants: &'a [InvariantResult],
    held: usize,
    provenance: &'a [(String, String)],
    command: &'a str,
    version: &'static str,
}

/// Tasks with their charts.
#[derive(Serialize)]
struct Part<'a> {
    rows: Vec<TableRow<'a>>,
    forest: Option<Svg>,
    /// Of metrics that are no shares.
    forest_other: Option<Svg>,
    less_is_better: bool,
}

#[derive(Serialize)]
struct Svg {
    wide: String,
    narrow: String,
}

impl From<Chart> for Svg {
    fn from(chart: Chart) -> Self {
        Svg { wide: chart.wide, narrow: chart.narrow }
    }
}

/// What became of a task's answers.
#[derive(Serialize)]
struct Flips<'a> {
    task: &'a TaskComparison,
    /// Places on the page, where there are examples of that kind.
    gained: Option<String>,
    lost: Option<String>,
    both_right: Option<String>,
    both_wrong: Option<String>,
}

/// Renders the page as one self-contained HTML file.
pub fn render(report: &Report) -> Result<String, ReportError> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::Html);
    environment.add_filter("code_spans", code_spans);
    environment.add_filter("breakable", breakable);
    environment.add_template("report", include_str!("../templates/report.html.j2"))?;
    let ledger = &report.ledger;
    let (better, lost) = tasks::parts(ledger);
    let on_page = |name: &str| {
        let asked = ledger.asked().any(|task| task.name == name);
        asked && (ledger.examples.iter().any(|e| e.task == name) || report.sources.iter().any(|s| s.task == name))
    };
    let (of_losses, of_trust) = measures::sections(&ledger.measures, &Places::new(report, &on_page))?;
    let page = Page {
        css: include_str!("../templates/style.css"),
        plot_css: theme::css(),
        title: &report.title,
        ledger,
        verdict: tasks::capital(ledger.verdict.trim_end_matches('.')),
        outcome: verdict::words(ledger),
        unseen: hone_eval::verdict::unseen(ledger),
        outcome_class: verdict::class(ledger),
        deciders: verdict::deciders(ledger, &report.sources, &on_page),
        better: part(report, &better, &on_page)?,
        other_metrics: metrics::block(report, &on_page).map(Block::fitted).unwrap_or_default(),
        other_metrics_explained: metrics::EXPLAINED,
        lost: part(report, &lost, &on_page)?,
        nothing_else: tasks::nothing_else(ledger),
        has_targets: ledger.asked().any(|task| task.is_target),
        flips: tasks::flipped(ledger).into_iter().map(|task| flips(ledger, task)).collect(),
        of_losses,
        of_trust,
        power: trust::power(ledger, &on_page),
        power_explained: trust::EXPLAINED,
        effect_explained: trust::EFFECT,
        examples: examples::of_report(report),
        run: report.run.as_ref(),
        loss: report.run.as_ref().map(charts::loss::draw).transpose()?.flatten().map(Svg::from),
        scorecards: &report.scorecards,
        invariants: &report.invariants,
        held: report.invariants.iter().filter(|i| i.status == "held").count(),
        provenance: &report.provenance,
        command: &report.command,
        version: env!("CARGO_PKG_VERSION"),
    };
    Ok(environment.get_template("report")?.render(minijinja::value::Serde(page))?)
}

fn part<'a>(
    report: &Report,
    asked: &[&'a TaskComparison],
    on_page: &dyn Fn(&str) -> bool,
) -> Result<Part<'a>, ReportError> {
    Ok(Part {
        rows: asked.iter().map(|task| tasks::linked(task, &report.sources, on_page)).collect(),
        forest: charts::forest::of_tasks(asked, true)?.map(Svg::from),
        forest_other: charts::forest::of_tasks(asked, false)?.map(Svg::from),
        less_is_better: asked.iter().any(|task| !task.higher_is_better),
    })
}

fn flips<'a>(ledger: &Ledger, task: &'a TaskComparison) -> Flips<'a> {
    let place = |change: &str| {
        let there = ledger.examples.iter().any(|example| example.task == task.name && example.change == change);
        there.then(|| format!("#{}", anchor(&["examples", &task.name, change])))
    };
    Flips {
        task,
        gained: place("gained"),
        lost: place("lost"),
        both_right: place("both_right"),
        both_wrong: place("both_wrong"),
    }
}

/// Text with what stands between two backticks set as code.
fn code_spans(text: &str) -> minijinja::Value {
    let escaped = minijinja::HtmlEscape(text).to_string();
    let parts: Vec<&str> = escaped.split('`').collect();
    // An odd number of backticks pairs with nothing.
    let html = match parts.len() % 2 {
        0 => escaped,
        _ => parts
            .iter()
            .enumerate()
            .map(|(i, part)| if i % 2 == 1 { format!("<code>{part}</code>") } else { (*part).into() })
            .collect(),
    };
    minijinja::Value::from_safe_string(html)
}

/// A name that may be broken after its underscores, and need not be within a word.
fn breakable(name: &str) -> minijinja::Value {
    minijinja::Value::from_safe_string(minijinja::HtmlEscape(name).to_string().replace('_', "_<wbr>"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_in_a_legend_is_set_as_code_and_nothing_is_read_as_html() {
        assert_eq!(code_spans("`a<b` counts, `c` not").to_string(), "<code>a&lt;b</code> counts, <code>c</code> not");
        assert_eq!(code_spans("one ` alone").to_string(), "one ` alone");
        assert_eq!(breakable("a_<b>_c").to_string(), "a_<wbr>&lt;b&gt;_<wbr>c");
    }
}
