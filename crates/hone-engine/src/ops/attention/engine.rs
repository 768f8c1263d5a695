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

use crate::cpu::{self, Level};
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

/// The level of instructions attention uses for tensors of `dtype`: with `f32`, engines of `bf16` pairs are passed over.
pub(in crate::ops) fn best(dtype: DType) -> Level {
    let level = cpu::level();
    if dtype == DType::BF16 || pair(level) == 1 { level } else { Level::Avx512 }
}

/// [`Engine::PAIR`] of the engine of a level.
pub(super) fn pair(level: Level) -> usize {
    if matches!(level, Level::Amx | Level::Avx512Bf16) { 2 } else { 1 }
}

/// Runs `work` on the engine of a level that this machine has.
pub(super) fn run(level: Level, work: impl Work) {
    #[cfg(target_arch = "x86_64")]
    {
        use pulp::x86::{V3, V4};
        match (level, V4::try_new(), V3::try_new()) {
            (Level::Amx, Some(simd), _) => return amx::run(simd, work),
            (Level::Avx512Bf16, Some(simd), _) => return avx512_bf16::run(simd, work),
            (Level::Avx512, Some(simd), _) => return Simd::vectorize(simd, Wide(work)),
            (Level::Avx2, _, Some(simd)) => return Simd::vectorize(simd, Wide(work)),
            _ => {}
        }
    }
    match level {
        Level::Neon => Arch::new().dispatch(Wide(work)),
        _ => Simd::vectorize(pulp::Scalar, Wide(work)),
    }
}

struct Wide<W>(W);

impl<W: Work> WithSimd for Wide<W> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.run(wide::Wide(simd));
    }
}

/// The levels attention has an engine for on this machine, for tensors of `dtype`, best first.
#[cfg(test)]
pub(super) fn available(dtype: DType) -> Vec<Level> {
    cpu::available().iter().copied().filter(|l| dtype == DType::BF16 || pair(*l) == 1).collect()
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
        for kind in available(DType::BF16) {
            let pair = pair(kind);
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
