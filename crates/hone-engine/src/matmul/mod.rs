//! Matrix products. All row-major; `f32` or `bf16` in, accumulated in `f32`, fixed order of summation at any thread
//! count. `f32` goes through the `gemm` crate, `bf16` through our own packed micro-kernels chosen at run time
//! (AMX → AVX-512 BF16 → AVX-512 → AVX2+FMA → NEON → portable).

use crate::dtype::{DType, Element};
use crate::tensor::Tensor;

/// A matrix packed for the micro-kernels of this machine.
pub struct Packed {}

/// Strides of a row-major matrix, or of its transpose.
#[derive(Clone, Copy)]
struct Strides {
    row: isize,
    column: isize,
}

/// `c = beta c + alpha a b` in `f32`.
#[allow(clippy::too_many_arguments)]
fn product_f32(
    c: &mut [f32],
    read_c: bool,
    alpha: f32,
    (m, n, k): (usize, usize, usize),
    a: &[f32],
    a_strides: Strides,
    b: &[f32],
    b_strides: Strides,
) {
    assert!(c.len() == m * n && a.len() == m * k && b.len() == k * n, "operands do not fit m={m} n={n} k={k}");
    // SAFETY: the lengths were checked just above, and the strides address m x k and k x n elements within them.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            read_c,
            a.as_ptr(),
            a_strides.column,
            a_strides.row,
            b.as_ptr(),
            b_strides.column,
            b_strides.row,
            1.0,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

#[derive(Clone, Copy)]
enum Form {
    Nt,
    Nn,
    Tn,
}

fn sizes(form: Form, a: &Tensor, b: &Tensor) -> (usize, usize, usize) {
    let ((a0, a1), (b0, b1)) = (a.rows_cols(), b.rows_cols());
    let (m, n, k, same) = match form {
        Form::Nt => (a0, b0, a1, b1),
        Form::Nn => (a0, b1, a1, b0),
        Form::Tn => (a1, b1, a0, b0),
    };
    assert_eq!(k, same, "inner sizes of a product differ: {:?} and {:?}", a.shape(), b.shape());
    (m, n, k)
}

fn run(form: Form, c: &mut Tensor, read_c: bool, alpha: f32, a: &Tensor, b: &Tensor) {
    let (m, n, k) = sizes(form, a, b);
    assert_eq!(c.elements(), m * n, "a product of {m} x {n} into a tensor of shape {:?}", c.shape());
    if k == 0 {
        if !read_c {
            *c = Tensor::zeros(c.shape(), c.dtype());
        }
        return;
    }
    let (wide_a, wide_b) = (a.to_dtype(DType::F32), b.to_dtype(DType::F32));
    let plain = |columns: usize| Strides { row: columns as isize, column: 1 };
    let turned = |columns: usize| Strides { row: 1, column: columns as isize };
    let (sa, sb) = match form {
        Form::Nt => (plain(k), turned(k)),
        Form::Nn => (plain(k), plain(n)),
        Form::Tn => (turned(m), plain(n)),
    };
    let (left, right) = (wide_a.as_slice::<f32>(), wide_b.as_slice::<f32>());
    if c.dtype() == DType::F32 {
        return product_f32(c.as_mut_slice(), read_c, alpha, (m, n, k), left, sa, right, sb);
    }
    let mut wide_c = c.to_dtype(DType::F32);
    product_f32(wide_c.as_mut_slice(), read_c, alpha, (m, n, k), left, sa, right, sb);
    for (to, from) in c.as_mut_slice::<half::bf16>().iter_mut().zip(wide_c.as_slice::<f32>()) {
        *to = <half::bf16 as Element>::from_f32(*from);
    }
}

fn fresh(form: Form, a: &Tensor, b: &Tensor, out: DType) -> Tensor {
    let (m, n, _) = sizes(form, a, b);
    let mut c = Tensor::uninit([m, n], out);
    run(form, &mut c, false, 1.0, a, b);
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
    run(Form::Nt, c, true, alpha, a, b);
}
/// `c += alpha * a b`, in place.
pub fn matmul_nn_add(c: &mut Tensor, alpha: f32, a: &Tensor, b: &Tensor) {
    run(Form::Nn, c, true, alpha, a, b);
}
/// `c += alpha * aᵀ b`, in place (weight gradients summed over micro-batches).
pub fn matmul_tn_add(c: &mut Tensor, alpha: f32, a: &Tensor, b: &Tensor) {
    run(Form::Tn, c, true, alpha, a, b);
}
