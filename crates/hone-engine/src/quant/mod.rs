//! Blocks: the types a tensor can be stored in, and their values. GGUF's, and NF4 ([`nf4`]).
//!
//! A row is a run of blocks; a block holds a few numbers as small integers with a shared scale (and offset). Layouts and
//! arithmetic are ggml's (`ggml-common.h`, `ggml-quants.c`, <https://github.com/ggml-org/ggml>), to the bit: a golden test
//! compares with the `gguf` package. Multi-byte fields are little-endian, as GGUF files are.
//!
//! - [`BlockType`]: number, name, sizes; [`BlockType::dequantise`] and [`BlockType::quantise`] work on rows.
//! - [`Nf4`]: the 4-bit numbers of QLoRA, which no GGUF file holds.
//! - [`QuantTensor`]: a matrix in blocks of either kind ([`QuantType`]), in memory of its own or in a mapped file.
//!
//! It knows nothing of GGUF's header and not where the bytes come from.

mod encode;
mod encode_k;
pub(crate) mod int8;
mod k_blocks;
pub mod nf4;
mod small_blocks;
mod tensor;

pub use nf4::Nf4;
pub use tensor::{BlockBytes, GgufRows, QuantTensor};

use crate::error::EngineError;
use crate::simd;

/// How a row of numbers is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockType {
    /// Plain `f32`.
    F32,
    /// Plain IEEE 754 binary16.
    F16,
    /// Plain bfloat16.
    BF16,
    /// 32 values: 4 bits and a scale; `d (q - 8)`.
    Q4_0,
    /// 32 values: 4 bits, scale and minimum; `d q + m`.
    Q4_1,
    /// 32 values: 5 bits and a scale; `d (q - 16)`.
    Q5_0,
    /// 32 values: 5 bits, scale and minimum; `d q + m`.
    Q5_1,
    /// 32 values: 8 bits and a scale; `d q`.
    Q8_0,
    /// 256 values in 8 groups: 4 bits, 6-bit scales and minima, a scale of each.
    Q4K,
    /// As [`BlockType::Q4K`] with 5 bits.
    Q5K,
    /// 256 values in 16 groups: 6 bits, 8-bit scales, one scale of scales.
    Q6K,
}

impl BlockType {
    /// Every type that is known.
    pub const ALL: [BlockType; 11] = [
        BlockType::F32,
        BlockType::F16,
        BlockType::BF16,
        BlockType::Q4_0,
        BlockType::Q4_1,
        BlockType::Q5_0,
        BlockType::Q5_1,
        BlockType::Q8_0,
        BlockType::Q4K,
        BlockType::Q5K,
        BlockType::Q6K,
    ];

    /// The type with this number in a GGUF file (`enum ggml_type`).
    pub fn from_ggml(number: u32) -> Result<BlockType, EngineError> {
        BlockType::ALL.into_iter().find(|t| t.ggml_number() == number).ok_or_else(|| EngineError::UnknownBlockType {
            found: number,
            known: BlockType::ALL.map(BlockType::name).join(", "),
        })
    }

    /// Its number in a GGUF file.
    pub const fn ggml_number(self) -> u32 {
        match self {
            BlockType::F32 => 0,
            BlockType::F16 => 1,
            BlockType::BF16 => 30,
            BlockType::Q4_0 => 2,
            BlockType::Q4_1 => 3,
            BlockType::Q5_0 => 6,
            BlockType::Q5_1 => 7,
            BlockType::Q8_0 => 8,
            BlockType::Q4K => 12,
            BlockType::Q5K => 13,
            BlockType::Q6K => 14,
        }
    }

    /// ggml's name.
    pub const fn name(self) -> &'static str {
        match self {
            BlockType::F32 => "F32",
            BlockType::F16 => "F16",
            BlockType::BF16 => "BF16",
            BlockType::Q4_0 => "Q4_0",
            BlockType::Q4_1 => "Q4_1",
            BlockType::Q5_0 => "Q5_0",
            BlockType::Q5_1 => "Q5_1",
            BlockType::Q8_0 => "Q8_0",
            BlockType::Q4K => "Q4_K",
            BlockType::Q5K => "Q5_K",
            BlockType::Q6K => "Q6_K",
        }
    }

    /// Values in a block.
    pub const fn block_values(self) -> usize {
        match self {
            BlockType::F32 | BlockType::F16 | BlockType::BF16 => 1,
            BlockType::Q4_0 | BlockType::Q4_1 | BlockType::Q5_0 | BlockType::Q5_1 | BlockType::Q8_0 => 32,
            BlockType::Q4K | BlockType::Q5K | BlockType::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            BlockType::F32 => 4,
            BlockType::F16 | BlockType::BF16 => 2,
            BlockType::Q4_0 => 18,
            BlockType::Q4_1 => 20,
            BlockType::Q5_0 => 22,
            BlockType::Q5_1 => 24,
            BlockType::Q8_0 => 34,
            BlockType::Q4K => 144,
            BlockType::Q5K => 176,
            BlockType::Q6K => 210,
        }
    }

    /// Bytes of a row of `columns` values.
    pub fn row_bytes(self, columns: usize) -> Result<usize, EngineError> {
        let block = self.block_values();
        if !columns.is_multiple_of(block) {
            return Err(EngineError::BlockAlignment { columns, block, kind: self.name() });
        }
        (columns / block).checked_mul(self.block_bytes()).ok_or_else(|| EngineError::BufferLength {
            what: format!("a row of {columns} {} values", self.name()),
            found: 0,
            expected: usize::MAX,
        })
    }

    /// Expands whole blocks. `bytes` and `values` must hold the same number of blocks.
    pub fn dequantise(self, bytes: &[u8], values: &mut [f32]) -> Result<(), EngineError> {
        let expected = self.row_bytes(values.len())?;
        if bytes.len() != expected {
            let what = format!("{} values of type {}", values.len(), self.name());
            return Err(EngineError::BufferLength { what, found: bytes.len(), expected });
        }
        simd::dispatch(
            #[inline(always)]
            || self.expand(bytes, values),
        );
        Ok(())
    }

    /// [`BlockType::dequantise`] with the lengths checked.
    #[inline(always)]
    fn expand(self, bytes: &[u8], values: &mut [f32]) {
        // A loop, not `for_each`: what is called with a closure need not be inlined, and so not compiled for the machine.
        macro_rules! each_block {
            ($expand:path) => {
                for (block, to) in
                    bytes.chunks_exact(self.block_bytes()).zip(values.chunks_exact_mut(self.block_values()))
                {
                    $expand(block, to)
                }
            };
        }
        match self {
            BlockType::F32 => each_block!(small_blocks::f32),
            BlockType::F16 => each_block!(small_blocks::f16),
            BlockType::BF16 => each_block!(small_blocks::bf16),
            BlockType::Q4_0 => each_block!(small_blocks::q4_0),
            BlockType::Q4_1 => each_block!(small_blocks::q4_1),
            BlockType::Q5_0 => each_block!(small_blocks::q5_0),
            BlockType::Q5_1 => each_block!(small_blocks::q5_1),
            BlockType::Q8_0 => each_block!(small_blocks::q8_0),
            BlockType::Q4K => each_block!(k_blocks::q4_k),
            BlockType::Q5K => each_block!(k_blocks::q5_k),
            BlockType::Q6K => each_block!(k_blocks::q6_k),
        }
    }

    /// Whether [`BlockType::quantise`] can write it.
    pub const fn can_quantise(self) -> bool {
        use BlockType::*;
        matches!(self, F32 | F16 | BF16 | Q8_0 | Q5_0 | Q4_0 | Q4K)
    }

    /// Stores whole blocks, appending to `bytes`, rounding as ggml's reference does. Types that cannot be written
    /// ([`BlockType::can_quantise`]) are an error.
    pub fn quantise(self, values: &[f32], bytes: &mut Vec<u8>) -> Result<(), EngineError> {
        let expected = self.row_bytes(values.len())?;
        bytes.reserve(expected);
        match self {
            BlockType::F32 => values.iter().for_each(|v| bytes.extend(v.to_le_bytes())),
            BlockType::F16 => values.iter().for_each(|v| bytes.extend(half::f16::from_f32(*v).to_le_bytes())),
            BlockType::BF16 => values.iter().for_each(|v| bytes.extend(half::bf16::from_f32(*v).to_le_bytes())),
            BlockType::Q8_0 => values.chunks_exact(32).for_each(|block| encode::q8_0(block, bytes)),
            BlockType::Q5_0 => values.chunks_exact(32).for_each(|block| encode::q5_0(block, bytes)),
            BlockType::Q4_0 => values.chunks_exact(32).for_each(|block| encode::q4_0(block, bytes)),
            BlockType::Q4K => values.chunks_exact(256).for_each(|block| encode_k::q4_k(block, bytes)),
            _ => {
                let kind = self.name();
                return Err(EngineError::NotWritable { kind, writable: "F32, F16, BF16, Q8_0, Q5_0, Q4_0, Q4_K" });
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for BlockType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What a matrix is rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuantType {
    /// Blocks as GGUF files hold them.
    Gguf(BlockType),
    /// QLoRA's 4-bit numbers.
    Nf4 {
        /// Whether the scales are kept in 8 bits.
        double: bool,
    },
}

impl std::fmt::Display for QuantType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            QuantType::Gguf(kind) => kind.fmt(f),
            QuantType::Nf4 { double: true } => f.write_str("NF4"),
            QuantType::Nf4 { double: false } => f.write_str("NF4 (plain scales)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_name_one_type_each() {
        for kind in BlockType::ALL {
            assert_eq!(BlockType::from_ggml(kind.ggml_number()).ok(), Some(kind));
        }
        let error = BlockType::from_ggml(16).expect_err("IQ2_XXS is not read");
        assert!(error.to_string().contains("16") && error.to_string().contains("Q4_K"), "{error}");
    }

    #[test]
    fn wrong_lengths_are_errors_that_say_so() {
        let mut values = [0f32; 64];
        let short = BlockType::Q8_0.dequantise(&[0; 67], &mut values).expect_err("one byte short");
        assert!(short.to_string().contains("67") && short.to_string().contains("68"), "{short}");
        let uneven = BlockType::Q4K.row_bytes(300).expect_err("300 is no multiple of 256");
        assert!(uneven.to_string().contains("Q4_K"), "{uneven}");
        let written = BlockType::Q6K.quantise(&[0.0; 256], &mut Vec::new()).expect_err("Q6_K is read only");
        assert!(written.to_string().contains("Q8_0"), "{written}");
    }

    #[test]
    fn quantising_what_was_expanded_gives_the_blocks_back() {
        // A block whose largest magnitude uses the whole integer range is a fixed point of the reference rounding.
        let scale = 0.25f32;
        let kinds = [(BlockType::Q8_0, -127i32, 127), (BlockType::Q5_0, -16, 15), (BlockType::Q4_0, -8, 7)];
        for (kind, lowest, highest) in kinds {
            let values: Vec<f32> = (0..64).map(|i| scale * (lowest + i % (highest - lowest + 1)) as f32).collect();
            let mut bytes = Vec::new();
            kind.quantise(&values, &mut bytes).expect("two blocks");
            let mut back = vec![0f32; 64];
            kind.dequantise(&bytes, &mut back).expect("two blocks");
            let worst = values.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= scale * 0.51, "{kind}: {worst}");
            let mut again = Vec::new();
            kind.quantise(&back, &mut again).expect("two blocks");
            assert_eq!(bytes, again, "{kind}");
        }
    }
}
