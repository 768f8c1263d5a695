//! The examples on the page: task by task, what the tuning was for first, then what got worse and what got better; of a task that
//! got better what was gained comes first, of others what was lost.

use hone_eval::ledger::{PairedExample, TaskComparison};
use serde::Serialize;

use super::tasks::number;
use crate::Report;
use crate::links::{Side, anchor, href};

/// Examples shown for each task and kind of change; the ledger holds more, the scorecards all.
const SHOWN: usize = 8;
/// Longest text shown of a prompt or answer, in characters.
const TEXT: usize = 1_600;

/// What becomes of an example, in words for tasks whose answers are right or wrong, and for others.
const KINDS: [(&str, &str, &str); 4] = [
    ("lost", "right before, wrong after", "worse than before"),
    ("gained", "wrong before, right after", "better than before"),
    ("both_wrong", "wrong both times", "unchanged"),
    ("both_right", "right both times", "unchanged"),
];

/// A task's examples.
#[derive(Serialize)]
pub(crate) struct OfTask<'a> {
    task: &'a str,
    id: String,
    verdict: &'a str,
    groups: Vec<Group<'a>>,
    /// The files with every row: what it is, and where.
    files: Vec<(String, String)>,
}

/// Those of one kind.
#[derive(Serialize)]
struct Group<'a> {
    id: String,
    change: &'static str,
    heading: &'static str,
    /// Whether the models gave answers; of a text that was only scored there are none.
    answers: bool,
    /// What the examples' target is.
    target_is: &'static str,
    metric: String,
    total: usize,
    examples: Vec<Shown<'a>>,
}

#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    prompt: String,
    target: String,
    base_answer: String,
    tuned_answer: String,
    base_score: String,
    tuned_score: String,
}

/// The tasks with examples or files, those to look at first on top.
pub(crate) fn of_report(report: &Report) -> Vec<OfTask<'_>> {
    let mut tasks: Vec<(usize, OfTask<'_>)> = report
        .ledger
        .asked()
        .map(|task| (urgency(task), of_task(report, task)))
        .filter(|(_, shown)| !shown.groups.is_empty() || !shown.files.is_empty())
        .collect();
    tasks.sort_by_key(|(urgency, _)| *urgency);
    tasks.into_iter().map(|(_, task)| task).collect()
}

fn urgency(task: &TaskComparison) -> usize {
    match task.verdict.as_str() {
        _ if task.is_target => 0,
        "worse" => 1,
        "better" => 2,
        _ => 3,
    }
}

fn of_task<'a>(report: &'a Report, task: &'a TaskComparison) -> OfTask<'a> {
    let mut groups: Vec<Group<'a>> = KINDS.iter().filter_map(|kind| group(report, task, *kind)).collect();
    if task.verdict == "better" {
        groups.sort_by_key(|group| group.change != "gained");
    }
    let card = |side: Side, whose: &str| {
        let source = report.sources.iter().find(|source| source.task == task.name && source.side == side)?;
        Some((format!("scorecard of the {whose} model"), href(&source.path)))
    };
    let measured = report
        .ledger
        .measures
        .iter()
        .filter(|measure| measure.tasks.iter().any(|of| of.name == task.name && !of.rows.is_empty()));
    let rows = measured.map(|measure| (measure.name.clone(), href(&format!("{}/{}.jsonl", measure.name, task.name))));
    let cards = [card(Side::Base, "base"), card(Side::Tuned, "tuned")];
    OfTask {
        task: &task.name,
        id: anchor(&["examples", &task.name]),
        verdict: &task.verdict,
        groups,
        files: cards.into_iter().flatten().chain(rows).collect(),
    }
}

fn group<'a>(
    report: &'a Report,
    task: &'a TaskComparison,
    (change, of_flips, of_scores): (&'static str, &'static str, &'static str),
) -> Option<Group<'a>> {
    let of_kind = |example: &&PairedExample| example.task == task.name && example.change == change;
    let paired: Vec<&PairedExample> = report.ledger.examples.iter().filter(of_kind).collect();
    let total = match change {
        "lost" => task.lost,
        "gained" => task.gained,
        "both_right" => task.both_right,
        _ => task.both_wrong,
    };
    let answered = |example: &&PairedExample| !example.base_answer.is_empty() || !example.tuned_answer.is_empty();
    (!paired.is_empty()).then(|| Group {
        id: anchor(&["examples", &task.name, change]),
        change,
        heading: if task.mcnemar_p.is_some() { of_flips } else { of_scores },
        answers: paired.iter().any(answered),
        target_is: match (paired.iter().any(answered), task.target_is_to_avoid()) {
            (false, _) => "Text that was scored",
            (true, true) => "Answer to avoid",
            (true, false) => "Right answer",
        },
        metric: task.metric.replace('_', " "),
        total,
        examples: paired.into_iter().take(SHOWN).map(shown).collect(),
    })
}

fn shown(example: &PairedExample) -> Shown<'_> {
    Shown {
        id: &example.id,
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
    if characters <= TEXT {
        return text.into();
    }
    let kept: String = text.chars().skip(characters - TEXT).collect();
    format!("[… {} characters]\n{kept}", characters - TEXT)
}

fn head(text: &str) -> String {
    let characters = text.chars().count();
    if characters <= TEXT {
        return text.into();
    }
    let kept: String = text.chars().take(TEXT).collect();
    format!("{kept}\n[… {} characters]", characters - TEXT)
}
