//! The "K" blocks: 256 values in groups that have small integer scales of their own, with binary16 scales of scales.
//!
//! | type | bytes | layout |
//! |---|---|---|
//! | Q4_K | 144 | `d`, `dmin`, 12 bytes of 6-bit scales and minima for 8 groups of 32, 128 bytes of nibbles |
//! | Q5_K | 176 | as Q4_K with 32 bytes of fifth bits before the nibbles |
//! | Q6_K | 210 | 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 signed scales for groups of 16, `d` |

use super::small_blocks::f16_at;

/// Scale and minimum of group `group` (0..8): 6 bits each, the groups from 4 on split over two bytes.
#[inline(always)]
pub(super) fn scale_and_minimum(scales: &[u8], group: usize) -> (f32, f32) {
    let (scale, minimum) = if group < 4 {
        (scales[group] & 63, scales[group + 4] & 63)
    } else {
        let low = scales[group + 4];
        ((low & 15) | (scales[group - 4] >> 6) << 4, (low >> 4) | (scales[group] >> 6) << 4)
    };
    (scale as f32, minimum as f32)
}

#[inline(always)]
pub(super) fn q4_k(block: &[u8], values: &mut [f32]) {
    let (d, d_min, scales, quants) = (f16_at(block, 0), f16_at(block, 2), &block[4..16], &block[16..144]);
    for (pair, (out, bytes)) in values.chunks_exact_mut(64).zip(quants.chunks_exact(32)).enumerate() {
        let (low, high) = out.split_at_mut(32);
        for (half, out) in [(0, low), (4, high)] {
            let (scale, minimum) = scale_and_minimum(scales, 2 * pair + half / 4);
            let (scale, minimum) = (d * scale, d_min * minimum);
            for (value, byte) in out.iter_mut().zip(bytes) {
                *value = scale * (byte >> half & 15) as f32 - minimum;
            }
        }
    }
}

#[inline(always)]
pub(super) fn q5_k(block: &[u8], values: &mut [f32]) {
    let (d, d_min, scales) = (f16_at(block, 0), f16_at(block, 2), &block[4..16]);
    let (fifth, quants) = (&block[16..48], &block[48..176]);
    for (pair, (out, bytes)) in values.chunks_exact_mut(64).zip(quants.chunks_exact(32)).enumerate() {
        let (low, high) = out.split_at_mut(32);
        for (half, out) in [(0, low), (4, high)] {
            let group = 2 * pair + half / 4;
            let (scale, minimum) = scale_and_minimum(scales, group);
            let (scale, minimum) = (d * scale, d_min * minimum);
            for ((value, byte), bits) in out.iter_mut().zip(bytes).zip(fifth) {
                *value = scale * ((byte >> half & 15) | (bits >> group & 1) << 4) as f32 - minimum;
            }
        }
    }
}

#[inline(always)]
pub(super) fn q6_k(block: &[u8], values: &mut [f32]) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], f16_at(block, 208));
    // Two halves of 128 values; in each, quarter `j` takes its upper bits from bits 2j of 32 bytes, its lower ones
    // from 32 of the 64 bytes (quarters 0 and 1 their low nibbles, 2 and 3 the high ones).
    for (i, out) in values.chunks_exact_mut(32).enumerate() {
        let (half, quarter) = (i / 4, i % 4);
        let low = &low[64 * half + 32 * (quarter % 2)..][..32];
        let high = &high[32 * half..][..32];
        let (low_shift, high_shift) = (4 * (quarter / 2), 2 * quarter);
        for (j, out) in out.chunks_exact_mut(16).enumerate() {
            let scale = d * (scales[2 * i + j] as i8) as f32;
            for (k, value) in out.iter_mut().enumerate() {
                let at = 16 * j + k;
                let q = (low[at] >> low_shift & 15) | (high[at] >> high_shift & 3) << 4;
                *value = scale * (q as i32 - 32) as f32;
            }
        }
    }
}

/// Group `group` (0..8) of a Q4_K block, or with `fifth` a Q5_K one, as whole numbers.
pub(super) fn five_bits(block: &[u8], group: usize, fifth: bool) -> [u8; 32] {
    let quants = &block[if fifth { 48 } else { 16 } + 32 * (group / 2)..][..32];
    std::array::from_fn(|i| {
        let upper = if fifth { block[16 + i] >> group & 1 } else { 0 };
        quants[i] >> (4 * (group % 2)) & 15 | upper << 4
    })
}

/// Values `32 group ..` (`group` in 0..8) of a Q6_K block as whole numbers.
pub(super) fn six_bits(block: &[u8], group: usize) -> [u8; 32] {
    let (half, quarter) = (group / 4, group % 4);
    let low = &block[64 * half + 32 * (quarter % 2)..][..32];
    let high = &block[128 + 32 * half..][..32];
    std::array::from_fn(|i| low[i] >> (4 * (quarter / 2)) & 15 | (high[i] >> (2 * quarter) & 3) << 4)
}
