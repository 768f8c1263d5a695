//! Maps of attention on the tiny model: what belongs to the context, that nothing is lost, what changes them.

mod common;

use std::sync::atomic::AtomicBool;

use common::{TEMPLATE, lora, moved, question, questions, stories, with_template};
use hone_edit::EditStack;
use hone_engine::DType;
use hone_eval::requests::Encoder;
use hone_eval::statistics::BootstrapOptions;
use hone_eval::task::{PromptOptions, Prompts};
use hone_eval::{DataRoot, Task};
use hone_locate::attention::{AttentionReport, Before, Looked, Looks, Subject, measure};
use hone_locate::difference::{changes, difference};
use hone_locate::prompt::{Form, Part, Prompt};
use hone_locate::question::{Columns, of_rows, of_task};
use hone_locate::{AttentionMass, LocateError, Looker, Question};
use hone_model::Model;
use serde_json::json;

const OPTIONS: BootstrapOptions = BootstrapOptions {
    resamples: 300,
    seed: 1,
    level: 0.95,
    method: hone_eval::statistics::IntervalMethod::Percentile,
};

fn looked(model: &Model, stack: &EditStack, questions: &[Question], forms: &[Form]) -> Looked {
    let looker = Looker::new(model, stack, DType::F32);
    measure(&looker, questions, forms, &mut |_| {}, &AtomicBool::new(false)).unwrap()
}

/// What a prompt's tokens say, part by part.
fn texts(model: &Model, prompt: &Prompt, part: Part) -> String {
    let own = prompt.ids.iter().zip(&prompt.parts).filter(|(_, own)| **own == part).map(|(id, _)| *id);
    model.tokenizer.decode(&own.collect::<Vec<_>>(), false).unwrap()
}

#[test]
fn every_token_belongs_where_its_text_stands() {
    let model = with_template(TEMPLATE);
    let encoder = Encoder::new(&model, None).unwrap();
    let question = &questions()[1];
    for form in [Form::Plain, Form::Chat] {
        let prompt = Prompt::new(question, form, &model, &encoder).unwrap();
        let said = |part| texts(&model, &prompt, part);
        let squeezed = |text: String| text.split_whitespace().collect::<String>();
        // Line breaks inside the passage are no words of it.
        assert_eq!(squeezed(said(Part::Context)), "Thedograntothepark.Thecatsatdown.", "{form}");
        assert_eq!(squeezed(said(Part::Answer)), "tothepark", "{form}");
        assert!(squeezed(said(Part::Question)).ends_with("Question:Wheredidthedogrun?Answer:"), "{form}");
        let says = prompt.ids.iter().zip(&prompt.evidence).filter(|(_, says)| **says).map(|(id, _)| *id);
        let evidence = model.tokenizer.decode(&says.collect::<Vec<_>>(), false).unwrap();
        assert_eq!(squeezed(evidence), "tothepark", "{form}");
        assert_eq!(prompt.parts.iter().filter(|part| **part == Part::First).count(), 1, "{form}");
        assert!(prompt.parts[prompt.prompt_tokens..].iter().all(|part| *part == Part::Answer), "{form}");
        let role = squeezed(said(Part::Role));
        match form {
            Form::Plain => assert_eq!(role, ""),
            Form::Chat => {
                assert_eq!(role, "<|assistant|>");
                let markup = squeezed(said(Part::Markup));
                assert!(
                    markup.contains("Youhelp.") && markup.contains("<|user|>") && markup.ends_with("<|end|>"),
                    "{markup}"
                );
            }
        }
    }
}

#[test]
fn the_prompt_is_what_an_evaluation_asks() {
    let model = with_template(TEMPLATE);
    let encoder = Encoder::new(&model, None).unwrap();
    let task = Task::load("needle", &DataRoot::default()).unwrap();
    let all = of_task(&task, 6).unwrap();
    assert_eq!(all.len(), 6);
    for (form, template) in [(Form::Plain, None), (Form::Chat, model.template.as_ref())] {
        let mut prompts = Prompts::new(&task, template, &PromptOptions::default()).unwrap();
        for (index, question) in all.iter().enumerate() {
            let item = prompts.item(index).unwrap();
            let own = Prompt::new(question, form, &model, &encoder).unwrap();
            assert_eq!(own.ids[..own.prompt_tokens], encoder.encode(&item.prompt).unwrap(), "{form} {index}");
            assert_eq!(
                question.user[question.context.clone()],
                task.docs.get(index).unwrap().unwrap().columns["context"],
                "{index}"
            );
            assert!(own.evidence.contains(&true), "the answer stands in the passage");
        }
    }
}

/// Every cell of the parts together.
fn sum(looks: &Looks) -> Vec<f64> {
    let parts = looks.parts.values().chain(&looks.virtual_tokens);
    let mut sum = vec![0.0; looks.part(Part::Context).mass.len()];
    parts.for_each(|mass| sum.iter_mut().zip(&mass.mass).for_each(|(sum, mass)| *sum += mass));
    sum
}

#[test]
fn nothing_of_the_attention_is_lost() {
    let model = with_template(TEMPLATE);
    let prompts = json!({"type": "prompt_tuning", "num_virtual_tokens": 3});
    for (stack, has_virtual) in [(EditStack::new(), false), (lora(&model), false), (moved(&model, prompts), true)] {
        let looked = looked(&model, &stack, &questions(), &[Form::Plain, Form::Chat]);
        assert_eq!((looked.ids.len(), looked.left_out.len()), (4, 0));
        for measured in &looked.forms {
            for looks in [&measured.from_prompt, &measured.from_answer] {
                let context = looks.part(Part::Context);
                assert_eq!((context.layers, context.heads, context.n, context.per_example.len()), (5, 8, 4, 4));
                assert!(sum(looks).iter().all(|sum| (sum - 1.0).abs() < 1e-5), "{:?}", sum(looks));
                assert_eq!(looks.virtual_tokens.is_some(), has_virtual);
                let virtual_share = looks.virtual_tokens.as_ref().map_or(1.0, AttentionMass::overall);
                assert!(virtual_share > 1e-5, "{}: {virtual_share} {:?}", measured.form, looks.virtual_tokens);
                let evidence = looks.evidence.as_ref().unwrap();
                // The third question's answer is not in its passage word for word.
                assert_eq!(evidence.n, 3);
            }
            // The answer sees itself, the prompt does not see the answer.
            assert_eq!(measured.from_prompt.part(Part::Answer).overall(), 0.0);
            assert!(measured.from_answer.part(Part::Answer).overall() > 0.01);
            assert!(measured.log_probability.iter().all(|p| *p < 0.0 && p.is_finite()));
        }
        let roles = looked.forms.iter().map(|m| m.from_prompt.part(Part::Role).overall() > 0.0);
        assert_eq!(roles.collect::<Vec<_>>(), [false, true], "only a template opens the assistant's turn");
    }
}

#[test]
fn a_template_that_adds_nothing_changes_nothing() {
    let model = with_template("{{ messages[0].content }}");
    let looked = looked(&model, &EditStack::new(), &questions(), &[Form::Plain, Form::Chat]);
    let [plain, chat] = [Form::Plain, Form::Chat].map(|form| looked.form(form).unwrap().from_prompt.clone());
    assert_eq!(plain, chat);
    let pairs: Vec<_> = (0..4).map(|i| (i, i)).collect();
    let found = difference(plain.part(Part::Context), chat.part(Part::Context), &pairs, &OPTIONS).unwrap();
    assert!(found.difference.iter().chain(&found.low).chain(&found.high).all(|d| *d == 0.0) && found.apart == 0);
}

#[test]
fn an_edit_of_queries_changes_where_heads_look() {
    let model = stories();
    let all = [Form::Plain];
    let before = looked(&model, &EditStack::new(), &questions(), &all);
    let after = looked(&model, &lora(&model), &questions(), &all);
    // In another order, and with one question less, pairs are found by id.
    let mut fewer = questions();
    fewer.swap(0, 2);
    fewer.pop();
    let reordered = looked(&model, &lora(&model), &fewer, &all);
    let found = changes(&before, &after, &OPTIONS).unwrap();
    assert_eq!((found.len(), found[0].from_prompt.n), (1, 4));
    assert!(found[0].from_prompt.difference.iter().any(|d| d.abs() > 0.01), "{:?}", found[0].from_prompt);
    let again = changes(&before, &reordered, &OPTIONS).unwrap();
    assert_eq!(again[0].from_answer.n, 3);
    let cell = |looked: &Looked, at: usize| looked.forms[0].from_answer.part(Part::Context).per_example[at][7];
    let expected: f64 = (0..3).map(|at| cell(&after, at) - cell(&before, at)).sum::<f64>() / 3.0;
    assert!((again[0].from_answer.difference[7] - expected).abs() < 1e-9);
    let other = looked(&model, &EditStack::new(), &[question("9", "A dog.", "What?", "dog")], &all);
    assert!(matches!(changes(&before, &other, &OPTIONS), Err(LocateError::NotComparable { .. })));
}

#[test]
fn the_papers_shares_add_up_and_pick_one_head() {
    let model = with_template(TEMPLATE);
    let looked = looked(&model, &EditStack::new(), &questions(), &[Form::Plain, Form::Chat]);
    let shares = looked.shares(2, &OPTIONS).unwrap();
    let plain = &looked.form(Form::Plain).unwrap().from_prompt;
    let user = |head| plain.part(Part::Context).at(2, head) + plain.part(Part::Question).at(2, head);
    assert!((0..8).all(|head| user(head) <= user(shares.head)));
    for form in &shares.forms {
        assert!((form.user.value + form.role.value + form.first.value - 1.0).abs() < 1e-6);
        assert!(form.user.low <= form.user.value && form.user.value <= form.user.high);
    }
    assert_eq!(looked.shares(5, &OPTIONS), None, "there are five layers");
}

#[test]
fn the_report_reads_back_as_it_was_written() {
    let model = with_template(TEMPLATE);
    let measured = |stack: &EditStack| {
        let mut looked = looked(&model, stack, &questions(), &[Form::Plain, Form::Chat]);
        let shares = looked.shares(2, &OPTIONS).unwrap();
        looked.slim();
        (looked, shares)
    };
    let ((looked, shares), (before, shares_before)) = (measured(&lora(&model)), measured(&EditStack::new()));
    let report = AttentionReport {
        source: "questions".into(),
        subject: Subject { model: "stories260k".into(), ..Subject::default() },
        changes: changes(&before, &looked, &OPTIONS).unwrap(),
        template: None,
        before: Some(Before { subject: Subject::default(), looked: before, shares: shares_before }),
        looked,
        shares,
    };
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<AttentionReport>(&text).unwrap(), report);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    for side in ["/forms/0/from_prompt/parts/context/mass", "/before/forms/1/from_prompt/parts/context/mass"] {
        assert_eq!(value.pointer(side).unwrap().as_array().map(Vec::len), Some(40), "{side}");
    }
    assert!(value.pointer("/forms/0/from_prompt/parts/role/per_example").is_none(), "kept for the context only");
    let rows = report.looked.examples(&report.shares);
    assert_eq!((rows.len(), rows[0]["id"].as_str()), (4, Some("1")));
    assert!(rows.iter().all(|row| row["chat"]["user_share"].as_f64().is_some_and(|share| share > 0.0)));
}

#[test]
fn what_cannot_be_looked_at_is_left_out_or_refused() {
    let model = stories();
    let long = "The dog ran to the park. ".repeat(60);
    let all = [questions()[0].clone(), question("5", "", "Who?", "Max"), question("6", long.trim(), "Who?", "Max")];
    let looked = looked(&model, &EditStack::new(), &all, &[Form::Plain]);
    assert_eq!(
        (looked.ids.as_slice(), looked.left_out.as_slice()),
        (["1".to_owned()].as_slice(), ["5", "6"].map(String::from).as_slice())
    );
    let looker = Looker::new(&model, &EditStack::new(), DType::F32);
    let stopped = measure(&looker, &all, &[Form::Plain], &mut |_| {}, &AtomicBool::new(true));
    assert!(matches!(stopped, Err(LocateError::Stopped { done: 0, total: 3 })));
    let refused = measure(&looker, &all, &[Form::Chat], &mut |_| {}, &AtomicBool::new(false)).unwrap_err().to_string();
    assert!(refused.contains("no chat template"), "{refused}");
    let shouting = with_template("{{ messages[0].content | upper }}");
    let looker = Looker::new(&shouting, &EditStack::new(), DType::F32);
    let refused = measure(&looker, &all, &[Form::Chat], &mut |_| {}, &AtomicBool::new(false)).unwrap_err().to_string();
    assert!(refused.contains("changes the user's text in example 1"), "{refused}");
    let none = Task::load("demo_piqa", &DataRoot::default()).unwrap();
    assert!(of_task(&none, 3).unwrap_err().to_string().contains("doc_to_passage"));
}

#[test]
fn rows_of_a_file_are_questions() {
    let file = tempfile::NamedTempFile::with_suffix(".jsonl").unwrap();
    let rows = "{\"c\": \"It rained.\", \"q\": \"What fell?\", \"a\": [\"rain\", \"water\"]}\n{\"q\": \"Who?\", \"a\": 7}\n{\"q\": \"Who?\"}\n";
    std::fs::write(file.path(), rows).unwrap();
    let columns = Columns { context: "c".into(), question: "q".into(), answer: "a".into() };
    let two = of_rows(file.path(), &columns, 2).unwrap();
    assert_eq!(&two[0].1.user[two[0].1.context.clone()], "It rained.");
    assert_eq!((two[0].1.answer.as_str(), two[1].1.answer.as_str(), two[1].1.context.len()), ("rain", "7", 0));
    let error = of_rows(file.path(), &columns, 9).unwrap_err().to_string();
    assert!(error.contains("row 3") && error.contains("no column `a`; there are q"), "{error}");
}

/// A map by hand: two examples of one layer with two heads.
#[test]
fn a_map_written_by_hand_is_read() {
    let text = r#"{"layers": 1, "heads": 2, "mass": [0.25, 0.5], "n": 2}"#;
    let mass: AttentionMass = serde_json::from_str(text).unwrap();
    assert_eq!((mass.at(0, 1), mass.by_layer()[0], mass.per_example.len()), (0.5, 0.375, 0));
}
