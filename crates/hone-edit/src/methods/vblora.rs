//! VB-LoRA (Li et al. 2024, "VB-LoRA: Extreme Parameter Efficient Fine-Tuning with Vector Banks", arXiv 2405.15179): `W + B
//! A`, where the pairs of all maps are put together of pieces from one bank of trained vectors: a piece is the mean of the
//! `topk` vectors with the highest logits, weighted by the softmax of those.
//!
//! Bank `[num_vectors, L]`, logits `[r, in/L, num_vectors]` for `A` and `[out/L, r, num_vectors]` for `B`; `L` divides both
//! sides of every map. There is no scale. Start: bank `U(±init_vector_bank_bound)`, logits `N(0, init_logits_std²)`. **The
//! model is not unchanged**, by the size of the bank's square. Parameters: the bank once, and `r (in + out) / L ·
//! num_vectors` a map (an adapter needs only `topk` of each `num_vectors` after training; PEFT's `save_only_topk_weights`,
//! which writes just those, is not built).

use std::sync::Arc;

use hone_engine::{Tape, Var, ops};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::{Base, BaseWeight};
use crate::biases::Biases;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::{MadePair, MadePairPart};
use crate::method::{Init, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase};
use crate::planning::{Q_AND_V, TargetFields, check_probability, check_rank, key, wrong};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "vblora",
    peft_type: "VBLORA",
    family: "low rank",
    summary: "low-rank pairs put together of vectors that all maps share",
    paper: "arXiv 2405.15179",
    formula: "W + B A, pieces Σ_topk softmax(logits) bank",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<VbLoraConfig>(),
};

/// Hugging Face's `VBLoRAConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct VbLoraConfig {
    /// Rank.
    pub r: usize,
    /// Vectors in the bank.
    pub num_vectors: usize,
    /// Length of a vector; it divides both sides of every map. Hugging Face's default is 256; a recipe's is 64.
    pub vector_length: usize,
    /// Vectors that make up a piece.
    pub topk: usize,
    /// Dropout on the input of `A`.
    pub vblora_dropout: f64,
    /// Half the width of the bank's first values.
    pub init_vector_bank_bound: f64,
    /// Standard deviation of the first logits.
    pub init_logits_std: f64,
    /// Which biases are trained: `none`, `all`, `vblora_only`.
    pub bias: String,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for VbLoraConfig {
    fn default() -> Self {
        VbLoraConfig {
            r: 4,
            num_vectors: 256,
            vector_length: 256,
            topk: 2,
            vblora_dropout: 0.0,
            init_vector_bank_bound: 0.02,
            init_logits_std: 0.1,
            bias: "none".into(),
            targets: TargetFields::default(),
        }
    }
}

const INERT: &[Inert] = &[
    config::TRANSPOSED,
    Inert {
        field: "save_only_topk_weights",
        off: &["false"],
        reason: "an adapter without its logits cannot be trained on, and reading one is not built",
    },
];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let fields = TargetFields::recommended(fields, origin, &[("vector_length", json!(64))]);
    let vblora: VbLoraConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    vblora.targets.check(METHOD.name)?;
    for (field, value) in
        [("r", vblora.r), ("num_vectors", vblora.num_vectors), ("vector_length", vblora.vector_length)]
    {
        check_rank(METHOD.name, field, value)?;
    }
    check_probability(METHOD.name, "vblora_dropout", vblora.vblora_dropout)?;
    if vblora.topk == 0 || vblora.topk > vblora.num_vectors {
        let expected = format!("1 to {}, the vectors there are", vblora.num_vectors);
        return Err(wrong(METHOD.name, "topk", vblora.topk.to_string(), expected));
    }
    vblora.biases()?;
    Ok(Arc::new(vblora))
}

impl VbLoraConfig {
    fn biases(&self) -> Result<Biases, EditError> {
        Biases::parse(METHOD.name, &self.bias, "vblora_only")
    }

    fn plan_map(&self, plan: &mut Plan, weight: &BaseWeight) -> Result<(), EditError> {
        let (module, out, inputs) = (weight.module(), weight.shape[0], weight.shape[1]);
        let (r, length, vectors) = (self.r, self.vector_length, self.num_vectors);
        if !out.is_multiple_of(length) || !inputs.is_multiple_of(length) {
            let expected = format!("a divisor of both sides of `{module}`, [{out}, {inputs}]");
            return Err(wrong(METHOD.name, "vector_length", length.to_string(), expected));
        }
        let logits = |name: &str, shape: [usize; 3]| {
            let init = Init::Normal { std: self.init_logits_std as f32 };
            ParamPlan::new(key(module, name), &shape, init).full_precision()
        };
        let own = [
            logits("vblora_logits_A", [r, inputs / length, vectors]),
            logits("vblora_logits_B", [out / length, r, vectors]),
        ];
        let part = MadePairPart { made: Pieces { topk: self.topk }, dropout: self.vblora_dropout as f32 };
        plan.on_linear_sharing(weight, part, 0..1, own);
        Ok(())
    }
}

impl Method for VbLoraConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let bound = self.init_vector_bank_bound as f32;
        let shape = [self.num_vectors, self.vector_length];
        let bank = ParamPlan::new("base_model.vblora_vector_bank", &shape, Init::Uniform { bound });
        let mut bank = Some(bank);
        self.targets.plan_with_biases(
            METHOD.name,
            base,
            Q_AND_V,
            (self.fields(), INERT),
            self.biases()?,
            |plan, weight| {
                plan.add(bank.take());
                self.plan_map(plan, weight)
            },
        )
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

struct Pieces {
    topk: usize,
}

impl Pieces {
    /// One row for each row of logits `[…, num_vectors]`: the weighted mean of its best vectors, `[rows, L]`.
    fn mixed(&self, tape: &Tape, bank: &Var, logits: &Var) -> Var {
        let (rows, vectors) = logits.value.rows_cols();
        let values = logits.value.as_slice::<f32>();
        let mut best = Vec::with_capacity(rows * self.topk);
        for row in values.chunks_exact(vectors) {
            let mut order: Vec<u32> = (0..vectors as u32).collect();
            order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b)));
            best.extend_from_slice(&order[..self.topk]);
        }
        let flat = |(at, vector): (usize, &u32)| (at / self.topk * vectors) as u32 + vector;
        let places: Vec<u32> = best.iter().enumerate().map(flat).collect();
        let chosen = ops::gather_rows(tape, &ops::reshape(tape, logits, &[rows * vectors, 1]), &places);
        let shares = ops::softmax_rows(tape, &ops::reshape(tape, &chosen, &[rows, self.topk]));
        let pieces = ops::scale_rows(tape, &ops::gather_rows(tape, bank, &best), &shares);
        let ranges: Vec<std::ops::Range<usize>> = (0..rows).map(|row| row * self.topk..(row + 1) * self.topk).collect();
        ops::scale(tape, &ops::segment_means(tape, &pieces, &ranges), self.topk as f32)
    }
}

impl MadePair for Pieces {
    fn pair(&self, tape: &Tape, values: &[Var]) -> (Var, Var) {
        let [bank, of_a, of_b] = values else { unreachable!("VB-LoRA plans a bank and two sets of logits") };
        let length = bank.value.rows_cols().1;
        let (r, across) = (of_a.value.dim(0), of_a.value.dim(1));
        let down = of_b.value.dim(0);
        let a = ops::reshape(tape, &self.mixed(tape, bank, of_a), &[r, across * length]);
        // Rows `(piece, rank)` come in the order `(rank, piece)`, so that a rank's pieces are one row.
        let order: Vec<u32> = (0..r).flat_map(|k| (0..down).map(move |piece| (piece * r + k) as u32)).collect();
        let b = ops::gather_rows(tape, &self.mixed(tape, bank, of_b), &order);
        (a, ops::transpose(tape, &ops::reshape(tape, &b, &[r, down * length])))
    }
}
