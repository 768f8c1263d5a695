//! Houlsby's adapter (Houlsby et al. 2019, arXiv 1902.00751): a bottleneck after attention and after the MLP, on the sub-layer's output.
//!
//! `h + o + Δ(o)`, `o` the sub-layer's output, `Δ(u) = W_up swish(W_down u + b_down) + b_up` ([`super::bottleneck`]); width `hidden / 16`.
//! Start: near the identity (`N(0, 0.01²)`, cut at two standard deviations).

use serde_json::{Value, json};

use super::bottleneck::{BOTTLENECK, Kind, parse};
use crate::method::MethodInfo;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "houlsby",
    peft_type: "HONE_HOULSBY",
    summary: "a bottleneck after attention and after the MLP",
    paper: "arXiv 1902.00751",
    formula: "o + W_up f(W_down o)",
    parse: |fields, origin, warnings| parse(Kind::Houlsby, fields, origin, warnings),
    ..BOTTLENECK
};

/// What a recipe that says nothing has.
pub(super) fn defaults() -> Value {
    json!({ "placement": "both", "insertion": "sequential", "non_linearity": "swish", "reduction_factor": 16, "scaling": 1,
        "init_weights": "houlsby" })
}
