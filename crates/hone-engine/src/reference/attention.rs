//! Attention in `f64`, the whole matrix of scores, straight from the definition.

use crate::ops::attention::{AttentionSpec, Segment};

/// Queries, keys, values `[tokens, heads * head_dim]` and an optional bias `[query_heads, tokens, tokens]`.
#[derive(Clone, Debug)]
pub struct AttentionInputs {
    /// `[tokens, query_heads * head_dim]`.
    pub q: Vec<f64>,
    /// `[tokens, key_value_heads * head_dim]`.
    pub k: Vec<f64>,
    /// Like `k`.
    pub v: Vec<f64>,
    /// `[query_heads, tokens, tokens]`.
    pub bias: Option<Vec<f64>>,
}

/// Rows of the keys of a segment's sequence: its ancestors' tokens, then its own.
fn key_rows(segments: &[Segment], at: usize) -> Vec<usize> {
    let segment = segments[at];
    let mut rows = segment.parent.map_or(Vec::new(), |parent| key_rows(segments, parent));
    rows.extend(segment.start..segment.start + segment.len);
    rows
}

/// Calls `row(head, query row, [(key row, probability, d score / d product)])` for every query and head.
fn for_rows(
    x: &AttentionInputs,
    segments: &[Segment],
    spec: &AttentionSpec,
    mut row: impl FnMut(usize, usize, &[(usize, f64, f64)]),
) {
    let dim = spec.head_dim;
    let tokens = x.q.len() / (spec.query_heads * dim);
    for (at, segment) in segments.iter().enumerate() {
        let keys = key_rows(segments, at);
        for i in 0..segment.len {
            let position = keys.len() - segment.len + i;
            for head in 0..spec.query_heads {
                let key_head = head / (spec.query_heads / spec.key_value_heads);
                let query_row = segment.start + i;
                let mut scores = Vec::new();
                for (key_position, &key_row) in keys.iter().enumerate() {
                    let after = spec.causal && key_position > position;
                    let far = spec.window.is_some_and(|w| key_position.abs_diff(position) >= w);
                    if after || far {
                        continue;
                    }
                    let query = &x.q[(query_row * spec.query_heads + head) * dim..][..dim];
                    let key = &x.k[(key_row * spec.key_value_heads + key_head) * dim..][..dim];
                    let scale = spec.scale as f64;
                    let mut score = scale * query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>();
                    let mut slope = scale;
                    if let Some(cap) = spec.soft_cap {
                        let t = (score / cap as f64).tanh();
                        score = cap as f64 * t;
                        slope *= 1.0 - t * t;
                    }
                    if let Some(bias) = &x.bias {
                        score += bias[(head * tokens + query_row) * tokens + key_row];
                    }
                    scores.push((key_row, score, slope));
                }
                let max = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(s.1));
                let sum: f64 = scores.iter().map(|s| (s.1 - max).exp()).sum();
                scores.iter_mut().for_each(|s| s.1 = (s.1 - max).exp() / sum);
                row(head, query_row, &scores);
            }
        }
    }
}

/// The result, like `q`.
pub fn attention(x: &AttentionInputs, segments: &[Segment], spec: &AttentionSpec) -> Vec<f64> {
    let dim = spec.head_dim;
    let mut out = vec![0.0; x.q.len()];
    for_rows(x, segments, spec, |head, query, keys| {
        let key_head = head / (spec.query_heads / spec.key_value_heads);
        let out = &mut out[(query * spec.query_heads + head) * dim..][..dim];
        for &(key, p, _) in keys {
            let value = &x.v[(key * spec.key_value_heads + key_head) * dim..][..dim];
            out.iter_mut().zip(value).for_each(|(o, v)| *o += p * v);
        }
    });
    out
}

/// Gradients of `Σ out * gradient` with respect to the inputs.
pub fn attention_gradients(
    x: &AttentionInputs,
    gradient: &[f64],
    segments: &[Segment],
    spec: &AttentionSpec,
) -> AttentionInputs {
    let dim = spec.head_dim;
    let tokens = x.q.len() / (spec.query_heads * dim);
    let mut d = AttentionInputs {
        q: vec![0.0; x.q.len()],
        k: vec![0.0; x.k.len()],
        v: vec![0.0; x.v.len()],
        bias: x.bias.as_ref().map(|b| vec![0.0; b.len()]),
    };
    for_rows(x, segments, spec, |head, query, keys| {
        let key_head = head / (spec.query_heads / spec.key_value_heads);
        let at_query = (query * spec.query_heads + head) * dim;
        let at_key = |key: usize| (key * spec.key_value_heads + key_head) * dim;
        let dout = &gradient[at_query..][..dim];
        let dp: Vec<f64> =
            keys.iter().map(|&(key, _, _)| (0..dim).map(|c| dout[c] * x.v[at_key(key) + c]).sum()).collect();
        let mean: f64 = keys.iter().zip(&dp).map(|(k, dp)| k.1 * dp).sum();
        for (&(key, p, slope), dp) in keys.iter().zip(&dp) {
            let dscore = p * (dp - mean);
            if let Some(dbias) = &mut d.bias {
                dbias[(head * tokens + query) * tokens + key] += dscore;
            }
            for (c, dout) in dout.iter().enumerate() {
                d.v[at_key(key) + c] += p * dout;
                d.k[at_key(key) + c] += slope * dscore * x.q[at_query + c];
                d.q[at_query + c] += slope * dscore * x.k[at_key(key) + c];
            }
        }
    });
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<f64> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f64 / 504.5 - 1.0).collect()
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let segments = [
            Segment { start: 0, len: 4, parent: None },
            Segment { start: 4, len: 3, parent: Some(0) },
            Segment { start: 7, len: 2, parent: Some(0) },
        ];
        for (causal, window, soft_cap) in [(true, None, None), (false, Some(3), Some(1.5))] {
            let spec =
                AttentionSpec { query_heads: 4, key_value_heads: 2, head_dim: 3, scale: 0.7, causal, window, soft_cap };
            let x = AttentionInputs {
                q: numbers(9 * 12, 1),
                k: numbers(9 * 6, 2),
                v: numbers(9 * 6, 3),
                bias: Some(numbers(4 * 81, 4)),
            };
            let gradient = numbers(9 * 12, 5);
            let d = attention_gradients(&x, &gradient, &segments, &spec);
            let loss = |x: &AttentionInputs| -> f64 {
                attention(x, &segments, &spec).iter().zip(&gradient).map(|(o, g)| o * g).sum()
            };
            fn part(x: &mut AttentionInputs, i: usize) -> &mut Vec<f64> {
                match i {
                    0 => &mut x.q,
                    1 => &mut x.k,
                    2 => &mut x.v,
                    _ => x.bias.as_mut().expect("given above"),
                }
            }
            for i in 0..4 {
                for at in 0..part(&mut x.clone(), i).len() {
                    let shifted = |by: f64| {
                        let mut x = x.clone();
                        part(&mut x, i)[at] += by;
                        loss(&x)
                    };
                    let difference = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
                    let ours = part(&mut d.clone(), i)[at];
                    assert!((ours - difference).abs() < 1e-8, "input {i} at {at}: {ours} {difference}");
                }
            }
        }
    }
}
