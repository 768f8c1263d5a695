//! A matrix in blocks: GGUF's, in memory of its own or in a mapped file, or NF4.

use std::ops::Range;
use std::sync::Arc;

use super::{BlockType, Nf4, QuantType};
use crate::dtype::{DType, Element};
use crate::error::EngineError;
use crate::tensor::Tensor;

/// Bytes of blocks: owned, or a part of something that somebody keeps (a mapped file). Cheap to clone.
#[derive(Clone)]
pub struct BlockBytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl BlockBytes {
    /// Bytes `range` of `owner` (an `Arc<Mmap>`, an `Arc<Vec<u8>>`).
    pub fn part(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Result<BlockBytes, EngineError> {
        let found = (*owner).as_ref().len();
        if range.start > range.end || range.end > found {
            let what = format!("bytes {}..{} of a file", range.start, range.end);
            return Err(EngineError::BufferLength { what, found, expected: range.end });
        }
        Ok(BlockBytes { owner, range })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl From<Vec<u8>> for BlockBytes {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        BlockBytes { owner: Arc::new(bytes), range }
    }
}

/// A matrix `[rows, columns]` in blocks, row after row. Cheap to clone.
#[derive(Clone)]
pub struct QuantTensor {
    rows: usize,
    columns: usize,
    form: Form,
}

#[derive(Clone)]
enum Form {
    Gguf(GgufRows),
    Nf4(Arc<Nf4>),
}

/// A matrix in GGUF's blocks, of which every row has a whole number.
#[derive(Clone)]
pub struct GgufRows {
    /// Block type.
    pub kind: BlockType,
    /// Bytes of a row.
    pub row_bytes: usize,
    bytes: BlockBytes,
}

impl GgufRows {
    /// The blocks, row after row: what a GGUF file holds.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Expands columns `columns` of row `row`.
    fn expand(&self, row: usize, columns: Range<usize>, values: &mut [f32]) {
        let (block, size) = (self.kind.block_values(), self.kind.block_bytes());
        assert!(columns.start.is_multiple_of(block), "{columns:?} does not start with a block of {block}");
        let from = row * self.row_bytes;
        let bytes = from + columns.start / block * size..from + columns.end / block * size;
        let outcome = self.kind.dequantise(&self.as_bytes()[bytes], values);
        assert!(outcome.is_ok(), "{outcome:?}: {columns:?} into {} values", values.len());
    }
}

impl QuantTensor {
    /// A matrix over `bytes` of GGUF blocks, whose length must be what the shape and the type say.
    pub fn new(
        kind: BlockType,
        rows: usize,
        columns: usize,
        bytes: impl Into<BlockBytes>,
    ) -> Result<QuantTensor, EngineError> {
        let bytes = bytes.into();
        let row_bytes = kind.row_bytes(columns)?;
        let found = bytes.as_slice().len();
        if row_bytes.checked_mul(rows) != Some(found) {
            let what = format!("a {kind} matrix [{rows}, {columns}]");
            return Err(EngineError::BufferLength { what, found, expected: row_bytes.saturating_mul(rows) });
        }
        Ok(QuantTensor { rows, columns, form: Form::Gguf(GgufRows { kind, row_bytes, bytes }) })
    }

    /// A matrix `[rows, columns]`, row after row in `values`, rounded to `as_type`. A GGUF type that cannot be written, or whose
    /// blocks do not fill a row, is an error.
    pub fn quantise(values: &[f32], columns: usize, as_type: QuantType) -> Result<QuantTensor, EngineError> {
        let rows = values.len().checked_div(columns).unwrap_or(0);
        match as_type {
            QuantType::Nf4 { double } => {
                Ok(QuantTensor { rows, columns, form: Form::Nf4(Arc::new(Nf4::quantise(values, double))) })
            }
            QuantType::Gguf(kind) => {
                let mut bytes = Vec::with_capacity(kind.row_bytes(columns)?.saturating_mul(rows));
                values.chunks_exact(columns.max(1)).try_for_each(|row| kind.quantise(row, &mut bytes))?;
                QuantTensor::new(kind, rows, columns, bytes)
            }
        }
    }

    /// What it is stored as.
    pub fn kind(&self) -> QuantType {
        match &self.form {
            Form::Gguf(blocks) => QuantType::Gguf(blocks.kind),
            Form::Nf4(blocks) => QuantType::Nf4 { double: blocks.is_double() },
        }
    }

    /// Rows (`out`).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns (`in`).
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The GGUF blocks, if it is stored in those.
    pub fn gguf(&self) -> Option<&GgufRows> {
        match &self.form {
            Form::Gguf(blocks) => Some(blocks),
            Form::Nf4(_) => None,
        }
    }

    /// Bytes held (or mapped).
    pub fn bytes(&self) -> usize {
        match &self.form {
            Form::Gguf(blocks) => blocks.as_bytes().len(),
            Form::Nf4(blocks) => blocks.bytes(),
        }
    }

    /// Columns that a part of a row must start (and, short of the end, end) at multiples of.
    pub(crate) fn grain(&self) -> usize {
        match &self.form {
            Form::Gguf(blocks) => blocks.kind.block_values(),
            Form::Nf4(_) => 1,
        }
    }

    /// Expands row `row` into `values` (`columns` of them). Panics on a row outside the matrix.
    pub fn dequantise_row(&self, row: usize, values: &mut [f32]) {
        self.dequantise_part(row, 0..self.columns, values);
    }

    /// Expands columns `columns` of row `row`; the range starts and ends at multiples of the grain (or at the end).
    pub(crate) fn dequantise_part(&self, row: usize, columns: Range<usize>, values: &mut [f32]) {
        assert!(row < self.rows && columns.end <= self.columns, "row {row}, {columns:?} of {self:?}");
        match &self.form {
            Form::Gguf(blocks) => blocks.expand(row, columns, values),
            Form::Nf4(blocks) => {
                let from = row * self.columns;
                blocks.expand(from + columns.start..from + columns.end, values);
            }
        }
    }

    /// The whole matrix as a dense tensor of the given type.
    pub fn to_dense(&self, dtype: DType) -> Tensor {
        let mut out = Tensor::uninit([self.rows, self.columns], dtype);
        if self.columns == 0 {
            return out;
        }
        let mut values = vec![0f32; self.columns];
        crate::dispatch_dtype!(dtype, T => {
            for (row, to) in out.as_mut_slice::<T>().chunks_exact_mut(self.columns).enumerate() {
                self.dequantise_row(row, &mut values);
                to.iter_mut().zip(&values).for_each(|(t, v)| *t = T::rounded(*v));
            }
        });
        out
    }
}

impl std::fmt::Debug for QuantTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "QuantTensor({} [{}, {}])", self.kind(), self.rows, self.columns)
    }
}
