//! The mask of the largest empirical Fisher information: what FishMask and Child-Tuning D have in common.
//!
//! `F_i = Σ over the first samples' steps of g_i²`; the mask is the share with the largest `F_i`, of all parameters together. Nothing is
//! updated while it is being found; afterwards gradients are zeroed outside it, before clipping.

use hone_engine::{DType, Tensor};

use super::change::{share_of, threshold_of_largest};
use crate::error::EditError;
use crate::method::Edit;
use crate::planning::wrong;
use crate::training::{EditGradients, Moment, TrainingRules};

/// Whether a share and a number of samples can be meant.
pub(super) fn check_share(method: &'static str, share: f64, samples: usize) -> Result<(), EditError> {
    if !(share > 0.0 && share <= 1.0) {
        return Err(wrong(method, "share", share.to_string(), "a share above 0, up to 1"));
    }
    match samples {
        0 => Err(wrong(method, "samples", "0", "1 or more")),
        _ => Ok(()),
    }
}

/// First the sum of squared gradients, then the mask of its largest values.
pub(super) struct FisherMask {
    share: f64,
    samples: usize,
    /// Squared gradients by parameter, until the mask is made; then the mask (0 and 1).
    held: Vec<Option<Tensor>>,
}

impl FisherMask {
    pub(super) fn new(share: f64, samples: usize) -> FisherMask {
        FisherMask { share, samples, held: Vec::new() }
    }

    fn gather(&mut self, edit: &Edit, gradients: &mut EditGradients) {
        self.held.resize_with(edit.params.len(), || None);
        for (at, held) in self.held.iter_mut().enumerate() {
            let Some(gradient) = gradients.get_mut(at) else { continue };
            let sums = held.get_or_insert_with(|| Tensor::zeros(gradient.shape(), DType::F32));
            let pairs = sums.as_mut_slice::<f32>().iter_mut().zip(gradient.as_mut_slice::<f32>());
            // Nothing moves while the mask is being found.
            pairs.for_each(|(sum, g)| *sum += std::mem::take(g).powi(2));
        }
    }

    fn choose(&mut self) {
        let sums = || self.held.iter().flatten().map(|sum| sum.as_slice::<f32>());
        let total = sums().map(<[f32]>::len).sum();
        let threshold = threshold_of_largest(sums(), share_of(total, self.share));
        for sum in self.held.iter_mut().flatten() {
            sum.as_mut_slice::<f32>().iter_mut().for_each(|v| *v = f32::from(*v > threshold));
        }
    }
}

impl TrainingRules for FisherMask {
    fn gradients(&mut self, edit: &Edit, gradients: &mut EditGradients, moment: &Moment) {
        // A run shorter than the sampling still trains in its second half.
        let samples = self.samples.min(moment.steps / 2).max(1);
        if moment.step < samples {
            self.gather(edit, gradients);
            if moment.step + 1 == samples {
                self.choose();
            }
            return;
        }
        for (at, mask) in self.held.iter().enumerate() {
            if let Some(mask) = mask.as_ref().map(Tensor::as_slice::<f32>) {
                gradients.confine(at, |element| mask[element] != 0.0);
            }
        }
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let named = |(at, held): (usize, &Option<Tensor>)| held.clone().map(|held| (format!("fisher.{at}"), held));
        self.held.iter().enumerate().filter_map(named).collect()
    }

    fn restore(&mut self, edit: &Edit, read: &mut dyn FnMut(&str, &[usize]) -> Option<Tensor>) {
        let of = |(at, param): (usize, &crate::method::Param)| read(&format!("fisher.{at}"), param.value.dims());
        self.held = edit.params.iter().enumerate().map(of).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fisher_mask_is_the_share_with_the_largest_sums() {
        let mut mask = FisherMask::new(0.5, 1);
        mask.held = vec![Some(Tensor::from_slice([3], &[0.1f32, 9.0, 0.2])), Some(Tensor::from_slice([1], &[4.0f32]))];
        mask.choose();
        let chosen: Vec<Vec<f32>> = mask.held.iter().flatten().map(Tensor::to_vec_f32).collect();
        assert_eq!(chosen, [vec![0.0, 1.0, 0.0], vec![1.0]]);
    }
}
