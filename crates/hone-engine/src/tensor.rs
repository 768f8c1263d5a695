//! A tensor: contiguous row-major numbers with a shape. Cheap to clone (the memory is shared), written only while it is
//! not shared. Slicing the first axis and reshaping copy nothing; there are no other views.

use std::any::Any;
use std::sync::Arc;

use crate::dtype::{DType, Element};
use crate::parallel::for_pieces;
use crate::pool::PoolBuffer;
use crate::simd;

/// Up to four axes, outermost first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; 4],
    rank: u8,
}

impl Shape {
    /// A shape from its axes. Panics on more than four.
    pub fn new(dims: &[usize]) -> Self {
        assert!(dims.len() <= 4, "a tensor has at most four axes, got {dims:?}");
        let mut all = [1; 4];
        all[..dims.len()].copy_from_slice(dims);
        Shape { dims: all, rank: dims.len() as u8 }
    }

    /// The axes.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }

    /// Number of elements (1 for a scalar).
    pub fn elements(&self) -> usize {
        self.dims().iter().product()
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.dims().fmt(f)
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Shape::new(&dims)
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Shape::new(dims)
    }
}

enum Storage {
    Pool(PoolBuffer),
    /// Memory of somebody else (a mapped file), kept alive by `_owner`; never written.
    Borrowed {
        _owner: Arc<dyn Any + Send + Sync>,
        pointer: *const u8,
        bytes: usize,
    },
}

// SAFETY: `Borrowed` memory is read-only and kept alive by its owner, which is itself Send + Sync.
unsafe impl Send for Storage {}
// SAFETY: as above.
unsafe impl Sync for Storage {}

impl Storage {
    fn bytes(&self) -> &[u8] {
        match self {
            Storage::Pool(buffer) => buffer.bytes(),
            // SAFETY: `Tensor::borrowed` was promised `bytes` readable bytes for as long as `owner` lives.
            Storage::Borrowed { pointer, bytes, .. } => unsafe { std::slice::from_raw_parts(*pointer, *bytes) },
        }
    }
}

/// Contiguous row-major numbers with a shape.
#[derive(Clone)]
pub struct Tensor {
    storage: Arc<Storage>,
    /// First element, counted in elements.
    offset: usize,
    shape: Shape,
    dtype: DType,
}

impl Tensor {
    /// A tensor whose contents are unspecified: for outputs that are written whole.
    pub fn uninit(shape: impl Into<Shape>, dtype: DType) -> Self {
        let shape = shape.into();
        let storage = Arc::new(Storage::Pool(PoolBuffer::new(shape.elements() * dtype.size())));
        Tensor { storage, offset: 0, shape, dtype }
    }

    /// All zeros.
    pub fn zeros(shape: impl Into<Shape>, dtype: DType) -> Self {
        let mut tensor = Tensor::uninit(shape, dtype);
        tensor.bytes_mut().fill(0);
        tensor
    }

    /// Every element `value`.
    pub fn full(shape: impl Into<Shape>, dtype: DType, value: f32) -> Self {
        let mut tensor = Tensor::uninit(shape, dtype);
        crate::dispatch_dtype!(dtype, T => tensor.as_mut_slice::<T>().fill(T::rounded(value)));
        tensor
    }

    /// A copy of `values`.
    pub fn from_slice<T: Element>(shape: impl Into<Shape>, values: &[T]) -> Self {
        let shape = shape.into();
        assert_eq!(shape.elements(), values.len(), "shape {shape:?} does not hold {} values", values.len());
        let mut tensor = Tensor::uninit(shape, T::DTYPE);
        tensor.as_mut_slice::<T>().copy_from_slice(values);
        tensor
    }

    /// A tensor over memory that somebody else owns (a mapped file).
    ///
    /// # Safety
    /// `pointer` must be aligned for `dtype` and readable for the whole shape, unchanged, for as long as `owner` lives.
    pub unsafe fn borrowed(
        shape: impl Into<Shape>,
        dtype: DType,
        pointer: *const u8,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        let shape = shape.into();
        assert!(pointer.align_offset(dtype.size()) == 0, "borrowed tensor memory is not aligned");
        let bytes = shape.elements() * dtype.size();
        Tensor { storage: Arc::new(Storage::Borrowed { _owner: owner, pointer, bytes }), offset: 0, shape, dtype }
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The axes.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// The `i`-th axis.
    pub fn dim(&self, i: usize) -> usize {
        self.dims()[i]
    }

    /// Rows and columns with every axis but the last folded into rows.
    pub fn rows_cols(&self) -> (usize, usize) {
        self.dims().split_last().map_or((1, 1), |(cols, rows)| (rows.iter().product(), *cols))
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    fn byte_range(&self) -> std::ops::Range<usize> {
        let size = self.dtype.size();
        self.offset * size..(self.offset + self.elements()) * size
    }

    /// The elements. Panics if `T` is not the tensor's type.
    pub fn as_slice<T: Element>(&self) -> &[T] {
        assert_eq!(T::DTYPE, self.dtype, "tensor is {}, read as {}", self.dtype, T::DTYPE);
        bytemuck::cast_slice(&self.storage.bytes()[self.byte_range()])
    }

    /// The raw bytes, native endian.
    pub fn as_bytes(&self) -> &[u8] {
        &self.storage.bytes()[self.byte_range()]
    }

    /// The elements, to be written. Copies first if the memory is shared or borrowed.
    pub fn as_mut_slice<T: Element>(&mut self) -> &mut [T] {
        assert_eq!(T::DTYPE, self.dtype, "tensor is {}, written as {}", self.dtype, T::DTYPE);
        bytemuck::cast_slice_mut(self.bytes_mut())
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        if !self.is_unique() {
            let mut copy = PoolBuffer::new(self.elements() * self.dtype.size());
            copy.bytes_mut().copy_from_slice(self.as_bytes());
            self.storage = Arc::new(Storage::Pool(copy));
            self.offset = 0;
        }
        let range = self.byte_range();
        match Arc::get_mut(&mut self.storage) {
            Some(Storage::Pool(buffer)) => &mut buffer.bytes_mut()[range],
            _ => unreachable!("made unique above"),
        }
    }

    /// The same numbers under another shape.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.elements(), self.elements(), "cannot reshape {:?} to {shape:?}", self.shape);
        Tensor { shape, ..self.clone() }
    }

    /// Entries `range` of the first axis, without a copy.
    pub fn narrow(&self, range: std::ops::Range<usize>) -> Tensor {
        let dims = self.dims();
        assert!(range.start <= range.end && range.end <= dims[0], "{range:?} outside {:?}", self.shape);
        let stride: usize = dims[1..].iter().product();
        let mut new = dims.to_vec();
        new[0] = range.len();
        Tensor { offset: self.offset + range.start * stride, shape: Shape::new(&new), ..self.clone() }
    }

    /// The same values as another type; shares memory when the type is already right.
    pub fn to_dtype(&self, dtype: DType) -> Tensor {
        if dtype == self.dtype {
            return self.clone();
        }
        let mut out = Tensor::uninit(self.shape, dtype);
        crate::dispatch_dtype!(self.dtype, F => crate::dispatch_dtype!(dtype, T => {
            let from = self.as_slice::<F>();
            for_pieces(
                out.as_mut_slice::<T>(),
                #[inline(always)]
                |range, to| simd::convert(to, &from[range]),
            )
        }));
        out
    }

    /// Whether writing needs no copy: the memory is nobody else's.
    pub fn is_unique(&mut self) -> bool {
        matches!(Arc::get_mut(&mut self.storage), Some(Storage::Pool(_)))
    }

    /// All elements as `f32`, copied.
    pub fn to_vec_f32(&self) -> Vec<f32> {
        crate::dispatch_dtype!(self.dtype, T => self.as_slice::<T>().iter().map(|v| Element::widen(*v)).collect())
    }

    /// The single element of a tensor of one element, as `f32`.
    pub fn item(&self) -> f32 {
        assert_eq!(self.elements(), 1, "item() of a tensor of shape {:?}", self.shape);
        crate::dispatch_dtype!(self.dtype, T => Element::widen(self.as_slice::<T>()[0]))
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({} {:?})", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_a_shared_tensor_leaves_the_other_alone() {
        let a = Tensor::from_slice([2, 2], &[1f32, 2.0, 3.0, 4.0]);
        let mut b = a.narrow(1..2);
        b.as_mut_slice::<f32>()[0] = 9.0;
        assert_eq!(a.as_slice::<f32>(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(b.as_slice::<f32>(), [9.0, 4.0]);
    }

    #[test]
    fn bf16_rounds_to_nearest_even_and_keeps_nan() {
        for bits in (0..=u32::MAX).step_by(65_521) {
            let value = f32::from_bits(bits);
            let ours = <half::bf16 as Element>::rounded(value);
            let theirs = half::bf16::from_f32(value);
            assert!(ours == theirs || (ours.is_nan() && theirs.is_nan()), "{value}");
        }
    }
}
