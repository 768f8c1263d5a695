//! Safetensors files made by hand: sound ones read, each way of being bad refused by name.

use std::path::PathBuf;

use hone_engine::DType;
use serde_json::{Value, json};

use super::*;

fn file_of(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn numbers(count: u32) -> Vec<u8> {
    (0..count).flat_map(|v| (v as f32).to_le_bytes()).collect()
}

/// Two tensors, `a` `[2, 3]` and `b` `[2]`.
fn header() -> Value {
    json!({
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [24, 32]},
    })
}

struct Saved {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn save(files: &[(&str, &[u8])]) -> Saved {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, bytes) in files {
        std::fs::write(directory.path().join(name), bytes).expect("written");
    }
    let path = directory.path().to_owned();
    Saved { _directory: directory, path }
}

#[track_caller]
fn refused(bytes: &[u8], words: &[&str]) {
    let saved = save(&[("model.safetensors", bytes)]);
    let message = WeightFiles::open(&saved.path).err().expect("must be refused").to_string();
    for word in words.iter().chain(&["model.safetensors"]) {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}

#[track_caller]
fn refused_with(change: impl FnOnce(&mut Value), words: &[&str]) {
    let mut header = header();
    change(&mut header);
    refused(&file_of(&header.to_string(), &numbers(8)), words);
}

#[test]
fn tensors_are_borrowed_where_they_can_be_and_converted_where_not() {
    // A space more moves the numbers off their alignment: they are then copied, with the same outcome.
    for padding in 0..5 {
        let text = header().to_string() + &" ".repeat(padding);
        let saved = save(&[("model.safetensors", &file_of(&text, &numbers(8)))]);
        let weights = WeightFiles::open(&saved.path).expect("sound");
        assert_eq!(weights.tensor_names(), ["a", "b"]);
        assert_eq!(weights.shape("a").as_deref(), Some(&[2, 3][..]));
        let a = weights.load("a", &[2, 3], DType::F32).expect("there");
        assert_eq!(a.as_slice::<f32>(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(weights.never_asked(), ["b"]);
        assert_eq!(weights.load("b", &[2], DType::BF16).expect("there").to_vec_f32(), [6.0, 7.0]);
        assert!(weights.never_asked().is_empty());
    }
}

#[test]
fn half_types_are_read() {
    let f16: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    let bf16: Vec<u8> = [0.5f32, 3.0].iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
    let header = json!({"h": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]},
                        "b": {"dtype": "BF16", "shape": [2], "data_offsets": [4, 8]}});
    let saved = save(&[("model.safetensors", &file_of(&header.to_string(), &[f16, bf16].concat()))]);
    let weights = WeightFiles::open(&saved.path).expect("sound");
    for dtype in [DType::F32, DType::BF16] {
        assert_eq!(weights.load("h", &[2], dtype).expect("there").to_vec_f32(), [1.5, -2.0]);
        assert_eq!(weights.load("b", &[2], dtype).expect("there").to_vec_f32(), [0.5, 3.0]);
    }
}

#[test]
fn every_prefix_of_a_sound_file_is_refused() {
    let bytes = file_of(&header().to_string(), &numbers(8));
    (0..bytes.len()).for_each(|length| refused(&bytes[..length], &[]));
}

#[test]
fn header_bombs_and_garbage_are_refused() {
    refused(&u64::MAX.to_le_bytes(), &["header length", "18446744073709551615"]);
    refused(&[&99_000_000u64.to_le_bytes()[..], b"{}"].concat(), &["header length", "in a file of 10"]);
    refused(&file_of("no json", &[]), &["header", "JSON"]);
    refused(&file_of("[]", &[]), &["header", "an object of tensors"]);
    refused(&file_of(&"[".repeat(100_000), &[]), &["header"]);
    refused(&file_of(r#"{"a": 3}"#, &[]), &["tensor `a`", "dtype"]);
    refused(
        &file_of(r#"{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}"#, &[0; 4]),
        &["tensor `a`", "-1"],
    );
}

#[test]
fn bad_ranges_are_named() {
    refused_with(|h| h["b"]["data_offsets"] = json!([24, 9000]), &["tensor `b`", "[24, 9000]", "32 bytes of data"]);
    refused_with(|h| h["b"]["data_offsets"] = json!([32, 24]), &["tensor `b`", "[32, 24]"]);
    refused_with(|h| h["b"]["data_offsets"] = json!([20, 28]), &["tensor `b`", "overlaps a", "24"]);
    refused_with(|h| h["a"]["shape"] = json!([2, 4]), &["tensor `a`", "24 bytes", "32 for F32 [2, 4]"]);
    refused_with(|h| h["a"]["shape"] = json!([1u64 << 40, 1u64 << 40]), &["tensor `a`", "addressed"]);
    refused_with(
        |h| h["a"] = json!({"dtype": "F32", "shape": [5], "data_offsets": [4, 24]}),
        &["tensor `a`", "gap after the header"],
    );
    refused(&file_of(&header().to_string(), &numbers(9)), &["end of file", "4 bytes after"]);
    let twice = r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}"#;
    refused(&file_of(twice, &numbers(2)), &["tensor `a`", "twice"]);
}

#[test]
fn what_is_asked_for_is_checked() {
    let mut other = header();
    other["c"] = json!({"dtype": "I64", "shape": [1], "data_offsets": [32, 40]});
    other["model.layers.0.x"] = json!({"dtype": "F32", "shape": [0], "data_offsets": [40, 40]});
    let saved = save(&[("model.safetensors", &file_of(&other.to_string(), &numbers(10)))]);
    let weights = WeightFiles::open(&saved.path).expect("sound");
    let message = |name: &str, shape: &[usize]| weights.load(name, shape, DType::F32).expect_err("refused").to_string();
    let shape = message("a", &[3, 2]);
    assert!(shape.contains("`a`") && shape.contains("[2, 3]") && shape.contains("[3, 2]"), "{shape}");
    let dtype = message("c", &[1]);
    assert!(dtype.contains("`c`") && dtype.contains("I64") && dtype.contains("BF16"), "{dtype}");
    let missing = message("model.norm.weight", &[1]);
    assert!(missing.contains("`model.norm.weight` is missing;"), "{missing}");
    let similar = message("layers.0.x", &[1]);
    assert!(similar.contains("there is `model.layers.0.x`"), "{similar}");
}

#[test]
fn shards_are_read_and_their_index_is_checked() {
    let shard = |name: &str| {
        let header = json!({name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}});
        file_of(&header.to_string(), &numbers(2))
    };
    let (one, two) = (shard("a"), shard("b"));
    let with_index = |map: Value, two: &[u8]| {
        let index = json!({"metadata": {}, "weight_map": map}).to_string();
        save(&[("1.safetensors", &one), ("2.safetensors", two), ("model.safetensors.index.json", index.as_bytes())])
    };
    let map = json!({"a": "1.safetensors", "b": "2.safetensors"});
    let saved = with_index(map.clone(), &two);
    let weights = WeightFiles::open(&saved.path).expect("sound");
    assert_eq!(weights.load("b", &[2], DType::F32).expect("there").to_vec_f32(), [0.0, 1.0]);
    assert_eq!(weights.files().len(), 2);

    let refused = |map: Value, two: &[u8], words: &[&str]| {
        let saved = with_index(map, two);
        let message = WeightFiles::open(&saved.path).err().expect("must be refused").to_string();
        words.iter().for_each(|word| assert!(message.contains(word), "`{word}` is not in: {message}"));
    };
    refused(map.clone(), &shard("a"), &["tensor `a`", "same name in", "1.safetensors"]);
    refused(map.clone(), &two[..20], &["2.safetensors"]);
    refused(json!({"a": "2.safetensors", "b": "2.safetensors"}), &two, &["weight_map entry `a`"]);
    refused(json!({"a": "1.safetensors", "b": "3.safetensors"}), &two, &["3.safetensors"]);
    refused(json!({"a": "../1.safetensors"}), &two, &["`../1.safetensors`", "same directory"]);
    refused(json!(7), &two, &["index", "weight_map"]);
}
