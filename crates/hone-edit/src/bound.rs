//! A stack of edits as a forward pass sees it: implements [`Hooks`].
//!
//! At a linear map, weights that replace the frozen one and low-rank terms go to the engine as *one* operation with the
//! map; only a method of another form wraps it. Replacements come first whatever their order on the stack.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use hone_engine::ops::linear::LinearPart;
use hone_engine::ops::{self, LowRank};
use hone_engine::{DType, Tensor, Var, WeightRef};
use hone_model::{Context, Hooks, Linear, Site};

use crate::method::{At, LinearEffect, Part, Place};
use crate::probe::Probe;
use crate::stack::EditStack;

/// Parts by place, with their values in the compute type.
pub(crate) struct Bound {
    linears: HashMap<String, Vec<BoundPart>>,
    weights: HashMap<String, Vec<BoundPart>>,
    activations: HashMap<Site, Vec<BoundPart>>,
    probes: Vec<Arc<dyn Probe>>,
}

struct BoundPart {
    name: String,
    part: Arc<dyn Part>,
    values: Vec<Var>,
    strength: f32,
    kept: OnceLock<WeightRef>,
}

impl BoundPart {
    fn at<'a>(&'a self, cx: &'a Context) -> At<'a> {
        At { cx, name: &self.name, values: &self.values, strength: self.strength, kept: &self.kept }
    }
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
            probes: stack.probes.clone(),
        };
        let mut values = stack.params().map(|(id, param)| (id, param.value.to_dtype(dtype)));
        for (index, entry) in stack.entries.iter().enumerate() {
            let var = |(id, value)| if entry.trained { Var::param(id, value) } else { Var::constant(value) };
            let values: Vec<Var> = values.by_ref().take(entry.edit.params.len()).map(var).collect();
            if !entry.enabled || entry.strength == 0.0 {
                continue;
            }
            for placed in &entry.edit.placed {
                bound.place(&placed.place).push(BoundPart {
                    name: format!("{index}/{}", placed.place),
                    part: placed.part.clone(),
                    values: placed.params.iter().map(|&p| values[p].clone()).collect(),
                    strength: entry.strength,
                    kept: OnceLock::new(),
                });
            }
        }
        for parts in bound.linears.values_mut() {
            parts.sort_by_key(|p| !p.part.replaces()); // stable: other parts keep their order
        }
        bound
    }

    fn place(&mut self, place: &Place) -> &mut Vec<BoundPart> {
        match place {
            Place::Linear(name) => self.linears.entry(name.clone()).or_default(),
            Place::Weight(name) => self.weights.entry(name.clone()).or_default(),
            Place::Activation(site) => self.activations.entry(*site).or_default(),
        }
    }

    fn parts(&self, linear: &Linear) -> &[BoundPart] {
        self.linears.get(&linear.name).map_or(&[], Vec::as_slice)
    }

    /// Everything `parts` do, if the engine can do it in one operation with the map.
    fn fuse(&self, cx: &Context, linear: &Linear, parts: &[BoundPart]) -> Option<Fused> {
        let mut fused = Fused { weight: linear.weight.clone(), bias: None, terms: Vec::new() };
        for part in parts {
            match part.part.on_linear(&part.at(cx), linear, &fused.weight) {
                LinearEffect::LowRank(term) => fused.terms.push(term),
                LinearEffect::Weight(weight) => fused.weight = weight,
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
        match top.part.on_linear(&top.at(cx), linear, &linear.weight) {
            LinearEffect::LowRank(term) => add_low_rank(cx, x, next(x), &term),
            LinearEffect::Around => top.part.around_linear(&top.at(cx), linear, x, &next),
            // Replacements are sorted below everything else, so one on top means only replacements, which fuse.
            LinearEffect::Weight(weight) => ops::linear(&cx.tape, x, &weight, cx.bias(linear).as_ref(), &[]),
        }
    }
}

/// `y + scale · drop(x) Aᵀ Bᵀ` outside the map's own operation.
fn add_low_rank(cx: &Context, x: &Var, y: Var, term: &LowRank) -> Var {
    let tape = &cx.tape;
    let x = term.dropout.map_or_else(|| x.clone(), |d| ops::dropout(tape, x, d));
    let inner = ops::linear(tape, &x, &WeightRef::Trained(term.a.clone()), None, &[]);
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
        let h = parts.iter().fold(h, |h, part| part.part.on_activation(&part.at(cx), h));
        self.probes.iter().for_each(|probe| probe.activation(cx, site, &h));
        h
    }
}
