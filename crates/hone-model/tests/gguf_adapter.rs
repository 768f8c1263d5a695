//! A LoRA as a GGUF file: what llama.cpp expects to find in it, and the way back.

use std::path::Path;

use hone_engine::{DType, RandomKey, Tensor};
use hone_model::gguf::adapter::{AdapterPair, read_adapter, save_adapter};
use hone_model::gguf::{Gguf, Value};
use hone_model::{LoadOptions, Model};

fn load(path: &str) -> Model {
    Model::load(path, LoadOptions { dtype: DType::F32, keep_quantised: false }).expect("loads")
}

fn random(rows: usize, columns: usize, name: &str) -> Tensor {
    let key = RandomKey::new(1).named(name);
    let values: Vec<f32> = (0..(rows * columns) as u64).map(|i| key.normal(i)).collect();
    Tensor::from_slice([rows, columns], &values)
}

/// Pairs of several ranks and scales on some maps of the model.
fn pairs(model: &Model) -> Vec<AdapterPair> {
    let tensors = model.decoder.tensors();
    let shape = |name: &str| tensors.iter().find(|(n, _)| n == name).map(|(_, w)| w.dims()).expect("a tensor");
    let pair = |(module, rank, scale): (&str, usize, f32)| {
        let module = format!("model.layers.1.{module}");
        let dims = shape(&format!("{module}.weight"));
        AdapterPair { a: random(rank, dims[1], "a"), b: random(dims[0], rank, "b"), module, scale }
    };
    let maps = [("self_attn.q_proj", 3, 2.0), ("self_attn.k_proj", 2, 0.5), ("mlp.down_proj", 3, 2.0)];
    maps.into_iter().map(pair).collect()
}

fn product(pair: &AdapterPair) -> Tensor {
    let mut out = Tensor::zeros([pair.b.dim(0), pair.a.dim(1)], DType::F32);
    hone_engine::matmul::matmul_nn_add(&mut out, pair.scale, &pair.b, &pair.a);
    out
}

#[test]
fn adapters_hold_what_llama_cpp_looks_for_and_read_back_the_same() {
    let place = tempfile::tempdir().expect("a directory");
    for (model, architecture) in
        [("../../assets/stories260k", "llama"), ("../hone-edit/tests/golden/tiny-qwen2", "qwen2")]
    {
        let model = load(model);
        let pairs = pairs(&model);
        let path = place.path().join(format!("{architecture}.gguf"));
        save_adapter(&model.decoder, &pairs, &path).expect("saves");
        let gguf = Gguf::open(&path).expect("opens");
        let text = |key: &str| gguf.text(key).expect("a text").map(str::to_owned);
        assert_eq!(text("general.type").as_deref(), Some("adapter"));
        assert_eq!(text("adapter.type").as_deref(), Some("lora"));
        assert_eq!(text("general.architecture").as_deref(), Some(architecture));
        assert!(matches!(gguf.get("adapter.lora.alpha"), Some(Value::F32(alpha)) if *alpha == 6.0), "scale 2, rank 3");
        let names: Vec<(&str, &[usize])> = gguf.tensors.iter().map(|t| (t.name.as_str(), &t.shape[..])).collect();
        let (q, k) = (pairs[0].b.dim(0), pairs[1].b.dim(0));
        assert_eq!(names[0], ("blk.1.attn_q.weight.lora_a", &[3, pairs[0].a.dim(1)][..]));
        assert_eq!(names[1], ("blk.1.attn_q.weight.lora_b", &[q, 3][..]));
        assert_eq!(names[3], ("blk.1.attn_k.weight.lora_b", &[k, 2][..]));
        assert_eq!(names[4].0, "blk.1.ffn_down.weight.lora_a");
        let again = read_adapter(&model.decoder, &path).expect("reads");
        for (old, new) in pairs.iter().zip(&again) {
            assert_eq!((&old.module, old.a.as_bytes()), (&new.module, new.a.as_bytes()));
            // A scale of its own is folded into B: what counts is the product.
            let (old, new) = (product(old), product(new));
            let difference = old.as_slice::<f32>().iter().zip(new.as_slice::<f32>()).map(|(a, b)| (a - b).abs());
            assert!(difference.fold(0f32, f32::max) < 1e-5);
        }
    }
}

/// llama.cpp's converter: a head's rows `[2, half]` become `[half, 2]`, in the base's maps and so in `B`.
#[test]
fn rows_of_llamas_query_maps_are_reordered_as_the_bases_are() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("adapter.gguf");
    let model = load("../../assets/stories260k");
    let pair = &pairs(&model)[0];
    save_adapter(&model.decoder, std::slice::from_ref(pair), &path).expect("saves");
    let bytes = std::fs::read(&path).expect("there");
    let gguf = Gguf::open(&path).expect("opens");
    let entry = &gguf.tensors[1];
    let stored: Vec<f32> =
        bytes[entry.range.clone()].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let own = pair.b.as_slice::<f32>();
    let (head_dim, rank) = (model.spec.head_dim, 3);
    for head in 0..pair.b.dim(0) / head_dim {
        for half in 0..2 {
            for index in 0..head_dim / 2 {
                let from = head * head_dim + half * (head_dim / 2) + index;
                let to = head * head_dim + index * 2 + half;
                assert_eq!(stored[to * rank..][..rank], own[from * rank..][..rank], "row {from}");
            }
        }
    }
}

#[test]
fn adapters_that_do_not_fit_are_refused_by_place() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("adapter.gguf");
    let (llama, qwen) = (load("../../assets/stories260k"), load("../hone-edit/tests/golden/tiny-qwen2"));
    save_adapter(&llama.decoder, &pairs(&llama), &path).expect("saves");
    let message = read_adapter(&qwen.decoder, &path).expect_err("another family").to_string();
    assert!(message.contains("general.architecture") && message.contains("llama"), "{message}");
    let nameless = AdapterPair { module: "model.layers.0.self_attn.no_proj".into(), ..pairs(&llama).remove(0) };
    let message = save_adapter(&llama.decoder, &[nameless], &path).expect_err("no such map").to_string();
    assert!(message.contains("no_proj") && message.contains("export the merged model"), "{message}");
    let whole = Path::new(place.path()).join("model.gguf");
    llama.save_gguf(&whole, hone_model::GgufType::F16).expect("saves");
    let message = read_adapter(&llama.decoder, &whole).expect_err("a model is no adapter").to_string();
    assert!(message.contains("general.type"), "{message}");
}
