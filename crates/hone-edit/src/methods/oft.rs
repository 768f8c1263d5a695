//! OFT: the input of a frozen map is rotated, block by block (Qiu et al. 2023, arXiv 2306.07280; on the input's side, as
//! OFTv2 does: 2506.19847).
//!
//! `y = (x R) Wᵀ + b`, `R = blockdiag(R_1, …, R_n)` with blocks of side `k`, `n k = in`. A block is made of the
//! `k (k − 1) / 2` numbers above the diagonal of a skew-symmetric `Q`:
//!
//! - `use_cayley_neumann` (the default): the series `R = I + 2 Q + 2 Q² + … + Q^m`, `num_cayley_neumann_terms = m + 1`, nearly
//!   a rotation for small `Q`. It approximates `(I + Q)(I − Q)⁻¹`;
//! - otherwise the Cayley transform `R = (I − Q)(I + Q)⁻¹`, a rotation. This is the *transpose* of what the series approximates,
//!   so the field changes what the numbers in a file mean; both are as PEFT has them.
//!
//! `block_share`: one block for all places. `coft`: every `Q` stays within `‖Q‖ ≤ eps / √n`, kept by projection before each
//! step. `module_dropout`: in training a share `⌊p n⌋` of the blocks, drawn anew every step, is left out (identity).
//!
//! Shapes: `oft_R.weight` `[n, k (k − 1) / 2]` (`[1, …]` shared). Parameters: `n k (k − 1) / 2` a map. Starts at `Q = 0`, the
//! identity. A block size (or a number of blocks, `r`) that does not divide a map's width is replaced by the nearest divisor, and
//! the file keeps what was asked for, both as in PEFT; a recipe is told. Adapters of PEFT before 0.18 with the series meant something else; they cannot be told apart here.

use std::collections::BTreeMap;
use std::sync::Arc;

use hone_engine::{DType, RandomKey, Tape, Tensor, Var, ops};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::{Base, BaseWeight};
use crate::biases::Biases;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::{Applied, InputMap, InputMapPart};
use crate::method::{Edit, Init, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase};
use crate::planning::{Q_AND_V, TargetFields, check_probability, key, wrong};
use crate::training::{Moment, TrainingRules};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "oft",
    peft_type: "OFT",
    family: "orthogonal",
    summary: "rotates the input of each frozen map in blocks",
    paper: "arXiv 2306.07280; 2506.19847",
    formula: "W Rᵀ, R = blockdiag of Cayley(Q)",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<OftConfig>(),
};

/// Hugging Face's `OFTConfig`, the honoured fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OftConfig {
    /// Number of blocks; 0 where the block size is given.
    pub r: usize,
    /// Side of a block; 0 where their number is given.
    pub oft_block_size: usize,
    /// Share of the blocks that is left out in a training step.
    pub module_dropout: f64,
    /// Keep every block near the identity.
    pub coft: bool,
    /// How near: the bound on `‖Q‖` times the root of the number of blocks.
    pub eps: f64,
    /// One block for all places.
    pub block_share: bool,
    /// The series instead of the exact Cayley transform.
    pub use_cayley_neumann: bool,
    /// Terms of the series.
    pub num_cayley_neumann_terms: usize,
    /// `true`: the identity; `false`: normal with standard deviation 0.1, for tests.
    pub init_weights: bool,
    /// Which biases are trained: `none`, `all`, `oft_only`.
    pub bias: String,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for OftConfig {
    fn default() -> Self {
        OftConfig {
            r: 0,
            oft_block_size: 32,
            module_dropout: 0.0,
            coft: false,
            eps: 6e-5,
            block_share: false,
            use_cayley_neumann: true,
            num_cayley_neumann_terms: 5,
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
        if fields.get("r").is_some_and(|r| r != &json!(0)) {
            fields.entry("oft_block_size").or_insert(json!(0));
        }
    }
    let oft: OftConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    oft.check()?;
    Ok(Arc::new(oft))
}

impl OftConfig {
    fn check(&self) -> Result<(), EditError> {
        self.targets.check(METHOD.name)?;
        check_probability(METHOD.name, "module_dropout", self.module_dropout)?;
        self.biases()?;
        if (self.r == 0) == (self.oft_block_size == 0) {
            let found = format!("{} with `oft_block_size` {}", self.r, self.oft_block_size);
            let expected = "one of the two above 0 and the other 0: their product is a map's width";
            return Err(wrong(METHOD.name, "r", found, expected));
        }
        if self.coft && !(self.eps > 0.0 && self.eps.is_finite()) {
            return Err(wrong(METHOD.name, "eps", self.eps.to_string(), "a positive number"));
        }
        // The first term is the identity alone: nothing would be trained.
        if self.use_cayley_neumann && !(2..=1000).contains(&self.num_cayley_neumann_terms) {
            let found = self.num_cayley_neumann_terms.to_string();
            return Err(wrong(METHOD.name, "num_cayley_neumann_terms", found, "2 to 1000 terms"));
        }
        Ok(())
    }

    fn biases(&self) -> Result<Biases, EditError> {
        Biases::parse(METHOD.name, &self.bias, "oft_only")
    }

    /// Number and side of the blocks over `inputs`.
    fn blocks(&self, inputs: usize) -> (usize, usize) {
        match self.r {
            0 => {
                let side = nearest_divisor(inputs, self.oft_block_size);
                (inputs / side, side)
            }
            r => {
                let count = nearest_divisor(inputs, r);
                (count, inputs / count)
            }
        }
    }

    fn plan_map(&self, plan: &mut Plan, weight: &BaseWeight) -> Result<(), EditError> {
        let inputs = weight.shape[1];
        let (count, side) = self.blocks(inputs);
        if side < 2 {
            let (found, module) = (format!("{count} blocks"), weight.module());
            let expected = format!("blocks of 2 or more of the {inputs} inputs of `{module}`");
            return Err(wrong(METHOD.name, "r", found, expected));
        }
        let kept = if self.block_share { 1 } else { count };
        let init = if self.init_weights { Init::Zeros } else { Init::Normal { std: 0.1 } };
        let shape = [kept, side * (side - 1) / 2];
        let param = ParamPlan::new(key(weight.module(), "oft_R.weight"), &shape, init).full_precision();
        let rotation = Rotation {
            side,
            terms: self.use_cayley_neumann.then_some(self.num_cayley_neumann_terms),
            radius: self.coft.then(|| radius(self.eps, kept)),
            dropout: self.module_dropout as f32,
        };
        plan.on_linear(weight, InputMapPart(rotation), [param]);
        Ok(())
    }
}

/// The divisor of `whole` nearest to `wanted`, the smaller of two.
fn nearest_divisor(whole: usize, wanted: usize) -> usize {
    if wanted >= whole {
        return whole;
    }
    let divides = |n: &usize| whole.is_multiple_of(*n);
    let above = (wanted..=whole).find(divides).unwrap_or(whole);
    let below = (1..=wanted).rev().find(divides).unwrap_or(1);
    if wanted - below <= above - wanted { below } else { above }
}

/// The bound on the norm of one of `blocks` blocks.
fn radius(eps: f64, blocks: usize) -> f32 {
    (eps / (blocks as f64).sqrt()) as f32
}

impl Method for OftConfig {
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

    /// Sizes that do not divide a width, once for each width.
    fn remarks(&self, plan: &Plan, base: &Base) -> Vec<String> {
        let mapped = plan.mapped_modules();
        let mut modules: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        for weight in base.linears().filter(|w| mapped.iter().any(|module| module == w.module())) {
            modules.entry(weight.shape[1]).or_default().push(weight.module());
        }
        let remark = |(inputs, modules): (usize, Vec<&str>)| {
            let (count, side) = self.blocks(inputs);
            let (field, asked, used) = match self.r {
                0 => ("oft_block_size", self.oft_block_size, side),
                r => ("r", r, count),
            };
            let maps = format!("{inputs} inputs of `{}` (maps of this width: {})", modules[0], modules.len());
            let text =
                format!("`oft`: `{field}` {asked} does not divide the {maps}; {used} is used there, as PEFT does");
            (asked != used).then_some(text)
        };
        modules.into_iter().filter_map(remark).collect()
    }

    fn training(&self, _edit: &Edit) -> Option<Box<dyn TrainingRules>> {
        self.coft.then(|| Box::new(Projection { eps: self.eps }) as Box<dyn TrainingRules>)
    }
}

/// The rotation before one map; its one value is the part above the diagonal of every `Q`, `f32`.
struct Rotation {
    side: usize,
    /// Terms of the series; `None` is the exact transform.
    terms: Option<usize>,
    /// The bound on `‖Q‖` (`coft`).
    radius: Option<f32>,
    dropout: f32,
}

impl InputMap for Rotation {
    fn apply(&self, tape: &Tape, values: &[Var], x: &Var, applied: Applied, noise: Option<RandomKey>) -> Var {
        // In training the projection was made before the step, so that the gradient is that of the projected numbers.
        let upper = match (self.radius, noise) {
            (Some(radius), None) => projected(tape, &values[0], radius),
            _ => values[0].clone(),
        };
        let q = ops::skew_from_upper(tape, &upper, self.side);
        let r = match self.terms {
            Some(terms) => series(tape, &q, terms),
            None => ops::cayley(tape, &q),
        };
        let r = match noise {
            Some(key) => with_left_out(tape, r, self.dropout, key),
            None => r,
        };
        let r = match (applied, self.terms) {
            (Applied::Forward, _) | (Applied::Unmerged, None) => r,
            (Applied::Merged, _) => ops::block_transpose(tape, &r),
            (Applied::Unmerged, Some(_)) => ops::block_transpose(tape, &inverses(tape, &r)),
        };
        rotated(tape, x, &r)
    }
}

/// `x blockdiag(r, …)`; a single block stands at every place.
fn rotated(tape: &Tape, x: &Var, r: &Var) -> Var {
    let (rows, width) = x.value.rows_cols();
    let side = r.value.dim(1);
    if r.value.dim(0) * side == width {
        return ops::rotate_blocks(tape, x, r);
    }
    let split = ops::reshape(tape, x, &[rows * (width / side), side]);
    ops::reshape(tape, &ops::rotate_blocks(tape, &split, r), x.value.dims())
}

/// `I + 2 Q + 2 Q² + … + Q^m`, `m = terms − 1`: the last power counts once. PEFT's series has a cube already with three terms.
fn series(tape: &Tape, q: &Var, terms: usize) -> Var {
    let mut sum = ops::add_scaled(tape, &identity(q), q, 2.0);
    if terms > 2 {
        let mut power = ops::block_products(tape, q, q);
        sum = ops::add_scaled(tape, &sum, &power, 2.0);
        for _ in 3..terms - 1 {
            power = ops::block_products(tape, &power, q);
            sum = ops::add_scaled(tape, &sum, &power, 2.0);
        }
        power = ops::block_products(tape, &power, q);
        sum = ops::add(tape, &sum, &power);
    }
    sum
}

/// Identities like the blocks `q`.
fn identity(q: &Var) -> Var {
    let (count, side) = (q.value.dim(0), q.value.dim(1));
    let mut out = Tensor::zeros([count, side, side], DType::F32);
    for block in out.as_mut_slice::<f32>().chunks_exact_mut(side * side) {
        block.iter_mut().step_by(side + 1).for_each(|v| *v = 1.0);
    }
    Var::constant(out)
}

/// `r⁻¹` of each block, by `cayley(r − I) = 2 r⁻¹ − I`.
pub(super) fn inverses(tape: &Tape, r: &Var) -> Var {
    let identity = identity(r);
    let cayley = ops::cayley(tape, &ops::add_scaled(tape, r, &identity, -1.0));
    ops::scale(tape, &ops::add(tape, &cayley, &identity), 0.5)
}

/// The blocks with `⌊p n⌋` of them replaced by the identity. A shared block is never left out.
pub(super) fn with_left_out(tape: &Tape, r: Var, p: f32, key: RandomKey) -> Var {
    let (count, side) = (r.value.dim(0), r.value.dim(1));
    let left_out = (p * count as f32) as usize;
    if left_out == 0 || count == 1 {
        return r;
    }
    let mut kept = vec![1f32; count];
    key.permutation(count)[..left_out].iter().for_each(|block| kept[*block] = 0.0);
    let others: Vec<f32> = kept.iter().map(|k| 1.0 - k).collect();
    let factors = |values: &[f32]| Var::constant(Tensor::from_slice([count], values));
    let flat = |blocks: &Var| ops::reshape(tape, blocks, &[count, side * side]);
    let own = ops::scale_rows(tape, &flat(&r), &factors(&kept));
    let identity = ops::scale_rows(tape, &flat(&identity(&r)), &factors(&others));
    ops::reshape(tape, &ops::add(tape, &own, &identity), &[count, side, side])
}

/// For each block the factor that brings its `‖Q‖` within `radius`; `upper` `[blocks, k (k − 1) / 2]`.
fn factors(upper: &Tensor, radius: f32) -> Vec<f32> {
    let (_, width) = upper.rows_cols();
    let factor = |block: &[f32]| {
        // Every number stands in `Q` twice.
        let norm = (2.0 * block.iter().map(|v| v * v).sum::<f32>()).sqrt();
        if norm <= radius { 1.0 } else { radius / norm }
    };
    upper.as_slice::<f32>().chunks_exact(width).map(factor).collect()
}

fn projected(tape: &Tape, upper: &Var, radius: f32) -> Var {
    let factors = factors(&upper.value, radius);
    ops::scale_rows(tape, upper, &Var::constant(Tensor::from_slice([factors.len()], &factors)))
}

/// `coft`: before every step the parameters go back into their ball.
struct Projection {
    eps: f64,
}

impl TrainingRules for Projection {
    fn begin(&mut self, edit: &mut Edit, _moment: &Moment) {
        for param in edit.params.iter_mut().filter(|p| p.key.ends_with(".oft_R.weight")) {
            let (blocks, width) = param.value.rows_cols();
            let factors = factors(&param.value, radius(self.eps, blocks));
            let rows = param.value.as_mut_slice::<f32>().chunks_exact_mut(width);
            rows.zip(factors).for_each(|(row, factor)| row.iter_mut().for_each(|v| *v *= factor));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_do_not_divide_become_the_nearest_divisor() {
        // As PEFT's `adjust_oft_parameters` on the same numbers.
        let cases = [(48, 32, 24), (48, 20, 16), (48, 5, 4), (48, 7, 6), (32, 64, 32), (32, 8, 8)];
        for (whole, wanted, expected) in cases {
            assert_eq!(nearest_divisor(whole, wanted), expected, "{wanted} in {whole}");
        }
    }

    #[test]
    fn the_series_approaches_the_transpose_of_the_exact_transform() {
        let upper = Var::constant(Tensor::from_slice([1, 6], &[0.05f32, -0.03, 0.02, 0.04, -0.05, 0.01]));
        let tape = Tape::off();
        let q = ops::skew_from_upper(&tape, &upper, 4);
        let exact = ops::cayley(&tape, &q);
        let turned = ops::block_transpose(&tape, &exact).value.to_vec_f32();
        let distance = |terms, to: &[f32]| {
            let ours = series(&tape, &q, terms).value.to_vec_f32();
            ours.iter().zip(to).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        assert!(distance(5, &turned) < 1e-4, "{}", distance(5, &turned));
        assert!(distance(9, &turned) < 1e-6, "{}", distance(9, &turned));
        assert!(distance(5, &exact.value.to_vec_f32()) > 0.1);
    }
}
