//! What weights these are: the SHA-256 of a model's weight files, which edits and scorecards record.
//!
//! Of one file it is what `sha256sum` prints; of several, the SHA-256 of what `sha256sum` prints for all of them, in order
//! of the shards. Reading gigabytes at every start would cost more than loading them, so a file's hash is kept in the
//! cache under its path, size and time of change.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::atomic;
use crate::error::ModelError;
use crate::files::cache_directory;

/// A hash that was computed, and of what.
#[derive(PartialEq, Serialize, Deserialize)]
struct Known {
    path: PathBuf,
    size: u64,
    changed_ns: u128,
    sha256: String,
}

/// The hash of a model's weight files, in hexadecimal.
pub(super) fn fingerprint(files: &[PathBuf]) -> Result<String, ModelError> {
    fingerprint_with(files, cache_directory().as_deref())
}

fn fingerprint_with(files: &[PathBuf], cache: Option<&Path>) -> Result<String, ModelError> {
    if let [file] = files {
        return file_hash(file, cache);
    }
    let mut lines = String::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        lines += &format!("{}  {name}\n", file_hash(file, cache)?);
    }
    Ok(hexadecimal(&Sha256::digest(lines.as_bytes())))
}

fn file_hash(file: &Path, cache: Option<&Path>) -> Result<String, ModelError> {
    let path = file.canonicalize().map_err(ModelError::io(file))?;
    let metadata = path.metadata().map_err(ModelError::io(file))?;
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let place = cache.map(|cache| {
        let name = hexadecimal(&Sha256::digest(path.to_string_lossy().as_bytes()));
        cache.join("fingerprints").join(format!("{}.json", &name[..32]))
    });
    // A file system without times of change has nothing to tell a changed file by.
    let (Some(changed), Some(place)) = (changed, place) else { return read_hash(&path) };
    let known: Option<Known> = std::fs::read(&place).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let changed_ns = changed.as_nanos();
    if let Some(known) = known
        && (&known.path, known.size, known.changed_ns) == (&path, metadata.len(), changed_ns)
    {
        return Ok(known.sha256);
    }
    let sha256 = read_hash(&path)?;
    let known = Known { path, size: metadata.len(), changed_ns, sha256: sha256.clone() };
    remember(&place, &known);
    Ok(sha256)
}

/// A cache that cannot be written (read-only, full) costs the next start its time, and nothing else.
fn remember(place: &Path, known: &Known) {
    let Ok(text) = serde_json::to_vec(known) else { return };
    if let Some(parent) = place.parent()
        && std::fs::create_dir_all(parent).is_ok()
    {
        let _ = atomic::write_file(place, &text);
    }
}

fn read_hash(path: &Path) -> Result<String, ModelError> {
    let mut file = File::open(path).map_err(ModelError::io(path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(ModelError::io(path))? {
            0 => return Ok(hexadecimal(&hasher.finalize())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn one_file_has_its_own_hash_and_several_the_hash_of_theirs() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        std::fs::write(file("a"), "abc").unwrap();
        std::fs::write(file("b"), "abc").unwrap();
        assert_eq!(fingerprint_with(&[file("a")], None).unwrap(), OF_ABC);
        let listing = format!("{OF_ABC}  a\n{OF_ABC}  b\n");
        let both = fingerprint_with(&[file("a"), file("b")], None).unwrap();
        assert_eq!(both, hexadecimal(&Sha256::digest(listing)));
        assert!(fingerprint_with(&[file("none")], None).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn a_known_hash_is_used_until_the_file_changes() {
        let directory = tempfile::tempdir().unwrap();
        let (cache, file) = (directory.path().join("cache"), directory.path().join("a"));
        std::fs::write(&file, "abc").unwrap();
        assert_eq!(file_hash(&file, Some(&cache)).unwrap(), OF_ABC);

        let place = std::fs::read_dir(cache.join("fingerprints")).unwrap().next().unwrap().unwrap().path();
        let mut known: Known = serde_json::from_slice(&std::fs::read(&place).unwrap()).unwrap();
        known.sha256 = "from the cache".to_owned();
        std::fs::write(&place, serde_json::to_vec(&known).unwrap()).unwrap();
        assert_eq!(file_hash(&file, Some(&cache)).unwrap(), "from the cache");

        std::fs::write(&file, "abcd").unwrap();
        assert_ne!(file_hash(&file, Some(&cache)).unwrap(), "from the cache");
        std::fs::write(&place, "no JSON").unwrap();
        std::fs::write(&file, "abc").unwrap();
        assert_eq!(file_hash(&file, Some(&cache)).unwrap(), OF_ABC);
    }
}
