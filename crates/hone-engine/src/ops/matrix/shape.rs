//! Moves of numbers that change none of them: reshaping, transposing, cutting, joining, gathering, replacing, and the change of
//! type. Each one's gradient is the move back; what was read several times sums its gradients in the order of reading.

use std::ops::Range;

use super::super::embedding::{add_rows, gather};
use crate::dtype::{DType, Element};
use crate::parallel::{Rows, for_blocks};
use crate::profile::{self, Pass};
use crate::simd;
use crate::tape::{Tape, Var};
use crate::tensor::{Shape, Tensor};

/// The same numbers under the axes `dims`, without a copy. Panics if the number of elements differs.
pub fn reshape(tape: &Tape, x: &Var, dims: &[usize]) -> Var {
    let value = x.value.reshape(dims);
    if !tape.needs_grad(&[x]) {
        return Var::constant(value);
    }
    let x = x.clone();
    tape.record(value, move |grad, into| into.add(&x, grad.reshape(x.value.shape())))
}

/// `xᵀ`: `[m, n] -> [n, m]`.
pub fn transpose(tape: &Tape, x: &Var) -> Var {
    let _span = profile::span("transpose", Pass::Forward);
    let value = transposed(&x.value);
    if !tape.needs_grad(&[x]) {
        return Var::constant(value);
    }
    let x = x.clone();
    tape.record(value, move |grad, into| {
        let _span = profile::span("transpose", Pass::Backward);
        into.add(&x, transposed(&grad).reshape(x.value.shape()));
    })
}

/// Entries `range` of the first axis, without a copy. Panics on a range outside it.
pub fn rows(tape: &Tape, x: &Var, range: Range<usize>) -> Var {
    let value = x.value.narrow(range.clone());
    if !tape.needs_grad(&[x]) {
        return Var::constant(value);
    }
    let x = x.clone();
    tape.record(value, move |grad, into| {
        let _span = profile::span("rows", Pass::Backward);
        let width: usize = x.value.dims()[1..].iter().product();
        into.add_in_place(&x, |sum| add_at(sum, range.start * width, &grad));
    })
}

/// Entries `range` of the last axis. Panics on a range outside it.
pub fn columns(tape: &Tape, x: &Var, range: Range<usize>) -> Var {
    let _span = profile::span("columns", Pass::Forward);
    let (_, cols) = x.value.rows_cols();
    assert!(range.start <= range.end && range.end <= cols, "columns {range:?} of {:?}", x.value.shape());
    let value = cut(&x.value, range.clone());
    if !tape.needs_grad(&[x]) {
        return Var::constant(value);
    }
    let x = x.clone();
    tape.record(value, move |grad, into| {
        let _span = profile::span("columns", Pass::Backward);
        let mut dx = Tensor::zeros(x.value.shape(), grad.dtype());
        paste(&mut dx, range.start, &grad);
        into.add(&x, dx);
    })
}

/// Tensors one after another along the first axis; the other axes and the types must be equal. Panics if they are not, and
/// on an empty list.
pub fn concat_rows(tape: &Tape, parts: &[Var]) -> Var {
    let _span = profile::span("concat rows", Pass::Forward);
    let first = &parts.first().expect("a concatenation of at least one part").value;
    let (dtype, inner) = (first.dtype(), first.dims()[1..].to_vec());
    for part in parts {
        let fits = part.value.dtype() == dtype && part.value.dims()[1..] == inner[..];
        assert!(fits, "{:?} under {first:?} in a concatenation of rows", part.value);
    }
    let mut dims = first.dims().to_vec();
    dims[0] = parts.iter().map(|part| part.value.dim(0)).sum();
    let mut value = Tensor::uninit(&dims[..], dtype);
    crate::dispatch_dtype!(dtype, T => {
        let mut rest = value.as_mut_slice::<T>();
        for part in parts {
            let (to, after) = rest.split_at_mut(part.value.elements());
            to.copy_from_slice(part.value.as_slice::<T>());
            rest = after;
        }
    });
    if !tape.needs_grad(&parts.iter().collect::<Vec<_>>()) {
        return Var::constant(value);
    }
    let parts = parts.to_vec();
    tape.record(value, move |grad, into| {
        let mut from = 0;
        for part in &parts {
            let to = from + part.value.dim(0);
            into.add(part, grad.narrow(from..to));
            from = to;
        }
    })
}

/// Matrices beside one another: joined along the last axis; the number of rows and the types must be equal. Panics if
/// they are not, and on an empty list.
pub fn concat_columns(tape: &Tape, parts: &[Var]) -> Var {
    let _span = profile::span("concat columns", Pass::Forward);
    let first = &parts.first().expect("a concatenation of at least one part").value;
    let (rows, _) = first.rows_cols();
    for part in parts {
        let fits = part.value.dtype() == first.dtype() && part.value.rows_cols().0 == rows;
        assert!(fits, "{:?} beside {first:?} in a concatenation of columns", part.value);
    }
    let total = parts.iter().map(|part| part.value.rows_cols().1).sum();
    let mut value = Tensor::uninit(with_columns(first, total), first.dtype());
    let mut from = 0;
    for part in parts {
        paste(&mut value, from, &part.value);
        from += part.value.rows_cols().1;
    }
    if !tape.needs_grad(&parts.iter().collect::<Vec<_>>()) {
        return Var::constant(value);
    }
    let parts = parts.to_vec();
    tape.record(value, move |grad, into| {
        let _span = profile::span("concat columns", Pass::Backward);
        let mut from = 0;
        for part in &parts {
            let to = from + part.value.rows_cols().1;
            if part.needs_grad() {
                into.add(part, cut(&grad, from..to).reshape(part.value.shape()));
            }
            from = to;
        }
    })
}

/// Rows `ids` of `x` `[m, n]`, in their order, any number of times: `[ids.len(), n]`. The gradient of a row is summed in the
/// order of `ids`. Panics on an id outside `x`.
pub fn gather_rows(tape: &Tape, x: &Var, ids: &[u32]) -> Var {
    let _span = profile::span("gather rows", Pass::Forward);
    let (rows, _) = x.value.rows_cols();
    if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
        panic!("row {id} gathered from {:?}", x.value.shape());
    }
    let value = gather(&x.value, ids);
    if !tape.needs_grad(&[x]) {
        return Var::constant(value);
    }
    let (x, ids) = (x.clone(), ids.to_vec());
    tape.record(value, move |grad, into| {
        let _span = profile::span("gather rows", Pass::Backward);
        into.add_in_place(&x, |sum| add_rows(sum, &ids, &grad, 1.0));
    })
}

/// `x` `[m, n]` with the rows from `start` on replaced by those of `new` `[r, n]` (of either type): virtual tokens in the place
/// of an input's. The gradient of these rows goes to `new` alone. Panics if they do not fit.
pub fn replace_rows(tape: &Tape, x: &Var, start: usize, new: &Var) -> Var {
    let _span = profile::span("replace rows", Pass::Forward);
    let ((rows, cols), (count, width)) = (x.value.rows_cols(), new.value.rows_cols());
    let fits = width == cols && start + count <= rows;
    assert!(fits, "{:?} in the place of rows {start}.. of {:?}", new.value.shape(), x.value.shape());
    let replaced = start * cols..(start + count) * cols;
    let mut value = x.value.clone();
    crate::dispatch_dtype!(value.dtype(), T => {
        let new = new.value.to_dtype(value.dtype());
        value.as_mut_slice::<T>()[replaced.clone()].copy_from_slice(new.as_slice::<T>());
    });
    if !tape.needs_grad(&[x, new]) {
        return Var::constant(value);
    }
    let (x, new) = (x.clone(), new.clone());
    tape.record(value, move |mut grad, into| {
        let _span = profile::span("replace rows", Pass::Backward);
        if new.needs_grad() {
            let part = crate::dispatch_dtype!(grad.dtype(), T => {
                Tensor::from_slice(new.value.shape(), &grad.as_slice::<T>()[replaced.clone()])
            });
            into.add(&new, part);
        }
        if x.needs_grad() {
            crate::dispatch_dtype!(grad.dtype(), T => grad.as_mut_slice::<T>()[replaced].fill(T::rounded(0.0)));
            into.add(&x, grad);
        }
    })
}

/// `x` `[m, n]` with rows `ids` replaced by those of `new` `[ids.len(), n]` (of either type): chosen rows of a table. The
/// gradient of these rows goes to `new` alone. Panics if they do not fit, on an id outside `x` and on one that comes twice.
pub fn set_rows(tape: &Tape, x: &Var, ids: &[u32], new: &Var) -> Var {
    let _span = profile::span("set rows", Pass::Forward);
    let ((rows, cols), (count, width)) = (x.value.rows_cols(), new.value.rows_cols());
    let mut seen = vec![false; rows];
    let fits = ids.iter().all(|id| seen.get_mut(*id as usize).is_some_and(|seen| !std::mem::replace(seen, true)));
    assert!(fits && count == ids.len() && width == cols, "rows {ids:?} of {:?} set", x.value.shape());
    let mut value = x.value.clone();
    crate::dispatch_dtype!(value.dtype(), T => {
        let new = new.value.to_dtype(value.dtype());
        let (to, rows) = (value.as_mut_slice::<T>(), new.as_slice::<T>().chunks_exact(cols));
        ids.iter().zip(rows).for_each(|(id, row)| to[*id as usize * cols..][..cols].copy_from_slice(row));
    });
    if !tape.needs_grad(&[x, new]) {
        return Var::constant(value);
    }
    let (x, new, ids) = (x.clone(), new.clone(), ids.to_vec());
    tape.record(value, move |mut grad, into| {
        let _span = profile::span("set rows", Pass::Backward);
        if new.needs_grad() {
            into.add(&new, gather(&grad, &ids).reshape(new.value.shape()));
        }
        if x.needs_grad() {
            crate::dispatch_dtype!(grad.dtype(), T => {
                let grad = grad.as_mut_slice::<T>();
                ids.iter().for_each(|id| grad[*id as usize * cols..][..cols].fill(T::rounded(0.0)));
            });
            into.add(&x, grad);
        }
    })
}

/// The same values in another type, rounded to nearest; the gradient comes back in the type of `x`.
pub fn convert(tape: &Tape, x: &Var, dtype: DType) -> Var {
    if x.value.dtype() == dtype {
        return x.clone();
    }
    let _span = profile::span("convert", Pass::Forward);
    let value = x.value.to_dtype(dtype);
    if !tape.needs_grad(&[x]) {
        return Var::constant(value);
    }
    let x = x.clone();
    tape.record(value, move |grad, into| {
        let _span = profile::span("convert", Pass::Backward);
        into.add(&x, grad);
    })
}

/// `xᵀ` of a matrix.
pub(super) fn transposed(x: &Tensor) -> Tensor {
    /// Rows of `x` taken together, so that what is read of them fits the first cache.
    const TILE: usize = 64;
    assert_eq!(x.dims().len(), 2, "a transpose of {:?}", x.shape());
    let (m, n) = x.rows_cols();
    let mut out = Tensor::uninit([n, m], x.dtype());
    crate::dispatch_dtype!(x.dtype(), T => {
        let x = x.as_slice::<T>();
        for_blocks(
            n,
            m,
            Rows::new(out.as_mut_slice::<T>(), m),
            #[inline(always)]
            |range, out: Rows<T>| {
                for from in (0..m).step_by(TILE) {
                    let to = (from + TILE).min(m);
                    for (j, row) in range.clone().zip(out.data.chunks_exact_mut(m)) {
                        for (i, o) in (from..to).zip(&mut row[from..to]) {
                            *o = x[i * n + j];
                        }
                    }
                }
            },
        )
    });
    out
}

/// The shape of `x` with `cols` entries along the last axis.
fn with_columns(x: &Tensor, cols: usize) -> Shape {
    let mut dims = x.dims().to_vec();
    *dims.last_mut().expect("a tensor with axes") = cols;
    Shape::new(&dims)
}

/// Entries `range` of the last axis.
fn cut(x: &Tensor, range: Range<usize>) -> Tensor {
    let (_, cols) = x.rows_cols();
    let mut out = Tensor::uninit(with_columns(x, range.len()), x.dtype());
    if range.is_empty() {
        return out;
    }
    crate::dispatch_dtype!(x.dtype(), T => {
        let to = out.as_mut_slice::<T>().chunks_exact_mut(range.len());
        for (to, from) in to.zip(x.as_slice::<T>().chunks_exact(cols)) {
            to.copy_from_slice(&from[range.clone()]);
        }
    });
    out
}

/// Writes `part` over the columns of `to` from `start` on; the same number of rows and type.
fn paste(to: &mut Tensor, start: usize, part: &Tensor) {
    let ((_, cols), (_, width)) = (to.rows_cols(), part.rows_cols());
    if width == 0 {
        return;
    }
    crate::dispatch_dtype!(part.dtype(), T => {
        let to = to.as_mut_slice::<T>().chunks_exact_mut(cols);
        for (to, from) in to.zip(part.as_slice::<T>().chunks_exact(width)) {
            to[start..start + width].copy_from_slice(from);
        }
    });
}

/// Adds `from` to the elements of `to` from `start` on.
fn add_at(to: &mut Tensor, start: usize, from: &Tensor) {
    let range = start..start + from.elements();
    crate::dispatch_dtype!(to.dtype(), T => crate::dispatch_dtype!(from.dtype(), F => {
        let (to, from) = (&mut to.as_mut_slice::<T>()[range], from.as_slice::<F>());
        simd::dispatch(
            #[inline(always)]
            || simd::add_scaled(to, 1.0, from),
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::multiply;
    use crate::reference::gradient_check::{check, random, tolerance};
    use crate::reference::matrix;
    use crate::tape::{Gradients, ParamId};

    const M: usize = 6;
    const N: usize = 5;
    const TYPES: [DType; 2] = [DType::F32, DType::BF16];

    /// Rows of a matrix of `N` columns.
    fn picked(v: &[f64], ids: impl IntoIterator<Item = usize>) -> Vec<f64> {
        ids.into_iter().flat_map(|i| v[i * N..(i + 1) * N].to_vec()).collect()
    }

    /// Columns `range` of a matrix of `N` columns.
    fn picked_columns(v: &[f64], range: Range<usize>) -> Vec<f64> {
        v.chunks(N).flat_map(|row| row[range.clone()].to_vec()).collect()
    }

    #[test]
    fn moves_of_one_matrix_match_the_reference() {
        for dtype in TYPES {
            let (x, t) = ([random([M, N], dtype, 1)], tolerance(dtype));
            check(&x, t, |tape, v| vec![reshape(tape, &v[0], &[2, 3, N])], |v| vec![v[0].clone()]);
            check(&x, t, |tape, v| vec![transpose(tape, &v[0])], |v| vec![matrix::transpose(&v[0], N)]);
            check(&x, t, |tape, v| vec![rows(tape, &v[0], 1..4)], |v| vec![picked(&v[0], 1..4)]);
            check(&x, t, |tape, v| vec![columns(tape, &v[0], 2..4)], |v| vec![picked_columns(&v[0], 2..4)]);
            let ids = [3u32, 0, 3, 5, 3];
            let want = |v: &[Vec<f64>]| vec![picked(&v[0], ids.map(|i| i as usize))];
            check(&x, t, |tape, v| vec![gather_rows(tape, &v[0], &ids)], want);
        }
    }

    #[test]
    fn a_matrix_read_in_several_ways_sums_its_gradients() {
        let x = [random([M, N], DType::F32, 1)];
        let op = |tape: &Tape, v: &[Var]| {
            let twice = multiply(tape, &rows(tape, &v[0], 0..4), &rows(tape, &v[0], 2..6));
            let beside = multiply(tape, &columns(tape, &v[0], 0..2), &columns(tape, &v[0], 3..5));
            vec![twice, beside]
        };
        let oracle = |v: &[Vec<f64>]| {
            let product = |a: Vec<f64>, b: Vec<f64>| a.iter().zip(b).map(|(a, b)| a * b).collect();
            vec![
                product(picked(&v[0], 0..4), picked(&v[0], 2..6)),
                product(picked_columns(&v[0], 0..2), picked_columns(&v[0], 3..5)),
            ]
        };
        check(&x, tolerance(DType::F32), op, oracle);
    }

    #[test]
    fn joined_matrices_match_the_reference() {
        for dtype in TYPES {
            let (parts, t) = ([random([M, N], dtype, 1), random([2, N], dtype, 2)], tolerance(dtype));
            check(&parts, t, |tape, v| vec![concat_rows(tape, v)], |v| vec![v.concat()]);
            let parts = [random([M, N], dtype, 1), random([M, 2], dtype, 2), random([M, 1], dtype, 3)];
            let oracle = |v: &[Vec<f64>]| {
                let row = |i: usize| [&v[0][i * N..(i + 1) * N], &v[1][i * 2..(i + 1) * 2], &v[2][i..i + 1]].concat();
                vec![(0..M).flat_map(row).collect()]
            };
            check(&parts, t, |tape, v| vec![concat_columns(tape, v)], oracle);
        }
    }

    #[test]
    fn replaced_rows_take_the_gradient_of_what_they_replace() {
        for (dtype, new) in [(DType::F32, DType::F32), (DType::BF16, DType::BF16)] {
            let inputs = [random([M, N], dtype, 1), random([2, N], new, 2)];
            let op = |tape: &Tape, v: &[Var]| vec![replace_rows(tape, &v[0], 3, &v[1])];
            let oracle = |v: &[Vec<f64>]| vec![[&v[0][..3 * N], &v[1][..], &v[0][5 * N..]].concat()];
            check(&inputs, tolerance(dtype), op, oracle);
        }
    }

    #[test]
    fn set_rows_take_the_gradient_of_what_they_replace() {
        for dtype in TYPES {
            let inputs = [random([M, N], dtype, 1), random([2, N], dtype, 2)];
            let op = |tape: &Tape, v: &[Var]| vec![set_rows(tape, &v[0], &[4, 1], &v[1])];
            let row = |v: &[f64], i: usize| v[i * N..(i + 1) * N].to_vec();
            let oracle = |v: &[Vec<f64>]| {
                let rows = [(0, 0), (1, 1), (0, 2), (0, 3), (1, 0), (0, 5)];
                vec![rows.iter().flat_map(|(of, at)| row(&v[*of], *at)).collect()]
            };
            check(&inputs, tolerance(dtype), op, oracle);
        }
    }

    #[test]
    #[should_panic(expected = "rows [1, 1] of")]
    fn a_row_set_twice_is_refused() {
        let (x, new) = (random([M, N], DType::F32, 1), random([2, N], DType::F32, 2));
        set_rows(&Tape::off(), &Var::constant(x), &[1, 1], &Var::constant(new));
    }

    #[test]
    fn a_conversion_rounds_and_passes_the_gradient_on() {
        let x = random([M, N], DType::F32, 1);
        let tape = Tape::recording();
        let y = convert(&tape, &Var::param(ParamId(0), x.clone()), DType::BF16);
        assert_eq!(y.value.as_bytes(), x.to_dtype(DType::BF16).as_bytes());
        let seed = random([M, N], DType::BF16, 2);
        let mut grads = Gradients::new();
        tape.backward(&y, seed.clone(), &mut grads);
        assert_eq!(grads.param(ParamId(0)).map(Tensor::to_vec_f32), Some(seed.to_vec_f32()));
        assert_eq!(convert(&tape, &Var::constant(x), DType::F32).value.dtype(), DType::F32);
    }

    #[test]
    fn a_transpose_larger_than_its_tiles_is_right() {
        let (m, n) = (150, 333);
        let x = random([m, n], DType::F32, 1);
        let (from, to) = (x.to_vec_f32(), transposed(&x).to_vec_f32());
        assert!((0..m * n).all(|at| to[at % n * m + at / n] == from[at]));
    }

    #[test]
    #[should_panic(expected = "row 6 gathered from [6, 5]")]
    fn a_row_outside_is_named() {
        gather_rows(&Tape::off(), &Var::constant(random([M, N], DType::F32, 1)), &[0, 6]);
    }
}
