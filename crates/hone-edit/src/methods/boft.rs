//! BOFT: the input of a frozen map goes through butterfly factors of small rotations, its outputs are scaled (Liu et al. 2023,
//! arXiv 2311.06243).
//!
//! `y = s ⊙ (x M Wᵀ) + b`, `M = B_{m−1} … B_0`, `B_j = P_j blockdiag(R_{j,1}, …, R_{j,n}) P_jᵀ`, with blocks of side `k`,
//! `n k = in`, each `R = (I − S)(I + S)⁻¹` of the skew-symmetric part `S = (Z − Zᵀ) / 2` of a free matrix `Z`. The
//! permutations `P_j` bring together inputs that are `2^j` half blocks apart, so that `m` factors mix blocks `2^{m−1}` as wide.
//!
//! Shapes: `boft_R` `[m, n, k, k]`, `boft_s` `[out, 1]`. Parameters: `m in k + out` a map. Starts at `Z = 0`, `s = 1`: the identity.
//! `boft_dropout`: in training a share `⌊p n⌋` of the blocks of one factor, drawn every step, is left out.
//!
//! PEFT runs more than one factor only where its CUDA extension was built, and silently trains one elsewhere; here they always
//! run. With more than one factor PEFT has not been compared.

use std::sync::Arc;

use hone_engine::{RandomKey, Tape, Tensor, Var, ops};
use hone_model::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::oft::with_left_out;
use crate::base::{Base, BaseWeight};
use crate::biases::Biases;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::{Applied, InputMap, InputMapPart, ScaledSide, Scaling};
use crate::method::{
    At, Direction, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase,
};
use crate::planning::{Q_AND_V, TargetFields, check_probability, key, wrong};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "boft",
    peft_type: "BOFT",
    family: "orthogonal",
    summary: "rotates the input of each frozen map in butterfly factors and scales its outputs",
    paper: "arXiv 2311.06243",
    formula: "diag(s) W Mᵀ, M = Π P blockdiag(Cayley(S)) Pᵀ",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<BoftConfig>(),
};

/// Hugging Face's `BOFTConfig`, the honoured fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BoftConfig {
    /// Side of a block; 0 where their number is given.
    pub boft_block_size: usize,
    /// Number of blocks; 0 where their size is given.
    pub boft_block_num: usize,
    /// Butterfly factors.
    pub boft_n_butterfly_factor: usize,
    /// Share of one factor's blocks that is left out in a training step.
    pub boft_dropout: f64,
    /// `true`: the identity; `false`: normal with standard deviation 0.1, for tests.
    pub init_weights: bool,
    /// Which biases are trained: `none`, `all`, `boft_only`.
    pub bias: String,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for BoftConfig {
    fn default() -> Self {
        BoftConfig {
            boft_block_size: 4,
            boft_block_num: 0,
            boft_n_butterfly_factor: 1,
            boft_dropout: 0.0,
            init_weights: true,
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
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        TargetFields::recommend(&mut fields);
        // Who says how many blocks does not mean the default size as well.
        if fields.get("boft_block_num").is_some_and(|n| n != &json!(0)) {
            fields.entry("boft_block_size").or_insert(json!(0));
        }
    }
    let boft: BoftConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    boft.check()?;
    Ok(Arc::new(boft))
}

impl BoftConfig {
    fn check(&self) -> Result<(), EditError> {
        self.targets.check(METHOD.name)?;
        check_probability(METHOD.name, "boft_dropout", self.boft_dropout)?;
        self.biases()?;
        if (self.boft_block_size == 0) == (self.boft_block_num == 0) {
            let found = format!("{} with `boft_block_num` {}", self.boft_block_size, self.boft_block_num);
            let expected = "one of the two above 0 and the other 0: their product is a map's width";
            return Err(wrong(METHOD.name, "boft_block_size", found, expected));
        }
        if !(1..=16).contains(&self.boft_n_butterfly_factor) {
            let found = self.boft_n_butterfly_factor.to_string();
            return Err(wrong(METHOD.name, "boft_n_butterfly_factor", found, "1 to 16 factors"));
        }
        Ok(())
    }

    fn biases(&self) -> Result<Biases, EditError> {
        Biases::parse(METHOD.name, &self.bias, "boft_only")
    }

    /// Number and side of the blocks over the inputs of `weight`.
    fn blocks(&self, weight: &BaseWeight) -> Result<(usize, usize), EditError> {
        let (inputs, module) = (weight.shape[1], weight.module());
        let (field, given) = match self.boft_block_num {
            0 => ("boft_block_size", self.boft_block_size),
            count => ("boft_block_num", count),
        };
        if !inputs.is_multiple_of(given) {
            let expected = format!("a divisor of {inputs}, the inputs of `{module}`");
            return Err(wrong(METHOD.name, field, given.to_string(), expected));
        }
        let (count, side) = if self.boft_block_num == 0 { (inputs / given, given) } else { (given, inputs / given) };
        let factors = self.boft_n_butterfly_factor;
        if factors > 1 && !(side.is_multiple_of(2) && count.is_multiple_of(1 << (factors - 1))) {
            let found = format!("{factors} with {count} blocks of {side} on `{module}`");
            let expected = format!("an even side and a number of blocks that {} divides", 1 << (factors - 1));
            return Err(wrong(METHOD.name, "boft_n_butterfly_factor", found, expected));
        }
        Ok((count, side))
    }

    fn plan_map(&self, plan: &mut Plan, weight: &BaseWeight) -> Result<(), EditError> {
        let (count, side) = self.blocks(weight)?;
        let (module, factors) = (weight.module(), self.boft_n_butterfly_factor);
        let (free, scale) = match self.init_weights {
            true => (Init::Zeros, Init::Constant(1.0)),
            false => (Init::Normal { std: 0.1 }, Init::Constant(1.0)),
        };
        let params = [
            ParamPlan::new(key(module, "boft_R"), &[factors, count, side, side], free).full_precision(),
            ParamPlan::new(key(module, "boft_s"), &[weight.shape[0], 1], scale).without_decay(),
        ];
        let orders = (0..factors).map(|factor| butterfly(weight.shape[1], factor, side, factors)).collect();
        let butterfly = Butterfly { count, side, orders, dropout: self.boft_dropout as f32 };
        plan.on_linear(weight, Boft { rotation: InputMapPart(butterfly) }, params);
        Ok(())
    }
}

/// Where `P_j` takes each of `inputs` from, `(x P_j)[order[i]] = x[i]`; `None` where it stays. Within runs of `2^j` blocks, half
/// blocks at even places come first.
fn butterfly(inputs: usize, factor: usize, side: usize, factors: usize) -> Option<Vec<u32>> {
    if factors == 1 {
        return None;
    }
    let (run, half) = (side << factor, side / 2);
    let halves = run / half;
    let sorted: Vec<usize> = (0..halves).step_by(2).chain((1..halves).step_by(2)).collect();
    let place = |at: usize| at / run * run + sorted[at % run / half] * half + at % half;
    Some((0..inputs).map(|at| place(at) as u32).collect())
}

impl Method for BoftConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        self.targets.plan_with_biases(
            METHOD.name,
            base,
            Q_AND_V,
            (config::to_map(self), INERT),
            self.biases()?,
            |plan, weight| self.plan_map(plan, weight),
        )
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// `x M`; the first value is every `Z`, `f32`.
struct Butterfly {
    count: usize,
    side: usize,
    /// By factor.
    orders: Vec<Option<Vec<u32>>>,
    dropout: f32,
}

impl InputMap for Butterfly {
    fn apply(&self, tape: &Tape, values: &[Var], x: &Var, applied: Applied, noise: Option<RandomKey>) -> Var {
        let (factors, side) = (self.orders.len(), self.side);
        let free = ops::reshape(tape, &values[0], &[factors * self.count, side, side]);
        let skew = ops::scale(tape, &ops::add_scaled(tape, &free, &ops::block_transpose(tape, &free), -1.0), 0.5);
        let rotations = ops::cayley(tape, &skew);
        let thinned = noise.map(|key| (key, key.below(0, factors)));
        let factor = |x: &Var, j: usize| {
            let blocks = ops::rows(tape, &rotations, j * self.count..(j + 1) * self.count);
            let blocks = match thinned {
                Some((key, thinned)) if thinned == j => with_left_out(tape, blocks, self.dropout, key.index(1)),
                _ => blocks,
            };
            let blocks = if applied == Applied::Merged { ops::block_transpose(tape, &blocks) } else { blocks };
            let Some(order) = &self.orders[j] else { return ops::rotate_blocks(tape, x, &blocks) };
            let there = columns_in_order(tape, x, &inverse(order));
            columns_in_order(tape, &ops::rotate_blocks(tape, &there, &blocks), order)
        };
        // `x M` meets the last factor first; `x Mᵀ = x B_0ᵀ … B_{m−1}ᵀ` the first.
        match applied {
            Applied::Merged => (0..factors).fold(x.clone(), |x, j| factor(&x, j)),
            Applied::Forward | Applied::Unmerged => (0..factors).rev().fold(x.clone(), |x, j| factor(&x, j)),
        }
    }
}

/// Column `i` of the result is column `order[i]` of `x`.
fn columns_in_order(tape: &Tape, x: &Var, order: &[u32]) -> Var {
    let turned = ops::gather_rows(tape, &ops::transpose(tape, x), order);
    ops::transpose(tape, &turned)
}

fn inverse(order: &[u32]) -> Vec<u32> {
    let mut places = vec![0; order.len()];
    order.iter().enumerate().for_each(|(at, to)| places[*to as usize] = at as u32);
    places
}

/// The part on one map: the rotation, and the second value on its outputs without the bias.
struct Boft {
    rotation: InputMapPart<Butterfly>,
}

impl Part for Boft {
    fn around_linear(&self, at: &At, linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        let tape = &at.cx.tape;
        let y = next(&self.rotation.input(at, x));
        let factor = Scaling::factor(tape, &at.values[1], at.strength);
        match at.cx.bias(linear) {
            None => ops::scale_columns(tape, &y, &factor),
            Some(bias) => {
                let without = ops::add_row(tape, &y, &ops::scale(tape, &bias, -1.0));
                ops::add_row(tape, &ops::scale_columns(tape, &without, &factor), &bias)
            }
        }
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let scaling = Scaling { side: ScaledSide::Output };
        let scaled = |weight: &Tensor| scaling.merge(&Merge { weight, values: &merge.values[1..], ..*merge });
        match merge.direction {
            Direction::Merge => scaled(&self.rotation.merge(merge)?),
            Direction::Unmerge => self.rotation.merge(&Merge { weight: &scaled(merge.weight)?, ..*merge }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `BOFTLayer.block_butterfly_perm(16, 4 / 2^j, 2, 1)` of PEFT 0.21 for two factors on 16 inputs in blocks of 4.
    #[test]
    fn the_permutations_are_those_of_peft() {
        let order = |factor| butterfly(16, factor, 4, 2).unwrap();
        assert_eq!(order(0), (0..16).collect::<Vec<u32>>());
        assert_eq!(order(1), [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]);
        assert_eq!(butterfly(16, 0, 4, 1), None);
    }
}
