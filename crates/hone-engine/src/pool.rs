//! The buffer pool: every tensor's memory comes from here and goes back here, so that a training step after the first
//! asks the system for nothing (first-touch page faults were up to half of a run in peers we measured).
//!
//! Buffers are kept by size class (next multiple of 1/8 of the power of two below), newest first, so the warmest memory
//! is reused first. Steps differ in length, so a buffer up to half as large again serves as well: what is held then follows
//! the longest step, not the sum over all lengths. Memory is *not* cleared between uses: a new tensor holds whatever the last
//! one left.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Cache-line and AVX-512 alignment of small buffers.
const ALIGN: usize = 64;
/// Buffers from this size on are aligned to, and advised as, huge pages.
const HUGE: usize = 2 << 20;

static FREE: Mutex<Option<BTreeMap<usize, Vec<Block>>>> = Mutex::new(None);
static LIVE: AtomicUsize = AtomicUsize::new(0);
static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static FRESH: AtomicUsize = AtomicUsize::new(0);

struct Block(NonNull<u8>);
// SAFETY: a Block is a free allocation that nobody points to; moving it to another thread moves its ownership.
unsafe impl Send for Block {}

/// What the pool holds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStats {
    /// Bytes in tensors now.
    pub live: usize,
    /// Bytes taken from the system and not given back (live + free).
    pub held: usize,
    /// Highest `live` so far.
    pub peak: usize,
    /// Allocations asked of the system so far; it stops growing after the first step.
    pub system_allocations: usize,
}

/// Bytes and counts of the pool.
pub fn stats() -> PoolStats {
    PoolStats {
        live: LIVE.load(Ordering::Relaxed),
        held: HELD.load(Ordering::Relaxed),
        peak: PEAK.load(Ordering::Relaxed),
        system_allocations: FRESH.load(Ordering::Relaxed),
    }
}

/// Gives every free buffer back to the system (between a load and a run, say).
pub fn trim() {
    let free = FREE.lock().unwrap_or_else(|e| e.into_inner()).take();
    for (class, blocks) in free.into_iter().flatten() {
        for Block(pointer) in blocks {
            HELD.fetch_sub(class, Ordering::Relaxed);
            // SAFETY: the block was allocated below with exactly this layout and nobody holds it.
            unsafe { dealloc(pointer.as_ptr(), layout(class)) }
        }
    }
}

fn layout(class: usize) -> Layout {
    let align = if class >= HUGE { HUGE } else { ALIGN };
    Layout::from_size_align(class, align).expect("a size class is far below isize::MAX")
}

fn size_class(bytes: usize) -> usize {
    let bytes = bytes.max(ALIGN);
    let step = (bytes.next_power_of_two() / 16).max(ALIGN);
    bytes.div_ceil(step) * step
}

/// Memory from the system.
fn fresh(class: usize) -> NonNull<u8> {
    FRESH.fetch_add(1, Ordering::Relaxed);
    HELD.fetch_add(class, Ordering::Relaxed);
    let layout = layout(class);
    // SAFETY: the layout has a non-zero size.
    let raw = unsafe { alloc(layout) };
    let Some(pointer) = NonNull::new(raw) else { handle_alloc_error(layout) };
    advise_huge(pointer, class);
    // Reading memory that was never written is undefined, so it is written once, when it is new.
    // SAFETY: `class` bytes were just allocated.
    unsafe { pointer.as_ptr().write_bytes(0, class) };
    pointer
}

/// One allocation of the pool; goes back on drop.
pub(crate) struct PoolBuffer {
    pointer: NonNull<u8>,
    bytes: usize,
    class: usize,
}

// SAFETY: the buffer owns its memory; shared access is read-only through Tensor, mutable access needs `&mut`.
unsafe impl Send for PoolBuffer {}
// SAFETY: as above.
unsafe impl Sync for PoolBuffer {}

impl PoolBuffer {
    /// A buffer of `bytes` bytes with unspecified (but initialised) contents.
    pub(crate) fn new(bytes: usize) -> Self {
        let wanted = size_class(bytes);
        let reused = {
            let mut free = FREE.lock().unwrap_or_else(|e| e.into_inner());
            let near = free.get_or_insert_default().range_mut(wanted..=wanted + wanted / 2);
            near.into_iter().find_map(|(class, blocks)| Some((*class, blocks.pop()?)))
        };
        let (class, pointer) = match reused {
            Some((class, Block(pointer))) => (class, pointer),
            None => (wanted, fresh(wanted)),
        };
        let now = LIVE.fetch_add(class, Ordering::Relaxed) + class;
        PEAK.fetch_max(now, Ordering::Relaxed);
        PoolBuffer { pointer, bytes, class }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the allocation holds at least `bytes` initialised bytes and lives as long as self.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.bytes) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.bytes) }
    }
}

impl Drop for PoolBuffer {
    fn drop(&mut self) {
        LIVE.fetch_sub(self.class, Ordering::Relaxed);
        let mut free = FREE.lock().unwrap_or_else(|e| e.into_inner());
        free.get_or_insert_default().entry(self.class).or_default().push(Block(self.pointer));
    }
}

#[cfg(target_os = "linux")]
fn advise_huge(pointer: NonNull<u8>, class: usize) {
    unsafe extern "C" {
        fn madvise(address: *mut core::ffi::c_void, length: usize, advice: core::ffi::c_int) -> core::ffi::c_int;
    }
    const MADV_HUGEPAGE: core::ffi::c_int = 14;
    if class >= HUGE {
        // SAFETY: advice on memory we own; a refusal changes nothing.
        unsafe { madvise(pointer.as_ptr().cast(), class, MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge(_pointer: NonNull<u8>, _class: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_buffer_is_reused() {
        // A size no other test uses, so that tests running beside this one do not take the buffer.
        let before = PoolBuffer::new(7_654_321).pointer;
        let after = PoolBuffer::new(7_654_321 - 900_000).pointer;
        assert_eq!(before, after, "a shorter step takes the longer step's buffer");
    }

    #[test]
    fn size_classes_waste_at_most_an_eighth() {
        for bytes in [1usize, 63, 64, 65, 1000, 4097, 1 << 20, (1 << 20) + 1, 50_000_000] {
            let class = size_class(bytes);
            assert!(class >= bytes && class.is_multiple_of(ALIGN));
            assert!(bytes < 1024 || class - bytes <= bytes / 8, "{bytes} -> {class}");
        }
    }
}
