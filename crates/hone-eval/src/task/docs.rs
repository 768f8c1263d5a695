//! A split's examples, in order: a few thousand in memory, more in a file without a name, of which memory holds a place an
//! example. So evaluating a large task takes no more memory than a small one.
//!
//! What it does not know: how the rows were made; it gives back what was put in, to the letter.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use hone_data::example::SourceRef;
use serde_json::{Map, Value};

use super::data::Doc;
use crate::error::EvalError;

/// Examples that are kept in memory.
const IN_MEMORY: usize = 4096;

/// A split's examples.
#[derive(Default)]
pub struct Docs {
    /// The first ones, or all.
    memory: Vec<Doc>,
    /// The others.
    rest: Option<Rest>,
}

/// Examples in a file: columns, data file, row and line of each as JSON, one behind the other.
struct Rest {
    file: Mutex<BufWriter<File>>,
    /// Where each ends.
    ends: Vec<u64>,
    /// The data files that they are from.
    sources: Vec<Arc<Path>>,
}

impl Docs {
    /// Adds an example.
    ///
    /// # Errors
    /// No room for the file of the system's temporary directory.
    pub fn push(&mut self, doc: Doc) -> Result<(), EvalError> {
        if self.memory.len() < IN_MEMORY {
            self.memory.push(doc);
            return Ok(());
        }
        let failed = |source| EvalError::Io { path: std::env::temp_dir(), source };
        if self.rest.is_none() {
            let file = Mutex::new(BufWriter::new(tempfile::tempfile().map_err(failed)?));
            self.rest = Some(Rest { file, ends: Vec::new(), sources: Vec::new() });
        }
        let Some(rest) = &mut self.rest else { return Ok(()) };
        // Files are read one after the other, so it is the last one as a rule.
        let source = rest.sources.iter().rposition(|source| *source == doc.place.file).unwrap_or_else(|| {
            rest.sources.push(doc.place.file.clone());
            rest.sources.len() - 1
        });
        let all = (&doc.columns, source, doc.place.row, doc.place.line);
        let text = serde_json::to_vec(&all).map_err(|e| failed(e.into()))?;
        let file = rest.file.get_mut().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&text).map_err(failed)?;
        rest.ends.push(rest.ends.last().copied().unwrap_or(0) + text.len() as u64);
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.memory.len() + self.rest.as_ref().map_or(0, |rest| rest.ends.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// The first one.
    pub fn first(&self) -> Option<&Doc> {
        self.memory.first()
    }

    /// The example at a place; `None` beyond the last.
    ///
    /// # Errors
    /// The temporary file could not be read.
    pub fn get(&self, index: usize) -> Result<Option<Cow<'_, Doc>>, EvalError> {
        if let Some(doc) = self.memory.get(index) {
            return Ok(Some(Cow::Borrowed(doc)));
        }
        let place = index - self.memory.len().min(index);
        match self.rest.as_ref().filter(|rest| place < rest.ends.len()) {
            Some(rest) => rest.get(place).map(|doc| Some(Cow::Owned(doc))),
            None => Ok(None),
        }
    }

    /// All, one after the other.
    pub fn iter(&self) -> impl Iterator<Item = Result<Cow<'_, Doc>, EvalError>> {
        (0..self.len()).filter_map(|index| self.get(index).transpose())
    }
}

impl Rest {
    fn get(&self, place: usize) -> Result<Doc, EvalError> {
        let failed = |source| EvalError::Io { path: std::env::temp_dir(), source };
        let from = if place == 0 { 0 } else { self.ends[place - 1] };
        let mut text = vec![0; (self.ends[place] - from) as usize];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut read = || -> std::io::Result<()> {
            file.flush()?;
            let file = file.get_mut();
            file.seek(SeekFrom::Start(from))?;
            file.read_exact(&mut text)?;
            // What is added goes behind the last one.
            file.seek(SeekFrom::End(0)).map(drop)
        };
        read().map_err(failed)?;
        let (columns, source, row, line): (Map<String, Value>, usize, usize, Option<usize>) =
            serde_json::from_slice(&text).map_err(|e| failed(e.into()))?;
        Ok(Doc { columns, place: SourceRef { file: self.sources[source].clone(), row, line } })
    }
}

impl FromIterator<Doc> for Docs {
    /// In memory, however many there are.
    fn from_iter<T: IntoIterator<Item = Doc>>(docs: T) -> Docs {
        Docs { memory: docs.into_iter().collect(), rest: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_to_the_file_comes_back_as_it_was() {
        let doc = |i: usize| {
            let text = format!("{i} \u{1F980} \"quoted\"\n");
            let Value::Object(columns) = serde_json::json!({"z": text, "a": i, "list": [i, null, 0.5]}) else {
                panic!()
            };
            let file = if i < IN_MEMORY + 200 { "rows.jsonl" } else { "more.jsonl" };
            Doc { columns, place: SourceRef { file: Path::new(file).into(), row: i + 1, line: Some(2 * i) } }
        };
        let mut docs = Docs::default();
        for i in 0..IN_MEMORY + 300 {
            docs.push(doc(i)).unwrap();
            if i == IN_MEMORY + 100 {
                // Reading between two writes takes nothing from what follows.
                assert_eq!(*docs.get(IN_MEMORY + 7).unwrap().unwrap(), doc(IN_MEMORY + 7));
            }
        }
        assert_eq!(docs.len(), IN_MEMORY + 300);
        for i in [0, IN_MEMORY - 1, IN_MEMORY, IN_MEMORY + 1, IN_MEMORY + 299, IN_MEMORY + 3] {
            let found = docs.get(i).unwrap().unwrap();
            assert_eq!(*found, doc(i));
            assert_eq!(found.columns.keys().collect::<Vec<_>>(), ["z", "a", "list"], "in the row's order");
        }
        assert!(docs.get(docs.len()).unwrap().is_none());
        assert_eq!(docs.iter().count(), docs.len());
    }
}
