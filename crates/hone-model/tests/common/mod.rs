//! What the tests on real models share.

use std::path::PathBuf;

/// A file of the model cache, or `None` (said aloud) where it is not there.
pub fn cached(name: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("HONE_CACHE").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME").map(PathBuf::from)?;
        Some(home.join(".cache").join("hone"))
    })?;
    let path = cache.join("models").join(name);
    if !path.exists() {
        eprintln!("skipped: {name} is not in the model cache");
        return None;
    }
    Some(path)
}

/// The GGUF models, with the names their golden files have.
pub const GGUF_MODELS: [(&str, &str); 3] = [
    ("smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    ("gemma3", "gemma-3-270m-q4_k_m.gguf"),
    ("qwen25", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"),
];
