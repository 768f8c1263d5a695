//! The thin products of several low-rank terms that read one input: with the matrices `A` of `q`, `k` and `v` stacked, `x` is
//! read once and not three times, which is all such a product costs. Every number is that of the products apart: a column's
//! sum does not depend on its neighbours.

use super::LowRank;
use crate::dtype::{DType, Element};
use crate::matmul::{matmul_nt, matmul_tn};
use crate::parallel::{Rows, for_blocks};
use crate::tape::Gradients;
use crate::tensor::Tensor;

/// `scale · x Aᵀ` `[tokens, rank]` of every term, in `x`'s type.
pub(super) fn side_by_side(x: &Tensor, terms: &[&LowRank]) -> Vec<Tensor> {
    let Some(stacked) = stack(terms) else {
        let alone =
            |term: &&LowRank| columns(&matmul_nt(x, &term.a.value, x.dtype()), 0, term.a.value.dim(0), term.scale);
        return terms.iter().map(alone).collect();
    };
    let all = matmul_nt(x, &stacked, x.dtype());
    let mut first = 0;
    let mut next = |term: &&LowRank| {
        let rank = term.a.value.dim(0);
        first += rank;
        columns(&all, first - rank, rank, term.scale)
    };
    terms.iter().map(&mut next).collect()
}

/// Adds `uᵀ x` to the gradient of each term's `A`, given its `u` `[tokens, rank]`.
pub(super) fn gradients_of_a(x: &Tensor, terms: &[&(&LowRank, Tensor)], into: &mut Gradients) {
    let trained: Vec<_> = terms.iter().filter(|(term, _)| term.a.needs_grad()).collect();
    if trained.len() < 2 {
        return trained.iter().for_each(|(term, u)| into.add_product_tn(&term.a, u, x));
    }
    let us: Vec<&Tensor> = trained.iter().map(|(_, u)| u).collect();
    let all = matmul_tn(&beside(&us), x, DType::F32);
    let mut first = 0;
    for (term, u) in trained {
        let rank = u.rows_cols().1;
        into.add(&term.a, all.narrow(first..first + rank).reshape(term.a.value.shape()));
        first += rank;
    }
}

/// The terms' `A` below one another, `[Σ rank, in]`; `None` where there is nothing to gain or their types differ.
fn stack(terms: &[&LowRank]) -> Option<Tensor> {
    let (first, rest) = terms.split_first()?;
    let (dtype, width) = (first.a.value.dtype(), first.a.value.rows_cols().1);
    if rest.is_empty() || rest.iter().any(|term| term.a.value.dtype() != dtype) {
        return None;
    }
    let rows = terms.iter().map(|term| term.a.value.rows_cols().0).sum::<usize>();
    let mut all = Tensor::uninit([rows, width], dtype);
    crate::dispatch_dtype!(dtype, T => {
        let mut to = all.as_mut_slice::<T>();
        for term in terms {
            let from = term.a.value.as_slice::<T>();
            let (here, after) = to.split_at_mut(from.len());
            here.copy_from_slice(from);
            to = after;
        }
    });
    Some(all)
}

/// Columns `first..first + count` of a matrix, times `factor`.
fn columns(all: &Tensor, first: usize, count: usize, factor: f32) -> Tensor {
    let (rows, width) = all.rows_cols();
    if count == width && factor == 1.0 {
        return all.clone();
    }
    let mut out = Tensor::uninit([rows, count], all.dtype());
    crate::dispatch_dtype!(all.dtype(), T => {
        let all = all.as_slice::<T>();
        for_blocks(
            rows,
            count,
            Rows::new(out.as_mut_slice::<T>(), count),
            #[inline(always)]
            |range, out: Rows<T>| {
                for (row, to) in range.zip(out.data.chunks_exact_mut(count)) {
                    let from = &all[row * width + first..][..count];
                    to.iter_mut().zip(from).for_each(|(t, f)| *t = T::rounded(Element::widen(*f) * factor));
                }
            },
        )
    });
    out
}

/// Matrices of as many rows beside one another.
fn beside(parts: &[&Tensor]) -> Tensor {
    let rows = parts[0].rows_cols().0;
    let width = parts.iter().map(|part| part.rows_cols().1).sum::<usize>();
    let mut all = Tensor::uninit([rows, width], parts[0].dtype());
    crate::dispatch_dtype!(all.dtype(), T => {
        let parts: Vec<(&[T], usize)> = parts.iter().map(|p| (p.as_slice::<T>(), p.rows_cols().1)).collect();
        for_blocks(
            rows,
            width,
            Rows::new(all.as_mut_slice::<T>(), width),
            #[inline(always)]
            |range, all: Rows<T>| {
                for (row, mut to) in range.zip(all.data.chunks_exact_mut(width)) {
                    for (part, width) in &parts {
                        let (here, after) = to.split_at_mut(*width);
                        here.copy_from_slice(&part[row * width..][..*width]);
                        to = after;
                    }
                }
            },
        )
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient_check::random;
    use crate::{ParamId, Var};

    #[test]
    fn together_they_are_the_products_apart_to_the_bit() {
        for dtype in [DType::F32, DType::BF16] {
            let x = random([70, 40], dtype, 1);
            let a: Vec<Var> =
                (0..3).map(|i| Var::param(ParamId(i), random([3 + i as usize, 40], dtype, 2 + i as u64))).collect();
            let b = Var::constant(Tensor::zeros([1, 1], dtype));
            let term = |a: &Var, scale| LowRank { a: a.clone(), b: b.clone(), scale, dropout: None };
            // The last one stands twice, so that its gradients sum.
            let terms = [term(&a[0], 1.0), term(&a[1], 0.3), term(&a[2], 2.0), term(&a[2], 1.0)];
            let together = side_by_side(&x, &terms.iter().collect::<Vec<_>>());
            for (t, term) in together.iter().zip(&terms) {
                let alone = side_by_side(&x, &[term]);
                assert_eq!(t.as_bytes(), alone[0].as_bytes());
                let plain = matmul_nt(&x, &term.a.value, dtype).to_vec_f32();
                let one = Tensor::from_slice([1], &[plain[0] * term.scale]).to_dtype(dtype);
                assert_eq!(t.to_vec_f32()[0], one.item());
            }
            let low: Vec<(&LowRank, Tensor)> = terms.iter().zip(&together).map(|(term, t)| (term, t.clone())).collect();
            let (mut got, mut want) = (Gradients::new(), Gradients::new());
            gradients_of_a(&x, &low.iter().collect::<Vec<_>>(), &mut got);
            low.iter().for_each(|(term, u)| want.add_product_tn(&term.a, u, &x));
            for i in 0..3 {
                let [got, want] = [&got, &want].map(|g| g.param(ParamId(i)).expect("a gradient").to_vec_f32());
                assert_eq!(got, want);
            }
        }
    }
}
