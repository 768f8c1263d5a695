//! Weights in files: safetensors (one file or shards) and GGUF, under one set of Hugging Face names.
//!
//! Everything is memory-mapped. A tensor whose stored type is already the one asked for is borrowed from the map; others
//! are converted in parallel. [`WeightFiles`] remembers which tensors were asked for, so that a loader can say which ones
//! the files hold in vain.
//!
//! It knows nothing of architectures: a loader asks by name and states the shape it expects.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hone_engine::quant::{QuantTensor, QuantType};
use hone_engine::weight::WeightData;
use hone_engine::{DType, Tensor, Weight};

use crate::error::ModelError;
use crate::gguf::Gguf;
use crate::gguf::source::GgufWeights;
use mapped::ResidentPages;

pub(crate) mod mapped;
mod quantising;
mod safetensors;
#[cfg(test)]
mod tests;

/// What a file says of a tensor.
pub(crate) struct TensorInfo<'a> {
    /// As Hugging Face has it: `[out, in]` for a matrix.
    pub shape: &'a [usize],
    /// The file it is in.
    pub file: &'a Path,
}

/// One format of weight files.
pub(crate) trait WeightSource: Send + Sync {
    /// Every tensor's Hugging Face name, sorted.
    fn names(&self) -> Vec<String>;
    /// What is known of a tensor.
    fn info(&self, name: &str) -> Option<TensorInfo<'_>>;
    /// A tensor's numbers; `None` if there is no such tensor.
    fn load(&self, name: &str, dtype: DType) -> Result<Option<Tensor>, ModelError>;
    /// A matrix in its blocks; `None` where it is not stored in blocks.
    fn load_quantised(&self, name: &str) -> Result<Option<QuantTensor>, ModelError> {
        let _ = name;
        Ok(None)
    }
    /// The tensor will not be asked for again.
    fn done_with(&self, name: &str) {
        let _ = name;
    }
    /// The files, in order.
    fn files(&self) -> Vec<PathBuf>;
    /// What of the files is in memory.
    fn resident_pages(&self) -> ResidentPages;
}

/// The weights of a model: named tensors in mapped files.
pub struct WeightFiles {
    path: PathBuf,
    source: Box<dyn WeightSource>,
    asked: Mutex<BTreeSet<String>>,
}

impl WeightFiles {
    /// Opens a Hugging Face directory (`model.safetensors.index.json` or `model.safetensors`), a `.safetensors` file or a
    /// GGUF file (which is known by its first four bytes).
    pub fn open(path: &Path) -> Result<WeightFiles, ModelError> {
        let index = path.join("model.safetensors.index.json");
        let source: Box<dyn WeightSource> = if crate::files::is_gguf(path) {
            return WeightFiles::from_gguf(Arc::new(Gguf::open(path)?));
        } else if !path.is_dir() {
            Box::new(safetensors::SafetensorsFiles::open_file(path)?)
        } else if index.is_file() {
            Box::new(safetensors::SafetensorsFiles::open_index(&index)?)
        } else {
            Box::new(safetensors::SafetensorsFiles::open_file(&path.join("model.safetensors"))?)
        };
        Ok(WeightFiles { path: path.to_owned(), source, asked: Mutex::default() })
    }

    /// The tensors of an opened GGUF file.
    pub fn from_gguf(gguf: Arc<Gguf>) -> Result<WeightFiles, ModelError> {
        let path = gguf.path().to_owned();
        Ok(WeightFiles { path, source: Box::new(GgufWeights::new(gguf)?), asked: Mutex::default() })
    }

    /// The same, with the linear maps of the layers rounded to blocks as they are read (as quantised matrices, for
    /// [`WeightFiles::load_weight`] with `keep_quantised`).
    pub fn rounded_to(mut self, kind: QuantType) -> WeightFiles {
        self.source = Box::new(quantising::Quantising { inner: self.source, kind });
        self
    }

    /// Whether any matrix is stored in blocks.
    pub fn holds_blocks(&self) -> Result<bool, ModelError> {
        for name in self.source.names() {
            if self.source.load_quantised(&name)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The directory or file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every tensor's name, sorted.
    pub fn tensor_names(&self) -> Vec<String> {
        self.source.names()
    }

    /// A tensor's shape (`[out, in]` for a matrix), if there is such a tensor. Does not count as asking for it.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.info(name).map(|info| info.shape.to_vec())
    }

    /// A tensor in the given type. A missing tensor, another shape than `shape`, or an unreadable type is an error that
    /// names it.
    pub fn load(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor, ModelError> {
        self.check(name, shape)?;
        self.source.load(name, dtype)?.ok_or_else(|| self.missing(name))
    }

    /// A matrix `[out, in]` as a frozen weight: in its quantised blocks if it is stored so and `keep_quantised` is set,
    /// else in the given type. Panics if `shape`, which the caller knows from the model's config, is no matrix's.
    pub fn load_weight(
        &self,
        name: &str,
        shape: &[usize],
        dtype: DType,
        keep_quantised: bool,
    ) -> Result<Weight, ModelError> {
        self.check(name, shape)?;
        if keep_quantised && let Some(blocks) = self.source.load_quantised(name)? {
            return Ok(Weight::new(WeightData::Quantised(blocks)));
        }
        Ok(Weight::dense(self.load(name, shape, dtype)?))
    }

    /// Names that no `load` or `load_weight` has asked for, sorted.
    pub fn never_asked(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.source.names().into_iter().filter(|name| !asked.contains(name)).collect()
    }

    /// The files, in order.
    pub fn files(&self) -> Vec<PathBuf> {
        self.source.files()
    }

    /// What of the files is in memory.
    pub(crate) fn resident_pages(&self) -> ResidentPages {
        self.source.resident_pages()
    }

    fn check(&self, name: &str, shape: &[usize]) -> Result<(), ModelError> {
        let info = self.source.info(name).ok_or_else(|| self.missing(name))?;
        if info.shape != shape {
            return Err(ModelError::TensorShape {
                path: info.file.to_owned(),
                name: name.to_owned(),
                found: info.shape.to_vec(),
                expected: shape.to_vec(),
            });
        }
        let mut asked = self.asked.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        asked.insert(name.to_owned());
        Ok(())
    }

    fn missing(&self, name: &str) -> ModelError {
        // The commonest cause is another prefix (`language_model.model.layers…`, `layers…` without `model.`).
        let tail = name.strip_prefix("model.").unwrap_or(name);
        let similar = self.source.names().into_iter().find(|other| other.ends_with(tail));
        let hint = similar.map_or(String::new(), |other| format!(" (there is `{other}`)"));
        ModelError::MissingTensor { path: self.path.clone(), name: name.to_owned(), hint }
    }
}
