//! Sixteen `f32` lanes under one name on every instruction set, and the micro-kernels written once over them.
//!
//! A micro-kernel computes `R` rows by `P` panels (16 columns each) of a product. Every element is one chain of fused
//! multiply-adds over `k`, in order: its bits depend on neither the rows beside it nor how `k` is cut into blocks.
//!
//! bf16 pairs are multiplied exactly in `f32` and added even `k` first where there is no instruction for the pair; where
//! there is one (`vdpbf16ps`), its own order holds.

use super::kernel::Block;

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512_bf16;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod portable;

/// Sixteen `f32` and what a micro-kernel does with them.
///
/// # Safety
/// The methods may be called only where the processor has the instruction set, inlined into a function that enables it;
/// pointers must be valid for sixteen values (of any alignment).
pub(super) trait Lanes {
    /// Sixteen `f32`.
    type Vector: Copy;
    /// Sixteen columns of two bf16 each, made ready to multiply.
    type Pairs: Copy;
    /// Two bf16 of a row, repeated over the lanes.
    type PairSplat: Copy;

    unsafe fn splat(value: f32) -> Self::Vector;
    unsafe fn load(from: *const f32) -> Self::Vector;
    unsafe fn store(to: *mut f32, v: Self::Vector);
    /// Sixteen bf16, widened.
    unsafe fn load_bf16(from: *const u16) -> Self::Vector;
    /// Rounded to nearest even.
    unsafe fn store_bf16(to: *mut u16, v: Self::Vector);
    /// [`Lanes::store_bf16`] of two vectors, one after the other.
    #[inline(always)]
    unsafe fn store_two_bf16(to: *mut u16, v: [Self::Vector; 2]) {
        // SAFETY: the caller gives room for 32 values.
        unsafe {
            Self::store_bf16(to, v[0]);
            Self::store_bf16(to.add(16), v[1]);
        }
    }
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `acc + a * b`.
    unsafe fn fma(acc: Self::Vector, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn load_pairs(from: *const u32) -> Self::Pairs;
    unsafe fn splat_pair(pair: u32) -> Self::PairSplat;
    /// `acc + a₀ b₀ + a₁ b₁`.
    unsafe fn dot(acc: Self::Vector, a: Self::PairSplat, b: Self::Pairs) -> Self::Vector;
}

/// The sums so far of `R x P` panels.
#[inline(always)]
unsafe fn load_sums<L: Lanes, const R: usize, const P: usize>(b: &Block, row: usize) -> [[L::Vector; P]; R] {
    // SAFETY: the rows and panels are the block's.
    unsafe {
        let mut sums = [[L::splat(0.0); P]; R];
        if b.load_c {
            for r in 0..R {
                for p in 0..P {
                    sums[r][p] = L::load(b.c.add((row + r) * b.c_stride + p * 16));
                }
            }
        }
        sums
    }
}

#[inline(always)]
unsafe fn store_sums<L: Lanes, const R: usize, const P: usize>(b: &Block, row: usize, sums: &[[L::Vector; P]; R]) {
    // SAFETY: the rows and panels are the block's.
    unsafe {
        for r in 0..R {
            for p in 0..P {
                L::store(b.c.add((row + r) * b.c_stride + p * 16), sums[r][p]);
            }
        }
    }
}

/// Rows `row..row + R` of an `f32` product, `P` panels.
#[inline(always)]
unsafe fn rows_f32<L: Lanes, const R: usize, const P: usize>(b: &Block, row: usize) {
    // SAFETY: the caller of the strip vouches for the block's pointers; rows, panels and `k` stay within it.
    unsafe {
        let left = b.a.cast::<f32>().add(row * b.a_stride);
        let right = b.b.cast::<f32>();
        let mut sums = load_sums::<L, R, P>(b, row);
        for k in 0..b.k {
            let mut columns = [L::load(right.add(k * 16)); P];
            for p in 1..P {
                columns[p] = L::load(right.add(p * (b.panel_stride / 4) + k * 16));
            }
            for r in 0..R {
                let value = L::splat(*left.add(r * b.a_stride + k));
                for p in 0..P {
                    sums[r][p] = L::fma(sums[r][p], value, columns[p]);
                }
            }
        }
        store_sums::<L, R, P>(b, row, &sums);
    }
}

/// Rows `row..row + R` of a bf16 product, `P` panels.
#[inline(always)]
unsafe fn rows_bf16<L: Lanes, const R: usize, const P: usize>(b: &Block, row: usize) {
    // SAFETY: as in `rows_f32`; `k` is even, so pairs lie within rows.
    unsafe {
        let left = b.a.cast::<u16>().add(row * b.a_stride);
        let right = b.b.cast::<u32>();
        let mut sums = load_sums::<L, R, P>(b, row);
        for k in 0..b.k / 2 {
            let mut columns = [L::load_pairs(right.add(k * 16)); P];
            for p in 1..P {
                columns[p] = L::load_pairs(right.add(p * (b.panel_stride / 4) + k * 16));
            }
            for r in 0..R {
                let pair = L::splat_pair(left.add(r * b.a_stride + 2 * k).cast::<u32>().read_unaligned());
                for p in 0..P {
                    sums[r][p] = L::dot(sums[r][p], pair, columns[p]);
                }
            }
        }
        store_sums::<L, R, P>(b, row, &sums);
    }
}

/// Covers a block's rows with the tallest micro-kernels that fit.
macro_rules! cover_rows {
    ($block:expr, $rows_kernel:ident, $L:ident, $panels:literal, [$($rows:literal),+]) => {{
        let mut row = 0;
        $(while $block.rows - row >= $rows {
            $crate::matmul::lanes::$rows_kernel::<$L, $rows, $panels>($block, row);
            row += $rows;
        })+
    }};
}
pub(super) use cover_rows;

/// Defines the functions of one instruction set: the strips of `f32` and of bf16 products (`pairs`: two panels at a time,
/// heights given tallest first and ending with 1) and the write-back.
macro_rules! strip_kernels {
    ($L:ident, $pairs:literal, f32: $f32:tt, bf16: $bf16:tt, $(#[$features:meta])?) => {
        /// One strip of an `f32` product.
        ///
        /// # Safety
        /// As [`crate::matmul::kernel::Kernel::block`].
        $(#[$features])?
        pub(in crate::matmul) unsafe fn strip_f32(b: &$crate::matmul::kernel::Block) {
            // SAFETY: the caller vouches for the block and the processor.
            unsafe {
                if $pairs && b.panels == 2 {
                    $crate::matmul::lanes::cover_rows!(b, rows_f32, $L, 2, $f32);
                } else {
                    for p in 0..b.panels {
                        let b = &b.panel(p);
                        $crate::matmul::lanes::cover_rows!(b, rows_f32, $L, 1, $f32);
                    }
                }
            }
        }

        /// One strip of a bf16 product.
        ///
        /// # Safety
        /// As [`crate::matmul::kernel::Kernel::block`].
        $(#[$features])?
        pub(in crate::matmul) unsafe fn strip_bf16(b: &$crate::matmul::kernel::Block) {
            // SAFETY: the caller vouches for the block and the processor.
            unsafe {
                if $pairs && b.panels == 2 {
                    $crate::matmul::lanes::cover_rows!(b, rows_bf16, $L, 2, $bf16);
                } else {
                    for p in 0..b.panels {
                        let b = &b.panel(p);
                        $crate::matmul::lanes::cover_rows!(b, rows_bf16, $L, 1, $bf16);
                    }
                }
            }
        }

        /// Rounds, scales and stores a finished block.
        ///
        /// # Safety
        /// As [`crate::matmul::kernel::Kernel::write`].
        $(#[$features])?
        pub(in crate::matmul) unsafe fn write(w: &$crate::matmul::kernel::WriteBack) {
            // SAFETY: the caller vouches for the pointers and the processor.
            unsafe { $crate::matmul::kernel::write_back::<$L>(w) }
        }
    };
}
pub(super) use strip_kernels;
