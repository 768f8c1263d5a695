//! Operations over matrices that edits are made of.

use std::ops::Range;

/// `xᵀ`; rows of `x` are `cols` long.
pub fn transpose(x: &[f64], cols: usize) -> Vec<f64> {
    (0..cols).flat_map(|j| x.chunks(cols).map(move |row| row[j])).collect()
}

/// `a ⊗ b`; rows of `a` are `q` long, those of `b` `s`.
pub fn kronecker(a: &[f64], q: usize, b: &[f64], s: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for a in a.chunks(q) {
        for b in b.chunks(s) {
            out.extend(a.iter().flat_map(|a| b.iter().map(move |b| a * b)));
        }
    }
    out
}

/// `(I − q)(I + q)⁻¹` of a square of side `k`: the equations `r (I + q) = I − q` solved by Cramer's rule, row by row.
pub fn cayley(q: &[f64], k: usize) -> Vec<f64> {
    let identity = |at: usize| if at / k == at % k { 1.0 } else { 0.0 };
    let plus: Vec<f64> = q.iter().enumerate().map(|(at, q)| identity(at) + q).collect();
    let whole = determinant(&plus, k);
    let mut out = Vec::new();
    for i in 0..k {
        for j in 0..k {
            // `r[i, j]` multiplies row `j` of `I + q`.
            let mut replaced = plus.clone();
            for column in 0..k {
                replaced[j * k + column] = identity(i * k + column) - q[i * k + column];
            }
            out.push(determinant(&replaced, k) / whole);
        }
    }
    out
}

/// The determinant of a square of side `k`, by its first row.
fn determinant(a: &[f64], k: usize) -> f64 {
    if k == 0 {
        return 1.0;
    }
    let minor = |column: usize| -> Vec<f64> {
        a[k..].chunks(k).flat_map(|row| [&row[..column], &row[column + 1..]].concat()).collect()
    };
    let sign = |j: usize| if j.is_multiple_of(2) { 1.0 } else { -1.0 };
    (0..k).map(|j| sign(j) * a[j] * determinant(&minor(j), k - 1)).sum()
}

/// `x ΔWᵀ` for `ΔW` `[out, width]` with `values` at `(rows, columns)`; rows of `x` are `width` long.
pub fn sparse_product(x: &[f64], width: usize, values: &[f64], rows: &[u32], columns: &[u32], out: usize) -> Vec<f64> {
    let mut delta = vec![0.0; out * width];
    for ((value, row), column) in values.iter().zip(rows).zip(columns) {
        delta[*row as usize * width + *column as usize] += value;
    }
    super::linear::matmul_nt(x, &delta, width)
}

/// A convolution of each channel along the tokens of each sequence, which is surrounded by zeros: `w` is `[channels, k]`.
pub fn depthwise_convolution(x: &[f64], w: &[f64], bias: &[f64], sequences: &[Range<usize>], left: usize) -> Vec<f64> {
    let channels = bias.len();
    let k = w.len() / channels;
    let mut y = Vec::new();
    for sequence in sequences {
        for token in sequence.clone() {
            for channel in 0..channels {
                let mut sum = bias[channel];
                for tap in 0..k {
                    let source = (token + tap) as isize - left as isize;
                    if source >= sequence.start as isize && source < sequence.end as isize {
                        sum += w[channel * k + tap] * x[source as usize * channels + channel];
                    }
                }
                y.push(sum);
            }
        }
    }
    y
}

/// `(x − mean) / √(variance + eps) · w + b` of each column, with the given statistics or, without them, its own.
pub fn batch_norm(x: &[f64], w: &[f64], b: &[f64], statistics: Option<(&[f64], &[f64])>, eps: f64) -> Vec<f64> {
    let cols = w.len();
    let rows = (x.len() / cols) as f64;
    let column = |j: usize| x.iter().skip(j).step_by(cols);
    let (mean, variance): (Vec<f64>, Vec<f64>) = (0..cols)
        .map(|j| {
            statistics.map_or_else(
                || {
                    let mean = column(j).sum::<f64>() / rows;
                    (mean, column(j).map(|v| (v - mean).powi(2)).sum::<f64>() / rows)
                },
                |(mean, variance)| (mean[j], variance[j]),
            )
        })
        .unzip();
    let one = |(at, x): (usize, &f64)| {
        let j = at % cols;
        (x - mean[j]) / (variance[j] + eps).sqrt() * w[j] + b[j]
    };
    x.iter().enumerate().map(one).collect()
}

/// `softmax(scale q kᵀ) v` of each head over all rows of `k`; heads are `d` wide, and `heads / key_value_heads` of them in a row
/// read the same keys.
pub fn prompt_attention(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    (heads, key_value_heads, d): (usize, usize, usize),
    scale: f64,
) -> Vec<f64> {
    let mut out = Vec::new();
    for q in q.chunks(heads * d) {
        for (head, q) in q.chunks(d).enumerate() {
            let from = head / (heads / key_value_heads) * d;
            let of = |row: &[f64]| row[from..from + d].to_vec();
            let keys: Vec<f64> = k.chunks(key_value_heads * d).flat_map(of).collect();
            let values: Vec<f64> = v.chunks(key_value_heads * d).flat_map(of).collect();
            let scores: Vec<f64> = super::linear::matmul_nt(q, &keys, d).iter().map(|s| (scale * s).exp()).collect();
            let total: f64 = scores.iter().sum();
            let weights: Vec<f64> = scores.iter().map(|s| s / total).collect();
            out.extend(super::linear::matmul_nt(&weights, &transpose(&values, d), weights.len()));
        }
    }
    out
}
