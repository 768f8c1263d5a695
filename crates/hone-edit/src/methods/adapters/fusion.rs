//! AdapterFusion: attention over several trained adapters, which stay as they are (Pfeiffer et al. 2021, arXiv 2005.00247).
//!
//! `Δ(u) = V Σ_i p_i a_i(u)`, `p = softmax_i((Q u + b_Q) · (K a_i(u) + b_K))` for every token, with `a_i` the adapters' scaled
//! outputs at the sub-layer. With `value: false` there is no `V`. `regularization` adds `0.01 Σ ‖I − V‖²` to the loss.
//!
//! `adapters` in a recipe are directories of bottleneck adapters (`houlsby`, `pfeiffer`, `parallel_adapter`) with the same
//! placement, insertion and layers; widths may differ. Their tensors and settings are written into the fusion's own files, so the
//! directories are not needed afterwards.
//!
//! First values: `Q`, `K` are `N(0, 0.02²)`, biases zero, `V` the identity with 1e-6 elsewhere. The start is about the mean of the
//! adapters, *not* the identity. Shapes: `query.weight`, `key.weight`, `value.weight` `[hidden, hidden]`, `query.bias`, `key.bias`
//! `[hidden]`, and the adapters' tensors under `adapters.I.`. Parameters: `3 hidden² + 2 hidden` a sub-layer; the paper trains
//! them at 5e-5.

use std::path::PathBuf;
use std::sync::Arc;

use hone_engine::{Tape, Tensor, Var, WeightRef, ops};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::bottleneck::{self, Bottleneck, BottleneckConfig};
use super::{AdapterFields, NO_WEIGHT, Network, Slot, affine, affine_params};
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::files::{self, TensorFile};
use crate::method::{At, Edit, Init, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase};
use crate::planning::wrong;
use crate::training::{Moment, TrainingRules};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "adapter_fusion",
    peft_type: "HONE_ADAPTER_FUSION",
    family: "adapter",
    summary: "learns for every token how to mix adapters that were trained before",
    paper: "arXiv 2005.00247",
    formula: "o + V Σ softmax(Q u · K aᵢ) aᵢ",
    mergeable: Mergeable::No(NO_WEIGHT),
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<FusionConfig>(),
};

/// Weight of the penalty on `V`.
const PENALTY: f32 = 0.01;

/// The fields of a fusion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FusionConfig {
    /// Directories of trained adapters; in files, the adapters' settings.
    #[schemars(extend("format" = "path"))]
    pub adapters: Vec<Fused>,
    /// Whether the mix goes through a trained map.
    pub value: bool,
    /// Whether that map is held near the identity.
    pub regularization: bool,
}

impl Default for FusionConfig {
    fn default() -> Self {
        FusionConfig { adapters: Vec::new(), value: true, regularization: true }
    }
}

/// One of the adapters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "directories of adapters")]
pub enum Fused {
    /// Its directory.
    Directory(PathBuf),
    /// Its settings, the tensors being in the fusion's file.
    Settings(Map<String, Value>),
}

/// A fusion whose adapters are known.
struct Fusion {
    config: FusionConfig,
    adapters: Vec<Known>,
}

/// An adapter to be fused.
struct Known {
    config: BottleneckConfig,
    /// Where its tensors are, unless they are in the fusion's own file.
    directory: Option<PathBuf>,
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let config: FusionConfig = config::read(METHOD.name, fields, &[], origin, warnings)?;
    let adapters = config.adapters.iter().map(known).collect::<Result<Vec<_>, _>>()?;
    if adapters.is_empty() {
        let what = "two or more directories of trained adapters";
        return Err(EditError::Needs { method: METHOD.name, field: "adapters", what });
    }
    let Some((first, others)) = adapters.split_first().filter(|(_, others)| !others.is_empty()) else {
        let expected = "two or more directories of trained adapters";
        return Err(wrong(METHOD.name, "adapters", adapters.len().to_string(), expected));
    };
    let place = |known: &Known| {
        let fields = &known.config.fields;
        (fields.placement, fields.insertion, fields.layers_to_transform.clone())
    };
    if let Some(at) = others.iter().position(|other| place(other) != place(first)) {
        let found = format!("number {} with {:?}, the first with {:?}", at + 1, place(&others[at]), place(first));
        let expected = "adapters of one `placement`, `insertion` and `layers_to_transform`";
        return Err(wrong(METHOD.name, "adapters", found, expected));
    }
    Ok(Arc::new(Fusion { config, adapters }))
}

fn known(fused: &Fused) -> Result<Known, EditError> {
    let (fields, directory) = match fused {
        Fused::Settings(fields) => (fields.clone(), None),
        Fused::Directory(directory) => {
            let directory = files::adapter_directory(directory);
            (files::read_config(&directory.join(files::CONFIG))?, Some(directory))
        }
    };
    let config = bottleneck::from_file(&fields).unwrap_or_else(|| {
        let found = format!("one of type {}", fields.get("peft_type").unwrap_or(&Value::Null));
        Err(wrong(METHOD.name, "adapters", found, "bottleneck adapters (houlsby, pfeiffer, parallel_adapter)"))
    })?;
    if config.fields.modules_to_save.as_ref().is_some_and(|modules| !modules.is_empty()) {
        let expected = "adapters without `modules_to_save`: what was trained whole cannot be mixed";
        return Err(wrong(METHOD.name, "adapters", "one with `modules_to_save`", expected));
    }
    Ok(Known { config, directory })
}

impl Known {
    /// Its settings as the fusion's file holds them.
    fn settings(&self) -> Fused {
        let mut fields = config::to_map(&self.config);
        fields.insert("peft_type".into(), json!(self.config.peft_type()));
        Fused::Settings(fields)
    }

    /// Its parameters at `slot`: fixed, under the fusion's keys, from the adapter's file.
    fn params(
        &self,
        slot: Slot,
        number: usize,
        base: &Base,
        file: Option<&mut TensorFile>,
    ) -> Result<Vec<ParamPlan>, EditError> {
        let own = self.config.params(slot, base);
        let names = ["down.weight", "down.bias", "up.weight", "up.bias"];
        let key = |name: &str| slot.key(METHOD.name, &format!("adapters.{number}.{name}"));
        let mut file = file;
        own.iter()
            .zip(names)
            .map(|(param, name)| {
                let init = match &mut file {
                    // Read from the fusion's own file.
                    None => Init::Zeros,
                    Some(file) => {
                        let value = file.tensor(&param.key, &param.shape)?;
                        Init::Computed(Box::new(move |_: &Base| value.clone()))
                    }
                };
                Ok(ParamPlan::new(key(name), &param.shape, init).fixed())
            })
            .collect()
    }

    fn open(&self, base: &Base) -> Result<Option<TensorFile>, EditError> {
        let Some(directory) = &self.directory else { return Ok(None) };
        files::check_base(directory, base, &mut Vec::new())?;
        TensorFile::read(&directory.join(files::WEIGHTS)).map(Some)
    }
}

impl Fusion {
    /// Where the adapters sit; their own scaling stays with them.
    fn place(&self) -> AdapterFields {
        AdapterFields { scaling: 1.0, dropout: 0.0, ..self.adapters[0].config.fields.clone() }
    }

    fn own_params(&self, slot: Slot, hidden: usize) -> Vec<ParamPlan> {
        let near_zero = || [Init::Normal { std: 0.02 }, Init::Zeros];
        let query = affine_params(slot, METHOD.name, "query", [hidden, hidden], near_zero());
        let key = affine_params(slot, METHOD.name, "key", [hidden, hidden], near_zero());
        let value = self.config.value.then(|| {
            let init = Init::Computed(Box::new(move |_: &Base| {
                let mut identity = Tensor::full([hidden, hidden], hone_engine::DType::F32, 1e-6);
                identity.as_mut_slice::<f32>().iter_mut().step_by(hidden + 1).for_each(|v| *v = 1.0);
                identity
            }));
            // The penalty holds it, so weight decay does not.
            ParamPlan::new(slot.key(METHOD.name, "value.weight"), &[hidden, hidden], init).without_decay()
        });
        query.into_iter().chain(key).chain(value).collect()
    }
}

impl Method for Fusion {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let place = self.place();
        let adapters = self.adapters.iter().map(Known::settings).collect();
        let mut plan = place.begin(&FusionConfig { adapters, ..self.config.clone() });
        let mut files = self.adapters.iter().map(|known| known.open(base)).collect::<Result<Vec<_>, _>>()?;
        for slot in place.slots(METHOD.name, base)? {
            let mut params = plan.add(self.own_params(slot, base.geometry.hidden));
            for (number, (adapter, file)) in self.adapters.iter().zip(&mut files).enumerate() {
                params.extend(plan.add(adapter.params(slot, number, base, file.as_mut())?));
            }
            let adapter = |known: &Known| (known.config.network(), known.config.fields.scaling as f32);
            let mixture = Mixture { adapters: self.adapters.iter().map(adapter).collect(), value: self.config.value };
            place.place(&mut plan, slot, mixture, params);
        }
        for (known, file) in self.adapters.iter().zip(&files) {
            if let (Some(file), Some(_)) = (file, &known.directory) {
                file.all_used()?;
            }
        }
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(&self.config)
    }

    fn training(&self, edit: &Edit) -> Option<Box<dyn TrainingRules>> {
        let is_value = |(_, param): &(usize, &crate::method::Param)| param.key.ends_with(".value.weight");
        let values: Vec<usize> = edit.params.iter().enumerate().filter(is_value).map(|(at, _)| at).collect();
        (self.config.regularization && !values.is_empty())
            .then(|| Box::new(NearIdentity { values }) as Box<dyn TrainingRules>)
    }
}

/// Values: `Q`, `b_Q`, `K`, `b_K`, perhaps `V`, and four of each adapter.
struct Mixture {
    adapters: Vec<(Bottleneck, f32)>,
    value: bool,
}

impl Network for Mixture {
    fn apply(&self, at: &At, u: &Var) -> Var {
        let tape = &at.cx.tape;
        let tokens = u.value.rows_cols().0;
        let own = if self.value { 5 } else { 4 };
        let query = affine(at, u, &at.values[0], &at.values[1]);
        let outputs: Vec<Var> = self
            .adapters
            .iter()
            .zip(at.values[own..].chunks_exact(4))
            .map(|((network, scaling), values)| ops::scale(tape, &network.of(at, values, u), *scaling))
            .collect();
        let scores: Vec<Var> = outputs
            .iter()
            .map(|output| {
                let key = affine(at, output, &at.values[2], &at.values[3]);
                ops::reshape(tape, &ops::row_sums(tape, &ops::multiply(tape, &query, &key)), &[tokens, 1])
            })
            .collect();
        let shares = ops::softmax_rows(tape, &ops::concat_columns(tape, &scores));
        let share = |i: usize, output: &Var| ops::scale_rows(tape, output, &ops::columns(tape, &shares, i..i + 1));
        let mut mixed = share(0, &outputs[0]);
        for (i, output) in outputs.iter().enumerate().skip(1) {
            mixed = ops::add(tape, &mixed, &share(i, output));
        }
        // `V` is linear, so the mix goes through it once.
        match self.value {
            true => ops::linear(tape, &mixed, &WeightRef::Trained(at.values[4].clone()), None, &[]),
            false => mixed,
        }
    }
}

/// The penalty on every `V`.
struct NearIdentity {
    values: Vec<usize>,
}

impl TrainingRules for NearIdentity {
    fn penalty(&self, tape: &Tape, values: &[Var], _moment: &Moment) -> Option<Var> {
        let term = |at: &usize| {
            let value = &values[*at];
            let side = value.value.dim(0);
            let mut identity = Tensor::zeros([side, side], hone_engine::DType::F32);
            identity.as_mut_slice::<f32>().iter_mut().step_by(side + 1).for_each(|v| *v = 1.0);
            let apart = ops::add_scaled(tape, value, &Var::constant(identity), -1.0);
            ops::sum(tape, &ops::pointwise(tape, &apart, ops::Pointwise::Square))
        };
        let sum = self.values.iter().map(term).reduce(|sum, term| ops::add(tape, &sum, &term))?;
        Some(ops::scale(tape, &sum, PENALTY))
    }
}
