//! Where the scorecards behind a report lie: kept beside it in `sources.json`, as paths relative to it, so that the report can
//! link them and `hone explain` can read them.

use std::path::{Component, Path, PathBuf};

use hone_eval::files::read_scorecard;
use hone_eval::ledger::Ledger;
use hone_eval::measures::{MeasureResult, TaskMeasure};
use hone_eval::scorecard::Scorecard;
use hone_report::{Side, Source};

use crate::fail::Failure;

/// The file's name.
pub const FILE: &str = "sources.json";

const SIDES: [(Side, &str); 2] = [(Side::Base, "base"), (Side::Tuned, "tuned")];

/// The cards of two evaluations, as seen from `out`. `base` and `tuned` are directories of scorecards, or single ones.
pub fn of_comparison(out: &Path, base: &Path, tuned: &Path, ledger: &Ledger) -> Vec<Source> {
    let place = |side: Side| if side == Side::Base { base } else { tuned };
    found(out, ledger, |side, task| {
        let place = place(side);
        let file = format!("{task}.jsonl");
        if place.is_file() {
            vec![place.to_owned()]
        } else {
            vec![place.join("scorecards").join(&file), place.join(&file)]
        }
    })
}

/// The cards that a run or a battery keeps in its own directory.
pub fn beside(out: &Path, ledger: &Ledger) -> Vec<Source> {
    found(out, ledger, |side, task| {
        let word = SIDES.iter().find(|(known, _)| *known == side).map_or("", |(_, word)| word);
        let file = Path::new(word).join(format!("{task}.jsonl"));
        vec![out.join("scorecards").join(&file), out.join(&file)]
    })
}

/// The file behind a measure that was made of no scorecards, for both models; where it has rows of its own, they are better.
pub fn of_measure(out: &Path, file: &Path, measure: &MeasureResult) -> Vec<Source> {
    let Some(path) = relative(out, file) else { return Vec::new() };
    let both = |task: &TaskMeasure| SIDES.map(|(side, _)| Source { task: task.name.clone(), side, path: path.clone() });
    measure.tasks.iter().filter(|task| task.rows.is_empty()).flat_map(both).collect()
}

/// The first place of each task and side that there is.
fn found(out: &Path, ledger: &Ledger, places: impl Fn(Side, &str) -> Vec<PathBuf>) -> Vec<Source> {
    let mut sources = Vec::new();
    for task in &ledger.tasks {
        for (side, _) in SIDES {
            let place = places(side, &task.name).into_iter().find(|place| place.is_file());
            if let Some(path) = place.and_then(|place| relative(out, &place)) {
                sources.push(Source { task: task.name.clone(), side, path });
            }
        }
    }
    sources
}

/// A file's path as seen from a directory, with `/`. `None` where one of them is not there, or they are on different drives.
fn relative(directory: &Path, file: &Path) -> Option<String> {
    let (from, to) = (directory.canonicalize().ok()?, file.canonicalize().ok()?);
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let mut parts: Vec<String> = from.components().skip(shared).map(|_| "..".to_owned()).collect();
    for part in to.components().skip(shared) {
        match part {
            Component::Normal(name) => parts.push(name.to_str()?.to_owned()),
            _ => return None,
        }
    }
    Some(parts.join("/"))
}

/// Reads what a report's directory says; nothing where it says nothing.
pub fn read(directory: &Path, ledger: &Ledger) -> Result<Vec<Source>, Failure> {
    let path = directory.join(FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map_err(|error| {
            Failure::user(format!("{}: {error}", path.display()), "compare again, which writes it anew")
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(beside(directory, ledger)),
        Err(error) => Err(Failure::from(error).doing(format!("reading {}", path.display()))),
    }
}

/// Both cards of a task, where they are still there.
pub fn cards(directory: &Path, sources: &[Source], task: &str) -> Result<Option<(Scorecard, Scorecard)>, Failure> {
    let place = |side: Side| {
        let source = sources.iter().find(|source| source.task == task && source.side == side)?;
        Some(directory.join(&source.path)).filter(|path| path.is_file())
    };
    match (place(Side::Base), place(Side::Tuned)) {
        (Some(base), Some(tuned)) => Ok(Some((read_scorecard(&base)?, read_scorecard(&tuned)?))),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_from_the_report_to_the_cards() {
        let dir = tempfile::tempdir().expect("a directory");
        let (out, cards) = (dir.path().join("a/comparison"), dir.path().join("cards/base"));
        std::fs::create_dir_all(&out).expect("made");
        std::fs::create_dir_all(&cards).expect("made");
        let file = cards.join("boolq.jsonl");
        assert_eq!(relative(&out, &file), None, "not there");
        std::fs::write(&file, "").expect("written");
        assert_eq!(relative(&out, &file).as_deref(), Some("../../cards/base/boolq.jsonl"));
        assert_eq!(relative(&cards, &file).as_deref(), Some("boolq.jsonl"));
        // A measure's own file stands for both models.
        let mut looked = MeasureResult::new(&hone_eval::measures::MEASURES[0]);
        looked.tasks.push(TaskMeasure { name: "needle, plain".into(), ..TaskMeasure::default() });
        let sources = of_measure(&out, &file, &looked);
        assert_eq!(sources.iter().map(|source| source.side).collect::<Vec<_>>(), [Side::Base, Side::Tuned]);
        assert!(sources.iter().all(|s| s.task == "needle, plain" && s.path == "../../cards/base/boolq.jsonl"));
        looked.tasks[0].rows.push(serde_json::json!({"id": "1"}));
        assert!(of_measure(&out, &file, &looked).is_empty(), "its rows are written beside the report");
    }
}
