//! Models from their files: what does not fit is named, what is replaced takes effect.

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

/// Twice the numbers of a tensor.
fn doubled(weight: NamedWeight) -> Tensor {
    let mut tensor = weight.to_dense(DType::F32);
    tensor.as_mut_slice::<f32>().iter_mut().for_each(|v| *v *= 2.0);
    tensor
}

#[test]
fn replaced_tensors_take_the_place_of_the_old_and_a_tied_head_can_be_untied() {
    let model = load(Path::new(STORIES), DType::F32);
    let plain = logits(&model, DType::F32);
    let with = |changed: &'static str| {
        let decoder = model.decoder.replaced(|name, old| (name == changed).then(|| doubled(old)));
        let differs: Vec<String> = (decoder.tensors().into_iter())
            .filter(|(name, new)| {
                let old = model.decoder.tensors().into_iter().find(|(other, _)| other == name);
                old.is_none_or(|(_, old)| old.to_dense(DType::F32).as_bytes() != new.to_dense(DType::F32).as_bytes())
            })
            .map(|(name, _)| name)
            .collect();
        assert_eq!(differs, [changed]);
        Model { spec: decoder.spec.clone(), decoder: Arc::new(decoder), ..load(Path::new(STORIES), DType::F32) }
    };
    for name in ["model.layers.2.mlp.down_proj.weight", "model.layers.4.input_layernorm.weight", "model.norm.weight"] {
        assert_ne!(logits(&with(name), DType::F32).as_bytes(), plain.as_bytes(), "{name}");
    }
    let untied = with("lm_head.weight");
    assert!(!untied.spec.tie_word_embeddings);
    assert_eq!(untied.spec.config["tie_word_embeddings"], json!(false));
    let twice: Vec<f32> = plain.as_slice::<f32>().iter().map(|l| 2.0 * l).collect();
    assert_eq!(logits(&untied, DType::F32).as_slice::<f32>(), twice);
}

#[test]
fn a_head_that_repeats_the_embedding_stays_tied_and_another_is_used() {
    let bytes = std::fs::read(Path::new(STORIES).join("model.safetensors")).expect("in the tree");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("sound");
    let plain = logits(&load(Path::new(STORIES), DType::F32), DType::F32);
    let twice: Vec<f32> = plain.as_slice::<f32>().iter().map(|l| 2.0 * l).collect();
    for (factor, expected) in [(1.0f32, plain.as_slice::<f32>()), (2.0, &twice)] {
        let table = file.tensor("model.embed_tokens.weight").expect("there");
        let scaled = table.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b) * factor);
        let head: Vec<u8> = scaled.flat_map(f32::to_le_bytes).collect();
        let head = safetensors::tensor::TensorView::new(table.dtype(), table.shape().to_vec(), &head).expect("fits");
        let tensors = file.tensors().into_iter().chain([("lm_head.weight".to_owned(), head)]);
        let directory = with_config(|_| {});
        safetensors::serialize_to_file(tensors, None, &directory.path().join("model.safetensors")).expect("writes");
        let model = load(directory.path(), DType::F32);
        assert_eq!(model.decoder.lm_head.is_none(), factor == 1.0);
        assert_eq!(logits(&model, DType::F32).as_slice::<f32>(), expected);
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

/// Kilobytes of a file that this process holds in memory.
#[cfg(target_os = "linux")]
fn resident(path: &Path) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("Linux tells it");
    let mut ours = false;
    let mut total = 0;
    for line in maps.lines() {
        if line.split_whitespace().next().is_some_and(|word| word.contains('-') && !word.ends_with(':')) {
            ours = line.ends_with(path.to_str().expect("a printable path"));
        } else if let Some(size) = line.strip_prefix("Rss:").filter(|_| ours) {
            total += size.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).expect("a size");
        }
    }
    total
}

#[cfg(target_os = "linux")]
#[test]
fn pages_of_weights_go_when_they_are_let_go_of_and_come_back() {
    let directory = with_config(|_| {});
    let file = directory.path().join("model.safetensors").canonicalize().expect("it is there");
    let want = logits(&load(Path::new(STORIES), DType::F32), DType::F32);

    // Read, given back, and read again.
    let model = load(directory.path(), DType::F32);
    let sum = |model: &Model| -> f64 {
        let matrix = |linear: &hone_model::Linear| match &linear.weight {
            hone_engine::WeightRef::Frozen(weight) => weight.to_dense(DType::BF16).to_vec_f32(),
            hone_engine::WeightRef::Trained(_) => panic!("a loaded weight is frozen"),
        };
        model.decoder.linears().flat_map(matrix).map(f64::from).sum()
    };
    let before = sum(&model);
    let read = resident(&file);
    assert!(read > 500, "{read} kB of a file of a megabyte");
    model.release_pages();
    assert!(resident(&file) < read / 10, "{} of {read} kB are still there", resident(&file));
    assert_eq!(sum(&model), before);

    assert_eq!(logits(&model, DType::F32).as_bytes(), want.as_bytes());
}

#[cfg(target_os = "linux")]
#[test]
fn pages_of_a_tensor_go_with_it() {
    use safetensors::tensor::{Dtype, TensorView};
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().canonicalize().expect("it is there").join("two.safetensors");
    let bytes: Vec<u8> = (0..1 << 19).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let view = || TensorView::new(Dtype::F32, vec![512, 1024], &bytes).expect("a sound tensor");
    safetensors::serialize_to_file([("a", view()), ("b", view())], None, &path).expect("writes");

    let files = hone_model::WeightFiles::open(&path).expect("a sound file");
    let load = |name: &str| files.load(name, &[512, 1024], DType::F32).expect("a tensor");
    let (a, b) = (load("a"), load("b"));
    let read = |tensor: &Tensor| tensor.as_slice::<f32>().iter().map(|v| f64::from(*v)).sum::<f64>();
    let sums = (read(&a), read(&b));
    assert!(resident(&path) > 4000, "{} kB of two tensors of two megabytes", resident(&path));
    drop(a);
    let left = resident(&path);
    assert!((1900..2300).contains(&left), "{left} kB are left");
    assert_eq!((read(&load("a")), read(&b)), sums);
}
