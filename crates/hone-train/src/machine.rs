//! What this machine is and how much memory the run takes of it.

use serde::Serialize;

/// The machine a run ran on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// `linux`, `macos` …
    pub system: &'static str,
    /// `x86_64`, `aarch64` …
    pub architecture: &'static str,
    /// The processor's own name, where the system tells it.
    pub processor: Option<String>,
    /// Logical cores.
    pub cores: usize,
    /// Memory in bytes, where the system tells it.
    pub memory: Option<u64>,
    /// Threads the run computes with; the bits of its results depend on it.
    pub threads: usize,
}

impl Machine {
    /// This machine.
    pub fn this() -> Machine {
        Machine {
            system: std::env::consts::OS,
            architecture: std::env::consts::ARCH,
            processor: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory: kibibytes("/proc/meminfo", "MemTotal"),
            threads: rayon::current_num_threads(),
        }
    }
}

/// Largest memory this process has held so far, in bytes: resident memory where the system tells it, else what tensors
/// held.
pub fn peak_memory() -> u64 {
    kibibytes("/proc/self/status", "VmHWM").unwrap_or_else(|| hone_engine::pool::stats().peak as u64)
}

/// Memory that can still be had, in bytes, where the system tells it.
pub fn available_memory() -> Option<u64> {
    kibibytes("/proc/meminfo", "MemAvailable")
}

/// Seconds of processor time all threads of this process have used, where the system tells it.
pub fn cpu_seconds() -> Option<f64> {
    /// Linux counts in hundredths of a second for programs, whatever its own tick.
    const TICKS: f64 = 100.0;
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in brackets, which may hold anything; user and system time are the 14th, 15th.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS)
}

fn kibibytes(path: &str, name: &str) -> Option<u64> {
    let value = field(path, name)?;
    value.trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The first line `name: value` of a file of the system's.
fn field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_string())
}
