//! A change of a tensor that is 0 but at some places: what every sparse edit is once it is trained, whatever it is while it learns and
//! however its files hold it.
//!
//! | edit | places | in the file |
//! |---|---|---|
//! | FishMask, child tuning, subnetworks, DiffPruning, grafts | where `D` (`z ⊙ D`, `γ ⊙ Δ`) is not 0 | `KEY.indices`, `KEY.values` |
//! | SHiRA, Super-Tuning | the given ones | as PEFT has them |
//! | mask tuning | where the mask is 0, by `−W` | a bit for each element |
//!
//! [`SparseDelta`] is written and read by [`crate::files`], merged and taken out again by [`Merge::with_sparse`], and counted by
//! [`crate::overlap`](mod@crate::overlap). It is plain data and takes no gradients: while an edit is trained its change is dense (or a
//! list of values at fixed places), and [`EditGradients::confine`] keeps what is not chosen at 0.
//!
//! [`Merge::with_sparse`]: crate::method::Merge::with_sparse
//! [`EditGradients::confine`]: crate::training::EditGradients::confine

use hone_engine::{DType, Tensor};

/// Elements of a tensor whose places can be numbered: they are flat, and `I32` in the file. Methods that name places in a larger one are
/// refused when they are planned.
pub const MOST_ELEMENTS: usize = 1 << 31;

/// Values at places of a tensor of at most [`MOST_ELEMENTS`], 0 elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseDelta {
    /// The tensor's axes.
    shape: Vec<usize>,
    /// Flat, row-major, rising.
    indices: Vec<u32>,
    /// As many as there are indices.
    values: Vec<f32>,
}

impl SparseDelta {
    /// `values` at the flat, row-major `indices` of a tensor of `shape`. `Err` is what was found where the indices do not rise or lie
    /// outside, or where there are more or fewer of them than of the values.
    pub fn new(shape: &[usize], indices: &[i32], values: &[f32]) -> Result<SparseDelta, String> {
        if indices.len() != values.len() {
            return Err(format!("{} indices for {} values", indices.len(), values.len()));
        }
        let elements: usize = shape.iter().product();
        let mut before = -1;
        for &index in indices {
            if index <= before || index as usize >= elements {
                return Err(format!("{index} after {before}"));
            }
            before = index;
        }
        let indices = indices.iter().map(|index| *index as u32).collect();
        Ok(SparseDelta { shape: shape.to_vec(), indices, values: values.to_vec() })
    }

    /// The elements of `dense` (`f32`) that are not 0.
    pub fn of(dense: &Tensor) -> SparseDelta {
        let values = dense.as_slice::<f32>().iter().enumerate();
        let (indices, values) = values.filter(|(_, v)| **v != 0.0).map(|(at, v)| (at as u32, *v)).unzip();
        SparseDelta { shape: dense.dims().to_vec(), indices, values }
    }

    /// `entries` (flat index, value) of a tensor of `shape`, inside it and in any order; those at one place add up.
    pub fn of_entries(shape: &[usize], entries: impl Iterator<Item = (u32, f32)>) -> SparseDelta {
        let mut entries: Vec<(u32, f32)> = entries.collect();
        entries.sort_by_key(|(index, _)| *index);
        entries.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            kept.1 += if same { next.1 } else { 0.0 };
            same
        });
        let (indices, values) = entries.into_iter().unzip();
        SparseDelta { shape: shape.to_vec(), indices, values }
    }

    /// The places: flat, row-major, rising.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// The value at each of [`SparseDelta::indices`].
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The tensor, `f32`.
    pub fn to_dense(&self) -> Tensor {
        let mut dense = Tensor::zeros(self.shape.as_slice(), DType::F32);
        let to = dense.as_mut_slice::<f32>();
        self.indices.iter().zip(&self.values).for_each(|(at, value)| to[*at as usize] = *value);
        dense
    }

    /// `weight + factor · self`, for a weight of the same shape in `f32`. What is 0 stays to the bit.
    pub fn add_to(&self, weight: &mut Tensor, factor: f32) {
        let to = weight.as_mut_slice::<f32>();
        self.indices.iter().zip(&self.values).for_each(|(at, value)| to[*at as usize] += factor * value);
    }

    /// How many places both have.
    pub fn in_common(&self, other: &SparseDelta) -> usize {
        self.indices.iter().filter(|index| other.indices.binary_search(index).is_ok()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_and_sparse_are_two_forms_of_one_change() {
        let dense = Tensor::from_slice([2, 3], &[0.0f32, -1.5, 0.0, 2.0, 0.0, 0.25]);
        let sparse = SparseDelta::of(&dense);
        assert_eq!((sparse.indices(), sparse.values()), (&[1, 3, 5][..], &[-1.5, 2.0, 0.25][..]));
        assert_eq!(sparse.to_dense().to_vec_f32(), dense.to_vec_f32());
        assert_eq!(SparseDelta::new(&[2, 3], &[1, 3, 5], &[-1.5, 2.0, 0.25]), Ok(sparse.clone()));
        // In any order, twice at one place.
        let entries = [(5, 0.25), (1, -1.0), (3, 2.0), (1, -0.5)];
        assert_eq!(SparseDelta::of_entries(&[2, 3], entries.into_iter()), sparse);
    }

    #[test]
    fn what_was_added_is_taken_away_again_and_the_rest_is_not_touched() {
        let own = Tensor::from_slice([4], &[1.0f32, -0.0, 3.0, f32::MIN_POSITIVE]);
        let delta = SparseDelta::of_entries(&[4], [(0, -1.0), (2, 0.5)].into_iter());
        let mut weight = own.clone();
        delta.add_to(&mut weight, 2.0);
        assert_eq!(weight.to_vec_f32(), [-1.0, 0.0, 4.0, f32::MIN_POSITIVE]);
        delta.add_to(&mut weight, -2.0);
        assert_eq!(weight.as_bytes(), own.as_bytes());
    }

    #[test]
    fn places_are_counted_whatever_the_values() {
        let of = |indices: &[u32]| SparseDelta::of_entries(&[9], indices.iter().map(|index| (*index, 1.0)));
        assert_eq!(of(&[0, 2, 4, 8]).in_common(&of(&[2, 3, 8])), 2);
        assert_eq!(of(&[0, 2]).in_common(&of(&[])), 0);
    }

    #[test]
    fn indices_that_do_not_rise_or_lie_outside_are_named() {
        let refused = |indices: &[i32]| SparseDelta::new(&[2, 2], indices, &[1.0; 2]).err();
        assert_eq!(refused(&[1, 1]), Some("1 after 1".into()));
        assert_eq!(refused(&[2, 0]), Some("0 after 2".into()));
        assert_eq!(refused(&[-1, 0]), Some("-1 after -1".into()));
        assert_eq!(refused(&[0, 4]), Some("4 after 0".into()));
        assert_eq!(refused(&[0, 1, 2]), Some("3 indices for 2 values".into()));
        assert_eq!(refused(&[0, 3]), None);
    }
}
