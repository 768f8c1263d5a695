//! Coarse operations, one file each, forward beside backward. Hidden states are `[tokens, width]`: the tokens of all
//! sequences of a batch lie one after another without padding, and [`attention::Segment`]s say which belong together.
//! [`matrix`] has the smaller ones that edits are made of.

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
pub mod lm_head_disagreement;
pub mod lm_head_divergence;
mod map;
pub mod matrix;
pub mod penalty;
pub mod recompute;
pub mod rms_norm;
pub mod rope;
pub mod token_log_probs;

pub use attention::{AttentionSpec, KeptBlocks, Segment, attention, attention_rows};
pub use cached_attention::{CacheLane, cached_attention};
pub use dropout::{Dropout, dropout};
pub use elementwise::{add, add_scaled, multiply, scale};
pub use embedding::embedding;
pub use gated::{Activation, activation, gated};
pub use layer_norm::layer_norm;
pub use linear::{LowRank, linear, linears};
pub use lm_head::{HeadLoss, lm_head_loss};
pub use lm_head_disagreement::lm_head_disagreement;
pub use lm_head_divergence::{HeadDivergence, Teacher, Teachers, lm_head_divergence};
pub use matrix::{
    BatchStatistics, Frequencies, Padding, Pointwise, add_row, batch_norm, block_products, block_transpose, cayley,
    column_means, columns, concat_columns, concat_rows, convert, cosine_sum, depthwise_convolution, gather_rows,
    kronecker, pointwise, product, product_nt, product_tn, prompt_attention, replace_rows, reshape, rotate_blocks,
    row_norms, row_sums, rows, scale_columns, scale_rows, scatter, segment_maxima, segment_means, set_rows,
    skew_from_upper, softmax_rows, sparse_product, straight_through, sum, transpose,
};
pub use penalty::with_penalty;
pub use recompute::recompute;
pub use rms_norm::{add_rms_norm, head_rms_norm, rms_norm};
pub use rope::{RopeAngles, RopeTable, rope};
pub use token_log_probs::{TokenScore, head_logits, token_scores};
