//! LoRA on the embedding table: `h[t] = E[v_t] + s (B A)[:, v_t]`, with `A` `[r, vocabulary]` and `B` `[hidden, r]`.
//!
//! Start: `A` 0, `B ~ N(0, 1)`, so the model is unchanged (`init_lora_weights: false`: both normal). Parameters: `r
//! (vocabulary + hidden)`.
//!
//! Only the rows of a batch's tokens are computed. Where the LM head is the embedding table, the head stays as the base has
//! it, as in PEFT; merging therefore gives the head a matrix of its own. (PEFT's own merge writes into the matrix they
//! share, and so changes the head too; here merging changes no logits.) PEFT writes the whole table beside the pair
//! (`base_layer.weight`), and so does Hone; reading checks that it is the model's.

use std::sync::Arc;

use hone_engine::{Tensor, Var, matmul, ops};
use hone_model::Site;

use crate::base::{Base, BaseWeight};
use crate::method::{At, Init, Merge, ParamPlan, Part, Place, Placed, Plan};
use crate::planning::key;
use crate::replace::pin_tied_head;

/// A pair on the table.
pub(super) struct Table {
    pub rank: usize,
    pub scale: f32,
    pub start_unchanged: bool,
    /// LoRA+'s.
    pub ratio: f64,
}

/// Plans a pair on the table `weight`.
pub(super) fn plan(plan: &mut Plan, weight: &BaseWeight, base: &Base, table: Table) {
    let (module, vocabulary, hidden) = (weight.module(), weight.shape[0], weight.shape[1]);
    let a = if table.start_unchanged { Init::Zeros } else { Init::Normal { std: 1.0 } };
    let params = plan.add([
        ParamPlan::new(key(module, "lora_embedding_A"), &[table.rank, vocabulary], a),
        ParamPlan::new(key(module, "lora_embedding_B"), &[hidden, table.rank], Init::Normal { std: 1.0 })
            .learning_rate_factor(table.ratio),
    ]);
    plan.add(
        [ParamPlan::new(key(module, "base_layer.weight"), &weight.shape, Init::Base(weight.name.clone())).fixed()],
    );
    let part: Arc<dyn Part> = Arc::new(Rows { scale: table.scale, factor: base.embedding_factor });
    // It runs on the rows that were looked up, and is merged into the table.
    for place in [Place::Activation(Site::EmbedOut), Place::Weight(weight.name.clone())] {
        plan.placed.push(Placed { place, part: part.clone(), params: params.clone() });
    }
    pin_tied_head(plan, base);
}

struct Rows {
    scale: f32,
    /// What the model multiplies its embeddings by.
    factor: f32,
}

impl Part for Rows {
    fn on_activation(&self, at: &At, h: Var) -> Var {
        let tape = &at.cx.tape;
        let table = ops::transpose(tape, &at.values[0]);
        let inner = ops::gather_rows(tape, &table, &at.cx.batch.ids);
        let rows = ops::product_nt(tape, &inner, &at.values[1]);
        ops::add_scaled(tape, &h, &rows, self.scale * self.factor * at.strength)
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let mut out = merge.weight.clone();
        let scale = merge.direction.sign() * merge.strength * self.scale;
        let turned = ops::transpose(&hone_engine::Tape::off(), &Var::constant(merge.values[1].clone()));
        matmul::matmul_tn_add(&mut out, scale, &merge.values[0], &turned.value);
        Ok(out)
    }
}
