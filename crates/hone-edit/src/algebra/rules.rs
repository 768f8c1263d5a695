//! Rules for one tensor of several edits: `τᵢ`, all of one shape, with weights `λᵢ`.
//!
//! | rule | formula | source |
//! |---|---|---|
//! | sum | `Σ λᵢ τᵢ` | Ilharco et al. 2022, arXiv 2212.04089 |
//! | magnitude prune | `Σ λᵢ trim(τᵢ)` | – |
//! | TIES | `Σ λᵢ τ̂ᵢ / #`, over the edits whose `τ̂ᵢ = trim(τᵢ)` has the elected sign, `#` of them | Yadav et al. 2023, arXiv 2306.01708 |
//! | DARE | `Σ λᵢ drop(τᵢ)`, or TIES with `drop` for `trim` | Yu et al. 2023, arXiv 2311.03099 |
//!
//! `trim` keeps the `⌊density · n⌋` numbers of largest magnitude; `drop` keeps each with probability `density` and
//! divides what it keeps by `density`, so that its mean is `τ`. The sign of a place is that of `Σ τ̂ᵢ` (or of the
//! majority of signs), `λ` left out, `+` on a draw. These are the formulas of PEFT's `merge_utils`. Which of several
//! equal magnitudes at the threshold is kept, PEFT leaves open; here it is the first.

use hone_engine::{RandomKey, Tensor};

use super::{MajoritySign, Rule};

/// A rule with all it needs.
#[derive(Clone, Copy, Debug)]
pub struct Ruling {
    /// The rule.
    pub rule: Rule,
    /// Share of numbers kept, above 0 and at most 1.
    pub density: f64,
    /// How signs are elected.
    pub majority_sign: MajoritySign,
    /// Names the random numbers of drops.
    pub key: RandomKey,
}

impl Ruling {
    /// One tensor of all edits, with their weights; `place` names it for the random numbers. All have one shape.
    pub fn apply(&self, tensors: &[Tensor], weights: &[f32], place: &str) -> Tensor {
        let pruned: Vec<Tensor> = match self.rule {
            Rule::Sum => tensors.to_vec(),
            Rule::Ties | Rule::MagnitudePrune => tensors.iter().map(|t| trim(t, self.density)).collect(),
            Rule::DareSum | Rule::DareTies => {
                let key = self.key.named(place);
                let drop = |(i, t): (usize, &Tensor)| drop_at_random(t, self.density, key.index(i as u64));
                tensors.iter().enumerate().map(drop).collect()
            }
        };
        match self.rule {
            Rule::Sum | Rule::MagnitudePrune | Rule::DareSum => sum(&pruned, weights),
            Rule::Ties | Rule::DareTies => disjoint_merge(&pruned, weights, self.majority_sign),
        }
    }
}

/// `Σ λᵢ τᵢ`.
pub fn sum(tensors: &[Tensor], weights: &[f32]) -> Tensor {
    let mut out = Tensor::zeros(tensors[0].shape(), hone_engine::DType::F32);
    let total = out.as_mut_slice::<f32>();
    for (tensor, weight) in tensors.iter().zip(weights) {
        total.iter_mut().zip(tensor.as_slice::<f32>()).for_each(|(o, v)| *o += weight * v);
    }
    out
}

/// The `⌊density · n⌋` numbers of largest magnitude, zeros elsewhere.
pub fn trim(tensor: &Tensor, density: f64) -> Tensor {
    let values = tensor.as_slice::<f32>();
    let kept = (density * values.len() as f64) as usize;
    if kept >= values.len() {
        return tensor.clone();
    }
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    let larger = |a: &u32, b: &u32| {
        let (x, y) = (values[*a as usize].abs(), values[*b as usize].abs());
        y.total_cmp(&x).then(a.cmp(b))
    };
    if kept > 0 {
        order.select_nth_unstable_by(kept - 1, larger);
    }
    let mut out = Tensor::zeros(tensor.shape(), hone_engine::DType::F32);
    let to = out.as_mut_slice::<f32>();
    order[..kept].iter().for_each(|at| to[*at as usize] = values[*at as usize]);
    out
}

/// Each number kept with probability `density` and divided by it, zero otherwise.
pub fn drop_at_random(tensor: &Tensor, density: f64, key: RandomKey) -> Tensor {
    if density >= 1.0 {
        return tensor.clone();
    }
    let mut out = tensor.clone();
    for (at, value) in out.as_mut_slice::<f32>().iter_mut().enumerate() {
        let kept = f64::from(key.uniform(at as u64)) < density;
        *value = if kept { (f64::from(*value) / density) as f32 } else { 0.0 };
    }
    out
}

/// The weighted mean of the numbers that have the elected sign.
fn disjoint_merge(tensors: &[Tensor], weights: &[f32], majority: MajoritySign) -> Tensor {
    let mut out = Tensor::zeros(tensors[0].shape(), hone_engine::DType::F32);
    let slices: Vec<&[f32]> = tensors.iter().map(Tensor::as_slice::<f32>).collect();
    for (at, merged) in out.as_mut_slice::<f32>().iter_mut().enumerate() {
        let vote = |v: f32| match majority {
            MajoritySign::Total => v,
            MajoritySign::Frequency => sign(v),
        };
        let elected = if slices.iter().map(|s| vote(s[at])).sum::<f32>() >= 0.0 { 1.0 } else { -1.0 };
        let mut agreeing = 0u32;
        for (slice, weight) in slices.iter().zip(weights).filter(|(s, _)| sign(s[at]) == elected) {
            *merged += weight * slice[at];
            agreeing += 1;
        }
        *merged /= agreeing.max(1) as f32;
    }
    out
}

/// -1, 0 or 1 (`f32::signum` has no 0).
fn sign(v: f32) -> f32 {
    match v {
        v if v > 0.0 => 1.0,
        v if v < 0.0 => -1.0,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_slice([values.len()], values)
    }

    #[test]
    fn trimming_keeps_the_largest_and_of_equals_the_first() {
        let trimmed = trim(&tensor(&[1.0, -3.0, 2.0, -2.0, 0.5]), 0.4);
        assert_eq!(trimmed.as_slice::<f32>(), [0.0, -3.0, 2.0, 0.0, 0.0]);
        assert_eq!(trim(&tensor(&[1.0, 2.0]), 0.4).as_slice::<f32>(), [0.0, 0.0], "⌊0.8⌋ is none");
        assert_eq!(trim(&tensor(&[1.0, 2.0]), 1.0).as_slice::<f32>(), [1.0, 2.0]);
    }

    #[test]
    fn the_sign_is_elected_by_sum_or_by_heads_and_only_those_who_agree_are_merged() {
        let tensors = [tensor(&[5.0, 1.0, 0.0]), tensor(&[-1.0, 3.0, 0.0]), tensor(&[-1.0, 0.0, 0.0])];
        let weights = [1.0, 10.0, 100.0];
        let by_sum = disjoint_merge(&tensors, &weights, MajoritySign::Total);
        assert_eq!(by_sum.as_slice::<f32>(), [5.0, (1.0 + 30.0) / 2.0, 0.0]);
        let by_heads = disjoint_merge(&tensors, &weights, MajoritySign::Frequency);
        assert_eq!(by_heads.as_slice::<f32>(), [(-10.0 - 100.0) / 2.0, (1.0 + 30.0) / 2.0, 0.0]);
    }

    /// DARE's claim: the mean over drops is the tensor, and the share kept is the density.
    #[test]
    fn random_drops_have_the_right_mean_and_share() {
        let values = [1.0f32, -2.0, 0.25, 4.0];
        let (density, draws) = (0.3, 20_000u64);
        let mut means = [0f64; 4];
        let mut kept = 0u64;
        for i in 0..draws {
            let dropped = drop_at_random(&tensor(&values), density, RandomKey::new(7).index(i));
            for (mean, v) in means.iter_mut().zip(dropped.as_slice::<f32>()) {
                *mean += f64::from(*v) / draws as f64;
                kept += u64::from(*v != 0.0);
            }
        }
        for (mean, v) in means.iter().zip(values) {
            // Five standard errors of a mean whose terms have variance v² (1 - p) / p.
            let error = f64::from(v.abs()) * ((1.0 - density) / density / draws as f64).sqrt();
            assert!((mean - f64::from(v)).abs() < 5.0 * error, "{mean} for {v}");
        }
        let share = kept as f64 / (4 * draws) as f64;
        assert!((share - density).abs() < 5.0 * (0.21 / (4 * draws) as f64).sqrt(), "{share}");
        let again = |key| drop_at_random(&tensor(&values), density, key).to_vec_f32();
        assert_eq!(again(RandomKey::new(1)), again(RandomKey::new(1)), "the same seed drops the same");
    }
}
