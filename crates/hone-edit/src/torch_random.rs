//! PyTorch's random numbers on the CPU, for the frozen matrices and index sets that PEFT does not store but draws from a seed
//! (VeRA, RandLoRA, FourierFT, SHiRA, TinyLoRA): MT19937 seeded with `init_genrand(seed)`, 32-bit outputs.
//!
//! Only what those methods draw: uniform `f32` (24 bits of an output, one output an element in row-major order), `randperm`
//! (for `k` from 0, place `k` is exchanged with place `k + output mod (n − k)`) and normal `f32` (Box-Muller: of uniform
//! numbers in groups of 16 where there are as many, else of pairs of 53-bit ones). PyTorch computes the logarithms and
//! cosines of the groups by approximations that differ between processors, so normal numbers are the same but for rounding.

use rand_mt::Mt;

/// A generator like `torch.Generator().manual_seed(seed)`.
pub struct TorchRandom(Mt);

impl TorchRandom {
    /// Seeded; PyTorch uses the lower 32 bits.
    pub fn new(seed: u64) -> TorchRandom {
        TorchRandom(Mt::new(seed as u32))
    }

    /// `torch.empty(count).uniform_(low, high)`.
    pub fn uniform(&mut self, count: usize, low: f32, high: f32) -> Vec<f32> {
        let unit = |output: u32| (output & 0x00FF_FFFF) as f32 * (1.0 / 16_777_216.0);
        (0..count).map(|_| unit(self.0.next_u32()) * (high - low) + low).collect()
    }

    /// `torch.empty(count).normal_(0, deviation)`, up to rounding.
    pub fn normal(&mut self, count: usize, deviation: f32) -> Vec<f32> {
        const GROUP: usize = 16;
        if count < GROUP {
            return self.few_normal(count, f64::from(deviation));
        }
        let mut values = self.uniform(count, 0.0, 1.0);
        values.chunks_exact_mut(GROUP).for_each(|group| to_normal(group, deviation));
        // What no whole group covers is drawn anew, together with what stands before it.
        if !count.is_multiple_of(GROUP) {
            let mut last = self.uniform(GROUP, 0.0, 1.0);
            to_normal(&mut last, deviation);
            values[count - GROUP..].copy_from_slice(&last);
        }
        values
    }

    /// The same of a list too short for a group: pairs of numbers in `f64`.
    fn few_normal(&mut self, count: usize, deviation: f64) -> Vec<f32> {
        let mut values = Vec::with_capacity(count + 1);
        while values.len() < count {
            let (turn, distance) = (self.wide(), self.wide());
            let (radius, angle) = ((-2.0 * (-distance).ln_1p()).sqrt(), std::f64::consts::TAU * turn);
            values.extend([radius * angle.cos() * deviation, radius * angle.sin() * deviation].map(|v| v as f32));
        }
        values.truncate(count);
        values
    }

    /// A uniform `f64` in [0, 1): 53 bits of two outputs, the first of them above.
    fn wide(&mut self) -> f64 {
        let bits = u64::from(self.0.next_u32()) << 32 | u64::from(self.0.next_u32());
        (bits & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    /// `torch.randperm(count)`.
    pub fn permutation(&mut self, count: usize) -> Vec<u32> {
        let mut places: Vec<u32> = (0..count as u32).collect();
        for at in 0..count.saturating_sub(1) {
            let other = at + self.0.next_u32() as usize % (count - at);
            places.swap(at, other);
        }
        places
    }
}

/// Uniform numbers made normal ones: each of the first half with its fellow in the second.
fn to_normal(group: &mut [f32], deviation: f32) {
    let (first, second) = group.split_at_mut(group.len() / 2);
    for (a, b) in first.iter_mut().zip(second) {
        let (radius, angle) = ((-2.0 * (1.0 - *a).ln()).sqrt(), std::f32::consts::TAU * *b);
        (*a, *b) = (radius * angle.cos() * deviation, radius * angle.sin() * deviation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `g = torch.Generator().manual_seed(777); torch.randperm(10, generator=g)` and
    /// `torch.empty(4).uniform_(-1, 1, generator=g)` with a generator of seed 0.
    #[test]
    fn the_numbers_are_those_of_pytorch() {
        assert_eq!(TorchRandom::new(777).permutation(10), PERMUTATION);
        assert_eq!(TorchRandom::new(0).uniform(4, -1.0, 1.0), UNIFORM);
    }

    /// `torch.normal(0.0, std, size, generator=g)` with sizes 8 (seed 42, `std` 1) and 27 (seed 42, `std` 0.5), PyTorch 2.15.
    #[test]
    fn normal_numbers_are_those_of_pytorch_up_to_rounding() {
        let near = |ours: &[f32], theirs: &[f32]| {
            assert_eq!(ours.len(), theirs.len());
            ours.iter().zip(theirs).for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{a} and {b}"));
        };
        near(&TorchRandom::new(42).normal(8, 1.0), &EIGHT);
        near(&TorchRandom::new(42).normal(27, 0.5), &MORE);
    }

    const EIGHT: [f32; 8] = [
        0.336_690_37,
        0.128_809_41,
        0.234_462_37,
        0.230_333_02,
        -1.122_856_4,
        -0.186_328_29,
        2.208_201_4,
        -0.637_997_03,
    ];
    const MORE: [f32; 27] = [
        0.963_457_64,
        0.743_642_03,
        0.450_358_6,
        -1.052_760_5,
        0.339_209_23,
        -0.617_272_44,
        -0.021_533_74,
        -0.802_333_47,
        -0.376_067_64,
        0.824_361_5,
        -0.196_239_32,
        0.120_743_89,
        -0.555_451_93,
        0.045_772_83,
        -1.158_461_3,
        -0.108_402_364,
        -0.692_336_86,
        -0.435_618_07,
        -0.111_682_96,
        -0.310_797_7,
        -0.296_000_27,
        -0.031_537_19,
        -0.414_277_14,
        0.165_449_22,
        -0.778_786_24,
        0.497_818_05,
        -0.439_892_92,
    ];
    const PERMUTATION: [u32; 10] = [5, 9, 0, 3, 1, 7, 4, 8, 6, 2];
    const UNIFORM: [f32; 4] = [-0.007_486_82, 0.536_443_6, -0.823_045_13, -0.735_939];
}
