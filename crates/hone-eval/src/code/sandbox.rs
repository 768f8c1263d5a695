//! A Python program in a process of its own that can reach nothing and use little, and that always ends.
//!
//! The caller starts a *launcher*: a program that hands its arguments to [`super::enter`], as the hidden verb of `hone` does. It
//! takes every right away from itself, for good, and only then becomes the Python interpreter. Three layers, each of which
//! holds on its own against most of what the others are for:
//!
//! - [`Layer::SystemCalls`], a seccomp filter: no new processes, no sockets, no signals to others, no memory that no limit counts,
//!   no doors into the kernel, no changes of files' owners, rights and times;
//! - [`Layer::Files`], Landlock: nothing is read outside Python's own folders and the system's libraries, nothing written outside
//!   the program's own directory, no TCP;
//! - [`Layer::Namespaces`]: a network without interfaces, and a file system in memory for the directory, which holds so much and no
//!   more.
//!
//! Beside them, always: no capabilities and no way to new ones (`no_new_privs`), resource limits ([`Limits`]), an empty
//! environment, and a parent that counts time, output, threads and files, kills, and reads no more than the limit. As no process
//! can be started, there is one to kill: no fork bomb, and nothing stays behind. If the parent is killed, the kernel ends the
//! program with it.
//!
//! The first two layers must be there or nothing is run; the third often is not (containers, Ubuntu 24.04 without a profile), and
//! then the directory lies on disk and its size is looked at fifty times a second. [`Sandbox::without`] does without a layer
//! deliberately.
//!
//! Whether a program passed is not its exit code: the driver in front of it (`driver.py`) prints a random line of the parent's
//! after the last test, so a program that ends early (`os._exit(0)`) has failed.
//!
//! What it does not know: the driver shares the interpreter with the program, so code that searches its frames for the random
//! line can cheat; that names and sizes of files elsewhere can be asked for (Landlock lets `stat` through); and a hole in the
//! kernel. It is made for what a model writes, not for an attacker who knows it.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::outcome::Outcome;
use super::python::Python;

/// How a program is run.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// The program that calls [`super::enter`] with its last argument.
    pub launcher: PathBuf,
    /// What that program is told before the last argument.
    pub launcher_arguments: Vec<OsString>,
    /// The interpreter.
    pub python: Python,
    /// What a program may use.
    pub limits: Limits,
    /// Layers that are left out, and not missed.
    pub without: Vec<Layer>,
}

/// What a program may use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Seconds from the interpreter's start, waiting included.
    pub wall_seconds: u64,
    /// Seconds of processor time. HumanEval's own script gives 3 seconds by the clock, which a busy machine spends elsewhere.
    pub cpu_seconds: u64,
    /// Bytes of address space, the interpreter's own 20 to 40 MB included.
    pub memory_bytes: u64,
    /// Bytes of all files together.
    pub disk_bytes: u64,
    /// Files and directories.
    pub files: u64,
    /// Bytes of standard output and standard error together.
    pub output_bytes: usize,
    /// Threads.
    pub threads: usize,
    /// Open files.
    pub open_files: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            wall_seconds: 20,
            cpu_seconds: 5,
            memory_bytes: 1 << 30,
            disk_bytes: 16 << 20,
            files: 256,
            output_bytes: 1 << 20,
            threads: 64,
            open_files: 64,
        }
    }
}

/// A part of the sandbox that the kernel may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// The filter of system calls: seccomp.
    SystemCalls,
    /// The rules for files: Landlock.
    Files,
    /// The network and the file system of its own: namespaces.
    Namespaces,
}

impl Layer {
    /// Every layer with its name.
    pub const NAMES: [(Layer, &'static str); 3] =
        [(Layer::SystemCalls, "system-calls"), (Layer::Files, "files"), (Layer::Namespaces, "namespaces")];

    /// Its name.
    pub fn name(self) -> &'static str {
        Layer::NAMES.iter().find(|(layer, _)| *layer == self).map_or("", |(_, name)| name)
    }
}

impl FromStr for Layer {
    type Err = String;

    fn from_str(name: &str) -> Result<Layer, String> {
        let found = Layer::NAMES.iter().find(|(_, known)| *known == name).map(|(layer, _)| *layer);
        found.ok_or_else(|| format!("expected one of {}", Layer::NAMES.map(|(_, name)| name).join(", ")))
    }
}

/// Whether a protection holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It does, by this means.
    Active(String),
    /// It does not, for this reason.
    Missing(String),
}

impl State {
    /// Whether it holds.
    pub fn is_active(&self) -> bool {
        matches!(self, State::Active(_))
    }

    /// Of a layer that was left out.
    pub fn left_out() -> State {
        State::Missing("left out, as asked for".into())
    }
}

/// Which protections held for a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protections {
    /// The filter of system calls.
    pub system_calls: State,
    /// The rules for files.
    pub files: State,
    /// The namespaces.
    pub namespaces: State,
    /// The file system in memory that holds no more than [`Limits::disk_bytes`]; where it is missing, the parent looks.
    pub disk: State,
}

impl Protections {
    /// Why nothing may be run with these protections, those left out deliberately not counted. `None` where it may.
    pub fn refusal(&self, without: &[Layer]) -> Option<String> {
        let required = [
            (Layer::SystemCalls, &self.system_calls, "new processes and sockets"),
            (Layer::Files, &self.files, "your files"),
        ];
        for (layer, state, reach) in required {
            if let State::Missing(why) = state
                && !without.contains(&layer)
            {
                let name = layer.name();
                return Some(format!("the layer `{name}` is missing ({why}), so programs could reach {reach}"));
            }
        }
        let cut = self.system_calls.is_active() || self.namespaces.is_active();
        if let (false, State::Missing(why), false) = (cut, &self.namespaces, without.contains(&Layer::Namespaces)) {
            return Some(format!(
                "the layer `namespaces` is missing too ({why}), so programs could reach the network; leave it out \
                 deliberately as well if they may"
            ));
        }
        None
    }
}

impl fmt::Display for Protections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Protections { system_calls, files, namespaces, disk } = self;
        let all = [("system calls", system_calls), ("files", files), ("namespaces", namespaces), ("disk", disk)];
        for (at, (name, state)) in all.into_iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            match state {
                State::Active(means) => write!(f, "{separator}{name}: {means}")?,
                State::Missing(why) => write!(f, "{separator}{name}: none ({why})")?,
            }
        }
        Ok(())
    }
}

/// A program's end.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// How it ended.
    pub outcome: Outcome,
    /// What held meanwhile.
    pub protections: Protections,
    /// How long it took, from the launcher's start.
    pub seconds: f64,
}

/// Why no program could be run. Nothing here is the program's doing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// A system without the means.
    #[error(
        "programs cannot be run in a sandbox on {system}: it takes Linux' seccomp and Landlock; run the evaluation on Linux, or in \
         a Linux virtual machine"
    )]
    Unsupported {
        /// The system.
        system: &'static str,
    },
    /// No interpreter.
    #[error("no Python to run programs with: {}: {problem}; install Python 3.8 or later, or name one", named.display())]
    Python {
        /// As named.
        named: PathBuf,
        /// What happened.
        problem: String,
    },
    /// A required layer is missing.
    #[error(
        "the sandbox is not tight: {problem}; take a kernel that has it (Linux 5.13 or later with Landlock among its security \
         modules, on x86-64, aarch64 or riscv64), or leave the layer out deliberately"
    )]
    Refused {
        /// Which and why.
        problem: String,
    },
    /// The launcher or the interpreter did not come up.
    #[error("the sandbox did not start: {problem}")]
    Start {
        /// What it said.
        problem: String,
    },
    /// The system's side.
    #[error("the sandbox: {what}: {source}")]
    Io {
        /// What was done.
        what: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// What the launcher is told: its last argument, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub(super) struct Order {
    /// The program's directory.
    pub directory: PathBuf,
    /// The interpreter.
    pub python: Python,
    /// What the program may use.
    pub limits: Limits,
    /// Layers to leave out.
    pub without: Vec<Layer>,
    /// Who started the launcher; the program ends with it.
    pub parent: u32,
}

/// What the launcher says, in one line of JSON on standard output.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub(super) enum Report {
    /// It is in the sandbox and becomes the interpreter.
    Entered(Protections),
    /// A required layer is missing.
    Refused(String),
    /// Something else went wrong.
    Failed(String),
}

impl Sandbox {
    /// Runs an empty program, and says what holds on this machine: to be asked before hours are spent on answers.
    ///
    /// # Errors
    /// No program can be run.
    pub fn check(&self) -> Result<Protections, SandboxError> {
        let run = self.run("pass")?;
        match run.outcome {
            Outcome::Passed => Ok(run.protections),
            other => Err(SandboxError::Start { problem: format!("an empty program ended so: {other}") }),
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Sandbox {
    /// Runs a program. Not on this system.
    ///
    /// # Errors
    /// Always.
    pub fn run(&self, _program: &str) -> Result<Run, SandboxError> {
        Err(SandboxError::Unsupported { system: std::env::consts::OS })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protections(system_calls: bool, files: bool, namespaces: bool) -> Protections {
        let state = |holds| if holds { State::Active("held".into()) } else { State::Missing("not here".into()) };
        Protections {
            system_calls: state(system_calls),
            files: state(files),
            namespaces: state(namespaces),
            disk: state(namespaces),
        }
    }

    #[test]
    fn nothing_is_run_without_a_required_layer_that_nobody_gave_up() {
        use Layer::{Files, Namespaces, SystemCalls};
        let refusal =
            |held: (bool, bool, bool), without: &[Layer]| protections(held.0, held.1, held.2).refusal(without);
        assert_eq!(refusal((true, true, true), &[]), None);
        assert_eq!(refusal((true, true, false), &[]), None);
        let message = refusal((false, true, true), &[]).unwrap();
        assert!(message.contains("`system-calls` is missing (not here)") && message.contains("sockets"), "{message}");
        let message = refusal((true, false, true), &[SystemCalls]).unwrap();
        assert!(message.contains("`files`") && message.contains("your files"), "{message}");
        assert_eq!(refusal((true, false, true), &[Files]), None);
        // The network is cut by either of two layers; both must be given up to open it.
        assert_eq!(refusal((false, true, true), &[SystemCalls]), None);
        let message = refusal((false, true, false), &[SystemCalls]).unwrap();
        assert!(message.contains("reach the network"), "{message}");
        assert_eq!(refusal((false, true, false), &[SystemCalls, Namespaces]), None);
    }

    #[test]
    fn protections_are_said_in_a_line() {
        let line = protections(true, true, false).to_string();
        assert_eq!(line, "system calls: held; files: held; namespaces: none (not here); disk: none (not here)");
    }

    #[test]
    fn layers_are_known_by_name() {
        for (layer, name) in Layer::NAMES {
            assert_eq!((name.parse(), layer.name()), (Ok(layer), name));
            assert_eq!(serde_json::to_value(layer).unwrap(), name);
        }
        assert!("file".parse::<Layer>().unwrap_err().contains("system-calls, files, namespaces"));
    }
}
