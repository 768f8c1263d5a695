//! PyTorch's random numbers on the CPU, for the frozen matrices and index sets that PEFT does not store but draws from a seed
//! (VeRA, RandLoRA, FourierFT, SHiRA): MT19937 seeded with `init_genrand(seed)`, 32-bit outputs.
//!
//! Only what those methods draw: uniform `f32` (24 bits of an output, one output an element in row-major order) and
//! `randperm` (for `k` from 0, place `k` is exchanged with place `k + output mod (n − k)`).

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

    const PERMUTATION: [u32; 10] = [5, 9, 0, 3, 1, 7, 4, 8, 6, 2];
    const UNIFORM: [f32; 4] = [-0.007_486_82, 0.536_443_6, -0.823_045_13, -0.735_939];
}
