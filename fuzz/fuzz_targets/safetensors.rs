//! Any bytes as `model.safetensors`: read or refused, and what is read can be loaded.
#![no_main]

use hone_engine::DType;
use hone_model::WeightFiles;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = std::env::temp_dir().join(format!("hone-fuzz-{}.safetensors", std::process::id()));
    std::fs::write(&path, bytes).expect("a place to write");
    if let Ok(weights) = WeightFiles::open(&path) {
        for name in weights.tensor_names() {
            let shape = weights.shape(&name).expect("listed");
            let _ = weights.load(&name, &shape, DType::BF16);
            let _ = weights.load(&name, &shape, DType::F32);
        }
    }
});
