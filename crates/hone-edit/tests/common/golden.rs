//! Golden adapters of Hugging Face PEFT: where they lie, the logits PEFT gave, and how far ours are from them.

use std::path::{Path, PathBuf};

use hone_edit::EditStack;
use hone_edit::files::TensorFile;
use hone_edit::merge::logits;
use hone_engine::{DType, Tensor};
use hone_model::{LoadOptions, Model, TokenBatch};

/// Part of the largest logit that logits may be apart.
pub const TOLERANCE: f64 = 1e-4;

/// A path below this crate.
pub fn crate_path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The directory of an adapter that PEFT saved.
pub fn adapter(case: &str) -> PathBuf {
    crate_path("tests/golden/peft").join(case)
}

/// A base model, in `f32`.
pub fn load(path: &Path) -> Model {
    let options = LoadOptions { dtype: DType::F32, keep_quantised: false };
    Model::load(path.to_str().unwrap(), options).unwrap()
}

/// What PEFT said of an adapter.
pub struct Expected {
    /// The sequences.
    pub sequences: Vec<Vec<u32>>,
    /// One task per sequence, where the method has tasks.
    pub tasks: Option<Vec<u32>>,
    /// `[tokens, vocabulary]`, the sequences one after another.
    pub logits: Tensor,
    /// The last sequence's logits after PEFT merged the adapter into the weights.
    pub merged: Option<Tensor>,
}

impl Expected {
    /// Reads `expected.safetensors` of a case.
    pub fn read(case: &str) -> Expected {
        let path = adapter(case).join("expected.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let integers = |name: &str| -> Option<Vec<u32>> {
            let view = file.tensor(name).ok()?;
            Some(view.data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect())
        };
        let floats = |name: &str| -> Option<Tensor> {
            let shape = file.tensor(name).ok()?.shape().to_vec();
            Some(TensorFile::read(&path).unwrap().tensor(name, &shape).unwrap())
        };
        let ids = integers("ids").unwrap();
        let lengths = integers("lengths").unwrap_or_else(|| vec![ids.len() as u32]);
        let mut rest = ids.as_slice();
        let mut sequences = Vec::new();
        for length in lengths {
            let (sequence, after) = rest.split_at(length as usize);
            sequences.push(sequence.to_vec());
            rest = after;
        }
        assert!(rest.is_empty(), "{case}: the lengths do not add up to the ids");
        Expected { sequences, tasks: integers("task_ids"), logits: floats("logits").unwrap(), merged: floats("merged") }
    }

    /// All sequences in one batch, each of its task.
    pub fn batch(&self) -> TokenBatch {
        let groups = self.tasks.clone().unwrap_or_default();
        TokenBatch { groups, ..TokenBatch::from_sequences(&self.sequences) }
    }
}

/// Logits with the edits, `[tokens, vocabulary]`.
pub fn tuned(model: &Model, stack: &EditStack, batch: &TokenBatch) -> Tensor {
    logits(&(&model.decoder, stack.hooks(DType::F32)), DType::F32, batch)
}

/// The largest difference, as a part of the largest number of `theirs`. Rows of `ours` beyond theirs are those of virtual
/// tokens, which PEFT's file does not hold.
pub fn compare(ours: &Tensor, theirs: &Tensor) -> f64 {
    let (ours, theirs) = (ours.as_slice::<f32>(), theirs.as_slice::<f32>());
    assert!(ours.len() >= theirs.len(), "{} logits, expected {}", ours.len(), theirs.len());
    let largest = theirs.iter().fold(0f64, |m, v| m.max(f64::from(v.abs())));
    let apart = |(a, b): (&f32, &f32)| f64::from((a - b).abs());
    ours.iter().zip(theirs).map(apart).fold(0f64, f64::max) / largest
}
