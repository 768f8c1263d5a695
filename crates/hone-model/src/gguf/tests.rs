//! Small GGUF files made by hand: what is read from them, and what is said of each way they can be bad.

use std::path::PathBuf;

use hone_engine::{DType, quant::BlockType};

use super::*;
use crate::weights::WeightFiles;

/// A GGUF file taken apart, to be damaged before it is written.
struct Parts {
    version: u32,
    tensor_count: Option<u64>,
    key_count: Option<u64>,
    pairs: Vec<(String, Vec<u8>)>,
    tensors: Vec<Row>,
    data: Vec<u8>,
}

struct Row {
    name: String,
    axes: Vec<u64>,
    kind: u32,
    offset: u64,
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes(), value.as_bytes()].concat()
}

fn typed(kind: ValueType, bytes: &[u8]) -> Vec<u8> {
    [&(kind as u32).to_le_bytes(), bytes].concat()
}

fn array(kind: ValueType, count: u64, bytes: &[u8]) -> Vec<u8> {
    typed(ValueType::Array, &[&(kind as u32).to_le_bytes()[..], &count.to_le_bytes(), bytes].concat())
}

fn row(name: &str, axes: &[u64], offset: u64) -> Row {
    Row { name: name.to_owned(), axes: axes.to_vec(), kind: BlockType::F32.ggml_number(), offset }
}

/// A llama of one layer's query map, `[4, 8]` with two heads, and an embedding table `[3, 8]`.
fn sound() -> Parts {
    let pair = |key: &str, value: Vec<u8>| (key.to_owned(), value);
    let number = |n: u32| typed(ValueType::U32, &n.to_le_bytes());
    let floats =
        |from: u32, count: u32| (from..from + count).flat_map(|v| (v as f32).to_le_bytes()).collect::<Vec<u8>>();
    Parts {
        version: 3,
        tensor_count: None,
        key_count: None,
        pairs: vec![
            pair("general.architecture", typed(ValueType::Text, &text("llama"))),
            pair("llama.attention.head_count", number(1)),
            pair("llama.block_count", number(1)),
            pair("llama.embedding_length", number(8)),
            pair("llama.feed_forward_length", number(16)),
            pair("llama.context_length", number(32)),
            pair("llama.rope.dimension_count", number(4)),
            pair("llama.attention.layer_norm_rms_epsilon", typed(ValueType::F32, &1e-5f32.to_le_bytes())),
            pair("some.words", array(ValueType::Text, 2, &[text("a"), text("ü")].concat())),
        ],
        tensors: vec![row("token_embd.weight", &[8, 3], 0), row("blk.0.attn_q.weight", &[8, 4], 96)],
        data: [floats(0, 24), floats(100, 32)].concat(),
    }
}

impl Parts {
    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.key_count.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            out.extend(text(key));
            out.extend(value);
        }
        for tensor in &self.tensors {
            out.extend(text(&tensor.name));
            out.extend((tensor.axes.len() as u32).to_le_bytes());
            tensor.axes.iter().for_each(|axis| out.extend(axis.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }
}

struct File {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn write(bytes: &[u8]) -> File {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("model.gguf");
    std::fs::write(&path, bytes).expect("written");
    File { _directory: directory, path }
}

/// The message a damaged file is refused with; it must name the file.
fn refused(bytes: &[u8]) -> String {
    let file = write(bytes);
    let message = Gguf::open(&file.path).err().expect("must be refused").to_string();
    assert!(message.contains("model.gguf"), "{message}");
    message
}

#[track_caller]
fn refused_with(change: impl FnOnce(&mut Parts), words: &[&str]) {
    let mut parts = sound();
    change(&mut parts);
    let message = refused(&parts.bytes());
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}

#[test]
fn reads_values_and_tensors() {
    let file = write(&sound().bytes());
    let gguf = Gguf::open(&file.path).expect("a sound file");
    assert_eq!(gguf.architecture().ok(), Some("llama"));
    assert_eq!(gguf.texts("some.words").ok().flatten(), Some(vec!["a", "ü"]));
    assert_eq!(gguf.float("llama.attention.layer_norm_rms_epsilon").ok().flatten(), Some(1e-5));
    assert!(gguf.flag("llama.block_count").expect_err("no flag").to_string().contains("U32(1)"));
    assert_eq!(gguf.tensors[1].shape, [4, 8]);

    let config = gguf.config().expect("all keys are there");
    assert_eq!(config["head_dim"], 4);
    assert_eq!(config["rms_norm_eps"], 1e-5);
    assert_eq!(config["vocab_size"], 3);
    assert_eq!(config["tie_word_embeddings"], true);
}

#[test]
fn rows_of_query_maps_are_put_in_hugging_face_order() {
    let file = write(&sound().bytes());
    let weights = WeightFiles::open(&file.path).expect("a sound file");
    let name = "model.layers.0.self_attn.q_proj.weight";
    let q = weights.load(name, &[4, 8], DType::F32).expect("there");
    // One head of four rows: the file has them as 0, 2, 1, 3.
    let first: Vec<f32> = q.as_slice::<f32>().chunks(8).map(|row| row[0]).collect();
    assert_eq!(first, [100.0, 116.0, 108.0, 124.0]);
    let table = weights.load("model.embed_tokens.weight", &[3, 8], DType::F32).expect("there");
    assert_eq!(table.as_slice::<f32>()[23], 23.0);
    assert!(weights.never_asked().is_empty());
}

#[test]
fn every_prefix_of_a_sound_file_is_refused() {
    let bytes = sound().bytes();
    for length in 0..bytes.len() {
        refused(&bytes[..length]);
    }
}

#[test]
fn damaged_headers_are_named() {
    refused_with(|p| p.version = 1, &["version", "found 1", "2 or 3"]);
    refused_with(|p| p.version = 3u32.swap_bytes(), &["version", "big-endian"]);
    refused_with(|p| p.tensor_count = Some(u64::MAX), &["tensor count", "at most"]);
    refused_with(|p| p.key_count = Some(1 << 40), &["key count", "at most"]);
    refused_with(|p| p.key_count = Some(60_000), &["key 1", "found"]);
    let twice = ("llama.block_count".to_owned(), typed(ValueType::U32, &[0; 4]));
    refused_with(|p| p.pairs.push(twice), &["`llama.block_count`", "twice"]);
    refused_with(
        |p| p.pairs[0].1 = typed(ValueType::Text, &u64::MAX.to_le_bytes()),
        &["general.architecture", "at most"],
    );
    refused_with(
        |p| p.pairs[0].1 = typed(ValueType::Text, &[&2u64.to_le_bytes()[..], &[0xc3, 0x28]].concat()),
        &["UTF-8"],
    );
    refused_with(|p| p.pairs[1].1 = 77u32.to_le_bytes().to_vec(), &["head_count", "value type 77"]);
    refused_with(|p| p.pairs[1].1 = typed(ValueType::Bool, &[3]), &["head_count", "0 or 1"]);
    let alignment = |n: u32| ("general.alignment".to_owned(), typed(ValueType::U32, &n.to_le_bytes()));
    refused_with(|p| p.pairs.push(alignment(24)), &["general.alignment", "24", "power of two"]);
    refused_with(|p| p.pairs.push(alignment(0)), &["general.alignment"]);
}

#[test]
fn header_bombs_are_refused_before_memory_is_taken() {
    refused_with(|p| p.pairs[8].1 = array(ValueType::U8, u64::MAX, &[]), &["some.words", "at most"]);
    refused_with(|p| p.pairs[8].1 = array(ValueType::Text, 1 << 22, &[]), &["some.words", "bytes that are left"]);
    refused_with(|p| p.pairs[8].1 = array(ValueType::Array, 1, &[0; 12]), &["some.words", "array of arrays"]);
}

#[test]
fn damaged_tensors_are_named() {
    refused_with(|p| p.tensors[1].offset = 1 << 40, &["`blk.0.attn_q.weight`", "inside the"]);
    refused_with(|p| p.tensors[1].offset = u64::MAX - 31, &["`blk.0.attn_q.weight`", "inside the"]);
    refused_with(|p| p.tensors[1].offset = 100, &["`blk.0.attn_q.weight`", "multiple of 32"]);
    refused_with(|p| p.tensors[1].offset = 64, &["`blk.0.attn_q.weight`", "overlap", "`token_embd.weight`"]);
    refused_with(|p| p.tensors[1].name = "token_embd.weight".to_owned(), &["`token_embd.weight`", "twice"]);
    refused_with(|p| p.tensors[1].kind = 16, &["`blk.0.attn_q.weight`", "ggml type 16", "Q4_K"]);
    refused_with(|p| p.tensors[1].kind = BlockType::Q8_0.ggml_number(), &["`blk.0.attn_q.weight`", "blocks of 32"]);
    refused_with(|p| p.tensors[1].axes = vec![8; 5], &["`blk.0.attn_q.weight`", "5 axes"]);
    refused_with(|p| p.tensors[1].axes = vec![], &["`blk.0.attn_q.weight`", "0 axes"]);
    refused_with(|p| p.tensors[1].axes = vec![8, 0], &["`blk.0.attn_q.weight`", "not empty"]);
    refused_with(|p| p.tensors[1].axes = vec![1 << 40, 1 << 40], &["`blk.0.attn_q.weight`", "addressed"]);
    refused_with(|p| drop(p.data.split_off(200)), &["`blk.0.attn_q.weight`", "inside the 200 bytes"]);
}

#[test]
fn wrong_contents_are_named() {
    let open = |change: &dyn Fn(&mut Parts)| {
        let mut parts = sound();
        change(&mut parts);
        let file = write(&parts.bytes());
        let gguf = Gguf::open(&file.path).expect("well formed");
        let config = gguf.config().map(|_| ());
        config.and(WeightFiles::open(&file.path).map(|_| ())).expect_err("must be refused").to_string()
    };
    let unknown = open(&|p| p.pairs[0].1 = typed(ValueType::Text, &text("mamba")));
    assert!(unknown.contains("`mamba`") && unknown.contains("llama, qwen2, qwen3, gemma3"), "{unknown}");
    let absent = open(&|p| drop(p.pairs.remove(2)));
    assert!(absent.contains("`llama.block_count`"), "{absent}");
    let uneven = open(&|p| p.pairs[1].1 = typed(ValueType::U32, &3u32.to_le_bytes()));
    assert!(uneven.contains("4 rows") && uneven.contains("3 heads"), "{uneven}");
    let zero = open(&|p| p.pairs[1].1 = typed(ValueType::U32, &0u32.to_le_bytes()));
    assert!(zero.contains("head_count") && zero.contains("positive"), "{zero}");
}

#[test]
fn llama3_scaling_is_found_again_from_its_divisors() {
    let scaling = serde_json::json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    let config = serde_json::json!({"model_type": "llama", "hidden_size": 128, "num_attention_heads": 2,
        "num_hidden_layers": 1, "intermediate_size": 4, "vocab_size": 3, "max_position_embeddings": 131_072,
        "rope_theta": 500_000.0, "rope_scaling": scaling});
    let metadata = config::to_metadata(std::path::Path::new("here"), &config).expect("all there");
    let divisors = metadata.rope_freqs.expect("scaled");
    assert_eq!((divisors[0], divisors[31]), (1.0, 32.0));

    let mut parts = sound();
    parts.pairs[6].1 = typed(ValueType::U32, &64u32.to_le_bytes());
    parts.pairs.push(("llama.rope.freq_base".to_owned(), typed(ValueType::F32, &500_000f32.to_le_bytes())));
    parts.tensors.push(row("rope_freqs.weight", &[32], 224));
    parts.data.extend(divisors.iter().flat_map(|d| d.to_le_bytes()));
    let file = write(&parts.bytes());
    let gguf = Gguf::open(&file.path).expect("a sound file");
    assert_eq!(gguf.config().expect("all keys are there")["rope_scaling"], scaling);
    // The settings are in the config now; the tensor is not one of the weights.
    assert!(!WeightFiles::open(&file.path).expect("sound").tensor_names().iter().any(|n| n.contains("rope")));
}
