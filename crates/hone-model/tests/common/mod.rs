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

#[allow(dead_code)] // not every test file goes through all of them
/// The GGUF models, with the names their golden files have.
pub const GGUF_MODELS: [(&str, &str); 3] = [
    ("smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    ("gemma3", "gemma-3-270m-q4_k_m.gguf"),
    ("qwen25", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"),
];

/// A file of golden tensors.
#[allow(dead_code)] // not every test file reads one
pub struct Golden {
    bytes: Vec<u8>,
    name: String,
}

#[allow(dead_code)]
impl Golden {
    /// Reads the file.
    pub fn open(path: &std::path::Path) -> Golden {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Golden { bytes, name: path.display().to_string() }
    }

    fn tensor(&self, name: &str) -> Option<(safetensors::Dtype, Vec<u8>)> {
        let file = safetensors::SafeTensors::deserialize(&self.bytes).expect("golden files are sound");
        let view = file.tensor(name).ok()?;
        Some((view.dtype(), view.data().to_vec()))
    }

    /// A tensor of whole numbers, if there is one.
    pub fn try_ids(&self, name: &str) -> Option<Vec<u32>> {
        let (dtype, data) = self.tensor(name)?;
        assert_eq!(dtype, safetensors::Dtype::I32, "{}: {name}", self.name);
        Some(data.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
    }

    /// A tensor of f32 or bf16, if there is one.
    pub fn try_floats(&self, name: &str) -> Option<Vec<f32>> {
        let (dtype, data) = self.tensor(name)?;
        Some(match dtype {
            safetensors::Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            safetensors::Dtype::BF16 => {
                data.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect()
            }
            other => panic!("{}: {name} is {other:?}", self.name),
        })
    }

    /// A tensor of whole numbers.
    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.try_ids(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.name))
    }

    /// A tensor of f32 or bf16.
    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.try_floats(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.name))
    }
}
