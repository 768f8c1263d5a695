//! Sites: named places in the forward pass. A weight's site is its Hugging Face module path
//! (`model.layers.3.self_attn.q_proj`); an activation's is a [`Site`], written `layers.3.resid_post`, `embed.out`.

/// An activation of the forward pass. Shapes are `[tokens, width]` unless said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Site {
    /// After the embedding (and its scaling): `embed.out`.
    EmbedOut,
    /// Inside decoder layer `layer`: `layers.3.attn.out`.
    Layer {
        /// Layer, from 0.
        layer: usize,
        /// Where in it.
        part: LayerPart,
    },
    /// After the final norm: `final_norm`.
    FinalNorm,
}

/// Where in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerPart {
    /// The residual stream entering the layer: `resid_pre`.
    ResidPre,
    /// What q, k and v read: the normed residual stream, `[tokens, hidden]`: `attn.in`.
    AttnIn,
    /// Queries after norm and rotation, `[tokens, query_heads * head_dim]`: `attn.q`.
    Query,
    /// Keys after norm and rotation, `[tokens, key_value_heads * head_dim]`: `attn.k`.
    Key,
    /// Values, like keys: `attn.v`.
    Value,
    /// What the heads read, before the output projection, `[tokens, query_heads * head_dim]`: `attn.head`
    /// (one head: `attn.head.5.out`).
    HeadOut,
    /// What attention adds to the residual stream: `attn.out`.
    AttnOut,
    /// The residual stream between attention and MLP: `resid_mid`.
    ResidMid,
    /// What gate and up read: the normed residual stream, `[tokens, hidden]`: `mlp.in`.
    MlpIn,
    /// The gated activation, `[tokens, intermediate]`: `mlp.act`.
    MlpAct,
    /// What the MLP adds to the residual stream: `mlp.out`.
    MlpOut,
    /// The residual stream leaving the layer: `resid_post`.
    ResidPost,
}

impl LayerPart {
    /// Every part with its name.
    pub const ALL: [(LayerPart, &'static str); 12] = [
        (LayerPart::ResidPre, "resid_pre"),
        (LayerPart::AttnIn, "attn.in"),
        (LayerPart::Query, "attn.q"),
        (LayerPart::Key, "attn.k"),
        (LayerPart::Value, "attn.v"),
        (LayerPart::HeadOut, "attn.head"),
        (LayerPart::AttnOut, "attn.out"),
        (LayerPart::ResidMid, "resid_mid"),
        (LayerPart::MlpIn, "mlp.in"),
        (LayerPart::MlpAct, "mlp.act"),
        (LayerPart::MlpOut, "mlp.out"),
        (LayerPart::ResidPost, "resid_post"),
    ];
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Site::EmbedOut => f.write_str("embed.out"),
            Site::FinalNorm => f.write_str("final_norm"),
            Site::Layer { layer, part } => {
                let name = LayerPart::ALL.iter().find(|(p, _)| p == part).map_or("", |(_, n)| n);
                write!(f, "layers.{layer}.{name}")
            }
        }
    }
}

impl std::str::FromStr for Site {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let unknown = || {
            let parts: Vec<_> = LayerPart::ALL.iter().map(|(_, n)| *n).collect();
            format!("unknown site `{s}`; sites are `embed.out`, `final_norm` and `layers.N.` with {}", parts.join(", "))
        };
        match s {
            "embed.out" => Ok(Site::EmbedOut),
            "final_norm" => Ok(Site::FinalNorm),
            _ => {
                let (layer, part) = s.strip_prefix("layers.").and_then(|r| r.split_once('.')).ok_or_else(unknown)?;
                let layer = layer.parse().map_err(|_| unknown())?;
                let (part, _) = LayerPart::ALL.into_iter().find(|(_, n)| *n == part).ok_or_else(unknown)?;
                Ok(Site::Layer { layer, part })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_site_reads_back_as_it_is_written() {
        let layers = LayerPart::ALL.map(|(part, _)| Site::Layer { layer: 7, part });
        for site in layers.into_iter().chain([Site::EmbedOut, Site::FinalNorm]) {
            assert_eq!(site.to_string().parse(), Ok(site));
        }
        assert!("layers.3.nonsense".parse::<Site>().is_err());
    }
}
