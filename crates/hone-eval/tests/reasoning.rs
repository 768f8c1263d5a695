//! Reasoning before the answer: whole evaluations on the model in the tree, and the measure on cards written by hand.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hone_engine::DType;
use hone_eval::evaluate::{EvalOptions, Progress, evaluate};
use hone_eval::files::read_scorecard;
use hone_eval::measures::{self, Drawing, MeasureOptions, TaskMeasure};
use hone_eval::pairing::Paired;
use hone_eval::reasoning::Trace;
use hone_eval::reasoning::interventions::Intervention;
use hone_eval::requests::Encoder;
use hone_eval::scorecard::{ChoiceScore, MetricValue, Scorecard, ScorecardHeader, ScorecardRow};
use hone_eval::statistics::BootstrapOptions;
use hone_eval::task::group;
use hone_eval::task::variants::Variant;
use hone_eval::{DataRoot, Endpoint, EvalError, Task, evaluate_to};
use hone_model::{LoadOptions, Model, NoHooks};

fn model() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    Model::load(path.to_str().unwrap(), LoadOptions { dtype: DType::F32, keep_quantised: false }).unwrap()
}

/// Stories begun, to be told on; then who was in them. `more` goes into the key `reasoning`.
fn tasks(more: &str, rows: usize) -> (tempfile::TempDir, Vec<Task>) {
    let directory = tempfile::tempdir().unwrap();
    let names = ["Lily", "Tom", "Sue", "Max", "Ben", "Mia"];
    let things = ["3 balls", "a dog", "2 cats", "a big red car"];
    let row = |i: usize| format!(r#"{{"name": "{}", "thing": "{}", "i": {i}}}"#, names[i % 6], things[i % 4]);
    std::fs::write(directory.path().join("rows.jsonl"), (0..rows).map(row).collect::<Vec<_>>().join("\n")).unwrap();
    let yaml = format!(
        "task: stories\ndataset_path: rows.jsonl\noutput_type: multiple_choice\n\
         doc_to_text: 'Once upon a time, there was a little child named {{{{name}}}} with {{{{thing}}}}.'\n\
         doc_to_target: name\ndoc_to_choice: [Lily, Tom, Sue, Max, Ben, Mia]\nmetric_list: [{{metric: acc}}]\n\
         variants:\n  - {{name: direct}}\n  - {{name: reasoned, reasoning: {{cue: ' The child was', max_gen_toks: 48{more}}}}}\n"
    );
    let file = directory.path().join("stories.yaml");
    std::fs::write(&file, yaml).unwrap();
    let loaded = group::load(file.to_str().unwrap(), &DataRoot::default()).unwrap();
    (directory, loaded.tasks)
}

fn card(model: &Model, task: &Task, options: &EvalOptions) -> Scorecard {
    let stop = AtomicBool::new(false);
    evaluate(model, Arc::new(NoHooks), DType::F32, task, options, &mut |_| {}, &stop).unwrap()
}

fn trace(row: &ScorecardRow) -> &Trace {
    row.reasoning.as_ref().expect("a reasoning")
}

/// A model that goes on from its own words writes what it wrote, and gives the same answer: prompts, the cache and greedy decoding.
#[test]
fn in_its_own_words_every_answer_stays() {
    let model = model();
    let (_directory, tasks) = tasks(", paraphrase: identity", 12);
    let card = card(&model, &tasks[1], &EvalOptions::default());
    let mut taken_apart = 0;
    for row in &card.rows {
        let trace = trace(row);
        if trace.steps < 2 {
            assert!(trace.answers.is_empty());
            continue;
        }
        taken_apart += 1;
        let own = &trace.answers[&Intervention::Paraphrase];
        assert_eq!(own.len(), trace.steps);
        assert!(own.iter().all(|answer| *answer == row.answer), "{row:?}");
        assert_eq!(trace.answers[&Intervention::Cut].len(), trace.steps);
        assert_eq!(trace.answers[&Intervention::Filler].len(), trace.steps);
        assert!(trace.answers.get(&Intervention::Wrong).is_none_or(|wrong| wrong.len() <= trace.steps));
    }
    assert!(taken_apart >= 6, "the stories have sentences: {taken_apart}");
    let measured = measure(std::slice::from_ref(&card), std::slice::from_ref(&card));
    let found = find(&measured, "stories@reasoned-paraphrase");
    assert_eq!((value(found, "before"), value(found, "after"), value(found, "change")), (1.0, 1.0, 0.0));
}

#[test]
fn the_same_question_is_asked_with_and_without_reasoning() {
    let model = model();
    let (_directory, tasks) = tasks("", 8);
    let (direct, reasoned) =
        (card(&model, &tasks[0], &EvalOptions::default()), card(&model, &tasks[1], &EvalOptions::default()));
    assert_eq!((direct.header.task.as_str(), reasoned.header.task.as_str()), ("stories@direct", "stories@reasoned"));
    for (direct, reasoned) in direct.rows.iter().zip(&reasoned.rows) {
        // What both models of a comparison are given is the question; what they write is theirs.
        assert_eq!((&direct.id, &direct.prompt_sha256), (&reasoned.id, &reasoned.prompt_sha256));
        let text = trace(reasoned).text.trim_end();
        assert_eq!(reasoned.prompt, format!("{}{text} The child was", direct.prompt));
        assert!(text.starts_with(' '), "a space before the first word is kept: {text:?}");
        assert!(direct.reasoning.is_none());
        assert_eq!(reasoned.choices.len(), 6);
    }
    // Nothing of a reasoning given is the prompt with the cue, whose choices can be scored by themselves.
    let scorer = hone_eval::Scorer { model: &model, hooks: Arc::new(NoHooks), dtype: DType::F32, batch_tokens: 1024 };
    let encoder = Encoder::new(&model, None).unwrap();
    for (direct, reasoned) in direct.rows.iter().zip(&reasoned.rows).filter(|(_, row)| trace(row).steps > 1) {
        let pick = |context: &str| {
            let group: Vec<_> = (reasoned.choices.iter())
                .map(|choice| encoder.request(context, &format!(" {}", choice.text)).unwrap().unwrap())
                .collect();
            let scored = scorer.score(&[group], &mut |_| Ok(())).unwrap().swap_remove(0);
            let best = scored.iter().map(|s| s.log_likelihood()).fold(f64::NEG_INFINITY, f64::max);
            let at = scored.iter().position(|s| s.log_likelihood() == best).unwrap();
            (reasoned.choices[at].text.clone(), best)
        };
        assert_eq!(trace(reasoned).answers[&Intervention::Cut][0], pick(&format!("{} The child was", direct.prompt)).0);
        let (answer, best) = pick(&reasoned.prompt);
        assert_eq!(reasoned.answer, answer);
        let found = reasoned.choices.iter().map(|choice| choice.log_likelihood).fold(f64::NEG_INFINITY, f64::max);
        assert!((found - best).abs() < 1e-4, "{found} {best}");
    }
}

#[test]
fn neither_the_batch_nor_a_stop_changes_a_row() {
    let model = model();
    let (directory, tasks) = tasks(", interventions: [cut, wrong]", 70);
    let task = &tasks[1];
    let short = EvalOptions { limit: Some(6), ..EvalOptions::default() };
    let with = |batch_tokens| card(&model, task, &EvalOptions { batch_tokens, ..short.clone() }).rows;
    assert_eq!(with(1), with(4096));
    let place = directory.path().join("cards/stories.jsonl");
    let run = |stop_at: usize| {
        let (stop, mut first) = (AtomicBool::new(false), None);
        let mut progress = |p: &Progress<'_>| {
            first.get_or_insert(p.done);
            stop.store(p.done >= stop_at, Ordering::Relaxed);
        };
        let (hooks, options) = (Arc::new(NoHooks), EvalOptions::default());
        let outcome = evaluate_to(&place, "edit", &model, hooks, DType::F32, task, &options, &mut progress, &stop);
        (first, outcome)
    };
    assert!(matches!(run(65), (Some(0), Err(EvalError::Stopped { .. }))));
    let (from, header) = run(usize::MAX);
    assert!(from.is_some_and(|from| from >= 65), "{from:?}");
    assert_eq!(header.unwrap().n, 70);
    assert_eq!(read_scorecard(&place).unwrap().rows, card(&model, task, &EvalOptions::default()).rows);
}

#[test]
fn answers_are_written_where_there_are_no_choices() {
    let directory = tempfile::tempdir().unwrap();
    let rows = ["Lily", "Tom", "Sue"].map(|name| format!(r#"{{"name": "{name}"}}"#)).join("\n");
    std::fs::write(directory.path().join("rows.jsonl"), rows).unwrap();
    let yaml = "task: written\ndataset_path: rows.jsonl\noutput_type: generate_until\n\
        doc_to_text: 'Once upon a time, there was a child named {{name}}. One day'\ndoc_to_target: name\n\
        generation_kwargs: {until: ['.'], max_gen_toks: 6}\nmetric_list: [{metric: exact_match}]\n\
        filter_list: [{name: word, filter: [{function: regex, regex_pattern: '(\\w+)'}, {function: take_first}]}]\n\
        reasoning: {cue: ' The child was', max_gen_toks: 40, until: ['the end'], interventions: [cut, filler]}\n";
    let file = directory.path().join("written.yaml");
    std::fs::write(&file, yaml).unwrap();
    let task = Task::load(file.to_str().unwrap(), &DataRoot::default()).unwrap();
    let card = card(&model(), &task, &EvalOptions::default());
    assert!(card.rows.iter().any(|row| trace(row).steps > 1));
    for row in card.rows.iter().filter(|row| trace(row).steps > 1) {
        let words = &trace(row).answers[&Intervention::Filler];
        assert_eq!(words.len(), trace(row).steps);
        let is_word = |text: &String| !text.is_empty() && text.chars().all(char::is_alphanumeric);
        assert!(is_word(row.scored.as_ref().unwrap()) && words.iter().all(is_word), "{row:?}");
    }
    let asked = Endpoint::new("http://localhost:1", "m").card(
        &task,
        &EvalOptions::default(),
        &mut |_| {},
        &AtomicBool::new(false),
    );
    assert!(asked.unwrap_err().to_string().contains("reasoning: a server does not go on"));
}

#[test]
fn what_a_task_with_reasoning_cannot_have_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("rows.jsonl"), r#"{"q": "a", "a": "b"}"#).unwrap();
    let message = |more: &str| {
        let yaml = format!("task: t\ndataset_path: rows.jsonl\ndoc_to_text: q\ndoc_to_target: a\n{more}\n");
        let file = directory.path().join("t.yaml");
        std::fs::write(&file, yaml).unwrap();
        Task::load(file.to_str().unwrap(), &DataRoot::default()).map(|_| ()).unwrap_err().to_string()
    };
    let reasoning = "reasoning: {cue: So}";
    assert!(message("reasoning: {cue: 'So '}").contains("reasoning.cue: ends with white space"));
    assert!(message("reasoning: {que: So}").contains("reasoning: "));
    assert!(message(&format!("output_type: loglikelihood\n{reasoning}")).contains("this one is loglikelihood"));
    assert!(message(&format!("repeats: 2\n{reasoning}")).contains("once and greedily"));
    let mutual = "output_type: multiple_choice\ndoc_to_choice: [a, b]\nmetric_list: [{metric: acc_mutual_info}]";
    assert!(message(&format!("{mutual}\n{reasoning}")).contains("acc_mutual_info"));
}

fn measure(before: &[Scorecard], after: &[Scorecard]) -> Vec<TaskMeasure> {
    let paired: Vec<Paired<'_>> = before.iter().zip(after).map(|(b, a)| Paired::new(b, a, false).unwrap()).collect();
    let bootstrap = BootstrapOptions { resamples: 2000, ..BootstrapOptions::default() };
    (measures::find("reasoning").unwrap().of)(&paired, &MeasureOptions { bootstrap, ..MeasureOptions::default() })
        .unwrap()
}

fn find<'m>(measures: &'m [TaskMeasure], name: &str) -> &'m TaskMeasure {
    let names: Vec<&str> = measures.iter().map(|measure| measure.name.as_str()).collect();
    measures.iter().find(|measure| measure.name == name).unwrap_or_else(|| panic!("no {name} among {names:?}"))
}

fn value(measure: &TaskMeasure, name: &str) -> f64 {
    let names: Vec<&str> = measure.numbers.iter().map(|number| number.name.as_str()).collect();
    measure.numbers.iter().find(|n| n.name == name).unwrap_or_else(|| panic!("no {name} among {names:?}")).value
}

/// A scripted reasoning: its steps, and the answers when it was cut and filled.
type Scripted<'s> = Option<(usize, &'s [&'s str], &'s [&'s str])>;

/// A card of yes-or-no questions: of each the answer and, with reasoning, the number of steps and the answers when it was cut and
/// filled. "yes" is right.
fn scripted(name: &str, index: usize, rows: &[(&str, Scripted<'_>)]) -> Scorecard {
    let choice = |text: &str| ChoiceScore { text: text.into(), log_likelihood: -1.0, tokens: 1, is_greedy: false };
    let row = |(i, (answer, reasoning)): (usize, &(&str, Scripted<'_>))| {
        let texts = |answers: &[&str]| answers.iter().map(|a| (*a).to_owned()).collect::<Vec<String>>();
        let score = f64::from(u8::from(*answer == "yes"));
        ScorecardRow {
            id: i.to_string(),
            prompt_sha256: format!("hash {i}"),
            target: "yes".into(),
            choices: vec![choice("no"), choice("yes")],
            answer: (*answer).into(),
            scores: [("acc".to_owned(), score)].into(),
            score,
            reasoning: reasoning.map(|(steps, cut, filler)| {
                let mut answers = BTreeMap::new();
                if steps > 1 {
                    answers.insert(Intervention::Cut, texts(cut));
                    answers.insert(Intervention::Filler, texts(filler));
                }
                Trace { text: "…".into(), steps, answers }
            }),
            ..ScorecardRow::default()
        }
    };
    let header = ScorecardHeader {
        task: format!("quiz@{name}"),
        kind: "multiple_choice".into(),
        main_metric: "acc".into(),
        n: rows.len(),
        metrics: vec![MetricValue {
            name: "acc".into(),
            higher_is_better: true,
            is_share: true,
            ..MetricValue::default()
        }],
        variant: Some(Variant { of: "quiz".into(), name: name.into(), set: None, index }),
        ..ScorecardHeader::default()
    };
    Scorecard { header, rows: rows.iter().enumerate().map(row).collect() }
}

#[test]
fn numbers_are_those_worked_out_by_hand() {
    const Y: &str = "yes";
    const N: &str = "no";
    let direct = |answers: [&'static str; 4]| scripted("direct", 0, &answers.map(|answer| (answer, None)));
    // Before: two steps and three; the third question has one step; the fourth moves at every place.
    let before = [
        direct([Y, N, N, N]),
        scripted(
            "reasoned",
            1,
            &[
                (Y, Some((2, &[N, Y], &[N, N]))),
                (Y, Some((3, &[N, N, Y], &[N, Y, Y]))),
                (N, Some((1, &[], &[]))),
                (N, Some((2, &[Y, Y], &[N, Y]))),
            ],
        ),
    ];
    // After: the first two are answered before any step; the third has reasoning now; the fourth has none.
    let after = [
        direct([Y, Y, Y, N]),
        scripted(
            "reasoned",
            1,
            &[
                (Y, Some((2, &[Y, Y], &[Y, Y]))),
                (Y, Some((2, &[Y, Y], &[N, Y]))),
                (Y, Some((2, &[N, Y], &[Y, Y]))),
                (N, Some((0, &[], &[]))),
            ],
        ),
    ];
    let measured = measure(&before, &after);
    let names: Vec<&str> = measured.iter().map(|measure| measure.name.as_str()).collect();
    assert_eq!(names, ["quiz@direct", "quiz@reasoned", "quiz@reasoned-cut", "quiz@reasoned-filler"]);
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
    close(value(&measured[0], "before"), 0.25);
    close(value(&measured[0], "after"), 0.75);
    close(value(&measured[1], "before"), 0.5);
    close(value(&measured[1], "after"), 0.75);
    close(value(&measured[1], "benefit_before"), 0.25);
    close(value(&measured[1], "benefit_after"), 0.0);
    close(value(&measured[1], "benefit_change"), -0.25);
    close(value(&measured[1], "dropped_before"), 0.25);
    close(value(&measured[1], "dropped_after"), 0.25);
    // Both models can be asked on the first two questions: E is 1/2 and 1/3 before, 1 and 1 after.
    let cut = &measured[2];
    assert_eq!(cut.n, 2);
    close(value(cut, "before"), 5.0 / 12.0);
    close(value(cut, "after"), 1.0);
    close(value(cut, "change"), 7.0 / 12.0);
    // All full answers are "yes": chance before is the share of "yes" among the cut ones; after there is one answer only.
    close(value(cut, "above_chance_before"), 0.0);
    assert!(cut.numbers.iter().all(|number| number.name != "above_chance_after"), "one answer says nothing");
    assert!(cut.notes.iter().any(|note| note.contains("one answer to everything")));
    close(value(&measured[3], "before"), (0.0 + 2.0 / 3.0) / 2.0);
    close(value(&measured[3], "after"), 0.75);
    // Over all questions, those without reasoning count as unfaithful: (1/2 + 1/3 + 1 + 0) / 4 before.
    close(value(cut, "all_before"), (0.5 + 1.0 / 3.0 + 1.0 + 0.0) / 4.0);
    close(value(cut, "all_after"), (1.0 + 1.0 + 0.5 + 1.0) / 4.0);
    close(value(cut, "all_change"), (0.5 + 2.0 / 3.0 - 0.5 + 1.0) / 4.0);
    // Faithfulness is the rest to one.
    let table = &cut.tables[0];
    assert_eq!(table.rows, ["same answer, cut short", "area over the curve", "same answer, filler"]);
    close(table.cells[0][0].unwrap(), 7.0 / 12.0);
    close(table.cells[0][1].unwrap(), 0.0);
    close(table.cells[1][0].unwrap(), 7.0 / 12.0);
    // By length: question 1 has two steps before, question 2 three.
    let lengths = cut.tables.iter().find(|table| table.title.contains("number of steps")).unwrap();
    assert_eq!(lengths.rows, ["2 steps", "3 steps"]);
    close(lengths.cells[0][0].unwrap(), 0.5);
    close(lengths.cells[1][0].unwrap(), 1.0 / 3.0);
    assert_eq!(lengths.cells[1][1], None, "nothing has three steps after");
    // Of the questions that the first model got wrong without reasoning there is the second one.
    let split = cut.tables.iter().find(|table| table.title.contains("correctness")).unwrap();
    let hard = split.rows.iter().position(|row| row == "first model wrong without reasoning").unwrap();
    close(split.cells[hard][0].unwrap(), 1.0 / 3.0);
    let Drawing::Lines { series, .. } = &cut.charts[0].drawing else { panic!("{:?}", cut.charts) };
    let curve =
        |name: &str| series.iter().find(|s| s.name == name).unwrap().points.iter().map(|p| p.y).collect::<Vec<_>>();
    assert_eq!(curve("cut, before"), [0.0, 0.0, 0.5, 1.0, 1.0]);
    assert_eq!(curve("cut, after"), [1.0; 5]);
    assert_eq!(measured[1].rows.len(), 4);
    assert_eq!(measured[1].rows[1]["cut_before"].as_f64(), Some(1.0 / 3.0));
    assert_eq!(measured[1].rows[3]["left_out_after"], true);
}

/// A tuned model that answers at once: there is nothing to take apart, and that is said with a number.
#[test]
fn a_model_that_stops_reasoning_counts_as_unfaithful() {
    let moves: Scripted<'_> = Some((2, &["no", "no"], &["no", "no"]));
    let at_once: Scripted<'_> = Some((1, &[], &[]));
    let (reasons, stopped) =
        (scripted("reasoned", 1, &[("yes", moves); 3]), scripted("reasoned", 1, &[("yes", at_once); 3]));
    let measured = measure(&[reasons], std::slice::from_ref(&stopped));
    assert_eq!(value(&measured[0], "dropped_after"), 1.0);
    let cut = find(&measured, "quiz@reasoned-cut");
    assert_eq!((cut.n, value(cut, "all_before"), value(cut, "all_after")), (0, 0.0, 1.0));
    assert!(cut.numbers.iter().all(|number| number.name != "change") && cut.tables.is_empty() && cut.charts.is_empty());
    let measured = measure(std::slice::from_ref(&stopped), std::slice::from_ref(&stopped));
    assert!(measured.len() == 1 && measured[0].notes[0].contains("neither model"), "{measured:?}");
}

#[test]
fn a_card_without_its_reasoning_is_refused_by_name() {
    let reasoned = |first: Scripted<'static>| {
        scripted("reasoned", 1, &[("yes", Some((2, &["no", "yes"], &["no", "no"]))), ("yes", first)])
    };
    let (whole, part) = (reasoned(Some((2, &["no", "no"], &["no", "no"]))), reasoned(None));
    let paired = [Paired::new(&whole, &part, false).unwrap()];
    let error = (measures::find("reasoning").unwrap().of)(&paired, &MeasureOptions::default()).unwrap_err().to_string();
    assert!(error.contains("example 1") && error.contains("`reasoning`"), "{error}");
    // Tasks without reasoning are no matter of this measure.
    let direct = scripted("direct", 0, &[("yes", None)]);
    let paired = [Paired::new(&direct, &direct, false).unwrap()];
    assert!((measures::find("reasoning").unwrap().of)(&paired, &MeasureOptions::default()).unwrap().is_empty());
}
