//! A file mapped into memory, and the tensors that borrow from it.
//!
//! A map shows the file as it is on the disk *now*: a file that another program cuts short while it is mapped ends this
//! process (SIGBUS), as in every program that maps weights. Hone itself replaces files by renaming, which leaves the old
//! map whole.
//!
//! Pages of the file that were read count as this process' memory until they are let go of. The pages of a tensor go when
//! the tensor does (a weight is packed at its first product, and its dense form is dropped then); those of weights that
//! are there but not used, when somebody says so ([`ResidentPages::release`]). They come back by themselves when read.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use half::{bf16, f16};
use hone_engine::{DType, Element, Tensor, dispatch_dtype};
use rayon::prelude::*;

use crate::error::ModelError;

/// A read-only file in memory. Cheap to clone.
#[derive(Clone)]
pub(crate) struct MappedFile {
    pub path: PathBuf,
    map: Arc<memmap2::Mmap>,
}

impl MappedFile {
    pub fn open(path: &Path) -> Result<MappedFile, ModelError> {
        let file = std::fs::File::open(path).map_err(ModelError::io(path))?;
        // SAFETY: the map is read-only and private to this process; see the module's words on files cut short.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(ModelError::io(path))?;
        Ok(MappedFile { path: path.to_owned(), map: Arc::new(map) })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The map, to be shared by blocks that stay where they are.
    pub fn shared(&self) -> Arc<memmap2::Mmap> {
        self.map.clone()
    }

    /// Lets the memory of `range` go; what is read there again comes from the file. For files that are read once, so that
    /// they do not stand in memory beside what was made of them. Nothing happens where the system has no such call.
    pub fn let_go(&self, range: Range<usize>) {
        release(&self.map, range);
    }

    /// The numbers at `range` as a tensor of type `dtype`: borrowed where type and alignment fit, converted otherwise.
    /// `range` must lie in the file and hold exactly `shape`.
    pub fn tensor(&self, range: Range<usize>, shape: &[usize], stored: DenseType, dtype: DType) -> Tensor {
        let bytes = &self.bytes()[range.clone()];
        assert_eq!(bytes.len(), shape.iter().product::<usize>() * stored.size(), "checked when the header was read");
        let same = matches!((stored, dtype), (DenseType::F32, DType::F32) | (DenseType::BF16, DType::BF16));
        if same && cfg!(target_endian = "little") && bytes.as_ptr().align_offset(stored.size()) == 0 {
            let owner = Arc::new(BorrowedRange { map: self.map.clone(), range });
            // SAFETY: aligned (just checked), inside the map (sliced above), read-only, and `owner` keeps it alive.
            return unsafe { Tensor::borrowed(shape, dtype, bytes.as_ptr(), owner) };
        }
        let mut out = Tensor::uninit(shape, dtype);
        dispatch_dtype!(dtype, T => stored.convert(bytes, out.as_mut_slice::<T>()));
        out
    }
}

/// A part of a map that a tensor borrows; its pages go with it.
struct BorrowedRange {
    map: Arc<memmap2::Mmap>,
    range: Range<usize>,
}

impl Drop for BorrowedRange {
    fn drop(&mut self) {
        release(&self.map, self.range.clone());
    }
}

/// The maps behind a model's weights, for as long as a weight uses them.
#[derive(Default)]
pub struct ResidentPages(Vec<Weak<memmap2::Mmap>>);

impl ResidentPages {
    /// Those of some files.
    pub(crate) fn of<'a>(files: impl IntoIterator<Item = &'a MappedFile>) -> ResidentPages {
        ResidentPages(files.into_iter().map(|file| Arc::downgrade(&file.map)).collect())
    }

    /// Gives back every page that is in memory. What is read afterwards is read from the file again.
    pub fn release(&self) {
        for map in self.0.iter().filter_map(Weak::upgrade) {
            release(&map, 0..map.len());
        }
    }
}

/// Gives back the pages of `range`; those it shares with its neighbours are read again when they are needed.
fn release(map: &memmap2::Mmap, range: Range<usize>) {
    #[cfg(unix)]
    if !range.is_empty() {
        // SAFETY: the map is a read-only view of a file, so a page that is given back comes back with the same bytes.
        // A refusal changes nothing.
        let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
    }
    #[cfg(not(unix))]
    let _ = (map, range);
}

/// Unquantised types a weight may be stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DenseType {
    F32,
    F16,
    BF16,
}

impl DenseType {
    pub const fn size(self) -> usize {
        match self {
            DenseType::F32 => 4,
            DenseType::F16 | DenseType::BF16 => 2,
        }
    }

    /// Little-endian `bytes` to `out`, in parallel.
    fn convert<T: Element>(self, bytes: &[u8], out: &mut [T]) {
        const CHUNK: usize = 1 << 16;
        let size = self.size();
        out.par_chunks_mut(CHUNK).zip(bytes.par_chunks(CHUNK * size)).for_each(|(out, bytes)| match self {
            DenseType::F32 => {
                let values = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
                out.iter_mut().zip(values).for_each(|(o, v)| *o = T::rounded(v));
            }
            DenseType::F16 => {
                let values = bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32());
                out.iter_mut().zip(values).for_each(|(o, v)| *o = T::rounded(v));
            }
            DenseType::BF16 => {
                let values = bytes.as_chunks::<2>().0.iter().map(|b| Element::widen(bf16::from_le_bytes(*b)));
                out.iter_mut().zip(values).for_each(|(o, v)| *o = T::rounded(v));
            }
        });
    }
}
