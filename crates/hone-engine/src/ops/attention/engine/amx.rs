//! Products of `bf16` tiles by AMX: `tdpbf16ps` multiplies `[16, 32]` by `[32, 16]` in 16 cycles.
//!
//! The compiler has no stable intrinsics for it, so the instructions are written as assembly. Tile registers are never
//! used outside a product; a thread configures them when it enters [`run`] and gives them back when it leaves.

use std::arch::asm;

use pulp::x86::V4;

use crate::matmul::amx::{configure, release};

use super::{Engine, Product, Work};

/// `bf16` pairs by AMX tiles.
#[derive(Clone, Copy)]
pub(super) struct Amx(V4);

/// Runs `work` on this engine; the machine must have [`crate::cpu::Level::Amx`].
pub(super) fn run<W: Work>(simd: V4, work: W) {
    assert!(crate::cpu::available().contains(&crate::cpu::Level::Amx));
    /// Tiles go back to their initial state even when `work` panics, so that the system need not save them.
    struct Release;
    impl Drop for Release {
        fn drop(&mut self) {
            // SAFETY: the tiles were configured by this thread below.
            unsafe { release() }
        }
    }
    // SAFETY: the level is available.
    unsafe { configure() }
    let _release = Release;
    // SAFETY: the token proves V4.
    unsafe { run_vectorised(Amx(simd), work) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn run_vectorised<W: Work>(engine: Amx, work: W) {
    work.run(engine);
}

impl Engine for Amx {
    type Simd = V4;
    const PAIR: usize = 2;

    #[inline(always)]
    fn simd(self) -> V4 {
        self.0
    }

    #[inline]
    unsafe fn product(self, p: Product) {
        // 2 x 2 tiles of sums, so that each tile loaded is used twice.
        for row in (0..p.m).step_by(32) {
            for column in (0..p.n).step_by(32) {
                // SAFETY: the tiles are inside the product, whose pointers the caller vouches for; `run` configured
                // the tile registers.
                unsafe {
                    match (p.m - row >= 32, p.n - column >= 32) {
                        (true, true) => tiles_2x2(p, row, column),
                        (true, false) => tiles_2x1(p, row, column),
                        (false, true) => tiles_1x2(p, row, column),
                        (false, false) => tiles_1x1(p, row, column),
                    }
                }
            }
        }
    }
}

/// Units of `k` in one tile.
const STEP: usize = 16;

/// Defines a function for a block of tiles: the registers of its sums with their places, the loads and the products.
macro_rules! tiles {
    ($name:ident, sums $([$c:literal, $i:literal, $j:literal])*, a $([$a:literal, $ai:literal])*, b $([$b:literal, $bj:literal])*,
     products $([$pc:literal, $pa:literal, $pb:literal])*) => {
        #[inline(always)]
        unsafe fn $name(p: Product, row: usize, column: usize) {
            // SAFETY: see `Engine::product`; no other register than the tiles is written.
            unsafe {
                let (c_bytes, a_bytes, b_bytes) = (p.c.1 * 4, p.a.1 * 4, p.b.1 * 4);
                let c = |i: usize, j: usize| p.c.0.add((row + 16 * i) * p.c.1 + column + 16 * j);
                if p.add {
                    $(asm!(concat!("tileloadd ", $c, ", [{} + {}*1]"), in(reg) c($i, $j), in(reg) c_bytes, options(nostack));)*
                } else {
                    $(asm!(concat!("tilezero ", $c), options(nostack, nomem));)*
                }
                for k in (0..p.k).step_by(STEP) {
                    $(asm!(concat!("tileloadd ", $a, ", [{} + {}*1]"),
                        in(reg) p.a.0.add((row + 16 * $ai) * p.a.1 + k), in(reg) a_bytes, options(nostack));)*
                    $(asm!(concat!("tileloadd ", $b, ", [{} + {}*1]"),
                        in(reg) p.b.0.add(k * p.b.1 + column + 16 * $bj), in(reg) b_bytes, options(nostack));)*
                    $(asm!(concat!("tdpbf16ps ", $pc, ", ", $pa, ", ", $pb), options(nostack, nomem));)*
                }
                $(asm!(concat!("tilestored [{} + {}*1], ", $c), in(reg) c($i, $j), in(reg) c_bytes, options(nostack));)*
            }
        }
    };
}

tiles!(tiles_2x2, sums ["tmm0", 0, 0] ["tmm1", 0, 1] ["tmm2", 1, 0] ["tmm3", 1, 1],
    a ["tmm4", 0] ["tmm5", 1], b ["tmm6", 0] ["tmm7", 1],
    products ["tmm0", "tmm4", "tmm6"] ["tmm1", "tmm4", "tmm7"] ["tmm2", "tmm5", "tmm6"] ["tmm3", "tmm5", "tmm7"]);
tiles!(tiles_2x1, sums ["tmm0", 0, 0] ["tmm2", 1, 0],
    a ["tmm4", 0] ["tmm5", 1], b ["tmm6", 0],
    products ["tmm0", "tmm4", "tmm6"] ["tmm2", "tmm5", "tmm6"]);
tiles!(tiles_1x2, sums ["tmm0", 0, 0] ["tmm1", 0, 1],
    a ["tmm4", 0], b ["tmm6", 0] ["tmm7", 1],
    products ["tmm0", "tmm4", "tmm6"] ["tmm1", "tmm4", "tmm7"]);
tiles!(tiles_1x1, sums ["tmm0", 0, 0],
    a ["tmm4", 0], b ["tmm6", 0],
    products ["tmm0", "tmm4", "tmm6"]);
