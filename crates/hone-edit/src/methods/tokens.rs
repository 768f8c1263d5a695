//! Rows of an embedding table trained whole, the rest frozen: the embeddings of chosen tokens.
//!
//! `E[v_k] ← V[k]` for the chosen tokens `v`, `V` `[n, hidden]`, which starts at the base's rows (the model is unchanged).
//! Where the LM head is the table, it has the same rows, as in PEFT. Despite its name in PEFT (`trainable_tokens_delta`),
//! the file holds the new rows, not differences. With strength `s`: `E + s (V − E)` in these rows.
//!
//! It is the method `trainable_tokens` and LoRA's field `trainable_token_indices`. Parameters: `n · hidden`.

use std::collections::BTreeSet;
use std::sync::Arc;

use hone_engine::{DType, Tensor, Var, WeightRef, ops};

use crate::base::{Base, BaseWeight};
use crate::error::EditError;
use crate::method::{At, Init, Merge, ParamPlan, Part, Place, Placed, Plan};
use crate::planning::wrong;

/// Plans rows `ids` of the table `weight`, under `key`; an error names `field` of `method`.
pub(crate) fn plan_rows(
    plan: &mut Plan,
    (method, field): (&'static str, &'static str),
    weight: &BaseWeight,
    ids: &[u32],
    key: String,
) -> Result<(), EditError> {
    let (rows, width) = (weight.shape[0], weight.shape[1]);
    if ids.is_empty() {
        return Err(wrong(method, field, "no token", "ids of the tokens to train"));
    }
    if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
        return Err(wrong(
            method,
            field,
            format!("token {id}"),
            format!("ids below {rows}, the rows of `{}`", weight.name),
        ));
    }
    if ids.iter().collect::<BTreeSet<_>>().len() < ids.len() {
        return Err(wrong(method, field, format!("{ids:?}"), "each token once"));
    }
    let (name, ids): (String, Arc<[u32]>) = (weight.name.clone(), ids.into());
    let first = {
        let (name, ids) = (name.clone(), ids.clone());
        move |base: &Base| match base.weight(&name) {
            Some(table) => rows_of(&table.to_f32(), &ids),
            None => Tensor::zeros([ids.len(), width], DType::F32),
        }
    };
    let param = ParamPlan::new(key, &[ids.len(), width], Init::Computed(Box::new(first))).without_decay();
    let params = plan.add([param]);
    plan.placed.push(Placed { place: Place::Weight(name), part: Arc::new(Rows { ids }), params });
    Ok(())
}

fn rows_of(table: &Tensor, ids: &[u32]) -> Tensor {
    ops::gather_rows(&hone_engine::Tape::off(), &Var::constant(table.clone()), ids).value
}

/// The part; its one parameter is `V`.
struct Rows {
    ids: Arc<[u32]>,
}

impl Part for Rows {
    fn on_matrix(&self, at: &At, weight: WeightRef) -> WeightRef {
        let tape = &at.cx.tape;
        at.once(|| {
            let table = match &weight {
                WeightRef::Frozen(weight) => Var::constant(weight.to_dense(at.cx.dtype)),
                WeightRef::Trained(var) => var.clone(),
            };
            let new = match at.strength {
                1.0 => at.values[0].clone(),
                strength => {
                    let own = ops::scale(tape, &ops::gather_rows(tape, &table, &self.ids), 1.0 - strength);
                    ops::add_scaled(tape, &own, &at.values[0], strength)
                }
            };
            ops::set_rows(tape, &table, &self.ids, &new)
        })
    }

    fn replaced_rows(&self) -> &[u32] {
        &self.ids
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let mut out = merge.weight.clone();
        let (_, width) = out.rows_cols();
        let (sign, base) = (merge.direction.sign() * merge.strength, merge.base()?.as_slice::<f32>());
        let values = merge.values[0].as_slice::<f32>().chunks_exact(width);
        let to = out.as_mut_slice::<f32>();
        for (id, new) in self.ids.iter().zip(values) {
            let at = *id as usize * width..(*id as usize + 1) * width;
            let row = to[at.clone()].iter_mut().zip(new.iter().zip(&base[at]));
            row.for_each(|(to, (new, base))| *to += sign * (new - base));
        }
        Ok(out)
    }
}
