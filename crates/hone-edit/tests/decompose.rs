//! Decompositions against torch's (`tools/golden/decompositions.py`) and against what they are by definition.

use std::path::Path;

use hone_edit::decompose::{self, DecomposeError};
use hone_edit::files::TensorFile;
use hone_engine::matmul::{matmul_nn, matmul_nt, matmul_tn};
use hone_engine::{DType, RandomKey, Tensor};
use proptest::prelude::*;

const MATRICES: [(&str, usize, usize); 4] = [("tall", 12, 7), ("wide", 5, 9), ("square", 8, 8), ("steep", 20, 10)];

fn random(rows: usize, columns: usize, seed: u64) -> Tensor {
    let key = RandomKey::new(seed);
    let values: Vec<f32> = (0..(rows * columns) as u64).map(|i| key.normal(i)).collect();
    Tensor::from_slice([rows, columns], &values)
}

fn apart(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    a.as_slice::<f32>().iter().zip(b.as_slice::<f32>()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Largest difference of `qᵀ q` from the identity.
fn from_orthonormal(q: &Tensor) -> f32 {
    let k = q.dim(1);
    let mut identity = Tensor::zeros([k, k], DType::F32);
    (0..k).for_each(|i| identity.as_mut_slice::<f32>()[i * k + i] = 1.0);
    apart(&matmul_tn(q, q, DType::F32), &identity)
}

fn scaled_columns(matrix: &Tensor, by: &[f32]) -> Tensor {
    let mut out = matrix.clone();
    for row in out.as_mut_slice::<f32>().chunks_exact_mut(by.len()) {
        row.iter_mut().zip(by).for_each(|(v, s)| *v *= s);
    }
    out
}

fn transposed(matrix: &Tensor) -> Tensor {
    let (rows, columns) = matrix.rows_cols();
    let from = matrix.as_slice::<f32>();
    let values: Vec<f32> = (0..columns).flat_map(|j| (0..rows).map(move |i| from[i * columns + j])).collect();
    Tensor::from_slice([columns, rows], &values)
}

#[test]
fn decompositions_are_torchs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/decompositions.safetensors");
    let mut file = TensorFile::read(&path).unwrap();
    for (name, rows, columns) in MATRICES {
        let k = rows.min(columns);
        let mut golden = |part: &str, shape: &[usize]| file.tensor(&format!("{name}.{part}"), shape).unwrap();
        let matrix = golden("matrix", &[rows, columns]);
        let svd = decompose::svd(&matrix).unwrap();
        assert!(apart(&svd.u, &golden("u", &[rows, k])) < 1e-6, "{name}");
        assert!(apart(&svd.vt, &golden("vt", &[k, columns])) < 1e-6, "{name}");
        let values = Tensor::from_slice([k], &svd.s);
        assert!(apart(&values, &golden("s", &[k])) < 1e-6 * svd.s[0], "{name}");
        let alone = decompose::singular_values(&matrix).unwrap();
        assert!(apart(&Tensor::from_slice([k], &alone), &values) < 1e-6 * svd.s[0], "{name}");
        let (q, r) = decompose::qr(&matrix).unwrap();
        assert!(apart(&q, &golden("q", &[rows, k])) < 1e-6, "{name}");
        assert!(apart(&r, &golden("r", &[k, columns])) < 1e-5, "{name}");
        let effective = golden("effective_rank", &[1]).item();
        assert!((decompose::effective_rank(&svd.s) as f32 - effective).abs() < 1e-5, "{name}");
        if rows == columns {
            let mut symmetric = matrix.clone();
            let turned = transposed(&matrix);
            symmetric.as_mut_slice::<f32>().iter_mut().zip(turned.as_slice::<f32>()).for_each(|(a, b)| *a += b);
            let (values, vectors) = decompose::eigen(&symmetric).unwrap();
            assert!(apart(&Tensor::from_slice([k], &values), &golden("eigenvalues", &[k])) < 1e-5, "{name}");
            assert!(apart(&vectors, &golden("eigenvectors", &[k, k])) < 1e-5, "{name}");
        }
    }
    file.all_used().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn factors_are_orthonormal_and_their_product_is_the_matrix(rows in 1usize..40, columns in 1usize..40, seed: u64) {
        let matrix = random(rows, columns, seed);
        let svd = decompose::svd(&matrix).unwrap();
        prop_assert!(svd.s.windows(2).all(|pair| pair[0] >= pair[1]) && svd.s.iter().all(|s| *s >= 0.0));
        prop_assert!(from_orthonormal(&svd.u) < 1e-5 && from_orthonormal(&transposed(&svd.vt)) < 1e-5);
        let product = matmul_nn(&scaled_columns(&svd.u, &svd.s), &svd.vt, DType::F32);
        prop_assert!(apart(&product, &matrix) < 2e-5);
        let (q, r) = decompose::qr(&matrix).unwrap();
        prop_assert!(from_orthonormal(&q) < 1e-5);
        prop_assert!(apart(&matmul_nn(&q, &r, DType::F32), &matrix) < 2e-5);
        let width = r.dim(1);
        let below = r.as_slice::<f32>().iter().enumerate().filter(|(at, _)| at / width > at % width);
        prop_assert!(below.into_iter().all(|(_, v)| *v == 0.0), "R has numbers below its diagonal");
    }

    #[test]
    fn a_product_is_decomposed_without_being_made(
        rows in 1usize..30, rank in 1usize..12, columns in 1usize..30, seed: u64,
    ) {
        let (left, right) = (random(rows, rank, seed), random(rank, columns, seed ^ 1));
        let product = matmul_nn(&left, &right, DType::F32);
        let (short, long) = (decompose::svd_of_product(&left, &right).unwrap(), decompose::svd(&product).unwrap());
        let largest = long.s[0];
        prop_assert_eq!(short.s.len(), rank.min(rows).min(columns));
        prop_assert!(short.s.iter().zip(&long.s).all(|(a, b)| (a - b).abs() < 1e-5 * largest));
        let again = matmul_nn(&scaled_columns(&short.u, &short.s), &short.vt, DType::F32);
        prop_assert!(apart(&again, &product) < 1e-5 * largest);
    }

    #[test]
    fn eigenvectors_are_what_the_matrix_only_stretches(size in 1usize..25, seed: u64) {
        let half = random(size, size, seed);
        let matrix = matmul_nt(&half, &half, DType::F32);
        let (values, vectors) = decompose::eigen(&matrix).unwrap();
        prop_assert!(values.windows(2).all(|pair| pair[0] >= pair[1]));
        let moved = matmul_nn(&matrix, &vectors, DType::F32);
        prop_assert!(apart(&moved, &scaled_columns(&vectors, &values)) < 1e-5 * values[0].max(1.0));
        prop_assert!(from_orthonormal(&vectors) < 1e-5);
    }
}

#[test]
fn a_truncated_decomposition_is_as_near_as_its_missing_values_say() {
    // Eckart–Young: the squared distance of the best rank-r matrix is the sum of the squares left out.
    let matrix = random(20, 14, 5);
    let whole = decompose::svd(&matrix).unwrap();
    let part = whole.truncated(6);
    assert_eq!((part.u.dims(), part.s.len(), part.vt.dims()), (&[20, 6][..], 6, &[6, 14][..]));
    let near = matmul_nn(&scaled_columns(&part.u, &part.s), &part.vt, DType::F32);
    let pairs = near.as_slice::<f32>().iter().zip(matrix.as_slice::<f32>());
    let missing: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let expected: f64 = whole.s[6..].iter().map(|s| f64::from(*s).powi(2)).sum();
    assert!((missing - expected).abs() < 1e-4 * expected, "{missing} {expected}");
    assert_eq!(whole.truncated(99).s.len(), 14);
}

#[test]
fn ranks_count_directions() {
    let thin = matmul_nn(&random(30, 3, 1), &random(3, 20, 2), DType::F32);
    let values = decompose::singular_values(&thin).unwrap();
    assert_eq!(decompose::numerical_rank(&values, 30, 20), 3);
    assert!(decompose::effective_rank(&values) < 3.0);
    assert!((decompose::effective_rank(&[2.0; 5]) - 5.0).abs() < 1e-9, "equal values use every direction");
    assert!((decompose::effective_rank(&[7.0, 0.0, 0.0]) - 1.0).abs() < 1e-12);
    assert_eq!(decompose::effective_rank(&[0.0, 0.0]), 0.0);
    assert_eq!(decompose::numerical_rank(&[0.0, 0.0], 2, 2), 0);
}

#[test]
fn what_cannot_be_decomposed_is_refused_by_place() {
    let mut matrix = random(3, 4, 1);
    matrix.as_mut_slice::<f32>()[6] = f32::NAN;
    let error = decompose::svd(&matrix).expect_err("NaN has no singular values");
    assert!(matches!(error, DecomposeError::NotFinite { row: 1, column: 2, .. }), "{error}");
    assert!(error.to_string().contains("[3, 4] matrix holds NaN at [1, 2]"), "{error}");
    assert!(decompose::qr(&matrix).is_err() && decompose::eigen(&matrix).is_err());
    let error = decompose::eigen(&random(3, 4, 1)).expect_err("it is not square");
    assert_eq!(error, DecomposeError::NotSquare { rows: 3, columns: 4 });
    // Nothing to decompose is no mistake.
    let empty = Tensor::zeros([0, 4], DType::F32);
    assert!(decompose::svd(&empty).expect("no rows").s.is_empty());
    assert_eq!(decompose::qr(&empty).expect("no rows").1.dims(), [0, 4]);
    let nothing = decompose::svd_of_product(&random(3, 2, 1), &Tensor::zeros([2, 4], DType::F32)).expect("zeros");
    assert_eq!(nothing.s, [0.0, 0.0]);
}
