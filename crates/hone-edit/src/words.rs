//! Words of the field for what is here another method with some of its fields: `dora` is `lora` with `use_dora`. A recipe may
//! use them; files have the method's own word.

use serde_json::{Map, Value, json};

/// A word, the method that it is, and the fields that it stands for.
pub struct Word {
    /// In a recipe's `type`.
    pub name: &'static str,
    /// The method.
    pub method: &'static str,
    /// Its fields, as a recipe writes them.
    pub fields: fn() -> Value,
    /// Where it was published.
    pub paper: &'static str,
}

/// The words, in the order they are listed.
pub const WORDS: &[Word] = &[
    word("rslora", "lora", || json!({"use_rslora": true}), "arXiv 2312.03732"),
    word("lora_plus", "lora", || json!({"loraplus_lr_ratio": 16.0}), "arXiv 2402.12354"),
    word("dora", "lora", || json!({"use_dora": true}), "arXiv 2402.09353"),
    word("pissa", "lora", || json!({"init_lora_weights": "pissa"}), "arXiv 2404.02948"),
    word("olora", "lora", || json!({"init_lora_weights": "olora"}), "arXiv 2406.01775"),
    word("loftq", "lora", || json!({"init_lora_weights": "loftq"}), "arXiv 2310.08659"),
    word("mhr", "poly", || json!({"n_splits": 64}), "arXiv 2211.03831"),
    word("mhr_z", "poly", || json!({"n_splits": 64, "finetune": "z"}), "arXiv 2211.03831"),
    word("mhr_mu", "poly", || json!({"n_splits": 64, "finetune": "mu"}), "arXiv 2211.03831"),
    word("mpt", "multitask_prompt_tuning", || json!({}), "arXiv 2303.02861"),
    word("llama_adapter", "adaption_prompt", || json!({}), "arXiv 2303.16199"),
    word("p_tuning_v2", "prefix_tuning", || json!({"prefix_projection": false}), "arXiv 2110.07602"),
];

const fn word(name: &'static str, method: &'static str, fields: fn() -> Value, paper: &'static str) -> Word {
    Word { name, method, fields, paper }
}

/// A recipe's fields with a word replaced by what it stands for; fields that the recipe says itself stay.
pub fn spelled_out(fields: &Map<String, Value>) -> Map<String, Value> {
    let asked = fields.get("type").and_then(Value::as_str).unwrap_or_default();
    let Some(word) = WORDS.iter().find(|word| word.name == asked) else { return fields.clone() };
    let mut all = fields.clone();
    all.insert("type".into(), word.method.into());
    if let Value::Object(own) = (word.fields)() {
        for (field, value) in own {
            all.entry(field).or_insert(value);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{METHODS, from_recipe};

    const PAGE: &str = include_str!("../../../docs/methods.md");

    #[test]
    fn a_word_is_a_method_with_fields() {
        for word in WORDS {
            assert!(METHODS.iter().all(|method| method.name != word.name), "`{}` is a method", word.name);
            assert!(
                PAGE.contains(&format!("\n| `{}` |", word.name)),
                "docs/methods.md does not say what `{}` is",
                word.name
            );
            let fields = Map::from_iter([("type".to_owned(), Value::from(word.name))]);
            let method = match from_recipe(&fields, &mut Vec::new()) {
                Ok(method) => method,
                // What a new task starts from is the recipe's to say.
                Err(crate::EditError::Needs { .. }) => continue,
                Err(error) => panic!("{}: {error}", word.name),
            };
            assert_eq!(method.info().name, word.method);
            let Value::Object(own) = (word.fields)() else { panic!("{}", word.name) };
            for (field, value) in own {
                assert_eq!(method.fields()[&field], value, "{}: {field}", word.name);
            }
        }
        let fields = json!({"type": "mhr", "n_splits": 4});
        let method = from_recipe(fields.as_object().unwrap(), &mut Vec::new()).unwrap();
        assert_eq!(method.fields()["n_splits"], 4, "the recipe's own field stays");
    }
}
