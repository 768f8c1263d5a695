//! Models loaded and saved: what does not fit is named, what is saved loads again as it was.

mod common;

use std::path::Path;
use std::sync::Arc;

use hone_engine::ops::head_logits;
use hone_engine::{DType, Tensor};
use hone_model::decoder::NamedWeight;
use hone_model::template::Message;
use hone_model::{Context, LoadOptions, Model, ModelError, NoHooks, TokenBatch};
use serde_json::{Value, json};

const STORIES: &str = "../../assets/stories260k";

fn try_load(path: &Path, dtype: DType) -> Result<Model, ModelError> {
    Model::load(path.to_str().expect("a printable path"), LoadOptions { dtype, keep_quantised: false })
}

fn load(path: &Path, dtype: DType) -> Model {
    try_load(path, dtype).expect("a sound model")
}

fn logits(model: &Model, dtype: DType) -> Tensor {
    let cx = Context::inference(Arc::new(NoHooks), dtype);
    let batch = TokenBatch::from_sequences(&[vec![1u32, 20, 300, 4, 77]]);
    let hidden = model.decoder.hidden(&cx, &batch).value;
    head_logits(&hidden, &model.decoder.head(&cx), &[0, 1, 2, 3, 4], model.spec.logit_soft_cap)
}

/// A copy of stories260k with another config.
fn with_config(change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for name in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(Path::new(STORIES).join(name), directory.path().join(name)).expect("copies");
    }
    let text = std::fs::read_to_string(Path::new(STORIES).join("config.json")).expect("in the tree");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    change(&mut config);
    std::fs::write(directory.path().join("config.json"), config.to_string()).expect("writes");
    directory
}

#[test]
fn tensors_that_do_not_fit_the_config_are_named_with_the_expected_shapes() {
    let says = |change: fn(&mut Value), texts: &[&str]| {
        let directory = with_config(change);
        let error = try_load(directory.path(), DType::F32).err().expect("refused").to_string();
        for text in texts {
            assert!(error.contains(text), "`{error}` does not say `{text}`");
        }
    };
    says(
        |c| c["num_hidden_layers"] = 6.into(),
        &[
            "missing (9): `model.layers.5.input_layernorm.weight` [64]",
            "`model.layers.5.self_attn.q_proj.weight` [64, 64]",
        ],
    );
    says(|c| c["num_hidden_layers"] = 4.into(), &["unexpected (9): `model.layers.4.input_layernorm.weight` [64]"]);
    says(
        |c| c["intermediate_size"] = 170.into(),
        &["mis-shaped (15): `model.layers.0.mlp.gate_proj.weight` is [172, 64], expected [170, 64]"],
    );
    says(|c| c["tie_word_embeddings"] = false.into(), &["missing (1): `lm_head.weight` [512, 64]"]);
    says(|c| c["attention_bias"] = true.into(), &["missing (20)", "`model.layers.0.self_attn.q_proj.bias` [64]"]);
    says(
        |c| c["model_type"] = "gpt2".into(),
        &["config.json: architecture `gpt2` is not known", "llama, mistral, qwen2"],
    );
}

#[test]
fn a_saved_model_loads_as_it_was() {
    let model = load(Path::new(STORIES), DType::F32);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let saved = directory.path().join("new/place");
    model.save_hf(&saved, DType::F32).expect("saves");
    let again = load(&saved, DType::F32);
    let (before, after) = (model.decoder.tensors(), again.decoder.tensors());
    assert_eq!(before.len(), after.len());
    for ((name, a), (other, b)) in before.iter().zip(&after) {
        assert_eq!(name, other);
        assert_eq!(a.to_dense(DType::F32).as_bytes(), b.to_dense(DType::F32).as_bytes(), "{name}");
    }
    assert_eq!(logits(&model, DType::F32).as_bytes(), logits(&again, DType::F32).as_bytes());
    assert_eq!(again.end_ids, model.end_ids);
    let text = "Once upon a time 🙂";
    assert_eq!(again.tokenizer.encode(text, true).unwrap(), model.tokenizer.encode(text, true).unwrap());

    // In bf16, what is loaded is what the rounded weights compute.
    model.save_hf(&saved, DType::BF16).expect("saves over the other");
    let (rounded, direct) = (load(&saved, DType::BF16), load(Path::new(STORIES), DType::BF16));
    assert_eq!(rounded.spec.config["dtype"], json!("bfloat16"));
    for ((name, a), (_, b)) in rounded.decoder.tensors().iter().zip(direct.decoder.tensors()) {
        assert_eq!(a.to_dense(DType::BF16).as_bytes(), b.to_dense(DType::BF16).as_bytes(), "{name}");
    }
}

#[test]
fn families_with_every_kind_of_tensor_are_saved_whole() {
    for name in ["llama", "qwen2", "qwen3", "gemma3_text", "gemma3"] {
        let path = Path::new("tests/golden/tiny").join(name);
        let files = hone_model::files::ModelFiles::open(&path).expect("a model");
        let spec = |config: &Value| hone_model::spec::DecoderSpec::from_config(&path, config).expect("known");
        let options = LoadOptions { dtype: DType::F32, keep_quantised: false };
        let weights = files.weights().expect("weights");
        let decoder = hone_model::Decoder::load(spec(&files.config().expect("a config")), &weights, options);
        let decoder = decoder.expect("tensors that fit");

        let stories = load(Path::new(STORIES), DType::F32);
        let model = Model { spec: decoder.spec.clone(), decoder: Arc::new(decoder), ..stories };
        let directory = tempfile::tempdir().expect("a temporary directory");
        model.save_hf(directory.path(), DType::F32).expect("saves");
        let again = load(directory.path(), DType::F32);
        let (before, after) = (model.decoder.tensors(), again.decoder.tensors());
        assert_eq!(before.len(), after.len(), "{name}");
        for ((tensor, a), (other, b)) in before.iter().zip(&after) {
            assert_eq!(tensor, other);
            assert_eq!(a.to_dense(DType::F32).as_bytes(), b.to_dense(DType::F32).as_bytes(), "{name}: {tensor}");
        }
    }
}

#[test]
fn replaced_tensors_are_saved_and_a_tied_head_can_be_untied() {
    let model = load(Path::new(STORIES), DType::F32);
    let changed = "model.layers.2.mlp.down_proj.weight";
    let doubled = |weight: NamedWeight| {
        let mut tensor = weight.to_dense(DType::F32);
        tensor.as_mut_slice::<f32>().iter_mut().for_each(|v| *v *= 2.0);
        tensor
    };
    let merged = model.decoder.replaced(|name, old| {
        (name == changed || name == "model.norm.weight" || name == "lm_head.weight").then(|| doubled(old))
    });
    let plain = logits(&model, DType::F32);
    let merged = Model { spec: merged.spec.clone(), decoder: Arc::new(merged), ..model };
    assert!(!merged.spec.tie_word_embeddings);
    let directory = tempfile::tempdir().expect("a temporary directory");
    merged.save_hf(directory.path(), DType::F32).expect("saves");
    let again = load(directory.path(), DType::F32);
    assert_eq!(logits(&merged, DType::F32).as_bytes(), logits(&again, DType::F32).as_bytes());
    assert_ne!(logits(&again, DType::F32).as_bytes(), plain.as_bytes());
    let names: Vec<String> = again.decoder.tensors().into_iter().map(|(name, _)| name).collect();
    assert!(names.contains(&"lm_head.weight".to_owned()));
}

#[test]
fn a_head_that_repeats_the_embedding_stays_tied_and_another_is_used() {
    let model = load(Path::new(STORIES), DType::F32);
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (factor, tied) in [(1.0, true), (2.0, false)] {
        let with_head = model.decoder.replaced(|name, old| {
            (name == "lm_head.weight").then(|| {
                let mut head = old.to_dense(DType::F32);
                head.as_mut_slice::<f32>().iter_mut().for_each(|v| *v *= factor);
                head
            })
        });
        let mut config = with_head.spec.config.clone();
        config["tie_word_embeddings"] = true.into();
        let mut with_head = with_head;
        with_head.spec.config = config;
        let saved = Model { decoder: Arc::new(with_head), ..load(Path::new(STORIES), DType::F32) };
        saved.save_hf(directory.path(), DType::F32).expect("saves");
        let again = load(directory.path(), DType::F32);
        assert_eq!(again.decoder.lm_head.is_none(), tied);
        assert_eq!(logits(&again, DType::F32).as_bytes(), logits(&saved, DType::F32).as_bytes());
    }
}

#[test]
fn the_end_of_a_turn_is_found_from_the_template() {
    let Some(path) = common::cached("SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let model = load(&path, DType::BF16);
    let end = model.tokenizer.token_to_id("<|im_end|>").expect("a token of SmolLM2");
    assert!(model.end_ids.contains(&end));
    let user = Message { role: "user".into(), content: "Hi".into(), extra: Default::default() };
    let text = model.render_chat(&[user], true).expect("renders");
    assert!(text.ends_with("<|im_start|>assistant\n"), "{text}");

    let base = load(Path::new(STORIES), DType::F32);
    let error = base.render_chat(&[], true).expect_err("no template").to_string();
    assert!(error.contains("chat template"), "{error}");
}

#[test]
fn the_weights_hash_is_the_files() {
    let model = load(Path::new(STORIES), DType::F32);
    let bytes = std::fs::read(Path::new(STORIES).join("model.safetensors")).expect("in the tree");
    let hash: String = <sha2::Sha256 as sha2::Digest>::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(model.source.sha256, hash);
    let nowhere = try_load(Path::new("no/such/model"), DType::F32).err().expect("refused").to_string();
    assert!(nowhere.contains("no/such/model"), "{nowhere}");
}
