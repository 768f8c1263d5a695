//! The forward context: what stands between a model's code and the engine.
//!
//! Model code never multiplies by a weight itself: it asks the context for every linear map
//! ([`Context::linear`]), every other weight ([`Context::weight`]), and announces every activation ([`Context::at`]). The
//! context hands each to its [`Hooks`], where edits and probes live. So training, scoring, generating, probing and
//! patching run the same forward pass.
//!
//! The context knows nothing of particular edits.

use std::sync::{Arc, Mutex};

use hone_engine::ops::{self, Segment};
use hone_engine::{DType, RandomKey, Tape, Tensor, Var, WeightRef};

use crate::site::Site;

/// A linear map of the model: a weight `[out, in]` and its place.
#[derive(Clone)]
pub struct Linear {
    /// Hugging Face module path, `model.layers.3.self_attn.q_proj`.
    pub name: String,
    /// `[out, in]`.
    pub weight: WeightRef,
    /// `[out]`, in the compute type.
    pub bias: Option<Tensor>,
}

/// Edits and probes. Every method has the unedited model's behaviour as its default. Implementations use interior
/// mutability where they collect something.
pub trait Hooks: Send + Sync {
    /// The output of `linears`, which all read `x`: `q`, `k`, `v` together, `gate` and `up` together, others alone.
    /// `[tokens, in]` to one `[tokens, out]` each.
    fn linears(&self, cx: &Context, linears: &[&Linear], x: &Var) -> Vec<Var> {
        cx.base_linears(linears, x)
    }

    /// A weight that is no linear map's (norms, embeddings, the LM head, biases), by its Hugging Face tensor name
    /// (`model.norm.weight`). Return another [`WeightRef`] to replace it.
    fn weight(&self, cx: &Context, name: &str, base: &WeightRef) -> WeightRef {
        let _ = (cx, name);
        base.clone()
    }

    /// A small weight (norm, bias) as a value; see [`Hooks::weight`].
    fn vector(&self, cx: &Context, name: &str, base: &Tensor) -> Var {
        let _ = (cx, name);
        Var::constant(base.clone())
    }

    /// An activation passes `site`; what is returned goes on instead.
    fn at(&self, cx: &Context, site: Site, h: Var) -> Var {
        let _ = (cx, site);
        h
    }
}

/// The unedited model.
pub struct NoHooks;

impl Hooks for NoHooks {}

/// Tokens of a batch, flat and without padding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenBatch {
    /// Token ids, all sequences one after another.
    pub ids: Vec<u32>,
    /// Position of each token in its sequence (for rotary embedding); continues over parents.
    pub positions: Vec<u32>,
    /// Which tokens belong together.
    pub segments: Vec<Segment>,
}

impl TokenBatch {
    /// Independent sequences.
    pub fn from_sequences<S: AsRef<[u32]>>(sequences: &[S]) -> TokenBatch {
        let mut batch = TokenBatch::default();
        for sequence in sequences {
            batch.push(sequence.as_ref(), None);
        }
        batch
    }

    /// Adds a segment after `parent` (all of it and its parents), or on its own; returns its index.
    pub fn push(&mut self, ids: &[u32], parent: Option<usize>) -> usize {
        let from = parent.map_or(0, |p| {
            let segment = self.segments[p];
            segment.len as u32 + if segment.len == 0 { 0 } else { self.positions[segment.start] }
        });
        self.segments.push(Segment { start: self.ids.len(), len: ids.len(), parent });
        self.positions.extend((0..ids.len() as u32).map(|i| from + i));
        self.ids.extend_from_slice(ids);
        self.segments.len() - 1
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// Everything a forward pass carries. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// Records the pass, or does not.
    pub tape: Tape,
    /// Edits and probes.
    pub hooks: Arc<dyn Hooks>,
    /// Type activations are computed in.
    pub dtype: DType,
    /// Dropout and other training noise are on.
    pub training: bool,
    /// Names this step's random numbers.
    pub key: RandomKey,
    /// Recompute each block in backward instead of keeping its activations.
    pub recompute: bool,
    /// Keys and values of earlier tokens, when generating.
    pub cache: Option<Arc<Mutex<crate::cache::CacheStep>>>,
}

impl Context {
    /// A context for inference: nothing recorded, no noise.
    pub fn inference(hooks: Arc<dyn Hooks>, dtype: DType) -> Context {
        let key = RandomKey::new(0);
        Context { tape: Tape::off(), hooks, dtype, training: false, key, recompute: false, cache: None }
    }

    /// The same context on another tape (for recomputation).
    pub fn on_tape(&self, tape: &Tape) -> Context {
        Context { tape: tape.clone(), ..self.clone() }
    }

    /// One linear map, edits included.
    pub fn linear(&self, linear: &Linear, x: &Var) -> Var {
        self.hooks.linears(self, &[linear], x).swap_remove(0)
    }

    /// Linear maps of one input, edits included.
    pub fn linears<const N: usize>(&self, linears: [&Linear; N], x: &Var) -> [Var; N] {
        let out = self.hooks.linears(self, &linears, x);
        out.try_into().unwrap_or_else(|_| panic!("hooks returned another number of outputs than {N}"))
    }

    /// The linear maps without any edit: what hooks fall back on.
    pub fn base_linears(&self, linears: &[&Linear], x: &Var) -> Vec<Var> {
        let biases: Vec<Option<Var>> = linears.iter().map(|l| self.bias(l)).collect();
        let part = |(linear, bias): (&&'_ Linear, &'_ Option<Var>)| (linear.weight.clone(), bias.clone());
        let owned: Vec<(WeightRef, Option<Var>)> = linears.iter().zip(&biases).map(part).collect();
        let parts: Vec<_> = owned
            .iter()
            .map(|(weight, bias)| ops::linear::LinearPart { weight, bias: bias.as_ref(), terms: &[] })
            .collect();
        ops::linears(&self.tape, x, &parts)
    }

    /// The bias of a linear map, as hooks see it.
    pub fn bias(&self, linear: &Linear) -> Option<Var> {
        let bias = linear.bias.as_ref()?;
        Some(self.hooks.vector(self, &format!("{}.bias", linear.name), bias))
    }

    /// A matrix that is no linear map's (embedding table, LM head).
    pub fn weight(&self, name: &str, base: &WeightRef) -> WeightRef {
        self.hooks.weight(self, name, base)
    }

    /// A small weight (norm).
    pub fn vector(&self, name: &str, base: &Tensor) -> Var {
        self.hooks.vector(self, name, base)
    }

    /// Announces an activation.
    pub fn at(&self, site: Site, h: Var) -> Var {
        self.hooks.at(self, site, h)
    }
}
