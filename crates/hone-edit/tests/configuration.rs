//! Configurations and targets: what is honoured, what is refused and how it is said. Counts are those Hugging Face PEFT
//! 0.21 reports for the same settings on the same shapes.

mod common;

use common::{SMOL, STORIES, Shape, base, fields, planned_count};
use hone_edit::{Base, registry};

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
        (r#"{"type": "lora", "target_modules": ".*q_proj", "layers_to_transform": [0]}"#, "only with a list"),
        (r#"{"type": "lora", "layers_to_transform": [9]}"#, "nothing is left"),
        (r#"{"type": "lara"}"#, "method `lara` is not known; did you mean `lora`?"),
        (r#"{"type": "full", "modules_to_save": ["lm_head"]}"#, "name the modules in `target_modules`"),
    ] {
        let message = refusal(json);
        assert!(message.contains(expected), "{json}\n  said: {message}\n  expected: {expected}");
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
