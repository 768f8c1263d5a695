//! Where a run's numbers come from: hashes of the model, the data and the program, the seeds, the machine. With the resolved
//! recipe beside it, `provenance.json` is enough to make the run again.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use hone_edit::atomic;
use hone_model::Model;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::compatibility::{VersionSource, Versions};
use crate::error::TrainError;
use crate::machine::Machine;
use crate::prepare::PreparedData;
use crate::recipe::Recipe;

/// The file's name in a run.
pub const FILE: &str = "provenance.json";

/// What `provenance.json` says.
#[derive(Clone, Debug, Serialize)]
pub struct Provenance {
    /// This program's version.
    pub version: &'static str,
    /// SHA-256 of the program's file.
    pub binary_sha256: Option<String>,
    /// The command line.
    pub command: Vec<String>,
    /// The directory it was given in.
    pub directory: Option<String>,
    /// Seconds since 1970 when the run (or its latest continuation) started.
    pub started: u64,
    /// The model.
    pub model: hone_model::model::ModelSource,
    /// The old and the new version that are trained towards (`train.compatibility`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<&'static str, VersionSource>,
    /// Every data file with its SHA-256.
    pub data: Vec<DataFile>,
    /// SHA-256 of the tokenised data.
    pub data_sha256: String,
    /// SHA-256 of the resolved recipe.
    pub recipe_sha256: String,
    /// Seed of first values and dropout.
    pub seed: u64,
    /// Seed of the data's order.
    pub data_seed: u64,
    /// Steps that were done before this continuation; 0 for a fresh run.
    pub continued_from: usize,
    /// The machine.
    pub machine: Machine,
}

/// A data file.
#[derive(Clone, Debug, Serialize)]
pub struct DataFile {
    /// Where it is.
    pub path: String,
    /// SHA-256 of its contents.
    pub sha256: String,
}

impl Provenance {
    /// Of a run that starts now. `recipe` is the resolved one.
    pub fn new(
        recipe: &Recipe,
        model: &Model,
        data: &PreparedData,
        versions: Option<&Versions>,
        continued_from: usize,
    ) -> Result<Self, TrainError> {
        let file = |f: &hone_data::report::FileReport| DataFile {
            path: f.path.display().to_string(),
            sha256: f.sha256.clone(),
        };
        let named = |(name, source): (&'static str, Option<&VersionSource>)| Some((name, source?.clone()));
        Ok(Provenance {
            version: env!("CARGO_PKG_VERSION"),
            binary_sha256: std::env::current_exe().ok().and_then(|path| file_sha256(&path)),
            command: std::env::args().collect(),
            directory: std::env::current_dir().ok().map(|d| d.display().to_string()),
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            model: model.source.clone(),
            versions: versions.into_iter().flat_map(Versions::sources).filter_map(named).collect(),
            data: data.tokenised.report.files.iter().map(file).collect(),
            data_sha256: data.sha256.clone(),
            recipe_sha256: hex(Sha256::digest(recipe.to_yaml()?)),
            seed: recipe.train.seed,
            data_seed: recipe.data.seed,
            continued_from,
            machine: Machine::this(),
        })
    }

    /// Writes it into `run`.
    pub fn write(&self, run: &Path) -> Result<(), TrainError> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        Ok(atomic::write_file(&run.join(FILE), text.as_bytes())?)
    }
}

fn file_sha256(path: &Path) -> Option<String> {
    let mut file = std::fs::File::open(path).ok()?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hex(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}
