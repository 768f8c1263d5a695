//! Every method of Hugging Face PEFT: an adapter that PEFT saved is read, gives PEFT's logits, is written back to the byte,
//! has as many parameters as PEFT trains, and gives the same logits merged.
//!
//! Golden files by `tools/golden/peft_methods.py`; the way back by `tools/golden/check_peft_loads.py`. A case is a directory of `tests/golden/peft`, listed in its `cases.json`.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use common::golden::{Expected, TOLERANCE, adapter, compare, crate_path, load, tuned};
use hone_edit::files::{WEIGHTS, read_edit, write_tensors};
use hone_edit::merge::{Merger, logits};
use hone_edit::method::Role;
use hone_edit::{Base, Edit, EditStack, save_edit};
use hone_engine::{DType, RandomKey, Tensor};
use hone_model::{Hooks, Model, NoHooks, TokenBatch};
use safetensors::SafeTensors;
use serde::Deserialize;

/// Cases whose method (or option) is not there yet. One that works must be taken out, so that it is tested from then on.
const NOT_YET: &[&str] = &[];

/// Adapters of the other base models, with tests of their own in `parity.rs`.
const ELSEWHERE: [&str; 9] =
    ["plain", "rslora", "patterns", "regex", "saved_head", "saved_table", "bias_lora_only", "bias_all", "written"];

/// What `cases.json` says of a case.
#[derive(Deserialize)]
struct Case {
    /// A directory of `tests/golden`.
    base: String,
    /// Hugging Face's word.
    peft_type: String,
    /// Trained numbers that the adapter's file holds.
    stored: usize,
    /// Whether PEFT can merge it.
    merges: bool,
}

fn cases() -> BTreeMap<String, Case> {
    serde_json::from_str(&std::fs::read_to_string(adapter("cases.json")).unwrap()).unwrap()
}

/// The logits without edits, `[tokens, vocabulary]`.
fn plain(decoder: &Arc<hone_model::Decoder>, batch: &TokenBatch) -> Tensor {
    let none: Arc<dyn Hooks> = Arc::new(NoHooks);
    logits(&(decoder, none), DType::F32, batch)
}

/// `Err` says where the adapter first differs from what PEFT made of it.
fn check(name: &str, case: &Case) -> Result<(), String> {
    let model = load(&crate_path("tests/golden").join(&case.base));
    let base = Base::of(&model);
    let expected = Expected::read(name);
    let edit = read_edit(&adapter(name), &base).map_err(|e| e.to_string())?;
    same_file_again(name, &edit, &base)?;
    if edit.parameter_count() != case.stored {
        return Err(format!("{} parameters, expected {}", edit.parameter_count(), case.stored));
    }
    let stack = EditStack::of(edit);
    let apart = compare(&tuned(&model, &stack, &expected.batch()), &expected.logits);
    eprintln!("{name}: {apart:.1e} of the largest logit apart");
    within("logits", apart)?;
    // And the adapter does something: the base model is far away.
    let base_apart = compare(&plain(&model.decoder, &expected.batch()), &expected.logits);
    if base_apart <= 100.0 * TOLERANCE {
        return Err(format!("the base model gives nearly the same logits: {base_apart:.1e}"));
    }
    if case.merges { same_when_merged(&expected, &model, &stack, &base) } else { Ok(()) }
}

fn within(what: &str, apart: f64) -> Result<(), String> {
    if apart <= TOLERANCE { Ok(()) } else { Err(format!("{what}: {apart:.1e} of the largest logit apart")) }
}

/// A bias that PEFT writes twice more beside the one it reads, where its module is trained whole; one of the two is not even trained.
fn is_never_read(key: &str) -> bool {
    [".modules_to_save.bias", ".original_module.bias"].iter().any(|end| key.ends_with(end))
}

/// Written and read again: the same parameters; and in the file the tensors that PEFT wrote and reads, to the byte.
fn same_file_again(name: &str, edit: &Edit, base: &Base) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("adapter");
    save_edit(edit, &path).map_err(|e| e.to_string())?;
    let again = read_edit(&path, base).map_err(|e| format!("written here: {e}"))?;
    let values = |e: &Edit| -> Vec<(String, Vec<u8>)> {
        e.params.iter().map(|p| (p.key.clone(), p.value.as_bytes().to_vec())).collect()
    };
    if values(edit) != values(&again) {
        return Err("other parameters after writing and reading".into());
    }
    let bytes = |p: &Path| std::fs::read(p.join(WEIGHTS)).unwrap();
    let (theirs, ours) = (bytes(&adapter(name)), bytes(&path));
    let (theirs, ours) = (SafeTensors::deserialize(&theirs).unwrap(), SafeTensors::deserialize(&ours).unwrap());
    let keys = |file: &SafeTensors| -> BTreeSet<String> {
        file.names().into_iter().filter(|key| !is_never_read(key)).map(str::to_string).collect()
    };
    if keys(&theirs) != keys(&ours) {
        let difference: Vec<String> = keys(&theirs).symmetric_difference(&keys(&ours)).cloned().collect();
        return Err(format!("tensors in one of the files only: {}", difference.join(", ")));
    }
    for (key, view) in theirs.iter().filter(|(key, _)| !is_never_read(key)) {
        let own = ours.tensor(key).unwrap();
        if (view.dtype(), view.shape(), view.data()) != (own.dtype(), own.shape(), own.data()) {
            return Err(format!("`{key}` is written otherwise than PEFT wrote it"));
        }
    }
    Ok(())
}

fn same_when_merged(expected: &Expected, model: &Model, stack: &EditStack, base: &Base) -> Result<(), String> {
    let merger = Merger::new(stack, base).map_err(|e| e.to_string())?;
    let merged = Arc::new(merger.decoder(&model.decoder, DType::F32).map_err(|e| e.to_string())?);
    within("merged", compare(&plain(&merged, &expected.batch()), &expected.logits))?;
    let last = TokenBatch::from_sequences(&expected.sequences[expected.sequences.len() - 1..]);
    within("merged, against PEFT's merge", compare(&plain(&merged, &last), expected.merged.as_ref().unwrap()))
}

#[test]
fn every_case_gives_what_peft_gave() {
    let (mut failed, mut works) = (Vec::new(), Vec::new());
    for (name, case) in &cases() {
        match (check(name, case), NOT_YET.contains(&name.as_str())) {
            (Ok(()), true) => works.push(name.clone()),
            (Err(why), false) => failed.push(format!("{name} ({}): {why}", case.peft_type)),
            (Err(why), true) => eprintln!("not yet: {name} ({}): {why}", case.peft_type),
            (Ok(()), false) => {}
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(works.is_empty(), "these work; take them out of NOT_YET: {}", works.join(", "));
}

/// The way back: adapters made here, with values of our own, are read by PEFT and give our logits there. Needs a Python with
/// torch, transformers and peft.
#[test]
fn adapters_written_here_give_the_same_logits_in_peft() {
    let Ok(python) = std::env::var("HONE_PEERS_PYTHON") else {
        eprintln!("skipped: HONE_PEERS_PYTHON names no Python with peft");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let cases = cases();
    for (name, case) in cases.iter().filter(|(name, _)| !NOT_YET.contains(&name.as_str())) {
        write_disturbed(name, case, &folder.path().join(name));
    }
    let output = std::process::Command::new(&python)
        .arg(crate_path("../../tools/golden/check_peft_loads.py"))
        .arg("--all")
        .arg(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    eprintln!("{said}");
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// The case's adapter with every trained parameter changed a little, and beside it the logits it gives here.
fn write_disturbed(name: &str, case: &Case, to: &Path) {
    let model = load(&crate_path("tests/golden").join(&case.base));
    let expected = Expected::read(name);
    let mut edit = read_edit(&adapter(name), &Base::of(&model)).unwrap();
    let trained = |p: &&mut hone_edit::Param| p.traits.role == Role::Trained;
    for param in edit.params.iter_mut().filter(trained) {
        let key = RandomKey::new(7).named(&param.key);
        // A change that starts at 0 (of what the file holds) has to be moved otherwise.
        let zero = param.value.as_slice::<f32>().iter().all(|v| *v == 0.0);
        let moved = |v: f32, noise: f32| if zero { 0.1 * noise } else { v * (1.0 + 0.1 * noise) };
        let values = param.value.as_mut_slice::<f32>().iter_mut();
        values.enumerate().for_each(|(i, v)| *v = moved(*v, key.normal(i as u64)));
    }
    save_edit(&edit, to).unwrap();
    let ours = tuned(&model, &EditStack::of(edit), &expected.batch());
    let rows = expected.logits.dims();
    let ours = Tensor::from_slice(rows, &ours.as_slice::<f32>()[..rows.iter().product()]);
    let whole = |numbers: &mut dyn Iterator<Item = usize>| -> Tensor {
        let numbers: Vec<f32> = numbers.map(|n| n as f32).collect();
        Tensor::from_slice([numbers.len()], &numbers)
    };
    let ids = whole(&mut expected.sequences.iter().flatten().map(|id| *id as usize));
    let lengths = whole(&mut expected.sequences.iter().map(Vec::len));
    let tasks = expected.tasks.as_ref().map(|tasks| whole(&mut tasks.iter().map(|t| *t as usize)));
    let tensors = [("ids", &ids), ("lengths", &lengths), ("logits", &ours)].into_iter();
    let tensors = tensors.chain(tasks.as_ref().map(|tasks| ("task_ids", tasks)));
    write_tensors(&to.join("expected.safetensors"), tensors).unwrap();
}

#[test]
fn every_directory_is_a_case_and_every_name_a_directory() {
    let cases = cases();
    let known: BTreeSet<&str> = cases.keys().map(String::as_str).chain(ELSEWHERE).collect();
    let entries = std::fs::read_dir(crate_path("tests/golden/peft")).unwrap().map(Result::unwrap);
    let names: Vec<String> =
        entries.filter(|e| e.path().is_dir()).map(|e| e.file_name().into_string().unwrap()).collect();
    let found: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(found, known, "directories of tests/golden/peft beside cases.json and ELSEWHERE");
    for name in NOT_YET {
        assert!(cases.contains_key(*name), "`{name}` in NOT_YET is no case of cases.json");
    }
}
