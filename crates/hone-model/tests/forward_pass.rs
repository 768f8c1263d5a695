//! What edits, probes and training may rely on in the forward pass, on small checkpoints of every kind of block.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use hone_engine::ops::{self, CacheLane, head_logits, lm_head_loss};
use hone_engine::{DType, Gradients, ParamId, RandomKey, Tape, Tensor, Var, WeightRef};
use hone_model::cache::{CacheStep, KvCache};
use hone_model::files::ModelFiles;
use hone_model::spec::DecoderSpec;
use hone_model::{Context, Decoder, Hooks, LayerPart, LoadOptions, NoHooks, Sharing, Site, TokenBatch};

const KINDS: [&str; 4] = ["llama", "qwen3", "gemma2", "gemma3_text"];

fn decoder(name: &str) -> Arc<Decoder> {
    let path = Path::new("tests/golden/tiny").join(name);
    let files = ModelFiles::open(&path).expect("a model");
    let spec = DecoderSpec::from_config(&path, &files.config().expect("a config")).expect("known");
    let options = LoadOptions { dtype: DType::F32, keep_quantised: false };
    Arc::new(Decoder::load(spec, &files.weights().expect("weights"), options).expect("tensors that fit"))
}

fn batch() -> TokenBatch {
    TokenBatch::from_sequences(&[vec![5u32, 90, 17, 33, 8, 61, 44, 3, 29, 70, 12, 55], vec![9, 9, 40]])
}

fn hidden(decoder: &Arc<Decoder>, hooks: Arc<dyn Hooks>, batch: &TokenBatch) -> Tensor {
    decoder.hidden(&Context::inference(hooks, DType::F32), batch).value
}

fn distance(a: &Tensor, b: &Tensor) -> f32 {
    let pairs = a.as_slice::<f32>().iter().zip(b.as_slice::<f32>());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Calls a function on every activation.
struct OnSite<F>(F);

impl<F: Fn(&Context, Site, Var) -> Var + Send + Sync> Hooks for OnSite<F> {
    fn at(&self, cx: &Context, site: Site, h: Var) -> Var {
        (self.0)(cx, site, h)
    }
}

fn on_site(f: impl Fn(&Context, Site, Var) -> Var + Send + Sync + 'static) -> Arc<dyn Hooks> {
    Arc::new(OnSite(f))
}

#[test]
fn every_site_is_announced_once_in_order_with_its_width() {
    for name in KINDS {
        let decoder = decoder(name);
        let spec = &decoder.spec;
        let seen = Arc::new(Mutex::new(Vec::<(Site, Vec<usize>)>::new()));
        let list = seen.clone();
        let hooks = on_site(move |_, site, h| {
            list.lock().expect("not poisoned").push((site, h.value.dims().to_vec()));
            h
        });
        hidden(&decoder, hooks, &batch());
        let mut expected = vec![(Site::EmbedOut, spec.hidden_size)];
        for layer in 0..spec.layers.len() {
            let width = |part| match part {
                LayerPart::Query | LayerPart::HeadOut => spec.query_width(),
                LayerPart::Key | LayerPart::Value => spec.key_value_width(),
                LayerPart::MlpAct => spec.intermediate_size,
                _ => spec.hidden_size,
            };
            expected.extend(LayerPart::ALL.map(|(part, _)| (Site::Layer { layer, part }, width(part))));
        }
        expected.push((Site::FinalNorm, spec.hidden_size));
        let expected: Vec<_> = expected.into_iter().map(|(site, width)| (site, vec![15, width])).collect();
        assert_eq!(*seen.lock().expect("not poisoned"), expected, "{name}");
    }
}

#[test]
fn hooks_that_change_nothing_change_nothing() {
    for name in KINDS {
        let decoder = decoder(name);
        let plain = hidden(&decoder, Arc::new(NoHooks), &batch());
        let copying = on_site(|_, _, h| Var::constant(Tensor::from_slice(h.value.shape(), h.value.as_slice::<f32>())));
        assert!(distance(&plain, &hidden(&decoder, copying, &batch())) < 1e-5, "{name}");
    }
}

#[test]
fn a_changed_residual_stream_is_what_the_next_norm_reads() {
    for name in KINDS {
        let decoder = decoder(name);
        // Twice the stream, given between layers, before or after the border: the same, and not what was there.
        let doubling = |at: Site| {
            let hooks = on_site(move |cx, site, h| if site == at { ops::scale(&cx.tape, &h, -2.0) } else { h });
            hidden(&decoder, hooks, &batch())
        };
        let after = doubling(Site::Layer { layer: 0, part: LayerPart::ResidPost });
        let before = doubling(Site::Layer { layer: 1, part: LayerPart::ResidPre });
        let plain = hidden(&decoder, Arc::new(NoHooks), &batch());
        assert_eq!(after.as_bytes(), before.as_bytes(), "{name}");
        assert!(distance(&plain, &after) > 0.1, "{name}");
        // In the middle of the last layer, written in place: the MLP and the final norm read the new numbers.
        let layer = decoder.layers.len() - 1;
        let middle = on_site(move |_, site, mut h| {
            if site == (Site::Layer { layer, part: LayerPart::ResidMid }) {
                h.value.as_mut_slice::<f32>().fill(0.5);
            }
            h
        });
        let same_rows = hidden(&decoder, middle, &batch());
        let (first, last) = (same_rows.narrow(0..1), same_rows.narrow(14..15));
        assert_eq!(first.as_bytes(), last.as_bytes(), "{name}: equal streams give equal rows");
    }
}

#[test]
fn neighbours_in_the_batch_change_nothing() {
    for name in KINDS {
        let decoder = decoder(name);
        let together = hidden(&decoder, Arc::new(NoHooks), &batch());
        let alone = hidden(&decoder, Arc::new(NoHooks), &TokenBatch::from_sequences(&[vec![9u32, 9, 40]]));
        assert_eq!(together.narrow(12..15).as_bytes(), alone.as_bytes(), "{name}");
    }
}

#[test]
fn a_shared_prefix_gives_what_whole_sequences_give() {
    for name in KINDS {
        let decoder = decoder(name);
        let (prefix, ends) = ([5u32, 90, 17, 33, 8, 61, 44, 3, 29], [[70u32, 12].as_slice(), &[55, 2, 9]]);
        let mut shared = TokenBatch::default();
        let parent = shared.push(&prefix, None);
        let mut whole = TokenBatch::default();
        for end in ends {
            shared.push(end, Some(parent));
            whole.push(&[&prefix, end].concat(), None);
        }
        let (shared, whole) =
            (hidden(&decoder, Arc::new(NoHooks), &shared), hidden(&decoder, Arc::new(NoHooks), &whole));
        assert!(distance(&shared.narrow(9..11), &whole.narrow(9..11)) < 1e-5, "{name}");
        assert!(distance(&shared.narrow(11..14), &whole.narrow(20..23)) < 1e-5, "{name}");
    }
}

#[test]
fn a_cache_filled_in_pieces_gives_what_one_pass_gives() {
    for name in KINDS {
        let decoder = decoder(name);
        let batch = batch();
        let whole = hidden(&decoder, Arc::new(NoHooks), &batch);
        let cache = KvCache::new(&decoder.spec, 2, 12, DType::F32);
        let step = Arc::new(Mutex::new(CacheStep { cache, lanes: Vec::new() }));
        let mut cx = Context::inference(Arc::new(NoHooks), DType::F32);
        cx.cache = Some(step.clone());
        // (sequence, from, to): the second sequence comes in while the first is under way, in another slot.
        for pieces in [vec![(0, 0, 5)], vec![(1, 0, 2), (0, 5, 6)], vec![(0, 6, 12), (1, 2, 3)]] {
            let mut part = TokenBatch::default();
            let mut lanes = Vec::new();
            for &(sequence, from, to) in &pieces {
                let segment = batch.segments[sequence];
                let start = part.push(&batch.ids[segment.start + from..segment.start + to], None);
                let lane = part.segments[start];
                part.positions.truncate(lane.start);
                part.positions.extend(from as u32..to as u32);
                lanes.push(CacheLane { start: lane.start, len: lane.len, slot: 1 - sequence, past: from });
            }
            step.lock().expect("not poisoned").lanes = lanes;
            let rows = decoder.hidden(&cx, &part).value;
            for (lane, &(sequence, from, to)) in part.segments.iter().zip(&pieces) {
                let start = batch.segments[sequence].start;
                let ours = rows.narrow(lane.start..lane.start + lane.len);
                let expected = whole.narrow(start + from..start + to);
                assert_eq!(ours.as_bytes(), expected.as_bytes(), "{name}: {pieces:?}");
            }
        }
    }
}

/// Everything the optimiser could train in one linear map, one norm and the embedding, as parameters.
struct Trained;

impl Hooks for Trained {
    fn linears(&self, cx: &Context, linears: &[&hone_model::Linear], x: &Var) -> Vec<Var> {
        let mut out = cx.base_linears(linears, x);
        for (linear, y) in linears.iter().zip(&mut out) {
            if let (true, WeightRef::Frozen(weight)) = (linear.name.ends_with("layers.1.mlp.down_proj"), &linear.weight)
            {
                let trained = WeightRef::Trained(Var::param(ParamId(0), weight.to_dense(DType::F32)));
                *y = ops::linear(&cx.tape, x, &trained, None, &[]);
            }
        }
        out
    }

    fn weight(&self, _cx: &Context, name: &str, base: &WeightRef) -> WeightRef {
        match base {
            WeightRef::Frozen(weight) if name == "model.embed_tokens.weight" => {
                WeightRef::Trained(Var::param(ParamId(1), weight.to_dense(DType::F32)))
            }
            other => other.clone(),
        }
    }

    fn vector(&self, _cx: &Context, name: &str, base: &Tensor) -> Var {
        if name == "model.layers.0.input_layernorm.weight" {
            return Var::param(ParamId(2), base.clone());
        }
        Var::constant(base.clone())
    }
}

fn gradients(decoder: &Arc<Decoder>, recompute: bool) -> (f32, Vec<Tensor>) {
    let tape = Tape::recording();
    let cx = Context {
        training: true,
        key: RandomKey::new(1),
        recompute,
        ..Context::new(tape.clone(), Arc::new(Trained), DType::F32)
    };
    let batch = batch();
    let rows: Vec<u32> = (0..11).chain(12..14).collect();
    let targets: Vec<u32> = rows.iter().map(|&row| batch.ids[row as usize + 1]).collect();
    let weights = vec![1.0; rows.len()];
    let hidden = decoder.hidden(&cx, &batch);
    let cap = decoder.spec.logit_soft_cap;
    let loss = lm_head_loss(&tape, &hidden, &decoder.head(&cx), &rows, &targets, &weights, 13.0, cap);
    let mut gradients = Gradients::new();
    tape.backward(&loss.loss, Tensor::full([1], DType::F32, 1.0), &mut gradients);
    let of = |id| gradients.param(ParamId(id)).expect("a gradient").clone();
    (loss.loss.value.item(), (0..3).map(of).collect())
}

#[test]
fn recomputed_blocks_give_the_same_gradients() {
    for name in KINDS {
        let decoder = decoder(name);
        let ((loss, kept), (again, recomputed)) = (gradients(&decoder, false), gradients(&decoder, true));
        assert!((loss - again).abs() < 1e-5, "{name}: {loss} {again}");
        for (id, (kept, recomputed)) in kept.iter().zip(&recomputed).enumerate() {
            let largest = kept.as_slice::<f32>().iter().fold(0f32, |l, v| l.max(v.abs()));
            assert!(largest > 1e-4, "{name}: parameter {id} has a gradient");
            assert!(distance(kept, recomputed) < 1e-4 * largest, "{name}: parameter {id}");
        }
    }
}

#[test]
fn a_tied_head_takes_edits_of_the_embedding_and_its_own() {
    let decoder = decoder("gemma3_text");
    assert!(decoder.lm_head.is_none());
    struct Zeroed(&'static str);
    impl Hooks for Zeroed {
        fn weight(&self, _cx: &Context, name: &str, base: &WeightRef) -> WeightRef {
            let WeightRef::Frozen(weight) = base else { return base.clone() };
            if name != self.0 {
                return base.clone();
            }
            let zeros = Tensor::zeros([weight.out_features(), weight.in_features()], DType::F32);
            WeightRef::Frozen(Arc::new(hone_engine::Weight::dense(zeros)))
        }
    }
    let plain = hidden(&decoder, Arc::new(NoHooks), &batch());
    for (name, embeds) in [("model.embed_tokens.weight", false), ("lm_head.weight", true)] {
        let hooks = Arc::new(Zeroed(name));
        let h = hidden(&decoder, hooks.clone(), &batch());
        assert_eq!(distance(&h, &plain) == 0.0, embeds, "{name}");
        let cx = Context::inference(hooks, DType::F32);
        let logits = head_logits(&plain, &decoder.head(&cx), &[0, 3], None);
        assert!(logits.as_slice::<f32>().iter().all(|&l| l == 0.0), "{name} reaches the head");
    }
}

/// Virtual tokens that are embeddings (from outside), or keys and values that are put in the place of theirs.
struct Virtual {
    tokens: usize,
    sharing: Sharing,
    embeddings: Option<Tensor>,
    keys_values: Arc<Mutex<HashMap<Site, Tensor>>>,
}

impl Hooks for Virtual {
    fn at(&self, cx: &Context, site: Site, h: Var) -> Var {
        let known = self.keys_values.lock().expect("not poisoned");
        let Some(rows) = known.get(&site) else { return h };
        let real = cx.batch.real_rows().end;
        let places = (real..real + cx.batch.virtual_rows).step_by(self.tokens);
        places.fold(h, |h, start| ops::replace_rows(&cx.tape, &h, start, &Var::constant(rows.clone())))
    }

    fn virtual_tokens(&self) -> usize {
        self.tokens
    }

    fn virtual_token_sharing(&self) -> Sharing {
        self.sharing
    }

    fn virtual_embeddings(&self, cx: &Context) -> Option<Var> {
        let rows = Var::constant(self.embeddings.clone()?);
        Some(ops::concat_rows(&cx.tape, &vec![rows; cx.batch.virtual_rows / self.tokens]))
    }
}

/// A prompt made of the embeddings of tokens, or a prefix made of their keys and values, is these tokens: every row after it
/// is the row of the spelled-out sequence, in a batch and with a cache, windows of attention included (the longest sequence
/// is longer than the narrowest window). The model without edits gives the logits of `transformers`, so prompts do too.
#[test]
fn virtual_tokens_are_tokens() {
    const TOKENS: usize = 4;
    let whole = batch();
    let (first, second) = (&whole.ids[..12], [&whole.ids[..TOKENS], &whole.ids[12..]].concat());
    let spelled = TokenBatch::from_sequences(&[first, &second]);
    let rest = TokenBatch::from_sequences(&[&first[TOKENS..], &second[TOKENS..]]);
    let rows = (TOKENS..12).chain(12 + TOKENS..12 + second.len());
    for name in KINDS {
        let decoder = decoder(name);
        let seen = Arc::new(Mutex::new(HashMap::<Site, Tensor>::new()));
        let kept = seen.clone();
        let expected = hidden(
            &decoder,
            on_site(move |_, site, h| {
                let wanted = [LayerPart::Key, LayerPart::Value];
                if site == Site::EmbedOut || matches!(site, Site::Layer { part, .. } if wanted.contains(&part)) {
                    kept.lock().expect("not poisoned").insert(site, h.value.narrow(0..TOKENS));
                }
                h
            }),
            &spelled,
        );
        let width = expected.dim(1);
        let expected: Vec<f32> =
            rows.clone().flat_map(|row| expected.as_slice::<f32>()[row * width..(row + 1) * width].to_vec()).collect();
        let mut keys_values = seen.lock().expect("not poisoned").clone();
        let embeddings = keys_values.remove(&Site::EmbedOut);
        for sharing in [Sharing::All, Sharing::Group, Sharing::Sequence] {
            for (what, embeddings, keys_values) in
                [("prompt", embeddings.clone(), HashMap::new()), ("prefix", None, keys_values.clone())]
            {
                let keys_values = Arc::new(Mutex::new(keys_values));
                let hooks: Arc<dyn Hooks> = Arc::new(Virtual { tokens: TOKENS, sharing, embeddings, keys_values });
                let mut grouped = rest.clone();
                grouped.groups = vec![0, 0];
                let ours = hidden(&decoder, hooks.clone(), &grouped);
                let expected = Tensor::from_slice(ours.dims(), &expected);
                let apart = distance(&ours, &expected);
                assert!(apart < 2e-5, "{name}, {what}, {sharing:?}: {apart}");

                let mut cx = Context::inference(hooks, DType::F32);
                let cache = KvCache::new(&decoder.spec, 2, 16, DType::F32);
                let lane = |slot: usize| rest.segments[slot];
                let lanes =
                    (0..2).map(|slot| CacheLane { start: lane(slot).start, len: lane(slot).len, slot, past: 0 });
                cx.cache = Some(Arc::new(Mutex::new(CacheStep { cache, lanes: lanes.collect() })));
                let cached = decoder.hidden(&cx, &rest).value;
                assert!(distance(&cached, &expected) < 2e-5, "{name}, {what}, with a cache");
            }
        }
    }
}
