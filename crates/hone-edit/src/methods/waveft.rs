//! WaveFT (Bilican et al. 2025, "Exploring Sparsity for Parameter Efficient Fine Tuning Using Wavelets", arXiv 2505.12532):
//! `W + s · idwt2(S)`, `S` zero but for `n` trained wavelet coefficients at random places; with `use_idwt: false` the
//! coefficients are entries of the change themselves.
//!
//! The wavelet is Haar's (`db1`, PEFT's default; others are refused by name), one level: a coefficient is ± itself / 2 in
//! the four entries of one `2 × 2` block, so the change is sparse, and runs as a sparse product. `S` has the weight's axes,
//! each filled up to an even size; its quarters are the means, then (right) what changes from row to row, (below) from
//! column to column, and both. Places: the first `n` of `torch.randperm(out · in)` with seed `random_loc_seed`, the same as
//! PEFT's; they are not in the file. Start: 0, so the model is unchanged (`init_weights: false`: `N(0, 0.01²)`).
//! Parameters: `n` a map.

use std::sync::{Arc, OnceLock};

use hone_engine::{DType, Tape, Tensor, Var, ops};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::Base;
use crate::biases::Biases;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::method::{At, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase};
use crate::planning::{Q_AND_V, TargetFields, check_factor, coefficients_of, key, wrong};
use crate::torch_random::TorchRandom;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "waveft",
    peft_type: "WAVEFT",
    family: "orthogonal and spectral",
    summary: "a few wavelet coefficients of the change, at random places",
    paper: "arXiv 2505.12532",
    formula: "W + s idwt2(S)",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<WaveFtConfig>(),
};

/// Hugging Face's `WaveFTConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WaveFtConfig {
    /// Coefficients of a map.
    pub n_frequency: usize,
    /// Factor of the change.
    pub scaling: f64,
    /// `db1`.
    pub wavelet_family: String,
    /// Whether the coefficients are wavelets', or entries of the change.
    pub use_idwt: bool,
    /// Seed of the places.
    pub random_loc_seed: u64,
    /// Other numbers of coefficients by name or regular expression.
    pub n_frequency_pattern: Map<String, Value>,
    /// Whether the model is unchanged at the start.
    pub init_weights: bool,
    /// Which biases are trained: `none`, `all`, `waveft_only`.
    pub bias: String,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for WaveFtConfig {
    fn default() -> Self {
        WaveFtConfig {
            n_frequency: 2592,
            scaling: 25.0,
            wavelet_family: "db1".into(),
            use_idwt: true,
            random_loc_seed: 777,
            n_frequency_pattern: Map::new(),
            init_weights: true,
            bias: "none".into(),
            targets: TargetFields::default(),
        }
    }
}

const INERT: &[Inert] = &[
    config::TRANSPOSED,
    Inert { field: "proportional_parameters", off: &["false"], reason: "say the numbers in `n_frequency_pattern`" },
];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let fields = TargetFields::recommended(fields, origin, &[]);
    let waveft: WaveFtConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    waveft.targets.check(METHOD.name)?;
    waveft.biases()?;
    if waveft.use_idwt && waveft.wavelet_family != "db1" {
        let found = format!("`{}`", waveft.wavelet_family);
        return Err(wrong(METHOD.name, "wavelet_family", found, "`db1`: longer wavelets are not built"));
    }
    check_factor(METHOD.name, "scaling", waveft.scaling)?;
    Ok(Arc::new(waveft))
}

impl WaveFtConfig {
    fn biases(&self) -> Result<Biases, EditError> {
        Biases::parse(METHOD.name, &self.bias, "waveft_only")
    }
}

impl Method for WaveFtConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        self.targets.plan_with_biases(
            METHOD.name,
            base,
            Q_AND_V,
            (self.fields(), INERT),
            self.biases()?,
            |plan, weight| {
                let count = coefficients_of(METHOD.name, &self.n_frequency_pattern, weight, self.n_frequency)?;
                let init = if self.init_weights { Init::Zeros } else { Init::Normal { std: 0.01 } };
                let spectrum = ParamPlan::new(key(weight.module(), "waveft_spectrum"), &[count], init).full_precision();
                let (out, inputs) = (weight.shape[0], weight.shape[1]);
                let (seed, waves, scaling) = (self.random_loc_seed, self.use_idwt, self.scaling as f32);
                let part = Waves { out, inputs, count, seed, waves, scaling, entries: OnceLock::new() };
                plan.on_linear(weight, part, [spectrum]);
                Ok(())
            },
        )
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

struct Waves {
    out: usize,
    inputs: usize,
    count: usize,
    seed: u64,
    /// Whether the coefficients are wavelets'.
    waves: bool,
    scaling: f32,
    entries: OnceLock<Entries>,
}

/// Entries of the change: where they are, which coefficient they come from and times what.
struct Entries {
    rows: Arc<[u32]>,
    columns: Arc<[u32]>,
    coefficients: Vec<u32>,
    factors: Tensor,
}

impl Waves {
    fn entries(&self) -> &Entries {
        self.entries.get_or_init(|| {
            let (mut rows, mut columns, mut coefficients, mut factors) =
                (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            let order = TorchRandom::new(self.seed).permutation(self.out * self.inputs);
            // Halves of the axes, filled up to even sizes.
            let (down, across) = (self.out.div_ceil(2), self.inputs.div_ceil(2));
            for (coefficient, place) in order[..self.count].iter().enumerate() {
                let (row, column) = (*place as usize / self.inputs, *place as usize % self.inputs);
                let mut entry = |row: usize, column: usize, factor: f32| {
                    // Of the filling nothing is used.
                    if row < self.out && column < self.inputs {
                        rows.push(row as u32);
                        columns.push(column as u32);
                        coefficients.push(coefficient as u32);
                        factors.push(factor * self.scaling);
                    }
                };
                if !self.waves {
                    entry(row, column, 1.0);
                    continue;
                }
                for (a, b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    let along_rows = column >= across && a == 1;
                    let along_columns = row >= down && b == 1;
                    // `[½, ½]` for means, `[½, −½]` for details, in each direction.
                    let sign = if along_rows != along_columns { -0.5 } else { 0.5 };
                    entry(row % down * 2 + a, column % across * 2 + b, sign);
                }
            }
            let factors = Tensor::from_slice([factors.len()], &factors);
            Entries { rows: rows.into(), columns: columns.into(), coefficients, factors }
        })
    }

    /// The entries' values `[entries]`.
    fn values(&self, tape: &Tape, spectrum: &Var) -> Var {
        let entries = self.entries();
        let each = ops::gather_rows(tape, &ops::reshape(tape, spectrum, &[self.count, 1]), &entries.coefficients);
        let each = ops::reshape(tape, &each, &[entries.coefficients.len()]);
        ops::multiply(tape, &each, &Var::constant(entries.factors.clone()))
    }
}

impl Part for Waves {
    fn around_linear(&self, at: &At, _linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        let (tape, entries) = (&at.cx.tape, self.entries());
        let values = self.values(tape, &at.values[0]);
        let added = ops::sparse_product(tape, x, &values, &entries.rows, &entries.columns, self.out);
        ops::add_scaled(tape, &next(x), &added, at.strength)
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let values = self.values(&Tape::off(), &Var::constant(merge.values[0].to_dtype(DType::F32)));
        let entries = self.entries();
        let mut out = merge.weight.clone();
        let (to, scale) = (out.as_mut_slice::<f32>(), merge.direction.sign() * merge.strength);
        let places = entries.rows.iter().zip(entries.columns.iter()).zip(values.value.as_slice::<f32>());
        places.for_each(|((row, column), value)| to[*row as usize * self.inputs + *column as usize] += scale * value);
        Ok(out)
    }
}
