//! Recipes: what is read, what is refused and how it is said, what is written back.

use std::path::Path;

use hone_train::recipe::{Mask, Precision, Quantize, Schedule, parse};
use hone_train::{Recipe, TrainError};
use serde_json::Value;

const RECIPE: &str = "\
model: SmolLM2-135M-Instruct
data:
  path: train.jsonl
  validation_fraction: 0.05
method: {type: lora, r: 8}
train:
  lr: 1e-4
  epochs: 2
  schedule: linear
eval:
  before_after: [telecom, arc_easy]
  fail_if: {arc_easy: {drop_over: 3}}
";

fn read(text: &str, set: &[&str]) -> Result<Recipe, TrainError> {
    let overrides: Vec<String> = set.iter().map(|s| s.to_string()).collect();
    parse(text, "recipe.yaml", &overrides)
}

fn refusal(text: &str, set: &[&str]) -> String {
    read(text, set).expect_err("should have been refused").to_string()
}

#[test]
fn a_recipe_is_read_with_its_defaults() {
    let recipe = read(RECIPE, &[]).unwrap();
    assert_eq!(recipe.model, "SmolLM2-135M-Instruct");
    assert_eq!(recipe.train.learning_rate, Some(1e-4));
    assert_eq!((recipe.train.schedule, recipe.train.dtype), (Schedule::Linear, Precision::Bf16));
    assert_eq!(recipe.eval.fail_if["arc_easy"].drop_over, Some(3.0));
    let shortest = read("{model: m, data: {path: d.jsonl}}", &[]).unwrap();
    assert_eq!(shortest.method.word(), "lora");
    let word = read("{model: m, data: {path: d.jsonl}, method: full}", &["method.target_modules=[norm]"]).unwrap();
    assert_eq!((word.method.word(), word.method.0["target_modules"][0].as_str()), ("full", Some("norm")));
}

#[test]
fn a_base_in_few_bits_is_a_word() {
    let recipe = read("{model: m, quantize: nf4, data: {path: d.jsonl}}", &[]).unwrap();
    assert_eq!(recipe.quantize, Some(Quantize::Nf4));
    assert!(recipe.resolved().unwrap().to_yaml().unwrap().contains("quantize: nf4"));
    assert_eq!(read(RECIPE, &[]).unwrap().quantize, None);
    let error = refusal(RECIPE, &["quantize=nf3"]);
    assert!(error.contains("quantize") && error.contains("nf4") && error.contains("keep"), "{error}");
}

#[test]
fn overrides_are_typed_by_their_key() {
    let set = ["train.learning_rate=3e-5", "model=123", "train.dtype=f32", "data.path=a: b", "eval.before_after=[x]"];
    let recipe = read(RECIPE, &set).unwrap();
    assert_eq!(recipe.train.learning_rate, Some(3e-5));
    assert_eq!((recipe.model.as_str(), recipe.data.path.as_deref()), ("123", Some("a: b")));
    assert_eq!(recipe.train.dtype, Precision::F32);
    assert_eq!(recipe.eval.before_after, ["x"]);
    let mixed = "{model: m, data: {mix: [{path: a, weight: 1}, {path: b, weight: 1}]}}";
    assert_eq!(read(mixed, &["data.mix.1.weight=2"]).unwrap().data.mix[1].weight, Some(2.0));
    for key in ["lr", "learning_rate"] {
        let rate = read(RECIPE, &[&format!("train.{key}=5e-4")]).unwrap().train.learning_rate;
        assert_eq!(rate, Some(5e-4), "{key}");
    }
}

#[test]
fn the_resolved_recipe_reads_back_as_itself() {
    for set in [&[][..], &["method={type: full}"], &["train.dtype=f32", "method.use_rslora=true", "data.packing=true"]]
    {
        let mut recipe = read(RECIPE, set).unwrap();
        recipe.directory = "/somewhere".into();
        let resolved = recipe.resolved().unwrap();
        assert_eq!(resolved.data.path.as_deref(), Some("/somewhere/train.jsonl"));
        assert!(resolved.train.learning_rate.is_some());
        let text = resolved.to_yaml().unwrap();
        let mut again = read(&text, &[]).unwrap_or_else(|e| panic!("{e}\n{text}"));
        again.directory = recipe.directory.clone();
        assert_eq!(again, resolved, "{text}");
        assert_eq!(again.resolved().unwrap(), resolved);
    }
}

#[test]
fn directories_of_a_method_start_at_the_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::create_dir_all(at.join("runs/first")).unwrap();
    std::fs::create_dir_all(at.join("src")).unwrap();
    let path = at.join("recipe.yaml");
    let method = |method: &str, set: &[&str]| {
        std::fs::write(&path, format!("{{model: m, data: {{path: d.jsonl}}, method: {method}}}")).unwrap();
        let overrides: Vec<String> = set.iter().map(|s| s.to_string()).collect();
        hone_train::recipe::read(&path, &overrides).and_then(|recipe| recipe.resolved()).map(|recipe| recipe.method.0)
    };
    let beside = |path: &str| Value::from(at.join(path).to_str().unwrap());
    // `src` is also where this test runs, `tests` only there; what is nowhere is said to be missing beside the recipe.
    let run_in = |path: &str| Value::from(std::env::current_dir().unwrap().join(path).to_str().unwrap());
    for (found, expected) in [
        ("runs/first", beside("runs/first")),
        ("src", beside("src")),
        ("tests", run_in("tests")),
        ("missing", beside("missing")),
        (at.join("runs").to_str().unwrap(), beside("runs")),
    ] {
        let resolved = method(&format!("{{type: grafting, tuned: '{found}'}}"), &[]).unwrap();
        assert_eq!(resolved["tuned"], expected);
        let resolved = method("{type: poly}", &[&format!("method.init_from={found}")]).unwrap();
        assert_eq!(resolved["init_from"], expected);
    }
    let several = method("{type: attempt, sources: [runs/first, missing]}", &[]).unwrap();
    assert_eq!(several["sources"], Value::from(vec![beside("runs/first"), beside("missing")]));
    let named = method("{type: xlora, adapters: {a: runs/first, b: missing}}", &[]).unwrap();
    assert_eq!((&named["adapters"]["a"], &named["adapters"]["b"]), (&beside("runs/first"), &beside("missing")));
    let error = method("{type: adapter_fusion, adapters: [missing, runs/first]}", &[]).unwrap_err().to_string();
    let looked_for = at.join("missing/adapter_config.json");
    assert!(error.contains("recipe.yaml") && error.contains(looked_for.to_str().unwrap()), "{error}");
    // No field but those of directories is touched.
    assert_eq!(method("{type: lora, target_modules: [src]}", &[]).unwrap()["target_modules"][0], "src");
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let line = |from: &str, to: &str| refusal(&RECIPE.replace(from, to), &[]);
    for (message, expected) in [
        (line("  epochs", "  epohcs"), "recipe.yaml, line 8: unknown key `epohcs` in `train`; did you mean `epochs`?"),
        (
            line("eval:", "evals:"),
            "recipe.yaml, line 10: unknown key `evals` at the top of a recipe; did you mean `eval`?",
        ),
        (line("  epochs: 2", "  epochs: two"), "line 8: `train.epochs`: found \"two\""),
        (line("  epochs: 2", "  epochs: -1"), "line 8: `train.epochs`: found -1, expected a number above 0"),
        (line("  epochs: 2", "  num_train_epochs: 2"), "here it is called `train.epochs`"),
        (line("  epochs: 2", "  max_seq_length: 2"), "here it is called `data.max_length`"),
        (line("  epochs: 2", "  steps: 0"), "`train.steps`: found 0, expected 1 or more"),
        (line("  epochs: 2", "  epochs: 2\n  steps: 5"), "both `steps` and `epochs`"),
        (line("linear", "triangular"), "line 9: `train.schedule`: found \"triangular\""),
        (line("r: 8", "rank: 8"), "line 5: `method`: `lora` has no field `rank`"),
        (line("r: 8", "use_qalora: true"), "`use_qalora` is set to true, which is not supported"),
        (line("type: lora", "type: lorra"), "method `lorra` is not known; did you mean `lora`?"),
        (line("model: SmolLM2-135M-Instruct", "model: 3"), "line 1: `model`: found 3"),
        (line("model: SmolLM2-135M-Instruct\n", ""), "no `model`"),
        (
            line("  path: train.jsonl", "  pth: train.jsonl"),
            "line 3: unknown key `pth` in `data`; did you mean `path`?",
        ),
        (line("drop_over: 3", "drop_over: -3"), "`eval.fail_if.arc_easy.drop_over`: found -3"),
        (line("drop_over: 3", "drop: 3"), "unknown key `drop` in `eval.fail_if.arc_easy`; did you mean `drop_over`?"),
        (line("data:", "data: ["), "recipe.yaml, line"),
        (refusal("just text", &[]), "expected keys"),
        (refusal("", &[]), "expected keys"),
        (refusal(RECIPE, &["train.lrr=1"]), "--set train.lrr=1: unknown key `lrr`"),
        (refusal(RECIPE, &["train.steps"]), "expected `key=value`"),
        (refusal(RECIPE, &["train.epochs=["]), "the value is no YAML"),
        (refusal(RECIPE, &["model.x=1"]), "`model` holds"),
    ] {
        assert!(message.contains(expected), "said: {message}\nexpected: {expected}");
    }
}

/// [`RECIPE`] with these lines under `train.compatibility`, which stands in line 9.
fn compatible(lines: &[&str]) -> String {
    let lines: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    RECIPE.replace("  schedule: linear\n", &format!("  compatibility:\n{lines}"))
}

#[test]
fn an_update_that_stays_compatible_says_with_what() {
    let (old, new) = ("old: {edit: runs/old}", "new: {edit: runs/new}");
    let mut recipe = read(&compatible(&[old, new]), &[]).unwrap();
    let own = recipe.train.compatibility.clone().unwrap();
    assert_eq!((own.temperature, own.mask, own.cross_entropy), (2.0, Mask::StudentWrong, 0.0));
    recipe.directory = "/somewhere".into();
    let resolved = recipe.resolved().unwrap();
    let paths = |recipe: &Recipe| {
        let named = recipe.train.compatibility.clone().unwrap();
        (named.old.edit.unwrap_or_default(), named.new.edit.unwrap_or_default())
    };
    assert_eq!(paths(&resolved), ("/somewhere/runs/old".to_string(), "/somewhere/runs/new".to_string()));
    let text = resolved.to_yaml().unwrap();
    assert_eq!(read(&text, &[]).unwrap().train, resolved.train, "{text}");
    // What training goes on from is the new version where none is named.
    let mut recipe = read(&compatible(&[old]), &["method.init_from=runs/refit"]).unwrap();
    recipe.directory = "/somewhere".into();
    let resolved = recipe.resolved().unwrap();
    assert_eq!(paths(&resolved).1, "/somewhere/runs/refit");
    assert_eq!(resolved.method.0["init_from"], "/somewhere/runs/refit");
    assert_eq!(resolved.resolved().unwrap(), resolved);
    // What a mask does not read need not be there.
    assert!(read(&compatible(&[old, "mask: always_old"]), &[]).is_ok());
    assert!(read(&compatible(&[new, "mask: never_old"]), &[]).is_ok());
    assert!(read(&compatible(&["old: {model: other}", new]), &[]).is_ok());
}

#[test]
fn what_is_wrong_with_it_is_named_with_its_line() {
    let (old, new) = ("old: {edit: runs/old}", "new: {edit: runs/new}");
    let with = |line: &str| refusal(&compatible(&[old, new, line]), &[]);
    let set = |setting: &str| refusal(&compatible(&[old, new]), &[setting]);
    for (message, expected) in [
        (
            with("mask: studnet_wrong"),
            "line 12: `train.compatibility.mask`: found \"studnet_wrong\", expected one of `student_wrong`, `old_right`",
        ),
        (with("mask: studnet_wrong"), "; did you mean `student_wrong`?"),
        (with("temperature: 0"), "line 12: `train.compatibility.temperature`: found 0, expected a number above 0"),
        (with("temperature: .inf"), "`train.compatibility.temperature`: found"),
        (with("temperature: warm"), "line 12: `train.compatibility.temperature`: found \"warm\", expected a number"),
        (
            with("cross_entropy: 1"),
            "line 12: `train.compatibility.cross_entropy`: found 1, expected a share from 0 up to",
        ),
        (with("cross_entropy: -0.1"), "found -0.1, expected a share"),
        (
            with("temprature: 2"),
            "line 12: unknown key `temprature` in `train.compatibility`; did you mean `temperature`?",
        ),
        (
            refusal(&compatible(&["old: {edti: x}", new]), &[]),
            "line 10: unknown key `edti` in `train.compatibility.old`; did you mean `edit`?",
        ),
        (refusal(&compatible(&[old, "new: {model: x}"]), &[]), "unknown key `model` in `train.compatibility.new`"),
        (
            refusal(&compatible(&["old: runs/old", new]), &[]),
            "line 10: `train.compatibility.old`: found \"runs/old\", expected `{edit: DIR}`, `{model: NAME}`, or both",
        ),
        (refusal(&compatible(&[new]), &[]), "`train.compatibility.old`: found nothing, expected the version to stay"),
        (
            refusal(&compatible(&[old]), &[]),
            "`train.compatibility.new.edit`: found nothing, expected the new version's",
        ),
        (set("train.compatibility=true"), "`train.compatibility`: found true, expected keys and values"),
        (set("train.compatibility.temperature=-2"), "--set train.compatibility.temperature=-2: "),
        (refusal(&RECIPE.replace("linear", "liner"), &[]), "`cosine`; did you mean `linear`?"),
        (
            refusal(RECIPE, &["method.init_from=3"]),
            "field `init_from`: found 3, expected the directory of a trained adapter",
        ),
    ] {
        assert!(message.contains(expected), "said: {message}\nexpected: {expected}");
    }
}

#[test]
fn an_override_as_deep_as_the_stack_is_refused() {
    let message = refusal(RECIPE, &[&format!("method{}=1", ".a".repeat(200_000))]);
    assert!(message.contains("--set method…: 200001 keys one in another"), "{message}");
}

#[test]
fn a_file_that_is_no_recipe_is_refused_before_it_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("big.yaml");
    std::fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
    let message = hone_train::recipe::read(&path, &[]).unwrap_err().to_string();
    assert!(message.contains("is this the data file?"), "{message}");
    let missing = hone_train::recipe::read(Path::new("nowhere.yaml"), &[]).unwrap_err().to_string();
    assert!(missing.contains("nowhere.yaml"), "{missing}");
}

#[test]
fn the_schema_has_every_part_and_every_method() {
    let schema = Recipe::schema().to_string();
    let words =
        ["learning_rate", "validation_fraction", "lora_alpha", "drop_over", "\"const\":\"full\"", "student_wrong"];
    for word in words {
        assert!(schema.contains(word), "{word}");
    }
    // Any of them can go on from an adapter.
    assert!(schema.matches("\"init_from\":").count() >= hone_edit::registry::METHODS.len());
}
