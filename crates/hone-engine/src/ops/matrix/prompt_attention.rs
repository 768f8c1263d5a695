//! Attention of every token to the same few prompt rows, with a softmax of its own: `softmax(scale q kᵀ) v` over all `p` rows, no
//! mask (the adaption prompt of LLaMA-Adapter, arXiv 2303.16199).
//!
//! Query heads are grouped over key-value heads as in the model's own attention. Kept for backward: the probabilities `P`
//! `[tokens, heads, p]`. With the output's gradient `g` of a head, `dP_j = g · v_j`, `dS_j = P_j (dP_j − Σ_i P_i dP_i)`,
//! `dq = scale Σ_j dS_j k_j`, `dk_j = scale Σ dS_j q`, `dv_j = Σ P_j g`, the last two over the tokens in order and the heads of
//! a group. All in `f32`.
//!
//! Nothing here knows of gates, positions or sequences: prompt rows are the same for every token.

use crate::dtype::DType;
use crate::parallel::{Rows, for_blocks};
use crate::profile::{self, Pass};
use crate::simd;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// `softmax(scale q kᵀ) v` of each head: `q` `[tokens, heads d]`, `k`, `v` `[p, kv_heads d]` of either type; result like `q`. Panics
/// on shapes that do not fit, on `kv_heads` that does not divide `heads`, and on no prompt rows.
pub fn prompt_attention(tape: &Tape, q: &Var, k: &Var, v: &Var, heads: usize, kv_heads: usize, scale: f32) -> Var {
    let _span = profile::span("prompt attention", Pass::Forward);
    let sizes = Sizes::new(&q.value, &k.value, &v.value, heads, kv_heads, scale);
    let (value, probabilities) = sizes.forward(&q.value, &k.value, &v.value);
    if !tape.needs_grad(&[q, k, v]) {
        return Var::constant(value);
    }
    let (q, k, v) = (q.clone(), k.clone(), v.clone());
    tape.record(value, move |grad, into| {
        let _span = profile::span("prompt attention", Pass::Backward);
        let (dq, slopes) = sizes.query_gradient(&grad, &probabilities, &k.value, &v.value);
        if k.needs_grad() || v.needs_grad() {
            let (dk, dv) = sizes.prompt_gradients(&q.value, &grad, &probabilities, &slopes);
            into.add(&k, dk.reshape(k.value.shape()));
            into.add(&v, dv.reshape(v.value.shape()));
        }
        into.add(&q, dq.reshape(q.value.shape()));
    })
}

/// What the passes agree on.
#[derive(Clone, Copy)]
struct Sizes {
    tokens: usize,
    /// Rows of the prompt.
    prompt: usize,
    heads: usize,
    /// Query heads to a key-value head.
    group: usize,
    /// Width of a head.
    d: usize,
    scale: f32,
}

impl Sizes {
    fn new(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, kv_heads: usize, scale: f32) -> Sizes {
        let ((tokens, width), (prompt, narrow)) = (q.rows_cols(), k.rows_cols());
        let grouped = kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads);
        assert!(grouped, "prompt attention: {heads} query heads over {kv_heads} key heads");
        let d = width / heads;
        assert!(d > 0 && width == heads * d, "prompt attention: {heads} heads in q of {:?}", q.shape());
        assert_eq!(narrow, kv_heads * d, "prompt attention: width of k");
        assert_eq!(v.rows_cols(), (prompt, narrow), "prompt attention: shape of v");
        assert!(prompt > 0, "prompt attention: no prompt rows");
        Sizes { tokens, prompt, heads, group: heads / kv_heads, d, scale }
    }

    fn width(&self) -> usize {
        self.heads * self.d
    }

    /// Width of a row of `k` and `v`.
    fn narrow(&self) -> usize {
        self.heads / self.group * self.d
    }

    /// What row `j` of `k` or `v` holds for `head`.
    #[inline(always)]
    fn of_head<'a>(&self, rows: &'a [f32], j: usize, head: usize) -> &'a [f32] {
        &rows[j * self.narrow() + head / self.group * self.d..][..self.d]
    }

    /// Elements a token's row weighs in a pass.
    fn weight(&self) -> usize {
        self.width() * self.prompt
    }

    /// The output and `P` `[tokens, heads p]` in `f32`.
    fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> (Tensor, Tensor) {
        let (k, v) = (k.to_vec_f32(), v.to_vec_f32());
        let (d, p) = (self.d, self.prompt);
        let mut out = Tensor::uninit(q.shape(), q.dtype());
        let mut probabilities = Tensor::uninit([self.tokens, self.heads * p], DType::F32);
        crate::dispatch_dtype!(q.dtype(), T => {
            let q = q.as_slice::<T>();
            for_blocks(
                self.tokens,
                self.weight(),
                (
                    Rows::new(out.as_mut_slice::<T>(), self.width()),
                    Rows::new(probabilities.as_mut_slice::<f32>(), self.heads * p),
                ),
                #[inline(always)]
                |range, (out, probabilities): (Rows<T>, Rows<f32>)| {
                    let q = q[range.start * self.width()..range.end * self.width()].chunks_exact(d);
                    let to = out.data.chunks_exact_mut(d).zip(probabilities.data.chunks_exact_mut(p));
                    let mut sum = vec![0f32; d];
                    for (at, (q, (out, row))) in q.zip(to).enumerate() {
                        let head = at % self.heads;
                        for (j, score) in row.iter_mut().enumerate() {
                            *score = self.scale * simd::dot(q, self.of_head(&k, j, head));
                        }
                        let highest = simd::max(row);
                        let inverse = 1.0 / simd::exp_shifted(row, highest);
                        sum.fill(0.0);
                        for (j, weight) in row.iter_mut().enumerate() {
                            *weight *= inverse;
                            simd::add_scaled(&mut sum, *weight, self.of_head(&v, j, head));
                        }
                        simd::convert(out, &sum);
                    }
                },
            )
        });
        (out, probabilities)
    }

    /// `dq` in `grad`'s type and `dS` `[tokens, heads p]` in `f32`.
    fn query_gradient(&self, grad: &Tensor, probabilities: &Tensor, k: &Tensor, v: &Tensor) -> (Tensor, Tensor) {
        let (k, v) = (k.to_vec_f32(), v.to_vec_f32());
        let (d, p) = (self.d, self.prompt);
        let mut dq = Tensor::uninit(grad.shape(), grad.dtype());
        let mut slopes = Tensor::uninit(probabilities.shape(), DType::F32);
        let probabilities = probabilities.as_slice::<f32>();
        crate::dispatch_dtype!(grad.dtype(), T => {
            let grad = grad.as_slice::<T>();
            for_blocks(
                self.tokens,
                self.weight(),
                (
                    Rows::new(dq.as_mut_slice::<T>(), self.width()),
                    Rows::new(slopes.as_mut_slice::<f32>(), self.heads * p),
                ),
                #[inline(always)]
                |range, (dq, slopes): (Rows<T>, Rows<f32>)| {
                    let first = range.start * self.heads;
                    let to = dq.data.chunks_exact_mut(d).zip(slopes.data.chunks_exact_mut(p));
                    let mut sum = vec![0f32; d];
                    for (at, (dq, slopes)) in to.enumerate() {
                        let (at, head) = (first + at, at % self.heads);
                        let (g, row) = (&grad[at * d..(at + 1) * d], &probabilities[at * p..(at + 1) * p]);
                        for (j, slope) in slopes.iter_mut().enumerate() {
                            *slope = simd::dot(g, self.of_head(&v, j, head));
                        }
                        let level = simd::dot(slopes, row);
                        sum.fill(0.0);
                        for (j, (slope, weight)) in slopes.iter_mut().zip(row).enumerate() {
                            *slope = weight * (*slope - level);
                            simd::add_scaled(&mut sum, self.scale * *slope, self.of_head(&k, j, head));
                        }
                        simd::convert(dq, &sum);
                    }
                },
            )
        });
        (dq, slopes)
    }

    /// `dk` and `dv`, `[p, kv_heads d]` in `f32`.
    fn prompt_gradients(&self, q: &Tensor, grad: &Tensor, probabilities: &Tensor, slopes: &Tensor) -> (Tensor, Tensor) {
        let (d, p, narrow) = (self.d, self.prompt, self.narrow());
        let mut dk = Tensor::zeros([p, narrow], DType::F32);
        let mut dv = Tensor::zeros([p, narrow], DType::F32);
        let (probabilities, slopes) = (probabilities.as_slice::<f32>(), slopes.as_slice::<f32>());
        crate::dispatch_dtype!(q.dtype(), T => {
            let (q, grad) = (q.as_slice::<T>(), grad.as_slice::<T>());
            for_blocks(
                p,
                self.tokens * self.width(),
                (Rows::new(dk.as_mut_slice::<f32>(), narrow), Rows::new(dv.as_mut_slice::<f32>(), narrow)),
                #[inline(always)]
                |range, (dk, dv): (Rows<f32>, Rows<f32>)| {
                    let to = dk.data.chunks_exact_mut(narrow).zip(dv.data.chunks_exact_mut(narrow));
                    for (j, (dk, dv)) in range.zip(to) {
                        for (at, (q, g)) in q.chunks_exact(d).zip(grad.chunks_exact(d)).enumerate() {
                            let from = at % self.heads / self.group * d;
                            simd::add_scaled(&mut dk[from..from + d], self.scale * slopes[at * p + j], q);
                            simd::add_scaled(&mut dv[from..from + d], probabilities[at * p + j], g);
                        }
                    }
                },
            )
        });
        (dk, dv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient_check::{check, random, tolerance};
    use crate::reference::matrix;

    #[test]
    fn prompt_attention_matches_the_reference() {
        let (tokens, prompt, d) = (5, 3, 8);
        for (heads, kv_heads) in [(4, 2), (2, 2), (3, 1)] {
            for (hidden, rows) in [(DType::F32, DType::F32), (DType::BF16, DType::BF16), (DType::BF16, DType::F32)] {
                let inputs = [
                    random([tokens, heads * d], hidden, 1),
                    random([prompt, kv_heads * d], rows, 2),
                    random([prompt, kv_heads * d], rows, 3),
                ];
                let op =
                    |tape: &Tape, v: &[Var]| vec![prompt_attention(tape, &v[0], &v[1], &v[2], heads, kv_heads, 0.3)];
                let oracle = |v: &[Vec<f64>]| {
                    let sizes = (heads, kv_heads, d);
                    vec![matrix::prompt_attention(&v[0], &v[1], &v[2], sizes, 0.3f32 as f64)]
                };
                check(&inputs, tolerance(hidden), op, oracle);
            }
        }
    }

    #[test]
    fn one_prompt_row_is_copied_to_every_token_whatever_the_scores() {
        let (q, row) = (random([4, 6], DType::F32, 1), random([1, 6], DType::F32, 2));
        let (q, row) = (Var::constant(q), Var::constant(row));
        let y = prompt_attention(&Tape::off(), &q, &row, &row, 2, 2, 100.0);
        assert_eq!(y.value.to_vec_f32(), row.value.to_vec_f32().repeat(4));
    }
}
