//! CPT, context-aware prompt tuning (Blau et al. 2024, "Context-aware Prompt Tuning: Advancing In-Context Learning with
//! Adversarial Methods", arXiv 2410.17222): a prompt that starts as the embeddings of worked examples, and whose tokens may each
//! move only a little: `[P + D; E(x)]`, `‖D_i‖ ≤ ε_i`.
//!
//! `cpt_token_ids` are the examples' tokens, `cpt_tokens_type_mask` what each is, modulo 4: 1 the form of an input, 2 an
//! input, 3 the form of an output, 0 anything else. `D` `[p, hidden]` moves in rows of the first three kinds; after every step
//! it goes back into its ball, with `ε = opt_projection_epsilon √(hidden / 2048)` of inputs and
//! `opt_projection_format_epsilon √(hidden / 2048)` of forms. Start: `D = 0`: the model with the examples before every
//! sequence. The file holds `P + D`; an adapter that is read starts anew from there, as in PEFT. `cpt_mask`, which PEFT never
//! reads, is kept as it is.
//!
//! PEFT's loss is also over the examples' answers (a type of 4, 8 …), which stand among the virtual tokens, and with
//! `opt_weighted_loss_type: decay` weighs them. Nothing is predicted at virtual tokens here: recipes that ask for it are
//! refused, and adapters of PEFT's are read and run.
//!
//! Parameters: `p · hidden`, as PEFT counts, rows that cannot move among them.

use std::sync::Arc;

use hone_engine::{Tape, Tensor, Var, ops};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::fields::{
    Embeddings, INERT_MODULES, NO_WEIGHT, PROMPT, PromptFields, at_virtual_tokens, scaled, write_inert,
};
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::method::{
    At, Edit, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase,
};
use crate::planning::wrong;
use crate::training::{EditGradients, Moment, TrainingRules};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "cpt",
    peft_type: "CPT",
    family: "prompt",
    summary: "worked examples as a prompt, whose embeddings may each move a little",
    paper: "arXiv 2410.17222",
    formula: "[P + D; E(x)], ‖D_i‖ ≤ ε_i",
    mergeable: Mergeable::No(NO_WEIGHT),
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<CptConfig>(),
};

/// Hugging Face's `CPTConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CptConfig {
    /// How long (as many as there are ids), for what.
    #[serde(flatten)]
    pub prompt: PromptFields,
    /// The tokens the prompt starts from.
    pub cpt_token_ids: Option<Vec<u32>>,
    /// Of each a number that nobody reads.
    pub cpt_mask: Option<Vec<i64>>,
    /// What each is; see the top of the file. All are 1 if not said.
    pub cpt_tokens_type_mask: Option<Vec<i64>>,
    /// `none`; `decay` is read from files only.
    pub opt_weighted_loss_type: String,
    /// Factor of `decay`, from one example's answer to the one before.
    #[serde(serialize_with = "config::number")]
    pub opt_loss_decay_factor: f64,
    /// How far an input's token may move, in a model of width 2048.
    #[serde(serialize_with = "config::number")]
    pub opt_projection_epsilon: f64,
    /// How far a token of the form may.
    #[serde(serialize_with = "config::number")]
    pub opt_projection_format_epsilon: f64,
    /// Named by PEFT, and not used by it.
    pub tokenizer_name_or_path: Option<String>,
    /// Whether the prompt comes from a file.
    #[serde(skip)]
    stored: bool,
}

impl Default for CptConfig {
    fn default() -> Self {
        CptConfig {
            prompt: PromptFields::default(),
            cpt_token_ids: None,
            cpt_mask: None,
            cpt_tokens_type_mask: None,
            opt_weighted_loss_type: "none".into(),
            opt_loss_decay_factor: 1.0,
            opt_projection_epsilon: 0.1,
            opt_projection_format_epsilon: 0.1,
            tokenizer_name_or_path: None,
            stored: false,
        }
    }
}

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        fields.entry("task_type").or_insert(json!("CAUSAL_LM"));
    }
    let mut config: CptConfig = config::read(METHOD.name, &fields, INERT_MODULES, origin, warnings)?;
    config.stored = origin == Origin::File;
    config.fill()?;
    config.check(warnings)?;
    Ok(Arc::new(config))
}

impl CptConfig {
    /// Spells out what follows from the ids, as PEFT does. Refuses lists of other lengths.
    fn fill(&mut self) -> Result<(), EditError> {
        let tokens = self.cpt_token_ids.as_ref().map_or(0, Vec::len);
        if tokens == 0 {
            let what = "the ids of the worked examples' tokens";
            return Err(EditError::Needs { method: METHOD.name, field: "cpt_token_ids", what });
        }
        let ones = || vec![1; tokens];
        let (mask, types) =
            (self.cpt_mask.get_or_insert_with(ones).len(), self.cpt_tokens_type_mask.get_or_insert_with(ones).len());
        for (field, length) in [("cpt_mask", mask), ("cpt_tokens_type_mask", types)] {
            if length != tokens {
                let expected = format!("{tokens}, as many as `cpt_token_ids` has");
                return Err(wrong(METHOD.name, field, format!("{length} numbers"), expected));
            }
        }
        match self.prompt.num_virtual_tokens {
            0 => self.prompt.num_virtual_tokens = tokens,
            given if given == tokens => {}
            given => {
                let expected = format!("{tokens}, as many as `cpt_token_ids` has (or none)");
                return Err(wrong(METHOD.name, "num_virtual_tokens", given.to_string(), expected));
            }
        }
        self.prompt.check(METHOD.name)
    }

    fn check(&self, warnings: &mut Vec<String>) -> Result<(), EditError> {
        let epsilons = [
            ("opt_projection_epsilon", self.opt_projection_epsilon),
            ("opt_projection_format_epsilon", self.opt_projection_format_epsilon),
        ];
        for (field, value) in epsilons {
            if !(value.is_finite() && value >= 0.0) {
                return Err(wrong(METHOD.name, field, value.to_string(), "a distance of 0 or more"));
            }
        }
        if !["none", "decay"].contains(&self.opt_weighted_loss_type.as_str()) {
            let found = format!("`{}`", self.opt_weighted_loss_type);
            return Err(wrong(METHOD.name, "opt_weighted_loss_type", found, "`none`"));
        }
        let answers = self.types().iter().any(|kind| *kind > 0 && kind % 4 == 0);
        let asked = [
            (answers, "cpt_tokens_type_mask", "types of 4, 8 …".to_string()),
            (self.opt_weighted_loss_type == "decay", "opt_weighted_loss_type", "`decay`".to_string()),
        ];
        for (_, field, found) in asked.into_iter().filter(|(asked, ..)| *asked) {
            let reason = "the examples' own answers are not trained on: nothing is predicted at virtual tokens";
            if !self.stored {
                let reason = format!("{reason}; mark them 0, and put the examples into the data as well");
                return Err(EditError::Unsupported { method: METHOD.name, field: field.into(), found, reason });
            }
            warnings.push(format!("`cpt`: `{field}` {found}: if it is trained on here, {reason}"));
        }
        Ok(())
    }

    fn types(&self) -> &[i64] {
        self.cpt_tokens_type_mask.as_deref().unwrap_or_default()
    }

    /// How far each row may move in a model of width `hidden`; nothing where it may not.
    fn radii(&self, hidden: usize) -> Vec<Option<f32>> {
        let wide = (hidden as f64 / 2048.0).sqrt();
        let radius = |kind: &i64| match kind.rem_euclid(4) {
            0 => None,
            2 => Some((self.opt_projection_epsilon * wide) as f32),
            _ => Some((self.opt_projection_format_epsilon * wide) as f32),
        };
        self.types().iter().map(radius).collect()
    }
}

impl Method for CptConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let (tokens, hidden) = (self.prompt.num_virtual_tokens, base.geometry.hidden);
        let prompt = self.prompt.sized(METHOD.name, base, (hidden, base.geometry.query_heads))?;
        let ids = self.cpt_token_ids.clone().unwrap_or_default();
        if let Some(id) = ids.iter().find(|id| **id as usize >= base.geometry.vocabulary) {
            let expected = format!("ids below {}, this model's vocabulary", base.geometry.vocabulary);
            return Err(wrong(METHOD.name, "cpt_token_ids", id.to_string(), expected));
        }
        let mut config = config::to_map(&CptConfig { prompt, ..self.clone() });
        write_inert(&mut config, INERT_MODULES);
        let examples = Init::Computed(Box::new(move |base| Embeddings::of(base).rows(&ids)));
        let start = if self.stored { Init::Zeros } else { examples };
        let params = vec![
            ParamPlan::new(PROMPT, &[tokens, hidden], start).fixed().full_precision(),
            ParamPlan::new("delta_embedding.weight", &[tokens, hidden], Init::Zeros)
                .not_saved()
                .full_precision()
                .without_decay(),
        ];
        let moves = self.radii(hidden).iter().map(|radius| f32::from(radius.is_some())).collect::<Vec<f32>>();
        let part = Moved { moves: Tensor::from_slice([tokens], &moves) };
        Ok(Plan { config, params, placed: vec![at_virtual_tokens(part, vec![0, 1])] })
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn saved_form(&self, edit: &Edit) -> Option<Edit> {
        let mut edit = edit.clone();
        let [start, change] = edit.params.as_mut_slice() else { unreachable!("CPT has two parameters") };
        let moves = self.radii(start.value.dim(1)).iter().map(|radius| f32::from(radius.is_some())).collect::<Vec<_>>();
        let [from, by] = [&start.value, &change.value].map(|value| Var::constant(value.clone()));
        start.value = moved(&Tape::off(), &from, &by, &Tensor::from_slice([moves.len()], &moves)).value;
        change.value = Tensor::zeros(change.value.dims(), change.value.dtype());
        Some(edit)
    }

    fn training(&self, edit: &Edit) -> Option<Box<dyn TrainingRules>> {
        Some(Box::new(Balls { radii: self.radii(edit.params.first()?.value.dim(1)) }))
    }

    fn default_learning_rate(&self) -> f64 {
        1e-3
    }

    fn virtual_tokens(&self) -> usize {
        self.prompt.num_virtual_tokens
    }
}

/// `P + D`, of `D` the rows that `moves` says.
fn moved(tape: &Tape, start: &Var, change: &Var, moves: &Tensor) -> Var {
    ops::add(tape, start, &ops::scale_rows(tape, change, &Var::constant(moves.clone())))
}

/// The prompt before every sequence. Parameters: `P`, `D`.
struct Moved {
    moves: Tensor,
}

impl Part for Moved {
    fn virtual_embeddings(&self, at: &At) -> Option<Var> {
        Some(scaled(at, moved(&at.cx.tape, &at.values[0], &at.values[1], &self.moves)))
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(NO_WEIGHT.into())
    }
}

/// Brings every row of `D` back into its ball after a step.
struct Balls {
    radii: Vec<Option<f32>>,
}

impl TrainingRules for Balls {
    fn after(&mut self, edit: &mut Edit, _gradients: &EditGradients, _moment: &Moment) {
        if let Some(change) = edit.params.get_mut(1) {
            into_balls(&mut change.value, &self.radii);
        }
    }
}

/// Shortens rows that are longer than their radius; one without a radius becomes 0.
fn into_balls(change: &mut Tensor, radii: &[Option<f32>]) {
    let width = change.dim(1);
    for (row, radius) in change.as_mut_slice::<f32>().chunks_exact_mut(width).zip(radii) {
        let (length, radius) = (row.iter().map(|v| v * v).sum::<f32>().sqrt(), radius.unwrap_or(0.0));
        if length > radius {
            row.iter_mut().for_each(|v| *v *= radius / length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_token_has_its_ball() {
        let config = CptConfig {
            cpt_tokens_type_mask: Some(vec![1, 2, 3, 4, 5, 0]),
            opt_projection_epsilon: 0.5,
            opt_projection_format_epsilon: 0.25,
            ..CptConfig::default()
        };
        let (form, input) = (Some(0.125), Some(0.25));
        assert_eq!(config.radii(512), [form, input, form, None, form, None]);
    }

    #[test]
    fn rows_go_back_into_their_balls_and_no_further() {
        let mut change = Tensor::from_slice([3, 2], &[3.0f32, 4.0, 0.3, 0.4, 1.0, 1.0]);
        into_balls(&mut change, &[Some(1.0), Some(1.0), None]);
        for (value, expected) in change.to_vec_f32().iter().zip([0.6f32, 0.8, 0.3, 0.4, 0.0, 0.0]) {
            assert!((value - expected).abs() < 1e-6, "{change:?}");
        }
    }
}
