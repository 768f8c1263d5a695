//! Every engine of this machine against the `f64` oracle, finite differences, and equality to the bit wherever two ways
//! of asking mean the same.

use super::engine::available;
use super::*;
use crate::dtype::Element;
use crate::ops::attention::KeptBlocks;
use crate::ops::cached_attention::{CacheLane, cached_attention};
use crate::reference::attention::{AttentionInputs, attention as oracle, attention_gradients};
use crate::tape::{Gradients, ParamId};

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    // Three uniform numbers make a bell with a standard deviation of 1.
    (0..n).map(|_| 2.0 * (uniform() + uniform() + uniform()) - 3.0).collect()
}

fn spec(query_heads: usize, key_value_heads: usize, head_dim: usize) -> AttentionSpec {
    let scale = (head_dim as f32).powf(-0.5);
    AttentionSpec { query_heads, key_value_heads, head_dim, scale, causal: true, window: None, soft_cap: None }
}

/// Independent segments of these lengths.
fn segments(lens: &[usize]) -> Vec<Segment> {
    let mut start = 0;
    let mut segment = |&len: &usize| {
        start += len;
        Segment { start: start - len, len, parent: None }
    };
    lens.iter().map(&mut segment).collect()
}

struct Case {
    spec: AttentionSpec,
    segments: Vec<Segment>,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Option<Tensor>,
    gradient: Tensor,
}

fn case(spec: AttentionSpec, segments: Vec<Segment>, dtype: DType, bias: bool, seed: u64) -> Case {
    let tokens: usize = segments.iter().map(|s| s.len).sum();
    let (queries, keys) = (spec.query_heads * spec.head_dim, spec.key_value_heads * spec.head_dim);
    let tensor =
        |width: usize, seed| Tensor::from_slice([tokens, width], &numbers(tokens * width, seed)).to_dtype(dtype);
    let heads = spec.query_heads;
    let bias = bias.then(|| Tensor::from_slice([heads, tokens, tokens], &numbers(heads * tokens * tokens, seed + 4)));
    Case {
        q: tensor(queries, seed),
        k: tensor(keys, seed + 1),
        v: tensor(keys, seed + 2),
        gradient: tensor(queries, seed + 3),
        bias,
        spec,
        segments,
    }
}

#[derive(Debug, PartialEq)]
struct Results {
    out: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
    dbias: Vec<f32>,
}

fn run(level: Level, case: &Case) -> Results {
    let param = |id, t: &Tensor| Var::param(ParamId(id), t.clone());
    let (q, k, v) = (param(0, &case.q), param(1, &case.k), param(2, &case.v));
    let bias = case.bias.as_ref().map(|b| param(3, b));
    let tape = Tape::recording();
    let out = attention_on(level, &tape, &q, &k, &v, &case.segments, &case.spec, bias.as_ref());
    let mut grads = Gradients::new();
    tape.backward(&out, case.gradient.clone(), &mut grads);
    let grad = |id| grads.param(ParamId(id)).map_or(Vec::new(), Tensor::to_vec_f32);
    Results { out: out.value.to_vec_f32(), dq: grad(0), dk: grad(1), dv: grad(2), dbias: grad(3) }
}

fn levels() -> impl Iterator<Item = (DType, Level)> {
    let of = |dtype| fast(dtype).into_iter().map(move |level| (dtype, level));
    of(DType::F32).chain(of(DType::BF16))
}

/// The levels with vector instructions. Plain loops call a function for every fused multiply-add; they have a small
/// test of their own.
fn fast(dtype: DType) -> Vec<Level> {
    available(dtype).into_iter().filter(|level| *level != Level::Portable).collect()
}

/// `(Σ (a - b)² / Σ b²)^1/2`, and the largest difference relative to the largest value.
fn distance(a: &[f32], b: &[f64]) -> (f64, f64) {
    assert_eq!(a.len(), b.len());
    let (mut square, mut norm, mut worst, mut largest) = (0.0, 0.0, 0.0f64, 0.0f64);
    for (a, b) in a.iter().zip(b) {
        let difference = (*a as f64 - b).abs();
        assert!(!difference.is_nan(), "{a} where {b} was expected");
        square += difference * difference;
        norm += b * b;
        worst = worst.max(difference);
        largest = largest.max(b.abs());
    }
    if norm == 0.0 {
        return (square.sqrt(), worst);
    }
    ((square / norm).sqrt(), worst / largest)
}

fn assert_near_oracle(case: &Case, name: &str) {
    assert_levels_near_oracle(&fast(case.q.dtype()), case, name);
}

fn assert_levels_near_oracle(levels: &[Level], case: &Case, name: &str) {
    let wide = |t: &Tensor| t.to_vec_f32().into_iter().map(f64::from).collect::<Vec<_>>();
    let inputs =
        AttentionInputs { q: wide(&case.q), k: wide(&case.k), v: wide(&case.v), bias: case.bias.as_ref().map(wide) };
    let out = oracle(&inputs, &case.segments, &case.spec);
    let grads = attention_gradients(&inputs, &wide(&case.gradient), &case.segments, &case.spec);
    for &level in levels {
        let results = run(level, case);
        // f32 accumulates a few rounding errors of 6e-8. bf16 rounds results, and on engines of bf16 pairs
        // probabilities and their gradients too, by 2^-9 each at most.
        let (mean, worst) = if case.q.dtype() == DType::F32 { (2e-6, 1e-5) } else { (4e-3, 1e-2) };
        let dbias = grads.bias.clone().unwrap_or_default();
        let pairs = [
            ("out", &results.out, &out),
            ("dq", &results.dq, &grads.q),
            ("dk", &results.dk, &grads.k),
            ("dv", &results.dv, &grads.v),
            ("dbias", &results.dbias, &dbias),
        ];
        for (what, ours, exact) in pairs {
            let (square, largest) = distance(ours, exact);
            assert!(
                square <= mean && largest <= worst,
                "{name}, {level:?}: {what} is {square:.1e} off in the mean, {largest:.1e} at most"
            );
        }
    }
}

#[test]
fn agrees_with_the_oracle_over_heads_and_widths() {
    for dtype in [DType::F32, DType::BF16] {
        let mut seed = 0;
        for (query_heads, key_heads, dim, lens) in [
            (9, 3, 64, &[1, 64, 130][..]),
            (9, 3, 16, &[65, 2]),
            (4, 1, 80, &[100]),
            (3, 3, 128, &[70, 3]),
            (4, 1, 256, &[66]),
            (8, 4, 8, &[40, 41]),
            (71, 1, 16, &[9]),
        ] {
            for causal in [true, false] {
                let spec = AttentionSpec { causal, ..spec(query_heads, key_heads, dim) };
                seed += 10;
                let name = format!("{dtype} {query_heads}/{key_heads} heads of {dim}, {lens:?}, causal {causal}");
                assert_near_oracle(&case(spec, segments(lens), dtype, false, seed), &name);
            }
        }
    }
}

#[test]
fn agrees_with_the_oracle_over_masks_caps_biases_and_parents() {
    let tree = vec![
        Segment { start: 0, len: 70, parent: None },
        Segment { start: 100, len: 20, parent: Some(0) },
        Segment { start: 70, len: 30, parent: Some(0) },
        Segment { start: 120, len: 0, parent: Some(1) },
        Segment { start: 120, len: 11, parent: Some(3) },
        Segment { start: 131, len: 9, parent: None },
    ];
    for dtype in [DType::F32, DType::BF16] {
        let mut seed = 1000;
        for segments in [segments(&[140]), tree.clone()] {
            for (window, soft_cap, bias, causal) in [
                (None, None, false, true),
                (Some(2), None, false, true),
                (Some(17), None, false, true),
                (Some(90), None, true, true),
                (Some(33), None, false, false),
                (None, Some(2.0), false, true),
                (Some(50), Some(3.0), true, false),
            ] {
                let spec = AttentionSpec { window, soft_cap, causal, ..spec(6, 2, 32) };
                seed += 10;
                let name = format!(
                    "{dtype}, window {window:?}, cap {soft_cap:?}, bias {bias}, causal {causal}, {} segments",
                    segments.len()
                );
                assert_near_oracle(&case(spec, segments.clone(), dtype, bias, seed), &name);
            }
        }
    }
}

#[test]
fn plain_loops_agree_with_the_oracle() {
    for dtype in [DType::F32, DType::BF16] {
        let spec = AttentionSpec { window: Some(50), soft_cap: Some(3.0), ..spec(3, 1, 16) };
        let case = case(spec, segments(&[70, 5]), dtype, false, 9);
        assert_levels_near_oracle(&[Level::Portable], &case, &format!("{dtype}, plain loops"));
    }
}

#[test]
fn agrees_with_the_oracle_over_several_lanes_of_keys() {
    for dtype in [DType::F32, DType::BF16] {
        let spec = AttentionSpec { window: Some(900), ..spec(2, 1, 16) };
        assert_near_oracle(&case(spec, segments(&[2100]), dtype, false, 5), &format!("{dtype}, 2100 tokens"));
    }
}

#[test]
fn with_a_window_of_one_a_token_gets_its_own_value() {
    for (dtype, level) in levels() {
        for causal in [true, false] {
            let spec = AttentionSpec { window: Some(1), causal, ..spec(2, 2, 16) };
            let case = case(spec, segments(&[140]), dtype, false, 3);
            let results = run(level, &case);
            for (ours, exact) in [(&results.out, &case.v), (&results.dv, &case.gradient)] {
                for (ours, exact) in ours.iter().zip(exact.to_vec_f32()) {
                    assert!((ours - exact).abs() <= 1e-6 * exact.abs(), "{level:?}: {ours} for {exact}");
                }
            }
            assert!(results.dq.iter().chain(&results.dk).all(|d| d.abs() < 1e-5), "{level:?}");
        }
    }
}

#[test]
fn negative_scale_and_partial_gradients() {
    let spec = AttentionSpec { scale: -0.5, ..spec(2, 2, 16) };
    let case = case(spec, segments(&[50]), DType::F32, false, 6);
    assert_near_oracle(&case, "negative scale");
    // Frozen queries and keys: only the values get a gradient, the same one.
    let frozen = |t: &Tensor| Var::constant(t.clone());
    let v = Var::param(ParamId(0), case.v.clone());
    let tape = Tape::recording();
    let out = attention(&tape, &frozen(&case.q), &frozen(&case.k), &v, &case.segments, &case.spec, None);
    let mut grads = Gradients::new();
    tape.backward(&out, case.gradient.clone(), &mut grads);
    let dv = grads.param(ParamId(0)).expect("v is trained").to_vec_f32();
    assert_eq!(dv, run(best(DType::F32), &case).dv);
}

#[test]
fn gradients_agree_with_finite_differences() {
    let spec = AttentionSpec { soft_cap: Some(4.0), window: Some(20), ..spec(3, 1, 16) };
    let mut tree = segments(&[24, 10]);
    tree[1].parent = Some(0);
    let case = case(spec, tree, DType::F32, true, 7);
    let results = run(best(DType::F32), &case);
    let loss = |case: &Case| -> f64 {
        let out = run(best(DType::F32), case).out;
        out.iter().zip(case.gradient.to_vec_f32()).map(|(o, g)| *o as f64 * g as f64).sum()
    };
    for (at, gradient) in [&results.dq, &results.dk, &results.dv, &results.dbias].into_iter().enumerate() {
        // Along the gradient itself the loss grows by its squared length, the largest signal there is.
        let length: f64 = gradient.iter().map(|g| (*g as f64).powi(2)).sum::<f64>().sqrt();
        let step = 0.02;
        let moved = |sign: f64| {
            let mut moved = Case { spec: case.spec.clone(), segments: case.segments.clone(), ..case_tensors(&case) };
            let tensor = match at {
                0 => &mut moved.q,
                1 => &mut moved.k,
                2 => &mut moved.v,
                _ => moved.bias.as_mut().expect("the case has a bias"),
            };
            for (x, g) in tensor.as_mut_slice::<f32>().iter_mut().zip(gradient) {
                *x += (sign * step * *g as f64 / length) as f32;
            }
            loss(&moved)
        };
        let difference = (moved(1.0) - moved(-1.0)) / (2.0 * step);
        assert!((difference / length - 1.0).abs() < 2e-3, "input {at}: {difference} for a slope of {length}");
    }
}

fn case_tensors(case: &Case) -> Case {
    Case {
        spec: case.spec.clone(),
        segments: case.segments.clone(),
        q: case.q.clone(),
        k: case.k.clone(),
        v: case.v.clone(),
        bias: case.bias.clone(),
        gradient: case.gradient.clone(),
    }
}

/// Rows `range` of a case as a case of their own.
fn rows(case: &Case, range: std::ops::Range<usize>, segments: Vec<Segment>) -> Case {
    let cut = |t: &Tensor| t.narrow(range.clone());
    Case {
        spec: case.spec.clone(),
        segments,
        q: cut(&case.q),
        k: cut(&case.k),
        v: cut(&case.v),
        bias: None,
        gradient: cut(&case.gradient),
    }
}

fn shapes() -> impl Iterator<Item = AttentionSpec> {
    let heads = [(9, 3, 64), (4, 1, 80), (3, 3, 16)];
    let variants = |(q, k, dim)| {
        let plain = spec(q, k, dim);
        let window = AttentionSpec { window: Some(50), ..plain.clone() };
        let capped = AttentionSpec { soft_cap: Some(5.0), window: Some(100), ..plain.clone() };
        [plain, window, capped]
    };
    heads.into_iter().flat_map(variants)
}

#[test]
fn a_sequence_gets_the_same_bits_alone_and_anywhere_in_a_batch() {
    for (dtype, level) in levels() {
        for causal in [true, false] {
            for spec in shapes() {
                let spec = AttentionSpec { causal, ..spec };
                let lens = [37, 150, 1, 64, 90];
                let batch = case(spec, segments(&lens), dtype, false, 11);
                let whole = run(level, &batch);
                for segment in &batch.segments {
                    let range = segment.start..segment.start + segment.len;
                    let alone = run(level, &rows(&batch, range.clone(), segments(&[segment.len])));
                    let part = |values: &[f32]| {
                        let width = values.len() / batch.q.dim(0);
                        values[range.start * width..range.end * width].to_vec()
                    };
                    let in_batch = Results {
                        out: part(&whole.out),
                        dq: part(&whole.dq),
                        dk: part(&whole.dk),
                        dv: part(&whole.dv),
                        dbias: Vec::new(),
                    };
                    assert_eq!(alone, in_batch, "{level:?} {:?} {segment:?}", batch.spec);
                }
            }
        }
    }
}

#[test]
fn a_chain_of_segments_gives_the_same_bits_as_one_segment() {
    for (dtype, level) in levels() {
        for spec in shapes() {
            for cut in [1, 63, 64, 100] {
                let whole = case(spec.clone(), segments(&[170]), dtype, false, 13);
                let mut chain = segments(&[cut, 20, 150 - cut]);
                chain[1].parent = Some(0);
                chain[2].parent = Some(1);
                let split = rows(&whole, 0..170, chain);
                let (whole, split) = (run(level, &whole), run(level, &split));
                assert_eq!(whole.out, split.out, "{level:?} {spec:?} cut at {cut}");
                assert_eq!(whole.dq, split.dq, "{level:?} {spec:?} cut at {cut}");
                let exact = |values: &[f32]| values.iter().map(|v| *v as f64).collect::<Vec<_>>();
                for (a, b) in [(&whole.dk, &split.dk), (&whole.dv, &split.dv)] {
                    let (mean, _) = distance(a, &exact(b));
                    assert!(mean < if dtype == DType::F32 { 1e-6 } else { 4e-3 }, "{mean}");
                }
            }
        }
    }
}

#[test]
fn siblings_do_not_see_each_other() {
    for (dtype, level) in levels() {
        let mut tree = segments(&[70, 9, 30]);
        (tree[1].parent, tree[2].parent) = (Some(0), Some(0));
        let both = case(spec(9, 3, 64), tree, dtype, false, 17);
        let both_out = run(level, &both).out;
        let mut pair = segments(&[70, 9]);
        pair[1].parent = Some(0);
        let one = run(level, &rows(&both, 0..79, pair)).out;
        assert_eq!(one, both_out[..one.len()]);
    }
}

#[test]
fn the_cache_gives_the_same_bits_as_the_whole_sequence() {
    for dtype in [DType::F32, DType::BF16] {
        for spec in shapes() {
            let lens = [150, 3, 65];
            let capacity = 160;
            let batch = case(spec.clone(), segments(&lens), dtype, false, 19);
            let level = best(dtype);
            let whole = run(level, &batch).out;
            let width = spec.key_value_heads * spec.head_dim;
            // What no lane has written is not a number, and must not be read.
            let mut keys = Tensor::full([4, capacity, width], dtype, f32::NAN);
            let mut values = keys.clone();
            let slots = [2, 0, 3];
            for (segment, slot) in batch.segments.iter().zip(slots) {
                let range = segment.start..segment.start + segment.len;
                for (cache, from) in [(&mut keys, &batch.k), (&mut values, &batch.v)] {
                    crate::dispatch_dtype!(dtype, T => {
                        let at = slot * capacity * width;
                        cache.as_mut_slice::<T>()[at..at + segment.len * width]
                            .copy_from_slice(from.narrow(range.clone()).as_slice::<T>());
                    });
                }
            }
            // Prompts in one piece, in two, and token by token; lanes in another order than segments. What was kept of one
            // round is of no use to the next, which starts anew.
            let mut kept = KeptBlocks::new(keys.dim(0));
            for chunk in [1000, 100, 1] {
                // Blocks of other keys in the same slots: they must be forgotten when their tokens are written anew.
                let last = |i: usize| CacheLane { start: i, len: 1, slot: slots[i], past: lens[i] - 1 };
                cached_attention(&batch.q.narrow(0..3), &values, &keys, &[0, 1, 2].map(last), &spec, &mut kept);
                let mut past = [0; 3];
                while past.iter().zip(lens).any(|(p, len)| *p < len) {
                    let mut lanes = Vec::new();
                    let mut rows = Vec::new();
                    for lane in [1, 2, 0] {
                        let len = chunk.min(lens[lane] - past[lane]);
                        lanes.push(CacheLane { start: rows.len(), len, slot: slots[lane], past: past[lane] });
                        let first = batch.segments[lane].start + past[lane];
                        rows.extend(first..first + len);
                        past[lane] += len;
                    }
                    let query_width = spec.query_heads * spec.head_dim;
                    let mut q = Tensor::uninit([rows.len(), query_width], dtype);
                    crate::dispatch_dtype!(dtype, T => {
                        for (to, row) in q.as_mut_slice::<T>().chunks_exact_mut(query_width).zip(&rows) {
                            to.copy_from_slice(&batch.q.as_slice::<T>()[row * query_width..][..query_width]);
                        }
                    });
                    let out = cached_attention(&q, &keys, &values, &lanes, &spec, &mut kept).to_vec_f32();
                    for (out, row) in out.chunks_exact(query_width).zip(&rows) {
                        assert_eq!(out, &whole[row * query_width..][..query_width], "{dtype} {spec:?} row {row}");
                    }
                }
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads_or_repetition() {
    for (dtype, level) in levels() {
        // Long enough for several lanes of keys in the backward pass.
        let case = case(spec(6, 2, 16), segments(&[2100, 40]), dtype, false, 23);
        let first = run(level, &case);
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
            assert_eq!(pool.install(|| run(level, &case)), first, "{level:?} on {threads} threads");
        }
    }
}

#[test]
fn a_query_that_sees_nothing_is_zero_and_has_no_gradient() {
    for (dtype, level) in levels() {
        let mut case = case(spec(2, 1, 16), segments(&[20]), dtype, true, 29);
        let bias = case.bias.as_mut().expect("the case has a bias").as_mut_slice::<f32>();
        bias[7 * 20..8 * 20].fill(f32::NEG_INFINITY);
        let results = run(level, &case);
        assert_eq!(results.out[7 * 32..7 * 32 + 16], [0.0; 16]);
        assert_eq!(results.dq[7 * 32..7 * 32 + 16], [0.0; 16]);
        let all = [&results.out, &results.dq, &results.dk, &results.dv, &results.dbias];
        assert!(all.into_iter().flatten().all(|v| v.is_finite()));
    }
}

#[test]
fn not_a_number_shows() {
    for (dtype, level) in levels() {
        let mut case = case(spec(2, 1, 16), segments(&[100]), dtype, false, 31);
        crate::dispatch_dtype!(dtype, T => case.k.as_mut_slice::<T>()[5 * 16 + 3] = T::rounded(f32::NAN));
        let out = run(level, &case).out;
        let row = |i: usize| &out[i * 32..(i + 1) * 32];
        assert!(row(4).iter().all(|v| v.is_finite()), "{level:?}: a key is seen before it comes");
        assert!((5..100).all(|i| row(i).iter().all(|v| v.is_nan())), "{level:?}");
    }
}

#[test]
fn large_scores_neither_overflow_nor_lose_the_highest() {
    for (dtype, level) in levels() {
        let mut case = case(spec(1, 1, 16), segments(&[80]), dtype, false, 37);
        for tensor in [&mut case.q, &mut case.k] {
            crate::dispatch_dtype!(dtype, T => {
                tensor.as_mut_slice::<T>().iter_mut().for_each(|v| *v = T::rounded(Element::widen(*v) * 100.0));
            });
        }
        let results = run(level, &case);
        let wide = |t: &Tensor| t.to_vec_f32().into_iter().map(f64::from).collect::<Vec<_>>();
        let inputs = AttentionInputs { q: wide(&case.q), k: wide(&case.k), v: wide(&case.v), bias: None };
        // Scores around 1e4: the rounding of a score alone moves a probability by 1e-3.
        let (mean, _) = distance(&results.out, &oracle(&inputs, &case.segments, &case.spec));
        assert!(mean < 5e-3, "{level:?}: {mean}");
    }
}

#[test]
fn probabilities_are_those_attention_uses() {
    let mut tree = segments(&[20, 10]);
    tree[1].parent = Some(0);
    for (window, soft_cap) in [(None, None), (Some(6), Some(2.0))] {
        let spec = AttentionSpec { window, soft_cap, ..spec(4, 2, 16) };
        let case = case(spec.clone(), tree.clone(), DType::F32, false, 41);
        let out = run(best(DType::F32), &case).out;
        let values = case.v.to_vec_f32();
        for head in 0..4 {
            let p = attention_probabilities(&case.q, &case.k, &tree, 1, head, &spec);
            assert_eq!(p.dims(), [10, 30]);
            for (i, p) in p.as_slice::<f32>().chunks_exact(30).enumerate() {
                assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-6);
                let seen = window.map_or(0, |w| 21 + i - w);
                assert!(p.iter().enumerate().all(|(key, p)| (*p > 0.0) == (seen..=20 + i).contains(&key)));
                for c in 0..16 {
                    let ours: f32 = (0..30).map(|key| p[key] * values[key * 32 + head / 2 * 16 + c]).sum();
                    assert!((ours - out[(20 + i) * 64 + head * 16 + c]).abs() < 1e-5);
                }
            }
        }
    }
}

#[test]
fn some_rows_are_rows_of_the_whole_matrix() {
    // A chain of three segments and one that stands alone; rows out of order.
    let mut chain = segments(&[20, 0, 10, 7]);
    (chain[1].parent, chain[2].parent) = (Some(0), Some(1));
    for (window, soft_cap) in [(None, None), (Some(6), Some(2.0))] {
        let spec = AttentionSpec { window, soft_cap, ..spec(4, 2, 16) };
        let case = case(spec.clone(), chain.clone(), DType::BF16, false, 43);
        let rows = [29, 3, 36, 20];
        let found = attention_rows(&case.q, &case.k, &chain, &rows, &spec);
        for ((segment, row), found) in [(2, 9), (0, 3), (3, 6), (2, 0)].into_iter().zip(&found) {
            for head in 0..4 {
                let whole = attention_probabilities(&case.q, &case.k, &chain, segment, head, &spec);
                assert_eq!(found.narrow(head..head + 1).as_bytes(), whole.narrow(row..row + 1).as_bytes());
            }
        }
    }
}
