//! Point-wise functions and row reductions that compile to vector code on whatever machine the binary runs on.
//!
//! Everything here is plain branch-free Rust marked `#[inline(always)]`. Inside [`dispatch`] the compiler sees it in a
//! function with the machine's instruction set switched on (AVX-512, AVX2 + FMA, NEON or none) and vectorises the
//! loop around it:
//!
//! ```
//! # use hone_engine::simd;
//! # let mut row = vec![0.5f32; 100];
//! simd::dispatch(
//!     #[inline(always)]
//!     || row.iter_mut().for_each(|v| *v = simd::exp(*v)),
//! );
//! ```
//!
//! Reductions keep [`LANES`] partial sums and add them in one fixed tree, so their bits depend neither on the
//! machine's vector width nor on the number of threads. Polynomials are minimax fits (`tools/golden/polynomials.py`); the
//! accuracy each function documents is what its test demands.

use crate::dtype::Element;

/// Partial sums a reduction keeps.
pub const LANES: usize = 32;

/// Runs `body` compiled for the best instruction set of this machine. Give it a closure marked `#[inline(always)]`:
/// what is not inlined into it is not compiled for that set.
#[inline(always)]
pub fn dispatch<R>(body: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(body)
}

/// `1.5 * 2^23`: adding it rounds an `f32` to the nearest integer and leaves that integer in the low bits.
const ROUND: f32 = 12_582_912.0;

/// `e^x`, at most 1.1 units in the last place off, subnormal results included; 0 and infinity beyond the range, NaN for
/// NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; `e^r` by a polynomial, `2^n` by its bits in two halves.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Comparisons written so that NaN passes through.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, the first with trailing zeros so that `n` times it is exact.
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.381_459_6e-3f32;
    let p = p.mul_add(r, 8.368_717e-3);
    let p = p.mul_add(r, 4.166_838_8e-2);
    let p = p.mul_add(r, 1.666_652_1e-1);
    let p = p.mul_add(r, 4.999_999_3e-1);
    let e = p.mul_add(r * r, r) + 1.0;
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    e * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// `2^n` for `-126 <= n <= 127`.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// Binary logarithm of a positive normal number, at most 2 units in the last place off (1e-7 around 1); NaN for NaN.
///
/// `x = 2^n m` with `m` around 1; `ln m = 2 artanh t` with `t = (m - 1) / (m + 1)`.
#[inline(always)]
pub fn log2(x: f32) -> f32 {
    // Moves the cut between exponents from 1 to 1 / sqrt 2.
    let n = (x.to_bits().wrapping_sub(std::f32::consts::FRAC_1_SQRT_2.to_bits()) as i32) >> 23;
    let m = f32::from_bits(x.to_bits().wrapping_sub((n as u32) << 23));
    let t = (m - 1.0) / (m + 1.0);
    let z = t * t;
    let p = 1.493_552_3e-1f32;
    let p = p.mul_add(z, 1.998_878_5e-1);
    let p = p.mul_add(z, 3.333_338_8e-1);
    let artanh = (p * z).mul_add(t, t);
    let log = artanh.mul_add(2.0 * std::f32::consts::LOG2_E, n as f32);
    if x.is_nan() { x } else { log }
}

/// `1 / (1 + e^-x)`, at most 3 units in the last place off (where the result is not subnormal).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Hyperbolic tangent, at most 2 units in the last place off.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    // Near zero `1 - 2 / (e^2a + 1)` cancels, so a polynomial in x² stands in.
    let z = x * x;
    let p = -5.704_990_4e-3f32;
    let p = p.mul_add(z, 2.063_909e-2);
    let p = p.mul_add(z, -5.373_971_6e-2);
    let p = p.mul_add(z, 1.333_144_2e-1);
    let p = p.mul_add(z, -3.333_328_2e-1);
    let small = (p * z).mul_add(a, a);
    let large = 1.0 - 2.0 / (exp(2.0 * a) + 1.0);
    (if a < 0.625 { small } else { large }).copysign(x)
}

/// Error function, at most 2 units in the last place off.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    let p = -5.953_869_7e-4f32;
    let p = p.mul_add(z, 4.985_971_4e-3);
    let p = p.mul_add(z, -2.676_174_7e-2);
    let p = p.mul_add(z, 1.128_168_4e-1);
    let p = p.mul_add(z, -3.761_248_2e-1);
    let p = p.mul_add(z, 1.283_791_5e-1);
    let small = p.mul_add(a, a);
    // erfc(t) = e^(-t + t P(t)), fitted up to 4, where erf is 1 to the last bit.
    let t = if a > 4.0 { 4.0 } else { a };
    let q = 2.145_958_8e-4f32;
    let q = q.mul_add(t, -3.219_982e-3);
    let q = q.mul_add(t, 2.290_605e-2);
    let q = q.mul_add(t, -1.052_868_8e-1);
    let q = q.mul_add(t, -6.356_993_3e-1);
    let q = q.mul_add(t, -1.285_199_5e-1);
    let large = 1.0 - exp(q.mul_add(t, -t));
    (if a < 0.93 { small } else { large }).copysign(x)
}

/// Adds `LANES` partial results in a fixed tree.
#[inline(always)]
fn fold(lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = combine(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// `Σ f(a[i])`, in [`LANES`] partial sums.
#[inline(always)]
pub fn sum_of<A: Element>(a: &[A], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] += f(chunk[l].widen());
        }
    }
    for (lane, a) in lanes.iter_mut().zip(rest) {
        *lane += f(a.widen());
    }
    fold(lanes, |x, y| x + y)
}

/// `Σ a[i]`.
#[inline(always)]
pub fn sum<A: Element>(a: &[A]) -> f32 {
    sum_of(a, |v| v)
}

/// `Σ a[i]²`.
#[inline(always)]
pub fn sum_of_squares<A: Element>(a: &[A]) -> f32 {
    dot(a, a)
}

/// `Σ a[i] b[i]`. Panics if the lengths differ.
#[inline(always)]
pub fn dot<A: Element, B: Element>(a: &[A], b: &[B]) -> f32 {
    assert_eq!(a.len(), b.len());
    let mut lanes = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for l in 0..LANES {
            lanes[l] = a[l].widen().mul_add(b[l].widen(), lanes[l]);
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane = a.widen().mul_add(b.widen(), *lane);
    }
    fold(lanes, |x, y| x + y)
}

/// `Σ f(a[i], b[i], c[i])`, in [`LANES`] partial sums. Panics if the lengths differ.
#[inline(always)]
pub fn sum_of3<A: Element, B: Element, C: Element>(a: &[A], b: &[B], c: &[C], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    assert!(a.len() == b.len() && b.len() == c.len());
    let mut lanes = [0f32; LANES];
    let (a_chunks, b_chunks, c_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES), c.chunks_exact(LANES));
    let rest = a_chunks.remainder().iter().zip(b_chunks.remainder()).zip(c_chunks.remainder());
    for ((a, b), c) in a_chunks.zip(b_chunks).zip(c_chunks) {
        for l in 0..LANES {
            lanes[l] += f(a[l].widen(), b[l].widen(), c[l].widen());
        }
    }
    for (lane, ((a, b), c)) in lanes.iter_mut().zip(rest) {
        *lane += f(a.widen(), b.widen(), c.widen());
    }
    fold(lanes, |x, y| x + y)
}

/// The highest element; negative infinity of an empty row. NaN is passed over.
#[inline(always)]
pub fn max<A: Element>(a: &[A]) -> f32 {
    let higher = |x: f32, y: f32| if y > x { y } else { x };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] = higher(lanes[l], chunk[l].widen());
        }
    }
    for (lane, a) in lanes.iter_mut().zip(rest) {
        *lane = higher(*lane, a.widen());
    }
    fold(lanes, higher)
}

/// `row[i] = e^(row[i] - shift)`; returns their sum. The inner step of a softmax, `shift` being the row's highest.
#[inline(always)]
pub fn exp_shifted(row: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for l in 0..LANES {
            chunk[l] = exp(chunk[l] - shift);
            lanes[l] += chunk[l];
        }
    }
    for (lane, v) in lanes.iter_mut().zip(chunks.into_remainder()) {
        *v = exp(*v - shift);
        *lane += *v;
    }
    fold(lanes, |x, y| x + y)
}

/// `to[i] += factor * from[i]`. Panics if the lengths differ.
#[inline(always)]
pub fn add_scaled<T: Element, F: Element>(to: &mut [T], factor: f32, from: &[F]) {
    assert_eq!(to.len(), from.len());
    for (to, from) in to.iter_mut().zip(from) {
        *to = T::rounded(from.widen().mul_add(factor, to.widen()));
    }
}

/// `to[i] = from[i]` in the other type. Panics if the lengths differ.
#[inline(always)]
pub fn convert<T: Element, F: Element>(to: &mut [T], from: &[F]) {
    assert_eq!(to.len(), from.len());
    for (to, from) in to.iter_mut().zip(from) {
        *to = T::rounded(from.widen());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bf16;
    use crate::reference::erf as erf64;

    /// Largest error of `f` against `exact` over `inputs`, in units in the last place of the exact result.
    fn worst(inputs: impl Iterator<Item = f32>, f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> (f64, f32) {
        let mut inputs: Vec<f32> = inputs.collect();
        let given = inputs.clone();
        dispatch(
            #[inline(always)]
            || inputs.iter_mut().for_each(|v| *v = f(*v)),
        );
        let mut worst = (0.0, 0.0);
        for (x, got) in given.into_iter().zip(inputs) {
            let want = exact(x as f64);
            let exponent = (want.abs() as f32).max(f32::MIN_POSITIVE).log2().floor() as i32;
            let error = (got as f64 - want).abs() / 2f64.powi(exponent - 23);
            if error > worst.0 || error.is_nan() {
                worst = (error, x);
            }
        }
        worst
    }

    fn grid(from: f32, to: f32) -> impl Iterator<Item = f32> {
        let n = 400_000;
        (0..=n).map(move |i| from + (to - from) * (i as f32 / n as f32))
    }

    #[test]
    fn exp_is_accurate() {
        let (error, at) = worst(grid(-104.0, 88.7), exp, f64::exp);
        assert!(error <= 1.1, "{error} ulp at {at}");
        let (error, at) = worst(grid(-1.0, 1.0), exp, f64::exp);
        assert!(error <= 1.1, "{error} ulp at {at}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(100.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn log2_is_accurate() {
        for (from, to) in [(1e-3, 0.7), (1.4, 1e4), (1e-30, 1e-28), (1e30, 1e32)] {
            let (error, at) = worst(grid(from, to), log2, f64::log2);
            assert!(error <= 2.0, "{error} ulp at {at}");
        }
        let near_one = grid(0.7, 1.42).map(|x| (log2(x) as f64 - (x as f64).log2()).abs()).fold(0.0, f64::max);
        assert!(near_one <= 1e-7, "{near_one}");
        assert_eq!((log2(1.0), log2(8.0)), (0.0, 3.0));
        assert!(log2(f32::NAN).is_nan());
    }

    #[test]
    fn sigmoid_is_accurate() {
        let (error, at) = worst(grid(-87.0, 30.0), sigmoid, |x| 1.0 / (1.0 + (-x).exp()));
        assert!(error <= 3.0, "{error} ulp at {at}");
        assert_eq!((sigmoid(0.0), sigmoid(f32::NEG_INFINITY), sigmoid(f32::INFINITY)), (0.5, 0.0, 1.0));
        assert!(sigmoid(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_accurate() {
        for (from, to) in [(-10.0, 10.0), (-0.7, 0.7), (1e-6, 1e-3)] {
            let (error, at) = worst(grid(from, to), tanh, f64::tanh);
            assert!(error <= 2.0, "{error} ulp at {at}");
        }
        assert_eq!((tanh(f32::NEG_INFINITY), tanh(f32::INFINITY), tanh(0.0)), (-1.0, 1.0, 0.0));
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_accurate() {
        for (from, to) in [(-5.0, 5.0), (-1.0, 1.0), (1e-6, 1e-3)] {
            let (error, at) = worst(grid(from, to), erf, erf64);
            assert!(error <= 2.0, "{error} ulp at {at}");
        }
        assert_eq!((erf(f32::NEG_INFINITY), erf(f32::INFINITY), erf(0.0)), (-1.0, 1.0, 0.0));
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_agree_with_plain_loops_at_every_length() {
        for n in (0..100).chain([1000]) {
            let a: Vec<f32> = (0..n).map(|i| ((i * 37 + 11) % 101) as f32 / 50.5 - 1.0).collect();
            let b: Vec<bf16> = (0..n).map(|i| bf16::from_f32(((i * 53 + 7) % 97) as f32 / 48.5 - 1.0)).collect();
            let close = |got: f32, want: f64| {
                assert!((got as f64 - want).abs() <= 1e-6 * (1.0 + want.abs()), "length {n}: {got} {want}")
            };
            close(sum(&a), a.iter().map(|v| *v as f64).sum());
            close(sum(&b), b.iter().map(|v| v.to_f64()).sum());
            close(dot(&a, &b), a.iter().zip(&b).map(|(a, b)| *a as f64 * b.to_f64()).sum());
            close(
                sum_of3(&a, &b, &a, |a, b, c| a * b * c),
                a.iter().zip(&b).map(|(a, b)| (*a as f64).powi(2) * b.to_f64()).sum(),
            );
            close(sum_of_squares(&a), a.iter().map(|v| (*v as f64).powi(2)).sum());
            assert_eq!(max(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let mut e = a.clone();
            close(exp_shifted(&mut e, 0.5), a.iter().map(|v| (*v as f64 - 0.5).exp()).sum());
            assert!(e.iter().zip(&a).all(|(e, a)| *e == exp(a - 0.5)));
        }
    }

    #[test]
    fn reductions_do_not_depend_on_the_instruction_set() {
        let a: Vec<f32> = (0..777).map(|i| (i as f32 * 0.37).sin()).collect();
        let fast = dispatch(
            #[inline(always)]
            || (sum(&a), dot(&a, &a), exp_shifted(&mut a.clone(), 1.0)),
        );
        assert_eq!(fast, (sum(&a), dot(&a, &a), exp_shifted(&mut a.clone(), 1.0)));
    }
}
