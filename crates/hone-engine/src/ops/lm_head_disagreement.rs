//! How far the next-token distributions of two passes of one model are from each other, with the gradients for both: what
//! holds the members of a mixture together (AdaMix, arXiv 2205.12410). In chunks of rows, so the logits of a batch are never
//! held.
//!
//! For a row with the distributions `p` and `q`, `d = ln p − ln q` and weight `w`: `½ (KL(p ‖ q) + KL(q ‖ p)) = ½ Σ (p − q) d`,
//! and with `k = w / normaliser` the gradients of the logits are `½ k (p (d − KL(p ‖ q)) + p − q)` and
//! `½ k (q (−d − KL(q ‖ p)) + q − p)`, through `1 − (l / cap)²` where logits are capped; then as in the loss.

use super::elementwise::scaled;
use super::embedding::add_rows;
use super::head::{HeadRows, cap_row, log_sum};
use crate::dtype::DType;
use crate::matmul::{matmul_tn, matmul_tn_add};
use crate::parallel::{Rows, for_blocks};
use crate::profile::{self, Pass};
use crate::simd;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::weight::{WeightRef, backward_sum};

/// `½ Σ weight (KL(p ‖ q) + KL(q ‖ p)) / normaliser`, a scalar with gradients in both passes and the head.
///
/// The hidden states of `passes`, `[tokens, width]` each, `head` `[vocabulary, width]` for both; row `rows[i]` has weight
/// `weights[i]`.
///
/// Panics on lengths that differ, rows outside the hidden states and shapes that do not fit.
pub fn lm_head_disagreement(
    tape: &Tape,
    passes: [&Var; 2],
    head: &WeightRef,
    (rows, weights): (&[u32], &[f32]),
    normaliser: f32,
    soft_cap: Option<f32>,
) -> Var {
    let _span = profile::span("lm head and disagreement", Pass::Forward);
    assert_eq!(rows.len(), weights.len(), "weights of the rows");
    let sources = passes.map(|pass| HeadRows::new(&pass.value, head, rows));
    let trained = match head {
        WeightRef::Trained(var) if tape.needs_grad(&[var]) => Some(var.clone()),
        _ => None,
    };
    let mut gradients = passes.map(|pass| {
        let zeros = || Tensor::zeros(pass.value.shape(), pass.value.dtype());
        tape.needs_grad(&[pass]).then(zeros)
    });
    let wanted = trained.is_some() || gradients.iter().any(Option::is_some);
    let mut dweight: Option<Tensor> = None;
    let mut total = 0f64;
    for chunk in sources[0].chunks() {
        let inputs = [0, 1].map(|pass| sources[pass].hidden(chunk.clone()));
        let mut logits = [0, 1].map(|pass| sources[pass].logits(&inputs[pass]));
        total += disagreement(&mut logits, &weights[chunk.clone()], normaliser, soft_cap);
        if !wanted {
            continue;
        }
        for ((dlogits, x), gradient) in logits.iter().zip(&inputs).zip(&mut gradients) {
            let dlogits = dlogits.to_dtype(x.dtype());
            if let Some(gradient) = gradient {
                add_rows(gradient, &rows[chunk.clone()], &backward_sum(&[(&dlogits, head)], &[]), 1.0);
            }
            match (&trained, &mut dweight) {
                (None, _) => {}
                (Some(_), Some(sum)) => matmul_tn_add(sum, 1.0, &dlogits, x),
                (Some(_), none) => *none = Some(matmul_tn(&dlogits, x, DType::F32)),
            }
        }
    }
    let value = Tensor::full([1], DType::F32, (total / f64::from(normaliser)) as f32);
    if !wanted {
        return Var::constant(value);
    }
    let passes = passes.map(Var::clone);
    tape.record(value, move |grad, into| {
        let _span = profile::span("lm head and disagreement", Pass::Backward);
        let seed = grad.item();
        let times = |t: Tensor| if seed == 1.0 { t } else { scaled(t, seed) };
        for (pass, gradient) in passes.iter().zip(gradients) {
            if let Some(gradient) = gradient {
                into.add(pass, times(gradient));
            }
        }
        if let (Some(var), Some(dweight)) = (trained, dweight) {
            into.add(&var, times(dweight).reshape(var.value.shape()));
        }
    })
}

/// The sum over the rows of a chunk, before normalising; the logits become their gradients.
fn disagreement([p, q]: &mut [Tensor; 2], weights: &[f32], normaliser: f32, soft_cap: Option<f32>) -> f64 {
    let (count, cols) = p.rows_cols();
    let mut sums = vec![0f64; count];
    let logits = (Rows::new(p.as_mut_slice::<f32>(), cols), Rows::new(q.as_mut_slice::<f32>(), cols));
    for_blocks(
        count,
        cols,
        (logits, Rows::new(&mut sums, 1)),
        #[inline(always)]
        |range, ((p, q), sums): ((Rows<f32>, Rows<f32>), Rows<f64>)| {
            let pairs = p.data.chunks_mut(cols).zip(q.data.chunks_mut(cols));
            for (((p, q), sum), at) in pairs.zip(sums.data.iter_mut()).zip(range) {
                *sum = f64::from(weights[at]) * row(p, q, weights[at] / normaliser, soft_cap);
            }
        },
    );
    sums.iter().sum()
}

/// A row: `½ (KL(p ‖ q) + KL(q ‖ p))`; both rows of logits become their gradients.
#[inline(always)]
fn row(p: &mut [f32], q: &mut [f32], factor: f32, soft_cap: Option<f32>) -> f64 {
    cap_row(p, soft_cap);
    cap_row(q, soft_cap);
    let (first, second) = (log_sum(p), log_sum(q));
    // Probabilities of both, and the difference of their logarithms.
    let of = |p: f32, q: f32| {
        let (log_p, log_q) = ((f64::from(p) - first) as f32, (f64::from(q) - second) as f32);
        (simd::exp(log_p), simd::exp(log_q), log_p - log_q)
    };
    let (mut forth, mut back) = (0f64, 0f64);
    for (p, q) in p.iter().zip(q.iter()) {
        let (p, q, d) = of(*p, *q);
        forth += f64::from(p * d);
        back -= f64::from(q * d);
    }
    let (half, both) = (0.5 * factor, (forth as f32, back as f32));
    let slope = |logit: f32| soft_cap.map_or(1.0, |cap| 1.0 - (logit / cap) * (logit / cap));
    for (to_p, to_q) in p.iter_mut().zip(q.iter_mut()) {
        let (p, q, d) = of(*to_p, *to_q);
        *to_p = half * (p * (d - both.0) + p - q) * slope(*to_p);
        *to_q = half * (q * (-d - both.1) + q - p) * slope(*to_q);
    }
    0.5 * (forth + back)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Weight;
    use crate::reference::gradient_check::{check, random, tolerance};

    const ROWS: [u32; 3] = [4, 0, 2];
    const WEIGHTS: [f32; 3] = [1.0, 0.5, 2.0];
    const WIDTH: usize = 8;

    /// `½ Σ w Σ (p − q) (ln p − ln q) / 4`.
    fn oracle(first: &[f64], second: &[f64], head: &[f64], cap: Option<f32>) -> Vec<Vec<f64>> {
        let log_softmax = |hidden: &[f64], row: u32| {
            let x = &hidden[row as usize * WIDTH..][..WIDTH];
            let logit = |w: &[f64]| {
                let logit = w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
                cap.map_or(logit, |cap| f64::from(cap) * (logit / f64::from(cap)).tanh())
            };
            let logits: Vec<f64> = head.chunks(WIDTH).map(logit).collect();
            let sum = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
            logits.into_iter().map(|l| l - sum).collect::<Vec<_>>()
        };
        let each = ROWS.iter().zip(WEIGHTS).map(|(row, weight)| {
            let pairs = log_softmax(first, *row).into_iter().zip(log_softmax(second, *row));
            f64::from(weight) * pairs.map(|(p, q)| (p.exp() - q.exp()) * (p - q)).sum::<f64>()
        });
        vec![vec![0.5 * each.sum::<f64>() / 4.0]]
    }

    #[test]
    fn both_passes_and_a_trained_head_match_the_reference() {
        let inputs =
            [random([5, WIDTH], DType::F32, 1), random([5, WIDTH], DType::F32, 2), random([20, WIDTH], DType::F32, 3)];
        for cap in [None, Some(3.0)] {
            let op = |tape: &Tape, v: &[Var]| {
                let head = WeightRef::Trained(v[2].clone());
                vec![lm_head_disagreement(tape, [&v[0], &v[1]], &head, (&ROWS, &WEIGHTS), 4.0, cap)]
            };
            check(&inputs, tolerance(DType::F32), op, |v| oracle(&v[0], &v[1], &v[2], cap));
            let head = WeightRef::Frozen(Arc::new(Weight::dense(inputs[2].clone())));
            let frozen: Vec<f64> = inputs[2].to_vec_f32().into_iter().map(f64::from).collect();
            let op = |tape: &Tape, v: &[Var]| {
                vec![lm_head_disagreement(tape, [&v[0], &v[1]], &head, (&ROWS, &WEIGHTS), 4.0, cap)]
            };
            check(&inputs[..2], tolerance(DType::F32), op, |v| oracle(&v[0], &v[1], &frozen, cap));
        }
    }

    #[test]
    fn two_words_can_be_worked_out_on_paper() {
        // p = (1/2, 1/2), q = (3/4, 1/4): ½ Σ (p − q) ln (p / q) = ⅛ ln 3.
        let head = WeightRef::Frozen(Arc::new(Weight::dense(Tensor::from_slice([2, 2], &[1f32, 0.0, 0.0, 1.0]))));
        let hidden = |values: [f32; 2]| Var::constant(Tensor::from_slice([1, 2], &values));
        let (p, q) = (hidden([0.0, 0.0]), hidden([3f32.ln(), 0.0]));
        let of = |passes| lm_head_disagreement(&Tape::off(), passes, &head, (&[0], &[2.0]), 1.0, None).value.item();
        let expected = 2.0 * 3f32.ln() / 8.0;
        assert!((of([&p, &q]) - expected).abs() < 1e-6 && of([&p, &q]) == of([&q, &p]), "{}", of([&p, &q]));
        assert_eq!(of([&q, &q]), 0.0);
    }
}
