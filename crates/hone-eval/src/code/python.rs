//! Which Python runs the programs, and the files it needs to run at all.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::sandbox::SandboxError;

/// What is asked for when nobody names an interpreter.
const DEFAULT: &str = "python3";

/// Older ones have no `closerange` that is quick, and nobody keeps them.
const OLDEST: (u32, u32) = (3, 8);

/// Prints what [`Answer`] reads. It is run outside the sandbox, without the user's packages and start-up files.
const PROBE: &str = "import json, sys; print(json.dumps({'executable': sys.executable, 'version': list(sys.version_info[:3]), \
                     'folders': [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix] + sys.path}))";

/// An interpreter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Python {
    /// The program itself: no link, no launching script.
    pub executable: PathBuf,
    /// As `3.11.7`.
    pub version: String,
    /// Folders its libraries are in.
    pub folders: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Answer {
    executable: String,
    version: [u32; 3],
    folders: Vec<PathBuf>,
}

impl Python {
    /// The interpreter of this name or path; `python3` on the PATH where none is given. Launching scripts (pyenv's shims) and
    /// links are followed by asking the interpreter itself.
    ///
    /// # Errors
    /// None there, none that answers, or one that is too old.
    pub fn find(named: Option<&Path>) -> Result<Python, SandboxError> {
        let named = named.unwrap_or(Path::new(DEFAULT));
        let problem = |problem: String| SandboxError::Python { named: named.to_owned(), problem };
        let output = Command::new(named).args(["-I", "-S", "-c", PROBE]).output();
        let output = output.map_err(|error| problem(error.to_string()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(problem(format!(
                "{}: {}",
                output.status,
                said.trim().lines().last().unwrap_or("it said nothing")
            )));
        }
        let answer: Answer = serde_json::from_slice(&output.stdout)
            .map_err(|error| problem(format!("it does not answer as Python does ({error})")))?;
        let [major, minor, micro] = answer.version;
        let version = format!("{major}.{minor}.{micro}");
        if (major, minor) < OLDEST {
            return Err(problem(format!("it is Python {version}, expected {}.{} or later", OLDEST.0, OLDEST.1)));
        }
        let executable = std::fs::canonicalize(&answer.executable)
            .map_err(|error| problem(format!("its executable {}: {error}", answer.executable)))?;
        Ok(Python { folders: own_folders(answer.folders), version, executable })
    }
}

/// Folders that exist, each once; never the root or the home directory, which hold everything else too.
fn own_folders(named: Vec<PathBuf>) -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in named {
        let too_much = folder.parent().is_none() || Some(&folder) == home.as_ref();
        if folder.is_absolute()
            && folder.is_dir()
            && !too_much
            && !folders.iter().any(|known| folder.starts_with(known))
        {
            folders.push(folder);
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_named_once_and_never_everything() {
        let directory = tempfile::tempdir().unwrap();
        let lib = directory.path().join("lib");
        std::fs::create_dir(&lib).unwrap();
        let named = vec![
            PathBuf::from("/"),
            PathBuf::from(""),
            PathBuf::from("lib"),
            directory.path().to_owned(),
            lib,
            directory.path().join("python311.zip"),
        ];
        assert_eq!(own_folders(named), [directory.path()]);
    }

    #[test]
    fn what_is_no_python_is_said() {
        let message = |name: &str| Python::find(Some(Path::new(name))).unwrap_err().to_string();
        assert!(message("no-such-interpreter").contains("no-such-interpreter"));
        #[cfg(unix)]
        {
            assert!(message("true").contains("does not answer as Python does"), "{}", message("true"));
            assert!(message("false").contains("exit status"), "{}", message("false"));
        }
    }
}
