//! Adapter directories: written and read back to the bit, and everything that can be wrong with one refused by name.

mod common;

use std::path::{Path, PathBuf};

use common::{STORIES, base, fields};
use hone_edit::files::{self, TensorFile, read_edit};
use hone_edit::{Base, Edit, EditError, registry, save_edit};
use hone_engine::Tensor;
use safetensors::SafeTensors;
use serde_json::{Value, json};

/// A LoRA whose parameters are all different numbers.
fn some_edit(base: &Base) -> Edit {
    let json = r#"{"type": "lora", "r": 2, "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["model.norm"]}"#;
    let method = registry::from_recipe(&fields(json), &mut Vec::new()).unwrap();
    let mut next = 0;
    Edit::with_values(method, base, |plan| {
        let n = plan.shape.iter().product::<usize>();
        let values: Vec<f32> = (0..n).map(|i| ((next + i) as f32).sin() / 3.0).collect();
        next += n;
        Ok(Tensor::from_slice(plan.shape.as_slice(), &values))
    })
    .unwrap()
}

fn saved() -> (tempfile::TempDir, PathBuf, Base, Edit) {
    let directory = tempfile::tempdir().unwrap();
    let (base, path) = (base(&STORIES, false), directory.path().join("adapter"));
    let edit = some_edit(&base);
    save_edit(&edit, &path).unwrap();
    (directory, path, base, edit)
}

fn change_config(path: &Path, change: impl FnOnce(&mut Value)) {
    let file = path.join(files::CONFIG);
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(file, config.to_string()).unwrap();
}

fn message(path: &Path, base: &Base) -> String {
    read_edit(path, base).err().expect("should have been refused").to_string()
}

#[test]
fn an_edit_reads_back_to_the_bit_and_writes_the_same_files() {
    let (directory, path, base, edit) = saved();
    let read = read_edit(&path, &base).unwrap();
    assert!(read.warnings.is_empty(), "{:?}", read.warnings);
    for (a, b) in edit.params.iter().zip(&read.params) {
        assert_eq!((&a.key, a.value.as_bytes()), (&b.key, b.value.as_bytes()));
    }
    let again = directory.path().join("again");
    save_edit(&read, &again).unwrap();
    for file in [files::CONFIG, files::WEIGHTS, files::OURS] {
        assert_eq!(std::fs::read(path.join(file)).unwrap(), std::fs::read(again.join(file)).unwrap(), "{file}");
    }
}

#[test]
fn the_configuration_has_sorted_keys_and_pefts_envelope() {
    let (_directory, path, ..) = saved();
    let text = std::fs::read_to_string(path.join(files::CONFIG)).unwrap();
    let config: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    let keys: Vec<&String> = config.keys().collect();
    assert!(keys.is_sorted(), "{keys:?}");
    assert_eq!(config["inference_mode"], json!(true));
    assert_eq!(config["peft_type"], "LORA");
    assert_eq!(config["target_modules"], json!(["q_proj", "v_proj"]));
    assert!(text.starts_with("{\n  \"alora_invocation_tokens\": null,\n"), "{text}");
}

#[test]
fn saving_over_an_adapter_replaces_it_whole() {
    let (directory, path, _base, edit) = saved();
    std::fs::write(path.join("leftover"), "x").unwrap();
    save_edit(&edit, &path).unwrap();
    let names = |p: &Path| -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(p).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&path), [files::CONFIG, files::WEIGHTS, files::OURS]);
    assert_eq!(names(directory.path()), ["adapter"]);
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let (_directory, path, mut base, _) = saved();
    base.sha256 = "1".repeat(64);
    assert!(matches!(read_edit(&path, &base), Err(EditError::OtherBase(_))));
    std::fs::remove_file(path.join(files::OURS)).unwrap();
    let unchecked = read_edit(&path, &base).unwrap();
    assert!(unchecked.warnings[0].contains("not known whether it was made for this base"), "{:?}", unchecked.warnings);
}

#[test]
fn a_missing_an_extra_and_a_misshapen_tensor_are_named() {
    let (_directory, path, base, _) = saved();
    change_config(&path, |c| c["target_modules"] = json!(["q_proj", "v_proj", "k_proj"]));
    assert!(
        message(&path, &base)
            .contains("`base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight`: found no such tensor")
    );
    change_config(&path, |c| c["target_modules"] = json!(["q_proj"]));
    let extra = message(&path, &base);
    assert!(
        extra.contains("10 tensors that have no place in this model") && extra.contains("v_proj.lora_A"),
        "{extra}"
    );
    change_config(&path, |c| (c["target_modules"], c["r"]) = (json!(["q_proj", "v_proj"]), json!(3)));
    assert!(message(&path, &base).contains("found shape [2, 64], expected [3, 64]"));
    change_config(&path, |c| c["target_modules"] = json!(["q_prj"]));
    assert!(message(&path, &base).contains("did you mean `q_proj`"));
}

#[test]
fn damaged_files_are_refused() {
    let (_directory, path, base, _) = saved();
    let weights = path.join(files::WEIGHTS);
    let whole = std::fs::read(&weights).unwrap();
    for damaged in [&whole[..whole.len() - 5], &whole[..4], &[255; 64][..], &[]] {
        std::fs::write(&weights, damaged).unwrap();
        assert!(message(&path, &base).contains("adapter_model.safetensors: header"), "{}", message(&path, &base));
    }
    let mut not_finite = whole.clone();
    let end = not_finite.len();
    not_finite[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&weights, not_finite).unwrap();
    assert!(message(&path, &base).contains("NaN at element"));
    std::fs::remove_file(&weights).unwrap();
    assert!(message(&path, &base).contains("adapter_model.safetensors"));
    std::fs::write(path.join(files::CONFIG), "[1]").unwrap();
    assert!(message(&path, &base).contains("found a JSON list, expected a JSON object"));
    std::fs::write(path.join(files::CONFIG), "{").unwrap();
    assert!(matches!(read_edit(&path, &base), Err(EditError::Malformed { .. })));
}

#[test]
fn half_precision_adapters_are_widened() {
    let (_directory, path, base, edit) = saved();
    let tensors: Vec<(String, Tensor)> =
        edit.params.iter().map(|p| (p.key.clone(), p.value.to_dtype(hone_engine::DType::BF16))).collect();
    files::write_tensors(&path.join(files::WEIGHTS), tensors.iter().map(|(n, t)| (n.as_str(), t))).unwrap();
    let read = read_edit(&path, &base).unwrap();
    for ((_, stored), param) in tensors.iter().zip(&read.params) {
        assert_eq!(stored.to_vec_f32(), param.value.to_vec_f32());
    }
}

#[test]
fn adapters_made_by_peft_are_written_back_as_they_were() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/peft");
    for variant in ["plain", "rslora", "patterns", "regex", "saved_head"] {
        let (directory, from) = (tempfile::tempdir().unwrap(), golden.join(variant));
        let read = read_edit(&from, &base(&STORIES, false)).unwrap();
        let to = directory.path().join("adapter");
        save_edit(&read, &to).unwrap();
        let config = |p: &Path| -> serde_json::Map<String, Value> {
            serde_json::from_str(&std::fs::read_to_string(p.join(files::CONFIG)).unwrap()).unwrap()
        };
        let (theirs, ours) = (config(&from), config(&to));
        assert!(theirs.keys().eq(ours.keys()), "{variant}");
        for (key, value) in &theirs {
            // PEFT writes lists of names in the order of a set.
            let sorted = |v: &Value| match v.as_array() {
                Some(list) => {
                    let mut list: Vec<String> = list.iter().map(Value::to_string).collect();
                    list.sort();
                    json!(list)
                }
                None => v.clone(),
            };
            if key != "base_model_name_or_path" {
                assert_eq!(sorted(value), sorted(&ours[key]), "{variant}: {key}");
            }
        }
        let bytes = |p: &Path| std::fs::read(p.join(files::WEIGHTS)).unwrap();
        let (theirs, ours) = (bytes(&from), bytes(&to));
        let (theirs, ours) = (SafeTensors::deserialize(&theirs).unwrap(), SafeTensors::deserialize(&ours).unwrap());
        assert_eq!(theirs.len(), ours.len());
        for (name, view) in theirs.iter() {
            assert_eq!(view.data(), ours.tensor(name).unwrap().data(), "{variant}: {name}");
        }
    }
}

#[test]
fn tensors_can_be_taken_once_only() {
    let (_directory, path, ..) = saved();
    let mut file = TensorFile::read(&path.join(files::WEIGHTS)).unwrap();
    file.tensor("base_model.model.model.norm.weight", &[64]).unwrap();
    assert!(file.all_used().unwrap_err().to_string().contains("20 tensors"));
}

#[test]
fn places_outside_the_matrix_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let base = base(&STORIES, false);
    let json = r#"{"type": "shira", "r": 1, "target_modules": ["q_proj"]}"#;
    let mut edit = Edit::new(registry::from_recipe(&fields(json), &mut Vec::new()).unwrap(), &base, 0).unwrap();
    let places = edit.params.iter().position(|param| param.key.contains("shira_indices")).unwrap();
    for wrong in [64.0, -1.0] {
        edit.params[places].value.as_mut_slice::<f32>()[3] = wrong;
        let path = directory.path().join(wrong.to_string());
        save_edit(&edit, &path).unwrap();
        let message = message(&path, &base);
        let named = message.contains(&edit.params[places].key) && message.contains(&wrong.to_string());
        assert!(named && message.contains("0 to 63"), "{message}");
    }
}
