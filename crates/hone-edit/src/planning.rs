//! What most methods on linear maps plan alike: the fields that say where, modules trained whole beside them, and a part
//! for each map. A method's file then says what stands on one map.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::{Base, BaseWeight};
use crate::biases::Biases;
use crate::config::Inert;
use crate::error::EditError;
use crate::method::{Origin, ParamPlan, Part, Place, Placed, Plan};
use crate::replace::plan_replacements;
use crate::target::{OneOrMany, Targets, pattern_value, saved_modules};

/// Where most methods act if `target_modules` says nothing, as in PEFT for these models.
pub const Q_AND_V: &[&str] = &["q_proj", "v_proj"];

/// Hugging Face's fields that say where a method acts. A method's configuration holds them with `#[serde(flatten)]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TargetFields {
    /// Names (matched at the end of module paths), a regular expression over whole paths, or `all-linear`.
    pub target_modules: Option<OneOrMany<String>>,
    /// Names or a regular expression to leave out.
    pub exclude_modules: Option<OneOrMany<String>>,
    /// Only these layers.
    pub layers_to_transform: Option<OneOrMany<usize>>,
    /// What stands before the layer's number in module paths.
    pub layers_pattern: Option<OneOrMany<String>>,
    /// Modules trained whole and saved with the adapter.
    pub modules_to_save: Option<Vec<String>>,
    /// `CAUSAL_LM`.
    pub task_type: Option<String>,
}

impl TargetFields {
    /// The targets they name.
    pub fn targets(&self) -> Targets {
        Targets {
            target_modules: self.target_modules.clone(),
            exclude_modules: self.exclude_modules.clone(),
            layers_to_transform: self.layers_to_transform.clone(),
            layers_pattern: self.layers_pattern.clone(),
            modules_to_save: self.modules_to_save.clone().unwrap_or_default(),
        }
    }

    /// Refuses what no method honours.
    pub fn check(&self, method: &'static str) -> Result<(), EditError> {
        match self.task_type.as_deref() {
            None | Some("CAUSAL_LM") => Ok(()),
            Some(other) => Err(wrong(method, "task_type", format!("`{other}`"), "`CAUSAL_LM` (or none)")),
        }
    }

    /// A plan with a part on each targeted map, as `on_map` says, and the modules that are trained whole. `default` stands
    /// in for a missing `target_modules`; `config` are the method's fields, in which the targets are spelled out, and
    /// `inert` those it does not honour, written as switched off.
    pub fn plan(
        &self,
        method: &'static str,
        base: &Base,
        default: &[&str],
        (config, inert): (Map<String, Value>, &[Inert]),
        mut on_map: impl FnMut(&mut Plan, &BaseWeight) -> Result<(), EditError>,
    ) -> Result<Plan, EditError> {
        let selection = self.targets().select_linears_or(method, base, names(default))?;
        let mut plan = Plan { config, params: Vec::new(), placed: Vec::new() };
        plan.config.insert("target_modules".into(), selection.resolved.clone());
        if self.leaves_out() {
            // Not every class of PEFT's has the fields that leave maps out; all of them take whole paths.
            let paths: Vec<&str> = selection.weights.iter().map(|weight| weight.module()).collect();
            plan.config.insert("target_modules".into(), json!(paths));
            for field in ["exclude_modules", "layers_to_transform", "layers_pattern"] {
                plan.config.insert(field.into(), Value::Null);
            }
        }
        for inert in inert {
            let off = inert.off.first().and_then(|value| serde_json::from_str(value).ok());
            plan.config.insert(inert.field.into(), off.unwrap_or(Value::Null));
        }
        for weight in &selection.weights {
            on_map(&mut plan, weight)?;
        }
        let saved = saved_modules(self.modules_to_save.as_deref().unwrap_or_default(), base)?;
        plan_replacements(&mut plan, &saved, base);
        Ok(plan)
    }

    /// Whether they say more than which maps.
    fn leaves_out(&self) -> bool {
        self.exclude_modules.is_some() || self.layers_to_transform.is_some() || self.layers_pattern.is_some()
    }

    /// The same with the model's `biases` trained beside the parts.
    pub fn plan_with_biases(
        &self,
        method: &'static str,
        base: &Base,
        default: &[&str],
        config: (Map<String, Value>, &[Inert]),
        biases: Biases,
        on_map: impl FnMut(&mut Plan, &BaseWeight) -> Result<(), EditError>,
    ) -> Result<Plan, EditError> {
        let mut plan = self.plan(method, base, default, config, on_map)?;
        let targeted = plan.mapped_modules();
        biases.plan(&mut plan, base, &targeted);
        Ok(plan)
    }

    /// The modules they name, by path.
    pub fn modules(&self, method: &'static str, base: &Base, default: &[&str]) -> Result<Vec<String>, EditError> {
        let selection = self.targets().select_linears_or(method, base, names(default))?;
        Ok(selection.weights.iter().map(|weight| weight.module().to_string()).collect())
    }

    /// The most outputs and the most inputs of any of the maps they name: the size of matrices that all share.
    pub fn widest(&self, method: &'static str, base: &Base, default: &[&str]) -> Result<(usize, usize), EditError> {
        let selection = self.targets().select_linears_or(method, base, names(default))?;
        let side = |axis: usize| selection.weights.iter().map(|weight| weight.shape[axis]).max().unwrap_or(0);
        Ok((side(0), side(1)))
    }

    /// `fields` as a method reads them: those of a recipe with its defaults, `more` and every linear map, where it says
    /// nothing; those of a file as they are.
    pub fn recommended(fields: &Map<String, Value>, origin: Origin, more: &[(&str, Value)]) -> Map<String, Value> {
        let mut fields = fields.clone();
        if origin == Origin::Recipe {
            for (field, value) in more {
                fields.entry(*field).or_insert_with(|| value.clone());
            }
            TargetFields::recommend(&mut fields);
        }
        fields
    }

    /// A recipe's defaults where it says nothing: every linear map.
    pub fn recommend(fields: &mut Map<String, Value>) {
        fields.entry("target_modules").or_insert(json!("all-linear"));
        fields.entry("task_type").or_insert(json!("CAUSAL_LM"));
    }
}

fn names(list: &[&str]) -> OneOrMany<String> {
    OneOrMany::Many(list.iter().map(|name| name.to_string()).collect())
}

impl Plan {
    /// The linear maps that parts of the plan stand on, by path.
    pub fn mapped_modules(&self) -> Vec<String> {
        let mut modules = Vec::new();
        for placed in &self.placed {
            if let Place::Linear(module) = &placed.place
                && !placed.part.replaces()
                && modules.last() != Some(module)
            {
                modules.push(module.clone());
            }
        }
        modules
    }

    /// Adds parameters and returns their numbers.
    pub fn add(&mut self, params: impl IntoIterator<Item = ParamPlan>) -> Vec<usize> {
        let first = self.params.len();
        self.params.extend(params);
        (first..self.params.len()).collect()
    }

    /// Puts a part on a linear map, with parameters of its own.
    pub fn on_linear(
        &mut self,
        weight: &BaseWeight,
        part: impl Part + 'static,
        params: impl IntoIterator<Item = ParamPlan>,
    ) {
        self.on_linear_sharing(weight, part, 0..0, params);
    }

    /// Puts a part on a linear map, with the parameters numbered `shared` before its own.
    pub fn on_linear_sharing(
        &mut self,
        weight: &BaseWeight,
        part: impl Part + 'static,
        shared: std::ops::Range<usize>,
        params: impl IntoIterator<Item = ParamPlan>,
    ) {
        let params = shared.chain(self.add(params)).collect();
        let place = Place::Linear(weight.module().to_string());
        self.placed.push(Placed { place, part: std::sync::Arc::new(part), params });
    }
}

/// The key of a tensor of `module` in `adapter_model.safetensors`.
pub fn key(module: &str, tensor: &str) -> String {
    format!("base_model.model.{module}.{tensor}")
}

/// The number of coefficients of `weight`'s change by an `n_frequency_pattern`, or `default`: at most one for each element.
pub fn coefficients_of(
    method: &'static str,
    patterns: &Map<String, Value>,
    weight: &BaseWeight,
    default: usize,
) -> Result<usize, EditError> {
    let (module, most) = (weight.module(), weight.shape.iter().product::<usize>());
    let pattern = pattern_value(method, "n_frequency_pattern", patterns, module)?;
    let (field, count) = match pattern {
        None => ("n_frequency", Some(default)),
        Some(value) => ("n_frequency_pattern", value.as_u64().map(|n| n as usize)),
    };
    let found = pattern.map_or(default.to_string(), Value::to_string);
    let expected = || format!("1 to {most} coefficients (`{module}` has as many numbers)");
    count.filter(|n| (1..=most).contains(n)).ok_or_else(|| wrong(method, field, found, expected()))
}

/// The rank of `module` by a `rank_pattern`, or `default`.
pub fn rank_of(
    method: &'static str,
    patterns: &Map<String, Value>,
    module: &str,
    default: usize,
) -> Result<usize, EditError> {
    match pattern_value(method, "rank_pattern", patterns, module)? {
        None => Ok(default),
        Some(value) => match value.as_u64() {
            Some(rank @ 1..) => Ok(rank as usize),
            _ => Err(wrong(method, "rank_pattern", value.to_string(), "ranks of 1 or more")),
        },
    }
}

/// The number that a pattern gives `module` (`alpha_pattern` …), or `default`.
pub fn number_of(
    (method, field): (&'static str, &'static str),
    patterns: &Map<String, Value>,
    module: &str,
    default: f64,
) -> Result<f64, EditError> {
    match pattern_value(method, field, patterns, module)? {
        None => Ok(default),
        Some(value) => value.as_f64().ok_or_else(|| wrong(method, field, value.to_string(), "numbers")),
    }
}

/// A field with an impossible value.
pub fn wrong(method: &'static str, field: &str, found: impl Into<String>, expected: impl Into<String>) -> EditError {
    EditError::Field { method, field: field.into(), found: found.into(), expected: expected.into() }
}

/// Refuses what is no probability below 1.
pub fn check_probability(method: &'static str, field: &str, value: f64) -> Result<(), EditError> {
    match (0.0..1.0).contains(&value) {
        true => Ok(()),
        false => Err(wrong(method, field, value.to_string(), "a probability in [0, 1)")),
    }
}

/// Refuses a factor of 0, and what is no number.
pub fn check_factor(method: &'static str, field: &str, value: f64) -> Result<(), EditError> {
    match value.is_finite() && value != 0.0 {
        true => Ok(()),
        false => Err(wrong(method, field, value.to_string(), "a number other than 0")),
    }
}

/// Refuses a rank of 0.
pub fn check_rank(method: &'static str, field: &str, rank: usize) -> Result<(), EditError> {
    match rank {
        0 => Err(wrong(method, field, "0", "a rank of 1 or more")),
        _ => Ok(()),
    }
}
