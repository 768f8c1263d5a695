//! Token ids and decoded text are those of `transformers` on 2,000 varied lines (`tools/golden/tokens.py`), and offsets
//! lead back to the text.

mod common;

use std::path::Path;

use hone_model::files::ModelFiles;
use hone_model::tokenizer::Tokenizer;
use sha2::{Digest, Sha256};

fn lines() -> Vec<String> {
    let text = std::fs::read_to_string("tests/golden/token_lines.jsonl").expect("in the tree");
    text.split_terminator('\n').map(|line| serde_json::from_str(line).expect("a JSON string")).collect()
}

fn short(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(4).map(|b| format!("{b:02x}")).collect()
}

fn load(path: &Path) -> Tokenizer {
    Tokenizer::from_files(&ModelFiles::open(path).expect("opens")).expect("a tokenizer")
}

fn compare(model: &str, tokenizer: &Tokenizer) {
    let golden = std::fs::read_to_string(format!("tests/golden/token_ids_{model}.txt")).expect("in the tree");
    let lines = lines();
    assert_eq!((lines.len(), golden.lines().count()), (2000, 2000));
    for (number, (text, golden)) in lines.iter().zip(golden.lines()).enumerate() {
        let encoding = tokenizer.encode(text, true).expect("encodes");
        let ids: Vec<u8> = encoding.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let decode = |skip| short(tokenizer.decode(&encoding.ids, skip).expect("decodes").as_bytes());
        let ours = format!("{} {} {}", short(&ids), decode(false), decode(true));
        assert_eq!(ours, golden, "{model}, line {}: {text:?} became {:?}", number + 1, encoding.ids);
        offsets_lead_back(model, text, &encoding.offsets);
    }
}

/// Offsets never run backwards, are character boundaries, and leave out no byte of the text.
fn offsets_lead_back(model: &str, text: &str, offsets: &[(usize, usize)]) {
    let mut covered = 0;
    for &(start, end) in offsets {
        assert!(text.is_char_boundary(start) && text.is_char_boundary(end) && start <= end, "{model}: {text:?}");
        assert!(start <= covered, "{model}: bytes {covered}..{start} of {text:?} are in no token");
        covered = covered.max(end);
    }
    assert_eq!(covered, text.len(), "{model}: {text:?}");
}

#[test]
fn gguf_tokenizers_give_the_ids_of_transformers() {
    for (model, file) in common::GGUF_MODELS {
        let Some(path) = common::cached(file) else { continue };
        compare(model, &load(&path));
    }
}

#[test]
fn the_tiny_model_gives_the_ids_of_transformers() {
    let tokenizer = load(Path::new("../../assets/stories260k"));
    assert_eq!((tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id), (Some(1), Some(2), None));
    assert_eq!(tokenizer.vocab_size(), 512);
    compare("stories260k", &tokenizer);
}

#[test]
fn special_ids_are_those_the_gguf_declares() {
    let expected = [
        ("smollm2", (Some(1), Some(2), Some(2)), 49_152),
        ("gemma3", (Some(2), Some(1), Some(0)), 262_144),
        ("qwen25", (Some(151_643), Some(151_645), Some(151_643)), 151_665),
    ];
    for ((model, file), (name, ids, size)) in common::GGUF_MODELS.into_iter().zip(expected) {
        let Some(path) = common::cached(file) else { continue };
        let tokenizer = load(&path);
        assert_eq!(model, name);
        assert_eq!((tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id), ids, "{model}");
        assert_eq!(tokenizer.vocab_size(), size, "{model}");
        assert!(tokenizer.is_special(ids.1.expect("some")) && !tokenizer.is_special(1000));
    }
}

#[test]
fn a_tokenizer_written_as_json_reads_back_the_same() {
    for (model, file) in common::GGUF_MODELS {
        let Some(path) = common::cached(file) else { continue };
        let tokenizer = load(&path);
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("tokenizer.json"), tokenizer.to_json().expect("writes")).expect("written");
        let config = tokenizer.config.to_string();
        std::fs::write(directory.path().join("tokenizer_config.json"), config).expect("written");
        let again = Tokenizer::from_directory(directory.path()).expect("reads");
        assert_eq!((again.bos_id, again.eos_id, again.pad_id), (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id));
        for text in lines().iter().step_by(7) {
            assert_eq!(
                again.encode(text, true).expect("encodes"),
                tokenizer.encode(text, true).expect("encodes"),
                "{model}"
            );
        }
    }
}
