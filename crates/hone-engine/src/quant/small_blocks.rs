//! Blocks of 32 values with one scale `d` (and, in the `_1` types, one minimum `m`), both binary16.
//!
//! | type | bytes | layout |
//! |---|---|---|
//! | Q4_0 | 18 | `d`, 16 bytes: value `i` in the low half of byte `i`, value `i + 16` in the high half |
//! | Q4_1 | 20 | `d`, `m`, 16 bytes as above |
//! | Q5_0 | 22 | `d`, 32 fifth bits, 16 bytes as above |
//! | Q5_1 | 24 | `d`, `m`, 32 fifth bits, 16 bytes as above |
//! | Q8_0 | 34 | `d`, 32 signed bytes |

/// The binary16 at byte `at`, widened without a branch on the processor's abilities, so that loops over blocks stay loops.
#[inline(always)]
pub(super) fn f16_at(block: &[u8], at: usize) -> f32 {
    let half = u32::from(u16::from_le_bytes([block[at], block[at + 1]]));
    // The exponent is 112 short of binary32's; multiplying puts that right, for subnormal numbers too.
    let finite = f32::from_bits((half & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let beyond = if half & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(finite.to_bits() | beyond | (half & 0x8000) << 16)
}

#[inline(always)]
pub(super) fn f32(block: &[u8], values: &mut [f32]) {
    values[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
}

#[inline(always)]
pub(super) fn f16(block: &[u8], values: &mut [f32]) {
    values[0] = f16_at(block, 0);
}

#[inline(always)]
pub(super) fn bf16(block: &[u8], values: &mut [f32]) {
    values[0] = f32::from_bits(u32::from_le_bytes([0, 0, block[0], block[1]]));
}

#[inline(always)]
fn fifth_bits(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// Splits nibbles: `f(i, low)` and `f(i + 16, high)`.
#[inline(always)]
fn nibbles(quants: &[u8], values: &mut [f32], f: impl Fn(usize, u8) -> f32) {
    let (low, high) = values.split_at_mut(16);
    for (i, byte) in quants[..16].iter().enumerate() {
        low[i] = f(i, byte & 15);
        high[i] = f(i + 16, byte >> 4);
    }
}

#[inline(always)]
pub(super) fn q4_0(block: &[u8], values: &mut [f32]) {
    let d = f16_at(block, 0);
    nibbles(&block[2..], values, |_, q| d * (q as i32 - 8) as f32);
}

#[inline(always)]
pub(super) fn q4_1(block: &[u8], values: &mut [f32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    nibbles(&block[4..], values, |_, q| d * q as f32 + m);
}

#[inline(always)]
pub(super) fn q5_0(block: &[u8], values: &mut [f32]) {
    let (d, fifth) = (f16_at(block, 0), fifth_bits(block, 2));
    nibbles(&block[6..], values, |i, q| d * ((q as u32 | ((fifth >> i) & 1) << 4) as i32 - 16) as f32);
}

#[inline(always)]
pub(super) fn q5_1(block: &[u8], values: &mut [f32]) {
    let (d, m, fifth) = (f16_at(block, 0), f16_at(block, 2), fifth_bits(block, 4));
    nibbles(&block[8..], values, |i, q| d * (q as u32 | ((fifth >> i) & 1) << 4) as f32 + m);
}

#[inline(always)]
pub(super) fn q8_0(block: &[u8], values: &mut [f32]) {
    let d = f16_at(block, 0);
    for (value, q) in values.iter_mut().zip(&block[2..34]) {
        *value = d * (*q as i8) as f32;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_binary16_is_widened_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (super::f16_at(&bits.to_le_bytes(), 0), half::f16::from_bits(bits).to_f32());
            assert!(
                ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(),
                "{bits:#06x}: {ours} {theirs}"
            );
        }
    }
}
