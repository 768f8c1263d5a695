//! PEANuT (Zhong et al. 2024, "PEANuT: Parameter-Efficient Adaptation with Weight-aware Neural Tweakers", arXiv 2410.01870):
//! `W + s B h(W)`, where a small network `h` that reads the base weight makes the second matrix of a low-rank pair.
//!
//! `h₀ = f(A W)` `[r, in]` with `A` `[r, out]`; `depth` encoders `hᵢ₊₁ = f(Eᵢ hᵢ)` and as many decoders `h ← f(Dⱼ h) + hₖ`,
//! each of which adds what its encoder read (the last encoder's first), all `[r, r]`; `B` `[out, r]`. `f` is `act_fn`, by
//! transformers' name (those that Hone has). Start: `A`, `E`, `D` Kaiming-uniform (`U(±1/√columns)`), `B` 0, so the model is
//! unchanged. Parameters: `2 r out + 2 depth r²` a map. Every step multiplies by the base weight in `f32`: a quantised base is
//! expanded a matrix at a time. Stacked on other edits, `W` is the model's own weight.

use std::sync::Arc;

use hone_engine::ops::{self, Activation, LowRank};
use hone_engine::{Tape, Tensor, Var, WeightRef};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight};
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::base_weight;
use crate::method::{
    At, Init, LinearEffect, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase,
};
use crate::planning::{Q_AND_V, TargetFields, check_factor, check_rank, key, wrong};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "peanut",
    peft_type: "PEANUT",
    family: "low rank",
    summary: "a low-rank pair half of which a small network makes of the base weight",
    paper: "arXiv 2410.01870",
    formula: "W + s B h(W), h = f(A W), encoders and decoders of it",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Expanded,
    parse,
    schema: |generator| generator.subschema_for::<PeanutConfig>(),
};

/// Hugging Face's `PeanutConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PeanutConfig {
    /// Rank: width of the network.
    pub r: usize,
    /// Encoders, and decoders.
    pub depth: usize,
    /// The network's function: `relu`, `gelu`, `gelu_new`, `gelu_pytorch_tanh`, `silu`, `swish`, `tanh`, `sigmoid`.
    pub act_fn: String,
    /// Factor of the change.
    #[serde(serialize_with = "config::number")]
    pub scaling: f64,
    /// Whether the model is unchanged at the start; `false`: `B` is Kaiming-uniform too.
    pub init_weights: bool,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for PeanutConfig {
    fn default() -> Self {
        PeanutConfig {
            r: 32,
            depth: 0,
            act_fn: "relu".into(),
            scaling: 1.0,
            init_weights: true,
            targets: TargetFields::default(),
        }
    }
}

const INERT: &[Inert] = &[];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let fields = TargetFields::recommended(fields, origin, &[]);
    let peanut: PeanutConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    peanut.targets.check(METHOD.name)?;
    check_rank(METHOD.name, "r", peanut.r)?;
    if peanut.depth > 1000 {
        return Err(wrong(METHOD.name, "depth", peanut.depth.to_string(), "0 to 1000 encoders"));
    }
    check_factor(METHOD.name, "scaling", peanut.scaling)?;
    peanut.activation()?;
    Ok(Arc::new(peanut))
}

impl PeanutConfig {
    fn activation(&self) -> Result<Activation, EditError> {
        match self.act_fn.as_str() {
            "relu" => Ok(Activation::Relu),
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            "silu" | "swish" => Ok(Activation::Silu),
            "tanh" => Ok(Activation::Tanh),
            "sigmoid" => Ok(Activation::Sigmoid),
            other => {
                let expected = "`relu`, `gelu`, `gelu_new`, `gelu_pytorch_tanh`, `silu`, `swish`, `tanh` or `sigmoid`: others are not built";
                Err(wrong(METHOD.name, "act_fn", format!("`{other}`"), expected))
            }
        }
    }

    fn plan_map(&self, plan: &mut Plan, weight: &BaseWeight) -> Result<(), EditError> {
        let (module, out, r) = (weight.module(), weight.shape[0], self.r);
        let matrix = |name: &str, shape: [usize; 2], starts_at_zero: bool| {
            let init =
                if starts_at_zero { Init::Zeros } else { Init::Uniform { bound: 1.0 / (shape[1] as f32).sqrt() } };
            ParamPlan::new(key(module, &format!("{name}.weight")), &shape, init)
        };
        let network = |name: &str, shape: [usize; 2]| matrix(name, shape, false).full_precision();
        let mut params = vec![network("peanut_A", [r, out]), matrix("peanut_B", [out, r], self.init_weights)];
        for kind in ["peanut_encoders", "peanut_decoders"] {
            params.extend((0..self.depth).map(|at| network(&format!("{kind}.{at}"), [r, r])));
        }
        plan.on_linear(weight, Tweaker { f: self.activation()?, scaling: self.scaling as f32 }, params);
        Ok(())
    }
}

impl Method for PeanutConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        self.targets
            .plan(METHOD.name, base, Q_AND_V, (self.fields(), INERT), |plan, weight| self.plan_map(plan, weight))
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// The network of one map. Parameters: `A`, `B`, the encoders, the decoders.
struct Tweaker {
    f: Activation,
    scaling: f32,
}

impl Tweaker {
    /// `h(W)` `[r, in]`, in `f32`.
    fn hidden(&self, tape: &Tape, values: &[Var], weight: Tensor) -> Var {
        let [a, _, layers @ ..] = values else { unreachable!("PEANuT plans two matrices and its network's") };
        let (encoders, decoders) = layers.split_at(layers.len() / 2);
        let mut h = ops::activation(tape, &ops::product(tape, a, &Var::constant(weight)), self.f);
        let mut read = Vec::with_capacity(encoders.len());
        for encoder in encoders {
            let next = ops::activation(tape, &ops::product(tape, encoder, &h), self.f);
            read.push(std::mem::replace(&mut h, next));
        }
        for (decoder, read) in decoders.iter().zip(read.iter().rev()) {
            let next = ops::activation(tape, &ops::product(tape, decoder, &h), self.f);
            h = ops::add(tape, &next, read);
        }
        h
    }
}

impl Part for Tweaker {
    fn on_linear(&self, at: &At, linear: &Linear, _weight: &WeightRef) -> LinearEffect {
        let tape = &at.cx.tape;
        let make = || vec![ops::convert(tape, &self.hidden(tape, at.values, base_weight(linear)), at.cx.dtype)];
        let a = at.once_a_group(at.group, make).remove(0);
        let b = at.values[1].clone();
        LinearEffect::term(LowRank { a, b, scale: self.scaling * at.strength, dropout: None })
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let h = self.hidden(&Tape::off(), &merge.constants(), merge.base()?.clone());
        Ok(merge.with_product(self.scaling, &merge.values[1], &h.value))
    }
}
