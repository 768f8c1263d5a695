//! FourierFT: the change of a weight is the real part of an inverse Fourier transform of few trained coefficients (Gao et al.
//! 2024, arXiv 2405.03003).
//!
//! `W' = W + α Re(ifft2(F))`, `F` `[out, in]` zero but for `n` coefficients `c_k` at places `(r_k, q_k)`, with NumPy's and PyTorch's
//! factor `1 / (out in)`: `ΔW[a, b] = α / (out in) Σ_k c_k cos(2π (a r_k / out + b q_k / in))`.
//!
//! The places are the first `n` of PyTorch's `randperm(out in)` with seed `random_loc_seed`, row-major; they are drawn again on
//! reading, not stored. Shapes: `fourierft_spectrum` `[n]`. Parameters: `n` a map. First value: `N(0, 1)`, which is *not* the
//! identity, or zeros with `init_weights`. It wants a larger learning rate than low-rank methods (the paper: about 1e-1 to 1e-2).

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use hone_engine::ops::{self, Frequencies};
use hone_engine::{Tape, Tensor, Var};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::Base;
use crate::biases::Biases;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::{Delta, DeltaPart};
use crate::method::{Init, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase};
use crate::planning::{Q_AND_V, TargetFields, check_factor, coefficients_of, key};
use crate::torch_random::TorchRandom;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "fourierft",
    peft_type: "FOURIERFT",
    family: "spectral",
    summary: "trains few Fourier coefficients of each weight's change",
    paper: "arXiv 2405.03003",
    formula: "W + α Re(ifft2(F)), F sparse",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<FourierFtConfig>(),
};

/// Hugging Face's `FourierFTConfig`, the honoured fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FourierFtConfig {
    /// Coefficients of a map.
    pub n_frequency: usize,
    /// `α`.
    #[serde(serialize_with = "config::number")]
    pub scaling: f64,
    /// Seed of the places.
    pub random_loc_seed: u64,
    /// Other numbers of coefficients by name or regular expression.
    pub n_frequency_pattern: Map<String, Value>,
    /// `true`: zeros, the identity; `false` (the default): normal.
    pub init_weights: bool,
    /// Which biases are trained: `none`, `all`, `fourier_only`.
    pub bias: String,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for FourierFtConfig {
    fn default() -> Self {
        FourierFtConfig {
            n_frequency: 1000,
            scaling: 150.0,
            random_loc_seed: 777,
            n_frequency_pattern: Map::new(),
            init_weights: false,
            bias: "none".into(),
            targets: TargetFields::default(),
        }
    }
}

const INERT: &[Inert] = &[config::TRANSPOSED];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let fields = TargetFields::recommended(fields, origin, &[]);
    let fourier: FourierFtConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    fourier.targets.check(METHOD.name)?;
    fourier.biases()?;
    check_factor(METHOD.name, "scaling", fourier.scaling)?;
    Ok(Arc::new(fourier))
}

impl FourierFtConfig {
    fn biases(&self) -> Result<Biases, EditError> {
        Biases::parse(METHOD.name, &self.bias, "fourier_only")
    }
}

impl Method for FourierFtConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        // Maps of one shape have the same places.
        let mut shared: HashMap<(usize, usize, usize), Arc<Places>> = HashMap::new();
        self.targets.plan_with_biases(
            METHOD.name,
            base,
            Q_AND_V,
            (config::to_map(self), INERT),
            self.biases()?,
            |plan, weight| {
                let (out, inputs, count) = (
                    weight.shape[0],
                    weight.shape[1],
                    coefficients_of(METHOD.name, &self.n_frequency_pattern, weight, self.n_frequency)?,
                );
                let init = if self.init_weights { Init::Zeros } else { Init::Normal { std: 1.0 } };
                let param = ParamPlan::new(key(weight.module(), "fourierft_spectrum"), &[count], init).full_precision();
                let places = shared.entry((out, inputs, count)).or_insert_with(|| {
                    Arc::new(Places { out, inputs, count, seed: self.random_loc_seed, drawn: OnceLock::new() })
                });
                let spectrum = Spectrum { places: places.clone(), scaling: self.scaling };
                plan.on_linear(weight, DeltaPart::new(spectrum), [param]);
                Ok(())
            },
        )
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// Where the coefficients of maps of one shape stand; drawn when they are first needed.
struct Places {
    out: usize,
    inputs: usize,
    count: usize,
    seed: u64,
    drawn: OnceLock<Arc<Frequencies>>,
}

impl Places {
    fn frequencies(&self) -> &Arc<Frequencies> {
        self.drawn.get_or_init(|| {
            let order = TorchRandom::new(self.seed).permutation(self.out * self.inputs);
            let places = order[..self.count].iter().map(|at| (*at as usize / self.inputs, *at as usize % self.inputs));
            Arc::new(Frequencies::new([self.out, self.inputs], places.collect()))
        })
    }
}

/// The change of one map; its value is the coefficients, `f32`.
struct Spectrum {
    places: Arc<Places>,
    scaling: f64,
}

impl Delta for Spectrum {
    fn delta(&self, tape: &Tape, values: &[Var], _weight: &dyn Fn() -> Tensor) -> Var {
        let factor = self.scaling / (self.places.out * self.places.inputs) as f64;
        ops::cosine_sum(tape, &values[0], self.places.frequencies(), factor as f32)
    }
}
