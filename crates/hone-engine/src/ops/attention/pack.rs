//! Rows of tensors into operands of [`Engine::product`] and back.
//!
//! A *natural* tile holds rows one after another, the head's width along units, zeros up to the padded width: an `a`
//! operand that is summed over the head. A *transposed* natural tile is the matching `b` operand. *Paired* tiles put two
//! rows into each unit: `b` operands that are summed over rows.

use crate::dtype::{DType, Element};
use crate::tensor::Tensor;

use super::engine::Engine;
use super::passes::{scale_and_pair, scale_columns};

/// Rows and columns a transposition handles at a time; every packed size is a multiple of it.
pub(super) const BLOCK: usize = 16;

/// Working memory of a task: one buffer of the pool, handed out in pieces of 32-bit units.
pub(super) struct Scratch(Tensor);

impl Scratch {
    /// Room for `units` units, contents unspecified.
    pub fn new(units: usize) -> Scratch {
        Scratch(Tensor::uninit([units], DType::F32))
    }

    /// All of it.
    pub fn units(&mut self) -> &mut [u32] {
        bytemuck::cast_slice_mut(self.0.as_mut_slice::<f32>())
    }

    /// All of it, to be read.
    pub fn as_units(&self) -> &[u32] {
        bytemuck::cast_slice(self.0.as_slice::<f32>())
    }
}

/// Cuts the first `n` elements off `rest`.
pub(super) fn take<'a, T>(rest: &mut &'a mut [T], n: usize) -> &'a mut [T] {
    let (head, tail) = std::mem::take(rest).split_at_mut(n);
    *rest = tail;
    head
}

/// Writes one row into a natural tile: `to` is the row's units, `from` the head's values; the rest becomes zero.
#[inline(always)]
pub(super) fn pack_row<T: Element, E: Engine>(to: &mut [u32], from: &[T]) {
    if E::PAIR == 1 {
        let to: &mut [f32] = bytemuck::cast_slice_mut(to);
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.widen();
        }
        to[from.len()..].fill(0.0);
    } else {
        let to: &mut [u16] = bytemuck::cast_slice_mut(to);
        match T::DTYPE {
            DType::BF16 => to[..from.len()].copy_from_slice(bytemuck::cast_slice(from)),
            DType::F32 => {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = <half::bf16 as Element>::rounded(from.widen()).to_bits();
                }
            }
        }
        to[from.len()..].fill(0);
    }
}

/// Writes the rows of neighbouring heads of one token: `from` holds their values, `to` their rows.
#[inline(always)]
pub(super) fn pack_heads<T: Element, E: Engine>(to: &mut [u32], from: &[T], head_dim: usize, units: usize) {
    if size_of::<T>() * E::PAIR == 4 && head_dim == units * E::PAIR {
        return to.copy_from_slice(bytemuck::cast_slice(from));
    }
    for head in 0..from.len() / head_dim {
        pack_row::<T, E>(&mut to[head * units..][..units], &from[head * head_dim..][..head_dim]);
    }
}

/// Copies rows `width` wide to neighbouring heads of one token, without the padding.
#[inline(always)]
pub(super) fn copy_heads<T: Element>(to: &mut [T], rows: &[T], head_dim: usize, width: usize) {
    if head_dim == width {
        return to.copy_from_slice(&rows[..to.len()]);
    }
    for head in 0..to.len() / head_dim {
        to[head * head_dim..][..head_dim].copy_from_slice(&rows[head * width..][..head_dim]);
    }
}

/// Sums `[width, columns]` as rows of `T`, each multiplied by its factor: `rows` becomes `[columns, width]`, row by row
/// in units of as many `T` as 32 bits hold. `sums` is used up.
#[inline(always)]
pub(super) fn sums_to_rows<T: Element, E: Engine>(
    engine: E,
    rows: &mut [u32],
    sums: &mut [f32],
    factors: &[f32],
    width: usize,
) {
    let columns = factors.len();
    let units = width * size_of::<T>() / 4;
    match T::DTYPE {
        DType::F32 => scale_columns(engine.simd(), sums, width, factors),
        DType::BF16 => scale_and_pair(engine.simd(), sums, width, factors),
    }
    transpose(rows, units, bytemuck::cast_slice(sums), columns, units, columns);
}

/// Puts rows `i` and `j` of a natural tile into the units of one row as wide as the head, `i` in the lower halves.
#[inline(always)]
fn interleave(to: &mut [u32], i: &[u32], j: &[u32]) {
    let (i, j): (&[u16], &[u16]) = (bytemuck::cast_slice(i), bytemuck::cast_slice(j));
    for ((to, i), j) in to.iter_mut().zip(i).zip(j) {
        *to = *i as u32 | (*j as u32) << 16;
    }
}

/// A natural tile of keys or values (`rows` of `width` values) as an `a` operand that is summed over rows: the
/// transpose, two neighbouring rows in a unit. `to` is `[width, rows / PAIR]`, `spare` holds `rows / PAIR * width`.
#[inline(always)]
pub(super) fn transpose_rows<E: Engine>(to: &mut [u32], natural: &[u32], spare: &mut [u32], rows: usize, width: usize) {
    if E::PAIR == 1 {
        return transpose(to, rows, natural, width, rows, width);
    }
    let units = width / 2;
    for (pair, to) in spare.chunks_exact_mut(width).take(rows / 2).enumerate() {
        let pair = &natural[2 * pair * units..][..2 * units];
        interleave(to, &pair[..units], &pair[units..]);
    }
    transpose(to, rows / 2, spare, width, rows / 2, width)
}

/// A natural tile of queries as a `b` operand that is summed over rows: `[rows / PAIR, width]`. A unit holds rows `i` and
/// `i + 16` of each 32, which is how [`super::passes`] packs the other operand out of its vectors. With one value a unit
/// the natural tile is that operand already, and `to` is left alone.
#[inline(always)]
pub(super) fn pair_rows<'a, E: Engine>(to: &'a mut [u32], natural: &'a [u32], rows: usize, width: usize) -> &'a [u32] {
    if E::PAIR == 1 {
        return natural;
    }
    let units = width / 2;
    for (at, to) in to.chunks_exact_mut(width).take(rows / 2).enumerate() {
        let i = at / BLOCK * 2 * BLOCK + at % BLOCK;
        interleave(to, &natural[i * units..][..units], &natural[(i + BLOCK) * units..][..units]);
    }
    to
}

/// `to[c, r] = from[r, c]` for `rows x columns` units, multiples of [`BLOCK`]; strides in units.
#[inline(always)]
pub(super) fn transpose(
    to: &mut [u32],
    to_stride: usize,
    from: &[u32],
    from_stride: usize,
    rows: usize,
    columns: usize,
) {
    assert!(rows.is_multiple_of(BLOCK) && columns.is_multiple_of(BLOCK) && rows > 0 && columns > 0);
    assert!(from.len() >= (rows - 1) * from_stride + columns && to.len() >= (columns - 1) * to_stride + rows);
    for r in (0..rows).step_by(BLOCK) {
        for c in (0..columns).step_by(BLOCK) {
            let (from, to) = (&from[r * from_stride + c..], &mut to[c * to_stride + r..]);
            transpose_block(to, to_stride, from, from_stride);
        }
    }
}

#[inline(always)]
fn transpose_block(to: &mut [u32], to_stride: usize, from: &[u32], from_stride: usize) {
    assert!(from.len() >= 15 * from_stride + BLOCK && to.len() >= 15 * to_stride + BLOCK);
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: the instructions are there and the sizes were checked above.
        return unsafe { transpose_avx512(to.as_mut_ptr(), to_stride, from.as_ptr(), from_stride) };
    }
    for r in 0..BLOCK {
        for c in 0..BLOCK {
            to[c * to_stride + r] = from[r * from_stride + c];
        }
    }
}

/// Transposes 16 x 16 units in registers: four rounds that exchange ever larger squares.
///
/// # Safety
/// Both sides must hold 16 rows of 16 units at their strides.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn transpose_avx512(to: *mut u32, to_stride: usize, from: *const u32, from_stride: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise.
    let mut r: [__m512i; 16] = std::array::from_fn(|i| unsafe { _mm512_loadu_si512(from.add(i * from_stride).cast()) });
    for i in (0..16).step_by(2) {
        (r[i], r[i + 1]) = (_mm512_unpacklo_epi32(r[i], r[i + 1]), _mm512_unpackhi_epi32(r[i], r[i + 1]));
    }
    for i in [0, 4, 8, 12] {
        let (a, b, c, d) = (r[i], r[i + 1], r[i + 2], r[i + 3]);
        r[i] = _mm512_unpacklo_epi64(a, c);
        r[i + 1] = _mm512_unpackhi_epi64(a, c);
        r[i + 2] = _mm512_unpacklo_epi64(b, d);
        r[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    // r[4 q + j] now holds, in its 128-bit lane l, rows 4 q .. 4 q + 4 of column 4 l + j.
    for j in 0..4 {
        let (a, b, c, d) = (r[j], r[4 + j], r[8 + j], r[12 + j]);
        let ab_even = _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b);
        let ab_odd = _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b);
        let cd_even = _mm512_shuffle_i32x4::<0b10_00_10_00>(c, d);
        let cd_odd = _mm512_shuffle_i32x4::<0b11_01_11_01>(c, d);
        let columns = [
            _mm512_shuffle_i32x4::<0b10_00_10_00>(ab_even, cd_even),
            _mm512_shuffle_i32x4::<0b10_00_10_00>(ab_odd, cd_odd),
            _mm512_shuffle_i32x4::<0b11_01_11_01>(ab_even, cd_even),
            _mm512_shuffle_i32x4::<0b11_01_11_01>(ab_odd, cd_odd),
        ];
        for (lane, column) in columns.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { _mm512_storeu_si512(to.add((4 * lane + j) * to_stride).cast(), column) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes_with_strides() {
        for (rows, columns, to_stride, from_stride) in [(16, 16, 16, 16), (32, 48, 40, 50), (64, 16, 64, 16)] {
            let from: Vec<u32> = (0..rows * from_stride).map(|i| i as u32).collect();
            let mut to = vec![u32::MAX; columns * to_stride];
            transpose(&mut to, to_stride, &from, from_stride, rows, columns);
            for c in 0..columns {
                for r in 0..to_stride {
                    let expected = if r < rows { from[r * from_stride + c] } else { u32::MAX };
                    assert_eq!(to[c * to_stride + r], expected, "{rows}x{columns} at {c}, {r}");
                }
            }
        }
    }
}
