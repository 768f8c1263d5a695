//! Real GGUF files: every tensor, expanded to f32 under its Hugging Face name, is bit for bit the one that `transformers`
//! makes of the file (`tools/golden/convert_gguf.py`, `gguf_tensors.py`).

mod common;

use hone_engine::DType;
use hone_model::WeightFiles;
use sha2::{Digest, Sha256};

#[test]
fn tensors_are_those_of_transformers() {
    for (model, file) in common::GGUF_MODELS {
        let Some(path) = common::cached(file) else { continue };
        let golden = std::fs::read_to_string(format!("tests/golden/gguf_tensors_{model}.txt")).expect("in the tree");
        let weights = WeightFiles::open(&path).expect("a sound file");
        let names: Vec<&str> = golden.lines().map(|line| line.split_once(' ').expect("two words").0).collect();
        assert_eq!(weights.tensor_names(), names, "{model}");
        for line in golden.lines() {
            let (name, hash) = line.split_once(' ').expect("two words");
            let shape = weights.shape(name).expect("listed");
            let tensor = weights.load(name, &shape, DType::F32).expect("readable");
            let ours: String = Sha256::digest(tensor.as_bytes()).iter().take(6).map(|b| format!("{b:02x}")).collect();
            assert_eq!(ours, hash, "{model}: {name}");
            // The blocks, kept as they are, hold the same numbers.
            if let [rows, columns] = shape[..] {
                let weight = weights.load_weight(name, &shape, DType::F32, true).expect("readable");
                assert_eq!((weight.out_features(), weight.in_features()), (rows, columns));
                if name.ends_with("q_proj.weight") {
                    assert_eq!(weight.to_dense(DType::F32).as_bytes(), tensor.as_bytes(), "{model}: {name} in blocks");
                }
            }
        }
    }
}
