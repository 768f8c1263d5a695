//! Scores of context-dependency on the tiny model: bounds, order of mean and maximum, what does not count.

#![allow(clippy::single_range_in_vec_init)] // a set may be one range

mod common;

use common::{TEMPLATE, lora, questions, stories, with_template};
use hone_edit::EditStack;
use hone_engine::DType;
use hone_eval::requests::Request;
use hone_eval::score_text;
use hone_locate::Looker;
use hone_locate::conversation::{Conversation, spoken};
use hone_locate::dependency::{LONGEST, TurnScore, gain, scores};
use hone_locate::look::positions;
use hone_locate::prompt::Form;
use hone_locate::scored::{DependencyReport, MOVED, RowScores, turns};
use hone_model::template::Message;
use hone_model::{Context, Model, TokenBatch};
use serde_json::Map;

fn conversation(messages: &[(&str, &str)]) -> Conversation {
    let message = |(role, content): &(&str, &str)| Message {
        role: (*role).into(),
        content: (*content).into(),
        extra: Map::new(),
    };
    Conversation { id: "1".into(), row: Map::new(), messages: messages.iter().map(message).collect() }
}

const TALK: [(&str, &str); 4] = [
    ("user", "Tom has a red ball.\nWhat does Tom have?"),
    ("assistant", "Tom has a red ball."),
    ("user", "Is it big?"),
    ("assistant", "No, it is small."),
];

fn scored(
    model: &Model,
    stack: &EditStack,
    talk: &[(&str, &str)],
    form: Form,
    longest: usize,
) -> Vec<Option<TurnScore>> {
    let looker = Looker::new(model, stack, DType::F32);
    let encoder = looker.encoder().unwrap();
    scores(&looker, &encoder, &conversation(talk), form, 2, longest).unwrap()
}

#[test]
fn scores_are_shares_and_the_codes_is_never_less_than_the_papers() {
    let model = with_template(TEMPLATE);
    for stack in [EditStack::new(), lora(&model)] {
        for form in [Form::Plain, Form::Chat] {
            let turns = scored(&model, &stack, &TALK, form, LONGEST);
            assert_eq!(turns.len(), 2);
            for turn in turns {
                let TurnScore { score, max_first, head, tokens } = turn.unwrap();
                assert!(0.0 < score && score <= max_first && max_first <= 1.0 + 1e-6, "{score} {max_first}");
                assert!(head < 8 && tokens > 3);
            }
        }
    }
}

#[test]
fn what_comes_later_changes_no_score() {
    let model = with_template(TEMPLATE);
    for form in [Form::Plain, Form::Chat] {
        let whole = scored(&model, &EditStack::new(), &TALK, form, LONGEST)[0].unwrap();
        let start = scored(&model, &EditStack::new(), &TALK[..2], form, LONGEST)[0].unwrap();
        assert!((whole.score - start.score).abs() < 1e-6 && whole.tokens == start.tokens, "{whole:?} {start:?}");
    }
}

#[test]
fn a_turn_without_a_user_before_it_depends_on_nothing() {
    let turns =
        scored(&stories(), &EditStack::new(), &[("assistant", "Hello."), ("user", "Hi.")], Form::Plain, LONGEST);
    let turn = turns[0].unwrap();
    assert_eq!((turns.len(), turn.score, turn.max_first), (1, 0.0, 0.0));
}

#[test]
fn words_are_the_users_without_line_breaks_and_marks() {
    let model = with_template(TEMPLATE);
    let looker = Looker::new(&model, &EditStack::new(), DType::F32);
    let encoder = looker.encoder().unwrap();
    for form in [Form::Plain, Form::Chat] {
        let spoken = spoken(&conversation(&TALK), form, &model, &encoder, LONGEST).unwrap();
        let text = |flags: Vec<usize>| {
            let ids: Vec<u32> = flags.into_iter().map(|at| spoken.ids[at]).collect();
            model.tokenizer.decode(&ids, false).unwrap().split_whitespace().collect::<String>()
        };
        let user: Vec<usize> = (0..spoken.ids.len()).filter(|at| spoken.user[*at]).collect();
        let said = text(user);
        // Without a template the first token is the user's own first word (or the beginning-of-text token before it).
        assert!("Tomhasaredball.WhatdoesTomhave?Isitbig?".ends_with(&said) && said.len() > 35, "{form}: {said}");
        assert_eq!(text(spoken.turns[0].clone()), "Tomhasaredball.", "{form}");
        assert_eq!(text(spoken.turns[1].clone()), "No,itissmall.", "{form}");
    }
}

/// The score from another way of asking: the whole attention of every row, and fewer words of the user.
#[test]
fn taking_words_away_never_raises_the_score() {
    let model = stories();
    let looker = Looker::new(&model, &EditStack::new(), DType::F32);
    let encoder = looker.encoder().unwrap();
    let spoken = spoken(&conversation(&TALK), Form::Plain, &model, &encoder, LONGEST).unwrap();
    let shares = |user: Vec<bool>| {
        let request = Request { input: spoken.ids.clone(), targets: vec![1], truncated: false, edit_group: None };
        let (_, masses) = looker.look(request, spoken.turns[0].clone(), vec![positions(user)], 2..3).unwrap();
        let rows = 0..masses.rows;
        rows.map(|row| (0..8).map(|head| masses.at(row, 0, head, 0)).collect::<Vec<f64>>()).collect::<Vec<_>>()
    };
    let score = |user: Vec<bool>| hone_locate::dependency::turn_score(&shares(user)).unwrap().score;
    let all = score(spoken.user.clone());
    let found = scores(&looker, &encoder, &conversation(&TALK), Form::Plain, 2, LONGEST).unwrap()[0].unwrap();
    assert_eq!(all, found.score);
    let mut fewer = spoken.user.clone();
    let mut last = all;
    while let Some(at) = fewer.iter().position(|own| *own) {
        fewer[at] = false;
        let less = score(fewer.clone());
        assert!(less <= last + 1e-12, "{less} after {last}");
        last = less;
    }
    assert_eq!(last, 0.0);
}

/// The same turns by two versions: what changed is the difference of their scores, and nothing where the version is the same.
#[test]
fn two_versions_of_a_model_make_a_measure() {
    let model = stories();
    let talk = conversation(&TALK);
    let row = |stack: &EditStack, longest: usize| RowScores {
        turns: scored(&model, stack, &TALK, Form::Plain, longest),
        gain: None,
    };
    let report = |before: &RowScores, after: &RowScores| {
        let (turns, left_out) = turns(&talk, None, after, Some(before));
        DependencyReport {
            source: "talk.jsonl".into(),
            form: Form::Plain,
            layer: 2,
            layers: 5,
            moved: MOVED,
            group: None,
            subject: Default::default(),
            before: Some(Default::default()),
            left_out,
            turns,
        }
    };
    let number = |report: &DependencyReport, name: &str| {
        let measure = hone_locate::measure::dependency::of(report);
        measure.tasks[0].numbers.iter().find(|number| number.name == name).map(|number| number.value).unwrap()
    };
    let (plain, edited) = (row(&EditStack::new(), LONGEST), row(&lora(&model), LONGEST));
    let changed = report(&plain, &edited);
    let mean = |row: &RowScores| row.turns.iter().map(|turn| turn.unwrap().score).sum::<f64>() / 2.0;
    let change = mean(&edited) - mean(&plain);
    assert!(change != 0.0 && (number(&changed, "score_change") - change).abs() < 1e-12, "{changed:?}");
    assert!((number(&changed, "score_before") - mean(&plain)).abs() < 1e-12);
    let same = report(&plain, &plain);
    assert_eq!(["score_change", "moved_share", "same_head_share"].map(|name| number(&same, name)), [0.0, 0.0, 1.0]);
    // It reads back from its file as it was.
    let text = serde_json::to_string(&changed).unwrap();
    assert_eq!(serde_json::from_str::<DependencyReport>(&text).unwrap().turns.len(), 2);
    // A turn that one of the two has no score of is left out of both.
    let spoken = spoken(
        &talk,
        Form::Plain,
        &model,
        &Looker::new(&model, &EditStack::new(), DType::F32).encoder().unwrap(),
        LONGEST,
    );
    let end_of_first = spoken.unwrap().turns[0].last().unwrap() + 1;
    let cut = report(&row(&EditStack::new(), end_of_first), &edited);
    assert_eq!((cut.turns.len(), cut.left_out, cut.turns[0].id.as_str()), (1, 1, "1.1"));
}

#[test]
fn turns_behind_the_limit_are_not_scored() {
    let model = stories();
    let all = scored(&model, &EditStack::new(), &TALK, Form::Plain, LONGEST);
    let looker = Looker::new(&model, &EditStack::new(), DType::F32);
    let encoder = looker.encoder().unwrap();
    let spoken = spoken(&conversation(&TALK), Form::Plain, &model, &encoder, LONGEST).unwrap();
    let end_of_first = spoken.turns[0].last().unwrap() + 1;
    let cut = scored(&model, &EditStack::new(), &TALK, Form::Plain, end_of_first);
    assert_eq!((cut[0].is_some(), cut[1]), (true, None));
    assert!((cut[0].unwrap().score - all[0].unwrap().score).abs() < 1e-6);
    assert_eq!(scored(&model, &EditStack::new(), &TALK, Form::Plain, end_of_first - 1), [None, None]);
    assert_eq!(scored(&model, &EditStack::new(), &[("user", "Hi.")], Form::Plain, LONGEST), []);
}

/// The gain, from log-probabilities of whole texts.
#[test]
fn the_gain_is_what_the_context_tells() {
    let model = stories();
    let looker = Looker::new(&model, &EditStack::new(), DType::F32);
    let encoder = looker.encoder().unwrap();
    let question = &questions()[0];
    let found = gain(&looker, &encoder, question, Form::Plain).unwrap().unwrap();
    let tokens = encoder.pair(&question.user, " a blue car").unwrap().1.len();
    let of = |user: &str| -> f64 {
        let scored = score_text(&looker.scorer, &format!("{user} a blue car")).unwrap();
        scored.logprobs[scored.logprobs.len() - tokens..].iter().map(|p| f64::from(*p)).sum()
    };
    let expected = (of(&question.user) - of(question.alone.as_deref().unwrap())) / tokens as f64;
    assert!((found - expected).abs() < 1e-5, "{found}, expected {expected}");
    let bare = common::question("2", "", "Who?", "Max");
    assert_eq!(gain(&looker, &encoder, &bare, Form::Plain).unwrap(), None);
}

/// Without anybody asking, the same hooks compute the same numbers: a probe is only there while it is wanted.
#[test]
fn a_probe_that_wants_nothing_changes_nothing() {
    let model = stories();
    let batch = TokenBatch::from_sequences(&[[5u32, 90, 17, 33, 8]]);
    let plain = Context::inference(EditStack::new().hooks(DType::F32), DType::F32);
    let looker = Looker::new(&model, &EditStack::new(), DType::F32);
    let probed = Context::inference(looker.scorer.hooks.clone(), DType::F32);
    let hidden = |cx: &Context| model.decoder.hidden(cx, &batch).value;
    assert_eq!(hidden(&plain).as_bytes(), hidden(&probed).as_bytes());
    // One that wants something does not change them either.
    let request = Request { input: batch.ids.clone(), targets: vec![9], truncated: false, edit_group: None };
    let (scored, _) = looker.look(request.clone(), vec![4], vec![vec![0..3]], 0..5).unwrap();
    let alone = hone_eval::Scorer { hooks: plain.hooks.clone(), ..looker.scorer.clone() };
    let again = alone.score(&[vec![request]], &mut |_| Ok(())).unwrap();
    assert_eq!(again[0][0], scored);
}
