//! Coarse operations, one file each, forward beside backward. Hidden states are `[tokens, width]`: the tokens of all
//! sequences of a batch lie one after another without padding, and [`attention::Segment`]s say which belong together.

pub mod attention;
pub mod cached_attention;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod gated;
mod head;
pub mod layer_norm;
pub mod linear;
pub mod lm_head;
mod map;
pub mod recompute;
pub mod rms_norm;
pub mod rope;
pub mod token_log_probs;

pub use attention::{AttentionSpec, KeptBlocks, Segment, attention};
pub use cached_attention::{CacheLane, cached_attention};
pub use dropout::{Dropout, dropout};
pub use elementwise::{add, add_scaled, multiply, scale};
pub use embedding::embedding;
pub use gated::{Activation, activation, gated};
pub use layer_norm::layer_norm;
pub use linear::{LowRank, linear, linears};
pub use lm_head::{HeadLoss, lm_head_loss};
pub use recompute::recompute;
pub use rms_norm::{add_rms_norm, head_rms_norm, rms_norm};
pub use rope::{RopeAngles, RopeTable, rope};
pub use token_log_probs::{TokenScore, head_logits, token_scores};
