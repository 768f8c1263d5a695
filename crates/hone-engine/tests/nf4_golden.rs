//! NF4 against bitsandbytes, bit by bit. Files by `tools/golden/nf4.py`.

use std::path::PathBuf;

use hone_engine::quant::Nf4;
use hone_engine::quant::nf4::LEVELS;

fn bytes(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/nf4").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(name: &str) -> Vec<f32> {
    bytes(name).chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn expanded(blocks: &Nf4) -> Vec<f32> {
    let mut values = vec![0.0; blocks.len()];
    blocks.expand(0..blocks.len(), &mut values);
    values
}

fn assert_same(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.to_bits(), expected.to_bits(), "{what} {i}: {found}, expected {expected}");
    }
}

#[test]
fn levels_are_those_of_bitsandbytes() {
    assert_same("level", &LEVELS, &floats("levels.f32"));
}

#[test]
fn blocks_are_those_of_bitsandbytes() {
    let blocks = Nf4::quantise(&floats("values.f32"), false);
    assert_eq!(blocks.codes(), bytes("codes.u8"));
    let scales = floats("scales.f32");
    let found: Vec<f32> = (0..scales.len()).map(|block| blocks.scale(block)).collect();
    assert_same("scale", &found, &scales);
    // Zeros have no sign in a code.
    let back: Vec<f32> = floats("back.f32").iter().map(|v| v + 0.0).collect();
    let found: Vec<f32> = expanded(&blocks).iter().map(|v| v + 0.0).collect();
    assert_same("value", &found, &back);
}

#[test]
fn doubly_quantised_blocks_are_those_of_bitsandbytes() {
    let blocks = Nf4::quantise(&floats("double_values.f32"), true);
    assert_eq!(blocks.codes(), bytes("double_codes.u8"));
    let (code, largest) = (floats("double_code.f32"), floats("double_absmax.f32"));
    let (scales, mean) = (bytes("double_scales.u8"), floats("double_mean.f32")[0]);
    for (block, scale) in scales.iter().enumerate() {
        let expected = code[*scale as usize] * largest[block / 256] + mean;
        assert_eq!(blocks.scale(block).to_bits(), expected.to_bits(), "scale {block}");
    }
    assert_same("value", &expanded(&blocks), &floats("double_back.f32"));
}
