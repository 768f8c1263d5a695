//! CPython's `random.Random`: the Mersenne Twister MT19937 and the draws built on it, so that few-shot examples and
//! bootstrap resamples are the ones the reference harness draws.
//!
//! Source: CPython `Modules/_randommodule.c` and `Lib/random.py` (`sample`, `choices`, `_randbelow_with_getrandbits`).

use rand_mt::Mt;

/// `random.Random(seed)` for a non-negative integer seed.
pub struct PythonRandom {
    generator: Mt,
}

impl PythonRandom {
    /// Seeds as CPython does: the seed's 32-bit digits, lowest first, are the key of `init_by_array`.
    pub fn new(seed: u64) -> PythonRandom {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let generator = if high == 0 { Mt::new_with_key([low]) } else { Mt::new_with_key([low, high]) };
        PythonRandom { generator }
    }

    /// The next 32 bits of the twister.
    pub fn next_u32(&mut self) -> u32 {
        self.generator.next_u32()
    }

    /// `random()`: uniform in [0, 1) with 53 bits.
    pub fn random(&mut self) -> f64 {
        let high = f64::from(self.generator.next_u32() >> 5);
        let low = f64::from(self.generator.next_u32() >> 6);
        (high * 67_108_864.0 + low) * (1.0 / 9_007_199_254_740_992.0)
    }

    /// `_randbelow(n)`: the top `bit_length(n)` bits of an output, drawn again until below `n`.
    ///
    /// Panics for `n = 0`.
    pub fn below(&mut self, n: u32) -> u32 {
        assert!(n > 0, "no number is below zero");
        let shift = n.leading_zeros();
        loop {
            let drawn = self.generator.next_u32() >> shift;
            if drawn < n {
                return drawn;
            }
        }
    }

    /// `choices(range(n), k=1)[0]`: `floor(random() * n)`.
    pub fn choice(&mut self, n: usize) -> usize {
        (self.random() * n as f64) as usize
    }

    /// `sample(range(n), k)`: `k` different indices below `n`, in the order drawn.
    ///
    /// Panics for `k > n`; callers say what is missing.
    pub fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        assert!(k <= n, "a sample of {k} from {n}");
        if n <= set_size(k) {
            let mut pool: Vec<usize> = (0..n).collect();
            let mut drawn = Vec::with_capacity(k);
            for i in 0..k {
                let j = self.below((n - i) as u32) as usize;
                drawn.push(pool[j]);
                pool[j] = pool[n - i - 1];
            }
            return drawn;
        }
        let mut drawn = Vec::with_capacity(k);
        while drawn.len() < k {
            let j = self.below(n as u32) as usize;
            if !drawn.contains(&j) {
                drawn.push(j);
            }
        }
        drawn
    }
}

/// Pools up to this size are shuffled in a list, larger ones drawn with a set of what was seen: the size of a small set
/// minus that of an empty list, plus the table a set of `3 k` entries has.
fn set_size(k: usize) -> usize {
    if k <= 5 {
        return 21;
    }
    let mut table = 1usize;
    while table < 3 * k {
        table *= 4;
    }
    21 + table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twister_is_cpythons() {
        let mut random = PythonRandom::new(1234);
        let drawn: Vec<u32> = (0..5).map(|_| random.next_u32()).collect();
        assert_eq!(drawn, [4_150_886_329, 3_342_196_574, 1_892_932_127, 501_869_158, 32_175_636]);
        let mut random = PythonRandom::new(0);
        let drawn: Vec<f64> = (0..3).map(|_| random.random()).collect();
        assert_eq!(drawn, [0.8444218515250481, 0.7579544029403025, 0.420571580830845]);
        let mut random = PythonRandom::new(0);
        let drawn: Vec<usize> = (0..10).map(|_| random.choice(10)).collect();
        assert_eq!(drawn, [8, 7, 4, 2, 5, 4, 7, 3, 4, 5]);
        // `random.Random(2**40 + 7).getrandbits(32)`
        assert_eq!(PythonRandom::new((1 << 40) + 7).next_u32(), 2_635_837_658);
    }

    #[test]
    fn samples_are_cpythons_for_both_algorithms() {
        let draws = |n, k, times| {
            let mut random = PythonRandom::new(1234);
            (0..times).map(|_| random.sample(n, k)).collect::<Vec<_>>()
        };
        assert_eq!(draws(100, 5, 3), [[99, 56, 14, 0, 11], [74, 4, 85, 88, 10], [12, 98, 45, 30, 2]]);
        let six = [[99, 56, 14, 0, 11, 74], [4, 85, 88, 10, 12, 98], [45, 30, 2, 3, 44, 82]];
        assert_eq!(draws(100, 6, 3), six);
        assert_eq!(draws(20, 5, 2), [[14, 3, 0, 2, 1], [2, 3, 11, 7, 0]]);
        assert_eq!(draws(2251, 2, 3), [[1805, 478], [30, 371], [143, 343]]);
    }
}
