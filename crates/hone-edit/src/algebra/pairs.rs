//! Combinations of low-rank pairs, module by module, and the LoRA that comes of them.
//!
//! A module has the pairs `(Aᵢ [r, in], Bᵢ [out, r], sᵢ)` of those edits that target it; the others are absent, not
//! zero (a mean over the edits is one over those present, as in PEFT).
//!
//! The result is an ordinary LoRA with `alpha = r`, so scale 1, of one rank throughout; modules with less rank are
//! filled up with zeros. With [`products`], `B = U diag(s)` and `A = Vᵀ`, as in PEFT.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hone_engine::{DType, Tensor, matmul};

use super::rules::Ruling;
use super::{How, Operand, Rule, cannot};
use crate::base::Base;
use crate::decompose;
use crate::error::EditError;
use crate::method::{Edit, LowRankPair, Place};
use crate::methods::lora::LoraConfig;
use crate::target::OneOrMany;

/// The pairs on one module, with the weights of their edits.
struct AtModule {
    pairs: Vec<LowRankPair>,
    weights: Vec<f32>,
}

/// `[B₁ B₂ …]` and `[λ₁ s₁ A₁; λ₂ s₂ A₂; …]`.
pub fn concatenated(how: &How, operands: &[Operand], base: &Base) -> Result<Edit, EditError> {
    let modules = by_module(how, operands)?;
    lora_of(base, modules.iter().map(|(module, at)| (module.clone(), at.side_by_side())).collect(), None)
}

/// `A = rule(Aᵢ)` with weights `± √|λᵢ sᵢ|` (the sign on this side), `B = rule(Bᵢ)` with weights `√|λᵢ sᵢ|`.
pub fn factors(how: &How, operands: &[Operand], base: &Base, ruling: &Ruling) -> Result<Edit, EditError> {
    let mut combined = BTreeMap::new();
    for (module, at) in by_module(how, operands)? {
        if let Some(other) = at.pairs.iter().find(|p| p.rank() != at.pairs[0].rank()) {
            let reason = format!(
                "the edits have ranks {} and {} there, and it combines factors of one rank; use `cat` or one of \
                 the `svd` ways",
                at.pairs[0].rank(),
                other.rank()
            );
            return Err(cannot(how, None, Some(&module), &reason));
        }
        let scales: Vec<f32> = at.pairs.iter().zip(&at.weights).map(|(pair, weight)| weight * pair.scale).collect();
        let root = |s: &f32| s.abs().sqrt();
        let signed: Vec<f32> = scales.iter().map(|s| if *s >= 0.0 { root(s) } else { -root(s) }).collect();
        let plain: Vec<f32> = scales.iter().map(root).collect();
        let (a, b): (Vec<Tensor>, Vec<Tensor>) = at.pairs.into_iter().map(|p| (p.a, p.b)).unzip();
        let a = ruling.apply(&a, &signed, &format!("{module}.lora_A"));
        let b = ruling.apply(&b, &plain, &format!("{module}.lora_B"));
        combined.insert(module, (a, b));
    }
    lora_of(base, combined, None)
}

/// `rule(sᵢ Bᵢ Aᵢ)`, cut to `rank` (the largest rank among the edits, if it is not given).
pub fn products(
    how: &How,
    operands: &[Operand],
    base: &Base,
    ruling: &Ruling,
    rank: Option<usize>,
) -> Result<Edit, EditError> {
    if rank == Some(0) {
        return Err(cannot(how, None, None, "a rank of 0 holds nothing; ask for 1 or more"));
    }
    let modules = by_module(how, operands)?;
    let largest = modules.values().flat_map(|at| &at.pairs).map(LowRankPair::rank).max().unwrap_or(1);
    let rank = rank.unwrap_or(largest);
    let mut combined = BTreeMap::new();
    for (module, at) in modules {
        let svd = if ruling.rule == Rule::Sum {
            // The sum of low-rank products is one, and need not be multiplied out.
            let (a, b) = at.side_by_side();
            decompose::svd_of_product(&b, &a)?
        } else {
            let deltas: Vec<Tensor> = at.pairs.iter().map(LowRankPair::product).collect();
            decompose::svd(&ruling.apply(&deltas, &at.weights, &module))?
        };
        let svd = svd.truncated(rank);
        let mut b = svd.u;
        for row in b.as_mut_slice::<f32>().chunks_exact_mut(svd.s.len().max(1)) {
            row.iter_mut().zip(&svd.s).for_each(|(v, s)| *v *= s);
        }
        combined.insert(module, (svd.vt, b));
    }
    lora_of(base, combined, Some(rank))
}

impl AtModule {
    /// One pair of scale 1 whose product is `Σ λᵢ sᵢ Bᵢ Aᵢ`.
    fn side_by_side(&self) -> (Tensor, Tensor) {
        let (inputs, out) = (self.pairs[0].a.dim(1), self.pairs[0].b.dim(0));
        let rank = self.pairs.iter().map(LowRankPair::rank).sum();
        let mut a = Vec::with_capacity(rank * inputs);
        for (pair, weight) in self.pairs.iter().zip(&self.weights) {
            a.extend(pair.a.as_slice::<f32>().iter().map(|v| v * weight * pair.scale));
        }
        let mut b = Vec::with_capacity(rank * out);
        for row in 0..out {
            self.pairs.iter().for_each(|p| b.extend_from_slice(&p.b.as_slice::<f32>()[row * p.rank()..][..p.rank()]));
        }
        (Tensor::from_slice([rank, inputs], &a), Tensor::from_slice([out, rank], &b))
    }
}

impl LowRankPair {
    /// Columns of `B` and rows of `A`.
    pub fn rank(&self) -> usize {
        self.a.dim(0)
    }

    /// `s B A`, `[out, in]`.
    pub fn product(&self) -> Tensor {
        let mut out = Tensor::zeros([self.b.dim(0), self.a.dim(1)], DType::F32);
        matmul::matmul_nn_add(&mut out, self.scale, &self.b, &self.a);
        out
    }
}

/// Every pair, by module path. An edit that is more than pairs is refused.
fn by_module(how: &How, operands: &[Operand]) -> Result<BTreeMap<String, AtModule>, EditError> {
    let mut modules: BTreeMap<String, AtModule> = BTreeMap::new();
    for operand in operands {
        for placed in &operand.edit.placed {
            let values: Vec<Tensor> = placed.params.iter().map(|&p| operand.edit.params[p].value.clone()).collect();
            let pair = placed.part.low_rank(&values, None);
            let (Place::Linear(module), Some(pair)) = (&placed.place, pair) else {
                let method = operand.edit.method.info().name;
                let reason = format!(
                    "it combines low-rank pairs, and `{method}` does something else there; \
                     `task_arithmetic` combines whatever can be merged"
                );
                return Err(cannot(how, Some(&operand.name), Some(&placed.place.to_string()), &reason));
            };
            let at = modules.entry(module.clone()).or_insert(AtModule { pairs: Vec::new(), weights: Vec::new() });
            at.pairs.push(pair);
            at.weights.push(operand.weight);
        }
    }
    Ok(modules)
}

/// The LoRA that holds `pairs` (by module: `A` `[r, in]`, `B` `[out, r]`, scale 1), of rank `rank` or the largest there
/// is.
pub fn lora_of(base: &Base, pairs: BTreeMap<String, (Tensor, Tensor)>, rank: Option<usize>) -> Result<Edit, EditError> {
    let rank = rank.or_else(|| pairs.values().map(|(a, _)| a.dim(0)).max()).unwrap_or(1);
    let config = LoraConfig {
        r: rank,
        lora_alpha: rank as f64,
        target_modules: Some(OneOrMany::Many(targets(base, &pairs))),
        task_type: Some("CAUSAL_LM".into()),
        ..LoraConfig::default()
    };
    let mut values = BTreeMap::new();
    for (module, (a, b)) in pairs {
        values.insert(format!("base_model.model.{module}.lora_A.weight"), filled_up(&a, rank, a.dim(1)));
        values.insert(format!("base_model.model.{module}.lora_B.weight"), filled_up(&b, b.dim(0), rank));
    }
    Edit::with_values(Arc::new(config), base, |plan| {
        values.remove(&plan.key).ok_or_else(|| EditError::NoTarget {
            field: "target_modules",
            target: plan.key.clone(),
            what: "pair",
            near: "the combination made none for it".into(),
        })
    })
}

/// The shortest names that mean exactly these modules: last parts of their paths, or whole paths.
fn targets(base: &Base, pairs: &BTreeMap<String, (Tensor, Tensor)>) -> Vec<String> {
    let last = |module: &str| module.rsplit('.').next().unwrap_or(module).to_string();
    let short: BTreeSet<String> = pairs.keys().map(|module| last(module)).collect();
    let meant = base.linears().filter(|w| short.contains(&last(w.module()))).count();
    match meant == pairs.len() {
        true => short.into_iter().collect(),
        false => pairs.keys().cloned().collect(),
    }
}

/// `matrix` in the upper left corner of a matrix of zeros.
fn filled_up(matrix: &Tensor, rows: usize, columns: usize) -> Tensor {
    if matrix.dims() == [rows, columns] {
        return matrix.clone();
    }
    let width = matrix.dim(1);
    let mut out = Tensor::zeros([rows, columns], DType::F32);
    let from = matrix.as_slice::<f32>().chunks_exact(width.max(1));
    for (to, from) in out.as_mut_slice::<f32>().chunks_exact_mut(columns).zip(from) {
        to[..width].copy_from_slice(from);
    }
    out
}
