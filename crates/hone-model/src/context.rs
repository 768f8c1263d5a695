//! The forward context: what stands between a model's code and the engine.
//!
//! Model code never multiplies by a weight itself: it asks the context for every linear map
//! ([`Context::linear`]), every other weight ([`Context::weight`]), and announces every activation ([`Context::at`]). The
//! context hands each to its [`Hooks`], where edits and probes live. So training, scoring, generating, probing and
//! patching run the same forward pass.
//!
//! The context knows nothing of particular edits.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
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

    /// Whether a pass of the unedited model over the same batch comes first; its hidden states are then
    /// [`Context::first_pass`].
    fn wants_first_pass(&self) -> bool {
        false
    }

    /// How many virtual tokens stand before every sequence (soft prompts, prefixes).
    fn virtual_tokens(&self) -> usize {
        0
    }

    /// Whose virtual tokens are the same.
    fn virtual_token_sharing(&self) -> Sharing {
        Sharing::All
    }

    /// The embeddings of the virtual tokens that the context's batch has as rows, `[virtual_rows, hidden]`, block by block;
    /// asked for where there are any. `None` stands for zeros (a prefix, whose keys and values are put in later).
    fn virtual_embeddings(&self, cx: &Context) -> Option<Var> {
        let _ = cx;
        None
    }
}

/// Whose virtual tokens are the same, from the cheapest to the dearest: what all share is computed once for a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sharing {
    /// All sequences'.
    #[default]
    All,
    /// Those of sequences of one group; where a batch says no groups, all.
    Group,
    /// None's: they depend on a sequence's own input ([`TokenBatch::inputs`]).
    Sequence,
}

/// The unedited model.
pub struct NoHooks;

impl Hooks for NoHooks {}

/// Tokens of a batch, flat and without padding.
///
/// While a forward pass runs, virtual tokens (see [`Hooks::virtual_tokens`]) are rows after those of all others, so rows
/// of real tokens keep their numbers; their segments stand first in the list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenBatch {
    /// Token ids, all sequences one after another. Virtual tokens have the id 0, which nothing reads.
    pub ids: Vec<u32>,
    /// Position of each token in its sequence (for rotary embedding); continues over parents and after virtual tokens.
    pub positions: Vec<u32>,
    /// Which tokens belong together.
    pub segments: Vec<Segment>,
    /// The group of each segment (a task, a user), for edits that differ by group. Empty: all are of group 0.
    pub groups: Vec<u32>,
    /// Rows at the end that are virtual tokens.
    pub virtual_rows: usize,
    /// The ids of what each sequence is the answer to: one list for each segment without a parent, in order. What is
    /// read here may tell nothing of the answer that is trained or scored, so it ends where that begins; a prompt that is
    /// read in pieces stands here whole. Empty: a sequence's own first segment, all of it.
    ///
    /// Behind virtual tokens: one for each block of them, where each sequence has its own.
    pub inputs: Vec<Vec<u32>>,
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

    /// The group of every row; virtual tokens have that of the first segment behind them.
    pub fn row_groups(&self) -> Vec<u32> {
        let mut rows = vec![0; self.len()];
        if !self.groups.is_empty() {
            for (segment, group) in self.segments.iter().zip(&self.groups) {
                rows[segment.start..segment.start + segment.len].fill(*group);
            }
        }
        rows
    }

    /// The rows of real tokens, and those of virtual ones.
    pub fn real_rows(&self) -> std::ops::Range<usize> {
        0..self.len() - self.virtual_rows
    }

    /// The segments that continue no other: one for each sequence (or for what several sequences begin with).
    fn roots(&self) -> impl Iterator<Item = (usize, &Segment)> {
        self.segments.iter().enumerate().filter(|(_, segment)| segment.parent.is_none())
    }

    /// [`TokenBatch::inputs`], written out.
    pub(crate) fn inputs_of_roots(&self) -> Vec<Vec<u32>> {
        let own = |(_, segment): (usize, &Segment)| self.ids[segment.start..segment.start + segment.len].to_vec();
        match self.inputs.is_empty() {
            true => self.roots().map(own).collect(),
            false => self.inputs.clone(),
        }
    }

    /// The same batch behind `count` virtual tokens: one block of them that all sequences share, or a block for each.
    pub(crate) fn behind_virtual_tokens(&self, count: usize, shared: bool) -> TokenBatch {
        let mut batch = self.clone();
        let blocks = if shared { 1 } else { self.roots().count() };
        batch.ids.extend(std::iter::repeat_n(0, blocks * count));
        batch.positions.iter_mut().for_each(|position| *position += count as u32);
        (0..blocks).for_each(|_| batch.positions.extend(0..count as u32));
        let block = |block: usize| Segment { start: self.len() + block * count, len: count, parent: None };
        batch.segments = (0..blocks).map(block).collect();
        let mut begun = 0;
        for segment in &self.segments {
            let parent = segment.parent.map_or_else(
                || {
                    begun += 1;
                    if shared { 0 } else { begun - 1 }
                },
                |parent| parent + blocks,
            );
            batch.segments.push(Segment { parent: Some(parent), ..*segment });
        }
        if !self.groups.is_empty() {
            let of_blocks = self.roots().take(blocks).map(|(root, _)| self.groups[root]);
            batch.groups = of_blocks.chain(self.groups.iter().copied()).collect();
        }
        batch.inputs = if shared { Vec::new() } else { self.inputs_of_roots() };
        batch.virtual_rows = blocks * count;
        batch
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// What one part of an edit leaves for another later in the same block of layers: an attention's input for what is added
/// to its output, say. Names are the parts' own.
pub type Notes = Rc<RefCell<HashMap<String, Var>>>;

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
    /// The batch that passes, virtual tokens included; the decoder puts it here.
    pub batch: Arc<TokenBatch>,
    /// See [`Notes`]. A recomputed block has its own.
    pub notes: Notes,
    /// Final-norm hidden states `[tokens, hidden]` of the unedited model over the batch's real tokens, where the hooks wanted
    /// them ([`Hooks::wants_first_pass`]); the decoder puts them here. No gradient flows into them.
    pub first_pass: Option<Var>,
    /// The first of the cache's layers that is this pass's: a first pass keeps keys and values of its own.
    pub cache_layer: usize,
    /// The share of the step's loss that this pass makes up (1 / micro-batches): the weight of penalties that are made
    /// of activations.
    pub loss_share: f32,
}

impl Context {
    /// A context for inference: nothing recorded, no noise.
    pub fn inference(hooks: Arc<dyn Hooks>, dtype: DType) -> Context {
        Context::new(Tape::off(), hooks, dtype)
    }

    /// A context on `tape`, without training noise, recomputation or cache.
    pub fn new(tape: Tape, hooks: Arc<dyn Hooks>, dtype: DType) -> Context {
        Context {
            tape,
            hooks,
            dtype,
            training: false,
            key: RandomKey::new(0),
            recompute: false,
            cache: None,
            batch: Arc::default(),
            notes: Notes::default(),
            first_pass: None,
            cache_layer: 0,
            loss_share: 1.0,
        }
    }

    /// The same context on another tape (for recomputation), with nothing noted yet.
    pub fn on_tape(&self, tape: &Tape) -> Context {
        Context { tape: tape.clone(), notes: Notes::default(), ..self.clone() }
    }

    /// The same context while `batch` passes.
    pub(crate) fn over(&self, batch: Arc<TokenBatch>) -> Context {
        Context { batch, notes: Notes::default(), ..self.clone() }
    }

    /// Leaves a value for a later part of the same block.
    pub fn note(&self, name: &str, value: Var) {
        self.notes.borrow_mut().insert(name.to_string(), value);
    }

    /// What was left under `name` in this block.
    pub fn noted(&self, name: &str) -> Option<Var> {
        self.notes.borrow().get(name).cloned()
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
