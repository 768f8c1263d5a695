//! How tokens are picked: what a task file says is what the model writes by.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hone_engine::DType;
use hone_eval::evaluate::{EvalOptions, evaluate};
use hone_eval::{DataRoot, Task};
use hone_model::generate::{GenerationConfig, generate};
use hone_model::{LoadOptions, Model, NoHooks};

const PROMPT: &str = "The dog ran and ran and ran and";

fn task(settings: &str) -> Result<Task, String> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("rows.jsonl"), format!("{{\"q\": \"{PROMPT}\", \"a\": \"on\"}}\n")).unwrap();
    let yaml = format!(
        "task: t\ndataset_path: rows.jsonl\ndoc_to_text: q\ndoc_to_target: a\n\
         generation_kwargs: {{until: [], max_gen_toks: 24, {settings}}}\n"
    );
    let file = directory.path().join("t.yaml");
    std::fs::write(&file, yaml).unwrap();
    Task::load(file.to_str().unwrap(), &DataRoot::default()).map_err(|error| error.to_string())
}

#[test]
fn answers_are_picked_as_the_file_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    let model = Model::load(path.to_str().unwrap(), LoadOptions { dtype: DType::F32, keep_quantised: false }).unwrap();
    let options = EvalOptions { seed: 7, ..EvalOptions::default() };
    let stop = AtomicBool::new(false);
    let answer = |settings: &str| {
        let task = task(settings).unwrap();
        let card = evaluate(&model, Arc::new(NoHooks), DType::F32, &task, &options, &mut |_| {}, &stop).unwrap();
        card.rows[0].answer.clone()
    };
    let prompt = model.tokenizer.encode(PROMPT, true).unwrap().ids;
    let written = |config: GenerationConfig| {
        let config = GenerationConfig { seed: 7, max_new_tokens: 24, ..config };
        let prompts = [prompt.clone()];
        let made = generate(&model, Arc::new(NoHooks), DType::F32, &prompts, &config, &mut |_, _| true).unwrap();
        made[0].text.clone()
    };
    let greedy = GenerationConfig::default;
    let plain = answer("do_sample: false");
    let penalised = answer("do_sample: false, repetition_penalty: 1.5");
    assert_eq!(plain, written(greedy()));
    assert_eq!(penalised, written(GenerationConfig { repetition_penalty: 1.5, ..greedy() }));
    assert_ne!(plain, penalised);
    let drawn = GenerationConfig { temperature: 1.5, ..greedy() };
    let likely = answer("do_sample: true, temperature: 1.5, min_p: 0.3");
    assert_eq!(likely, written(GenerationConfig { min_p: 0.3, ..drawn.clone() }));
    assert_ne!(likely, written(drawn.clone()));
    // Nothing said of draws, a temperature means them, as in the harness; where there are none, what is about them is not heeded.
    assert_eq!(answer("temperature: 1.5"), written(drawn));
    assert_eq!(answer("temperature: 1.5, do_sample: false, min_p: 0.3, top_k: 1"), plain);
    assert_eq!(answer("temperature: 0.0, min_p: 0.3"), plain);
}

#[test]
fn settings_out_of_range_are_said_when_the_file_is_read() {
    let message = |settings: &str| task(settings).err().unwrap_or_default();
    let refused = message("repetition_penalty: 0.0");
    assert!(
        refused.contains("generation_kwargs: `repetition_penalty`: found 0, expected a positive number"),
        "{refused}"
    );
    let refused = message("do_sample: true, min_p: 1.5");
    assert!(refused.contains("`min_p`: found 1.5"), "{refused}");
    let with_reasoning = message("repetition_penalty: 1.2}\nreasoning: {cue: So");
    assert!(with_reasoning.contains("generation_kwargs.repetition_penalty: is not heeded"), "{with_reasoning}");
    // What is not said leaves no mark on the task's hash.
    let definition = task("do_sample: false").unwrap().definition();
    let keys: Vec<&str> = definition["generation_kwargs"].as_object().unwrap().keys().map(String::as_str).collect();
    assert!(!keys.contains(&"min_p") && !keys.contains(&"repetition_penalty"), "{keys:?}");
    let said = task("repetition_penalty: 1.2").unwrap().definition();
    assert!(said["generation_kwargs"]["repetition_penalty"].as_f64().is_some(), "{said:?}");
}
