//! A linear map with the low-rank edits on it: `y = x Wᵀ + bias + Σ scale · drop(x) Aᵀ Bᵀ` (LoRA, arXiv 2106.09685), as one
//! operation, so that neither the low-rank products' intermediates nor the sums make passes of their own.
//!
//! Kept for backward: `x` and the narrow `t = scale · drop(x) Aᵀ` `[tokens, rank]`; a dropped `x` is drawn again. With the
//! output's gradient `g` and `u = scale · g B` `[tokens, rank]`:
//! `dB = gᵀ t`, `dA = uᵀ drop(x)`, `dx = g W + drop(u A)`, and for a trained `W`, `dW = gᵀ x`. Nothing is computed for what is
//! frozen. What several maps' terms do with one and the same `x` is done in one pass over it (`thin`).

mod thin;

use super::dropout::Dropout;
use super::elementwise::scaled;
use crate::dtype::{DType, Element};
use crate::matmul::{matmul_nn, matmul_nt};
use crate::parallel::{Rows, column_sums, for_blocks};
use crate::profile::{self, Pass};
use crate::tape::{Gradients, Tape, Var};
use crate::tensor::Tensor;
use crate::weight::{WeightRef, backward_sum, forward_together};

/// One low-rank term.
#[derive(Clone)]
pub struct LowRank {
    /// `[rank, in]`.
    pub a: Var,
    /// `[out, rank]`.
    pub b: Var,
    /// `alpha / rank`, or what the method says.
    pub scale: f32,
    /// On the term's input only.
    pub dropout: Option<Dropout>,
}

/// `x` `[tokens, in]`, `bias` `[out]`; result `[tokens, out]` in `x`'s type. Frozen weights take no gradient work; the
/// input's gradient is computed only if `x` needs it.
pub fn linear(tape: &Tape, x: &Var, weight: &WeightRef, bias: Option<&Var>, terms: &[LowRank]) -> Var {
    linears(tape, x, &[LinearPart { weight, bias, terms }]).swap_remove(0)
}

/// One map of a group that reads the same input (`q`, `k`, `v`; `gate`, `up`).
pub struct LinearPart<'a> {
    /// `[out, in]`.
    pub weight: &'a WeightRef,
    /// `[out]`.
    pub bias: Option<&'a Var>,
    /// Low-rank terms.
    pub terms: &'a [LowRank],
}

/// Several maps of one input: the same numbers as [`linear`] for each, `x` read once and its gradient summed once.
pub fn linears(tape: &Tape, x: &Var, parts: &[LinearPart<'_>]) -> Vec<Var> {
    let mut values = Vec::with_capacity(parts.len());
    let mut kept = Vec::with_capacity(parts.len());
    let mut together = plain_together(&x.value, parts).into_iter().flatten();
    for (part, low) in parts.iter().zip(low_sides(&x.value, parts)) {
        values.push(together.next().unwrap_or_else(|| forward(&x.value, part, &low)));
        kept.push(Part {
            weight: part.weight.clone(),
            bias: part.bias.cloned(),
            terms: part.terms.iter().cloned().zip(low).collect(),
        });
    }
    if !tape.is_recording() || !(x.needs_grad() || kept.iter().any(Part::is_trained)) {
        return values.into_iter().map(Var::constant).collect();
    }
    let x = x.clone();
    tape.record_many(values, move |grads, into| {
        let reached: Vec<(&Part, &Tensor)> =
            kept.iter().zip(&grads).filter_map(|(p, g)| Some((p, g.as_ref()?))).collect();
        backward(&x, &reached, into);
    })
}

/// The outputs of maps without terms, where the weights can be met at once.
fn plain_together(x: &Tensor, parts: &[LinearPart]) -> Option<Vec<Tensor>> {
    if parts.iter().any(|part| !part.terms.is_empty()) {
        return None;
    }
    let _span = profile::span("linear", Pass::Forward);
    let weights: Vec<&WeightRef> = parts.iter().map(|part| part.weight).collect();
    let mut values = forward_together(&weights, x)?;
    for (value, part) in values.iter_mut().zip(parts) {
        if let Some(bias) = part.bias {
            add_bias(value, &bias.value);
        }
    }
    Some(values)
}

/// `t = scale · drop(x) Aᵀ` of every term, map by map.
fn low_sides(x: &Tensor, parts: &[LinearPart]) -> Vec<Vec<Tensor>> {
    let _span = profile::span("linear, low rank", Pass::Forward);
    let plain = parts.iter().flat_map(|part| part.terms).filter(|term| active(term.dropout).is_none());
    let mut plain = thin::side_by_side(x, &plain.collect::<Vec<_>>()).into_iter();
    let mut low = |term: &LowRank| {
        if let Some(dropout) = active(term.dropout) {
            let t = matmul_nt(&dropout.apply(x), &term.a.value, x.dtype());
            return if term.scale == 1.0 { t } else { scaled(t, term.scale) };
        }
        plain.next().expect("one for each term without dropout")
    };
    parts.iter().map(|part| part.terms.iter().map(&mut low).collect()).collect()
}

/// The output of one map, given the `t` of each of its terms.
fn forward(x: &Tensor, part: &LinearPart, low: &[Tensor]) -> Tensor {
    let _span = profile::span("linear", Pass::Forward);
    let terms: Vec<_> = low.iter().zip(part.terms).map(|(t, term)| (t, &term.b.value)).collect();
    let mut y = part.weight.forward_plus(x, &terms);
    if let Some(bias) = part.bias {
        add_bias(&mut y, &bias.value);
    }
    y
}

/// The gradients of what is trained in `parts`, to `into`, and that of `x` if it needs one: one sum over all of them.
fn backward(x: &Var, parts: &[(&Part, &Tensor)], into: &mut Gradients) {
    let span = profile::span("linear, own gradients", Pass::Backward);
    // `u` of every term whose input or `a` wants it.
    let mut low: Vec<(&LowRank, Tensor)> = Vec::new();
    for (part, grad) in parts {
        part.direct_gradients(&x.value, grad, into);
        for (term, _) in &part.terms {
            if term.a.needs_grad() || x.needs_grad() {
                let u = matmul_nn(grad, &term.b.value, grad.dtype());
                low.push((term, if term.scale == 1.0 { u } else { scaled(u, term.scale) }));
            }
        }
    }
    drop(span);
    let span = profile::span("linear", Pass::Backward);
    let mut dx = (x.needs_grad() && !parts.is_empty()).then(|| {
        let maps: Vec<_> = parts.iter().map(|(part, grad)| (*grad, &part.weight)).collect();
        let plain = low.iter().filter(|(term, _)| active(term.dropout).is_none());
        let terms: Vec<_> = plain.map(|(term, u)| (u, &term.a.value)).collect();
        backward_sum(&maps, &terms)
    });
    drop(span);
    let _span = profile::span("linear, own gradients", Pass::Backward);
    let (dropped, plain): (Vec<_>, Vec<_>) = low.iter().partition(|(term, _)| active(term.dropout).is_some());
    thin::gradients_of_a(&x.value, &plain, into);
    for (term, u) in dropped {
        let Some(dropout) = active(term.dropout) else { continue };
        // The term's own input, and its part of `dx`, which is masked.
        let own = match dx.as_mut() {
            Some(dx) => dropout.apply_and_add(&x.value, dx, &matmul_nn(u, &term.a.value, u.dtype())),
            None => dropout.apply(&x.value),
        };
        into.add_product_tn(&term.a, u, &own);
    }
    if let Some(dx) = dx {
        into.add(x, dx);
    }
}

/// Dropout that drops something.
fn active(dropout: Option<Dropout>) -> Option<Dropout> {
    dropout.filter(|d| d.p > 0.0)
}

/// What a map keeps for its backward pass.
struct Part {
    weight: WeightRef,
    bias: Option<Var>,
    /// Each term with its `t`.
    terms: Vec<(LowRank, Tensor)>,
}

impl Part {
    fn is_trained(&self) -> bool {
        matches!(&self.weight, WeightRef::Trained(w) if w.needs_grad())
            || self.bias.as_ref().is_some_and(Var::needs_grad)
            || self.terms.iter().any(|(term, _)| term.a.needs_grad() || term.b.needs_grad())
    }

    /// Adds the gradients that the output's gradient gives at once: of the bias, of a trained weight, of each `b`.
    fn direct_gradients(&self, x: &Tensor, grad: &Tensor, into: &mut Gradients) {
        if let Some(bias) = self.bias.as_ref().filter(|b| b.needs_grad()) {
            let (_, out) = grad.rows_cols();
            let sums = crate::dispatch_dtype!(grad.dtype(), T => column_sums(grad.as_slice::<T>(), out));
            into.add(bias, Tensor::from_slice(bias.value.shape(), &sums));
        }
        if let WeightRef::Trained(weight) = &self.weight {
            into.add_product_tn(weight, grad, x);
        }
        for (term, t) in &self.terms {
            into.add_product_tn(&term.b, grad, t);
        }
    }
}

/// Adds `bias` to every row of `y`.
fn add_bias(y: &mut Tensor, bias: &Tensor) {
    let (rows, cols) = y.rows_cols();
    assert_eq!(bias.elements(), cols, "bias {:?} for rows of {:?}", bias.shape(), y.shape());
    let bias = bias.to_dtype(DType::F32);
    let bias = bias.as_slice::<f32>();
    crate::dispatch_dtype!(y.dtype(), T => for_blocks(
        rows,
        cols,
        Rows::new(y.as_mut_slice::<T>(), cols),
        #[inline(always)]
        |_, y: Rows<T>| {
            for row in y.data.chunks_exact_mut(cols) {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y = T::rounded(Element::widen(*y) + b));
            }
        },
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::reference::gradient_check::{check, random, tolerance, wide};
    use crate::reference::linear as reference;
    use crate::{ParamId, RandomKey, Weight};

    const TOKENS: usize = 7;
    const IN: usize = 24;
    const OUT: usize = 20;
    const RANK: usize = 3;

    fn frozen(seed: u64, dtype: DType) -> (WeightRef, Vec<f64>) {
        let w = random([OUT, IN], dtype, seed);
        (WeightRef::Frozen(Arc::new(Weight::dense(w.clone()))), wide(&w))
    }

    fn term(a: &Var, b: &Var, scale: f32, dropout: Option<Dropout>) -> LowRank {
        LowRank { a: a.clone(), b: b.clone(), scale, dropout }
    }

    /// `x`, `a`, `b`, `bias`.
    fn inputs(dtype: DType) -> [Tensor; 4] {
        [
            random([TOKENS, IN], dtype, 1),
            random([RANK, IN], dtype, 2),
            random([OUT, RANK], dtype, 3),
            random([OUT], dtype, 4),
        ]
    }

    #[test]
    fn a_frozen_map_with_terms_matches_the_reference() {
        let dropped = Dropout { p: 0.4, key: RandomKey::new(8) };
        let mask: Vec<f64> = (0..TOKENS * IN).map(|i| dropped.factor(i as u64) as f64).collect();
        for dtype in [DType::F32, DType::BF16] {
            let (weight, w) = frozen(9, dtype);
            for dropout in [None, Some(dropped)] {
                // The same matrices stand in two terms, so that their gradients sum.
                let op = |tape: &Tape, v: &[Var]| {
                    let terms = [term(&v[1], &v[2], 0.5, dropout), term(&v[1], &v[2], 1.0, None)];
                    vec![linear(tape, &v[0], &weight, Some(&v[3]), &terms)]
                };
                let oracle = |v: &[Vec<f64>]| {
                    let low = |scale, mask| reference::LowRank { a: &v[1], b: &v[2], rank: RANK, scale, mask };
                    let terms = [low(0.5, dropout.map(|_| &mask[..])), low(1.0, None)];
                    vec![reference::linear(&v[0], IN, &w, Some(&v[3]), &terms)]
                };
                check(&inputs(dtype), tolerance(dtype), op, oracle);
            }
        }
    }

    #[test]
    fn a_trained_map_matches_the_reference() {
        for dtype in [DType::F32, DType::BF16] {
            let inputs = [random([TOKENS, IN], dtype, 1), random([OUT, IN], dtype, 2)];
            let op = |tape: &Tape, v: &[Var]| vec![linear(tape, &v[0], &WeightRef::Trained(v[1].clone()), None, &[])];
            check(&inputs, tolerance(dtype), op, |v| vec![reference::linear(&v[0], IN, &v[1], None, &[])]);
        }
    }

    #[test]
    fn a_master_in_f32_counts_as_its_bf16_copy() {
        let master = random([OUT, IN], DType::F32, 2);
        let run = |weight: Tensor| {
            let tape = Tape::recording();
            let x = tape.input(random([TOKENS, IN], DType::BF16, 1));
            let weight = WeightRef::Trained(Var::param(ParamId(0), weight));
            let hidden = linear(&tape, &x, &weight, None, &[]);
            let mut grads = Gradients::new();
            tape.backward(&hidden, random([TOKENS, OUT], DType::BF16, 3), &mut grads);
            let dx = grads.take_input(&x).map(|g| g.to_vec_f32());
            (hidden.value.to_vec_f32(), dx, grads.param(ParamId(0)).map(Tensor::to_vec_f32))
        };
        let rounded = run(master.to_dtype(DType::BF16));
        assert!(rounded.1.is_some() && rounded.2.is_some());
        assert!(run(master) == rounded);
    }

    #[test]
    fn maps_of_one_input_match_the_reference() {
        for dtype in [DType::F32, DType::BF16] {
            let (first, w) = frozen(9, dtype);
            let op = |tape: &Tape, v: &[Var]| {
                let second = WeightRef::Trained(v[4].clone());
                let terms = [term(&v[1], &v[2], 2.0, None)];
                let parts = [
                    LinearPart { weight: &first, bias: None, terms: &terms },
                    LinearPart { weight: &second, bias: Some(&v[3]), terms: &[] },
                    LinearPart { weight: &first, bias: Some(&v[3]), terms: &terms },
                ];
                linears(tape, &v[0], &parts)
            };
            let oracle = |v: &[Vec<f64>]| {
                let term = || [reference::LowRank { a: &v[1], b: &v[2], rank: RANK, scale: 2.0, mask: None }];
                vec![
                    reference::linear(&v[0], IN, &w, None, &term()),
                    reference::linear(&v[0], IN, &v[4], Some(&v[3]), &[]),
                    reference::linear(&v[0], IN, &w, Some(&v[3]), &term()),
                ]
            };
            let inputs: Vec<Tensor> = inputs(dtype).into_iter().chain([random([OUT, IN], dtype, 5)]).collect();
            check(&inputs, tolerance(dtype), op, oracle);
        }
    }

    #[test]
    fn maps_met_at_once_in_eight_bits_are_each_by_itself() {
        use crate::quant::{BlockType, QuantTensor};
        use crate::weight::WeightData;
        let weight = |rows: usize, seed| {
            let mut bytes = Vec::new();
            let values = random([rows, 64], DType::F32, seed).to_vec_f32();
            BlockType::Q8_0.quantise(&values, &mut bytes).unwrap();
            let blocks = QuantTensor::new(BlockType::Q8_0, rows, 64, bytes).unwrap();
            let weight = Weight::new(WeightData::Quantised(blocks));
            assert!(weight.round_activations());
            WeightRef::Frozen(Arc::new(weight))
        };
        let (first, second) = (weight(48, 1), weight(20, 2));
        let bias = Var::constant(random([20], DType::F32, 3));
        let tape = Tape::off();
        for dtype in [DType::F32, DType::BF16] {
            let x = Var::constant(random([5, 64], dtype, 4));
            let part = |weight, bias| LinearPart { weight, bias, terms: &[] };
            let both = linears(&tape, &x, &[part(&first, None), part(&second, Some(&bias))]);
            let alone = [linear(&tape, &x, &first, None, &[]), linear(&tape, &x, &second, Some(&bias), &[])];
            for (a, b) in both.iter().zip(&alone) {
                assert_eq!(a.value.as_bytes(), b.value.as_bytes());
            }
        }
    }

    #[test]
    fn frozen_inputs_and_terms_take_no_gradient() {
        let (weight, _) = frozen(9, DType::F32);
        let [x, a, b, _] = inputs(DType::F32);
        let constant = |t: &Tensor| Var::constant(t.clone());
        let all_frozen = term(&constant(&a), &constant(&b), 1.0, None);
        let tape = Tape::recording();
        assert!(!linear(&tape, &constant(&x), &weight, None, &[all_frozen]).needs_grad());

        let only_b = term(&constant(&a), &Var::param(ParamId(1), b), 1.0, None);
        let y = linear(&tape, &constant(&x), &weight, None, &[only_b]);
        let mut grads = Gradients::new();
        tape.backward(&y, Tensor::full([TOKENS, OUT], DType::F32, 1.0), &mut grads);
        assert!(grads.param(ParamId(0)).is_none() && grads.param(ParamId(1)).is_some());
    }
}
