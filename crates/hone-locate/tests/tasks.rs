//! The tasks about a context that ship: every question's passage is found, and holds what is asked for.

use hone_eval::task::group;
use hone_eval::{DataRoot, EvalError, Task};
use hone_locate::Question;
use hone_locate::question::of_task;

/// The task's variants, or the task; `None`, said aloud, where its data are not here.
fn tasks(name: &str) -> Option<Vec<Task>> {
    match group::load(name, &DataRoot::discover(None)) {
        Ok(loaded) => Some(loaded.tasks),
        Err(EvalError::NoData { file, .. }) => {
            eprintln!("skipped: {name}, its data file {file} is not here");
            None
        }
        Err(error) => panic!("{name}: {error}"),
    }
}

fn passage(question: &Question) -> &str {
    &question.user[question.context.clone()]
}

#[test]
fn every_needle_is_in_its_haystack_at_its_depth() {
    let task = &tasks("needle").unwrap()[0];
    let questions = of_task(task, 999).unwrap();
    assert_eq!(questions.len(), 200);
    for (question, doc) in questions.iter().zip(task.docs.iter().map(Result::unwrap)) {
        let (needle, answer) = (doc.columns["needle"].as_str().unwrap(), doc.columns["answer"].as_str().unwrap());
        let passage = passage(question);
        assert!(needle.contains(answer) && question.answer == answer);
        assert_eq!(passage.matches(needle).count(), 1, "{passage}");
        let before = passage[..passage.find(needle).unwrap()].split_whitespace().count() as f64;
        let words = doc.columns["words"].as_f64().unwrap();
        // A needle stands between sentences, so it may be off by most of one.
        let off = (before - doc.columns["depth"].as_f64().unwrap() * words).abs();
        assert!(off < 35.0, "{off} words from where it should be: {passage}");
        assert!((words - doc.columns["length"].as_f64().unwrap()).abs() < 25.0, "{words}");
    }
    // A few questions have everything.
    for (column, kinds) in [("length", 5), ("depth", 5), ("needle", 8)] {
        let mut first: Vec<String> =
            task.docs.iter().take(40).map(|doc| doc.unwrap().columns[column].to_string()).collect();
        first.sort();
        first.dedup();
        assert_eq!(first.len(), kinds, "{column}");
    }
}

#[test]
fn pairs_are_those_around_the_wanted_one() {
    let Some(tasks) = tasks("kv_retrieval") else { return };
    let names: Vec<&str> = tasks.iter().map(Task::name).collect();
    assert_eq!(names, ["kv_retrieval@5", "kv_retrieval@10", "kv_retrieval@20", "kv_retrieval@40"]);
    for (task, pairs) in tasks.iter().zip([5usize, 10, 20, 40]) {
        for (question, doc) in of_task(task, 999).unwrap().iter().zip(task.docs.iter().map(Result::unwrap)) {
            let (key, value) = (doc.columns["key"].as_str().unwrap(), doc.columns["value"].as_str().unwrap());
            let lines: Vec<&str> = passage(question).lines().collect();
            assert_eq!(lines.len(), pairs);
            let at = lines.iter().position(|line| *line == format!("\"{key}\": \"{value}\"")).unwrap();
            let all = doc.columns["ordered_kv_records"].as_array().unwrap();
            let before = all.iter().position(|record| record[0] == key).unwrap();
            let (depth, was) = (at as f64 / (pairs - 1) as f64, before as f64 / (all.len() - 1) as f64);
            assert!((depth - was).abs() <= 1.0 / (pairs - 1) as f64, "{depth} instead of {was}");
            assert_eq!(question.answer, value);
        }
    }
}

#[test]
fn most_paragraphs_hold_their_answer_word_for_word() {
    let Some(tasks) = tasks("nq_context") else { return };
    let questions = of_task(&tasks[0], 999).unwrap();
    let says = questions.iter().filter(|question| passage(question).contains(&question.answer)).count();
    assert!(says * 10 > questions.len() * 9, "{says} of {}", questions.len());
}
