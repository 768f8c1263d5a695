//! Random numbers by counter: a number depends on its key and its position only, never on what was drawn before, so a
//! resumed run draws what the uninterrupted one would have drawn and threads draw independently.
//!
//! Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

/// Names one stream of random numbers: derive one per purpose, step and site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RandomKey {
    /// The Philox key.
    pub key: [u32; 2],
    /// The upper half of the counter.
    pub stream: [u32; 2],
}

impl RandomKey {
    /// The root key of a run.
    pub fn new(_seed: u64) -> RandomKey {
        todo!()
    }
    /// A key for a named purpose below this one (`"dropout"`, `"shuffle"`, a site's name).
    pub fn named(self, _name: &str) -> RandomKey {
        todo!()
    }
    /// A key for the `i`-th step, epoch, row … below this one.
    pub fn index(self, _i: u64) -> RandomKey {
        todo!()
    }
    /// The `i`-th 32 random bits.
    pub fn bits(self, _i: u64) -> u32 {
        todo!()
    }
    /// The `i`-th uniform number in [0, 1).
    pub fn uniform(self, _i: u64) -> f32 {
        todo!()
    }
    /// The `i`-th standard normal number (Box–Muller over two draws of its own).
    pub fn normal(self, _i: u64) -> f32 {
        todo!()
    }
    /// A permutation of `0..n` (Fisher–Yates).
    pub fn permutation(self, _n: usize) -> Vec<usize> {
        todo!()
    }
}
