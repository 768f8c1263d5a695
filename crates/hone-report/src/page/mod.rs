//! The page: the template with its values. Verdict first, then gains and losses, examples, run, provenance.

use hone_eval::ledger::{Ledger, Outcome, PairedExample, TaskComparison};
use hone_eval::scorecard::ScorecardHeader;
use minijinja::Environment;
use serde::Serialize;

use crate::charts::{self, Chart};
use crate::measures::{self, Section};
use crate::{InvariantResult, Report, ReportError, RunSummary, theme};

/// Examples shown for each task and kind of change; the ledger holds the rest.
const EXAMPLES_SHOWN: usize = 8;
/// Longest text shown of a prompt or answer, in characters.
const TEXT_SHOWN: usize = 1_600;

/// What the template reads.
#[derive(Serialize)]
struct Page<'a> {
    css: &'static str,
    plot_css: String,
    title: &'a str,
    ledger: &'a Ledger,
    outcome: &'static str,
    outcome_class: &'static str,
    rows: Vec<TableRow<'a>>,
    flips: Vec<&'a TaskComparison>,
    forest: Option<Svg>,
    forest_other: Option<Svg>,
    loss: Option<Svg>,
    measures: Vec<Section<'a>>,
    groups: Vec<ExampleGroup<'a>>,
    run: Option<&'a RunSummary>,
    scorecards: &'a [ScorecardHeader],
    invariants: &'a [InvariantResult],
    held: usize,
    provenance: &'a [(String, String)],
    command: &'a str,
    version: &'static str,
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

/// A row of the table, numbers already in the reader's units.
#[derive(Serialize)]
struct TableRow<'a> {
    task: &'a TaskComparison,
    base: String,
    tuned: String,
    difference: String,
    interval: String,
    p: String,
    arrow: &'static str,
}

#[derive(Serialize)]
struct ExampleGroup<'a> {
    task: &'a str,
    change: &'static str,
    heading: &'static str,
    /// Whether the models gave answers; of a text that was only scored there are none.
    answers: bool,
    metric: String,
    total: usize,
    examples: Vec<Shown>,
}

#[derive(Serialize)]
struct Shown {
    id: String,
    prompt: String,
    target: String,
    base_answer: String,
    tuned_answer: String,
    base_score: String,
    tuned_score: String,
}

/// Renders the page as one self-contained HTML file.
pub fn render(report: &Report) -> Result<String, ReportError> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::Html);
    environment.add_template("report", include_str!("templates/report.html.j2"))?;
    let ledger = &report.ledger;
    let forest = charts::forest::draw(&ledger.tasks, true)?.map(Svg::from);
    let forest_other = charts::forest::draw(&ledger.tasks, false)?.map(Svg::from);
    let loss = report.run.as_ref().map(charts::loss::draw).transpose()?.flatten().map(Svg::from);
    let page = Page {
        css: include_str!("templates/style.css"),
        plot_css: theme::css(),
        title: &report.title,
        ledger,
        outcome: outcome_words(ledger.outcome),
        outcome_class: outcome_class(ledger.outcome),
        rows: ledger.tasks.iter().map(table_row).collect(),
        flips: ledger.tasks.iter().filter(|t| t.mcnemar_p.is_some()).collect(),
        forest,
        forest_other,
        loss,
        measures: measures::sections(&ledger.measures),
        groups: example_groups(report),
        run: report.run.as_ref(),
        scorecards: &report.scorecards,
        invariants: &report.invariants,
        held: report.invariants.iter().filter(|i| i.status == "held").count(),
        provenance: &report.provenance,
        command: &report.command,
        version: env!("CARGO_PKG_VERSION"),
    };
    Ok(environment.get_template("report")?.render(minijinja::value::Serde(page))?)
}

fn outcome_words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Better => "Better, and nothing measurably lost",
        Outcome::Mixed => "Better at something, worse at something else",
        Outcome::Worse => "Worse",
        Outcome::Unchanged => "No measurable change",
    }
}

fn outcome_class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Better => "better",
        Outcome::Mixed => "mixed",
        Outcome::Worse => "worse",
        Outcome::Unchanged => "unchanged",
    }
}

fn table_row(task: &TaskComparison) -> TableRow<'_> {
    let value = |v: f64| if task.is_share { format!("{:.1} %", v * 100.0) } else { number(v) };
    let difference = |v: f64| if task.is_share { format!("{:+.1}", v * 100.0) } else { signed(v) };
    TableRow {
        base: value(task.base),
        tuned: value(task.tuned),
        difference: difference(task.difference).replace('-', "−"),
        interval: format!("{} to {}", difference(task.ci_low), difference(task.ci_high)).replace('-', "−"),
        p: task.p_holm.or(task.mcnemar_p).map_or_else(|| "–".into(), p_value),
        arrow: match task.verdict.as_str() {
            "better" => "▲",
            "worse" => "▼",
            _ => "=",
        },
        task,
    }
}

fn number(v: f64) -> String {
    match v.abs() {
        large if large >= 1e6 => format!("{v:.1e}"),
        plain if plain.fract() == 0.0 && plain < 1e3 => format!("{v}"),
        large if large >= 10.0 => format!("{v:.1}"),
        _ => format!("{v:.3}"),
    }
}

fn signed(v: f64) -> String {
    if v.abs() >= 10.0 { format!("{v:+.1}") } else { format!("{v:+.2}") }
}

fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".into() } else { format!("{p:.3}") }
}

/// What the reader looks for first comes first: what was lost on tasks that got worse, what was gained on those that got
/// better, then the rest.
fn example_groups(report: &Report) -> Vec<ExampleGroup<'_>> {
    const KINDS: [(&str, &str, &str); 4] = [
        ("lost", "right before, wrong after", "worse than before"),
        ("gained", "wrong before, right after", "better than before"),
        ("both_wrong", "wrong both times", "unchanged"),
        ("both_right", "right both times", "unchanged"),
    ];
    let mut groups = Vec::new();
    for task in &report.ledger.tasks {
        for (kind, (change, of_flips, of_scores)) in KINDS.into_iter().enumerate() {
            let of_kind = |e: &&PairedExample| e.task == task.name && e.change == change;
            let paired: Vec<&PairedExample> = report.ledger.examples.iter().filter(of_kind).collect();
            if paired.is_empty() {
                continue;
            }
            let total = match change {
                "lost" => task.lost,
                "gained" => task.gained,
                "both_right" => task.both_right,
                _ => task.both_wrong,
            };
            let urgency = match (task.verdict.as_str(), change) {
                ("worse", "lost") => 0,
                ("better", "gained") => 1,
                _ => 2 + kind,
            };
            let group = ExampleGroup {
                task: &task.name,
                change,
                heading: if task.mcnemar_p.is_some() { of_flips } else { of_scores },
                answers: paired.iter().any(|e| !e.base_answer.is_empty() || !e.tuned_answer.is_empty()),
                metric: task.metric.replace('_', " "),
                total,
                examples: paired.into_iter().take(EXAMPLES_SHOWN).map(shown).collect(),
            };
            groups.push((urgency, group));
        }
    }
    groups.sort_by_key(|(urgency, _)| *urgency);
    groups.into_iter().map(|(_, group)| group).collect()
}

fn shown(example: &PairedExample) -> Shown {
    Shown {
        id: example.id.clone(),
        prompt: tail(&example.prompt),
        target: head(&example.target),
        base_answer: head(&example.base_answer),
        tuned_answer: head(&example.tuned_answer),
        base_score: number(example.base_score),
        tuned_score: number(example.tuned_score),
    }
}

/// The end of a prompt is what was asked; what stands before it (shots, a passage) is what can be cut.
fn tail(text: &str) -> String {
    let characters = text.chars().count();
    if characters <= TEXT_SHOWN {
        return text.into();
    }
    let kept: String = text.chars().skip(characters - TEXT_SHOWN).collect();
    format!("[… {} characters]\n{kept}", characters - TEXT_SHOWN)
}

fn head(text: &str) -> String {
    let characters = text.chars().count();
    if characters <= TEXT_SHOWN {
        return text.into();
    }
    let kept: String = text.chars().take(TEXT_SHOWN).collect();
    format!("{kept}\n[… {} characters]", characters - TEXT_SHOWN)
}
