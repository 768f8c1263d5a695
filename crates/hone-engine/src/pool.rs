//! The buffer pool: every tensor's memory comes from here and goes back here, so that a training step after the first
//! asks the system for nothing (first-touch page faults were up to half of a run in peers we measured).
//!
//! Buffers are kept by size class (next multiple of 1/8 of the power of two below), newest first, so the warmest memory
//! is reused first. Steps differ in length, so a buffer up to half as large again serves as well. Where that is not enough
//! and a quarter more than was ever needed at once is held already, any larger buffer serves; where there is none, smaller
//! ones go back to the system: what is held follows the longest step, not the sum over all lengths. Memory is *not* cleared
//! between uses: a new tensor holds whatever the last one left.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Cache-line and AVX-512 alignment of small buffers.
const ALIGN: usize = 64;
/// Buffers from this size on are aligned to, and advised as, huge pages.
const HUGE: usize = 2 << 20;

/// Free buffers by size class, none of the lists empty.
type Free = BTreeMap<usize, Vec<Block>>;

static FREE: Mutex<Free> = Mutex::new(BTreeMap::new());
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
    /// Bytes tensors need now, by size class.
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
    let free = std::mem::take(&mut *FREE.lock().unwrap_or_else(|e| e.into_inner()));
    for (class, blocks) in free {
        blocks.into_iter().for_each(|block| give_back(block, class));
    }
}

fn give_back(Block(pointer): Block, class: usize) {
    HELD.fetch_sub(class, Ordering::Relaxed);
    // SAFETY: the block was allocated by `fresh` with exactly this layout and nobody holds it.
    unsafe { dealloc(pointer.as_ptr(), layout(class)) }
}

/// Takes a buffer of class `from` or more and at most `to` out of the free ones, the smallest there is.
fn take(free: &mut Free, from: usize, to: usize) -> Option<(usize, Block)> {
    let class = *free.range(from..=to).next()?.0;
    Some((class, take_one(free, class)?))
}

fn take_one(free: &mut Free, class: usize) -> Option<Block> {
    let blocks = free.get_mut(&class)?;
    let block = blocks.pop();
    if blocks.is_empty() {
        free.remove(&class);
    }
    block
}

/// A free buffer for `wanted` bytes, if one should be used; makes room where a new one would hold too much.
fn reuse(wanted: usize, live: usize) -> Option<(usize, Block)> {
    let mut free = FREE.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(near) = take(&mut free, wanted, wanted + wanted / 2) {
        return Some(near);
    }
    let need = PEAK.load(Ordering::Relaxed).max(live);
    let budget = need + need / 4;
    let excess = |free: &Free| !free.is_empty() && HELD.load(Ordering::Relaxed) + wanted > budget;
    if excess(&free)
        && let Some(larger) = take(&mut free, wanted, usize::MAX)
    {
        return Some(larger);
    }
    while excess(&free)
        && let Some((&class, _)) = free.last_key_value()
        && let Some(block) = take_one(&mut free, class)
    {
        give_back(block, class);
    }
    None
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
        let live = LIVE.fetch_add(wanted, Ordering::Relaxed) + wanted;
        let (class, pointer) = match reuse(wanted, live) {
            Some((class, Block(pointer))) => (class, pointer),
            None => (wanted, fresh(wanted)),
        };
        PEAK.fetch_max(live, Ordering::Relaxed);
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
        LIVE.fetch_sub(size_class(self.bytes), Ordering::Relaxed);
        let mut free = FREE.lock().unwrap_or_else(|e| e.into_inner());
        free.entry(self.class).or_default().push(Block(self.pointer));
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
