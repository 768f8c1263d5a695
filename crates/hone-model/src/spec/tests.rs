//! What a config means, and what is refused.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn spec(config: Value) -> Result<DecoderSpec, ModelError> {
    DecoderSpec::from_config(Path::new("config.json"), &config)
}

fn with(mut config: Value, changes: Value) -> Value {
    if let (Some(config), Some(changes)) = (config.as_object_mut(), changes.as_object()) {
        config.extend(changes.clone());
    }
    config
}

fn llama() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 100000.0
    })
}

fn gemma3(layers: usize) -> Value {
    json!({
        "model_type": "gemma3_text", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32,
        "sliding_window": 512, "query_pre_attn_scalar": 64
    })
}

fn refused(config: Value, says: &str) {
    let error = spec(config).expect_err("this config must be refused").to_string();
    assert!(error.contains(says), "`{error}` does not say `{says}`");
}

#[test]
fn a_plain_llama_config() {
    let spec = spec(llama()).unwrap();
    assert_eq!((spec.head_dim, spec.query_width(), spec.key_value_width()), (16, 64, 32));
    assert_eq!((spec.attention_scale, spec.embedding_factor, spec.norm_offset), (0.25, 1.0, 0.0));
    assert!(!spec.qkv_bias && !spec.qk_norm && !spec.post_norms && !spec.tie_word_embeddings);
    assert_eq!(spec.layers.len(), 3);
    assert!(spec.layers.iter().all(|l| l.window.is_none()));
    let frequencies = &spec.layers[0].rope.inverse_frequencies;
    assert_eq!(frequencies.len(), 8);
    assert_eq!(frequencies[0], 1.0);
    assert!((frequencies[4] - 100_000f32.powf(-0.5)).abs() < 1e-9);
}

#[test]
fn both_spellings_of_the_rotary_settings_mean_the_same() {
    let scheme = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    let old = spec(with(llama(), json!({"rope_scaling": scheme}))).unwrap();
    let mut new = llama();
    new.as_object_mut().unwrap().remove("rope_theta");
    let new = spec(with(new, json!({"rope_parameters": with(scheme, json!({"rope_theta": 100000.0}))}))).unwrap();
    let plain = spec(llama()).unwrap();
    assert_eq!(old.layers[0].rope.inverse_frequencies, new.layers[0].rope.inverse_frequencies);
    assert_ne!(old.layers[0].rope.inverse_frequencies, plain.layers[0].rope.inverse_frequencies);
}

#[test]
fn llama3_scaling_keeps_short_waves_and_stretches_long_ones() {
    let scheme = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    let scaled = spec(with(llama(), json!({"rope_scaling": scheme}))).unwrap().layers[0].rope.clone();
    let plain = spec(llama()).unwrap().layers[0].rope.clone();
    assert_eq!(scaled.inverse_frequencies[0], plain.inverse_frequencies[0]);
    assert_eq!(scaled.inverse_frequencies[7], plain.inverse_frequencies[7] / 8.0);
}

#[test]
fn gemma3_alternates_windows_and_bases() {
    let spec = spec(gemma3(7)).unwrap();
    let windows: Vec<_> = spec.layers.iter().map(|l| l.window).collect();
    let local = Some(512);
    assert_eq!(windows, [local, local, local, local, local, None, local]);
    assert!((spec.layers[0].rope.inverse_frequencies[8] - 0.01).abs() < 1e-8, "local base 10,000");
    assert!((spec.layers[5].rope.inverse_frequencies[8] - 0.001).abs() < 1e-8, "global base 1,000,000");
    assert_eq!((spec.embedding_factor, spec.attention_scale, spec.norm_offset), (8.0, 0.125, 1.0));
    assert!(spec.qk_norm && spec.post_norms && spec.tie_word_embeddings);
    assert_eq!(spec.activation, Activation::GeluTanh);
}

#[test]
fn the_text_part_of_a_multimodal_gemma3_fills_in_its_defaults() {
    let text = json!({"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}});
    let spec = spec(json!({"model_type": "gemma3", "text_config": text, "vision_config": {}})).unwrap();
    assert_eq!((spec.num_attention_heads, spec.num_key_value_heads, spec.head_dim), (8, 4, 256));
    assert_eq!((spec.vocab_size, spec.layers[33].window), (262_208, Some(1024)));
    assert_eq!(spec.layers[5].rope.inverse_frequencies[0], 0.125, "global layers are scaled");
    assert_eq!(spec.layers[0].rope.inverse_frequencies[0], 1.0, "local layers are not");
    assert_eq!(spec.model_type, "gemma3_text");
    assert_eq!(spec.config["architectures"], json!(["Gemma3ForCausalLM"]));
}

#[test]
fn qwen_windows_start_at_max_window_layers_and_only_when_switched_on() {
    let base = with(llama(), json!({"model_type": "qwen2", "sliding_window": 8, "max_window_layers": 1}));
    assert!(spec(base.clone()).unwrap().layers.iter().all(|l| l.window.is_none()));
    let windows = |config| spec(config).unwrap().layers.iter().map(|l| l.window).collect::<Vec<_>>();
    assert_eq!(windows(with(base, json!({"use_sliding_window": true}))), [None, Some(8), Some(8)]);
}

#[test]
fn mistral_has_a_window_unless_its_config_says_null() {
    let base = with(llama(), json!({"model_type": "mistral"}));
    let window = |config| spec(config).unwrap().layers[2].window;
    assert_eq!(window(base.clone()), Some(4096));
    assert_eq!(window(with(base.clone(), json!({"sliding_window": 16}))), Some(16));
    assert_eq!(window(with(base, json!({"sliding_window": null}))), None);
}

#[test]
fn what_is_not_honoured_is_refused_by_name() {
    refused(with(llama(), json!({"model_type": "gpt_neox"})), "known architectures: llama, mistral");
    refused(with(llama(), json!({"partial_rotary_factor": 0.5})), "partial_rotary_factor");
    refused(with(llama(), json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}})), "`dynamic`");
    refused(with(llama(), json!({"rope_scaling": {"type": "default", "mrope_section": [1]}})), "mrope_section");
    refused(with(llama(), json!({"hidden_act": "mish"})), "hidden_act");
    refused(with(llama(), json!({"quantization_config": {"quant_method": "gptq"}})), "quantization_config");
    refused(with(gemma3(2), json!({"use_bidirectional_attention": true})), "use_bidirectional_attention");
    refused(with(gemma3(2), json!({"layer_types": ["full_attention", "chunked_attention"]})), "layer_types");
    refused(with(gemma3(2), json!({"layer_types": ["full_attention"]})), "2, one a layer");
    refused(with(gemma3(2), json!({"rope_parameters": {"rope_theta": 1e6}})), "sliding_attention");
}

#[test]
fn sizes_that_make_no_sense_are_refused() {
    refused(json!([]), "top level");
    refused(json!({"model_type": "llama"}), "field `hidden_size`: found nothing");
    refused(with(llama(), json!({"hidden_size": 0})), "hidden_size");
    refused(with(llama(), json!({"hidden_size": 1e300})), "hidden_size");
    refused(with(llama(), json!({"hidden_size": -4})), "hidden_size");
    refused(with(llama(), json!({"num_hidden_layers": 1u64 << 40})), "num_hidden_layers");
    refused(with(llama(), json!({"num_key_value_heads": 3})), "a divisor of num_attention_heads (4)");
    refused(with(llama(), json!({"num_attention_heads": 5, "num_key_value_heads": 5})), "hidden_size");
    refused(with(llama(), json!({"head_dim": 15})), "an even number");
    refused(with(llama(), json!({"rms_norm_eps": "small"})), "rms_norm_eps");
    refused(with(llama(), json!({"rope_theta": -1.0})), "rope_theta");
    refused(with(llama(), json!({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}})), "low_freq_factor");
    refused(with(llama(), json!({"rope_scaling": {"type": "yarn", "factor": 4.0, "rope_theta": 1.0}})), "frequencies");
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0u64..70).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z_0-9]{0,12}".prop_map(Value::from),
        prop::collection::vec(prop_oneof!["full_attention", "sliding_attention"], 0..8).prop_map(Value::from),
        Just(json!({"rope_type": "llama3", "factor": 1e-300, "low_freq_factor": 1e300, "high_freq_factor": 1e301})),
        Just(json!({"rope_type": "yarn", "factor": 1e300, "beta_fast": 1e-300, "truncate": false})),
        Just(json!({"full_attention": {"rope_theta": 1e-300}, "sliding_attention": null})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever stands in two fields, a config is read or refused, and what is read fits together.
    #[test]
    fn no_config_makes_it_panic(
        gemma in any::<bool>(),
        model_type in prop::sample::select(&KNOWN_MODEL_TYPES[..]),
        first in (any::<prop::sample::Index>(), any_value()),
        second in (any::<prop::sample::Index>(), any_value()),
    ) {
        const FIELDS: [&str; 19] = [
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "hidden_act", "rope_theta",
            "rope_scaling", "rope_parameters", "layer_types", "sliding_window", "sliding_window_pattern",
            "use_sliding_window", "max_window_layers", "query_pre_attn_scalar",
        ];
        let mut config = if gemma { gemma3(4) } else { llama() };
        config["model_type"] = model_type.into();
        for (field, value) in [first, second] {
            config[FIELDS[field.index(FIELDS.len())]] = value;
        }
        if let Ok(spec) = spec(config) {
            prop_assert!(!spec.layers.is_empty() && spec.num_attention_heads % spec.num_key_value_heads == 0);
            for layer in &spec.layers {
                prop_assert_eq!(2 * layer.rope.inverse_frequencies.len(), spec.head_dim);
                prop_assert!(layer.rope.inverse_frequencies.iter().all(|f| f.is_finite()));
            }
        }
    }
}
