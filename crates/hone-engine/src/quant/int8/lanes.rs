//! A matrix in blocks with sixteen rows side by side.
//!
//! A panel is [`PANEL`] rows; in it, block by block of [`WIDTH`] columns:
//!
//! | bytes | what |
//! |---|---|
//! | 32 or 64 | scales `s` of the sixteen rows (again for the second half of the columns, in Q6_K) |
//! | 32 or 64 | minima `m`, in types that have them |
//! | 256 | nibbles: step `j`, row `r`, byte `i` hold column `4 j + i` low and `16 + 4 j + i` high (`j`, `i` in 0..4), or |
//! | 512 | bytes: the same order, the first sixteen columns before the others |
//!
//! Scales and minima are binary16 where the type's are; K blocks, whose scales are products, take `f32`. Types of five and
//! six bits take a byte a value: a quarter to a half more to read than in the file.
//!
//! | type | `u` | `c` | `s` | `m` |
//! |---|---|---|---|---|
//! | Q4_0, Q5_0 | nibble, byte | 8, 16 | `d` | – |
//! | Q4_1, Q5_1 | nibble, byte | 0 | `d` | `m` |
//! | Q8_0 | byte `q + 128` | 128 | `d` | – |
//! | Q4_K, Q5_K | nibble, byte | 0 | `d · scale` | `-dmin · minimum` |
//! | Q6_K | byte | 32 | `d · scale`, one for each half | – |

use half::f16;
use rayon::prelude::*;

use crate::quant::{BlockType, QuantTensor, k_blocks};

/// Rows side by side.
pub(crate) const PANEL: usize = 16;
/// Columns of a block here.
pub(super) const WIDTH: usize = 32;

/// What a block of a panel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// A byte a value, not a nibble.
    pub bytes: bool,
    /// A scale for either half of the columns.
    pub halves: bool,
    /// Whether there are minima.
    pub minimum: bool,
    /// Scales and minima are binary16.
    pub half_precision: bool,
    centre: i32,
}

impl Form {
    fn of(kind: BlockType) -> Option<Form> {
        let form = |bytes, minimum, centre| Form { bytes, halves: false, minimum, half_precision: true, centre };
        Some(match kind {
            BlockType::Q4_0 => form(false, false, 8),
            BlockType::Q4_1 => form(false, true, 0),
            BlockType::Q5_0 => form(true, false, 16),
            BlockType::Q5_1 => form(true, true, 0),
            BlockType::Q8_0 => form(true, false, 128),
            BlockType::Q4K => Form { half_precision: false, ..form(false, true, 0) },
            BlockType::Q5K => Form { half_precision: false, ..form(true, true, 0) },
            BlockType::Q6K => Form { half_precision: false, halves: true, ..form(true, false, 32) },
            BlockType::F32 | BlockType::F16 | BlockType::BF16 => return None,
        })
    }

    /// `c`.
    pub(super) fn centre(self) -> i32 {
        self.centre
    }

    /// Bytes of sixteen scales.
    pub(super) const fn scale_bytes(self) -> usize {
        if self.half_precision { 2 * PANEL } else { 4 * PANEL }
    }

    /// Bytes before the quants.
    pub(super) const fn head_bytes(self) -> usize {
        self.scale_bytes() * (1 + self.halves as usize + self.minimum as usize)
    }

    /// Bytes of a block of sixteen rows.
    pub(super) const fn block_bytes(self) -> usize {
        self.head_bytes() + if self.bytes { PANEL * WIDTH } else { PANEL * WIDTH / 2 }
    }

    #[inline(always)]
    pub(super) fn parts(self, block: &[u8]) -> BlockParts<'_> {
        BlockParts { form: self, block }
    }

    fn write_scale(self, block: &mut [u8], at: usize, value: f32) {
        if self.half_precision {
            // It was one.
            block[2 * at..][..2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
        } else {
            block[4 * at..][..4].copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// How a block is read.
pub(super) trait Parts {
    /// `u` of step `step` of a half; `at` is four times the row, and the column within the step.
    fn quant(&self, half: usize, step: usize, at: usize) -> u8;
    /// `s` of a half of row `lane`.
    fn scale(&self, half: usize, lane: usize) -> f32;
    /// `m` of row `lane`.
    fn minimum(&self, lane: usize) -> f32;
}

/// A block of a panel.
pub(super) struct BlockParts<'a> {
    form: Form,
    block: &'a [u8],
}

impl BlockParts<'_> {
    #[inline(always)]
    fn number(&self, at: usize) -> f32 {
        if self.form.half_precision {
            f16::from_le_bytes([self.block[2 * at], self.block[2 * at + 1]]).to_f32()
        } else {
            let b = &self.block[4 * at..][..4];
            f32::from_le_bytes([b[0], b[1], b[2], b[3]])
        }
    }
}

impl Parts for BlockParts<'_> {
    #[inline(always)]
    fn quant(&self, half: usize, step: usize, at: usize) -> u8 {
        let from = self.form.head_bytes() + 4 * PANEL * step + at;
        if self.form.bytes { self.block[from + half * PANEL * WIDTH / 2] } else { self.block[from] >> (4 * half) & 15 }
    }

    #[inline(always)]
    fn scale(&self, half: usize, lane: usize) -> f32 {
        self.number(half * PANEL + lane)
    }

    #[inline(always)]
    fn minimum(&self, lane: usize) -> f32 {
        self.number((1 + self.form.halves as usize) * PANEL + lane)
    }
}

/// A matrix `[rows, columns]`, laid out for [`super::multiply`].
pub(crate) struct Lanes {
    form: Form,
    rows: usize,
    columns: usize,
    bytes: Vec<u8>,
}

impl Lanes {
    /// The same numbers, `None` for types without blocks.
    pub(crate) fn new(matrix: &QuantTensor) -> Option<Lanes> {
        let blocks = matrix.gguf()?;
        let form = Form::of(blocks.kind)?;
        let (rows, columns) = (matrix.rows(), matrix.columns());
        let panel_bytes = columns / WIDTH * form.block_bytes();
        let mut bytes = vec![0; rows.div_ceil(PANEL) * panel_bytes];
        bytes.par_chunks_mut(panel_bytes.max(1)).enumerate().for_each(|(panel, bytes)| {
            for lane in 0..PANEL.min(rows - panel * PANEL) {
                let from = (panel * PANEL + lane) * blocks.row_bytes;
                let row = &blocks.as_bytes()[from..from + blocks.row_bytes];
                for (b, block) in bytes.chunks_exact_mut(form.block_bytes()).enumerate() {
                    write_lane(form, block, lane, &Run::read(blocks.kind, row, b));
                }
            }
        });
        Some(Lanes { form, rows, columns, bytes })
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// Bytes of a panel.
    pub(super) fn panel_bytes(&self) -> usize {
        self.columns / WIDTH * self.form.block_bytes()
    }

    pub(super) fn panel(&self, panel: usize) -> &[u8] {
        &self.bytes[panel * self.panel_bytes()..][..self.panel_bytes()]
    }
}

impl std::fmt::Debug for Lanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lanes([{}, {}], {:?})", self.rows, self.columns, self.form)
    }
}

/// [`WIDTH`] values of a row, as the type has them.
struct Run {
    scales: [f32; 2],
    minimum: f32,
    quants: [u8; WIDTH],
}

impl Run {
    /// Values `WIDTH * index ..` of a row of blocks.
    fn read(kind: BlockType, row: &[u8], index: usize) -> Run {
        let per_block = kind.block_values() / WIDTH;
        let block = &row[index / per_block * kind.block_bytes()..][..kind.block_bytes()];
        let number = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        let nibbles = |from: usize, fifth: Option<usize>| {
            let bits =
                fifth.map_or(0, |at| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]));
            std::array::from_fn(|i| {
                let low = block[from + i % 16] >> (4 * (i / 16)) & 15;
                low | ((bits >> i & 1) as u8) << 4
            })
        };
        let simple = |scale: f32, minimum: f32, quants| Run { scales: [scale; 2], minimum, quants };
        match kind {
            BlockType::Q4_0 => simple(number(0), 0.0, nibbles(2, None)),
            BlockType::Q4_1 => simple(number(0), number(2), nibbles(4, None)),
            BlockType::Q5_0 => simple(number(0), 0.0, nibbles(6, Some(2))),
            BlockType::Q5_1 => simple(number(0), number(2), nibbles(8, Some(4))),
            BlockType::Q8_0 => simple(number(0), 0.0, std::array::from_fn(|i| block[2 + i] ^ 0x80)),
            BlockType::Q4K | BlockType::Q5K => {
                let group = index % per_block;
                let (scale, minimum) = k_blocks::scale_and_minimum(&block[4..16], group);
                let quants = k_blocks::five_bits(block, group, kind == BlockType::Q5K);
                simple(number(0) * scale, -(number(2) * minimum), quants)
            }
            BlockType::Q6K => {
                let group = index % per_block;
                let scale = |half: usize| number(208) * f32::from(block[192 + 2 * group + half] as i8);
                Run { scales: [scale(0), scale(1)], minimum: 0.0, quants: k_blocks::six_bits(block, group) }
            }
            BlockType::F32 | BlockType::F16 | BlockType::BF16 => simple(0.0, 0.0, [0; WIDTH]),
        }
    }
}

/// Puts a row's values into its lane of a block.
fn write_lane(form: Form, block: &mut [u8], lane: usize, run: &Run) {
    form.write_scale(block, lane, run.scales[0]);
    if form.halves {
        form.write_scale(block, PANEL + lane, run.scales[1]);
    }
    if form.minimum {
        form.write_scale(block, (1 + form.halves as usize) * PANEL + lane, run.minimum);
    }
    let quants = &mut block[form.head_bytes()..];
    for (column, u) in run.quants.iter().enumerate() {
        let (half, step, i) = (column / 16, column % 16 / 4, column % 4);
        let at = 4 * PANEL * step + 4 * lane + i;
        if form.bytes {
            quants[half * PANEL * WIDTH / 2 + at] = *u;
        } else {
            quants[at] |= u << (4 * half);
        }
    }
}
