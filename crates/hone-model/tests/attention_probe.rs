//! What an attention probe sums, against softmax by its definition in `f64` over the announced queries and keys.

#![allow(clippy::single_range_in_vec_init)] // a set may be one range

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use hone_engine::ops::CacheLane;
use hone_engine::{DType, Tensor, Var};
use hone_model::attention::{AttentionProbe, Masses, Wanted};
use hone_model::cache::{CacheStep, KvCache};
use hone_model::files::ModelFiles;
use hone_model::spec::DecoderSpec;
use hone_model::{Context, Decoder, Hooks, LayerPart, LoadOptions, Model, Site, TokenBatch};

/// Announced values by site.
type Announced = Arc<Mutex<HashMap<Site, Tensor>>>;

/// A probe, and everything that was announced, for whoever computes the same in another way; perhaps behind virtual tokens.
struct Both {
    probe: AttentionProbe,
    announced: Announced,
    virtual_tokens: Option<Tensor>,
}

impl Hooks for Both {
    fn at(&self, cx: &Context, site: Site, h: Var) -> Var {
        self.announced.lock().expect("not poisoned").insert(site, h.value.clone());
        self.probe.at(cx, site, h)
    }

    fn virtual_tokens(&self) -> usize {
        self.virtual_tokens.as_ref().map_or(0, |rows| rows.dim(0))
    }

    fn virtual_embeddings(&self, _cx: &Context) -> Option<Var> {
        self.virtual_tokens.clone().map(Var::constant)
    }
}

fn stories() -> Arc<Decoder> {
    let options = LoadOptions { dtype: DType::F32, keep_quantised: false };
    Model::load("../../assets/stories260k", options).expect("loads").decoder
}

/// A small checkpoint of every kind of attention: grouped keys, norms of queries and keys, windows, soft caps.
fn decoders() -> Vec<(&'static str, Arc<Decoder>)> {
    let tiny = |name: &'static str| {
        let path = Path::new("tests/golden/tiny").join(name);
        let files = ModelFiles::open(&path).expect("a model");
        let spec = DecoderSpec::from_config(&path, &files.config().expect("a config")).expect("known");
        let options = LoadOptions { dtype: DType::F32, keep_quantised: false };
        let decoder = Decoder::load(spec, &files.weights().expect("weights"), options).expect("tensors that fit");
        (name, Arc::new(decoder))
    };
    let mut all: Vec<_> = ["llama", "qwen3", "gemma2", "gemma3_text"].map(tiny).into();
    all.push(("stories260k", stories()));
    all
}

/// Masses of a pass, and what was announced in it.
fn seen(
    decoder: &Arc<Decoder>,
    batch: &TokenBatch,
    wanted: Wanted,
    virtual_tokens: Option<Tensor>,
) -> (Masses, HashMap<Site, Tensor>) {
    let probe = AttentionProbe::new(&decoder.spec);
    probe.watch(wanted);
    let hooks = Arc::new(Both { probe, announced: Announced::default(), virtual_tokens });
    decoder.hidden(&Context::inference(hooks.clone(), DType::F32), batch);
    let masses = hooks.probe.take().expect("a pass came by");
    assert!(hooks.probe.take().is_none(), "what was taken is gone");
    let announced = hooks.announced.lock().expect("not poisoned").clone();
    (masses, announced)
}

/// Softmax by its definition over the keys in `rows` (all of one sequence, in order) that the last of them sees.
fn by_definition(spec: &DecoderSpec, layer: usize, head: usize, q: &Tensor, k: &Tensor, rows: &[usize]) -> Vec<f64> {
    let dim = spec.head_dim;
    let key_head = head * spec.num_key_value_heads / spec.num_attention_heads;
    let row = |t: &Tensor, heads: usize, row: usize, head: usize| -> Vec<f64> {
        t.as_slice::<f32>()[(row * heads + head) * dim..][..dim].iter().map(|v| f64::from(*v)).collect()
    };
    let query = row(q, spec.num_attention_heads, rows[rows.len() - 1], head);
    let window = spec.layers[layer].window.unwrap_or(usize::MAX);
    let score = |(position, key): (usize, &usize)| -> f64 {
        if rows.len() - position > window {
            return f64::NEG_INFINITY;
        }
        let key = row(k, spec.num_key_value_heads, *key, key_head);
        let score = query.iter().zip(&key).map(|(a, b)| a * b).sum::<f64>() * f64::from(spec.attention_scale);
        spec.attention_soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
    };
    let scores: Vec<f64> = rows.iter().enumerate().map(score).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

fn announced(of: &HashMap<Site, Tensor>, layer: usize, part: LayerPart) -> &Tensor {
    &of[&Site::Layer { layer, part }]
}

fn close(name: &str, found: f64, expected: f64) {
    assert!((found - expected).abs() < 2e-6, "{name}: {found}, expected {expected}");
}

const FIRST: [u32; 14] = [5, 90, 17, 33, 8, 61, 44, 3, 29, 70, 12, 55, 21, 2];

fn every_layer(decoder: &Decoder) -> Range<usize> {
    0..decoder.layers.len()
}

#[test]
fn masses_are_softmax_by_definition() {
    // Two sequences in one batch; the second begins at row 14.
    let batch = TokenBatch::from_sequences(&[FIRST.to_vec(), vec![9, 9, 40, 11, 3]]);
    let sets = vec![vec![0..3, 7..9], vec![2..14], vec![0..100], Vec::new()];
    for (name, decoder) in decoders() {
        let rows = vec![13, 2, 18];
        let wanted = Wanted { rows: rows.clone(), sets: sets.clone(), layers: every_layer(&decoder) };
        let (masses, values) = seen(&decoder, &batch, wanted, None);
        let spec = &decoder.spec;
        assert_eq!((masses.rows, masses.layers, masses.sets), (3, spec.layers.len(), 5), "{name}");
        assert_eq!(masses.heads, spec.num_attention_heads, "{name}");
        let mut spread = 0.0f64;
        for (index, row) in rows.into_iter().enumerate() {
            let sequence: Vec<usize> = if row < 14 { (0..=row).collect() } else { (14..=row).collect() };
            for layer in 0..masses.layers {
                let (q, k) = (announced(&values, layer, LayerPart::Query), announced(&values, layer, LayerPart::Key));
                for head in 0..masses.heads {
                    let weights = by_definition(spec, layer, head, q, k, &sequence);
                    let at = |set| masses.at(index, layer, head, set);
                    for (set, ranges) in sets.iter().enumerate() {
                        let inside = |position: &usize| ranges.iter().any(|range| range.contains(position));
                        let expected = (0..weights.len()).filter(inside).map(|j| weights[j]).sum();
                        close(name, at(set), expected);
                    }
                    close(name, at(2), 1.0);
                    assert_eq!((at(3), at(4)), (0.0, 0.0), "{name}: an empty set, and no virtual tokens");
                    spread =
                        spread.max(weights.iter().map(|w| (w - 1.0 / weights.len() as f64).abs()).fold(0.0, f64::max));
                }
            }
        }
        assert!(spread > 0.01, "{name}: attention is not uniform, so the test can tell keys apart: {spread}");
    }
}

/// Weights of every key, head and layer, as `transformers` has them (`tools/golden/attention.py`).
#[test]
fn masses_of_single_tokens_are_the_weights_of_transformers() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("golden/attention.json")).expect("golden files are sound");
    let batch = TokenBatch::from_sequences(&[FIRST]);
    assert_eq!(golden["ids"], serde_json::json!(FIRST));
    let rows: Vec<usize> = serde_json::from_value(golden["rows"].clone()).expect("rows");
    for (name, decoder) in decoders() {
        let sets = (0..FIRST.len()).map(|key| vec![key..key + 1]).collect();
        let wanted = Wanted { rows: rows.clone(), sets, layers: every_layer(&decoder) };
        let (masses, _) = seen(&decoder, &batch, wanted, None);
        let theirs: Vec<Vec<Vec<Vec<f64>>>> =
            serde_json::from_value(golden["models"][name].clone()).expect("rows, layers, heads, keys");
        assert_eq!((theirs.len(), theirs[0].len(), theirs[0][0].len()), (rows.len(), masses.layers, masses.heads));
        for (row, layers) in theirs.iter().enumerate() {
            for (layer, heads) in layers.iter().enumerate() {
                for (head, keys) in heads.iter().enumerate() {
                    for (key, weight) in keys.iter().enumerate() {
                        let found = masses.at(row, layer, head, key);
                        let place = format!("{name}: row {row}, layer {layer}, head {head}, key {key}");
                        assert!((found - weight).abs() < 1e-5, "{place}: {found}, expected {weight}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_shared_prefix_changes_nothing() {
    for (name, decoder) in decoders() {
        let sets = vec![vec![0..4], vec![4..9], vec![9..12]];
        let wanted = |rows| Wanted { rows, sets: sets.clone(), layers: every_layer(&decoder) };
        let mut tree = TokenBatch::default();
        let parent = tree.push(&FIRST[..9], None);
        tree.push(&[70, 12], Some(parent));
        tree.push(&[55, 2, 9], Some(parent));
        let whole =
            TokenBatch::from_sequences(&[[&FIRST[..9], &[70, 12]].concat(), [&FIRST[..9], &[55, 2, 9]].concat()]);
        let (shared, _) = seen(&decoder, &tree, wanted(vec![10, 13, 4]), None);
        let (alone, _) = seen(&decoder, &whole, wanted(vec![10, 22, 4]), None);
        let largest = shared.values.iter().zip(&alone.values).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(shared.values.len() == alone.values.len() && largest < 2e-6, "{name}: {largest}");
        assert!((0..shared.heads).any(|head| shared.at(1, 0, head, 2) > 0.01), "{name}");
    }
}

/// Virtual tokens made of the embeddings of real ones are seen as those are, and counted apart.
#[test]
fn virtual_tokens_take_the_place_of_the_tokens_they_are_made_of() {
    const TOKENS: usize = 4;
    for (name, decoder) in decoders() {
        let spelled = TokenBatch::from_sequences(&[FIRST, FIRST]);
        let rest = TokenBatch::from_sequences(&[&FIRST[TOKENS..], &FIRST[TOKENS..]]);
        let layers = every_layer(&decoder);
        let expected = Wanted { rows: vec![13, 27], sets: vec![vec![0..4], vec![4..8]], layers: layers.clone() };
        let (expected, values) = seen(&decoder, &spelled, expected, None);
        let embeddings = values[&Site::EmbedOut].narrow(0..TOKENS);
        let wanted = Wanted { rows: vec![9, 19], sets: vec![vec![0..4], vec![0..10]], layers };
        let (found, _) = seen(&decoder, &rest, wanted, Some(embeddings));
        for row in 0..2 {
            for layer in 0..found.layers {
                for head in 0..found.heads {
                    let at = |set| found.at(row, layer, head, set);
                    close(name, at(2), expected.at(row, layer, head, 0));
                    close(name, at(0), expected.at(row, layer, head, 1));
                    close(name, at(1) + at(2), 1.0);
                }
            }
        }
    }
}

#[test]
fn layers_that_were_not_asked_for_are_left_out() {
    let decoder = stories();
    let batch = TokenBatch::from_sequences(&[FIRST]);
    let wanted = |layers| Wanted { rows: vec![13], sets: vec![vec![0..5]], layers };
    let (all, _) = seen(&decoder, &batch, wanted(0..99), None);
    let (one, _) = seen(&decoder, &batch, wanted(3..4), None);
    assert_eq!((all.layers, one.layers), (5, 1));
    for head in 0..8 {
        assert_eq!(one.at(0, 0, head, 0), all.at(0, 3, head, 0));
    }
}

#[test]
fn a_pass_with_a_cache_is_not_seen() {
    let decoder = stories();
    let probe = Arc::new(AttentionProbe::new(&decoder.spec));
    probe.watch(Wanted { rows: vec![2], sets: vec![vec![0..2]], layers: every_layer(&decoder) });
    let cache = KvCache::new(&decoder.spec, 1, 8, DType::F32);
    let lanes = vec![CacheLane { start: 0, len: 3, slot: 0, past: 0 }];
    let mut cx = Context::inference(probe.clone(), DType::F32);
    cx.cache = Some(Arc::new(Mutex::new(CacheStep { cache, lanes })));
    decoder.hidden(&cx, &TokenBatch::from_sequences(&[&FIRST[..3]]));
    assert_eq!(probe.take(), None);
}
