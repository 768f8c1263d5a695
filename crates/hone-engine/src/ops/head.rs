//! Logits of an LM head, a chunk of rows at a time: what training and scoring share.

use crate::tensor::Tensor;
use crate::weight::WeightRef;

use super::embedding::gather;

/// Logits held at a time, in elements (64 MiB): enough rows for efficient products over a vocabulary of 262,144, few
/// enough that a batch's logits are never held.
const CHUNK: usize = 16 << 20;

/// Rows of `hidden` against `head`, in chunks of nearly equal size that depend on the shapes alone.
pub(super) struct HeadRows<'a> {
    hidden: &'a Tensor,
    head: &'a WeightRef,
    rows: &'a [u32],
    /// `[vocabulary, width]`.
    pub vocabulary: usize,
}

impl<'a> HeadRows<'a> {
    /// Panics on shapes that do not fit and rows outside `hidden`.
    pub(super) fn new(hidden: &'a Tensor, head: &'a WeightRef, rows: &'a [u32]) -> Self {
        let (tokens, width) = hidden.rows_cols();
        let (vocabulary, columns) = match head {
            WeightRef::Frozen(weight) => (weight.out_features(), weight.in_features()),
            WeightRef::Trained(var) => var.value.rows_cols(),
        };
        assert_eq!(width, columns, "hidden states of width {width} for a head of {vocabulary} x {columns}");
        if let Some(row) = rows.iter().find(|r| **r as usize >= tokens) {
            panic!("row {row} of hidden states of {tokens} tokens");
        }
        HeadRows { hidden, head, rows, vocabulary }
    }

    /// Ranges of `rows` to be taken together.
    pub(super) fn chunks(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let n = self.rows.len();
        let most = (CHUNK / self.vocabulary.max(1)).clamp(16, 1024);
        let size = n.div_ceil(n.div_ceil(most).max(1)).max(1);
        (0..n).step_by(size).map(move |from| from..(from + size).min(n))
    }

    /// Hidden states of a chunk, without a copy where its rows follow one another.
    pub(super) fn hidden(&self, chunk: std::ops::Range<usize>) -> Tensor {
        let rows = &self.rows[chunk];
        let first = rows[0] as usize;
        if rows.iter().enumerate().all(|(i, row)| *row as usize == first + i) {
            let (tokens, width) = self.hidden.rows_cols();
            return self.hidden.reshape([tokens, width]).narrow(first..first + rows.len());
        }
        gather(self.hidden, rows)
    }

    /// Logits `[rows, vocabulary]` of hidden states, in `f32`.
    pub(super) fn logits(&self, hidden: &Tensor) -> Tensor {
        self.head.forward_f32(hidden)
    }
}

/// Caps logits as `cap * tanh(logit / cap)`.
#[inline(always)]
pub(super) fn cap_row(row: &mut [f32], soft_cap: Option<f32>) {
    if let Some(cap) = soft_cap {
        let inverse = 1.0 / cap;
        row.iter_mut().for_each(|l| *l = cap * crate::simd::tanh(*l * inverse));
    }
}

/// `ln Σ exp l` of a row of logits.
#[inline(always)]
pub(super) fn log_sum(row: &[f32]) -> f64 {
    let highest = crate::simd::max(row);
    let sum: f64 = row.iter().map(|l| f64::from(crate::simd::exp(l - highest))).sum();
    f64::from(highest) + sum.ln()
}

/// Whether `row[target]` is the highest, the lowest index winning ties.
#[inline(always)]
pub(super) fn is_argmax(row: &[f32], target: usize, highest: f32) -> bool {
    row[target] == highest && crate::simd::max(&row[..target]) < highest
}
