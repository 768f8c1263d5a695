//! Adapter directories in Hugging Face PEFT's layout:
//!
//! - `adapter_config.json`: `peft_type` and the method's fields, keys sorted;
//! - `adapter_model.safetensors`: the parameters, `f32`;
//! - `hone.json`: what PEFT has no field for: the hash of the base model's weights and what they were rounded to while the edit was
//!   tuned, a method's fields of Hone's own, the ways to other adapters that the configuration names;
//! - `hone.safetensors`, for methods that have any: tensors that PEFT computes again each time it reads an adapter.
//!
//! Reading is strict: every tensor of the file is used (but a bias that PEFT writes and never uses), every parameter is found in its shape, every target is found in
//! the model, and the base is the one the edit was made for.

mod experts;
mod tensors;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use hone_engine::{DType, RandomKey, Tensor};
use hone_model::Model;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::atomic::{self, io_error};
use crate::base::{Base, UNROUNDED};
use crate::error::{EditError, OtherBase};
use crate::method::{Edit, Param, ParamPlan, Saved, Stored};
use crate::registry;
use crate::sparse::SparseDelta;
use crate::stack::EditStack;
pub use tensors::TensorFile;

/// The configuration's file name.
pub const CONFIG: &str = "adapter_config.json";
/// The parameters' file name.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// Our own file's name.
pub const OURS: &str = "hone.json";
/// The name of our own tensors' file.
pub const OUR_WEIGHTS: &str = "hone.safetensors";
/// The PEFT whose layout is followed; PEFT reads it to tell old layouts.
const PEFT_VERSION: &str = "0.21.2";
/// Longest `adapter_config.json` that is read.
const MAX_CONFIG: u64 = 16 << 20;

/// `hone.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ours {
    format: u32,
    method: String,
    base: String,
    base_sha256: String,
    /// [`Edit::base_quantize`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base_quantize: Option<String>,
    /// Fields of the method that PEFT has not.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    fields: Map<String, Value>,
    /// The directories that the configuration names in `adapters`, as seen from this one, by the same names. The configuration
    /// has them as PEFT finds them: from anywhere, but only while they stay where they are.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    adapters: Map<String, Value>,
}

/// Reads the edit in `dir` (an adapter directory, or a run's directory with an `adapter` in it) for `model`, as a stack of
/// one, frozen, at full strength.
pub fn load_edit(dir: &Path, model: &Model) -> Result<EditStack, EditError> {
    Ok(EditStack::of(read_edit(dir, &Base::of(model))?))
}

/// Reads the edit in `dir` for `base`.
pub fn read_edit(dir: &Path, base: &Base) -> Result<Edit, EditError> {
    read_beside(dir, base, |_, _| Ok(())).map(|(edit, ())| edit)
}

/// The same of an adapter that holds more than an edit: `take` has what is no method's out of the configuration and the
/// file, before they are read strictly.
pub(crate) fn read_beside<T>(
    dir: &Path,
    base: &Base,
    take: impl FnOnce(&mut Map<String, Value>, &mut TensorFile) -> Result<T, EditError>,
) -> Result<(Edit, T), EditError> {
    let dir = adapter_directory(dir);
    let mut warnings = Vec::new();
    let mut config = read_config(&dir.join(CONFIG))?;
    let ours = check_base(&dir, base, &mut warnings)?;
    config.extend(ours.fields);
    experts::find(&mut config, &dir, &ours.adapters);
    let mut file = TensorFile::read(&dir.join(WEIGHTS))?;
    let taken = take(&mut config, &mut file)?;
    let in_config = |error| in_config(dir.join(CONFIG), error);
    let method = registry::from_peft(&config, &mut warnings).map_err(in_config)?;
    let path = dir.join(OUR_WEIGHTS);
    let mut beside = path.exists().then(|| TensorFile::read(&path)).transpose()?;
    let mut edit = Edit::with_values(method, base, |plan| match (plan.traits.saved, &mut beside) {
        (Saved::Adapter, _) => file.take_checked(plan, base),
        (Saved::Beside, Some(beside)) => beside.take(plan),
        (Saved::Beside, None) | (Saved::No, _) => made_again(plan, base),
    })
    .map_err(in_config)?;
    file.all_used()?;
    beside.map_or(Ok(()), |beside| beside.all_used())?;
    edit.base_quantize = ours.base_quantize;
    warnings.extend(rounded_otherwise(&edit, base));
    edit.warnings.splice(0..0, warnings);
    Ok((edit, taken))
}

/// The error with the file where its cause stands, if that is the configuration and it does not say so.
fn in_config(path: PathBuf, error: EditError) -> EditError {
    match error {
        EditError::Field { .. }
        | EditError::Unsupported { .. }
        | EditError::Needs { .. }
        | EditError::NoTarget { .. }
        | EditError::NotRead { .. }
        | EditError::UnknownMethod { .. } => EditError::InConfig { path, source: Box::new(error) },
        other => other,
    }
}

/// A parameter that the files do not hold.
fn made_again(plan: &ParamPlan, base: &Base) -> Result<Tensor, EditError> {
    let value = plan.first_value(RandomKey::new(0).named("init"), base);
    // Of a base without numbers nothing follows but NaN, or an error that it cannot be decomposed.
    let usable = |value: &Tensor| value.as_slice::<f32>().iter().all(|v| v.is_finite());
    match value {
        Ok(value) if base.is_known() || usable(&value) => Ok(value),
        Err(error) if base.is_known() => Err(error),
        _ => Err(EditError::UnknownBase { place: plan.key.clone() }),
    }
}

/// What is to be said where the edit was tuned on a base that was rounded otherwise than this one.
fn rounded_otherwise(edit: &Edit, base: &Base) -> Option<String> {
    let tuned = edit.base_quantize.as_deref().filter(|tuned| base.is_known() && *tuned != base.quantize)?;
    let shown = |word: &str| match word {
        UNROUNDED => "as its files have it".to_string(),
        word => format!("in `{word}`"),
    };
    let give = match tuned {
        UNROUNDED => "without `--quantize`".to_string(),
        word => format!("with `--quantize {word}`"),
    };
    Some(format!(
        "it was tuned on its base {}, and this one is {}; {give} it runs as it was tuned",
        shown(tuned),
        shown(&base.quantize)
    ))
}

/// The base model that the adapter in `dir` names.
pub fn base_reference(dir: &Path) -> Result<String, EditError> {
    let path = adapter_directory(dir).join(CONFIG);
    match read_config(&path)?.get("base_model_name_or_path").and_then(Value::as_str) {
        Some(reference) if !reference.is_empty() => Ok(reference.to_string()),
        _ => Err(EditError::Malformed {
            path,
            place: "`base_model_name_or_path`".into(),
            found: "no name".into(),
            expected: "the base model; name it yourself".into(),
        }),
    }
}

/// Writes the edit to `dir`, whole or not at all.
pub fn save_edit(edit: &Edit, dir: &Path) -> Result<(), EditError> {
    let form = edit.method.saved_form(edit);
    let edit = form.as_ref().unwrap_or(edit);
    let own_field = |field: &&str| Some((field.to_string(), edit.config.get(*field)?.clone()));
    let own_fields = edit.method.own_fields().iter().filter_map(own_field).filter(|(_, value)| !value.is_null());
    let fields: Map<String, Value> = own_fields.collect();
    atomic::write_directory(dir, |dir| {
        write_params(&dir.join(WEIGHTS), &edit.params, Saved::Adapter)?;
        if edit.params.iter().any(|p| p.traits.saved == Saved::Beside) {
            write_params(&dir.join(OUR_WEIGHTS), &edit.params, Saved::Beside)?;
        }
        let ours = Ours {
            format: 1,
            method: edit.method.info().name.into(),
            base: edit.base_reference.clone(),
            base_sha256: edit.base_sha256.clone(),
            base_quantize: edit.base_quantize.clone(),
            fields,
            // The directory that is filled stands beside the one it becomes.
            adapters: experts::seen_from(dir, &edit.config),
        };
        write_json(&dir.join(OURS), &serde_json::to_value(ours).unwrap_or_default())?;
        write_json(&dir.join(CONFIG), &adapter_config(edit))
    })
}

/// `adapter_config.json` of an edit.
pub fn adapter_config(edit: &Edit) -> Value {
    let mut config = edit.config.clone();
    config.retain(|field, _| !edit.method.own_fields().contains(&field.as_str()));
    config.insert("peft_type".into(), json!(edit.method.info().peft_type));
    config.insert("base_model_name_or_path".into(), json!(edit.base_reference));
    config.insert("inference_mode".into(), json!(true));
    config.insert("revision".into(), Value::Null);
    config.insert("auto_mapping".into(), Value::Null);
    config.insert("peft_version".into(), json!(PEFT_VERSION));
    let sorted: BTreeMap<String, Value> = config.into_iter().collect();
    serde_json::to_value(sorted).unwrap_or_default()
}

/// Writes named tensors as safetensors with PyTorch's metadata.
pub fn write_tensors<'a>(path: &Path, tensors: impl Iterator<Item = (&'a str, &'a Tensor)>) -> Result<(), EditError> {
    let view = |(name, tensor): (&'a str, &'a Tensor)| {
        let dtype = match tensor.dtype() {
            DType::F32 => Dtype::F32,
            DType::BF16 => Dtype::BF16,
        };
        (name.to_string(), dtype, tensor.dims().to_vec(), tensor.as_bytes())
    };
    write_views(path, tensors.map(view).collect())
}

/// Writes those parameters of an edit that one of its files holds, as [`Stored`] says.
fn write_params(path: &Path, params: &[Param], held: Saved) -> Result<(), EditError> {
    let keys = |param: &Param| std::iter::once(&param.key).chain(&param.copies).cloned().collect::<Vec<String>>();
    let under_all_keys =
        |param: &Param| keys(param).into_iter().flat_map(|key| encoded(&key, param)).collect::<Vec<_>>();
    let encoded: Vec<Encoded> = params.iter().filter(|p| p.traits.saved == held).flat_map(under_all_keys).collect();
    write_views(path, encoded.iter().map(|(n, t, d, b)| (n.clone(), *t, d.clone(), b.as_slice())).collect())
}

/// A tensor as the file holds it: name, type, axes, bytes.
type Encoded = (String, Dtype, Vec<usize>, Vec<u8>);

/// `param` under `key`.
fn encoded(key: &str, param: &Param) -> Vec<Encoded> {
    let (values, dims) = (param.value.as_slice::<f32>(), param.value.dims().to_vec());
    let name = |suffix: &str| format!("{key}{suffix}");
    match param.traits.stored {
        Stored::F32 => vec![(name(""), Dtype::F32, dims, param.value.as_bytes().to_vec())],
        Stored::I32 => {
            let bytes = values.iter().flat_map(|v| (*v as i32).to_le_bytes()).collect();
            vec![(name(""), Dtype::I32, dims, bytes)]
        }
        Stored::I64 => {
            let bytes = values.iter().flat_map(|v| (*v as i64).to_le_bytes()).collect();
            vec![(name(""), Dtype::I64, dims, bytes)]
        }
        Stored::Flat { columns } => {
            let (rows, within) = values.split_at(values.len() / 2);
            let flat = rows.iter().zip(within).flat_map(|(row, column)| {
                (*row as usize * columns + *column as usize).to_le_bytes().into_iter().take(4)
            });
            vec![(name(""), Dtype::I32, vec![rows.len()], flat.collect())]
        }
        Stored::Bits { threshold } => {
            let bits = values.chunks(8).map(|eight| {
                let bit = |byte: u8, (at, v): (usize, &f32)| byte | (u8::from(*v > threshold) << (7 - at));
                eight.iter().enumerate().fold(0, bit)
            });
            vec![(name(""), Dtype::U8, vec![values.len().div_ceil(8)], bits.collect())]
        }
        Stored::Sparse => {
            let delta = SparseDelta::of(&param.value);
            let indices = delta.indices().iter().flat_map(|at| at.to_le_bytes()).collect();
            let kept = delta.values().iter().flat_map(|value| value.to_le_bytes()).collect();
            let dims = vec![delta.indices().len()];
            vec![(name(".indices"), Dtype::I32, dims.clone(), indices), (name(".values"), Dtype::F32, dims, kept)]
        }
    }
}

/// A list of numbers to be written.
#[derive(Clone, Copy, Debug)]
pub enum Slice<'a> {
    /// Numbers.
    F32(&'a [f32]),
    /// Codes of numbers.
    U8(&'a [u8]),
}

/// Writes named lists of numbers as safetensors.
pub fn write_slices<'a>(path: &Path, slices: impl Iterator<Item = (String, Slice<'a>)>) -> Result<(), EditError> {
    let view = |(name, slice): (String, Slice<'a>)| match slice {
        Slice::F32(values) => (name, Dtype::F32, vec![values.len()], bytemuck::cast_slice(values)),
        Slice::U8(codes) => (name, Dtype::U8, vec![codes.len()], codes),
    };
    write_views(path, slices.map(view).collect())
}

fn write_views(path: &Path, parts: Vec<(String, Dtype, Vec<usize>, &[u8])>) -> Result<(), EditError> {
    let failed = |e: safetensors::SafeTensorError| EditError::Io {
        path: path.to_path_buf(),
        source: match e {
            safetensors::SafeTensorError::IoError(e) => e,
            other => std::io::Error::other(other.to_string()),
        },
    };
    let mut views = Vec::with_capacity(parts.len());
    for (name, dtype, shape, bytes) in parts {
        views.push((name, TensorView::new(dtype, shape, bytes).map_err(failed)?));
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(views, Some(metadata), path).map_err(failed)
}

fn write_json(path: &Path, value: &Value) -> Result<(), EditError> {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    std::fs::write(path, text).map_err(io_error(path))
}

/// `dir`, or the `adapter` inside it when `dir` is a run.
pub(crate) fn adapter_directory(dir: &Path) -> PathBuf {
    let inner = dir.join("adapter");
    if !dir.join(CONFIG).exists() && inner.join(CONFIG).exists() { inner } else { dir.to_path_buf() }
}

/// SHA-256 over the files of the adapter in `dir` (or of the run `dir`): another one if anything in them is.
pub fn contents_sha256(dir: &Path) -> Result<String, EditError> {
    use sha2::{Digest, Sha256};
    let dir = adapter_directory(dir);
    let mut hash = Sha256::new();
    for name in [CONFIG, WEIGHTS, OURS, OUR_WEIGHTS] {
        let path = dir.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => {
                hash.update(format!("{name} {}\n", bytes.len()));
                hash.update(bytes);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(EditError::Io { path, source }),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(crate) fn read_config(path: &Path) -> Result<Map<String, Value>, EditError> {
    let length = std::fs::metadata(path).map_err(io_error(path))?.len();
    let malformed = |found: String| EditError::Malformed {
        path: path.to_path_buf(),
        place: "the whole file".into(),
        found,
        expected: "a JSON object with `peft_type` and the method's fields".into(),
    };
    if length > MAX_CONFIG {
        return Err(malformed(format!("{length} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(io_error(path))?;
    match serde_json::from_str(&text).map_err(|e| malformed(e.to_string()))? {
        Value::Object(map) => Ok(map),
        other => Err(malformed(format!("a JSON {}", kind(&other)))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// Whether the adapter in `dir` was made for `base`, by its `hone.json`, and what else stands there. A base of which no hash is known is
/// not checked.
pub(crate) fn check_base(dir: &Path, base: &Base, warnings: &mut Vec<String>) -> Result<Ours, EditError> {
    let path = dir.join(OURS);
    let text = match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            // Whoever says it aloud names the directory.
            let note =
                "there is no `hone.json` beside the adapter, so it is not known whether it was made for this base";
            warnings.push(note.into());
            return Ok(Ours::default());
        }
        other => other.map_err(io_error(&path))?,
    };
    let ours: Ours = serde_json::from_str(&text).map_err(|e| EditError::Malformed {
        path: path.clone(),
        place: "the whole file".into(),
        found: e.to_string(),
        expected: "what Hone wrote there; remove the file to load the adapter unchecked".into(),
    })?;
    if !base.sha256.is_empty() && ours.base_sha256 != base.sha256 {
        return Err(EditError::from(Box::new(OtherBase {
            path: dir.to_path_buf(),
            made_for: ours.base,
            expected: ours.base_sha256,
            found_name: base.reference.clone(),
            found: base.sha256.clone(),
        })));
    }
    Ok(ours)
}
