//! GLoRA (Chavan et al. 2023, "One-for-All: Generalized LoRA for Parameter-Efficient Fine-tuning", arXiv 2306.07967):
//! `W + W ⊙ A + B`, and of the bias `b + b ⊙ D + E + W c`: a scale and a shift of both, and what the weight makes of a
//! trained input `c`.
//!
//! `config_A_B` says what `A` and `B` `[out, in]` are made of: `lora`, a product `Xd Xu` of `[out, r]` and `[r, in]`; `vector`,
//! a number for each output; `constant`, one number; `none`. `config_C` the same of `c` `[in, 1]` (no constant), `config_D_E` of
//! `D` and `E` `[out]` (no product). A map without a bias has no `c`, `D` and `E`, whatever the fields say. Start: `Xd` and all
//! numbers 0, `Xu` Kaiming-uniform (`U(±1/√columns)`), so the model is unchanged.
//!
//! Parameters with the defaults: `2 r (in + out)` a map, and where it has a bias `r (in + 1) + 2` more. Every step multiplies by
//! the base weight in `f32`: a quantised base is expanded a matrix at a time. Stacked on other edits, `W` and `b` are the
//! model's own. What is switched off stands in the file as zeros, as PEFT writes it, and is not used.

use std::sync::Arc;

use hone_engine::{DType, Tape, Tensor, Var, WeightRef, ops};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseValue, BaseWeight};
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::{Delta, DeltaPart};
use crate::method::{
    At, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Place, Placed, Plan, QuantisedBase,
};
use crate::planning::{Q_AND_V, TargetFields, check_rank, key, wrong};
use crate::target::OneOrMany;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "glora",
    peft_type: "GLORA",
    family: "low rank",
    summary: "scales and shifts of a weight and of its bias, each low-rank, a vector or a number",
    paper: "arXiv 2306.07967",
    formula: "W + W ⊙ A + B; b + b ⊙ D + E + W c",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Expanded,
    parse,
    schema: |generator| generator.subschema_for::<GloraConfig>(),
};

/// What a matrix or a vector of the change is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// A product of two matrices.
    Lora,
    /// A number for each row.
    Vector,
    /// One number.
    Constant,
    /// Nothing.
    None,
}

/// Hugging Face's `GloraConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GloraConfig {
    /// Rank of the products.
    pub r: usize,
    /// Scale `A` and shift `B` of the weight: `lora`, `vector`, `constant` or `none`.
    #[serde(rename = "config_A_B")]
    pub weight: Form,
    /// The input `c` whose output joins the bias: `lora`, `vector` or `none`.
    #[serde(rename = "config_C")]
    pub coupling: Form,
    /// Scale `D` and shift `E` of the bias: `vector`, `constant` or `none`.
    #[serde(rename = "config_D_E")]
    pub bias: Form,
    /// Whether the model is unchanged at the start; `false`: random numbers everywhere, for tests.
    pub init_weights: bool,
    /// Names (matched at the end of module paths), a regular expression over whole paths, or `all-linear`.
    pub target_modules: Option<OneOrMany<String>>,
    /// Modules trained whole and saved with the adapter.
    pub modules_to_save: Option<Vec<String>>,
    /// `CAUSAL_LM`.
    pub task_type: Option<String>,
}

impl Default for GloraConfig {
    fn default() -> Self {
        GloraConfig {
            r: 8,
            weight: Form::Lora,
            coupling: Form::Lora,
            bias: Form::Constant,
            init_weights: true,
            target_modules: None,
            modules_to_save: None,
            task_type: None,
        }
    }
}

const INERT: &[Inert] = &[Inert {
    field: "bias",
    off: &["\"none\""],
    reason: "`D` and `E` train the biases of targeted maps; stack a `bitfit` edit to train the others",
}];

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let mut fields = fields.clone();
    if origin == Origin::Recipe {
        TargetFields::recommend(&mut fields);
    }
    let glora: GloraConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    glora.targets().check(METHOD.name)?;
    check_rank(METHOD.name, "r", glora.r)?;
    if glora.coupling == Form::Constant {
        return Err(wrong(METHOD.name, "config_C", "`constant`", "`lora`, `vector` or `none`"));
    }
    if glora.bias == Form::Lora {
        return Err(wrong(METHOD.name, "config_D_E", "`lora`", "`vector`, `constant` or `none`"));
    }
    if [glora.weight, glora.coupling, glora.bias] == [Form::None; 3] {
        return Err(wrong(
            METHOD.name,
            "config_A_B",
            "`none`, like the others",
            "one of the three that trains something",
        ));
    }
    Ok(Arc::new(glora))
}

impl GloraConfig {
    fn targets(&self) -> TargetFields {
        TargetFields {
            target_modules: self.target_modules.clone(),
            modules_to_save: self.modules_to_save.clone(),
            task_type: self.task_type.clone(),
            ..TargetFields::default()
        }
    }

    /// The parameters of `name`, a `form` of `rows` by `columns`; `vector` is the shape of a number for each row.
    fn planned(&self, name: &str, form: Form, [rows, columns]: [usize; 2], vector: &[usize]) -> Vec<ParamPlan> {
        // PyTorch's Kaiming-uniform; a vector of one axis counts as a row.
        let random = |inputs: usize| Init::Uniform { bound: 1.0 / (inputs.max(1) as f32).sqrt() };
        let first = |otherwise: Init| if self.init_weights { Init::Zeros } else { otherwise };
        let param = |part: &str, shape: &[usize], init: Init| ParamPlan::new(format!("{name}.{part}"), shape, init);
        let inputs = vector.get(1).copied().unwrap_or(rows);
        match form {
            Form::Lora => vec![
                param("Xd", &[rows, self.r], first(random(self.r))),
                param("Xu", &[self.r, columns], random(columns)),
            ],
            Form::Vector => vec![param("X", vector, first(random(inputs))).without_decay()],
            Form::Constant => vec![param("X", &[1], first(Init::Normal { std: 0.02 })).without_decay()],
            Form::None if vector.len() == 1 => vec![param("zeros", vector, Init::Zeros).fixed()],
            Form::None => vec![param("zeros", &[rows, columns], Init::Zeros).fixed()],
        }
    }

    fn plan_map(&self, plan: &mut Plan, weight: &BaseWeight, base: &Base) -> Result<(), EditError> {
        let (module, out, inputs) = (weight.module(), weight.shape[0], weight.shape[1]);
        let name = |letter: &str| key(module, &format!("glora_{letter}"));
        let matrix = |letter: &str| self.planned(&name(letter), self.weight, [out, inputs], &[out, 1]);
        let of_weight = [matrix("A"), matrix("B")].into_iter().flatten();
        match self.weight {
            Form::None => drop(plan.add(of_weight)),
            form => plan.on_linear(weight, DeltaPart::new(OfWeight { form }), of_weight),
        }
        let own = format!("{module}.bias");
        let bias = base.weight(&own);
        let form = |wanted: Form| if bias.is_some() { wanted } else { Form::None };
        let (c, d_e) = (form(self.coupling), form(self.bias));
        let vector = |letter: &str| self.planned(&name(letter), d_e, [out, 1], &[out]);
        let c_params = self.planned(&name("C"), c, [inputs, 1], &[inputs, 1]);
        let params = plan.add([c_params, vector("D"), vector("E")].into_iter().flatten());
        let Some(bias) = bias.filter(|_| [c, d_e] != [Form::None; 2]) else { return Ok(()) };
        match &weight.value {
            BaseValue::Matrix(matrix) => {
                let part = OfBias { c, d_e, weight: matrix.clone(), bias: bias.to_f32() };
                plan.placed.push(Placed { place: Place::Weight(own), part: Arc::new(part), params });
                Ok(())
            }
            BaseValue::Vector(_) => Ok(()),
            BaseValue::Unknown => Err(EditError::UnknownBase { place: own }),
        }
    }
}

impl Method for GloraConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let plan = self.targets().plan(METHOD.name, base, Q_AND_V, (self.fields(), INERT), |plan, weight| {
            self.plan_map(plan, weight, base)
        })?;
        match plan.placed.is_empty() {
            true => {
                let expected = "`lora`, `vector` or `constant`: the targeted maps have no biases to be changed";
                Err(wrong(METHOD.name, "config_A_B", "`none`", expected))
            }
            false => Ok(plan),
        }
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

fn ones(shape: [usize; 2], dtype: DType) -> Var {
    Var::constant(Tensor::full(shape, dtype, 1.0))
}

/// A number for each of `rows` rows, `[rows, 1]`: a vector as it is, a constant repeated.
fn column(tape: &Tape, value: &Var, rows: usize) -> Var {
    match value.value.elements() == rows {
        true => ops::reshape(tape, value, &[rows, 1]),
        false => ops::product(tape, &ones([rows, 1], value.value.dtype()), &ops::reshape(tape, value, &[1, 1])),
    }
}

/// `W ⊙ A + B`. Parameters: those of `A`, those of `B`.
struct OfWeight {
    form: Form,
}

impl Delta for OfWeight {
    fn delta(&self, tape: &Tape, values: &[Var], weight: &dyn Fn() -> Tensor) -> Var {
        let weight = Var::constant(weight());
        let (rows, columns) = weight.value.rows_cols();
        let wide = |value: Var| ops::convert(tape, &value, DType::F32);
        let (a, b) = values.split_at(values.len() / 2);
        if self.form == Form::Lora {
            let [a, b] = [a, b].map(|pair| wide(ops::product(tape, &pair[0], &pair[1])));
            return ops::add(tape, &ops::multiply(tape, &weight, &a), &b);
        }
        let [a, b] = [a, b].map(|value| column(tape, &wide(value[0].clone()), rows));
        let scaled = ops::scale_rows(tape, &weight, &ops::reshape(tape, &a, &[rows]));
        ops::add(tape, &scaled, &ops::product(tape, &b, &ones([1, columns], DType::F32)))
    }
}

/// `b ⊙ D + E + W c` on a map's bias. Parameters: those of `c`, of `D` and of `E`.
struct OfBias {
    c: Form,
    d_e: Form,
    weight: WeightRef,
    bias: Tensor,
}

impl OfBias {
    /// What is added to the bias, `[out]`, in the type of `values`; `mapped` is the map without its bias, of one row.
    fn change(&self, tape: &Tape, values: &[Var], mapped: &dyn Fn(&Var) -> Var) -> Var {
        let [of_c @ .., d, e] = values else { unreachable!("GLoRA plans three vectors of a bias") };
        let out = self.bias.elements();
        let through_weight = || {
            let c = if self.c == Form::Lora { ops::product(tape, &of_c[0], &of_c[1]) } else { of_c[0].clone() };
            let row = ops::reshape(tape, &c, &[1, c.value.elements()]);
            ops::reshape(tape, &mapped(&row), &[out])
        };
        let on_bias = || {
            let bias = Var::constant(self.bias.to_dtype(d.value.dtype()));
            let [d, e] = [d, e].map(|value| ops::reshape(tape, &column(tape, value, out), &[out]));
            ops::add(tape, &ops::multiply(tape, &bias, &d), &e)
        };
        match (self.c, self.d_e) {
            (Form::None, _) => on_bias(),
            (_, Form::None) => through_weight(),
            _ => ops::add(tape, &on_bias(), &through_weight()),
        }
    }
}

impl Part for OfBias {
    fn on_vector(&self, at: &At, value: Var) -> Var {
        let tape = &at.cx.tape;
        let change = self.change(tape, at.values, &|row| ops::linear(tape, row, &self.weight, None, &[]));
        ops::add_scaled(tape, &value, &change, at.strength)
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let tape = Tape::off();
        let dense = Var::constant(match &self.weight {
            WeightRef::Frozen(weight) => weight.to_dense(DType::F32),
            WeightRef::Trained(var) => var.value.to_dtype(DType::F32),
        });
        let change = self.change(&tape, &merge.constants(), &|row| ops::product_nt(&tape, row, &dense));
        let weight = Var::constant(merge.weight.clone());
        Ok(ops::add_scaled(&tape, &weight, &change, merge.direction.sign() * merge.strength).value)
    }
}
