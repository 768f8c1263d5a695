//! Clipping by the norm of all gradients together, as `torch.nn.utils.clip_grad_norm_` does.

use crate::parallel::{Rows, for_blocks};

/// Elements whose squares are summed together: fixed, so that the norm's bits do not depend on threads.
const BLOCK: usize = 4096;

/// `√ Σ g²` over all slices, summed in `f64` in a fixed order. NaN or infinite if a gradient is.
pub fn global_norm<'a>(gradients: impl IntoIterator<Item = &'a [f32]>) -> f64 {
    gradients.into_iter().map(sum_of_squares).sum::<f64>().sqrt()
}

fn sum_of_squares(values: &[f32]) -> f64 {
    let mut sums = vec![0f64; values.len().div_ceil(BLOCK)];
    for_blocks(
        sums.len(),
        BLOCK,
        Rows::new(&mut sums, 1),
        #[inline(always)]
        |range, sums: Rows<f64>| {
            for (block, sum) in values.chunks(BLOCK).skip(range.start).zip(sums.data) {
                let mut lanes = [0f64; 16];
                for chunk in block.chunks(16) {
                    for (lane, v) in lanes.iter_mut().zip(chunk) {
                        *lane += *v as f64 * *v as f64;
                    }
                }
                *sum = lanes.iter().sum();
            }
        },
    );
    sums.iter().sum()
}

/// What gradients of norm `norm` are multiplied with so that it is at most `max_norm`: `max_norm / (norm + 1e-6)`, never
/// above 1. NaN for a norm that is not a number.
pub fn clip_factor(norm: f64, max_norm: f64) -> f32 {
    let factor = (max_norm / (norm + 1e-6)) as f32;
    if factor > 1.0 { 1.0 } else { factor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_norm_is_that_of_all_slices_and_does_not_depend_on_threads() {
        let a: Vec<f32> = (0..100_001).map(|i| (i as f32).sin()).collect();
        let want = a.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt();
        let norm = global_norm([&a[..70_000], &a[70_000..]]);
        assert!((norm - want).abs() < 1e-12 * want, "{norm} {want}");
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| global_norm([&a[..70_000], &a[70_000..]])), norm);
        }
        assert_eq!(global_norm([]), 0.0);
        assert!(global_norm([&[1.0, f32::NAN][..]]).is_nan());
    }

    #[test]
    fn small_norms_are_left_alone() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert_eq!(clip_factor(0.0, 1.0), 1.0);
        assert_eq!(clip_factor(4.0, 1.0), (1.0 / (4.0 + 1e-6)) as f32);
        assert!(clip_factor(f64::NAN, 1.0).is_nan());
    }
}
