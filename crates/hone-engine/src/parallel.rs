//! Passes over rows, in parallel, the same bits at any number of threads.
//!
//! A pass cuts its rows into blocks whose size follows from the row length alone; threads take blocks, never parts of
//! them. What is summed over rows (gradients of norm weights and biases) is summed block by block and the blocks in order
//! ([`column_sums`]).

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::dtype::Element;
use crate::simd;

/// How long [`awake`] waits for the other threads.
const PATIENCE: Duration = Duration::from_micros(300);
/// Elements in a block, about: some ten microseconds of work, an L1 cache or two of memory.
const BLOCK: usize = 16 * 1024;

/// Rows in a block for rows of `cols` elements.
pub(crate) fn block_rows(cols: usize) -> usize {
    (BLOCK / cols.max(1)).max(1)
}

/// Something written by rows that can be cut between two of them.
pub(crate) trait Split: Send + Sized {
    /// The first `rows` rows and the rest.
    fn split(self, rows: usize) -> (Self, Self);
}

/// Rows of `cols` elements.
pub(crate) struct Rows<'a, T> {
    pub data: &'a mut [T],
    pub cols: usize,
}

impl<'a, T> Rows<'a, T> {
    pub(crate) fn new(data: &'a mut [T], cols: usize) -> Self {
        Rows { data, cols }
    }
}

impl<T: Send> Split for Rows<'_, T> {
    fn split(self, rows: usize) -> (Self, Self) {
        let (a, b) = self.data.split_at_mut(rows * self.cols);
        (Rows::new(a, self.cols), Rows::new(b, self.cols))
    }
}

/// One row of `cols` elements for each block of `rows` rows: partial sums.
struct PerBlock<'a, T> {
    data: &'a mut [T],
    cols: usize,
    rows: usize,
}

impl<T: Send> Split for PerBlock<'_, T> {
    fn split(self, rows: usize) -> (Self, Self) {
        let (a, b) = self.data.split_at_mut(rows / self.rows * self.cols);
        (PerBlock { data: a, ..self }, PerBlock { data: b, ..self })
    }
}

impl Split for () {
    fn split(self, _rows: usize) -> ((), ()) {
        ((), ())
    }
}

impl<A: Split, B: Split> Split for (A, B) {
    fn split(self, rows: usize) -> (Self, Self) {
        let ((a, c), (b, d)) = (self.0.split(rows), self.1.split(rows));
        ((a, b), (c, d))
    }
}

impl<A: Split> Split for Option<A> {
    fn split(self, rows: usize) -> (Self, Self) {
        self.map(|a| a.split(rows)).unzip()
    }
}

/// Runs `body(rows, out)` for every block of `rows` rows, compiled for this machine's instruction set (`body` must be
/// `#[inline(always)]`). `cols` is what a row weighs, in elements.
#[inline(always)]
pub(crate) fn for_blocks<S: Split>(rows: usize, cols: usize, out: S, body: impl Fn(Range<usize>, S) + Sync) {
    let vectorised = |range: Range<usize>, out: S| {
        simd::dispatch(
            #[inline(always)]
            || body(range, out),
        )
    };
    halve(0..rows, block_rows(cols), out, &vectorised)
}

fn halve<S: Split>(range: Range<usize>, block: usize, out: S, body: &(impl Fn(Range<usize>, S) + Sync)) {
    let blocks = range.len().div_ceil(block);
    if blocks <= 1 {
        if !range.is_empty() {
            body(range, out);
        }
        return;
    }
    let left = blocks / 2 * block;
    let middle = range.start + left;
    let (a, b) = out.split(left);
    rayon::join(|| halve(range.start..middle, block, a, body), || halve(middle..range.end, block, b, body));
}

/// Runs `body` while the other threads of the pool stay awake, for work of many short parallel passes: a thread that finds
/// nothing to do for some microseconds goes to sleep, and waking it costs as much as such a pass. They spin instead, taking
/// what work there is. Called from outside the pool, it only runs `body`.
pub fn awake<R>(body: impl FnOnce() -> R) -> R {
    let others = rayon::current_num_threads() - 1;
    if others == 0 || rayon::current_thread_index().is_none() {
        return body();
    }
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let (started, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    rayon::in_place_scope(|scope| {
        for _ in 0..others {
            scope.spawn(|_| {
                started.fetch_add(1, Ordering::AcqRel);
                while !done.load(Ordering::Acquire) {
                    if rayon::yield_now() != Some(rayon::Yield::Executed) {
                        std::hint::spin_loop();
                    }
                }
            });
        }
        let _done = Done(&done);
        // Until all of them run elsewhere, this thread must not look for work: it would take up one and wait in it for its
        // own end. If the others are busy, they are awake without this.
        let patience = Instant::now() + PATIENCE;
        while started.load(Ordering::Acquire) < others {
            if Instant::now() > patience {
                done.store(true, Ordering::Release);
                break;
            }
            std::hint::spin_loop();
        }
        body()
    })
}

/// Runs `body` over matching pieces of a flat output: an element-wise pass.
#[inline(always)]
pub(crate) fn for_pieces<T: Element>(out: &mut [T], body: impl Fn(Range<usize>, &mut [T]) + Sync) {
    for_blocks(
        out.len(),
        1,
        Rows::new(out, 1),
        #[inline(always)]
        |range, out: Rows<T>| body(range, out.data),
    )
}

/// A pass over rows that also sums `cols` columns over them: `body(rows, out, sums)` adds its rows to `sums`, which
/// starts at zero for each block; the blocks are then added in order into the result.
#[inline(always)]
pub(crate) fn for_blocks_summing<S: Split>(
    rows: usize,
    cols: usize,
    out: S,
    body: impl Fn(Range<usize>, S, &mut [f32]) + Sync,
) -> Vec<f32> {
    // Coarser blocks than elsewhere: each costs a row of partial sums.
    let block = block_rows(cols) * 4;
    let mut partial = vec![0f32; rows.div_ceil(block).max(1) * cols];
    let vectorised = |range: Range<usize>, (out, sums): (S, PerBlock<f32>)| {
        simd::dispatch(
            #[inline(always)]
            || body(range, out, sums.data),
        )
    };
    halve(0..rows, block, (out, PerBlock { data: &mut partial, cols, rows: block }), &vectorised);
    let (total, rest) = partial.split_at_mut(cols);
    for sums in rest.chunks_exact(cols.max(1)) {
        total.iter_mut().zip(sums).for_each(|(t, s)| *t += s);
    }
    partial.truncate(cols);
    partial
}

/// Sums of the columns of `data`, `cols` wide.
pub(crate) fn column_sums<T: Element>(data: &[T], cols: usize) -> Vec<f32> {
    for_blocks_summing(
        data.len() / cols.max(1),
        cols,
        (),
        #[inline(always)]
        |rows, (), sums| {
            for row in data[rows.start * cols..rows.end * cols].chunks_exact(cols) {
                simd::add_scaled(sums, 1.0, row);
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    #[test]
    fn every_row_is_visited_once_with_its_own_output() {
        for (rows, cols) in [(0, 3), (1, 3), (7, 5000), (1000, 64), (3, 40_000)] {
            let (mut a, mut b) = (vec![0u32; rows * cols], vec![0u32; rows]);
            for_blocks(rows, cols, (Rows::new(&mut a, cols), Rows::new(&mut b, 1)), |range, (a, b)| {
                assert_eq!((a.data.len(), b.data.len()), (range.len() * cols, range.len()));
                for (i, row) in range.zip(b.data) {
                    *row += i as u32 + 1;
                }
                a.data.iter_mut().for_each(|v| *v += 1);
            });
            assert!(a.iter().all(|v| *v == 1));
            assert!(b.iter().enumerate().all(|(i, v)| *v == i as u32 + 1));
        }
    }

    #[test]
    fn work_with_threads_awake_is_done_and_ends() {
        let sum = |n: u64| (0..n).into_par_iter().map(|i| i % 7).sum::<u64>();
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for round in 0..200 {
                assert_eq!(pool.install(|| awake(|| sum(round * 50))), sum(round * 50));
            }
            // Two at once, one inside the other, and one that ends badly.
            let both = pool.install(|| rayon::join(|| awake(|| awake(|| sum(9000))), || awake(|| sum(8000))));
            assert_eq!(both, (sum(9000), sum(8000)));
            let panics = || pool.install(|| awake(|| panic!("as it should")));
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        }
        assert_eq!(awake(|| sum(100)), sum(100));
    }

    #[test]
    fn column_sums_are_right_and_do_not_depend_on_threads() {
        let (rows, cols) = (777, 300);
        let data: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
        let sums = column_sums(&data, cols);
        for (c, sum) in sums.iter().enumerate() {
            let want: f64 = (0..rows).map(|r| data[r * cols + c] as f64).sum();
            assert!((*sum as f64 - want).abs() < 1e-4, "column {c}: {sum} {want}");
        }
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| column_sums(&data, cols)), sums);
        }
        assert_eq!(column_sums::<f32>(&[], 4), [0.0; 4]);
    }
}
