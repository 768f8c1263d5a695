//! Products in `f32` on tiles that multiply bf16.
//!
//! Three bf16 numbers hold the 24 bits of an `f32`: `x = hi + mid + lo` with `hi` the upper eight bits of `x`, `mid` those of
//! `x - hi`, and `lo` the rest. Products of two bf16 numbers are exact in `f32`, so
//!
//! `x w = hi w + mid w + lo w` for a weight `w` that is a bf16 number itself, and
//! `x y ≈ Σ x_i y_j` over the six pairs with `i + j <= 2` for two `f32`: what is left out is below `2^-22 |x y|`
//!
//! (after Henry, Tang and Heinecke, *Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision
//! Computations*, arXiv 1904.06376). Nearly every published checkpoint holds bf16 numbers, also when it is computed in
//! `f32`: then three tile products do the work of one in `f32`, and the weight takes half the memory.
//!
//! Numbers below about `1e-33` lose their lower parts: tiles take subnormal numbers as zero.

use super::blocked::Term;
use super::operand::{Left, Right, Source};
use super::panels::RowMajor;
use crate::cpu::{self, Level};
use crate::dtype::DType;
use crate::tensor::Tensor;

/// Parts of a number.
pub(super) const PLANES: u8 = 3;

/// Part `plane` of `x` (0 is the largest), as an `f32`.
#[inline(always)]
pub(super) fn part(x: f32, plane: u8) -> f32 {
    let upper = |v: f32| f32::from_bits(v.to_bits() & 0xffff_0000);
    let high = upper(x);
    if plane == 0 {
        return high;
    }
    // Infinities have no remainder (it would be NaN), nor does NaN.
    let rest = if high.abs() < f32::INFINITY { x - high } else { 0.0 };
    let middle = upper(rest);
    if plane == 1 { middle } else { rest - middle }
}

/// The bits of a part, which is a bf16 number.
#[inline(always)]
fn bits(part: f32) -> u16 {
    (part.to_bits() >> 16) as u16
}

/// Writes part `plane` of a row-major `f32` matrix to `to`, `stride` bytes from row to row, padded with zeros to whole
/// lines of 32 values and 16 rows.
///
/// # Safety
/// The matrix is readable; `to` has room for its rows rounded up to 16, of at least its columns rounded up to 32 values.
pub(super) unsafe fn write_rows(from: RowMajor, plane: u8, to: *mut u8, stride: usize) {
    debug_assert!(from.dtype == DType::F32);
    let padded = from.columns.next_multiple_of(32);
    for row in 0..from.rows.next_multiple_of(16) {
        // SAFETY: what is asked of the caller.
        let to = unsafe { std::slice::from_raw_parts_mut(to.add(row * stride).cast::<u16>(), padded) };
        if row >= from.rows {
            to.fill(0);
            continue;
        }
        let values = from.from.wrapping_add(row * from.stride).cast::<f32>();
        // SAFETY: as above; tensors are aligned for their type.
        let values = unsafe { std::slice::from_raw_parts(values, from.columns) };
        let (to, rest) = to.split_at_mut(values.len());
        rest.fill(0);
        write_row(values, plane, to);
    }
}

/// [`part`] of every value.
fn write_row(values: &[f32], plane: u8, to: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512bw") {
        let whole = values.len() / 32 * 32;
        // SAFETY: the instructions are there, and both slices have `whole` values.
        unsafe {
            match plane {
                0 => avx512::write::<0>(values.as_ptr(), to.as_mut_ptr(), whole),
                1 => avx512::write::<1>(values.as_ptr(), to.as_mut_ptr(), whole),
                _ => avx512::write::<2>(values.as_ptr(), to.as_mut_ptr(), whole),
            }
        }
        return plain_row(&values[whole..], plane, &mut to[whole..]);
    }
    plain_row(values, plane, to);
}

fn plain_row(values: &[f32], plane: u8, to: &mut [u16]) {
    to.iter_mut().zip(values).for_each(|(t, x)| *t = bits(part(*x, plane)));
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    /// Part `PLANE` of `count` values, a multiple of 32.
    ///
    /// # Safety
    /// The processor has AVX-512 F and BW; both pointers are good for `count` values.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) unsafe fn write<const PLANE: u8>(from: *const f32, to: *mut u16, count: usize) {
        // The upper halves of the 32 words of two registers.
        let mut upper = [0u16; 32];
        for (i, at) in upper.iter_mut().enumerate() {
            *at = 2 * i as u16 + 1;
        }
        // SAFETY: what is asked of the caller.
        unsafe {
            let upper = _mm512_loadu_si512(upper.as_ptr().cast());
            for i in (0..count).step_by(32) {
                let (a, b) = (part::<PLANE>(from.add(i)), part::<PLANE>(from.add(i + 16)));
                _mm512_storeu_si512(to.add(i).cast(), _mm512_permutex2var_epi16(a, upper, b));
            }
        }
    }

    #[inline(always)]
    unsafe fn part<const PLANE: u8>(from: *const f32) -> __m512i {
        // SAFETY: sixteen values, with AVX-512 on.
        unsafe {
            let x = _mm512_loadu_ps(from);
            if PLANE == 0 {
                return _mm512_castps_si512(x);
            }
            let mask = _mm512_set1_epi32(0xffff_0000u32 as i32);
            let upper = |v: __m512| _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v), mask));
            let high = upper(x);
            let finite = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(high), _mm512_set1_ps(f32::INFINITY));
            let rest = _mm512_maskz_sub_ps(finite, x, high);
            match PLANE {
                1 => _mm512_castps_si512(rest),
                _ => _mm512_castps_si512(_mm512_sub_ps(rest, upper(rest))),
            }
        }
    }
}

/// Whether weights whose values allow it should be packed as bf16: where [`expand`] makes something of it.
pub(crate) fn worth_packing_as_bf16() -> bool {
    cpu::level() == Level::Amx
}

/// Whether every value of an `f32` tensor is a bf16 number.
pub(crate) fn is_bf16(tensor: &Tensor) -> bool {
    let bits: &[u32] = bytemuck::cast_slice(tensor.as_slice::<f32>());
    bits.chunks(4096).all(|part| part.iter().fold(0, |all, b| all | b) & 0xffff == 0)
}

/// The terms of an `f32` product as terms of bf16 ones, if the machine has tiles and a weight is held in bf16; the
/// smallest parts first.
pub(super) fn expand<'a>(level: Level, terms: &[Term<'a>]) -> Option<Vec<Term<'a>>> {
    let heavy = |t: &Term| matches!(t.right.source, Source::Packed(p) if p.dtype() == DType::BF16);
    if level != Level::Amx || !terms.iter().any(heavy) {
        return None;
    }
    let mut all = Vec::with_capacity(PLANES as usize * terms.len());
    for term in terms {
        let left = match term.left.source {
            Source::Dense(m) if !term.left.turned => planes(m),
            _ => return None,
        };
        let right = match term.right.source {
            Source::Dense(m) => planes(m),
            Source::Packed(p) if p.dtype() == DType::BF16 => vec![(term.right.source, 0)],
            _ => return None,
        };
        // Pairs with one right side stand together, those with its smallest part first.
        for (right, low) in right.iter().rev() {
            let left = left.iter().rev().filter(|(_, i)| i + low < PLANES);
            all.extend(left.enumerate().map(|(i, (left, _))| Term {
                k: term.k,
                left: Left { source: *left, ..term.left },
                right: Right { source: *right, ..term.right },
                same_right: i > 0,
            }));
        }
    }
    Some(all)
}

/// The parts of a matrix with their places.
fn planes<'a>(matrix: RowMajor) -> Vec<(Source<'a>, u8)> {
    match matrix.dtype {
        DType::BF16 => vec![(Source::Dense(matrix), 0)],
        DType::F32 => (0..PLANES).map(|plane| (Source::Plane(matrix, plane), plane)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_parts_hold_a_number() {
        let mut state = 7u32;
        for i in 0..100_000u32 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Exponents from 2^-90 to 2^90, signs, all mantissas.
            let x = f32::from_bits((state & 0x807f_ffff) | ((37 + i % 180) << 23));
            let parts = [part(x, 0), part(x, 1), part(x, 2)];
            assert_eq!(parts[2] as f64 + parts[1] as f64 + parts[0] as f64, x as f64, "{x:e}: {parts:?}");
            assert!(parts.iter().all(|p| p.to_bits() & 0xffff == 0));
        }
        assert_eq!([part(f32::INFINITY, 0), part(f32::INFINITY, 1)], [f32::INFINITY, 0.0]);
        assert!(part(f32::NAN, 0).is_nan() && part(f32::NAN, 2) == 0.0);
    }

    #[test]
    fn rows_are_written_as_the_parts_are() {
        let mut values: Vec<f32> = (0..77).map(|i| (i as f32 - 38.5) * 1.234_567_9e-3f32.powi(i % 5 - 2)).collect();
        (values[3], values[40], values[70]) = (f32::INFINITY, f32::NEG_INFINITY, f32::NAN);
        for plane in 0..PLANES {
            let (mut fast, mut plain) = (vec![0; 77], vec![0; 77]);
            write_row(&values, plane, &mut fast);
            plain_row(&values, plane, &mut plain);
            assert_eq!(fast, plain);
        }
    }

    #[test]
    fn bf16_numbers_are_told_apart() {
        let mut values = vec![1.5f32; 10_000];
        assert!(is_bf16(&Tensor::from_slice([100, 100], &values)));
        values[9_999] = 1.0 + f32::EPSILON;
        assert!(!is_bf16(&Tensor::from_slice([100, 100], &values)));
    }
}
