//! A GGUF file (version 3) from pairs and tensors: the inverse of [`super::read`].

use std::io::{BufWriter, Write};
use std::path::Path;

use hone_engine::quant::BlockType;

use super::Value;
use crate::error::ModelError;

const ALIGNMENT: u64 = 32;

/// A tensor to be written.
pub(crate) struct OutTensor<'a> {
    /// GGUF's name.
    pub name: String,
    /// Outermost axis first.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub kind: BlockType,
    /// Its blocks, made when it is its turn.
    pub bytes: Box<dyn Fn() -> Result<Vec<u8>, ModelError> + 'a>,
}

/// Writes the file to `to`; errors name `path`.
pub(crate) fn write(
    to: &Path,
    path: &Path,
    pairs: &[(String, Value)],
    tensors: &[OutTensor],
) -> Result<(), ModelError> {
    let file = std::fs::File::create(to).map_err(ModelError::io(path))?;
    let mut out = Counted { inner: BufWriter::with_capacity(1 << 20, file), written: 0 };
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((pairs.len() as u64).to_le_bytes());
    for (key, value) in pairs {
        put_text(key, &mut header);
        header.extend((value.value_type() as u32).to_le_bytes());
        put_value(value, &mut header);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        put_text(&tensor.name, &mut header);
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|axis| header.extend((*axis as u64).to_le_bytes()));
        header.extend(tensor.kind.ggml_number().to_le_bytes());
        header.extend(offset.to_le_bytes());
        offset += (size(path, tensor)? as u64).next_multiple_of(ALIGNMENT);
    }
    let put = |out: &mut Counted, bytes: &[u8]| -> Result<(), ModelError> {
        out.put(bytes).and_then(|()| out.pad()).map_err(ModelError::io(path))
    };
    put(&mut out, &header)?;
    for tensor in tensors {
        let bytes = (tensor.bytes)()?;
        assert_eq!(bytes.len(), size(path, tensor)?, "`{}` has another size than announced", tensor.name);
        put(&mut out, &bytes)?;
    }
    out.inner.flush().map_err(ModelError::io(path))
}

/// Bytes of a tensor.
fn size(path: &Path, tensor: &OutTensor) -> Result<usize, ModelError> {
    let columns = tensor.shape.last().copied().unwrap_or(1);
    let rows: usize = tensor.shape.iter().rev().skip(1).product();
    let row = tensor.kind.row_bytes(columns).map_err(|e| {
        let expected = "rows of whole blocks; write this tensor in another type";
        ModelError::malformed(path, format!("tensor `{}`", tensor.name), e.to_string(), expected)
    })?;
    Ok(row * rows)
}

struct Counted {
    inner: BufWriter<std::fs::File>,
    written: u64,
}

impl Counted {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.written += bytes.len() as u64;
        self.inner.write_all(bytes)
    }

    fn pad(&mut self) -> std::io::Result<()> {
        let missing = self.written.next_multiple_of(ALIGNMENT) - self.written;
        self.put(&[0; ALIGNMENT as usize][..missing as usize])
    }
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::Text(text) => put_text(text, out),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Array(kind, values) => {
            out.extend((*kind as u32).to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| put_value(value, out));
        }
    }
}
