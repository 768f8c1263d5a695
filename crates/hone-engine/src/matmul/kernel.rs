//! What a micro-kernel is to the blocked loops: a function from a strip of rows and a few panels to a block of sums, and
//! one that rounds such a block into the result. [`kernel_for`] picks them by level and type.

use super::lanes::{self, Lanes};
use crate::cpu::Level;
use crate::dtype::DType;

/// Columns of a panel.
pub(super) const PANEL: usize = 16;
/// `k` of bf16 panels is padded with zeros to a multiple of this (the depth of an AMX tile).
pub(super) const DEPTH: usize = 32;

/// Work for one call of a micro-kernel: `c = a b`, or `c += a b` with `load_c`, over a block of `k`.
pub(super) struct Block {
    /// First value of the first row; rows lie `a_stride` values apart.
    pub a: *const u8,
    /// In values.
    pub a_stride: usize,
    /// Rows, at most [`Kernel::strip`].
    pub rows: usize,
    /// First panel at the block's first `k`; panels lie `panel_stride` bytes apart.
    pub b: *const u8,
    /// In bytes.
    pub panel_stride: usize,
    /// Panels, 1 or 2.
    pub panels: usize,
    /// Depth, a multiple of [`Kernel::k_multiple`].
    pub k: usize,
    /// Sums, row-major with room for [`Kernel::strip`] rows.
    pub c: *mut f32,
    /// In values.
    pub c_stride: usize,
    /// Whether `c` holds the sums of the `k` before.
    pub load_c: bool,
}

impl Block {
    /// The block's `p`-th panel alone.
    ///
    /// # Safety
    /// `p < self.panels`.
    #[inline(always)]
    pub(super) unsafe fn panel(&self, p: usize) -> Block {
        // SAFETY: panel `p` is one of the block's.
        unsafe { Block { b: self.b.add(p * self.panel_stride), c: self.c.add(p * PANEL), panels: 1, ..*self } }
    }
}

/// A finished block on its way into the result: `to = alpha * sums`, or `to += alpha * sums` with `add`.
pub(super) struct WriteBack {
    /// Sums, row-major; 16 columns of the last panel are readable even where the result is narrower.
    pub sums: *const f32,
    /// In values.
    pub sums_stride: usize,
    /// Rows.
    pub rows: usize,
    /// Columns of the result.
    pub columns: usize,
    /// First value in the result, of type `dtype`.
    pub to: *mut u8,
    /// In values.
    pub to_stride: usize,
    /// Type of the result.
    pub dtype: DType,
    /// Factor on the sums.
    pub alpha: f32,
    /// Whether the result's values are added to.
    pub add: bool,
}

/// A micro-kernel and what the loops around it must know.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    /// Type multiplied.
    pub dtype: DType,
    /// Rows a call takes at most.
    pub strip: usize,
    /// Rows of a call are a multiple of this (short ones padded with zeros).
    pub row_multiple: usize,
    /// `k` of a call is a multiple of this (padded with zeros).
    pub k_multiple: usize,
    /// Deepest block of `k` whose strip stays in the first-level cache.
    pub k_block: usize,
    /// Bytes of panels that should stay in the second-level cache.
    pub panel_bytes: usize,
    /// Whether panels may be packed with AVX-512.
    pub avx512: bool,
    /// Called on a thread before its first block and after its last.
    pub bracket: Option<(unsafe fn(), unsafe fn())>,
    /// # Safety
    /// The block's pointers must be valid for its sizes, the sizes within the limits above, the processor of the level.
    pub block: unsafe fn(&Block),
    /// # Safety
    /// The pointers must be valid for the sizes, the processor of the level.
    pub write: unsafe fn(&WriteBack),
}

/// Whether this machine packs with AVX-512 (at any level in use: the layout is the same).
pub(super) fn avx512_packing() -> bool {
    crate::cpu::available().contains(&Level::Avx512) && crate::cpu::level() <= Level::Avx512
}

/// The micro-kernel of `level` for operands of type `dtype`. `level` must be one of [`crate::cpu::available`].
pub(super) fn kernel_for(level: Level, dtype: DType) -> Kernel {
    debug_assert!(crate::cpu::available().contains(&level), "{level} is not available here");
    let bf16 = dtype == DType::BF16;
    let plain = Kernel {
        dtype,
        strip: 0,
        row_multiple: 1,
        k_multiple: if bf16 { 2 } else { 1 },
        k_block: if bf16 { 1024 } else { 512 },
        panel_bytes: 384 << 10,
        avx512: false,
        bracket: None,
        block: lanes::portable::strip_f32,
        write: lanes::portable::write,
    };
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Amx if bf16 => Kernel {
            strip: 32,
            row_multiple: 16,
            k_multiple: DEPTH,
            k_block: 768,
            panel_bytes: 1 << 20,
            avx512: true,
            bracket: Some((super::amx::configure, super::amx::release)),
            block: super::amx::block,
            write: lanes::avx512_bf16::write,
            ..plain
        },
        #[cfg(target_arch = "x86_64")]
        Level::Amx | Level::Avx512Bf16 => Kernel {
            strip: 12,
            avx512: true,
            block: if bf16 { lanes::avx512_bf16::strip_bf16 } else { lanes::avx512_bf16::strip_f32 },
            write: lanes::avx512_bf16::write,
            ..plain
        },
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => Kernel {
            strip: 12,
            avx512: true,
            block: if bf16 { lanes::avx512::strip_bf16 } else { lanes::avx512::strip_f32 },
            write: lanes::avx512::write,
            ..plain
        },
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => Kernel {
            strip: 12,
            block: if bf16 { lanes::avx2::strip_bf16 } else { lanes::avx2::strip_f32 },
            write: lanes::avx2::write,
            ..plain
        },
        #[cfg(target_arch = "aarch64")]
        Level::Neon => Kernel {
            strip: 12,
            block: if bf16 { lanes::neon::strip_bf16 } else { lanes::neon::strip_f32 },
            write: lanes::neon::write,
            ..plain
        },
        _ => Kernel {
            strip: 12,
            block: if bf16 { lanes::portable::strip_bf16 } else { lanes::portable::strip_f32 },
            ..plain
        },
    }
}

/// [`WriteBack`] over one instruction set's lanes.
///
/// # Safety
/// The pointers must be valid for the sizes, the processor must have the lanes' instructions.
#[inline(always)]
pub(super) unsafe fn write_back<L: Lanes>(w: &WriteBack) {
    // SAFETY: as the caller says.
    unsafe {
        match w.dtype {
            DType::F32 => write_rows::<L, f32>(w),
            DType::BF16 => write_rows::<L, half::bf16>(w),
        }
    }
}

/// Sixteen and thirty-two values of a result's type.
trait Written: Copy + Default {
    unsafe fn load<L: Lanes>(from: *const Self) -> L::Vector;
    unsafe fn store<L: Lanes>(to: *mut Self, v: L::Vector);
    unsafe fn store_two<L: Lanes>(to: *mut Self, v: [L::Vector; 2]);
}

impl Written for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const f32) -> L::Vector {
        // SAFETY: see `Lanes`.
        unsafe { L::load(from) }
    }
    #[inline(always)]
    unsafe fn store<L: Lanes>(to: *mut f32, v: L::Vector) {
        // SAFETY: see `Lanes`.
        unsafe { L::store(to, v) }
    }
    #[inline(always)]
    unsafe fn store_two<L: Lanes>(to: *mut f32, v: [L::Vector; 2]) {
        // SAFETY: see `Lanes`.
        unsafe {
            L::store(to, v[0]);
            L::store(to.add(PANEL), v[1]);
        }
    }
}

impl Written for half::bf16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const half::bf16) -> L::Vector {
        // SAFETY: see `Lanes`.
        unsafe { L::load_bf16(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store<L: Lanes>(to: *mut half::bf16, v: L::Vector) {
        // SAFETY: see `Lanes`.
        unsafe { L::store_bf16(to.cast(), v) }
    }
    #[inline(always)]
    unsafe fn store_two<L: Lanes>(to: *mut half::bf16, v: [L::Vector; 2]) {
        // SAFETY: see `Lanes`.
        unsafe { L::store_two_bf16(to.cast(), v) }
    }
}

#[inline(always)]
unsafe fn write_rows<L: Lanes, T: Written>(w: &WriteBack) {
    // SAFETY: pairs of panels and full panels read and write values in range; a ragged one goes through a buffer.
    unsafe {
        let alpha = L::splat(w.alpha);
        let plain = !w.add && w.alpha == 1.0;
        for row in 0..w.rows {
            let sums = w.sums.add(row * w.sums_stride);
            let to = w.to.cast::<T>().add(row * w.to_stride);
            let mut column = 0;
            while w.columns - column >= 2 * PANEL {
                let (at, from) = (to.add(column), sums.add(column));
                let mut v = [L::load(from), L::load(from.add(PANEL))];
                if w.add {
                    v[0] = L::fma(T::load::<L>(at), alpha, v[0]);
                    v[1] = L::fma(T::load::<L>(at.add(PANEL)), alpha, v[1]);
                } else if !plain {
                    v = [L::mul(alpha, v[0]), L::mul(alpha, v[1])];
                }
                T::store_two::<L>(at, v);
                column += 2 * PANEL;
            }
            while column < w.columns {
                let width = (w.columns - column).min(PANEL);
                let (at, mut v) = (to.add(column), L::load(sums.add(column)));
                let mut ragged = [T::default(); PANEL];
                let place = if width == PANEL { at } else { ragged.as_mut_ptr() };
                if w.add && width < PANEL {
                    at.copy_to_nonoverlapping(place, width);
                }
                v = if w.add { L::fma(T::load::<L>(place), alpha, v) } else { L::mul(alpha, v) };
                T::store::<L>(place, v);
                if width < PANEL {
                    place.copy_to_nonoverlapping(at, width);
                }
                column += PANEL;
            }
        }
    }
}
