//! Inverse frequencies of rotary embedding (arXiv 2104.09864) with the scaling schemes of published models. For a head of
//! width `d` and base `theta`, entry `i < d/2` has `theta^(-2i/d)`; then
//!
//! - `linear`: divided by `factor` (position interpolation, arXiv 2306.15595);
//! - `llama3`: wavelengths beyond `original / low_freq_factor` divided by `factor`, those within
//!   `original / high_freq_factor` kept, smooth in between (Llama 3.1, as in transformers);
//! - `yarn`: by-parts interpolation with an attention factor (arXiv 2309.00071).
//!
//! Schemes whose frequencies depend on the length of the text at hand (`dynamic`, `longrope`) are refused: a token's
//! value would then depend on what comes after it. Computed in `f64`, rounded once.

use std::f64::consts::PI;

use hone_engine::ops::RopeTable;

use super::Family;
use super::fields::Fields;
use crate::error::ModelError;

/// Tables by kind of layer.
pub(super) struct Tables {
    /// Of layers with global attention.
    pub full: RopeTable,
    /// Of layers with a window.
    pub sliding: RopeTable,
}

/// Fields a rotary object may have; another one is a scheme not known here.
const KNOWN_FIELDS: [&str; 16] = [
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "partial_rotary_factor",
    "finetuned",
    "name",
];

/// The tables a config describes.
pub(super) fn tables(
    fields: &Fields,
    family: Family,
    head_dim: usize,
    max_positions: usize,
) -> Result<Tables, ModelError> {
    let table = |scheme: Option<&Fields>, theta: f64| {
        let table = match scheme {
            Some(scheme) => scaled(scheme, theta, head_dim, max_positions)?,
            None => plain(theta, head_dim),
        };
        let finite = table.attention_factor.is_finite() && table.inverse_frequencies.iter().all(|f| f.is_finite());
        let expected = "settings that give finite frequencies";
        if finite { Ok(table) } else { Err(fields.malformed("rope_parameters", "frequencies that overflow", expected)) }
    };
    let parameters = fields.object("rope_parameters")?;
    let scaling = fields.object("rope_scaling")?;
    let by_layer_type =
        |name| -> Result<Option<Fields>, ModelError> { parameters.as_ref().map_or(Ok(None), |p| p.object(name)) };
    let (full, sliding) = (by_layer_type("full_attention")?, by_layer_type("sliding_attention")?);
    let nested = full.is_some() || sliding.is_some();

    if family == Family::Gemma3 {
        if parameters.is_some() && !nested {
            let expected = "an object each for `full_attention` and `sliding_attention`";
            return Err(fields.malformed("rope_parameters", "one object for all layers", expected));
        }
        let theta = fields.positive("rope_theta", Some(1_000_000.0))?;
        let theta = full.as_ref().map_or(Ok(theta), |f| f.positive("rope_theta", Some(theta)))?;
        let local = fields.positive("rope_local_base_freq", Some(10_000.0))?;
        return Ok(Tables {
            full: table(scaling.as_ref().or(full.as_ref()), theta)?,
            sliding: table(sliding.as_ref(), local)?,
        });
    }
    let theta = fields.positive("rope_theta", Some(10_000.0))?;
    if nested {
        return Ok(Tables { full: table(full.as_ref(), theta)?, sliding: table(sliding.as_ref(), theta)? });
    }
    // As in transformers: `rope_scaling`, where it is there, stands for `rope_parameters`.
    let both = table(scaling.as_ref().or(parameters.as_ref()), theta)?;
    Ok(Tables { full: both.clone(), sliding: both })
}

fn frequencies(theta: f64, head_dim: usize) -> Vec<f64> {
    (0..head_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64)).collect()
}

fn rounded(frequencies: impl IntoIterator<Item = f64>, attention_factor: f64) -> RopeTable {
    let inverse_frequencies = frequencies.into_iter().map(|f| f as f32).collect();
    RopeTable { inverse_frequencies, attention_factor: attention_factor as f32 }
}

fn plain(theta: f64, head_dim: usize) -> RopeTable {
    rounded(frequencies(theta, head_dim), 1.0)
}

/// A table by a scheme's object; its own base wins over `theta` from beside it.
fn scaled(scheme: &Fields, theta: f64, head_dim: usize, max_positions: usize) -> Result<RopeTable, ModelError> {
    if let Some(unknown) = scheme.names().find(|name| !KNOWN_FIELDS.contains(name)) {
        let expected = format!("only fields of known schemes ({})", KNOWN_FIELDS.join(", "));
        return Err(scheme.malformed(unknown, "a field of its own", expected));
    }
    let theta = scheme.positive("rope_theta", Some(theta))?;
    let partial = scheme.number("partial_rotary_factor", Some(1.0))?;
    if partial != 1.0 {
        let expected = "1 (rotating only part of a head is not supported)";
        return Err(scheme.malformed("partial_rotary_factor", partial, expected));
    }
    let kind = match scheme.optional_text("rope_type")? {
        Some(kind) => kind,
        None => scheme.optional_text("type")?.unwrap_or("default"),
    };
    match kind {
        "default" => Ok(plain(theta, head_dim)),
        "linear" => {
            let factor = scheme.positive("factor", None)?;
            Ok(rounded(frequencies(theta, head_dim).into_iter().map(|f| f / factor), 1.0))
        }
        "llama3" => llama3(scheme, theta, head_dim, max_positions),
        "yarn" => yarn(scheme, theta, head_dim, max_positions),
        other => {
            let expected = "`default`, `linear`, `llama3` or `yarn` (others depend on the length of the text)";
            Err(scheme.malformed("rope_type", format!("`{other}`"), expected))
        }
    }
}

fn llama3(scheme: &Fields, theta: f64, head_dim: usize, max_positions: usize) -> Result<RopeTable, ModelError> {
    let factor = scheme.positive("factor", None)?;
    let low = scheme.positive("low_freq_factor", None)?;
    let high = scheme.positive("high_freq_factor", None)?;
    let original = scheme.positive("original_max_position_embeddings", Some(max_positions as f64))?;
    if high <= low {
        return Err(scheme.malformed("high_freq_factor", high, format!("more than low_freq_factor ({low})")));
    }
    let scale = |frequency: f64| {
        let wavelength = 2.0 * PI / frequency;
        if wavelength < original / high {
            return frequency;
        }
        if wavelength > original / low {
            return frequency / factor;
        }
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    };
    Ok(rounded(frequencies(theta, head_dim).into_iter().map(scale), 1.0))
}

fn yarn(scheme: &Fields, theta: f64, head_dim: usize, max_positions: usize) -> Result<RopeTable, ModelError> {
    let original = scheme.positive("original_max_position_embeddings", Some(max_positions as f64))?;
    let factor = scheme.positive("factor", Some(max_positions as f64 / original))?;
    let fast = scheme.positive("beta_fast", Some(32.0))?;
    let slow = scheme.positive("beta_slow", Some(1.0))?;

    let magnitude = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
    let (all, all_dim) = (scheme.number("mscale", Some(0.0))?, scheme.number("mscale_all_dim", Some(0.0))?);
    let inferred = if all != 0.0 && all_dim != 0.0 { magnitude(all) / magnitude(all_dim) } else { magnitude(1.0) };
    let attention_factor = scheme.positive("attention_factor", Some(inferred))?;

    // The entry whose frequency makes `turns` full turns within the original length.
    let dim = head_dim as f64;
    let entry = |turns: f64| dim * (original / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
    let (mut from, mut to) = (entry(fast), entry(slow));
    if scheme.flag("truncate", true)? {
        (from, to) = (from.floor(), to.ceil());
    }
    let (from, mut to) = (from.max(0.0), to.min(dim - 1.0));
    if from == to {
        to += 0.001;
    }
    let blend = |(i, frequency): (usize, f64)| {
        let interpolated = ((i as f64 - from) / (to - from)).clamp(0.0, 1.0);
        frequency / factor * interpolated + frequency * (1.0 - interpolated)
    };
    Ok(rounded(frequencies(theta, head_dim).into_iter().enumerate().map(blend), attention_factor))
}
