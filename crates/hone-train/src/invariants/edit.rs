//! Checks of what was trained: its files hold it, it changes the model, it can be folded into the weights, and a checkpoint
//! is read back to the bit.

use std::path::Path;

use hone_edit::files::read_edit;
use hone_edit::merge::LogitDifference;
use hone_edit::{Base, EditStack};
use hone_engine::DType;

use super::{Check, Status};
use crate::optimizer::Optimizer;

/// The adapter in `dir` loads strictly and is `trained`, as its files are to hold it, to the bit.
pub fn adapter_loads(dir: &Path, base: &Base, trained: &EditStack) -> Check {
    let name = "adapter_loads";
    let expected = "the saved adapter loads strictly and holds what was trained, to the bit";
    let next = "check the disk; the last checkpoint still holds the run: continue it with `--resume`";
    let read = match read_edit(dir, base) {
        Ok(read) => EditStack::training(read),
        Err(error) => return Check::new(name, Status::Failed, error.to_string(), expected, next),
    };
    match first_difference(&read, &trained.as_saved()) {
        None => Check::new(name, Status::Held, format!("{} tensors equal", trained.params().count()), expected, ""),
        Some(key) => Check::new(name, Status::Failed, format!("`{key}` differs"), expected, next),
    }
}

/// The edit moves the logits.
pub fn changes_the_model(difference: &LogitDifference) -> Check {
    let found =
        format!("|Δlogit| max {:.4}, mean {:.4} over {} tokens", difference.max, difference.mean, difference.tokens);
    let expected = "the tuned model's logits differ from the base model's";
    let next = "the learning rate may be too small for the compute type, or the targets take no part";
    let status = if difference.max > 0.0 { Status::Held } else { Status::Failed };
    Check::new("adapter_changes_the_model", status, found, expected, next)
}

/// Folding the edit into the weights keeps the logits: every one of them in `f32`. In `bf16` the merged weights are rounded
/// once more, which moves each logit like noise; the largest of millions of such moves grows with their number, so it is
/// the mean that is held against two units in the last place of `bf16` (2⁻⁷). Going beyond that is a warning: the adapter
/// itself is right.
pub fn merge_difference(difference: &LogitDifference, dtype: DType) -> Check {
    let (measured, allowed, which) = match dtype {
        DType::F32 => (difference.max, 1e-3, "at most"),
        DType::BF16 => (difference.mean, 1.0 / 128.0, "in the mean at most"),
    };
    let relative = measured / difference.largest_logit.max(f64::MIN_POSITIVE);
    let found = format!(
        "|Δlogit| max {:.2e}, mean {:.2e} over {} tokens (largest logit {:.2})",
        difference.max, difference.mean, difference.tokens, difference.largest_logit
    );
    let expected = format!("merged and unmerged logits {which} {allowed:.0e} of the largest logit apart in {dtype}");
    let next = "merge in f32, or keep the adapter apart";
    let status = match relative <= allowed {
        true => Status::Held,
        false if dtype == DType::BF16 && relative.is_finite() => Status::Warned,
        false => Status::Failed,
    };
    Check::new("merge_difference", status, found, expected, next)
}

/// What was read back from a checkpoint is what was written.
pub fn state_round_trip(written: (&EditStack, &Optimizer), read: (&EditStack, &Optimizer)) -> Check {
    let name = "state_round_trip";
    let expected = "a checkpoint read back equals the state it was written from, to the bit";
    let next = "check the disk; without this a resumed run is not the run that was interrupted";
    if let Some(key) = first_difference(written.0, read.0) {
        return Check::new(name, Status::Failed, format!("`{key}` differs"), expected, next);
    }
    if written.1.memory != read.1.memory {
        return Check::new(name, Status::Failed, "the optimiser's memory differs", expected, next);
    }
    let found = format!("{} parameters and their optimiser states equal", written.0.trained_params().count());
    Check::new(name, Status::Held, found, expected, "")
}

/// The first parameter whose bits differ.
fn first_difference(a: &EditStack, b: &EditStack) -> Option<String> {
    let mut others = b.params();
    for (_, param) in a.params() {
        match others.next() {
            Some((_, other)) if other.key == param.key && other.value.as_bytes() == param.value.as_bytes() => {}
            _ => return Some(param.key.clone()),
        }
    }
    others.next().map(|(_, p)| p.key.clone())
}
