//! Configurations and targets: what is honoured, what is refused and how it is said. Counts are those Hugging Face PEFT
//! 0.21 reports for the same settings on the same shapes.

mod common;

use common::{SMOL, STORIES, Shape, base, edit, fields, planned_count};
use hone_edit::method::ParamPlan;
use hone_edit::{Base, Edit, registry};
use hone_engine::{DType, Tensor};

fn targets(json: &str, base: &Base) -> Vec<String> {
    let plan = registry::from_recipe(&fields(json), &mut Vec::new()).unwrap().plan(base).unwrap();
    plan.placed.iter().map(|p| p.place.to_string()).collect()
}

fn refusal(json: &str) -> String {
    let base = base(&STORIES, false);
    let planned = registry::from_recipe(&fields(json), &mut Vec::new()).and_then(|m| m.plan(&base).map(|_| ()));
    planned.expect_err("should have been refused").to_string()
}

#[test]
fn parameter_counts_equal_pefts() {
    let smol = base(&SMOL, false);
    let count = |json| planned_count(json, &smol).unwrap();
    assert_eq!(count(r#"{"type": "lora", "r": 8, "target_modules": ["q_proj", "v_proj"]}"#), 460_800);
    assert_eq!(count(r#"{"type": "lora", "r": 8}"#), 2_442_240);
    assert_eq!(count(r#"{"type": "lora"}"#), 4_884_480);
    assert_eq!(count(r#"{"type": "full"}"#), 134_515_008);
    assert_eq!(count(r#"{"type": "oft", "target_modules": ["q_proj", "v_proj"]}"#), 535_680);
    assert_eq!(count(r#"{"type": "boft", "target_modules": ["q_proj", "v_proj"]}"#), 161_280);
    assert_eq!(count(r#"{"type": "fourierft", "target_modules": ["q_proj", "v_proj"]}"#), 60_000);
    assert_eq!(count(r#"{"type": "hra", "target_modules": ["q_proj", "v_proj"]}"#), 30 * 2 * 8 * 576);
    assert_eq!(count(r#"{"type": "road", "target_modules": ["q_proj", "v_proj"]}"#), 30 * (576 + 192));
    assert_eq!(count(r#"{"type": "ia3"}"#), 57_600);
}

/// The formulas of their files; the conformer's is also what its authors count for a width of 768 (21,024 a layer).
#[test]
fn parameter_counts_of_adapters_are_their_formulas() {
    let count = |json, hidden| planned_count(json, &base(&Shape { layers: 12, hidden, ..SMOL }, false)).unwrap();
    let bottleneck = |b: usize, d: usize| 2 * b * d + b + d;
    assert_eq!(count(r#"{"type": "houlsby"}"#, 576), 24 * bottleneck(36, 576));
    assert_eq!(count(r#"{"type": "pfeiffer"}"#, 576), 12 * bottleneck(36, 576));
    assert_eq!(count(r#"{"type": "parallel_adapter", "bottleneck": 7}"#, 576), 12 * bottleneck(7, 576));
    // Beside them running means, variances and a count, which are not trained and not counted.
    assert_eq!(count(r#"{"type": "conformer_adapter"}"#, 768), 12 * 21_024);
    // 576 / 32 is 18; the nearest multiple of four factors, 20.
    assert_eq!(count(r#"{"type": "compacter"}"#, 576), 64 + 24 * (2 * (576 + 20) + 20 + 576));
}

#[test]
fn a_tied_head_is_trained_and_counted_once_by_full_tuning() {
    let stories = base(&STORIES, false);
    let table = 512 * 64;
    for module in ["embed_tokens", "lm_head"] {
        let json = format!(r#"{{"type": "full", "target_modules": ["{module}"]}}"#);
        assert_eq!(planned_count(&json, &stories).unwrap(), table, "{module}");
        assert_eq!(targets(&json, &stories), ["model.embed_tokens.weight"]);
    }
    let mut untied = base(&STORIES, false);
    untied.tied_head = false;
    let everything = planned_count(r#"{"type": "full"}"#, &untied).unwrap();
    assert_eq!(everything, planned_count(r#"{"type": "full"}"#, &stories).unwrap() + table);
}

#[test]
fn targets_are_selected_by_pefts_rules() {
    let stories = base(&STORIES, false);
    let json = r#"{"type": "lora", "target_modules": ["q_proj", "down_proj"], "exclude_modules": ["layers.2.mlp.down_proj"],
        "layers_to_transform": [0, 2], "layers_pattern": "layers"}"#;
    let expected =
        ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj", "model.layers.2.self_attn.q_proj"];
    assert_eq!(targets(json, &stories), expected);

    let pattern = r#"{"type": "lora", "target_modules": ".*\\.[13]\\.self_attn\\.(q|o)_proj"}"#;
    assert_eq!(targets(pattern, &stories).len(), 4);
    // A regular expression has to match the whole path.
    assert!(refusal(r#"{"type": "lora", "target_modules": "q_proj"}"#).contains("matches no linear map"));

    let all = r#"{"type": "lora", "exclude_modules": ".*\\.mlp\\..*", "layers_to_transform": 3}"#;
    assert_eq!(targets(all, &stories).len(), 4);

    // `modules_to_save` keeps a module from being a target.
    let saved = r#"{"type": "lora", "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["v_proj"]}"#;
    let places = targets(saved, &stories);
    assert_eq!(places.iter().filter(|p| p.ends_with("v_proj")).count(), 5);
    assert_eq!(places.len(), 10);
}

/// PEFT's classes of many types have no `exclude_modules`, some no `layers_to_transform`: read there, what was left out would be in.
#[test]
fn what_is_left_out_is_written_as_whole_paths() {
    let stories = base(&STORIES, false);
    let config = |json: &str| {
        let method = registry::from_recipe(&fields(json), &mut Vec::new()).unwrap();
        serde_json::Value::Object(method.plan(&stories).unwrap().config)
    };
    let written = config(
        r#"{"type": "c3a", "block_size": 8, "target_modules": ["q_proj", "v_proj"], "exclude_modules": ["v_proj"], "layers_to_transform": [1, 4]}"#,
    );
    let paths = serde_json::json!(["model.layers.1.self_attn.q_proj", "model.layers.4.self_attn.q_proj"]);
    assert_eq!(written["target_modules"], paths);
    let fields = ["exclude_modules", "layers_to_transform", "layers_pattern"];
    assert!(fields.iter().all(|field| written[*field].is_null()), "{written}");
    let plain = config(r#"{"type": "c3a", "block_size": 8, "target_modules": ["q_proj"]}"#);
    assert_eq!(plain["target_modules"], serde_json::json!(["q_proj"]));
}

/// Sizes out of a file that is damaged or means harm.
#[test]
fn sizes_that_cannot_be_meant_are_refused_before_anything_is_counted() {
    let huge = "10000000000000000000";
    for (json, field) in [
        (format!(r#"{{"type": "lokr", "r": {huge}}}"#), "`r`"),
        (format!(r#"{{"type": "pvera", "r": {huge}}}"#), "`r`"),
        (format!(r#"{{"type": "shira", "r": {huge}}}"#), "`r`"),
        (format!(r#"{{"type": "unilora", "r": {huge}}}"#), "`r`"),
        (r#"{"type": "peanut", "depth": 1000000000}"#.into(), "`depth`"),
        (r#"{"type": "oft", "oft_block_size": 8, "num_cayley_neumann_terms": 1000000}"#.into(), "terms"),
    ] {
        let message = refusal(&json);
        assert!(message.contains(field) && message.contains("expected"), "{json}: {message}");
    }
    let seeded = format!(r#"{{"type": "vera", "r": 2, "projection_prng_key": {huge}}}"#);
    assert!(edit(&seeded, &base(&STORIES, true)).is_ok(), "a seed is no size");
}

/// EVA says how `A` was first filled, which its file does not need.
#[test]
fn a_file_of_eva_is_any_loras() {
    let read = |json: &str| registry::from_peft(&fields(json), &mut Vec::new()).map(|_| ()).map_err(|e| e.to_string());
    let eva = r#"{"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "init_lora_weights": "eva", "eva_config": {"rho": 2.0}}"#;
    assert_eq!(read(eva), Ok(()));
    assert!(read(&eva.replace("\"eva\"", "\"corda\"")).unwrap_err().contains("eva_config"));
}

#[test]
fn patterns_change_rank_and_scale_of_the_maps_they_match() {
    let json = r#"{"type": "lora", "r": 4, "target_modules": ["q_proj", "k_proj"],
        "rank_pattern": {"k_proj": 2, "layers\\.4\\.self_attn\\.q_proj": 3}}"#;
    let expected: usize = (0..5).map(|l| (64 + 64) * if l == 4 { 3 } else { 4 } + (64 + 32) * 2).sum();
    assert_eq!(planned_count(json, &base(&STORIES, false)).unwrap(), expected);
}

#[test]
fn biases_take_pefts_keys() {
    let qwen = base(&Shape { biases: true, ..STORIES }, false);
    let keys = |bias: &str| -> Vec<String> {
        let json =
            format!(r#"{{"type": "lora", "target_modules": ["q_proj"], "layers_to_transform": 0, "bias": "{bias}"}}"#);
        let plan = registry::from_recipe(&fields(&json), &mut Vec::new()).unwrap().plan(&qwen).unwrap();
        plan.params.into_iter().map(|p| p.key).filter(|k| k.ends_with(".bias")).collect()
    };
    assert_eq!(keys("lora_only"), ["base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias"]);
    assert_eq!(keys("all").len(), 15);
    assert!(keys("none").is_empty());
}

#[test]
fn a_recipe_gets_the_recommended_defaults_and_a_file_hugging_faces() {
    let recipe = registry::from_recipe(&fields(r#"{"type": "lora"}"#), &mut Vec::new()).unwrap().fields();
    assert_eq!((recipe["r"].as_u64(), recipe["lora_alpha"].as_u64()), (Some(16), Some(32)));
    assert_eq!(recipe["target_modules"], "all-linear");
    let half = registry::from_recipe(&fields(r#"{"type": "lora", "r": 4}"#), &mut Vec::new()).unwrap().fields();
    assert_eq!(half["lora_alpha"], 8);
    let file = registry::from_peft(&fields(r#"{"peft_type": "LORA"}"#), &mut Vec::new()).unwrap().fields();
    assert_eq!((file["r"].as_u64(), file["lora_alpha"].as_u64()), (Some(8), Some(8)));
    assert!(file["target_modules"].is_null());
}

#[test]
fn what_is_not_honoured_is_refused_by_name() {
    for (json, expected) in [
        (r#"{"type": "lora", "use_qalora": true}"#, "`use_qalora` is set to true, which is not supported"),
        (r#"{"type": "lora", "init_lora_weights": "corda"}"#, "`init_lora_weights`: found `corda`"),
        (r#"{"type": "lora", "layer_replication": [[0, 2]]}"#, "`layer_replication` is set to [[0,2]]"),
        (r#"{"type": "lora", "target_modules": ["lm_head"]}"#, "train it whole with `modules_to_save`"),
        (r#"{"type": "lora", "task_type": "SEQ_CLS"}"#, "`task_type`: found `SEQ_CLS`"),
        (r#"{"type": "lora", "lora_aplha": 3}"#, "no field `lora_aplha`; did you mean `lora_alpha`?"),
        (r#"{"type": "lora", "r": "many"}"#, "field `r`: found \"many\""),
        (r#"{"type": "lora", "r": 0}"#, "field `r`: found 0, expected a rank of 1 or more"),
        (r#"{"type": "lora", "r": 5000}"#, "a rank of at most 64"),
        (r#"{"type": "lora", "lora_dropout": 1.0}"#, "`lora_dropout`: found 1"),
        (r#"{"type": "lora", "rank_pattern": {"q_proj": 0}}"#, "`rank_pattern`: found 0"),
        (r#"{"type": "lora", "target_modules": "(("}"#, "a regular expression"),
        (
            r#"{"type": "lora", "target_modules": ["q_porj"]}"#,
            "`q_porj` matches no linear map of this model; did you mean `q_proj`",
        ),
        (r#"{"type": "lora", "modules_to_save": ["lm_haed"]}"#, "did you mean `lm_head`"),
        (
            r#"{"type": "lora", "modules_to_save": ["mlp"]}"#,
            "name those, which are `down_proj`, `gate_proj`, `up_proj`",
        ),
        (r#"{"type": "lora", "target_modules": ".*q_proj", "layers_to_transform": [0]}"#, "only with a list"),
        (
            r#"{"type": "lora", "exclude_modules": ["q_proj"], "target_modules": ["q_proj"]}"#,
            "`exclude_modules`: found `q_proj`, expected to leave some of the targets (`q_proj`)",
        ),
        (r#"{"type": "lara"}"#, "method `lara` is not known; did you mean `lora`?"),
        (r#"{"type": "full", "modules_to_save": ["lm_head"]}"#, "name the modules in `target_modules`"),
    ] {
        let message = refusal(json);
        assert!(message.contains(expected), "{json}\n  said: {message}\n  expected: {expected}");
    }
}

/// A text as a target is an expression over whole paths, as in PEFT; most who write one mean a name.
#[test]
fn a_name_that_should_stand_in_a_list_is_shown_in_one() {
    for (target, expected) in [
        ("q_proj", "names go into a list: `[q_proj]`"),
        ("q_proj,v_proj", "names go into a list: `[q_proj, v_proj]`"),
        ("(q_proj|v_proj)", "names go into a list: `[q_proj, v_proj]`"),
        ("q_porj", "did you mean `q_proj`"),
        ("all_linear", "did you mean `all-linear`?"),
        (r".*\\.q_prj", "over whole module paths such as `model.layers.4.mlp.down_proj`"),
        ("mlp", r"the expression `.*\.mlp\..*`"),
    ] {
        let message = refusal(&format!(r#"{{"type": "lora", "target_modules": "{target}"}}"#));
        assert!(message.contains(expected), "{target}\n  said: {message}");
    }
    let stories = base(&STORIES, false);
    let mlp = targets(r#"{"type": "lora", "target_modules": ".*\\.mlp\\..*"}"#, &stories);
    assert_eq!(mlp.len(), 15, "what the message for `mlp` says to write is understood");
    let message = refusal(r#"{"type": "lora", "target_modules": []}"#);
    assert!(message.contains("name some modules, or write `all-linear`"), "{message}");
}

#[test]
fn layers_that_are_not_there_are_named_with_those_that_are() {
    for (layers, expected) in [
        ("[99]", "`layers_to_transform`: found 99, expected layers from 0 to 4 (the model has 5)"),
        ("99", "`layers_to_transform`: found 99, expected layers from 0 to 4"),
        ("[0, 4, 5, 99]", "`layers_to_transform`: found 5, 99, expected layers from 0 to 4"),
        (r#"[0], "layers_pattern": "blocks""#, "`layers_pattern`: found blocks, expected what stands before"),
        (
            r#"[0], "target_modules": ["layers.3.self_attn.q_proj"]"#,
            "`layers_to_transform`: found 0, expected layers with modules of `target_modules`: 3",
        ),
        (r#"[0], "target_modules": ["embed_tokens"]"#, "the modules of `target_modules` are in no layer"),
        (r#"null, "layers_pattern": "layers""#, "`lora` needs `layers_to_transform`"),
    ] {
        let message = edit(&format!(r#"{{"type": "lora", "layers_to_transform": {layers}}}"#), &base(&STORIES, false));
        let message = message.err().unwrap().to_string();
        assert!(message.contains(expected), "{layers}\n  said: {message}\n  expected: {expected}");
    }
    let there = r#"{"type": "lora", "layers_to_transform": [0, 4], "layers_pattern": "layers"}"#;
    assert!(edit(there, &base(&STORIES, false)).is_ok());
}

/// The fields, in a recipe and in a file, that hold entries for modules: each with one that fits nothing.
const UNMATCHED: &[(&str, &str, &str)] = &[
    ("lora", r#""exclude_modules": ["q_prj"]"#, "`exclude_modules`: `q_prj` matches no module"),
    ("oft", r#""exclude_modules": ["o_proj", "q_prj"]"#, "`exclude_modules`: `q_prj` matches no module"),
    ("full", r#""exclude_modules": ["q_prj"]"#, "`exclude_modules`: `q_prj` matches no module"),
    ("lora", r#""rank_pattern": {"q_prj": 3}"#, "`rank_pattern`: `q_prj` matches no targeted module"),
    ("lora", r#""alpha_pattern": {"v_proj": 8, "q_prj": 3}"#, "`alpha_pattern`: `q_prj` matches no targeted module"),
    ("loha", r#""rank_pattern": {"q_prj": 3}"#, "`rank_pattern`: `q_prj` matches no targeted module"),
    ("lokr", r#""alpha_pattern": {"q_prj": 3}"#, "`alpha_pattern`: `q_prj` matches no targeted module"),
    ("delora", r#""lambda_pattern": {"q_prj": 3}"#, "`lambda_pattern`: `q_prj` matches no targeted module"),
    ("osf", r#""rank_pattern": {"q_prj": 3}"#, "`rank_pattern`: `q_prj` matches no targeted module"),
    (
        "c3a",
        r#""block_size": 16, "block_size_pattern": {"q_prj": 8}"#,
        "`block_size_pattern`: `q_prj` matches no targeted",
    ),
    (
        "fourierft",
        r#""n_frequency_pattern": {"q_prj": 3}"#,
        "`n_frequency_pattern`: `q_prj` matches no targeted module",
    ),
    (
        "waveft",
        r#""n_frequency": 9, "n_frequency_pattern": {"q_prj": 3}"#,
        "`n_frequency_pattern`: `q_prj` matches no targeted module",
    ),
];

#[test]
fn entries_that_fit_nothing_are_refused_in_a_recipe_and_warned_of_in_a_file() {
    let stories = base(&STORIES, true);
    for (method, field, expected) in UNMATCHED {
        let fields_of = |key: &str, word: &str, field: &str| {
            fields(&format!(r#"{{"{key}": "{word}", "target_modules": ["q_proj", "v_proj"], {field}}}"#))
        };
        let recipe = |field: &str| {
            let method = registry::from_recipe(&fields_of("type", method, field), &mut Vec::new()).unwrap();
            Edit::new(method, &stories, 0)
        };
        let message = recipe(field).err().unwrap_or_else(|| panic!("{method} {field} passed")).to_string();
        assert!(message.contains(expected) && message.contains("did you mean `q_proj`"), "{method}: {message}");
        // An exclusion of what is left out already, and a value for what is a target.
        if let Err(error) = recipe(&field.replace("q_prj", "q_proj")) {
            panic!("{method} {field}: {error}");
        }
        let peft_type = registry::METHODS.iter().find(|info| info.name == *method).unwrap().peft_type;
        let read = registry::from_peft(&fields_of("peft_type", peft_type, field), &mut Vec::new()).unwrap();
        let zeros = |plan: &ParamPlan| Ok(Tensor::zeros(plan.shape.as_slice(), DType::F32));
        let edit = Edit::with_values(read, &stories, zeros).unwrap();
        assert!(edit.warnings.len() == 1 && edit.warnings[0].contains(expected), "{method}: {:?}", edit.warnings);
    }
    let refused = |field: &str| edit(&format!(r#"{{"type": "lora", {field}}}"#), &stories).err().map(|e| e.to_string());
    let message = refused(r#""exclude_modules": "q_proj""#).unwrap();
    assert!(message.contains("names go into a list: `[q_proj]`"), "{message}");
    // What is no target anyway is left out, as asked; a rank for it would be lost.
    assert_eq!(refused(r#""target_modules": ["v_proj"], "exclude_modules": ["q_proj", "lm_head"]"#), None);
    let message = refused(r#""target_modules": ["v_proj"], "rank_pattern": {"q_proj": 2}"#).unwrap();
    assert!(message.contains("the model has such modules, but they are no targets"), "{message}");
    let message = refused(r#""exclude_modules": ["mlp"]"#).unwrap();
    assert!(message.contains(r"the expression `.*\.mlp\..*`, not in a list"), "{message}");
    // A file for a larger model.
    let file = registry::from_peft(&fields(r#"{"peft_type": "LORA", "layers_to_transform": [0, 7]}"#), &mut Vec::new());
    let zeros = |plan: &ParamPlan| Ok(Tensor::zeros(plan.shape.as_slice(), DType::F32));
    let warnings = Edit::with_values(file.unwrap(), &stories, zeros).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("`layers_to_transform`: found 7"), "{warnings:?}");
}

/// PEFT 0.21 says "Invalid `oft_block_size` (7)! Adjusted `oft_block_size` to (8)." for 64 inputs, and keeps 7 in its file.
#[test]
fn sizes_of_blocks_that_are_not_used_as_given_are_said() {
    let stories = base(&STORIES, false);
    let made = |json: &str| edit(json, &stories).unwrap();
    let adjusted = made(r#"{"type": "oft", "oft_block_size": 7, "target_modules": ["q_proj", "down_proj"]}"#);
    assert_eq!(
        adjusted.warnings,
        [
            "`oft`: `oft_block_size` 7 does not divide the 64 inputs of `model.layers.0.self_attn.q_proj` (maps of this \
             width: 5); 8 is used there, as PEFT does",
            "`oft`: `oft_block_size` 7 does not divide the 172 inputs of `model.layers.0.mlp.down_proj` (maps of this \
             width: 5); 4 is used there, as PEFT does",
        ]
    );
    assert_eq!(adjusted.config["oft_block_size"], 7);
    assert_eq!(adjusted.params[0].value.dims(), [8, 28]);
    let by_number = made(r#"{"type": "oft", "r": 7, "target_modules": ["q_proj"]}"#);
    assert!(
        by_number.warnings[0].starts_with("`oft`: `r` 7 does not divide the 64 inputs"),
        "{:?}",
        by_number.warnings
    );
    assert!(made(r#"{"type": "oft", "oft_block_size": 16, "target_modules": ["q_proj"]}"#).warnings.is_empty());
    let message = refusal(r#"{"type": "boft", "boft_block_size": 7, "target_modules": ["q_proj"]}"#);
    assert!(message.contains("found 7, expected a divisor of 64"), "{message}");
}

#[test]
fn wrong_types_are_said_in_plain_words() {
    for (json, expected) in [
        (r#"{"type": "lora", "r": -1}"#, "field `r`: found -1, expected a whole number, 0 or more"),
        (r#"{"type": "lora", "r": 1.5}"#, "found 1.5, expected a whole number, 0 or more"),
        (r#"{"type": "lora", "r": [4]}"#, "found [4], expected a whole number, 0 or more"),
        (r#"{"type": "lora", "lora_alpha": "big"}"#, "found \"big\", expected a number"),
        (r#"{"type": "lora", "use_dora": 3}"#, "found 3, expected true or false"),
        (r#"{"type": "lora", "bias": 3}"#, "found 3, expected one of `none`, `all`, `lora_only`"),
        (r#"{"type": "lora", "init_lora_weights": 3}"#, "found 3, expected true, false, or the name of a start"),
        (r#"{"type": "lora", "rank_pattern": 3}"#, "found 3, expected names with values (`{name: value}`)"),
        (r#"{"type": "lora", "modules_to_save": "lm_head"}"#, "found \"lm_head\", expected a list (`[a, b]`)"),
        (r#"{"type": "lora", "modules_to_save": [1]}"#, "found [1], expected a text for each of its values"),
        (r#"{"type": "lora", "target_modules": 3}"#, "found 3, expected a text, or a list of them"),
        (r#"{"type": "oft", "target_modules": [3]}"#, "found [3], expected a text for each of its values"),
        (
            r#"{"type": "oft", "layers_to_transform": -1}"#,
            "found -1, expected a whole number, 0 or more, or a list of them",
        ),
    ] {
        let message = refusal(json);
        assert!(message.contains(expected), "{json}\n  said: {message}\n  expected: {expected}");
    }
}

/// `{}` are a variant's defaults, which PEFT would use.
#[test]
fn a_variant_that_is_asked_for_with_its_defaults_is_refused_as_with_others() {
    for field in ["eva_config", "arrow_config", "velora_config", "corda_config", "kasa_config", "monteclora_config"] {
        let expected = format!("`{field}` is set to {{}}, which is not supported: this variant is not built");
        let message = refusal(&format!(r#"{{"type": "lora", "{field}": {{}}}}"#));
        assert!(message.contains(&expected), "{message}");
        let file = |value: &str| {
            let config = fields(&format!(r#"{{"peft_type": "LORA", "{field}": {value}}}"#));
            registry::from_peft(&config, &mut Vec::new()).err().map(|error| error.to_string())
        };
        assert!(file("{}").is_some_and(|message| message.contains(&expected)));
        assert_eq!(file("null"), None);
    }
}

#[test]
fn unknown_fields_of_a_file_are_passed_over_only_when_switched_off() {
    let mut warnings = Vec::new();
    let off = fields(r#"{"peft_type": "LORA", "newest_idea": null, "another": {}, "revision": "main"}"#);
    registry::from_peft(&off, &mut warnings).unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let on = fields(r#"{"peft_type": "LORA", "newest_idea": 3}"#);
    let message = registry::from_peft(&on, &mut Vec::new()).err().unwrap().to_string();
    assert!(message.contains("`newest_idea` is set to 3"), "{message}");
}

/// One linear map of more elements than places are numbered to.
#[test]
fn places_in_a_tensor_that_is_too_large_are_refused_before_anything_is_made() {
    let wide = Shape { layers: 1, hidden: 1 << 16, intermediate: (1 << 15) + 1, ..STORIES };
    let base = base(&wide, false);
    for method in ["fish_mask", "child_tuning", "diff_pruning", "mask_tuning", "shira", "supertuning"] {
        let made = edit(&format!(r#"{{"type": "{method}", "target_modules": ["up_proj"]}}"#), &base);
        let message = made.err().unwrap_or_else(|| panic!("{method} is not refused")).to_string();
        for part in ["model.layers.0.mlp.up_proj", "[32769, 65536] of 2147549184 elements", "at most 2147483648"] {
            assert!(message.contains(part), "{method}: {message}");
        }
    }
    assert!(edit(r#"{"type": "lora", "r": 1, "target_modules": ["up_proj"]}"#, &base).is_ok());
}
