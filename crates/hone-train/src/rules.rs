//! The trained edit's own rules ([`hone_edit::TrainingRules`]) at their places in a step: what a method does while it is
//! trained beside forward and backward. Methods without rules cost nothing here.

use hone_edit::training::{EditGradients, Moment};
use hone_edit::{EditStack, TrainingRules};
use hone_engine::optim::clip_factor;
use hone_engine::{DType, Gradients, ParamId, Tape, Tensor, Var};

use hone_edit::Role;

use crate::optimizer::gradient_norm;

/// The rules of the stack's trained edit, if its method has any.
pub struct Rules {
    /// Its place on the stack.
    entry: usize,
    /// The numbers of its parameters.
    ids: Vec<ParamId>,
    rules: Option<Box<dyn TrainingRules>>,
}

impl Rules {
    /// Those of the first trained edit of `stack`.
    pub fn of(stack: &EditStack) -> Rules {
        let entry = stack.entries.iter().position(|e| e.trained).unwrap_or(0);
        let before: usize = stack.entries.iter().take(entry).map(|e| e.edit.params.len()).sum();
        let Some(trained) = stack.entries.get(entry) else { return Rules { entry, ids: Vec::new(), rules: None } };
        let ids = (before..before + trained.edit.params.len()).map(|id| ParamId(id as u32)).collect();
        Rules { entry, ids, rules: trained.edit.method.training(&trained.edit) }
    }

    /// Whether a step needs the gradients of the divergence from the base model.
    pub fn wants_divergence(&self) -> bool {
        self.rules.as_ref().is_some_and(|rules| rules.wants_divergence())
    }

    /// The weight of how far two passes of a batch are from each other, if there are two.
    pub fn consistency(&self) -> Option<f32> {
        self.rules.as_ref().and_then(|rules| rules.consistency())
    }

    /// Before the passes of a step.
    pub fn begin(&mut self, stack: &mut EditStack, moment: &Moment) {
        if let Some(rules) = &mut self.rules {
            rules.begin(&mut stack.entries[self.entry].edit, moment);
        }
    }

    /// After backward: adds the gradients of the penalty, then lets the rules change them.
    pub fn gradients(
        &mut self,
        stack: &EditStack,
        gradients: &mut Gradients,
        divergence: Option<&Gradients>,
        moment: &Moment,
    ) {
        let Some(rules) = &mut self.rules else { return };
        let edit = &stack.entries[self.entry].edit;
        let var = |(param, id): (&hone_edit::Param, &ParamId)| {
            let trained = param.traits.role == Role::Trained && !param.resting;
            if trained { Var::param(*id, param.value.clone()) } else { Var::constant(param.value.clone()) }
        };
        let values: Vec<Var> = edit.params.iter().zip(&self.ids).map(var).collect();
        let tape = Tape::recording();
        if let Some(penalty) = rules.penalty(&tape, &values, moment) {
            tape.backward(&penalty, Tensor::full(penalty.value.dims(), DType::F32, 1.0), gradients);
        }
        drop(values);
        let mut gradients = EditGradients::new(gradients, &self.ids).with_divergence(divergence);
        rules.gradients(edit, &mut gradients, moment);
    }

    /// The update, where the method makes its own: clips, updates, and returns the norm before clipping. A norm that is not
    /// finite updates nothing.
    pub fn update(
        &mut self,
        stack: &mut EditStack,
        gradients: &mut Gradients,
        (learning_rate, max_norm): (f64, f64),
        moment: &Moment,
    ) -> Option<f64> {
        let rules = self.rules.as_mut().filter(|rules| rules.updates())?;
        let norm = gradient_norm(stack, gradients);
        if norm.is_finite() {
            let scale = if max_norm > 0.0 { clip_factor(norm, max_norm) } else { 1.0 };
            let edit = &mut stack.entries[self.entry].edit;
            rules.update(edit, &EditGradients::new(gradients, &self.ids), (learning_rate, scale), moment);
        }
        Some(norm)
    }

    /// After the update.
    pub fn after(&mut self, stack: &mut EditStack, gradients: &mut Gradients, moment: &Moment) {
        if let Some(rules) = &mut self.rules {
            rules.after(&mut stack.entries[self.entry].edit, &EditGradients::new(gradients, &self.ids), moment);
        }
    }

    /// What has to outlive the process.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.rules.as_ref().map_or_else(Vec::new, |rules| rules.state())
    }

    /// Takes it back.
    pub fn restore(&mut self, stack: &EditStack, read: &mut dyn FnMut(&str, &[usize]) -> Option<Tensor>) {
        if let Some(rules) = &mut self.rules {
            rules.restore(&stack.entries[self.entry].edit, read);
        }
    }
}
