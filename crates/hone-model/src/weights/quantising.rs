//! Weights rounded to blocks while they are read, one matrix at a time: a base for QLoRA (arXiv 2305.14314). The whole model is
//! never in memory in any other form.
//!
//! Only linear maps inside the layers are rounded, as bitsandbytes does: the embedding table, the LM head, norms and biases stay as
//! they are. A map whose rows are no whole number of GGUF blocks stays as well.

use std::path::PathBuf;

use hone_engine::quant::{QuantTensor, QuantType};
use hone_engine::{DType, Tensor};

use super::mapped::ResidentPages;
use super::{TensorInfo, WeightSource};
use crate::error::ModelError;

/// Another source, its linear maps in blocks.
pub(super) struct Quantising {
    pub inner: Box<dyn WeightSource>,
    pub kind: QuantType,
}

impl Quantising {
    fn is_rounded(&self, name: &str) -> bool {
        let columns = match self.inner.info(name).map(|info| info.shape.to_vec()).as_deref() {
            Some([_, columns]) => *columns,
            _ => return false,
        };
        let whole_blocks = match self.kind {
            QuantType::Gguf(kind) => columns.is_multiple_of(kind.block_values()),
            QuantType::Nf4 { .. } => true,
        };
        name.contains("layers.") && whole_blocks
    }
}

impl WeightSource for Quantising {
    fn names(&self) -> Vec<String> {
        self.inner.names()
    }

    fn info(&self, name: &str) -> Option<TensorInfo<'_>> {
        self.inner.info(name)
    }

    fn load(&self, name: &str, dtype: DType) -> Result<Option<Tensor>, ModelError> {
        self.inner.load(name, dtype)
    }

    fn load_quantised(&self, name: &str) -> Result<Option<QuantTensor>, ModelError> {
        if !self.is_rounded(name) {
            return Ok(None);
        }
        let Some(dense) = self.inner.load(name, DType::F32)? else { return Ok(None) };
        let blocks = QuantTensor::quantise(dense.as_slice::<f32>(), dense.dim(1), self.kind);
        self.inner.done_with(name);
        blocks.map(Some).map_err(|error| {
            let path = self.inner.info(name).map_or_else(PathBuf::new, |info| info.file.to_owned());
            ModelError::malformed(&path, name, error.to_string(), "numbers that can be rounded to blocks")
        })
    }

    fn files(&self) -> Vec<PathBuf> {
        self.inner.files()
    }

    fn resident_pages(&self) -> ResidentPages {
        self.inner.resident_pages()
    }
}
