//! Generation as a user gets it: against `transformers` (`tools/golden/logits.py`), and what must hold whatever the model.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::Golden;
use hone_engine::DType;
use hone_model::generate::{Event, FinishReason, Generation, GenerationConfig, Wanted, generate, generate_each};
use hone_model::{LoadOptions, Model, ModelError, NoHooks};

const STORIES: &str = "../../assets/stories260k";

fn load(path: &Path, dtype: DType) -> Model {
    let options = LoadOptions { dtype, keep_quantised: false };
    Model::load(path.to_str().expect("a printable path"), options).expect("a sound model")
}

fn stories() -> Model {
    load(Path::new(STORIES), DType::F32)
}

fn greedy(max_new_tokens: usize) -> GenerationConfig {
    GenerationConfig { max_new_tokens, ..GenerationConfig::default() }
}

fn run(model: &Model, prompts: &[Vec<u32>], config: &GenerationConfig) -> Vec<Generation> {
    generate(model, Arc::new(NoHooks), DType::F32, prompts, config, &mut |_, _| true).expect("a sound run")
}

fn prompt(model: &Model, text: &str) -> Vec<u32> {
    model.tokenizer.encode(text, true).expect("encodes").ids
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    let mut models = vec![("stories260k", Path::new(STORIES).to_path_buf())];
    for (name, file) in common::GGUF_MODELS {
        models.extend(common::cached(file).map(|path| (name, path)));
    }
    for (name, path) in models {
        let model = load(&path, DType::F32);
        let golden = Golden::open(Path::new(&format!("tests/golden/{name}.safetensors")));
        let prompts: Vec<Vec<u32>> = (0..3).map(|i| golden.ids(&format!("prompt.{i}"))).collect();
        for (i, ours) in run(&model, &prompts, &greedy(64)).into_iter().enumerate() {
            let mut expected = golden.ids(&format!("greedy.{i}"));
            let ended = expected.last().is_some_and(|last| model.end_ids.contains(last));
            if ended {
                expected.pop();
            }
            assert_eq!(ours.ids, expected, "{name}: prompt {i}: {:?}", ours.text);
            let reason = if ended { FinishReason::EndOfTurn } else { FinishReason::Length };
            assert_eq!(ours.finish_reason, reason, "{name}: prompt {i}");
        }
    }
}

/// `tools/golden/penalty.py`: the penalty is over the prompt and what is written, each token once.
#[test]
fn a_repetition_penalty_writes_what_it_does_with_transformers() {
    #[derive(serde::Deserialize)]
    struct Row {
        penalty: f32,
        prompt: Vec<u32>,
        written: Vec<u32>,
    }
    let model = stories();
    let rows: Vec<Row> = serde_json::from_str(include_str!("golden/penalty.json")).unwrap();
    let mut texts = std::collections::BTreeSet::new();
    for Row { penalty, prompt, mut written } in rows {
        if written.last().is_some_and(|last| model.end_ids.contains(last)) {
            written.pop();
        }
        let config = GenerationConfig { repetition_penalty: penalty, ..greedy(40) };
        let ours = run(&model, std::slice::from_ref(&prompt), &config).remove(0);
        assert_eq!(ours.ids, written, "penalty {penalty} of {prompt:?}: {:?}", ours.text);
        texts.insert(ours.ids);
    }
    assert!(texts.len() >= 12, "penalties change what is written: {}", texts.len());
}

#[test]
fn what_else_is_in_the_batch_changes_nothing() {
    let model = stories();
    let texts =
        ["Once upon a time", "Tom", "The dog was very happy. It ran to the park and", "One day,", "Lily said: \"I"];
    let prompts: Vec<Vec<u32>> = texts.iter().map(|text| prompt(&model, text)).collect();
    let mut lengths = Vec::new();
    for config in [greedy(40), GenerationConfig { temperature: 0.9, top_k: 50, seed: 3, ..greedy(40) }] {
        let together = run(&model, &prompts, &config);
        lengths.extend(together.iter().map(|g| g.ids.len()));
        for (i, expected) in together.iter().enumerate() {
            // The same place in the list, other neighbours: long ones, and none that run along.
            let mut others = vec![prompt(&model, "She has a red ball and a big box. They play all day."); i + 1];
            others[i] = prompts[i].clone();
            assert_eq!(run(&model, &others, &config)[i], *expected, "prompt {i} with long neighbours");
            let single = GenerationConfig { max_new_tokens: 40, ..config.clone() };
            if config.temperature == 0.0 {
                assert_eq!(run(&model, &prompts[i..=i], &single)[0], *expected, "prompt {i} alone");
            }
        }
    }
    assert!(lengths.contains(&40), "no continuation ran to its end: {lengths:?}");
}

/// On a real model in bf16, where a last bit decides more often, and where products of one row and of many take other
/// kernels.
#[test]
fn a_real_model_writes_the_same_alone_and_in_company() {
    let Some(path) = common::cached(common::GGUF_MODELS[0].1) else { return };
    let model = load(&path, DType::BF16);
    let texts =
        ["The capital of France is", "def add(a, b):", "Once upon a time, in a small village by the sea, there"];
    let prompts: Vec<Vec<u32>> = texts.iter().map(|text| prompt(&model, text)).collect();
    let run = |prompts: &[Vec<u32>]| {
        generate(&model, Arc::new(NoHooks), DType::BF16, prompts, &greedy(24), &mut |_, _| true).expect("a sound run")
    };
    let together = run(&prompts);
    for (i, expected) in together.iter().enumerate() {
        assert_eq!(run(&prompts[i..=i])[0], *expected, "{:?}", texts[i]);
    }
}

#[test]
fn more_prompts_than_slots_take_turns() {
    let model = stories();
    let prompts: Vec<Vec<u32>> = (0..150).map(|i| prompt(&model, &"very ".repeat(i % 7 + 1))).collect();
    let all = run(&model, &prompts, &greedy(5));
    assert_eq!(all.len(), prompts.len());
    for i in [0, 63, 64, 149] {
        assert_eq!(run(&model, &prompts[i..=i], &greedy(5))[0], all[i], "prompt {i}");
    }
}

#[test]
fn a_common_beginning_changes_nothing() {
    let model = stories();
    let beginning = prompt(&model, &"Lily went to the park to play with Tom. ".repeat(24));
    assert!(beginning.len() > 256, "it is read in pieces: {} tokens", beginning.len());
    let ends = ["They saw", "The sun", "Then a big dog", "\n"];
    let prompts: Vec<Vec<u32>> =
        ends.iter().map(|end| [beginning.clone(), prompt(&model, end)].concat()).chain([beginning.clone()]).collect();
    for config in [greedy(12), GenerationConfig { temperature: 0.9, ..greedy(12) }] {
        let together = run(&model, &prompts, &config);
        // With a prompt of another kind among them, nothing is shared.
        let mut apart = prompts.clone();
        apart.push(prompt(&model, "Tom"));
        assert_eq!(run(&model, &apart, &config)[..prompts.len()], together[..]);
    }
}

#[test]
fn some_of_a_batch_are_what_they_are_with_the_others() {
    let model = stories();
    let beginning = prompt(&model, "Lily went to the park to play with Tom. ");
    assert!(beginning.len() >= 16, "it is read once: {} tokens", beginning.len());
    let ends = ["They saw", "The sun", "Then a big dog", "One"];
    let prompts: Vec<Vec<u32>> = ends.iter().map(|end| [beginning.clone(), prompt(&model, end)].concat()).collect();
    let config = GenerationConfig { temperature: 0.9, stop: vec![".".into()], ..greedy(40) };
    // Hands over until `enough` have ended.
    let each = |wanted: &[Wanted], enough: usize| {
        let mut ended = Vec::new();
        let mut on = |at: usize, event: Event<'_>| {
            if let Event::Ended(generation) = event {
                ended.push((at, generation));
            }
            ended.len() < enough
        };
        generate_each(&model, Arc::new(NoHooks), DType::F32, &prompts, wanted, &config, &mut on).expect("runs");
        ended
    };
    let wanted: Vec<Wanted> =
        (0..4).flat_map(|prompt| [7, 8].map(|seed| Wanted { prompt, seed, group: None })).collect();
    let mut all = each(&wanted, usize::MAX);
    all.sort_by_key(|(at, _)| *at);
    let all: Vec<Generation> = all.into_iter().map(|(_, generation)| generation).collect();
    for (which, seed) in [7, 8].into_iter().enumerate() {
        let once = run(&model, &prompts, &GenerationConfig { seed, ..config.clone() });
        assert!(once.iter().eq(all.iter().skip(which).step_by(2)), "seed {seed}");
    }
    assert_ne!(all[0], all[1]);
    let some = [5, 2, 6];
    let later = each(&some.map(|at| wanted[at]), usize::MAX);
    assert_eq!(later.len(), 3);
    assert!(later.iter().all(|(at, generation)| *generation == all[some[*at]]));
    // The shortest come first, and then none.
    let first = each(&wanted, 3);
    assert!((3..8).contains(&first.len()), "{} of 8", first.len());
    assert!(first.iter().all(|(at, generation)| *generation == all[*at]));
    let is_first = |at: &usize| first.iter().any(|(other, _)| other == at);
    let lengths = |first: bool| (0..8).filter(move |at| is_first(at) == first).map(|at| all[at].ids.len());
    assert!(lengths(true).max() <= lengths(false).min(), "those that ended have no more tokens than the others");
    assert!(each(&[], 1).is_empty());
}

#[test]
fn a_prompt_longer_than_a_piece_is_read_whole() {
    let model = stories();
    let long: Vec<u32> = prompt(&model, &"Lily went to the park to play with Tom. ".repeat(30)).split_off(0);
    assert!(long.len() > 300 && long.len() < 480, "{} tokens", long.len());
    let one = &run(&model, std::slice::from_ref(&long), &greedy(3))[0];
    // Token by token over growing prompts, each read afresh.
    let mut grown = long.clone();
    for expected in &one.ids {
        let next = &run(&model, std::slice::from_ref(&grown), &greedy(1))[0];
        assert_eq!(next.ids, [*expected]);
        grown.push(*expected);
    }
}

#[test]
fn seeds_decide_draws() {
    let model = stories();
    let prompts = vec![prompt(&model, "Once upon a time"); 2];
    let config = |seed| GenerationConfig { temperature: 1.0, seed, ..greedy(20) };
    let first = run(&model, &prompts, &config(1));
    assert_eq!(first, run(&model, &prompts, &config(1)));
    assert_ne!(first, run(&model, &prompts, &config(2)));
    assert_ne!(first[0], first[1], "equal prompts draw for themselves");
}

#[test]
fn generation_ends_at_stop_texts_end_tokens_the_limit_and_on_request() {
    let mut model = stories();
    let start = [prompt(&model, "Once upon a time, there was a little girl named Lily. She loved to play")];
    let free = run(&model, &start, &greedy(64)).remove(0);

    let stopped = run(&model, &start, &GenerationConfig { stop: vec!["ball".into()], ..greedy(64) }).remove(0);
    assert_eq!(stopped.finish_reason, FinishReason::Stop);
    assert_eq!(stopped.text, free.text.split_once("ball").expect("the story has one").0);
    assert!(stopped.ids.len() < free.ids.len());

    let none = run(&model, &start, &greedy(0)).remove(0);
    assert_eq!((none.ids.len(), none.text.as_str(), none.finish_reason), (0, "", FinishReason::Length));

    let mut seen = String::new();
    let mut stream = |index: usize, piece: &str| {
        assert_eq!(index, 0);
        seen.push_str(piece);
        seen.len() < 20
    };
    let cancelled = generate(&model, Arc::new(NoHooks), DType::F32, &start, &greedy(64), &mut stream).expect("runs");
    assert_eq!(cancelled[0].finish_reason, FinishReason::Cancelled);
    assert!(seen.len() >= 20 && free.text.starts_with(&seen) && seen.len() < free.text.len());

    let full = vec![start[0].iter().copied().cycle().take(510).collect::<Vec<u32>>()];
    let last = run(&model, &full, &greedy(64)).remove(0);
    assert_eq!((last.ids.len(), last.finish_reason), (2, FinishReason::Length), "512 positions in all");

    model.end_ids.push(free.ids[10]);
    let first = free.ids.iter().position(|id| *id == free.ids[10]).expect("it is there");
    let ended = run(&model, &start, &greedy(64)).remove(0);
    assert_eq!((ended.ids.as_slice(), ended.finish_reason), (&free.ids[..first], FinishReason::EndOfTurn));
}

#[test]
fn streamed_pieces_are_the_text() {
    let model = stories();
    let prompts = vec![prompt(&model, "Once upon a time"), prompt(&model, "Tom and")];
    let mut streamed = vec![String::new(); 2];
    let config = GenerationConfig { temperature: 1.5, ..greedy(50) };
    let mut stream = |index: usize, piece: &str| {
        assert!(!piece.is_empty());
        streamed[index].push_str(piece);
        true
    };
    let texts = generate(&model, Arc::new(NoHooks), DType::F32, &prompts, &config, &mut stream).expect("runs");
    assert_eq!(texts.iter().map(|g| &g.text).collect::<Vec<_>>(), streamed.iter().collect::<Vec<_>>());
}

#[test]
fn what_cannot_be_generated_is_refused_by_name() {
    let model = stories();
    let refused = |prompts: &[Vec<u32>], config: &GenerationConfig| -> ModelError {
        generate(&model, Arc::new(NoHooks), DType::F32, prompts, config, &mut |_, _| true).expect_err("refused")
    };
    let says = |error: ModelError, text: &str| assert!(error.to_string().contains(text), "{error}");
    says(refused(&[vec![5], vec![]], &greedy(1)), "sequence 1: 0 tokens");
    says(refused(&[vec![5; 513]], &greedy(1)), "513 tokens, but the model reads from 1 to 512");
    says(refused(&[vec![5, 512]], &greedy(1)), "token 1 of the batch is 512");
    let top_p = GenerationConfig { top_p: 1.5, ..greedy(1) };
    says(refused(&[vec![5]], &top_p), "`top_p`: found 1.5");
    says(refused(&[vec![5]], &GenerationConfig { temperature: f32::NAN, ..greedy(1) }), "`temperature`");
    says(refused(&[vec![5]], &GenerationConfig { min_p: -1.0, ..greedy(1) }), "`min_p`");
    says(refused(&[vec![5]], &GenerationConfig { repetition_penalty: 0.0, ..greedy(1) }), "`repetition_penalty`");
}

#[test]
fn no_prompts_give_no_continuations() {
    assert!(run(&stories(), &[], &greedy(4)).is_empty());
}
