//! Products of `f32` tiles by fused multiply-add, on any machine. `bf16` tensors are widened when they are packed.

// Loops over registers are written by index: rows, columns and sums side by side.
#![allow(clippy::needless_range_loop)]

use pulp::Simd;

use super::{Engine, Product};

/// `f32` units, vectors of `S`.
#[derive(Clone, Copy)]
pub(super) struct Wide<S>(pub S);

impl<S: Simd> Engine for Wide<S> {
    type Simd = S;
    const PAIR: usize = 1;

    #[inline(always)]
    fn simd(self) -> S {
        self.0
    }

    #[inline(always)]
    unsafe fn product(self, p: Product) {
        // 4 x 4 vectors of sums hide the latency of multiply-add where 32 registers hold them; 4 x 2 where 16 do.
        let mut column = 0;
        if S::REGISTER_COUNT >= 32 {
            while p.n - column >= 4 * S::F32_LANES {
                // SAFETY: the columns are inside the product.
                unsafe { columns::<S, 4>(self.0, p, column) };
                column += 4 * S::F32_LANES;
            }
        }
        while p.n - column >= 2 * S::F32_LANES {
            // SAFETY: as above.
            unsafe { columns::<S, 2>(self.0, p, column) };
            column += 2 * S::F32_LANES;
        }
        if p.n > column {
            // SAFETY: as above; `n` is a multiple of 16 and so of the lanes.
            unsafe { columns::<S, 1>(self.0, p, column) };
        }
    }
}

/// Rows summed at a time; divides the 16 that `m` is a multiple of.
const ROWS: usize = 4;

/// Columns `column .. column + N * lanes` of the product.
#[inline(always)]
unsafe fn columns<S: Simd, const N: usize>(simd: S, p: Product, column: usize) {
    let lanes = S::F32_LANES;
    for row in (0..p.m).step_by(ROWS) {
        // SAFETY: rows and columns are inside the product, whose pointers the caller vouches for. Loads and stores
        // are unaligned.
        unsafe {
            let c = |i: usize, j: usize| p.c.0.add((row + i) * p.c.1 + column + j * lanes).cast::<S::f32s>();
            let mut sums = [[simd.splat_f32s(0.0); N]; ROWS];
            if p.add {
                for i in 0..ROWS {
                    for j in 0..N {
                        sums[i][j] = c(i, j).read_unaligned();
                    }
                }
            }
            let mut a = p.a.0.cast::<f32>().add(row * p.a.1);
            let mut b = p.b.0.cast::<f32>().add(column);
            for _ in 0..p.k {
                let mut b_row = [simd.splat_f32s(0.0); N];
                for j in 0..N {
                    b_row[j] = b.add(j * lanes).cast::<S::f32s>().read_unaligned();
                }
                for i in 0..ROWS {
                    let a = simd.splat_f32s(*a.add(i * p.a.1));
                    for j in 0..N {
                        sums[i][j] = simd.mul_add_f32s(a, b_row[j], sums[i][j]);
                    }
                }
                a = a.add(1);
                b = b.add(p.b.1);
            }
            for i in 0..ROWS {
                for j in 0..N {
                    c(i, j).write_unaligned(sums[i][j]);
                }
            }
        }
    }
}
