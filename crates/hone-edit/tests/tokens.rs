//! Rows of the embedding table that are trained whole: what two edits of them do to each other, and what they are in a model whose head
//! is the table. That they are PEFT's is for `parity.rs`.

mod common;

use common::golden::{crate_path, load, tuned};
use hone_edit::{Base, Edit, EditError, EditStack, StackEntry, registry};
use hone_engine::RandomKey;
use hone_model::{Model, TokenBatch};
use serde_json::{Value, json};

fn edit(model: &Model, recipe: &Value) -> Result<Edit, EditError> {
    let method = registry::from_recipe(recipe.as_object().unwrap(), &mut Vec::new()).unwrap();
    Edit::new(method, &Base::of(model), 1)
}

fn lora(model: &Model, tokens: Value) -> Result<Edit, EditError> {
    edit(model, &json!({ "type": "lora", "r": 2, "target_modules": ["q_proj"], "trainable_token_indices": tokens }))
}

/// Its head is its table.
fn tiny_llama() -> Model {
    load(&crate_path("tests/golden/tiny-llama"))
}

#[test]
fn two_edits_of_one_row_cannot_be_stacked_and_of_different_rows_can() {
    let model = tiny_llama();
    let tokens = |ids: Value| edit(&model, &json!({ "type": "trainable_tokens", "token_indices": ids })).unwrap();
    let stacked = |first: Edit, second: StackEntry| {
        let mut stack = EditStack::of(first);
        stack.push(second).map_err(|error| error.to_string())
    };
    let rows = StackEntry::new(lora(&model, json!([1, 2, 300])).unwrap());
    let message = stacked(tokens(json!([1, 5, 300])), rows.clone()).unwrap_err();
    assert!(message.contains("both replace `model.embed_tokens.weight (row 1)`"), "{message}");
    assert_eq!(stacked(tokens(json!([5, 6])), rows.clone()), Ok(()));
    let whole = edit(&model, &json!({ "type": "full", "target_modules": ["embed_tokens"] })).unwrap();
    for (first, second) in [(whole.clone(), rows.clone()), (rows.edit.clone(), StackEntry::new(whole))] {
        let message = stacked(first, second).unwrap_err();
        assert!(message.contains("both replace `model.embed_tokens.weight`"), "{message}");
    }
    // Of different groups they never meet.
    let mut stack = EditStack::new();
    stack.entries.push(StackEntry { groups: Some(vec![0]), ..StackEntry::new(tokens(json!([1, 5, 300]))) });
    let other = stack.push(StackEntry { groups: Some(vec![1]), ..rows }).map_err(|error| error.to_string());
    assert!(!other.unwrap_err().contains("stacked"), "refused, but for what all rows share");
}

#[test]
fn a_head_that_is_the_table_has_its_rows() {
    let model = tiny_llama();
    // One name comes before `lm_head` in the alphabet, the other behind it.
    for table in ["embed_tokens", "model.embed_tokens"] {
        let both = lora(&model, json!({ table: [3, 7], "lm_head": [3, 7] })).unwrap();
        let keys: Vec<&str> = both.params.iter().map(|p| p.key.as_str()).filter(|k| k.contains("token")).collect();
        assert_eq!(keys, ["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"]);
        let message = lora(&model, json!({ table: [3, 7], "lm_head": [3] })).err().expect("a refusal").to_string();
        assert!(message.contains("`trainable_token_indices`") && message.contains("they are one table"), "{message}");
    }
}

#[test]
fn trained_tokens_are_rows_of_the_table_and_of_a_tied_head() {
    let model = tiny_llama();
    let plain = edit(&model, &json!({ "type": "trainable_tokens", "token_indices": [261, 17] })).unwrap();
    let mut moved = plain.clone();
    let values = moved.params[0].value.as_mut_slice::<f32>().iter_mut().enumerate();
    values.for_each(|(i, v)| *v += 0.3 * RandomKey::new(3).normal(i as u64));
    let batch = TokenBatch::from_sequences(&[vec![1u32, 403, 407, 261, 378, 300, 17], vec![1, 410, 17, 480]]);
    let [with, without] = [moved, plain].map(|edit| tuned(&model, &EditStack::of(edit), &batch));
    let width = with.rows_cols().1;
    // Before the first of these tokens, only their own logits move; after it all of them.
    let moves = |row: usize| -> Vec<usize> {
        let at = row * width..(row + 1) * width;
        let pairs = with.as_slice::<f32>()[at.clone()].iter().zip(&without.as_slice::<f32>()[at]);
        pairs.enumerate().filter(|(_, (a, b))| a != b).map(|(token, _)| token).collect()
    };
    assert_eq!(moves(0), [17, 261]);
    assert_eq!(moves(2), [17, 261]);
    assert!(moves(3).len() > 500);
}
