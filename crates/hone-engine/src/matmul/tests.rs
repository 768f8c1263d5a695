//! Every kernel this machine has against `f64` loops, and the promises of the module bit by bit.

use super::*;
use crate::bf16;
use crate::quant::int8::FEW;
use crate::quant::{BlockType, QuantTensor};
use crate::weight::{Weight, WeightData};

/// Numbers in [-1, 1) that differ from place to place (the engine's generator is not what is tested here).
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn tensor(rows: usize, columns: usize, dtype: DType, seed: u64) -> Tensor {
    Tensor::from_slice([rows, columns], &values(rows * columns, seed)).to_dtype(dtype)
}

/// The product and, element by element, the sum of the magnitudes of its terms.
fn oracle(form: Form, a: &Tensor, b: &Tensor) -> Vec<(f64, f64)> {
    let (m, n) = sizes(form, a, b);
    let (a_columns, b_columns) = (a.rows_cols().1, b.rows_cols().1);
    let k = if matches!(form, Form::Tn) { a.rows_cols().0 } else { a_columns };
    let (left, right) = (a.to_vec_f32(), b.to_vec_f32());
    let term = |i: usize, j: usize, t: usize| {
        let x = if matches!(form, Form::Tn) { left[t * a_columns + i] } else { left[i * a_columns + t] };
        let y = if matches!(form, Form::Nt) { right[j * b_columns + t] } else { right[t * b_columns + j] };
        x as f64 * y as f64
    };
    let element = |at: usize| (0..k).map(|t| term(at / n, at % n, t)).fold((0.0, 0.0), |s, v| (s.0 + v, s.1 + v.abs()));
    (0..m * n).map(element).collect()
}

/// Rounding of `f32` sums, plus that of a bf16 result.
fn assert_close(found: &Tensor, expected: &[(f64, f64)], what: &str) {
    let relative = if found.dtype() == DType::BF16 { 1.0 / 256.0 } else { 0.0 };
    for (i, (found, (value, magnitude))) in found.to_vec_f32().into_iter().zip(expected).enumerate() {
        let bound = 2e-6 * magnitude + relative * value.abs() + 1e-30;
        assert!((found as f64 - value).abs() <= bound, "{what}: element {i} is {found}, expected {value} ± {bound}");
    }
}

#[test]
fn every_level_agrees_with_f64_loops_on_odd_shapes() {
    let shapes = [
        (1, 1, 1),
        (1, 16, 16),
        (2, 3, 5),
        (7, 17, 31),
        (13, 33, 64),
        (16, 16, 32),
        (31, 48, 33),
        (32, 32, 32),
        (33, 65, 127),
        (12, 100, 1),
        (5, 1, 700),
        (64, 40, 16),
        (48, 32, 96),
        (3, 70, 1600),
        (2, 20, 5000),
        (1, 200, 77),
    ];
    for &level in cpu::available() {
        for (m, n, k) in shapes {
            for form in [Form::Nt, Form::Nn, Form::Tn] {
                for (da, db) in [(DType::BF16, DType::BF16), (DType::F32, DType::F32), (DType::F32, DType::BF16)] {
                    let (a, b) = match form {
                        Form::Nt => (tensor(m, k, da, 1), tensor(n, k, db, 2)),
                        Form::Nn => (tensor(m, k, da, 1), tensor(k, n, db, 2)),
                        Form::Tn => (tensor(k, m, da, 1), tensor(k, n, db, 2)),
                    };
                    let expected = oracle(form, &a, &b);
                    for out in [DType::F32, DType::BF16] {
                        let what = format!("{level} {form:?} {m} x {n} x {k}, {da} x {db} -> {out}");
                        let mut c = Tensor::full([m, n], out, f32::NAN);
                        into(level, form, &mut c, false, 1.0, &a, &b);
                        assert_close(&c, &expected, &what);
                        let mut sum = tensor(m, n, out, 3);
                        let start = sum.to_vec_f32();
                        into(level, form, &mut sum, true, -0.5, &a, &b);
                        let added = expected.iter().zip(start).map(|(e, s)| (s as f64 - 0.5 * e.0, e.1 + 1.0));
                        assert_close(&sum, &added.collect::<Vec<_>>(), &format!("{what}, added"));
                    }
                }
            }
        }
    }
}

#[test]
fn a_master_is_rounded_as_it_is_laid_out() {
    for &level in cpu::available() {
        for (m, n, k) in [(1, 16, 16), (7, 17, 31), (33, 65, 127), (5, 1, 700), (3, 70, 1600), (40, 33, 5000)] {
            for turned in [false, true] {
                let x = tensor(m, k, DType::BF16, 1);
                let master = if turned { tensor(k, n, DType::F32, 2) } else { tensor(n, k, DType::F32, 2) };
                let copy = master.to_dtype(DType::BF16);
                let run = |source: Source| {
                    let mut y = Tensor::uninit([m, n], DType::F32);
                    let left = Left { source: Source::dense(&x), turned: false };
                    product(level, &mut y, n, false, 1.0, &[(left, Right { source, first_row: 0, turned })]);
                    y
                };
                let (rounded, plain) = (run(Source::rounded_to(&master, x.dtype())), run(Source::dense(&copy)));
                assert_eq!(rounded.as_bytes(), plain.as_bytes(), "{level} {m} x {n} x {k}, turned {turned}");
                // Two in f32 stay what they are.
                assert!(matches!(Source::rounded_to(&master, DType::F32), Source::Dense(_)));
            }
        }
    }
}

#[test]
fn rows_do_not_depend_on_the_rows_beside_them() {
    for &level in cpu::available() {
        for dtype in [DType::F32, DType::BF16] {
            for (n, k) in [(70, 576), (33, 100), (16, 1600), (200, 33)] {
                let (all, w) = (tensor(300, k, dtype, 5), tensor(n, k, dtype, 6));
                let weight = Weight::dense(w.clone());
                let run = |x: &Tensor, packed: bool| {
                    let mut y = Tensor::uninit([x.dim(0), n], DType::F32);
                    match packed {
                        true => weight.multiply(level, 0..n, x, &[], &mut y, false),
                        false => into(level, Form::Nt, &mut y, false, 1.0, x, &w),
                    }
                    y
                };
                let whole = run(&all, true);
                for m in [1, 2, 3, 7, 16, 64, 300] {
                    for start in [0, 300 - m] {
                        let x = all.narrow(start..start + m);
                        let expected = whole.narrow(start..start + m);
                        assert_eq!(run(&x, true).as_bytes(), expected.as_bytes(), "{level} {dtype} m {m} n {n} k {k}");
                        assert_eq!(run(&x, false).as_bytes(), expected.as_bytes(), "{level} {dtype} m {m}, not packed");
                    }
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_does_not_show() {
    for &level in cpu::available() {
        for dtype in [DType::F32, DType::BF16] {
            let (x, w) = (tensor(200, 700, dtype, 7), tensor(330, 700, dtype, 8));
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
                let mut y = Tensor::uninit([200, 330], dtype);
                pool.install(|| into(level, Form::Nt, &mut y, false, 1.0, &x, &w));
                y
            };
            let one = run(1);
            for threads in [2, 3, 8] {
                assert_eq!(run(threads).as_bytes(), one.as_bytes(), "{level} {dtype} on {threads} threads");
            }
        }
    }
}

#[test]
fn weights_multiply_as_their_dense_forms_do() {
    for &level in cpu::available() {
        for dtype in [DType::F32, DType::BF16] {
            for (out, width) in [(96, 64), (70, 33), (515, 100), (40, 16)] {
                let w = tensor(out, width, dtype, 9);
                let (x, dy) = (tensor(21, width, dtype, 10), tensor(21, out, dtype, 11));
                let mut y = Tensor::uninit([21, out], dtype);
                let mut dx = Tensor::uninit([21, width], dtype);
                into(level, Form::Nt, &mut y, false, 1.0, &x, &w);
                into(level, Form::Nn, &mut dx, false, 1.0, &dy, &w);
                for second_copy in [false, true] {
                    let weight = Weight::dense(w.clone());
                    weight.prepare(second_copy);
                    let (mut a, mut b) = (Tensor::uninit([21, out], dtype), Tensor::uninit([21, width], dtype));
                    weight.multiply(level, 0..out, &x, &[], &mut a, false);
                    weight.multiply_turned(level, 0..out, &dy, &[], &mut b, false);
                    assert_eq!(a.as_bytes(), y.as_bytes(), "{level} {dtype} [{out}, {width}]");
                    assert_eq!(b.as_bytes(), dx.as_bytes(), "{level} {dtype} [{out}, {width}] backward");
                    assert_eq!(weight.to_dense(dtype).as_bytes(), w.as_bytes());
                }
            }
        }
    }
}

#[test]
fn chunks_of_rows_make_up_the_whole() {
    for &level in cpu::available() {
        for dtype in [DType::F32, DType::BF16] {
            let (out, width) = (131, 80);
            let weight = Weight::dense(tensor(out, width, dtype, 12));
            let (x, dy) = (tensor(9, width, dtype, 13), tensor(9, out, DType::F32, 14));
            let mut whole = Tensor::uninit([9, out], DType::F32);
            weight.multiply(level, 0..out, &x, &[], &mut whole, false);
            let expected = oracle(Form::Nn, &dy.to_dtype(dtype), &weight.to_dense(dtype));
            let mut dx = Tensor::zeros([9, width], DType::F32);
            for range in [0..64, 64..128, 128..131] {
                let mut part = Tensor::uninit([9, range.len()], DType::F32);
                weight.multiply(level, range.clone(), &x, &[], &mut part, false);
                let mut slice = Tensor::uninit([9, range.len()], DType::F32);
                let (all, len) = (whole.to_vec_f32(), range.len());
                let (dy_all, mut dy_part) = (dy.to_vec_f32(), Vec::new());
                for row in 0..9 {
                    let columns = row * out + range.start..row * out + range.end;
                    slice.as_mut_slice::<f32>()[row * len..(row + 1) * len].copy_from_slice(&all[columns.clone()]);
                    dy_part.extend_from_slice(&dy_all[columns]);
                }
                assert_eq!(part.as_bytes(), slice.as_bytes(), "{level} {dtype} {range:?}");
                let dy_part = Tensor::from_slice([9, len], &dy_part).to_dtype(dtype);
                weight.multiply_turned(level, range, &dy_part, &[], &mut dx, true);
            }
            assert_close(&dx, &expected, &format!("{level} {dtype} backward in chunks"));
        }
    }
}

#[test]
fn low_rank_terms_are_summed_with_the_product() {
    for &level in cpu::available() {
        for dtype in [DType::F32, DType::BF16] {
            for (out, width, rank, tokens) in [(70, 64, 16, 40), (33, 5000, 5, 3), (96, 32, 33, 70)] {
                let w = tensor(out, width, dtype, 21);
                let weight = Weight::dense(w.clone());
                let (x, dy) = (tensor(tokens, width, dtype, 22), tensor(tokens, out, dtype, 23));
                let (u, b, a) =
                    (tensor(tokens, rank, dtype, 24), tensor(out, rank, dtype, 25), tensor(rank, width, dtype, 26));
                let sum = |p: Vec<(f64, f64)>, q: Vec<(f64, f64)>| -> Vec<_> {
                    p.iter().zip(q).map(|(p, q)| (p.0 + q.0, p.1 + q.1)).collect()
                };
                let mut y = Tensor::uninit([tokens, out], dtype);
                weight.multiply(level, 0..out, &x, &[(&u, &b)], &mut y, false);
                assert_close(&y, &sum(oracle(Form::Nt, &x, &w), oracle(Form::Nt, &u, &b)), "forward");
                let mut dx = Tensor::uninit([tokens, width], dtype);
                weight.multiply_turned(level, 0..out, &dy, &[(&u, &a)], &mut dx, false);
                assert_close(&dx, &sum(oracle(Form::Nn, &dy, &w), oracle(Form::Nn, &u, &a)), "backward");
            }
        }
    }
}

#[test]
fn quantised_weights_multiply_as_what_they_expand_to() {
    let (out, width) = (45, 512);
    for kind in [BlockType::Q8_0, BlockType::Q4_0, BlockType::F16] {
        let mut bytes = Vec::new();
        kind.quantise(&values(out * width, 15), &mut bytes).expect("whole blocks");
        let blocks = QuantTensor::new(kind, out, width, bytes).expect("the length fits");
        let quantised = Weight::new(WeightData::Quantised(blocks));
        for dtype in [DType::F32, DType::BF16] {
            let dense = Weight::dense(quantised.to_dense(dtype));
            let (x, dy) = (tensor(FEW, width, dtype, 16), tensor(5, out, dtype, 17));
            assert_eq!(quantised.forward(&x).as_bytes(), dense.forward(&x).as_bytes(), "{kind} {dtype}");
            let (u, b) = (tensor(FEW, 4, dtype, 19), tensor(out, 4, dtype, 20));
            let with_terms = dense.forward_plus(&x, &[(&u, &b)]);
            assert_eq!(quantised.forward_plus(&x, &[(&u, &b)]).as_bytes(), with_terms.as_bytes(), "{kind} {dtype}");
            assert_eq!(quantised.backward(&dy).as_bytes(), dense.backward(&dy).as_bytes(), "{kind} {dtype} backward");
            let ids = [44u32, 0, 7, 7];
            assert_eq!(quantised.gather(&ids, dtype).as_bytes(), dense.gather(&ids, dtype).as_bytes(), "{kind}");
        }
    }
}

/// Products in `f32` with a weight of bf16 numbers, which tiles make of three: as exact as any in `f32`.
#[test]
fn weights_of_bf16_numbers_multiply_in_f32() {
    for (rows, out, width) in [(1, 33, 17), (5, 64, 576), (33, 100, 96), (70, 48, 1536)] {
        let w = tensor(out, width, DType::BF16, 31).to_dtype(DType::F32);
        let (x, dy) = (tensor(rows, width, DType::F32, 32), tensor(rows, out, DType::F32, 33));
        let (u, b) = (tensor(rows, 5, DType::F32, 34), tensor(out, 5, DType::F32, 35));
        let a = tensor(5, width, DType::F32, 36);
        for both in [false, true] {
            let weight = Weight::dense(w.clone());
            weight.prepare(both);
            assert_eq!(weight.dtype(), Some(DType::F32));
            assert_eq!(weight.to_dense(DType::F32).as_bytes(), w.as_bytes());
            let sum = |mut s: Vec<(f64, f64)>, more: Vec<(f64, f64)>| {
                s.iter_mut().zip(more).for_each(|(s, m)| *s = (s.0 + m.0, s.1 + m.1));
                s
            };
            let what = format!("{rows} x {width} -> {out}, both orders {both}");
            assert_close(&weight.forward(&x), &oracle(Form::Nt, &x, &w), &what);
            let y = weight.forward_plus(&x, &[(&u, &b)]);
            assert_close(&y, &sum(oracle(Form::Nt, &x, &w), oracle(Form::Nt, &u, &b)), &what);
            assert_close(&weight.backward(&dy), &oracle(Form::Nn, &dy, &w), &what);
            let dx = weight.backward_plus(&dy, &[(&u, &a)]);
            assert_close(&dx, &sum(oracle(Form::Nn, &dy, &w), oracle(Form::Nn, &u, &a)), &what);
            // One row alone has the same bits.
            let first = weight.forward_plus(&x.narrow(0..1), &[(&u.narrow(0..1), &b)]);
            assert_eq!(first.as_bytes(), &y.as_bytes()[..4 * out], "{what}");
        }
    }
}

/// Rounded activations: near the exact product with few rows, the exact product with more, and never in gradients.
#[test]
fn rounded_activations_are_for_few_rows_only() {
    let (out, width) = (64, 256);
    let mut bytes = Vec::new();
    BlockType::Q8_0.quantise(&values(out * width, 15), &mut bytes).expect("whole blocks");
    let blocks = || QuantTensor::new(BlockType::Q8_0, out, width, bytes.clone()).expect("the length fits");
    let exact = Weight::new(WeightData::Quantised(blocks()));
    let rounding = Weight::new(WeightData::Quantised(blocks()));
    rounding.round_activations();
    for dtype in [DType::F32, DType::BF16] {
        let (many, few) = (tensor(FEW + 1, width, dtype, 16), tensor(FEW, width, dtype, 16));
        assert_eq!(rounding.forward(&many).as_bytes(), exact.forward(&many).as_bytes());
        let dy = tensor(5, out, dtype, 17);
        assert_eq!(rounding.backward(&dy).as_bytes(), exact.backward(&dy).as_bytes());
        let (u, b) = (tensor(FEW, 4, dtype, 19), tensor(out, 4, dtype, 20));
        for terms in [vec![], vec![(&u, &b)]] {
            let (near, far) = (rounding.forward_plus(&few, &terms), exact.forward_plus(&few, &terms));
            assert_ne!(near.as_bytes(), far.as_bytes(), "nothing was rounded");
            let (near, far) = (near.to_vec_f32(), far.to_vec_f32());
            let off: f32 = near.iter().zip(&far).map(|(a, b)| (a - b).powi(2)).sum();
            let size: f32 = far.iter().map(|b| b.powi(2)).sum();
            assert!((off / size).sqrt() < 0.01, "{dtype}: {}", (off / size).sqrt());
        }
    }
}

#[test]
fn a_weight_is_held_once() {
    let dense = tensor(64, 64, DType::BF16, 18);
    let weight = Weight::dense(dense.clone());
    let ids = [3u32, 63];
    let before = weight.gather(&ids, DType::BF16);
    assert_eq!(weight.bytes(), 64 * 64 * 2);
    weight.forward(&dense);
    weight.backward(&dense);
    assert_eq!(weight.bytes(), 64 * 64 * 2, "packed, and the dense form let go");
    assert_eq!(weight.gather(&ids, DType::BF16).as_bytes(), before.as_bytes());
    weight.prepare(true);
    assert_eq!(weight.bytes(), 2 * 64 * 64 * 2);
}

#[test]
fn nothing_times_something_is_nothing() {
    let (a, b) = (Tensor::zeros([3, 0], DType::F32), Tensor::zeros([4, 0], DType::F32));
    assert_eq!(matmul_nt(&a, &b, DType::BF16).to_vec_f32(), vec![0.0; 12]);
    let mut c = Tensor::full([3, 4], DType::F32, 2.0);
    matmul_nt_add(&mut c, 1.0, &a, &b);
    assert_eq!(c.to_vec_f32(), vec![2.0; 12]);
    assert_eq!(
        matmul_nn(&Tensor::zeros([0, 5], DType::F32), &Tensor::zeros([5, 2], DType::F32), DType::F32).dims(),
        [0, 2]
    );
}

#[test]
fn infinities_and_nan_stay_in_their_rows() {
    for &level in cpu::available() {
        for dtype in [DType::F32, DType::BF16] {
            let mut x = values(3 * 40, 19);
            x[45] = f32::NAN;
            x[90] = f32::INFINITY;
            let (x, w) = (Tensor::from_slice([3, 40], &x).to_dtype(dtype), tensor(20, 40, dtype, 20));
            let mut y = Tensor::uninit([3, 20], DType::F32);
            into(level, Form::Nt, &mut y, false, 1.0, &x, &w);
            let y = y.to_vec_f32();
            assert!(y[..20].iter().all(|v| v.is_finite()), "{level} {dtype}");
            assert!(y[20..40].iter().all(|v| v.is_nan()), "{level} {dtype}");
            assert!(y[40..].iter().all(|v| v.is_infinite()), "{level} {dtype}");
        }
    }
    assert_eq!(bf16::from_f32(1.0).to_f32(), 1.0);
}
