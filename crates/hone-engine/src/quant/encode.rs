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
