//! The learning rate of a step: a linear warm-up, then constant, a straight line to 0, or half a cosine to 0
//! (arXiv 1608.03983).

use crate::recipe::{Schedule, TrainConfig};

/// The learning rate over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    /// The highest.
    pub highest: f64,
    /// What it does after the warm-up.
    pub schedule: Schedule,
    /// Steps of warm-up.
    pub warmup: usize,
    /// Steps in all.
    pub total: usize,
}

impl LearningRate {
    /// As a recipe has it, for a run of `total` steps.
    pub fn new(train: &TrainConfig, total: usize) -> LearningRate {
        let highest = train.learning_rate.unwrap_or_default();
        LearningRate { highest, schedule: train.schedule, warmup: train.warmup(total).min(total), total }
    }

    /// The rate of step `step`, counted from 0. The first step of a warm-up already moves: `1 / warmup` of the highest.
    pub fn at(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.highest * (step + 1) as f64 / self.warmup as f64;
        }
        let left = (self.total - self.warmup).max(1);
        let done = ((step - self.warmup) as f64 / left as f64).min(1.0);
        self.highest
            * match self.schedule {
                Schedule::Constant => 1.0,
                Schedule::Linear => 1.0 - done,
                Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: Schedule, warmup: usize, total: usize) -> Vec<f64> {
        let rate = LearningRate { highest: 1.0, schedule, warmup, total };
        (0..total).map(|step| rate.at(step)).collect()
    }

    #[test]
    fn rates_rise_stay_and_fall() {
        assert_eq!(rates(Schedule::Constant, 4, 6), [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
        assert_eq!(rates(Schedule::Linear, 0, 4), [1.0, 0.75, 0.5, 0.25]);
        let cosine = rates(Schedule::Cosine, 1, 5);
        let expected = [1.0, 1.0, 0.5 + 0.125f64.sqrt(), 0.5, 0.5 - 0.125f64.sqrt()];
        cosine.iter().zip(expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-12, "{cosine:?}"));
    }

    #[test]
    fn a_warm_up_as_long_as_the_run_and_steps_beyond_the_end_are_harmless() {
        assert_eq!(rates(Schedule::Cosine, 3, 3), [1.0 / 3.0, 2.0 / 3.0, 1.0]);
        let rate = LearningRate { highest: 1.0, schedule: Schedule::Linear, warmup: 0, total: 2 };
        assert_eq!(rate.at(9), 0.0);
    }
}
