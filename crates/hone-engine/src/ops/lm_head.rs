//! LM head and cross-entropy in one, in chunks of rows: logits of a chunk are made, turned into their gradient and used
//! up before the next chunk, so the logits of a batch are never held. Rows without a target take no work.
//!
//! For a row with logits `l`, target `t` and weight `w`: `nll = ln Σ exp l − l[t]`, and with `k = w / normaliser` the
//! gradient `dl = k (softmax(l) − onehot(t))`, through `dl · (1 − (l / cap)²)` where logits are capped; then
//! `dhidden = dl W`, `dW = dlᵀ hidden`. All of it happens in the forward pass, and only if a gradient is wanted.

use super::elementwise::scaled;
use super::embedding::add_rows;
use super::head::{HeadRows, cap_row, is_argmax};
use crate::dtype::{DType, Element};
use crate::matmul::{matmul_tn, matmul_tn_add};
use crate::parallel::{Rows, for_blocks};
use crate::profile::{self, Pass};
use crate::simd;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::weight::{WeightRef, backward_sum};

/// The loss over a batch.
pub struct HeadLoss {
    /// `Σ weight · nll / normaliser`, a scalar with a gradient.
    pub loss: Var,
    /// `Σ weight · nll`, before normalising, in `f64`.
    pub nll_sum: f64,
    /// Targets whose logit was the highest of their row (lowest index on ties).
    pub correct: usize,
}

/// `hidden` `[tokens, width]`, `head` `[vocabulary, width]`. Row `rows[i]` predicts `targets[i]` with weight `weights[i]`.
/// `soft_cap` caps logits as `cap * tanh(logit / cap)`.
///
/// Panics on lengths that differ, rows outside `hidden`, targets outside the vocabulary and shapes that do not fit.
#[allow(clippy::too_many_arguments)]
pub fn lm_head_loss(
    tape: &Tape,
    hidden: &Var,
    head: &WeightRef,
    rows: &[u32],
    targets: &[u32],
    weights: &[f32],
    normaliser: f32,
    soft_cap: Option<f32>,
) -> HeadLoss {
    let _span = profile::span("lm head and loss", Pass::Forward);
    let n = rows.len();
    assert!(targets.len() == n && weights.len() == n, "{n} rows, {} targets, {} weights", targets.len(), weights.len());
    let source = HeadRows::new(&hidden.value, head, rows);
    let trained = match head {
        WeightRef::Trained(var) if tape.needs_grad(&[var]) => Some(var.clone()),
        _ => None,
    };
    let hidden_grad = tape.needs_grad(&[hidden]);
    let wanted = hidden_grad || trained.is_some();

    let dtype = hidden.value.dtype();
    let mut dhidden = hidden_grad.then(|| Tensor::zeros(hidden.value.shape(), dtype));
    let mut dweight: Option<Tensor> = None;
    let (mut nll_sum, mut correct) = (0f64, 0);
    for chunk in source.chunks() {
        let x = source.hidden(chunk.clone());
        let mut logits = source.logits(&x);
        let losses = LossRows {
            targets: &targets[chunk.clone()],
            weights: &weights[chunk.clone()],
            normaliser,
            soft_cap,
            gradient: wanted,
        };
        let mut dlogits = (wanted && dtype == DType::BF16).then(|| Tensor::uninit(logits.shape(), dtype));
        for row in losses.run(&mut logits, dlogits.as_mut()) {
            nll_sum += row.weighted_nll;
            correct += row.correct as usize;
        }
        if !wanted {
            continue;
        }
        let dlogits = dlogits.unwrap_or(logits);
        if let Some(dhidden) = &mut dhidden {
            let dx = backward_sum(&[(&dlogits, head)], &[]);
            add_rows(dhidden, &rows[chunk], &dx, 1.0);
        }
        if trained.is_some() {
            match &mut dweight {
                Some(sum) => matmul_tn_add(sum, 1.0, &dlogits, &x),
                none => *none = Some(matmul_tn(&dlogits, &x, DType::F32)),
            }
        }
    }

    let value = Tensor::full([1], DType::F32, (nll_sum / normaliser as f64) as f32);
    if !wanted {
        return HeadLoss { loss: Var::constant(value), nll_sum, correct };
    }
    let hidden = hidden.clone();
    let loss = tape.record(value, move |grad, into| {
        let _span = profile::span("lm head and loss", Pass::Backward);
        let seed = grad.item();
        let times = |t: Tensor| if seed == 1.0 { t } else { scaled(t, seed) };
        if let Some(dhidden) = dhidden {
            into.add(&hidden, times(dhidden));
        }
        if let (Some(var), Some(dweight)) = (trained, dweight) {
            into.add(&var, times(dweight).reshape(var.value.shape()));
        }
    });
    HeadLoss { loss, nll_sum, correct }
}

/// The losses of a chunk of rows.
struct LossRows<'a> {
    targets: &'a [u32],
    weights: &'a [f32],
    normaliser: f32,
    soft_cap: Option<f32>,
    gradient: bool,
}

#[derive(Clone, Copy, Default)]
struct RowLoss {
    weighted_nll: f64,
    correct: bool,
}

impl LossRows<'_> {
    /// Losses of `logits` `[rows, vocabulary]`. Their gradient, if wanted, goes into `narrow`, or over the logits if there
    /// is none.
    fn run(&self, logits: &mut Tensor, narrow: Option<&mut Tensor>) -> Vec<RowLoss> {
        let (rows, cols) = logits.rows_cols();
        let mut losses = vec![RowLoss::default(); rows];
        let narrow = narrow.map(|t| Rows::new(t.as_mut_slice::<half::bf16>(), cols));
        for_blocks(
            rows,
            cols,
            ((Rows::new(logits.as_mut_slice::<f32>(), cols), narrow), Rows::new(&mut losses, 1)),
            #[inline(always)]
            |range, ((logits, mut narrow), losses): ((Rows<f32>, Option<Rows<half::bf16>>), Rows<RowLoss>)| {
                for (i, (row, loss)) in logits.data.chunks_exact_mut(cols).zip(losses.data).enumerate() {
                    let at = range.start + i;
                    let (summary, done) = self.loss(at, row);
                    *loss = done;
                    if !self.gradient {
                        continue;
                    }
                    match &mut narrow {
                        Some(narrow) => {
                            self.gradient(at, row, summary, &mut narrow.data[i * cols..(i + 1) * cols]);
                        }
                        None => self.gradient_in_place(at, row, summary),
                    }
                }
            },
        );
        losses
    }

    /// Caps a row and measures it; leaves `exp(logit - highest)` in it, or with a cap and a gradient to come, the
    /// capped logits.
    #[inline(always)]
    fn loss(&self, at: usize, row: &mut [f32]) -> (RowSummary, RowLoss) {
        let target = self.targets[at] as usize;
        assert!(target < row.len(), "target {target} outside a vocabulary of {}", row.len());
        cap_row(row, self.soft_cap);
        let highest = simd::max(row);
        let (logit, correct) = (row[target], is_argmax(row, target, highest));
        let sum = match self.soft_cap {
            None => simd::exp_shifted(row, highest),
            Some(_) => simd::sum_of(
                row,
                #[inline(always)]
                |l| simd::exp(l - highest),
            ),
        };
        let nll = (sum as f64).ln() - (logit as f64 - highest as f64);
        // A weight of zero silences its row even where the loss is infinite.
        let weight = self.weights[at] as f64;
        let weighted_nll = if weight == 0.0 { 0.0 } else { weight * nll };
        (RowSummary { highest, sum }, RowLoss { weighted_nll, correct })
    }

    /// The factor on a row's gradient.
    fn factor(&self, at: usize) -> f32 {
        self.weights[at] / self.normaliser
    }

    #[inline(always)]
    fn gradient<T: Element>(&self, at: usize, row: &mut [f32], summary: RowSummary, out: &mut [T]) {
        let target = self.targets[at] as usize;
        let k = self.factor(at) / summary.sum;
        let Some(cap) = self.soft_cap else {
            out.iter_mut().zip(&*row).for_each(|(o, e)| *o = T::rounded(e * k));
            out[target] = T::rounded(row[target].mul_add(k, -self.factor(at)));
            return;
        };
        self.capped_gradient(at, row, summary, cap);
        simd::convert(out, row);
    }

    #[inline(always)]
    fn gradient_in_place(&self, at: usize, row: &mut [f32], summary: RowSummary) {
        if let Some(cap) = self.soft_cap {
            return self.capped_gradient(at, row, summary, cap);
        }
        let k = self.factor(at) / summary.sum;
        row.iter_mut().for_each(|e| *e *= k);
        row[self.targets[at] as usize] -= self.factor(at);
    }

    /// From capped logits to the gradient of the logits before the cap.
    #[inline(always)]
    fn capped_gradient(&self, at: usize, row: &mut [f32], summary: RowSummary, cap: f32) {
        let target = self.targets[at] as usize;
        let k = self.factor(at) / summary.sum;
        let inverse = 1.0 / cap;
        let slope = |l: f32| {
            let t = l * inverse;
            (-t).mul_add(t, 1.0)
        };
        let logit = row[target];
        row.iter_mut().for_each(|l| *l = simd::exp(*l - summary.highest) * k * slope(*l));
        row[target] -= self.factor(at) * slope(logit);
    }
}

#[derive(Clone, Copy)]
struct RowSummary {
    highest: f32,
    /// `Σ exp(logit - highest)`.
    sum: f32,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::reference::gradient_check::{assert_close, check, random, tolerance, wide};
    use crate::reference::linear as reference;
    use crate::{Gradients, ParamId, Weight};

    const WIDTH: usize = 16;
    const VOCABULARY: usize = 50;
    /// One row twice, one never, not in order.
    const ROWS: [u32; 5] = [4, 1, 1, 0, 5];
    const TARGETS: [u32; 5] = [7, 49, 0, 3, 3];
    const WEIGHTS: [f32; 5] = [1.0, 0.5, 2.0, 0.0, 1.0];

    fn oracle(hidden: &[f64], head: &[f64], cap: Option<f32>) -> Vec<Vec<f64>> {
        let weights = WEIGHTS.map(f64::from);
        let cap = cap.map(f64::from);
        vec![vec![reference::cross_entropy(hidden, head, WIDTH, &ROWS, &TARGETS, &weights, cap) / 3.0]]
    }

    #[test]
    fn a_trained_head_matches_the_reference() {
        for (dtype, cap) in [(DType::F32, None), (DType::F32, Some(5.0)), (DType::BF16, None), (DType::BF16, Some(5.0))]
        {
            let inputs = [random([6, WIDTH], dtype, 1), random([VOCABULARY, WIDTH], dtype, 2)];
            let op = |tape: &Tape, v: &[Var]| {
                let head = WeightRef::Trained(v[1].clone());
                vec![lm_head_loss(tape, &v[0], &head, &ROWS, &TARGETS, &WEIGHTS, 3.0, cap).loss]
            };
            check(&inputs, tolerance(dtype), op, |v| oracle(&v[0], &v[1], cap));
        }
    }

    #[test]
    fn a_master_in_f32_counts_as_its_bf16_copy() {
        let run = |head: Tensor| {
            let tape = Tape::recording();
            let hidden = Var::param(ParamId(0), random([6, WIDTH], DType::BF16, 1));
            let head = WeightRef::Trained(Var::param(ParamId(1), head));
            let loss = lm_head_loss(&tape, &hidden, &head, &ROWS, &TARGETS, &WEIGHTS, 3.0, None);
            let mut grads = Gradients::new();
            tape.backward(&loss.loss, Tensor::full([1], DType::F32, 1.0), &mut grads);
            (loss.nll_sum, [0, 1].map(|i| grads.param(ParamId(i)).map(wide)))
        };
        let master = random([VOCABULARY, WIDTH], DType::F32, 2);
        let rounded = run(master.to_dtype(DType::BF16));
        assert!(rounded.1.iter().all(Option::is_some));
        assert!(run(master) == rounded);
    }

    #[test]
    fn a_frozen_head_matches_the_reference() {
        for dtype in [DType::F32, DType::BF16] {
            let head = random([VOCABULARY, WIDTH], dtype, 2);
            let frozen = WeightRef::Frozen(Arc::new(Weight::dense(head.clone())));
            let op = |tape: &Tape, v: &[Var]| {
                vec![lm_head_loss(tape, &v[0], &frozen, &ROWS, &TARGETS, &WEIGHTS, 3.0, None).loss]
            };
            check(&[random([6, WIDTH], dtype, 1)], tolerance(dtype), op, |v| oracle(&v[0], &wide(&head), None));
        }
    }

    #[test]
    fn several_chunks_are_one_loss() {
        let (tokens, vocabulary, width) = (2100, 64, 4);
        let rows: Vec<u32> = (0..tokens).collect();
        let targets: Vec<u32> = (0..tokens).map(|i| i * 31 % 64).collect();
        let weights = vec![1.0; tokens as usize];
        let hidden = Var::param(ParamId(0), random([tokens as usize, width], DType::F32, 1));
        let head = random([vocabulary, width], DType::F32, 2);
        let trained = WeightRef::Trained(Var::param(ParamId(1), head));
        let source = HeadRows::new(&hidden.value, &trained, &rows);
        assert_eq!(source.chunks().map(|c| c.len()).collect::<Vec<_>>(), [700, 700, 700]);

        let tape = Tape::recording();
        let all = lm_head_loss(&tape, &hidden, &trained, &rows, &targets, &weights, 1.0, None);
        let mut grads = Gradients::new();
        tape.backward(&all.loss, Tensor::full([1], DType::F32, 1.0), &mut grads);

        let mut one_by_one = Gradients::new();
        let mut nll_sum = 0.0;
        for i in 0..tokens as usize {
            let one = i..i + 1;
            let part = (&rows[one.clone()], &targets[one.clone()], &weights[one]);
            let loss = lm_head_loss(&tape, &hidden, &trained, part.0, part.1, part.2, 1.0, None);
            nll_sum += loss.nll_sum;
            tape.backward(&loss.loss, Tensor::full([1], DType::F32, 1.0), &mut one_by_one);
        }
        assert!((all.nll_sum - nll_sum).abs() < 1e-9 * nll_sum);
        for id in [ParamId(0), ParamId(1)] {
            let [got, want] = [&grads, &one_by_one].map(|g| wide(g.param(id).expect("a gradient")));
            assert_close("gradient", &got, &want, 1e-5);
        }
    }

    #[test]
    fn correct_targets_are_counted_and_ties_go_to_the_lowest() {
        // Logits of row 0: [1, 3, 3, 0]; of row 1: [0, 0, 0, 2].
        let head = Tensor::from_slice([4, 2], &[1f32, 0.0, 3.0, 0.0, 3.0, 0.0, 0.0, 2.0]);
        let hidden = Var::constant(Tensor::from_slice([2, 2], &[1f32, 0.0, 0.0, 1.0]));
        let head = WeightRef::Frozen(Arc::new(Weight::dense(head)));
        let loss = |rows: &[u32], targets: &[u32]| {
            lm_head_loss(&Tape::off(), &hidden, &head, rows, targets, &vec![1.0; rows.len()], 1.0, None)
        };
        assert_eq!(loss(&[0, 0, 1], &[1, 2, 3]).correct, 2);
        assert_eq!(loss(&[0], &[2]).correct, 0);
        let nothing = loss(&[], &[]);
        assert_eq!((nothing.nll_sum, nothing.correct), (0.0, 0));
    }

    #[test]
    fn the_gradient_of_the_loss_scales_it() {
        let tape = Tape::recording();
        let gradient = |seed: f32| {
            let hidden = Var::param(ParamId(0), random([6, WIDTH], DType::F32, 1));
            let head = WeightRef::Frozen(Arc::new(Weight::dense(random([VOCABULARY, WIDTH], DType::F32, 2))));
            let loss = lm_head_loss(&tape, &hidden, &head, &ROWS, &TARGETS, &WEIGHTS, 3.0, None);
            let mut grads = Gradients::new();
            tape.backward(&loss.loss, Tensor::full([1], DType::F32, seed), &mut grads);
            wide(grads.param(ParamId(0)).expect("a gradient"))
        };
        let quadrupled: Vec<f64> = gradient(1.0).into_iter().map(|g| 4.0 * g).collect();
        assert_eq!(gradient(4.0), quadrupled);
    }

    #[test]
    fn a_broken_row_makes_the_loss_not_a_number() {
        let hidden = Var::constant(Tensor::full([1, WIDTH], DType::F32, f32::NAN));
        let head = WeightRef::Frozen(Arc::new(Weight::dense(random([VOCABULARY, WIDTH], DType::F32, 2))));
        let loss = lm_head_loss(&Tape::off(), &hidden, &head, &[0], &[1], &[1.0], 1.0, None);
        assert!(loss.loss.value.item().is_nan() && loss.nll_sum.is_nan() && loss.correct == 0);
    }
}
