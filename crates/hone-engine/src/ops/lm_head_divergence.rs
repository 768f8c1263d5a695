//! How far a model's next-token distributions are from a teacher's, with the gradients for the model: distillation (Hinton et
//! al. 2015, arXiv 1503.02531), the regularity of mask tuning, and with two teachers, of which each row has one, updates that
//! stay compatible (MUSCLE, arXiv 2407.09435). In chunks of rows, so the logits of a batch are never held. What holds two
//! passes of one model together is [`lm_head_disagreement`](mod@super::lm_head_disagreement).
//!
//! For a row with the teacher's distribution `q = softmax(z / T)`, the student's `p = softmax(l / T)` and weight `w`:
//! `KL(q ‖ p) = Σ q (ln q − ln p)`, and with `k = w / normaliser` the gradient of the student's logits is `k / T (p − q)`,
//! through `1 − (l / cap)²` where logits are capped; then `dhidden = dlogits W`, `dW = dlogitsᵀ hidden`. There is no factor
//! `T²`. The teachers take no gradient, and neither does the choice between them.

use super::elementwise::scaled;
use super::embedding::add_rows;
use super::head::{HeadRows, cap_row, is_argmax, log_sum};
use crate::dtype::DType;
use crate::matmul::{matmul_tn, matmul_tn_add};
use crate::parallel::{Rows, for_blocks};
use crate::profile::{self, Pass};
use crate::simd;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::weight::{WeightRef, backward_sum};

/// A model that is learned from, after it has read the same tokens.
#[derive(Clone, Copy)]
pub struct Teacher<'a> {
    /// Its hidden states `[tokens, width]`, of a width of its own.
    pub hidden: &'a Tensor,
    /// `[vocabulary, width]`, of the student's vocabulary.
    pub head: &'a WeightRef,
    /// Its own cap of logits.
    pub soft_cap: Option<f32>,
}

/// Which teacher a row has.
#[derive(Clone, Copy)]
pub enum Teachers<'a> {
    /// All the same.
    One(Teacher<'a>),
    /// The first where the student's most likely token (the lowest on ties) is not `targets[i]`, the second elsewhere.
    FirstWhereWrong([Teacher<'a>; 2], &'a [u32]),
    /// The first for the rows that are marked, the second for the others.
    FirstWhere([Teacher<'a>; 2], &'a [bool]),
}

/// The divergence over a batch.
pub struct HeadDivergence {
    /// `Σ weight · KL(teacher ‖ student) / normaliser`, a scalar with gradients in the student's hidden states and head.
    pub loss: Var,
    /// The sum before normalising.
    pub sum: f64,
    /// Rows whose teacher was the first one, or the only one.
    pub of_first: usize,
}

/// The divergence of a student from its teachers. The student: its hidden states `[tokens, width]`, its head `[vocabulary,
/// width]`, and its cap of logits. Row `rows[i]` of all hidden states has weight `weights[i]`. `temperature` divides all logits,
/// after their caps.
///
/// Panics on lengths that differ, rows outside the hidden states, targets outside the vocabulary, and shapes that do not fit.
pub fn lm_head_divergence(
    tape: &Tape,
    (student, head, soft_cap): (&Var, &WeightRef, Option<f32>),
    teachers: Teachers,
    (rows, weights): (&[u32], &[f32]),
    normaliser: f32,
    temperature: f32,
) -> HeadDivergence {
    let _span = profile::span("lm head and divergence", Pass::Forward);
    assert_eq!(rows.len(), weights.len(), "weights of the rows");
    let source = HeadRows::new(&student.value, head, rows);
    let trained = match head {
        WeightRef::Trained(var) if tape.needs_grad(&[var]) => Some(var.clone()),
        _ => None,
    };
    let dtype = student.value.dtype();
    let mut dhidden = tape.needs_grad(&[student]).then(|| Tensor::zeros(student.value.shape(), dtype));
    let wanted = dhidden.is_some() || trained.is_some();
    let mut dweight: Option<Tensor> = None;
    let (mut sum, mut of_first) = (0f64, 0);
    for chunk in source.chunks() {
        let x = source.hidden(chunk.clone());
        let mut p = source.logits(&x);
        cap(&mut p, soft_cap);
        let first = teachers.first(chunk.clone(), &mut p);
        let mut q = teachers.logits(&rows[chunk.clone()], &first, source.vocabulary);
        of_first += first.iter().filter(|first| **first).count();
        sum += divergence([&mut p, &mut q], &weights[chunk.clone()], normaliser, (soft_cap, temperature));
        if !wanted {
            continue;
        }
        let dlogits = p.to_dtype(dtype);
        if let Some(dhidden) = &mut dhidden {
            add_rows(dhidden, &rows[chunk], &backward_sum(&[(&dlogits, head)], &[]), 1.0);
        }
        match (&trained, &mut dweight) {
            (None, _) => {}
            (Some(_), Some(sum)) => matmul_tn_add(sum, 1.0, &dlogits, &x),
            (Some(_), none) => *none = Some(matmul_tn(&dlogits, &x, DType::F32)),
        }
    }
    let value = Tensor::full([1], DType::F32, (sum / f64::from(normaliser)) as f32);
    if !wanted {
        return HeadDivergence { loss: Var::constant(value), sum, of_first };
    }
    let student = student.clone();
    let loss = tape.record(value, move |grad, into| {
        let _span = profile::span("lm head and divergence", Pass::Backward);
        let seed = grad.item();
        let times = |t: Tensor| if seed == 1.0 { t } else { scaled(t, seed) };
        if let Some(dhidden) = dhidden {
            into.add(&student, times(dhidden));
        }
        if let (Some(var), Some(dweight)) = (trained, dweight) {
            into.add(&var, times(dweight).reshape(var.value.shape()));
        }
    });
    HeadDivergence { loss, sum, of_first }
}

impl Teachers<'_> {
    /// Which rows of a chunk have the first teacher; `student` are their logits.
    fn first(&self, chunk: std::ops::Range<usize>, student: &mut Tensor) -> Vec<bool> {
        let mut first = vec![true; chunk.len()];
        match self {
            Teachers::One(_) => {}
            Teachers::FirstWhere(_, marked) => first.copy_from_slice(&marked[chunk]),
            Teachers::FirstWhereWrong(_, targets) => {
                let (targets, cols) = (&targets[chunk], student.rows_cols().1);
                for_blocks(
                    targets.len(),
                    cols,
                    (Rows::new(student.as_mut_slice::<f32>(), cols), Rows::new(&mut first, 1)),
                    #[inline(always)]
                    |range, (logits, first): (Rows<f32>, Rows<bool>)| {
                        let rows = logits.data.chunks_exact(cols).zip(&targets[range]);
                        for ((row, target), first) in rows.zip(first.data) {
                            assert!((*target as usize) < cols, "target {target} outside a vocabulary of {cols}");
                            *first = !is_argmax(row, *target as usize, simd::max(row));
                        }
                    },
                );
            }
        }
        first
    }

    /// Logits `[rows, vocabulary]`, each row's by its own teacher.
    fn logits(&self, rows: &[u32], first: &[bool], vocabulary: usize) -> Tensor {
        let pair = match self {
            Teachers::One(teacher) => [*teacher; 2],
            Teachers::FirstWhereWrong(pair, _) | Teachers::FirstWhere(pair, _) => *pair,
        };
        let mut mixed = Tensor::uninit([rows.len(), vocabulary], DType::F32);
        for (teacher, whose) in pair.iter().zip([true, false]) {
            let at: Vec<usize> = (0..rows.len()).filter(|at| first[*at] == whose).collect();
            let own: Vec<u32> = at.iter().map(|at| rows[*at]).collect();
            if own.is_empty() {
                continue;
            }
            let logits = teacher.logits(&own, vocabulary);
            if own.len() == rows.len() {
                return logits;
            }
            let to = mixed.as_mut_slice::<f32>();
            for (at, row) in at.into_iter().zip(logits.as_slice::<f32>().chunks_exact(vocabulary)) {
                to[at * vocabulary..][..vocabulary].copy_from_slice(row);
            }
        }
        mixed
    }
}

impl Teacher<'_> {
    fn logits(&self, rows: &[u32], vocabulary: usize) -> Tensor {
        let source = HeadRows::new(self.hidden, self.head, rows);
        assert_eq!(source.vocabulary, vocabulary, "vocabularies of teacher and student");
        let mut logits = source.logits(&source.hidden(0..rows.len()));
        cap(&mut logits, self.soft_cap);
        logits
    }
}

fn cap(logits: &mut Tensor, soft_cap: Option<f32>) {
    if soft_cap.is_some() {
        let (rows, cols) = logits.rows_cols();
        for_blocks(
            rows,
            cols,
            Rows::new(logits.as_mut_slice::<f32>(), cols),
            #[inline(always)]
            |_, rows: Rows<f32>| cap_row(rows.data, soft_cap),
        );
    }
}

/// The sum over the rows of a chunk, before normalising; `p`, the student's capped logits, become the gradient of those
/// before the cap. `q` are the teachers'.
fn divergence(
    [p, q]: [&mut Tensor; 2],
    weights: &[f32],
    normaliser: f32,
    (soft_cap, temperature): (Option<f32>, f32),
) -> f64 {
    let (count, cols) = p.rows_cols();
    let mut sums = vec![0f64; count];
    let logits = (Rows::new(p.as_mut_slice::<f32>(), cols), Rows::new(q.as_mut_slice::<f32>(), cols));
    for_blocks(
        count,
        cols,
        (logits, Rows::new(&mut sums, 1)),
        #[inline(always)]
        |range, ((p, q), sums): ((Rows<f32>, Rows<f32>), Rows<f64>)| {
            let pairs = p.data.chunks_exact_mut(cols).zip(q.data.chunks_exact_mut(cols));
            for (((p, q), sum), at) in pairs.zip(sums.data).zip(range) {
                *sum = f64::from(weights[at]) * row(p, q, weights[at] / normaliser, soft_cap, 1.0 / temperature);
            }
        },
    );
    sums.iter().sum()
}

/// A row: `KL(q ‖ p)`, and `p` becomes the gradient of its logits. `inverse` is that of the temperature.
#[inline(always)]
fn row(p: &mut [f32], q: &mut [f32], factor: f32, soft_cap: Option<f32>, inverse: f32) -> f64 {
    if inverse != 1.0 {
        p.iter_mut().for_each(|logit| *logit *= inverse);
        q.iter_mut().for_each(|logit| *logit *= inverse);
    }
    let (ours, theirs) = (log_sum(p), log_sum(q));
    let (factor, cap) = (factor * inverse, soft_cap.map(|cap| cap * inverse));
    let mut sum = 0f64;
    for (p, q) in p.iter_mut().zip(q.iter()) {
        let (log_p, log_q) = ((f64::from(*p) - ours) as f32, (f64::from(*q) - theirs) as f32);
        let (student, teacher) = (simd::exp(log_p), simd::exp(log_q));
        sum += f64::from(teacher * (log_q - log_p));
        let slope = cap.map_or(1.0, |cap| 1.0 - (*p / cap) * (*p / cap));
        *p = factor * (student - teacher) * slope;
    }
    sum
}

#[cfg(test)]
mod tests;
