//! NumPy's random numbers, for the index sets that PEFT does not store but draws with `numpy.random.default_rng(seed)`
//! (Uni-LoRA): PCG64, which is the 128-bit congruential generator with the output XSL-RR (O'Neill 2014), seeded through
//! NumPy's `SeedSequence`.
//!
//! Only what that method draws: `Generator.shuffle` of a list and `Generator.choice` without replacement. Whole numbers up
//! to a bound come from 32-bit halves of an output: in `shuffle` the lowest bits, drawn again while they are above it; in
//! `choice` by Lemire's rule (arXiv 1805.10941). It knows nothing of NumPy's other generators and distributions.

/// The multiplier of the congruential generator.
const MULTIPLIER: u128 = 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645;

/// A generator like `numpy.random.default_rng(seed)`.
pub struct NumpyRandom {
    state: u128,
    increment: u128,
    /// The upper half of the last output, while it is unused.
    spare: Option<u32>,
}

impl NumpyRandom {
    /// Seeded.
    pub fn new(seed: u64) -> NumpyRandom {
        let [a, b, c, d] = seed_words(seed);
        let wide = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
        let mut random = NumpyRandom { state: 0, increment: wide(c, d) << 1 | 1, spare: None };
        random.step();
        random.state = random.state.wrapping_add(wide(a, b));
        random.step();
        random
    }

    fn step(&mut self) {
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
    }

    /// The next 64 bits.
    fn bits(&mut self) -> u64 {
        self.step();
        ((self.state >> 64) as u64 ^ self.state as u64).rotate_right((self.state >> 122) as u32)
    }

    /// The next 32 bits: the lower half of an output, then its upper one.
    fn half(&mut self) -> u32 {
        if let Some(upper) = self.spare.take() {
            return upper;
        }
        let bits = self.bits();
        self.spare = Some((bits >> 32) as u32);
        bits as u32
    }

    /// A whole number from 0 to `last`, by its lowest bits.
    fn masked_up_to(&mut self, last: u32) -> u32 {
        let mask = last.checked_ilog2().map_or(0, |bits| u32::MAX >> (31 - bits));
        loop {
            let number = self.half() & mask;
            if number <= last {
                return number;
            }
        }
    }

    /// A whole number from 0 to `last`, below 2³² - 1, by Lemire's rule; nothing is drawn for 0.
    fn up_to(&mut self, last: u32) -> u32 {
        if last == 0 {
            return 0;
        }
        let count = last + 1;
        let mut product = u64::from(self.half()) * u64::from(count);
        if (product as u32) < count {
            let unfair = (u32::MAX - last) % count;
            while (product as u32) < unfair {
                product = u64::from(self.half()) * u64::from(count);
            }
        }
        (product >> 32) as u32
    }

    /// `shuffle(list)`: exchanges the places, from the last one down, each with one before it or itself.
    pub fn shuffle(&mut self, list: &mut [u32]) {
        for at in (1..list.len()).rev() {
            let other = self.masked_up_to(at as u32) as usize;
            list.swap(at, other);
        }
    }

    /// The same down to place `first`, as `choice` does it.
    fn shuffle_choice(&mut self, first: usize, list: &mut [u32]) {
        for at in (first..list.len()).rev() {
            let other = self.up_to(at as u32) as usize;
            list.swap(at, other);
        }
    }

    /// `choice(count, size, replace=False)`: `size` of the numbers below `count`. Panics if there are not as many.
    pub fn choice(&mut self, count: u32, size: usize) -> Vec<u32> {
        let all = count as usize;
        assert!(size <= all, "{size} of {all} numbers");
        // NumPy's own bound between its two ways.
        if all > 10_000 && size > all / 50 {
            let mut numbers: Vec<u32> = (0..count).collect();
            self.shuffle_choice((all - size).max(1), &mut numbers);
            return numbers.split_off(all - size);
        }
        // Floyd's way: a number met twice gives its place to the newest one.
        let mut met = std::collections::HashSet::with_capacity(size);
        let mut chosen = Vec::with_capacity(size);
        for newest in (all - size) as u32..count {
            let drawn = self.up_to(newest);
            let number = if met.insert(drawn) { drawn } else { newest };
            met.insert(number);
            chosen.push(number);
        }
        self.shuffle_choice(1, &mut chosen);
        chosen
    }
}

/// `SeedSequence(seed).generate_state(4, uint64)`.
fn seed_words(seed: u64) -> [u64; 4] {
    let entropy = [seed as u32, (seed >> 32) as u32, 0, 0];
    let mut factor = 0x43b0_d7e5u32;
    let mut hashed = |value: u32| {
        let value = value ^ factor;
        factor = factor.wrapping_mul(0x931e_8875);
        folded(value.wrapping_mul(factor))
    };
    let mut pool = entropy.map(&mut hashed);
    for from in 0..4 {
        for to in (0..4).filter(|to| *to != from) {
            let other = hashed(pool[from]).wrapping_mul(0x4973_f715);
            pool[to] = folded(pool[to].wrapping_mul(0xca01_f9dd).wrapping_sub(other));
        }
    }
    let mut factor = 0x8b51_f9ddu32;
    let mut word = |at: usize| {
        let value = pool[at % 4] ^ factor;
        factor = factor.wrapping_mul(0x58f3_8ded);
        u64::from(folded(value.wrapping_mul(factor)))
    };
    std::array::from_fn(|at| word(2 * at) | word(2 * at + 1) << 32)
}

fn folded(value: u32) -> u32 {
    value ^ value >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `numpy.random.default_rng(42).bit_generator.random_raw(3)`, and with a generator of its own for each line
    /// `shuffle(arange(10))`, `choice(16, 7, replace=False)` (seed 42), `choice(20000, 1000, replace=False)[:8]` (seed 5)
    /// and `choice(20000, 300, replace=False)[:8]` (seed 2⁴⁰ + 3), by NumPy 2.4.6.
    #[test]
    fn the_numbers_are_those_of_numpy() {
        let mut random = NumpyRandom::new(42);
        assert_eq!([random.bits(), random.bits(), random.bits()], RAW);
        let mut list: Vec<u32> = (0..10).collect();
        NumpyRandom::new(42).shuffle(&mut list);
        assert_eq!(list, [5, 6, 0, 7, 3, 2, 4, 9, 1, 8]);
        assert_eq!(NumpyRandom::new(42).choice(16, 7), [1, 12, 5, 7, 0, 8, 6]);
        assert_eq!(
            NumpyRandom::new(5).choice(20_000, 1000)[..8],
            [10974, 12442, 12953, 16040, 7964, 16773, 4571, 17762]
        );
        let seed = (1 << 40) + 3;
        assert_eq!(NumpyRandom::new(seed).choice(20_000, 300)[..8], [7861, 6105, 6201, 3052, 209, 19826, 17767, 18969]);
    }

    const RAW: [u64; 3] = [0xc621_fbcd_16d9_2688, 0x705a_5661_a791_ffc1, 0xdbcd_12c2_6eda_1624];
}
