//! Files that are there whole or not at all: written beside their place under another name, flushed to the disk, then
//! renamed.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::ModelError;

/// Writes a file whole.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    write_with(path, |temporary| std::fs::write(temporary, bytes).map_err(ModelError::io(path)))
}

/// Writes a file whole: `fill` writes it under the name it is given.
pub fn write_with(path: &Path, fill: impl FnOnce(&Path) -> Result<(), ModelError>) -> Result<(), ModelError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let temporary = tempfile::Builder::new()
        .prefix(".hone-")
        .tempfile_in(&parent)
        .map_err(ModelError::io(&parent))?
        .into_temp_path();
    fill(&temporary)?;
    File::open(&temporary).and_then(|file| file.sync_all()).map_err(ModelError::io(path))?;
    make_readable(&temporary).map_err(ModelError::io(path))?;
    temporary.persist(path).map_err(|e| ModelError::Io { path: path.to_owned(), source: e.error })?;
    // Flushes the directory's entry, so that the rename survives a power cut.
    File::open(&parent).and_then(|directory| directory.sync_all()).map_err(ModelError::io(&parent))
}

/// Temporary files are private to the user; what takes their place should follow the ordinary rules.
#[cfg(unix)]
pub(crate) fn make_readable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

/// As [`make_readable`], for a directory.
#[cfg(unix)]
pub(crate) fn make_directory_readable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
pub(crate) fn make_directory_readable(_path: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn make_readable(_path: &Path) -> std::io::Result<()> {
    Ok(())
}
