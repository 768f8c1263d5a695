//! The buffer pool: every tensor's memory comes from here and goes back here, so that a training step after the first
//! asks the system for nothing (first-touch page faults were up to half of a run in peers we measured).
//!
//! Buffers are kept by size class (next multiple of 1/8 of the power of two below), newest first, so the warmest memory
//! is reused first. Steps differ in length, so a buffer up to half as large again serves as well. Where that is not enough
//! and a sixteenth more than was ever needed at once is held already, one up to four times as large serves; where there is
//! none, the largest ones go back to the system: what is held follows the longest step, not the sum over all lengths.
//! Memory is *not* cleared between uses: a new tensor holds whatever the last one left.
//!
//! What stays for a whole run (packed weights) is never put into a larger buffer. Large buffers are mapped one by one, since
//! an allocator that takes them from its heap does not give them back.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
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
    // SAFETY: the block was allocated by `fresh` with this size and nobody holds it.
    unsafe { system::give_back(pointer, class) }
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
    let budget = need + need / 16;
    let excess = |free: &Free| !free.is_empty() && HELD.load(Ordering::Relaxed) + wanted > budget;
    if excess(&free)
        && let Some(larger) = take(&mut free, wanted, 4 * wanted)
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
    system::take(class).unwrap_or_else(|| handle_alloc_error(layout(class)))
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
        PoolBuffer::from_free(bytes, reuse)
    }

    /// The same for something that stays: a free buffer of this very size, or a new one.
    pub(crate) fn lasting(bytes: usize) -> Self {
        PoolBuffer::from_free(bytes, |wanted, _| {
            take(&mut FREE.lock().unwrap_or_else(|e| e.into_inner()), wanted, wanted)
        })
    }

    fn from_free(bytes: usize, free: impl FnOnce(usize, usize) -> Option<(usize, Block)>) -> Self {
        let wanted = size_class(bytes);
        let live = LIVE.fetch_add(wanted, Ordering::Relaxed) + wanted;
        let (class, pointer) = match free(wanted, live) {
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

/// Memory as the system gives it, all zeros.
mod system {
    use super::*;

    /// `class` bytes.
    pub(super) fn take(class: usize) -> Option<NonNull<u8>> {
        #[cfg(target_os = "linux")]
        if class >= HUGE {
            return linux::take(class);
        }
        // SAFETY: the layout has a non-zero size. Zeroed, because reading memory that was never written is undefined.
        NonNull::new(unsafe { alloc_zeroed(layout(class)) })
    }

    /// # Safety
    /// `pointer` came from [`take`] with this `class`, and nobody uses it any more.
    pub(super) unsafe fn give_back(pointer: NonNull<u8>, class: usize) {
        #[cfg(target_os = "linux")]
        if class >= HUGE {
            // SAFETY: what is asked of the caller.
            return unsafe { linux::give_back(pointer, class) };
        }
        // SAFETY: as above; the layout is that of `take`.
        unsafe { dealloc(pointer.as_ptr(), layout(class)) }
    }

    #[cfg(target_os = "linux")]
    mod linux {
        use core::ffi::{c_int, c_long, c_void};

        use super::*;

        unsafe extern "C" {
            fn mmap(
                at: *mut c_void,
                length: usize,
                protection: c_int,
                flags: c_int,
                file: c_int,
                offset: c_long,
            ) -> *mut c_void;
            fn munmap(address: *mut c_void, length: usize) -> c_int;
            fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
        }
        const READ_WRITE: c_int = 1 | 2;
        const PRIVATE_ANONYMOUS: c_int = 0x02 | 0x20;
        const FAILED: usize = usize::MAX;
        const ADVISE_HUGE_PAGES: c_int = 14;

        /// A map that starts at a multiple of [`HUGE`], for huge pages.
        pub(super) fn take(class: usize) -> Option<NonNull<u8>> {
            // SAFETY: a new private map touches nothing that exists; its ends beyond the aligned part are given back
            // before anything points there; the advice is on memory we own, and a refusal changes nothing.
            unsafe {
                let start = mmap(std::ptr::null_mut(), class + HUGE, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0);
                if start as usize == FAILED {
                    return None;
                }
                let before = start.align_offset(HUGE);
                let aligned = start.wrapping_byte_add(before);
                if before > 0 {
                    munmap(start, before);
                }
                munmap(aligned.wrapping_byte_add(class), HUGE - before);
                madvise(aligned, class, ADVISE_HUGE_PAGES);
                NonNull::new(aligned.cast())
            }
        }

        /// # Safety
        /// As [`super::give_back`].
        pub(super) unsafe fn give_back(pointer: NonNull<u8>, class: usize) {
            // SAFETY: what is asked of the caller: exactly what `take` kept.
            unsafe { munmap(pointer.as_ptr().cast(), class) };
        }
    }
}

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

    #[test]
    fn large_buffers_are_aligned_zeroed_and_can_be_written_to_their_end() {
        for bytes in [HUGE, 3 * HUGE + 4096, 7_777_777] {
            let mut buffer = PoolBuffer::lasting(bytes);
            assert!((buffer.pointer.as_ptr() as usize).is_multiple_of(HUGE));
            buffer.bytes_mut().fill(7);
            assert!(buffer.bytes().len() == bytes && buffer.bytes().iter().all(|b| *b == 7));
            let (pointer, class) = (system::take(size_class(bytes)).expect("memory"), size_class(bytes));
            // SAFETY: `class` bytes were just taken and are given back once.
            unsafe {
                assert!(std::slice::from_raw_parts(pointer.as_ptr(), class).iter().all(|b| *b == 0));
                system::give_back(pointer, class);
            }
        }
    }

    #[test]
    fn what_stays_takes_no_larger_buffer() {
        // A size no other test uses.
        let bytes = 11_345_678;
        let larger = PoolBuffer::new(bytes + bytes / 4);
        let place = larger.pointer;
        drop(larger);
        let lasting = PoolBuffer::lasting(bytes);
        assert!(lasting.pointer != place && lasting.class == size_class(bytes));
        assert_eq!(PoolBuffer::new(bytes).pointer, place, "what comes and goes does");
    }
}
