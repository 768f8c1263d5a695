//! Small operations over matrices, out of which methods that rewrite weights or activations are put together: products,
//! moves, broadcasts, point-wise functions, reductions, and a few structures (Kronecker products, batches of small
//! squares, sparse matrices) that would be wasteful to write out of the others.
//!
//! Matrices are `[rows, columns]`; where an operation takes tensors of other ranks, every axis but the last is folded into
//! rows unless it says otherwise. Values are `f32` or bf16 and come out in the type of the first operand unless an
//! operation says otherwise; arithmetic is in `f32`. Sums run in an order that follows from the shapes alone, so results
//! do not depend on the number of threads. All of them assert their shapes.
//!
//! Nothing here knows of methods, of adapters or of models. The dozen operations of a decoder layer are the files
//! beside this folder.

pub mod batch_norm;
pub mod blocks;
pub mod broadcast;
pub mod convolution;
pub mod fourier;
pub mod kronecker;
pub mod pointwise;
pub mod products;
pub mod prompt_attention;
pub mod reduce;
pub mod shape;
pub mod sparse;
pub mod threshold;

pub use batch_norm::{BatchStatistics, batch_norm};
pub use blocks::{block_products, block_transpose, cayley, rotate_blocks, skew_from_upper};
pub use broadcast::{add_row, scale_columns, scale_rows};
pub use convolution::{Padding, depthwise_convolution};
pub use fourier::{Frequencies, cosine_sum};
pub use kronecker::kronecker;
pub use pointwise::{Pointwise, pointwise};
pub use products::{product, product_nt, product_tn};
pub use prompt_attention::prompt_attention;
pub use reduce::{column_means, row_norms, row_sums, segment_maxima, segment_means, softmax_rows, sum};
pub use shape::{
    columns, concat_columns, concat_rows, convert, gather_rows, replace_rows, reshape, rows, set_rows, transpose,
};
pub use sparse::{scatter, sparse_product};
pub use threshold::straight_through;

use crate::dtype::DType;
use crate::tape::{Origin, Var};

/// The type to compute the gradient of `to` in: what [`Gradients::add`](crate::Gradients::add) would round it to.
fn gradient_type(to: &Var) -> DType {
    match to.origin {
        Origin::Param(_) => DType::F32,
        _ => to.value.dtype(),
    }
}
