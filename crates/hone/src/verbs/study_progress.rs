//! A study's progress: a bar over its steps with the time left, and a line for every step that is done.

use hone_study::Plan;
use hone_study::runner::Event;
use indicatif::ProgressBar;

use super::tune_progress::duration;
use crate::args::Common;
use crate::print::remark;
use crate::progress;

/// Shows the runner's events.
pub struct StudyProgress {
    bar: ProgressBar,
    steps: usize,
    quiet: bool,
    step: String,
}

impl StudyProgress {
    /// Nothing is shown with `--quiet` or `--json`.
    pub fn new(plan: &Plan, common: &Common) -> StudyProgress {
        let quiet = common.quiet || common.json;
        let bar = progress::steps(plan.steps.len() as u64, &plan.name, quiet);
        StudyProgress { bar, steps: plan.steps.len(), quiet, step: String::new() }
    }

    /// Shows one.
    pub fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Waiting => self.bar.set_message("waiting for a step that another process is running here"),
            Event::Begun { step, done } => {
                self.bar.set_position(done as u64);
                self.step.clone_from(&step.name);
                self.bar.set_message(self.step.clone());
            }
            Event::Working { left } => self.bar.set_message(format!("{}, about {} left", self.step, duration(left))),
            Event::Done { step, done, seconds, left } => {
                self.bar.set_position(done as u64);
                if let Some(seconds) = seconds.filter(|_| !self.quiet) {
                    let (took, left) = (duration(seconds), duration(left));
                    let line = format!("[{done}/{}] {}: {took}, about {left} left", self.steps, step.name);
                    self.bar.suspend(|| remark!("{line}"));
                }
            }
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
