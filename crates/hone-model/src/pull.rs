//! Models by name.
//!
//! [`resolve`] takes a path as it is, finds a name in the cache, and fetches what is not there: first from the hub
//! ([`hub`]), then, for the models of [`known`], as packages by the machine's own package client ([`packages`]). One tiny
//! model is compiled in ([`embedded`]), so that there always is one.
//!
//! The cache is `$HONE_CACHE` or `~/.cache/hone`, its models under `models/`; what comes from the hub stays in Hugging
//! Face's own cache, which other programs share. Nothing half-fetched is ever found: files and directories get their
//! names when they are whole and their hash is right.

use std::path::{Path, PathBuf};

use crate::error::ModelError;

mod embedded;
mod hub;
mod packages;

pub use packages::Packages;

/// What is being done, for a progress bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// `model.safetensors`, `package 2 of 4` …
    pub what: String,
    /// Bytes here.
    pub bytes: u64,
    /// Bytes in all, where that is known.
    pub total: Option<u64>,
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        match (self.bytes, self.total) {
            (0, None) => f.write_str(&self.what),
            (done, None) => write!(f, "{}: {:.1} MB", self.what, megabytes(done)),
            (done, Some(total)) => write!(f, "{}: {:.1} of {:.1} MB", self.what, megabytes(done), megabytes(total)),
        }
    }
}

/// Where a data set of the hub (`organisation/name`, or an old one's `name`) lies in its cache; nothing is fetched.
pub fn cached_data_set(name: &str, revision: Option<&str>) -> Option<PathBuf> {
    let plain = |part: &str| hub::repository(&format!("any/{part}")).is_some();
    let is_name = hub::repository(name).is_some() || plain(name);
    is_name.then(|| hub::find_data_set(name, revision)).flatten()
}

/// A model that is known by a short name.
struct Known {
    name: &'static str,
    /// Repository on the hub.
    repository: Option<&'static str>,
    packages: Option<Packages>,
}

const KNOWN: [Known; 5] = [
    Known {
        name: "smollm2-135m-instruct",
        repository: Some("HuggingFaceTB/SmolLM2-135M-Instruct"),
        packages: Some(packages::SMOLLM2),
    },
    Known { name: "gemma-3-270m", repository: Some("google/gemma-3-270m"), packages: Some(packages::GEMMA3) },
    Known {
        name: "qwen2.5-coder-0.5b-instruct",
        repository: Some("Qwen/Qwen2.5-Coder-0.5B-Instruct"),
        packages: Some(packages::QWEN25_CODER),
    },
    Known {
        name: "qwen2.5-coder-1.5b-instruct",
        repository: Some("Qwen/Qwen2.5-Coder-1.5B-Instruct"),
        packages: Some(packages::QWEN25_CODER_1_5B),
    },
    Known { name: embedded::NAME, repository: None, packages: None },
];

/// The short names, in the order they are shown.
pub fn known() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|known| known.name)
}

/// A model in the cache.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedModel {
    /// The name to give.
    pub name: String,
    /// The directory or GGUF file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// Where fetched models are kept.
pub fn models_directory() -> Result<PathBuf, ModelError> {
    let cache = crate::files::cache_directory().ok_or_else(|| ModelError::Setting {
        field: "HONE_CACHE".to_owned(),
        found: "nothing, and no home directory".to_owned(),
        expected: "a directory to keep models in: set the environment variable HONE_CACHE".to_owned(),
    })?;
    Ok(cache.join("models"))
}

/// The path of a model that is here already: a path as it is, or a name from the cache. Touches no network.
pub fn find(reference: &str) -> Result<PathBuf, ModelError> {
    find_here(reference)?.ok_or_else(|| not_here(reference))
}

/// The path of a model, fetched if it is not here. `progress` is called as bytes arrive.
pub fn resolve(reference: &str, progress: &mut dyn FnMut(&Progress)) -> Result<PathBuf, ModelError> {
    if let Some(path) = find_here(reference)? {
        return Ok(path);
    }
    let known = by_name(reference);
    let Some(repository) = known.map_or(hub::repository(reference), |known| known.repository) else {
        return Err(not_here(reference));
    };
    let mut causes = Vec::new();
    match hub::fetch(repository, progress) {
        Ok(path) => return Ok(path),
        Err(cause) => causes.push(format!("the hub ({repository}): {cause}")),
    }
    if let Some(packages) = known.and_then(|known| known.packages.as_ref()) {
        match packages.fetch(&models_directory()?, &[], progress) {
            Ok(path) => return Ok(path),
            Err(packages::Failure::Here(error)) => return Err(error),
            Err(packages::Failure::There(cause)) => causes.push(format!("packages: {cause}")),
        }
    }
    Err(ModelError::OutOfReach { name: reference.to_owned(), causes })
}

/// Every model in the cache, by name.
pub fn cached() -> Result<Vec<CachedModel>, ModelError> {
    let directory = models_directory()?;
    let mut models = hub::cached();
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries.filter_map(Result::ok).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(ModelError::io(&directory)(e)),
    };
    for entry in entries {
        let (path, file) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let is_model = crate::files::is_gguf(&path) || path.join("config.json").is_file();
        if !is_model || file.starts_with('.') {
            continue;
        }
        let of_packages = KNOWN.iter().find(|known| known.packages.as_ref().is_some_and(|p| p.file == file));
        let name = of_packages.map_or_else(|| path.display().to_string(), |known| known.name.to_owned());
        let name = if file == embedded::NAME { file } else { name };
        models.push(CachedModel { name, bytes: size_of(&path), path });
    }
    models.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(models)
}

fn by_name(reference: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name.eq_ignore_ascii_case(reference))
}

fn find_here(reference: &str) -> Result<Option<PathBuf>, ModelError> {
    let path = Path::new(reference);
    // A path that may not be looked at is no name of the hub.
    if path.try_exists().map_err(ModelError::io(path))? {
        return Ok(Some(path.to_owned()));
    }
    let Some(known) = by_name(reference) else {
        return Ok(hub::repository(reference).and_then(hub::find));
    };
    if known.name == embedded::NAME {
        return embedded::write(&models_directory()?).map(Some);
    }
    if let Some(path) = known.repository.and_then(hub::find) {
        return Ok(Some(path));
    }
    let Some(packages) = &known.packages else { return Ok(None) };
    let path = models_directory()?.join(packages.file);
    Ok(path.is_file().then_some(path))
}

/// The error for a model that is neither a path nor in the cache.
fn not_here(reference: &str) -> ModelError {
    let next = if by_name(reference).is_some() {
        format!("it is not in the cache yet: run `hone pull {reference}`")
    } else if hub::repository(reference).is_some() {
        format!("there is no such path, and the hub's model is not in the cache: run `hone pull {reference}`")
    } else {
        let near = known().map(|name| (strsim::jaro_winkler(name, &reference.to_lowercase()), name));
        let near = near.filter(|(similar, _)| *similar > 0.8).max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = near.map_or(String::new(), |(_, name)| format!("did you mean `{name}`? "));
        let names: Vec<&str> = known().collect();
        format!(
            "{hint}a model is a Hugging Face directory, a GGUF file, `organisation/repository` of the hub, or one of {}",
            names.join(", ")
        )
    };
    ModelError::NoSuchModel { name: reference.to_owned(), next }
}

/// Bytes of a file, or of the files of a directory.
fn size_of(path: &Path) -> u64 {
    if let Ok(entries) = std::fs::read_dir(path) {
        return entries.filter_map(Result::ok).map(|entry| size_of(&entry.path())).sum();
    }
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_here_say_what_to_do() {
        let unknown = find("smolm2-135m-instuct").expect_err("misspelt").to_string();
        assert!(unknown.contains("did you mean `smollm2-135m-instruct`?"), "{unknown}");
        let repository = find("nobody/nothing-at-all").expect_err("not here").to_string();
        assert!(repository.contains("`hone pull nobody/nothing-at-all`"), "{repository}");
        let path = find("./runs/base/").expect_err("not here").to_string();
        assert!(path.contains("a Hugging Face directory"), "{path}");
        // Nothing is asked of the network for what cannot be a repository.
        assert!(matches!(resolve("no such thing", &mut |_| {}), Err(ModelError::NoSuchModel { .. })));
    }

    #[test]
    fn paths_are_taken_as_they_are() {
        let here = tempfile::tempdir().expect("a temporary directory");
        let text = here.path().to_str().expect("plain");
        assert_eq!(resolve(text, &mut |_| {}).expect("is there"), here.path());
    }

    #[test]
    fn progress_reads_well() {
        let say = |bytes, total| Progress { what: "model.safetensors".into(), bytes, total }.to_string();
        assert_eq!(say(0, None), "model.safetensors");
        assert_eq!(say(1_250_000, Some(98_000_000)), "model.safetensors: 1.2 of 98.0 MB");
    }
}
