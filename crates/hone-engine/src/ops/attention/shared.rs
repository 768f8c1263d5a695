//! An output that parallel tasks write disjoint parts of: heads stand side by side in a row, so a task's part is not one
//! slice.

use std::marker::PhantomData;
use std::ops::Range;

/// A slice whose parts are handed out to be written.
pub(super) struct Shared<'a, T> {
    pointer: *mut T,
    len: usize,
    _slice: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are handed out under `Shared::slice`'s promise that they do not overlap.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Shared { pointer: slice.as_mut_ptr(), len: slice.len(), _slice: PhantomData }
    }

    /// Elements `range`, to be written.
    ///
    /// # Safety
    /// Nobody else may hold an overlapping part.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the slice, which is borrowed for 'a; not overlapping by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(range.start), range.len()) }
    }
}
