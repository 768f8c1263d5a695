//! A weight packed once, in the [panel layout](super::panels) of `y = x Wᵀ`.

use std::ops::Range;

use rayon::prelude::*;

use super::kernel::{DEPTH, PANEL};
use super::panels::{PanelSink, RowMajor, pack_columns, pack_rows, panel_bytes};
use super::tile::{Patch, Tile};
use crate::dtype::{DType, Element};
use crate::pool::PoolBuffer;
use crate::tensor::Tensor;

/// A matrix `[rows, columns]` packed for the micro-kernels: 16 rows to a panel.
pub(crate) struct Packed {
    buffer: PoolBuffer,
    rows: usize,
    columns: usize,
    dtype: DType,
}

impl Packed {
    /// Packs a matrix `[rows, columns]`. Panics on another rank.
    pub fn new(matrix: &Tensor) -> Packed {
        assert_eq!(matrix.dims().len(), 2, "only matrices are packed, got {:?}", matrix.shape());
        let (rows, columns, dtype) = (matrix.dim(0), matrix.dim(1), matrix.dtype());
        let panel = panel_bytes(dtype, columns);
        let mut buffer = PoolBuffer::lasting(rows.div_ceil(PANEL) * panel);
        let avx512 = super::kernel::avx512_packing();
        let row_bytes = columns * dtype.size();
        let pack = |(first, to): (usize, &mut [u8])| {
            let part = &matrix.as_bytes()[first * PANEL * row_bytes..];
            let rows = (rows - first * PANEL).min(PANEL);
            let source = RowMajor { from: part.as_ptr(), stride: row_bytes, rows, columns, dtype };
            let sink = PanelSink { to: to.as_mut_ptr(), stride: panel };
            // SAFETY: `rows` rows are left in the matrix, and `to` is one whole panel.
            unsafe { pack_rows(avx512, source, &sink) }
        };
        if panel > 0 {
            buffer.bytes_mut().par_chunks_mut(panel).enumerate().with_min_len(4).for_each(pack);
        }
        Packed { buffer, rows, columns, dtype }
    }

    /// Packs the transpose of a matrix `[columns, rows]`.
    pub fn transposed(matrix: &Tensor) -> Packed {
        assert_eq!(matrix.dims().len(), 2, "only matrices are packed, got {:?}", matrix.shape());
        let (columns, rows, dtype) = (matrix.dim(0), matrix.dim(1), matrix.dtype());
        let panel = panel_bytes(dtype, columns);
        let mut buffer = PoolBuffer::lasting(rows.div_ceil(PANEL) * panel);
        let avx512 = super::kernel::avx512_packing();
        let pack = |(first, to): (usize, &mut [u8])| {
            let at = first * PANEL;
            let part = &matrix.as_bytes()[at * dtype.size()..];
            let width = (rows - at).min(PANEL);
            let stride = rows * dtype.size();
            let source = RowMajor { from: part.as_ptr(), stride, rows: columns, columns: width, dtype };
            let sink = PanelSink { to: to.as_mut_ptr(), stride: panel };
            // SAFETY: `width` columns are left in the matrix, and `to` is one whole panel.
            unsafe { pack_columns(avx512, source, &sink) }
        };
        if panel > 0 {
            buffer.bytes_mut().par_chunks_mut(panel).enumerate().with_min_len(4).for_each(pack);
        }
        Packed { buffer, rows, columns, dtype }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Type of the values.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.buffer.bytes().len()
    }

    /// The panel of rows `16 i ..`, and the distance to the next.
    pub(super) fn panel(&self, i: usize) -> (*const u8, usize) {
        let stride = panel_bytes(self.dtype, self.columns);
        (self.buffer.bytes()[i * stride..].as_ptr(), stride)
    }

    /// Values `columns` of row `row`, widened.
    pub(crate) fn read_row(&self, row: usize, columns: Range<usize>, values: &mut [f32]) {
        assert!(row < self.rows && columns.end <= self.columns && columns.len() == values.len());
        let stride = panel_bytes(self.dtype, self.columns);
        let panel = &self.buffer.bytes()[row / PANEL * stride..][..stride];
        match self.dtype {
            DType::F32 => {
                let panel: &[f32] = bytemuck::cast_slice(panel);
                for (value, k) in values.iter_mut().zip(columns) {
                    *value = panel[k * PANEL + row % PANEL];
                }
            }
            DType::BF16 => {
                let panel: &[half::bf16] = bytemuck::cast_slice(panel);
                for (value, k) in values.iter_mut().zip(columns) {
                    *value = Element::widen(panel[(k / 2 * PANEL + row % PANEL) * 2 + k % 2]);
                }
            }
        }
    }
}

/// Panels of the transpose: `k` runs over rows `rows` (from a multiple of 16), panels over columns (`panels`, 16 each).
///
/// # Safety
/// The sink must be writable for those panels at the depth of `rows`, the processor must be `T`'s.
#[inline(always)]
pub(super) unsafe fn turn_panels<T: Tile>(p: &Packed, rows: Range<usize>, panels: Range<usize>, sink: &PanelSink) {
    debug_assert!(rows.start.is_multiple_of(PANEL) && rows.end <= p.rows);
    let (base, stride) = p.panel(rows.start / PANEL);
    for (at, panel) in panels.enumerate() {
        let to = sink.to.wrapping_add(at * sink.stride);
        for (i, row) in rows.clone().step_by(PANEL).enumerate() {
            let left = (rows.end - row).min(PANEL);
            let from = base.wrapping_add(i * stride);
            // SAFETY: panel `i` of the matrix holds 16 columns from `16 panel` on (bf16: padded so); the destination has
            // room for `left` values of `k`, in bf16 rounded up to 32.
            unsafe {
                match p.dtype {
                    DType::F32 => {
                        let from = from.add(panel * PANEL * 64);
                        let rows = (p.columns - panel * PANEL).min(PANEL);
                        let tile = T::rows(Patch { from, stride: 64, rows, columns: PANEL, dtype: p.dtype });
                        T::write(T::transpose(tile), to.add(i * 1024), 64, left);
                    }
                    DType::BF16 => {
                        let to = to.add(i * 512);
                        T::turn_pairs(from.add(panel * 512), to);
                        if left < PANEL {
                            clear_pairs(to, left);
                        }
                    }
                }
            }
        }
        let tiles = rows.len().div_ceil(PANEL);
        if p.dtype == DType::BF16 && tiles % 2 == 1 {
            const HALF: usize = DEPTH / 2 * PANEL * 2;
            // SAFETY: the destination is padded to a `k` of 32.
            unsafe { to.add(tiles * HALF).write_bytes(0, HALF) }
        }
    }
}

/// Zeroes `k` from `left` on in eight panel rows of bf16 pairs.
unsafe fn clear_pairs(to: *mut u8, left: usize) {
    let to = to.cast::<u16>();
    for k in left..PANEL {
        for column in 0..PANEL {
            // SAFETY: the caller gives eight rows of 16 pairs.
            unsafe { *to.add((k / 2 * PANEL + column) * 2 + k % 2) = 0 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_reads_back() {
        for dtype in [DType::F32, DType::BF16] {
            for (rows, columns) in [(1, 1), (16, 32), (17, 33), (50, 7), (3, 100)] {
                let values: Vec<f32> = (0..rows * columns).map(|i| (i % 251) as f32 - 125.0).collect();
                let packed = Packed::new(&Tensor::from_slice([rows, columns], &values).to_dtype(dtype));
                for row in 0..rows {
                    let mut back = vec![0f32; columns];
                    packed.read_row(row, 0..columns, &mut back);
                    assert_eq!(
                        back,
                        values[row * columns..(row + 1) * columns],
                        "{dtype} {rows} x {columns} row {row}"
                    );
                }
            }
        }
    }
}
