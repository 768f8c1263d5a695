//! Products of `bf16` tiles by `vdpbf16ps` (AVX-512 BF16): 32 multiply-adds an instruction, a pair summed at a time.

// Loops over registers are written by index: rows, columns and sums side by side.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_castps_si512, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_set1_epi32,
    _mm512_setzero_ps, _mm512_storeu_ps,
};

use pulp::x86::V4;

use super::{Engine, Product, Work};

/// `bf16` pairs by AVX-512 BF16.
#[derive(Clone, Copy)]
pub(super) struct Avx512Bf16(V4);

/// Runs `work` on this engine; the machine must have [`crate::cpu::Level::Avx512Bf16`].
pub(super) fn run<W: Work>(simd: V4, work: W) {
    assert!(std::arch::is_x86_feature_detected!("avx512bf16"));
    // SAFETY: the token proves V4, and AVX-512 BF16 is there.
    unsafe { run_vectorised(Avx512Bf16(simd), work) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn run_vectorised<W: Work>(engine: Avx512Bf16, work: W) {
    work.run(engine);
}

impl Engine for Avx512Bf16 {
    type Simd = V4;
    const PAIR: usize = 2;

    #[inline(always)]
    fn simd(self) -> V4 {
        self.0
    }

    #[inline(always)]
    unsafe fn product(self, p: Product) {
        // SAFETY: the engine exists only where its instructions do; the caller vouches for the pointers.
        unsafe { product(p) }
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn product(p: Product) {
    let mut column = 0;
    // SAFETY: the columns are inside the product.
    unsafe {
        while p.n - column >= 64 {
            columns::<4>(p, column);
            column += 64;
        }
        while p.n - column >= 32 {
            columns::<2>(p, column);
            column += 32;
        }
        if p.n > column {
            columns::<1>(p, column);
        }
    }
}

/// Rows summed at a time; divides the 16 that `m` is a multiple of.
const ROWS: usize = 4;

/// Columns `column .. column + N * 16` of the product.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn columns<const N: usize>(p: Product, column: usize) {
    // SAFETY: the same 64 bytes under another name.
    let pairs = |v: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(v) };
    for row in (0..p.m).step_by(ROWS) {
        // SAFETY: rows and columns are inside the product, whose pointers the caller vouches for.
        unsafe {
            let c = |i: usize, j: usize| p.c.0.add((row + i) * p.c.1 + column + j * 16);
            let mut sums: [[__m512; N]; ROWS] = [[_mm512_setzero_ps(); N]; ROWS];
            if p.add {
                for i in 0..ROWS {
                    for j in 0..N {
                        sums[i][j] = _mm512_loadu_ps(c(i, j));
                    }
                }
            }
            let mut a = p.a.0.add(row * p.a.1);
            let mut b = p.b.0.add(column);
            for _ in 0..p.k {
                let mut b_row = [_mm512_setzero_ps(); N];
                for j in 0..N {
                    b_row[j] = _mm512_loadu_ps(b.add(j * 16).cast());
                }
                for i in 0..ROWS {
                    let a = pairs(_mm512_set1_epi32(*a.add(i * p.a.1) as i32));
                    for j in 0..N {
                        sums[i][j] = _mm512_dpbf16_ps(sums[i][j], a, pairs(_mm512_castps_si512(b_row[j])));
                    }
                }
                a = a.add(1);
                b = b.add(p.b.1);
            }
            for i in 0..ROWS {
                for j in 0..N {
                    _mm512_storeu_ps(c(i, j), sums[i][j]);
                }
            }
        }
    }
}
