//! `hone merge`, `hone edit` and `hone export` as a person runs them: PEFT's golden adapters on the tiny model that
//! ships.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use hone_edit::{Base, Edit, registry, save_edit};
use hone_engine::DType;
use hone_model::{LoadOptions, Model};
use serde_json::Value;

fn hone() -> Command {
    let mut command = Command::cargo_bin("hone").expect("the binary is built");
    command.arg("--quiet");
    command
}

/// An adapter that PEFT made.
fn adapter(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../hone-edit/tests/golden/peft").join(name)
}

fn output(command: &mut Command) -> String {
    let output = command.assert().success().get_output().stdout.clone();
    String::from_utf8(output).expect("UTF-8")
}

fn json(command: &mut Command) -> Value {
    let text = output(command.arg("--json"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("not one JSON document ({e}): {text}"))
}

fn refused(command: &mut Command) -> String {
    let output = command.assert().code(2).get_output().clone();
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `hone merge stories260k --edit … --out DIR/NAME`.
fn merge(dir: &Path, out: &str, edits: &[&str]) -> Command {
    let mut command = hone();
    command.args(["merge", "stories260k", "--out"]).arg(dir.join(out));
    for edit in edits {
        let (name, weight) = edit.split_once('=').map_or((*edit, String::new()), |(n, w)| (n, format!("={w}")));
        command.arg("--edit").arg(format!("{}{weight}", adapter(name).display()));
    }
    command
}

/// What differs from run to run and from machine to machine, struck out.
fn with_filters(dir: &Path, check: impl FnOnce()) {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(&regex_escape(&dir.display().to_string()), "[DIR]");
    settings.add_filter(&regex_escape(&adapter("").display().to_string()), "[ADAPTERS]/");
    settings.add_filter(r"\d\.\d\de-?\d+", "[NUMBER]");
    settings.bind(check);
}

fn regex_escape(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_alphanumeric() { vec![c] } else { vec!['\\', c] }).collect()
}

#[test]
fn two_adapters_become_one_with_the_effect_of_both() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = output(&mut merge(dir.path(), "both", &["plain=0.5", "rslora"]));
    with_filters(dir.path(), || insta::assert_snapshot!("merge_cat", text));
    let both = dir.path().join("both");
    // Anything reads it: it is an adapter.
    json(hone().args(["score", "stories260k", "--text", "Once upon a time", "--edit"]).arg(&both));
    let merged = json(&mut merge(dir.path(), "again", &["plain=0.5", "rslora"]));
    assert_eq!((merged["rank"].as_u64(), merged["kind"].as_str()), (Some(8), Some("adapter")));
    let share = |of: &Value| of["max"].as_f64().expect("a number") / of["largest_logit"].as_f64().expect("a number");
    assert!(share(&merged["from_weighted_sum"]) < 1e-5, "{merged}");
    // `--weights` says the same, and a smaller rank says how much is lost.
    let mut command = merge(dir.path(), "cut", &["plain", "rslora"]);
    let cut = json(command.args(["--weights", "0.5,1", "--how", "svd", "--rank", "2"]));
    assert!(share(&cut["from_weighted_sum"]) > 1e-3 && share(&cut["written"]) == 0.0, "{cut}");
}

#[test]
fn edits_of_any_kind_become_a_model() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = merge(dir.path(), "model", &["plain", "saved_head=-0.5"]);
    let merged = json(command.args(["--how", "task_arithmetic", "--store", "f32"]));
    assert_eq!(merged["kind"], "model", "{merged}");
    json(hone().arg("score").arg(dir.path().join("model")).args(["--text", "Once upon a time"]));
}

#[test]
fn the_ways_are_listed() {
    let text = output(hone().args(["merge", "--list-ways"]));
    insta::assert_snapshot!("merge_ways", text);
    let ways = json(hone().args(["merge", "--list-ways"]));
    assert!(ways.as_array().is_some_and(|ways| ways.iter().any(|way| way["name"] == "dare_ties_svd")), "{ways}");
}

/// The table itself grows with every method; what is said of one must be so.
#[test]
fn methods_are_counted_on_a_model_at_the_settings_asked_for() {
    let rows = |settings: &[&str]| {
        let mut command = hone();
        command.args(["edit", "list", "--model", "stories260k"]);
        settings.iter().for_each(|setting| {
            command.args(["--set", setting]);
        });
        json(&mut command)
    };
    let of = |rows: &Value, name: &str| {
        let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == name));
        row.cloned().unwrap_or_else(|| panic!("no `{name}` in {rows}"))
    };
    let found = rows(&["r=4", "target_modules=[q_proj]"]);
    // 5 layers, [64, 64] maps: 5 · 4 · (64 + 64).
    let lora = of(&found, "lora");
    assert_eq!((lora["parameters"].as_u64(), lora["training_bytes"].as_u64()), (Some(2560), Some(16 * 2560)), "{lora}");
    assert_eq!((&lora["mergeable"], &lora["ignored"]), (&Value::from(true), &serde_json::json!([])));
    let full = of(&rows(&[]), "full");
    assert_eq!((full["parameters"].as_u64(), full["share"].as_f64()), (Some(260_032), Some(1.0)), "{full}");
    let full = of(&found, "full");
    assert_eq!((full["parameters"].as_u64(), &full["ignored"]), (Some(5 * 64 * 64), &serde_json::json!(["r"])));
    let unmergeable = of(&found, "poly");
    assert!(unmergeable["mergeable"] == false && unmergeable["not_mergeable"].is_string(), "{unmergeable}");
    // A method that cannot be had at these settings says why, and the others are listed all the same.
    let row = of(&rows(&["target_modules=[no_proj]"]), "lora");
    assert!(row["error"].as_str().is_some_and(|e| e.contains("`no_proj` matches no linear map")), "{row}");
    // A method that cannot do without a field says which, with a model and without.
    let all = rows(&[]);
    let without = json(hone().args(["edit", "list"]));
    for (name, field) in [("grafting", "tuned"), ("subnetwork", "changed_by"), ("trainable_tokens", "token_indices")] {
        for row in [of(&all, name), of(&without, name)] {
            assert_eq!((&row["needs"], &row["parameters"]), (&Value::from(field), &Value::Null), "{row}");
        }
    }
    for (name, field) in
        [("adapter_fusion", "adapters"), ("xlora", "adapters"), ("attempt", "sources"), ("cpt", "cpt_token_ids")]
    {
        assert_eq!(of(&all, name)["needs"], field);
    }
    assert_eq!((&of(&all, "bitfit")["needs"], of(&all, "bitfit")["error"].is_string()), (&Value::Null, true));
    let text = output(hone().args(["edit", "list", "--model", "stories260k"]));
    assert!(text.contains("needs `tuned`: the directory of a finished run"), "{text}");
    assert_eq!(text.lines().filter(|line| line.trim_start().starts_with("needs `")).count(), 7, "{text}");
    let message = refused(hone().args(["edit", "list", "--set", "no_such_field=1"]));
    assert!(message.contains("no method has such a field"), "{message}");
    let message = refused(hone().args(["edit", "list", "--set", "r"]));
    assert!(message.contains("there is no `=`"), "{message}");
}

#[test]
fn an_adapter_is_measured() {
    let text = output(hone().args(["edit", "inspect"]).arg(adapter("patterns")));
    with_filters(Path::new("/no-such"), || insta::assert_snapshot!("edit_inspect", text));
    let found = json(hone().args(["edit", "inspect"]).arg(adapter("patterns")));
    let changes = found["changes"].as_array().expect("changes");
    let of = |weight: &str| changes.iter().find(|c| c["weight"] == weight).unwrap_or_else(|| panic!("no {weight}"));
    assert_eq!(of("model.layers.4.self_attn.q_proj.weight")["rank"], 3, "its `rank_pattern` says 3");
    assert_eq!(of("model.layers.0.self_attn.k_proj.weight")["rank"], 2);
    assert!(changes.iter().all(|c| c["effective_rank"].as_f64() <= c["rank"].as_f64()), "{changes:?}");
    // A weight trained whole: its change is measured too, and a norm has no rank.
    let found = json(hone().args(["edit", "inspect"]).arg(adapter("saved_head")));
    let norm = found["changes"].as_array().and_then(|c| c.iter().find(|c| c["weight"] == "model.norm.weight"));
    assert!(norm.is_some_and(|c| c["rank"].is_null() && c["norm"].as_f64() > Some(0.0)), "{found}");
}

/// The tiny model, from the directory that ships or another.
fn model(place: Option<&Path>) -> Model {
    let ships = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    let options = LoadOptions { dtype: DType::F32, keep_quantised: false };
    Model::load(place.unwrap_or(&ships).to_str().expect("UTF-8"), options).expect("the tiny model")
}

/// An edit of stories260k as a recipe has it, changed by `change` and saved in `dir/name`.
fn made(dir: &Path, name: &str, recipe: Value, change: impl FnOnce(&mut Edit)) -> PathBuf {
    let mut model = model(None);
    model.source.reference = "stories260k".into();
    let method = registry::from_recipe(recipe.as_object().expect("fields"), &mut Vec::new()).expect("a method");
    let mut edit = Edit::new(method, &Base::of(&model), 0).expect("an edit");
    change(&mut edit);
    save_edit(&edit, &dir.join(name)).expect("written");
    dir.join(name)
}

/// An edit with values at places drawn with a seed; `base` is the hash of another base.
fn sparse(dir: &Path, name: &str, seed: u64, base_sha256: Option<&str>) -> PathBuf {
    let recipe = serde_json::json!({
        "type": "shira", "r": 2, "random_seed": seed, "init_weights": false, "target_modules": ["q_proj"],
    });
    made(dir, name, recipe, |edit| {
        if let Some(other) = base_sha256 {
            edit.base_sha256 = other.into();
        }
    })
}

#[test]
fn two_sparse_edits_are_held_against_chance() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (sparse(dir.path(), "a", 1, None), sparse(dir.path(), "b", 2, None));
    let overlap = |a: &Path, b: &Path| {
        let mut command = hone();
        command.args(["edit", "overlap"]).args([a, b]);
        command
    };
    let text = output(&mut overlap(&a, &b));
    with_filters(dir.path(), || insta::assert_snapshot!("edit_overlap", text));
    let found = json(&mut overlap(&a, &b));
    // 5 maps of [64, 64] with r (in + out) = 256 places each.
    let counts = ["elements", "changed_a", "changed_b"].map(|key| found[key].as_u64());
    assert_eq!(counts, [Some(20_480), Some(1280), Some(1280)]);
    assert_eq!((found["chance"].as_f64(), found["a"]["method"].as_str()), (Some(1.0 / 16.0), Some("shira")));
    let share = found["both"].as_f64().map(|both| both / 1280.0);
    assert_eq!(found["share"].as_f64(), share, "{found}");
    assert_eq!(found["layers"].as_array().map(Vec::len), Some(5));
    assert_eq!(found["kinds"][0]["part"], "q_proj");
    let same = json(&mut overlap(&a, &a));
    assert_eq!((same["share"].as_f64(), same["ratio"].as_f64()), (Some(1.0), Some(16.0)));

    let message = refused(&mut overlap(&a, &adapter("plain")));
    assert!(message.contains("it is `lora` and changes") && message.contains("sparse edits are expected"), "{message}");
    let other = sparse(dir.path(), "other", 1, Some(&"0".repeat(64)));
    let message = refused(&mut overlap(&a, &other));
    assert!(message.contains("was made for another base model"), "{message}");
    assert!(message.contains("next: an overlap is of two edits of one base model"), "{message}");
    let message = refused(&mut overlap(&a, Path::new("no-such-adapter")));
    assert!(message.contains("no-such-adapter/adapter_config.json"), "{message}");
}

#[test]
fn exports_say_how_far_they_are_from_what_they_were_made_of() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut before = 0.0;
    for format in ["gguf-f16", "gguf-q8_0", "gguf-q4_0", "gguf-q4_k", "gguf-lora"] {
        let mut command = hone();
        command.args(["export", "stories260k", "--format", format, "--edit"]).arg(adapter("plain"));
        let found = json(command.arg("--out").arg(dir.path().join(format)));
        let written = &found["written"];
        let mean = written["mean"].as_f64().expect("a number") / written["largest_logit"].as_f64().expect("a number");
        assert!(mean <= written["limit"]["mean"].as_f64().expect("a number"), "{format}: {found}");
        let taken_out = &found["taken_out"];
        match format {
            "gguf-lora" => assert!(taken_out.is_null(), "{found}"),
            _ => assert!(taken_out["max"].as_f64().is_some_and(|max| max < 1e-3), "the model before: {found}"),
        }
        match format {
            "gguf-lora" => assert!(mean < 1e-6, "{found}"),
            "gguf-q4_k" => {}
            _ => {
                assert!(mean > before, "{format} rounds more than what stands before it: {mean} {before}");
                before = mean;
            }
        }
    }
}

/// `hone export MODEL --out OUT --store STORE …`, each edit as it is named.
fn export(model: &Path, out: &Path, store: &str, edits: &[&Path]) -> Command {
    let mut command = hone();
    command.arg("export").arg(model).args(["--store", store, "--out"]).arg(out);
    edits.iter().for_each(|edit| {
        command.arg("--edit").arg(edit);
    });
    command
}

/// The largest difference of any weight of two models, as a share of the largest weight.
fn weights_apart(a: &Model, b: &Model) -> f32 {
    let (a, b) = (Base::of(a), Base::of(b));
    let apart = a.weights.iter().map(|weight| {
        let (own, other) = (weight.to_f32(), b.weight(&weight.name).expect("the same names").to_f32());
        let largest = own.as_slice::<f32>().iter().fold(0f32, |most, v| most.max(v.abs()));
        let pairs = own.as_slice::<f32>().iter().zip(other.as_slice::<f32>());
        pairs.fold(0f32, |most, (a, b)| most.max((a - b).abs())) / largest
    });
    apart.fold(0.0, f32::max)
}

#[test]
fn an_edit_that_was_merged_in_comes_out_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    let (ships, plain, rslora) = (PathBuf::from("stories260k"), adapter("plain"), adapter("rslora"));
    json(&mut export(&ships, &at("merged"), "f32", &[&plain]));
    assert!(weights_apart(&model(None), &model(Some(&at("merged")))) > 1e-2);
    let share = |of: &Value| of["max"].as_f64().expect("a number") / of["largest_logit"].as_f64().expect("a number");

    // From the adapter alone, and beside the base.
    let found = json(export(&at("merged"), &at("before"), "f32", &[&plain]).arg("--take-out"));
    assert!(found["tensors"].as_u64() > Some(0) && found["from_base"].is_null(), "{found}");
    assert!(share(&found["rounding"]) < 1e-5 && share(&found["written"]) < 1e-5, "{found}");
    let apart = weights_apart(&model(None), &model(Some(&at("before"))));
    assert!(apart < 1e-6, "{apart}");
    let mut beside = export(&at("merged"), &at("beside"), "f32", &[&plain]);
    let found = json(beside.args(["--take-out", "--base", "stories260k"]));
    assert!(share(&found["from_base"]) < 1e-5 && found["rounding"].is_null(), "{found}");
    // An edit that was never in there makes it worse, which only the base can tell.
    let mut never = export(&ships, &at("never"), "f32", &[&plain]);
    let message = refused(never.args(["--take-out", "--base", "stories260k"]));
    assert!(message.contains("farther from `stories260k` than the merged model"), "{message}");
    assert!(message.contains("were not merged into this model") && !at("never").exists(), "{message}");
    // Less of it than was merged leaves something, which is said; all of it leaves nothing to say.
    let said = |edit: &Path, out: &str| {
        let mut command = Command::cargo_bin("hone").expect("the binary is built");
        command.args(["export", "--store", "f32", "--take-out", "--base", "stories260k"]).arg(at("merged"));
        let assert = command.arg("--edit").arg(edit).arg("--out").arg(at(out)).assert().success();
        String::from_utf8_lossy(&assert.get_output().stderr).into_owned()
    };
    let part = said(&PathBuf::from(format!("{}=0.5", plain.display())), "part");
    let parts = ["what is left is not `stories260k`: found |Δlogit|", "expected at most", "merged with other weights"];
    assert!(parts.iter().all(|said| part.contains(said)), "{part}");
    // What `f32` explains is less than a twentieth of the edit; what `bf16` would is not.
    let most = said(&PathBuf::from(format!("{}=0.95", plain.display())), "most");
    assert!(most.contains("what is left is not `stories260k`") && most.contains("rounding to f32 explains"), "{most}");
    let whole = said(&plain, "whole");
    assert!(!whole.contains("what is left"), "{whole}");
    // No weight to multiply with.
    let message = refused(export(&at("merged"), &at("none"), "f32", &[Path::new("there=nan")]).arg("--take-out"));
    assert!(message.contains("`--edit there=nan`: found the weight `nan`, expected a finite number"), "{message}");
    // A directory that is called like an edit with a weight is a directory.
    let odd = at("lr=3");
    std::fs::create_dir(&odd).expect("made");
    for entry in std::fs::read_dir(&plain).expect("an adapter") {
        let file = entry.expect("a file").path();
        std::fs::copy(&file, odd.join(file.file_name().expect("a name"))).expect("copied");
    }
    let found = json(export(&at("merged"), &at("odd"), "f32", &[&odd]).args(["--take-out", "--base", "stories260k"]));
    assert!(share(&found["from_base"]) < 1e-5, "{found}");
    let text = output(export(&at("merged"), &at("said"), "f32", &[&plain]).arg("--take-out"));
    with_filters(dir.path(), || insta::assert_snapshot!("export_take_out", text));

    // One of two, at the weight it was merged with.
    let half = PathBuf::from(format!("{}=0.5", plain.display()));
    let mut both = merge(dir.path(), "both", &["plain=0.5", "rslora"]);
    json(both.args(["--how", "stack", "--store", "f32"]));
    json(export(&at("both"), &at("rest"), "f32", &[&half]).arg("--take-out"));
    json(&mut export(&ships, &at("rslora"), "f32", &[&rslora]));
    let apart = weights_apart(&model(Some(&at("rslora"))), &model(Some(&at("rest"))));
    assert!(apart < 1e-6, "{apart}");

    // Merged weights that were rounded once come out rounded: by at most half a step of bf16 for each of the two times that they were.
    json(&mut export(&ships, &at("rounded"), "bf16", &[&plain]));
    let mut command = export(&at("rounded"), &at("out"), "bf16", &[&plain]);
    let found = json(command.args(["--take-out", "--base", "stories260k"]));
    let apart = weights_apart(&model(None), &model(Some(&at("out"))));
    assert!(apart > 1e-4 && apart < 2.0 / 128.0, "{apart}");
    assert!(share(&found["from_base"]) > 1e-4, "what rounding left is said: {found}");
    assert!(share(&found["from_base"]) < 0.1, "{found}");
    // A GGUF file is a model as well.
    let mut command = export(&at("merged"), &at("before.gguf"), "f32", &[&plain]);
    let found = json(command.args(["--take-out", "--format", "gguf-f16"]));
    assert!(at("before.gguf").is_file() && share(&found["rounding"]) < 1e-5, "{found}");
}

#[test]
fn what_is_made_of_the_base_comes_out_with_it_and_the_rest_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    let ships = PathBuf::from("stories260k");
    let mask = serde_json::json!({ "type": "mask_tuning", "target_modules": ["q_proj"] });
    let mask = made(dir.path(), "mask", mask, |edit| {
        for param in &mut edit.params {
            param.value.as_mut_slice::<f32>().iter_mut().step_by(3).for_each(|m| *m = 0.0);
        }
    });
    json(&mut export(&ships, &at("merged"), "f32", &[&mask]));
    let message = refused(export(&at("merged"), &at("out"), "f32", &[&mask]).arg("--take-out"));
    assert!(
        message.contains("layers.0.self_attn.q_proj") && message.contains("next: the adapter names it"),
        "{message}"
    );
    assert!(message.contains("`--base stories260k`"), "{message}");
    let mut with_base = export(&at("merged"), &at("before"), "f32", &[&mask]);
    let found = json(with_base.args(["--take-out", "--base", "stories260k"]));
    assert_eq!((found["from_base"]["max"].as_f64(), found["tensors"].as_u64()), (Some(0.0), Some(5)), "{found}");
    assert_eq!(weights_apart(&model(None), &model(Some(&at("before")))), 0.0, "a mask is undone to the bit");

    let prompt = serde_json::json!({ "type": "prompt_tuning", "num_virtual_tokens": 3 });
    let prompt = made(dir.path(), "prompt", prompt, |_| {});
    let message = refused(export(&at("merged"), &at("out"), "f32", &[&prompt]).arg("--take-out"));
    assert!(message.contains("virtual tokens are no weights"), "{message}");
    // Another model's adapter, by its shapes; another architecture as the base; another base than the adapter's.
    let message = refused(export(&at("merged"), &at("out"), "f32", &[&adapter("bias_all")]).arg("--take-out"));
    assert!(message.contains("bias_all/adapter_model.safetensors"), "{message}");
    let qwen = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hone-edit/tests/golden/tiny-qwen2");
    let with = |base: &Path, more: &[&str]| {
        let mut command = export(&at("merged"), &at("out"), "f32", &[&mask]);
        refused(command.args(["--take-out", "--base"]).arg(base).args(more))
    };
    let message = with(&qwen, &[]);
    assert!(message.contains("one is `qwen2`, the other `llama`"), "{message}");
    let message = with(&at("merged"), &[]);
    assert!(message.contains("was made for another base model"), "{message}");
    let message = with(&ships, &["--format", "gguf-lora"]);
    assert!(message.contains("`--take-out` leaves a model"), "{message}");
    let message = refused(export(&ships, &at("out"), "f32", &[&mask]).args(["--base", "stories260k"]));
    assert!(message.contains("--take-out"), "{message}");
    assert!(!at("out").exists(), "nothing is written");
}

/// An adapter that was tuned on rounded weights, run on others: said once, and not where the weights are those it was tuned on.
#[test]
fn another_rounding_than_the_adapter_was_tuned_on_is_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows: String = (0..12).map(|i| format!("{{\"text\": \"Tom has {i} red balls.\"}}\n")).collect();
    std::fs::write(dir.path().join("rows.jsonl"), rows).expect("written");
    let recipe = "model: stories260k\ndata: {path: rows.jsonl}\nquantize: nf4\nmethod: {type: lora, r: 2}\n\
        train: {steps: 2, batch_size: 4, dtype: f32, validation_every: 0, save_every: 0}\n";
    std::fs::write(dir.path().join("recipe.yaml"), recipe).expect("written");
    let (run, recipe) = (dir.path().join("run"), dir.path().join("recipe.yaml"));
    hone().arg("tune").arg(&recipe).arg("--out").arg(&run).assert().success();
    let remarks = |words: &[&str]| {
        let mut command = Command::cargo_bin("hone").expect("the binary is built");
        command.args(words).arg("--edit").arg(&run).write_stdin("Once upon\n");
        let output = command.assert().success().get_output().clone();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let out = dir.path().join("exported");
    let export = ["export", "stories260k", "--out", out.to_str().expect("UTF-8")];
    let generate = ["generate", "stories260k", "--prompt", "Once upon", "--max-new-tokens", "2"];
    let score = ["score", "stories260k", "--text", "Once upon"];
    for words in [&export[..], &generate, &score] {
        let said = remarks(words);
        assert_eq!(said.matches("tuned on its base in `nf4`").count(), 1, "{words:?}: {said}");
        assert!(said.contains("with `--quantize nf4` it runs as it was tuned"), "{words:?}: {said}");
    }
    let same = remarks(&[&score[..], &["--quantize", "nf4"]].concat());
    assert!(!same.contains("tuned on its base"), "{same}");
    let other = remarks(&[&score[..], &["--quantize", "q8_0"]].concat());
    assert!(other.contains("tuned on its base in `nf4`, and this one is in `q8_0`"), "{other}");
}

#[test]
fn one_task_of_a_routed_adapter_becomes_a_lora_adapter_that_can_be_merged() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows: String = (0..12).map(|i| format!("{{\"text\": \"Tom has {i} red balls.\"}}\n")).collect();
    std::fs::write(dir.path().join("rows.jsonl"), rows).expect("written");
    let recipe = "model: stories260k\ndata: {path: rows.jsonl}\nmethod: {type: poly, n_tasks: 2, n_skills: 4, r: 2}\n\
        train: {steps: 4, batch_size: 4, learning_rate: 0.05, dtype: f32, validation_every: 0, save_every: 0}\n";
    std::fs::write(dir.path().join("recipe.yaml"), recipe).expect("written");
    hone().arg("tune").arg(dir.path().join("recipe.yaml")).arg("--out").arg(dir.path().join("run")).assert().success();
    let routed = dir.path().join("run/adapter");
    let collapse = |task: &str, out: &str| {
        let mut command = hone();
        command.args(["edit", "collapse"]).arg(&routed).args(["--task", task, "--out"]).arg(dir.path().join(out));
        command
    };
    let made = json(&mut collapse("1", "second"));
    assert_eq!((made["method"].as_str(), made["task"].as_u64()), (Some("poly"), Some(1)), "{made}");
    json(&mut collapse("0", "first"));
    // The same as the routed one for its task, and not for the other.
    let score = |edit: &Path, more: &[&str]| {
        let mut command = hone();
        command.args(["score", "stories260k", "--text", "Once upon a time", "--dtype", "f32", "--edit"]).arg(edit);
        json(command.args(more))["perplexity"].as_f64().expect("a number").ln()
    };
    let (of_task, second) = (score(&routed, &["--task-group", "1"]), score(&dir.path().join("second"), &[]));
    assert!((of_task - second).abs() < 1e-4 * of_task.abs(), "{of_task}, {second}");
    assert!((of_task - score(&dir.path().join("first"), &[])).abs() > 1e-3 * of_task.abs(), "tasks differ");
    let merge = |edit: &Path, out: &str| {
        let mut command = hone();
        command
            .args(["merge", "stories260k", "--how", "stack", "--edit"])
            .arg(edit)
            .arg("--out")
            .arg(dir.path().join(out));
        command
    };
    json(&mut merge(&dir.path().join("second"), "merged"));
    assert!(refused(&mut collapse("9", "none")).contains("9"));
    // What sends a user here names it.
    let message = refused(&mut merge(&routed, "none"));
    assert!(message.contains("`hone edit collapse DIR --task N`"), "{message}");
    assert!(!dir.path().join("none").exists(), "nothing is written");
}

#[test]
fn help_has_examples() {
    for (name, words) in [
        ("merge_help", vec!["merge", "--help"]),
        ("edit_help", vec!["edit", "--help"]),
        ("edit_list_help", vec!["edit", "list", "--help"]),
        ("edit_inspect_help", vec!["edit", "inspect", "--help"]),
        ("edit_overlap_help", vec!["edit", "overlap", "--help"]),
        ("edit_collapse_help", vec!["edit", "collapse", "--help"]),
        ("export_help", vec!["export", "--help"]),
    ] {
        insta::assert_snapshot!(name, output(hone().args(words)));
    }
}

#[test]
fn what_cannot_be_meant_is_refused_with_a_next_step() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = merge(dir.path(), "out", &["plain", "rslora"]);
    let message = refused(command.args(["--how", "dare_tie"]));
    assert!(message.contains("did you mean `dare_ties`?"), "{message}");
    let mut command = merge(dir.path(), "out", &["plain", "rslora"]);
    let message = refused(command.args(["--weights", "1,2,3"]));
    assert!(message.contains("3 weights for 2 edits") && message.contains("next: give one weight"), "{message}");
    let mut command = merge(dir.path(), "out", &["plain=2", "rslora"]);
    let message = refused(command.args(["--weights", "1,2"]));
    assert!(message.contains("has a weight of its own (2)"), "{message}");
    let message = refused(merge(dir.path(), "out", &["plain", "rslora"]).args(["--how", "ties_svd"]));
    assert!(message.contains("it needs a density"), "{message}");
    let message = refused(merge(dir.path(), "out", &["plain", "saved_head"]).args(["--how", "cat"]));
    assert!(message.contains("saved_head, at `"), "{message}");
    assert!(message.contains("`task_arithmetic` combines whatever can be merged"), "{message}");
    let message = refused(merge(dir.path(), "out", &["saved_head", "saved_head"]).args(["--how", "stack"]));
    assert!(message.contains("cannot be stacked: both replace"), "{message}");
    // Another base: its maps have other shapes.
    let message = refused(&mut merge(dir.path(), "out", &["plain", "bias_all"]));
    assert!(message.contains("bias_all/adapter_model.safetensors"), "{message}");
    assert!(!dir.path().join("out").exists(), "nothing is written");
    std::fs::create_dir(dir.path().join("there")).expect("made");
    let message = refused(&mut merge(dir.path(), "there", &["plain"]));
    assert!(message.contains("is there already") && message.contains("choose another `--out`"), "{message}");

    let lora = |edits: &[&str]| {
        let mut command = hone();
        command.args(["export", "stories260k", "--format", "gguf-lora", "--out"]).arg(dir.path().join("a.gguf"));
        for edit in edits {
            command.arg("--edit").arg(adapter(edit));
        }
        command
    };
    let message = refused(&mut lora(&["plain", "rslora"]));
    assert!(message.contains("writes one edit, and 2 are named") && message.contains("`hone merge`"), "{message}");
    let message = refused(&mut lora(&[]));
    assert!(message.contains("and 0 are named"), "{message}");
    let message = refused(&mut lora(&["saved_head"]));
    assert!(message.contains("is no low-rank pair") && message.contains("gguf-f16"), "{message}");
    assert!(!dir.path().join("a.gguf").exists(), "nothing is written");
    let message = refused(hone().args(["edit", "inspect", "no-such-adapter"]));
    assert!(message.contains("no-such-adapter/adapter_config.json"), "{message}");
    // The base it names is not to be found here.
    let message = refused(hone().args(["edit", "inspect"]).arg(adapter("bias_all")));
    assert!(message.contains("loading its base model `tiny-qwen2`") && message.contains("with `--model`"), "{message}");
}

/// IA³ scales a map with what other edits add to its bias; in the weights the sum would come after the scaling.
#[test]
fn edits_that_do_not_add_up_in_the_weights_are_not_merged() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hone-edit/tests/golden/tiny-llama-biased");
    let biased = model(Some(&path));
    let moved = |name: &str, recipe: Value| {
        let method = registry::from_recipe(recipe.as_object().expect("fields"), &mut Vec::new()).expect("a method");
        let mut edit = Edit::new(method, &Base::of(&biased), 0).expect("an edit");
        for param in &mut edit.params {
            param.value.as_mut_slice::<f32>().iter_mut().for_each(|v| *v += 0.5);
        }
        save_edit(&edit, &dir.path().join(name)).expect("written");
        dir.path().join(name)
    };
    let scaled =
        moved("scaled", serde_json::json!({ "type": "ia3", "target_modules": ["q_proj"], "feedforward_modules": [] }));
    let added =
        moved("added", serde_json::json!({ "type": "lora", "r": 2, "lora_bias": true, "target_modules": ["q_proj"] }));
    let out = dir.path().join("out");
    let message = refused(&mut export(&path, &out, "f32", &[&scaled, &added]));
    assert!(message.contains("do not answer as they do beside the model: |Δlogit|"), "{message}");
    assert!(message.contains("in the other order") && !out.exists(), "{message}");
    let mut stack = hone();
    stack.arg("merge").arg(&path).args(["--how", "stack", "--store", "f32", "--out"]).arg(&out);
    let message = refused(stack.arg("--edit").arg(&scaled).arg("--edit").arg(&added));
    assert!(message.contains("do not answer as they do beside the model") && !out.exists(), "{message}");
    json(&mut export(&path, &out, "f32", &[&added, &scaled]));
}
