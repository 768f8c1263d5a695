//! A frozen matrix, in the layouts the matrix products want.
//!
//! A weight is `[out, in]` as Hugging Face stores it: `y = x Wᵀ` forward, `dx = dy W` backward.
//!
//! **Memory.** A dense weight is held once. It is packed at its first product (or by [`Weight::prepare`]), and the dense
//! tensor is let go then: forward products, row look-ups and [`Weight::to_dense`] read the packed form, and backward
//! products turn it tile by tile while they run, which costs them a few per cent at a thousand tokens (more at fewer).
//! `prepare(true)` buys that back with a second packed copy. A table that is only looked up is never packed. A quantised
//! weight stays in its blocks and is expanded a cache-full at a time in every product; its packed size is nought.
//! So a tied embedding and LM head of 49,152 x 576 takes 54 MiB in bf16, in all. On a machine with bf16 tiles, a weight in
//! `f32` whose values are all bf16 numbers is packed as those (`matmul::planes`): the same results from half the memory.
//!
//! It knows nothing of names or edits.

use std::ops::Range;
use std::sync::{Arc, OnceLock, RwLock};

use rayon::prelude::*;

use crate::cpu::{self, Level};
use crate::dtype::{DType, Element};
use crate::matmul::{self, Left, Packed, Right, Source};
use crate::quant::QuantTensor;
use crate::quant::int8::{self, Job, Lanes};
use crate::tape::Var;
use crate::tensor::Tensor;

/// Where a weight's numbers come from.
pub enum WeightData {
    /// `[out, in]`, `f32` or `bf16`: also the type it is computed in.
    Dense(Tensor),
    /// `[out, in]` in blocks, expanded a part at a time while it is used, in the type of the activations.
    Quantised(QuantTensor),
}

/// A frozen matrix `[out, in]`.
pub struct Weight {
    rows: usize,
    columns: usize,
    dtype: Option<DType>,
    store: Store,
}

enum Store {
    Dense {
        /// Until it is packed.
        plain: RwLock<Option<Tensor>>,
        packed: OnceLock<Packed>,
        /// The transpose, if somebody asked for it.
        turned: OnceLock<Packed>,
    },
    Quantised {
        blocks: QuantTensor,
        /// The same for products in 8-bit integers, if somebody asked for them.
        lanes: OnceLock<Lanes>,
    },
}

impl Weight {
    /// Row ranges ([`Weight::forward_rows_f32`], [`Weight::backward_rows_add`]) start at multiples of this.
    pub const ROW_ALIGN: usize = 32;

    /// A weight over `data`. Panics on a tensor that is no matrix.
    pub fn new(data: WeightData) -> Weight {
        match data {
            WeightData::Dense(tensor) => {
                assert_eq!(tensor.dims().len(), 2, "a weight is [out, in], got {:?}", tensor.shape());
                let (rows, columns, dtype) = (tensor.dim(0), tensor.dim(1), Some(tensor.dtype()));
                let plain = RwLock::new(Some(tensor));
                let store = Store::Dense { plain, packed: OnceLock::new(), turned: OnceLock::new() };
                Weight { rows, columns, dtype, store }
            }
            WeightData::Quantised(blocks) => {
                let (rows, columns) = (blocks.rows(), blocks.columns());
                Weight { rows, columns, dtype: None, store: Store::Quantised { blocks, lanes: OnceLock::new() } }
            }
        }
    }

    /// A dense weight.
    pub fn dense(tensor: Tensor) -> Weight {
        Weight::new(WeightData::Dense(tensor))
    }

    /// Rows (`out`).
    pub fn out_features(&self) -> usize {
        self.rows
    }

    /// Columns (`in`).
    pub fn in_features(&self) -> usize {
        self.columns
    }

    /// Type of the values; `None` if they are quantised.
    pub fn dtype(&self) -> Option<DType> {
        self.dtype
    }

    /// The blocks, if the weight is kept quantised.
    pub fn quantised(&self) -> Option<&QuantTensor> {
        match &self.store {
            Store::Dense { .. } => None,
            Store::Quantised { blocks, .. } => Some(blocks),
        }
    }

    /// Bytes held now (of a mapped file, bytes that are mapped).
    pub fn bytes(&self) -> usize {
        match &self.store {
            Store::Dense { plain, packed, turned } => {
                let plain = read(plain).as_ref().map_or(0, |t| t.as_bytes().len());
                plain + packed.get().map_or(0, Packed::bytes) + turned.get().map_or(0, Packed::bytes)
            }
            Store::Quantised { blocks, lanes } => blocks.bytes() + lanes.get().map_or(0, Lanes::bytes),
        }
    }

    /// Packs now what forward products need, so that the first step is not slower than the rest; with `backward`, a
    /// second copy for backward products as well (see the module for what that costs and gains).
    pub fn prepare(&self, backward: bool) {
        let Store::Dense { turned, .. } = &self.store else { return };
        if backward && turned.get().is_none() {
            // Made from the dense form, which packing lets go of.
            let dense = self.to_dense(self.dtype.unwrap_or(DType::F32));
            turned.get_or_init(|| match as_bf16(&dense) {
                Some(exact) => Packed::transposed(&exact),
                None => Packed::transposed(&dense),
            });
        }
        self.packed();
    }

    /// From now on products of at most 32 rows with a weight in blocks are made in 8-bit integers, the activations rounded
    /// to them (`quant::int8`): several times faster, half a per cent off. Takes a second copy of the blocks. Nothing
    /// changes for other weights, nor for gradients. Whether it is so now.
    pub fn round_activations(&self) -> bool {
        let Store::Quantised { blocks, lanes } = &self.store else { return false };
        if lanes.get().is_none()
            && let Some(made) = Lanes::new(blocks)
        {
            lanes.get_or_init(|| made);
        }
        lanes.get().is_some()
    }

    /// The packed form of a dense weight.
    fn packed(&self) -> Option<&Packed> {
        let Store::Dense { plain, packed, .. } = &self.store else { return None };
        let ready = packed.get_or_init(|| match &*read(plain) {
            Some(tensor) => match as_bf16(tensor) {
                Some(exact) => Packed::new(&exact),
                None => Packed::new(tensor),
            },
            None => unreachable!("a dense weight is let go only once it is packed"),
        });
        if read(plain).is_some() {
            *plain.write().unwrap_or_else(|e| e.into_inner()) = None;
        }
        Some(ready)
    }

    fn source(&self) -> Source<'_> {
        match (&self.store, self.packed()) {
            (Store::Quantised { blocks, .. }, _) => Source::Quantised(blocks),
            (_, Some(packed)) => Source::Packed(packed),
            (_, None) => unreachable!("a dense weight packs"),
        }
    }

    /// `y = x Wᵀ`: `[tokens, in]` to `[tokens, out]`, in `x`'s type.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.forward_plus(x, &[])
    }

    /// `y = x Wᵀ + Σ u bᵀ` over `terms` `(u, b)`, `[tokens, rank]` and `[out, rank]`: a linear map with low-rank terms,
    /// summed in `f32` and rounded once.
    pub fn forward_plus(&self, x: &Tensor, terms: &[(&Tensor, &Tensor)]) -> Tensor {
        let mut y = Tensor::uninit([x.rows_cols().0, self.rows], x.dtype());
        self.multiply(cpu::level(), 0..self.rows, x, terms, &mut y, false);
        y
    }

    /// `x` times rows `range`: `[tokens, in]` to `[tokens, range.len()]` in `f32`: a chunk of an LM head. `range` starts
    /// at a multiple of [`Weight::ROW_ALIGN`].
    pub fn forward_rows_f32(&self, range: Range<usize>, x: &Tensor) -> Tensor {
        let mut y = Tensor::uninit([x.rows_cols().0, range.len()], DType::F32);
        self.multiply(cpu::level(), range, x, &[], &mut y, false);
        y
    }

    /// `dx = dy W`: `[tokens, out]` to `[tokens, in]`, in `dy`'s type.
    pub fn backward(&self, dy: &Tensor) -> Tensor {
        self.backward_plus(dy, &[])
    }

    /// `dx = dy W + Σ v a` over `terms` `(v, a)`, `[tokens, rank]` and `[rank, in]`; in `dy`'s type.
    pub fn backward_plus(&self, dy: &Tensor, terms: &[(&Tensor, &Tensor)]) -> Tensor {
        let mut dx = Tensor::uninit([dy.rows_cols().0, self.columns], dy.dtype());
        self.multiply_turned(cpu::level(), 0..self.rows, dy, terms, &mut dx, false);
        dx
    }

    /// `dx += dy W`. `dx` `[tokens, in]` in its own type. (For several maps of one input, see [`backward_sum`].)
    pub fn backward_add(&self, dy: &Tensor, dx: &mut Tensor) {
        self.multiply_turned(cpu::level(), 0..self.rows, dy, &[], dx, true);
    }

    /// `dx += dy W[range]`: `[tokens, range.len()]` into `[tokens, in]`; `range` as in [`Weight::forward_rows_f32`].
    pub fn backward_rows_add(&self, range: Range<usize>, dy: &Tensor, dx: &mut Tensor) {
        self.multiply_turned(cpu::level(), range, dy, &[], dx, true);
    }

    pub(crate) fn multiply(
        &self,
        level: Level,
        range: Range<usize>,
        x: &Tensor,
        terms: &[(&Tensor, &Tensor)],
        y: &mut Tensor,
        add: bool,
    ) {
        self.check_rows(&range);
        let width = x.rows_cols().1;
        assert_eq!(width, self.columns, "{:?} into a weight [{}, {}]", x.shape(), self.rows, self.columns);
        if let Store::Quantised { lanes, .. } = &self.store
            && let Some(lanes) = lanes.get()
            && !add
            && x.rows_cols().0 <= int8::FEW
        {
            return multiply_few(lanes, level, range, x, terms, y);
        }
        let right = Right { source: self.source(), first_row: range.start, turned: false };
        let mut sides = vec![(Left { source: Source::dense(x), turned: false }, right)];
        sides.extend(terms.iter().map(|(u, b)| low_rank(u, b, range.len(), false)));
        matmul::product(level, y, range.len(), add, 1.0, &sides);
    }

    pub(crate) fn multiply_turned(
        &self,
        level: Level,
        range: Range<usize>,
        dy: &Tensor,
        terms: &[(&Tensor, &Tensor)],
        dx: &mut Tensor,
        add: bool,
    ) {
        let mut sides = vec![self.turned_side(dy, range)];
        sides.extend(terms.iter().map(|(v, a)| low_rank(v, a, self.columns, true)));
        matmul::product(level, dx, self.columns, add, 1.0, &sides);
    }

    /// The two sides of `dy W[range]`.
    fn turned_side<'a>(&'a self, dy: &'a Tensor, range: Range<usize>) -> (Left<'a>, Right<'a>) {
        self.check_rows(&range);
        let width = dy.rows_cols().1;
        assert_eq!(width, range.len(), "{:?} back through rows {range:?} of {}", dy.shape(), self.rows);
        let left = Left { source: Source::dense(dy), turned: false };
        let whole = range == (0..self.rows);
        let right = match &self.store {
            Store::Dense { turned, .. } if whole && turned.get().is_some() => {
                let source = turned.get().map_or_else(|| self.source(), Source::Packed);
                Right { source, first_row: 0, turned: false }
            }
            _ => Right { source: self.source(), first_row: range.start, turned: true },
        };
        (left, right)
    }

    fn check_rows(&self, range: &Range<usize>) {
        let (rows, align) = (self.rows, Self::ROW_ALIGN);
        assert!(range.start.is_multiple_of(align), "rows {range:?} do not start at a multiple of {align}");
        assert!(range.start <= range.end && range.end <= rows, "rows {range:?} of a weight of {rows}");
    }

    /// The whole matrix as a dense tensor of the given type (expanded if quantised).
    pub fn to_dense(&self, dtype: DType) -> Tensor {
        if let Store::Dense { plain, .. } = &self.store
            && let Some(tensor) = &*read(plain)
        {
            return tensor.to_dtype(dtype);
        }
        let mut out = Tensor::uninit([self.rows, self.columns], dtype);
        if self.columns == 0 {
            return out;
        }
        self.fill_rows(&mut out, |i| i);
        out
    }

    /// Rows `ids` as `[ids.len(), in]` in the given type: embedding lookup. Panics on an id outside the table.
    pub fn gather(&self, ids: &[u32], dtype: DType) -> Tensor {
        let mut out = Tensor::uninit([ids.len(), self.columns], dtype);
        if self.columns == 0 {
            return out;
        }
        assert!(ids.iter().all(|id| (*id as usize) < self.rows), "a row of {ids:?} in a weight of {} rows", self.rows);
        self.fill_rows(&mut out, |i| ids[i] as usize);
        out
    }

    /// Row `i` of `out` becomes row `row(i)`.
    fn fill_rows(&self, out: &mut Tensor, row: impl Fn(usize) -> usize + Sync) {
        crate::dispatch_dtype!(out.dtype(), T => {
            let rows = out.as_mut_slice::<T>().par_chunks_exact_mut(self.columns).enumerate().with_min_len(16);
            rows.for_each_init(|| vec![0f32; self.columns], |values, (i, to)| {
                self.read_row(row(i), values);
                to.iter_mut().zip(values).for_each(|(t, v)| *t = T::rounded(*v));
            });
        })
    }

    /// Row `row`, widened.
    fn read_row(&self, row: usize, values: &mut [f32]) {
        match &self.store {
            Store::Quantised { blocks, .. } => blocks.dequantise_row(row, values),
            Store::Dense { plain, packed, .. } => {
                if let Some(packed) = packed.get() {
                    return packed.read_row(row, 0..self.columns, values);
                }
                match &*read(plain) {
                    Some(tensor) => crate::dispatch_dtype!(tensor.dtype(), T => {
                        let from = &tensor.as_slice::<T>()[row * self.columns..(row + 1) * self.columns];
                        values.iter_mut().zip(from).for_each(|(v, f)| *v = Element::widen(*f));
                    }),
                    // Packed between the look above and this one.
                    None => self.packed().into_iter().for_each(|p| p.read_row(row, 0..self.columns, values)),
                }
            }
        }
    }
}

/// `y = x Wᵀ + Σ u bᵀ` for few rows, in 8-bit integers.
fn multiply_few(
    lanes: &Lanes,
    level: Level,
    range: Range<usize>,
    x: &Tensor,
    terms: &[(&Tensor, &Tensor)],
    y: &mut Tensor,
) {
    let n = range.len();
    if terms.is_empty() {
        return int8::multiply(level, x, &mut [Job { matrix: lanes, range, y }]);
    }
    let mut sums = Tensor::uninit([x.rows_cols().0, n], DType::F32);
    int8::multiply(level, x, &mut [Job { matrix: lanes, range, y: &mut sums }]);
    let sides: Vec<_> = terms.iter().map(|(u, b)| low_rank(u, b, n, false)).collect();
    matmul::product(level, &mut sums, n, true, 1.0, &sides);
    crate::dispatch_dtype!(y.dtype(), T => {
        y.as_mut_slice::<T>().iter_mut().zip(sums.as_slice::<f32>()).for_each(|(y, sum)| *y = T::rounded(*sum));
    });
}

/// An `f32` matrix in bf16, if that loses nothing and products in `f32` get faster by it (`matmul::planes`).
fn as_bf16(matrix: &Tensor) -> Option<Tensor> {
    let gains = matrix.dtype() == DType::F32 && matmul::planes::worth_packing_as_bf16();
    (gains && matmul::planes::is_bf16(matrix)).then(|| matrix.to_dtype(DType::BF16))
}

/// The two sides of a low-rank term: `[tokens, rank]`, and `[n, rank]` or, with `turned`, `[rank, n]`.
fn low_rank<'a>(u: &'a Tensor, b: &'a Tensor, n: usize, turned: bool) -> (Left<'a>, Right<'a>) {
    let (rows, columns) = b.rows_cols();
    let expected = if turned { (u.rows_cols().1, n) } else { (n, u.rows_cols().1) };
    assert_eq!((rows, columns), expected, "a low-rank term of {:?} and {:?} on {n} columns", u.shape(), b.shape());
    let left = Left { source: Source::dense(u), turned: false };
    (left, Right { source: Source::dense(b), first_row: 0, turned })
}

/// The two sides of a product with a trained weight, whose master in `f32` is rounded on the way where the activations are
/// bf16; else as [`low_rank`].
fn trained<'a>(x: &'a Tensor, weight: &'a Tensor, n: usize, turned: bool) -> (Left<'a>, Right<'a>) {
    let (left, right) = low_rank(x, weight, n, turned);
    (left, Right { source: Source::rounded_to(weight, x.dtype()), ..right })
}

fn read(plain: &RwLock<Option<Tensor>>) -> std::sync::RwLockReadGuard<'_, Option<Tensor>> {
    plain.read().unwrap_or_else(|e| e.into_inner())
}

/// What stands at a site: the frozen weight, or a trained value of the same shape.
#[derive(Clone)]
pub enum WeightRef {
    /// Frozen: no gradient work.
    Frozen(Arc<Weight>),
    /// `[out, in]`, with a gradient. In the type of the activations, or, where those are bf16, its `f32` master, which is
    /// rounded while it is multiplied.
    Trained(Var),
}

impl WeightRef {
    /// Number of values.
    pub fn elements(&self) -> usize {
        match self {
            WeightRef::Frozen(weight) => weight.rows * weight.columns,
            WeightRef::Trained(var) => var.value.elements(),
        }
    }

    /// `y = x Wᵀ + Σ u bᵀ`: [`Weight::forward_plus`], for either kind.
    pub fn forward_plus(&self, x: &Tensor, terms: &[(&Tensor, &Tensor)]) -> Tensor {
        let weight = match self {
            WeightRef::Frozen(weight) => return weight.forward_plus(x, terms),
            WeightRef::Trained(var) => &var.value,
        };
        let mut y = Tensor::uninit([x.rows_cols().0, weight.dim(0)], x.dtype());
        let base = trained(x, weight, weight.dim(0), false);
        let sides: Vec<_> =
            std::iter::once(base).chain(terms.iter().map(|(u, b)| low_rank(u, b, weight.dim(0), false))).collect();
        matmul::product(cpu::level(), &mut y, weight.dim(0), false, 1.0, &sides);
        y
    }

    /// `x Wᵀ` in `f32`, whatever the type of `x`: the logits of an LM head.
    pub(crate) fn forward_f32(&self, x: &Tensor) -> Tensor {
        let weight = match self {
            WeightRef::Frozen(weight) => return weight.forward_rows_f32(0..weight.rows, x),
            WeightRef::Trained(var) => &var.value,
        };
        let mut y = Tensor::uninit([x.rows_cols().0, weight.dim(0)], DType::F32);
        matmul::product(cpu::level(), &mut y, weight.dim(0), false, 1.0, &[trained(x, weight, weight.dim(0), false)]);
        y
    }
}

/// `x Wᵀ` for several weights at once, if all of them take few rows in 8-bit integers and `x` is that few; the same numbers
/// as one by one.
pub(crate) fn forward_together(weights: &[&WeightRef], x: &Tensor) -> Option<Vec<Tensor>> {
    let lanes = weights.iter().map(|weight| match weight {
        WeightRef::Frozen(weight) => match &weight.store {
            Store::Quantised { lanes, .. } => lanes.get(),
            Store::Dense { .. } => None,
        },
        WeightRef::Trained(_) => None,
    });
    let lanes: Vec<&Lanes> = lanes.collect::<Option<_>>()?;
    let (rows, dtype) = (x.rows_cols().0, x.dtype());
    if rows > int8::FEW || lanes.len() < 2 {
        return None;
    }
    let mut outputs: Vec<Tensor> = lanes.iter().map(|lanes| Tensor::uninit([rows, lanes.rows()], dtype)).collect();
    let jobs = lanes.iter().zip(&mut outputs);
    let mut jobs: Vec<Job> = jobs.map(|(matrix, y)| Job { matrix, range: 0..matrix.rows(), y }).collect();
    int8::multiply(cpu::level(), x, &mut jobs);
    Some(outputs)
}

/// `Σ dy W + Σ v a`: what several maps `(dy, W)` of one input, with low-rank terms `(v, a)` on them, send back to it.
/// `[tokens, in]` in the first `dy`'s type, summed in `f32` and rounded once.
pub fn backward_sum(maps: &[(&Tensor, &WeightRef)], terms: &[(&Tensor, &Tensor)]) -> Tensor {
    assert!(!maps.is_empty(), "the input of no maps has no gradient");
    let width = match maps[0].1 {
        WeightRef::Frozen(weight) => weight.columns,
        WeightRef::Trained(var) => var.value.dim(1),
    };
    let mut sides: Vec<(Left<'_>, Right<'_>)> = Vec::with_capacity(maps.len() + terms.len());
    for &(dy, weight) in maps {
        sides.push(match weight {
            WeightRef::Frozen(weight) => weight.turned_side(dy, 0..weight.rows),
            WeightRef::Trained(var) => trained(dy, &var.value, width, true),
        });
    }
    sides.extend(terms.iter().map(|(v, a)| low_rank(v, a, width, true)));
    let mut dx = Tensor::uninit([maps[0].0.rows_cols().0, width], maps[0].0.dtype());
    matmul::product(cpu::level(), &mut dx, width, false, 1.0, &sides);
    dx
}
