//! A decoder's tensors by name: to be listed, saved, or replaced (a merged edit).

use std::sync::Arc;

use hone_engine::{DType, Tensor, Weight, WeightRef};

use super::{Decoder, EMBED_TOKENS, LM_HEAD, Layer, Norm};
use crate::context::Linear;

/// A tensor of a decoder as it is kept.
#[derive(Clone, Copy)]
pub enum NamedWeight<'a> {
    /// `[out, in]`: a linear map, the embedding table, the LM head.
    Matrix(&'a WeightRef),
    /// A norm or a bias.
    Vector(&'a Tensor),
}

impl NamedWeight<'_> {
    /// The axes.
    pub fn dims(self) -> Vec<usize> {
        match self {
            NamedWeight::Matrix(WeightRef::Frozen(weight)) => vec![weight.out_features(), weight.in_features()],
            NamedWeight::Matrix(WeightRef::Trained(var)) => var.value.dims().to_vec(),
            NamedWeight::Vector(tensor) => tensor.dims().to_vec(),
        }
    }

    /// The numbers, expanded where they are kept in blocks.
    pub fn to_dense(self, dtype: DType) -> Tensor {
        match self {
            NamedWeight::Matrix(WeightRef::Frozen(weight)) => weight.to_dense(dtype),
            NamedWeight::Matrix(WeightRef::Trained(var)) => var.value.to_dtype(dtype),
            NamedWeight::Vector(tensor) => tensor.to_dtype(dtype),
        }
    }
}

impl Decoder {
    /// Every tensor under its Hugging Face name, in order of the forward pass.
    pub fn tensors(&self) -> Vec<(String, NamedWeight<'_>)> {
        let mut list = vec![(EMBED_TOKENS.to_owned(), NamedWeight::Matrix(&self.embed_tokens))];
        for layer in &self.layers {
            let norms = [
                Some(&layer.input_norm),
                layer.q_norm.as_ref(),
                layer.k_norm.as_ref(),
                layer.post_attention_norm.as_ref(),
                Some(&layer.mlp_norm),
                layer.post_mlp_norm.as_ref(),
            ];
            list.extend(norms.into_iter().flatten().map(|n| (n.name.clone(), NamedWeight::Vector(&n.weight))));
            for linear in [&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down] {
                list.push((format!("{}.weight", linear.name), NamedWeight::Matrix(&linear.weight)));
                let bias = linear.bias.as_ref();
                list.extend(bias.map(|b| (format!("{}.bias", linear.name), NamedWeight::Vector(b))));
            }
        }
        list.push((self.norm.name.clone(), NamedWeight::Vector(&self.norm.weight)));
        list.extend(self.lm_head.as_ref().map(|head| (LM_HEAD.to_owned(), NamedWeight::Matrix(head))));
        list
    }

    /// The same decoder with every tensor for which `replace` gives another in its place; the rest is shared. A tied LM
    /// head is offered as the embedding table under `lm_head.weight`, and untied if it is replaced.
    ///
    /// Panics on a replacement of another shape.
    pub fn replaced(&self, mut replace: impl FnMut(&str, NamedWeight<'_>) -> Option<Tensor>) -> Decoder {
        let mut vector = |name: &str, old: &Tensor| match replace(name, NamedWeight::Vector(old)) {
            Some(new) => {
                assert_eq!(new.dims(), old.dims(), "replacement of `{name}`");
                new.to_dtype(old.dtype())
            }
            None => old.clone(),
        };
        let mut layers: Vec<Layer> = self.layers.clone();
        for layer in &mut layers {
            let mut norm = |norm: &mut Norm| norm.weight = vector(&norm.name, &norm.weight);
            norm(&mut layer.input_norm);
            norm(&mut layer.mlp_norm);
            let optional =
                [&mut layer.q_norm, &mut layer.k_norm, &mut layer.post_attention_norm, &mut layer.post_mlp_norm];
            optional.into_iter().flatten().for_each(norm);
            for linear in linears_mut(layer) {
                let name = format!("{}.bias", linear.name);
                linear.bias = linear.bias.as_ref().map(|bias| vector(&name, bias));
            }
        }
        let norm = Norm { weight: vector(&self.norm.name, &self.norm.weight), name: self.norm.name.clone() };

        let mut matrix = |name: &str, old: &WeightRef| {
            let new = replace(name, NamedWeight::Matrix(old))?;
            assert_eq!(new.dims(), NamedWeight::Matrix(old).dims(), "replacement of `{name}`");
            Some(WeightRef::Frozen(Arc::new(Weight::dense(new))))
        };
        for linear in layers.iter_mut().flat_map(linears_mut) {
            if let Some(new) = matrix(&format!("{}.weight", linear.name), &linear.weight) {
                linear.weight = new;
            }
        }
        let embed_tokens = matrix(EMBED_TOKENS, &self.embed_tokens).unwrap_or_else(|| self.embed_tokens.clone());
        let head = matrix(LM_HEAD, self.lm_head.as_ref().unwrap_or(&embed_tokens));
        let lm_head = head.or_else(|| self.lm_head.clone());

        let mut spec = self.spec.clone();
        if spec.tie_word_embeddings && lm_head.is_some() {
            spec.tie_word_embeddings = false;
            spec.config["tie_word_embeddings"] = false.into();
        }
        Decoder { spec, embed_tokens, layers, norm, lm_head }
    }
}

fn linears_mut(layer: &mut Layer) -> [&mut Linear; 7] {
    let Layer { q, k, v, o, gate, up, down, .. } = layer;
    [q, k, v, o, gate, up, down]
}
