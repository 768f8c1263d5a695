//! Stochastic gradient descent with momentum, the update of `torch.optim.SGD`: `g ← g + decay·p`,
//! `b ← momentum·b + (1 − dampening) g` (the first time `b ← g`), `g ← g + momentum·b` with Nesterov's momentum and
//! `g ← b` without, `p ← p − lr·g`.

use crate::parallel::{Rows, for_blocks};

/// Hyperparameters. [`Default`] is plain descent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sgd {
    /// Decay of the velocity; 0 keeps none.
    pub momentum: f64,
    /// Share of the gradient kept out of the velocity.
    pub dampening: f64,
    /// Added to the gradient, times the parameter.
    pub weight_decay: f64,
    /// Nesterov's momentum.
    pub nesterov: bool,
}

/// What momentum remembers of a parameter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SgdState {
    /// The velocity, one an element; empty before the first update, and for good without momentum.
    pub velocity: Vec<f32>,
    /// Updates so far.
    pub step: u64,
}

impl Sgd {
    /// One update of `param` from `gradient_scale * gradient`. Panics on lengths that differ.
    pub fn update(
        &self,
        learning_rate: f64,
        gradient_scale: f32,
        param: &mut [f32],
        gradient: &[f32],
        state: &mut SgdState,
    ) {
        let n = param.len();
        assert_eq!(gradient.len(), n, "SGD over slices of other lengths");
        state.step += 1;
        let (rate, decay, momentum) = (-learning_rate as f32, self.weight_decay as f32, self.momentum as f32);
        if self.momentum == 0.0 {
            return for_blocks(
                n,
                1,
                Rows::new(param, 1),
                #[inline(always)]
                |range, param: Rows<f32>| {
                    for (p, g) in param.data.iter_mut().zip(&gradient[range]) {
                        *p = p.mul_add(decay, g * gradient_scale).mul_add(rate, *p);
                    }
                },
            );
        }
        // The first velocity is the gradient itself, undampened.
        let (old, new) = if state.velocity.is_empty() { (0.0, 1.0) } else { (momentum, (1.0 - self.dampening) as f32) };
        state.velocity.resize(n, 0.0);
        // Without Nesterov the step is the velocity alone.
        let (of_gradient, of_velocity) = if self.nesterov { (1.0, momentum) } else { (0.0, 1.0) };
        for_blocks(
            n,
            1,
            (Rows::new(param, 1), Rows::new(&mut state.velocity, 1)),
            #[inline(always)]
            |range, (param, velocity): (Rows<f32>, Rows<f32>)| {
                for ((p, b), g) in param.data.iter_mut().zip(velocity.data).zip(&gradient[range]) {
                    let g = p.mul_add(decay, g * gradient_scale);
                    *b = g.mul_add(new, *b * old);
                    *p = (g * of_gradient + *b * of_velocity).mul_add(rate, *p);
                }
            },
        );
    }
}
