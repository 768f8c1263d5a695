//! Speed of the matrix products, shape by shape and level by level: GFLOP/s from the median of many runs, and beside it
//! from the processor time of all threads (which a busy machine disturbs less).
//!
//! `cargo run --release -p hone-engine --example matmul_bench -- [seconds per figure] [f32|bf16] [level …]`

use std::time::{Duration, Instant};

use hone_engine::cpu::{self, Level};
use hone_engine::matmul::{matmul_nn, matmul_nt, matmul_nt_add, matmul_tn};
use hone_engine::{DType, Tensor, Weight};

/// Seconds of processor time this process has used; 0 where the system does not tell.
#[cfg(not(unix))]
fn processor_seconds() -> f64 {
    0.0
}

/// Seconds of processor time this process has used.
#[cfg(unix)]
fn processor_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call fills the structure it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn random(rows: usize, columns: usize, dtype: DType, seed: u64) -> Tensor {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let values: Vec<f32> = (0..rows * columns).map(|_| next()).collect();
    Tensor::from_slice([rows, columns], &values).to_dtype(dtype)
}

fn measure(what: &str, flops: f64, seconds: f64, mut run: impl FnMut() -> Tensor) {
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let (mut times, mut runs) = (Vec::new(), 0);
    drop(run());
    let before = processor_seconds();
    while Instant::now() < until || runs < 5 {
        let start = Instant::now();
        drop(std::hint::black_box(run()));
        times.push(start.elapsed().as_secs_f64());
        runs += 1;
    }
    let processor = (processor_seconds() - before) / runs as f64;
    times.sort_by(f64::total_cmp);
    let (median, best) = (times[times.len() / 2], times[0]);
    let rate = |s: f64| flops / s / 1e9;
    let threads = rayon::current_num_threads() as f64;
    println!(
        "{what:<44} {:>8.1} median {:>8.1} best {:>8.1} by processor time   {:>9.1} us",
        rate(median),
        rate(best),
        rate(processor) * threads,
        median * 1e6
    );
}

fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    let seconds = arguments.next_if(|a| a.parse::<f64>().is_ok()).and_then(|a| a.parse().ok()).unwrap_or(0.5);
    let dtype = arguments.next_if(|a| a.parse::<DType>().is_ok()).and_then(|a| a.parse().ok()).unwrap_or(DType::BF16);
    let named: Vec<Level> = arguments.filter_map(|a| a.parse().ok()).collect();
    let levels = if named.is_empty() { vec![cpu::level()] } else { named };
    println!("{:?}", cpu::features());
    for level in levels {
        cpu::limit(Some(level));
        println!("{level}: {dtype}");
        for (m, k, n) in [
            (1024, 576, 1536),
            (1024, 1536, 576),
            (1024, 576, 576),
            (1024, 576, 192),
            (1024, 576, 49152),
            (2048, 2048, 2048),
            (256, 576, 1536),
            (100, 576, 1536),
            (1, 576, 1536),
            (1, 576, 49152),
            (16, 576, 49152),
        ] {
            let flops = 2.0 * (m * k * n) as f64;
            let (x, w) = (random(m, k, dtype, 1), random(n, k, dtype, 2));
            let weight = Weight::dense(w.clone());
            weight.prepare(false);
            measure(&format!("x W^T        [{m}, {k}] x [{k}, {n}]"), flops, seconds, || weight.forward(&x));
            if m == 1 && n > 2000 {
                continue;
            }
            measure(&format!("x W^T plain  [{m}, {k}] x [{k}, {n}]"), flops, seconds, || matmul_nt(&x, &w, dtype));
            let dy = random(m, n, dtype, 3);
            measure(&format!("dy W         [{m}, {n}] x [{n}, {k}]"), flops, seconds, || weight.backward(&dy));
            if n < 2000 {
                weight.prepare(true);
                measure(&format!("dy W, second [{m}, {n}] x [{n}, {k}]"), flops, seconds, || weight.backward(&dy));
                measure(&format!("dy^T x       [{n}, {m}] x [{m}, {k}]"), flops, seconds, || {
                    matmul_tn(&dy, &x, DType::F32)
                });
            }
        }
        for (m, k, n) in [(1024, 576, 16), (1024, 1536, 16), (1024, 576, 8)] {
            let flops = 2.0 * (m * k * n) as f64;
            let (x, a) = (random(m, k, dtype, 1), random(n, k, dtype, 4));
            let u = matmul_nt(&x, &a, dtype);
            measure(&format!("x A^T        [{m}, {k}] x [{k}, {n}]"), flops, seconds, || matmul_nt(&x, &a, dtype));
            measure(&format!("u A          [{m}, {n}] x [{n}, {k}]"), flops, seconds, || matmul_nn(&u, &a, dtype));
            let (b, mut y) = (random(k, n, dtype, 5), random(m, k, dtype, 6));
            measure(&format!("y += u B^T   [{m}, {n}] x [{n}, {k}]"), flops, seconds, || {
                matmul_nt_add(&mut y, 0.01, &u, &b);
                Tensor::uninit([1], dtype)
            });
            let weight = Weight::dense(random(k, k, dtype, 7));
            let square = flops + 2.0 * (m * k * k) as f64;
            measure(&format!("x W^T + u B^T [{m}, {k}] x [{k}, {k}], rank {n}"), square, seconds, || {
                weight.forward_plus(&x, &[(&u, &b)])
            });
            measure(&format!("u^T x        [{n}, {m}] x [{m}, {k}]"), flops, seconds, || matmul_tn(&u, &x, DType::F32));
            measure(&format!("x^T u        [{k}, {m}] x [{m}, {n}]"), flops, seconds, || matmul_tn(&x, &u, DType::F32));
        }
    }
}
