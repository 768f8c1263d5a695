//! A LoRA as a GGUF file of its own, as llama.cpp reads it beside a base model (`--lora`; `llama_adapter_lora_init`).
//!
//! `general.type` is `adapter`, `adapter.type` is `lora`, and there is one `adapter.lora.alpha`. A pair is two tensors
//! named after the base's weight: `blk.3.attn_q.weight.lora_a` `[r, in]` and `….lora_b` `[out, r]`. llama.cpp adds
//! `alpha / r · B A`, with `r` from the tensor; where pairs have scales of their own, what differs from the first
//! pair's is multiplied into `B`. The rows of `B` at llama's query and key maps stand in GGUF's order
//! ([`super::names`]), as the base's rows do.

use std::path::Path;

use hone_engine::Tensor;
use hone_engine::quant::{BlockType, QuantTensor};

use super::write::{OutTensor, write};
use super::{Gguf, Value, config, names};
use crate::atomic;
use crate::decoder::Decoder;
use crate::error::ModelError;

/// What a low-rank pair adds to a linear map: `scale · b a`.
#[derive(Clone, Debug)]
pub struct AdapterPair {
    /// The map: `model.layers.3.self_attn.q_proj`.
    pub module: String,
    /// `[r, in]`, `f32`.
    pub a: Tensor,
    /// `[out, r]`, `f32`.
    pub b: Tensor,
    /// Factor of the product.
    pub scale: f32,
}

/// Writes the pairs as an adapter of `decoder`'s model, in `F32`.
pub fn save_adapter(decoder: &Decoder, pairs: &[AdapterPair], path: &Path) -> Result<(), ModelError> {
    let of_base = config::to_metadata(path, &decoder.spec.config)?;
    let alpha = pairs.first().map_or(1.0, |p| p.scale * p.a.dim(0) as f32);
    let text = |key: &str, value: &str| (key.to_owned(), Value::Text(value.to_owned()));
    let metadata = [
        text("general.type", "adapter"),
        text("general.architecture", of_base.architecture),
        text("adapter.type", "lora"),
        ("adapter.lora.alpha".to_owned(), Value::F32(alpha)),
        ("general.file_type".to_owned(), Value::U32(0)),
    ];
    let mut tensors = Vec::with_capacity(2 * pairs.len());
    for pair in pairs {
        let weight = format!("{}.weight", pair.module);
        let name = names::to_gguf(of_base.architecture, &weight).ok_or_else(|| {
            let expected = "a map that GGUF has a name for; export the merged model instead";
            ModelError::malformed(path, format!("adapter of `{}`", pair.module), "no name for it", expected)
        })?;
        let layout = names::layout(of_base.architecture, &name);
        // Exactly 1 where all pairs have one scale and one rank.
        let rest = pair.scale * pair.a.dim(0) as f32 / alpha;
        let b = scaled(&rows(&pair.b, layout, |row| names::hf_row(row, of_base.head_dim)), rest);
        tensors.push(out(format!("{name}.lora_a"), pair.a.clone()));
        tensors.push(out(format!("{name}.lora_b"), b));
    }
    atomic::write_with(path, |temporary| write(temporary, path, &metadata, &tensors))
}

/// Reads an adapter written for `decoder`'s model; every tensor must have a place in it and a fellow.
pub fn read_adapter(decoder: &Decoder, path: &Path) -> Result<Vec<AdapterPair>, ModelError> {
    let gguf = Gguf::open(path)?;
    let expect = |key: &str, wanted: &str| match gguf.text(key)? {
        Some(found) if found == wanted => Ok(()),
        found => {
            let found = found.unwrap_or("nothing").to_owned();
            Err(ModelError::malformed(path, format!("metadata `{key}`"), found, format!("`{wanted}`")))
        }
    };
    let of_base = config::to_metadata(path, &decoder.spec.config)?;
    expect("general.type", "adapter")?;
    expect("adapter.type", "lora")?;
    expect("general.architecture", of_base.architecture)?;
    let alpha = gguf.float("adapter.lora.alpha")?.ok_or_else(|| gguf.absent("adapter.lora.alpha"))? as f32;
    let mut pairs = Vec::new();
    for entry in &gguf.tensors {
        let Some(weight) = entry.name.strip_suffix(".lora_a") else { continue };
        let wrong = |found: &str| {
            let expected = "a pair `.lora_a`, `.lora_b` of a map of this model";
            ModelError::malformed(path, format!("tensor `{}`", entry.name), found, expected)
        };
        let module = names::to_hf(of_base.architecture, weight);
        let module = module.as_deref().and_then(|name| name.strip_suffix(".weight"));
        let module = module.ok_or_else(|| wrong("no such map"))?.to_owned();
        let other = format!("{weight}.lora_b");
        let other = gguf.tensors.iter().find(|t| t.name == other).ok_or_else(|| wrong("no `.lora_b` beside it"))?;
        let (a, b) = (dense(&gguf, entry)?, dense(&gguf, other)?);
        if a.dim(0) != b.dim(1) || a.dim(0) == 0 {
            return Err(wrong(&format!("shapes {:?} and {:?}", a.dims(), b.dims())));
        }
        let layout = names::layout(of_base.architecture, weight);
        let b = rows(&b, layout, |row| names::gguf_row(row, of_base.head_dim));
        pairs.push(AdapterPair { module, scale: alpha / a.dim(0) as f32, a, b });
    }
    if 2 * pairs.len() != gguf.tensors.len() {
        let found = format!("{} tensors for {} pairs", gguf.tensors.len(), pairs.len());
        return Err(ModelError::malformed(path, "tensors", found, "two for each pair and no others"));
    }
    Ok(pairs)
}

fn dense(gguf: &Gguf, entry: &super::TensorEntry) -> Result<Tensor, ModelError> {
    let wrong =
        |found: String| ModelError::malformed(gguf.path(), format!("tensor `{}`", entry.name), found, "a matrix");
    let [rows, columns] = entry.shape[..] else { return Err(wrong(format!("shape {:?}", entry.shape))) };
    let bytes = gguf.file.bytes()[entry.range.clone()].to_vec();
    let blocks = QuantTensor::new(entry.kind, rows, columns, bytes).map_err(|e| wrong(e.to_string()))?;
    Ok(blocks.to_dense(hone_engine::DType::F32))
}

/// Row `i` of the result is row `from(i)` of `matrix`, where the layouts differ.
fn rows(matrix: &Tensor, layout: names::Layout, from: impl Fn(usize) -> usize) -> Tensor {
    if layout != names::Layout::RotaryRows {
        return matrix.clone();
    }
    let (rows, columns) = matrix.rows_cols();
    let values = matrix.as_slice::<f32>();
    let moved: Vec<f32> = (0..rows).flat_map(|row| &values[from(row) * columns..][..columns]).copied().collect();
    Tensor::from_slice([rows, columns], &moved)
}

fn scaled(matrix: &Tensor, by: f32) -> Tensor {
    let mut out = matrix.clone();
    if by != 1.0 {
        out.as_mut_slice::<f32>().iter_mut().for_each(|v| *v *= by);
    }
    out
}

fn out(name: String, matrix: Tensor) -> OutTensor<'static> {
    let shape = matrix.dims().to_vec();
    let bytes = move || Ok(matrix.as_slice::<f32>().iter().flat_map(|v| v.to_le_bytes()).collect());
    OutTensor { name, shape, kind: BlockType::F32, bytes: Box::new(bytes) }
}
