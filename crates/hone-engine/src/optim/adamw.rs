//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), the update of `torch.optim.AdamW`:
//! `p ← p (1 − lr·decay)`, `m ← β₁ m + (1 − β₁) g`, `v ← β₂ v + (1 − β₂) g²`,
//! `p ← p − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)`.

use crate::parallel::{Rows, for_blocks};

/// Hyperparameters. [`Default`] gives PyTorch's, with no decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// What AdamW remembers of a parameter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdamState {
    /// Mean of gradients, one an element.
    pub m: Vec<f32>,
    /// Mean of squared gradients.
    pub v: Vec<f32>,
    /// Updates so far.
    pub step: u64,
}

impl AdamState {
    /// The state of a parameter of `elements` elements before its first update.
    pub fn new(elements: usize) -> AdamState {
        AdamState { m: vec![0.0; elements], v: vec![0.0; elements], step: 0 }
    }
}

impl AdamW {
    /// One update of `param` from `gradient_scale * gradient`. Panics on lengths that differ.
    pub fn update(
        &self,
        learning_rate: f64,
        gradient_scale: f32,
        param: &mut [f32],
        gradient: &[f32],
        state: &mut AdamState,
    ) {
        let n = param.len();
        assert!(gradient.len() == n && state.m.len() == n && state.v.len() == n, "AdamW over slices of other lengths");
        state.step += 1;
        let factors = self.factors(learning_rate, state.step);
        for_blocks(
            n,
            1,
            ((Rows::new(param, 1), Rows::new(&mut state.m, 1)), Rows::new(&mut state.v, 1)),
            #[inline(always)]
            |range, ((param, m), v): ((Rows<f32>, Rows<f32>), Rows<f32>)| {
                let state = m.data.iter_mut().zip(v.data);
                for ((p, (m, v)), g) in param.data.iter_mut().zip(state).zip(&gradient[range]) {
                    factors.step(p, m, v, g * gradient_scale);
                }
            },
        );
    }

    /// What update number `step` multiplies with.
    pub(super) fn factors(&self, learning_rate: f64, step: u64) -> Factors {
        let correction1 = 1.0 - self.beta1.powf(step as f64);
        let correction2 = 1.0 - self.beta2.powf(step as f64);
        Factors {
            keep: (1.0 - learning_rate * self.weight_decay) as f32,
            new1: (1.0 - self.beta1) as f32,
            old2: self.beta2 as f32,
            new2: (1.0 - self.beta2) as f32,
            root: (1.0 / correction2.sqrt()) as f32,
            eps: self.eps as f32,
            step_size: -(learning_rate / correction1) as f32,
        }
    }
}

/// The numbers of one update, corrected for the moments' start at zero.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    keep: f32,
    new1: f32,
    old2: f32,
    new2: f32,
    root: f32,
    eps: f32,
    step_size: f32,
}

impl Factors {
    /// A parameter and its moments after gradient `g`.
    #[inline(always)]
    pub(super) fn step(&self, p: &mut f32, m: &mut f32, v: &mut f32, g: f32) {
        *m = (g - *m).mul_add(self.new1, *m);
        *v = (g * self.new2).mul_add(g, *v * self.old2);
        *p = (*m / v.sqrt().mul_add(self.root, self.eps)).mul_add(self.step_size, *p * self.keep);
    }
}
