//! What a method does while it is trained, beside forward and backward: penalties, masks and projections of gradients,
//! schedules, budgets.
//!
//! A training loop calls, once an optimiser step and in this order:
//!
//! 1. [`TrainingRules::begin`]: which parameters rest, what changes before the pass;
//! 2. forward and backward of the objective (twice for [`TrainingRules::consistency`]), and of [`TrainingRules::penalty`];
//! 3. [`TrainingRules::gradients`]: before clipping;
//! 4. [`TrainingRules::update`], or else the optimiser's;
//! 5. [`TrainingRules::after`].
//!
//! What the rules remember between steps is written to checkpoints ([`TrainingRules::state`]), so that a resumed run is the
//! same to the bit. It knows nothing of optimisers and files.

use hone_engine::{Gradients, ParamId, RandomKey, Tape, Tensor, Var};

use crate::method::Edit;

/// Where in a run a step stands.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The step, from 0.
    pub step: usize,
    /// All steps of the run.
    pub steps: usize,
    /// Names this step's random numbers.
    pub key: RandomKey,
    /// Names the run's: the same in every step.
    pub run: RandomKey,
}

/// The gradients of an edit's parameters, by their place in [`Edit::params`].
pub struct EditGradients<'a> {
    gradients: &'a mut Gradients,
    ids: &'a [ParamId],
    divergence: Option<&'a Gradients>,
}

impl<'a> EditGradients<'a> {
    /// Those of the parameters numbered `ids`.
    pub fn new(gradients: &'a mut Gradients, ids: &'a [ParamId]) -> EditGradients<'a> {
        EditGradients { gradients, ids, divergence: None }
    }

    /// With the gradients of the divergence from the base model; see [`TrainingRules::wants_divergence`].
    pub fn with_divergence(self, divergence: Option<&'a Gradients>) -> EditGradients<'a> {
        EditGradients { divergence, ..self }
    }

    /// The gradient of the divergence.
    pub fn divergence(&self, index: usize) -> Option<&Tensor> {
        self.divergence.and_then(|gradients| gradients.param(self.ids[index]))
    }

    /// The gradient of parameter `index` (`f32`), if anything reached it.
    pub fn get(&self, index: usize) -> Option<&Tensor> {
        self.gradients.param(self.ids[index])
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut Tensor> {
        self.gradients.param_mut(self.ids[index])
    }

    /// Zeroes the gradient of parameter `index` at the elements that are not `chosen`. Every mask of gradients is put on here, before
    /// clipping: what is not chosen neither moves nor counts in the norm.
    pub fn confine(&mut self, index: usize, chosen: impl Fn(usize) -> bool) {
        let Some(gradient) = self.get_mut(index) else { return };
        let outside = gradient.as_mut_slice::<f32>().iter_mut().enumerate().filter(|(at, _)| !chosen(*at));
        outside.for_each(|(_, g)| *g = 0.0);
    }
}

/// See the [module](self).
pub trait TrainingRules: Send {
    /// Before a step's passes.
    fn begin(&mut self, edit: &mut Edit, moment: &Moment) {
        let _ = (edit, moment);
    }

    /// A term of the loss made of parameters alone, `[1]` in `f32`; `values` are the edit's parameters in `f32`, in order.
    fn penalty(&self, tape: &Tape, values: &[Var], moment: &Moment) -> Option<Var> {
        let _ = (tape, values, moment);
        None
    }

    /// Whether each step also needs the gradients of `KL(base model ‖ edited model)` over the predicted tokens, normalised like
    /// the loss ([`EditGradients::divergence`]): one more pass.
    fn wants_divergence(&self) -> bool {
        false
    }

    /// The weight of how far apart the predictions of two passes of a micro-batch may be, which differ in their noise (dropout,
    /// random routes): each step then runs both, and `weight · ½ (KL(p ‖ q) + KL(q ‖ p))` over the predicted tokens,
    /// normalised like the loss, joins the loss of the first.
    fn consistency(&self) -> Option<f32> {
        None
    }

    /// After backward, before clipping.
    fn gradients(&mut self, edit: &Edit, gradients: &mut EditGradients, moment: &Moment) {
        let _ = (edit, gradients, moment);
    }

    /// Whether the method is an optimiser of its own (GaLore): [`TrainingRules::update`] is called instead of the run's.
    fn updates(&self) -> bool {
        false
    }

    /// Writes the parameters from `scale` times the gradients (which clips them).
    fn update(
        &mut self,
        edit: &mut Edit,
        gradients: &EditGradients,
        (learning_rate, scale): (f64, f32),
        moment: &Moment,
    ) {
        let _ = (edit, gradients, learning_rate, scale, moment);
    }

    /// After the update; the gradients are those that were clipped for it.
    fn after(&mut self, edit: &mut Edit, gradients: &EditGradients, moment: &Moment) {
        let _ = (edit, gradients, moment);
    }

    /// What has to outlive the process, by name.
    fn state(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }

    /// Takes back what [`TrainingRules::state`] gave; `read` finds a tensor by name and shape, `None` where there is
    /// none of the name.
    fn restore(&mut self, edit: &Edit, read: &mut dyn FnMut(&str, &[usize]) -> Option<Tensor>) {
        let _ = (edit, read);
    }
}
