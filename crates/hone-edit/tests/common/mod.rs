//! Bases without a model behind them, and golden adapters.

#![allow(dead_code)] // every test file uses a part

pub mod golden;

use hone_edit::base::{Base, BaseValue, BaseWeight, Geometry, WeightKind};
use hone_edit::registry;
use hone_edit::{Edit, EditError, Role};
use hone_engine::{DType, Tensor};
use serde_json::{Map, Value};

/// A llama: `layers`, widths, tied head. Values are empty where only shapes matter.
pub struct Shape {
    pub layers: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub key_value: usize,
    pub vocabulary: usize,
    pub biases: bool,
}

/// SmolLM2-135M's shape.
pub const SMOL: Shape =
    Shape { layers: 30, hidden: 576, intermediate: 1536, key_value: 192, vocabulary: 49152, biases: false };

/// stories260k's shape.
pub const STORIES: Shape =
    Shape { layers: 5, hidden: 64, intermediate: 172, key_value: 32, vocabulary: 512, biases: false };

/// A base of this shape whose values are all zero (`with_values`) or missing.
pub fn base(shape: &Shape, with_values: bool) -> Base {
    let mut base = Base {
        model_type: "llama".into(),
        reference: "test-model".into(),
        sha256: "0".repeat(64),
        quantize: hone_edit::base::UNROUNDED.into(),
        tied_head: true,
        weights: Vec::new(),
        geometry: Geometry {
            layers: shape.layers,
            hidden: shape.hidden,
            intermediate: shape.intermediate,
            query_heads: shape.hidden / 64,
            key_value_heads: shape.key_value / 64,
            head_dim: 64,
            vocabulary: shape.vocabulary,
        },
        embedding_factor: 1.0,
        tokenizer: None,
    };
    let mut push = |name: String, kind: WeightKind, shape: &[usize]| {
        let held: &[usize] = if with_values { shape } else { &[0] };
        let value = BaseValue::Vector(Tensor::zeros(held, DType::F32));
        base.weights.push(BaseWeight { name, kind, value, shape: shape.to_vec() });
    };
    let (h, i, kv) = (shape.hidden, shape.intermediate, shape.key_value);
    push("model.embed_tokens.weight".into(), WeightKind::Embedding, &[shape.vocabulary, h]);
    for layer in 0..shape.layers {
        push(format!("model.layers.{layer}.input_layernorm.weight"), WeightKind::Norm, &[h]);
        for (name, out, inputs) in [("q_proj", h, h), ("k_proj", kv, h), ("v_proj", kv, h), ("o_proj", h, h)] {
            push(format!("model.layers.{layer}.self_attn.{name}.weight"), WeightKind::Linear, &[out, inputs]);
            if shape.biases && name != "o_proj" {
                push(format!("model.layers.{layer}.self_attn.{name}.bias"), WeightKind::Bias, &[out]);
            }
        }
        push(format!("model.layers.{layer}.post_attention_layernorm.weight"), WeightKind::Norm, &[h]);
        for (name, out, inputs) in [("gate_proj", i, h), ("up_proj", i, h), ("down_proj", h, i)] {
            push(format!("model.layers.{layer}.mlp.{name}.weight"), WeightKind::Linear, &[out, inputs]);
        }
    }
    push("model.norm.weight".into(), WeightKind::Norm, &[h]);
    push("lm_head.weight".into(), WeightKind::Head, &[shape.vocabulary, h]);
    base
}

/// Fields from JSON text.
pub fn fields(json: &str) -> Map<String, Value> {
    serde_json::from_str(json).expect("a JSON object")
}

/// The edit a recipe's `method` makes of `base`.
pub fn edit(json: &str, base: &Base) -> Result<Edit, EditError> {
    Edit::new(registry::from_recipe(&fields(json), &mut Vec::new())?, base, 1)
}

/// What a method plans, without values.
pub fn planned_count(json: &str, base: &Base) -> Result<usize, EditError> {
    let plan = registry::from_recipe(&fields(json), &mut Vec::new())?.plan(base)?;
    let trained = plan.params.iter().filter(|p| p.traits.role == Role::Trained);
    Ok(trained.map(|p| p.shape.iter().product::<usize>()).sum())
}
