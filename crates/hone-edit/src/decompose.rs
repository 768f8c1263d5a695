//! Decompositions of matrices: singular values, QR, eigenvectors of symmetric matrices, effective rank.
//!
//! `f32` in and out, `f64` between, on one thread, so a result depends on the matrix and the machine's instruction set
//! only. Signs, which the definitions leave open, are fixed, so that two runs, two machines and two thread counts name
//! the same vectors:
//!
//! | | | shapes | sign |
//! |---|---|---|---|
//! | [`svd`] | `M = U diag(s) Vᵀ`, `s` falling | `U` `[m, k]`, `s` `k`, `Vᵀ` `[k, n]`, `k = min(m, n)` | the largest entry of each column of `U` is positive |
//! | [`svd_of_product`] | the same of `B A`, without the product | `k = min(m, r, n)` | the same |
//! | [`qr`] | `M = Q R`, `R` upper triangular | `Q` `[m, k]`, `R` `[k, n]` | the diagonal of `R` is not negative |
//! | [`eigen`] | `M = V diag(λ) Vᵀ`, `λ` falling | `V` `[n, n]` | as `U` |
//!
//! [`effective_rank`] (Roy & Vetterli 2007, "The effective rank"): `exp(-Σ pᵢ ln pᵢ)` with `pᵢ = sᵢ / Σ s`: how many
//! directions a matrix really uses. [`numerical_rank`] counts singular values that are more than rounding.
//!
//! The algorithms are those of the `faer` crate. This module knows nothing of edits.

use faer::linalg::solvers::SvdError;
use faer::{Mat, MatRef, Side};
use hone_engine::Tensor;

/// A matrix that could not be decomposed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DecomposeError {
    /// NaN or infinity in it.
    #[error(
        "a [{rows}, {columns}] matrix holds {found} at [{row}, {column}]: it cannot be decomposed; its training diverged \
         or its file is damaged"
    )]
    NotFinite {
        /// Its rows.
        rows: usize,
        /// Its columns.
        columns: usize,
        /// The number.
        found: f32,
        /// Where, from 0.
        row: usize,
        /// Where, from 0.
        column: usize,
    },
    /// The iteration did not end.
    #[error("the singular values of a [{rows}, {columns}] matrix were not found: the iteration does not converge")]
    NoConvergence {
        /// Its rows.
        rows: usize,
        /// Its columns.
        columns: usize,
    },
    /// Eigenvectors were asked of a matrix that is not square.
    #[error("a [{rows}, {columns}] matrix has no eigenvectors: it must be square")]
    NotSquare {
        /// Its rows.
        rows: usize,
        /// Its columns.
        columns: usize,
    },
}

/// `U diag(s) Vᵀ`, `k` columns and rows.
#[derive(Clone, Debug)]
pub struct Svd {
    /// Left singular vectors in columns, `[m, k]`.
    pub u: Tensor,
    /// Singular values, falling, none negative.
    pub s: Vec<f32>,
    /// Right singular vectors in rows, `[k, n]`.
    pub vt: Tensor,
}

impl Svd {
    /// The part with the `rank` largest singular values (all of them, if there are no more).
    pub fn truncated(&self, rank: usize) -> Svd {
        let rank = rank.min(self.s.len());
        let (rows, columns) = self.u.rows_cols();
        let kept = self.u.as_slice::<f32>().chunks_exact(columns.max(1)).flat_map(|row| &row[..rank]).copied();
        let u = Tensor::from_slice([rows, rank], &kept.collect::<Vec<f32>>());
        Svd { u, s: self.s[..rank].to_vec(), vt: self.vt.narrow(0..rank) }
    }
}

/// Singular values and vectors of `matrix`, `[m, n]`.
pub fn svd(matrix: &Tensor) -> Result<Svd, DecomposeError> {
    let matrix = widened(matrix)?;
    Ok(thin_svd(matrix.as_ref())?.narrowed())
}

/// Singular values alone, falling: half the work of [`svd`] or less.
pub fn singular_values(matrix: &Tensor) -> Result<Vec<f32>, DecomposeError> {
    let matrix = widened(matrix)?;
    let (rows, columns) = matrix.shape();
    if rows == 0 || columns == 0 {
        return Ok(Vec::new());
    }
    let values = matrix.singular_values().map_err(no_convergence(&matrix))?;
    Ok(values.into_iter().map(|s| s as f32).collect())
}

/// Singular values and vectors of `left · right`, `[m, r]` by `[r, n]`: what a low-rank pair's change of a weight is
/// made of. Both factors are brought to triangles, and only the product of those, `r` wide, is decomposed.
pub fn svd_of_product(left: &Tensor, right: &Tensor) -> Result<Svd, DecomposeError> {
    let (left, right) = (widened(left)?, widened(right)?);
    assert_eq!(left.ncols(), right.nrows(), "inner sizes of a product differ");
    if left.ncols() >= left.nrows().min(right.ncols()) {
        return Ok(thin_svd((left * right).as_ref())?.narrowed());
    }
    let (left, right) = (left.qr(), right.transpose().to_owned().qr());
    let core = thin_svd((left.thin_R() * right.thin_R().transpose()).as_ref())?;
    let mut whole = Wide { u: left.compute_thin_Q() * core.u, s: core.s, v: right.compute_thin_Q() * core.v };
    whole.fix_signs();
    Ok(whole.narrowed())
}

/// `(Q, R)` of `matrix`, `[m, n]`.
pub fn qr(matrix: &Tensor) -> Result<(Tensor, Tensor), DecomposeError> {
    let matrix = widened(matrix)?;
    let factors = matrix.qr();
    let (mut q, mut r) = (factors.compute_thin_Q(), factors.thin_R().to_owned());
    for i in 0..r.nrows() {
        if r[(i, i)] < 0.0 {
            r.row_mut(i).iter_mut().for_each(|v| *v = -*v);
            q.col_mut(i).iter_mut().for_each(|v| *v = -*v);
        }
    }
    Ok((narrowed(q.as_ref()), narrowed(r.as_ref())))
}

/// An orthonormal basis of the space that the columns of `matrix` span, `[m, min(m, n)]`: the `Q` of [`qr`].
pub fn orthonormal(matrix: &Tensor) -> Result<Tensor, DecomposeError> {
    Ok(qr(matrix)?.0)
}

/// Eigenvalues, falling, and eigenvectors in columns, `[n, n]`, of a symmetric matrix; the part above its diagonal is
/// not read.
pub fn eigen(matrix: &Tensor) -> Result<(Vec<f32>, Tensor), DecomposeError> {
    let matrix = widened(matrix)?;
    let (rows, columns) = matrix.shape();
    if rows != columns {
        return Err(DecomposeError::NotSquare { rows, columns });
    }
    let found = matrix.self_adjoint_eigen(Side::Lower);
    let found = found.map_err(|_| DecomposeError::NoConvergence { rows, columns })?;
    let values = found.S().column_vector();
    let values = (0..rows).rev().map(|i| values[i] as f32).collect();
    let mut vectors = found.U().reverse_cols().to_owned();
    (0..columns).filter(|j| points_down(vectors.as_ref(), *j)).collect::<Vec<_>>().into_iter().for_each(|j| {
        vectors.col_mut(j).iter_mut().for_each(|v| *v = -*v);
    });
    Ok((values, narrowed(vectors.as_ref())))
}

/// `exp` of the entropy of the singular values taken as shares of their sum: 1 for one direction, `k` for `k` equal
/// ones, 0 for a matrix of zeros.
pub fn effective_rank(singular_values: &[f32]) -> f64 {
    let total: f64 = singular_values.iter().map(|s| f64::from(*s)).sum();
    if total <= 0.0 {
        return 0.0;
    }
    let shares = singular_values.iter().map(|s| f64::from(*s) / total).filter(|p| *p > 0.0);
    (-shares.map(|p| p * p.ln()).sum::<f64>()).exp()
}

/// Singular values above rounding: more than `max(m, n) ε` of the largest, with `f32`'s `ε` (NumPy's rule for
/// `matrix_rank`).
pub fn numerical_rank(singular_values: &[f32], rows: usize, columns: usize) -> usize {
    let largest = singular_values.iter().copied().fold(0f32, f32::max);
    let tolerance = largest * rows.max(columns) as f32 * f32::EPSILON;
    singular_values.iter().filter(|s| **s > tolerance).count()
}

/// A decomposition in `f64`.
struct Wide {
    u: Mat<f64>,
    s: Vec<f64>,
    v: Mat<f64>,
}

impl Wide {
    /// Turns each pair of vectors so that the largest entry of the left one is positive.
    fn fix_signs(&mut self) {
        for j in 0..self.s.len() {
            if points_down(self.u.as_ref(), j) {
                self.u.col_mut(j).iter_mut().for_each(|v| *v = -*v);
                self.v.col_mut(j).iter_mut().for_each(|v| *v = -*v);
            }
        }
    }

    fn narrowed(&self) -> Svd {
        let s = self.s.iter().map(|s| *s as f32).collect();
        Svd { u: narrowed(self.u.as_ref()), s, vt: narrowed(self.v.transpose()) }
    }
}

fn thin_svd(matrix: MatRef<f64>) -> Result<Wide, DecomposeError> {
    let (rows, columns) = matrix.shape();
    if rows == 0 || columns == 0 {
        return Ok(Wide { u: Mat::zeros(rows, 0), s: Vec::new(), v: Mat::zeros(columns, 0) });
    }
    let found = matrix.thin_svd().map_err(|_| DecomposeError::NoConvergence { rows, columns })?;
    let s = found.S().column_vector();
    let s = (0..rows.min(columns)).map(|i| s[i]).collect();
    let mut wide = Wide { u: found.U().to_owned(), s, v: found.V().to_owned() };
    wide.fix_signs();
    Ok(wide)
}

/// Whether the entry of largest magnitude in column `j` (the first of several) is negative.
fn points_down(matrix: MatRef<f64>, j: usize) -> bool {
    let column = matrix.col(j).iter().copied();
    column.fold(0.0f64, |largest, v| if v.abs() > largest.abs() { v } else { largest }) < 0.0
}

fn no_convergence(matrix: &Mat<f64>) -> impl FnOnce(SvdError) -> DecomposeError {
    let (rows, columns) = matrix.shape();
    move |_| DecomposeError::NoConvergence { rows, columns }
}

/// A matrix in `f64`, its numbers checked.
fn widened(matrix: &Tensor) -> Result<Mat<f64>, DecomposeError> {
    let (rows, columns) = matrix.rows_cols();
    let values = matrix.to_vec_f32();
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        let (row, column) = (at / columns, at % columns);
        return Err(DecomposeError::NotFinite { rows, columns, found: values[at], row, column });
    }
    Ok(Mat::from_fn(rows, columns, |i, j| f64::from(values[i * columns + j])))
}

fn narrowed(matrix: MatRef<f64>) -> Tensor {
    let (rows, columns) = matrix.shape();
    let values: Vec<f32> = (0..rows).flat_map(|i| (0..columns).map(move |j| matrix[(i, j)] as f32)).collect();
    Tensor::from_slice([rows, columns], &values)
}
