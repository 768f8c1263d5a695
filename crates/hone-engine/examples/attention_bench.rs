//! Times attention, forward and backward, at the shapes of a training step and of generation.
//!
//! Run: `cargo run --release -p hone-engine --example attention_bench [f32|bf16] [SHAPE [ROUNDS]]`. Prints the
//! best of several rounds in milliseconds: wall time, and CPU time of the whole process, which is what to compare on a
//! busy machine. `HONE_CPU` holds it to a lower instruction set.

use std::time::Instant;

use hone_engine::ops::{AttentionSpec, CacheLane, KeptBlocks, Segment, attention, cached_attention};
use hone_engine::{DType, Gradients, Tape, Tensor, pool};

fn numbers(shape: [usize; 2], dtype: DType, seed: u32) -> Tensor {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 22) as f32 - 2.0
    };
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| next()).collect();
    Tensor::from_slice(shape, &values).to_dtype(dtype)
}

fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call fills the structure it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Best wall and CPU milliseconds of `body`.
fn best(rounds: usize, mut body: impl FnMut()) -> (f64, f64) {
    let mut best = (f64::INFINITY, f64::INFINITY);
    for _ in 0..rounds + 2 {
        let (wall, cpu) = (Instant::now(), cpu_seconds());
        body();
        best = (best.0.min(wall.elapsed().as_secs_f64() * 1e3), best.1.min((cpu_seconds() - cpu) * 1e3));
    }
    best
}

fn training(name: &str, segments: usize, len: usize, dtype: DType, rounds: usize) {
    let spec = AttentionSpec {
        query_heads: 9,
        key_value_heads: 3,
        head_dim: 64,
        scale: 0.125,
        causal: true,
        window: None,
        soft_cap: None,
    };
    let tokens = segments * len;
    let segments: Vec<Segment> = (0..segments).map(|i| Segment { start: i * len, len, parent: None }).collect();
    let [q, k, v] = [(576, 1), (192, 2), (192, 3)].map(|(width, seed)| numbers([tokens, width], dtype, seed));
    let gradient = numbers([tokens, 576], dtype, 4);
    let run = |tape: &Tape| {
        let [q, k, v] = [&q, &k, &v].map(|x| tape.input(x.clone()));
        attention(tape, &q, &k, &v, &segments, &spec, None)
    };
    let forward = best(rounds, || {
        run(&Tape::off());
    });
    let both = best(rounds, || {
        let tape = Tape::recording();
        let out = run(&tape);
        tape.backward(&out, gradient.clone(), &mut Gradients::new());
    });
    println!(
        "{name:<24} forward {:8.3} ms (cpu {:8.3})   forward + backward {:8.3} ms (cpu {:8.3})",
        forward.0, forward.1, both.0, both.1
    );
}

fn decoding(lanes: usize, past: usize, dtype: DType, rounds: usize) {
    let spec = AttentionSpec {
        query_heads: 9,
        key_value_heads: 3,
        head_dim: 64,
        scale: 0.125,
        causal: true,
        window: None,
        soft_cap: None,
    };
    let capacity = past + 1;
    let cache = |seed| numbers([lanes * capacity, 192], dtype, seed).reshape([lanes, capacity, 192]);
    let (keys, values) = (cache(1), cache(2));
    let q = numbers([lanes, 576], dtype, 3);
    let lanes: Vec<CacheLane> = (0..lanes).map(|i| CacheLane { start: i, len: 1, slot: i, past }).collect();
    let mut kept = KeptBlocks::new(lanes.len());
    let (wall, cpu) = best(rounds, || {
        cached_attention(&q, &keys, &values, &lanes, &spec, &mut kept);
    });
    println!("decode {} x 1 over {past:<8} {wall:8.3} ms (cpu {cpu:8.3})", lanes.len());
}

fn main() {
    let dtypes = match std::env::args().nth(1) {
        Some(name) => vec![name.parse().expect("`f32` or `bf16`")],
        None => vec![DType::F32, DType::BF16],
    };
    for dtype in dtypes {
        println!("{dtype}, 9/3 heads of 64, {} threads", rayon::current_num_threads());
        let wanted = |name: &str| std::env::args().nth(2).is_none_or(|shape| name.contains(&shape));
        let rounds = |default| std::env::args().nth(3).map_or(default, |n| n.parse().expect("a number of rounds"));
        for (name, segments, len, default) in [("4 x 256", 4, 256, 30), ("1 x 4096", 1, 4096, 4)] {
            if wanted(name) {
                training(name, segments, len, dtype, rounds(default));
            }
        }
        for (lanes, past, default) in [(16, 2048, 20), (16, 200, 50)] {
            if wanted(&format!("decode {past}")) {
                decoding(lanes, past, dtype, rounds(default));
            }
        }
    }
    let stats = pool::stats();
    println!("memory: peak {} MiB in tensors", stats.peak >> 20);
}
