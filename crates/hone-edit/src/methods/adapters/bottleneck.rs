//! Bottleneck adapters: `Δ(u) = W_up f(W_down u + b_down) + b_up`. Under the names they were published by ([`super::houlsby`],
//! [`super::pfeiffer`], [`super::parallel`]) they have a placement, a function, a width and first values; every one of them can be set.
//!
//! First values (biases are zero): `bert`: `N(0, 0.02²)`; `houlsby`: `N(0, 0.01²)` cut at two standard deviations; `mam_adapter`:
//! Kaiming-uniform down, zeros up. Only the last is the identity; the others are near it. All zeros is not among them: down and
//! up would hold each other at zero for ever (PETL-AST's released code does that, arXiv 2312.03694).
//!
//! Shapes: `down.weight` `[b, hidden]`, `down.bias` `[b]`, `up.weight` `[hidden, b]`, `up.bias` `[hidden]`. Parameters:
//! `2 b hidden + b + hidden` a sub-layer. A learning rate of 1e-3 to 1e-4 is usual.

use std::sync::Arc;

use hone_engine::{Var, ops};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    AdapterFields, NO_WEIGHT, Network, NonLinearity, Slot, affine, affine_params, houlsby, parallel, pfeiffer,
    torch_default, truncated_normal,
};
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::method::{At, Init, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase};

/// What the entries of all of them say; name, type and words are each one's own.
pub(super) const BOTTLENECK: MethodInfo = MethodInfo {
    name: "",
    peft_type: "",
    family: "adapter",
    summary: "",
    paper: "",
    formula: "",
    mergeable: Mergeable::No(NO_WEIGHT),
    quantised_base: QuantisedBase::Kept,
    parse: |fields, origin, warnings| parse(Kind::default(), fields, origin, warnings),
    schema: |generator| generator.subschema_for::<BottleneckConfig>(),
};

/// Under which word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Houlsby,
    Pfeiffer,
    Parallel,
}

impl Kind {
    fn info(self) -> &'static MethodInfo {
        match self {
            Kind::Houlsby => &houlsby::METHOD,
            Kind::Pfeiffer => &pfeiffer::METHOD,
            Kind::Parallel => &parallel::METHOD,
        }
    }

    fn defaults(self) -> Value {
        match self {
            Kind::Houlsby => houlsby::defaults(),
            Kind::Pfeiffer => pfeiffer::defaults(),
            Kind::Parallel => parallel::defaults(),
        }
    }
}

/// First values; see the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BottleneckInit {
    /// `N(0, 0.02²)`.
    Bert,
    /// `N(0, 0.01²)`, cut.
    Houlsby,
    /// Kaiming-uniform down, zeros up.
    MamAdapter,
}

/// The fields of a bottleneck adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BottleneckConfig {
    /// The function in the middle.
    pub non_linearity: NonLinearity,
    /// First values.
    pub init_weights: BottleneckInit,
    /// Where and how wide.
    #[serde(flatten)]
    pub fields: AdapterFields,
    #[serde(skip)]
    kind: Kind,
}

impl Default for BottleneckConfig {
    fn default() -> Self {
        BottleneckConfig {
            non_linearity: NonLinearity::Swish,
            init_weights: BottleneckInit::Houlsby,
            fields: AdapterFields::default(),
            kind: Kind::Houlsby,
        }
    }
}

pub(super) fn parse(
    kind: Kind,
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    Ok(Arc::new(read(kind, fields, origin, warnings)?))
}

fn read(
    kind: Kind,
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<BottleneckConfig, EditError> {
    let method = kind.info().name;
    let fields = super::with_defaults(fields, kind.defaults());
    let config: BottleneckConfig = config::read(method, &fields, &[], origin, warnings)?;
    config.fields.check(method)?;
    Ok(BottleneckConfig { kind, ..config })
}

/// The bottleneck adapter that an `adapter_config.json` describes; `None` if it is of another type.
pub(super) fn from_file(config: &Map<String, Value>) -> Option<Result<BottleneckConfig, EditError>> {
    let kinds = [Kind::Houlsby, Kind::Pfeiffer, Kind::Parallel];
    let kind = kinds.into_iter().find(|kind| config.get("peft_type") == Some(&json!(kind.info().peft_type)))?;
    Some(read(kind, config, Origin::File, &mut Vec::new()))
}

impl BottleneckConfig {
    /// Its word.
    pub(super) fn word(&self) -> &'static str {
        self.kind.info().name
    }

    /// Its type in files.
    pub(super) fn peft_type(&self) -> &'static str {
        self.kind.info().peft_type
    }

    /// The parameters at `slot`, in the order [`Bottleneck`] reads them; `keys` names a tensor.
    pub(super) fn params(&self, slot: Slot, base: &Base) -> Vec<ParamPlan> {
        let (hidden, width) = (base.geometry.hidden, self.fields.width(&base.geometry));
        let (down, up) = match self.init_weights {
            BottleneckInit::Bert => (Init::Normal { std: 0.02 }, Init::Normal { std: 0.02 }),
            BottleneckInit::Houlsby => {
                (truncated_normal([width, hidden], 0.01), truncated_normal([hidden, width], 0.01))
            }
            BottleneckInit::MamAdapter => (torch_default(hidden), Init::Zeros),
        };
        let down = affine_params(slot, self.word(), "down", [width, hidden], [down, Init::Zeros]);
        let up = affine_params(slot, self.word(), "up", [hidden, width], [up, Init::Zeros]);
        down.into_iter().chain(up).collect()
    }

    /// The network over those parameters.
    pub(super) fn network(&self) -> Bottleneck {
        Bottleneck { f: self.non_linearity }
    }
}

impl Method for BottleneckConfig {
    fn info(&self) -> &'static MethodInfo {
        self.kind.info()
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let mut plan = self.fields.begin(self);
        for slot in self.fields.slots(self.word(), base)? {
            let params = plan.add(self.params(slot, base));
            self.fields.place(&mut plan, slot, self.network(), params);
        }
        self.fields.finish(&mut plan, base)?;
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// `W_up f(W_down u + b_down) + b_up`; values `W_down`, `b_down`, `W_up`, `b_up`.
pub(super) struct Bottleneck {
    f: NonLinearity,
}

impl Bottleneck {
    /// Of these four values.
    pub(super) fn of(&self, at: &At, values: &[Var], u: &Var) -> Var {
        let inner = affine(at, u, &values[0], &values[1]);
        let inner = ops::activation(&at.cx.tape, &inner, self.f.activation());
        affine(at, &inner, &values[2], &values[3])
    }
}

impl Network for Bottleneck {
    fn apply(&self, at: &At, u: &Var) -> Var {
        self.of(at, at.values, u)
    }
}
