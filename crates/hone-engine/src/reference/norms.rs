//! Normalisations over rows of `w.len()` columns.

/// `x / sqrt(mean(x²) + eps) * (w + offset)`.
pub fn rms_norm(x: &[f64], w: &[f64], eps: f64, offset: f64) -> Vec<f64> {
    let row = |row: &[f64]| {
        let mean_square = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
        let scale = 1.0 / (mean_square + eps).sqrt();
        row.iter().zip(w).map(|(v, w)| v * scale * (w + offset)).collect::<Vec<_>>()
    };
    x.chunks(w.len()).flat_map(row).collect()
}

/// `(x - mean) / sqrt(variance + eps) * w + b`, the variance that of the row itself (divided by its length).
pub fn layer_norm(x: &[f64], w: &[f64], b: Option<&[f64]>, eps: f64) -> Vec<f64> {
    let row = |row: &[f64]| {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
        let scale = 1.0 / (variance + eps).sqrt();
        let bias = |i: usize| b.map_or(0.0, |b| b[i]);
        row.iter().zip(w).enumerate().map(|(i, (v, w))| (v - mean) * scale * w + bias(i)).collect::<Vec<_>>()
    };
    x.chunks(w.len()).flat_map(row).collect()
}
