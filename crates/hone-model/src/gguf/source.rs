//! A GGUF file's tensors under Hugging Face's names and layouts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use hone_engine::quant::{BlockBytes, BlockType, QuantTensor};
use hone_engine::{DType, Tensor};
use rayon::prelude::*;

use super::names::{self, Layout};
use super::{Gguf, TensorEntry};
use crate::error::ModelError;
use crate::weights::mapped::{DenseType, ResidentPages};
use crate::weights::{TensorInfo, WeightSource};

/// Tensors that only hold settings, which [`super::config`] reads.
const SETTINGS: [&str; 1] = ["rope_freqs.weight"];

pub(crate) struct GgufWeights {
    gguf: Arc<Gguf>,
    /// Hugging Face's name to the row of the table and the layout.
    by_name: BTreeMap<String, (usize, Layout)>,
    query_head_dim: usize,
    key_head_dim: usize,
}

impl GgufWeights {
    pub fn new(gguf: Arc<Gguf>) -> Result<GgufWeights, ModelError> {
        let architecture = gguf.architecture()?;
        if !names::ARCHITECTURES.contains(&architecture) {
            return Err(ModelError::UnknownArchitecture {
                path: gguf.path().to_owned(),
                found: architecture.to_owned(),
                known: names::ARCHITECTURES.join(", "),
            });
        }
        let mut by_name = BTreeMap::new();
        for (index, tensor) in gguf.tensors.iter().enumerate() {
            if SETTINGS.contains(&tensor.name.as_str()) {
                continue;
            }
            // A tensor without a Hugging Face name keeps its own, so that it is named as never asked for.
            let name = names::to_hf(architecture, &tensor.name).unwrap_or_else(|| tensor.name.clone());
            by_name.insert(name, (index, names::layout(architecture, &tensor.name)));
        }
        let heads = gguf.heads()?;
        let key_heads = gguf.key_heads()?;
        let mut this = GgufWeights { gguf, by_name, query_head_dim: 0, key_head_dim: 0 };
        (this.query_head_dim, this.key_head_dim) = (this.head_dim(true, heads)?, this.head_dim(false, key_heads)?);
        Ok(this)
    }

    /// Rows a head of the reordered maps has, checked to divide and to be even.
    fn head_dim(&self, query: bool, heads: usize) -> Result<usize, ModelError> {
        let mut head_dim = 0;
        for (index, layout) in self.by_name.values() {
            let tensor = &self.gguf.tensors[*index];
            if *layout != Layout::RotaryRows || names::is_query(&tensor.name) != query {
                continue;
            }
            let rows = tensor.shape[0];
            if !rows.is_multiple_of(2 * heads) || (head_dim != 0 && rows != head_dim * heads) {
                let expected =
                    format!("the same multiple of 2 × {heads} heads in every layer; convert the model again");
                let place = format!("tensor `{}`", tensor.name);
                return Err(ModelError::malformed(self.gguf.path(), place, format!("{rows} rows"), expected));
            }
            head_dim = rows / heads;
        }
        Ok(head_dim)
    }

    /// For each row of Hugging Face's matrix the row of the file's.
    fn row_order(&self, tensor: &TensorEntry) -> impl Fn(usize) -> usize + use<> {
        let head_dim = if names::is_query(&tensor.name) { self.query_head_dim } else { self.key_head_dim };
        move |row| names::gguf_row(row, head_dim)
    }

    fn entry(&self, name: &str) -> Option<(&TensorEntry, Layout)> {
        let (index, layout) = self.by_name.get(name)?;
        Some((&self.gguf.tensors[*index], *layout))
    }

    fn bytes(&self, tensor: &TensorEntry) -> &[u8] {
        &self.gguf.file.bytes()[tensor.range.clone()]
    }
}

impl WeightSource for GgufWeights {
    fn names(&self) -> Vec<String> {
        self.by_name.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo<'_>> {
        let (tensor, _) = self.entry(name)?;
        Some(TensorInfo { shape: &tensor.shape, file: self.gguf.path() })
    }

    fn load(&self, name: &str, dtype: DType) -> Result<Option<Tensor>, ModelError> {
        let Some((tensor, layout)) = self.entry(name) else { return Ok(None) };
        let dense = match tensor.kind {
            BlockType::F32 => Some(DenseType::F32),
            BlockType::F16 => Some(DenseType::F16),
            BlockType::BF16 => Some(DenseType::BF16),
            _ => None,
        };
        if let (Layout::Same, Some(stored)) = (layout, dense) {
            return Ok(Some(self.gguf.file.tensor(tensor.range.clone(), &tensor.shape, stored, dtype)));
        }
        let bytes = self.bytes(tensor);
        // A vector with reordered rows (a bias) is a matrix of one column.
        let columns = match layout {
            Layout::RotaryRows if tensor.shape.len() == 1 => 1,
            _ => tensor.shape.last().copied().unwrap_or(1),
        };
        let row_bytes = bytes.len() / (tensor.shape.iter().product::<usize>() / columns);
        let order = self.row_order(tensor);
        let mut out = Tensor::uninit(tensor.shape.as_slice(), dtype);
        hone_engine::dispatch_dtype!(dtype, T => {
            let rows = out.as_mut_slice::<T>().par_chunks_mut(columns).enumerate();
            rows.try_for_each_init(|| vec![0f32; columns], |values, (row, to)| {
                let from = if layout == Layout::RotaryRows { order(row) } else { row };
                tensor.kind.dequantise(&bytes[from * row_bytes..(from + 1) * row_bytes], values)?;
                let less = if layout == Layout::OneAdded { 1.0 } else { 0.0 };
                to.iter_mut().zip(values).for_each(|(t, v)| *t = hone_engine::Element::rounded(*v - less));
                Ok(())
            }).map_err(|e| self.engine_error(tensor, e))?;
        });
        Ok(Some(out))
    }

    fn load_quantised(&self, name: &str) -> Result<Option<QuantTensor>, ModelError> {
        let Some((tensor, layout)) = self.entry(name) else { return Ok(None) };
        let [rows, columns] = tensor.shape[..] else { return Ok(None) };
        if matches!(tensor.kind, BlockType::F32 | BlockType::BF16) || layout == Layout::OneAdded {
            return Ok(None);
        }
        let blocks = if layout == Layout::RotaryRows {
            // Blocks never span rows, so rows move whole.
            let bytes = self.bytes(tensor);
            let row_bytes = bytes.len() / rows;
            let order = self.row_order(tensor);
            let mut moved = Vec::with_capacity(bytes.len());
            for row in 0..rows {
                moved.extend_from_slice(&bytes[order(row) * row_bytes..(order(row) + 1) * row_bytes]);
            }
            BlockBytes::from(moved)
        } else {
            let part = BlockBytes::part(self.gguf.file.shared(), tensor.range.clone());
            part.map_err(|e| self.engine_error(tensor, e))?
        };
        QuantTensor::new(tensor.kind, rows, columns, blocks).map(Some).map_err(|e| self.engine_error(tensor, e))
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.gguf.path().to_owned()]
    }

    fn resident_pages(&self) -> ResidentPages {
        ResidentPages::of([&self.gguf.file])
    }
}

impl GgufWeights {
    fn engine_error(&self, tensor: &TensorEntry, error: hone_engine::EngineError) -> ModelError {
        let place = format!("tensor `{}`", tensor.name);
        ModelError::malformed(self.gguf.path(), place, error.to_string(), "whole blocks; fetch the file again")
    }
}
