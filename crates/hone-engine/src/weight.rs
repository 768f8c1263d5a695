//! A frozen matrix, in the layouts the matrix products want.
//!
//! A weight is `[out, in]` as Hugging Face stores it: `y = x Wᵀ`, and `dx = dy W` in backward. It knows nothing of names
//! or edits.

use std::ops::Range;
use std::sync::Arc;

use crate::dtype::{DType, Element};
use crate::matmul::{matmul_nn, matmul_nn_add, matmul_nt};
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
    data: WeightData,
}

impl Weight {
    /// Row ranges ([`Weight::forward_rows_f32`], [`Weight::backward_rows_add`]) start at multiples of this.
    pub const ROW_ALIGN: usize = 32;

    /// A weight over `data`. Packing happens at first use (or by [`Weight::prepare`]).
    pub fn new(data: WeightData) -> Weight {
        if let WeightData::Dense(t) = &data {
            assert_eq!(t.dims().len(), 2, "a weight is [out, in], got {:?}", t.shape());
        }
        Weight { data }
    }
    /// A dense weight.
    pub fn dense(tensor: Tensor) -> Weight {
        Weight::new(WeightData::Dense(tensor))
    }
    /// Rows (`out`).
    pub fn out_features(&self) -> usize {
        match &self.data {
            WeightData::Dense(t) => t.dim(0),
            WeightData::Quantised(q) => q.rows(),
        }
    }
    /// Columns (`in`).
    pub fn in_features(&self) -> usize {
        match &self.data {
            WeightData::Dense(t) => t.dim(1),
            WeightData::Quantised(q) => q.columns(),
        }
    }
    /// The blocks, if the weight is kept quantised.
    pub fn quantised(&self) -> Option<&QuantTensor> {
        match &self.data {
            WeightData::Dense(_) => None,
            WeightData::Quantised(q) => Some(q),
        }
    }
    /// Packs now what will be needed, so that the first step is not slower than the rest.
    pub fn prepare(&self, _backward: bool) {}
    /// `y = x Wᵀ`: `[tokens, in]` to `[tokens, out]`, in `x`'s type.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        matmul_nt(x, &self.to_dense(x.dtype()), x.dtype())
    }
    /// `dx = dy W`: `[tokens, out]` to `[tokens, in]`, in `dy`'s type.
    pub fn backward(&self, dy: &Tensor) -> Tensor {
        matmul_nn(dy, &self.to_dense(dy.dtype()), dy.dtype())
    }
    /// `dx += dy W`, for several maps of one input. `dx` `[tokens, in]` in its own type.
    pub fn backward_add(&self, dy: &Tensor, dx: &mut Tensor) {
        matmul_nn_add(dx, 1.0, dy, &self.to_dense(dy.dtype()));
    }
    /// `x` times rows `range`: `[tokens, in]` to `[tokens, range.len()]` in `f32`: a chunk of an LM head. `range` starts
    /// at a multiple of [`Weight::ROW_ALIGN`].
    pub fn forward_rows_f32(&self, range: Range<usize>, x: &Tensor) -> Tensor {
        self.check_rows(&range);
        matmul_nt(x, &self.to_dense(x.dtype()).narrow(range), DType::F32)
    }
    /// `dx += dy W[range]`: `[tokens, range.len()]` into `[tokens, in]`; `range` as in [`Weight::forward_rows_f32`].
    pub fn backward_rows_add(&self, range: Range<usize>, dy: &Tensor, dx: &mut Tensor) {
        self.check_rows(&range);
        matmul_nn_add(dx, 1.0, dy, &self.to_dense(dy.dtype()).narrow(range));
    }
    fn check_rows(&self, range: &Range<usize>) {
        let rows = self.out_features();
        assert!(range.start.is_multiple_of(Self::ROW_ALIGN), "rows {range:?} do not start at a multiple of 32");
        assert!(range.start <= range.end && range.end <= rows, "rows {range:?} of a weight of {rows}");
    }
    /// The whole matrix as a dense tensor of the given type (expanded if quantised).
    pub fn to_dense(&self, dtype: DType) -> Tensor {
        match &self.data {
            WeightData::Dense(t) => t.to_dtype(dtype),
            WeightData::Quantised(q) => q.to_dense(dtype),
        }
    }
    /// Rows `ids` as `[ids.len(), in]` in the given type: embedding lookup. Panics on an id outside the table.
    pub fn gather(&self, ids: &[u32], dtype: DType) -> Tensor {
        let (rows, width) = (self.out_features(), self.in_features());
        let mut out = Tensor::uninit([ids.len(), width], dtype);
        let mut row = vec![0f32; width];
        crate::dispatch_dtype!(dtype, T => {
            for (id, to) in ids.iter().zip(out.as_mut_slice::<T>().chunks_exact_mut(width.max(1))) {
                assert!((*id as usize) < rows, "row {id} of a weight of {rows} rows");
                let at = *id as usize;
                match &self.data {
                    WeightData::Dense(t) => crate::dispatch_dtype!(t.dtype(), S => {
                        let from = &t.as_slice::<S>()[at * width..(at + 1) * width];
                        row.iter_mut().zip(from).for_each(|(r, v)| *r = Element::to_f32(*v));
                    }),
                    WeightData::Quantised(q) => q.dequantise_row(at, &mut row),
                }
                to.iter_mut().zip(&row).for_each(|(t, v)| *t = T::from_f32(*v));
            }
        });
        out
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
