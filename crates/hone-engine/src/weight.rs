//! A frozen matrix, in the layouts the matrix products want.
//!
//! A weight is `[out, in]` as Hugging Face stores it: `y = x Wᵀ`. It is packed once for the forward product and, the first
//! time a backward product asks, once more for `dx = dy W`. It knows nothing of names or edits.

use std::sync::{Arc, OnceLock};

use crate::dtype::DType;
use crate::matmul::Packed;
use crate::quant::QuantTensor;
use crate::tape::Var;
use crate::tensor::Tensor;

/// Where a weight's numbers are kept.
pub enum WeightData {
    /// `[out, in]`, `f32` or `bf16`: also the type it is computed in.
    Dense(Tensor),
    /// `[out, in]` in GGUF blocks, expanded block by block while it is used.
    Quantised(QuantTensor),
}

/// A frozen matrix `[out, in]`.
pub struct Weight {
    #[allow(unused)]
    data: WeightData,
    #[allow(unused)]
    forward: OnceLock<Packed>,
    #[allow(unused)]
    backward: OnceLock<Packed>,
}

impl Weight {
    /// A weight over `data`. Packing happens at first use (or by [`Weight::prepare`]).
    pub fn new(data: WeightData) -> Weight {
        Weight { data, forward: OnceLock::new(), backward: OnceLock::new() }
    }
    /// A dense weight.
    pub fn dense(tensor: Tensor) -> Weight {
        Weight::new(WeightData::Dense(tensor))
    }
    /// Rows (`out`).
    pub fn out_features(&self) -> usize {
        todo!()
    }
    /// Columns (`in`).
    pub fn in_features(&self) -> usize {
        todo!()
    }
    /// The numbers as stored.
    pub fn data(&self) -> &WeightData {
        &self.data
    }
    /// Packs now what will be needed, so that the first step is not slower than the rest.
    pub fn prepare(&self, _backward: bool) {
        todo!()
    }
    /// `y = x Wᵀ`: `[tokens, in]` to `[tokens, out]`, in `x`'s type.
    pub fn forward(&self, _x: &Tensor) -> Tensor {
        todo!()
    }
    /// `dx = dy W`: `[tokens, out]` to `[tokens, in]`, in `dy`'s type.
    pub fn backward(&self, _dy: &Tensor) -> Tensor {
        todo!()
    }
    /// The whole matrix as a dense tensor of the given type (expanded if quantised).
    pub fn to_dense(&self, _dtype: DType) -> Tensor {
        todo!()
    }
    /// Rows `ids` as `[ids.len(), in]` in the given type: embedding lookup.
    pub fn gather(&self, _ids: &[u32], _dtype: DType) -> Tensor {
        todo!()
    }
    /// Rows `range` times `x`: `[tokens, in]` to `[tokens, range.len()]` in `f32`: a chunk of an LM head.
    pub fn forward_f32(&self, _x: &Tensor) -> Tensor {
        todo!()
    }
}

/// What stands at a site: the frozen weight, or a trained value of the same shape.
#[derive(Clone)]
pub enum WeightRef {
    /// Frozen: no gradient work.
    Frozen(Arc<Weight>),
    /// `[out, in]`, with a gradient.
    Trained(Var),
}
