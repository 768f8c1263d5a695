//! RoAd: the outputs of a frozen map are rotated in pairs and scaled (Liao and Monz 2024, arXiv 2409.00119).
//!
//! Within a group of `g` outputs, `h = x Wᵀ + b`, output `j` of the first half is paired with `j + g / 2`:
//! `y_j = c_j h_j − s_j h_{j + g/2}` and `y_{j + g/2} = c_{j + g/2} h_{j + g/2} + s_{j + g/2} h_j`, with `c = α cos θ`,
//! `s = α sin θ`. The variants differ in how many angles and factors there are:
//!
//! - `road_1`: one of each for a pair, `out / 2` in all: a rotation and a factor;
//! - `road_2`: one for an output, `out`;
//! - `road_4`: one for `c` and another for `s`, `2 out`, group by group, those of `c` first.
//!
//! Shapes: `road_theta`, `road_alpha` as many. Parameters: `out`, `2 out`, `4 out` a map. Starts at `θ = 0`, `α = 1`: the identity.
//! Bias included, so a merged bias changes too.

use std::sync::Arc;

use hone_engine::ops::{self, Pointwise};
use hone_engine::{Tape, Tensor, Var};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::oft::inverses;
use crate::base::{Base, BaseWeight};
use crate::config;
use crate::error::EditError;
use crate::forms::partly;
use crate::method::{
    At, Direction, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Place, Placed, Plan,
    QuantisedBase,
};
use crate::planning::{Q_AND_V, TargetFields, key, wrong};
use crate::target::OneOrMany;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "road",
    peft_type: "ROAD",
    family: "orthogonal",
    summary: "rotates and scales pairs of each frozen map's outputs",
    paper: "arXiv 2409.00119",
    formula: "R W, R of 2 × 2 blocks α [cos θ, −sin θ; sin θ, cos θ]",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<RoadConfig>(),
};

/// Hugging Face's `RoadConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RoadConfig {
    /// How many angles and factors there are.
    pub variant: Variant,
    /// Outputs that are paired among themselves; an even number that divides the outputs of every target.
    pub group_size: usize,
    /// `true`: the identity; `false`: normal around it, for tests.
    pub init_weights: bool,
    /// Names (matched at the end of module paths), a regular expression over whole paths, or `all-linear` (a recipe's default).
    pub target_modules: Option<OneOrMany<String>>,
    /// Modules trained whole and saved with the adapter.
    pub modules_to_save: Option<Vec<String>>,
    /// `CAUSAL_LM`.
    pub task_type: Option<String>,
}

/// See the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Variant {
    /// A pair shares.
    #[serde(rename = "road_1")]
    Road1,
    /// Every output has its own.
    #[serde(rename = "road_2")]
    Road2,
    /// Cosine and sine have their own.
    #[serde(rename = "road_4")]
    Road4,
}

impl Default for RoadConfig {
    fn default() -> Self {
        RoadConfig {
            variant: Variant::Road1,
            group_size: 64,
            init_weights: true,
            target_modules: None,
            modules_to_save: None,
            task_type: None,
        }
    }
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let fields = TargetFields::recommended(fields, origin, &[]);
    let road: RoadConfig = config::read(METHOD.name, &fields, &[], origin, warnings)?;
    road.targets().check(METHOD.name)?;
    if road.group_size == 0 || !road.group_size.is_multiple_of(2) {
        return Err(wrong(METHOD.name, "group_size", road.group_size.to_string(), "an even number of 2 or more"));
    }
    Ok(Arc::new(road))
}

impl RoadConfig {
    fn targets(&self) -> TargetFields {
        TargetFields {
            target_modules: self.target_modules.clone(),
            modules_to_save: self.modules_to_save.clone(),
            task_type: self.task_type.clone(),
            ..TargetFields::default()
        }
    }

    fn plan_map(&self, plan: &mut Plan, base: &Base, weight: &BaseWeight) -> Result<(), EditError> {
        let (out, module, group) = (weight.shape[0], weight.module(), self.group_size);
        if !out.is_multiple_of(group) {
            let expected = format!("an even divisor of {out}, the outputs of `{module}`");
            return Err(wrong(METHOD.name, "group_size", group.to_string(), expected));
        }
        let pairs = Pairs::new(self.variant, out, group);
        let (theta, alpha) = match self.init_weights {
            true => (Init::Zeros, Init::Constant(1.0)),
            false => (Init::Normal { std: 0.5 }, Init::Normal { std: 0.5 }),
        };
        let count = [pairs.parameters];
        let params = [
            ParamPlan::new(key(module, "road_theta"), &count, theta).full_precision(),
            ParamPlan::new(key(module, "road_alpha"), &count, alpha).full_precision(),
        ];
        let pairs = Arc::new(pairs);
        plan.on_linear(weight, Turn(pairs.clone()), params);
        let bias = format!("{module}.bias");
        if base.weight(&bias).is_some() {
            let params = vec![plan.params.len() - 2, plan.params.len() - 1];
            plan.placed.push(Placed { place: Place::Weight(bias), part: Arc::new(Turn(pairs)), params });
        }
        Ok(())
    }
}

impl Method for RoadConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let config = (config::to_map(self), &[][..]);
        self.targets().plan(METHOD.name, base, Q_AND_V, config, |plan, weight| self.plan_map(plan, base, weight))
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// Which number stands where in the blocks `[groups, g, g]` that outputs are multiplied by.
struct Pairs {
    groups: usize,
    group: usize,
    parameters: usize,
    /// The number of each output's cosine, and of its sine.
    cosines: Vec<u32>,
    sines: Vec<u32>,
    /// Their places in the blocks, row-major over all.
    own: Arc<[u32]>,
    other: Arc<[u32]>,
    /// The sign of each sine, `[out, 1]`.
    signs: Vec<f32>,
}

impl Pairs {
    fn new(variant: Variant, out: usize, group: usize) -> Pairs {
        let half = group / 2;
        let split = |at: usize| (at / group, at % group);
        let number = |at: usize, sine: usize| {
            let (block, within) = split(at);
            (match variant {
                Variant::Road1 => block * half + within % half,
                Variant::Road2 => at,
                Variant::Road4 => (2 * block + sine) * group + within,
            }) as u32
        };
        // Output `at` is column `within` of its block; row `from` is what it takes.
        let place = |at: usize, from: usize| {
            let (block, within) = split(at);
            ((block * group + from) * group + within) as u32
        };
        let partner = |at: usize| (at % group + half) % group;
        let parameters = match variant {
            Variant::Road1 => out / 2,
            Variant::Road2 => out,
            Variant::Road4 => 2 * out,
        };
        Pairs {
            groups: out / group,
            group,
            parameters,
            cosines: (0..out).map(|at| number(at, 0)).collect(),
            sines: (0..out).map(|at| number(at, 1)).collect(),
            own: (0..out).map(|at| place(at, at % group)).collect(),
            other: (0..out).map(|at| place(at, partner(at))).collect(),
            signs: (0..out).map(|at| if at % group < half { -1.0 } else { 1.0 }).collect(),
        }
    }

    /// The blocks, `f32`.
    fn blocks(&self, tape: &Tape, theta: &Var, alpha: &Var) -> Var {
        let dims = [self.groups, self.group, self.group];
        let gathered =
            |x: &Var, numbers: &[u32]| ops::gather_rows(tape, &ops::reshape(tape, x, &[self.parameters, 1]), numbers);
        let part = |numbers: &[u32], f: Pointwise| {
            ops::multiply(tape, &gathered(alpha, numbers), &ops::pointwise(tape, &gathered(theta, numbers), f))
        };
        let signs = Var::constant(Tensor::from_slice([self.signs.len(), 1], &self.signs));
        let own = ops::scatter(tape, &part(&self.cosines, Pointwise::Cos), &self.own, &dims);
        let sines = ops::multiply(tape, &part(&self.sines, Pointwise::Sin), &signs);
        ops::add(tape, &own, &ops::scatter(tape, &sines, &self.other, &dims))
    }
}

/// The part on one map, and at its bias, where it does nothing while running: the map's output has its bias in it.
struct Turn(Arc<Pairs>);

impl Part for Turn {
    fn around_linear(&self, at: &At, _linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        let tape = &at.cx.tape;
        let blocks = self.0.blocks(tape, &at.values[0], &at.values[1]);
        let y = next(x);
        partly(tape, &y, ops::rotate_blocks(tape, &y, &blocks), at.strength)
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let tape = &Tape::off();
        let [theta, alpha] = [0, 1].map(|i| Var::constant(merge.values[i].clone()));
        let mut blocks = self.0.blocks(tape, &theta, &alpha);
        if merge.direction == Direction::Unmerge {
            if merge.strength != 1.0 {
                let strength = merge.strength;
                return Err(format!(
                    "merged at strength {strength} it has no simple inverse; keep the base model instead"
                ));
            }
            blocks = inverses(tape, &blocks);
            if blocks.value.as_slice::<f32>().iter().any(|v| !v.is_finite()) {
                return Err("a factor is 0, which cannot be undone; keep the base model instead of unmerging".into());
            }
        }
        // Outputs are rows of `W` and numbers of the bias; they are multiplied as columns.
        let dims = merge.weight.dims();
        let columns = match dims {
            [out] => Var::constant(merge.weight.reshape([1, *out])),
            _ => ops::transpose(tape, &Var::constant(merge.weight.clone())),
        };
        let turned = partly(tape, &columns, ops::rotate_blocks(tape, &columns, &blocks), merge.strength);
        Ok(match dims {
            [_] => turned.value.reshape(dims),
            _ => ops::transpose(tape, &turned).value,
        })
    }
}
