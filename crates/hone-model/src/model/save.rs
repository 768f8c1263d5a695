//! A model written back as a Hugging Face directory, from whatever it was loaded and with whatever was merged into it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use hone_engine::DType;
use safetensors::tensor::{SafeTensorError, View};
use serde_json::{Value, json};

use super::Model;
use crate::atomic;
use crate::decoder::NamedWeight;
use crate::error::ModelError;

impl Model {
    /// Writes `config.json`, `model.safetensors` (in `dtype`), the tokenizer, the chat template and
    /// `generation_config.json` into `directory`, which is made if it is not there. Each file is there whole or not at
    /// all; the weights come last, so a directory that was cut short is refused when it is loaded.
    pub fn save_hf(&self, directory: &Path, dtype: DType) -> Result<(), ModelError> {
        std::fs::create_dir_all(directory).map_err(ModelError::io(directory))?;
        let write_json = |name: &str, value: &Value| {
            let text = serde_json::to_string_pretty(value).map_err(|e| not_writable(directory, name, e.to_string()))?;
            atomic::write_file(&directory.join(name), text.as_bytes())
        };
        write_json("config.json", &self.saved_config(dtype))?;
        write_json("generation_config.json", &self.saved_generation_config())?;
        write_json("tokenizer_config.json", &self.tokenizer.config)?;
        atomic::write_file(&directory.join("tokenizer.json"), self.tokenizer.to_json()?.as_bytes())?;
        if let Some(template) = &self.template {
            atomic::write_file(&directory.join("chat_template.jinja"), template.source.as_bytes())?;
        }

        let path = directory.join("model.safetensors");
        let tensors = self.decoder.tensors().into_iter().map(|(name, weight)| {
            let shape = weight.dims();
            (name, Stored { weight, shape, dtype })
        });
        // transformers asks for this mark of who may read the file.
        let mark = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        atomic::write_with(&path, |temporary| {
            safetensors::serialize_to_file(tensors, Some(mark), temporary).map_err(|e| match e {
                SafeTensorError::IoError(source) => ModelError::Io { path: path.clone(), source },
                other => not_writable(directory, "model.safetensors", other.to_string()),
            })
        })
    }

    /// The config the model came with, its type set to the one the weights are written in.
    fn saved_config(&self, dtype: DType) -> Value {
        let name = match dtype {
            DType::F32 => "float32",
            DType::BF16 => "bfloat16",
        };
        let mut config = self.decoder.spec.config.clone();
        // Both names of the field: transformers before 5 and since.
        config["torch_dtype"] = name.into();
        config["dtype"] = name.into();
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

fn not_writable(directory: &Path, name: &str, reason: String) -> ModelError {
    ModelError::malformed(&directory.join(name), "contents", reason, "contents that can be written")
}

/// A tensor on its way into a file; its numbers are made when their turn comes.
struct Stored<'a> {
    weight: NamedWeight<'a>,
    shape: Vec<usize>,
    dtype: DType,
}

impl View for Stored<'_> {
    fn dtype(&self) -> safetensors::Dtype {
        match self.dtype {
            DType::F32 => safetensors::Dtype::F32,
            DType::BF16 => safetensors::Dtype::BF16,
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
