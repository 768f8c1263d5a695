//! The two sides of a product, wherever their numbers are: how a strip of the left and a chunk of panels of the right come
//! to lie as the micro-kernels read them. What lies so already is used in place.

use std::ops::Range;

use super::kernel::{DEPTH, Kernel, PANEL};
use super::packed::Packed;
use super::panels::{
    PanelSink, RowMajor, pack_columns, pack_rows, pad_rows, panel_bytes, transpose_columns, turn_packed,
};
use super::planes;
use crate::bf16;
use crate::dtype::{DType, Element};
use crate::quant::QuantTensor;
use crate::simd;
use crate::tensor::Tensor;

/// A matrix in one of the forms weights and activations come in.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// Row-major in memory.
    Dense(RowMajor),
    /// Packed for `x Wᵀ`.
    Packed(&'a Packed),
    /// In blocks.
    Quantised(&'a QuantTensor),
    /// A bf16 part of a row-major `f32` matrix ([`super::planes`]).
    Plane(RowMajor, u8),
    /// A row-major `f32` matrix, every value rounded to bf16 while it is laid out: the master of a trained weight, of which
    /// no bf16 copy is held.
    Rounded(RowMajor),
}

// SAFETY: the pointer of a dense matrix is only read, while the tensor it was made from is borrowed.
unsafe impl Sync for Source<'_> {}
// SAFETY: as above.
unsafe impl Send for Source<'_> {}

impl<'a> Source<'a> {
    /// A tensor, axes before the last folded into rows.
    pub(crate) fn dense(tensor: &'a Tensor) -> Source<'a> {
        let ((rows, columns), dtype) = (tensor.rows_cols(), tensor.dtype());
        let from = tensor.as_bytes().as_ptr();
        Source::Dense(RowMajor { from, stride: columns * dtype.size(), rows, columns, dtype })
    }

    /// A tensor as it is multiplied by numbers of type `with`: rounded, where those are bf16 and it is not.
    pub(crate) fn rounded_to(tensor: &'a Tensor, with: DType) -> Source<'a> {
        match Source::dense(tensor) {
            Source::Dense(m) if m.dtype == DType::F32 && with == DType::BF16 => Source::Rounded(m),
            plain => plain,
        }
    }

    /// Rows and columns.
    pub(crate) fn shape(&self) -> (usize, usize) {
        match self {
            Source::Dense(m) | Source::Plane(m, _) | Source::Rounded(m) => (m.rows, m.columns),
            Source::Packed(p) => (p.rows(), p.columns()),
            Source::Quantised(q) => (q.rows(), q.columns()),
        }
    }

    /// The type it is multiplied in; blocks take that of the other side.
    pub(crate) fn dtype(&self) -> Option<DType> {
        match self {
            Source::Dense(m) => Some(m.dtype),
            Source::Packed(p) => Some(p.dtype()),
            Source::Quantised(_) => None,
            Source::Plane(..) | Source::Rounded(_) => Some(DType::BF16),
        }
    }

    /// Columns that part products must start at multiples of.
    fn column_grain(&self) -> usize {
        match self {
            Source::Quantised(q) => q.grain(),
            _ => 1,
        }
    }

    /// Widens values `columns` of row `row`.
    fn read_row(&self, row: usize, columns: Range<usize>, values: &mut [f32]) {
        match self {
            Source::Dense(m) | Source::Rounded(m) => {
                assert!(row < m.rows && columns.end <= m.columns && columns.len() == values.len());
                let from = m.from.wrapping_add(row * m.stride + columns.start * m.dtype.size());
                crate::dispatch_dtype!(m.dtype, T => {
                    // SAFETY: the range was checked just above; tensors are aligned for their type.
                    let from = unsafe { std::slice::from_raw_parts(from.cast::<T>(), columns.len()) };
                    values.iter_mut().zip(from).for_each(|(v, f)| *v = Element::widen(*f));
                })
            }
            Source::Plane(m, plane) => {
                Source::Dense(*m).read_row(row, columns, values);
                values.iter_mut().for_each(|v| *v = planes::part(*v, *plane));
            }
            Source::Packed(p) => p.read_row(row, columns, values),
            Source::Quantised(q) => q.dequantise_part(row, columns, values),
        }
    }

    /// Copies a part as `dtype`, row-major, into `staging`.
    fn stage(&self, rows: Range<usize>, columns: Range<usize>, dtype: DType, staging: &mut Staging) -> RowMajor {
        if let (Source::Rounded(m), DType::BF16) = (self, dtype) {
            return m.part(rows, columns).rounded(&mut staging.values);
        }
        // Blocks are expanded whole: the part may begin and end inside one.
        let grain = self.column_grain();
        let first = columns.start / grain * grain;
        let wide = first..columns.end.next_multiple_of(grain).min(self.shape().1);
        let stride = columns.len() * dtype.size();
        staging.row.resize(wide.len(), 0.0);
        staging.values.reserve_bytes(rows.len() * stride);
        let to = staging.values.as_mut_ptr();
        for (i, row) in rows.clone().enumerate() {
            self.read_row(row, wide.clone(), &mut staging.row);
            let values = &staging.row[columns.start - first..][..columns.len()];
            crate::dispatch_dtype!(dtype, T => {
                // SAFETY: room for all rows was reserved just above, aligned to 64 bytes.
                let to = unsafe { std::slice::from_raw_parts_mut(to.add(i * stride).cast::<T>(), values.len()) };
                to.iter_mut().zip(values).for_each(|(t, v)| *t = T::rounded(*v));
            })
        }
        RowMajor { from: to, stride, rows: rows.len(), columns: columns.len(), dtype }
    }
}

impl RowMajor {
    /// A part of the matrix.
    fn part(&self, rows: Range<usize>, columns: Range<usize>) -> RowMajor {
        assert!(rows.end <= self.rows && columns.end <= self.columns);
        RowMajor {
            from: self.from.wrapping_add(rows.start * self.stride + columns.start * self.dtype.size()),
            rows: rows.len(),
            columns: columns.len(),
            ..*self
        }
    }

    /// A copy of an `f32` matrix in bf16, in `place`.
    fn rounded(&self, place: &mut Scratch) -> RowMajor {
        debug_assert!(self.dtype == DType::F32);
        let (dtype, stride) = (DType::BF16, self.columns * DType::BF16.size());
        place.reserve_bytes(self.rows * stride);
        let to = place.as_mut_ptr();
        simd::dispatch(
            #[inline(always)]
            || {
                for row in 0..self.rows {
                    let from = self.from.wrapping_add(row * self.stride).cast::<f32>();
                    // SAFETY: a row of the matrix, aligned for its type; room for as many rows was reserved just above.
                    let (from, to) = unsafe {
                        let to = to.add(row * stride).cast::<bf16>();
                        (
                            std::slice::from_raw_parts(from, self.columns),
                            std::slice::from_raw_parts_mut(to, self.columns),
                        )
                    };
                    simd::convert(to, from);
                }
            },
        );
        RowMajor { from: to, stride, rows: self.rows, columns: self.columns, dtype }
    }
}

/// The left side: `[m, k]`, or `[k, m]` with `turned`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    /// Where the numbers are.
    pub source: Source<'a>,
    /// Whether columns of the source are rows of the product.
    pub turned: bool,
}

/// Rows of the left side as a kernel reads them.
#[derive(Clone, Copy)]
pub(super) struct Strip {
    /// First value.
    pub from: *const u8,
    /// From row to row, in values.
    pub stride: usize,
}

impl Default for Strip {
    fn default() -> Strip {
        Strip { from: std::ptr::null(), stride: 0 }
    }
}

impl Strip {
    /// What lies `rows` further down.
    pub(super) fn below(self, rows: usize, dtype: DType) -> Strip {
        Strip { from: self.from.wrapping_add(rows * self.stride * dtype.size()), ..self }
    }
}

impl Left<'_> {
    /// Rows `rows` at `ks`: in place if they lie so, or in `place`, short strips and depths padded with zeros.
    pub(super) fn strip(
        &self,
        kernel: &Kernel,
        rows: Range<usize>,
        ks: Range<usize>,
        place: &mut Scratch,
        staging: &mut Staging,
    ) -> Strip {
        let (dtype, size) = (kernel.dtype, kernel.dtype.size());
        let whole = rows.len().is_multiple_of(kernel.row_multiple) && ks.len().is_multiple_of(kernel.k_multiple);
        let (source_rows, source_columns) =
            if self.turned { (ks.clone(), rows.clone()) } else { (rows.clone(), ks.clone()) };
        let part = match self.source {
            Source::Plane(m, plane) if !self.turned => {
                debug_assert!(dtype == DType::BF16 && kernel.k_multiple <= 32);
                let stride = ks.len().next_multiple_of(32) * size + 64;
                place.reserve_bytes(rows.len().next_multiple_of(16) * stride);
                let to = place.as_mut_ptr();
                // SAFETY: the part lies in the matrix; room for it in whole tiles was reserved.
                unsafe { planes::write_rows(m.part(source_rows, source_columns), plane, to, stride) }
                return Strip { from: to, stride: stride / size };
            }
            Source::Dense(m) if m.dtype == dtype => m.part(source_rows, source_columns),
            source => source.stage(source_rows, source_columns, dtype, staging),
        };
        if !self.turned && whole {
            return Strip { from: part.from, stride: part.stride / size };
        }
        // One more tile of 64 bytes keeps rows from lying a power of two apart.
        let stride = (ks.len() * size).next_multiple_of(64) + 64;
        place.reserve_bytes(rows.len().next_multiple_of(16) * stride);
        let to = place.as_mut_ptr();
        // SAFETY: the part is readable, and room for it in whole tiles was reserved.
        unsafe {
            match self.turned {
                true => transpose_columns(kernel.avx512, part, to, stride),
                false => pad_rows(kernel.avx512, part, to, stride),
            }
        }
        Strip { from: to, stride: stride / size }
    }
}

/// The right side: columns of the product are rows of the source from `first_row` on, or, with `turned`, columns of the
/// source, `k` then being its rows from `first_row` on.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    /// Where the numbers are.
    pub source: Source<'a>,
    /// See above; a multiple of 16 for packed sources.
    pub first_row: usize,
    /// See above.
    pub turned: bool,
}

impl Right<'_> {
    /// Panels from column `column` (a multiple of 16) at `k` on, if they lie ready: first byte and panel stride.
    pub(super) fn in_place(&self, dtype: DType, column: usize, k: usize) -> Option<(*const u8, usize)> {
        let Source::Packed(p) = self.source else { return None };
        if self.turned || p.dtype() != dtype || !k.is_multiple_of(DEPTH) {
            return None;
        }
        let (panel, stride) = p.panel((self.first_row + column) / PANEL);
        Some((panel.wrapping_add(panel_bytes(dtype, k)), stride))
    }

    /// Packs columns `columns` (from a multiple of 16 on) at `ks` into `staging`: first byte and panel stride.
    pub(super) fn pack(
        &self,
        kernel: &Kernel,
        columns: Range<usize>,
        ks: Range<usize>,
        panels: &mut Scratch,
        staging: &mut Staging,
    ) -> (*const u8, usize) {
        let dtype = kernel.dtype;
        // One more line keeps panels from lying a power of two apart.
        let stride = panel_bytes(dtype, ks.len()) + 64;
        panels.reserve_bytes(columns.len().div_ceil(PANEL) * stride);
        let to = panels.as_mut_ptr();
        let rows = |r: &Range<usize>| self.first_row + r.start..self.first_row + r.end;
        match self.source {
            Source::Packed(p) if self.turned && p.dtype() == dtype => {
                let range = columns.start / PANEL..columns.end.div_ceil(PANEL);
                // SAFETY: room for these panels was reserved.
                unsafe { turn_packed(kernel.avx512, p, rows(&ks), range, &PanelSink { to, stride }) }
            }
            Source::Dense(m) if m.dtype == dtype => {
                // SAFETY: the parts lie in the matrix; room for the panels was reserved.
                unsafe {
                    if self.turned {
                        pack_columns(kernel.avx512, m.part(rows(&ks), columns), &PanelSink { to, stride });
                    } else {
                        pack_rows(kernel.avx512, m.part(rows(&columns), ks), &PanelSink { to, stride });
                    }
                }
            }
            source if self.turned => {
                // In steps of a tile's depth, so that what is expanded stays small.
                for (i, k) in ks.clone().step_by(DEPTH).enumerate() {
                    let ks = k..(k + DEPTH).min(ks.end);
                    let part = source.stage(rows(&ks), columns.clone(), dtype, staging);
                    let sink = PanelSink { to: to.wrapping_add(i * panel_bytes(dtype, DEPTH)), stride };
                    // SAFETY: as above.
                    unsafe { pack_columns(kernel.avx512, part, &sink) }
                }
            }
            source => {
                for (i, column) in columns.clone().step_by(PANEL).enumerate() {
                    let columns = column..(column + PANEL).min(columns.end);
                    let part = source.stage(rows(&columns), ks.clone(), dtype, staging);
                    let sink = PanelSink { to: to.wrapping_add(i * stride), stride };
                    // SAFETY: as above.
                    unsafe { pack_rows(kernel.avx512, part, &sink) }
                }
            }
        }
        (to, stride)
    }
}

/// Memory that is kept between products, aligned to 64 bytes; it only grows.
#[derive(Default)]
pub(super) struct Scratch {
    lines: Vec<Line>,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Scratch {
    /// Makes room for `bytes`; contents are unspecified.
    pub(super) fn reserve_bytes(&mut self, bytes: usize) {
        let lines = bytes.div_ceil(64);
        if lines > self.lines.len() {
            self.lines.clear();
            self.lines.resize(lines, Line([0; 64]));
        }
    }

    /// First byte.
    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.lines.as_mut_ptr().cast()
    }
}

/// Where operands are rearranged.
#[derive(Default)]
pub(super) struct Staging {
    row: Vec<f32>,
    values: Scratch,
}
