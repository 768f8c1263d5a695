//! The probabilities themselves, for probes that look at where a head attends. Row by row and without tiles: a probe
//! reads a few heads or a few rows, and is allowed the matrix it asks for.

use rayon::prelude::*;

use crate::dtype::{DType, Element};
use crate::simd;
use crate::tensor::Tensor;

use super::plan::{Sequence, seen, sequences};
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
    crate::dispatch_dtype!(q.dtype(), T => {
        let (queries, keys) = (q.as_slice::<T>(), k.as_slice::<T>());
        out.as_mut_slice::<f32>().par_chunks_mut(sequence.keys).enumerate().for_each(|(i, row)| {
            attend_to(queries, keys, sequence, i, head, spec, row);
        });
    });
    out
}

/// Attention probabilities of every head for some rows of the flat batch, one `[query_heads, keys]` in `f32` a row: keys
/// in order of their positions, the tokens of the segment's parents first, up to the end of the row's own segment. Keys
/// that a row does not see have probability 0. No bias, no gradient.
///
/// Panics on shapes that do not fit, and on a row that the batch does not have.
pub fn attention_rows(
    q: &Tensor,
    k: &Tensor,
    segments: &[Segment],
    rows: &[usize],
    spec: &AttentionSpec,
) -> Vec<Tensor> {
    spec.check(q, k);
    let sequences = sequences(segments, q.dim(0));
    let of_row = |&row: &usize| {
        let holds = |sequence: &&Sequence| (sequence.query_row..sequence.query_row + sequence.queries).contains(&row);
        let sequence = sequences.iter().find(holds).unwrap_or_else(|| panic!("row {row} of {}", q.dim(0)));
        let mut out = Tensor::zeros([spec.query_heads, sequence.keys], DType::F32);
        crate::dispatch_dtype!(q.dtype(), T => {
            let (queries, keys) = (q.as_slice::<T>(), k.as_slice::<T>());
            for (head, of_head) in out.as_mut_slice::<f32>().chunks_mut(sequence.keys).enumerate() {
                attend_to(queries, keys, sequence, row - sequence.query_row, head, spec, of_head);
            }
        });
        out
    };
    rows.par_iter().map(of_row).collect()
}

/// Fills in what the sequence's query `i` gives to each of its keys; `out` is `[keys]`, zero where nothing is seen.
fn attend_to<T: Element>(
    queries: &[T],
    keys: &[T],
    sequence: &Sequence,
    i: usize,
    head: usize,
    spec: &AttentionSpec,
    out: &mut [f32],
) {
    let dim = spec.head_dim;
    let key_head = head / (spec.query_heads / spec.key_value_heads);
    let query = &queries[((sequence.query_row + i) * spec.query_heads + head) * dim..][..dim];
    let positions = seen(sequence.first_position + i, sequence.keys, spec);
    let row = &mut out[positions.clone()];
    simd::dispatch(
        #[inline(always)]
        || {
            for (score, key) in row.iter_mut().zip(sequence.key_rows(positions).flatten()) {
                let key = &keys[(key * spec.key_value_heads + key_head) * dim..][..dim];
                *score = simd::dot(query, key) * spec.scale;
                if let Some(cap) = spec.soft_cap {
                    *score = cap * simd::tanh(*score / cap);
                }
            }
            let sum = simd::exp_shifted(row, simd::max(row));
            row.iter_mut().for_each(|p| *p /= sum);
        },
    );
}
