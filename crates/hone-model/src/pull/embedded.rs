//! stories260K, compiled in: `assets/stories260k/README.md` says where it is from.

use std::path::{Path, PathBuf};

use crate::atomic;
use crate::error::ModelError;

pub(super) const NAME: &str = "stories260k";

const FILES: [(&str, &[u8]); 3] = [
    ("tokenizer.json", include_bytes!("../../../../assets/stories260k/tokenizer.json")),
    ("model.safetensors", include_bytes!("../../../../assets/stories260k/model.safetensors")),
    ("config.json", include_bytes!("../../../../assets/stories260k/config.json")),
];

/// Writes the model under `models`, where it is not there or not as it should be.
pub(super) fn write(models: &Path) -> Result<PathBuf, ModelError> {
    let directory = models.join(NAME);
    std::fs::create_dir_all(&directory).map_err(ModelError::io(&directory))?;
    for (name, bytes) in FILES {
        let path = directory.join(name);
        if std::fs::read(&path).is_ok_and(|there| there == bytes) {
            continue;
        }
        atomic::write_file(&path, bytes)?;
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_whole_and_mended() {
        let models = tempfile::tempdir().expect("a temporary directory");
        let path = write(models.path()).expect("written");
        let weights = crate::WeightFiles::open(&path).expect("sound");
        assert_eq!(weights.tensor_names().len(), 47);
        drop(weights);
        std::fs::write(path.join("config.json"), "{").expect("written");
        assert_eq!(write(models.path()).expect("written"), path);
        assert_eq!(std::fs::read(path.join("config.json")).expect("there"), FILES[2].1);
        assert_eq!(std::fs::read_dir(&path).expect("there").count(), 3, "nothing is left beside the files");
    }
}
