//! The small matrix products attention is made of, one engine for each way this machine can do them.
//!
//! A tile keeps its queries in the lanes: scores are held transposed, `[keys, queries]`, so that the softmax runs down
//! columns without any reduction across lanes. Every product then has the form `c [m, n] (+)= a [m, k] b [k, n]` with
//! `c` in `f32` and the operands in *units* of 32 bits along `k`: one `f32`, or two `bf16` that are summed together
//! ([`Engine::PAIR`]). `a` has its units contiguous along `k`, `b` along `n`.
//!
//! Every element of `c` is summed over `k` in ascending order by one chain of operations that is the same whatever the
//! sizes of the product and the element's place in it. That is why a row's result does not depend on its neighbours.

use pulp::{Arch, Simd, WithSimd};

use crate::dtype::DType;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
mod wide;

/// A product `c [m, n] (+)= a [m, k] b [k, n]`; strides (`row`) in elements of 32 bits.
#[derive(Clone, Copy)]
pub(super) struct Product {
    /// First element of `c` and the distance between its rows.
    pub c: (*mut f32, usize),
    /// Same of `a`, in units.
    pub a: (*const u32, usize),
    /// Same of `b`, in units.
    pub b: (*const u32, usize),
    /// Rows of `a` and `c`, a multiple of 16.
    pub m: usize,
    /// Columns of `b` and `c`, a multiple of 16.
    pub n: usize,
    /// Units summed over, a multiple of 16.
    pub k: usize,
    /// Add to `c` instead of overwriting it.
    pub add: bool,
}

/// One way of multiplying tiles, together with the vector instructions the passes between products use.
pub(super) trait Engine: Copy + Send + Sync {
    /// Instruction set of the element-wise passes.
    type Simd: Simd;
    /// Values in a unit: 1 (`f32`) or 2 (`bf16`).
    const PAIR: usize;

    /// Token of the instruction set.
    fn simd(self) -> Self::Simd;

    /// Computes `product`.
    ///
    /// # Safety
    /// The pointers must be valid for the sizes and strides given and `c` must overlap neither operand. Call it only
    /// inside [`run`].
    unsafe fn product(self, product: Product);
}

/// Work that is generic over the engine; implementations mark `run` `#[inline(always)]`, so that it is compiled for each
/// engine's instruction set.
pub(super) trait Work {
    /// Does it.
    fn run<E: Engine>(self, engine: E);
}

/// The engines there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum EngineKind {
    /// `f32` operands and fused multiply-add, on any machine.
    Wide,
    /// `bf16` pairs by AVX-512 BF16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// `bf16` pairs by AMX tiles.
    #[cfg(target_arch = "x86_64")]
    Amx,
}

impl EngineKind {
    /// The fastest engine of this machine for tensors of `dtype`.
    pub fn best(dtype: DType) -> EngineKind {
        EngineKind::available(dtype)[0]
    }

    /// The engines of this machine for tensors of `dtype`, the fastest first.
    pub fn available(dtype: DType) -> Vec<EngineKind> {
        let mut kinds = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if dtype == DType::BF16 {
            if amx::token().is_some() {
                kinds.push(EngineKind::Amx);
            }
            if avx512_bf16::token().is_some() {
                kinds.push(EngineKind::Avx512Bf16);
            }
        }
        let _ = dtype;
        kinds.push(EngineKind::Wide);
        kinds
    }

    /// [`Engine::PAIR`] of the engine.
    pub fn pair(self) -> usize {
        if self == EngineKind::Wide { 1 } else { 2 }
    }
}

/// Runs `work` on an engine of [`EngineKind::available`].
pub(super) fn run(kind: EngineKind, work: impl Work) {
    struct Wide<W>(W);
    impl<W: Work> WithSimd for Wide<W> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            self.0.run(wide::Wide(simd));
        }
    }
    match kind {
        EngineKind::Wide => Arch::new().dispatch(Wide(work)),
        #[cfg(target_arch = "x86_64")]
        EngineKind::Avx512Bf16 => avx512_bf16::run(work),
        #[cfg(target_arch = "x86_64")]
        EngineKind::Amx => amx::run(work),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bf16;
    use crate::dtype::Element;

    struct Multiply {
        product: Product,
    }

    impl Work for Multiply {
        #[inline(always)]
        fn run<E: Engine>(self, engine: E) {
            // SAFETY: the test's buffers have the sizes of the product, and this runs inside `run`.
            unsafe { engine.product(self.product) }
        }
    }

    /// Small whole numbers, so that every way of summing is exact.
    fn value(i: usize) -> f32 {
        ((i * 7919 + 13) % 17) as f32 - 8.0
    }

    #[test]
    fn every_engine_multiplies_tiles() {
        let kinds = EngineKind::available(DType::BF16);
        eprintln!("engines of this machine: {kinds:?}");
        for kind in kinds {
            let pair = kind.pair();
            for (m, n, units, add) in
                [(16, 16, 16, false), (64, 64, 32, true), (48, 112, 64, true), (32, 80, 48, false)]
            {
                let (lda, ldb, ldc) = (units + 16, n + 32, n + 16);
                let k = units * pair;
                let a: Vec<f32> = (0..m * k).map(value).collect();
                let b: Vec<f32> = (0..k * n).map(|i| value(i + 5)).collect();
                let unit = |values: &[f32]| match pair {
                    1 => values[0].to_bits(),
                    _ => {
                        let half = |v: f32| <bf16 as Element>::rounded(v).to_bits() as u32;
                        half(values[0]) | half(values[1]) << 16
                    }
                };
                let mut packed_a = vec![0u32; m * lda];
                let mut packed_b = vec![0u32; units * ldb];
                for u in 0..units {
                    for i in 0..m {
                        let at = i * k + u * pair;
                        packed_a[i * lda + u] = unit(&a[at..at + pair]);
                    }
                    for j in 0..n {
                        let column: Vec<f32> = (0..pair).map(|p| b[(u * pair + p) * n + j]).collect();
                        packed_b[u * ldb + j] = unit(&column);
                    }
                }
                let before: Vec<f32> = (0..m * ldc).map(value).collect();
                let mut c = before.clone();
                let product = Product {
                    c: (c.as_mut_ptr(), ldc),
                    a: (packed_a.as_ptr(), lda),
                    b: (packed_b.as_ptr(), ldb),
                    m,
                    n,
                    k: units,
                    add,
                };
                run(kind, Multiply { product });
                for i in 0..m {
                    for j in 0..ldc {
                        let start = before[i * ldc + j];
                        let sum: f32 = match j < n {
                            true => (0..k).map(|p| a[i * k + p] * b[p * n + j]).sum(),
                            false => 0.0,
                        };
                        let expected = if j < n && !add { sum } else { start + sum };
                        assert_eq!(c[i * ldc + j], expected, "{kind:?} {m}x{n}x{k} add {add} at {i}, {j}");
                    }
                }
            }
        }
    }
}
