//! Pfeiffer's adapter (Pfeiffer et al. 2021, arXiv 2005.00247): a bottleneck on the residual stream behind the MLP.
//!
//! `r + Δ(r)`, `r = h + f(u)`, `Δ(u) = W_up relu(W_down u + b_down) + b_up` ([`super::bottleneck`]); width `hidden / 16`. Start: near the
//! identity (`N(0, 0.02²)`).

use serde_json::{Value, json};

use super::bottleneck::{BOTTLENECK, Kind, parse};
use crate::method::MethodInfo;

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "pfeiffer",
    peft_type: "HONE_PFEIFFER",
    summary: "a bottleneck on the residual stream behind the MLP",
    paper: "arXiv 2005.00247",
    formula: "r + W_up f(W_down r)",
    parse: |fields, origin, warnings| parse(Kind::Pfeiffer, fields, origin, warnings),
    ..BOTTLENECK
};

/// What a recipe that says nothing has.
pub(super) fn defaults() -> Value {
    json!({ "placement": "mlp", "insertion": "residual", "non_linearity": "relu", "reduction_factor": 16, "scaling": 1,
        "init_weights": "bert" })
}
