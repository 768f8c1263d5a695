//! What this machine reaches at best, measured: the yardstick `hone bench` and `hone doctor` hold a run against.
//!
//! A figure is that of the fastest of many short runs, so that other programs on the machine disturb it least.

use std::time::{Duration, Instant};

use crate::dtype::DType;
use crate::tensor::Tensor;
use crate::weight::Weight;

/// Billions of floating-point operations a second in bf16 products, on all threads of the pool. Runs about `seconds`.
pub fn measure_bf16_gflops(seconds: f64) -> f64 {
    measure_gflops(DType::BF16, seconds)
}

/// The same in `f32`.
pub fn measure_f32_gflops(seconds: f64) -> f64 {
    measure_gflops(DType::F32, seconds)
}

fn measure_gflops(dtype: DType, seconds: f64) -> f64 {
    // The shape of a small model's linear map at a thousand tokens.
    let (m, k, n) = (1024, 576, 576);
    let (x, weight) = (Tensor::full([m, k], dtype, 0.5), Weight::dense(Tensor::full([n, k], dtype, 0.25)));
    2.0 * (m * k * n) as f64 / fastest(seconds, || drop(weight.forward(&x))) / 1e9
}

/// Billions of bytes a second that a product with one row reads of its weight: what bounds generation. The weight is
/// larger than most caches (128 MiB).
pub fn measure_read_gbytes(seconds: f64) -> f64 {
    let (k, n) = (1024, 65_536);
    let (x, weight) = (Tensor::full([1, k], DType::BF16, 0.5), Weight::dense(Tensor::full([n, k], DType::BF16, 0.25)));
    2.0 * (k * n) as f64 / fastest(seconds, || drop(weight.forward(&x))) / 1e9
}

/// Seconds of the fastest run.
fn fastest(seconds: f64, mut run: impl FnMut()) -> f64 {
    run();
    let until = Instant::now() + Duration::from_secs_f64(seconds.clamp(0.0, 60.0));
    let mut best = f64::INFINITY;
    loop {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
        if Instant::now() >= until {
            return best.max(f64::MIN_POSITIVE);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_ceiling_is_a_number_of_operations() {
        let rate = super::measure_bf16_gflops(0.01);
        assert!(rate.is_finite() && rate > 0.1, "{rate} GFLOP/s");
    }
}
