//! Who is making a scorecard: one process at a time. `TASK.jsonl.lock` lies beside the card while it is made, and the system's lock
//! on that file says whether somebody is at it: it ends with the process, however that ends. A file that a killed process left is
//! taken over.
//!
//! What it does not know: processes on other machines, where the file system does not tell them; one that knows no locks at all is
//! written to without.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::EvalError;

/// A lock that is held. It goes away with its file, and with the directories that were made for it, where nothing else came into them.
pub(super) struct Lock {
    path: PathBuf,
    /// Open as long as it is held.
    _file: File,
    /// Directories that were made, the innermost first.
    made: Vec<PathBuf>,
}

impl Lock {
    /// The lock of the card that is to be at `scorecard`.
    ///
    /// # Errors
    /// Another process has it ([`EvalError::Busy`]); or its file could not be made.
    pub fn take(scorecard: &Path) -> Result<Lock, EvalError> {
        let mut name = scorecard.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        let io = |source| EvalError::Io { path: path.clone(), source };
        let directories = scorecard.parent().into_iter().flat_map(Path::ancestors);
        let missing = directories.take_while(|at| !at.as_os_str().is_empty() && !at.exists());
        let made: Vec<PathBuf> = missing.map(Path::to_owned).collect();
        if let Some(directory) = made.first() {
            std::fs::create_dir_all(directory).map_err(io)?;
        }
        loop {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(io)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(EvalError::Busy { path: scorecard.to_owned() }),
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
                Err(TryLockError::Error(error)) => return Err(io(error)),
            }
            // Whoever had it may have taken the file away since it was opened: then this is the lock of no name.
            if is_at(&file, &path).map_err(io)? {
                return Ok(Lock { path, _file: file, made });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // What cannot be taken away is in nobody's way. The file goes while the lock is held, so that it is nobody else's.
        let _ = std::fs::remove_file(&self.path);
        for directory in &self.made {
            if std::fs::remove_dir(directory).is_err() {
                break;
            }
        }
    }
}

/// Whether the file of this path is still this one.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let own = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> std::io::Result<bool> {
    path.try_exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_made_by_one_at_a_time_and_a_file_that_was_left_is_no_lock() {
        let directory = tempfile::tempdir().unwrap();
        let card = directory.path().join("run/cards/task.jsonl");
        let held = Lock::take(&card).unwrap();
        let refused = Lock::take(&card).err().expect("it is held").to_string();
        assert!(refused.contains("task.jsonl") && refused.contains("another process"), "{refused}");
        let other = Lock::take(&card.with_file_name("other.jsonl"));
        assert!(other.is_ok(), "another card is another lock");
        drop(other);
        drop(held);
        assert!(!directory.path().join("run").exists(), "what was made for it is gone");
        // A process that was killed leaves the file.
        let file = directory.path().join("task.jsonl.lock");
        std::fs::write(&file, "").unwrap();
        let taken = Lock::take(&directory.path().join("task.jsonl")).unwrap();
        assert!(file.exists());
        drop(taken);
        assert!(!file.exists() && directory.path().exists());
    }

    /// A file that is opened, then taken away by whoever had it, and made again by a third one: its lock would be nobody's.
    #[cfg(unix)]
    #[test]
    fn a_file_that_was_taken_away_is_not_the_one_of_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("task.jsonl.lock");
        let old = File::create(&path).unwrap();
        assert!(is_at(&old, &path).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(!is_at(&old, &path).unwrap());
        let new = File::create(&path).unwrap();
        assert!(!is_at(&old, &path).unwrap() && is_at(&new, &path).unwrap());
    }
}
