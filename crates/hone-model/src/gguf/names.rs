//! Names and layouts of tensors, GGUF's and Hugging Face's.
//!
//! Two things differ beyond names. The converter of `llama` files reorders the rows of the query and key maps, because
//! ggml's `llama` code rotates neighbouring pairs where Hugging Face rotates a head's first half with its second. And
//! Gemma's norms multiply by `1 + w`: Hugging Face stores `w`, GGUF `1 + w`.

/// Architectures whose tensors are known, by GGUF's name.
pub const ARCHITECTURES: [&str; 4] = ["llama", "qwen2", "qwen3", "gemma3"];

/// What is done to a tensor on its way from GGUF to Hugging Face's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The same in both.
    Same,
    /// Rows of each head in pairs `(0, half), (1, half + 1) …` in GGUF; first half, then second half here.
    RotaryRows,
    /// One more in GGUF than here.
    OneAdded,
}

const OUTER: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

const INNER: [(&str, &str); 10] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Norms around the MLP: `post_attention_layernorm` is the norm *before* the MLP in most families, and the norm after
/// attention in Gemma 3, which has both.
const NORMS: [(&str, &str); 1] = [("ffn_norm", "post_attention_layernorm")];
const NORMS_GEMMA3: [(&str, &str); 3] = [
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

fn inner(architecture: &str) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let norms: &'static [_] = if architecture == "gemma3" { &NORMS_GEMMA3 } else { &NORMS };
    INNER.iter().chain(norms)
}

/// GGUF's name to Hugging Face's; `None` for a tensor that Hugging Face's checkpoints do not have.
pub fn to_hf(architecture: &str, name: &str) -> Option<String> {
    let (module, kind) = split(name)?;
    if let Some((_, hf)) = OUTER.iter().find(|(gguf, _)| *gguf == module) {
        return Some(format!("{hf}.{kind}"));
    }
    let (layer, part) = module.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (_, hf) = inner(architecture).find(|(gguf, _)| *gguf == part)?;
    Some(format!("model.layers.{layer}.{hf}.{kind}"))
}

/// Hugging Face's name to GGUF's; `None` for a tensor that GGUF has no name for.
pub fn to_gguf(architecture: &str, name: &str) -> Option<String> {
    let (module, kind) = split(name)?;
    if let Some((gguf, _)) = OUTER.iter().find(|(_, hf)| *hf == module) {
        return Some(format!("{gguf}.{kind}"));
    }
    let (layer, part) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (gguf, _) = inner(architecture).find(|(_, hf)| *hf == part)?;
    Some(format!("blk.{layer}.{gguf}.{kind}"))
}

/// How the layouts of a tensor, given by GGUF's name, differ.
pub fn layout(architecture: &str, gguf_name: &str) -> Layout {
    match split(gguf_name) {
        Some((module, _)) if architecture == "llama" && rotated(module) => Layout::RotaryRows,
        Some((module, "weight")) if architecture == "gemma3" && module.ends_with("norm") => Layout::OneAdded,
        _ => Layout::Same,
    }
}

/// Whether the rows of a module are those of query heads (`Some(true)`) or key heads (`Some(false)`).
pub fn is_query(gguf_name: &str) -> bool {
    split(gguf_name).is_some_and(|(module, _)| module.ends_with(".attn_q"))
}

fn rotated(module: &str) -> bool {
    module.ends_with(".attn_q") || module.ends_with(".attn_k")
}

fn split(name: &str) -> Option<(&str, &'static str)> {
    let kinds = ["weight", "bias"];
    kinds.into_iter().find_map(|kind| Some((name.strip_suffix(kind)?.strip_suffix('.')?, kind)))
}

/// Row of GGUF's matrix that is row `row` of Hugging Face's, for heads `head_dim` rows tall.
pub fn gguf_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let (half, index) = (within / (head_dim / 2), within % (head_dim / 2));
    head * head_dim + index * 2 + half
}

/// Row of Hugging Face's matrix that is row `row` of GGUF's.
pub fn hf_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let (index, half) = (within / 2, within % 2);
    head * head_dim + half * (head_dim / 2) + index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for architecture in ARCHITECTURES {
            let outer = OUTER.iter().map(|(gguf, _)| format!("{gguf}.weight"));
            let inner = inner(architecture).map(|(gguf, _)| format!("blk.17.{gguf}.bias"));
            for name in outer.chain(inner) {
                let hf = to_hf(architecture, &name).expect("a known name");
                assert_eq!(to_gguf(architecture, &hf).as_deref(), Some(name.as_str()), "{architecture}: {hf}");
            }
        }
        assert_eq!(to_hf("llama", "blk.3.attn_q.weight").as_deref(), Some("model.layers.3.self_attn.q_proj.weight"));
        assert_eq!(to_hf("llama", "rope_freqs.weight"), None);
        assert_eq!(to_gguf("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"), None);
    }

    #[test]
    fn rows_go_there_and_back() {
        let rows: Vec<usize> = (0..16).map(|row| gguf_row(row, 8)).collect();
        assert_eq!(rows[..8], [0, 2, 4, 6, 1, 3, 5, 7]);
        assert!((0..16).all(|row| hf_row(gguf_row(row, 8), 8) == row));
    }

    #[test]
    fn only_llama_is_reordered_and_only_gemma_is_shifted() {
        assert_eq!(layout("llama", "blk.0.attn_k.bias"), Layout::RotaryRows);
        assert_eq!(layout("llama", "blk.0.attn_q_norm.weight"), Layout::Same);
        assert_eq!(layout("qwen2", "blk.0.attn_q.weight"), Layout::Same);
        assert_eq!(layout("gemma3", "output_norm.weight"), Layout::OneAdded);
        assert_eq!(layout("gemma3", "blk.0.attn_k_norm.weight"), Layout::OneAdded);
        assert_eq!(layout("gemma3", "blk.0.attn_k.weight"), Layout::Same);
    }
}
