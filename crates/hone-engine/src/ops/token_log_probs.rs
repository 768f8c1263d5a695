//! Log-probabilities of given tokens and whole logit rows: scoring and generation. Forward only, in chunks of rows.

use super::head::{HeadRows, cap_row, is_argmax};
use crate::dtype::DType;
use crate::parallel::{Rows, for_blocks};
use crate::profile::{self, Pass};
use crate::simd;
use crate::tensor::Tensor;
use crate::weight::WeightRef;

/// How a row scored its target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenScore {
    /// Natural log-probability of the target.
    pub log_prob: f32,
    /// Whether the target's logit was the highest (lowest index on ties).
    pub is_argmax: bool,
}

/// Row `rows[i]` of `hidden` `[tokens, width]` against `targets[i]`.
///
/// Panics on lengths that differ, rows outside `hidden`, targets outside the vocabulary and shapes that do not fit.
pub fn token_scores(
    hidden: &Tensor,
    head: &WeightRef,
    rows: &[u32],
    targets: &[u32],
    soft_cap: Option<f32>,
) -> Vec<TokenScore> {
    let _span = profile::span("lm head scores", Pass::Forward);
    assert_eq!(rows.len(), targets.len(), "rows and targets");
    let source = HeadRows::new(hidden, head, rows);
    let cols = source.vocabulary;
    let mut scores = vec![TokenScore { log_prob: 0.0, is_argmax: false }; rows.len()];
    for chunk in source.chunks() {
        let mut logits = source.logits(&source.hidden(chunk.clone()));
        let targets = &targets[chunk.clone()];
        for_blocks(
            chunk.len(),
            cols,
            (Rows::new(logits.as_mut_slice::<f32>(), cols), Rows::new(&mut scores[chunk], 1)),
            #[inline(always)]
            |range, (logits, scores): (Rows<f32>, Rows<TokenScore>)| {
                let rows = logits.data.chunks_exact_mut(cols).zip(&targets[range]);
                for ((row, target), score) in rows.zip(scores.data) {
                    *score = score_row(row, *target as usize, soft_cap);
                }
            },
        );
    }
    scores
}

#[inline(always)]
fn score_row(row: &mut [f32], target: usize, soft_cap: Option<f32>) -> TokenScore {
    assert!(target < row.len(), "target {target} outside a vocabulary of {}", row.len());
    cap_row(row, soft_cap);
    let highest = simd::max(row);
    let sum = simd::sum_of(
        row,
        #[inline(always)]
        |l| simd::exp(l - highest),
    );
    let log_prob = (row[target] as f64 - highest as f64) - (sum as f64).ln();
    TokenScore { log_prob: log_prob as f32, is_argmax: is_argmax(row, target, highest) }
}

/// Logits `[rows.len(), vocabulary]` in `f32`.
pub fn head_logits(hidden: &Tensor, head: &WeightRef, rows: &[u32], soft_cap: Option<f32>) -> Tensor {
    let source = HeadRows::new(hidden, head, rows);
    let cols = source.vocabulary;
    if rows.is_empty() {
        return Tensor::zeros([0, cols], DType::F32);
    }
    let mut logits = source.logits(&source.hidden(0..rows.len()));
    if soft_cap.is_some() {
        for_blocks(
            rows.len(),
            cols,
            Rows::new(logits.as_mut_slice::<f32>(), cols),
            #[inline(always)]
            |_, rows: Rows<f32>| cap_row(rows.data, soft_cap),
        );
    }
    logits
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ops::lm_head_loss;
    use crate::reference::gradient_check::{assert_close, random, tolerance, wide};
    use crate::reference::linear::{log_softmax, matmul_nt};
    use crate::{Tape, Var, Weight};

    const WIDTH: usize = 24;
    const VOCABULARY: usize = 300;

    #[test]
    fn scores_and_logits_match_the_reference_and_the_loss() {
        let rows = [5u32, 0, 3, 3];
        let targets = [299u32, 0, 17, 100];
        for (dtype, cap) in [(DType::F32, None), (DType::F32, Some(4.0)), (DType::BF16, None)] {
            let (hidden, head) = (random([6, WIDTH], dtype, 1), random([VOCABULARY, WIDTH], dtype, 2));
            let raw = matmul_nt(&wide(&hidden), &wide(&head), WIDTH);
            let head = WeightRef::Frozen(Arc::new(Weight::dense(head)));
            let scores = token_scores(&hidden, &head, &rows, &targets, cap);
            let logits = wide(&head_logits(&hidden, &head, &rows, cap));
            for (i, (row, target)) in rows.iter().zip(targets).enumerate() {
                let raw = &raw[*row as usize * VOCABULARY..][..VOCABULARY];
                let want = log_softmax(raw, cap.map(f64::from));
                assert_close(
                    "log-probability",
                    &[scores[i].log_prob as f64],
                    &[want[target as usize]],
                    tolerance(dtype),
                );
                let got = &logits[i * VOCABULARY..][..VOCABULARY];
                assert_close("logits", &log_softmax(got, None), &want, tolerance(dtype));
                let best = want.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                assert_eq!(scores[i].is_argmax, want[target as usize] == best);
            }
            let loss = lm_head_loss(&Tape::off(), &Var::constant(hidden), &head, &rows, &targets, &[1.0; 4], 1.0, cap);
            let sum: f64 = scores.iter().map(|s| s.log_prob as f64).sum();
            assert!((loss.nll_sum + sum).abs() < 1e-5 * loss.nll_sum.abs());
        }
    }

    #[test]
    fn a_row_scores_the_same_in_any_company() {
        let hidden = random([300, WIDTH], DType::BF16, 1);
        let head = WeightRef::Frozen(Arc::new(Weight::dense(random([VOCABULARY, WIDTH], DType::BF16, 2))));
        let rows: Vec<u32> = (0..300).collect();
        let targets: Vec<u32> = (0..300).map(|i| i * 7 % 300).collect();
        let together = token_scores(&hidden, &head, &rows, &targets, None);
        for i in [0usize, 7, 131, 299] {
            let alone = token_scores(&hidden, &head, &rows[i..i + 1], &targets[i..i + 1], None);
            assert_eq!(alone[0], together[i], "row {i}");
        }
    }
}
