//! Rows of a table: `[tokens, width]`, times a factor (Gemma multiplies by `sqrt(width)`, rounded to the compute type).

use super::elementwise::scaled;
use crate::dtype::{DType, Element};
use crate::profile::{self, Pass};
use crate::simd;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::weight::WeightRef;

/// `factor * table[ids]` in type `dtype`; `factor` is rounded to that type first. The gradient of a trained table is
/// summed in token order. Panics on an id outside the table.
pub fn embedding(tape: &Tape, table: &WeightRef, ids: &[u32], factor: f32, dtype: DType) -> Var {
    let _span = profile::span("embedding", Pass::Forward);
    let factor = crate::dispatch_dtype!(dtype, T => Element::widen(T::rounded(factor)));
    let rows = match table {
        WeightRef::Frozen(weight) => weight.gather(ids, dtype),
        WeightRef::Trained(var) => gather(&var.value, ids).to_dtype(dtype),
    };
    let value = if factor == 1.0 { rows } else { scaled(rows, factor) };
    let table = match table {
        WeightRef::Trained(var) if tape.needs_grad(&[var]) => var.clone(),
        _ => return Var::constant(value),
    };
    let ids = ids.to_vec();
    tape.record(value, move |grad, into| {
        let _span = profile::span("embedding", Pass::Backward);
        into.add_in_place(&table, |sum| add_rows(sum, &ids, &grad, factor));
    })
}

/// `to[rows[i]] += factor * from[i]`, in order of `i`.
pub(super) fn add_rows(to: &mut Tensor, rows: &[u32], from: &Tensor, factor: f32) {
    let (_, width) = from.rows_cols();
    crate::dispatch_dtype!(to.dtype(), T => crate::dispatch_dtype!(from.dtype(), F => {
        let (to, from) = (to.as_mut_slice::<T>(), from.as_slice::<F>());
        simd::dispatch(
            #[inline(always)]
            || {
                for (row, from) in rows.iter().zip(from.chunks_exact(width)) {
                    let at = *row as usize * width;
                    simd::add_scaled(&mut to[at..at + width], factor, from);
                }
            },
        )
    }))
}

/// Rows `ids` of a table.
pub(super) fn gather(table: &Tensor, ids: &[u32]) -> Tensor {
    let (_, width) = table.rows_cols();
    let mut out = Tensor::uninit([ids.len(), width], table.dtype());
    crate::dispatch_dtype!(table.dtype(), T => {
        let table = table.as_slice::<T>();
        for (id, to) in ids.iter().zip(out.as_mut_slice::<T>().chunks_exact_mut(width)) {
            let at = *id as usize * width;
            to.copy_from_slice(&table[at..at + width]);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Weight;
    use crate::reference::gradient_check::{check, random, tolerance};

    #[test]
    fn rows_match_the_reference_and_repeated_ids_sum_their_gradients() {
        let ids = [3u32, 0, 3, 6, 3];
        for dtype in [DType::F32, DType::BF16] {
            let table = [random([7, 5], dtype, 1)];
            let op =
                |tape: &Tape, v: &[Var]| vec![embedding(tape, &WeightRef::Trained(v[0].clone()), &ids, 2.5, dtype)];
            let row = |v: &[f64], id: u32| v[id as usize * 5..][..5].iter().map(|x| 2.5 * x).collect::<Vec<_>>();
            let oracle = |v: &[Vec<f64>]| vec![ids.iter().flat_map(|id| row(&v[0], *id)).collect()];
            check(&table, tolerance(dtype), op, oracle);
        }
    }

    #[test]
    fn a_frozen_table_gives_the_same_rows() {
        let table = random([7, 5], DType::BF16, 1);
        let trained = WeightRef::Trained(Var::constant(table.clone()));
        let frozen = WeightRef::Frozen(Arc::new(Weight::dense(table)));
        for dtype in [DType::F32, DType::BF16] {
            // The square root of 640 does not fit bf16: the factor's own rounding shows.
            let [a, b] = [&trained, &frozen]
                .map(|t| embedding(&Tape::off(), t, &[6, 1], 640f32.sqrt(), dtype).value.to_vec_f32());
            assert_eq!(a, b);
        }
    }
}
