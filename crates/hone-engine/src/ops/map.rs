//! Element-wise passes over tensors, shared by the operations. An operand given by value lends its memory to the result
//! when nobody else holds it. Closures must be `#[inline(always)]`, see [`simd::dispatch`](crate::simd::dispatch).

use crate::dtype::Element;
use crate::parallel::for_pieces;
use crate::tensor::Tensor;

/// `f(a)`.
#[inline(always)]
pub(super) fn map(mut a: Tensor, f: impl Fn(f32) -> f32 + Sync) -> Tensor {
    if a.is_unique() {
        crate::dispatch_dtype!(a.dtype(), T => for_pieces(
            a.as_mut_slice::<T>(),
            #[inline(always)]
            |_, a| a.iter_mut().for_each(|a| *a = T::rounded(f(Element::widen(*a)))),
        ));
        return a;
    }
    let mut out = Tensor::uninit(a.shape(), a.dtype());
    crate::dispatch_dtype!(a.dtype(), T => {
        let a = a.as_slice::<T>();
        for_pieces(
            out.as_mut_slice::<T>(),
            #[inline(always)]
            |range, out| out.iter_mut().zip(&a[range]).for_each(|(o, a)| *o = T::rounded(f(Element::widen(*a)))),
        )
    });
    out
}

/// `f(a, b)`, same type and number of elements; the shape of `a`.
#[inline(always)]
pub(super) fn zip_map(mut a: Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32 + Sync) -> Tensor {
    same(&a, b);
    if a.is_unique() {
        crate::dispatch_dtype!(a.dtype(), T => {
            let b = b.as_slice::<T>();
            for_pieces(
                a.as_mut_slice::<T>(),
                #[inline(always)]
                |range, a| {
                    for (a, b) in a.iter_mut().zip(&b[range]) {
                        *a = T::rounded(f(Element::widen(*a), Element::widen(*b)));
                    }
                },
            )
        });
        return a;
    }
    let mut out = Tensor::uninit(a.shape(), a.dtype());
    crate::dispatch_dtype!(a.dtype(), T => {
        let (a, b) = (a.as_slice::<T>(), b.as_slice::<T>());
        for_pieces(
            out.as_mut_slice::<T>(),
            #[inline(always)]
            |range, out| {
                for ((o, a), b) in out.iter_mut().zip(&a[range.clone()]).zip(&b[range]) {
                    *o = T::rounded(f(Element::widen(*a), Element::widen(*b)));
                }
            },
        )
    });
    out
}

/// Panics if the operands of an element-wise operation do not match.
pub(super) fn same(a: &Tensor, b: &Tensor) {
    assert_eq!(a.elements(), b.elements(), "element-wise operation on shapes {:?} and {:?}", a.shape(), b.shape());
    assert_eq!(a.dtype(), b.dtype(), "element-wise operation on types {} and {}", a.dtype(), b.dtype());
}
