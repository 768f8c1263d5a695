//! A stack of edits as a forward pass sees it: implements [`Hooks`].
//!
//! At a linear map, weights that replace the frozen one and low-rank terms go to the engine as *one* operation with the
//! map; only a method of another form wraps it. Replacements come first whatever their order on the stack.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};

use hone_engine::ops::linear::LinearPart;
use hone_engine::ops::{self, LowRank};
use hone_engine::{DType, ParamId, Tensor, Var, WeightRef};
use hone_model::{Context, Hooks, Linear, Sharing, Site};

use crate::method::{At, LinearEffect, Param, Part, Place, Role};
use crate::probe::Probe;
use crate::stack::EditStack;

/// Parts by place, with their values in the compute type.
pub(crate) struct Bound {
    linears: HashMap<String, Vec<BoundPart>>,
    weights: HashMap<String, Vec<BoundPart>>,
    activations: HashMap<Site, Vec<BoundPart>>,
    virtual_parts: Vec<BoundPart>,
    virtual_tokens: usize,
    wants_first_pass: bool,
    sharing: Sharing,
    probes: Vec<Arc<dyn Probe>>,
}

struct BoundPart {
    name: String,
    part: Arc<dyn Part>,
    values: Vec<Var>,
    strength: f32,
    kept: OnceLock<WeightRef>,
    kept_by_group: Mutex<HashMap<u32, Vec<Var>>>,
    /// The edit's virtual tokens among all.
    virtual_tokens: Range<usize>,
    all_virtual_tokens: usize,
    /// The groups whose rows the edit acts on; `None` is all.
    groups: Option<Arc<[u32]>>,
    /// The group of batches that do not say any.
    group: u32,
}

impl BoundPart {
    fn at<'a>(&'a self, cx: &'a Context) -> At<'a> {
        At {
            cx,
            name: &self.name,
            values: &self.values,
            strength: self.strength,
            kept: &self.kept,
            kept_by_group: &self.kept_by_group,
            virtual_tokens: (self.virtual_tokens.clone(), self.all_virtual_tokens),
            group: self.group,
        }
    }

    /// 1 for each row the part acts on, 0 for others; `None` where it acts on all.
    fn mask(&self, cx: &Context) -> Option<Var> {
        let groups = self.groups.as_ref()?;
        let rows = self.at(cx).row_groups();
        let mask: Vec<f32> = rows.iter().map(|row| f32::from(groups.contains(row))).collect();
        mask.contains(&0.0).then(|| Var::constant(Tensor::from_slice([mask.len()], &mask)))
    }
}

/// `below` where the mask is 0, `above` where it is 1: to the bit, so that a row's numbers do not depend on whether other rows of its
/// batch have another edit. (Rows are multiplied, so what is not finite in a row that is left out would show; nothing that is
/// computed here is.)
fn blend(cx: &Context, mask: &Var, below: &Var, above: &Var) -> Var {
    let others: Vec<f32> = mask.value.as_slice::<f32>().iter().map(|m| 1.0 - m).collect();
    let others = Var::constant(Tensor::from_slice([others.len()], &others));
    ops::add(&cx.tape, &ops::scale_rows(&cx.tape, below, &others), &ops::scale_rows(&cx.tape, above, mask))
}

/// What the engine does in one operation at a linear map.
struct Fused {
    weight: WeightRef,
    bias: Option<Var>,
    terms: Vec<LowRank>,
}

impl Fused {
    fn part(&self) -> LinearPart<'_> {
        LinearPart { weight: &self.weight, bias: self.bias.as_ref(), terms: &self.terms }
    }
}

impl Bound {
    pub(crate) fn new(stack: &EditStack, dtype: DType) -> Bound {
        let mut bound = Bound {
            linears: HashMap::new(),
            weights: HashMap::new(),
            activations: HashMap::new(),
            virtual_parts: Vec::new(),
            virtual_tokens: stack.virtual_tokens(),
            wants_first_pass: stack.entries.iter().any(|e| e.is_applied() && e.edit.method.wants_first_pass()),
            sharing: stack.virtual_token_sharing(),
            probes: stack.probes.clone(),
        };
        let mut params = stack.params();
        let mut first_virtual = 0;
        for (index, entry) in stack.entries.iter().enumerate() {
            let var = |(id, param): (ParamId, &Param)| {
                let value = param.value.to_dtype(if param.traits.full_precision { DType::F32 } else { dtype });
                let trained = entry.trained && param.traits.role == Role::Trained && !param.resting;
                if trained { Var::param(id, value) } else { Var::constant(value) }
            };
            let values: Vec<Var> = params.by_ref().take(entry.edit.params.len()).map(var).collect();
            if !entry.is_applied() {
                continue;
            }
            let virtual_tokens = first_virtual..first_virtual + entry.edit.method.virtual_tokens();
            first_virtual = virtual_tokens.end;
            for placed in &entry.edit.placed {
                let part = BoundPart {
                    name: format!("{index}/{}", placed.place),
                    part: placed.part.clone(),
                    values: placed.params.iter().map(|&p| values[p].clone()).collect(),
                    strength: entry.strength,
                    kept: OnceLock::new(),
                    kept_by_group: Mutex::default(),
                    virtual_tokens: virtual_tokens.clone(),
                    all_virtual_tokens: bound.virtual_tokens,
                    groups: entry.groups.as_deref().map(Arc::from),
                    group: stack.group,
                };
                bound.place(&placed.place).push(part);
            }
        }
        for parts in bound.linears.values_mut().chain(bound.weights.values_mut()) {
            parts.sort_by_key(|p| !p.part.replaces()); // stable: other parts keep their order
        }
        bound
    }

    fn place(&mut self, place: &Place) -> &mut Vec<BoundPart> {
        match place {
            Place::Linear(name) => self.linears.entry(name.clone()).or_default(),
            Place::Weight(name) => self.weights.entry(name.clone()).or_default(),
            Place::Activation(site) => self.activations.entry(*site).or_default(),
            Place::VirtualTokens => &mut self.virtual_parts,
        }
    }

    fn parts(&self, linear: &Linear) -> &[BoundPart] {
        self.linears.get(&linear.name).map_or(&[], Vec::as_slice)
    }

    /// Everything `parts` do, if the engine can do it in one operation with the map.
    fn fuse(&self, cx: &Context, linear: &Linear, parts: &[BoundPart]) -> Option<Fused> {
        let mut fused = Fused { weight: linear.weight.clone(), bias: None, terms: Vec::new() };
        for part in parts {
            if part.groups.is_some() {
                return None;
            }
            match part.part.on_linear(&part.at(cx), linear, &fused.weight) {
                LinearEffect::Fused { weight, terms } => {
                    fused.weight = weight.unwrap_or(fused.weight);
                    fused.terms.extend(terms);
                }
                LinearEffect::Around => return None,
            }
        }
        fused.bias = cx.bias(linear);
        Some(fused)
    }

    /// One map whose parts are not all of the fused kind: the topmost one that wraps is called with the rest below it.
    fn chain(&self, cx: &Context, linear: &Linear, parts: &[BoundPart], x: &Var) -> Var {
        if let Some(fused) = self.fuse(cx, linear, parts) {
            return ops::linear(&cx.tape, x, &fused.weight, fused.bias.as_ref(), &fused.terms);
        }
        let (top, below) = parts.split_last().expect("no part at all fuses");
        let next = |x: &Var| self.chain(cx, linear, below, x);
        let mask = top.mask(cx);
        let y = match top.part.on_linear(&top.at(cx), linear, &linear.weight) {
            LinearEffect::Around => top.part.around_linear(&top.at(cx), linear, x, &next),
            // Replacements are sorted below everything else, so one on top means that there are only replacements.
            LinearEffect::Fused { weight: Some(weight), terms } => {
                ops::linear(&cx.tape, x, &weight, cx.bias(linear).as_ref(), &terms)
            }
            LinearEffect::Fused { weight: None, terms } => {
                return terms.iter().fold(next(x), |y, term| add_low_rank(cx, x, y, term, mask.as_ref()));
            }
        };
        match mask {
            Some(mask) => blend(cx, &mask, &next(x), &y),
            None => y,
        }
    }
}

/// `y + scale · drop(x) Aᵀ Bᵀ` outside the map's own operation; with a mask, in the rows where it is 1.
fn add_low_rank(cx: &Context, x: &Var, y: Var, term: &LowRank, mask: Option<&Var>) -> Var {
    let tape = &cx.tape;
    let x = term.dropout.map_or_else(|| x.clone(), |d| ops::dropout(tape, x, d));
    let inner = ops::linear(tape, &x, &WeightRef::Trained(term.a.clone()), None, &[]);
    let inner = mask.map_or_else(|| inner.clone(), |mask| ops::scale_rows(tape, &inner, mask));
    let outer = ops::linear(tape, &inner, &WeightRef::Trained(term.b.clone()), None, &[]);
    ops::add_scaled(tape, &y, &outer, term.scale)
}

impl Hooks for Bound {
    fn linears(&self, cx: &Context, linears: &[&Linear], x: &Var) -> Vec<Var> {
        let fused: Option<Vec<Fused>> = linears.iter().map(|l| self.fuse(cx, l, self.parts(l))).collect();
        let outputs = match &fused {
            Some(fused) => {
                let parts: Vec<LinearPart> = fused.iter().map(Fused::part).collect();
                ops::linears(&cx.tape, x, &parts)
            }
            None => linears.iter().map(|l| self.chain(cx, l, self.parts(l), x)).collect(),
        };
        for probe in &self.probes {
            linears.iter().zip(&outputs).for_each(|(linear, y)| probe.linear(cx, linear, x, y));
        }
        outputs
    }

    fn weight(&self, cx: &Context, name: &str, base: &WeightRef) -> WeightRef {
        let parts = self.weights.get(name).map_or(&[][..], Vec::as_slice);
        parts.iter().fold(base.clone(), |weight, part| part.part.on_matrix(&part.at(cx), weight))
    }

    fn vector(&self, cx: &Context, name: &str, base: &Tensor) -> Var {
        let parts = self.weights.get(name).map_or(&[][..], Vec::as_slice);
        let value = Var::constant(base.clone());
        parts.iter().fold(value, |value, part| part.part.on_vector(&part.at(cx), value))
    }

    fn at(&self, cx: &Context, site: Site, h: Var) -> Var {
        let parts = self.activations.get(&site).map_or(&[][..], Vec::as_slice);
        let h = parts.iter().fold(h, |h, part| match part.mask(cx) {
            Some(mask) => blend(cx, &mask, &h, &part.part.on_activation(&part.at(cx), h.clone())),
            None => part.part.on_activation(&part.at(cx), h),
        });
        self.probes.iter().for_each(|probe| probe.activation(cx, site, &h));
        h
    }

    fn wants_first_pass(&self) -> bool {
        self.wants_first_pass
    }

    fn virtual_tokens(&self) -> usize {
        self.virtual_tokens
    }

    fn virtual_token_sharing(&self) -> Sharing {
        self.sharing
    }

    fn virtual_embeddings(&self, cx: &Context) -> Option<Var> {
        let made: Vec<(Range<usize>, Var)> = self
            .virtual_parts
            .iter()
            .filter_map(|part| Some((part.virtual_tokens.clone(), part.part.virtual_embeddings(&part.at(cx))?)))
            .map(|(range, rows)| (range, ops::convert(&cx.tape, &rows, cx.dtype)))
            .collect();
        let width = made.first()?.1.value.rows_cols().1;
        let zeros = |rows: usize| Var::constant(Tensor::zeros([rows, width], cx.dtype));
        let mut parts = Vec::new();
        for block in 0..cx.batch.virtual_rows / self.virtual_tokens {
            let mut rows = 0;
            for (range, embeddings) in &made {
                if range.start > rows {
                    parts.push(zeros(range.start - rows));
                }
                rows = range.end;
                let own = embeddings.value.rows_cols().0 > range.len();
                let first = block * range.len();
                parts.push(match own {
                    true => ops::rows(&cx.tape, embeddings, first..first + range.len()),
                    false => embeddings.clone(),
                });
            }
            if self.virtual_tokens > rows {
                parts.push(zeros(self.virtual_tokens - rows));
            }
        }
        Some(ops::concat_rows(&cx.tape, &parts))
    }
}
