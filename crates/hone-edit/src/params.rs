//! An edit's parameters: what is planned about one before it has a value, where its first value comes from, and the value.

use hone_engine::{RandomKey, Tensor};

use crate::base::Base;
use crate::error::EditError;

/// A parameter to be made. [`ParamPlan::new`] has what most need.
pub struct ParamPlan {
    /// Its key in `adapter_model.safetensors`.
    pub key: String,
    /// Other keys it is found under in files of other versions.
    pub aliases: Vec<String>,
    /// Keys under which the file holds it again, as PEFT writes what its modules share.
    pub copies: Vec<String>,
    /// Keys of what PEFT writes beside it and never uses.
    pub unused: Vec<String>,
    /// Its axes.
    pub shape: Vec<usize>,
    /// Of places in a matrix: how long the axis is that each row of the value counts along. Files with others are refused.
    pub below: Vec<usize>,
    /// Its first value.
    pub init: Init,
    /// What is settled about it before it has a value.
    pub traits: ParamTraits,
}

/// What a parameter is, whatever its value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParamTraits {
    /// Whether weight decay applies (matrices, not norms and biases).
    pub decay: bool,
    /// Trained, or made once and left (a random projection, the places of a sparse change).
    pub role: Role,
    /// Factor on the learning rate (LoRA+, routing logits).
    pub learning_rate_factor: f64,
    /// Whether parts get it in `f32` rather than in the compute type (what is inverted, exponentiated, thresholded).
    pub full_precision: bool,
    /// Which file holds it.
    pub saved: Saved,
    /// How the file holds it.
    pub stored: Stored,
}

/// Which file of an adapter's directory holds a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// `adapter_model.safetensors`.
    Adapter,
    /// `hone.safetensors`, of which PEFT knows nothing; made again on reading where that is missing.
    Beside,
    /// None: it follows from the configuration, and is made again on reading.
    No,
}

/// How `adapter_model.safetensors` holds a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stored {
    /// `F32`.
    F32,
    /// Whole numbers, as `I32`.
    I32,
    /// Whole numbers, as `I64`.
    I64,
    /// Rows and columns `[2, n]` of places in a matrix, as flat places `[n]`, row-major, `I32`.
    Flat {
        /// The matrix's columns.
        columns: usize,
    },
    /// One bit an element, 1 where the value is above the threshold: `U8`, highest bit first, the last byte padded with
    /// zeros. Read as 0 and 1.
    Bits {
        /// What separates 0 from 1.
        threshold: f32,
    },
    /// Where it is not 0: `KEY.indices`, flat and row-major, as `I32`, and `KEY.values` as `F32`.
    Sparse,
}

/// Whether gradients reach a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is trained and counted.
    Trained,
    /// It belongs to the edit, but is not trained.
    Fixed,
}

impl Default for ParamTraits {
    fn default() -> Self {
        ParamTraits {
            decay: true,
            role: Role::Trained,
            learning_rate_factor: 1.0,
            full_precision: false,
            saved: Saved::Adapter,
            stored: Stored::F32,
        }
    }
}

impl ParamPlan {
    /// A trained matrix (or vector, which takes no weight decay) in the compute type.
    pub fn new(key: impl Into<String>, shape: &[usize], init: Init) -> ParamPlan {
        let traits = ParamTraits { decay: shape.len() > 1, ..ParamTraits::default() };
        ParamPlan {
            key: key.into(),
            aliases: Vec::new(),
            copies: Vec::new(),
            unused: Vec::new(),
            shape: shape.to_vec(),
            below: Vec::new(),
            init,
            traits,
        }
    }

    /// Made once and not trained.
    pub fn fixed(mut self) -> ParamPlan {
        self.traits.role = Role::Fixed;
        self
    }

    /// Not in the file: made again from the configuration.
    pub fn not_saved(mut self) -> ParamPlan {
        self.traits.saved = Saved::No;
        self
    }

    /// In `hone.safetensors` rather than in PEFT's file.
    pub fn beside(mut self) -> ParamPlan {
        self.traits.saved = Saved::Beside;
        self
    }

    /// Written under these keys as well.
    pub fn copied_to(mut self, keys: Vec<String>) -> ParamPlan {
        self.copies = keys;
        self
    }

    /// Whole numbers: each row's lie below one of `axes`.
    pub fn places_below(mut self, axes: &[usize]) -> ParamPlan {
        self.below = axes.to_vec();
        self.stored(Stored::I32)
    }

    /// Handed to parts in `f32`.
    pub fn full_precision(mut self) -> ParamPlan {
        self.traits.full_precision = true;
        self
    }

    /// Held otherwise than as `F32`.
    pub fn stored(mut self, stored: Stored) -> ParamPlan {
        self.traits.stored = stored;
        self
    }

    /// Without weight decay.
    pub fn without_decay(mut self) -> ParamPlan {
        self.traits.decay = false;
        self
    }

    /// The first value, whose random numbers depend on `key` and the parameter's name.
    pub fn first_value(&self, key: RandomKey, base: &Base) -> Result<Tensor, EditError> {
        if let Init::Made(make) = &self.init {
            return make(base, key);
        }
        let value = self.init.value(&self.shape, key.named(&self.key), base);
        value.ok_or_else(|| EditError::NoTarget {
            field: "init",
            target: self.key.clone(),
            what: "weight",
            near: "the method planned for a weight the model lacks".into(),
        })
    }

    /// With a learning rate of its own.
    pub fn learning_rate_factor(mut self, factor: f64) -> ParamPlan {
        self.traits.learning_rate_factor = factor;
        self
    }
}

/// First values.
pub enum Init {
    /// All zero.
    Zeros,
    /// `U(-bound, bound)`.
    Uniform {
        /// Half the width.
        bound: f32,
    },
    /// `N(0, std²)`.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// The base weight of this tensor name.
    Base(String),
    /// All this number.
    Constant(f32),
    /// Whatever the method draws.
    Drawn(Box<dyn Fn(RandomKey) -> Tensor + Send + Sync>),
    /// Whatever the method computes, from the base's values perhaps; not before it is needed, so that a plan stays cheap.
    Computed(Box<dyn Fn(&Base) -> Tensor + Send + Sync>),
    /// The same for what needs random numbers (all parameters of an edit are given one key, so that several can be made of
    /// one draw) or can fail.
    Made(Box<dyn Fn(&Base, RandomKey) -> Result<Tensor, EditError> + Send + Sync>),
}

impl Init {
    /// The value, `f32`. Random numbers depend on `key` and position only.
    pub fn value(&self, shape: &[usize], key: RandomKey, base: &Base) -> Option<Tensor> {
        let draw = |f: &dyn Fn(u64) -> f32| {
            let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(f).collect();
            Tensor::from_slice(shape, &values)
        };
        match self {
            Init::Zeros => Some(Tensor::zeros(shape, hone_engine::DType::F32)),
            Init::Uniform { bound } => Some(draw(&|i| (2.0 * key.uniform(i) - 1.0) * bound)),
            Init::Normal { std } => Some(draw(&|i| key.normal(i) * std)),
            Init::Base(name) => base.weight(name).map(|w| w.to_f32()),
            Init::Constant(value) => Some(Tensor::full(shape, hone_engine::DType::F32, *value)),
            Init::Drawn(draw) => Some(draw(key)),
            Init::Computed(make) => Some(make(base)),
            Init::Made(make) => make(base, key).ok(),
        }
    }
}

/// A trained value.
#[derive(Clone)]
pub struct Param {
    /// Its key in `adapter_model.safetensors`.
    pub key: String,
    /// The master, `f32`.
    pub value: Tensor,
    /// Keys under which the file holds it again.
    pub copies: Vec<String>,
    /// What it is.
    pub traits: ParamTraits,
    /// Left out of the current step: no gradient is computed (LISA).
    pub resting: bool,
}

impl Param {
    /// Whether it cannot be made again from the configuration.
    pub fn is_kept(&self) -> bool {
        self.traits.role == Role::Trained || self.traits.saved != Saved::No
    }
}
