//! Pre-tokenizers of byte-level vocabularies by the names GGUF files have for them (`tokenizer.ggml.pre`): where text is
//! cut before pairs are merged. The regular expressions are those of the models' own `tokenizer.json`.

use serde_json::{Value, json};

/// A kind of byte-level tokenizer.
pub(crate) struct Kind {
    /// GGUF's names for it, the one to write first.
    pub names: &'static [&'static str],
    cut: Cut,
    /// Compose characters first (Unicode NFC).
    pub compose: bool,
    /// A piece that is a token as it stands is not merged up from its bytes.
    pub ignore_merges: bool,
    /// A beginning-of-text token is added where the file does not say.
    pub add_bos: bool,
}

enum Cut {
    /// GPT-2's own expression, built into `ByteLevel`.
    Gpt2,
    /// Every digit alone, then as GPT-2.
    Digits,
    /// An expression.
    Split(&'static str),
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Every kind that is known.
pub(crate) static KINDS: [Kind; 5] = [
    Kind {
        names: &["gpt-2", "default", "olmo", "mpt", "jais", "phi-2"],
        cut: Cut::Gpt2,
        compose: false,
        ignore_merges: false,
        add_bos: false,
    },
    Kind {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "minerva-7b"],
        cut: Cut::Digits,
        compose: false,
        ignore_merges: false,
        add_bos: false,
    },
    Kind {
        names: &["qwen2", "deepseek-r1-qwen"],
        cut: Cut::Split(QWEN2),
        compose: true,
        ignore_merges: false,
        add_bos: false,
    },
    Kind {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"],
        cut: Cut::Split(LLAMA3),
        compose: false,
        ignore_merges: true,
        add_bos: true,
    },
    Kind { names: &["tekken"], cut: Cut::Split(TEKKEN), compose: false, ignore_merges: true, add_bos: true },
];

impl Kind {
    /// The kind GGUF calls `name`.
    pub fn named(name: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.names.contains(&name))
    }

    /// The kind whose pre-tokenizer is `json`, as `tokenizer.json` has it.
    pub fn of_pre_tokenizer(json: &Value) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| without_offsets(kind.pre_tokenizer()) == without_offsets(json.clone()))
    }

    /// The pre-tokenizer as `tokenizer.json` has it.
    pub fn pre_tokenizer(&self) -> Value {
        let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let sequence = |first: Value, second: Value| json!({"type": "Sequence", "pretokenizers": [first, second]});
        match self.cut {
            Cut::Gpt2 => byte_level(true),
            Cut::Digits => sequence(json!({"type": "Digits", "individual_digits": true}), byte_level(true)),
            Cut::Split(expression) => {
                let pattern = json!({"Regex": expression});
                let split = json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false});
                sequence(split, byte_level(false))
            }
        }
    }
}

/// `trim_offsets` changes no id, and files differ in it.
fn without_offsets(mut json: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.remove("trim_offsets");
                map.values_mut().for_each(strip);
            }
            Value::Array(values) => values.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut json);
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_known_by_its_names_and_by_its_pre_tokenizer() {
        for kind in &KINDS {
            let json = kind.pre_tokenizer();
            let parsed: tokenizers::PreTokenizerWrapper =
                serde_json::from_value(json.clone()).expect("the library reads it");
            assert_eq!(serde_json::to_value(parsed).expect("and writes it"), json);
            assert!(std::ptr::eq(Kind::of_pre_tokenizer(&json).expect("known"), kind));
            assert!(kind.names.iter().all(|name| std::ptr::eq(Kind::named(name).expect("known"), kind)));
        }
        assert!(Kind::named("made-up").is_none());
    }
}
