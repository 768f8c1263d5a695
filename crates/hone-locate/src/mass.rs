//! Maps of attention: shares by layer and head, of one part of a prompt or of all.

use std::collections::BTreeMap;

use hone_eval::statistics::mean;
use serde::{Deserialize, Serialize};

use crate::prompt::Part;

/// Shares of attention by layer and head.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttentionMass {
    /// Layers.
    pub layers: usize,
    /// Query heads of each.
    pub heads: usize,
    /// `[layers, heads]`, layer by layer: means over the examples, 0 to 1.
    pub mass: Vec<f64>,
    /// Examples.
    pub n: usize,
    /// `[n]` of `[layers, heads]`; empty where they are not kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub per_example: Vec<Vec<f64>>,
}

impl AttentionMass {
    /// The map of examples, each `[layers, heads]`; they are kept to seven decimals.
    ///
    /// Panics on examples of another size.
    pub fn new(layers: usize, heads: usize, per_example: Vec<Vec<f64>>) -> AttentionMass {
        let rounded = |value: f64| (value * 1e7).round() / 1e7;
        let n = per_example.len();
        let mut mass = vec![0.0; layers * heads];
        for example in &per_example {
            assert_eq!(example.len(), mass.len(), "an example of another size than {layers} layers by {heads} heads");
            mass.iter_mut().zip(example).for_each(|(sum, value)| *sum += value / n as f64);
        }
        let per_example = per_example.into_iter().map(|e| e.into_iter().map(rounded).collect()).collect();
        AttentionMass { layers, heads, mass: mass.into_iter().map(rounded).collect(), n, per_example }
    }

    /// One layer and head.
    pub fn at(&self, layer: usize, head: usize) -> f64 {
        self.mass[layer * self.heads + head]
    }

    /// Each layer's mean over its heads.
    pub fn by_layer(&self) -> Vec<f64> {
        self.mass.chunks_exact(self.heads.max(1)).map(mean).collect()
    }

    /// The mean over all heads.
    pub fn overall(&self) -> f64 {
        mean(&self.mass)
    }

    /// The `count` heads with the most: layer, head, share; those of lower layers first where equal.
    pub fn top(&self, count: usize) -> Vec<(usize, usize, f64)> {
        let mut all: Vec<(usize, usize, f64)> =
            self.mass.iter().enumerate().map(|(at, mass)| (at / self.heads, at % self.heads, *mass)).collect();
        all.sort_by(|a, b| b.2.total_cmp(&a.2));
        all.truncate(count);
        all
    }

    /// An example's mean over all heads.
    pub(crate) fn of_example(&self, example: usize) -> f64 {
        mean(&self.per_example[example])
    }
}

/// What one kind of row looks at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Looks {
    /// By part of the sequence.
    pub parts: BTreeMap<Part, AttentionMass>,
    /// The piece of the context that says the answer; not there if no example has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<AttentionMass>,
    /// Virtual tokens of an edit, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_tokens: Option<AttentionMass>,
}

impl Looks {
    /// A part's map.
    pub fn part(&self, part: Part) -> &AttentionMass {
        static NOTHING: AttentionMass =
            AttentionMass { layers: 0, heads: 0, mass: Vec::new(), n: 0, per_example: Vec::new() };
        self.parts.get(&part).unwrap_or(&NOTHING)
    }

    /// Forgets examples where no comparison needs them.
    pub(crate) fn slim(&mut self) {
        let others = self.parts.iter_mut().filter(|(part, _)| **part != Part::Context).map(|(_, mass)| mass);
        others.chain(&mut self.virtual_tokens).for_each(|mass| mass.per_example = Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_the_mean_of_its_examples() {
        let mass = AttentionMass::new(2, 2, vec![vec![0.1, 0.3, 0.5, 0.7], vec![0.3, 0.3, 0.1, 0.9]]);
        assert_eq!((mass.mass.as_slice(), mass.n), ([0.2, 0.3, 0.3, 0.8].as_slice(), 2));
        assert_eq!(mass.by_layer(), [0.25, 0.55]);
        assert_eq!(mass.top(3), [(1, 1, 0.8), (0, 1, 0.3), (1, 0, 0.3)]);
        assert!((mass.overall() - 0.4).abs() < 1e-12);
    }
}
