//! A mixture of low-rank adapters as one plain LoRA adapter: what a routed edit is for *one* task once nothing is trained
//! (Poly, MHR, MHR-µ, AdaMix). The result gives the same function, can be merged, and is read by Hugging Face PEFT.
//!
//! With the part's `y += c · (x Aᵀ) Bᵀ` the LoRA adapter holds `A`, `B` and the alpha `c r`, so that its scale `alpha / r` is `c`.
//! Edits whose parts are no low-rank products ([`crate::method::Part::low_rank`]) are refused.

use std::collections::HashMap;

use hone_engine::Tensor;
use serde_json::{Map, Value, json};

use crate::base::Base;
use crate::error::EditError;
use crate::method::{Edit, Place, Placed};
use crate::planning::key;
use crate::registry;
use crate::stack::check_group;

/// The LoRA adapter that `edit` is for rows of `task`.
pub fn collapsed(edit: &Edit, task: u32, base: &Base) -> Result<Edit, EditError> {
    check_group(&edit.method, task)?;
    let mut values: HashMap<String, Tensor> = HashMap::new();
    let mut modules: Vec<Value> = Vec::new();
    let mut first: Option<(usize, f32)> = None;
    for placed in &edit.placed {
        let Place::Linear(module) = &placed.place else {
            return Err(cannot(edit, placed, "it acts there on no linear map"));
        };
        let params: Vec<Tensor> = placed.params.iter().map(|&p| edit.params[p].value.clone()).collect();
        let Some(term) = placed.part.low_rank(&params, Some(task)) else {
            return Err(cannot(
                edit,
                placed,
                "what it does there is no low-rank product that is the same for all tokens",
            ));
        };
        let own = (term.a.dim(0), term.scale);
        if *first.get_or_insert(own) != own {
            return Err(cannot(edit, placed, "its ranks or scales differ from those of the maps before it"));
        }
        modules.push(json!(module));
        values.insert(key(module, "lora_A.weight"), term.a);
        values.insert(key(module, "lora_B.weight"), term.b);
    }
    let (rank, scale) = first.unwrap_or((1, 1.0));
    let fields = Map::from_iter([
        ("type".to_string(), json!("lora")),
        ("r".to_string(), json!(rank)),
        ("lora_alpha".to_string(), json!(f64::from(scale * rank as f32))),
        ("target_modules".to_string(), Value::Array(modules)),
    ]);
    let method = registry::from_recipe(&fields, &mut Vec::new())?;
    let lora = Edit::with_values(method, base, |plan| {
        values.remove(&plan.key).ok_or_else(|| EditError::CannotCollapse {
            method: edit.method.info().name,
            place: plan.key.clone(),
            reason: "the LoRA adapter would have a weight there that the edit does not change".into(),
        })
    })?;
    Ok(Edit { base_quantize: edit.base_quantize.clone(), ..lora })
}

fn cannot(edit: &Edit, placed: &Placed, reason: &str) -> EditError {
    EditError::CannotCollapse {
        method: edit.method.info().name,
        place: placed.place.to_string(),
        reason: reason.into(),
    }
}
