//! Tiles: 16 rows of 64 bytes, the unit in which operands are rearranged. A row is 16 `f32`, or 16 pairs of bf16.
//!
//! All packing is made of four moves: read rows of a row-major matrix, read pairs of rows interleaved, transpose 16 x 16
//! words of 32 bits, write. Each is written for AVX-512 and as plain loops.

use crate::dtype::DType;

/// 16 rows of 16 words.
pub(super) type Words = [[u32; 16]; 16];

/// A part of a row-major matrix in memory, at most 16 rows of 64 bytes (or 32 rows of 16 bf16).
#[derive(Clone, Copy)]
pub(super) struct Patch {
    /// First value.
    pub from: *const u8,
    /// From row to row, in bytes.
    pub stride: usize,
    /// Rows that may be read.
    pub rows: usize,
    /// Values of a row that may be read.
    pub columns: usize,
    /// Type of the values.
    pub dtype: DType,
}

/// The moves of one instruction set.
///
/// # Safety
/// The processor must have it; patches must be readable; `to` must be writable for what is said.
pub(super) trait Tile {
    /// A tile held in registers, if there are enough.
    type Tile;
    /// Rows of a patch; what lies outside of it is zero.
    unsafe fn rows(patch: Patch) -> Self::Tile;
    /// bf16 rows `2i` and `2i + 1` of a patch of up to 32 x 16, interleaved into row `i` of the tile.
    unsafe fn row_pairs(patch: Patch) -> Self::Tile;
    /// Columns become rows.
    unsafe fn transpose(tile: Self::Tile) -> Self::Tile;
    /// The first `rows` rows, `stride` bytes apart.
    unsafe fn write(tile: Self::Tile, to: *mut u8, stride: usize, rows: usize);
    /// The panel rows of a 16 x 16 bf16 matrix, turned into those of its transpose. Panel row `i` holds rows `2i` and
    /// `2i + 1` of the matrix interleaved; both sides are eight such rows, 512 bytes.
    unsafe fn turn_pairs(from: *const u8, to: *mut u8);
}

/// Plain loops.
pub(super) struct Plain;

impl Tile for Plain {
    type Tile = Words;

    #[inline(always)]
    unsafe fn rows(patch: Patch) -> Words {
        let mut tile = [[0u32; 16]; 16];
        let bytes = patch.columns * patch.dtype.size();
        for (r, row) in tile.iter_mut().enumerate().take(patch.rows) {
            // SAFETY: the patch is readable, and at most 64 bytes wide.
            unsafe { patch.from.add(r * patch.stride).copy_to_nonoverlapping(row.as_mut_ptr().cast(), bytes) }
        }
        tile
    }

    #[inline(always)]
    unsafe fn row_pairs(patch: Patch) -> Words {
        let mut tile = [[0u32; 16]; 16];
        for r in 0..patch.rows {
            let from = patch.from.wrapping_add(r * patch.stride).cast::<u16>();
            for (c, word) in tile[r / 2].iter_mut().enumerate().take(patch.columns) {
                // SAFETY: the patch is readable.
                *word |= (unsafe { from.add(c).read_unaligned() } as u32) << (16 * (r % 2));
            }
        }
        tile
    }

    #[inline(always)]
    unsafe fn transpose(tile: Words) -> Words {
        let mut out = [[0u32; 16]; 16];
        for (r, row) in tile.iter().enumerate() {
            for (c, word) in row.iter().enumerate() {
                out[c][r] = *word;
            }
        }
        out
    }

    #[inline(always)]
    unsafe fn write(tile: Words, to: *mut u8, stride: usize, rows: usize) {
        for (r, row) in tile.iter().enumerate().take(rows) {
            // SAFETY: the destination is writable for these rows.
            unsafe { row.as_ptr().cast::<u8>().copy_to_nonoverlapping(to.add(r * stride), 64) }
        }
    }

    #[inline(always)]
    unsafe fn turn_pairs(from: *const u8, to: *mut u8) {
        let (from, to) = (from.cast::<u16>(), to.cast::<u16>());
        for i in 0..16 {
            for j in 0..16 {
                // SAFETY: both sides hold 256 values. Value (i, j) is half `i % 2` of word `j` of row `i / 2`.
                unsafe { *to.add((j / 2 * 16 + i) * 2 + j % 2) = *from.add((i / 2 * 16 + j) * 2 + i % 2) }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{Patch, Tile};
    use crate::dtype::DType;

    /// AVX-512 F and BW.
    pub(in crate::matmul) struct Avx512;

    /// The lowest `n` bits.
    #[inline(always)]
    fn low_bits(n: usize) -> u32 {
        if n >= 32 { u32::MAX } else { (1 << n) - 1 }
    }

    /// Row `r` of a patch of up to 16 bf16 columns, widened to words; zeros beyond the patch.
    #[inline(always)]
    unsafe fn widened_row(patch: Patch, r: usize) -> __m512i {
        // SAFETY: masked-off values are not read; the caller vouches for the rest.
        unsafe {
            let mask = if r < patch.rows { low_bits(patch.columns.min(16)) as __mmask16 } else { 0 };
            let from = patch.from.wrapping_add(r * patch.stride);
            _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from.cast()))
        }
    }

    impl Tile for Avx512 {
        type Tile = [__m512i; 16];

        #[inline(always)]
        unsafe fn rows(patch: Patch) -> [__m512i; 16] {
            // SAFETY: masked-off values are not read; see the trait for the rest.
            unsafe {
                let mut tile = [_mm512_setzero_si512(); 16];
                let halves = patch.columns * if patch.dtype == DType::F32 { 2 } else { 1 };
                if patch.rows >= 16 && halves == 32 {
                    for (r, row) in tile.iter_mut().enumerate() {
                        *row = _mm512_loadu_si512(patch.from.add(r * patch.stride).cast());
                    }
                    return tile;
                }
                let mask = low_bits(halves);
                for (r, row) in tile.iter_mut().enumerate() {
                    if r < patch.rows {
                        *row = _mm512_maskz_loadu_epi16(mask, patch.from.add(r * patch.stride).cast());
                    }
                }
                tile
            }
        }

        #[inline(always)]
        unsafe fn row_pairs(patch: Patch) -> [__m512i; 16] {
            // SAFETY: masked-off values are not read; see the trait for the rest.
            unsafe {
                let mut tile = [_mm512_setzero_si512(); 16];
                for (i, row) in tile.iter_mut().enumerate() {
                    let (even, odd) = (widened_row(patch, 2 * i), widened_row(patch, 2 * i + 1));
                    *row = _mm512_or_si512(even, _mm512_slli_epi32::<16>(odd));
                }
                tile
            }
        }

        #[inline(always)]
        unsafe fn transpose(t: [__m512i; 16]) -> [__m512i; 16] {
            // SAFETY: see the trait.
            unsafe {
                // Words within quarters of four rows, then quarters between rows.
                let mut pairs = t;
                for i in 0..8 {
                    pairs[2 * i] = _mm512_unpacklo_epi32(t[2 * i], t[2 * i + 1]);
                    pairs[2 * i + 1] = _mm512_unpackhi_epi32(t[2 * i], t[2 * i + 1]);
                }
                let mut fours = t;
                for i in 0..4 {
                    let p = &pairs[4 * i..4 * i + 4];
                    fours[4 * i] = _mm512_unpacklo_epi64(p[0], p[2]);
                    fours[4 * i + 1] = _mm512_unpackhi_epi64(p[0], p[2]);
                    fours[4 * i + 2] = _mm512_unpacklo_epi64(p[1], p[3]);
                    fours[4 * i + 3] = _mm512_unpackhi_epi64(p[1], p[3]);
                }
                let mut out = t;
                for i in 0..4 {
                    let (a, b, c, d) = (fours[i], fours[4 + i], fours[8 + i], fours[12 + i]);
                    let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
                    let (cd_even, cd_odd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
                    out[i] = _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even);
                    out[8 + i] = _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even);
                    out[4 + i] = _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd);
                    out[12 + i] = _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd);
                }
                out
            }
        }

        #[inline(always)]
        unsafe fn write(tile: [__m512i; 16], to: *mut u8, stride: usize, rows: usize) {
            // SAFETY: see the trait.
            unsafe {
                if rows >= 16 {
                    for (r, row) in tile.iter().enumerate() {
                        _mm512_storeu_si512(to.add(r * stride).cast(), *row);
                    }
                    return;
                }
                for (r, row) in tile.iter().enumerate() {
                    if r < rows {
                        _mm512_storeu_si512(to.add(r * stride).cast(), *row);
                    }
                }
            }
        }

        #[inline(always)]
        unsafe fn turn_pairs(from: *const u8, to: *mut u8) {
            // SAFETY: eight rows of 64 bytes on both sides; see the trait for the rest.
            unsafe {
                let mut t = [_mm512_setzero_si512(); 8];
                for (i, row) in t.iter_mut().enumerate() {
                    *row = _mm512_loadu_si512(from.add(64 * i).cast());
                }
                // 8 x 8 words of 64 bits (two pairs each): within quarters, then quarters between rows.
                let mut pairs = t;
                for i in 0..4 {
                    pairs[2 * i] = _mm512_unpacklo_epi64(t[2 * i], t[2 * i + 1]);
                    pairs[2 * i + 1] = _mm512_unpackhi_epi64(t[2 * i], t[2 * i + 1]);
                }
                // Value (i, j) of a word of 2 x 2 moves to (j, i): the middle two swap.
                let swap = _mm512_set1_epi64(0x0706_0302_0504_0100);
                let swap = _mm512_add_epi8(swap, _mm512_set4_epi32(0x0808_0808, 0x0808_0808, 0, 0));
                for i in 0..2 {
                    let (a, b, c, d) = (pairs[i], pairs[2 + i], pairs[4 + i], pairs[6 + i]);
                    let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
                    let (cd_even, cd_odd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
                    let rows = [
                        (i, _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even)),
                        (4 + i, _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even)),
                        (2 + i, _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd)),
                        (6 + i, _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd)),
                    ];
                    for (row, words) in rows {
                        _mm512_storeu_si512(to.add(64 * row).cast(), _mm512_shuffle_epi8(words, swap));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turning_pairs_twice_gives_them_back() {
        let values: Vec<u16> = (0..256).collect();
        let (mut once, mut twice) = (vec![0u16; 256], vec![0u16; 256]);
        // SAFETY: all three hold 512 bytes.
        unsafe {
            Plain::turn_pairs(values.as_ptr().cast(), once.as_mut_ptr().cast());
            Plain::turn_pairs(once.as_ptr().cast(), twice.as_mut_ptr().cast());
        }
        assert_eq!(values, twice);
        // Value (in 5, out 2): half 1 of word 2 of row 2; turned: half 0 of word 5 of row 1.
        assert_eq!(once[(16 + 5) * 2], values[(2 * 16 + 2) * 2 + 1]);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn avx512_moves_as_the_plain_loops_do() {
        if !crate::cpu::available().contains(&crate::cpu::Level::Avx512) {
            eprintln!("skipped: no AVX-512 here");
            return;
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
        unsafe fn fast(patch: Patch, pairs: bool, turn: bool, rows: usize, to: *mut u8) {
            // SAFETY: as the test says.
            unsafe {
                let tile = if pairs { Avx512::row_pairs(patch) } else { Avx512::rows(patch) };
                Avx512::write(if turn { Avx512::transpose(tile) } else { tile }, to, 64, rows);
            }
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
        unsafe fn fast_turn(from: *const u8, to: *mut u8) {
            // SAFETY: as the test says.
            unsafe { Avx512::turn_pairs(from, to) }
        }
        let values: Vec<u16> = (0..4096u32).map(|i| (i * 40503 + 7) as u16).collect();
        let from = values.as_ptr().cast::<u8>();
        for (rows, columns, dtype) in [
            (16, 16, DType::F32),
            (5, 3, DType::F32),
            (16, 32, DType::BF16),
            (15, 31, DType::BF16),
            (1, 1, DType::BF16),
        ] {
            let patch = Patch { from, stride: 100, rows, columns, dtype };
            let tall = Patch { columns: columns.min(16), rows: 2 * rows - 1, ..patch };
            for (pairs, turn) in [(false, false), (false, true), (true, false), (true, true)] {
                let patch = if pairs { tall } else { patch };
                let (mut a, mut b) = ([0u8; 1024], [0u8; 1024]);
                // SAFETY: the values hold 31 rows of 100 bytes and more; both buffers hold a tile.
                unsafe {
                    let tile = if pairs { Plain::row_pairs(patch) } else { Plain::rows(patch) };
                    Plain::write(if turn { Plain::transpose(tile) } else { tile }, a.as_mut_ptr(), 64, 13);
                    fast(patch, pairs, turn, 13, b.as_mut_ptr());
                }
                assert_eq!(a, b, "{rows} x {columns} {dtype} pairs {pairs} turned {turn}");
            }
        }
        let (mut a, mut b) = ([0u8; 512], [0u8; 512]);
        // SAFETY: 512 bytes on each side.
        unsafe {
            Plain::turn_pairs(from, a.as_mut_ptr());
            fast_turn(from, b.as_mut_ptr());
        }
        assert_eq!(a, b);
    }
}
