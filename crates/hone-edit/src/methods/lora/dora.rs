//! DoRA (Liu et al. 2024, arXiv 2402.09353): `W' = diag(m / n) (W + s B A)` with `n` the Euclidean norm of each row of `W +
//! s B A` (the weight of one output): `m` `[out]` is how long each row is, the pair only where it points. `m` starts at the
//! norms, so the model is unchanged. `n` is taken as a constant backward, as the paper and PEFT do, so gradients are not
//! derivatives of the whole formula. Parameters: `out` more than LoRA a map.
//!
//! With dropout, only the pair's input and the part of the base that the magnitudes change see the dropped input, as in
//! PEFT: `y = x Wᵀ + b + (m/n − 1) x̃ Wᵀ + (m/n) s x̃ Aᵀ Bᵀ`.
//!
//! The norms do not need the changed weight: `n² = |w|² + 2 s (A Wᵀ)ᵀ·B + s² B (A Aᵀ) Bᵀ` row by row, where `A Wᵀ` is one
//! product of `r` rows with the frozen map. So a quantised base is expanded only once, for `|w|²`.
//!
//! An edit's strength `σ` scales the whole change: `W + σ (W' − W)`. On other edits below it, `W` is what they left, and
//! `n` still the norm over the model's own weight.

use std::sync::{Arc, Mutex};

use hone_engine::ops::{self, Pointwise};
use hone_engine::{DType, RandomKey, Tensor, Var, Weight, WeightRef, matmul};
use hone_model::Linear;

use crate::base::{Base, BaseWeight};
use crate::error::EditError;
use crate::forms::{base_weight, dropped};
use crate::method::{At, Direction, Init, Merge, ParamPlan, Part};
use crate::planning;

/// The part; values `A` `[r, in]`, `B` `[out, r]`, `m` `[out]` (in `f32`).
pub struct Dora {
    scale: f32,
    dropout: f32,
    /// The squares of the norms of a frozen weight's rows.
    own: Mutex<Option<(Arc<Weight>, Arc<[f32]>)>>,
}

impl Dora {
    /// For pairs of this scale, with dropout on the input of `A`.
    pub fn new(scale: f32, dropout: f32) -> Dora {
        Dora { scale, dropout, own: Mutex::new(None) }
    }

    /// `|w|²` of every row.
    fn own_squares(&self, linear: &Linear) -> Arc<[f32]> {
        let make = || squares(&base_weight(linear));
        let WeightRef::Frozen(weight) = &linear.weight else { return make() };
        let mut kept = self.own.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*kept {
            Some((of, squares)) if Arc::ptr_eq(of, weight) => squares.clone(),
            _ => kept.insert((weight.clone(), make())).1.clone(),
        }
    }

    /// `1 / n` `[out]`.
    fn inverse_norms(&self, linear: &Linear, a: &Tensor, b: &Tensor) -> Tensor {
        let own = self.own_squares(linear);
        // `A Wᵀ` `[r, out]`.
        let through = match &linear.weight {
            WeightRef::Frozen(weight) => weight.forward(a),
            WeightRef::Trained(var) => matmul::matmul_nt(a, &var.value, a.dtype()),
        };
        let (through, a, b) = (through.to_dtype(DType::F32), a.to_dtype(DType::F32), b.to_dtype(DType::F32));
        let squared = matmul::matmul_nn(&b, &matmul::matmul_nt(&a, &a, DType::F32), DType::F32);
        let (out, rank) = b.rows_cols();
        let (through, squared, b) = (through.as_slice::<f32>(), squared.as_slice::<f32>(), b.as_slice::<f32>());
        let norm = |row: usize| {
            let b = &b[row * rank..][..rank];
            let cross: f32 = b.iter().enumerate().map(|(k, b)| b * through[k * out + row]).sum();
            let square: f32 = b.iter().zip(&squared[row * rank..]).map(|(b, g)| b * g).sum();
            let sum = own[row] + self.scale * (2.0 * cross + self.scale * square);
            // A row that is all zero keeps a factor of 0 rather than one that is not a number.
            if sum > 0.0 { 1.0 / sum.sqrt() } else { 0.0 }
        };
        Tensor::from_slice([out], &(0..out).map(norm).collect::<Vec<f32>>())
    }
}

/// The squared norm of each row, summed in `f64`.
fn squares(matrix: &Tensor) -> Arc<[f32]> {
    let (_, columns) = matrix.rows_cols();
    let rows = matrix.as_slice::<f32>().chunks_exact(columns);
    rows.map(|row| row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>() as f32).collect()
}

/// `m`, which starts at the norms of the rows of `W + s B A`; `pair` are the plans of `A` and `B`.
pub(super) fn magnitudes(weight: &BaseWeight, pair: [ParamPlan; 2], scale: f32) -> ParamPlan {
    let name = weight.name.clone();
    let first = move |base: &Base, key: RandomKey| -> Result<Tensor, EditError> {
        let mut whole = match base.weight(&name) {
            Some(weight) => weight.to_f32(),
            None => Tensor::zeros([pair[1].shape[0], pair[0].shape[1]], DType::F32),
        };
        if !matches!(pair[1].init, Init::Zeros) {
            let (a, b) = (pair[0].first_value(key, base)?, pair[1].first_value(key, base)?);
            matmul::matmul_nn_add(&mut whole, scale, &b, &a);
        }
        let norms: Vec<f32> = squares(&whole).iter().map(|square| square.sqrt()).collect();
        Ok(Tensor::from_slice([norms.len()], &norms))
    };
    let init = Init::Made(Box::new(first));
    ParamPlan::new(planning::key(weight.module(), "lora_magnitude_vector"), &[weight.shape[0]], init).full_precision()
}

impl Part for Dora {
    fn around_linear(&self, at: &At, linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        let tape = &at.cx.tape;
        let [a, b, m] = at.values else { unreachable!("DoRA plans three parameters a map") };
        let inverse = Var::constant(self.inverse_norms(linear, &a.value, &b.value));
        let factor = ops::scale(tape, &ops::multiply(tape, m, &inverse), at.strength);
        // `σ (m/n − 1)`.
        let excess = ops::pointwise(tape, &factor, Pointwise::Shift { by: -at.strength });
        let y = next(x);
        let seen = dropped(at, x, self.dropout);
        let base = match (at.cx.training && self.dropout > 0.0, at.cx.bias(linear)) {
            (true, _) => ops::linear(tape, &seen, &linear.weight, None, &[]),
            (false, Some(bias)) => ops::add_row(tape, &y, &ops::scale(tape, &bias, -1.0)),
            (false, None) => y.clone(),
        };
        let inner = ops::linear(tape, &seen, &WeightRef::Trained(a.clone()), None, &[]);
        let outer = ops::linear(tape, &inner, &WeightRef::Trained(b.clone()), None, &[]);
        let turned = ops::scale(tape, &ops::scale_columns(tape, &outer, &factor), self.scale);
        ops::add(tape, &ops::add(tape, &y, &ops::scale_columns(tape, &base, &excess)), &turned)
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let [a, b, m] = merge.values else { unreachable!("DoRA plans three parameters a map") };
        let mut turned = Tensor::zeros(merge.weight.shape(), DType::F32);
        matmul::matmul_nn_add(&mut turned, self.scale, b, a);
        let mut whole = merge.base()?.clone();
        matmul::matmul_nn_add(&mut whole, self.scale, b, a);
        let (_, columns) = whole.rows_cols();
        let mut out = merge.weight.clone();
        let rows =
            out.as_mut_slice::<f32>().chunks_exact_mut(columns).zip(turned.as_slice::<f32>().chunks_exact(columns));
        for ((row, turned), (m, square)) in rows.zip(m.as_slice::<f32>().iter().zip(squares(&whole).iter())) {
            let factor = if *square > 0.0 { m / square.sqrt() } else { 0.0 };
            let (kept, added) = (1.0 + merge.strength * (factor - 1.0), merge.strength * factor);
            match merge.direction {
                Direction::Merge => row.iter_mut().zip(turned).for_each(|(w, t)| *w = kept * *w + added * t),
                Direction::Unmerge if kept == 0.0 => {
                    return Err("a row was multiplied by 0, which cannot be undone; keep the base model".into());
                }
                Direction::Unmerge => row.iter_mut().zip(turned).for_each(|(w, t)| *w = (*w - added * t) / kept),
            }
        }
        Ok(out)
    }
}
