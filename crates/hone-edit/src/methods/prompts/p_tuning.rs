//! P-tuning (Liu et al. 2021, arXiv 2103.10385): a prompt that comes out of an encoder while it is trained,
//! `P = encoder(V)`, `V` `[p, hidden]` trained; only `P` is kept.
//!
//! As in Hugging Face PEFT, with `h` = `encoder_hidden_size`:
//! - `MLP`: `W₃ relu(W₂ relu(W₁ v + b₁) + b₂) + b₃`, `hidden → h → h → hidden` for each token alone;
//! - `LSTM`: `encoder_num_layers` bidirectional layers of width `h` over the tokens in order (`i, f, o = σ(·)`, `g = tanh(·)`,
//!   `c ← f c + i g`, `y = o tanh c`, gates stacked `i, f, g, o`), then `W₂ relu(W₁ y + b₁) + b₂`, `2h → 2h → hidden`.
//!
//! `V` starts at `N(0, 1)`, everything else at `U(±1/√fan_in)` (LSTM: `U(±1/√h)`). Trained parameters: `p · hidden` and the
//! encoder's; kept: `p · hidden`. The encoder is run in `f32` whatever the compute type, so the kept prompt is the trained one.

use std::sync::Arc;

use hone_engine::ops::{self, Dropout, Pointwise};
use hone_engine::{DType, RandomKey, Tape, Tensor, Var};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::fields::{
    INERT_MODULES, NO_WEIGHT, PROMPT, PromptFields, PromptRows, at_virtual_tokens, constants, finished, finished_param,
    scaled, uniform, write_inert,
};
use crate::base::Base;
use crate::config;
use crate::error::EditError;
use crate::method::{
    At, Edit, Init, Merge, Mergeable, Method, MethodInfo, Origin, ParamPlan, Part, Plan, QuantisedBase,
};
use crate::planning::{check_probability, wrong};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "p_tuning",
    peft_type: "P_TUNING",
    family: "prompt",
    summary: "a prompt out of an encoder, which is left out when training is over",
    paper: "arXiv 2103.10385",
    formula: "[enc(V); E(x)]",
    mergeable: Mergeable::No(NO_WEIGHT),
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<PTuningConfig>(),
};

/// Hugging Face's `PromptEncoderConfig`, the honoured fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PTuningConfig {
    /// How long, for what.
    #[serde(flatten)]
    pub prompt: PromptFields,
    /// `MLP` or `LSTM`.
    pub encoder_reparameterization_type: EncoderKind,
    /// Width inside the encoder; by default that of the residual stream.
    pub encoder_hidden_size: Option<usize>,
    /// Layers of the LSTM; the MLP has always three maps.
    pub encoder_num_layers: usize,
    /// Dropout between the LSTM's layers.
    #[serde(serialize_with = "float")]
    pub encoder_dropout: f64,
    /// Whether the prompt comes from a file, without its encoder.
    #[serde(skip)]
    stored: bool,
}

/// A number as PEFT writes it: `0.0`.
fn float<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(*value)
}

/// What encodes the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum EncoderKind {
    /// Three maps.
    #[default]
    Mlp,
    /// A bidirectional LSTM and two maps.
    Lstm,
}

impl Default for PTuningConfig {
    fn default() -> Self {
        PTuningConfig {
            prompt: PromptFields::default(),
            encoder_reparameterization_type: EncoderKind::Mlp,
            encoder_hidden_size: None,
            encoder_num_layers: 2,
            encoder_dropout: 0.0,
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
        PromptFields::recommend(&mut fields);
    }
    let mut config: PTuningConfig = config::read(METHOD.name, &fields, INERT_MODULES, origin, warnings)?;
    config.stored = origin == Origin::File;
    config.prompt.check(METHOD.name)?;
    check_probability(METHOD.name, "encoder_dropout", config.encoder_dropout)?;
    if config.encoder_num_layers == 0 || config.encoder_hidden_size == Some(0) {
        return Err(wrong(METHOD.name, "encoder_num_layers, encoder_hidden_size", "0", "1 or more"));
    }
    Ok(Arc::new(config))
}

impl PTuningConfig {
    fn encoder(&self) -> Encoder {
        let layers = match self.encoder_reparameterization_type {
            EncoderKind::Mlp => 0,
            EncoderKind::Lstm => self.encoder_num_layers,
        };
        Encoder { lstm_layers: layers, dropout: self.encoder_dropout as f32 }
    }

    /// The encoder's parameters, in the order [`Encoder::run`] reads them, under PyTorch's names.
    fn encoder_params(&self, hidden: usize, width: usize) -> Vec<ParamPlan> {
        let mut params = Vec::new();
        let mut add = |key: String, shape: &[usize], init: Init| {
            params.push(ParamPlan::new(key, shape, init).not_saved().full_precision());
        };
        add("embedding.weight".into(), &[self.prompt.num_virtual_tokens, hidden], Init::Normal { std: 1.0 });
        let maps = match self.encoder_reparameterization_type {
            EncoderKind::Mlp => vec![(0, hidden, width), (2, width, width), (4, width, hidden)],
            EncoderKind::Lstm => {
                for layer in 0..self.encoder_num_layers {
                    let inputs = if layer == 0 { hidden } else { 2 * width };
                    for direction in ["", "_reverse"] {
                        let name = |what: &str| format!("lstm_head.{what}_l{layer}{direction}");
                        add(name("weight_ih"), &[4 * width, inputs], uniform(width));
                        add(name("weight_hh"), &[4 * width, width], uniform(width));
                        add(name("bias_ih"), &[4 * width], uniform(width));
                        add(name("bias_hh"), &[4 * width], uniform(width));
                    }
                }
                vec![(0, 2 * width, 2 * width), (2, 2 * width, hidden)]
            }
        };
        for (at, inputs, outputs) in maps {
            add(format!("mlp_head.{at}.weight"), &[outputs, inputs], uniform(inputs));
            add(format!("mlp_head.{at}.bias"), &[outputs], uniform(inputs));
        }
        params
    }
}

impl Method for PTuningConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let hidden = base.geometry.hidden;
        let prompt = self.prompt.sized(METHOD.name, base, (hidden, base.geometry.query_heads))?;
        let width = self.encoder_hidden_size.unwrap_or(hidden);
        let mut config = config::to_map(&PTuningConfig { prompt, ..self.clone() });
        config.insert("encoder_hidden_size".into(), json!(width));
        write_inert(&mut config, INERT_MODULES);
        if self.stored {
            let params = vec![ParamPlan::new(PROMPT, &[self.prompt.num_virtual_tokens, hidden], Init::Zeros)];
            return Ok(Plan { config, params, placed: vec![at_virtual_tokens(PromptRows, vec![0])] });
        }
        let params = self.encoder_params(hidden, width);
        let placed = vec![at_virtual_tokens(self.encoder(), (0..params.len()).collect())];
        Ok(Plan { config, params, placed })
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }

    fn default_learning_rate(&self) -> f64 {
        1e-3
    }

    fn virtual_tokens(&self) -> usize {
        self.prompt.num_virtual_tokens
    }

    fn finished(&self, edit: Edit, _base: &Base) -> Result<Edit, EditError> {
        if self.stored {
            return Ok(edit);
        }
        let prompt = self.encoder().run(&Tape::off(), &constants(&edit), None).value;
        let params = vec![finished_param(PROMPT, prompt)];
        let method = PTuningConfig { stored: true, ..self.clone() };
        Ok(finished(edit, method, params, vec![at_virtual_tokens(PromptRows, vec![0])]))
    }
}

/// The encoder as a part: its values are the tokens `V`, the LSTM's weights, and the maps behind it.
struct Encoder {
    /// 0 is the MLP.
    lstm_layers: usize,
    dropout: f32,
}

/// Parameters of one direction of a layer of the LSTM.
const OF_DIRECTION: usize = 4;

impl Encoder {
    /// `[tokens, hidden]` in `f32`; `key` names the training noise.
    fn run(&self, tape: &Tape, values: &[Var], key: Option<RandomKey>) -> Var {
        let (lstm, maps) = values[1..].split_at(2 * OF_DIRECTION * self.lstm_layers);
        let mut x = values[0].clone();
        for (layer, weights) in lstm.chunks(2 * OF_DIRECTION).enumerate() {
            if let (Some(key), true) = (key, layer > 0 && self.dropout > 0.0) {
                x = ops::dropout(tape, &x, Dropout { p: self.dropout, key: key.index(layer as u64) });
            }
            let (forward, backward) = weights.split_at(OF_DIRECTION);
            x = ops::concat_columns(
                tape,
                &[lstm_direction(tape, &x, forward, false), lstm_direction(tape, &x, backward, true)],
            );
        }
        for (at, map) in maps.chunks(2).enumerate() {
            if at > 0 {
                x = ops::pointwise(tape, &x, Pointwise::Relu);
            }
            x = ops::add_row(tape, &ops::product_nt(tape, &x, &map[0]), &map[1]);
        }
        x
    }
}

/// One direction of one layer: `[tokens, inputs]` to `[tokens, width]`; from the last token to the first if `reversed`.
fn lstm_direction(tape: &Tape, x: &Var, weights: &[Var], reversed: bool) -> Var {
    let [of_input, of_state, input_bias, state_bias] = weights else { unreachable!("four weights a direction") };
    let (tokens, _) = x.value.rows_cols();
    let width = of_state.value.dim(1);
    let bias = ops::add(tape, input_bias, state_bias);
    let inputs = ops::add_row(tape, &ops::product_nt(tape, x, of_input), &bias);
    let zeros = || Var::constant(Tensor::zeros([1, width], DType::F32));
    let (mut state, mut cell) = (zeros(), zeros());
    let mut outputs = vec![zeros(); tokens];
    let order: Vec<usize> = if reversed { (0..tokens).rev().collect() } else { (0..tokens).collect() };
    for token in order {
        let gates = ops::product_nt(tape, &state, of_state);
        let gates = ops::add(tape, &ops::rows(tape, &inputs, token..token + 1), &gates);
        let gate = |at: usize, f: Pointwise| {
            ops::pointwise(tape, &ops::columns(tape, &gates, at * width..(at + 1) * width), f)
        };
        let kept = ops::multiply(tape, &gate(1, Pointwise::Sigmoid), &cell);
        let new = ops::multiply(tape, &gate(0, Pointwise::Sigmoid), &gate(2, Pointwise::Tanh));
        cell = ops::add(tape, &kept, &new);
        state = ops::multiply(tape, &gate(3, Pointwise::Sigmoid), &ops::pointwise(tape, &cell, Pointwise::Tanh));
        outputs[token] = state.clone();
    }
    ops::concat_rows(tape, &outputs)
}

impl Part for Encoder {
    fn virtual_embeddings(&self, at: &At) -> Option<Var> {
        let key = at.cx.training.then(|| at.cx.key.named("p_tuning").named(at.name));
        Some(scaled(at, self.run(&at.cx.tape, at.values, key)))
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(NO_WEIGHT.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(shape: &[usize], seed: usize) -> Var {
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|i| ((i * 7 + seed * 13) as f64 * 0.37).sin() as f32).collect();
        Var::constant(Tensor::from_slice(shape, &values))
    }

    /// `torch.nn.LSTM(3, 2, num_layers=2, bidirectional=True)` with the same waves in its parameters, in their order, on three
    /// tokens.
    #[test]
    fn the_lstm_is_pytorchs() {
        let mut values = vec![wave(&[3, 3], 0)];
        for (layer, inputs) in [(0, 3), (1, 4)] {
            for direction in 0..2 {
                let seed = 1 + 4 * (2 * layer + direction);
                values.extend([
                    wave(&[8, inputs], seed),
                    wave(&[8, 2], seed + 1),
                    wave(&[8], seed + 2),
                    wave(&[8], seed + 3),
                ]);
            }
        }
        let out = Encoder { lstm_layers: 2, dropout: 0.0 }.run(&Tape::off(), &values, None).value.to_vec_f32();
        assert_eq!(out.len(), 12);
        for (ours, torchs) in out.iter().zip(LSTM) {
            assert!((ours - torchs).abs() < 2e-6, "{out:?}");
        }
    }

    #[rustfmt::skip]
    const LSTM: [f32; 12] = [
        -0.10117508, 0.1016494, -0.06011599, 0.09603731, -0.31664747, 0.10036368, -0.13713983, 0.0288337, -0.29343879,
        0.13724792, -0.01962445, 0.03020358,
    ];
}
