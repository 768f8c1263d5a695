//! Products of a few rows with a matrix in blocks: what generation does with a model that stays quantised.
//!
//! `y[r, n] = Σ_k x[r, k] W[n, k]`. Each block is expanded once, into registers or the first-level cache, and met by all
//! rows of `x`; nothing is packed, so the matrix is read once, as it lies in the file. That reading is what such a product
//! costs. Values are exact (`f32`), activations are not rounded to integers.
//!
//! **What a result depends on.** A row of `y` is summed in [`LANES`] chains over `k`, added in one fixed tree: not on the
//! other rows, nor on threads or the instruction set. With more rows than [`FEW`] the packed product is faster and is
//! taken; its chains are others, so results differ between the two by rounding.

#[cfg(target_arch = "x86_64")]
mod avx512;

use std::ops::Range;

use rayon::prelude::*;

use super::{BlockType, QuantTensor, k_blocks, small_blocks};
use crate::cpu::Level;
use crate::simd;

/// Most rows for which this is faster than expanding and packing the matrix.
pub(crate) const FEW: usize = 32;

/// Chains of additions of one sum.
const LANES: usize = 32;
/// Rows of `x` that share an expanded block at most; their sums stay in registers.
const TOGETHER: usize = 4;
/// Bytes of the matrix a thread takes at a time, about.
const PIECE: usize = 32 * 1024;

/// `x` `[rows, columns]` by rows `range` of `matrix`, to `out` `[rows, range.len()]`.
pub(crate) fn multiply(level: Level, x: &[f32], matrix: &QuantTensor, range: Range<usize>, out: &mut [f32]) {
    let (columns, n) = (matrix.columns(), range.len());
    if n == 0 || columns == 0 {
        return out.fill(0.0);
    }
    let rows = x.len() / columns;
    assert_eq!((x.len(), out.len()), (rows * columns, rows * n), "{rows} rows by {matrix:?}, rows {range:?}");
    let piece = (PIECE / matrix.row_bytes.max(1)).clamp(8, 1024);
    // Columns of the result are computed together, so they are written next to each other first.
    let mut turned = vec![0f32; n * rows];
    turned.par_chunks_mut(piece * rows).enumerate().for_each(|(i, sums)| {
        let first = range.start + i * piece;
        if vector_rows(level, x, columns, matrix, first, rows, sums) {
            return;
        }
        simd::dispatch(
            #[inline(always)]
            || block_rows(x, columns, matrix, first, rows, sums),
        );
    });
    for (r, row) in out.chunks_exact_mut(n).enumerate() {
        row.iter_mut().zip(turned.iter().skip(r).step_by(rows)).for_each(|(o, sum)| *o = *sum);
    }
}

/// [`block_rows`] by kernels written for the processor; whether there are any for it and the type.
#[cfg(target_arch = "x86_64")]
fn vector_rows(
    level: Level,
    x: &[f32],
    columns: usize,
    matrix: &QuantTensor,
    first: usize,
    rows: usize,
    sums: &mut [f32],
) -> bool {
    if level > Level::Avx512 {
        return false;
    }
    let (kind, bytes, row_bytes) = (matrix.kind(), matrix.as_bytes(), matrix.row_bytes);
    for (i, sums) in sums.chunks_exact_mut(rows).enumerate() {
        let blocks = &bytes[(first + i) * row_bytes..(first + i + 1) * row_bytes];
        let mut done = 0;
        while rows - done >= TOGETHER {
            // SAFETY: the level says that AVX-512 is there; `x` has `rows` rows, of which `TOGETHER` are left.
            let together = unsafe { avx512::dots::<TOGETHER>(kind, &x[done * columns..], columns, blocks) };
            let Some(together) = together else { return false };
            sums[done..done + TOGETHER].copy_from_slice(&together);
            done += TOGETHER;
        }
        while done < rows {
            // SAFETY: as above, with one row left at least.
            let Some([sum]) = (unsafe { avx512::dots::<1>(kind, &x[done * columns..], columns, blocks) }) else {
                return false;
            };
            sums[done] = sum;
            done += 1;
        }
    }
    true
}

#[cfg(not(target_arch = "x86_64"))]
fn vector_rows(_: Level, _: &[f32], _: usize, _: &QuantTensor, _: usize, _: usize, _: &mut [f32]) -> bool {
    false
}

/// Rows `first..` of the matrix by all rows of `x`; `sums` `[matrix rows, rows]`.
#[inline(always)]
fn block_rows(x: &[f32], columns: usize, matrix: &QuantTensor, first: usize, rows: usize, sums: &mut [f32]) {
    macro_rules! with {
        ($values:literal, $bytes:expr, $expand:path) => {
            for (i, sums) in sums.chunks_exact_mut(rows).enumerate() {
                let from = (first + i) * matrix.row_bytes;
                let blocks = &matrix.as_bytes()[from..from + matrix.row_bytes];
                let mut done = 0;
                while rows - done >= TOGETHER {
                    let x = &x[done * columns..];
                    let together = dots::<TOGETHER, $values>(
                        x,
                        columns,
                        blocks,
                        $bytes,
                        #[inline(always)]
                        |b, v| $expand(b, v),
                    );
                    sums[done..done + TOGETHER].copy_from_slice(&together);
                    done += TOGETHER;
                }
                while done < rows {
                    let x = &x[done * columns..];
                    sums[done] = dots::<1, $values>(
                        x,
                        columns,
                        blocks,
                        $bytes,
                        #[inline(always)]
                        |b, v| $expand(b, v),
                    )[0];
                    done += 1;
                }
            }
        };
    }
    let bytes = matrix.kind().block_bytes();
    match matrix.kind() {
        // Types without blocks are taken 32 at a time, what is left over one by one.
        BlockType::F32 => single(x, columns, matrix, first, rows, sums, small_blocks::f32),
        BlockType::F16 => single(x, columns, matrix, first, rows, sums, small_blocks::f16),
        BlockType::BF16 => single(x, columns, matrix, first, rows, sums, small_blocks::bf16),
        BlockType::Q4_0 => with!(32, bytes, small_blocks::q4_0),
        BlockType::Q4_1 => with!(32, bytes, small_blocks::q4_1),
        BlockType::Q5_0 => with!(32, bytes, small_blocks::q5_0),
        BlockType::Q5_1 => with!(32, bytes, small_blocks::q5_1),
        BlockType::Q8_0 => with!(32, bytes, small_blocks::q8_0),
        BlockType::Q4K => with!(256, bytes, k_blocks::q4_k),
        BlockType::Q5K => with!(256, bytes, k_blocks::q5_k),
        BlockType::Q6K => with!(256, bytes, k_blocks::q6_k),
    }
}

/// `R` rows of `x` (each `columns` long) by one row of blocks of `VALUES` values.
#[inline(always)]
fn dots<const R: usize, const VALUES: usize>(
    x: &[f32],
    columns: usize,
    blocks: &[u8],
    block_bytes: usize,
    expand: impl Fn(&[u8], &mut [f32]),
) -> [f32; R] {
    let mut chains = [[0f32; LANES]; R];
    for (i, block) in blocks.chunks_exact(block_bytes).enumerate() {
        let mut values = [0f32; VALUES];
        expand(block, &mut values);
        for (r, chain) in chains.iter_mut().enumerate() {
            let from = r * columns + i * VALUES;
            accumulate(chain, &x[from..from + VALUES], &values);
        }
    }
    chains.map(|chain| tree(&chain))
}

#[inline(always)]
fn accumulate(chain: &mut [f32; LANES], x: &[f32], values: &[f32]) {
    for (x, values) in x.chunks_exact(LANES).zip(values.chunks_exact(LANES)) {
        for lane in 0..LANES {
            chain[lane] = x[lane].mul_add(values[lane], chain[lane]);
        }
    }
}

/// The chains, added in one fixed order.
#[inline(always)]
fn tree(chain: &[f32; LANES]) -> f32 {
    let mut sums = *chain;
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
        half /= 2;
    }
    sums[0]
}

/// Types whose blocks are single values.
#[inline(always)]
fn single(
    x: &[f32],
    columns: usize,
    matrix: &QuantTensor,
    first: usize,
    rows: usize,
    sums: &mut [f32],
    expand: impl Fn(&[u8], &mut [f32]),
) {
    let size = matrix.kind().block_bytes();
    for (i, sums) in sums.chunks_exact_mut(rows).enumerate() {
        let from = (first + i) * matrix.row_bytes;
        let bytes = &matrix.as_bytes()[from..from + matrix.row_bytes];
        for (r, sum) in sums.iter_mut().enumerate() {
            let x = &x[r * columns..(r + 1) * columns];
            let mut chain = [0f32; LANES];
            for (x, bytes) in x.chunks(LANES).zip(bytes.chunks(LANES * size)) {
                let mut values = [0f32; LANES];
                values.chunks_exact_mut(1).zip(bytes.chunks_exact(size)).for_each(|(v, b)| expand(b, v));
                chain.iter_mut().zip(x.iter().zip(&values)).for_each(|(c, (x, v))| *c = x.mul_add(*v, *c));
            }
            *sum = tree(&chain);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu;

    /// Blocks of arbitrary bits whose scales are small numbers.
    fn matrix(kind: BlockType, rows: usize, columns: usize) -> QuantTensor {
        let mut state = 1u32;
        let mut bytes: Vec<u8> = (0..kind.row_bytes(columns).unwrap() * rows)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        // The upper byte of every 16-bit number is kept in a range of numbers near 1, whichever of them are scales.
        let high = match kind {
            BlockType::F32 => 4,
            _ => 2,
        };
        let plain = matches!(kind, BlockType::F32 | BlockType::F16 | BlockType::BF16);
        let scales: &[usize] = match kind {
            BlockType::Q6K => &[209],
            BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4K | BlockType::Q5K => &[1, 3],
            _ => &[1],
        };
        for block in bytes.chunks_exact_mut(if plain { high } else { kind.block_bytes() }) {
            if plain {
                block[high - 1] = 0x3c + (block[high - 1] & 1);
            } else {
                scales.iter().for_each(|at| block[*at] = 0x30 + (block[*at] & 7));
            }
        }
        QuantTensor::new(kind, rows, columns, bytes).unwrap()
    }

    #[test]
    fn every_type_agrees_with_its_expanded_values() {
        for kind in BlockType::ALL {
            let (rows, n, columns) = (7, 37, 512);
            let matrix = matrix(kind, n, columns);
            let x: Vec<f32> = (0..rows * columns).map(|i| ((i * 7919 % 1000) as f32 - 500.0) / 500.0).collect();
            let mut out = vec![f32::NAN; rows * (n - 5)];
            multiply(Level::Portable, &x, &matrix, 5..n, &mut out);
            for level in cpu::available() {
                let mut same = vec![f32::NAN; rows * (n - 5)];
                multiply(*level, &x, &matrix, 5..n, &mut same);
                assert!(out == same, "{kind}: {} and plain loops differ", level.name());
            }
            let mut weights = vec![0f32; columns];
            for column in 5..n {
                matrix.dequantise_row(column, &mut weights);
                for r in 0..rows {
                    let products = weights.iter().zip(&x[r * columns..]).map(|(w, x)| f64::from(*w) * f64::from(*x));
                    let (sum, size) = products.fold((0.0, 0.0), |(s, a), p| (s + p, a + p.abs()));
                    let found = f64::from(out[r * (n - 5) + column - 5]);
                    assert!((found - sum).abs() <= 2e-6 * size, "{kind}: row {r}, column {column}: {found} {sum}");
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_company_or_on_threads() {
        let (n, columns) = (300, 256);
        let matrix = matrix(BlockType::Q4_1, n, columns);
        let x: Vec<f32> = (0..6 * columns).map(|i| ((i * 31 % 97) as f32 - 48.0) / 48.0).collect();
        let mut together = vec![0f32; 6 * n];
        multiply(cpu::level(), &x, &matrix, 0..n, &mut together);
        for r in 0..6 {
            let mut alone = vec![0f32; n];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1 + r % 3).build().unwrap();
            pool.install(|| multiply(cpu::level(), &x[r * columns..(r + 1) * columns], &matrix, 0..n, &mut alone));
            assert_eq!(alone, together[r * n..(r + 1) * n]);
        }
    }
}
