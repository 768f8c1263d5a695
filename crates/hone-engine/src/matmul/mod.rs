//! Matrix products. All row-major; `f32` or `bf16` in, accumulated in `f32`, fixed order of summation at any thread
//! count. `f32` goes through the `gemm` crate, `bf16` through our own packed micro-kernels chosen at run time
//! (AMX → AVX-512 BF16 → AVX-512 → AVX2+FMA → NEON → portable).

use crate::dtype::DType;
use crate::tensor::Tensor;

/// A matrix packed for the micro-kernels of this machine.
pub struct Packed {}

/// `a bᵀ`: `[m, k] x [n, k] -> [m, n]` of type `out`.
pub fn matmul_nt(_a: &Tensor, _b: &Tensor, _out: DType) -> Tensor {
    todo!()
}
/// `a b`: `[m, k] x [k, n] -> [m, n]` of type `out`.
pub fn matmul_nn(_a: &Tensor, _b: &Tensor, _out: DType) -> Tensor {
    todo!()
}
/// `aᵀ b`: `[k, m] x [k, n] -> [m, n]` of type `out` (weight gradients: `out = F32`).
pub fn matmul_tn(_a: &Tensor, _b: &Tensor, _out: DType) -> Tensor {
    todo!()
}
/// `c += alpha * a bᵀ`, in place (`c` in its own type, accumulated in `f32` before the add).
pub fn matmul_nt_add(_c: &mut Tensor, _alpha: f32, _a: &Tensor, _b: &Tensor) {
    todo!()
}
/// `c += alpha * a b`, in place.
pub fn matmul_nn_add(_c: &mut Tensor, _alpha: f32, _a: &Tensor, _b: &Tensor) {
    todo!()
}
