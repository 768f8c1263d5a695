//! What a training run shows on a terminal.

use std::io::IsTerminal;

use hone_train::estimate::Estimate;
use hone_train::events::Event;
use hone_train::invariants::Status;
use indicatif::ProgressBar;

use super::data::example_lines;
use crate::args::Common;
use crate::print::remark;
use crate::progress;

/// Characters shown of an example before a run; `hone data show` shows all.
const SHOWN: usize = 400;

/// The bar of a run and the lines above it.
pub struct TuneProgress {
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl TuneProgress {
    /// Nothing shown yet.
    pub fn new(common: &Common) -> TuneProgress {
        TuneProgress { bar: None, quiet: common.quiet || common.json }
    }

    /// Shows an event.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Note { message } => self.say(&format!("note: {message}")),
            Event::Warning { message } => self.say(&format!("warning: {message}")),
            Event::Checked(check) if check.status == Status::Warned => {
                self.say(&format!("warning: {}: found {}, expected {}", check.name, check.found, check.expected));
            }
            Event::Checked(_) | Event::Saved { .. } => {}
            Event::Examples { examples } => {
                let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
                for (i, example) in examples.iter().enumerate() {
                    self.say(&example_lines(i + 1, example, Some(SHOWN), color));
                }
            }
            Event::Estimate(estimate) => {
                self.say(&ahead(estimate));
                self.bar = Some(progress::bar(estimate.steps as u64, "training", self.quiet));
            }
            Event::Step(step) => {
                if let Some(bar) = &self.bar {
                    bar.set_position((bar.length().unwrap_or(0) + step.step as u64).saturating_sub(step.steps as u64));
                    bar.set_message(format!(
                        "loss {:.3}  {:.0} tokens/s  {} left",
                        step.loss,
                        step.tokens_per_second,
                        duration(step.seconds_left)
                    ));
                }
            }
            Event::Validation(validation) => {
                let best = if validation.best { " (best so far)" } else { "" };
                self.say(&format!("step {}: validation loss {:.4}{best}", validation.step, validation.validation_loss));
            }
            Event::StoppedEarly { step, best_step } => {
                self.say(&format!("stopped early at step {step}: nothing better since step {best_step}"));
            }
            Event::Interrupted { step } => self.say(&format!("saved at step {step}; continue with `--resume`")),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            _ if self.quiet => {}
            // Hidden bars swallow lines, so they are written past a bar that is not drawn.
            Some(bar) if !bar.is_hidden() => bar.println(line),
            _ => remark!("{line}"),
        }
    }
}

fn ahead(estimate: &Estimate) -> String {
    let share = 100.0 * estimate.trained_parameters as f64 / estimate.model_parameters.max(1) as f64;
    let room = estimate.available_memory.map_or_else(String::new, |bytes| {
        let short = if bytes < estimate.peak_memory { "; that may not be enough" } else { "" };
        format!(" ({} free{short})", gibibytes(bytes))
    });
    format!(
        "ahead: {} steps over {} examples ({:.2} epochs), {} tokens of which {} are trained, {} trained parameters ({share:.2} %), about {} and {} of memory, the model's own {} among them{room}",
        estimate.steps,
        estimate.examples,
        estimate.epochs,
        thousands(estimate.tokens),
        thousands(estimate.trained_tokens),
        thousands(estimate.trained_parameters as u64),
        duration(estimate.seconds),
        gibibytes(estimate.peak_memory),
        gibibytes(estimate.model_bytes),
    )
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// Seconds as a person says them.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..=99 => format!("{whole} s"),
        100..=5_999 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3_600, whole % 3_600 / 60),
    }
}

/// A whole number with commas.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_a_person_writes_them() {
        assert_eq!(thousands(4_884_480), "4,884,480");
        assert_eq!(thousands(999), "999");
        assert_eq!(duration(59.6), "60 s");
        assert_eq!(duration(130.0), "2 min 10 s");
        assert_eq!(duration(7_200.0), "2 h 0 min");
    }
}
