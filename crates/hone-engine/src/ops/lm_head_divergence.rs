//! How far one model's next-token distributions are from another's, with the gradient for the first: distillation, and the
//! regularity of mask tuning. In chunks of rows, so the logits of a batch are never held. What holds two passes of one model
//! together is [`lm_head_disagreement`](mod@super::lm_head_disagreement).
//!
//! For a row with the teacher's distribution `q`, the student's `p` and weight `w`: `KL(q ‖ p) = Σ q (ln q − ln p)`, and with
//! `k = w / normaliser` the gradient of the student's logits is `k (p − q)`, through `1 − (l / cap)²` where logits are capped;
//! then `dhidden = dlogits W`. The head is frozen, and the teacher takes no gradient.

use super::elementwise::scaled;
use super::embedding::add_rows;
use super::head::{HeadRows, cap_row, log_sum};
use crate::dtype::DType;
use crate::parallel::{Rows, for_blocks};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::weight::WeightRef;

/// `Σ weight · KL(teacher ‖ student) / normaliser`, a scalar with a gradient in `student`, and the sum before normalising.
///
/// `student`, `teacher` `[tokens, width]`, `head` `[vocabulary, width]` for both; row `rows[i]` has weight `weights[i]`.
///
/// Panics on lengths that differ, rows outside the hidden states, a trained head, and shapes that do not fit.
pub fn lm_head_divergence(
    tape: &Tape,
    student: &Var,
    teacher: &Tensor,
    head: &WeightRef,
    (rows, weights): (&[u32], &[f32]),
    normaliser: f32,
    soft_cap: Option<f32>,
) -> (Var, f64) {
    assert_eq!(rows.len(), weights.len(), "weights of the rows");
    let WeightRef::Frozen(matrix) = head else { panic!("the head of a divergence is frozen") };
    let (ours, theirs) = (HeadRows::new(&student.value, head, rows), HeadRows::new(teacher, head, rows));
    let (dtype, wanted) = (student.value.dtype(), tape.needs_grad(&[student]));
    let mut gradient = wanted.then(|| Tensor::zeros(student.value.shape(), dtype));
    let mut total = 0f64;
    for chunk in ours.chunks() {
        let mut p = ours.logits(&ours.hidden(chunk.clone()));
        let mut q = theirs.logits(&theirs.hidden(chunk.clone()));
        let cols = ours.vocabulary;
        let mut sums = vec![0f64; chunk.len()];
        let factors = &weights[chunk.clone()];
        for_blocks(
            chunk.len(),
            cols,
            (
                (Rows::new(p.as_mut_slice::<f32>(), cols), Rows::new(q.as_mut_slice::<f32>(), cols)),
                Rows::new(&mut sums, 1),
            ),
            |range, ((p, q), sums): ((Rows<f32>, Rows<f32>), Rows<f64>)| {
                let pairs = p.data.chunks_mut(cols).zip(q.data.chunks_mut(cols));
                for (((p, q), sum), at) in pairs.zip(sums.data.iter_mut()).zip(range) {
                    *sum = row(p, q, factors[at], factors[at] / normaliser, soft_cap);
                }
            },
        );
        total += sums.iter().sum::<f64>();
        if let Some(gradient) = &mut gradient {
            let dx = matrix.backward(&p.to_dtype(dtype));
            add_rows(gradient, &rows[chunk], &dx, 1.0);
        }
    }
    let value = Tensor::full([1], DType::F32, (total / f64::from(normaliser)) as f32);
    let Some(gradient) = gradient else { return (Var::constant(value), total) };
    let student = student.clone();
    let loss = tape.record(value, move |grad, into| {
        let seed = grad.item();
        into.add(&student, if seed == 1.0 { gradient } else { scaled(gradient, seed) });
    });
    (loss, total)
}

/// A row: `weight · KL(q ‖ p)`, and `p` becomes the gradient of its logits.
fn row(p: &mut [f32], q: &mut [f32], weight: f32, factor: f32, soft_cap: Option<f32>) -> f64 {
    cap_row(p, soft_cap);
    cap_row(q, soft_cap);
    let (ours, theirs) = (log_sum(p), log_sum(q));
    let mut sum = 0f64;
    for (p, q) in p.iter_mut().zip(q.iter()) {
        let (log_p, log_q) = (f64::from(*p) - ours, f64::from(*q) - theirs);
        let q = log_q.exp();
        sum += q * (log_q - log_p);
        let slope = soft_cap.map_or(1.0, |cap| 1.0 - (*p / cap).powi(2));
        *p = factor * (log_p.exp() - q) as f32 * slope;
    }
    f64::from(weight) * sum
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::reference::gradient_check::random;
    use crate::{Gradients, ParamId, Weight};

    #[test]
    fn a_model_is_no_distance_from_itself_and_the_gradient_is_the_derivative() {
        let (student, teacher) = (random([5, 8], DType::F32, 1), random([5, 8], DType::F32, 2));
        let head = WeightRef::Frozen(Arc::new(Weight::dense(random([20, 8], DType::F32, 3))));
        let (rows, weights) = ([0u32, 2, 4], [1.0f32, 0.5, 2.0]);
        for cap in [None, Some(3.0)] {
            let of = |student: &Tensor, tape: &Tape| {
                let var = Var::param(ParamId(0), student.clone());
                lm_head_divergence(tape, &var, &teacher, &head, (&rows, &weights), 4.0, cap)
            };
            let itself = lm_head_divergence(
                &Tape::off(),
                &Var::constant(teacher.clone()),
                &teacher,
                &head,
                (&rows, &weights),
                1.0,
                cap,
            );
            assert!(itself.1.abs() < 1e-9, "{}", itself.1);
            let tape = Tape::recording();
            let (loss, sum) = of(&student, &tape);
            assert!(sum > 0.01 && (f64::from(loss.value.item()) - sum / 4.0).abs() < 1e-6);
            let mut gradients = Gradients::new();
            tape.backward(&loss, Tensor::full([1], DType::F32, 1.0), &mut gradients);
            let gradient = gradients.param(ParamId(0)).map(Tensor::to_vec_f32).unwrap_or_default();
            for at in [0usize, 9, 17, 35] {
                let moved = |by: f32| {
                    let mut values = student.to_vec_f32();
                    values[at] += by;
                    of(&Tensor::from_slice([5, 8], &values), &Tape::off()).1 / 4.0
                };
                let expected = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                assert!((expected - f64::from(gradient[at])).abs() < 2e-3, "{at}: {expected}, {}", gradient[at]);
            }
        }
    }
}
