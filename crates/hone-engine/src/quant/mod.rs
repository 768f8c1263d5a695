//! GGUF quantised blocks.

/// A matrix `[rows, columns]` in GGUF blocks.
pub struct QuantTensor {}
