//! The validation split. An example is held out if the hash of what it says, read as a fraction of the hash's range, lies
//! below `validation_fraction`. So the decision depends on the example alone: not on its place, not on the other examples,
//! not on a seed. Rows can be reordered and added and no example ever changes sides; a larger fraction holds out a superset.
//!
//! The price: the share is met on average, not exactly (of `n` examples, within about `2·√(n·f·(1−f))`).

use sha2::{Digest, Sha256};

use crate::duplicates::ContentHash;

/// Whether an example is held out.
pub fn is_validation(hash: &ContentHash, fraction: f64) -> bool {
    let mut hasher = Sha256::new();
    hasher.update(b"hone-data split 1");
    hasher.update(hash.0);
    let digest = hasher.finalize();
    let mut word = [0; 8];
    word.copy_from_slice(&digest[..8]);
    // 53 bits: exact in `f64`.
    let share = (u64::from_le_bytes(word) >> 11) as f64 / (1u64 << 53) as f64;
    share < fraction
}
