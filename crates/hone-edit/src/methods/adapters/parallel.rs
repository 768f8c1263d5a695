//! The parallel adapter (He et al. 2022, arXiv 2110.04366): a scaled bottleneck beside the MLP, on its input.
//!
//! `h + f(u) + s Δ(u)`, `Δ(u) = W_up relu(W_down u + b_down) + b_up` ([`super::bottleneck`]), `s = 4`; width `hidden / 2`. Start: the
//! identity (Kaiming-uniform down, zeros up).

use serde_json::{Value, json};

use super::bottleneck::{BOTTLENECK, Kind, parse};
use crate::method::MethodInfo;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "parallel_adapter",
    peft_type: "HONE_PARALLEL_ADAPTER",
    summary: "a scaled bottleneck beside the MLP",
    paper: "arXiv 2110.04366",
    formula: "o + s W_up f(W_down u)",
    parse: |fields, origin, warnings| parse(Kind::Parallel, fields, origin, warnings),
    ..BOTTLENECK
};

/// What a recipe that says nothing has.
pub(super) fn defaults() -> Value {
    json!({ "placement": "mlp", "insertion": "parallel", "non_linearity": "relu", "reduction_factor": 2, "scaling": 4,
        "init_weights": "mam_adapter" })
}
