//! Files and directories that are there whole or not at all: written beside their place under another name, flushed to the
//! disk, then renamed.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::EditError;

/// An error of the file system at `path`.
pub fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> EditError {
    let path = path.to_path_buf();
    move |source| EditError::Io { path, source }
}

/// Writes a file whole.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), EditError> {
    let parent = parent_of(path);
    let mut temporary = tempfile::Builder::new().prefix(".hone-").tempfile_in(&parent).map_err(io_error(&parent))?;
    temporary.write_all(bytes).map_err(io_error(path))?;
    temporary.as_file().sync_all().map_err(io_error(path))?;
    make_readable(temporary.path()).map_err(io_error(path))?;
    temporary.persist(path).map_err(|e| EditError::Io { path: path.to_path_buf(), source: e.error })?;
    sync_directory(&parent)
}

/// Writes a directory whole: `fill` puts files into a new one, which then takes `path`'s place.
pub fn write_directory<E: From<EditError>>(path: &Path, fill: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    let parent = parent_of(path);
    std::fs::create_dir_all(&parent).map_err(io_error(&parent))?;
    let temporary = tempfile::Builder::new().prefix(".hone-").tempdir_in(&parent).map_err(io_error(&parent))?;
    fill(temporary.path())?;
    for entry in std::fs::read_dir(temporary.path()).map_err(io_error(path))? {
        let file = entry.map_err(io_error(path))?.path();
        File::open(&file).and_then(|f| f.sync_all()).map_err(io_error(&file))?;
    }
    make_readable(temporary.path()).map_err(io_error(path))?;
    sync_directory(temporary.path())?;
    swap_in(&temporary.keep(), path)?;
    Ok(sync_directory(&parent)?)
}

/// Puts `new` at `path`. What stood there is moved aside first and removed last, so a crash between loses nothing.
fn swap_in(new: &Path, path: &Path) -> Result<(), EditError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".old");
    let aside = PathBuf::from(aside);
    let replaces = path.exists();
    if replaces {
        remove(&aside)?;
        std::fs::rename(path, &aside).map_err(io_error(path))?;
    }
    if let Err(source) = std::fs::rename(new, path) {
        if replaces {
            let _ = std::fs::rename(&aside, path);
        }
        let _ = std::fs::remove_dir_all(new);
        return Err(EditError::Io { path: path.to_path_buf(), source });
    }
    remove(&aside)
}

/// Removes a directory if it is there.
pub fn remove(path: &Path) -> Result<(), EditError> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(EditError::Io { path: path.into(), source: e }),
        _ => Ok(()),
    }
}

/// Flushes a directory's entries, so that a rename survives a power cut.
pub fn sync_directory(path: &Path) -> Result<(), EditError> {
    File::open(path).and_then(|d| d.sync_all()).map_err(io_error(path))
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Temporary files are private to the user; what takes their place should follow the ordinary rules.
#[cfg(unix)]
fn make_readable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = if path.is_dir() { 0o755 } else { 0o644 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn make_readable(_path: &Path) -> std::io::Result<()> {
    Ok(())
}
