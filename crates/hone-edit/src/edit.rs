//! A method on a model: how an edit is made of a plan, fresh or of values that are there.

use std::sync::Arc;

use hone_engine::{RandomKey, Tensor};
use serde_json::{Map, Value};

use crate::base::Base;
use crate::error::EditError;
use crate::method::{Method, Param, ParamPlan, Placed, Plan, QuantisedBase, Role, Stored};
use crate::sparse::MOST_ELEMENTS;
use crate::unmatched::unmatched;

/// A method on a model: parameters and parts.
#[derive(Clone)]
pub struct Edit {
    /// The configured method.
    pub method: Arc<dyn Method>,
    /// What `adapter_config.json` says of the method.
    pub config: Map<String, Value>,
    /// Every parameter.
    pub params: Vec<Param>,
    /// Every part, in order of the forward pass.
    pub placed: Vec<Placed>,
    /// The model it is for, as the user named it.
    pub base_reference: String,
    /// SHA-256 of that model's weights.
    pub base_sha256: String,
    /// What they were rounded to while the edit was tuned ([`Base::quantize`]); files of elsewhere do not say.
    pub base_quantize: Option<String>,
    /// What was noticed while it was made or read.
    pub warnings: Vec<String>,
}

impl Edit {
    /// A fresh edit of `base`, as a recipe has it; its random numbers depend on `seed` and the parameters' names only. Fails
    /// also on entries of its fields that fit nothing in the model.
    pub fn new(method: Arc<dyn Method>, base: &Base, seed: u64) -> Result<Edit, EditError> {
        let plan = planned(method.as_ref(), base)?;
        if let Some(error) = unmatched(method.as_ref(), &plan, base)?.into_iter().next() {
            return Err(error);
        }
        let warnings = method.remarks(&plan, base);
        let key = RandomKey::new(seed).named("init");
        Edit::of_plan(method, base, plan, warnings, |plan| plan.first_value(key, base))
    }

    /// An edit of `base` whose parameters `value_of` supplies, as a file has it. Entries of its fields that fit nothing in the
    /// model are warned of.
    pub fn with_values(
        method: Arc<dyn Method>,
        base: &Base,
        value_of: impl FnMut(&ParamPlan) -> Result<Tensor, EditError>,
    ) -> Result<Edit, EditError> {
        let plan = planned(method.as_ref(), base)?;
        let unmatched = unmatched(method.as_ref(), &plan, base)?;
        let warnings = unmatched.iter().map(|error| format!("passed over, as it has no effect: {error}")).collect();
        Edit::of_plan(method, base, plan, warnings, value_of)
    }

    fn of_plan(
        method: Arc<dyn Method>,
        base: &Base,
        plan: Plan,
        warnings: Vec<String>,
        mut value_of: impl FnMut(&ParamPlan) -> Result<Tensor, EditError>,
    ) -> Result<Edit, EditError> {
        let make = |p: &ParamPlan| {
            let (key, copies) = (p.key.clone(), p.copies.clone());
            Ok(Param { key, value: value_of(p)?, copies, traits: p.traits, resting: false })
        };
        let params = plan.params.iter().map(make).collect::<Result<_, EditError>>()?;
        Ok(Edit {
            method,
            config: plan.config,
            params,
            placed: plan.placed,
            base_reference: base.reference.clone(),
            base_sha256: base.sha256.clone(),
            base_quantize: Some(base.quantize.clone()),
            warnings,
        })
    }

    /// Trained numbers.
    pub fn parameter_count(&self) -> usize {
        self.params.iter().filter(|p| p.traits.role == Role::Trained).map(|p| p.value.elements()).sum()
    }
}

/// The plan of `method` for `base`, if it can be used on it as it is kept and its files can hold it.
fn planned(method: &dyn Method, base: &Base) -> Result<Plan, EditError> {
    match method.info().quantised_base {
        QuantisedBase::No(reason) if base.is_quantised() => {
            Err(EditError::QuantisedBase { method: method.info().name, reason })
        }
        _ => {
            let plan = method.plan(base)?;
            check_places(method, &plan)?;
            Ok(plan)
        }
    }
}

/// Refuses places in a tensor of more elements than files can number.
fn check_places(method: &dyn Method, plan: &Plan) -> Result<(), EditError> {
    for param in &plan.params {
        let axes = match (param.traits.stored, param.below.as_slice()) {
            (Stored::Sparse | Stored::Bits { .. }, _) => &param.shape,
            // Rows and columns of a matrix.
            (Stored::Flat { .. } | Stored::I32, [_, _]) => &param.below,
            _ => continue,
        };
        let elements = axes.iter().fold(1, |product: usize, axis| product.saturating_mul(*axis));
        if elements > MOST_ELEMENTS {
            return Err(EditError::TooManyPlaces {
                method: method.info().name,
                tensor: param.key.clone(),
                shape: axes.clone(),
                elements,
                most: MOST_ELEMENTS,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::method::Init;
    use crate::registry;

    #[test]
    fn places_are_refused_where_their_numbers_end() {
        let method = registry::from_recipe(json!({ "type": "lora" }).as_object().unwrap(), &mut Vec::new()).unwrap();
        let checked = |param: ParamPlan| {
            let plan = Plan { config: Map::new(), params: vec![param], placed: Vec::new() };
            check_places(method.as_ref(), &plan).map_err(|error| error.to_string())
        };
        let of = |rows: usize, stored| ParamPlan::new("w.change", &[rows, 1 << 15], Init::Zeros).stored(stored);
        let list = |rows: usize| ParamPlan::new("places", &[2, 3], Init::Zeros).places_below(&[rows, 1 << 15]);
        for stored in [Stored::Sparse, Stored::Bits { threshold: 0.0 }] {
            assert_eq!(checked(of(1 << 16, stored)), Ok(()));
            let message = checked(of((1 << 16) + 1, stored)).unwrap_err();
            assert!(message.contains("`w.change`") && message.contains("2147516416 elements"), "{message}");
        }
        for stored in [Stored::I32, Stored::Flat { columns: 1 << 15 }] {
            assert_eq!(checked(list(1 << 16).stored(stored)), Ok(()));
            let message = checked(list((1 << 16) + 1).stored(stored)).unwrap_err();
            assert!(message.contains("`places`") && message.contains("[65537, 32768]"), "{message}");
        }
        // What is held whole may be as large as it is, and lists of other places are not of a matrix.
        assert_eq!(checked(of((1 << 16) + 1, Stored::F32)), Ok(()));
        assert_eq!(checked(of(usize::MAX >> 14, Stored::F32)), Ok(()));
        assert!(checked(of(usize::MAX >> 14, Stored::Sparse)).is_err(), "the product does not wrap");
    }
}
