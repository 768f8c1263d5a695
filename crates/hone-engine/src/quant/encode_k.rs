//! Writing Q4_K blocks, with the search for scales of ggml's reference (`quantize_row_q4_K_ref`, `make_qkx2_quants` in
//! `ggml-quants.c`), without an importance matrix.
//!
//! A group of 32 values `x` is stored as `s q − m` with `q` in `0..=15`, `m ≥ 0`. Rounding the range of the group to 15
//! steps gives a first `q`; 21 other step widths around it give others. For each, the `s` and `m` that are best for *that*
//! `q` follow from least squares, weighted by `w = rms(x) + |x|` so that large values count more, and the best of all is
//! kept; the range that later widths divide starts at the best `m` so far. Scales and minima of the eight groups are then
//! rounded to 6 bits of their largest, and `q` is found again for what was stored.
//!
//! Sums run in the order of the values and nothing is fused, as in the reference: the golden test compares every byte.

use half::f16;

use super::k_blocks::scale_and_minimum;

const GROUP: usize = 32;
const GROUPS: usize = 8;
const HIGHEST: f32 = 15.0;
/// Step widths tried: `(15 + offset) / range` for 21 offsets from -1 to 1.
const STEPS: usize = 20;
const FIRST_OFFSET: f32 = -1.0;
const OFFSET: f32 = 0.1;

/// Scale and minimum (not negative) of a group: `x ≈ scale q − minimum`.
#[derive(Clone, Copy)]
struct Line {
    scale: f32,
    minimum: f32,
}

/// The best of a group.
struct Fit {
    line: Line,
    quants: [f32; GROUP],
}

/// Appends one block of 256 values.
pub(super) fn q4_k(values: &[f32], bytes: &mut Vec<u8>) {
    let fits: Vec<Fit> = values.chunks_exact(GROUP).map(fit).collect();
    let largest = |of: fn(&Line) -> f32| fits.iter().map(|fit| of(&fit.line)).fold(0f32, f32::max);
    let (scale, minimum) = (largest(|l| l.scale), largest(|l| l.minimum));
    let packed = pack_scales(&fits, scale, minimum);
    let (d, d_min) = (f16::from_f32(scale / 63.0), f16::from_f32(minimum / 63.0));
    bytes.extend(d.to_le_bytes());
    bytes.extend(d_min.to_le_bytes());
    bytes.extend(packed);
    let stored = |(group, (values, fit)): (usize, (&[f32], &Fit))| {
        let (scale, minimum) = scale_and_minimum(&packed, group);
        quants(values, d.to_f32() * scale, d_min.to_f32() * minimum, fit)
    };
    let quants: Vec<[u8; GROUP]> = values.chunks_exact(GROUP).zip(&fits).enumerate().map(stored).collect();
    for pair in quants.chunks_exact(2) {
        bytes.extend(pair[0].iter().zip(&pair[1]).map(|(low, high)| low | high << 4));
    }
}

/// The group's values as whole numbers of `scale`, counted from `-minimum`. Under a scale of 0 they mean nothing, and the
/// reference leaves those of the search.
fn quants(values: &[f32], scale: f32, minimum: f32, fit: &Fit) -> [u8; GROUP] {
    if scale == 0.0 {
        return fit.quants.map(|q| q as u8);
    }
    std::array::from_fn(|i| nearest((values[i] + minimum) / scale) as u8)
}

/// Six bits each, the groups from 4 on split over two bytes: what [`scale_and_minimum`] reads.
fn pack_scales(fits: &[Fit], scale: f32, minimum: f32) -> [u8; 12] {
    let share = |part: f32, whole: f32| {
        let inverse = if whole > 0.0 { 63.0 / whole } else { 0.0 };
        (inverse * part).round_ties_even().clamp(0.0, 63.0) as u8
    };
    let mut packed = [0u8; 12];
    for (group, fit) in fits.iter().enumerate() {
        let (scale, minimum) = (share(fit.line.scale, scale), share(fit.line.minimum, minimum));
        if group < GROUPS / 2 {
            packed[group] = scale;
            packed[group + 4] = minimum;
        } else {
            packed[group + 4] = (scale & 15) | (minimum & 15) << 4;
            packed[group - 4] |= (scale >> 4) << 6;
            packed[group] |= (minimum >> 4) << 6;
        }
    }
    packed
}

/// A whole number of steps, 0 to 15, halves to even.
fn nearest(steps: f32) -> f32 {
    steps.round_ties_even().clamp(0.0, HIGHEST)
}

/// The best line of a group.
fn fit(values: &[f32]) -> Fit {
    let mean_square = values.iter().map(|v| v * v).sum::<f32>() / GROUP as f32;
    let weights: [f32; GROUP] = std::array::from_fn(|i| mean_square.sqrt() + values[i].abs());
    let lowest = values.iter().copied().fold(0f32, f32::min);
    let highest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if highest == lowest {
        return Fit { line: Line { scale: 0.0, minimum: -lowest }, quants: [0.0; GROUP] };
    }
    let quantised = |steps: f32, lowest: f32| -> [f32; GROUP] {
        let inverse = steps / (highest - lowest);
        std::array::from_fn(|i| nearest(inverse * (values[i] - lowest)))
    };
    let error = |q: &[f32; GROUP], line: Line| {
        let apart = |i: usize| line.scale * q[i] - line.minimum - values[i];
        (0..GROUP).map(|i| weights[i] * (apart(i) * apart(i))).sum::<f32>()
    };
    let line = Line { scale: 1.0 / (HIGHEST / (highest - lowest)), minimum: -lowest };
    let mut best = Fit { line, quants: quantised(HIGHEST, lowest) };
    let mut least = error(&best.quants, line);
    for step in 0..=STEPS {
        let quants = quantised(FIRST_OFFSET + OFFSET * step as f32 + HIGHEST, -best.line.minimum);
        let Some(line) = least_squares(values, &weights, &quants) else { continue };
        let error = error(&quants, line);
        if error < least {
            (least, best) = (error, Fit { line, quants });
        }
    }
    best
}

/// The line through `(q, x)` with the least weighted squared error; `None` where all `q` are one.
fn least_squares(values: &[f32], weights: &[f32; GROUP], quants: &[f32; GROUP]) -> Option<Line> {
    let (mut w, mut wx, mut wq, mut wqq, mut wqx) = (0f32, 0f32, 0f32, 0f32, 0f32);
    for i in 0..GROUP {
        w += weights[i];
        wx += weights[i] * values[i];
        wq += weights[i] * quants[i];
        wqq += weights[i] * quants[i] * quants[i];
        wqx += weights[i] * quants[i] * values[i];
    }
    let determinant = w * wqq - wq * wq;
    if determinant <= 0.0 {
        return None;
    }
    let line = Line { scale: (w * wqx - wx * wq) / determinant, minimum: -((wqq * wx - wq * wqx) / determinant) };
    // A minimum above zero cannot be stored: the best line through zero instead.
    let through_zero = Line { scale: wqx / wqq, minimum: 0.0 };
    Some(if line.minimum < 0.0 { through_zero } else { line })
}

#[cfg(test)]
mod tests {
    use super::super::BlockType;
    use crate::random::RandomKey;

    fn round_trip(values: &[f32]) -> Vec<f32> {
        let (mut bytes, mut back) = (Vec::new(), vec![0f32; values.len()]);
        BlockType::Q4K.quantise(values, &mut bytes).expect("whole blocks");
        BlockType::Q4K.dequantise(&bytes, &mut back).expect("whole blocks");
        back
    }

    fn squared_error(values: &[f32], back: &[f32]) -> f64 {
        values.iter().zip(back).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    }

    #[test]
    fn values_on_the_grid_come_back() {
        // Every group a full range 0..15 of the same step: scale and minimum are exact, but for binary16.
        let values: Vec<f32> = (0..256).map(|i| (i % 16) as f32 * 0.125 - 0.5).collect();
        let back = round_trip(&values);
        assert!(values.iter().zip(&back).all(|(a, b)| (a - b).abs() < 2e-3), "{back:?}");
    }

    #[test]
    fn the_search_beats_rounding_the_range() {
        let key = RandomKey::new(11);
        let values: Vec<f32> = (0..4096).map(|i| key.normal(i)).collect();
        let searched = squared_error(&values, &round_trip(&values));
        let plain: Vec<f32> = values
            .chunks_exact(32)
            .flat_map(|group| {
                let (low, high) = group.iter().fold((0f32, 0f32), |(l, h), v| (l.min(*v), h.max(*v)));
                let step = (high - low) / 15.0;
                group.iter().map(move |v| ((v - low) / step).round() * step + low).collect::<Vec<f32>>()
            })
            .collect();
        // The stored scales are rounded and the plain ones are not, and it is better all the same.
        assert!(searched < squared_error(&values, &plain), "{searched} {}", squared_error(&values, &plain));
    }

    #[test]
    fn awkward_groups_are_stored_as_well_as_they_can_be() {
        assert!(round_trip(&[0.0; 256]).iter().all(|v| *v == 0.0), "zeros");
        let back = round_trip(&[3.0; 256]);
        assert!(back.iter().all(|v| (v - 3.0).abs() < 0.02), "all equal and above zero: {}", back[0]);
        let back = round_trip(&[-3.0; 256]);
        assert!(back.iter().all(|v| (v + 3.0).abs() < 0.02), "all equal and below zero: {}", back[0]);
        let mut one = [0.0; 256];
        one[40] = 1000.0;
        assert!((round_trip(&one)[40] - 1000.0).abs() < 2.0);
    }
}
