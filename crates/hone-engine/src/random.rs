//! Random numbers by counter: a number depends on its key and its position only, never on what was drawn before, so a
//! resumed run draws what the uninterrupted one would have drawn and threads draw independently.
//!
//! Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). A [`RandomKey`] is a Philox key
//! and the upper half of a counter; deriving a key below another encrypts its name with the parent, so streams with
//! different names have nothing to do with each other.

/// Names one stream of random numbers: derive one per purpose, step and site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RandomKey {
    /// The Philox key.
    pub key: [u32; 2],
    /// The upper half of the counter.
    pub stream: [u32; 2],
}

/// Numbers that [`RandomKey::fill`] draws side by side: 64 counters of four words, word by word, so that the rounds run
/// in vector registers and the result needs no shuffling.
pub(crate) const GROUP: usize = 256;
const COUNTERS: usize = GROUP / 4;

/// Keys are derived with another key than numbers are drawn with, so that no number of a stream is also a key below it.
const NAMED: [u32; 2] = [0x6e61_6d65, 0x642d_6b65];
const INDEXED: [u32; 2] = [0x696e_6465, 0x782d_6b65];

impl RandomKey {
    /// The root key of a run.
    pub fn new(seed: u64) -> RandomKey {
        RandomKey { key: words(seed), stream: [0, 0] }
    }

    /// A key for a named purpose below this one (`"dropout"`, `"shuffle"`, a site's name).
    pub fn named(self, name: &str) -> RandomKey {
        // FNV-1a, 64 bits: enough to tell names apart; Philox does the mixing.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3));
        self.derive(NAMED, hash)
    }

    /// A key for the `i`-th step, epoch, row … below this one.
    pub fn index(self, i: u64) -> RandomKey {
        self.derive(INDEXED, i)
    }

    fn derive(self, domain: [u32; 2], what: u64) -> RandomKey {
        let [lo, hi] = words(what);
        let key = [self.key[0] ^ domain[0], self.key[1] ^ domain[1]];
        let [a, b, c, d] = philox([lo, hi, self.stream[0], self.stream[1]], key);
        RandomKey { key: [a, b], stream: [c, d] }
    }

    /// The `i`-th 32 random bits.
    pub fn bits(self, i: u64) -> u32 {
        let (group, within) = (i / GROUP as u64, i as usize % GROUP);
        let [lo, hi] = words(group * COUNTERS as u64 + (within % COUNTERS) as u64);
        philox([lo, hi, self.stream[0], self.stream[1]], self.key)[within / COUNTERS]
    }

    /// `out[j]` = the `first + j`-th 32 random bits; vectorises inside [`simd::dispatch`](crate::simd::dispatch).
    #[inline(always)]
    pub fn fill(self, first: u64, out: &mut [u32]) {
        let (mut i, mut done) = (first, 0);
        while done < out.len() {
            let skip = i as usize % GROUP;
            let group = self.group(i / GROUP as u64);
            let take = (GROUP - skip).min(out.len() - done);
            out[done..done + take].copy_from_slice(&group[skip..skip + take]);
            (i, done) = (i + take as u64, done + take);
        }
    }

    /// Numbers `GROUP * group ..` of the stream, [`GROUP`] of them.
    #[inline(always)]
    pub(crate) fn group(self, group: u64) -> [u32; GROUP] {
        // Words lie in 64-bit lanes, as the products want them; what is above the low half is never read. Rounds outside
        // and counters inside: the inner loop is the one that vectorises.
        let (mut a, mut b) = ([0u64; COUNTERS], [0u64; COUNTERS]);
        let (mut c, mut d) = ([self.stream[0] as u64; COUNTERS], [self.stream[1] as u64; COUNTERS]);
        let first = group.wrapping_mul(COUNTERS as u64);
        for l in 0..COUNTERS {
            a[l] = first.wrapping_add(l as u64);
            b[l] = a[l] >> 32;
        }
        let mut key = self.key;
        for _ in 0..ROUNDS {
            for l in 0..COUNTERS {
                let left = LEFT * (a[l] as u32 as u64);
                let right = RIGHT * (c[l] as u32 as u64);
                (a[l], b[l]) = ((right >> 32) ^ b[l] ^ key[0] as u64, right);
                (c[l], d[l]) = ((left >> 32) ^ d[l] ^ key[1] as u64, left);
            }
            key = next_key(key);
        }
        let mut out = [0; GROUP];
        for (out, word) in out.chunks_exact_mut(COUNTERS).zip([a, b, c, d]) {
            for l in 0..COUNTERS {
                out[l] = word[l] as u32;
            }
        }
        out
    }

    /// The `i`-th uniform number in [0, 1): a multiple of 2^-24.
    pub fn uniform(self, i: u64) -> f32 {
        (self.bits(i) >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// The `i`-th standard normal number (Box–Muller over two draws of its own).
    pub fn normal(self, i: u64) -> f32 {
        let open = |bits: u32| (bits as f64 + 0.5) / 4_294_967_296.0; // never 0, whose logarithm is infinite
        let radius = (-2.0 * open(self.bits(2 * i)).ln()).sqrt();
        (radius * (std::f64::consts::TAU * open(self.bits(2 * i + 1))).cos()) as f32
    }

    /// The `i`-th uniform whole number in `0..n`. Panics if `n` is 0.
    pub fn below(self, i: u64, n: usize) -> usize {
        assert!(n > 0, "a random number below 0");
        let wide = (self.bits(2 * i) as u64) << 32 | self.bits(2 * i + 1) as u64;
        ((wide as u128 * n as u128) >> 64) as usize
    }

    /// A permutation of `0..n` (Fisher–Yates).
    pub fn permutation(self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i as u64, i + 1));
        }
        order
    }
}

const ROUNDS: usize = 10;
const LEFT: u64 = 0xd251_1f53;
const RIGHT: u64 = 0xcd9e_8d57;

fn words(v: u64) -> [u32; 2] {
    [v as u32, (v >> 32) as u32]
}

/// Ten rounds of Philox4x32 over `counter`.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut a, mut b, mut c, mut d], mut key) = (counter, key);
    for _ in 0..ROUNDS {
        let (left, right) = (LEFT * a as u64, RIGHT * c as u64);
        (a, b) = ((right >> 32) as u32 ^ b ^ key[0], right as u32);
        (c, d) = ((left >> 32) as u32 ^ d ^ key[1], left as u32);
        key = next_key(key);
    }
    [a, b, c, d]
}

#[inline(always)]
fn next_key(key: [u32; 2]) -> [u32; 2] {
    [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_answers() {
        // kat_vectors of Random123, the paper's own library: philox4x32, 10 rounds.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(philox(pi, [0xa409_3822, 0x299f_31d0]), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn filling_draws_the_same_bits_as_asking_one_by_one() {
        let key = RandomKey::new(7).named("dropout").index(3);
        for (first, len) in [(0, 200), (63, 2), (64, 64), (1000, 5), ((1 << 40) + 17, 150)] {
            let mut out = vec![0; len];
            key.fill(first, &mut out);
            assert!(out.iter().enumerate().all(|(j, bits)| *bits == key.bits(first + j as u64)));
        }
    }

    #[test]
    fn derived_streams_differ() {
        let root = RandomKey::new(1);
        let keys = [root, RandomKey::new(2), root.named("a"), root.named("b"), root.index(0), root.index(1)];
        let first: Vec<u32> = keys.iter().map(|k| k.bits(0)).collect();
        for (i, a) in first.iter().enumerate() {
            assert!(!first[..i].contains(a), "streams {i} and an earlier one begin alike");
        }
        assert_eq!(root.named("a"), RandomKey::new(1).named("a"));
    }

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let key = RandomKey::new(42);
        let n = 100_000u64;
        let moments = |f: &dyn Fn(u64) -> f32| {
            let mean = (0..n).map(|i| f(i) as f64).sum::<f64>() / n as f64;
            let variance = (0..n).map(|i| (f(i) as f64 - mean).powi(2)).sum::<f64>() / n as f64;
            (mean, variance)
        };
        // Five standard errors each.
        let (mean, variance) = moments(&|i| key.uniform(i));
        assert!((mean - 0.5).abs() < 0.0046 && (variance - 1.0 / 12.0).abs() < 0.0012, "{mean} {variance}");
        let (mean, variance) = moments(&|i| key.normal(i));
        assert!(mean.abs() < 0.016 && (variance - 1.0).abs() < 0.023, "{mean} {variance}");
        assert!((0..n).all(|i| (0.0..1.0).contains(&key.uniform(i))));
    }

    #[test]
    fn a_permutation_holds_every_index_once_and_moves_them_evenly() {
        let mut sorted = RandomKey::new(3).permutation(1000);
        assert_ne!(sorted[..20], (0..20).collect::<Vec<_>>());
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert!(RandomKey::new(3).permutation(0).is_empty());
        // Each of the six orders of three, 6,000 draws: 1,000 each, give or take five standard deviations.
        let mut counts = std::collections::HashMap::new();
        for i in 0..6000 {
            *counts.entry(RandomKey::new(9).index(i).permutation(3)).or_insert(0) += 1;
        }
        assert!(counts.len() == 6 && counts.values().all(|c| (855..1145).contains(c)), "{counts:?}");
    }
}
