//! Time of each operation, forward and backward, at the sizes of a SmolLM2-135M step of 1,024 tokens:
//! `cargo run --release -p hone-engine --example op_speed [f32|bf16]`.

use std::sync::Arc;
use std::time::Instant;

use hone_engine::ops::linear::LinearPart;
use hone_engine::ops::*;
use hone_engine::optim::{Adam8State, AdamState, AdamW};
use hone_engine::{DType, Gradients, ParamId, RandomKey, Tape, Tensor, Var, Weight, WeightRef};

const TOKENS: usize = 1024;
const WIDTH: usize = 576;
const INNER: usize = 1536;
const VOCABULARY: usize = 49152;

fn random(shape: &[usize], dtype: DType, name: &str) -> Tensor {
    let key = RandomKey::new(0).named(name);
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n as u64).map(|i| key.uniform(i) - 0.5).collect();
    Tensor::from_slice(shape, &values).to_dtype(dtype)
}

/// Best of several: milliseconds forward and backward of `op`, whose outputs all get a gradient.
fn time(name: &str, inputs: &[Tensor], op: impl Fn(&Tape, &[Var]) -> Vec<Var>) {
    let (mut forward, mut backward) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..12 {
        let tape = Tape::recording();
        // Copies, so that in-place work is not paid for with a copy that a real step would not make.
        let inputs: Vec<Var> = inputs
            .iter()
            .map(|t| {
                let mut own = t.clone();
                hone_engine::dispatch_dtype!(t.dtype(), T => { own.as_mut_slice::<T>(); });
                tape.input(own)
            })
            .collect();
        let start = Instant::now();
        let outputs = op(&tape, &inputs);
        forward = forward.min(start.elapsed().as_secs_f64());
        drop(inputs);
        let grads: Vec<Tensor> = outputs.iter().map(|o| Tensor::full(o.value.shape(), o.value.dtype(), 0.01)).collect();
        let held = outputs.clone();
        let start = std::cell::Cell::new(None);
        let loss = tape.record(Tensor::zeros([1], DType::F32), move |_, into| {
            held.iter().zip(grads).for_each(|(o, g)| into.add(o, g));
        });
        drop(outputs);
        start.set(Some(Instant::now()));
        tape.backward(&loss, Tensor::full([1], DType::F32, 1.0), &mut Gradients::new());
        backward = backward.min(start.get().map_or(0.0, |s: Instant| s.elapsed().as_secs_f64()));
    }
    println!("{name:<34} {:>8.3} ms forward {:>8.3} ms backward", forward * 1e3, backward * 1e3);
}

fn main() {
    let dtype: DType = std::env::args().nth(1).as_deref().unwrap_or("bf16").parse().unwrap_or(DType::BF16);
    // Inside the pool, as a training step runs: from outside every parallel pass would wake a thread and wait.
    rayon::scope(|_| run(dtype));
}

fn run(dtype: DType) {
    println!("{dtype}, {} threads", rayon::current_num_threads());
    let x = || random(&[TOKENS, WIDTH], dtype, "x");
    let wide = |name: &str| random(&[TOKENS, INNER], dtype, name);
    let w = Var::constant(random(&[WIDTH], dtype, "w"));
    let frozen = |out: usize, width: usize| {
        let weight = Weight::dense(random(&[out, width], dtype, "weight"));
        weight.prepare(true);
        WeightRef::Frozen(Arc::new(weight))
    };
    time("rms_norm", &[x()], |t, v| vec![rms_norm(t, &v[0], &w, 1e-5, 0.0)]);
    time("add_rms_norm", &[x(), x()], |t, v| {
        let (a, b) = add_rms_norm(t, &v[0], &v[1], &w, 1e-5, 0.0);
        vec![a, b]
    });
    time("layer_norm", &[x()], |t, v| vec![layer_norm(t, &v[0], &w, None, 1e-5)]);
    for f in [Activation::Silu, Activation::GeluTanh, Activation::Gelu] {
        time(&format!("gated {f:?}"), &[wide("g"), wide("u")], |t, v| vec![gated(t, &v[0], &v[1], f)]);
    }
    time("add", &[x(), x()], |t, v| vec![add(t, &v[0], &v[1])]);
    let mask = Dropout { p: 0.05, key: RandomKey::new(3) };
    time("dropout [tokens, 1536]", &[wide("d")], |t, v| vec![dropout(t, &v[0], mask)]);

    let parameter = |shape: &[usize], id: u32| Var::param(ParamId(id), random(shape, dtype, "lora"));
    for (name, width, outs) in [
        ("q, k, v", WIDTH, &[576, 192, 192][..]),
        ("o", WIDTH, &[576]),
        ("gate, up", WIDTH, &[INNER, INNER]),
        ("down", INNER, &[WIDTH]),
    ] {
        let weights: Vec<WeightRef> = outs.iter().map(|out| frozen(*out, width)).collect();
        let plain = |t: &Tape, v: &[Var]| {
            let parts: Vec<_> = weights.iter().map(|weight| LinearPart { weight, bias: None, terms: &[] }).collect();
            linears(t, &v[0], &parts)
        };
        let input = [random(&[TOKENS, width], dtype, "x")];
        time(&format!("linear {name}"), &input, plain);
        for dropout in [None, Some(mask)] {
            let terms: Vec<LowRank> = (0..)
                .zip(outs)
                .map(|(i, out)| {
                    let (a, b) = (parameter(&[16, width], 2 * i), parameter(&[*out, 16], 2 * i + 1));
                    LowRank { a, b, scale: 2.0, dropout }
                })
                .collect();
            let what = if dropout.is_some() { "+ LoRA 16, dropout" } else { "+ LoRA 16" };
            time(&format!("linear {name} {what}"), &input, |t, v| {
                let parts: Vec<_> = weights
                    .iter()
                    .zip(&terms)
                    .map(|(weight, term)| LinearPart { weight, bias: None, terms: std::slice::from_ref(term) })
                    .collect();
                linears(t, &v[0], &parts)
            });
        }
    }

    let head = frozen(VOCABULARY, WIDTH);
    let rows: Vec<u32> = (0..TOKENS as u32).collect();
    let weights = vec![1.0; TOKENS];
    time("lm_head_loss, 1024 targets", &[x()], |t, v| {
        vec![lm_head_loss(t, &v[0], &head, &rows, &rows, &weights, 1024.0, None).loss]
    });
    let start = Instant::now();
    token_scores(&x(), &head, &rows, &rows, None);
    println!("{:<34} {:>8.3} ms", "token_scores, 1024 targets", start.elapsed().as_secs_f64() * 1e3);

    let n = 4_880_000;
    let (mut param, gradient, mut state) = (vec![0.1f32; n], vec![0.01f32; n], AdamState::new(n));
    AdamW::default().update(1e-4, 1.0, &mut param, &gradient, &mut state);
    let start = Instant::now();
    AdamW::default().update(1e-4, 1.0, &mut param, &gradient, &mut state);
    println!("{:<34} {:>8.3} ms", "AdamW, 4.9 M parameters", start.elapsed().as_secs_f64() * 1e3);
    let mut state = Adam8State::new(n);
    AdamW::default().update_8bit(1e-4, 1.0, &mut param, &gradient, &mut state);
    let start = Instant::now();
    AdamW::default().update_8bit(1e-4, 1.0, &mut param, &gradient, &mut state);
    println!("{:<34} {:>8.3} ms", "the same, moments in 8 bits", start.elapsed().as_secs_f64() * 1e3);
}
