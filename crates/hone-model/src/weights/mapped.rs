//! A file mapped into memory, and the tensors that borrow from it.
//!
//! A map shows the file as it is on the disk *now*: a file that another program cuts short while it is mapped ends this
//! process (SIGBUS), as in every program that maps weights. Hone itself replaces files by renaming, which leaves the old
//! map whole.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
        #[cfg(unix)]
        {
            // SAFETY: the map is read-only, so no page holds anything that is not in the file.
            let advised = unsafe {
                self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
            // A hint: memory that is not let go is only held longer.
            drop(advised);
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// The numbers at `range` as a tensor of type `dtype`: borrowed where type and alignment fit, converted otherwise.
    /// `range` must lie in the file and hold exactly `shape`.
    pub fn tensor(&self, range: Range<usize>, shape: &[usize], stored: DenseType, dtype: DType) -> Tensor {
        let bytes = &self.bytes()[range];
        assert_eq!(bytes.len(), shape.iter().product::<usize>() * stored.size(), "checked when the header was read");
        let same = matches!((stored, dtype), (DenseType::F32, DType::F32) | (DenseType::BF16, DType::BF16));
        if same && cfg!(target_endian = "little") && bytes.as_ptr().align_offset(stored.size()) == 0 {
            // SAFETY: aligned (just checked), inside the map (sliced above), read-only, and `map` keeps it alive.
            return unsafe { Tensor::borrowed(shape, dtype, bytes.as_ptr(), self.map.clone()) };
        }
        let mut out = Tensor::uninit(shape, dtype);
        dispatch_dtype!(dtype, T => stored.convert(bytes, out.as_mut_slice::<T>()));
        out
    }
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
