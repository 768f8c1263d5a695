//! Keeping the sides apart: evaluated rows that are trained on under another name, or stand in a training example, are dropped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use super::{CollectionTask, TaskSplit};
use crate::example::{Body, Example, SourceRef};
use crate::leaks::{LEAST_WORDS, RUN_WORDS, find_leaks, words};

/// Rows that an evaluated task (first) shares with a trained one: by equal prompts, and by runs.
pub(super) type Shared = BTreeMap<(usize, usize), (usize, usize)>;

/// Drops evaluated rows whose prompts equal trained ones.
pub(super) fn drop_equal(split: &mut [TaskSplit], keys: &[Vec<String>], shared: &mut Shared) {
    let mut trained: HashMap<&str, BTreeSet<usize>> = HashMap::new();
    for (at, task) in split.iter().enumerate() {
        for &row in &task.trained {
            trained.entry(&keys[at][row]).or_default().insert(at);
        }
    }
    for (at, task) in split.iter_mut().enumerate() {
        for row in std::mem::take(&mut task.evaluated) {
            let Some(by) = trained.get(keys[at][row].as_str()) else {
                task.evaluated.push(row);
                continue;
            };
            by.iter().for_each(|&by| shared.entry((at, by)).or_default().0 += 1);
            task.equal.push(row);
        }
    }
}

/// Drops evaluated rows that stand in training examples by the 13-gram rule.
pub(super) fn drop_leaked(split: &mut [TaskSplit], tasks: &[CollectionTask], shared: &mut Shared) {
    let (mut texts, mut places) = (Vec::new(), Vec::new());
    for (at, (own, task)) in split.iter().zip(tasks).enumerate().filter(|(_, (own, _))| !own.evaluated.is_empty()) {
        let prompts: Vec<Vec<String>> = task.rows.iter().map(|row| words(&row.prompt)).collect();
        let (front, back) = frame(&prompts);
        for &row in &own.evaluated {
            let prompt = &prompts[row];
            let content = &prompt[front..prompt.len() - back];
            if content.len() >= LEAST_WORDS {
                texts.push(content.join(" "));
                places.push((at, row));
            }
            let answer = words(&task.rows[row].completion);
            if answer.len() >= RUN_WORDS {
                texts.push([content, &answer].concat().join(" "));
                places.push((at, row));
            }
        }
    }
    let file: Arc<Path> = Path::new("").into();
    let example = |part: usize, row: usize| Example {
        source: SourceRef { file: Arc::clone(&file), row: row + 1, line: None },
        part,
        wording: 0,
        body: Body::PromptCompletion {
            prompt: tasks[part].rows[row].prompt.clone(),
            completion: tasks[part].rows[row].completion.clone(),
        },
    };
    let trained = split.iter().enumerate();
    let training: Vec<Example> = trained
        .flat_map(|(part, own)| own.trained.iter().map(move |&row| (part, row)))
        .map(|(p, r)| example(p, r))
        .collect();
    let report = find_leaks(&training, &texts);
    let mut by: BTreeMap<(usize, usize), BTreeSet<usize>> = BTreeMap::new();
    for (&text, parts) in report.leaked.iter().zip(&report.leaked_by) {
        by.entry(places[text]).or_default().extend(parts);
    }
    for (&(at, row), parts) in &by {
        parts.iter().for_each(|&part| shared.entry((at, part)).or_default().1 += 1);
        split[at].leaked.push(row);
    }
    for (at, task) in split.iter_mut().enumerate() {
        task.evaluated.retain(|row| !by.contains_key(&(at, *row)));
    }
}

/// How many words all prompts of a task begin with and end with: what its template says around what differs.
fn frame(prompts: &[Vec<String>]) -> (usize, usize) {
    let Some(first) = prompts.first() else { return (0, 0) };
    // Prompts that are all the same have no frame: everything would be.
    if prompts.iter().all(|prompt| prompt == first) {
        return (0, 0);
    }
    let shortest = prompts.iter().map(Vec::len).min().unwrap_or(0);
    let common = |at: &dyn Fn(&[String], usize) -> Option<String>, most: usize| {
        (0..most).take_while(|&i| prompts.iter().all(|prompt| at(prompt, i) == at(first, i))).count()
    };
    let front = common(&|prompt, i| prompt.get(i).cloned(), shortest);
    let back = common(&|prompt, i| prompt.get(prompt.len() - 1 - i).cloned(), shortest - front);
    (front, back)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_what_all_prompts_begin_and_end_with() {
        let frame = |texts: &[&str]| frame(&texts.iter().map(|text| words(text)).collect::<Vec<_>>());
        assert_eq!(frame(&["Say it: one. Answer:", "Say it: two three. Answer:"]), (2, 1));
        // The shortest prompt is frame alone; front and back do not overlap in it.
        assert_eq!(frame(&["a a", "a a a"]), (2, 0));
        assert_eq!((frame(&["same", "same"]), frame(&[]), frame(&["", "x"])), ((0, 0), (0, 0), (0, 0)));
    }
}
