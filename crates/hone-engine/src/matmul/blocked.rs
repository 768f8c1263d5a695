//! The loops around the micro-kernels: a product is cut into regions (rows by columns) for the threads; a region's panels
//! stay in the second-level cache, and are met by strips of rows that stay in the first.
//!
//! A product may have several terms, `Σ left right`, which are summed before anything is rounded or written: a linear map
//! with low-rank terms on it is one pass over its result.
//!
//! Sums over `k` are spilled and taken up again, never regrouped, so neither the cuts nor the number of threads nor the
//! other rows show in a result.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::kernel::{Block, Kernel, PANEL, WriteBack};
use super::operand::{Left, Right, Scratch, Staging, Strip};
use super::panels::panel_bytes;
use crate::dtype::DType;

/// `left * right`, `[m, k]` by `[k, n]`.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    /// Depth.
    pub k: usize,
    /// `[m, k]`.
    pub left: Left<'a>,
    /// `[k, n]`.
    pub right: Right<'a>,
    /// The right side is that of the term before, and so is `k`: its panels are met again while they are in the cache.
    pub same_right: bool,
}

/// `out = alpha * Σ terms`, or `out += …` with `add`.
pub(crate) struct Product<'a> {
    /// Rows.
    pub m: usize,
    /// Columns.
    pub n: usize,
    /// Terms, none of depth 0.
    pub terms: &'a [Term<'a>],
    /// Result, row-major, `m * n` values of type `dtype`.
    pub out: *mut u8,
    /// Type of the result.
    pub dtype: DType,
    /// Factor on the sum.
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
/// Columns that are written back together: long enough runs for the memory, short enough for the first-level cache.
const WRITTEN: usize = 4 * PAIR;
/// The same where sums are spilled between blocks of `k`, so that a strip is met by more panels at a time.
const WRITTEN_SPILLED: usize = 8 * PAIR;
/// Depth of a term that is never cut off the pass before it.
const LOW: usize = 256;
/// Rows up to which packing the right-hand side is most of the work.
const FEW_ROWS: usize = 64;

/// How a product is cut.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Columns of a region, a multiple of 32.
    columns: usize,
    /// Rows of a region, a multiple of the strip.
    rows: usize,
    /// Depth packed at once.
    depth: usize,
}

fn plan(p: &Product, kernel: &Kernel, threads: usize) -> Plan {
    // What is laid out: terms that share panels count once.
    let k: usize = p.terms.iter().filter(|t| !t.same_right).map(|t| t.k).sum();
    let ready = p.terms.iter().all(|t| t.k <= LOW || t.right.in_place(kernel.dtype, 0, 0).is_some());
    let pairs = p.n.div_ceil(PAIR);
    let strips = p.m.div_ceil(kernel.strip);
    // With few rows, what is packed is used at once: a shallow slice of long rows, which streams.
    let (depth, most) = if !ready && p.m <= FEW_ROWS { (k.min(256), 16) } else { (k.min(DEEPEST), usize::MAX) };
    let fit = (kernel.panel_bytes / panel_bytes(kernel.dtype, depth).max(1) / 2).clamp(1, most);
    // Threads share the columns, so that every panel is packed once; the rows where columns would go round unevenly.
    let uneven = pairs < 4 * threads && !pairs.is_multiple_of(threads);
    let across = if uneven && strips >= 2 * threads { 1 } else { threads.min(pairs) };
    let chunks = pairs.div_ceil(fit).max(across);
    let chunks = if chunks < pairs && across > 1 { chunks.next_multiple_of(threads).min(pairs) } else { chunks };
    let columns = pairs.div_ceil(chunks) * PAIR;
    let mut parts = threads.div_ceil(p.n.div_ceil(columns));
    if passes(p, depth).len() > 1 {
        parts = parts.max(p.m.div_ceil(SPILLED_ROWS));
    }
    Plan { columns, rows: strips.div_ceil(parts) * kernel.strip, depth }
}

/// Runs a product on `kernel`.
pub(crate) fn run(p: &Product, kernel: &Kernel) {
    assert!(p.m > 0 && p.n > 0 && p.terms.iter().all(|t| t.k > 0), "an empty product has no blocks");
    let work = p.m.saturating_mul(p.n).saturating_mul(p.terms.iter().map(|t| t.k).sum());
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
    sums: Scratch,
    staging: Staging,
    /// Panels and strip of each slab in turn.
    slabs: Vec<(Scratch, Scratch)>,
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

/// A term, or a depth of it, with its panels laid out.
struct Slab<'a> {
    left: Left<'a>,
    ks: Range<usize>,
    panels: *const u8,
    panel_stride: usize,
    /// Depth of a micro-kernel's call.
    block: usize,
    /// The strip in turn.
    strip: Strip,
}

/// A term at a range of its `k`.
type Piece<'a> = (Term<'a>, Range<usize>);

/// What is packed together: pieces of the terms in order, as many as `depth` holds, and shallow ones besides. Terms with
/// the same right side go through `k` together.
fn passes<'a>(p: &Product<'a>, depth: usize) -> Vec<Vec<Piece<'a>>> {
    let mut passes: Vec<Vec<Piece>> = Vec::new();
    let mut left = 0;
    for family in p.terms.chunk_by(|_, next| next.same_right) {
        let whole = family[0].k;
        for k in (0..whole).step_by(depth) {
            let ks = k..(k + depth).min(whole);
            let pieces = family.iter().map(|term| (*term, ks.clone()));
            match passes.last_mut() {
                Some(pass) if ks.len() <= left.max(LOW) => {
                    left = left.saturating_sub(ks.len());
                    pass.extend(pieces);
                }
                _ => {
                    left = depth - ks.len();
                    passes.push(pieces.collect());
                }
            }
        }
    }
    passes
}

/// One region, on the calling thread.
fn region(p: &Product, kernel: &Kernel, plan: &Plan, rows: Range<usize>, columns: Range<usize>, s: &mut RegionScratch) {
    let _bracket = Bracket::open(kernel);
    let passes = passes(p, plan.depth);
    let kept = passes.len() > 1;
    let deep = |(_, ks): &Piece| ks.len().div_ceil(kernel.k_block) > 1;
    let written = if passes[0].len() > 2 || passes[0].iter().any(deep) { WRITTEN_SPILLED } else { WRITTEN };
    // An odd number of lines keeps rows from lying a power of two apart.
    let (kept_rows, width) =
        if kept { (rows.len().next_multiple_of(kernel.strip), columns.len()) } else { (kernel.strip, written) };
    let sums_stride = width.next_multiple_of(PAIR) + PANEL;
    s.sums.reserve_bytes(4 * kept_rows * sums_stride);
    let sums = s.sums.as_mut_ptr().cast::<f32>();
    let most = passes.iter().map(Vec::len).max().unwrap_or(0);
    s.slabs.resize_with(s.slabs.len().max(most), Default::default);
    // What must be transposed is, for several strips at a time.
    let turned = p.terms.iter().any(|t| t.left.turned);
    let group = if turned { 4 * kernel.strip } else { kernel.strip };

    for (pass, terms) in passes.iter().enumerate() {
        let last = pass + 1 == passes.len();
        let mut slabs: Vec<Slab> = Vec::with_capacity(terms.len());
        for ((term, ks), (panels, _)) in terms.iter().zip(&mut s.slabs) {
            let (panels, panel_stride) = match slabs.last() {
                Some(before) if term.same_right => (before.panels, before.panel_stride),
                _ => term
                    .right
                    .in_place(kernel.dtype, columns.start, ks.start)
                    .unwrap_or_else(|| term.right.pack(kernel, columns.clone(), ks.clone(), panels, &mut s.staging)),
            };
            let block = ks.len().div_ceil(ks.len().div_ceil(kernel.k_block)).next_multiple_of(32);
            slabs.push(Slab { left: term.left, ks: ks.clone(), panels, panel_stride, block, strip: Strip::default() });
        }
        for rows_at in rows.clone().step_by(group) {
            let grouped = rows_at..(rows_at + group).min(rows.end);
            for row in grouped.clone().step_by(kernel.strip) {
                let strip = row..(row + kernel.strip).min(grouped.end);
                for (slab, (_, place)) in slabs.iter_mut().zip(&mut s.slabs) {
                    slab.strip = match slab.left.turned {
                        false => slab.left.strip(kernel, strip.clone(), slab.ks.clone(), place, &mut s.staging),
                        true if row == rows_at => {
                            slab.left.strip(kernel, grouped.clone(), slab.ks.clone(), place, &mut s.staging)
                        }
                        true => slab.strip.below(kernel.strip, kernel.dtype),
                    };
                }
                for column in (0..columns.len()).step_by(written) {
                    let span = column..(column + written).min(columns.len());
                    let at = if kept { (row - rows.start) * sums_stride + column } else { 0 };
                    let sums = sums.wrapping_add(at);
                    // SAFETY: slabs were laid out for this kernel and region just above; `sums` has room for a strip of
                    // rows and whole pairs of panels.
                    unsafe { span_of_strip(kernel, &slabs, strip.len(), span.clone(), sums, sums_stride, pass > 0) }
                    if !last {
                        continue;
                    }
                    let to = strip.start * p.n + columns.start + column;
                    let done = WriteBack {
                        sums,
                        sums_stride,
                        rows: strip.len(),
                        columns: span.len(),
                        to: p.out.wrapping_add(to * p.dtype.size()),
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

/// All slabs over one strip and the panels of `span`.
///
/// # Safety
/// The slabs' strips and panels must be laid out for the kernel; `sums` must hold a strip by the span.
unsafe fn span_of_strip(
    kernel: &Kernel,
    slabs: &[Slab],
    rows: usize,
    span: Range<usize>,
    sums: *mut f32,
    sums_stride: usize,
    mut load: bool,
) {
    let rows = rows.next_multiple_of(kernel.row_multiple);
    for slab in slabs {
        for k in (0..slab.ks.len()).step_by(slab.block) {
            let depth = (slab.ks.len() - k).min(slab.block);
            let b = slab.panels.wrapping_add(panel_bytes(kernel.dtype, k));
            for column in span.clone().step_by(PAIR) {
                let work = Block {
                    a: slab.strip.from.wrapping_add(k * kernel.dtype.size()),
                    a_stride: slab.strip.stride,
                    rows,
                    b: b.wrapping_add(column / PANEL * slab.panel_stride),
                    panel_stride: slab.panel_stride,
                    panels: (span.end - column).min(PAIR).div_ceil(PANEL),
                    k: depth.next_multiple_of(kernel.k_multiple),
                    c: sums.wrapping_add(column - span.start),
                    c_stride: sums_stride,
                    load_c: load,
                };
                // SAFETY: as the caller says.
                unsafe { (kernel.block)(&work) }
            }
            load = true;
        }
    }
}
