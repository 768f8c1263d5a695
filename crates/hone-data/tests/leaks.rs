//! Leaks between training and evaluation, by GPT-3's n-gram rule.

mod common;

use common::{example, real_data, turns};
use hone_data::leaks::words;
use hone_data::{Body, Example, find_leaks};

fn text(text: &str) -> Example {
    example(Body::Text(text.into()))
}

fn leaks(training: &[Example], evaluation: &[&str]) -> hone_data::LeakReport {
    find_leaks(training, &evaluation.iter().map(|t| t.to_string()).collect::<Vec<_>>())
}

/// `w1 w2 … wn`.
fn numbered(prefix: &str, n: usize) -> String {
    (0..n).map(|i| format!("{prefix}{i}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn words_are_letters_and_digits_in_lower_case() {
    assert_eq!(words("  Don't PANIC -- it's 42.5!\n"), ["don", "t", "panic", "it", "s", "42", "5"]);
    assert_eq!(words("Größe ÉTÉ"), ["größe", "été"]);
    assert_eq!(words("你好 world。カタ"), ["你", "好", "world", "カ", "タ"]);
    assert!(words("...").is_empty());
}

#[test]
fn thirteen_words_in_a_row_leak_and_twelve_do_not() {
    let shared = numbered("w", 13);
    let evaluation = format!("start {shared} end of it");
    let report = leaks(&[text(&format!("something else, {} AND MORE", shared.to_uppercase()))], &[&evaluation]);
    assert_eq!((report.leaked_texts, report.leaking_examples, report.equal), (1, 1, 0));
    assert_eq!(report.first[0].words, shared);
    let report = leaks(&[text(&format!("something else {} and more", numbered("w", 12)))], &[&evaluation]);
    assert_eq!((report.leaked_texts, report.leaking_examples), (0, 0));
}

#[test]
fn texts_of_eight_to_twelve_words_leak_as_a_whole() {
    let eight = numbered("w", 8);
    assert_eq!(leaks(&[text(&format!("before {eight} after"))], &[&eight]).leaked, [0]);
    assert_eq!(leaks(&[text(&format!("before {} after", numbered("w", 7)))], &[&eight]).leaked_texts, 0);
    // Seven words: only as the whole of a training text.
    let seven = numbered("w", 7);
    assert_eq!(leaks(&[text(&format!("before {seven} after"))], &[&seven]).leaked_texts, 0);
    assert_eq!(leaks(&[text(&format!("{seven}!"))], &[&seven]).equal, 1);
}

#[test]
fn an_equal_question_inside_a_conversation_leaks() {
    let chat = example(Body::conversation(turns(&[("user", "What is two and two?"), ("assistant", "Four.")])));
    let report = leaks(std::slice::from_ref(&chat), &["what is TWO and two", "Something else entirely"]);
    assert_eq!((report.leaked, report.equal, report.leaking_examples), (vec![0], 1, 1));
    assert_eq!(leaks(&[chat], &["What is two and two? Four."]).equal, 1);
}

#[test]
fn runs_that_every_row_begins_with_are_boilerplate() {
    let opening = numbered("o", 13);
    let rows = |n: usize| (0..n).map(|i| text(&format!("{opening} row {i}"))).collect::<Vec<_>>();
    let evaluation = format!("{opening} question");
    assert_eq!(leaks(&rows(10), &[&evaluation]).leaked_texts, 1);
    let report = leaks(&rows(11), &[&evaluation]);
    assert_eq!((report.leaked_texts, report.boilerplate_runs), (0, 1));
    // Equal texts count however often they come.
    let copies: Vec<Example> = (0..20).map(|_| text(&evaluation)).collect();
    assert_eq!(leaks(&copies, &[&evaluation]).leaking_examples, 20);
}

#[test]
fn an_empty_side_has_no_leaks() {
    assert_eq!(leaks(&[], &["a", ""]).leaked_texts, 0);
    let report = leaks(&[text("..."), text("")], &["", "..."]);
    assert_eq!((report.leaked_texts, report.evaluation_texts, report.training_examples), (0, 2, 2));
}

#[test]
fn planted_leaks_are_found_among_real_questions() {
    let Some(root) = real_data("leaks in GSM8K") else { return };
    let read = |name: &str| -> Vec<String> {
        let text = std::fs::read_to_string(root.join(name)).unwrap();
        let question = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["question"].as_str().unwrap().to_string()
        };
        text.lines().map(question).collect()
    };
    let (train, test) = (read("gsm8k/train.jsonl"), read("gsm8k/test.jsonl"));
    let examples = |texts: &[String]| texts.iter().map(|t| text(t)).collect::<Vec<_>>();
    let clean = find_leaks(&examples(&train), &test);
    assert!(clean.leaked_texts < 20, "{} of {} test questions", clean.leaked_texts, test.len());
    let mut planted = train.clone();
    planted.extend(test[100..150].iter().map(|t| format!("Please solve: {t} Think.")));
    let found = find_leaks(&examples(&planted), &test);
    assert!((100..150).all(|t| found.leaked.contains(&t)));
    eprintln!("GSM8K: {} of {} test questions share a run with training", clean.leaked_texts, test.len());
}
