//! Linear maps and the cross-entropy over one.

/// `a bᵀ`: rows of `a` and of `b` are `k` long.
pub fn matmul_nt(a: &[f64], b: &[f64], k: usize) -> Vec<f64> {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    a.chunks(k).flat_map(|x| b.chunks(k).map(move |y| dot(x, y))).collect()
}

/// A low-rank term of [`linear`]: `a` `[rank, in]`, `b` `[out, rank]`, and what its input is multiplied with.
pub struct LowRank<'a> {
    /// `[rank, in]`.
    pub a: &'a [f64],
    /// `[out, rank]`.
    pub b: &'a [f64],
    /// Rows of `a`.
    pub rank: usize,
    /// Factor on the term.
    pub scale: f64,
    /// Dropout: 0 or `1 / (1 - p)` an element of `x`.
    pub mask: Option<&'a [f64]>,
}

/// `x Wᵀ + bias + Σ scale (mask x) Aᵀ Bᵀ`; rows of `x` are `width` long.
pub fn linear(x: &[f64], width: usize, w: &[f64], bias: Option<&[f64]>, terms: &[LowRank]) -> Vec<f64> {
    let mut y = matmul_nt(x, w, width);
    let out = w.len() / width;
    if let Some(bias) = bias {
        y.iter_mut().enumerate().for_each(|(i, y)| *y += bias[i % out]);
    }
    for term in terms {
        let masked: Vec<f64> = match term.mask {
            Some(mask) => x.iter().zip(mask).map(|(x, m)| x * m).collect(),
            None => x.to_vec(),
        };
        let low = matmul_nt(&masked, term.a, width);
        let add = matmul_nt(&low, term.b, term.rank);
        y.iter_mut().zip(add).for_each(|(y, add)| *y += term.scale * add);
    }
    y
}

/// Natural logarithms of the softmax of one row of logits, capped as `cap * tanh(logit / cap)` first.
pub fn log_softmax(logits: &[f64], soft_cap: Option<f64>) -> Vec<f64> {
    let capped: Vec<f64> = logits.iter().map(|l| soft_cap.map_or(*l, |cap| cap * (l / cap).tanh())).collect();
    let highest = capped.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = highest + capped.iter().map(|l| (l - highest).exp()).sum::<f64>().ln();
    capped.iter().map(|l| l - log_sum).collect()
}

/// `-Σ weights[i] log p(targets[i] | hidden[rows[i]])`, before normalising; rows of `hidden` and `head` are `width` long.
pub fn cross_entropy(
    hidden: &[f64],
    head: &[f64],
    width: usize,
    rows: &[u32],
    targets: &[u32],
    weights: &[f64],
    soft_cap: Option<f64>,
) -> f64 {
    let one = |((row, target), weight): ((&u32, &u32), &f64)| {
        let at = *row as usize * width;
        let logits = matmul_nt(&hidden[at..at + width], head, width);
        -weight * log_softmax(&logits, soft_cap)[*target as usize]
    };
    rows.iter().zip(targets).zip(weights).map(one).sum()
}
