//! GGUF blocks against the `gguf` package, and against llama.cpp where that package cannot write them, bit by bit. Files by
//! `tools/golden/quant_blocks.py` and `quant_k.py`.

use std::path::PathBuf;

use hone_engine::DType;
use hone_engine::quant::{BlockType, QuantTensor};

const ROWS: usize = 3;
const COLUMNS: usize = 512;

fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/quant").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn every_block_type_expands_as_in_gguf() {
    for kind in BlockType::ALL.into_iter().filter(|k| *k != BlockType::F32) {
        let blocks = golden(&format!("{kind}.blocks"));
        let expected = floats(&golden(&format!("{kind}.values")));
        assert_eq!(expected.len(), ROWS * COLUMNS);
        let tensor = QuantTensor::new(kind, ROWS, COLUMNS, blocks).expect("the file holds three rows");
        let found = tensor.to_dense(DType::F32).to_vec_f32();
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found.to_bits(), expected.to_bits(), "{kind} value {i}: {found}, expected {expected}");
        }
    }
}

#[test]
fn written_blocks_are_those_of_gguf() {
    let values = floats(&golden("quantise.values"));
    use BlockType::*;
    for kind in [Q8_0, Q5_0, Q4_0, Q4K, F16, BF16] {
        let expected = golden(&format!("{kind}.quantised"));
        let mut found = Vec::new();
        values.chunks_exact(COLUMNS).for_each(|row| kind.quantise(row, &mut found).expect("whole blocks"));
        assert_eq!(found.len(), expected.len());
        let size = kind.block_bytes();
        for (i, (found, expected)) in found.chunks_exact(size).zip(expected.chunks_exact(size)).enumerate() {
            assert_eq!(found, expected, "{kind} block {i}");
        }
    }
}

#[test]
fn a_matrix_of_the_wrong_length_is_refused() {
    let error = QuantTensor::new(BlockType::Q8_0, 2, 64, vec![0u8; 4 * 34 - 1]).expect_err("a byte is missing");
    assert!(error.to_string().contains("135") && error.to_string().contains("136"), "{error}");
}
