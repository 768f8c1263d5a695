//! Conformer adapters: a bottleneck with a gate and a convolution along the sequence (Cappellazzo et al. 2024, arXiv 2312.03694).
//!
//! `Δ(u) = P₂ silu(BN(C(glu(P₁ LN(u)))))`: layer norm, a map to `2 b`, a gated linear unit to `b`, a depth-wise convolution with
//! `kernel_size` taps along each sequence, batch normalisation, a map back. All maps have biases.
//!
//! **Causal.** The paper's encoder pads on both sides; a decoder must not see tokens to come, so here the convolution looks back only:
//! a token and the `kernel_size − 1` before it, zeros before the first. Written with a cache, the same rows come from what was kept
//! of earlier tokens, so a text continues as without one. Virtual tokens count as earlier ones.
//!
//! **Batch normalisation** uses the batch's statistics in training, so a step's loss depends on what else is in its batch, and running
//! ones elsewhere (momentum 0.1, PyTorch's unbiased variance). They belong to the adapter: fixed parameters in its file.
//!
//! `faithful: true` does as the released code does: the layer norm is computed and thrown away (its parameters are in the file and
//! never move). `false`, the default, applies it. The code's other quirk that concerns adapters, bottlenecks that start at all
//! zeros, is in `bottleneck.rs` left out on purpose. First values are PyTorch's defaults: *not* the identity.
//!
//! Shapes: `norm.{weight,bias}` `[hidden]`; `in.weight` `[2 b, hidden]`, `in.bias` `[2 b]`; `conv.weight` `[b, k]`, `conv.bias` `[b]`;
//! `batch_norm.{weight,bias,running_mean,running_var}` `[b]`, `batch_norm.num_batches_tracked` `[1]`; `out.weight` `[hidden, b]`,
//! `out.bias` `[hidden]`. Parameters: `2 hidden + 2 b (hidden + 1) + b (k + 1) + 2 b + hidden (b + 1)` a sub-layer, the first
//! `2 hidden` fixed where `faithful`. The paper: `reduction_factor` 96, `kernel_size` 31, parallel at the MLP, 5e-3.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use hone_engine::ops::{self, Activation, BatchStatistics, Padding};
use hone_engine::{Tensor, Var};
use hone_model::TokenBatch;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{AdapterFields, NO_WEIGHT, Network, affine, affine_params, torch_default};
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::method::{At, Edit, Init, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase, Stored};
use crate::planning::wrong;
use crate::training::{EditGradients, Moment, TrainingRules};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "conformer_adapter",
    peft_type: "HONE_CONFORMER_ADAPTER",
    family: "adapter",
    summary: "bottlenecks with a convolution along the sequence",
    paper: "arXiv 2312.03694",
    formula: "o + P₂ silu(BN(conv(glu(P₁ LN(u)))))",
    mergeable: Mergeable::No(NO_WEIGHT),
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<ConformerConfig>(),
};

/// PyTorch's, of both norms.
const EPSILON: f32 = 1e-5;
/// How fast running statistics follow.
const MOMENTUM: f32 = 0.1;

/// The fields of a conformer adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ConformerConfig {
    /// Taps of the convolution.
    pub kernel_size: usize,
    /// Throw the layer norm's result away, as the released code does.
    pub faithful: bool,
    /// Where and how wide.
    #[serde(flatten)]
    pub fields: AdapterFields,
}

impl Default for ConformerConfig {
    fn default() -> Self {
        ConformerConfig { kernel_size: 31, faithful: false, fields: AdapterFields::default() }
    }
}

/// The method, and what its parts saw in the current step.
struct Conformer {
    config: ConformerConfig,
    seen: Arc<Seen>,
}

/// Statistics of the batches of a step, with the number of the running mean they belong to, in the order they came.
#[derive(Default)]
struct Seen(Mutex<Vec<(usize, BatchStatistics)>>);

impl Seen {
    fn push(&self, mean: usize, statistics: BatchStatistics) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((mean, statistics));
    }

    fn take(&self) -> Vec<(usize, BatchStatistics)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let defaults = json!({ "placement": "mlp", "insertion": "parallel", "reduction_factor": 96, "scaling": 1 });
    let fields = super::with_defaults(fields, defaults);
    let config: ConformerConfig = config::read(METHOD.name, &fields, &[], origin, warnings)?;
    config.fields.check(METHOD.name)?;
    if config.kernel_size == 0 {
        return Err(wrong(METHOD.name, "kernel_size", "0", "1 tap or more"));
    }
    Ok(Arc::new(Conformer { config, seen: Arc::default() }))
}

impl Method for Conformer {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let config = &self.config;
        let (hidden, b, k) = (base.geometry.hidden, config.fields.width(&base.geometry), config.kernel_size);
        let mut plan = config.fields.begin(config);
        for slot in config.fields.slots(METHOD.name, base)? {
            let key = |tensor: &str| slot.key(METHOD.name, tensor);
            let vector =
                |tensor: &str, width: usize, value: f32| ParamPlan::new(key(tensor), &[width], Init::Constant(value));
            let default = |fan_in| [torch_default(fan_in), torch_default(fan_in)];
            let norm = [vector("norm.weight", hidden, 1.0), vector("norm.bias", hidden, 0.0)];
            let norm = norm.map(|param| if config.faithful { param.fixed() } else { param });
            let batch_norm = [
                vector("batch_norm.weight", b, 1.0),
                vector("batch_norm.bias", b, 0.0),
                vector("batch_norm.running_mean", b, 0.0).fixed().full_precision(),
                vector("batch_norm.running_var", b, 1.0).fixed().full_precision(),
                vector("batch_norm.num_batches_tracked", 1, 0.0).fixed().stored(Stored::I32),
            ];
            let params = norm
                .into_iter()
                .chain(affine_params(slot, METHOD.name, "in", [2 * b, hidden], default(hidden)))
                .chain(affine_params(slot, METHOD.name, "conv", [b, k], default(k)))
                .chain(batch_norm)
                .chain(affine_params(slot, METHOD.name, "out", [hidden, b], default(b)));
            let params = plan.add(params);
            let network = Convolutional {
                width: b,
                taps: k,
                normed: !config.faithful,
                running_mean: params[RUNNING_MEAN],
                seen: self.seen.clone(),
            };
            config.fields.place(&mut plan, slot, network, params);
        }
        config.fields.finish(&mut plan, base)?;
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(&self.config)
    }

    fn training(&self, _edit: &Edit) -> Option<Box<dyn TrainingRules>> {
        Some(Box::new(RunningStatistics { seen: self.seen.clone() }))
    }
}

/// The running mean among a part's values; the variance and the count follow it.
const RUNNING_MEAN: usize = 8;

/// The network; values in the order of the plan.
struct Convolutional {
    width: usize,
    taps: usize,
    normed: bool,
    /// The running mean's number among the edit's parameters.
    running_mean: usize,
    seen: Arc<Seen>,
}

impl Network for Convolutional {
    fn apply(&self, at: &At, u: &Var) -> Var {
        let tape = &at.cx.tape;
        let values = at.values;
        let normed = match self.normed {
            true => ops::layer_norm(tape, u, &values[0], Some(&values[1]), EPSILON),
            false => u.clone(),
        };
        let both = affine(at, &normed, &values[2], &values[3]);
        let gate = ops::columns(tape, &both, self.width..2 * self.width);
        let gate = ops::activation(tape, &gate, Activation::Sigmoid);
        let gated = ops::multiply(tape, &ops::columns(tape, &both, 0..self.width), &gate);
        let mixed = self.convolved(at, &gated, &values[4], &values[5]);
        let (mean, variance) = (&values[RUNNING_MEAN].value, &values[RUNNING_MEAN + 1].value);
        let (standard, statistics) =
            ops::batch_norm(tape, &mixed, &values[6], &values[7], mean, variance, at.cx.training, EPSILON);
        // A block that is recomputed runs twice; the run that is recorded counts.
        if let Some(statistics) = statistics
            && tape.is_recording()
        {
            self.seen.push(self.running_mean, statistics);
        }
        let inner = ops::activation(tape, &standard, Activation::Silu);
        affine(at, &inner, &values[11], &values[12])
    }
}

impl Convolutional {
    fn convolved(&self, at: &At, x: &Var, weight: &Var, bias: &Var) -> Var {
        let tape = &at.cx.tape;
        let before = self.taps - 1;
        let convolve = |x: &Var, sequences: &[Range<usize>]| {
            ops::depthwise_convolution(tape, x, weight, bias, sequences, Padding::Causal)
        };
        if let Some(step) = &at.cx.cache {
            let mut step = step.lock().unwrap_or_else(PoisonError::into_inner);
            let (rows, windows) = step.with_earlier_rows(at.name, &x.value, before);
            let sequences: Vec<Range<usize>> = windows.iter().map(|window| window.rows.clone()).collect();
            let mixed = convolve(&Var::constant(rows), &sequences);
            let mut own = vec![0u32; x.value.rows_cols().0];
            for window in &windows {
                let new = window.rows.end - window.new.len()..window.rows.end;
                window.new.clone().zip(new).for_each(|(row, at)| own[row] = at as u32);
            }
            return ops::gather_rows(tape, &mixed, &own);
        }
        let windows = Windows::of(&at.cx.batch, before);
        match windows.direct {
            true => convolve(x, &windows.sequences),
            false => {
                let mixed = convolve(&ops::gather_rows(tape, x, &windows.rows), &windows.sequences);
                ops::gather_rows(tape, &mixed, &windows.own)
            }
        }
    }
}

/// Which rows the convolution runs over: each segment behind the rows before it, which may be another segment's.
struct Windows {
    /// Rows of the batch, window after window.
    rows: Vec<u32>,
    sequences: Vec<Range<usize>>,
    /// Where each row of the batch stands in them as its own.
    own: Vec<u32>,
    /// Whether they are the batch as it is.
    direct: bool,
}

impl Windows {
    fn of(batch: &TokenBatch, before: usize) -> Windows {
        let (mut rows, mut sequences, mut own) = (Vec::new(), Vec::new(), vec![0; batch.len()]);
        for segment in &batch.segments {
            let start = rows.len();
            let mut earlier = Vec::with_capacity(before);
            let mut parent = segment.parent;
            while let Some(index) = parent.filter(|_| earlier.len() < before) {
                let segment = &batch.segments[index];
                let last = (segment.start..segment.start + segment.len).rev().take(before - earlier.len());
                earlier.extend(last.map(|row| row as u32));
                parent = segment.parent;
            }
            rows.extend(earlier.into_iter().rev());
            for row in segment.start..segment.start + segment.len {
                own[row] = rows.len() as u32;
                rows.push(row as u32);
            }
            sequences.push(start..rows.len());
        }
        let direct = rows.iter().enumerate().all(|(at, row)| at == *row as usize);
        Windows { rows, sequences, own, direct }
    }
}

/// Moves the running statistics after every step, a batch after the other.
struct RunningStatistics {
    seen: Arc<Seen>,
}

impl TrainingRules for RunningStatistics {
    fn begin(&mut self, _edit: &mut Edit, _moment: &Moment) {
        self.seen.take();
    }

    fn after(&mut self, edit: &mut Edit, _gradients: &EditGradients, _moment: &Moment) {
        for (mean, batch) in self.seen.take() {
            follow(&mut edit.params[mean].value, &batch.mean);
            // One row has no variance.
            if batch.rows > 1 {
                follow(&mut edit.params[mean + 1].value, &batch.unbiased_variance());
            }
            edit.params[mean + 2].value.as_mut_slice::<f32>()[0] += 1.0;
        }
    }
}

fn follow(running: &mut Tensor, batch: &Tensor) {
    let values = running.as_mut_slice::<f32>().iter_mut().zip(batch.as_slice::<f32>());
    values.for_each(|(running, batch)| *running += MOMENTUM * (batch - *running));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_sees_the_rows_before_it_and_no_others() {
        let mut batch = TokenBatch::from_sequences(&[vec![1u32, 2, 3]]);
        let parent = batch.push(&[4, 5], None);
        let child = batch.push(&[6], Some(parent));
        batch.push(&[7, 8], Some(child));
        let windows = Windows::of(&batch, 2);
        assert_eq!(windows.rows, [0, 1, 2, 3, 4, 3, 4, 5, 4, 5, 6, 7]);
        assert_eq!(windows.sequences, [0..3, 3..5, 5..8, 8..12]);
        assert_eq!(windows.own, [0, 1, 2, 3, 4, 7, 10, 11]);
        assert!(!windows.direct);
        assert!(Windows::of(&TokenBatch::from_sequences(&[vec![1u32, 2], vec![3]]), 2).direct);
    }
}
