//! Panels: the layout in which micro-kernels read the right-hand side of a product.
//!
//! A panel is 16 columns of the product. For every `k` (`f32`) or pair of `k` (bf16) it holds one row of 64 bytes: the 16
//! columns' values, or their pairs. bf16 panels are padded with zeros to a multiple of 32 in `k`, and the last panel to 16
//! columns. All micro-kernels of a type share the layout, so what is packed once serves them all.
//!
//! For `y = x Wᵀ` a panel is 16 rows of `W`, `k` its columns; [`Packed`] holds a weight so. Its transpose, which
//! `dx = dy W` wants, is made from it tile by tile while a product runs.

use std::ops::Range;

use super::kernel::{DEPTH, PANEL};
use super::packed::{Packed, turn_panels};
use super::tile::{Patch, Plain, Tile};
use crate::dtype::DType;

/// Bytes of a panel of depth `k`, padding included.
pub(super) fn panel_bytes(dtype: DType, k: usize) -> usize {
    match dtype {
        DType::F32 => 4 * PANEL * k,
        DType::BF16 => 2 * PANEL * k.next_multiple_of(DEPTH),
    }
}

/// Where row-major values go, panel by panel.
pub(super) struct PanelSink {
    /// First panel.
    pub to: *mut u8,
    /// From panel to panel, in bytes; at least [`panel_bytes`] of the depth.
    pub stride: usize,
}

/// A row-major matrix in memory, of the type of the panels.
#[derive(Clone, Copy)]
pub(crate) struct RowMajor {
    /// First value.
    pub from: *const u8,
    /// From row to row, in bytes.
    pub stride: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Type of the values.
    pub dtype: DType,
}

impl RowMajor {
    /// The part below and right of a place, cut to what a tile can take.
    #[inline(always)]
    fn patch(&self, row: usize, column: usize, rows: usize, columns: usize) -> Patch {
        Patch {
            from: self.from.wrapping_add(row * self.stride + column * self.dtype.size()),
            stride: self.stride,
            rows: rows.min(self.rows - row),
            columns: columns.min(self.columns - column),
            dtype: self.dtype,
        }
    }
}

/// How far a tile reaches in `k`: 16 `f32`, 32 bf16.
const fn tile_depth(dtype: DType) -> usize {
    64 / dtype.size()
}

/// Rows of the matrix become columns of panels (`[n, k]`).
///
/// # Safety
/// The matrix must be readable, the sink writable for its panels, the processor as the sink says.
#[inline(always)]
unsafe fn rows_to_panels<T: Tile>(m: RowMajor, sink: &PanelSink) {
    let depth = tile_depth(m.dtype);
    for (panel, row) in (0..m.rows).step_by(PANEL).enumerate() {
        for (i, k) in (0..m.columns).step_by(depth).enumerate() {
            let rows = if m.dtype == DType::F32 { (m.columns - k).min(16) } else { 16 };
            // SAFETY: the patch lies in the matrix, the tile's place in the panel.
            unsafe {
                let tile = T::transpose(T::rows(m.patch(row, k, PANEL, depth)));
                T::write(tile, sink.to.add(panel * sink.stride + i * 1024), 64, rows);
            }
        }
    }
}

/// Columns of the matrix become columns of panels (`[k, n]`).
///
/// # Safety
/// As [`rows_to_panels`].
#[inline(always)]
unsafe fn columns_to_panels<T: Tile>(m: RowMajor, sink: &PanelSink) {
    let depth = tile_depth(m.dtype);
    for (i, k) in (0..m.rows).step_by(depth).enumerate() {
        for (panel, column) in (0..m.columns).step_by(PANEL).enumerate() {
            let patch = m.patch(k, column, depth, PANEL);
            let to = sink.to.wrapping_add(panel * sink.stride + i * 1024);
            // SAFETY: the patch lies in the matrix, the tile's place in the panel.
            unsafe {
                match m.dtype {
                    DType::F32 => T::write(T::rows(patch), to, 64, patch.rows),
                    DType::BF16 => T::write(T::row_pairs(patch), to, 64, 16),
                }
            }
        }
    }
}

/// Columns of the matrix become rows, `to_stride` bytes apart, padded with zeros to whole tiles in both directions.
///
/// # Safety
/// As [`rows_to_panels`]; `to` must have room for the padding.
#[inline(always)]
unsafe fn columns_to_rows<T: Tile>(m: RowMajor, to: *mut u8, to_stride: usize) {
    let depth = tile_depth(m.dtype);
    for (i, k) in (0..m.rows).step_by(depth).enumerate() {
        for column in (0..m.columns).step_by(16) {
            let patch = m.patch(k, column, depth, 16);
            // SAFETY: the patch lies in the matrix, the tile in the destination.
            unsafe {
                let tile = match m.dtype {
                    DType::F32 => T::rows(patch),
                    DType::BF16 => T::row_pairs(patch),
                };
                T::write(T::transpose(tile), to.add(column * to_stride + i * 64), to_stride, 16);
            }
        }
    }
}

/// Rows of the matrix stay rows, `to_stride` bytes apart, padded with zeros to whole tiles in both directions.
///
/// # Safety
/// As [`rows_to_panels`]; `to` must have room for the padding.
#[inline(always)]
unsafe fn rows_to_rows<T: Tile>(m: RowMajor, to: *mut u8, to_stride: usize) {
    let width = tile_depth(m.dtype);
    for row in (0..m.rows).step_by(16) {
        for (i, column) in (0..m.columns).step_by(width).enumerate() {
            // SAFETY: the patch lies in the matrix, the tile in the destination.
            unsafe {
                T::write(T::rows(m.patch(row, column, 16, width)), to.add(row * to_stride + i * 64), to_stride, 16)
            }
        }
    }
}

macro_rules! dispatched {
    ($(#[$doc:meta])* $name:ident, $inner:ident, ($($arg:ident: $type:ty),+)) => {
        $(#[$doc])*
        pub(super) unsafe fn $name(avx512: bool, $($arg: $type),+) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
                unsafe fn fast($($arg: $type),+) {
                    // SAFETY: the caller vouches for all of it.
                    unsafe { $inner::<super::tile::Avx512>($($arg),+) }
                }
                if avx512 {
                    // SAFETY: as above.
                    return unsafe { fast($($arg),+) };
                }
            }
            let _ = avx512;
            // SAFETY: as above.
            unsafe { $inner::<Plain>($($arg),+) }
        }
    };
}

dispatched!(
    /// [`rows_to_panels`], on the instruction set there is.
    ///
    /// # Safety
    /// As there.
    pack_rows, rows_to_panels, (m: RowMajor, sink: &PanelSink)
);
dispatched!(
    /// [`columns_to_panels`], on the instruction set there is.
    ///
    /// # Safety
    /// As there.
    pack_columns, columns_to_panels, (m: RowMajor, sink: &PanelSink)
);
dispatched!(
    /// [`columns_to_rows`], on the instruction set there is.
    ///
    /// # Safety
    /// As there.
    transpose_columns, columns_to_rows, (m: RowMajor, to: *mut u8, to_stride: usize)
);
dispatched!(
    /// [`rows_to_rows`], on the instruction set there is.
    ///
    /// # Safety
    /// As there.
    pad_rows, rows_to_rows, (m: RowMajor, to: *mut u8, to_stride: usize)
);
dispatched!(
    /// [`turn_panels`], on the instruction set there is.
    ///
    /// # Safety
    /// As there.
    turn_packed, turn_panels, (p: &Packed, rows: Range<usize>, panels: Range<usize>, sink: &PanelSink)
);
