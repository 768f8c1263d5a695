//! What DePT and EPT do to the input: the embedding of a sequence's token at position `i` gets row `i` of a matrix of low rank,
//! `E' = E(x) + c C[0..n]`, `C = A B`, `A` `[m, r]`, `B` `[r, hidden]`.
//!
//! Rows follow a token's position in its own sequence (virtual tokens are not counted), in training, scoring and generation alike.
//! Tokens from position `m` on get nothing, so `m` is best no shorter than prompt and answer together.

use hone_engine::{DType, Tape, Tensor, Var, ops};

use super::fields::NO_WEIGHT;
use crate::method::{At, Merge, Part};

/// The update, at the embeddings.
pub struct InputUpdate {
    /// `c`; 1 where the matrix is kept with it.
    pub scale: f32,
}

/// Rows `positions` of `x` `[m, n]`, zeros from `m` on.
fn rows_or_zeros(tape: &Tape, x: &Var, positions: &[u32]) -> Var {
    let (length, width) = x.value.rows_cols();
    if positions.iter().all(|position| (*position as usize) < length) {
        return ops::gather_rows(tape, x, positions);
    }
    let zeros = Var::constant(Tensor::zeros([1, width], x.value.dtype()));
    let places: Vec<u32> = positions.iter().map(|position| (*position).min(length as u32)).collect();
    ops::gather_rows(tape, &ops::concat_rows(tape, &[x.clone(), zeros]), &places)
}

impl Part for InputUpdate {
    fn on_activation(&self, at: &At, h: Var) -> Var {
        let tape = &at.cx.tape;
        let positions = &at.cx.batch.positions;
        let update = match at.values {
            [a, b] => ops::product(tape, &rows_or_zeros(tape, a, positions), b),
            [whole, ..] => rows_or_zeros(tape, whole, positions),
            [] => return h,
        };
        let update = ops::convert(tape, &update, h.value.dtype());
        ops::add_scaled(tape, &h, &update, self.scale * at.strength)
    }

    fn merge(&self, _merge: &Merge) -> Result<Tensor, String> {
        Err(NO_WEIGHT.into())
    }
}

/// `c A B`, `[m, hidden]` in `f32`.
pub fn product(a: &Tensor, b: &Tensor, scale: f32) -> Tensor {
    let tape = Tape::off();
    let [a, b] = [a, b].map(|t| Var::constant(t.to_dtype(DType::F32)));
    ops::scale(&tape, &ops::product(&tape, &a, &b), scale).value
}
