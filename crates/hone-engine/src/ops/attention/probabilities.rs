//! The probabilities themselves, for probes that look at where a head attends. Row by row and without tiles: a probe
//! reads a few heads, and is allowed the `[len, keys]` matrix it asks for.

use rayon::prelude::*;

use crate::dtype::DType;
use crate::simd;
use crate::tensor::Tensor;

use super::plan::{seen, sequences};
use super::{AttentionSpec, Segment};

/// Attention probabilities of one head for the rows of one segment, `[len, keys]` in `f32`; `keys` counts the parents'
/// tokens first. Keys that a row does not see have probability 0. No bias, no gradient.
///
/// Panics on shapes that do not fit.
pub fn attention_probabilities(
    q: &Tensor,
    k: &Tensor,
    segments: &[Segment],
    segment: usize,
    head: usize,
    spec: &AttentionSpec,
) -> Tensor {
    spec.check(q, k);
    assert!(head < spec.query_heads, "head {head} of {}", spec.query_heads);
    let sequence = &sequences(segments, q.dim(0))[segment];
    let mut out = Tensor::zeros([sequence.queries, sequence.keys], DType::F32);
    if out.elements() == 0 {
        return out;
    }
    let dim = spec.head_dim;
    let key_head = head / (spec.query_heads / spec.key_value_heads);
    crate::dispatch_dtype!(q.dtype(), T => {
        let (queries, keys) = (q.as_slice::<T>(), k.as_slice::<T>());
        out.as_mut_slice::<f32>().par_chunks_mut(sequence.keys).enumerate().for_each(|(i, row)| {
            let query = &queries[((sequence.query_row + i) * spec.query_heads + head) * dim..][..dim];
            let positions = seen(sequence.first_position + i, sequence.keys, spec);
            let row = &mut row[positions.clone()];
            simd::dispatch(#[inline(always)] || {
                for (score, key) in row.iter_mut().zip(sequence.key_rows(positions).flatten()) {
                    let key = &keys[(key * spec.key_value_heads + key_head) * dim..][..dim];
                    *score = simd::dot(query, key) * spec.scale;
                    if let Some(cap) = spec.soft_cap {
                        *score = cap * simd::tanh(*score / cap);
                    }
                }
                let sum = simd::exp_shifted(row, simd::max(row));
                row.iter_mut().for_each(|p| *p /= sum);
            });
        });
    });
    out
}
