//! `hone-engine`: tensors, the tape, kernels, quantised blocks, optimiser updates and counter-based random numbers.
//!
//! Floor 0 of the workspace. It knows nothing of models, text or files: it is handed numbers and shapes.
//!
//! - [`Tensor`]: contiguous, row-major, `f32` or `bf16`, its memory drawn from one [`pool`].
//! - [`Tape`] and [`Var`]: reverse-mode differentiation over *coarse* operations (a decoder layer is about a dozen).
//! - [`ops`]: one file an operation, forward and backward side by side.
//! - [`matmul`]: the matrix products everything else stands on; [`Weight`]: a frozen matrix in the layout they want.
//! - [`quant`]: blocks of GGUF quantisation. [`optim`]: optimiser updates. [`random`]: numbers by counter.
//! - [`reference`](mod@reference): naive `f64` loops, the oracle of every kernel test.
//!
//! Shape mismatches are bugs of the caller (files are checked when they are loaded, recipes when they are read), so
//! operations assert their shapes and document it; everything that can fail because of the world returns
//! [`EngineError`].

pub mod ceiling;
pub mod cpu;
pub mod dtype;
pub mod error;
pub mod matmul;
pub mod ops;
pub mod optim;
pub(crate) mod parallel;
pub mod pool;
pub mod profile;
pub mod quant;
pub mod random;
pub mod reference;
pub mod simd;
pub mod tape;
pub mod tensor;
pub mod weight;

pub use dtype::{DType, Element};
pub use error::EngineError;
pub use half::bf16;
pub use parallel::awake;
pub use random::RandomKey;
pub use tape::{Gradients, Origin, ParamId, Tape, Var};
pub use tensor::{Shape, Tensor};
pub use weight::{Weight, WeightRef};
