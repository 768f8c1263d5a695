//! Models saved as Hugging Face directories and as GGUF files, and read again: tensors, config, token ids, template.

mod common;

use std::path::{Path, PathBuf};

use hone_engine::{DType, Tensor};
use hone_model::decoder::Decoder;
use hone_model::{GgufType, LoadOptions, Model};
use serde_json::{Value, json};

const F32: LoadOptions = LoadOptions { dtype: DType::F32, keep_quantised: false };

fn load(path: &Path) -> Model {
    Model::load(path.to_str().expect("plain"), F32).expect("loads")
}

/// Configs of every family, small: widths are multiples of 32, so that Q8_0 has its blocks.
fn families() -> Vec<Value> {
    let common = json!({"vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "torch_dtype": "float32"});
    let with = |more: Value| {
        let mut config = common.clone();
        config.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        config
    };
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192});
    vec![
        with(json!({"model_type": "llama", "tie_word_embeddings": false})),
        with(json!({"model_type": "llama", "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false,
            "rope_theta": 500_000.0, "rope_scaling": scaling})),
        with(json!({"model_type": "qwen2", "tie_word_embeddings": true})),
        with(json!({"model_type": "qwen3", "tie_word_embeddings": false, "attention_bias": false})),
        with(json!({"model_type": "gemma3_text", "tie_word_embeddings": true, "sliding_window": 16,
            "rope_local_base_freq": 10000.0, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 32,
            "num_hidden_layers": 7, "rope_theta": 1_000_000.0})),
    ]
}

/// A directory with `config`, numbers made up for every tensor, and the tiny model's tokenizer.
fn made_up(config: &Value, at: &Path) -> Model {
    std::fs::create_dir(at).expect("created");
    std::fs::copy("../../assets/stories260k/tokenizer.json", at.join("tokenizer.json")).expect("copied");
    std::fs::write(at.join("chat_template.jinja"), "{{ messages[0].content }}\n{{ eos_token }}").expect("written");
    std::fs::write(at.join("config.json"), config.to_string()).expect("written");
    let spec = hone_model::spec::DecoderSpec::from_config(&at.join("config.json"), config).expect("a sound config");
    let mut seed = 1u64;
    let mut data = Vec::new();
    let mut header = serde_json::Map::new();
    for (name, shape) in hone_model::decoder::expected_tensors(&spec) {
        let start = data.len();
        for _ in 0..shape.iter().product() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            data.extend((((seed >> 40) as f32) / (1 << 23) as f32 - 1.0).to_le_bytes());
        }
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    std::fs::write(at.join("model.safetensors"), file).expect("written");
    load(at)
}

/// Tensors by name, as f32.
fn tensors(decoder: &Decoder) -> Vec<(String, Tensor)> {
    decoder.tensors().into_iter().map(|(name, weight)| (name, weight.to_dense(DType::F32))).collect()
}

/// `error(name, old, new)` for every number must hold.
fn compare(old: &Model, new: &Model, sound: impl Fn(&str, f32, f32) -> bool) {
    let (old, new) = (tensors(&old.decoder), tensors(&new.decoder));
    assert_eq!(old.len(), new.len());
    for ((name, old), (other, new)) in old.iter().zip(&new) {
        assert_eq!((name, old.dims()), (other, new.dims()));
        for (a, b) in old.as_slice::<f32>().iter().zip(new.as_slice::<f32>()) {
            assert!(sound(name, *a, *b), "{name}: {a} became {b}");
        }
    }
}

fn same_behaviour(old: &Model, new: &Model) {
    for text in ["Once upon a time", "  spaces, Ünïcode 🙂\n\n123", "</s> and <s>"] {
        assert_eq!(
            old.tokenizer.encode(text, true).expect("encodes"),
            new.tokenizer.encode(text, true).expect("encodes")
        );
    }
    assert_eq!(old.end_ids, new.end_ids);
    assert_eq!(
        (old.tokenizer.bos_id, old.tokenizer.eos_id, old.tokenizer.pad_id),
        (new.tokenizer.bos_id, new.tokenizer.eos_id, new.tokenizer.pad_id)
    );
    let source = |model: &Model| model.template.as_ref().map(|t| t.source.clone());
    assert_eq!(source(old), source(new));
    let (a, b) = (&old.spec, &new.spec);
    assert_eq!(format!("{:?}", a.layers), format!("{:?}", b.layers));
    assert_eq!((a.rms_norm_eps, a.head_dim, a.attention_scale), (b.rms_norm_eps, b.head_dim, b.attention_scale));
    assert_eq!((a.qk_norm, a.qkv_bias, a.post_norms), (b.qk_norm, b.qkv_bias, b.post_norms));
    assert_eq!((a.tie_word_embeddings, a.vocab_size), (b.tie_word_embeddings, b.vocab_size));
    assert_eq!((a.max_position_embeddings, a.activation), (b.max_position_embeddings, b.activation));
}

#[test]
fn directories_read_back_the_same() {
    let place = tempfile::tempdir().expect("a temporary directory");
    for (index, config) in families().iter().enumerate() {
        let model = made_up(config, &place.path().join(format!("made-up-{index}")));
        let path = place.path().join(format!("saved-{index}"));
        model.save_hf(&path, DType::F32).expect("saves");
        let again = load(&path);
        compare(&model, &again, |_, a, b| a == b);
        same_behaviour(&model, &again);
        let saved: Value =
            serde_json::from_slice(&std::fs::read(path.join("config.json")).expect("there")).expect("JSON");
        assert_eq!(&saved, config);

        let half = place.path().join(format!("half-{index}"));
        model.save_hf(&half, DType::BF16).expect("saves");
        let again = load(&half);
        compare(&model, &again, |_, a, b| (a - b).abs() <= a.abs() / 256.0);
        assert_eq!(again.spec.config["torch_dtype"], "bfloat16");
    }
}

#[test]
fn gguf_files_read_back_the_same() {
    let place = tempfile::tempdir().expect("a temporary directory");
    for (index, config) in families().iter().enumerate() {
        let model = made_up(config, &place.path().join(format!("made-up-{index}")));
        let save = |kind: GgufType| {
            let path = place.path().join(format!("{index}-{kind:?}.gguf"));
            model.save_gguf(&path, kind).expect("saves");
            load(&path)
        };
        let is_vector = |name: &str| name.contains("norm") || name.ends_with("bias");
        let half = save(GgufType::F16);
        // Gemma's norms pass through `1 + w`.
        compare(&model, &half, |name, a, b| {
            if is_vector(name) { (a - b).abs() <= 1e-6 } else { half::f16::from_f32(a).to_f32() == b }
        });
        same_behaviour(&model, &half);
        let eight = save(GgufType::Q8_0);
        // Values lie within one, so half a step of a block is at most 0.5 / 127; its scale is rounded to F16.
        let bound = 0.5 / 127.0 + 1.0 / 2048.0;
        compare(&model, &eight, |name, a, b| (a - b).abs() <= if is_vector(name) { 1e-6 } else { bound });
        same_behaviour(&model, &eight);
        for kind in [GgufType::Q4_0, GgufType::Q4K] {
            let four = save(kind);
            // Tables are Q8_0; elsewhere values lie within one: half a step of 2/15, a sixteenth of the extreme where
            // Q4_0 cuts its unused end, and what the rounding of scales adds.
            compare(&model, &four, |name, a, b| {
                let table = name.contains("embed_tokens") || name.contains("lm_head");
                (a - b).abs()
                    <= if is_vector(name) {
                        1e-6
                    } else if table {
                        bound
                    } else {
                        0.14
                    }
            });
            same_behaviour(&model, &four);
        }

        // What was read from GGUF is written again without any change, and becomes the directory it came from.
        let again = place.path().join(format!("{index}-again.gguf"));
        eight.save_gguf(&again, GgufType::Q8_0).expect("saves");
        let first = std::fs::read(place.path().join(format!("{index}-Q8_0.gguf"))).expect("there");
        assert!(first == std::fs::read(again).expect("there"), "{config}");
        let directory = place.path().join(format!("{index}-directory"));
        half.save_hf(&directory, DType::F32).expect("saves");
        same_behaviour(&model, &load(&directory));
    }
}

#[test]
fn real_tokenizers_survive_gguf() {
    let texts = std::fs::read_to_string("tests/golden/token_lines.jsonl").expect("in the tree");
    let texts: Vec<String> = texts.split_terminator('\n').map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let place = tempfile::tempdir().expect("a temporary directory");
    // The tokenizers of real models around made-up weights with as many rows.
    let rows = [("smollm2", 49_152, "llama"), ("gemma3", 262_144, "gemma3_text"), ("qwen25", 151_936, "qwen2")];
    for ((model, file), (_, size, family)) in common::GGUF_MODELS.into_iter().zip(rows) {
        let Some(path) = common::cached(file) else { continue };
        let mut config = families().into_iter().find(|c| c["model_type"] == family).expect("there");
        config["vocab_size"] = json!(size);
        config["hidden_size"] = json!(32);
        let mut small = made_up(&config, &place.path().join(model));
        let files = hone_model::files::ModelFiles::open(&path).expect("opens");
        small.tokenizer = hone_model::tokenizer::Tokenizer::from_files(&files).expect("a tokenizer").into();
        let saved: PathBuf = place.path().join(format!("{model}.gguf"));
        small.save_gguf(&saved, GgufType::Q8_0).expect("saves");
        let again = load(&saved);
        for text in &texts {
            let old = small.tokenizer.encode(text, true).expect("encodes");
            assert_eq!(again.tokenizer.encode(text, true).expect("encodes"), old, "{model}: {text:?}");
        }
        let ids = |m: &Model| (m.tokenizer.bos_id, m.tokenizer.eos_id, m.tokenizer.pad_id, m.tokenizer.vocab_size());
        assert_eq!(ids(&again), ids(&small), "{model}");
    }
}

#[test]
fn nothing_is_overwritten_and_nothing_is_left_half_written() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let model = load(Path::new("../../assets/stories260k"));
    let path = place.path().join("deep/er/model");
    model.save_hf(&path, DType::F32).expect("saves");
    let message = model.save_hf(&path, DType::F32).expect_err("is there").to_string();
    assert!(message.contains("something there already") && message.contains("name another place"), "{message}");
    assert_eq!(std::fs::read_dir(path.parent().expect("deep")).expect("there").count(), 1);

    // A directory that stands where the file should be cannot be replaced; the half-made file is gone.
    let taken = place.path().join("taken.gguf");
    std::fs::create_dir(&taken).expect("created");
    model.save_gguf(&taken, GgufType::F16).expect_err("cannot be");
    assert_eq!(std::fs::read_dir(place.path()).expect("there").count(), 2);
}
