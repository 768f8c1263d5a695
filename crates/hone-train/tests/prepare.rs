//! From files to a trained adapter, the whole way through this crate, on a model with a chat template.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hone_data::Codec;
use hone_edit::EditStack;
use hone_engine::DType;
use hone_model::{LoadOptions, Model};
use hone_train::{ModelCodec, Recipe, Start, TrainError, Trainer, new_edit, prepare, recipe};
use serde_json::Map;

/// stories260k with a chat template beside it.
fn chatty(directory: &Path) -> Arc<Model> {
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(common::stories_path().join(file), directory.join(file)).unwrap();
    }
    let template = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}\
        {% if add_generation_prompt %}assistant:{% endif %}";
    std::fs::write(directory.join("chat_template.jinja"), template).unwrap();
    let names = r#"{"bos_token": "<s>", "eos_token": "</s>"}"#;
    std::fs::write(directory.join("tokenizer_config.json"), names).unwrap();
    let options = LoadOptions { dtype: DType::F32, keep_quantised: false };
    Arc::new(Model::load(directory.to_str().unwrap(), options).unwrap())
}

fn conversations(path: &Path, n: usize) {
    let row = |i: usize| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "Who is there, {i}?"}}, {{"role": "assistant", "content": "It is Tim and {i} cats."}}]}}"#
        )
    };
    std::fs::write(path, (0..n).map(row).collect::<Vec<_>>().join("\n")).unwrap();
}

fn written(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("recipe.yaml");
    std::fs::write(&path, text).unwrap();
    path
}

fn run(recipe: &Recipe, model: &Arc<Model>, out: &Path) -> Result<hone_train::Outcome, TrainError> {
    let data = Arc::new(prepare::prepare(recipe, model)?);
    let stack = EditStack::training(new_edit(recipe, model)?);
    let trainer = Trainer::new(model.clone(), stack, data, recipe, out, Start::Fresh)?;
    trainer.run(&AtomicBool::new(false), &mut |_| {})
}

const RECIPE: &str = "model: here\ndata: {path: chat.jsonl, validation_fraction: 0.2}\n\
    train: {epochs: 2, dtype: f32, learning_rate: 1e-3, batch_size: 4}\n";

#[test]
fn conversations_are_trained_from_a_file_and_every_check_holds() {
    let directory = tempfile::tempdir().unwrap();
    let model = chatty(directory.path());
    conversations(&directory.path().join("chat.jsonl"), 20);
    let recipe = recipe::read(&written(directory.path(), RECIPE), &[]).unwrap();
    let out = directory.path().join("run");
    let outcome = run(&recipe, &model, &out).unwrap();
    assert!(outcome.best.unwrap().validation_loss < 4.0, "{outcome:?}");
    let record: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("invariants.json")).unwrap()).unwrap();
    for check in record["checks"].as_array().unwrap() {
        assert_eq!(check["status"], "held", "{check}");
    }
    let shown = record["examples"][0]["pieces"].to_string();
    assert!(shown.contains("It is Tim"), "{shown}");
    // The resolved recipe makes the same run again, from anywhere.
    let resolved = recipe::read(&out.join("recipe.yaml"), &[]).unwrap();
    let again = directory.path().join("again");
    run(&resolved, &model, &again).unwrap();
    assert_eq!(common::adapter_bytes(&out), common::adapter_bytes(&again));
}

#[test]
fn the_codec_speaks_for_the_model() {
    let directory = tempfile::tempdir().unwrap();
    let model = chatty(directory.path());
    let codec = ModelCodec::new(&model, 0);
    assert!(codec.abilities().chat_template && !codec.abilities().tool_calls);
    assert_eq!((codec.bos(), codec.eos(), codec.max_length()), (Some(1), Some(2), 512));
    assert!(codec.end_of_turn_ids().contains(&2));
    let message = hone_data::Message::new("user", "Hi");
    let text = codec.render_chat(std::slice::from_ref(&message), &Map::new(), true).unwrap();
    assert_eq!(text, "<s>user: Hi</s>\nassistant:");
    assert_eq!(codec.token_text(2), "</s>");

    let plain = common::stories(DType::F32);
    let refused = ModelCodec::new(&plain, 0).render_chat(&[message], &Map::new(), true).unwrap_err().to_string();
    assert!(refused.contains("has no chat template") && refused.contains("prompt_template"), "{refused}");
}

#[test]
fn bad_data_is_refused_before_anything_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let model = chatty(directory.path());
    let chat = directory.path().join("chat.jsonl");
    let refusal = |content: &str, data: &str| {
        std::fs::write(&chat, content).unwrap();
        let text = format!("model: here\ndata: {{path: chat.jsonl, {data}}}\n");
        let recipe = recipe::read(&written(directory.path(), &text), &[]).unwrap();
        let out = directory.path().join("run");
        let message = run(&recipe, &model, &out).unwrap_err().to_string();
        assert!(!out.exists(), "{message}");
        message
    };
    let missing = refusal("{\"messages\": [{\"role\": \"user\"}]}\n", "");
    assert!(missing.contains("chat.jsonl: row 1") && missing.contains("content"), "{missing}");
    assert!(refusal("", "").contains("no training examples"), "{}", refusal("", ""));
    let row = "{\"prompt\": \"a b c\", \"completion\": \"d e f\"}\n";
    let cut = refusal(row, "max_length: 3");
    assert!(cut.contains("no training examples"), "{cut}");
    let long = refusal(row, "max_length: 513");
    assert!(long.contains("at most 512"), "{long}");
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let model = chatty(directory.path());
    conversations(&directory.path().join("chat.jsonl"), 4);
    let recipe = recipe::read(&written(directory.path(), RECIPE), &["data.validation_fraction=0".into()]).unwrap();
    let occupied = directory.path().join("chat.jsonl").join("run");
    let message = run(&recipe, &model, &occupied).unwrap_err().to_string();
    assert!(message.contains("chat.jsonl/run"), "{message}");
}
