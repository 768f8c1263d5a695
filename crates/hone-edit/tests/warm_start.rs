//! Going on from a trained adapter: what starts is what was saved, and what would not be is refused by name.

mod common;

use std::path::Path;

use common::{STORIES, base, fields};
use hone_edit::{Base, Edit, EditError, registry, save_edit, warm_start};
use hone_engine::RandomKey;
use serde_json::json;

/// A fresh edit of a recipe's method, and with `init_from` the values of the adapter there.
fn begun(json: &str, base: &Base) -> Result<Edit, EditError> {
    let fields = fields(json);
    let edit = Edit::new(registry::from_recipe(&fields, &mut Vec::new())?, base, 1)?;
    match warm_start::directory(&fields) {
        Some(dir) => warm_start::start(edit, &dir, base),
        None => Ok(edit),
    }
}

/// An adapter in `dir` every trained number of which has moved.
fn saved(json: &str, base: &Base, dir: &Path) -> Edit {
    let mut edit = begun(json, base).unwrap();
    for param in edit.params.iter_mut().filter(|param| param.traits.role == hone_edit::Role::Trained) {
        let key = RandomKey::new(5).named(&param.key);
        param.value.as_mut_slice::<f32>().iter_mut().enumerate().for_each(|(i, v)| *v += 0.1 * key.normal(i as u64));
    }
    save_edit(&edit, dir).unwrap();
    edit
}

fn same(a: &Edit, b: &Edit) {
    assert_eq!(a.params.len(), b.params.len());
    for (a, b) in a.params.iter().zip(&b.params) {
        assert!(a.key == b.key && a.value.to_vec_f32() == b.value.to_vec_f32(), "{}", a.key);
    }
}

#[test]
fn a_recipe_goes_on_from_what_was_saved() {
    let base = base(&STORIES, true);
    let folder = tempfile::tempdir().unwrap();
    for (name, recipe) in [
        ("lora", json!({ "type": "lora", "r": 4, "modules_to_save": ["norm"], "lora_bias": true })),
        ("dora", json!({ "type": "dora", "r": 4, "target_modules": ["q_proj"] })),
        ("ia3", json!({ "type": "ia3" })),
        ("vera", json!({ "type": "vera", "r": 4 })),
    ] {
        let dir = folder.path().join(name);
        let trained = saved(&recipe.to_string(), &base, &dir);
        let mut again = recipe;
        again["init_from"] = json!(dir);
        if name == "lora" {
            // What only training reads may be another.
            (again["lora_dropout"], again["loraplus_lr_ratio"]) = (json!(0.1), json!(4.0));
        }
        let started = begun(&again.to_string(), &base).unwrap();
        same(&started, &trained);
        assert_eq!(started.config.get("init_from"), None, "a recipe's own business");
    }
}

#[test]
fn what_was_taken_out_of_the_base_comes_along() {
    let model = common::golden::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k"));
    let base = Base::of(&model);
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = json!({ "type": "pissa", "r": 2, "target_modules": ["q_proj"] });
    let trained = saved(&recipe.to_string(), &base, folder.path());
    recipe["init_from"] = json!(folder.path());
    same(&begun(&recipe.to_string(), &base).unwrap(), &trained);
}

#[test]
fn what_would_not_start_as_it_was_is_refused_by_name() {
    let base = base(&STORIES, true);
    let folder = tempfile::tempdir().unwrap();
    let own = r#""type": "lora", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]"#;
    saved(&format!("{{{own}}}"), &base, folder.path());
    let dir = folder.path().display();
    let refused = |recipe: String| match begun(&recipe, &base) {
        Ok(_) => panic!("{recipe} was not refused"),
        Err(error) => error.to_string(),
    };
    let from = format!(r#""init_from": "{dir}""#);
    for (change, expected) in [
        ((r#""lora_alpha": 8"#, r#""lora_alpha": 16"#), "its `lora_alpha` is 8), expected 16"),
        ((r#""r": 4"#, r#""r": 2"#), "its `r` is 4), expected 2"),
        ((r#", "v_proj""#, ""), "it has `base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight`"),
        ((r#""v_proj""#, r#""v_proj", "o_proj""#), "without `base_model.model.model.layers.0.self_attn.o_proj.lora_A"),
        ((r#""r": 4"#, r#""r": 4, "init_lora_weights": "gaussian""#), "its `init_lora_weights` is true)"),
    ] {
        assert!(own.contains(change.0));
        let message = refused(format!("{{{}, {from}}}", own.replace(change.0, change.1)));
        assert!(message.contains("`lora`: field `init_from`") && message.contains(expected), "{message}");
    }
    let other = refused(format!(r#"{{"type": "ia3", {from}}}"#));
    assert!(other.contains("an adapter of `lora`), expected one of `ia3`"), "{other}");
    let missing = refused(format!(r#"{{{own}, "init_from": "{dir}/nowhere"}}"#));
    assert!(
        missing.contains("nowhere") && missing.contains("expected the directory of a trained adapter"),
        "{missing}"
    );
    let number = refused(format!(r#"{{{own}, "init_from": 3}}"#));
    assert!(number.contains("field `init_from`: found 3, expected the directory"), "{number}");
    let mut elsewhere = common::base(&STORIES, true);
    elsewhere.sha256 = "1".repeat(64);
    let message = begun(&format!("{{{own}, {from}}}"), &elsewhere).err().unwrap().to_string();
    assert!(message.contains("made for another base model"), "{message}");
}

#[test]
fn a_field_of_the_method_itself_is_left_to_it() {
    let own = fields(r#"{"type": "poly", "init_from": "there"}"#);
    assert_eq!(warm_start::directory(&own), None);
    let method = registry::from_recipe(&own, &mut Vec::new()).unwrap();
    assert_eq!(method.fields()["init_from"], "there");
    let word = fields(r#"{"type": "dora", "init_from": "there"}"#);
    assert_eq!(warm_start::directory(&word).as_deref(), Some(Path::new("there")));
    assert_eq!(warm_start::directory(&fields(r#"{"type": "lora"}"#)), None);
}
