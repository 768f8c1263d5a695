//! Rows of a table: `[tokens, width]`, times a factor (Gemma multiplies by `sqrt(width)`, rounded to the compute type).

use crate::dtype::DType;
use crate::tape::{Tape, Var};
use crate::weight::WeightRef;

/// `factor * table[ids]` in type `dtype`. The gradient of a trained table is summed in token order.
pub fn embedding(_tape: &Tape, _table: &WeightRef, _ids: &[u32], _factor: f32, _dtype: DType) -> Var {
    todo!()
}
