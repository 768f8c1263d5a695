//! Checks of the numbers: a step's loss and gradients depend neither on packing nor on how it is cut into batches.

use hone_data::{FlatBatch, StepBatch, TokenisedExample};
use hone_engine::{DType, Tensor};

use super::{Check, Status};

/// Examples the checks run on.
const EXAMPLES: usize = 4;
/// They are looked for among the first so many.
const LOOKED_AT: usize = 64;

/// Loss and gradients of one step.
pub struct StepResult {
    /// The loss that is told of a step (`−ln p`, or what [`crate::compatibility`] makes of it), summed over all trained tokens. What an
    /// objective adds to it is in the gradients alone.
    pub loss_sum: f64,
    /// The gradients of every trained parameter, in order.
    pub gradients: Vec<Tensor>,
}

/// Runs a step's micro-batches; the normaliser is the step's number of trained tokens.
pub type RunStep<'a> = &'a dyn Fn(&[FlatBatch], f32) -> StepResult;

/// The shortest few of the first examples, each with the other wordings of its row, which a step reads together: enough for the
/// checks, quick to run.
pub fn few(examples: &[TokenisedExample]) -> Vec<&[TokenisedExample]> {
    let looked_at = &examples[..examples.len().min(LOOKED_AT)];
    let mut first: Vec<&[TokenisedExample]> = looked_at.chunk_by(|a, b| b.is_another_wording_of(a)).collect();
    first.sort_by_key(|row| row.iter().map(|e| e.ids.len()).sum::<usize>());
    first.truncate(EXAMPLES);
    first
}

/// Both checks: the examples together as one packed row, and each as a micro-batch of its own, are the same step.
pub fn check(examples: &[&[TokenisedExample]], dtype: DType, run: RunStep) -> Vec<Check> {
    if examples.len() < 2 {
        let why = "one example only";
        return vec![Check::skipped("packed_loss", why, PACKED), Check::skipped("accumulation", why, ACCUMULATED)];
    }
    let layout =
        |rows: &[&[TokenisedExample]]| StepBatch { sequences: rows.iter().copied().flatten().collect() }.layout();
    let together = layout(examples);
    let apart: Vec<FlatBatch> = examples.chunks(1).map(layout).collect();
    let trained = together.rows.len() as f32;
    let together = run(&[together], trained);
    let apart = run(&apart, trained);
    vec![packed_loss(&together, &apart, dtype), accumulation(&together, &apart, dtype)]
}

const PACKED: &str = "documents that share a row have the loss they have alone";
const ACCUMULATED: &str = "a step cut into micro-batches has the loss and the gradients of the whole";

/// How far losses may be apart, relatively: the order of summation differs, the numbers do not.
fn loss_tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-5,
        DType::BF16 => 2e-2,
    }
}

/// How far gradients may be apart: `‖a − b‖ / ‖a‖` over all parameters.
fn gradient_tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-4,
        DType::BF16 => 5e-2,
    }
}

/// The packed row against the documents alone.
fn packed_loss(together: &StepResult, apart: &StepResult, dtype: DType) -> Check {
    let next = match together.loss_sum.is_finite() || apart.loss_sum.is_finite() {
        true => "this is a fault of the program: please report it; `data.packing: false` avoids it",
        false => {
            "the model has no loss even before it is trained: its weights are damaged or overflow; fetch it again, or try \
             `train.dtype: f32`"
        }
    };
    let difference = relative(together.loss_sum, apart.loss_sum);
    let found = format!("loss {:.6} packed, {:.6} alone: {difference:.1e} apart", together.loss_sum, apart.loss_sum);
    let expected = format!("{PACKED}, to {:.0e}", loss_tolerance(dtype));
    Check::new("packed_loss", status(difference <= loss_tolerance(dtype)), found, expected, next)
}

/// One batch of `k` against `k` of one.
fn accumulation(together: &StepResult, apart: &StepResult, dtype: DType) -> Check {
    let next = "this is a fault of the program: please report it; `train.gradient_accumulation: 1` avoids it";
    let loss = relative(together.loss_sum, apart.loss_sum);
    let gradients = gradient_difference(&together.gradients, &apart.gradients);
    let found = format!("losses {loss:.1e} and gradients {gradients:.1e} apart");
    let expected = format!("{ACCUMULATED}, to {:.0e} and {:.0e}", loss_tolerance(dtype), gradient_tolerance(dtype));
    let held = loss <= loss_tolerance(dtype) && gradients <= gradient_tolerance(dtype);
    Check::new("accumulation", status(held), found, expected, next)
}

fn status(held: bool) -> Status {
    if held { Status::Held } else { Status::Failed }
}

fn relative(a: f64, b: f64) -> f64 {
    (a - b).abs() / a.abs().max(b.abs()).max(f64::MIN_POSITIVE)
}

fn gradient_difference(a: &[Tensor], b: &[Tensor]) -> f64 {
    let (mut apart, mut size) = (0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        for (a, b) in a.as_slice::<f32>().iter().zip(b.as_slice::<f32>()) {
            apart += f64::from(a - b).powi(2);
            size += f64::from(*a).powi(2);
        }
    }
    if a.len() != b.len() { f64::INFINITY } else { (apart / size.max(f64::MIN_POSITIVE)).sqrt() }
}
