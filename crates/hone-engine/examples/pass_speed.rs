//! Speed of the vectorised passes on this machine, one thread: `cargo run --release -p hone-engine --example pass_speed`.

use std::time::Instant;

use hone_engine::{DType, RandomKey, Tensor, bf16, simd};

fn time(name: &str, bytes: usize, mut pass: impl FnMut()) {
    pass();
    let mut best = f64::INFINITY;
    for _ in 0..7 {
        let start = Instant::now();
        for _ in 0..200 {
            pass();
        }
        best = best.min(start.elapsed().as_secs_f64() / 200.0);
    }
    println!("{name:<28} {:>8.2} us  {:>7.1} GB/s", best * 1e6, bytes as f64 / best / 1e9);
}

fn main() {
    const N: usize = 64 * 1024;
    let a: Vec<f32> = (0..N).map(|i| (i as f32 * 0.01).sin()).collect();
    let h: Vec<bf16> = a.iter().map(|v| bf16::from_f32(*v)).collect();
    let (mut out, mut out_h) = (a.clone(), h.clone());
    let mut sink = 0f32;
    macro_rules! run {
        ($name:expr, $bytes:expr, $body:expr) => {
            time($name, $bytes, || {
                simd::dispatch(
                    #[inline(always)]
                    || $body,
                )
            })
        };
    }
    run!("sum f32", N * 4, sink += simd::sum(&a));
    run!("dot f32", N * 8, sink += simd::dot(&a, &a));
    run!("dot bf16", N * 4, sink += simd::dot(&h, &h));
    run!("max f32", N * 4, sink += simd::max(&a));
    run!("exp f32", N * 8, out.iter_mut().zip(&a).for_each(|(o, v)| *o = simd::exp(*v)));
    run!("exp_shifted f32", N * 8, sink += simd::exp_shifted(&mut out, 1.0));
    run!("tanh f32", N * 8, out.iter_mut().zip(&a).for_each(|(o, v)| *o = simd::tanh(*v)));
    run!("erf f32", N * 8, out.iter_mut().zip(&a).for_each(|(o, v)| *o = simd::erf(*v)));
    run!("add_scaled f32 += bf16", N * 10, simd::add_scaled(&mut out, 0.5, &h));
    run!("add_scaled bf16 += bf16", N * 6, simd::add_scaled(&mut out_h, 0.5, &h));
    run!("bf16 to f32", N * 6, simd::convert(&mut out, &h));
    run!("f32 to bf16", N * 6, simd::convert(&mut out_h, &a));
    let mut bits = vec![0u32; N];
    run!("random bits", N * 4, RandomKey::new(1).fill(0, &mut bits));
    let t = Tensor::from_slice([N], &a);
    let t_h = t.to_dtype(DType::BF16);
    time("to_dtype f32 to bf16", N * 6, || drop(t.to_dtype(DType::BF16)));
    time("to_dtype bf16 to f32", N * 6, || drop(t_h.to_dtype(DType::F32)));
    println!("({sink})");
}
