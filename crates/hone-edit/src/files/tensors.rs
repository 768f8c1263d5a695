//! A safetensors file whose tensors are taken one by one, each held against what was planned: type, shape, copies, places, bits.
//!
//! Nothing of a file is left unread: [`TensorFile::all_used`] names what is.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use hone_engine::{Element, Tensor, bf16};
use safetensors::tensor::{Dtype, SafeTensors, TensorInfo};

use crate::atomic::io_error;
use crate::base::Base;
use crate::error::EditError;
use crate::method::{Init, ParamPlan, Role, Stored};
use crate::sparse::SparseDelta;

/// A safetensors file whose tensors are taken one by one.
pub struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Where the tensors' bytes start.
    data: usize,
    index: HashMap<String, TensorInfo>,
    unused: BTreeSet<String>,
}

impl TensorFile {
    /// Reads the file and checks its header.
    pub fn read(path: &Path) -> Result<TensorFile, EditError> {
        let bytes = std::fs::read(path).map_err(io_error(path))?;
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| EditError::Malformed {
            path: path.to_path_buf(),
            place: "header".into(),
            found: e.to_string(),
            expected: "a whole safetensors file; copy or download it again".into(),
        })?;
        let index: HashMap<String, TensorInfo> = metadata.tensors().into_iter().map(|(n, i)| (n, i.clone())).collect();
        let unused = index.keys().cloned().collect();
        Ok(TensorFile { path: path.to_path_buf(), bytes, data: header + 8, index, unused })
    }

    /// The planned parameter, in `f32`.
    pub fn take(&mut self, plan: &ParamPlan) -> Result<Tensor, EditError> {
        if plan.traits.stored == Stored::Sparse {
            return self.sparse(&plan.key, &plan.shape);
        }
        let names = std::iter::once(&plan.key).chain(&plan.aliases);
        match names.into_iter().find(|name| self.unused.contains(*name)).cloned() {
            Some(name) => match plan.traits.stored {
                Stored::Bits { .. } => self.bits(&name, &plan.shape),
                Stored::Flat { columns } => self.flat(&name, &plan.shape, columns),
                _ => self.tensor(&name, &plan.shape),
            },
            None => Err(self.malformed(&plan.key, "no such tensor", format!("one of shape {:?}", plan.shape))),
        }
    }

    /// Whether there is a tensor `name`.
    pub fn has(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// The planned parameter. Copies of it in the same file must be equal to it, and what is a copy of the base's weight to
    /// that: nothing of the file is read and then left unused, but what PEFT itself never uses.
    pub(super) fn take_checked(&mut self, plan: &ParamPlan, base: &Base) -> Result<Tensor, EditError> {
        let value = self.take(plan)?;
        for key in &plan.copies {
            if self.unused.contains(key) && self.tensor(key, &plan.shape)?.as_bytes() != value.as_bytes() {
                let expected = format!("the same numbers as `{}`, whose copy it is", plan.key);
                return Err(self.malformed(key, "other numbers", expected));
            }
        }
        for key in &plan.unused {
            self.unused.remove(key);
        }
        for (row, below) in value.as_slice::<f32>().chunks(plan.shape.last().map_or(1, |n| *n).max(1)).zip(&plan.below)
        {
            if let Some(other) = row.iter().find(|place| **place < 0.0 || **place >= *below as f32) {
                let expected = format!("places from 0 to {}", below.saturating_sub(1));
                return Err(self.malformed(&plan.key, &other.to_string(), expected));
            }
        }
        if let (Init::Base(name), Role::Fixed) = (&plan.init, plan.traits.role)
            && base.weight(name).is_none_or(|own| own.is_known() && own.to_f32().as_bytes() != value.as_bytes())
        {
            let expected = format!("the numbers of the model's `{name}`, which the adapter was trained beside");
            return Err(self.malformed(&plan.key, "other numbers", expected));
        }
        Ok(value)
    }

    /// The axes of the tensor `name`, if there is one.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.index.get(name).map(|info| info.shape.as_slice())
    }

    /// The codes `name`, of which there must be `len`.
    pub fn codes(&mut self, name: &str, len: usize) -> Result<Vec<u8>, EditError> {
        let (dtype, bytes) = self.stored(name, &[len])?;
        if dtype != Dtype::U8 {
            return Err(self.malformed(name, &format!("type {dtype:?}"), "U8".into()));
        }
        let codes = bytes.to_vec();
        self.unused.remove(name);
        Ok(codes)
    }

    /// Type and bytes of the tensor `name`, which must have `shape`.
    fn stored(&self, name: &str, shape: &[usize]) -> Result<(Dtype, &[u8]), EditError> {
        let Some(info) = self.index.get(name) else {
            return Err(self.malformed(name, "no such tensor", format!("one of shape {shape:?}")));
        };
        if info.shape != shape {
            let expected = format!("{shape:?} by the configuration and the model");
            return Err(self.malformed(name, &format!("shape {:?}", info.shape), expected));
        }
        // The header was checked against the file's length when it was read.
        Ok((info.dtype, &self.bytes[self.data + info.data_offsets.0..self.data + info.data_offsets.1]))
    }

    /// The tensor `name`, which must have `shape`, in `f32`.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, EditError> {
        let (dtype, bytes) = self.stored(name, shape)?;
        let values: Vec<f32> = match dtype {
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::BF16 => bytes.chunks_exact(2).map(|b| Element::widen(bf16::from_le_bytes([b[0], b[1]]))).collect(),
            Dtype::I32 => bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f32).collect(),
            Dtype::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f32).collect(),
            Dtype::F16 => bytes.chunks_exact(2).map(|b| half_to_f32([b[0], b[1]])).collect(),
            other => return Err(self.malformed(name, &format!("type {other:?}"), "F32, F16 or BF16".into())),
        };
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let found = format!("{} at element {at}", values[at]);
            return Err(self.malformed(
                name,
                &found,
                "finite numbers; the file is damaged or the training diverged".into(),
            ));
        }
        self.unused.remove(name);
        Ok(Tensor::from_slice(shape, &values))
    }

    /// A tensor of `shape` that is 0 but where `NAME.indices` says.
    fn sparse(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, EditError> {
        let (indices, values) = (format!("{name}.indices"), format!("{name}.values"));
        let Some(info) = self.index.get(&indices).filter(|info| info.dtype == Dtype::I32 && info.shape.len() == 1)
        else {
            return Err(self.malformed(&indices, "no such list", "flat indices, as I32".into()));
        };
        let count = info.shape[0];
        let bytes = &self.bytes[self.data + info.data_offsets.0..self.data + info.data_offsets.1];
        let places: Vec<i32> = bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
        let kept = self.tensor(&values, &[count])?;
        let delta = SparseDelta::new(shape, &places, kept.as_slice()).map_err(|found| {
            let elements: usize = shape.iter().product();
            self.malformed(&indices, &found, format!("rising indices below {elements}"))
        })?;
        self.unused.remove(&indices);
        Ok(delta.to_dense())
    }

    /// Rows and columns, `shape` `[2, n]`, of the `n` flat places `name` in a matrix with so many columns.
    fn flat(&mut self, name: &str, shape: &[usize], columns: usize) -> Result<Tensor, EditError> {
        let (dtype, bytes) = self.stored(name, &shape[1..])?;
        if dtype != Dtype::I32 {
            return Err(self.malformed(name, &format!("type {dtype:?}"), "I32: flat places".into()));
        }
        let places: Vec<i64> = bytes.as_chunks().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect();
        let columns = columns as i64;
        // A place below 0 stays in a row below 0, which the check of rows refuses.
        let rows = places.iter().map(|place| place.div_euclid(columns) as f32);
        let within = places.iter().map(|place| place.rem_euclid(columns) as f32);
        let value = Tensor::from_slice(shape, &rows.chain(within).collect::<Vec<f32>>());
        self.unused.remove(name);
        Ok(value)
    }

    /// A tensor of `shape` whose elements are held as bits: 0 and 1.
    fn bits(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, EditError> {
        let elements: usize = shape.iter().product();
        let info = &self.index[name];
        if info.dtype != Dtype::U8 || info.shape != [elements.div_ceil(8)] {
            let (found, bytes) = (format!("{:?} of shape {:?}", info.dtype, info.shape), elements.div_ceil(8));
            return Err(self.malformed(name, &found, format!("U8 of shape [{bytes}]: a bit for each of {shape:?}")));
        }
        let bytes = &self.bytes[self.data + info.data_offsets.0..self.data + info.data_offsets.1];
        let values: Vec<f32> = (0..elements).map(|i| f32::from(bytes[i / 8] >> (7 - i % 8) & 1)).collect();
        self.unused.remove(name);
        Ok(Tensor::from_slice(shape, &values))
    }

    /// An error if a tensor was never taken.
    pub fn all_used(&self) -> Result<(), EditError> {
        if self.unused.is_empty() {
            return Ok(());
        }
        let shown: Vec<&str> = self.unused.iter().take(3).map(String::as_str).collect();
        let found = format!("{} tensors that have no place in this model: {} …", self.unused.len(), shown.join(", "));
        Err(self.malformed("tensors", &found, "only tensors that the configuration and the model call for".into()))
    }

    fn malformed(&self, place: &str, found: &str, expected: String) -> EditError {
        let (path, place, found) = (self.path.clone(), format!("`{place}`"), found.to_string());
        EditError::Malformed { path, place, found, expected }
    }
}

fn half_to_f32(bytes: [u8; 2]) -> f32 {
    half::f16::from_le_bytes(bytes).to_f32()
}
