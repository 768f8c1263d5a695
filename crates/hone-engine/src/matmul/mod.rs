//! Matrix products, row-major, `f32` or bf16 in, accumulated in `f32`.
//!
//! - `kernel`: what a micro-kernel is; `lanes` (AVX-512 with and without bf16 dot products, AVX2, NEON, plain loops) and
//!   `amx` have them. [`crate::cpu`] says which is used.
//! - `panels`: the layout they read the right-hand side in, one for all; `packed`: a weight kept in it.
//! - `operand`: how either side comes to lie as they read it. `tile`: the moves that takes.
//! - `planes`: `f32` products as bf16 ones, where there are tiles.
//! - `blocked`: the loops over cache blocks and threads.
//!
//! **What a result depends on.** Every element is one chain of additions over `k` in an order that the kernel fixes. Not
//! the number of rows, nor of threads, nor how a product was cut changes a bit; the instruction set does.
//!
//! Two bf16 sides are multiplied as bf16; if either is `f32`, to the accuracy of `f32`. Blocks of GGUF take the type of the other side.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
mod blocked;
mod kernel;
mod lanes;
mod operand;
mod packed;
mod panels;
pub(crate) mod planes;
mod tile;

pub(crate) use operand::{Left, Right, Source};
pub(crate) use packed::Packed;

use crate::cpu::{self, Level};
use crate::dtype::{DType, Element};
use crate::tensor::Tensor;

/// `c = alpha * Σ left right`, or `c += …` with `add`, on the instruction set of `level`; `c` is `[m, n]`.
pub(crate) fn product(level: Level, c: &mut Tensor, n: usize, add: bool, alpha: f32, sides: &[(Left<'_>, Right<'_>)]) {
    let m = c.elements().checked_div(n).unwrap_or(0);
    assert_eq!(c.elements(), m * n, "a product of {n} columns into a tensor of shape {:?}", c.shape());
    let mut terms = Vec::with_capacity(sides.len());
    for (left, right) in sides {
        let (rows, columns) = left.source.shape();
        let (rows, k) = if left.turned { (columns, rows) } else { (rows, columns) };
        assert_eq!(rows, m, "a product of {rows} rows into a tensor of shape {:?}", c.shape());
        if k > 0 {
            terms.push(blocked::Term { k, left: *left, right: *right, same_right: false });
        }
    }
    if m == 0 || n == 0 {
        return;
    }
    if terms.is_empty() {
        if !add {
            *c = Tensor::zeros(c.shape(), c.dtype());
        }
        return;
    }
    if let Some(parts) = planes::expand(level, &terms) {
        terms = parts;
    }
    let bf16 = |source: &Source<'_>| source.dtype().is_none_or(|d| d == DType::BF16);
    let all = terms.iter().all(|t| bf16(&t.left.source) && bf16(&t.right.source));
    let kernel = kernel::kernel_for(level, if all { DType::BF16 } else { DType::F32 });
    let dtype = c.dtype();
    let out = crate::dispatch_dtype!(dtype, T => c.as_mut_slice::<T>().as_mut_ptr().cast::<u8>());
    blocked::run(&blocked::Product { m, n, terms: &terms, out, dtype, alpha, add }, &kernel);
}

/// Which sides of a product are transposed.
#[derive(Clone, Copy, Debug)]
enum Form {
    Nt,
    Nn,
    Tn,
}

fn sizes(form: Form, a: &Tensor, b: &Tensor) -> (usize, usize) {
    let ((a0, a1), (b0, b1)) = (a.rows_cols(), b.rows_cols());
    let (m, n, k, same) = match form {
        Form::Nt => (a0, b0, a1, b1),
        Form::Nn => (a0, b1, a1, b0),
        Form::Tn => (a1, b1, a0, b0),
    };
    assert_eq!(k, same, "inner sizes of a product differ: {:?} and {:?}", a.shape(), b.shape());
    (m, n)
}

fn into(level: Level, form: Form, c: &mut Tensor, add: bool, alpha: f32, a: &Tensor, b: &Tensor) {
    let (m, n) = sizes(form, a, b);
    if matches!(form, Form::Tn) && n < m && n <= NARROW {
        return narrow_tn(level, c, add, alpha, a, b);
    }
    let left = Left { source: Source::dense(a), turned: matches!(form, Form::Tn) };
    let right = Right { source: Source::dense(b), first_row: 0, turned: !matches!(form, Form::Nt) };
    product(level, c, n, add, alpha, &[(left, right)]);
}

/// Columns up to which `aᵀ b` is made as the transpose of `bᵀ a`: the wide side then streams, and the result is small.
const NARROW: usize = 64;

fn narrow_tn(level: Level, c: &mut Tensor, add: bool, alpha: f32, a: &Tensor, b: &Tensor) {
    let (m, n) = sizes(Form::Tn, a, b);
    assert_eq!(c.elements(), m * n, "a product of {m} x {n} into a tensor of shape {:?}", c.shape());
    let mut turned = Tensor::uninit([n, m], DType::F32);
    into(level, Form::Tn, &mut turned, false, 1.0, b, a);
    let from = turned.as_slice::<f32>();
    crate::dispatch_dtype!(c.dtype(), T => {
        for (i, row) in c.as_mut_slice::<T>().chunks_exact_mut(n).enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                let start = if add { Element::widen(*value) } else { 0.0 };
                *value = T::rounded(alpha.mul_add(from[j * m + i], start));
            }
        }
    });
}

fn fresh(form: Form, a: &Tensor, b: &Tensor, out: DType) -> Tensor {
    let (m, n) = sizes(form, a, b);
    let mut c = Tensor::uninit([m, n], out);
    into(cpu::level(), form, &mut c, false, 1.0, a, b);
    c
}

/// `a bᵀ`: `[m, k] x [n, k] -> [m, n]` of type `out`. Axes before the last are folded into rows.
pub fn matmul_nt(a: &Tensor, b: &Tensor, out: DType) -> Tensor {
    fresh(Form::Nt, a, b, out)
}
/// `a b`: `[m, k] x [k, n] -> [m, n]` of type `out`.
pub fn matmul_nn(a: &Tensor, b: &Tensor, out: DType) -> Tensor {
    fresh(Form::Nn, a, b, out)
}
/// `aᵀ b`: `[k, m] x [k, n] -> [m, n]` of type `out` (weight gradients: `out = F32`).
pub fn matmul_tn(a: &Tensor, b: &Tensor, out: DType) -> Tensor {
    fresh(Form::Tn, a, b, out)
}
/// `c += alpha * a bᵀ`, in place (`c` in its own type, accumulated in `f32` before the add).
pub fn matmul_nt_add(c: &mut Tensor, alpha: f32, a: &Tensor, b: &Tensor) {
    into(cpu::level(), Form::Nt, c, true, alpha, a, b);
}
/// `c += alpha * a b`, in place.
pub fn matmul_nn_add(c: &mut Tensor, alpha: f32, a: &Tensor, b: &Tensor) {
    into(cpu::level(), Form::Nn, c, true, alpha, a, b);
}
/// `c += alpha * aᵀ b`, in place (weight gradients summed over micro-batches).
pub fn matmul_tn_add(c: &mut Tensor, alpha: f32, a: &Tensor, b: &Tensor) {
    into(cpu::level(), Form::Tn, c, true, alpha, a, b);
}

#[cfg(test)]
mod tests;
