//! Writing blocks, as ggml's reference does (`quantize_row_*_ref`): the scale is found in `f32`, its unrounded value
//! divides, and only then it is stored as binary16.

use half::f16;

pub(super) fn q8_0(values: &[f32], bytes: &mut Vec<u8>) {
    let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
    let d = largest / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    bytes.extend(f16::from_f32(d).to_le_bytes());
    bytes.extend(values.iter().map(|v| (v * inverse).round() as i8 as u8));
}

pub(super) fn q4_0(values: &[f32], bytes: &mut Vec<u8>) {
    // The value of largest magnitude (the first of several) lands on -8, whatever its sign.
    let extreme = values.iter().fold(0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
    let d = extreme / -8.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    bytes.extend(f16::from_f32(d).to_le_bytes());
    let quant = |v: f32| ((v * inverse + 8.5) as u8).min(15);
    let (low, high) = values.split_at(16);
    bytes.extend(low.iter().zip(high).map(|(l, h)| quant(*l) | quant(*h) << 4));
}

pub(super) fn q5_0(values: &[f32], bytes: &mut Vec<u8>) {
    // As Q4_0, with -16 for -8: the fifth bits of all 32 values stand together, value `i` in bit `i`.
    let extreme = values.iter().fold(0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
    let d = extreme / -16.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    bytes.extend(f16::from_f32(d).to_le_bytes());
    let quants: Vec<u8> = values.iter().map(|v| ((v * inverse + 16.5) as u8).min(31)).collect();
    let fifth = quants.iter().enumerate().fold(0u32, |bits, (i, q)| bits | u32::from(q >> 4) << i);
    bytes.extend(fifth.to_le_bytes());
    let (low, high) = quants.split_at(16);
    bytes.extend(low.iter().zip(high).map(|(l, h)| (l & 15) | (h & 15) << 4));
}
