//! The loops around the micro-kernels: a product is cut into regions (rows by columns) for the threads, a region into
//! chunks of panels that stay in the second-level cache, and those are met by strips of rows that stay in the first.
//!
//! Sums over `k` are spilled and taken up again, never regrouped, so neither the cuts nor the number of threads nor the
//! other rows show in a result.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::kernel::{Block, Kernel, PANEL, WriteBack};
use super::operand::{Left, Right, Scratch, Staging};
use super::panels::panel_bytes;
use crate::dtype::DType;

/// `out = alpha * left * right`, or `out += …` with `add`.
pub(crate) struct Product<'a> {
    /// Rows.
    pub m: usize,
    /// Columns.
    pub n: usize,
    /// Depth.
    pub k: usize,
    /// `[m, k]`.
    pub left: Left<'a>,
    /// `[k, n]`.
    pub right: Right<'a>,
    /// Result, row-major, `m * n` values of type `dtype`.
    pub out: *mut u8,
    /// Type of the result.
    pub dtype: DType,
    /// Factor on the product.
    pub alpha: f32,
    /// Whether the result's values are added to.
    pub add: bool,
}

// SAFETY: regions write disjoint parts of `out`, which the product's maker borrowed exclusively.
unsafe impl Sync for Product<'_> {}

/// Columns the kernels take at a time.
const PAIR: usize = 2 * PANEL;
/// Below this many multiply-adds a product runs on the calling thread: waking another would take longer.
const ONE_THREAD: usize = 1 << 18;
/// Depth up to which all of `k` is packed at once.
const DEEPEST: usize = 4096;
/// Rows of a region whose sums must be kept between packed depths.
const SPILLED_ROWS: usize = 512;

/// How a product is cut.
struct Plan {
    /// Columns of a region, a multiple of 32.
    columns: usize,
    /// Rows of a region, a multiple of the strip.
    rows: usize,
    /// Depth packed at once.
    depth: usize,
    /// Depth of a micro-kernel's call.
    k_block: usize,
}

fn plan(p: &Product, kernel: &Kernel, threads: usize) -> Plan {
    let depth = p.k.min(DEEPEST);
    let blocks = depth.div_ceil(kernel.k_block);
    let k_block = depth.div_ceil(blocks).next_multiple_of(32);
    // Pairs of panels: as many as fit the cache, and chunks of equal size that all threads get their share of.
    let pairs = p.n.div_ceil(PAIR);
    let fit = (kernel.panel_bytes / panel_bytes(kernel.dtype, depth).max(1) / 2).max(1);
    let chunks = pairs.div_ceil(fit).max(threads.min(pairs));
    let chunks = if chunks < pairs { chunks.next_multiple_of(threads).min(pairs) } else { pairs };
    let columns = pairs.div_ceil(chunks) * PAIR;
    let chunks = p.n.div_ceil(columns);
    // Rows are cut where columns do not feed all threads, or sums must be kept.
    let mut parts = threads.div_ceil(chunks);
    if p.k > depth {
        parts = parts.max(p.m.div_ceil(SPILLED_ROWS));
    }
    let rows = p.m.div_ceil(parts).next_multiple_of(kernel.strip);
    Plan { columns, rows, depth, k_block }
}

/// Runs a product on `kernel`.
pub(crate) fn run(p: &Product, kernel: &Kernel) {
    assert!(p.k > 0 && p.m > 0 && p.n > 0, "an empty product has no blocks");
    let work = p.m.saturating_mul(p.n).saturating_mul(p.k);
    let threads = if work < ONE_THREAD { 1 } else { rayon::current_num_threads() };
    let plan = plan(p, kernel, threads);
    let (down, across) = (p.m.div_ceil(plan.rows), p.n.div_ceil(plan.columns));
    let one = |i: usize| {
        let (row, column) = (i / across * plan.rows, i % across * plan.columns);
        let rows = row..(row + plan.rows).min(p.m);
        let columns = column..(column + plan.columns).min(p.n);
        SCRATCH.with_borrow_mut(|scratch| region(p, kernel, &plan, rows, columns, scratch));
    };
    if threads == 1 || down * across == 1 {
        (0..down * across).for_each(one);
    } else {
        (0..down * across).into_par_iter().for_each(one);
    }
}

#[derive(Default)]
struct RegionScratch {
    panels: Scratch,
    sums: Scratch,
    staging: Staging,
}

thread_local! {
    static SCRATCH: RefCell<RegionScratch> = RefCell::default();
}

/// Tiles of a thread, configured for as long as this lives.
struct Bracket(Option<unsafe fn()>);

impl Bracket {
    fn open(kernel: &Kernel) -> Bracket {
        let Some((before, after)) = kernel.bracket else { return Bracket(None) };
        // SAFETY: the kernel was chosen for this processor.
        unsafe { before() }
        Bracket(Some(after))
    }
}

impl Drop for Bracket {
    fn drop(&mut self) {
        if let Some(after) = self.0 {
            // SAFETY: as above.
            unsafe { after() }
        }
    }
}

/// One region, on the calling thread.
fn region(p: &Product, kernel: &Kernel, plan: &Plan, rows: Range<usize>, columns: Range<usize>, s: &mut RegionScratch) {
    let _bracket = Bracket::open(kernel);
    let spilled = p.k > plan.depth;
    let sums_stride = columns.len().next_multiple_of(PAIR);
    let kept_rows = if spilled { rows.len().next_multiple_of(kernel.strip) } else { kernel.strip };
    s.sums.reserve_bytes(4 * kept_rows * sums_stride);
    for k in (0..p.k).step_by(plan.depth) {
        let ks = k..(k + plan.depth).min(p.k);
        let (panels, panel_stride) = match p.right.in_place(kernel.dtype, columns.start, k) {
            Some(ready) => ready,
            None => p.right.pack(kernel, columns.clone(), ks.clone(), &mut s.panels, &mut s.staging),
        };
        for row in rows.clone().step_by(kernel.strip) {
            let strip = row..(row + kernel.strip).min(rows.end);
            let kept = if spilled { row - rows.start } else { 0 };
            let sums = s.sums.as_mut_ptr().cast::<f32>().wrapping_add(kept * sums_stride);
            for block in ks.clone().step_by(plan.k_block) {
                let block = block..(block + plan.k_block).min(ks.end);
                let (a, a_stride) = p.left.strip(kernel, strip.clone(), block.clone(), &mut s.staging);
                let b = panels.wrapping_add(panel_bytes(kernel.dtype, block.start - ks.start));
                for column in (0..columns.len()).step_by(PAIR) {
                    let width = (columns.len() - column).min(PAIR);
                    let c = sums.wrapping_add(column);
                    let work = Block {
                        a,
                        a_stride,
                        rows: strip.len().next_multiple_of(kernel.row_multiple),
                        b: b.wrapping_add(column / PANEL * panel_stride),
                        panel_stride,
                        panels: width.div_ceil(PANEL),
                        k: block.len().next_multiple_of(kernel.k_multiple),
                        c,
                        c_stride: sums_stride,
                        load_c: block.start > 0,
                    };
                    // SAFETY: operands were laid out for this kernel just above; `sums` has room for a strip of rows
                    // and whole pairs of panels.
                    unsafe { (kernel.block)(&work) }
                    if block.end < p.k {
                        continue;
                    }
                    let at = strip.start * p.n + columns.start + column;
                    let done = WriteBack {
                        sums: c,
                        sums_stride,
                        rows: strip.len(),
                        columns: width,
                        to: p.out.wrapping_add(at * p.dtype.size()),
                        to_stride: p.n,
                        dtype: p.dtype,
                        alpha: p.alpha,
                        add: p.add,
                    };
                    // SAFETY: the rows and columns lie in the result, and no other region has them.
                    unsafe { (kernel.write)(&done) }
                }
            }
        }
    }
}
