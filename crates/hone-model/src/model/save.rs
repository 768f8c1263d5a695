//! A model on its way out: a Hugging Face directory, or a GGUF file, from whatever it was loaded and with whatever was
//! merged into its decoder. Both appear whole or not at all.
//!
//! A directory has `config.json` (the one the model came with, its `dtype` corrected), `model.safetensors` (in shards
//! with an index beyond 5 GB), `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and, where there is
//! one, `chat_template.jinja`. A GGUF file has the same in its metadata; what GGUF has no place for is an error, see
//! [`crate::gguf`].

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use hone_engine::DType;
use hone_engine::quant::BlockType;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::Model;
use crate::atomic;
use crate::decoder::{Decoder, NamedWeight};
use crate::error::ModelError;
use crate::gguf::{self, names};

/// Bytes of a shard, as in transformers.
const SHARD: usize = 5_000_000_000;

/// How the matrices of a GGUF file are stored. Norms and biases are always F32. A matrix whose rows do not divide into
/// the type's blocks takes the nearest type that fits, as in llama.cpp: Q4_K (blocks of 256) falls back to Q5_0, and
/// what does not divide by 32 to F16. In the 4-bit types the embedding table and the head are Q8_0: they lose most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufType {
    /// Half precision.
    F16,
    /// Eight bits in blocks of 32.
    Q8_0,
    /// Four bits in blocks of 32.
    Q4_0,
    /// Four bits in blocks of 256 with scales of their own for groups of 32.
    Q4K,
}

impl GgufType {
    /// Every type.
    pub const ALL: [GgufType; 4] = [GgufType::F16, GgufType::Q8_0, GgufType::Q4_0, GgufType::Q4K];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            GgufType::F16 => "f16",
            GgufType::Q8_0 => "q8_0",
            GgufType::Q4_0 => "q4_0",
            GgufType::Q4K => "q4_k",
        }
    }

    /// llama.cpp's number for a file that is mostly of this type (`enum llama_ftype`).
    fn file_type(self) -> u32 {
        match self {
            GgufType::F16 => 1,
            GgufType::Q4_0 => 2,
            GgufType::Q8_0 => 7,
            GgufType::Q4K => 14,
        }
    }

    /// The blocks of a matrix with rows of `columns` numbers.
    fn blocks(self, name: &str, columns: usize) -> BlockType {
        let vocabulary = name.starts_with("token_embd") || name.starts_with("output.");
        let wanted: &[BlockType] = match self {
            GgufType::F16 => &[],
            GgufType::Q8_0 => &[BlockType::Q8_0],
            GgufType::Q4_0 | GgufType::Q4K if vocabulary => &[BlockType::Q8_0],
            GgufType::Q4_0 => &[BlockType::Q4_0],
            GgufType::Q4K => &[BlockType::Q4K, BlockType::Q5_0],
        };
        wanted.iter().copied().find(|kind| columns.is_multiple_of(kind.block_values())).unwrap_or(BlockType::F16)
    }
}

impl std::str::FromStr for GgufType {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let known = GgufType::ALL.map(GgufType::name);
        let found = GgufType::ALL.into_iter().find(|kind| kind.name() == s.to_lowercase());
        found.ok_or_else(|| format!("unknown GGUF type `{s}`, expected one of {}", known.join(", ")))
    }
}

impl Model {
    /// Writes a Hugging Face directory, the weights in `dtype`. `path` must not exist, or be an empty directory.
    pub fn save_hf(&self, path: &Path, dtype: DType) -> Result<(), ModelError> {
        self.save_shards(path, dtype, SHARD)
    }

    fn save_shards(&self, path: &Path, dtype: DType, shard: usize) -> Result<(), ModelError> {
        if std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) || path.is_file() {
            let expected = "no file and no directory with files in it; name another place, or remove it first";
            return Err(ModelError::malformed(path, "place to save to", "something there already", expected));
        }
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).map_err(ModelError::io(parent))?;
        let building = tempfile::Builder::new().prefix(".hone-").tempdir_in(parent).map_err(ModelError::io(parent))?;
        let at = building.path();
        let text = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
        atomic::write_file(&at.join("config.json"), text(&self.saved_config(dtype)).as_bytes())?;
        atomic::write_file(&at.join("generation_config.json"), text(&self.saved_generation_config()).as_bytes())?;
        atomic::write_file(&at.join("tokenizer.json"), self.tokenizer.to_json()?.as_bytes())?;
        atomic::write_file(&at.join("tokenizer_config.json"), text(&self.tokenizer.config).as_bytes())?;
        if let Some(template) = &self.template {
            atomic::write_file(&at.join("chat_template.jinja"), template.source.as_bytes())?;
            if let Some(tool_use) = &template.tool_use_source {
                let more = at.join("additional_chat_templates");
                std::fs::create_dir(&more).map_err(ModelError::io(path))?;
                atomic::write_file(&more.join("tool_use.jinja"), tool_use.as_bytes())?;
            }
        }
        save_weights(&self.decoder, at, dtype, shard)?;
        atomic::make_directory_readable(at).map_err(ModelError::io(path))?;
        std::fs::rename(building.keep(), path).map_err(ModelError::io(path))?;
        std::fs::File::open(parent).and_then(|directory| directory.sync_all()).map_err(ModelError::io(parent))
    }

    /// Writes a GGUF file.
    pub fn save_gguf(&self, path: &Path, kind: GgufType) -> Result<(), ModelError> {
        let decoder = &self.decoder;
        let metadata = gguf::config::to_metadata(path, &decoder.spec.config)?;
        let architecture = metadata.architecture;
        let mut pairs = metadata.pairs;
        pairs.push(("general.file_type".to_owned(), gguf::Value::U32(kind.file_type())));
        pairs.push(("general.quantization_version".to_owned(), gguf::Value::U32(2)));
        pairs.extend(gguf::tokens::to_metadata(&self.tokenizer, architecture, decoder.spec.vocab_size)?);
        if let Some(template) = &self.template {
            pairs.push(("tokenizer.chat_template".to_owned(), gguf::Value::Text(template.source.clone())));
            if let Some(tool_use) = &template.tool_use_source {
                let key = "tokenizer.chat_template.tool_use".to_owned();
                pairs.push((key, gguf::Value::Text(tool_use.clone())));
            }
        }
        let mut tensors = Vec::new();
        if let Some(divisors) = metadata.rope_freqs {
            tensors.push(gguf::write::OutTensor {
                name: "rope_freqs.weight".to_owned(),
                shape: vec![divisors.len()],
                kind: BlockType::F32,
                bytes: Box::new(move || Ok(divisors.iter().flat_map(|d| d.to_le_bytes()).collect())),
            });
        }
        for (name, weight) in decoder.tensors() {
            let Some(gguf_name) = names::to_gguf(architecture, &name) else {
                let expected = "a tensor that GGUF has a name for; save the model as a Hugging Face directory instead";
                return Err(ModelError::malformed(path, format!("tensor `{name}`"), "no name for it", expected));
            };
            tensors.push(out_tensor(path, architecture, gguf_name, weight, metadata.head_dim, kind));
        }
        atomic::write_with(path, |temporary| gguf::write::write(temporary, path, &pairs, &tensors))
    }

    /// The config the model came with, telling the type that is written.
    fn saved_config(&self, dtype: DType) -> Value {
        let mut config = self.decoder.spec.config.clone();
        let name = match dtype {
            DType::F32 => "float32",
            DType::BF16 => "bfloat16",
        };
        if let Some(fields) = config.as_object_mut() {
            fields.remove("quantization_config");
            // transformers 5 calls it `dtype`; a config keeps the name it has.
            let field = if fields.contains_key("dtype") { "dtype" } else { "torch_dtype" };
            fields.insert(field.to_owned(), json!(name));
            fields.insert("tie_word_embeddings".to_owned(), json!(self.decoder.lm_head.is_none()));
        }
        config
    }

    /// What the model came with, every end token named.
    fn saved_generation_config(&self) -> Value {
        let mut config = self.generation_config.clone().unwrap_or_else(|| json!({}));
        config["eos_token_id"] = json!(self.end_ids);
        for (name, id) in [("bos_token_id", self.tokenizer.bos_id), ("pad_token_id", self.tokenizer.pad_id)] {
            if let (Some(id), Value::Null) = (id, &config[name]) {
                config[name] = id.into();
            }
        }
        config
    }
}

/// A tensor for `safetensors`, expanded when it is written.
struct Lazy<'a> {
    weight: NamedWeight<'a>,
    shape: Vec<usize>,
    dtype: DType,
}

impl safetensors::View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            DType::F32 => Dtype::F32,
            DType::BF16 => Dtype::BF16,
        }
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.weight.to_dense(self.dtype).as_bytes().to_vec())
    }
    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

fn save_weights(decoder: &Decoder, at: &Path, dtype: DType, limit: usize) -> Result<(), ModelError> {
    let mut shards: Vec<Vec<(String, Lazy)>> = vec![Vec::new()];
    let mut filled = 0;
    let mut total = 0;
    for (name, weight) in decoder.tensors() {
        let lazy = Lazy { shape: weight.dims(), weight, dtype };
        let bytes = safetensors::View::data_len(&lazy);
        if filled > 0 && filled + bytes > limit {
            shards.push(Vec::new());
            filled = 0;
        }
        (filled, total) = (filled + bytes, total + bytes);
        if let Some(shard) = shards.last_mut() {
            shard.push((name, lazy));
        }
    }
    let count = shards.len();
    let mut weight_map = BTreeMap::new();
    for (index, shard) in shards.into_iter().enumerate() {
        let file = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        weight_map.extend(shard.iter().map(|(name, _)| (name.clone(), file.clone())));
        let path = at.join(file);
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        atomic::write_with(&path, |temporary| {
            safetensors::serialize_to_file(shard, Some(format), temporary).map_err(|e| match e {
                safetensors::SafeTensorError::IoError(source) => ModelError::io(&path)(source),
                other => ModelError::malformed(&path, "safetensors", other.to_string(), "a file that can be written"),
            })
        })?;
    }
    if count > 1 {
        let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        let text = serde_json::to_string_pretty(&index).unwrap_or_default() + "\n";
        atomic::write_file(&at.join("model.safetensors.index.json"), text.as_bytes())?;
    }
    Ok(())
}

/// A tensor in GGUF's layout: the rows of llama's query and key maps in pairs, Gemma's norms with one added.
fn out_tensor<'a>(
    path: &'a Path,
    architecture: &str,
    name: String,
    weight: NamedWeight<'a>,
    head_dim: usize,
    kind: GgufType,
) -> gguf::write::OutTensor<'a> {
    let shape = weight.dims();
    let columns = shape.last().copied().unwrap_or(1);
    let kind = if shape.len() == 1 { BlockType::F32 } else { kind.blocks(&name, columns) };
    let layout = names::layout(architecture, &name);
    let place = format!("tensor `{name}`");
    let row = if shape.len() == 1 { 1 } else { columns };
    let bytes = move || {
        let dense = weight.to_dense(DType::F32);
        let values = dense.as_slice::<f32>();
        let mut bytes = Vec::new();
        let outcome = match layout {
            names::Layout::Same => kind.quantise(values, &mut bytes),
            names::Layout::OneAdded => {
                let shifted: Vec<f32> = values.iter().map(|v| v + 1.0).collect();
                kind.quantise(&shifted, &mut bytes)
            }
            names::Layout::RotaryRows => (0..values.len() / row).try_for_each(|at| {
                let from = names::hf_row(at, head_dim) * row;
                kind.quantise(&values[from..from + row], &mut bytes)
            }),
        };
        outcome.map_err(|e| ModelError::malformed(path, place.as_str(), e.to_string(), "values that can be stored"))?;
        Ok(bytes)
    };
    gguf::write::OutTensor { name, shape, kind, bytes: Box::new(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LoadOptions;

    #[test]
    fn large_models_are_saved_in_shards() {
        let options = LoadOptions { dtype: DType::F32, keep_quantised: false };
        let model = Model::load("../../assets/stories260k", options).expect("loads");
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("sharded");
        model.save_shards(&path, DType::F32, 300_000).expect("saves");
        let index = crate::files::read_json(&path.join("model.safetensors.index.json")).expect("JSON").expect("there");
        assert_eq!(index["metadata"]["total_size"], 4 * 260_032);
        assert_eq!(index["weight_map"]["model.embed_tokens.weight"], "model-00001-of-00004.safetensors");
        let again = Model::load(path.to_str().expect("plain"), options).expect("loads");
        for ((name, old), (_, new)) in model.decoder.tensors().into_iter().zip(again.decoder.tensors()) {
            assert_eq!(old.to_dense(DType::F32).as_bytes(), new.to_dense(DType::F32).as_bytes(), "{name}");
        }
    }
}
