//! The pair on a linear map, `y += s · drop(x) Aᵀ Bᵀ`, handed to the engine as one operation with the map; and `lora_bias`,
//! `y += s · v`.

use std::sync::Arc;

use hone_engine::ops::{self, LowRank};
use hone_engine::{Tensor, Var, WeightRef, matmul};
use hone_model::Linear;

use crate::base::Base;
use crate::forms::dropout;
use crate::method::{At, Init, LinearEffect, LowRankPair, Merge, ParamPlan, Part, Place, Placed, Plan};
use crate::planning::key;

/// `A` `[r, in]`, `B` `[out, r]`; where the pair started from the weight, the frozen `A₀`, `B₀` as well, which are
/// subtracted.
pub struct Pair {
    /// `alpha / r`.
    pub scale: f32,
    /// On the input of `A`.
    pub dropout: f32,
}

impl Part for Pair {
    fn on_linear(&self, at: &At, _linear: &Linear, _weight: &WeightRef) -> LinearEffect {
        let scale = self.scale * at.strength;
        let term = |a: &Var, b: &Var, scale, dropout| LowRank { a: a.clone(), b: b.clone(), scale, dropout };
        let mut terms = vec![term(&at.values[0], &at.values[1], scale, dropout(at, self.dropout))];
        if let [_, _, a, b] = at.values {
            // A part of the weight, so it sees the whole input.
            terms.push(term(a, b, -scale, None));
        }
        LinearEffect::Fused { weight: None, terms }
    }

    fn low_rank(&self, values: &[Tensor], _group: Option<u32>) -> Option<LowRankPair> {
        // With a residual pair beside it, it is a product of twice the rank.
        let (a, b) = match values {
            [a, b, a0, b0] => (stacked(a, a0), beside(b, b0)),
            values => (values[0].clone(), values[1].clone()),
        };
        Some(LowRankPair { a, b, scale: self.scale })
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let mut out = merge.weight.clone();
        let scale = merge.direction.sign() * merge.strength * self.scale;
        matmul::matmul_nn_add(&mut out, scale, &merge.values[1], &merge.values[0]);
        if let [_, _, a, b] = merge.values {
            matmul::matmul_nn_add(&mut out, -scale, b, a);
        }
        Ok(out)
    }
}

/// `[a; a₀]`.
fn stacked(a: &Tensor, a0: &Tensor) -> Tensor {
    let values = [a.as_slice::<f32>(), a0.as_slice::<f32>()].concat();
    Tensor::from_slice([a.dim(0) + a0.dim(0), a.dim(1)], &values)
}

/// `[b, −b₀]`.
fn beside(b: &Tensor, b0: &Tensor) -> Tensor {
    let (left, right) = (b.dim(1), b0.dim(1));
    let rows = b.as_slice::<f32>().chunks_exact(left).zip(b0.as_slice::<f32>().chunks_exact(right));
    let values: Vec<f32> = rows.flat_map(|(l, r)| l.iter().copied().chain(r.iter().map(|v| -v))).collect();
    Tensor::from_slice([b.dim(0), left + right], &values)
}

/// The bias of `B` on `module` with `out` outputs: added to the map's own bias where it has one, else to its output.
pub(super) fn plan_bias(plan: &mut Plan, module: &str, out: usize, scale: f32, base: &Base) {
    let params = plan.add([ParamPlan::new(key(module, "lora_B.bias"), &[out], Init::Zeros)]);
    let own = format!("{module}.bias");
    let place = match base.weight(&own) {
        Some(_) => Place::Weight(own),
        None => Place::Linear(module.to_string()),
    };
    plan.placed.push(Placed { place, part: Arc::new(Bias { scale }), params });
}

/// `s · v`.
struct Bias {
    scale: f32,
}

impl Part for Bias {
    fn around_linear(&self, at: &At, _linear: &Linear, x: &Var, next: &dyn Fn(&Var) -> Var) -> Var {
        let tape = &at.cx.tape;
        ops::add_row(tape, &next(x), &ops::scale(tape, &at.values[0], self.scale * at.strength))
    }

    fn on_vector(&self, at: &At, value: Var) -> Var {
        ops::add_scaled(&at.cx.tape, &value, &at.values[0], self.scale * at.strength)
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        if merge.weight.dims() != merge.values[0].dims() {
            return Err("`lora_bias` has no bias of the map to go into; keep the adapter apart, as PEFT does".into());
        }
        let mut out = merge.weight.clone();
        let scale = merge.direction.sign() * merge.strength * self.scale;
        let change = merge.values[0].as_slice::<f32>();
        out.as_mut_slice::<f32>().iter_mut().zip(change).for_each(|(to, v)| *to += scale * v);
        Ok(out)
    }
}
